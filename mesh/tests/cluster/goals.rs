//! What the membership of 100 nodes is to be worth at 5 % loss. `bench gossip` measures the same for longer.

use std::time::Duration;

use mesh::sim::{EPOCH_MS, Load, World, percentile};

use super::secs;

const NODES: usize = 100;

#[test]
fn a_hundred_nodes_are_cheap_and_notice_a_crash_in_time() {
    let seed = 91;
    let mut world = World::joined(NODES, 0.05, seed);
    let mut cost = |load, most: f64| {
        world.set_load(load);
        world.run_for(secs(10));
        world.forget();
        let rejoins = world.rejoins();
        world.run_for(secs(60));
        let per_node = world.bytes as f64 / NODES as f64 / 60.0;
        println!("{load:?}: seed {seed}, 5 % loss: {per_node:.0} B/s per node");
        assert!(per_node <= most, "seed {seed}: {per_node:.0} B/s per node, {load:?}");
        assert_eq!((world.false_downs(), world.rejoins() - rejoins), (0, 0), "seed {seed}, {load:?}");
    };
    cost(Load::Idle, 1000.0);
    cost(Load::Busy, 6400.0);
    world.set_load(Load::Idle);

    let (mut first, mut all) = (vec![], vec![]);
    for node in [8, 27, 54, 99, 33, 71, 16, 42] {
        world.forget();
        let start = world.now();
        world.crash(node);
        world.run_for(secs(16));
        let told = world.told(node, true, start);
        assert_eq!(told.len(), world.live().len(), "seed {seed}: somebody does not know of {node}'s crash");
        first.extend(told.iter().min());
        all.extend(told);
        assert_eq!(world.false_downs(), 0, "seed {seed}: {node}'s crash took a healthy node with it");
    }
    let mean = first.iter().sum::<Duration>() / first.len() as u32;
    let (p99, max) = (percentile(&mut all, 0.99), percentile(&mut all, 1.0));
    println!("crash: seed {seed}, 5 % loss: first node {mean:?} (mean), p99 {p99:?}, last {max:?}");
    assert!(mean <= secs(5) && p99 <= secs(7) && max <= secs(10), "seed {seed}: {mean:?}, {p99:?}, {max:?}");
}

#[test]
fn joins_and_goodbyes_are_known_within_a_second_and_a_partition_heals_within_30_s() {
    let seed = 92;
    let mut world = World::joined(NODES, 0.05, seed);
    let (mut joins, mut leaves) = (vec![], vec![]);
    for (life, node) in (1..).zip([3, 18, 41, 97]) {
        let start = world.now();
        world.with(node, |swim, now| swim.leave(now));
        world.crash(node);
        world.run_for(secs(15));
        leaves.extend(world.told(node, true, start));
        let start = world.now();
        world.start(node, 0, EPOCH_MS + 60_000 * life);
        world.announce(node, 0);
        world.run_for(secs(15));
        joins.extend(world.told(node, false, start));
    }
    assert_eq!((joins.len(), leaves.len()), (4 * (NODES - 1), 4 * (NODES - 1)), "seed {seed}");
    let (join, leave) = (percentile(&mut joins, 0.99), percentile(&mut leaves, 0.99));
    println!("seed {seed}, 5 % loss: join known after {join:?}, goodbye after {leave:?} (p99)");
    assert!(join <= secs(1) && leave <= secs(1), "seed {seed}: {join:?}, {leave:?}");

    let far: Vec<usize> = (0..NODES).filter(|i| i % 10 == 3).collect();
    world.cut(&far);
    world.run_for(secs(120));
    world.heal();
    let took = world.run_until(secs(60), World::everyone_sees_everyone);
    println!("partition of a region for 120 s: seed {seed}, 5 % loss: healed after {took:?}");
    assert!(took.is_some_and(|took| took <= secs(30)), "seed {seed}: {took:?}");
}
