//! When nobody captures a meeting: since when, and why.

use mesh::{
    clock::Micros,
    wire::{
        Epoch,
        control::{CloseReason, EdgeState},
    },
};

use super::{Supervisor, Which};
use crate::{
    log::LogClosed,
    meeting::{Notice, wall},
    record::{Gap, GapReason, Status},
};

impl Supervisor {
    /// Gaps begin when the last edge that captures, or its relay, is lost, and end when one is live again.
    pub(super) fn note_gap(&mut self, notice: &Notice) {
        match notice {
            Notice::State(epoch, EdgeState::Live, _) => {
                if self.back.take_if(|(back, _)| back == epoch).is_some() {
                    self.note_back(*epoch);
                }
                self.live.insert(*epoch);
            }
            Notice::State(epoch, EdgeState::Reconnecting, _) => self.note_lost(*epoch, GapReason::RelayLost, wall()),
            Notice::Closed(epoch, CloseReason::Drain) => self.note_lost(*epoch, GapReason::EdgeLeft, wall()),
            Notice::Closed(epoch, CloseReason::LeaseOver) | Notice::Late(epoch) => {
                self.note_lost(*epoch, GapReason::EdgeLost, self.meeting.heard_at());
            }
            Notice::State(epoch, EdgeState::Failed(_), _) | Notice::Closed(epoch, _) => {
                if self.back.take_if(|(back, _)| back == epoch).is_some() {
                    self.note_back(*epoch);
                }
                self.live.remove(epoch);
            }
            _ => {}
        }
    }

    /// Whether `epoch` is of an edge that is to capture now, or is being asked to.
    pub(super) fn is_ours(&self, epoch: Epoch) -> bool {
        let known = [Some(self.lifecycle.epoch()), self.lifecycle.leaving(), self.second.epoch()];
        known.contains(&Some(epoch)) || self.asked(epoch).is_some()
    }

    /// Of which edge `epoch` is, if an edge is being asked under it just now.
    pub(super) fn asked(&self, epoch: Epoch) -> Option<Which> {
        let known = self.lifecycle.epoch().max(self.tried).max(self.second.epoch().unwrap_or_default());
        self.placing.as_ref().map(|(which, _)| *which).filter(|_| epoch > known)
    }

    pub(super) fn is_captured(&self) -> bool {
        self.live.iter().any(|epoch| self.is_ours(*epoch))
    }

    /// The edge of `epoch` was given up and has captured all the while: what it has comes, and nothing is missing.
    pub(super) fn note_back(&mut self, epoch: Epoch) {
        if self.is_ours(epoch) {
            self.live.insert(epoch);
            self.gap.take_if(|gap| gap.reason == GapReason::EdgeLost);
        }
    }

    /// The edge of `epoch` captures no more: a gap, unless another does.
    pub(super) fn note_lost(&mut self, epoch: Epoch, reason: GapReason, from: Micros) {
        self.back.take_if(|(back, _)| *back == epoch);
        let was_ours = self.is_ours(epoch);
        self.live.remove(&epoch);
        if was_ours && !self.is_captured() && self.lifecycle.status() == Status::Active {
            self.begin_gap(reason, from);
        }
    }

    pub(super) fn begin_gap(&mut self, reason: GapReason, from: Micros) {
        self.gap.get_or_insert(Gap { seq: 0, from, to: None, reason, segment: None });
    }

    pub(super) async fn end_gap(&mut self) -> Result<(), LogClosed> {
        let Some(gap) = self.gap.take() else { return Ok(()) };
        let gap = Gap { to: Some(wall()), ..gap };
        metrics::histogram!("nearfield_core_gap_seconds").record(wall().since(gap.from).as_secs_f64());
        self.publish_gap(gap).await
    }

    pub(super) async fn publish_gap(&mut self, gap: Gap) -> Result<(), LogClosed> {
        let meeting = self.meeting.clone();
        let keep = |gap: Gap| async move {
            meeting
                .update(|record| {
                    record.gaps.retain(|g| g.to.is_some());
                    record.add_gap(gap);
                })
                .await
        };
        self.meeting.publisher.gap(gap, keep).await
    }
}
