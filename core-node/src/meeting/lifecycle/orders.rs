//! What comes by ways of its own comes in any order: no order makes another meeting.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::time::Duration;

use mesh::wire::{
    cause::Cause,
    control::CloseReason::{self, Asked, Drain, Ended, LeaseOver},
};
use proptest::prelude::*;

use super::*;

/// One thing that happens, as one source tells it; sources do not wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::meeting) enum Event {
    /// The edge of this epoch says so, in this order.
    Says(u64, &'static [Word]),
    /// The placement under way comes off, under this epoch.
    Assigned(u64),
    /// It does not.
    Unplaced,
    /// Membership, or a lease, is over.
    Down(u64),
    /// The API, or a rule.
    Stop,
    /// A part of the meeting.
    Broken,
    /// While the edge of this epoch beats, a successor is waited for longer than usual.
    Slow(u64),
    /// Another core takes the meeting over.
    TakenOver,
}

/// What an edge says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::meeting) enum Word {
    Open,
    Live,
    Lost,
    Failed,
    /// The relay says no.
    Denied,
    HandOver,
    Close(CloseReason),
}

use Event::{Assigned, Broken, Down, Says, Slow, Stop, TakenOver, Unplaced};
use Word::{Close, Denied, Failed, HandOver, Live, Lost, Open};

const JOINS: &[Word] = &[Open, Live];
const JOINS_AND_WAVERS: &[Word] = &[Open, Live, Lost, Live];
const JOINS_AND_HANDS_OVER: &[Word] = &[Open, Live, HandOver];
const JOINS_AND_DRAINS: &[Word] = &[Open, Live, Close(Drain)];
const JOINS_AND_ENDS: &[Word] = &[Open, Live, Close(Ended)];
const FAILS: &[Word] = &[Open, Failed, Close(CloseReason::Failed)];
const JOINS_AND_FAILS: &[Word] = &[Open, Live, Failed, Close(CloseReason::Failed)];
const IS_DENIED: &[Word] = &[Open, Denied, Close(CloseReason::Failed)];

/// What an edge may say that is asked to join.
const NEW: [&[Word]; 9] = [
    &[Open],
    JOINS,
    JOINS_AND_WAVERS,
    JOINS_AND_HANDS_OVER,
    JOINS_AND_DRAINS,
    JOINS_AND_ENDS,
    JOINS_AND_FAILS,
    FAILS,
    IS_DENIED,
];

/// What an edge may say that captures.
const OLD: [&[Word]; 7] = [
    &[HandOver],
    &[Lost, Live],
    &[Close(Drain)],
    &[Close(LeaseOver)],
    &[Close(Ended)],
    &[Failed, Close(CloseReason::Failed)],
    &[Denied, Close(CloseReason::Failed)],
];

/// What is held to make the same of both orders.
pub(in crate::meeting) trait Subject {
    /// What is compared.
    type Outcome: std::fmt::Debug + PartialEq;

    /// A new meeting.
    fn new(now: Instant) -> Self;

    /// One thing happens, and what was asked for is done.
    fn happen(&mut self, event: Event, now: Instant);

    /// Where it stands.
    fn status(&self) -> Status;

    /// The same, and where it goes from there if nothing more is heard.
    fn outcome(&self) -> Self::Outcome;

    /// How it ends if it is left then, and every edge that is told to leave does.
    fn end(self, now: Instant) -> (Status, Option<String>);

    /// Whether the first of these two rightly decides, beside those that do so for everybody.
    fn decides(_one: Event, _two: Event) -> bool {
        false
    }
}

impl Subject for Lifecycle {
    type Outcome = Outcome;

    fn new(_: Instant) -> Self {
        Self::new()
    }

    fn happen(&mut self, event: Event, now: Instant) {
        while self.poll_action().is_some() {}
        match event {
            Says(epoch, words) => words.iter().for_each(|word| say(self, Epoch(epoch), *word, now)),
            Assigned(epoch) => self.handle_assigned(Epoch(epoch), now),
            Unplaced => self.handle_unplaced(unplaced(), now),
            Down(epoch) => self.handle_edge_down(Epoch(epoch), now),
            Stop => self.handle_leave("requested", now),
            Broken => self.handle_broken("it panicked".into()),
            Slow(_) => {
                let waited = now + LEAVING;
                self.handle_leaving_alive(waited);
                self.handle_timeout(waited);
            }
            TakenOver => {
                let resumed = Self::resumed(self.status, self.epoch, self.leaving(), 0, now);
                *self = resumed.having_been_live(self.given_up == Status::Active, now);
            }
        }
    }

    fn status(&self) -> Status {
        self.status
    }

    fn outcome(&self) -> Outcome {
        Outcome {
            status: self.status,
            capturing: self.capturing(),
            leaving: self.leaving(),
            placing: self.placing,
            wait: self.wait.map(|(wait, _)| wait),
            failure: self.failure.as_ref().map(|(code, _)| code.clone()),
            left: self.left,
        }
    }

    fn end(mut self, now: Instant) -> (Status, Option<String>) {
        self.handle_leave("requested", now);
        for epoch in 1..=3 {
            self.handle_closed(Epoch(epoch), Asked, now);
        }
        for minute in 1..30 {
            self.handle_timeout(now + minute * Duration::from_secs(60));
            self.handle_backlog(0, 0, now);
        }
        (self.status, self.failure.map(|(code, _)| code))
    }
}

/// Nobody took it.
pub(in crate::meeting) fn unplaced() -> super::Unplaced {
    super::Unplaced { code: "no_edge", detail: "none".into(), retry: true }
}

fn say(l: &mut Lifecycle, epoch: Epoch, word: Word, now: Instant) {
    match word {
        Open => l.handle_opened(epoch),
        HandOver => l.handle_hand_over(epoch, now),
        Close(reason) => l.handle_closed(epoch, reason, now),
        Live | Lost | Failed | Denied => {
            let (state, detail) = word.state();
            l.handle_edge_state(epoch, state, detail, now);
        }
    }
}

impl Word {
    /// The state that it tells.
    pub(in crate::meeting) fn state(self) -> (EdgeState, Option<String>) {
        match self {
            Failed => (EdgeState::Failed(Cause::MediaLost), Some("no UDP".into())),
            Denied => (EdgeState::Failed(Cause::NoSuchRoom), Some("no room".into())),
            Lost => (EdgeState::Reconnecting { silent_ms: 0 }, None),
            Live | Open | HandOver | Close(_) => (EdgeState::Live, None),
        }
    }
}

/// Where a meeting stands, and where it goes from there if nothing more is heard.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::meeting) struct Outcome {
    status: Status,
    capturing: Option<Epoch>,
    leaving: Option<Epoch>,
    placing: bool,
    wait: Option<Wait>,
    failure: Option<String>,
    left: Option<&'static str>,
}

/// A state, how to come to it, and what may happen in it.
fn stages() -> Vec<(&'static str, Vec<Event>, Vec<Event>)> {
    let says = |epoch, all: &[&'static [Word]]| all.iter().map(|words| Says(epoch, words)).collect::<Vec<_>>();
    let sought = |epoch| [says(epoch, &NEW), vec![Assigned(epoch), Unplaced, Down(epoch)]].concat();
    let old = || [says(1, &OLD), vec![Down(1)]].concat();
    let active = vec![Assigned(1), Says(1, JOINS)];
    let handing_over = [&active[..], &[Says(1, &[HandOver])]].concat();
    let succeeded = [&handing_over[..], &[Assigned(2)]].concat();
    let and = |before: &[Event], one: Event| [before, &[one]].concat();
    let stop = || vec![Stop, Broken];
    vec![
        ("placing", vec![], [sought(1), stop()].concat()),
        ("connecting", vec![Assigned(1)], [says(1, &NEW), vec![Down(1)], stop()].concat()),
        ("active", active.clone(), [old(), stop()].concat()),
        ("handing over", handing_over.clone(), [old(), sought(2), stop()].concat()),
        ("handing over for long", and(&handing_over, Slow(1)), [old(), sought(2), stop()].concat()),
        ("succeeded too late", and(&succeeded, Slow(1)), [old(), sought(3), stop()].concat()),
        ("taken over while placing", [&active[..], &[Down(1), TakenOver]].concat(), [sought(2), stop()].concat()),
        ("succeeded", succeeded.clone(), [old(), says(2, &NEW), vec![Down(2)], stop()].concat()),
        ("replaced", and(&active, Down(1)), [says(1, &OLD), sought(2), stop()].concat()),
        ("leaving while placing", and(&[], Stop), and(&sought(1), Broken)),
        ("leaving", and(&active, Stop), and(&old(), Broken)),
        ("leaving while handing over", and(&handing_over, Stop), [old(), sought(2)].concat()),
        ("leaving while succeeded", and(&succeeded, Stop), [old(), says(2, &NEW), vec![Down(2)]].concat()),
    ]
}

/// What tells them; what one source tells comes in order.
fn source(event: Event) -> u64 {
    match event {
        Says(epoch, _) => epoch,
        Assigned(_) | Unplaced => 10,
        Down(epoch) => 20 + epoch,
        Stop | Broken | Slow(_) | TakenOver => 30,
    }
}

fn run<S: Subject>(events: impl IntoIterator<Item = Event>, now: Instant) -> S {
    let mut subject = S::new(now);
    for event in events {
        subject.happen(event, now);
    }
    subject
}

/// What ends a meeting: of two such the first is told as the reason, and the way to the end may be another.
fn ends(event: Event) -> bool {
    let last = |words: &[Word]| words.iter().any(|word| matches!(word, Denied | Close(Ended)));
    matches!(event, Stop | Broken) || matches!(event, Says(_, words) if last(words))
}

/// Whichever comes first decides, and rightly so: an edge that is denied fails the meeting, unless somebody has ended it before,
/// or the edge is known to be dead or its predecessor goes on, and another is sought for that. And a successor that was live before it
/// died has had its predecessor dismissed; one that died before has not.
fn is_a_choice(one: Event, two: Event) -> bool {
    let fails = |event| matches!(event, Says(_, words) if words.contains(&Denied));
    let alone = |event| matches!(event, Stop | Down(_) | Says(1, [.., Close(_)]));
    let joined = |event| matches!(event, Says(2..=3, words) if words.contains(&Live));
    let either = |a: &dyn Fn(Event) -> bool, b: &dyn Fn(Event) -> bool| (a(one) && b(two)) || (a(two) && b(one));
    either(&fails, &alone) || either(&joined, &|event| matches!(event, Down(2..=3)))
}

#[test]
fn no_order_of_two_events_makes_another_meeting() {
    compare::<Lifecycle>();
}

/// All pairs of events, in every state.
pub(in crate::meeting) fn compare<S: Subject>() {
    let now = Instant::now();
    let (mut pairs, mut wrong) = (0, vec![]);
    for (stage, before, events) in stages() {
        for (n, one) in events.iter().enumerate() {
            for two in events[n + 1..].iter().filter(|two| source(**two) != source(*one)) {
                let after = |pair: [Event; 2]| run::<S>(before.iter().copied().chain(pair), now);
                let ended = |one: Event| run::<S>(before.iter().copied().chain([one]), now).status().ended();
                // What has ended stays as it is.
                if (*one == Broken && ended(*two)) || (*two == Broken && ended(*one)) {
                    continue;
                }
                let (ab, ba) = (after([*one, *two]), after([*two, *one]));
                pairs += 1;
                let (now_ab, now_ba) = (ab.outcome(), ba.outcome());
                let ending = stage.starts_with("leaving") || ends(*one) || ends(*two);
                let same = (ending || now_ab == now_ba) && ab.end(now) == ba.end(now);
                if !same && !is_a_choice(*one, *two) && !S::decides(*one, *two) && !S::decides(*two, *one) {
                    wrong.push(format!("{stage}: {one:?}, {two:?}:\n  {now_ab:?}\n  {now_ba:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {pairs} pairs:\n{}", wrong.len(), wrong.join("\n"));
}

/// One of the orders in which these sources may be heard: `picks` says which comes next.
fn merged(mut sources: Vec<Vec<Event>>, picks: &[usize]) -> Vec<Event> {
    let mut picks = picks.iter().cycle();
    let mut all = vec![];
    loop {
        sources.retain(|source| !source.is_empty());
        let Some(pick) = picks.next().filter(|_| !sources.is_empty()) else { return all };
        let at = pick % sources.len();
        all.push(sources[at].remove(0));
    }
}

proptest! {
    /// A meeting is placed, handed over and placed again, whoever is heard first at each step.
    #[test]
    fn however_its_sources_are_interleaved_it_comes_to_the_same(
        one in proptest::collection::vec(0usize..6, 8),
        two in proptest::collection::vec(0usize..6, 8),
        leaves in 0usize..4,
        joins in 0usize..4,
    ) {
        let now = Instant::now();
        let say = |epoch, words: &'static [Word]| words.chunks(1).map(|word| Says(epoch, word)).collect::<Vec<_>>();
        let first = || vec![vec![Assigned(1)], say(1, JOINS)];
        let leaving = [vec![], say(1, &[Close(Drain)]), say(1, &[Close(Ended)]), vec![Down(1)]];
        let joining = [JOINS, JOINS_AND_WAVERS, JOINS_AND_DRAINS, JOINS_AND_HANDS_OVER];
        let second = || vec![vec![Assigned(2)], say(2, joining[joins]), leaving[leaves].clone()];
        let history = |picks: &[usize]| {
            let hand_over = [Says(1, &[HandOver])];
            [merged(first(), picks), hand_over.to_vec(), merged(second(), picks)].concat()
        };
        let (one, two): (Lifecycle, Lifecycle) = (run(history(&one), now), run(history(&two), now));
        if leaves != 2 {
            prop_assert_eq!(one.outcome(), two.outcome());
        }
        prop_assert_eq!(one.end(now), two.end(now));
    }
}
