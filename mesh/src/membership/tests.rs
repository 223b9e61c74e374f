// An `Instant` can only come from the clock: it is the base of virtual time, nothing waits on it.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::time::Duration;

use super::*;
use crate::{
    identity::Role,
    sim::keys::{Authority, Ring},
};

const CLOCK: u64 = 1_800_000_000_000;

/// A node and its key.
struct Someone {
    peer: Peer,
    keys: Arc<Ring>,
}

impl Someone {
    fn card(&self) -> Item {
        Item::Card(Box::new(Card::sign(&*self.keys, self.peer.clone(), 0, false, CLOCK).unwrap()))
    }
}

fn someone(authority: &Authority, name: &str, number: u32) -> Someone {
    let identity = Identity { node: name.parse().unwrap(), role: Role::Edge, region: "eu-central".parse().unwrap() };
    let keys = authority.issue(identity.clone());
    Someone { peer: Peer::new(identity, SocketAddr::from((number.to_be_bytes(), 4433)), CLOCK), keys }
}

/// A node that has been shown the certificates of `others`.
fn membership(me: &Someone, others: &[&Someone], now: Instant) -> Membership {
    others.iter().for_each(|other| assert!(me.keys.learn(other.keys.certificate())));
    let (identity, keys) = (me.peer.identity(), me.keys.clone());
    Membership::new(identity, me.peer.addr, keys, (CLOCK, now), Settings::default(), 1)
}

/// Gossip of `from`, with its card.
fn hello(from: &Someone, to: &Peer, members: &[foca::Member<Peer>]) -> Bytes {
    let packet = gossip(&from.peer, to, members);
    [&packet[..], &from.card().encode(MAX_PACKET).unwrap()].concat().into()
}

fn gossip(from: &Peer, to: &Peer, members: &[foca::Member<Peer>]) -> Bytes {
    packet::craft((from.clone(), 0), to.clone(), Message::Gossip, members).unwrap()
}

#[test]
fn the_table_is_capped_and_names_without_a_card_never_enter_it() {
    let (authority, now) = (Authority::default(), Instant::now());
    let (me, sender) = (someone(&authority, "me", 1), someone(&authority, "sender", 2));
    let mut swim = membership(&me, &[&sender], now);
    swim.handle_packet(&sender.peer.identity(), &hello(&sender, &me.peer, &[]), now).unwrap();
    for i in 0..300 {
        let ghost = |k| Peer { life: CLOCK, ..someone(&Authority::default(), &format!("n{i}-{k}"), i).peer };
        let ghosts: Vec<_> = (0..10).map(|k| foca::Member::alive(ghost(k))).collect();
        swim.handle_packet(&sender.peer.identity(), &gossip(&sender.peer, &me.peer, &ghosts), now).unwrap();
        while swim.poll_transmit().is_some() || swim.poll_event().is_some() {}
    }
    assert_eq!((swim.members().len(), swim.foca.iter_membership_state().len()), (1, 1));
    for i in 0..MAX_MEMBERS_KNOWN as u32 + 10 {
        let real = someone(&authority, &format!("n{i}"), i);
        me.keys.learn(real.keys.certificate());
        let Item::Card(card) = real.card() else { unreachable!() };
        swim.hear_card(*card, &real.peer, now);
        (swim.outbox, swim.events) = Default::default();
    }
    // One of them is this node's own.
    assert_eq!(swim.members().len(), MAX_MEMBERS_KNOWN - 1);
    assert_eq!(swim.take_disbelieved()["full"], 12);
}

#[test]
fn only_a_member_held_down_is_told_that_it_is() {
    let (authority, now) = (Authority::default(), Instant::now());
    let (me, other) = (someone(&authority, "me", 1), someone(&authority, "other", 2));
    let mut swim = membership(&me, &[&other], now);
    let undead = packet::craft((me.peer.clone(), 0), other.peer.clone(), Message::TurnUndead, &[]).unwrap();
    let greeting = hello(&other, &me.peer, &[]);
    swim.handle_packet(&other.peer.identity(), &greeting, now).unwrap();
    let undead = packet::header(&undead).unwrap().0;
    let greeting = packet::header(&greeting).unwrap().0;
    assert!(swim.is_needless(&other.peer, &undead));
    let goodbye = gossip(&other.peer, &me.peer, &[foca::Member::down(other.peer.clone())]);
    swim.handle_packet(&other.peer.identity(), &goodbye, now).unwrap();
    assert!(!swim.is_needless(&other.peer, &undead));
    assert!(!swim.is_needless(&other.peer, &greeting));
}

#[test]
fn a_node_that_is_down_is_forgotten_in_time() {
    let (authority, now) = (Authority::default(), Instant::now());
    let (me, other) = (someone(&authority, "me", 1), someone(&authority, "other", 2));
    let mut swim = membership(&me, &[&other], now);
    let goodbye = hello(&other, &me.peer, &[foca::Member::down(other.peer.clone())]);
    swim.handle_packet(&other.peer.identity(), &goodbye, now).unwrap();
    let end = now + Settings::default().forget_after + Duration::from_secs(10);
    while let Some(next) = swim.poll_timeout().filter(|next| *next < end) {
        swim.handle_timeout(next);
        while swim.poll_transmit().is_some() {}
    }
    assert_eq!(swim.foca.iter_membership_state().len(), 0);
}

#[test]
fn reports_published_in_a_rush_go_out_as_one() {
    let (authority, now) = (Authority::default(), Instant::now());
    let (me, other) = (someone(&authority, "me", 1), someone(&authority, "other", 2));
    let mut swim = membership(&me, &[&other], now);
    swim.handle_packet(&other.peer.identity(), &hello(&other, &me.peer, &[]), now).unwrap();
    for meetings in 0..100 {
        let report = Report {
            node: "someone-else".parse().unwrap(),
            at: crate::clock::Micros(CLOCK * 1000),
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
    assert_eq!(swim.reports.get(&me.peer.node).unwrap().meetings, 0);
    swim.handle_timeout(now + Settings::default().report_gap);
    let sent = swim.reports.get(&me.peer.node).unwrap();
    assert_eq!((sent.meetings, sent.node.clone()), (99, me.peer.node));
    assert_eq!((swim.rumours.len(), swim.rumours.are_brisk()), (1, true));
}
