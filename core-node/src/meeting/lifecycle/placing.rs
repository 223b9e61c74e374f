//! An edge is sought, found, or not to be had.

use std::time::Instant;

use mesh::wire::Epoch;

use super::{
    Action, Lifecycle,
    early::{Early, Said},
    wait::{SEEK, Wait},
};
use crate::store::record::Status;

/// Placements in a row without a meeting that goes live, before it fails.
pub(super) const MAX_PLACEMENTS: u32 = 5;

/// [`Unplaced::code`] where the edge whose lease has lapsed captures the meeting still, and is expected back.
pub const RETURNS: &str = "edge_returns";

/// [`Unplaced::code`] where there are edges, and none may be asked.
pub const NOT_ALLOWED: &str = "no_edge_allowed";

/// Why a placement came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unplaced {
    /// A stable word.
    pub code: &'static str,
    /// In words.
    pub detail: String,
    /// It may go better soon.
    pub retry: bool,
}

impl Lifecycle {
    /// An edge has taken the meeting under `epoch`, and may have said more since.
    pub fn handle_assigned(&mut self, epoch: Epoch, now: Instant) {
        if !self.placing {
            return;
        }
        (self.epoch, self.placing) = (epoch, false);
        if self.status == Status::Placing {
            self.status = Status::Connecting;
            self.set_wait(Wait::Open, now);
        } else if self.status == Status::Finishing {
            self.actions.push(Action::Leave);
            if !self.edge_gone {
                self.see_off(now);
            }
        } else if self.leaving.is_some() {
            self.set_wait(Wait::Open, now);
        }
        for said in self.early.take(epoch) {
            match said {
                Said::Opened => self.handle_opened(epoch),
                Said::State(state, detail) => self.handle_edge_state(epoch, state, detail, now),
                Said::HandsOver => self.handle_hand_over(epoch, now),
                Said::Down => self.handle_edge_down(epoch, now),
                Said::Closed(reason) => self.handle_closed(epoch, reason, now),
            }
        }
    }

    /// The edge of `epoch` has the meeting, although it was given up, or was not known to have taken it: nobody else is sought.
    pub fn handle_back(&mut self, epoch: Epoch, now: Instant) {
        if !self.is_sought() || epoch < self.epoch {
            return;
        }
        self.actions.retain(|action| *action != Action::Place);
        if epoch > self.epoch {
            (self.wait, self.placing) = (None, true);
            return self.handle_assigned(epoch, now);
        }
        (self.placing, self.early) = (false, Early::default());
        match self.status {
            Status::Placing if self.given_up == Status::Active => {
                (self.status, self.wait, self.placements) = (Status::Active, None, 0);
            }
            Status::Placing => {
                self.status = Status::Connecting;
                self.set_wait(Wait::Open, now);
            }
            Status::Finishing if !self.edge_gone => {
                self.actions.push(Action::Leave);
                self.see_off(now);
            }
            _ => {}
        }
    }

    /// No edge took it.
    pub fn handle_unplaced(&mut self, why: Unplaced, now: Instant) {
        if !std::mem::take(&mut self.placing) {
            return;
        }
        match self.status {
            Status::Active if self.leaving.is_some() => self.set_wait(Wait::Retry, now),
            Status::Placing if why.retry && (self.placements < MAX_PLACEMENTS || self.is_patient(now)) => {
                self.set_wait(Wait::Retry, now)
            }
            Status::Placing => self.fail_unplaced(why.code, why.detail, now),
            // Nobody was told to leave, since nobody was there.
            Status::Finishing if self.late_upload.is_none() && !self.edge_gone => self.leave_behind(now),
            _ => {}
        }
    }

    pub(super) fn place(&mut self) {
        self.status = Status::Placing;
        self.placing = true;
        self.placements += 1;
        self.wait = None;
        self.actions.push(Action::Place);
    }

    pub(super) fn place_again(&mut self, now: Instant) {
        // The next edge finds out for itself.
        self.failure = None;
        if self.placements >= MAX_PLACEMENTS {
            self.fail_unplaced("no_edge", format!("{MAX_PLACEMENTS} edges in a row did not get in"), now);
        } else {
            self.given_up = self.status;
            if self.status == Status::Active {
                self.seek = Some(now + SEEK);
            }
            self.place();
        }
    }

    /// Whether an edge is being sought, or is to be.
    pub fn is_sought(&self) -> bool {
        self.placing || matches!(self.wait, Some((Wait::Retry, _)))
    }

    /// Whether `epoch` is, or may be, of the edge that is being sought.
    pub(super) fn is_early(&self, epoch: Epoch) -> bool {
        self.is_sought() && epoch > self.epoch
    }

    fn is_patient(&self, now: Instant) -> bool {
        self.seek.is_some_and(|until| now < until)
    }

    /// No edge gets in. What the first to fail has said is worth more.
    fn fail_unplaced(&mut self, code: &str, detail: String, now: Instant) {
        if let Some((cause, detail)) = self.troubles.open().cloned() {
            self.fail(cause.as_str(), detail);
            // It has left in good order.
            self.flush(now);
        } else {
            self.fail(code, Some(detail));
            self.leave_behind(now);
        }
    }
}
