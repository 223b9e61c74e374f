//! How a meeting ends: one way for all that end it. The edges leave, its status is written and published, and then the driver is told to
//! [end](Action::End) it here, which is the last action.
//!
//! | what | the way |
//! |---|---|
//! | an order, a leave rule, a deadline, its edges | `finishing`, until all words are out |
//! | a part of it breaks or stands still | `failed` at once; what was asked for and not done is not |
//! | another core serves it in a later term | it ends here; where it stands that core says |

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use mesh::{
    identity::NodeId,
    wire::{Epoch, Term, control::CloseReason},
};

use super::{Action, Machine, StatusChange};
use crate::{meeting::captures::Now, store::record::Status};

/// How long an edge that lost its lease has to bring the rest of what it was sending, before that ends where it is. What
/// comes later makes an utterance of its own.
const LATE_GRACE: Duration = Duration::from_secs(2);

/// In what way a meeting ends here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It is done, or has failed.
    Over,
    /// Another core serves it.
    Moved {
        /// That core.
        core: NodeId,
        /// In this term.
        term: Term,
    },
}

/// What former owners left open, which ends after a while.
#[derive(Debug)]
pub(super) struct Late {
    at: Instant,
    below: Epoch,
    fence: bool,
}

impl<L: Clone> Machine<L> {
    /// A part of the meeting broke, or stands still: the meeting fails, whatever is under way.
    pub fn handle_broken(&mut self, why: String, now: Now) {
        if self.cut_short.is_some() {
            return;
        }
        if !self.status().ended() {
            tracing::error!(why, "a meeting is given up; the others go on");
            metrics::counter!("nearfield_core_meetings_broken_total").increment(1);
        }
        self.cut_short(Ending::Over);
        self.lifecycle.handle_broken(why);
        // The driver may not have come to it.
        self.told = None;
        self.captures.fence(Epoch(self.captures.newest().0 + 1), BTreeSet::new());
        self.tell(now);
    }

    /// Another core serves the meeting in a later term: nothing more of it is said here.
    pub fn handle_superseded(&mut self, core: NodeId, term: Term) {
        let moved = Ending::Moved { core, term };
        self.cut_short(moved.clone());
        self.actions.push_back(Action::End(moved));
    }

    fn cut_short(&mut self, ending: Ending) {
        self.actions.clear();
        self.cut_short = Some(ending);
    }

    pub(super) fn handle_closed(&mut self, epoch: Epoch, reason: CloseReason, now: Now) {
        self.handle_paid(epoch, now);
        if self.is_spare(epoch, now) {
            return;
        }
        if matches!(reason, CloseReason::Drain | CloseReason::LeaseOver | CloseReason::Failed) {
            self.stop(epoch, now);
        }
        if !self.waits_for_secondary(epoch, reason) && !self.waits_for_owed(epoch, reason) {
            self.lifecycle.handle_closed(epoch, reason, now.at);
        }
        // One that was on its way comes too late.
        if let Some(secondary) = self.secondary.epoch().filter(|_| self.is_finishing() && self.closed.is_none()) {
            self.tell_to_leave(secondary);
        }
    }

    /// At the end of a meeting: what the secondary edge has is still on its way when the first has left.
    pub(super) fn waits_for_secondary(&mut self, epoch: Epoch, reason: CloseReason) -> bool {
        let waits = epoch == self.lifecycle.epoch() && self.secondary.epoch().is_some() && self.is_finishing();
        if waits {
            self.closed.get_or_insert((epoch, reason));
        }
        waits
    }

    /// The first edge has left, and nobody is waited for any more: neither the secondary edge nor one that owes.
    pub(super) fn close_if_last(&mut self, now: Now) {
        let last = self.secondary.epoch().is_none() && !self.owes();
        if let Some((first, reason)) = self.closed.take_if(|_| last) {
            self.lifecycle.handle_closed(first, reason, now.at);
        }
    }

    pub(super) fn is_finishing(&self) -> bool {
        self.status() == Status::Finishing
    }

    /// What the owners before `epoch` left open ends: after a while of one that may come back with the rest, or that is
    /// `there` still and has its last packets on their way.
    pub(super) fn end_before(&mut self, epoch: Epoch, there: bool, now: Now) {
        let Some((_, before)) = self.captures.owners().rows.range(..epoch.0).next_back() else { return };
        let leased = before.leased;
        if leased || there {
            self.late.push_back(Late { at: now.at + LATE_GRACE, below: epoch, fence: !leased });
        } else {
            self.end_open(epoch, true);
        }
    }

    /// When what a former owner left open ends.
    pub(super) fn late_due(&self) -> Option<Instant> {
        self.late.front().map(|late| late.at)
    }

    pub(super) fn end_late(&mut self, now: Now) {
        while let Some(Late { below, fence, .. }) = self.late.pop_front_if(|late| late.at <= now.at) {
            self.end_open(below, fence);
        }
    }

    fn end_open(&mut self, below: Epoch, fence: bool) {
        let but = self.captures.capturing();
        self.actions.push_back(if fence { Action::Fence { below, but } } else { Action::EndOpen { below, but } });
    }

    /// Says where the meeting stands, if that is new; when it has ended this ends it.
    pub(super) fn tell(&mut self, now: Now) {
        let status = self.status();
        if self.told == Some(status) {
            return;
        }
        if status.ended() {
            self.end_gap(now);
            self.name_owed(now);
        }
        let failure = self.lifecycle.failure().filter(|_| status == Status::Failed).cloned();
        let change = StatusChange { status, failure, left: self.lifecycle.left(), gap: self.gap.clone() };
        self.actions.push_back(Action::Tell(change));
        self.actions.push_back(Action::Publish(status));
        self.told = Some(status);
        if status.ended() {
            self.late.clear();
            self.dismiss_all();
            self.actions.push_back(Action::End(Ending::Over));
        }
    }

    /// The meeting has ended: should an edge join that is being asked, it is to leave. So is everybody, if the meeting was cut short.
    fn dismiss_all(&mut self) {
        let mut leave = BTreeSet::new();
        if self.placing.take().is_some() {
            self.drop_seek();
            leave.insert(self.captures.owners().epoch);
        }
        if self.cut_short.is_some() {
            leave.extend(self.captures.capturing());
            leave.extend(self.captures.links().into_iter().map(|(epoch, _)| epoch));
        }
        leave.into_iter().for_each(|epoch| self.tell_to_leave(epoch));
    }
}
