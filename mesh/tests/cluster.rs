//! SWIM among many nodes over ten regions' real round trips, in virtual time.
//!
//! Each test prints its seed and what it measured; `cargo test -p mesh --test cluster -- --nocapture`
//! shows them.
// An `Instant` can only come from the clock: it is the base of virtual time, nothing waits on it.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]

#[path = "cluster/goals.rs"]
mod goals;
#[path = "cluster/hostile.rs"]
mod hostile;
#[path = "cluster/repairs.rs"]
mod repairs;
#[path = "cluster/traitor.rs"]
mod traitor;

use std::time::Duration;

use mesh::{
    membership::Event,
    sim::{EPOCH_MS, World, address, id, percentile},
};

const NODES: usize = 30;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// When each observer was first told that `index` is down, from `since` on.
fn told_down(world: &World, index: usize, since: Duration) -> Vec<Duration> {
    let mut first = std::collections::BTreeMap::new();
    for (at, observer, event) in &world.log {
        if *event == Event::Down(id(index)) && *at >= since {
            first.entry(*observer).or_insert(*at - since);
        }
    }
    first.into_values().collect()
}

#[test]
fn all_see_all_within_3_s_of_joining_through_one_seed() {
    for seed in 1..=5 {
        let mut world = World::new(NODES, 0.01, seed);
        (1..NODES).for_each(|index| world.announce(index, 0));
        let took = world.run_until(secs(10), World::everyone_sees_everyone);
        println!("join: seed {seed}, 1 % loss: all see all after {took:?}");
        assert!(took.is_some_and(|took| took <= secs(3)), "seed {seed}: {took:?}");
    }
}

#[test]
fn a_late_node_is_seen_by_all_and_sees_all_within_3_s() {
    for seed in 1..=3 {
        let mut world = World::joined(NODES, 0.05, seed);
        world.crash(7);
        world.run_for(secs(20));
        world.start(7, 1, EPOCH_MS + 60_000);
        world.announce(7, 0);
        let took = world.run_until(secs(30), World::everyone_sees_everyone);
        println!("late join: seed {seed}, 5 % loss: all see all after {took:?}");
        assert!(took.is_some_and(|took| took <= secs(3)), "seed {seed}: {took:?}");
    }
}

#[test]
fn healthy_nodes_are_never_declared_down_and_a_crash_is_seen_by_all_within_15_s() {
    const STEADY: Duration = Duration::from_secs(300);
    let seed = 11;
    let mut world = World::joined(NODES, 0.05, seed);
    (world.packets, world.bytes) = (0, 0);
    world.run_for(STEADY);
    let false_downs = world.log.iter().filter(|(_, _, event)| matches!(event, Event::Down(_))).count();
    let ups = world.log.iter().filter(|(_, _, event)| matches!(event, Event::Up(_))).count();
    let per_node = |count: u64| count as f64 / NODES as f64 / STEADY.as_secs_f64();
    println!(
        "steady: seed {seed}, 5 % loss, {:.1} node-hours: {false_downs} false downs, {:.1} packets/s and {:.0} B/s per node",
        NODES as f64 * STEADY.as_secs_f64() / 3600.0,
        per_node(world.packets),
        per_node(world.bytes)
    );
    assert_eq!((false_downs, ups), (0, 0), "seed {seed}");

    let (mut all, mut first, mut last) = (vec![], vec![], vec![]);
    for index in [3, 8, 14, 19, 25, 29] {
        world.log.clear();
        let start = world.now();
        world.crash(index);
        world.run_for(secs(30));
        let told = told_down(&world, index, start);
        assert_eq!(told.len(), world.live().len(), "seed {seed}: node {index} is still held alive by someone");
        first.extend(told.iter().min());
        last.extend(told.iter().max());
        all.extend(told);
        assert!(world.everyone_sees_everyone(), "seed {seed}: a crash took a healthy node with it");
    }
    println!(
        "crash: seed {seed}, 5 % loss: first node after {:?} (median), last after {:?} (median), any p50 {:?} p99 {:?} max {:?}",
        percentile(&mut first, 0.5),
        percentile(&mut last, 0.5),
        percentile(&mut all, 0.5),
        percentile(&mut all, 0.99),
        percentile(&mut all, 1.0)
    );
    assert!(percentile(&mut all, 1.0) <= secs(15), "seed {seed}");
}

#[test]
fn a_lost_connection_speeds_detection_but_takes_no_healthy_node_down() {
    let seed = 21;
    let mut world = World::joined(NODES, 0.05, seed);
    for observer in 0..NODES {
        world.with(observer, |swim, now| swim.hint_lost(&id(12), now));
    }
    world.run_for(secs(30));
    assert!(!world.log.iter().any(|(_, _, event)| *event == Event::Down(id(12))), "seed {seed}");

    let start = world.now();
    world.crash(12);
    for observer in [0, 5, 20] {
        world.with(observer, |swim, now| swim.hint_lost(&id(12), now));
    }
    world.run_for(secs(15));
    let mut told = told_down(&world, 12, start);
    println!(
        "hinted crash: seed {seed}, 5 % loss: p50 {:?} max {:?}",
        percentile(&mut told, 0.5),
        percentile(&mut told, 1.0)
    );
    assert_eq!(told.len(), NODES - 1, "seed {seed}");
    assert!(percentile(&mut told, 1.0) <= secs(8), "seed {seed}");
}

#[test]
fn a_node_that_restarts_is_alive_at_its_new_address() {
    for (seed, down_for) in [(31, secs(1)), (32, secs(20))] {
        let mut world = World::joined(NODES, 0.05, seed);
        world.log_changes = true;
        world.crash(9);
        world.run_for(down_for);
        world.log.clear();
        world.start(9, 1, EPOCH_MS + 60_000);
        world.announce(9, 0);
        let moved = |world: &World| {
            let others = world.live().into_iter().filter(|i| *i != 9);
            others.map(|i| world.members(i)).all(|list| list.iter().any(|m| m.addr == address(9, 1)))
        };
        let took = world.run_until(secs(10), moved);
        println!("restart after {down_for:?}: seed {seed}, 5 % loss: at the new address everywhere after {took:?}");
        assert!(took.is_some_and(|took| took <= secs(3)), "seed {seed}: {took:?}");
        world.run_for(secs(20));
        assert!(world.everyone_sees_everyone(), "seed {seed}");
        let told = |observer: usize| {
            world
                .log
                .iter()
                .any(|(_, by, event)| *by == observer && !matches!(event, Event::Down(_)) && names(event, 9))
        };
        assert!((0..NODES).filter(|i| *i != 9).all(told), "seed {seed}: somebody was not told of the move");
    }
}

fn names(event: &Event, index: usize) -> bool {
    match event {
        Event::Up(member) => member.identity.node == id(index),
        Event::Down(node) | Event::Changed(node) => *node == id(index),
        Event::ClockDiffers { .. } | Event::Twin { .. } => false,
    }
}

#[test]
fn a_node_whose_clock_went_back_still_comes_back() {
    let seed = 41;
    let mut world = World::joined(NODES, 0.01, seed);
    world.crash(9);
    world.run_for(secs(20));
    world.start(9, 1, EPOCH_MS - 86_400_000);
    world.announce(9, 0);
    let took = world.run_until(secs(60), World::everyone_sees_everyone);
    println!("clock set back by a day: seed {seed}: all see all after {took:?}");
    assert!(took.is_some_and(|took| took <= secs(20)), "seed {seed}: {took:?}");
}

#[test]
fn a_partition_of_60_s_heals_within_20_s() {
    for (seed, far) in [(51, vec![7, 17, 27]), (52, (0..NODES).filter(|i| i % 2 == 1).collect()), (53, vec![0])] {
        let mut world = World::joined(NODES, 0.05, seed);
        world.cut(&far);
        world.run_for(secs(60));
        let sees_far = |world: &World, near: usize| {
            world.members(near).iter().any(|m| far.iter().any(|f| id(*f) == m.identity.node))
        };
        let near: Vec<usize> = (0..NODES).filter(|i| !far.contains(i)).collect();
        assert!(!near.iter().any(|i| sees_far(&world, *i)), "seed {seed}: the far side is still held alive");
        world.heal();
        let took = world.run_until(secs(300), World::everyone_sees_everyone);
        println!("partition of {} nodes: seed {seed}, 5 % loss: healed after {took:?}", far.len());
        assert!(took.is_some_and(|took| took <= secs(20)), "seed {seed}: {took:?}");
    }
}

#[test]
fn two_nodes_that_lost_each_other_meet_again_without_a_seed() {
    let seed = 54;
    let mut world = World::joined(2, 0.05, seed);
    world.cut(&[1]);
    world.run_for(secs(60));
    assert!(world.members(0).is_empty() && world.members(1).is_empty(), "seed {seed}");
    world.heal();
    let took = world.run_until(secs(60), World::everyone_sees_everyone);
    println!("partition of two: seed {seed}: healed after {took:?}");
    assert!(took.is_some_and(|took| took <= secs(15)), "seed {seed}: {took:?}");
}

#[test]
fn a_goodbye_is_heard_within_a_second() {
    let seed = 61;
    let mut world = World::joined(NODES, 0.05, seed);
    let mut all = vec![];
    for index in [4, 11, 16, 22, 28] {
        let start = world.now();
        world.with(index, |swim, now| swim.leave(now));
        world.crash(index);
        world.run_for(secs(20));
        let told = told_down(&world, index, start);
        assert_eq!(told.len(), world.live().len(), "seed {seed}: node {index}");
        all.extend(told);
    }
    println!(
        "leave: seed {seed}, 5 % loss: p50 {:?} p99 {:?} max {:?}",
        percentile(&mut all, 0.5),
        percentile(&mut all, 0.99),
        percentile(&mut all, 1.0)
    );
    assert!(percentile(&mut all, 0.99) <= secs(1), "seed {seed}");
}

#[test]
fn a_report_reaches_all_within_3_s_and_is_repeated_for_those_who_come_later() {
    let seed = 71;
    let mut world = World::joined(NODES, 0.05, seed);
    let mut times = vec![];
    for (meetings, index) in (100u32..).zip([2, 6, 13, 21, 26]) {
        world.publish(index, |report| report.meetings = meetings);
        let arrived = |world: &World| {
            let lists = world.live().into_iter().filter(|i| *i != index).map(|i| world.members(i));
            lists
                .flatten()
                .filter(|m| m.identity.node == id(index))
                .all(|m| m.report.is_some_and(|r| r.meetings == meetings))
        };
        times.extend(world.run_until(secs(12), arrived));
        world.run_for(secs(12));
    }
    println!("reports: seed {seed}, 5 % loss: at all 29 others after {times:?}");
    assert_eq!(times.len(), 5, "seed {seed}");
    assert!(percentile(&mut times, 1.0) <= secs(3), "seed {seed}");

    world.start(9, 1, EPOCH_MS + 600_000);
    world.announce(9, 0);
    let informed = |world: &World| {
        let members = world.members(9);
        members.len() == NODES - 1 && members.iter().all(|m| m.report.is_some())
    };
    let took = world.run_until(secs(30), informed);
    println!("reports: seed {seed}: a node that came late has all 29 after {took:?}");
    assert!(took.is_some_and(|took| took <= secs(13)), "seed {seed}: {took:?}");
}

#[test]
fn equal_seeds_give_equal_histories() {
    let history = |seed| {
        let mut world = World::joined(10, 0.05, seed);
        world.crash(3);
        world.run_for(secs(20));
        world.log
    };
    assert_eq!(history(81), history(81));
}
