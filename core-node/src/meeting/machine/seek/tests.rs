#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::time::Duration;

use mesh::clock::Micros;

use super::*;
use crate::{meeting::machine::Which, tests::fakes};

const LEASE: Duration = Duration::from_millis(1600);

/// One seek among two edges, for a slot that a third had under epoch 1, whose lease is over.
struct Rig {
    seek: Seek,
    captures: Captures<()>,
    now: Now,
}

fn former() -> NodeId {
    "former".parse().unwrap()
}

fn edges(names: &[&str]) -> Found {
    let eligible = |name: &&str| Eligible { edge: name.parse().unwrap(), region: "eu-central".parse().unwrap() };
    Found::Ranked(Ok((names.iter().map(eligible).collect(), names.len())))
}

impl Rig {
    fn new() -> Self {
        let now = Now { at: Instant::now(), wall: Micros(1_000_000) };
        let mut captures = Captures::of(&mut fakes::record(), now);
        let owner = Owner { leased: true, ..Owner::new(former(), "eu-central".parse().unwrap()) };
        captures.assign(Epoch(1), owner, now.wall);
        captures.offer(Epoch(1), now.at).unwrap();
        let mut rig = Self { seek: Seek::default(), captures, now };
        rig.beat(Epoch(1), &former());
        rig.wait(LEASE * 2);
        let order = Order {
            which: Which::First,
            slot: 0,
            after: Epoch(1),
            await_former: true,
            anti_affinity: None,
            without: vec![],
        };
        assert_eq!(rig.seek.begin(order.clone()), Step::Rank(order));
        rig
    }

    fn beat(&mut self, epoch: Epoch, edge: &NodeId) -> bool {
        self.captures.handle_beat(edge, epoch, LEASE, self.now).kept
    }

    fn wait(&mut self, by: Duration) {
        self.now = Now { at: self.now.at + by, wall: self.now.wall.plus(by) };
    }

    fn finds(&mut self, found: Found) -> Next {
        self.seek.handle_found(found, &mut self.captures, self.now)
    }

    /// In this state, with one more edge to be tried.
    fn at(state: &str) -> Self {
        let mut rig = Self::new();
        let ok = || Found::Done(Ok(()));
        let way = [edges(&["former", "b"]), ok(), Found::Begun(Ok(true)), ok(), ok()];
        for found in way {
            if rig.state() == state {
                return rig;
            }
            if rig.state() == "reaching" && state == "vacating" {
                // Its lease has begun anew just now.
                rig.beat(Epoch(1), &former());
            }
            rig.finds(found);
        }
        assert_eq!(rig.state(), state);
        rig
    }

    fn state(&self) -> &'static str {
        match &self.seek.state {
            State::Idle => "idle",
            State::Ranking(_) => "ranking",
            State::Reaching(_) => "reaching",
            State::Beginning(_) => "beginning",
            State::Vacating(..) => "vacating",
            State::Claiming(_) => "claiming",
            State::Storing(_) => "storing",
            State::Asking(_) => "asking",
        }
    }
}

fn silent() -> Found {
    Found::Answered(Err(Declined::Silent))
}

type Input = fn(&mut Rig) -> Next;

const INPUTS: [(&str, &str, Input); 15] = [
    ("ranking", "edges", |r| r.finds(edges(&["former", "b"]))),
    ("ranking", "nobody", |r| r.finds(edges(&[]))),
    ("reaching", "it is there", |r| r.finds(Found::Done(Ok(())))),
    ("reaching", "it captures still", |r| r.finds(Found::Done(Err(Declined::Captures)))),
    ("reaching", "not there", |r| r.finds(Found::Done(Err(Declined::Silent)))),
    ("beginning", "begun", |r| {
        // Its lease has begun anew just now.
        r.beat(Epoch(1), &former());
        r.finds(Found::Begun(Ok(true)))
    }),
    ("beginning", "no answer", |r| r.finds(Found::Begun(Err(Declined::Silent)))),
    ("vacating", "the lease before it is over", |r| {
        r.wait(LEASE * 2);
        r.seek.handle_timeout(&mut r.captures, r.now)
    }),
    ("claiming", "claimed", |r| r.finds(Found::Done(Ok(())))),
    ("claiming", "not claimed", |r| r.finds(Found::Done(Err(Declined::Refused("lost".into()))))),
    ("storing", "stored", |r| r.finds(Found::Done(Ok(())))),
    ("storing", "not stored", |r| r.finds(Found::Done(Err(Declined::Refused("closed".into()))))),
    ("asking", "accepted", |r| r.finds(Found::Answered(Ok(Response::Accepted)))),
    ("asking", "no answer, but it has opened the meeting", |r| {
        assert!(r.beat(Epoch(2), &former()));
        r.finds(silent())
    }),
    ("asking", "declined", |r| r.finds(Found::Answered(Ok(Response::Refused { reason: "full".into() })))),
];

fn row((state, found, input): &(&str, &str, Input)) -> String {
    let mut rig = Rig::at(state);
    let next = input(&mut rig);
    let declined = rig.seek.poll_declined().is_some();
    let step = match &next {
        Next::Step(Step::Rank(_)) => "rank",
        Next::Step(Step::Reach { .. }) => "reach",
        Next::Step(Step::Begin { .. }) => "begin",
        Next::Step(Step::Claim(_)) => "claim",
        Next::Step(Step::Store) => "store",
        Next::Step(Step::Join(_)) => "join",
        Next::Wait | Next::Ended(_) => "",
    };
    let after = match next {
        Next::Ended(Ok(_)) => "idle: placed".into(),
        Next::Ended(Err(_)) => "idle: unplaced".into(),
        _ if declined => format!("{} the next", rig.state()),
        _ => rig.state().into(),
    };
    let step = if step.is_empty() { " |".into() } else { format!(" {step} |") };
    format!("//! | {state} | {found} | {after} |{step}")
}

#[test]
fn the_table_says_what_follows_from_what_is_found() {
    let heads = ["//! | state | what was found | next | step |", "//! |---|---|---|---|"].map(String::from);
    let table: Vec<String> = heads.into_iter().chain(INPUTS.iter().map(row)).collect();
    let said: Vec<&str> = include_str!("../seek.rs").lines().filter(|line| line.starts_with("//! |")).collect();
    assert_eq!(said, table, "the table is to be:\n{}\n", table.join("\n"));
}

#[test]
fn each_edge_that_is_tried_costs_an_epoch_and_says_why_it_was_none() {
    let mut rig = Rig::at("asking");
    rig.finds(Found::Answered(Ok(Response::Refused { reason: "full".into() })));
    let declined = DeclinedBy { edge: former(), silent: false, begun: true };
    assert_eq!((rig.seek.poll_declined(), rig.seek.poll_declined()), (Some(declined), None));
    let Next::Ended(Err((epoch, why))) = rig.finds(Found::Begun(Err(Declined::Silent))) else { panic!("not the last") };
    assert_eq!((epoch, why.code, why.detail.as_str()), (Epoch(3), "no_edge", "former: full; b: no answer in time"));
}

#[test]
fn an_edge_that_did_not_answer_and_is_heard_later_has_the_lease_until_the_next_is_tried() {
    let mut rig = Rig::at("asking");
    rig.finds(silent());
    assert_eq!(rig.state(), "beginning", "nothing is there to reach: its lease has not begun");
    assert!(rig.beat(Epoch(2), &former()));
    assert_eq!(rig.captures.held(0, rig.now.at), Some(Epoch(2)));
    assert_eq!(rig.finds(Found::Begun(Ok(true))), Next::Wait);
    assert_eq!((rig.captures.held(0, rig.now.at), rig.state()), (None, "vacating"));
}

#[test]
fn what_is_found_for_a_seek_that_has_ended_is_passed_over() {
    let mut rig = Rig::at("asking");
    rig.seek.end();
    assert_eq!((rig.finds(Found::Answered(Ok(Response::Accepted))), rig.state()), (Next::Wait, "idle"));
}
