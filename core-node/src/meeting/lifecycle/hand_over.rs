//! An edge that is going away captures on while its successor is placed and joins.

use std::time::Instant;

use mesh::wire::Epoch;

use super::{
    Action, Lifecycle,
    early::Said,
    placing::MAX_PLACEMENTS,
    wait::{LEAVING, SEEK, Wait},
};
use crate::{meeting::leave::RELAY_ENDED, store::record::Status};

impl Lifecycle {
    /// The edge is going away and goes on capturing until another does.
    pub fn handle_hand_over(&mut self, epoch: Epoch, now: Instant) {
        if self.is_early(epoch) {
            return self.early.keep(epoch, Said::HandsOver);
        }
        if self.status == Status::Active && epoch == self.epoch && self.leaving.is_none() {
            self.leaving = Some((epoch, now + LEAVING));
            self.succeed(now);
        }
    }

    /// The edge that hands over captures still: it is waited for as long again, and one more is asked to succeed it.
    pub fn handle_leaving_alive(&mut self, now: Instant) {
        if let Some((_, until)) = self.leaving.as_mut().filter(|(_, until)| *until <= now) {
            *until = now + LEAVING;
            self.placements = self.placements.min(MAX_PLACEMENTS - 1);
        }
    }

    /// Another is placed while the edge that leaves goes on capturing.
    fn succeed(&mut self, now: Instant) {
        if self.placements >= MAX_PLACEMENTS {
            return self.set_wait(Wait::Retry, now);
        }
        self.wait = None;
        self.placements += 1;
        self.placing = true;
        self.actions.push(Action::Place);
    }

    /// The successor did not come or did not last, and nothing more is heard of it: the next is placed, unless it is already.
    pub(super) fn succeed_again(&mut self, now: Instant) {
        if let Some((former, _)) = self.leaving {
            self.epoch = former;
        }
        if !self.is_sought() {
            self.succeed(now);
        }
    }

    /// The edge has left before its successor was live.
    pub(super) fn left_early(&mut self, now: Instant) {
        if self.status == Status::Active {
            self.seek = Some(now + SEEK);
            self.status = if self.is_sought() { Status::Placing } else { Status::Connecting };
        }
    }

    /// The edge that hands over says that the meeting is over; so its successor, if there is one, has nothing to do.
    pub(super) fn relay_ended(&mut self, former: Epoch, now: Instant) {
        self.left.get_or_insert(RELAY_ENDED);
        if self.epoch == former {
            return self.flush(now);
        }
        self.finishing();
        self.actions.push(Action::Leave);
        self.see_off(now);
    }
}
