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
#[cfg(test)]
pub(super) mod orders;
#[cfg(test)]
mod tests;
mod trouble;

use std::time::{Duration, Instant};

use mesh::wire::{
    Epoch,
    cause::Cause,
    control::{CloseReason, EdgeState},
};

pub use self::trouble::{REMEMBERED, may_be_its_own};
use self::{
    early::{Early, Said},
    trouble::Troubles,
};
use super::leave::RELAY_ENDED;
use crate::store::record::Status;

/// What a meeting may wait for, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// When an assigned edge has not opened the meeting here: assign another.
    Open,
    /// When no edge could be had: try again.
    Retry,
    /// When the edge was told to leave and has not closed: go on without it, unless it is known to live. Also when the meeting
    /// was to end while an edge was sought: it is told as soon as it has been found.
    Leave,
    /// When the edge has closed and spurts are still on their streams: end them where they are.
    Flush,
    /// When words are still being made: give up on them.
    Words,
}

impl Wait {
    fn length(self) -> Duration {
        match self {
            Self::Open => Duration::from_secs(15),
            Self::Retry => Duration::from_secs(3),
            Self::Leave => Duration::from_secs(10),
            Self::Flush => Duration::from_secs(5),
            Self::Words => Duration::from_secs(600),
        }
    }
}

/// How long an edge that hands over is waited for, and as long again while it is known to capture.
const LEAVING: Duration = Duration::from_secs(20);

/// How long an edge that is known to live is waited for once it was told to leave: it may be cut off from its cores, and
/// bring home all that was said meanwhile.
const HOMING: Duration = Duration::from_secs(150);

/// Placements in a row without a meeting that goes live, before it fails.
const MAX_PLACEMENTS: u32 = 5;

/// How long an edge is sought for a meeting that was live, if none can be had: its own may be cut off, and listen on.
const SEEK: Duration = Duration::from_secs(150);

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

/// One meeting's state.
#[derive(Debug)]
pub struct Lifecycle {
    status: Status,
    epoch: Epoch,
    /// The edge that captures until its successor is live, and how long it is waited for.
    leaving: Option<(Epoch, Instant)>,
    wait: Option<(Wait, Instant)>,
    /// Until when an edge that was told to leave may bring home what it has.
    homing: Option<Instant>,
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
            homing: None,
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
            Status::Finishing if self.homing.is_none() && !self.edge_gone => self.leave_behind(now),
            _ => {}
        }
    }

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

    /// The edge that was told to leave lives: what it has still to bring is waited for.
    pub fn handle_edge_alive(&mut self, now: Instant) {
        if matches!(self.wait, Some((Wait::Leave, _))) && self.homing.is_some_and(|until| now < until) {
            self.set_wait(Wait::Leave, now);
        }
    }

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
        (self.leaving, self.wait, self.homing, self.placing) = (None, None, None, false);
        (self.early, self.edge_gone) = (Early::default(), true);
        self.actions.clear();
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

    fn place(&mut self) {
        self.status = Status::Placing;
        self.placing = true;
        self.placements += 1;
        self.wait = None;
        self.actions.push(Action::Place);
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
    fn succeed_again(&mut self, now: Instant) {
        if let Some((former, _)) = self.leaving {
            self.epoch = former;
        }
        if !self.is_sought() {
            self.succeed(now);
        }
    }

    /// Whether an edge is being sought, or is to be.
    pub fn is_sought(&self) -> bool {
        self.placing || matches!(self.wait, Some((Wait::Retry, _)))
    }

    /// The edge has left before its successor was live.
    fn left_early(&mut self, now: Instant) {
        if self.status == Status::Active {
            self.seek = Some(now + SEEK);
            self.status = if self.is_sought() { Status::Placing } else { Status::Connecting };
        }
    }

    /// The edge that hands over says that the meeting is over; so its successor, if there is one, has nothing to do.
    fn relay_ended(&mut self, former: Epoch, now: Instant) {
        self.left.get_or_insert(RELAY_ENDED);
        if self.epoch == former {
            return self.flush(now);
        }
        self.finishing();
        self.actions.push(Action::Leave);
        self.see_off(now);
    }

    /// Whether `epoch` is, or may be, of the edge that is being sought.
    fn is_early(&self, epoch: Epoch) -> bool {
        self.is_sought() && epoch > self.epoch
    }

    fn place_again(&mut self, now: Instant) {
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

    fn is_patient(&self, now: Instant) -> bool {
        self.seek.is_some_and(|until| now < until)
    }

    /// There is no edge, or it does not answer: what is here is all there will be.
    fn leave_behind(&mut self, now: Instant) {
        self.edge_gone = true;
        self.finishing();
        self.actions.push(Action::Fence);
        self.set_wait(Wait::Words, now);
        self.settle();
    }

    /// Every edge has left; what they have sent may still be on its way.
    fn flush(&mut self, now: Instant) {
        self.edge_gone = true;
        self.finishing();
        self.set_wait(Wait::Flush, now);
    }

    fn see_off(&mut self, now: Instant) {
        self.homing = Some(now + HOMING);
        self.set_wait(Wait::Leave, now);
    }

    fn finishing(&mut self) {
        self.status = Status::Finishing;
        self.wait = None;
    }

    fn fail(&mut self, code: &str, detail: Option<String>) {
        self.failure.get_or_insert((code.into(), detail));
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

    fn settle(&mut self) {
        if self.status == Status::Finishing && self.edge_gone && self.undone == 0 {
            self.status = if self.failure.is_some() { Status::Failed } else { Status::Done };
            self.wait = None;
        }
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
