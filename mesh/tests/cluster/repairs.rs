//! What is done where SWIM's news does not come, comes too late or comes to a node that slept.

use std::time::Duration;

use mesh::{
    membership::{Event, Settings},
    sim::{World, id},
};

use super::{NODES, secs};

/// Repeating recent changes is as good as switched off, so that comparing lists must do; and suspects have time to
/// answer after a cut of 2.5 s.
fn without_repeats() -> Settings {
    Settings { repair_period: secs(3600), suspicion: secs(4), ..Settings::default() }
}

#[test]
fn a_node_that_all_news_of_a_crash_has_missed_finds_out_by_comparing() {
    let mut unaware = 0;
    for seed in 101..=124 {
        let mut world = World::joined_with(NODES, 0.0, seed, without_repeats());
        world.crash(3);
        let known = |world: &World| world.log.iter().any(|(_, _, event)| *event == Event::Down(id(3)));
        world.run_until(secs(10), known);
        // Cut off whoever has not heard yet, until nobody tells it any more.
        let sees = |world: &World, i: usize| world.members(i).iter().any(|member| member.identity.node == id(3));
        let Some(deaf) = world.live().into_iter().rev().find(|i| sees(&world, *i)) else { continue };
        world.cut(&[deaf]);
        world.run_for(Duration::from_millis(2500));
        world.heal();
        if !sees(&world, deaf) {
            continue;
        }
        unaware += 1;
        let took = world.run_until(secs(40), World::everyone_sees_everyone);
        println!("seed {seed}: node {deaf} knows after {took:?}");
        // A node that was cut off doubts itself, and waits up to three times as long before it holds others down.
        assert!(took.is_some_and(|took| took <= secs(15)), "seed {seed}: {took:?}");
        assert_eq!(world.false_downs(), 0, "seed {seed}");
    }
    assert!(unaware >= 4, "only {unaware} of 24 histories are of any use");
}

#[test]
fn a_node_that_slept_suspects_nobody_for_it() {
    for seed in 111..=114 {
        let mut world = World::joined(NODES, 0.0, seed);
        let doubts = |world: &mut World| -> Vec<u8> {
            (0..NODES).filter_map(|i| world.with(i, |swim, _| swim.doubt_of_itself())).collect()
        };
        assert_eq!(doubts(&mut world), vec![0; NODES], "seed {seed}");
        world.stall(4, secs(3));
        world.run_for(Duration::from_millis(3100));
        let at_waking = doubts(&mut world);
        assert!(at_waking[4] >= 3, "seed {seed}: {at_waking:?}");
        world.run_for(secs(3));
        // Whoever is suspected doubts itself: nobody else was.
        let after = doubts(&mut world);
        assert!((0..NODES).all(|i| i == 4 || after[i] == 0), "seed {seed}: {after:?}");
        world.run_for(secs(60));
        assert_eq!(doubts(&mut world), vec![0; NODES], "seed {seed}");
        // Who sleeps for 3 s may be held down, and comes back.
        assert_eq!(world.others_held_down(4), 0, "seed {seed}");
        assert!(world.rejoins() <= 1 && world.everyone_sees_everyone(), "seed {seed}");
    }
}
