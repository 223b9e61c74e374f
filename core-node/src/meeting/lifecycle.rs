//! Where one meeting stands, and what moves it.
//!
//! ```text
//! Placing ──assigned──> Connecting ──live──> Active
//!    ^  \                   │  │               │ │
//!    │   `─nobody─> Failed  │  └──closed/stop──┤ │
//!    │                      │                  v v
//!    ├──edge down, drained, never opened    Finishing ──all words out──> Done | Failed
//!    └──edge in trouble, maybe its own, and closed
//! ```
//!
//! An edge that fails may have **trouble of its own**: no UDP, a wrong clock, no way to the relay. Then another is tried, and the meeting
//! fails with the first one's cause once a second has the same trouble, or nobody is left (`trouble`). A relay that says no says so to
//! all: the meeting fails at once.
//!
//! An edge that is going away *hands over*: it goes on capturing, and the meeting stays active, while another edge is placed
//! and joins; only then is the first dismissed.
//!
//! **Order.** What an edge says, the end of its placement, what membership finds and what the API asks come by ways of their
//! own, in any order. An edge may be live before the answer that it takes the meeting has been read: what it says until then
//! is kept (`early`). One that was given up, or whose answer was missed, may turn out to have the meeting: as long as nobody
//! else has been granted it, it is *back*. `orders` holds this against all pairs.

mod early;
mod ending;
mod hand_over;
#[cfg(test)]
pub(super) mod orders;
mod placing;
#[cfg(test)]
mod tests;
mod trouble;
mod wait;

use std::time::Instant;

use mesh::wire::{
    Epoch,
    cause::Cause,
    control::{CloseReason, EdgeState},
};

use self::{
    early::{Early, Said},
    trouble::Troubles,
    wait::{LEAVING, SEEK, Wait},
};
pub use self::{
    placing::{NOT_ALLOWED, RETURNS, Unplaced},
    trouble::{REMEMBERED, may_be_its_own},
};
use super::leave::RELAY_ENDED;
use crate::store::record::Status;

/// What the shell is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Choose an edge and assign it, under the next epoch.
    Place,
    /// Tell the edge to leave.
    Leave,
    /// Tell the edge of this epoch to leave: its successor is live.
    Dismiss(Epoch),
    /// End the spurts that are still open, of every epoch so far.
    Fence,
}

/// One meeting's state.
#[derive(Debug)]
pub struct Lifecycle {
    status: Status,
    epoch: Epoch,
    /// The edge that captures until its successor is live, and how long it is waited for.
    leaving: Option<(Epoch, Instant)>,
    wait: Option<(Wait, Instant)>,
    /// Until when an edge that was told to leave may upload late what it has.
    late_upload: Option<Instant>,
    /// An edge is being sought.
    placing: bool,
    /// Where it stood when the edge of `epoch` was given up.
    given_up: Status,
    /// Until when another is sought for a meeting that was live, however often that fails.
    seek: Option<Instant>,
    early: Early,
    troubles: Troubles,
    placements: u32,
    edge_gone: bool,
    undone: usize,
    failure: Option<(String, Option<String>)>,
    /// Why it was left.
    left: Option<&'static str>,
    actions: Vec<Action>,
}

impl Lifecycle {
    /// A new meeting, to be placed.
    pub fn new() -> Self {
        let mut new = Self::at(Status::Placing, Epoch(0));
        new.place();
        new
    }

    /// A meeting that was under way when this core stopped: its edge is expected back, and the one that is `leaving`.
    pub fn resumed(status: Status, epoch: Epoch, leaving: Option<Epoch>, undone: usize, now: Instant) -> Self {
        let leaving = leaving.filter(|_| !status.ended()).map(|epoch| (epoch, now + LEAVING));
        let mut this = Self { undone, leaving, ..Self::at(status, epoch) };
        match status {
            Status::Placing => this.place(),
            Status::Connecting | Status::Active => this.set_wait(Wait::Open, now),
            Status::Finishing => this.see_off(now),
            Status::Done | Status::Failed => {}
        }
        this
    }

    /// The same, of one that was live: it is as patient as before. `edge`: its edge itself was, and has it as before when it is back.
    pub fn having_been_live(mut self, edge: bool, now: Instant) -> Self {
        if matches!(self.status, Status::Placing | Status::Connecting) {
            self.seek = Some(now + SEEK);
        }
        if edge && self.status == Status::Placing {
            self.given_up = Status::Active;
        }
        self
    }

    fn at(status: Status, epoch: Epoch) -> Self {
        Self {
            status,
            epoch,
            leaving: None,
            wait: None,
            late_upload: None,
            placing: false,
            given_up: Status::Connecting,
            seek: None,
            early: Early::default(),
            troubles: Troubles::default(),
            placements: 0,
            edge_gone: false,
            undone: 0,
            failure: None,
            left: None,
            actions: vec![],
        }
    }

    /// Where it stands.
    pub fn status(&self) -> Status {
        self.status
    }

    /// No edge has anything more to send.
    pub fn edge_gone(&self) -> bool {
        self.edge_gone
    }

    /// Why it failed or will fail: a stable word, and words.
    pub fn failure(&self) -> Option<&(String, Option<String>)> {
        self.failure.as_ref()
    }

    /// Why it was left, unless it has failed; a stable word.
    pub fn left(&self) -> Option<&'static str> {
        self.left
    }

    /// The epoch of the newest assignment.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The epoch of the edge that captures now.
    pub fn capturing(&self) -> Option<Epoch> {
        let epoch = self.leaving.map_or(self.epoch, |(epoch, _)| epoch);
        (self.status == Status::Active).then_some(epoch)
    }

    /// The edge that is to be relieved.
    pub fn leaving(&self) -> Option<Epoch> {
        self.leaving.map(|(epoch, _)| epoch)
    }

    /// Whether an edge is being sought: what it says before it has been found is kept until then.
    pub fn is_placing(&self) -> bool {
        self.placing
    }

    /// Whether an edge has failed, perhaps by its own fault, and none has been live since.
    pub fn is_troubled(&self) -> bool {
        self.troubles.open().is_some()
    }

    /// The edge that has not opened the meeting in time.
    pub fn unopened(&self, now: Instant) -> Option<Epoch> {
        self.wait.filter(|(wait, at)| *wait == Wait::Open && *at <= now).map(|_| self.epoch)
    }

    /// Another edge captures already, and is the meeting's edge from now on.
    pub fn handle_promoted(&mut self, epoch: Epoch) {
        if matches!(self.status, Status::Placing | Status::Connecting | Status::Active) {
            (self.epoch, self.status) = (epoch, Status::Active);
            (self.leaving, self.wait, self.placing, self.placements) = (None, None, false, 0);
            (self.early, self.failure) = (Early::default(), None);
            self.troubles.handle_live();
            self.actions.retain(|action| *action != Action::Place);
        }
    }

    /// The edge has opened the meeting here.
    pub fn handle_opened(&mut self, epoch: Epoch) {
        if self.is_early(epoch) {
            return self.early.keep(epoch, Said::Opened);
        }
        match self.wait {
            Some((Wait::Open, _)) if epoch == self.epoch => self.wait = None,
            // It was told when it could not be reached.
            Some((Wait::Leave, _)) if epoch == self.epoch => self.actions.push(Action::Leave),
            _ => {}
        }
    }

    /// The edge says where it stands.
    pub fn handle_edge_state(&mut self, epoch: Epoch, state: EdgeState, detail: Option<String>, now: Instant) {
        if self.is_early(epoch) {
            return self.early.keep(epoch, Said::State(state, detail));
        }
        if epoch != self.epoch {
            return;
        }
        // Whoever says so has opened it.
        self.wait.take_if(|(wait, _)| *wait == Wait::Open);
        match (self.status, state) {
            (Status::Connecting, EdgeState::Live) => {
                self.status = Status::Active;
                self.placements = 0;
                self.troubles.handle_live();
                // A core that has started finds one that handed over beside an edge that is still to join.
                let former = self.leaving.take_if(|(former, _)| *former != epoch);
                self.actions.extend(former.map(|(former, _)| Action::Dismiss(former)));
            }
            (Status::Active, EdgeState::Live) => {
                if let Some((former, _)) = self.leaving.take_if(|(former, _)| *former != epoch) {
                    self.placements = 0;
                    self.troubles.handle_live();
                    self.actions.push(Action::Dismiss(former));
                }
            }
            (Status::Active, EdgeState::Failed(cause)) => match self.leaving {
                Some((former, _)) if former != epoch => self.succeed_again(now),
                // Another is sought already, and may fare better.
                Some(_) => {}
                None => self.edge_failed(cause, detail, now),
            },
            (Status::Connecting, EdgeState::Failed(cause)) => self.edge_failed(cause, detail, now),
            _ => {}
        }
    }

    /// The meeting's edge gives it up, and closes it as soon as it has sent all it had.
    fn edge_failed(&mut self, cause: Cause, detail: Option<String>, now: Instant) {
        if let Err((cause, detail)) = self.troubles.handle_failed(self.epoch, (cause, detail), now) {
            self.fail(cause.as_str(), detail);
        }
    }

    /// The edge has left, and has sent everything.
    pub fn handle_closed(&mut self, epoch: Epoch, reason: CloseReason, now: Instant) {
        if self.is_early(epoch) {
            return self.early.keep(epoch, Said::Closed(reason));
        }
        if self.leaving.take_if(|(former, _)| *former == epoch).is_some() {
            return match reason {
                // There is nothing for its successor to join.
                CloseReason::Ended => self.relay_ended(epoch, now),
                _ => self.left_early(now),
            };
        }
        // One that was given up before it could say so has seen the relay end: nobody else gets in.
        let late = match self.status {
            Status::Placing => epoch <= self.epoch,
            Status::Connecting => epoch < self.epoch,
            _ => false,
        };
        if late && reason == CloseReason::Ended {
            return self.handle_leave(RELAY_ENDED, now);
        }
        if epoch != self.epoch || self.edge_gone || self.status.ended() {
            return;
        }
        match (self.status, reason) {
            // The one it was to relieve goes on; who failed has been succeeded already.
            (Status::Active, _) if self.leaving.is_some() => self.succeed_again(now),
            (Status::Connecting | Status::Active, CloseReason::Drain | CloseReason::LeaseOver) => self.place_again(now),
            (Status::Connecting | Status::Active, CloseReason::Failed)
                if self.failure.is_none() && self.troubles.is_of(epoch) =>
            {
                self.place_again(now);
            }
            (Status::Placing, _) => {}
            (_, reason) => {
                match reason {
                    // Of one that was to be left it is no failure that it was.
                    CloseReason::Failed if self.left.is_none() => self.fail("source_failed", None),
                    CloseReason::Ended => _ = self.left.get_or_insert(RELAY_ENDED),
                    _ => {}
                }
                self.flush(now);
            }
        }
    }

    /// The edge of `epoch` is held to be dead.
    pub fn handle_edge_down(&mut self, epoch: Epoch, now: Instant) {
        if self.is_early(epoch) {
            return self.early.keep(epoch, Said::Down);
        }
        if self.leaving.take_if(|(former, _)| *former == epoch).is_some() {
            return self.left_early(now);
        }
        if epoch != self.epoch {
            return;
        }
        match self.status {
            Status::Active if self.leaving.is_some() => self.succeed_again(now),
            Status::Connecting | Status::Active => self.place_again(now),
            Status::Finishing if !self.edge_gone => self.leave_behind(now),
            _ => {}
        }
    }

    /// A wait has ended.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.leaving.take_if(|(_, until)| *until <= now).is_some() {
            self.left_early(now);
        }
        let Some((wait, at)) = self.wait else { return };
        if now < at {
            return;
        }
        self.wait = None;
        match wait {
            Wait::Open | Wait::Retry if self.status == Status::Active && self.leaving.is_some() => {
                self.succeed_again(now)
            }
            Wait::Open => self.place_again(now),
            Wait::Retry => self.place(),
            Wait::Leave => self.leave_behind(now),
            Wait::Flush => {
                self.actions.push(Action::Fence);
                self.set_wait(Wait::Words, now);
            }
            Wait::Words => {
                self.fail("transcription_failed", Some(format!("{} spurts still without words", self.undone)));
                self.undone = 0;
                self.settle();
            }
        }
    }

    /// When [`Lifecycle::handle_timeout`] is next needed.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let leaving = self.leaving.map(|(_, until)| until);
        self.wait.map(|(_, at)| at).into_iter().chain(leaving).min()
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        (!self.actions.is_empty()).then(|| self.actions.remove(0))
    }

    fn set_wait(&mut self, wait: Wait, now: Instant) {
        self.wait = Some((wait, now + wait.length()));
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}
