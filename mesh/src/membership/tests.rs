// An `Instant` can only come from the clock: it is the base of virtual time, nothing waits on it.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::time::Duration;

use super::*;
use crate::identity::Role;

fn peer(name: &str, number: u32) -> Peer {
    let identity = Identity { node: name.parse().unwrap(), role: Role::Edge, region: "eu-central".parse().unwrap() };
    Peer::new(identity, SocketAddr::from((number.to_be_bytes(), 4433)), 1_800_000_000_000)
}

fn membership(peer: &Peer) -> Membership {
    Membership::new(peer.identity(), peer.addr, peer.life, Settings::default(), 1)
}

fn gossip(from: &Peer, to: &Peer, members: &[foca::Member<Peer>]) -> Bytes {
    packet::craft((from.clone(), 0), to.clone(), Message::Gossip, members).unwrap()
}

#[test]
fn the_table_is_capped_and_a_packet_beyond_it_is_refused_whole() {
    let (me, sender, now) = (peer("me", 1), peer("sender", 2), Instant::now());
    let mut swim = membership(&me);
    let crowd: Vec<foca::Member<Peer>> =
        (0..5000).map(|i| foca::Member::alive(peer(&format!("n{i}"), 0x0a00_0000 + i))).collect();
    let refused = crowd.chunks(10).find_map(|some| {
        let taken = swim.handle_packet(&sender.identity(), &gossip(&sender, &me, some), now);
        while swim.poll_transmit().is_some() || swim.poll_event().is_some() {}
        taken.err()
    });
    assert_eq!(refused, Some(PacketError::Full));
    let held = swim.members().len();
    assert!(held <= MAX_MEMBERS_KNOWN && held > MAX_MEMBERS_KNOWN - 10, "{held}");
    let familiar = gossip(&sender, &me, &crowd[..10]);
    assert_eq!(swim.handle_packet(&sender.identity(), &familiar, now), Ok(()));
}

#[test]
fn only_a_member_held_down_is_told_that_it_is() {
    let (me, other, now) = (peer("me", 1), peer("other", 2), Instant::now());
    let mut swim = membership(&me);
    let undead = packet::craft((me.clone(), 0), other.clone(), Message::TurnUndead, &[]).unwrap();
    let hello = gossip(&other, &me, &[]);
    swim.handle_packet(&other.identity(), &hello, now).unwrap();
    let undead = packet::header(&undead).unwrap().0;
    let greeting = packet::header(&hello).unwrap().0;
    assert!(swim.is_needless(&other, &undead));
    swim.handle_packet(&other.identity(), &gossip(&other, &me, &[foca::Member::down(other.clone())]), now).unwrap();
    assert!(!swim.is_needless(&other, &undead));
    assert!(!swim.is_needless(&other, &greeting));
}

#[test]
fn a_node_that_is_down_is_forgotten_in_time() {
    let (me, other, now) = (peer("me", 1), peer("other", 2), Instant::now());
    let mut swim = membership(&me);
    let goodbye = gossip(&other, &me, &[foca::Member::down(other.clone())]);
    swim.handle_packet(&other.identity(), &goodbye, now).unwrap();
    let end = now + Settings::default().forget_after + Duration::from_secs(10);
    while let Some(next) = swim.poll_timeout().filter(|next| *next < end) {
        swim.handle_timeout(next);
        while swim.poll_transmit().is_some() {}
    }
    assert_eq!(swim.foca.iter_membership_state().len(), 0);
}

#[test]
fn reports_published_in_a_rush_go_out_as_one() {
    let (me, other, now) = (peer("me", 1), peer("other", 2), Instant::now());
    let mut swim = membership(&me);
    swim.handle_packet(&other.identity(), &gossip(&other, &me, &[]), now).unwrap();
    for meetings in 0..100 {
        let report = Report {
            node: "someone-else".parse().unwrap(),
            at: crate::clock::Micros(1),
            stress_permille: 0,
            meetings,
            capacity: 100,
            draining: false,
            api: None,
            software: String::new(),
            rtts: vec![],
            extension: None,
        };
        swim.publish(report, now);
    }
    assert_eq!(swim.reports.get(&me.node).unwrap().meetings, 0);
    swim.handle_timeout(now + Settings::default().report_gap);
    let sent = swim.reports.get(&me.node).unwrap();
    assert_eq!((sent.meetings, sent.node.clone()), (99, me.node));
    assert_eq!((swim.rumours.len(), swim.rumours.are_brisk()), (1, true));
    assert_eq!(swim.foca.custom_broadcast_backlog(), 0);
}
