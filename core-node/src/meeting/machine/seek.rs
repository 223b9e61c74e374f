//! How an edge is found for a slot, and joins: one step after the other, each of them the driver's to do.
//!
//! | state | what was found | next | step |
//! |---|---|---|---|
//! | ranking | edges | reaching | reach |
//! | ranking | nobody | idle: unplaced | |
//! | reaching | it is there | beginning | begin |
//! | reaching | it captures still | idle: unplaced | |
//! | reaching | not there | reaching the next | reach |
//! | beginning | begun | vacating | |
//! | beginning | no answer | reaching the next | reach |
//! | vacating | the lease before it is over | claiming | claim |
//! | claiming | claimed | storing | store |
//! | claiming | not claimed | beginning the next | begin |
//! | storing | stored | asking | join |
//! | storing | not stored | beginning the next | begin |
//! | asking | accepted | idle: placed | |
//! | asking | no answer, but it has opened the meeting | idle: placed | |
//! | asking | declined | beginning the next | begin |
//!
//! *Reach*: an edge whose lease has lapsed may have gone on capturing. It is asked before that lease is ended for good: as long as no
//! other epoch is granted it may come back, and nothing that it has captured is lost. *Begin*: that it is asked is noted, with why it
//! was chosen. Where there is no next edge nobody takes the meeting. Each edge that is asked costs an epoch.

#[cfg(test)]
mod tests;

use std::{collections::VecDeque, time::Instant};

use geo::RegionId;
use mesh::{
    identity::NodeId,
    wire::{Epoch, request::Response},
};

use super::Order;
use crate::{
    meeting::{
        captures::{Captures, Now},
        lifecycle::{NOT_ALLOWED, RETURNS, Unplaced},
    },
    store::record::Owner,
};

/// Why an edge has not taken a meeting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Declined {
    /// It did not answer in time, nor has it opened the meeting. If it does so later while none else is asked, it is the meeting's
    /// edge all the same.
    #[error("no answer in time")]
    Silent,
    /// It captures the meeting still, under the lease that has lapsed: it is to come back by itself, and no other is asked.
    #[error("it captures the meeting still, and is expected back")]
    Captures,
    /// It will not, or the meeting is not to be had.
    #[error("{0}")]
    Refused(String),
}

/// What the driver is to do next for a placement.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Say which edges may take it, the best first. [`Found::Ranked`] follows.
    Rank(Order),
    /// Ask the edge whether it is there, and does not capture the meeting still. [`Found::Done`] follows.
    Reach {
        /// The edge.
        edge: NodeId,
        /// The epoch of its lease that has lapsed, if it had the slot last.
        former: Option<Epoch>,
    },
    /// Note that this edge is asked under this epoch, and find out whether it knows leases. [`Found::Begun`] follows.
    Begin {
        /// The edge.
        edge: NodeId,
        /// The epoch.
        epoch: Epoch,
    },
    /// Claim the epoch at the authority. [`Found::Done`] follows.
    Claim(Epoch),
    /// Write the rows, and wait until the standby has them. [`Found::Done`] follows.
    Store,
    /// Ask the edge to join. [`Found::Answered`] follows.
    Join(Epoch),
}

/// An edge that may take a meeting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eligible {
    /// Which.
    pub edge: NodeId,
    /// Where it is.
    pub region: RegionId,
}

/// What came of a [`Step`].
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// These may take it, the best first, out of so many edges. Or why none is even looked for.
    Ranked(Result<(Vec<Eligible>, usize), Unplaced>),
    /// It is done.
    Done(Result<(), Declined>),
    /// It has begun; whether the edge knows leases.
    Begun(Result<bool, Declined>),
    /// The edge says so.
    Answered(Result<Response, Declined>),
}

/// An edge that did not take a meeting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclinedBy {
    /// Which.
    pub edge: NodeId,
    /// It has not even answered.
    pub silent: bool,
    /// It was noted that it is asked.
    pub begun: bool,
}

/// What follows.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Next {
    /// This is to be done.
    Step(Step),
    /// Nothing but to wait: [`Seek::poll_timeout`].
    Wait,
    /// The epoch under which an edge has joined; or the newest that was tried, and why none has.
    Ended(Result<Epoch, (Epoch, Unplaced)>),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Seek {
    state: State,
    /// Edges that did not take it, of which the driver has not heard.
    declined: VecDeque<DeclinedBy>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    Ranking(Order),
    Reaching(Try),
    Beginning(Try),
    Vacating(Try, Instant),
    Claiming(Try),
    Storing(Try),
    Asking(Try),
}

/// One edge that is tried, and what is known of the others.
#[derive(Debug)]
struct Try {
    order: Order,
    /// The edges that are left, this one the first.
    left: VecDeque<Eligible>,
    /// How many edges there are.
    edges: usize,
    epoch: Epoch,
    begun: bool,
    leased: bool,
    refusals: Vec<String>,
}

impl Seek {
    /// An edge is to be found.
    pub(super) fn begin(&mut self, order: Order) -> Step {
        self.state = State::Ranking(order.clone());
        Step::Rank(order)
    }

    /// None is wanted any more: whatever is found is passed over.
    pub(super) fn end(&mut self) {
        self.state = State::Idle;
    }

    /// An edge that has declined since.
    pub(super) fn poll_declined(&mut self) -> Option<DeclinedBy> {
        self.declined.pop_front()
    }

    /// When [`Seek::handle_timeout`] is next needed.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if let State::Vacating(_, until) = &self.state { Some(*until) } else { None }
    }

    /// The lease before it may be over.
    pub(super) fn handle_timeout<L: Clone>(&mut self, captures: &mut Captures<L>, now: Now) -> Next {
        match std::mem::take(&mut self.state) {
            State::Vacating(tried, until) if until <= now.at => self.vacate(tried, captures, now),
            state => {
                self.state = state;
                Next::Wait
            }
        }
    }

    /// What came of the last step.
    pub(super) fn handle_found<L: Clone>(&mut self, found: Found, captures: &mut Captures<L>, now: Now) -> Next {
        match (std::mem::take(&mut self.state), found) {
            (State::Ranking(order), Found::Ranked(ranked)) => self.handle_ranked(order, ranked, captures),
            (State::Reaching(tried), Found::Done(Ok(()))) => self.start(tried),
            (State::Reaching(tried), Found::Done(Err(Declined::Captures))) => {
                let detail = format!("{}: {}", tried.edge(), Declined::Captures);
                Next::Ended(Err((tried.epoch, Unplaced { code: RETURNS, detail, retry: true })))
            }
            (State::Beginning(tried), Found::Begun(Ok(leased))) => self.vacate(Try { leased, ..tried }, captures, now),
            (State::Claiming(tried), Found::Done(Ok(()))) => self.store(tried, captures, now),
            (State::Storing(tried), Found::Done(Ok(()))) => self.ask(tried, captures, now),
            (State::Asking(tried), Found::Answered(answer)) => self.handle_answer(tried, answer, captures, now),
            (
                State::Reaching(tried) | State::Beginning(tried) | State::Claiming(tried) | State::Storing(tried),
                Found::Done(Err(why)) | Found::Begun(Err(why)),
            ) => self.try_next(tried, &why, captures),
            (state, _) => {
                self.state = state;
                Next::Wait
            }
        }
    }

    fn handle_ranked<L: Clone>(
        &mut self,
        order: Order,
        ranked: Result<(Vec<Eligible>, usize), Unplaced>,
        captures: &Captures<L>,
    ) -> Next {
        let (left, edges) = match ranked {
            Ok((left, edges)) => (left.into(), edges),
            Err(why) => return Next::Ended(Err((order.after, why))),
        };
        let epoch = order.after;
        self.reach(Try { order, left, edges, epoch, begun: false, leased: false, refusals: vec![] }, captures)
    }

    /// The first edge that is left is tried, under the next epoch.
    fn reach<L: Clone>(&mut self, mut tried: Try, captures: &Captures<L>) -> Next {
        let Some(candidate) = tried.left.front() else { return Next::Ended(Err((tried.epoch, tried.unplaced()))) };
        tried.epoch = Epoch(tried.epoch.0 + 1);
        let former = captures.renewable(tried.order.slot).filter(|_| tried.order.await_former);
        let Some(former) = former else { return self.start(tried) };
        let edge = candidate.edge.clone();
        let former = (former.edge == edge).then_some(former.epoch);
        self.state = State::Reaching(tried);
        Next::Step(Step::Reach { edge, former })
    }

    fn start(&mut self, mut tried: Try) -> Next {
        tried.begun = true;
        let (edge, epoch) = (tried.edge().clone(), tried.epoch);
        self.state = State::Beginning(tried);
        Next::Step(Step::Begin { edge, epoch })
    }

    fn vacate<L: Clone>(&mut self, tried: Try, captures: &mut Captures<L>, now: Now) -> Next {
        match captures.vacate(tried.order.slot, now.at) {
            Ok(()) => {
                let epoch = tried.epoch;
                self.state = State::Claiming(tried);
                Next::Step(Step::Claim(epoch))
            }
            Err(until) => {
                self.state = State::Vacating(tried, until);
                Next::Wait
            }
        }
    }

    fn store<L: Clone>(&mut self, tried: Try, captures: &mut Captures<L>, now: Now) -> Next {
        let Some(Eligible { edge, region }) = tried.left.front().cloned() else { return Next::Wait };
        let owner = Owner { slot: tried.order.slot, leased: tried.leased, ..Owner::new(edge, region) };
        captures.assign(tried.epoch, owner, now.wall);
        self.state = State::Storing(tried);
        Next::Step(Step::Store)
    }

    fn ask<L: Clone>(&mut self, tried: Try, captures: &mut Captures<L>, now: Now) -> Next {
        if let Err(why) = captures.offer(tried.epoch, now.at) {
            return self.try_next(tried, &Declined::Refused(why.to_string()), captures);
        }
        let epoch = tried.epoch;
        self.state = State::Asking(tried);
        Next::Step(Step::Join(epoch))
    }

    fn handle_answer<L: Clone>(
        &mut self,
        tried: Try,
        answer: Result<Response, Declined>,
        captures: &mut Captures<L>,
        now: Now,
    ) -> Next {
        let why = match answer {
            Ok(Response::Accepted) => return Next::Ended(Ok(tried.epoch)),
            // Where its answer is late or lost: what it has opened it has taken.
            Err(_) if captures.is_taken(tried.epoch, now.at) => return Next::Ended(Ok(tried.epoch)),
            Ok(Response::Refused { reason }) => Declined::Refused(reason),
            Ok(_) => Declined::Refused("answered another question".into()),
            Err(why) => return self.try_next(tried, &why, captures),
        };
        captures.handle_declined(tried.epoch);
        self.try_next(tried, &why, captures)
    }

    fn try_next<L: Clone>(&mut self, mut tried: Try, why: &Declined, captures: &Captures<L>) -> Next {
        if let Some(Eligible { edge, .. }) = tried.left.pop_front() {
            tried.refusals.push(format!("{edge}: {why}"));
            self.declined.push_back(DeclinedBy { edge, silent: *why == Declined::Silent, begun: tried.begun });
            tried.begun = false;
        }
        self.reach(tried, captures)
    }
}

impl Try {
    fn edge(&self) -> &NodeId {
        // One is tried only while it is there.
        &self.left[0].edge
    }

    fn unplaced(&self) -> Unplaced {
        let (edges, none) = (self.edges, self.refusals.is_empty());
        let detail = if none { format!("none of {edges} edges may take it") } else { self.refusals.join("; ") };
        let code = if edges == 0 || !none { "no_edge" } else { NOT_ALLOWED };
        Unplaced { code, detail, retry: true }
    }
}
