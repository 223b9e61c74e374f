//! When nobody captures a meeting: since when, and why.

use std::time::Duration;

use mesh::{
    clock::Micros,
    wire::{
        Epoch,
        cause::Cause,
        control::{CloseReason, EdgeState},
    },
};

use super::{Action, Machine, Which};
use crate::{
    meeting::{Notice, captures::Now, lifecycle::may_be_its_own},
    store::record::{Gap, GapReason, Status},
};

/// An edge notices a silent relay within seconds: what it says of longer silence is not believed.
const MAX_SILENCE: Duration = Duration::from_secs(60);

impl<L: Clone> Machine<L> {
    /// Gaps begin when the last edge that captures, or its relay, is lost, and end when one is live again.
    pub(super) fn note_gap(&mut self, notice: &Notice, now: Now) {
        match notice {
            Notice::State(epoch, EdgeState::Live, _) => {
                if self.back.take_if(|(back, _)| back == epoch).is_some() {
                    self.note_back(*epoch);
                }
                self.lose_unheard(*epoch, now);
                if self.lifecycle.status() != Status::Active {
                    self.whole_from = now.wall;
                }
                self.live.insert(*epoch);
            }
            Notice::State(epoch, EdgeState::Reconnecting { silent_ms }, _) => {
                let silence = Duration::from_millis((*silent_ms).into());
                self.note_lost(*epoch, GapReason::RelayLost, silent_from(now.wall, silence, self.whole_from));
            }
            Notice::Closed(epoch, CloseReason::Drain) => self.note_lost(*epoch, GapReason::EdgeLeft, now.wall),
            Notice::Closed(epoch, CloseReason::LeaseOver) | Notice::Late(epoch) => {
                self.note_lost(*epoch, GapReason::EdgeLost, self.captures.heard_at());
            }
            Notice::State(epoch, EdgeState::Failed(cause), _) => {
                let was_live = self.note_left(*epoch);
                // Another may be found, and the meeting go on.
                if (was_live || *epoch == self.lifecycle.epoch()) && may_be_its_own(*cause) {
                    let own = *cause == Cause::EdgeFailed;
                    let reason = if own { GapReason::EdgeLost } else { GapReason::RelayLost };
                    self.begin_if_last(*epoch, was_live, reason, now.wall);
                }
            }
            Notice::Closed(epoch, _) => _ = self.note_left(*epoch),
            _ => {}
        }
    }

    /// An edge that hands over and is heard no more has captured until it was last heard, not until its `successor` does.
    fn lose_unheard(&mut self, successor: Epoch, now: Now) {
        let leaving = self.lifecycle.leaving().filter(|leaving| *leaving != successor && self.live.contains(leaving));
        let Some(leaving) = leaving else { return };
        let unheard = self.captures.heard_leaving(leaving).filter(|heard| heard.until <= now.at);
        if let Some(heard) = unheard {
            self.note_lost(leaving, GapReason::EdgeLost, heard.at);
        }
    }

    /// The edge of `epoch` has left; whether it has captured until now.
    fn note_left(&mut self, epoch: Epoch) -> bool {
        if self.back.take_if(|(back, _)| *back == epoch).is_some() {
            self.note_back(epoch);
        }
        self.live.remove(&epoch)
    }

    /// Whether `epoch` is of an edge that is to capture now, or until its successor does, or is being asked to.
    pub(super) fn is_ours(&self, epoch: Epoch) -> bool {
        let known = [Some(self.lifecycle.epoch()), self.lifecycle.leaving(), self.secondary.epoch()];
        known.contains(&Some(epoch)) || self.asked(epoch).is_some() || self.is_leaving(epoch)
    }

    /// Of which edge `epoch` is, if an edge is being asked under it just now.
    pub(super) fn asked(&self, epoch: Epoch) -> Option<Which> {
        let known = self.lifecycle.epoch().max(self.tried).max(self.secondary.epoch().unwrap_or_default());
        self.placing.filter(|_| epoch > known)
    }

    pub(super) fn is_captured(&self) -> bool {
        self.live.iter().any(|epoch| self.is_ours(*epoch))
    }

    /// The edge of `epoch` was given up and has captured all the while: what it has comes, and nothing is missing.
    pub(super) fn note_back(&mut self, epoch: Epoch) {
        if self.is_ours(epoch) {
            self.live.insert(epoch);
            if self.gap.take_if(|gap| gap.reason == GapReason::EdgeLost).is_some() {
                self.actions.push_back(Action::NoGap);
            }
        }
    }

    /// The edge of `epoch` captures no more: a gap, unless another does.
    pub(super) fn note_lost(&mut self, epoch: Epoch, reason: GapReason, from: Micros) {
        self.back.take_if(|(back, _)| *back == epoch);
        let was_live = self.live.remove(&epoch);
        self.begin_if_last(epoch, was_live, reason, from);
    }

    /// A gap begins with the edge of `epoch`, if that was the last which captured.
    fn begin_if_last(&mut self, epoch: Epoch, was_live: bool, reason: GapReason, from: Micros) {
        let captured = match self.lifecycle.status() {
            Status::Active => true,
            // It may be live, and gone, before the answer that it takes the meeting has been read.
            Status::Placing | Status::Connecting => was_live,
            Status::Finishing | Status::Done | Status::Failed => false,
        };
        if captured && self.is_ours(epoch) && !self.is_captured() {
            self.begin_gap(reason, from);
        }
    }

    pub(super) fn begin_gap(&mut self, reason: GapReason, from: Micros) {
        self.gap.get_or_insert(Gap { seq: 0, from, to: None, reason, segment: None });
    }

    pub(super) fn end_gap(&mut self, now: Now) {
        let Some(gap) = self.gap.take() else { return };
        self.whole_from = now.wall;
        metrics::histogram!("nearfield_core_gap_seconds").record(now.wall.since(gap.from).as_secs_f64());
        self.actions.push_back(Action::Gap(Gap { to: Some(now.wall), ..gap }));
    }
}

/// When a relay that is silent for so long fell silent; not before `whole_from`, since when nothing was missing.
fn silent_from(now: Micros, silence: Duration, whole_from: Micros) -> Micros {
    let silence = silence.min(MAX_SILENCE).as_micros() as u64;
    Micros(now.0.saturating_sub(silence)).max(whole_from.min(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_fell_silent_before_that_was_noticed_but_not_while_it_was_heard() {
        let at = |seconds: u64| Micros(seconds * 1_000_000);
        let from = |silence, whole_from| silent_from(at(1000), Duration::from_secs(silence), at(whole_from));
        assert_eq!(from(5, 0), at(995));
        assert_eq!(from(5, 998), at(998), "it was live then, or the gap before ended");
        assert_eq!(from(86_400, 0), at(940));
        assert_eq!(from(5, 2000), at(1000), "the clock was set back");
    }
}
