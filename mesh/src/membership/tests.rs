// An `Instant` can only come from the clock: it is the base of virtual time, nothing waits on it.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::time::Duration;

use bytes::Bytes;

use super::{items::Item, *};
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

/// `swim` at its deadlines up to `end`; what it has sent to `to`.
fn run_until(swim: &mut Membership, end: Instant, to: SocketAddr) -> Vec<Transmit> {
    let mut sent = vec![];
    loop {
        sent.extend(std::iter::from_fn(|| swim.poll_transmit()).filter(|transmit| transmit.to == to));
        match swim.poll_timeout().filter(|next| *next <= end) {
            Some(next) => swim.handle_timeout(next),
            None => return sent,
        }
    }
}

/// A node that knows `old`, and hears that `new`, of the same id, is elsewhere on a later life.
fn rivals() -> (Membership, Someone, Someone, Instant) {
    let (authority, now) = (Authority::default(), Instant::now());
    let (me, old) = (someone(&authority, "me", 1), someone(&authority, "twin", 2));
    let mut new = someone(&authority, "twin", 3);
    new.peer.life = CLOCK + 1000;
    let mut swim = membership(&me, &[&old, &new], now);
    swim.handle_packet(&old.peer.identity(), &hello(&old, &me.peer, &[]), now).unwrap();
    run_until(&mut swim, now, old.peer.addr);
    swim.handle_packet(&new.peer.identity(), &hello(&new, &me.peer, &[]), now).unwrap();
    assert_eq!(swim.members()[0].addr, old.peer.addr, "it is asked first");
    (swim, old, new, now)
}

#[test]
fn a_second_node_with_the_same_id_is_refused_while_the_first_answers_and_both_are_named() {
    let (mut swim, old, new, now) = rivals();
    let sent = run_until(&mut swim, now, old.peer.addr);
    let ping = sent.iter().find(|transmit| transmit.node.is_none()).expect("a ping to that address, whoever is there");
    let Message::Ping(number) = packet::header(&ping.packet).unwrap().0.message else { panic!("no ping") };
    let me = swim.foca.identity().clone();
    let ack = packet::craft((old.peer.clone(), 0), me, Message::Ack(number), &[]).unwrap();
    swim.handle_packet(&old.peer.identity(), &ack, now + Duration::from_millis(100)).unwrap();
    let told = std::iter::from_fn(|| swim.poll_event())
        .any(|event| event == Event::Twin { node: old.peer.node.clone(), known: old.peer.addr, other: new.peer.addr });
    assert!(told);
    assert_eq!(swim.take_disbelieved()["twin"], 1);
    assert_eq!(swim.members()[0].addr, old.peer.addr);
}

#[test]
fn a_node_that_has_moved_is_believed_when_nobody_answers_for_it_where_it_was() {
    let (mut swim, old, new, now) = rivals();
    run_until(&mut swim, now + Duration::from_secs(3), old.peer.addr);
    assert_eq!(swim.members()[0].addr, new.peer.addr);
    assert!(!swim.take_disbelieved().contains_key("twin"));
}

#[test]
fn a_move_that_another_tells_of_is_asked_about_only_if_the_node_was_heard_since() {
    let (authority, now) = (Authority::default(), Instant::now());
    let (me, old) = (someone(&authority, "me", 1), someone(&authority, "twin", 2));
    let (mut new, teller) = (someone(&authority, "twin", 3), someone(&authority, "teller", 4));
    new.peer.life = CLOCK + 1000;
    for (heard, taken) in [(Duration::ZERO, &new), (Duration::from_secs(2), &old)] {
        let mut swim = membership(&me, &[&old, &new, &teller], now);
        swim.handle_packet(&old.peer.identity(), &hello(&old, &me.peer, &[]), now + heard).unwrap();
        let told = [&hello(&teller, &me.peer, &[])[..], &new.card().encode(MAX_PACKET).unwrap()].concat();
        swim.handle_packet(&teller.peer.identity(), &told, now + Duration::from_secs(3)).unwrap();
        let addr = swim.members().into_iter().find(|member| member.identity == old.peer.identity()).unwrap().addr;
        assert_eq!(addr, taken.peer.addr, "heard {heard:?} after");
    }
}

#[test]
fn a_node_that_hears_of_itself_elsewhere_asks_there_before_it_begins_another_life() {
    let (authority, now) = (Authority::default(), Instant::now());
    let (me, other) = (someone(&authority, "me", 1), someone(&authority, "other", 2));
    let mut twin = someone(&authority, "me", 3);
    twin.peer.life = CLOCK + 1000;
    let heard = |swim: &mut Membership| {
        let packet = [&hello(&other, &me.peer, &[])[..], &twin.card().encode(MAX_PACKET).unwrap()].concat();
        swim.handle_packet(&other.peer.identity(), &packet, now).unwrap();
        let asked = run_until(swim, now, twin.peer.addr);
        assert!(asked.iter().any(|transmit| transmit.node.is_none()), "whoever is there is asked");
    };
    let later = now + Duration::from_secs(7);
    let mut swim = membership(&me, &[&other, &twin], now);
    heard(&mut swim);
    swim.handle_twin(twin.peer.addr);
    run_until(&mut swim, later, twin.peer.addr);
    assert_eq!((swim.rejoins(), swim.foca.identity().life), (0, CLOCK), "a twin is there");
    let mut swim = membership(&me, &[&other, &twin], now);
    heard(&mut swim);
    run_until(&mut swim, later, twin.peer.addr);
    assert_eq!(swim.foca.identity().life, CLOCK + 1001, "nobody is: it was this node itself");
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
    assert_eq!((swim.updates.len(), swim.updates.are_brisk()), (1, true));
}
