#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use mesh::lease::margin;
use proptest::prelude::*;

use super::*;
use crate::tests::fakes;

const LEASE: Duration = Duration::from_millis(1600);
const EPOCH: Epoch = Epoch(1);

impl Phase {
    const ALL: [Self; 8] = [
        Self::Assigned,
        Self::Offered,
        Self::Leased,
        Self::Silent,
        Self::Ending,
        Self::Left,
        Self::Leaving,
        Self::Stopped,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Assigned => "assigned",
            Self::Offered => "offered",
            Self::Leased => "leased",
            Self::Silent => "silent",
            Self::Ending => "ending",
            Self::Left => "left",
            Self::Leaving => "leaving",
            Self::Stopped => "stopped",
        }
    }
}

fn edge(epoch: Epoch) -> NodeId {
    format!("edge-{}", epoch.0).parse().unwrap()
}

fn owner(epoch: Epoch, slot: u8) -> Owner {
    Owner { slot, leased: true, ..Owner::new(edge(epoch), "eu-central".parse().unwrap()) }
}

/// One meeting's captures, and a clock.
struct Bench {
    captures: Captures<()>,
    now: Now,
}

impl Bench {
    fn new() -> Self {
        let now = Now { at: Instant::now(), wall: Micros(1_000_000) };
        Self { captures: Captures::of(&mut fakes::record(), now), now }
    }

    fn wait(&mut self, by: Duration) {
        self.now = Now { at: self.now.at + by, wall: self.now.wall.plus(by) };
    }

    fn assign(&mut self, epoch: Epoch, slot: u8) {
        self.captures.assign(epoch, owner(epoch, slot), self.now.wall);
    }

    fn beat(&mut self, epoch: Epoch) -> bool {
        self.captures.handle_beat(&edge(epoch), epoch, LEASE, self.now).kept
    }

    /// The lease that runs now ends.
    fn end_lease(&mut self) {
        self.wait(LEASE + margin(LEASE));
        self.captures.handle_timeout(self.now.at);
    }

    fn phase(&self, epoch: Epoch) -> Option<Phase> {
        self.captures.phase(epoch, self.now.at)
    }

    /// [`EPOCH`] in this phase.
    fn at(phase: Phase) -> Self {
        let mut bench = Self::new();
        bench.assign(EPOCH, 0);
        if phase != Phase::Assigned {
            bench.captures.offer(EPOCH, bench.now.at).unwrap();
        }
        if matches!(phase, Phase::Leased | Phase::Silent | Phase::Ending) {
            assert!(bench.beat(EPOCH));
        }
        match phase {
            Phase::Silent => bench.end_lease(),
            Phase::Ending => _ = bench.captures.vacate(0, bench.now.at).unwrap_err(),
            Phase::Left => bench.captures.handle_left(&edge(EPOCH), EPOCH),
            Phase::Leaving => bench.captures.hand_over(EPOCH),
            Phase::Stopped => assert!(bench.captures.stop(EPOCH, bench.now.wall)),
            Phase::Assigned | Phase::Offered | Phase::Leased => {}
        }
        assert_eq!(bench.phase(EPOCH), Some(phase));
        bench
    }
}

type Input = fn(&mut Bench);

const INPUTS: [(&str, Input); 8] = [
    ("its lease ends", Bench::end_lease),
    ("it hands over", |b| b.captures.hand_over(EPOCH)),
    ("it leaves", |b| b.captures.handle_left(&edge(EPOCH), EPOCH)),
    ("it declines", |b| b.captures.handle_declined(EPOCH)),
    ("another is sought", |b| _ = b.captures.vacate(0, b.now.at)),
    ("and its lease is over", |b| {
        let _ = b.captures.vacate(0, b.now.at);
        b.end_lease();
        b.captures.vacate(0, b.now.at).unwrap();
    }),
    ("the next is assigned", |b| b.assign(Epoch(EPOCH.0 + 1), 0)),
    ("it is stopped", |b| _ = b.captures.stop(EPOCH, b.now.wall)),
];

/// What `input` makes of `phase`; nothing, if that stays.
fn cell(phase: Phase, input: Input) -> String {
    let mut bench = Bench::at(phase);
    input(&mut bench);
    let after = bench.phase(EPOCH).unwrap();
    if after == phase { String::new() } else { after.as_str().into() }
}

fn beat(phase: Phase) -> String {
    let mut bench = Bench::at(phase);
    match (bench.beat(EPOCH), bench.phase(EPOCH).unwrap()) {
        (false, _) => "refused".into(),
        (true, after) if after == phase => "kept".into(),
        (true, after) => after.as_str().into(),
    }
}

fn line(cells: impl IntoIterator<Item = String>) -> String {
    let cells: String =
        cells.into_iter().map(|cell| if cell.is_empty() { " |".into() } else { format!(" {cell} |") }).collect();
    format!("//! |{cells}")
}

#[test]
fn the_table_says_what_each_input_makes_of_each_phase() {
    let heads = ["phase", "a beat"].into_iter().chain(INPUTS.iter().map(|(name, _)| *name)).map(String::from);
    let rows = Phase::ALL.map(|phase| {
        let cells = INPUTS.iter().map(|(_, input)| cell(phase, *input));
        line([phase.as_str().into(), beat(phase)].into_iter().chain(cells))
    });
    let rule = format!("//! |{}", "---|".repeat(2 + INPUTS.len()));
    let table = [vec![line(heads), rule], rows.to_vec()].concat();
    let said: Vec<&str> = include_str!("../captures.rs").lines().filter(|line| line.starts_with("//! |")).collect();
    assert_eq!(said, table, "the table is to be:\n{}\n", table.join("\n"));
}

#[test]
fn what_an_edge_captured_after_its_end_is_not_taken() {
    let mut bench = Bench::at(Phase::Leased);
    let end = bench.now.wall;
    assert_eq!(bench.captures.held(0, bench.now.at), Some(EPOCH));
    assert!(bench.captures.stop(EPOCH, end) && !bench.captures.stop(EPOCH, end.plus(LEASE)), "once");
    assert_eq!(bench.captures.held(0, bench.now.at), None, "though its lease runs");
    assert!(bench.captures.takes(EPOCH, end.plus(role::CLOCK_MARGIN)));
    assert!(!bench.captures.takes(EPOCH, end.plus(role::CLOCK_MARGIN + Duration::from_micros(1))));
}

#[test]
fn a_fence_is_never_lowered_and_whom_it_spares_is_said_anew() {
    let mut captures = Bench::new().captures;
    let fenced =
        |captures: &Captures<()>| (1..=4).filter(|epoch| captures.is_fenced(Epoch(*epoch))).collect::<Vec<_>>();
    captures.fence(Epoch(3), [Epoch(1)].into());
    assert_eq!(fenced(&captures), [2]);
    captures.fence(Epoch(2), [Epoch(2)].into());
    assert_eq!(fenced(&captures), [1]);
    captures.fence(Epoch(4), BTreeSet::new());
    assert_eq!(fenced(&captures), [1, 2, 3]);
}

#[test]
fn a_hand_over_frees_the_lease_and_the_witness_is_the_successor() {
    let mut bench = Bench::at(Phase::Leased);
    bench.captures.hand_over(EPOCH);
    assert_eq!(bench.captures.vacate(0, bench.now.at), Ok(()));
    bench.assign(Epoch(2), 0);
    bench.captures.offer(Epoch(2), bench.now.at).unwrap();
    assert_eq!(bench.captures.capturing(), [EPOCH, Epoch(2)].into());
    bench.captures.handle_answer(EPOCH, 9, None);
    assert_eq!(bench.captures.tally(), Tally::Open, "its predecessor is none any more");
    bench.captures.handle_answer(Epoch(2), 9, None);
    assert_eq!(bench.captures.tally(), Tally::Said(9, None));
}

#[test]
fn a_beat_is_news_when_the_lease_begins_or_the_edge_is_heard_itself_again() {
    let mut bench = Bench::at(Phase::Offered);
    let beat = |b: &mut Bench| b.captures.handle_beat(&edge(EPOCH), EPOCH, LEASE, b.now);
    assert_eq!(beat(&mut bench), Beat { kept: true, news: true });
    assert_eq!(beat(&mut bench), Beat { kept: true, news: false });
    let heard = bench.captures.heard_at();
    bench.wait(Duration::from_millis(500));
    let relayed = |b: &mut Bench, sent| b.captures.handle_relayed(&edge(EPOCH), EPOCH, sent, LEASE, b.now);
    assert_eq!(relayed(&mut bench, 500), Some(Beat { kept: true, news: true }));
    assert_eq!(relayed(&mut bench, 500), None, "the same again");
    assert_eq!(bench.captures.relayed_since(EPOCH), Some((bench.now.at, heard)));
    assert_eq!(beat(&mut bench), Beat { kept: true, news: true });
    assert_eq!(bench.captures.relayed_since(EPOCH), None);
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Assign(u8),
    Offer,
    Beat(u64),
    Left(u64),
    Declined(u64),
    HandOver(u64),
    Stop(u64),
    Vacate(u8),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u8..2).prop_map(Step::Assign),
        Just(Step::Offer),
        (1u64..9).prop_map(Step::Beat),
        (1u64..9).prop_map(Step::Left),
        (1u64..9).prop_map(Step::Declined),
        (1u64..9).prop_map(Step::HandOver),
        (1u64..9).prop_map(Step::Stop),
        (0u8..2).prop_map(Step::Vacate),
        (1u64..2500).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Whatever comes in which order.
    #[test]
    fn a_slot_has_one_lease_and_whoever_was_stopped_stays_so(steps in proptest::collection::vec(step(), 1..80)) {
        let mut bench = Bench::new();
        let mut stopped = BTreeSet::new();
        for step in steps {
            match step {
                Step::Assign(slot) => {
                    let next = Epoch(bench.captures.owners().epoch.0 + 1);
                    bench.assign(next, slot);
                }
                Step::Offer => _ = bench.captures.offer(bench.captures.owners().epoch, bench.now.at),
                Step::Beat(epoch) => {
                    let kept = bench.beat(Epoch(epoch));
                    let phase = bench.phase(Epoch(epoch));
                    prop_assert_eq!(kept, matches!(phase, Some(Phase::Leased | Phase::Leaving)));
                }
                Step::Left(epoch) => bench.captures.handle_left(&edge(Epoch(epoch)), Epoch(epoch)),
                Step::Declined(epoch) => bench.captures.handle_declined(Epoch(epoch)),
                Step::HandOver(epoch) => bench.captures.hand_over(Epoch(epoch)),
                Step::Stop(epoch) => _ = bench.captures.stop(Epoch(epoch), bench.now.wall),
                Step::Vacate(slot) => _ = bench.captures.vacate(slot, bench.now.at),
                Step::Wait(ms) => bench.wait(Duration::from_millis(ms)),
            }
            let rows: Vec<(Epoch, u8)> =
                bench.captures.owners().rows.iter().map(|(epoch, owner)| (Epoch(*epoch), owner.slot)).collect();
            for slot in 0..2 {
                let of = |phases: &[Phase]| {
                    rows.iter().filter(|(e, of)| *of == slot && phases.contains(&bench.phase(*e).unwrap())).count()
                };
                prop_assert!(of(&[Phase::Offered, Phase::Leased, Phase::Silent, Phase::Ending]) <= 1);
            }
            stopped.extend(rows.iter().map(|(e, _)| *e).filter(|e| bench.phase(*e) == Some(Phase::Stopped)));
            prop_assert!(stopped.iter().all(|epoch| bench.phase(*epoch) == Some(Phase::Stopped)));
        }
    }
}
