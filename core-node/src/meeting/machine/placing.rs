//! Which edges are sought for a meeting, and what becomes of them once they are found.

use std::collections::BTreeSet;

use geo::RegionId;
use mesh::{
    identity::NodeId,
    wire::{Epoch, control::EdgeState},
};

use super::{
    Action, Machine, SURE, Which,
    seek::{Found, Next},
};
use crate::{
    meeting::{
        captures::Now,
        lifecycle::{NOT_ALLOWED, RETURNS, Unplaced},
    },
    store::record::{GapReason, Owner, Status},
};

/// How often in a row an edge that says it captures the meeting still, and does not come back, is waited for.
const MAX_AWAITED: u32 = 5;

/// An edge that is to be found and to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Which it will be.
    pub which: Which,
    /// The slot in which it is to capture.
    pub slot: u8,
    /// Under an epoch later than this.
    pub after: Epoch,
    /// The edge whose lease has lapsed is waited for, if it says that it captures the meeting still.
    pub await_former: bool,
    /// Where another edge of the meeting is already.
    pub anti_affinity: Option<RegionId>,
    /// Not these.
    pub without: Vec<NodeId>,
}

impl<L: Clone> Machine<L> {
    /// What came of [`Action::Seek`].
    pub fn handle_found(&mut self, found: Found, now: Now) {
        // The next step may end a lease for good that was renewed meanwhile.
        self.take_back(now);
        let answered = matches!(found, Found::Answered(_));
        let next = self.seek.handle_found(found, &mut self.captures, now);
        self.follow(next, now);
        if answered {
            self.actions.push_back(Action::Tally);
        }
    }

    pub(super) fn follow(&mut self, next: Next, now: Now) {
        while let Some(by) = self.seek.poll_declined() {
            self.actions.push_back(Action::Declined(by));
        }
        match next {
            Next::Step(step) => self.actions.push_back(Action::Seek(step)),
            Next::Wait => {}
            Next::Ended(placed) => {
                if let Some(which) = self.placing.take() {
                    self.handle_placed(which, placed, now);
                }
            }
        }
    }

    /// The epoch under which an edge has joined, or the newest that was tried, and why none has.
    pub(super) fn handle_placed(&mut self, which: Which, placed: Result<Epoch, (Epoch, Unplaced)>, now: Now) {
        let was_captured = self.is_captured();
        self.placing = None;
        self.tried = self.tried.max(*placed.as_ref().unwrap_or_else(|(epoch, _)| epoch));
        // One that the life-cycle wants and that is not sought yet is another.
        let wanted = self.lifecycle.is_placing() && !self.place_next;
        match (which, placed) {
            // The secondary took the first's place meanwhile: this one takes the secondary's, which it was asked for.
            (Which::First, Ok(epoch)) if !wanted => self.take_as_secondary(epoch, now),
            (Which::First, Err(_)) if !wanted => {}
            (which, Err((_, why))) if self.relents(&why) => self.place(which, now),
            (Which::First, Ok(epoch)) => {
                self.lifecycle.handle_assigned(epoch, now.at);
                if self.lifecycle.leaving().is_none() {
                    self.end_before(epoch, false, now);
                }
                (self.owner_seen, self.awaited) = (false, 0);
                self.handle_members(now);
            }
            (Which::First, Err((_, why))) => {
                tracing::warn!(code = why.code, detail = why.detail, "not placed");
                // The secondary may be on its way in, and take the first's place.
                let left = why.code != NOT_ALLOWED || !self.lifecycle.is_troubled() || self.secondary.epoch().is_some();
                let why = Unplaced { retry: why.retry && left, ..why };
                self.awaited += u32::from(why.code == RETURNS);
                if !self.promote(self.lifecycle.epoch(), now) {
                    self.lifecycle.handle_unplaced(why, now.at);
                }
            }
            (Which::Secondary, Ok(epoch)) => self.take_as_secondary(epoch, now),
            (Which::Secondary, Err((epoch, why))) => {
                self.dismiss_strays(epoch, now);
                tracing::warn!(code = why.code, detail = why.detail, "no secondary edge for now");
                metrics::counter!("nearfield_core_second_edges_missed_total").increment(1);
                if !self.is_finishing() {
                    self.unmet(self.secondary_wish(), why.detail);
                }
                self.secondary.handle_unplaced(now.at);
            }
        }
        // One that captures, and whose answer was lost, is none of ours.
        let lost = was_captured && !self.is_captured();
        if lost && self.may_leave() {
            self.begin_gap(GapReason::EdgeLost, now.wall);
        }
        // It captures from now on, or may.
        self.actions.push_back(Action::Capturing);
    }

    /// Whoever was asked to be the secondary, and has not taken it, captures nothing, should it have joined all the same. It need not
    /// be the edge that was asked last: that one may have no row.
    fn dismiss_strays(&mut self, last: Epoch, now: Now) {
        let slot = self.secondary.slot();
        let rows = self.captures.owners().capturing().map(|(epoch, owner)| (epoch, owner.slot));
        let tried = self.captures.owner(last).map(|owner| (last, owner.slot));
        let asked: BTreeSet<Epoch> = rows.chain(tried).filter(|(_, of)| *of == slot).map(|(epoch, _)| epoch).collect();
        for epoch in asked.into_iter().filter(|epoch| !self.is_ours(*epoch)).collect::<Vec<_>>() {
            self.tell_to_leave(epoch);
            self.give_up(epoch, now);
        }
    }

    /// The edge of `epoch` has failed: others are asked first from now on.
    pub(super) fn avoid(&mut self, epoch: Epoch, now: Now) {
        if let Some(owner) = self.captures.owner(epoch) {
            self.avoided.add(owner.edge.clone(), now.at);
        }
    }

    /// Nobody may take it but those that are avoided: they are asked again, unless the meeting has none because of what they said.
    fn relents(&mut self, why: &Unplaced) -> bool {
        let sought = !self.is_finishing() && self.secondary.live().is_none();
        sought && why.code == NOT_ALLOWED && !self.lifecycle.is_troubled() && self.avoided.forget()
    }

    /// An edge has joined in the secondary's slot, and may have gone again.
    fn take_as_secondary(&mut self, epoch: Epoch, now: Now) {
        self.secondary.handle_assigned(epoch, now.at);
        if self.is_finishing() {
            self.tell_to_leave(epoch);
        }
        if self.secondary.epoch() != Some(epoch) {
            self.give_up(epoch, now);
        }
    }

    /// An edge that was given up, or whose answer was missed, holds the meeting's lease: as long as nobody else has been granted it
    /// the meeting is its.
    pub(super) fn take_back(&mut self, now: Now) {
        let held = self.captures.held(self.first_slot(), now.at).filter(|_| self.lifecycle.is_sought());
        let Some(epoch) = held.filter(|epoch| self.asked(*epoch).is_none()) else { return };
        tracing::info!(epoch = epoch.0, "the edge has the meeting after all");
        metrics::counter!("nearfield_core_edges_back_total").increment(1);
        // A lease is held: what is under way has granted nothing yet.
        if self.placing.take_if(|which| *which == Which::First).is_some() {
            self.drop_seek();
        }
        (self.place_next, self.awaited) = (false, 0);
        self.lifecycle.handle_back(epoch, now.at);
        self.back = (self.lifecycle.capturing() == Some(epoch)).then_some((epoch, now.at + SURE));
        // It has said so already.
        if self.live.contains(&epoch) {
            self.lifecycle.handle_edge_state(epoch, EdgeState::Live, None, now.at);
        }
    }

    fn place(&mut self, which: Which, now: Now) {
        let owner = |epoch: Option<Epoch>| epoch.and_then(|epoch| self.captures.owner(epoch)).cloned();
        let first = owner(Some(self.lifecycle.epoch()));
        let secondary = owner(self.secondary.epoch());
        let leaving = owner(self.lifecycle.leaving());
        let other: Option<Owner> = if which == Which::First { secondary } else { first };
        let anti_affinity = other.as_ref().map(|owner| owner.region.clone());
        let mut without: Vec<NodeId> = leaving.into_iter().chain(other).map(|owner| owner.edge).collect();
        without.extend(self.avoided.current(now.at));
        let order = Order {
            which,
            slot: if which == Which::First { self.first_slot() } else { self.secondary.slot() },
            // The rows may know of a later try than the lifecycle.
            after: self.lifecycle.epoch().max(self.tried).max(self.captures.newest()),
            await_former: which == Which::First && self.awaited < MAX_AWAITED,
            anti_affinity,
            without,
        };
        self.placing = Some(which);
        let step = self.seek.begin(order);
        self.actions.push_back(Action::Seek(step));
    }

    pub(super) fn drop_seek(&mut self) {
        self.seek.end();
        self.actions.push_back(Action::DropSeek);
    }

    /// Seeks the first edge, or else the secondary once the first has been found; one at a time.
    pub(super) fn place_due(&mut self, now: Now) {
        if self.placing.is_some() {
            return;
        }
        if std::mem::take(&mut self.place_next) && !self.is_promoted(now) {
            if self.lifecycle.status() != Status::Finishing {
                return self.place(Which::First, now);
            }
            let why = Unplaced { code: "no_edge", detail: "the meeting was to end".into(), retry: false };
            self.lifecycle.handle_unplaced(why, now.at);
        }
        if self.may_seek_secondary() && self.secondary.poll_place(now.at) {
            self.place(Which::Secondary, now);
        }
    }

    pub(super) fn may_seek_secondary(&self) -> bool {
        let placed = matches!(self.lifecycle.status(), Status::Connecting | Status::Active);
        placed && self.placing.is_none() && self.lifecycle.leaving().is_none()
    }

    /// The secondary edge takes the first's place, if nobody captures in that and the secondary does; whether it did.
    fn is_promoted(&mut self, now: Now) -> bool {
        self.lifecycle.status() == Status::Placing && self.promote(self.lifecycle.epoch(), now)
    }
}
