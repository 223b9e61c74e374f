//! The way to the end: the edges leave, what they have sent becomes words, and then the meeting is done or has failed.

use std::time::Instant;

use super::{
    Action, Lifecycle,
    early::Early,
    wait::{LATE_UPLOAD, Wait},
};
use crate::store::record::Status;

impl Lifecycle {
    /// The meeting is to be left, and this is why.
    pub fn handle_leave(&mut self, why: &'static str, now: Instant) {
        if matches!(self.status, Status::Placing | Status::Connecting | Status::Active) {
            self.left.get_or_insert(why);
        }
        self.handle_stop(now);
    }

    /// The meeting is to end.
    pub fn handle_stop(&mut self, now: Instant) {
        let begun = self.actions.len();
        self.actions.retain(|action| *action != Action::Place);
        self.placing &= self.actions.len() == begun;
        match self.status {
            // Whoever is asked just now is to be told.
            Status::Placing if self.placing => {
                self.finishing();
                self.set_wait(Wait::Leave, now);
            }
            Status::Placing => self.leave_behind(now),
            Status::Connecting | Status::Active => {
                self.finishing();
                let former = self.leaving.take().filter(|(former, _)| *former != self.epoch);
                self.actions.extend(former.map(|(former, _)| Action::Dismiss(former)));
                self.actions.push(Action::Leave);
                self.see_off(now);
            }
            Status::Finishing | Status::Done | Status::Failed => {}
        }
    }

    /// It cannot go on, wherever it stands.
    pub fn handle_broken(&mut self, why: String) {
        if self.status.ended() {
            return;
        }
        (self.status, self.failure) = (Status::Failed, Some(("internal_error".into(), Some(why))));
        (self.leaving, self.wait, self.late_upload, self.placing) = (None, None, None, false);
        (self.early, self.edge_gone) = (Early::default(), true);
        self.actions.clear();
    }

    /// The edge that was told to leave lives: what it has still to bring is waited for.
    pub fn handle_edge_alive(&mut self, now: Instant) {
        if matches!(self.wait, Some((Wait::Leave, _))) && self.late_upload.is_some_and(|until| now < until) {
            self.set_wait(Wait::Leave, now);
        }
    }

    /// How many spurts still wait for their words, and how many of them are still open.
    pub fn handle_backlog(&mut self, undone: usize, open: usize, now: Instant) {
        self.undone = undone;
        if self.status == Status::Finishing && self.edge_gone {
            if open == 0 && matches!(self.wait, Some((Wait::Flush, _))) {
                self.set_wait(Wait::Words, now);
            }
            self.settle();
        }
    }

    /// There is no edge, or it does not answer: what is here is all there will be.
    pub(super) fn leave_behind(&mut self, now: Instant) {
        self.edge_gone = true;
        self.finishing();
        self.actions.push(Action::Fence);
        self.set_wait(Wait::Words, now);
        self.settle();
    }

    /// Every edge has left; what they have sent may still be on its way.
    pub(super) fn flush(&mut self, now: Instant) {
        self.edge_gone = true;
        self.finishing();
        self.set_wait(Wait::Flush, now);
    }

    pub(super) fn see_off(&mut self, now: Instant) {
        self.late_upload = Some(now + LATE_UPLOAD);
        self.set_wait(Wait::Leave, now);
    }

    pub(super) fn finishing(&mut self) {
        self.status = Status::Finishing;
        self.wait = None;
    }

    pub(super) fn fail(&mut self, code: &str, detail: Option<String>) {
        self.failure.get_or_insert((code.into(), detail));
    }

    pub(super) fn settle(&mut self) {
        if self.status == Status::Finishing && self.edge_gone && self.undone == 0 {
            self.status = if self.failure.is_some() { Status::Failed } else { Status::Done };
            self.wait = None;
        }
    }
}
