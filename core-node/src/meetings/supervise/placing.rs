//! Which edges are sought for a meeting, and what becomes of them once they are found.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::time::Instant;

use mesh::wire::Epoch;

use super::{SURE, Supervisor, Which};
use crate::{
    log::LogClosed,
    meeting::wall,
    meetings::{
        lifecycle::Unplaced,
        place::{NOT_ALLOWED, RETURNS},
    },
    record::{GapReason, Status},
    replicate::sender::Replicator,
};

/// How often in a row an edge that says it captures the meeting still, and does not come back, is waited for.
const MAX_AWAITED: u32 = 5;

impl Supervisor {
    pub(super) async fn handle_placed(
        &mut self,
        which: Which,
        placed: Result<Epoch, (Epoch, Unplaced)>,
    ) -> Result<(), LogClosed> {
        let was_captured = self.is_captured();
        self.placing = None;
        let now = Instant::now();
        self.tried = self.tried.max(*placed.as_ref().unwrap_or_else(|(epoch, _)| epoch));
        match (which, placed) {
            // The second took the first's place meanwhile: this one takes the second's, which it was asked for.
            (Which::First, Ok(epoch)) if !self.lifecycle.is_placing() => self.take_as_second(epoch, now).await?,
            (Which::First, Err(_)) if !self.lifecycle.is_placing() => {}
            (which, Err((_, why))) if self.relents(&why) => self.place(which),
            (Which::First, Ok(epoch)) => {
                self.lifecycle.handle_assigned(epoch, now);
                if self.lifecycle.leaving().is_none() {
                    self.end_before(epoch, false).await;
                }
                (self.owner_seen, self.awaited) = (false, 0);
                self.handle_members().await;
            }
            (Which::First, Err((_, why))) => {
                tracing::warn!(code = why.code, detail = why.detail, "not placed");
                // The second may be on its way in, and take the first's place.
                let left = why.code != NOT_ALLOWED || !self.lifecycle.is_troubled() || self.second.epoch().is_some();
                let why = Unplaced { retry: why.retry && left, ..why };
                self.awaited += u32::from(why.code == RETURNS);
                if !self.promote(self.lifecycle.epoch()).await? {
                    self.lifecycle.handle_unplaced(why, now);
                }
            }
            (Which::Second, Ok(epoch)) => self.take_as_second(epoch, now).await?,
            (Which::Second, Err((epoch, why))) => {
                self.dismiss_stray(epoch).await?;
                tracing::warn!(code = why.code, detail = why.detail, "no second edge for now");
                metrics::counter!("nearfield_core_second_edges_missed_total").increment(1);
                self.meeting.wishes.handle_unmet(self.second_wish(), why.detail, wall());
                self.second.handle_unplaced(now);
            }
        }
        // One that captures, and whose answer was lost, is none of ours.
        let lost = was_captured && !self.is_captured();
        if lost && matches!(self.lifecycle.status(), Status::Placing | Status::Active) {
            self.begin_gap(GapReason::EdgeLost, wall());
        }
        // It captures from now on, or may.
        self.meeting.tell_capturing().await;
        Ok(())
    }

    /// Whoever was asked last to be the second, and has not taken it, captures nothing, should it have joined all the same.
    async fn dismiss_stray(&mut self, epoch: Epoch) -> Result<(), LogClosed> {
        let slot = self.meeting.owner(epoch).map(|owner| owner.slot);
        if slot != Some(self.second.slot()) || self.is_ours(epoch) {
            return Ok(());
        }
        self.leave(epoch).await;
        self.give_up(epoch).await
    }

    /// The edge of `epoch` has failed: others are asked first from now on.
    pub(super) fn avoid(&mut self, epoch: Epoch, now: Instant) {
        if let Some(owner) = self.meeting.owner(epoch) {
            self.avoided.add(owner.edge, now);
        }
    }

    /// Nobody may take it but those that are avoided: they are asked again, unless the meeting has none because of what they said.
    fn relents(&mut self, why: &Unplaced) -> bool {
        let sought = !self.is_finishing() && self.second.live().is_none();
        sought && why.code == NOT_ALLOWED && !self.lifecycle.is_troubled() && self.avoided.forget()
    }

    /// An edge has joined in the second's slot, and may have gone again.
    pub(super) async fn take_as_second(&mut self, epoch: Epoch, now: Instant) -> Result<(), LogClosed> {
        self.second.handle_assigned(epoch, now);
        if self.is_finishing() {
            self.leave(epoch).await;
        }
        if self.second.epoch() == Some(epoch) { Ok(()) } else { self.give_up(epoch).await }
    }

    /// The meeting has ended while an edge was being asked: should it join, it is to leave.
    pub(super) async fn withdraw(&mut self) {
        if self.placing.take().is_some() {
            self.leave(self.meeting.captures(|captures| captures.owners().epoch)).await;
        }
    }

    /// An edge that was given up, or whose answer was missed, holds the meeting's lease: as long as nobody else has been granted it
    /// the meeting is its.
    pub(super) fn take_back(&mut self, now: Instant) {
        let slot = 1 - self.second.slot().min(1);
        let held = self.meeting.captures(|captures| captures.held(slot, now)).filter(|_| self.lifecycle.is_sought());
        let Some(epoch) = held.filter(|epoch| self.asked(*epoch).is_none()) else { return };
        tracing::info!(epoch = epoch.0, "the edge has the meeting after all");
        metrics::counter!("nearfield_core_edges_back_total").increment(1);
        // A lease is held: what is under way has granted nothing yet.
        self.placing.take_if(|(which, _)| *which == Which::First);
        (self.place_next, self.awaited) = (false, 0);
        self.lifecycle.handle_back(epoch, now);
        self.back = (self.lifecycle.capturing() == Some(epoch)).then_some((epoch, now + SURE));
    }

    pub(super) fn place(&mut self, which: Which) {
        let (placer, meeting, mut wanted) = (self.placer.clone(), self.meeting.clone(), self.wanted.clone());
        let first = meeting.owner(self.lifecycle.epoch());
        let second = self.second.epoch().and_then(|epoch| meeting.owner(epoch));
        let leaving = self.lifecycle.leaving().and_then(|epoch| meeting.owner(epoch));
        let other = if which == Which::First { second } else { first };
        wanted.slot = if which == Which::First { 1 - self.second.slot().min(1) } else { self.second.slot() };
        wanted.await_former = which == Which::First && self.awaited < MAX_AWAITED;
        wanted.apart = other.as_ref().map(|owner| owner.region.clone());
        wanted.policy.without.extend(leaving.into_iter().chain(other).map(|owner| owner.edge));
        wanted.policy.without.extend(self.avoided.current(Instant::now()));
        // The record may know of a later try than the lifecycle.
        let term = meeting.replication.see(Replicator::term);
        let after = self
            .lifecycle
            .epoch()
            .max(self.tried)
            .max(meeting.captures(|captures| captures.owners().epoch))
            .max(Epoch::of(term, 0));
        self.placing = Some((which, Box::pin(async move { placer.place(&meeting, wanted, after).await })));
    }

    /// Seeks the first edge, or else the second once the first has been found; one at a time.
    pub(super) async fn place_due(&mut self) -> Result<(), LogClosed> {
        if self.placing.is_some() {
            return Ok(());
        }
        if std::mem::take(&mut self.place_next) && !self.is_promoted().await? {
            if self.lifecycle.status() != Status::Finishing {
                self.place(Which::First);
                return Ok(());
            }
            let why = Unplaced { code: "no_edge", detail: "the meeting was to end".into(), retry: false };
            self.lifecycle.handle_unplaced(why, Instant::now());
        }
        let placed = matches!(self.lifecycle.status(), Status::Connecting | Status::Active);
        if placed && self.lifecycle.leaving().is_none() && self.second.poll_place(Instant::now()) {
            self.place(Which::Second);
        }
        Ok(())
    }
}
