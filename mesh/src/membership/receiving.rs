//! What comes in a packet, and who is believed.

use std::time::Instant;

use foca::Message;
use geo::address::told;

use super::{
    Membership,
    items::Item,
    packet::{self, PacketError},
    peer::Peer,
    upkeep,
};
use crate::identity::Identity;

impl Membership {
    /// Takes in a packet that came on a connection whose certificate says `from`.
    ///
    /// # Errors
    /// The packet is not one, is not from `from`, or names more nodes than fit. Arbitrary bytes never
    /// panic.
    pub fn handle_packet(&mut self, from: &Identity, packet: &[u8], now: Instant) -> Result<(), PacketError> {
        if self.left {
            return Ok(());
        }
        self.last_now = now;
        let packet::Packet { mut header, members, items } = packet::read(packet)?;
        let src = header.src.clone();
        if !src.is(from) {
            return Err(PacketError::Impostor { claimed: src.node, certified: from.node.clone() });
        }
        if src.node == self.foca.identity().node {
            return Err(PacketError::Ourselves);
        }
        let (rejoins, incarnation) = (self.rejoins, self.incarnation());
        let ours = header.dst == *self.foca.identity() || header.dst.is_anyone();
        // Its card alone makes it a member, so that is to be asked first.
        let newcomer = header.message == Message::Announce && self.active(&src.node).is_none_or(|m| *m.id() != src);
        let items = self.take_cards(&src, items, ours, now);
        let taken = if self.is_introduced(&src, now) {
            let certain = self.cards.get(&src.node).map_or(0, |card| card.incarnation);
            header.src_incarnation = header.src_incarnation.min(certain);
            if newcomer {
                self.tell_all(&src, now);
            }
            self.take_in(header, members, items, now)
        } else {
            Ok(())
        };
        self.ask_for_cards(&src, now);
        self.settle(now);
        if self.rejoins > rejoins {
            // Whoever tells us that we are down should be the first to hear of our new life.
            self.announce_to(src, now);
        } else if self.incarnation() > incarnation {
            // Whoever suspects us, or has heard of it, should be the first to hear that we are well.
            self.send(src, Message::Gossip, &[]);
        }
        taken
    }

    /// Takes in the cards among `items`; the rest is given back. What was meant for another life of ours tells of us
    /// alone: else we would hold ourselves accepted in this one.
    fn take_cards(&mut self, from: &Peer, items: Vec<Item>, ours: bool, now: Instant) -> Vec<Item> {
        let mut rest = vec![];
        for item in items {
            match item {
                Item::Card(card) if !ours && card.peer.node != self.foca.identity().node => {}
                Item::Card(card) if told(card.peer.addr) != Ok(card.peer.addr) => self.disbelieve("address"),
                Item::Card(card) => self.hear_card(*card, from, now),
                Item::Cards(keys) => self.give_cards(from, &keys, now),
                Item::Clock(millis) => self.hear_clock(from, millis, now),
                other => rest.push(other),
            }
        }
        rest
    }

    /// Takes in what a node says that we know by its card.
    fn take_in(
        &mut self,
        mut header: foca::Header<Peer>,
        members: Vec<foca::Member<Peer>>,
        items: Vec<Item>,
        now: Instant,
    ) -> Result<(), PacketError> {
        let src = header.src.clone();
        if !self.names_the_known(&header.message) {
            self.disbelieve("stranger");
            return Ok(());
        }
        if header.message == Message::TurnUndead && header.dst == *self.foca.identity() && !self.may_renew(&src, now) {
            return Ok(());
        }
        self.hints.clear(&src.node);
        self.ring.clear(&src.node);
        self.accusers.clear(&src.node);
        if let Message::ForwardedAck { origin, probe_number: upkeep::HINT_PROBE } = &header.message {
            self.hints.vouch(&origin.node, &src.node);
        }
        self.note_answer(&src.node, &header.message, now);
        self.note_alive(&src, &header.message, now);
        if header.dst.is_anyone() && header.message == Message::Announce {
            // How an announcement to anyone becomes one to us.
            header.dst = self.foca.identity().clone();
        }
        let ours = header.dst == *self.foca.identity();
        let taken = self.foca.handle_data(&packet::bare(&header)?, &mut self.outbox);
        if ours && self.active(&src.node).is_some_and(|member| *member.id() == src) {
            let believed = self.judge(&src, members, now);
            if !believed.is_empty() {
                self.apply(believed);
            }
            self.read_items(&src, items, now);
        }
        Ok(taken?)
    }
}
