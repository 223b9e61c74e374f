//! Where one meeting stands, and what moves it.
//!
//! ```text
//! Placing ──assigned──> Connecting ──live──> Active
//!    ^  \                   │  │               │ │
//!    │   `─nobody─> Failed  │  └──closed/stop──┤ │
//!    │                      │                  v v
//!    └──edge down, drained, never opened    Finishing ──all words out──> Done | Failed
//! ```

use std::time::{Duration, Instant};

use mesh::wire::{
    Epoch,
    control::{CloseReason, EdgeState},
};

use crate::record::Status;

/// What a meeting may wait for, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// When an assigned edge has not opened the meeting here: assign another.
    Open,
    /// When no edge could be had: try again.
    Retry,
    /// When the edge was told to leave and has not closed: go on without it.
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

/// Placements in a row without a meeting that goes live, before it fails.
const MAX_PLACEMENTS: u32 = 5;

/// What the shell is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Choose an edge and assign it, under the next epoch.
    Place,
    /// Tell the edge to leave.
    Leave,
    /// End the spurts that are still open, of every epoch so far.
    Seal,
}

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
    wait: Option<(Wait, Instant)>,
    placements: u32,
    edge_gone: bool,
    undone: usize,
    failure: Option<(String, Option<String>)>,
    actions: Vec<Action>,
}

impl Lifecycle {
    /// A new meeting, to be placed.
    pub fn new() -> Self {
        let mut new = Self::at(Status::Placing, Epoch(0));
        new.place();
        new
    }

    /// A meeting that was under way when this core stopped: its edge is expected back.
    pub fn resumed(status: Status, epoch: Epoch, undone: usize, now: Instant) -> Self {
        let mut this = Self { undone, ..Self::at(status, epoch) };
        match status {
            Status::Placing => this.place(),
            Status::Connecting | Status::Active => this.set_wait(Wait::Open, now),
            Status::Finishing => this.set_wait(Wait::Leave, now),
            Status::Done | Status::Failed => {}
        }
        this
    }

    fn at(status: Status, epoch: Epoch) -> Self {
        Self { status, epoch, wait: None, placements: 0, edge_gone: false, undone: 0, failure: None, actions: vec![] }
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

    /// The epoch of the newest assignment.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// An edge has taken the meeting under `epoch`.
    pub fn handle_assigned(&mut self, epoch: Epoch, now: Instant) {
        self.epoch = epoch;
        if self.status == Status::Placing {
            self.status = Status::Connecting;
            self.set_wait(Wait::Open, now);
        } else if self.status == Status::Finishing {
            self.actions.push(Action::Leave);
        }
    }

    /// No edge took it. `epoch` is the newest that was tried.
    pub fn handle_unplaced(&mut self, epoch: Epoch, why: Unplaced, now: Instant) {
        self.epoch = epoch;
        if self.status != Status::Placing {
            return;
        }
        if why.retry && self.placements < MAX_PLACEMENTS {
            self.set_wait(Wait::Retry, now);
        } else {
            self.fail(why.code, Some(why.detail));
            self.leave_behind(now);
        }
    }

    /// The edge has opened the meeting here.
    pub fn handle_opened(&mut self, epoch: Epoch) {
        if epoch == self.epoch && matches!(self.wait, Some((Wait::Open, _))) {
            self.wait = None;
        }
    }

    /// The edge says where it stands.
    pub fn handle_edge_state(&mut self, epoch: Epoch, state: EdgeState, detail: Option<String>) {
        if epoch != self.epoch {
            return;
        }
        match (self.status, state) {
            (Status::Connecting, EdgeState::Live) => {
                self.status = Status::Active;
                self.placements = 0;
            }
            (Status::Connecting | Status::Active, EdgeState::Failed) => self.fail("source_failed", detail),
            _ => {}
        }
    }

    /// The edge has left, and has sent everything.
    pub fn handle_closed(&mut self, epoch: Epoch, reason: CloseReason, now: Instant) {
        if epoch != self.epoch || self.edge_gone || self.status.ended() {
            return;
        }
        match (self.status, reason) {
            (Status::Connecting | Status::Active, CloseReason::Drain | CloseReason::LeaseOver) => self.place_again(now),
            (Status::Placing, _) => {}
            (_, reason) => {
                if reason == CloseReason::Failed && self.failure.is_none() {
                    self.fail("source_failed", None);
                }
                self.edge_gone = true;
                self.finishing();
                self.set_wait(Wait::Flush, now);
            }
        }
    }

    /// The owning edge is held to be dead.
    pub fn handle_edge_down(&mut self, now: Instant) {
        match self.status {
            Status::Connecting | Status::Active => self.place_again(now),
            Status::Finishing if !self.edge_gone => self.leave_behind(now),
            _ => {}
        }
    }

    /// Somebody asked for the meeting to end.
    pub fn handle_stop(&mut self, now: Instant) {
        match self.status {
            Status::Placing => self.leave_behind(now),
            Status::Connecting | Status::Active => {
                self.finishing();
                self.actions.push(Action::Leave);
                self.set_wait(Wait::Leave, now);
            }
            Status::Finishing | Status::Done | Status::Failed => {}
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

    /// A wait has ended.
    pub fn handle_timeout(&mut self, now: Instant) {
        let Some((wait, at)) = self.wait else { return };
        if now < at {
            return;
        }
        self.wait = None;
        match wait {
            Wait::Open => self.place_again(now),
            Wait::Retry => self.place(),
            Wait::Leave => self.leave_behind(now),
            Wait::Flush => {
                self.actions.push(Action::Seal);
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
        self.wait.map(|(_, at)| at)
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        (!self.actions.is_empty()).then(|| self.actions.remove(0))
    }

    fn place(&mut self) {
        self.status = Status::Placing;
        self.placements += 1;
        self.wait = None;
        self.actions.push(Action::Place);
    }

    fn place_again(&mut self, now: Instant) {
        if self.placements >= MAX_PLACEMENTS {
            self.fail("no_edge", Some(format!("{MAX_PLACEMENTS} edges in a row did not get in")));
            self.leave_behind(now);
        } else {
            self.place();
        }
    }

    /// There is no edge, or it does not answer: what is here is all there will be.
    fn leave_behind(&mut self, now: Instant) {
        self.edge_gone = true;
        self.finishing();
        self.actions.push(Action::Seal);
        self.set_wait(Wait::Words, now);
        self.settle();
    }

    fn finishing(&mut self) {
        self.status = Status::Finishing;
        self.wait = None;
    }

    fn fail(&mut self, code: &str, detail: Option<String>) {
        self.failure.get_or_insert((code.into(), detail));
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

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use super::*;

    fn actions(l: &mut Lifecycle) -> Vec<Action> {
        std::iter::from_fn(|| l.poll_action()).collect()
    }

    fn active(now: Instant) -> Lifecycle {
        let mut l = Lifecycle::new();
        assert_eq!(actions(&mut l), [Action::Place]);
        l.handle_assigned(Epoch(1), now);
        assert_eq!(l.status(), Status::Connecting);
        l.handle_opened(Epoch(1));
        assert_eq!(l.poll_timeout(), None);
        l.handle_edge_state(Epoch(1), EdgeState::Live, None);
        assert_eq!(l.status(), Status::Active);
        l
    }

    #[test]
    fn a_meeting_is_done_when_the_edge_has_left_and_all_words_are_out() {
        let now = Instant::now();
        let mut l = active(now);
        l.handle_backlog(3, 1, now);
        l.handle_stop(now);
        assert_eq!(actions(&mut l), [Action::Leave]);
        l.handle_backlog(0, 0, now);
        assert_eq!(l.status(), Status::Finishing, "the edge may still be flushing");
        l.handle_backlog(2, 1, now);
        l.handle_closed(Epoch(1), CloseReason::Asked, now);
        l.handle_backlog(1, 0, now);
        assert_eq!(l.status(), Status::Finishing);
        l.handle_backlog(0, 0, now);
        assert_eq!((l.status(), l.poll_timeout()), (Status::Done, None));
    }

    #[test]
    fn an_edge_that_dies_or_drains_is_replaced_until_too_many_have_failed() {
        let now = Instant::now();
        let mut l = active(now);
        l.handle_edge_down(now);
        assert_eq!(actions(&mut l), [Action::Place]);
        l.handle_assigned(Epoch(2), now);
        l.handle_edge_state(Epoch(1), EdgeState::Live, None);
        assert_eq!(l.status(), Status::Connecting, "that was the old edge");
        l.handle_edge_state(Epoch(2), EdgeState::Live, None);
        l.handle_closed(Epoch(2), CloseReason::Drain, now);
        assert_eq!((l.status(), actions(&mut l)), (Status::Placing, vec![Action::Place]));
        let mut now = now;
        for epoch in 3..7 {
            l.handle_assigned(Epoch(epoch), now);
            now += Duration::from_secs(16);
            l.handle_timeout(now);
        }
        l.handle_assigned(Epoch(7), now);
        l.handle_timeout(now + Duration::from_secs(16));
        assert_eq!(l.status(), Status::Failed);
        assert_eq!(l.failure().map(|f| f.0.as_str()), Some("no_edge"));
    }

    #[test]
    fn a_relay_that_cannot_be_joined_fails_the_meeting_after_its_last_word() {
        let now = Instant::now();
        let mut l = active(now);
        l.handle_backlog(1, 1, now);
        l.handle_edge_state(Epoch(1), EdgeState::Failed, Some("relay gone".into()));
        l.handle_closed(Epoch(1), CloseReason::Failed, now);
        assert_eq!(l.status(), Status::Finishing);
        l.handle_timeout(now + Duration::from_secs(6));
        assert_eq!(actions(&mut l), [Action::Seal]);
        l.handle_backlog(0, 0, now);
        assert_eq!(l.status(), Status::Failed);
        assert_eq!(l.failure(), Some(&("source_failed".into(), Some("relay gone".into()))));
    }

    #[test]
    fn placing_is_tried_again_only_where_that_can_help() {
        let now = Instant::now();
        let why = |retry| Unplaced { code: "no_edge", detail: "none".into(), retry };
        let mut l = Lifecycle::new();
        l.handle_unplaced(Epoch(0), why(true), now);
        l.handle_timeout(now + Duration::from_secs(3));
        assert_eq!(actions(&mut l), [Action::Place, Action::Place]);
        l.handle_unplaced(Epoch(1), why(false), now);
        assert_eq!(l.status(), Status::Failed);
    }

    #[test]
    fn words_that_never_come_are_given_up_at_their_deadline() {
        let now = Instant::now();
        let mut l = active(now);
        l.handle_backlog(1, 0, now);
        l.handle_closed(Epoch(1), CloseReason::Ended, now);
        l.handle_timeout(now + Duration::from_secs(5));
        l.handle_timeout(now + Duration::from_secs(606));
        assert_eq!(l.status(), Status::Failed);
    }

    #[test]
    fn after_a_restart_the_edge_is_given_time_to_come_back() {
        let now = Instant::now();
        let mut l = Lifecycle::resumed(Status::Active, Epoch(4), 0, now);
        l.handle_opened(Epoch(4));
        assert_eq!((l.status(), l.poll_timeout()), (Status::Active, None));
        let mut lost = Lifecycle::resumed(Status::Active, Epoch(4), 0, now);
        lost.handle_timeout(now + Duration::from_secs(15));
        assert_eq!(actions(&mut lost), [Action::Place]);
    }
}
