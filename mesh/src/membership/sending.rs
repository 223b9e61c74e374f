//! What goes out, with what its receiver should hear beside it.

use std::time::Instant;

use bytes::Bytes;
use foca::Message;

use super::{MAX_PACKET, Membership, Transmit, items::Item, packet, peer::Peer};

impl Membership {
    pub(super) fn settle_send(&mut self, to: Peer, packet: Bytes, now: Instant) {
        let Ok((header, _)) = packet::header(&packet) else { return };
        if self.is_needless(&to, &header) {
            return;
        }
        self.note_incarnation(header.src_incarnation);
        if let Message::Ping(number) = header.message {
            self.begin_probe(&to, number, now);
            let room = MAX_PACKET - packet.len();
            let digest = Item::Digest(self.digest(now)).encode(room).unwrap_or_default();
            return self.queue_with_updates(to, packet, &digest);
        }
        self.queue_with_updates(to, packet, &[]);
    }

    /// Adds to a packet what its receiver should hear, as far as it fits.
    pub(super) fn queue_with_updates(&mut self, to: Peer, packet: Bytes, tail: &[u8]) {
        let room = |items: &[u8]| MAX_PACKET.saturating_sub(packet.len() + items.len());
        let mut items = tail.to_vec();
        items.extend(self.introduction(&to, room(&items)));
        if !to.is_anyone() {
            items.extend(self.cards.fill(&to.node, room(&items)));
            items.extend(self.updates.fill(&to.node, room(&items), &self.reports));
        }
        let packet = if items.is_empty() { packet } else { [&packet[..], &items].concat().into() };
        self.queue(to, packet);
    }

    /// foca tells a suspect that it is down even when it has refuted; it would renew itself for nothing.
    pub(super) fn is_needless(&self, to: &Peer, header: &foca::Header<Peer>) -> bool {
        header.message == Message::TurnUndead && self.foca.iter_members().any(|member| member.id() == to)
    }

    pub(super) fn send(&mut self, to: Peer, message: Message<Peer>, updates: &[foca::Member<Peer>]) {
        if let Some(packet) = packet::craft(self.source(), to.clone(), message, updates) {
            self.queue_with_updates(to, packet, &[]);
        }
    }

    pub(super) fn source(&self) -> (Peer, foca::Incarnation) {
        (self.foca.identity().clone(), self.incarnation())
    }

    /// Sends items, which must fit.
    pub(super) fn send_with(&mut self, to: Peer, items: &[u8]) {
        let packet = packet::craft(self.source(), to.clone(), Message::Gossip, &[]);
        if let Some(packet) = packet.filter(|packet| packet.len() + items.len() <= MAX_PACKET) {
            self.queue_with_updates(to, packet, items);
        }
    }

    /// How many bytes of items fit into a packet to `to`.
    pub(super) fn room(&self, to: &Peer) -> usize {
        let packet = packet::craft(self.source(), to.clone(), Message::Gossip, &[]);
        packet.map_or(0, |packet| MAX_PACKET.saturating_sub(packet.len()))
    }

    pub(super) fn queue(&mut self, to: Peer, packet: Bytes) {
        let node = if to.is_anyone() { None } else { Some(to.node) };
        self.transmits.push_back(Transmit { to: to.addr, node, packet });
    }
}
