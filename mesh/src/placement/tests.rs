// An `Instant` can only come from the clock: it is the base of virtual time, nothing waits on it.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{clock::Micros, wire::report::Extension};

fn measured(ms: u64, source: RttSource) -> Option<Measured> {
    Some(Measured::now(Duration::from_millis(ms), source))
}

pub(super) fn edge(name: &str, region: &str, probe_ms: u64) -> Candidate {
    Candidate {
        node: name.parse().unwrap(),
        region: region.parse().unwrap(),
        role: Role::Edge,
        report: Some(Arc::new(report(name, 100))),
        heard: None,
        pending: 0,
        rtt_relay: measured(probe_ms, RttSource::Probe),
        rtt_core: measured(50, RttSource::Gossip),
    }
}

fn report(name: &str, stress_permille: u16) -> Report {
    Report {
        node: name.parse().unwrap(),
        at: Micros(1000),
        stress_permille,
        meetings: 2,
        capacity: 10,
        draining: false,
        api: None,
        software: "0.1.0".into(),
        rtts: vec![],
        extension: None,
    }
}

fn with_report(mut candidate: Candidate, change: impl FnOnce(&mut Report)) -> Candidate {
    change(Arc::make_mut(candidate.report.as_mut().unwrap()));
    candidate
}

fn regions(names: &[&str]) -> BTreeSet<RegionId> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn chosen(candidates: &[Candidate], policy: &Policy) -> String {
    rank(candidates, policy, 0).chosen.map_or_else(String::new, |node| node.to_string())
}

fn verdict(candidate: Candidate, policy: &Policy) -> Verdict {
    rank(&[candidate], policy, 0).rows[0].verdict
}

#[test]
fn the_nearest_by_probe_joins() {
    assert_eq!(chosen(&[edge("far", "us", 80), edge("near", "eu", 5)], &Policy::default()), "near");
}

#[test]
fn a_probe_beats_a_shorter_guess() {
    let mut guess = edge("guess", "eu", 0);
    guess.rtt_relay = measured(1, RttSource::Model);
    let mut unknown = edge("unknown", "eu", 0);
    unknown.rtt_relay = None;
    let decision = rank(&[unknown.clone(), guess.clone(), edge("probed", "us", 90)], &Policy::default(), 0);
    let order: Vec<&str> = decision.rows.iter().map(|row| row.node.as_str()).collect();
    assert_eq!(order, ["probed", "guess", "unknown"]);
    assert_eq!(chosen(&[unknown, guess], &Policy::default()), "guess");
}

#[test]
fn each_hard_condition_has_its_own_reason() {
    let since = Instant::now();
    let policy = Policy {
        residency: Some(regions(&["eu"])),
        max_rtt: Some(Duration::from_millis(60)),
        heard_since: Some(since),
        wire: 2,
        without: ["dead".parse().unwrap()].into(),
        silent: ["mute".parse().unwrap()].into(),
        ..Policy::default()
    };
    let speaks = |wire| Some(Extension { wire, coordinate: None });
    let heard = |name: &str, region: &str| Candidate { heard: Some(since), ..edge(name, region, 5) };
    // By its own clock it was written in 1970.
    let good = || with_report(heard("e", "eu"), |r| r.extension = speaks(2));
    assert_eq!(verdict(good(), &policy), Verdict::Chosen);
    let excluded = |candidate| match verdict(candidate, &policy) {
        Verdict::Excluded(reason) => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(excluded(Candidate { role: Role::Core, ..good() }), Reason::Role);
    assert_eq!(excluded(heard("e", "us")), Reason::Residency);
    assert_eq!(excluded(Candidate { report: None, ..good() }), Reason::Health);
    assert_eq!(excluded(Candidate { heard: since.checked_sub(Duration::from_millis(1)), ..good() }), Reason::Health);
    assert_eq!(excluded(Candidate { heard: None, ..good() }), Reason::Health);
    assert_eq!(excluded(with_report(good(), |r| r.draining = true)), Reason::Draining);
    assert_eq!(excluded(with_report(good(), |r| r.extension = speaks(1))), Reason::Version);
    assert_eq!(excluded(with_report(good(), |r| r.extension = None)), Reason::Version);
    assert_eq!(excluded(edge("dead", "eu", 5)), Reason::Taken);
    assert_eq!(excluded(edge("mute", "eu", 5)), Reason::Silent);
    assert_eq!(excluded(with_report(good(), |r| r.stress_permille = 1000)), Reason::Stress);
    assert_eq!(excluded(with_report(good(), |r| r.meetings = 10)), Reason::Capacity);
    assert_eq!(excluded(Candidate { rtt_relay: measured(61, RttSource::Probe), ..good() }), Reason::MaxRtt);
    assert_eq!(excluded(Candidate { rtt_relay: None, ..good() }), Reason::MaxRtt);
}

#[test]
fn nobody_is_chosen_when_nobody_may() {
    let policy = Policy { residency: Some(BTreeSet::new()), ..Policy::default() };
    assert_eq!(rank(&[edge("e", "eu", 5)], &policy, 0).chosen, None);
    assert_eq!(rank(&[], &policy, 0), Decision { chosen: None, rows: vec![] });
}

#[test]
fn stress_and_the_way_to_the_core_weigh_in() {
    let busy = with_report(edge("busy", "eu", 5), |r| r.stress_permille = 700);
    assert_eq!(chosen(&[busy, edge("idle", "eu", 12)], &Policy::default()), "idle");
    let mut remote = edge("remote", "eu", 5);
    remote.rtt_core = measured(250, RttSource::Gossip);
    assert_eq!(chosen(&[remote, edge("close", "us", 12)], &Policy::default()), "close");
}

#[test]
fn what_was_assigned_since_the_report_counts_as_load() {
    let with = |pending| Candidate { pending, ..edge("e", "eu", 5) };
    let stress = |pending| rank(&[with(pending)], &Policy::default(), 0).rows.remove(0);
    assert_eq!(stress(3).verdict, Verdict::Chosen);
    assert_eq!(stress(3).score_ms.unwrap() - stress(0).score_ms.unwrap(), 6.0, "three of ten at 20 ms");
    assert_eq!(stress(7).verdict, Verdict::Chosen, "it has room for ten, and may fill it");
    let full = stress(8);
    assert_eq!(full.verdict, Verdict::Excluded(Reason::Capacity));
    assert_eq!(stress(9).verdict, Verdict::Excluded(Reason::Capacity));
    assert_eq!(stress(u32::MAX).verdict, Verdict::Excluded(Reason::Capacity));
}

#[test]
fn a_burst_of_meetings_spreads_before_any_edge_reports_again() {
    let mut edges: Vec<Candidate> = (0..4).map(|i| edge(&format!("e{i}"), "eu", 5 + i)).collect();
    for chance in 0..24u64 {
        let chosen = rank(&edges, &Policy::default(), chance.wrapping_mul(0x9E37_79B9_7F4A_7C15)).chosen.unwrap();
        edges.iter_mut().find(|edge| edge.node == chosen).unwrap().pending += 1;
    }
    let pending: Vec<u32> = edges.iter().map(|edge| edge.pending).collect();
    assert!(pending.iter().all(|n| (4..=7).contains(n)), "{pending:?}");
}

#[test]
fn a_preferred_region_goes_first_among_those_probed() {
    let policy = Policy { prefer: vec!["jp".parse().unwrap(), "us".parse().unwrap()], ..Policy::default() };
    assert_eq!(chosen(&[edge("eu", "eu", 5), edge("us", "us", 80)], &policy), "us");
}

#[test]
fn near_equals_share_the_load() {
    let equals: Vec<Candidate> = (0..4).map(|i| edge(&format!("e{i}"), "eu", 5)).collect();
    let busy = with_report(edge("busy", "eu", 5), |r| r.stress_permille = 150);
    let all: Vec<Candidate> = equals.into_iter().chain([busy, edge("further", "eu", 9)]).collect();
    let mut count = std::collections::BTreeMap::<String, u32>::new();
    let mut chance = 1u64;
    for _ in 0..4000 {
        // The constants of Knuth's MMIX generator.
        chance = chance.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        *count
            .entry(rank(&all, &Policy::default(), chance.rotate_left(32)).chosen.unwrap().to_string())
            .or_default() += 1;
    }
    assert!((0..4).all(|i| count[&format!("e{i}")] > 300), "{count:?}");
    assert!(!count.contains_key("busy") && !count.contains_key("further"), "{count:?}");
}

#[test]
fn what_was_measured_within_the_minute_counts_as_probed_and_tells_its_age() {
    let at = |name, source, secs| {
        let rtt = Measured { age: Duration::from_secs(secs), ..Measured::now(Duration::from_millis(5), source) };
        Candidate { rtt_relay: Some(rtt), ..edge(name, "eu", 0) }
    };
    let all = [at("old", RttSource::Remembered, 300), at("reused", RttSource::Probe, 23), edge("now", "eu", 90)];
    let rows = rank(&all, &Policy::default(), 0).rows;
    let told: Vec<_> = rows.iter().map(|row| (row.node.as_str(), row.rtt_relay_age_ms)).collect();
    assert_eq!(told, [("reused", Some(23_000)), ("now", Some(0)), ("old", Some(300_000))]);
    assert_eq!(rows[0].why, "5.0 ms measured to the relay 23 s ago: the best that meets every condition.");
    assert!(rows[2].why.starts_with("5.0 ms to the relay 300 s ago, not probed since: "), "{}", rows[2].why);
}

#[test]
fn a_decision_reads_well_as_json() {
    let decision = rank(
        &[edge("a", "eu", 5), edge("b", "eu", 25), edge("c", "us", 5)],
        &Policy { residency: Some(regions(&["eu"])), ..Policy::default() },
        0,
    );
    let words: Vec<&str> = decision.rows.iter().map(|row| row.why.as_str()).collect();
    assert_eq!(
        words,
        [
            "5.0 ms measured to the relay: the best that meets every condition.",
            "25.0 ms measured to the relay: 20.0 ms behind the best.",
            "The meeting's speech may not be in us."
        ]
    );
}

fn source() -> impl Strategy<Value = RttSource> {
    use RttSource::*;
    prop::sample::select(vec![Probe, Remembered, Coordinate, Gossip, Model])
}

fn rtt() -> impl Strategy<Value = Option<Measured>> {
    prop::option::weighted(
        0.9,
        (0u64..200_000, source()).prop_map(|(us, source)| Measured::now(Duration::from_micros(us), source)),
    )
}

prop_compose! {
    fn candidate()(
        number in 0u32..10_000,
        region in prop::sample::select(vec!["eu", "us", "jp"]),
        role in prop_oneof![9 => Just(Role::Edge), 1 => Just(Role::Core)],
        (reported, stress, meetings, draining) in (any::<bool>(), 0u16..1000, 0u32..12, prop::bool::weighted(0.1)),
        pending in prop_oneof![3 => Just(0u32), 1 => 0u32..12],
        rtt_relay in rtt(),
        rtt_core in rtt(),
    ) -> Candidate {
        let name = format!("n{number}");
        let report = Report { meetings, draining, ..report(&name, stress) };
        Candidate {
            node: name.parse().unwrap(),
            region: region.parse().unwrap(),
            role,
            report: reported.then(|| Arc::new(report)),
            heard: None,
            pending,
            rtt_relay,
            rtt_core,
        }
    }
}

fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
    prop::collection::vec(candidate(), 0..40).prop_map(|mut all| {
        all.sort_by(|a, b| a.node.cmp(&b.node));
        all.dedup_by(|a, b| a.node == b.node);
        all
    })
}

fn policy() -> impl Strategy<Value = Policy> {
    let some = || prop::collection::btree_set(prop::sample::select(vec!["eu", "us", "jp"]), 0..3);
    (prop::option::of(some()), some(), prop::option::of(0u64..150)).prop_map(|(residency, prefer, max)| Policy {
        residency: residency.map(|names| names.into_iter().map(|name| name.parse().unwrap()).collect()),
        prefer: prefer.into_iter().map(|name| name.parse().unwrap()).collect(),
        max_rtt: max.map(Duration::from_millis),
        ..Policy::default()
    })
}

proptest! {
    #[test]
    fn residency_is_never_violated(all in candidates(), policy in policy(), chance: u64) {
        let decision = rank(&all, &policy, chance);
        for row in decision.rows.iter().filter(|row| !matches!(row.verdict, Verdict::Excluded(_))) {
            prop_assert!(policy.residency.as_ref().is_none_or(|allowed| allowed.contains(&row.region)), "{row:?}");
        }
    }

    #[test]
    fn nobody_who_drains_is_full_or_is_excluded_is_chosen(all in candidates(), policy in policy(), chance: u64) {
        let without: BTreeSet<NodeId> = all.iter().step_by(3).map(|c| c.node.clone()).collect();
        let policy = Policy { without: without.clone(), ..policy };
        if let Some(chosen) = rank(&all, &policy, chance).chosen {
            let candidate = all.iter().find(|c| c.node == chosen).unwrap();
            let report = candidate.report.as_ref().unwrap();
            prop_assert!(!without.contains(&chosen) && candidate.role == Role::Edge && !report.draining);
            prop_assert!(report.meetings + candidate.pending < report.capacity);
            prop_assert!(policy.max_rtt.is_none_or(|limit| candidate.rtt_relay.is_some_and(|m| m.rtt <= limit)));
        }
    }

    #[test]
    fn the_order_of_the_candidates_does_not_matter(all in candidates(), policy in policy(), chance: u64, turn: usize) {
        let mut shuffled = all.clone();
        shuffled.reverse();
        let middle = turn % (shuffled.len() + 1);
        shuffled.rotate_left(middle);
        prop_assert_eq!(rank(&all, &policy, chance), rank(&shuffled, &policy, chance));
        prop_assert_eq!(rank(&all, &policy, chance), rank(&all, &policy, chance));
    }

    #[test]
    fn every_candidate_gets_one_row_and_a_reason(all in candidates(), policy in policy(), chance: u64) {
        let decision = rank(&all, &policy, chance);
        let rows: BTreeSet<&NodeId> = decision.rows.iter().map(|row| &row.node).collect();
        prop_assert_eq!(decision.rows.len(), all.len());
        prop_assert_eq!(rows.len(), all.len());
        prop_assert!(decision.rows.iter().all(|row| row.why.ends_with('.') && row.why.len() > 20));
        let first: Vec<&NodeId> = decision.rows.iter().filter(|row| row.verdict == Verdict::Chosen).map(|row| &row.node).collect();
        prop_assert_eq!(first, decision.chosen.iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_probed_edge_is_never_passed_over_for_an_unprobed_one(all in candidates(), policy in policy(), chance: u64) {
        let decision = rank(&all, &policy, chance);
        let probed: Vec<bool> = decision
            .rows
            .iter()
            .filter(|row| !matches!(row.verdict, Verdict::Excluded(_)))
            .map(|row| row.rtt_relay_source == Some(RttSource::Probe))
            .collect();
        prop_assert!(probed.is_sorted_by(|a, b| a >= b), "{probed:?}");
    }
}
