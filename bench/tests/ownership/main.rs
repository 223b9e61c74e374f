//! Who owns a meeting, over many histories of crashes, stalls, clocks and partitions.
//!
//! Each history is decided by its seed. It drives the machines that the nodes run: `mesh::lease`, `edge_node::meeting` (with
//! `failover`), `core_node::replicate`, `core_node::meeting::machine` and `role`. What goes around them (disks, streams, requests) is
//! pretended here, with the delays and orders that the real ones may have.
//!
//! Ordinary test runs take the first 2,000 histories, and 500 of each [`Kind`] that is about something. `NEARFIELD_HISTORIES=N` runs that many
//! (10,000 take a minute), from `NEARFIELD_SEED=S` on; with one history its story is printed.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]
#![allow(clippy::needless_range_loop, reason = "nodes are numbers here, in several tables at once")]

mod authority;
mod core;
mod edge;
mod oracle;
mod rng;
mod verdict;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use verdict::history;
use world::{Broken, CORES, Kind, Plan};

const HISTORIES: u64 = 2_000;
/// So many times as many, at most, until a broken rule is noticed.
const MANY: u64 = 20;
const SEED: u64 = 1;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// The first seed of `count` whose history breaks a rule, and how.
fn search(count: u64, plan: Plan) -> Option<(u64, String)> {
    let first = plan.seed;
    let (next, found) = (AtomicU64::new(first), std::sync::Mutex::new(None::<(u64, String)>));
    let workers = std::thread::available_parallelism().map_or(2, usize::from).min(8);
    let (words, turns, isolated) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let (events, runs, ended) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let gaps = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count || found.lock().unwrap().is_some() {
                        return;
                    }
                    let world = history(Plan { seed, ..plan });
                    words.fetch_add(world.oracle.published() as u64, Ordering::Relaxed);
                    events.fetch_add(world.handled, Ordering::Relaxed);
                    runs.fetch_add(1, Ordering::Relaxed);
                    turns.fetch_add(world.oracle.turns, Ordering::Relaxed);
                    gaps.fetch_add(world.oracle.gaps.len() as u64, Ordering::Relaxed);
                    isolated.fetch_add(world.oracle.isolated.into(), Ordering::Relaxed);
                    ended.fetch_add(world.oracle.ended.is_some().into(), Ordering::Relaxed);
                    if let Some(what) = world.oracle.violation {
                        found.lock().unwrap().get_or_insert((seed, what));
                    }
                }
            });
        }
    });
    println!(
        "{runs:?} histories ({:?}) from seed {first}: {events:?} events, {words:?} words, {gaps:?} gaps, {turns:?} terms begun or \
         resumed, {isolated:?} with isolated cores, {ended:?} in which the meeting ended",
        plan.kind
    );
    found.into_inner().unwrap()
}

fn tell(plan: Plan) {
    let world = history(Plan { trace: true, ..plan });
    for line in &world.story {
        println!("{line}");
    }
    for (n, core) in world.cores.iter().enumerate() {
        println!("core {n}: {}", core.state());
    }
    for (n, edge) in world.edges.iter().enumerate() {
        println!("edge {}: {}", CORES + n, edge.state());
    }
    println!("seed {}: {:?}", plan.seed, world.oracle.violation);
}

/// `share`: of so many histories one is run, where ordinary runs would take too long.
fn explore(kind: Kind, authority: bool, share: u64) {
    let (count, first) = (setting("NEARFIELD_HISTORIES", HISTORIES / share), setting("NEARFIELD_SEED", SEED));
    let plan = Plan { seed: first, kind, authority, ..Plan::default() };
    if let Some((seed, what)) = search(count, plan) {
        tell(Plan { seed, ..plan });
        panic!("seed {seed}: {what} (NEARFIELD_HISTORIES=1 NEARFIELD_SEED={seed} runs it again)");
    }
    if count == 1 {
        tell(plan);
    }
}

#[test]
fn no_history_has_two_owners_in_one_epoch_or_none_for_long() {
    explore(Kind::Any, false, 1);
}

/// Nor, unlike without one, two cores that say different words, whatever they go through.
#[test]
fn no_history_under_a_shared_authority_has_two_cores_that_serve() {
    explore(Kind::Any, true, 1);
}

#[test]
fn edges_that_drain_are_succeeded() {
    explore(Kind::Drain, false, 4);
}

#[test]
fn of_two_slots_each_has_its_edge() {
    explore(Kind::Two, false, 4);
}

#[test]
fn a_meeting_that_is_left_ends_everywhere() {
    explore(Kind::Left, false, 4);
}

#[test]
fn a_gap_is_named_if_and_only_if_nobody_captured() {
    explore(Kind::Gaps, false, 4);
}

/// Each of the rules is needed: without it some history goes wrong.
#[test]
fn a_rule_that_is_broken_is_noticed() {
    let whole = Broken::default();
    let plan = |broken, authority| Plan { seed: SEED, broken, authority, ..Plan::default() };
    for plan in [
        plan(Broken { margin: true, ..whole }, false),
        plan(Broken { fence: true, ..whole }, false),
        plan(Broken { acknowledgement: true, ..whole }, false),
        plan(Broken { confirmation: true, ..whole }, false),
        plan(Broken { early: true, ..whole }, false),
        plan(Broken { claim: true, ..whole }, true),
        plan(Broken { unbound: true, ..whole }, true),
    ] {
        let found = search(MANY * HISTORIES, plan);
        println!("{plan:?}: {found:?}");
        assert!(found.is_some(), "nothing noticed without {plan:?}");
    }
}
