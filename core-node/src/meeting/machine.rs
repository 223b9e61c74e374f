//! What becomes of one live meeting. It decides, and does nothing: the driver (`meetings::supervise`) feeds it what happens and does what
//! it asks.
//!
//! It is made of small machines: [`Captures`] knows which edges capture, [`Lifecycle`] where the meeting stands, [`Secondary`] what becomes
//! of the secondary edge, `Leave` when the meeting is left without anybody asking. Here they are put together: one fact may be news to
//! several of them, and what one of them wants another may have to know.
//!
//! Calling contract. After each input call [`Machine::advance`], and do all that [`Machine::poll_action`] says, in its order and
//! each to its end; then [`Machine::conclude`], and do what that leads to. Then wait for an input, or for [`Machine::poll_timeout`]. Only the
//! driver polls actions, up to the last, [`Action::End`]. An edge's beats, links and answers go to [`Captures`] by any task, which wakes the driver if there is news.

mod action;
mod avoided;
mod ending;
mod gaps;
mod hand_over;
mod placing;
mod relief;
pub mod seek;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use mesh::{
    clock::Micros,
    lease::Lapsed,
    node::Member,
    wire::{
        Epoch,
        control::{CloseReason, EdgeState},
    },
};

pub use self::{
    action::{Action, Reason, StatusChange, Which},
    ending::Ending,
    placing::Order,
};
use self::{avoided::Avoided, ending::Late, seek::Seek};
use super::{
    Bounds, Notice,
    captures::{Captures, Now},
    leave::{Leave, REQUESTED},
    lifecycle::{self, Lifecycle, may_be_its_own},
    secondary::Secondary,
    wishes::Wish,
};
use crate::store::record::{Gap, GapReason, MeetingRecord, Owner, Status};

/// How long an edge that was given up and renews its lease again is watched before it is believed that it has captured all the
/// while: one that stood still finds out at once that it must leave, and its beats may be faster.
const SURE: Duration = Duration::from_secs(2);

/// See the module. `L` is a link to an edge.
#[derive(Debug)]
pub struct Machine<L> {
    /// Which edges capture it.
    pub captures: Captures<L>,
    lifecycle: Lifecycle,
    secondary: Secondary,
    leave: Leave,
    /// The epochs whose edges capture, among them one that is not known yet to have taken the meeting.
    live: BTreeSet<Epoch>,
    /// This edge wants to be relieved, which waits until it is known and captures.
    leaves: BTreeSet<Epoch>,
    /// What is being placed. One at a time: epochs are counted on from the newest.
    placing: Option<Which>,
    seek: Seek,
    /// The newest epoch that was tried.
    tried: Epoch,
    /// The first edge is to be placed as soon as the secondary is.
    place_next: bool,
    /// How often in a row the edge was said to come back.
    awaited: u32,
    avoided: Avoided,
    /// The first edge has left; the secondary has not yet.
    closed: Option<(Epoch, CloseReason)>,
    members: Arc<Vec<Member>>,
    /// Nobody captures it, since when and why.
    gap: Option<Gap>,
    /// Since when somebody has captured it without a gap, as far as that is known.
    whole_from: Micros,
    /// This edge has the meeting again, and is believed from then on to have captured all the while.
    back: Option<(Epoch, Instant)>,
    /// The owner has been seen alive since it became the owner.
    owner_seen: bool,
    told: Option<Status>,
    /// What former owners left open, by when it ends.
    late: VecDeque<Late>,
    /// How long the first edge may be heard by way of others only.
    path_timeout: Duration,
    /// It ends at once, and in this way.
    cut_short: Option<Ending>,
    actions: VecDeque<Action>,
}

impl<L: Clone> Machine<L> {
    /// A new meeting, to be placed. Takes the owners out of `record`.
    pub fn new(record: &mut MeetingRecord, now: Now) -> Self {
        let secondary = Secondary::new(record.spec.redundancy > 1);
        Self::with(record, Lifecycle::new(), secondary, now)
    }

    /// A meeting that was under way when this core stopped, or that another core served; `undone` spurts of it wait for their words.
    /// Takes the owners out of `record`.
    pub fn resumed(record: &mut MeetingRecord, undone: usize, now: Now) -> Self {
        // If the newest itself is leaving, it says so again.
        let newest = record.owners.epoch;
        let leaving = record.owners.capturing().find(|(epoch, o)| o.leaving && *epoch != newest);
        let leaving = leaving.map(|(epoch, _)| epoch);
        let staying = record.owners.capturing().filter(|(epoch, _)| Some(*epoch) != leaving);
        let staying: Vec<(Epoch, u8)> = staying.map(|(epoch, o)| (epoch, o.slot)).collect();
        // One is the first, whichever.
        let (first, slot) = staying.first().copied().unwrap_or((newest, 0));
        let other = staying.iter().find(|(_, other)| *other != slot).map(|(epoch, _)| *epoch);
        let mut lifecycle = Lifecycle::resumed(record.status, first, leaving, undone, now.at);
        let gap = record.gaps.iter().find(|gap| gap.to.is_none());
        if gap.is_some() || record.origin.is_some() {
            // Of an edge that was asked after the gap began it is not known.
            let since = record.owners.get(first).and_then(|owner| owner.since);
            let edge = gap.zip(since).is_some_and(|(gap, since)| since <= gap.from);
            lifecycle = lifecycle.having_been_live(edge, now.at);
        }
        let secondary = Secondary::resumed(record.spec.redundancy > 1, 1 - slot.min(1), other, now.at);
        Self::with(record, lifecycle, secondary, now)
    }

    fn with(record: &mut MeetingRecord, lifecycle: Lifecycle, secondary: Secondary, now: Now) -> Self {
        let captures = Captures::of(record, now);
        Self {
            tried: captures.owners().epoch,
            captures,
            lifecycle,
            secondary,
            leave: Leave::new(&record.spec.leave, now.wall, now.at),
            live: BTreeSet::new(),
            leaves: BTreeSet::new(),
            placing: None,
            seek: Seek::default(),
            place_next: false,
            awaited: 0,
            avoided: Avoided::default(),
            closed: None,
            members: Arc::default(),
            gap: record.gaps.iter().find(|gap| gap.to.is_none()).cloned(),
            whole_from: record.gaps.iter().filter_map(|gap| gap.to).max().unwrap_or_default(),
            back: None,
            owner_seen: false,
            told: None,
            late: VecDeque::new(),
            path_timeout: Bounds::default().path_timeout,
            cut_short: None,
            actions: VecDeque::new(),
        }
    }

    /// The same, with another bound.
    pub fn with_path_timeout(self, path_timeout: Duration) -> Self {
        Self { path_timeout, ..self }
    }

    /// Where it stands.
    pub fn status(&self) -> Status {
        self.lifecycle.status()
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Machine::handle_timeout`] is next needed, and for what.
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        self.waits().min()
    }

    fn waits(&self) -> impl Iterator<Item = (Instant, Reason)> {
        let waits = [
            (self.captures.poll_timeout(), Reason::Lease),
            (self.lifecycle.poll_timeout(), Reason::Lifecycle),
            (self.secondary.poll_timeout().filter(|_| self.minds_secondary()), Reason::Secondary),
            (self.leave.poll_timeout().filter(|_| self.may_leave()), Reason::Leave),
            (self.back.map(|(_, sure)| sure), Reason::Back),
            (self.relief_due(), Reason::Relief),
            (self.seek.poll_timeout(), Reason::Vacant),
            (self.late_due(), Reason::LateGrace),
        ];
        waits.into_iter().filter_map(|(at, reason)| Some((at?, reason)))
    }

    // Inputs.

    /// An edge, or the API, says so.
    pub fn handle_notice(&mut self, notice: Notice, now: Now) {
        self.note_gap(&notice, now);
        match notice {
            Notice::Opened(epoch) => self.lifecycle.handle_opened(epoch),
            Notice::State(epoch, EdgeState::Live, detail) => {
                self.secondary.handle_live(epoch);
                self.lifecycle.handle_edge_state(epoch, EdgeState::Live, detail, now.at);
            }
            Notice::State(epoch, state @ EdgeState::Failed(cause), detail) => {
                if may_be_its_own(cause) {
                    self.avoid(epoch, now);
                }
                if !self.is_spare(epoch, now) {
                    self.lifecycle.handle_edge_state(epoch, state, detail, now.at);
                }
            }
            Notice::State(epoch, state, detail) => self.lifecycle.handle_edge_state(epoch, state, detail, now.at),
            Notice::Closed(epoch, reason) => self.handle_closed(epoch, reason, now),
            Notice::Late(_) if self.is_finishing() => {}
            // What it owes is on its way.
            Notice::Late(epoch) if self.is_owing(epoch) => {}
            Notice::Late(epoch) => self.handle_closed(epoch, CloseReason::LeaseOver, now),
            // `advance` relieves it.
            Notice::HandOver(epoch) => _ = self.leaves.insert(epoch),
            Notice::Stop => self.leave_for(REQUESTED, now),
        }
    }

    /// These nodes are there, as far as the gossip knows. Nothing follows from it before [`Machine::handle_members`].
    pub fn know(&mut self, members: Arc<Vec<Member>>) {
        self.members = members;
    }

    /// Who is there has changed.
    pub fn handle_members(&mut self, now: Now) {
        let epoch = self.lifecycle.epoch();
        let Some(owner) = self.captures.owner(epoch).cloned() else { return };
        if self.is_draining(&owner) {
            self.hand_over(epoch, now);
        }
        if owner.leased && (self.captures.is_leased(owner.slot, now.at) || self.captures_on(epoch, now)) {
            return;
        }
        if self.is_member(&owner) {
            self.owner_seen = true;
        } else if std::mem::take(&mut self.owner_seen) {
            tracing::warn!(edge = %owner.edge, "the edge is down");
            self.note_lost(epoch, GapReason::EdgeLost, now.wall);
            if !self.promote(epoch, now) && !self.waits_for_owed(epoch, CloseReason::LeaseOver) {
                self.lifecycle.handle_edge_down(epoch, now.at);
            }
        }
    }

    /// A deadline has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(lapsed) = self.captures.handle_timeout(now.at) {
            self.handle_lapsed(&lapsed, now);
        }
        self.end_late(now);
        let next = self.seek.handle_timeout(&mut self.captures, now);
        self.follow(next, now);
        if let Some(epoch) = self.secondary.handle_timeout(now.at) {
            tracing::warn!(epoch = epoch.0, "the secondary edge did not get in");
            self.avoid(epoch, now);
            self.unmet(self.secondary_wish(), "the secondary edge did not get in");
            self.tell_to_leave(epoch);
            self.give_up(epoch, now);
        }
        if let Some((epoch, _)) = self.back.take_if(|(_, sure)| *sure <= now.at) {
            self.note_back(epoch);
        }
        if self.lifecycle.poll_timeout().is_some_and(|at| at <= now.at) {
            let awaited = self.closed.is_none() || self.secondary.epoch().is_some();
            if self.owes() || (awaited && self.lives(self.lifecycle.epoch())) {
                self.lifecycle.handle_edge_alive(now.at);
            }
            if self.lifecycle.leaving().is_some_and(|leaving| self.captures_on(leaving, now)) {
                self.lifecycle.handle_leaving_alive(now.at);
            }
            if let Some(unopened) = self.lifecycle.unopened(now.at) {
                self.avoid(unopened, now);
            }
            self.lifecycle.handle_timeout(now.at);
        }
    }

    /// So many spurts wait for their words, so many of those are open, and so many people are there. What follows from all that has come
    /// in is decided.
    pub fn advance(&mut self, undone: usize, open: usize, present: usize, now: Now) {
        self.lifecycle.handle_backlog(undone, open, now.at);
        self.leave_if_due(present, now);
        self.catch_up(now);
        self.obey_lifecycle(now);
        self.stop_gone(now);
        self.place_due(now);
        // Nobody may be sought any more, which ends it.
        self.obey_lifecycle(now);
    }

    /// What [`Machine::advance`] asked for is done, and the backlog is this by now: the world is told where the meeting stands.
    pub fn conclude(&mut self, undone: usize, open: usize, now: Now) {
        self.lifecycle.handle_backlog(undone, open, now.at);
        if self.lifecycle.edge_gone() && undone == 0 {
            self.actions.push_back(Action::NoWitness);
        }
        self.tell(now);
    }

    // What follows from them.

    fn obey_lifecycle(&mut self, now: Now) {
        while let Some(action) = self.lifecycle.poll_action() {
            match action {
                lifecycle::Action::Place => self.place_next = true,
                lifecycle::Action::Leave => {
                    self.tell_to_leave(self.lifecycle.epoch());
                    self.secondary.epoch().into_iter().for_each(|secondary| self.tell_to_leave(secondary));
                }
                lifecycle::Action::Dismiss(former) => self.dismiss(former, now),
                lifecycle::Action::Fence => {
                    let newest = self.lifecycle.epoch().max(self.captures.owners().epoch);
                    self.actions.push_back(Action::Fence { below: Epoch(newest.0 + 1), but: BTreeSet::new() });
                }
            }
        }
    }

    fn leave_for(&mut self, why: &'static str, now: Now) {
        self.secondary.stop();
        self.lifecycle.handle_leave(why, now.at);
    }

    /// Leaves a meeting that nobody is in any more, or whose time is up.
    fn leave_if_due(&mut self, present: usize, now: Now) {
        let known = self.status() == Status::Active && self.gap.is_none();
        self.leave.handle_present(known.then_some(present), now.at);
        if let Some(why) = self.leave.poll_due(now.at).filter(|_| self.may_leave()) {
            tracing::info!(why, "the meeting is left");
            metrics::counter!("nearfield_core_meetings_left_total", "why" => why).increment(1);
            self.leave_for(why, now);
        }
    }

    fn may_leave(&self) -> bool {
        matches!(self.status(), Status::Placing | Status::Connecting | Status::Active)
    }

    /// The edge of `epoch` captures no more. True if the meeting goes on without it: it was the secondary, or the secondary
    /// takes its place.
    fn is_spare(&mut self, epoch: Epoch, now: Now) -> bool {
        if self.asked(epoch) == Some(Which::Secondary) {
            self.secondary.handle_lost(epoch, now.at);
            return true;
        }
        if self.secondary.epoch() == Some(epoch) {
            self.secondary.handle_lost(epoch, now.at);
            self.give_up(epoch, now);
            self.close_if_last(now);
            return true;
        }
        let ours = epoch == self.lifecycle.epoch() && !self.is_finishing() && !self.status().ended();
        ours && self.promote(epoch, now)
    }

    /// The secondary edge is the first from now on, if it captures.
    fn promote(&mut self, former: Epoch, now: Now) -> bool {
        let Some(epoch) = self.secondary.promote(self.first_slot()) else { return false };
        tracing::warn!(former = former.0, epoch = epoch.0, "one of two edges is lost or unheard; the other goes on");
        metrics::counter!("nearfield_core_captures_taken_on_total").increment(1);
        self.lifecycle.handle_promoted(epoch);
        self.place_next = false;
        self.give_up(former, now);
        true
    }

    /// Whether the end of what the secondary edge waits for makes a difference now: one that is to be sought waits for the first.
    fn minds_secondary(&self) -> bool {
        self.secondary.epoch().is_some() || self.may_seek_secondary()
    }

    fn first_slot(&self) -> u8 {
        1 - self.secondary.slot().min(1)
    }

    /// Nothing that the edge of `epoch` captures from now on is wanted; what it has left open ends, after a while.
    fn give_up(&mut self, epoch: Epoch, now: Now) {
        self.live.remove(&epoch);
        if self.is_finishing() {
            return;
        }
        self.stop(epoch, now);
        self.end_before(Epoch(epoch.0 + 1), false, now);
    }

    fn stop(&mut self, epoch: Epoch, now: Now) {
        if self.captures.stop(epoch, now.wall) {
            self.actions.push_back(Action::Stopped(epoch));
        }
    }

    /// The secondary edge is going away: as long as the first captures it can go at once.
    fn relieve_secondary(&mut self, epoch: Epoch, now: Now) {
        self.tell_to_leave(epoch);
        self.secondary.handle_lost(epoch, now.at);
        self.give_up(epoch, now);
    }

    /// A silent edge is replaced as soon as it can own the meeting no more, whatever membership thinks of it.
    fn handle_lapsed(&mut self, Lapsed { edge, epoch }: &Lapsed, now: Now) {
        let (edge, epoch) = (edge.clone(), *epoch);
        let leased = self.captures.owner(epoch).is_some_and(|o| o.leased);
        if !leased || !self.is_ours(epoch) {
            return;
        }
        tracing::warn!(%edge, epoch = epoch.0, "the edge's lease has run out");
        metrics::counter!("nearfield_core_leases_lapsed_total").increment(1);
        self.actions.push_back(Action::Silent(edge));
        self.note_lost(epoch, GapReason::EdgeLost, self.captures.heard_at());
        let spare = self.is_spare(epoch, now);
        // At the end of a meeting no other is sought: what it has may still come.
        let awaited = self.is_finishing() && self.lives(epoch);
        let reason = CloseReason::LeaseOver;
        if !spare && !awaited && !self.waits_for_secondary(epoch, reason) && !self.waits_for_owed(epoch, reason) {
            self.lifecycle.handle_edge_down(epoch, now.at);
        }
    }

    /// Whether the mesh holds the edge of `epoch` to be alive.
    fn lives(&self, epoch: Epoch) -> bool {
        self.captures.owner(epoch).is_some_and(|owner| self.is_member(owner))
    }

    fn member(&self, owner: &Owner) -> Option<&Member> {
        self.members.iter().find(|m| m.identity.node == owner.edge)
    }

    fn is_member(&self, owner: &Owner) -> bool {
        self.member(owner).is_some()
    }

    /// By gossip, where it does not say so itself: it is of version 1, or its link is down.
    fn is_draining(&self, owner: &Owner) -> bool {
        self.member(owner).and_then(|m| m.report.as_ref()).is_some_and(|report| report.draining)
    }

    /// What was said before it could be acted upon is, as soon as it can.
    fn catch_up(&mut self, now: Now) {
        self.take_back(now);
        let (capturing, was_captured) = (self.captures.capturing(), self.is_captured());
        self.live.retain(|epoch| capturing.contains(epoch));
        if self.is_captured() {
            self.end_gap(now);
        } else if was_captured && self.may_leave() {
            // Another has been granted its slot, and is not live yet.
            self.begin_gap(GapReason::EdgeLost, now.wall);
        }
        if self.secondary.live().is_some() || self.is_finishing() {
            self.actions.push_back(Action::Met(Wish::Redundancy));
        }
        self.relieve_detoured(now);
        for epoch in std::mem::take(&mut self.leaves) {
            let alone = !self.live.iter().any(|other| *other != epoch);
            if self.secondary.epoch() == Some(epoch) && !alone {
                self.relieve_secondary(epoch, now);
            } else if self.lifecycle.capturing() == Some(epoch) {
                self.hand_over(epoch, now);
            } else if capturing.contains(&epoch) {
                // Later: it is the only one, or not the meeting's edge yet.
                self.leaves.insert(epoch);
            }
        }
    }

    fn tell_to_leave(&mut self, epoch: Epoch) {
        self.actions.push_back(Action::Leave(epoch));
    }

    fn unmet(&mut self, wish: Wish, why: impl Into<String>) {
        self.actions.push_back(Action::Unmet(wish, why.into()));
    }
}
