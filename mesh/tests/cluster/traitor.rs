//! One node, or several, whose certificates are sound say of others what is not so. Nothing of it is believed.

use std::{collections::BTreeMap, time::Duration};

use mesh::{
    clock::Micros,
    identity::{Identity, Role},
    membership::{
        Event, Membership,
        forgery::{Forgery, Said},
    },
    sim::{EPOCH_MS, Load, World, address, id, identity},
    wire::report::Report,
};

use super::secs;

const NODES: usize = 12;
/// An edge.
const TRAITOR: usize = 3;
/// A core, and an edge.
const VICTIMS: [usize; 2] = [5, 7];

fn mesh(seed: u64) -> World {
    let mut world = World::joined(NODES, 0.01, seed);
    world.run_for(secs(20));
    world.forget();
    world.take_disbelieved();
    world
}

fn others() -> impl Iterator<Item = usize> {
    (0..NODES).filter(|node| *node != TRAITOR)
}

/// Has the traitor send to every other node what `lie` makes of an empty packet, ten times a second for `time`.
fn lie(world: &mut World, time: Duration, lie: impl Fn(&mut Membership, Forgery, usize) -> Forgery) {
    conspire(world, &[TRAITOR], time, lie);
}

/// Has all of `traitors` do so at the same moments.
fn conspire(
    world: &mut World,
    traitors: &[usize],
    time: Duration,
    lie: impl Fn(&mut Membership, Forgery, usize) -> Forgery,
) {
    let end = world.now() + time;
    while world.now() < end {
        for to in (0..NODES).filter(|to| !traitors.contains(to)) {
            for traitor in traitors {
                let packet = world.with(*traitor, |swim, _| {
                    let empty = swim.forge(&id(to))?;
                    lie(swim, empty, to).packet()
                });
                if let Some(packet) = packet.flatten() {
                    world.send(*traitor, to, packet);
                }
            }
        }
        world.run_for(Duration::from_millis(100));
    }
}

/// Nobody was held down, everyone is who they are, and nobody is there who is not.
fn nothing_is_believed(world: &mut World, seed: u64) -> BTreeMap<&'static str, u64> {
    for at in others() {
        for member in world.members(at) {
            let index = mesh::sim::index_of(&member.identity.node).unwrap_or(usize::MAX);
            assert!(index < NODES, "seed {seed}: {at} believes in {}", member.identity.node);
            assert_eq!(member.identity, identity(index), "seed {seed}: at {at}");
            assert_eq!(member.addr, address(index, 0), "seed {seed}: at {at}");
        }
    }
    assert_eq!(world.others_held_down(TRAITOR), 0, "seed {seed}: {:?}", world.log);
    assert!(world.everyone_sees_everyone(), "seed {seed}");
    let disbelieved = world.take_disbelieved();
    println!("seed {seed}: {disbelieved:?}, {} rejoins", world.rejoins());
    disbelieved
}

#[test]
fn an_edge_does_not_become_a_core_nor_move_to_another_region() {
    let mut world = mesh(201);
    let claimed = Identity { role: Role::Core, region: identity(1).region, ..identity(TRAITOR) };
    lie(&mut world, secs(5), |swim, packet, _| {
        let life = swim.life() + 10;
        packet.claim(claimed.clone(), address(TRAITOR, 0), life).claim_by_card(
            swim,
            claimed.clone(),
            address(TRAITOR, 0),
            life,
        )
    });
    world.run_for(secs(5));
    let disbelieved = nothing_is_believed(&mut world, 201);
    assert!(disbelieved["certificate"] > 0, "{disbelieved:?}");
}

#[test]
fn nobody_is_evicted_by_one_teller_whatever_life_it_names() {
    for (seed, life) in [(211, 0), (212, 1), (213, 100_000), (214, u64::MAX)] {
        let mut world = mesh(seed);
        let rejoins = world.rejoins();
        lie(&mut world, secs(30), |swim, mut packet, to| {
            for victim in VICTIMS.into_iter().chain([to]) {
                packet = packet.say(swim, &id(victim), Said::Down, life, 0).farewell(swim, &id(victim), victim == 5);
            }
            packet
        });
        world.run_for(secs(10));
        let disbelieved = nothing_is_believed(&mut world, seed);
        assert!(disbelieved["certificate"] > 0 && disbelieved["signature"] > 0, "{disbelieved:?}");
        let renewed = world.rejoins() - rejoins;
        assert!(renewed <= 3 * NODES as u64, "seed {seed}: {renewed} rejoins in 40 s");
    }
}

#[test]
fn nobody_who_answers_is_evicted_by_however_many_tellers() {
    const CONSPIRATORS: [usize; 4] = [TRAITOR, 1, 6, 10];
    for (seed, suspected) in [(215, false), (216, true)] {
        let mut world = mesh(seed);
        conspire(&mut world, &CONSPIRATORS, secs(30), |swim, mut packet, to| {
            for victim in VICTIMS.into_iter().filter(|victim| *victim != to) {
                if suspected {
                    packet = packet.say(swim, &id(victim), Said::Suspect, 0, 0);
                }
                packet = packet.say(swim, &id(victim), Said::Down, 0, 0);
            }
            packet
        });
        world.run_for(secs(5));
        let honest = |at: &usize| !CONSPIRATORS.contains(at);
        let downs = world.log.iter().filter(|(_, at, event)| honest(at) && matches!(event, Event::Down(_))).count();
        assert_eq!(downs, 0, "seed {seed}: {:?}", world.log);
        let disbelieved = world.take_disbelieved();
        assert!(disbelieved["unseen"] > 0, "{disbelieved:?}");
        // Who is dead all the same is known to be, as soon as it is looked at.
        world.forget();
        let start = world.now();
        world.crash(VICTIMS[0]);
        world.run_for(secs(12));
        assert_eq!(world.told(VICTIMS[0], true, start).len(), world.live().len(), "seed {seed}");
    }
}

#[test]
fn whoever_is_told_to_be_down_does_not_rejoin_without_end() {
    let seed = 221;
    let mut world = mesh(seed);
    let rejoins = world.rejoins();
    lie(&mut world, secs(60), |_, packet, _| packet.turn_undead());
    world.run_for(secs(10));
    nothing_is_believed(&mut world, seed);
    let renewed = world.rejoins() - rejoins;
    assert!(renewed <= 4 * (NODES as u64 - 1), "seed {seed}: {renewed} rejoins in a minute");
}

#[test]
fn a_flood_of_suspicion_costs_little_and_takes_nobody_down() {
    let seed = 231;
    let mut world = mesh(seed);
    world.run_for(secs(30));
    let quiet = world.bytes;
    world.forget();
    lie(&mut world, secs(30), |swim, mut packet, to| {
        for victim in others().filter(|victim| *victim != to) {
            packet = packet.say(swim, &id(victim), Said::Suspect, 0, 0);
        }
        packet.say(swim, &id(to), Said::Suspect, 0, 0)
    });
    // What the traitor sends itself: 11 packets ten times a second, of at most 1,181 bytes.
    let caused = world.bytes.saturating_sub(110 * 30 * 1181);
    println!("seed {seed}: {quiet} bytes in 30 s, {caused} under suspicion");
    nothing_is_believed(&mut world, seed);
    assert!(caused < 30 * quiet, "seed {seed}: {caused} bytes after {quiet}");
}

#[test]
fn a_report_is_its_own_node_s_word_alone() {
    let seed = 241;
    let mut world = mesh(seed);
    world.set_load(Load::Idle);
    world.run_for(secs(20));
    lie(&mut world, secs(10), |swim, mut packet, _| {
        for victim in VICTIMS {
            let known = swim.report(&id(victim)).map(|report| (*report).clone());
            let Some(known) = known else { continue };
            let at = Micros(known.at.0 + 3_600_000_000);
            let forged =
                Report { at, draining: true, meetings: 999, api: Some("http://192.0.2.66:80".into()), ..known };
            packet = packet.report(swim, &forged);
        }
        packet
    });
    world.run_for(secs(15));
    for at in others() {
        for member in world.members(at) {
            let report = member.report.expect("all have reported");
            let forged =
                report.draining || report.meetings == 999 || report.api.as_deref() == Some("http://192.0.2.66:80");
            assert!(!forged, "at {at}: {:?}", member.identity);
        }
    }
    let disbelieved = nothing_is_believed(&mut world, seed);
    assert!(disbelieved["report"] > 100, "{disbelieved:?}");
    // And the truth still comes through.
    world.publish(5, |report| report.meetings = 4);
    world.run_for(secs(3));
    assert!(others().filter(|at| *at != 5).all(|at| world.meetings(at, 5) == Some(4)));
}

#[test]
fn ghosts_are_not_believed_in() {
    let seed = 251;
    let mut world = mesh(seed);
    let ghost = |n: u64| Identity { node: format!("ghost-{n}").parse().unwrap(), ..identity(1) };
    lie(&mut world, secs(10), |swim, mut packet, to| {
        for n in 0..8 {
            let life = EPOCH_MS + n;
            packet = packet.claim(ghost(n * 100 + to as u64), address(to, 9), life).claim_by_card(
                swim,
                ghost(n * 100 + to as u64),
                address(to, 9),
                life,
            );
        }
        packet
    });
    lie(&mut world, secs(2), |swim, packet, _| packet.have_pinged(ghost(1), address(0, 8), swim.life()));
    world.run_for(secs(5));
    let disbelieved = nothing_is_believed(&mut world, seed);
    assert!(disbelieved["certificate"] > 0 && disbelieved["stranger"] > 0, "{disbelieved:?}");
}

#[test]
fn what_was_signed_once_does_not_count_again() {
    let seed = 261;
    let mut world = mesh(seed);
    let old = world.with(TRAITOR, |swim, _| swim.card_of(&id(7))).flatten().unwrap();
    // The edge leaves; and a core starts anew, at another address.
    let former = world.with(TRAITOR, |swim, _| swim.card_of(&id(5))).flatten().unwrap();
    world.with(7, |swim, now| swim.leave(now));
    world.crash(7);
    world.crash(5);
    let clock = EPOCH_MS + world.now().as_millis() as u64;
    world.start(5, 1, clock);
    world.announce(5, 0);
    world.run_for(secs(10));
    world.forget();
    lie(&mut world, secs(20), |_, packet, _| packet.replay(&old).replay(&former));
    for at in others().filter(|at| *at != 7) {
        let members = world.members(at);
        assert!(members.iter().all(|member| member.identity.node != id(7)), "{at} sees who has left");
        assert!(at == 5 || members.iter().any(|m| m.identity.node == id(5) && m.addr == address(5, 1)), "at {at}");
    }
    assert!(!world.log.iter().any(|(_, at, event)| *at != TRAITOR && matches!(event, Event::Up(_))), "{:?}", world.log);
}

#[test]
fn asking_for_everything_is_answered_within_limits() {
    let seed = 271;
    let mut world = mesh(seed);
    world.forget();
    lie(&mut world, secs(10), |swim, packet, _| packet.ask_for_all(swim));
    nothing_is_believed(&mut world, seed);
    let per_node = world.bytes as f64 / 10.0 / NODES as f64;
    println!("seed {seed}: {per_node:.0} B/s per node");
    assert!(per_node < 200_000.0, "seed {seed}: {per_node:.0} B/s per node");
}

#[test]
fn a_certificate_is_renewed_without_a_word_lost() {
    let seed = 281;
    let mut world = mesh(seed);
    world.set_load(Load::Idle);
    world.run_for(secs(15));
    world.forget();
    world.renew_certificate(5);
    world.run_for(secs(5));
    world.publish(5, |report| report.meetings = 6);
    world.run_for(secs(5));
    assert!((0..NODES).filter(|at| *at != 5).all(|at| world.meetings(at, 5) == Some(6)));
    nothing_is_believed(&mut world, seed);
    assert_eq!(world.false_downs(), 0);
}

#[test]
fn a_node_with_its_clock_years_ahead_is_not_believed_and_is_told() {
    let seed = 291;
    let mut world = mesh(seed);
    world.crash(7);
    world.run_for(secs(20));
    world.log_changes = true;
    world.start(7, 1, EPOCH_MS + 400 * 86_400_000);
    world.announce(7, 0);
    world.run_for(secs(10));
    assert!(world.members(0).iter().all(|member| member.identity.node != id(7)));
    let told = |event: &Event| matches!(event, Event::ClockDiffers { ahead, .. } if *ahead > 399 * 86_400_000);
    assert!(world.log.iter().any(|(_, at, event)| *at == 7 && told(event)), "{:?}", world.log);
}
