//! Two nodes that were given one id: the one that answers stays, and the newcomer waits.
//!
//! A card of a later life says where its node is now. It may have moved; then nobody answers for it where it was:
//!
//! ```text
//! newcomer ── card, at B ──▶ us ── ping ──▶ A, where its id is alive
//!                                   ack ──▶ the card is refused, the newcomer and A are told
//!                               silence ──▶ the card is taken: it has moved
//! ```
//!
//! Of whoever passes a card on it is believed that it has asked, unless the node was heard where it was since the card's life
//! began. A node that is shown a later card of its own id asks at that card's address who is there, in the same way.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use foca::{Message, ProbeNumber};
use rand::RngExt;

use super::{Event, MAX_PACKET, Membership, Transmit, cards::Card, items::Item, limits::Limit, packet, peer::Peer};
use crate::identity::NodeId;

/// So long whoever is alive at the known address has to answer: a handshake across the world takes 900 ms.
const ANSWERS: Duration = Duration::from_millis(1500);
/// It is asked again after this: packets are lost.
const AGAIN: Duration = Duration::from_millis(500);
/// So long this node finds out who is at an address that a card of its own id names.
const ASKS: Duration = Duration::from_secs(6);
/// The most that are looked into at a time.
const MOST: usize = 64;

/// What is being looked into.
#[derive(Debug, Default)]
pub(super) struct Twins {
    rivals: BTreeMap<NodeId, Rival>,
    /// Another address of this node's own id, its life there, and who told.
    own: Option<(SocketAddr, u64, Peer, Instant)>,
    /// When each node was heard last, in Unix milliseconds by our clock.
    heard: BTreeMap<NodeId, u64>,
}

/// A card that waits for whether its node is alive elsewhere.
#[derive(Debug)]
struct Rival {
    card: Card,
    from: Peer,
    number: ProbeNumber,
    again: Instant,
    until: Instant,
}

impl Twins {
    pub(super) fn tables(&self) -> [(&'static str, usize); 2] {
        [("gossip_rivals", self.rivals.len()), ("gossip_heard", self.heard.len())]
    }

    pub(super) fn next(&self) -> Option<Instant> {
        let own = self.own.as_ref().map(|(.., until)| *until);
        self.rivals.values().map(|rival| rival.until.min(rival.again)).chain(own).min()
    }

    /// Forgets nodes for which `keep` is false.
    pub(super) fn tidy(&mut self, keep: impl Fn(&NodeId) -> bool) {
        self.heard.retain(|node, _| keep(node));
    }
}

impl Membership {
    /// Whether `card` has to wait: its node is alive at another address, as far as is known.
    pub(super) fn is_challenged(&mut self, card: &Card, from: &Peer, now: Instant) -> bool {
        let node = &card.peer.node;
        let Some(known) = self.cards.get(node).map(|known| known.peer.clone()) else { return false };
        let alive = self.active(node).is_some_and(|member| *member.id() == known);
        if card.gone || known.addr == card.peer.addr || !alive {
            return false;
        }
        let since = self.twins.heard.get(node).is_some_and(|at| *at > card.peer.life);
        if from.node != *node && !since {
            return false;
        }
        if let Some(rival) = self.twins.rivals.get_mut(node) {
            rival.card = card.clone();
            return true;
        }
        if self.twins.rivals.len() < MOST {
            let number = self.rng.random_range(1..=ProbeNumber::MAX);
            let (again, until) = (now + AGAIN, now + ANSWERS);
            let rival = Rival { card: card.clone(), from: from.clone(), number, again, until };
            self.twins.rivals.insert(node.clone(), rival);
            self.challenge(known, number);
        }
        true
    }

    /// Asks at the address of `known`, whoever else is connected under that name.
    fn challenge(&mut self, known: Peer, number: ProbeNumber) {
        if let Some(packet) = packet::craft(self.source(), known.clone(), Message::Ping(number), &[]) {
            let card = self.introduction(&known, MAX_PACKET.saturating_sub(packet.len()));
            let packet = [&packet[..], &card].concat().into();
            self.transmits.push_back(Transmit { to: known.addr, node: None, packet });
        }
    }

    /// `src` sent `message`: perhaps it answers for an id that another claims.
    pub(super) fn note_alive(&mut self, src: &Peer, message: &Message<Peer>, now: Instant) {
        self.twins.heard.insert(src.node.clone(), self.wall(now));
        let answers = |rival: &Rival| *message == Message::Ack(rival.number);
        if !self.twins.rivals.get(&src.node).is_some_and(answers) {
            return;
        }
        let Some(rival) = self.twins.rivals.remove(&src.node) else { return };
        self.disbelieve("twin");
        let (known, other) = (src.addr, rival.card.peer.addr);
        self.events.push_back(Event::Twin { node: src.node.clone(), known, other });
        self.send_items(src.clone(), &[Item::Card(Box::new(rival.card))]);
    }

    /// `from` shows a card of this node's own id, of a life at `addr`: whoever is there is asked.
    pub(super) fn meet_twin(&mut self, (addr, life): (SocketAddr, u64), from: &Peer, now: Instant) {
        if self.twins.own.is_none() && self.limits.allow(Limit::Remind, &from.node, now) {
            self.twins.own = Some((addr, life, from.clone(), now + ASKS));
            self.announce_to(Peer::anyone(addr), now);
        }
    }

    /// Another node with this node's id answers at `addr`: its cards are of no concern to this one.
    pub fn handle_twin(&mut self, addr: SocketAddr) {
        self.twins.own.take_if(|(at, ..)| *at == addr);
    }

    /// Takes the cards of those that have moved, and outlives what this node was elsewhere.
    pub(super) fn settle_twins(&mut self, now: Instant) {
        let due = |(node, rival): (&NodeId, &Rival)| (rival.until <= now).then(|| node.clone());
        while let Some(node) = self.twins.rivals.iter().find_map(due) {
            let Some(Rival { card, from, .. }) = self.twins.rivals.remove(&node) else { continue };
            if self.cards.get(&node).is_none_or(|known| card.is_later(known)) {
                self.take_card(card, &from, now);
            }
        }
        let again = |(node, rival): (&NodeId, &mut Rival)| {
            let due = rival.again <= now;
            rival.again = if due { now + AGAIN } else { rival.again };
            due.then(|| (node.clone(), rival.number))
        };
        let asked: Vec<(NodeId, ProbeNumber)> = self.twins.rivals.iter_mut().filter_map(again).collect();
        for (node, number) in asked {
            if let Some(known) = self.cards.get(&node).map(|known| known.peer.clone()) {
                self.challenge(known, number);
            }
        }
        if let Some((_, life, from, _)) = self.twins.own.take_if(|(.., until)| *until <= now) {
            self.outlive(life, &from, now);
        }
    }
}
