//! Packets that no honest node sends, by one whose certificate is sound: for tests of what others believe.

use bytes::Bytes;
use foca::{Incarnation, Message, State};

use super::{
    Membership,
    cards::Card,
    chain::Chain,
    items::{self, Item, Note, Signed},
    packet,
    peer::Peer,
};
use crate::{
    identity::{Identity, NodeId},
    wire::report::Report,
};

/// What one node is to be told in one packet.
#[derive(Debug, Clone)]
pub struct Forgery {
    src: (Peer, Incarnation),
    dst: Peer,
    message: Message<Peer>,
    members: Vec<foca::Member<Peer>>,
    items: Vec<Item>,
}

/// What is said of a node's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// It lives.
    Alive,
    /// It may not.
    Suspect,
    /// It does not.
    Down,
}

impl Membership {
    /// A packet from this node to `to`, a live member.
    pub fn forge(&self, to: &NodeId) -> Option<Forgery> {
        let dst = self.active(to)?.id().clone();
        Some(Forgery { src: self.source(), dst, message: Message::Gossip, members: vec![], items: vec![] })
    }

    /// The card that this node holds of `node`, to be told again later.
    pub fn card_of(&self, node: &NodeId) -> Option<Replay> {
        self.cards.get(node).cloned().map(Replay)
    }

    /// This node's own life, in Unix milliseconds.
    pub fn life(&self) -> u64 {
        self.foca.identity().life
    }
}

/// What a node has signed once.
#[derive(Debug, Clone)]
pub struct Replay(Card);

impl Forgery {
    /// Says of `node`, as `by` knows it, that it is so; `life` and `incarnation` are added to those that it has.
    pub fn say(mut self, by: &Membership, node: &NodeId, said: Said, life: u64, incarnation: Incarnation) -> Self {
        let state = match said {
            Said::Alive => State::Alive,
            Said::Suspect => State::Suspect,
            Said::Down => State::Down,
        };
        let known = by.foca.iter_membership_state().find(|member| member.id().node == *node);
        let Some(peer) =
            known.map(|member| member.id().clone()).or_else(|| (self.dst.node == *node).then(|| self.dst.clone()))
        else {
            return self;
        };
        let told = by.cards.get(node).map_or(0, |card| card.incarnation).saturating_add(incarnation);
        let peer = Peer { life: peer.life.saturating_add(life), ..peer };
        self.members.push(foca::Member::new(peer, told, state));
        self
    }

    /// Says that there is a node as `identity` and `peer` have it.
    pub fn claim(mut self, identity: Identity, addr: std::net::SocketAddr, life: u64) -> Self {
        self.members.push(foca::Member::new(Peer::new(identity, addr, life), 0, State::Alive));
        self
    }

    /// The same with a card, signed with the key of `by`.
    pub fn claim_by_card(mut self, by: &Membership, identity: Identity, addr: std::net::SocketAddr, life: u64) -> Self {
        let card = Card::sign(&*by.keys, Peer::new(identity, addr, life), 0, false, by.wall(by.last_now));
        self.items.extend(card.map(|card| Item::Card(Box::new(card))));
        self
    }

    /// Says that `node` has left, in a card signed with the key of `by`, under the certificate of `node` if `posing`.
    pub fn farewell(mut self, by: &Membership, node: &NodeId, posing: bool) -> Self {
        let Some(known) = by.cards.get(node) else { return self };
        let card = Card::sign(&*by.keys, known.peer.clone(), known.incarnation, true, known.at + 1);
        self.items.extend(card.map(|card| {
            let certificate = if posing { known.certificate } else { card.certificate };
            Item::Card(Box::new(Card { certificate, ..card }))
        }));
        self
    }

    /// Tells a card again.
    pub fn replay(mut self, card: &Replay) -> Self {
        self.items.push(Item::Card(Box::new(card.0.clone())));
        self
    }

    /// A report of another node, signed with the key of `by`; and the same as a note and as a mark.
    pub fn report(mut self, by: &mut Membership, report: &Report) -> Self {
        let Some((certificate, life)) = by.cards.get(&report.node).map(|card| (card.certificate, card.peer.life))
        else {
            return self;
        };
        let chain = Chain::new(&mut by.rng);
        let Some(anchor) = chain.link(0) else { return self };
        let sum = by.reports.get(&report.node).map_or(0, |known| items::sum(&known));
        if let Some(mut signed) = Signed::sign(&*by.keys, life, report, anchor) {
            signed.proof.tag = items::tag(certificate, life);
            self.items.push(Item::Report(Box::new(signed.clone())));
            self.items.push(Item::Answer(Box::new(signed)));
        }
        if let Some(mut note) = Note::sign(&*by.keys, life, report, sum, anchor) {
            note.proof.tag = items::tag(certificate, life);
            self.items.push(Item::Notes(vec![note]));
        }
        if let (Some(mark), Some(link)) = (by.reports.mark(&report.node), chain.link(9)) {
            self.items.push(Item::Marks(vec![items::Mark { steps: mark.steps + 9, link, ..mark }]));
        }
        self
    }

    /// Tells the receiver that it is held down.
    pub fn turn_undead(mut self) -> Self {
        self.message = Message::TurnUndead;
        self
    }

    /// Has the receiver send packets to `addr`, in the name of `node`.
    pub fn have_pinged(mut self, node: Identity, addr: std::net::SocketAddr, life: u64) -> Self {
        self.message = Message::PingReq { target: Peer::new(node, addr, life), probe_number: 7 };
        self
    }

    /// Speaks from another life or address than the sender's own.
    pub fn from_life(mut self, life: u64) -> Self {
        self.src.0.life = life;
        self
    }

    /// Doubts every node that `by` knows, and asks for all it has.
    pub fn ask_for_all(mut self, by: &Membership) -> Self {
        let keys: Vec<_> = by.foca.iter_members().map(|m| items::Key::of(&m.id().node)).take(40).collect();
        let lives: Vec<_> =
            by.foca.iter_members().map(|m| items::Key::of_life(&m.id().node, m.id().life)).take(40).collect();
        self.items.push(Item::Want(keys.clone()));
        self.items.push(Item::Cards(keys));
        self.items.push(Item::Doubt(lives.clone()));
        self.items.push(Item::Missing(lives));
        self.items.push(Item::Roll { answer: false, range: (items::Key::FIRST, items::Key::LAST), lives: vec![] });
        self
    }

    /// The packet; members and items beyond its length are left out.
    pub fn packet(self) -> Option<Bytes> {
        let packet = packet::craft(self.src, self.dst, self.message, &self.members)?;
        let mut bytes = packet.to_vec();
        for item in &self.items {
            bytes.extend(item.encode(super::MAX_PACKET.saturating_sub(bytes.len())).unwrap_or_default());
        }
        Some(bytes.into())
    }
}
