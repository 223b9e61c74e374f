//! An edge that is going away captures on until its successor does.

use mesh::{clock::Micros, wire::Epoch};

use super::{Action, Machine};
use crate::{meeting::captures::Now, store::record::GapReason};

impl<L: Clone> Machine<L> {
    /// The edge captures on while its successor is sought. Its lease ends here, so that another may be granted.
    pub(super) fn hand_over(&mut self, epoch: Epoch, now: Now) {
        if self.lifecycle.capturing() != Some(epoch) || self.lifecycle.leaving().is_some() {
            return;
        }
        let Some(owner) = self.captures.owner(epoch) else { return };
        tracing::info!(edge = %owner.edge, epoch = epoch.0, "the edge is going away: a successor is sought");
        metrics::counter!("nearfield_core_hand_overs_total").increment(1);
        self.captures.hand_over(epoch);
        self.actions.push_back(Action::Write);
        self.lifecycle.handle_hand_over(epoch, now.at);
    }

    /// Whether the edge of `epoch`, which hands over, is known to capture: it beats, or, where it knows no leases, it is there.
    pub(super) fn captures_on(&self, epoch: Epoch, now: Now) -> bool {
        let Some(owner) = self.captures.owner(epoch).filter(|_| self.is_leaving(epoch)) else { return false };
        let heard = self.captures.heard_leaving(epoch);
        if owner.leased { heard.is_some_and(|heard| now.at < heard.until) } else { self.is_member(owner) }
    }

    /// An edge that handed over and that the life-cycle waits for no more captures no more, if it is gone, or another edge captures:
    /// nobody else ends that.
    pub(super) fn stop_gone(&mut self, now: Now) {
        let known = [self.lifecycle.leaving(), Some(self.lifecycle.epoch())];
        let left = self.captures.owners().capturing();
        let left = left.filter(|(epoch, owner)| owner.leaving && !known.contains(&Some(*epoch)));
        let left: Vec<Epoch> = left.map(|(epoch, _)| epoch).collect();
        let succeeded = self.lifecycle.capturing().is_some_and(|first| self.live.contains(&first));
        for epoch in left {
            if self.captures_on(epoch, now) && !succeeded && self.may_leave() {
                continue;
            }
            let lost_at = self.captures.heard_leaving(epoch).map_or(now.wall, |heard| heard.at);
            self.relieve(epoch, lost_at, now);
            self.end_before(Epoch(epoch.0 + 1), false, now);
        }
    }

    /// A successor is live: what the edge captures from now on is not wanted.
    pub(super) fn dismiss(&mut self, former: Epoch, now: Now) {
        self.relieve(former, now.wall, now);
        self.end_before(self.lifecycle.epoch(), true, now);
    }

    /// What the edge captures from now on is not wanted. Its successor may have been live, and be gone: that is a gap.
    fn relieve(&mut self, epoch: Epoch, captured_until: Micros, now: Now) {
        let captured = self.live.remove(&epoch) && self.may_leave();
        if captured && !self.is_captured() {
            self.begin_gap(GapReason::EdgeLost, captured_until);
        }
        self.stop(epoch, now);
        self.tell_to_leave(epoch);
    }

    /// Whether the edge of `epoch` hands over, and is not stopped.
    pub(super) fn is_leaving(&self, epoch: Epoch) -> bool {
        self.captures.owner(epoch).is_some_and(|owner| owner.leaving && owner.until.is_none())
    }
}
