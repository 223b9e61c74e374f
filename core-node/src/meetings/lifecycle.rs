//! Where one meeting stands, and what moves it.
//!
//! ```text
//! Placing ──assigned──> Connecting ──live──> Active
//!    ^  \                   │  │               │ │
//!    │   `─nobody─> Failed  │  └──closed/stop──┤ │
//!    │                      │                  v v
//!    └──edge down, drained, never opened    Finishing ──all words out──> Done | Failed
//! ```
//!
//! An edge that is going away *hands over*: it goes on capturing, and the meeting stays active, while another edge is placed
//! and joins; only then is the first dismissed.

use std::time::{Duration, Instant};

use mesh::wire::{
    Epoch,
    control::{CloseReason, EdgeState},
};

use super::leave::RELAY_ENDED;
use crate::record::Status;

/// What a meeting may wait for, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// When an assigned edge has not opened the meeting here: assign another.
    Open,
    /// When no edge could be had: try again.
    Retry,
    /// When the edge was told to leave and has not closed: go on without it, unless it is known to live.
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

/// How long an edge that hands over is waited for: longer than any goes on capturing.
const LEAVING: Duration = Duration::from_secs(20);

/// How long an edge that is known to live is waited for once it was told to leave: it may be cut off from its cores, and
/// bring home all that was said meanwhile.
const HOMING: Duration = Duration::from_secs(150);

/// Placements in a row without a meeting that goes live, before it fails.
const MAX_PLACEMENTS: u32 = 5;

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
    /// The edge that captures until its successor is live, and how long it is waited for.
    leaving: Option<(Epoch, Instant)>,
    wait: Option<(Wait, Instant)>,
    /// Until when an edge that was told to leave may bring home what it has.
    homing: Option<Instant>,
    /// An edge is being sought.
    placing: bool,
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

    fn at(status: Status, epoch: Epoch) -> Self {
        Self {
            status,
            epoch,
            leaving: None,
            wait: None,
            homing: None,
            placing: false,
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

    /// An edge has taken the meeting under `epoch`.
    pub fn handle_assigned(&mut self, epoch: Epoch, now: Instant) {
        (self.epoch, self.placing) = (epoch, false);
        if self.status == Status::Placing {
            self.status = Status::Connecting;
            self.set_wait(Wait::Open, now);
        } else if self.leaving.is_some() {
            self.set_wait(Wait::Open, now);
        } else if self.status == Status::Finishing {
            self.actions.push(Action::Leave);
        }
    }

    /// No edge took it. `epoch` is the newest that was tried.
    pub fn handle_unplaced(&mut self, epoch: Epoch, why: Unplaced, now: Instant) {
        (self.epoch, self.placing) = (epoch, false);
        if self.leaving.is_some() && self.status == Status::Active {
            return self.set_wait(Wait::Retry, now);
        }
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

    /// The edge is going away and goes on capturing until another does.
    pub fn handle_hand_over(&mut self, epoch: Epoch, now: Instant) {
        if self.status == Status::Active && epoch == self.epoch && self.leaving.is_none() {
            self.leaving = Some((epoch, now + LEAVING));
            self.succeed(now);
        }
    }

    /// Another edge captures already, and is the meeting's edge from now on.
    pub fn handle_promoted(&mut self, epoch: Epoch) {
        if matches!(self.status, Status::Placing | Status::Connecting | Status::Active) {
            (self.epoch, self.status) = (epoch, Status::Active);
            (self.leaving, self.wait, self.placing, self.placements) = (None, None, false, 0);
            self.actions.retain(|action| *action != Action::Place);
        }
    }

    /// The edge has opened the meeting here.
    pub fn handle_opened(&mut self, epoch: Epoch) {
        match self.wait {
            Some((Wait::Open, _)) if epoch == self.epoch => self.wait = None,
            // It was told when it could not be reached.
            Some((Wait::Leave, _)) if epoch == self.epoch => self.actions.push(Action::Leave),
            _ => {}
        }
    }

    /// The edge says where it stands.
    pub fn handle_edge_state(&mut self, epoch: Epoch, state: EdgeState, detail: Option<String>, now: Instant) {
        if epoch != self.epoch {
            return;
        }
        match (self.status, state) {
            (Status::Connecting, EdgeState::Live) => {
                self.status = Status::Active;
                self.placements = 0;
            }
            (Status::Active, EdgeState::Live) => {
                if let Some((former, _)) = self.leaving.take_if(|(former, _)| *former != epoch) {
                    self.placements = 0;
                    self.actions.push(Action::Dismiss(former));
                }
            }
            (Status::Active, EdgeState::Failed(_)) if self.leaving.is_some_and(|(former, _)| former != epoch) => {
                self.succeed(now);
            }
            (Status::Connecting | Status::Active, EdgeState::Failed(cause)) => self.fail(cause.as_str(), detail),
            _ => {}
        }
    }

    /// The edge has left, and has sent everything.
    pub fn handle_closed(&mut self, epoch: Epoch, reason: CloseReason, now: Instant) {
        let early = matches!(reason, CloseReason::Drain | CloseReason::LeaseOver);
        if self.leaving.take_if(|(former, _)| *former == epoch).is_some() && (early || epoch != self.epoch) {
            return self.left_early();
        }
        if epoch != self.epoch || self.edge_gone || self.status.ended() {
            return;
        }
        match (self.status, reason) {
            (Status::Connecting | Status::Active, CloseReason::Drain | CloseReason::LeaseOver) => self.place_again(now),
            (Status::Placing, _) => {}
            (_, reason) => {
                match reason {
                    CloseReason::Failed if self.failure.is_none() => self.fail("source_failed", None),
                    CloseReason::Ended => _ = self.left.get_or_insert(RELAY_ENDED),
                    _ => {}
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
            Status::Active if self.leaving.is_some_and(|(former, _)| former != self.epoch) => self.succeed(now),
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
        match self.status {
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
            self.left_early();
        }
        let Some((wait, at)) = self.wait else { return };
        if now < at {
            return;
        }
        self.wait = None;
        match wait {
            Wait::Open | Wait::Retry if self.status == Status::Active && self.leaving.is_some() => self.succeed(now),
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

    /// The edge has left before its successor was live.
    fn left_early(&mut self) {
        if self.status == Status::Active {
            let sought = self.placing || matches!(self.wait, Some((Wait::Retry, _)));
            self.status = if sought { Status::Placing } else { Status::Connecting };
        }
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
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]

    use mesh::wire::cause::Cause;

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
        l.handle_edge_state(Epoch(1), EdgeState::Live, None, now);
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
    fn an_edge_that_lives_but_cannot_be_reached_is_waited_for_but_not_for_ever() {
        let now = Instant::now();
        let mut l = active(now);
        l.handle_stop(now);
        let mut waited = Duration::ZERO;
        while l.status() == Status::Finishing {
            waited = l.poll_timeout().unwrap() - now;
            l.handle_edge_alive(now + waited);
            l.handle_timeout(now + waited);
        }
        assert!((HOMING..HOMING + Duration::from_secs(10)).contains(&waited), "{waited:?}");
        let mut back = active(now);
        back.handle_stop(now);
        assert_eq!(actions(&mut back), [Action::Leave]);
        back.handle_opened(Epoch(1));
        assert_eq!(actions(&mut back), [Action::Leave], "it may not have heard of it");
        let mut dead = active(now);
        dead.handle_stop(now);
        dead.handle_timeout(now + Duration::from_secs(10));
        assert_eq!(dead.status(), Status::Done);
    }

    #[test]
    fn an_edge_that_dies_or_drains_is_replaced_until_too_many_have_failed() {
        let now = Instant::now();
        let mut l = active(now);
        l.handle_edge_down(now);
        assert_eq!(actions(&mut l), [Action::Place]);
        l.handle_assigned(Epoch(2), now);
        l.handle_edge_state(Epoch(1), EdgeState::Live, None, now);
        assert_eq!(l.status(), Status::Connecting, "that was the old edge");
        l.handle_edge_state(Epoch(2), EdgeState::Live, None, now);
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
        l.handle_edge_state(Epoch(1), EdgeState::Failed(Cause::AccessDenied), Some("wrong PIN".into()), now);
        l.handle_closed(Epoch(1), CloseReason::Failed, now);
        assert_eq!(l.status(), Status::Finishing);
        l.handle_timeout(now + Duration::from_secs(6));
        assert_eq!(actions(&mut l), [Action::Seal]);
        l.handle_backlog(0, 0, now);
        assert_eq!(l.status(), Status::Failed);
        assert_eq!(l.failure(), Some(&("access_denied".into(), Some("wrong PIN".into()))));
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

    fn handing_over(now: Instant) -> Lifecycle {
        let mut l = active(now);
        l.handle_hand_over(Epoch(1), now);
        l.handle_hand_over(Epoch(1), now);
        assert_eq!((l.status(), l.capturing(), actions(&mut l)), (Status::Active, Some(Epoch(1)), vec![Action::Place]));
        l
    }

    #[test]
    fn an_edge_that_hands_over_is_dismissed_when_its_successor_is_live() {
        let now = Instant::now();
        let mut l = handing_over(now);
        l.handle_assigned(Epoch(2), now);
        l.handle_opened(Epoch(2));
        assert_eq!((l.capturing(), actions(&mut l)), (Some(Epoch(1)), vec![]));
        l.handle_edge_state(Epoch(2), EdgeState::Live, None, now);
        assert_eq!((l.capturing(), actions(&mut l)), (Some(Epoch(2)), vec![Action::Dismiss(Epoch(1))]));
        l.handle_closed(Epoch(1), CloseReason::Drain, now);
        assert_eq!((l.status(), l.poll_timeout(), actions(&mut l)), (Status::Active, None, vec![]));
    }

    #[test]
    fn a_successor_that_fails_is_succeeded_while_the_first_goes_on() {
        let now = Instant::now();
        let mut l = handing_over(now);
        l.handle_unplaced(Epoch(2), Unplaced { code: "no_edge", detail: "none".into(), retry: true }, now);
        l.handle_timeout(now + Duration::from_secs(3));
        l.handle_assigned(Epoch(3), now);
        l.handle_edge_state(Epoch(3), EdgeState::Failed(Cause::MediaLost), None, now);
        assert_eq!((l.status(), l.capturing()), (Status::Active, Some(Epoch(1))));
        assert_eq!(actions(&mut l), [Action::Place, Action::Place]);
        l.handle_assigned(Epoch(4), now);
        l.handle_edge_down(now);
        assert_eq!((l.capturing(), actions(&mut l)), (Some(Epoch(1)), vec![Action::Place]));
    }

    #[test]
    fn an_edge_that_leaves_before_its_successor_is_live_leaves_the_meeting_without_one() {
        let now = Instant::now();
        let mut early = handing_over(now);
        early.handle_closed(Epoch(1), CloseReason::Drain, now);
        assert_eq!((early.status(), early.capturing()), (Status::Placing, None));
        let mut joining = handing_over(now);
        joining.handle_assigned(Epoch(2), now);
        joining.handle_closed(Epoch(1), CloseReason::Drain, now);
        assert_eq!(joining.status(), Status::Connecting);
        joining.handle_edge_state(Epoch(2), EdgeState::Live, None, now);
        assert_eq!(joining.status(), Status::Active);
        let mut silent = handing_over(now);
        silent.handle_assigned(Epoch(2), now);
        silent.handle_opened(Epoch(2));
        silent.handle_timeout(now + LEAVING);
        assert_eq!((silent.status(), silent.leaving()), (Status::Connecting, None));
    }

    #[test]
    fn a_meeting_that_ends_during_a_hand_over_is_left_by_both() {
        let now = Instant::now();
        let mut l = handing_over(now);
        l.handle_assigned(Epoch(2), now);
        l.handle_stop(now);
        assert_eq!(actions(&mut l), [Action::Dismiss(Epoch(1)), Action::Leave]);
    }

    #[test]
    fn after_a_restart_the_edge_is_given_time_to_come_back() {
        let now = Instant::now();
        let mut l = Lifecycle::resumed(Status::Active, Epoch(4), None, 0, now);
        l.handle_opened(Epoch(4));
        assert_eq!((l.status(), l.poll_timeout()), (Status::Active, None));
        let mut lost = Lifecycle::resumed(Status::Active, Epoch(4), None, 0, now);
        lost.handle_timeout(now + Duration::from_secs(15));
        assert_eq!(actions(&mut lost), [Action::Place]);
    }
}
