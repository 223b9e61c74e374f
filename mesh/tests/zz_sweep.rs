#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code)]
#[path = "cluster/world.rs"]
mod world;
use std::time::Duration;
use mesh::membership::Event;
use self::world::{World, id, percentile};
fn secs(s: u64) -> Duration { Duration::from_secs(s) }
#[test]
fn joins() {
    for loss in [0.0, 0.05] {
    let mut t = vec![];
    for seed in 0..60 { let mut w = World::new(30, loss, 1000 + seed); (1..30).for_each(|i| w.announce(i, 0));
        match w.run_until(secs(60), World::everyone_sees_everyone) { Some(x) => t.push(x), None => println!("join never {seed}") } }
    println!("join loss {loss}: p50 {:?} p90 {:?} max {:?}", percentile(&mut t, 0.5), percentile(&mut t, 0.9), percentile(&mut t, 1.0)); }
}
#[test]
fn partitions() {
    for far in [vec![7usize, 17, 27], (0..30).filter(|i| i % 2 == 1).collect(), vec![0], vec![7, 17, 27, 8, 18, 28, 6, 16, 26]] {
    for len in [10u64, 60] {
    let mut t = vec![]; let mut blips = 0;
    for seed in 0..12 { let mut w = World::joined(30, 0.05, 2000 + seed); w.cut_off = far.clone(); w.run_for(secs(len)); w.cut_off.clear(); w.log.clear();
        match w.run_until(secs(300), World::everyone_sees_everyone) { Some(x) => t.push(x), None => println!("heal never {seed}") }
        blips += w.log.iter().filter(|(_, _, e)| matches!(e, Event::Down(_))).count();
        w.log.clear(); w.run_for(secs(30)); let late = w.log.iter().filter(|(_, _, e)| matches!(e, Event::Down(_))).count(); if late > 0 { println!("late downs {late}"); } }
    println!("heal far {} len {len}: p50 {:?} max {:?} downs while healing {blips}", far.len(), percentile(&mut t, 0.5), percentile(&mut t, 1.0)); } }
}
#[test]
fn reports() {
    let mut t = vec![];
    for seed in 0..12 { let mut w = World::joined(30, 0.05, 3000 + seed);
        for (m, index) in (100u32..).zip([2usize, 6, 13, 21, 26, 3, 4]) { w.publish(index, m);
            let ok = |w: &World| (0..30).filter(|i| *i != index).all(|i| w.members(i).iter().filter(|x| x.identity.node == id(index)).all(|x| x.report.as_ref().is_some_and(|r| r.meetings == m)));
            match w.run_until(secs(12), ok) { Some(x) => t.push(x), None => println!("report never") } w.run_for(secs(3)); } }
    println!("reports n={}: p50 {:?} p90 {:?} p99 {:?} max {:?}", t.len(), percentile(&mut t, 0.5), percentile(&mut t, 0.9), percentile(&mut t, 0.99), percentile(&mut t, 1.0));
}
#[test]
fn crashes() {
    let mut all = vec![]; let mut fd = 0; let mut lasts = vec![];
    for seed in 0..8 { let mut w = World::joined(30, 0.05, 4000 + seed);
        w.run_for(secs(120)); fd += w.log.iter().filter(|(_, _, e)| matches!(e, Event::Down(_))).count();
        for index in [3usize, 8, 14, 19, 25, 29] { w.log.clear(); let s = w.now(); w.crash(index); w.run_for(secs(30));
            let mut f = std::collections::BTreeMap::new(); for (at, o, e) in &w.log { if *e == Event::Down(id(index)) { f.entry(*o).or_insert(*at - s); } else if matches!(e, Event::Down(_)) { fd += 1; } }
            if f.len() != w.live().len() { println!("unaware {} {}", f.len(), w.live().len()); }
            lasts.extend(f.values().max().copied()); all.extend(f.into_values()); } }
    println!("crashes: all p50 {:?} p99 {:?} max {:?}; last p50 {:?}; false downs {fd}", percentile(&mut all, 0.5), percentile(&mut all, 0.99), percentile(&mut all, 1.0), percentile(&mut lasts, 0.5));
}
#[test]
fn big() {
    let mut w = World::new(100, 0.05, 5); (1..100).for_each(|i| w.announce(i, 0));
    println!("join 100: {:?}", w.run_until(secs(60), World::everyone_sees_everyone));
    (0..100).for_each(|i| w.publish(i, 0)); w.run_for(secs(15)); w.log.clear(); (w.packets, w.bytes) = (0, 0); w.run_for(secs(60));
    println!("100: {} B/s per node {} pk/s; downs {}", w.bytes / 6000, w.packets / 6000, w.log.iter().filter(|(_, _, e)| matches!(e, Event::Down(_))).count());
    for (m, index) in (100u32..).zip([2usize, 6, 13]) { w.publish(index, m);
            let ok = |w: &World| (0..100).filter(|i| *i != index).all(|i| w.members(i).iter().filter(|x| x.identity.node == id(index)).all(|x| x.report.as_ref().is_some_and(|r| r.meetings == m)));
            println!("report 100: {:?}", w.run_until(secs(12), ok)); w.run_for(secs(3)); }
    let s = w.now(); w.crash(42); println!("crash 100: {:?}", w.run_until(secs(60), World::everyone_sees_everyone)); let _ = s;
}
