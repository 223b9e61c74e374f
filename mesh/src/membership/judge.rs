//! What is believed of what one node says of others.
//!
//! | it is said | believed |
//! |---|---|
//! | where a node is, its role, region and life | by its own signed card alone |
//! | it is alive after all, or has left | by its own later card |
//! | it is suspected | as SWIM does: it costs nothing but its answer |
//! | it is down | of the node itself; else where our own probes find it so, at once if two others say so too |
//! | we are suspected, or down | and answered with a new incarnation or life, at the pace of [`Limit`] |
//! | its report | with its signature alone, see `reports` |
//!
//! Whoever is told of a Down looks for itself. So however many certificates are in wrong hands, they take down nobody
//! who answers; what two tellers save is the time that a suspect has to refute.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use foca::{Member, Message, State};
use rand::RngExt;

use super::{Membership, cards::Card, items::Item, keys::Fingerprint, limits::Limit, peer::Peer};
use crate::identity::NodeId;

/// Tellers of a node's end count together within this.
const TOGETHER: Duration = Duration::from_secs(30);
/// So many must say that a node is down for our own unanswered probe to be enough.
const TELLERS: usize = 2;
/// How many nodes of a mesh look for themselves, on average, when they hear of a suspicion: they are the tellers that
/// the rest waits for.
const LOOKERS: usize = 8;
/// A node's clock may be this far ahead of ours.
pub(super) const MOST_AHEAD: Duration = Duration::from_secs(2 * 86_400);
/// A clock that differs by more is told of.
const CLOCK_DIFFERS: Duration = Duration::from_secs(30);

/// Who says that a node's life is over.
#[derive(Debug, Default)]
pub(super) struct Accusers(BTreeMap<NodeId, BTreeMap<NodeId, Instant>>);

impl Accusers {
    /// `teller` says it too.
    fn add(&mut self, accused: &NodeId, teller: &NodeId, now: Instant) {
        self.0.entry(accused.clone()).or_default().insert(teller.clone(), now);
    }

    /// Whether enough others say that `accused` is down.
    pub(super) fn are_enough(&self, accused: &NodeId, now: Instant) -> bool {
        let said = self.0.get(accused).into_iter().flat_map(BTreeMap::values);
        said.filter(|at| **at + TOGETHER > now).count() >= TELLERS
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The node was heard, is down, or is on a later life.
    pub(super) fn clear(&mut self, node: &NodeId) {
        self.0.remove(node);
    }

    pub(super) fn tidy(&mut self, now: Instant) {
        self.0.retain(|_, tellers| {
            tellers.retain(|_, at| *at + TOGETHER > now);
            !tellers.is_empty()
        });
    }
}

impl Membership {
    /// Takes in a card that `from` told; what it says is believed if it is signed by the node that it is of.
    pub(super) fn hear_card(&mut self, card: Card, from: &Peer, now: Instant) {
        let node = card.peer.node.clone();
        if self.cards.get(&node).is_some_and(|known| !card.is_later(known)) {
            return;
        }
        if card.peer.life > self.latest(now) || card.at > self.latest(now) {
            self.tell_clock(from, now);
            return self.disbelieve("future");
        }
        let Some(holder) = self.keys.holder(card.certificate) else {
            if !self.cards.wait(card, from, now) {
                self.disbelieve("waiting");
            }
            return;
        };
        if !card.peer.is(&holder) {
            return self.disbelieve("certificate");
        }
        if !self.limits.allow(Limit::Proof, &from.node, now) {
            return self.disbelieve("too_much");
        }
        if !card.is_signed(&*self.keys) {
            return self.disbelieve("signature");
        }
        if node == self.foca.identity().node {
            if card.peer.addr != self.foca.identity().addr {
                return self.meet_twin((card.peer.addr, card.peer.life), from, now);
            }
            return self.outlive(card.peer.life, from, now);
        }
        if !self.is_challenged(&card, from, now) {
            self.take_card(card, from, now);
        }
    }

    pub(super) fn take_card(&mut self, card: Card, from: &Peer, now: Instant) {
        let node = card.peer.node.clone();
        let known = self.cards.get(&node);
        if known.is_none() && self.cards.len() >= super::MAX_MEMBERS_KNOWN {
            return self.disbelieve("full");
        }
        let reborn = known.is_none_or(|known| known.peer != card.peer);
        if reborn {
            if !self.limits.allow(Limit::Life, &node, now) {
                return self.disbelieve("too_many_lives");
            }
            self.reports.forget(&node);
        }
        self.accusers.clear(&node);
        let teller = (from.node != node).then(|| from.node.clone());
        let update = card.update();
        self.cards.keep(card, teller);
        self.apply(vec![update]);
        self.tell_soon(now);
    }

    /// Somebody holds a card of ours from a later life: this process began by a clock that went back, or another one
    /// has our certificate.
    pub(super) fn outlive(&mut self, life: u64, from: &Peer, now: Instant) {
        let me = self.foca.identity().clone();
        if !self.limits.allow(Limit::Renewals, &me.node, now) {
            return self.disbelieve("renewals");
        }
        let Some(next) = me.after(life.max(me.life)) else { return };
        tracing::info!(life, "was in a later life before, joining again");
        if let Err(error) = self.foca.change_identity(next, &mut self.outbox) {
            tracing::debug!(%error, "no later life");
        }
        self.rejoins += 1;
        self.note_joined(false, now);
        self.settle(now);
        self.announce_to(from.clone(), now);
    }

    /// A certificate that was to be fetched has come, or one was shown by who holds it.
    pub fn handle_certificate(&mut self, certificate: Fingerprint, now: Instant) {
        for (card, from) in self.cards.arrived(certificate) {
            if self.keys.holder(certificate).is_some() {
                self.hear_card(card, &from, now);
            }
        }
        self.settle(now);
    }

    /// The keys have changed: the own one, or which certificates are accepted.
    pub fn handle_keys(&mut self, now: Instant) {
        let lost = self.cards.drop_unaccepted(&*self.keys);
        lost.iter().for_each(|node| self.reports.forget(node));
        self.card = None;
        self.show_card();
        self.sign_anew(now);
        self.settle(now);
    }

    /// The node has another key, in `keys`, from now on.
    pub fn take_keys(&mut self, keys: std::sync::Arc<dyn super::Keys>, now: Instant) {
        self.keys = keys;
        self.handle_keys(now);
    }

    /// Whether the sender is who it says on the life that it says; else it is asked, or told of a later one.
    pub(super) fn is_introduced(&mut self, src: &Peer, now: Instant) -> bool {
        match self.cards.get(&src.node) {
            Some(card) if card.peer == *src => true,
            Some(card) if foca::Identity::win_addr_conflict(&card.peer, src) => {
                if self.limits.allow(Limit::Remind, &src.node, now) {
                    let item = Item::Card(Box::new(card.clone()));
                    self.send_items(src.clone(), &[item]);
                }
                self.disbelieve("former_life");
                false
            }
            _ => {
                self.cards.want(&src.node, now);
                self.disbelieve("no_card");
                false
            }
        }
    }

    /// Whether each node that `message` names is known, and as it is named: packets are sent there.
    pub(super) fn names_the_known(&self, message: &Message<Peer>) -> bool {
        let known = |peer: &Peer| {
            *peer == *self.foca.identity() || self.cards.get(&peer.node).is_some_and(|card| card.peer == *peer)
        };
        match message {
            Message::PingReq { target, .. } | Message::IndirectAck { target, .. } => known(target),
            Message::IndirectPing { origin, .. } | Message::ForwardedAck { origin, .. } => known(origin),
            _ => true,
        }
    }

    /// What of `members`, told by `from`, SWIM is to hear.
    pub(super) fn judge(&mut self, from: &Peer, members: Vec<Member<Peer>>, now: Instant) -> Vec<Member<Peer>> {
        members.into_iter().filter(|member| self.believes(from, member, now)).collect()
    }

    fn believes(&mut self, from: &Peer, update: &Member<Peer>, now: Instant) -> bool {
        let peer = update.id();
        if peer.node == self.foca.identity().node {
            return self.believes_of_us(from, update, now);
        }
        if from.node == peer.node {
            return from == peer && update.state() == State::Down;
        }
        let Some(card) = self.cards.get(&peer.node) else {
            self.want_card(from, &peer.node, now);
            return false;
        };
        if card.peer != *peer {
            if foca::Identity::win_addr_conflict(peer, &card.peer) {
                self.want_card(from, &peer.node, now);
            }
            return false;
        }
        if update.incarnation() > card.incarnation {
            self.want_card(from, &peer.node, now);
            return false;
        }
        let refuted = update.incarnation() < card.incarnation;
        match update.state() {
            State::Suspect if refuted => false,
            State::Alive => {
                self.meet(peer, now);
                false
            }
            State::Suspect => self.believes_suspicion(from, update, now),
            State::Down => self.believes_end(from, peer, now),
        }
    }

    /// A node that was forgotten may still be there: it is believed where it answers.
    fn meet(&mut self, peer: &Peer, now: Instant) {
        let forgotten = !self.foca.iter_membership_state().any(|member| member.id().node == peer.node);
        if forgotten && self.limits.allow(Limit::Look, &self.foca.identity().node.clone(), now) {
            self.announce_to(peer.clone(), now);
        }
    }

    /// At once, if our own probe of it was not answered either; else it is looked at.
    fn believes_end(&mut self, from: &Peer, peer: &Peer, now: Instant) -> bool {
        let Some(member) = self.active(&peer.node).filter(|member| member.id() == peer).cloned() else { return false };
        self.accusers.add(&peer.node, &from.node, now);
        if self.accusers.are_enough(&peer.node, now) && self.timers.suspects(&member) {
            self.accusers.clear(&peer.node);
            return true;
        }
        self.disbelieve("unseen");
        self.look(&peer.node, from, now);
        false
    }

    /// SWIM hears of a suspicion that is new, and some of those who do see for themselves.
    fn believes_suspicion(&mut self, from: &Peer, suspicion: &Member<Peer>, now: Instant) -> bool {
        let peer = suspicion.id();
        let is_new = |member: &Member<Peer>| member.id() == peer && member.state() == State::Alive;
        if !self.active(&peer.node).is_some_and(is_new) {
            return false;
        }
        if !self.limits.allow(Limit::Suspicion, &from.node, now) {
            self.disbelieve("suspicions");
            return false;
        }
        if self.rng.random_range(0..self.foca.num_members().max(1)) < LOOKERS {
            self.look_at_suspect(suspicion, now);
        }
        true
    }

    /// Probes it now, and tells it why. Whoever was told has the time of the probe to answer the suspicion, too: so
    /// those who look for themselves are not much later than the one who raised it.
    fn look_at_suspect(&mut self, suspicion: &Member<Peer>, now: Instant) {
        let me = self.foca.identity().node.clone();
        if self.hints.contains(&suspicion.id().node) || !self.limits.allow(Limit::Look, &me, now) {
            return;
        }
        let helpers = self.probe(suspicion.id(), std::slice::from_ref(suspicion));
        self.hints.add(suspicion, helpers, true, now + self.settings.probe_period);
    }

    /// Probes `node` now, since `from` holds it down, and suspects it if there is no answer.
    pub(super) fn look(&mut self, node: &NodeId, from: &Peer, now: Instant) {
        if self.limits.allow(Limit::Look, &from.node, now) {
            self.hint_lost(node, now);
        }
    }

    /// What is said of this node is answered, but nobody can have it answer all the time.
    fn believes_of_us(&mut self, from: &Peer, update: &Member<Peer>, now: Instant) -> bool {
        let me = self.foca.identity();
        if update.id() != me {
            return false; // of a former life
        }
        match update.state() {
            State::Alive => false,
            State::Suspect if update.incarnation() != self.incarnation() => false,
            State::Suspect => {
                let me = me.node.clone();
                let within = self.limits.allow(Limit::Refutation, &from.node, now)
                    && self.limits.allow(Limit::Refutations, &me, now);
                if !within {
                    self.disbelieve("refutations");
                }
                within
            }
            State::Down => self.may_renew(from, now),
        }
    }

    /// Whether `from`, who holds us down, may have us begin another life.
    pub(super) fn may_renew(&mut self, from: &Peer, now: Instant) -> bool {
        let me = self.foca.identity().node.clone();
        let within = self.limits.allow(Limit::Renewal, &from.node, now) && self.limits.allow(Limit::Renewals, &me, now);
        if !within {
            self.disbelieve("renewals");
        }
        within
    }

    pub(super) fn want_card(&mut self, from: &Peer, node: &NodeId, now: Instant) {
        if self.limits.allow(Limit::Ask, &from.node, now) {
            self.cards.want(node, now);
        } else {
            self.disbelieve("too_much");
        }
    }

    /// Asks the sender of the packet at hand for what it told of and we lack.
    pub(super) fn ask_for_cards(&mut self, from: &Peer, now: Instant) {
        let wanted = self.cards.take_wanted(from, now);
        self.ask_for(from, &wanted);
        self.deadlines.cards = self.cards.ask_again_at();
    }

    /// Asks once more where neither card nor word came: packets are lost.
    pub(super) fn ask_again(&mut self, now: Instant) {
        for (from, keys) in self.cards.take_unanswered(now) {
            self.ask_for(&from, &keys);
        }
        self.deadlines.cards = self.cards.ask_again_at();
    }

    fn ask_for(&mut self, from: &Peer, keys: &[super::items::Key]) {
        for keys in keys.chunks(128) {
            self.send_items(from.clone(), &[Item::Cards(keys.to_vec())]);
        }
    }

    /// Has SWIM hear of it.
    pub(super) fn apply(&mut self, updates: Vec<Member<Peer>>) {
        if let Err(error) = self.foca.apply_many(updates.into_iter(), true, &mut self.outbox) {
            tracing::debug!(%error, "update not applied");
        }
    }

    /// What the clock says, in Unix milliseconds.
    pub(super) fn wall(&self, now: Instant) -> u64 {
        self.clock.0.saturating_add(now.saturating_duration_since(self.clock.1).as_millis() as u64)
    }

    /// Nothing is believed to be of a later time.
    pub(super) fn latest(&self, now: Instant) -> u64 {
        self.wall(now).saturating_add(MOST_AHEAD.as_millis() as u64)
    }

    /// Tells a node whose times are far from ours what our clock says.
    fn tell_clock(&mut self, to: &Peer, now: Instant) {
        if self.limits.allow(Limit::Remind, &to.node, now) {
            self.send_items(to.clone(), &[Item::Clock(self.wall(now))]);
        }
    }

    /// `from` holds our times to be wrong.
    pub(super) fn hear_clock(&mut self, from: &Peer, theirs: u64, now: Instant) {
        let ours = self.wall(now);
        let ahead = i64::try_from(i128::from(ours) - i128::from(theirs)).unwrap_or(i64::MAX);
        if u128::from(ahead.unsigned_abs()) > CLOCK_DIFFERS.as_millis() {
            self.events.push_back(super::Event::ClockDiffers { by: from.node.clone(), ahead });
        }
    }

    pub(super) fn disbelieve(&mut self, reason: &'static str) {
        *self.disbelieved.entry(reason).or_default() += 1;
    }

    /// What was told and not believed since the last call, by reason.
    pub fn take_disbelieved(&mut self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut self.disbelieved)
    }

    /// This node's card as it is now, signed anew if anything in it has changed.
    pub(super) fn show_card(&mut self) {
        let (peer, incarnation) = self.source();
        let same = |card: &Card| card.peer == peer && card.incarnation == incarnation && card.gone == self.left;
        if self.card.as_ref().is_some_and(same) {
            return;
        }
        let reborn = self.card.as_ref().is_some_and(|card| card.peer != peer);
        let before = self.card.as_ref().map_or(0, |card| card.at + 1);
        let at = self.wall(self.last_now).max(before);
        let Some(card) = Card::sign(&*self.keys, peer, incarnation, self.left, at) else {
            return tracing::warn!("the node's key does not sign: others will not believe that it is there");
        };
        self.shown_to = BTreeSet::new();
        self.cards.keep(card.clone(), None);
        self.card = Some(card);
        if reborn {
            self.sign_anew(self.last_now);
        }
    }

    /// The own card, for a node that has not seen it as it is now.
    pub(super) fn introduction(&mut self, to: &Peer, room: usize) -> Vec<u8> {
        self.show_card();
        if !to.is_anyone() && self.shown_to.contains(&to.node) {
            return vec![];
        }
        let item = self.card.clone().and_then(|card| Item::Card(Box::new(card)).encode(room));
        if item.is_some() && !to.is_anyone() {
            self.shown_to.insert(to.node.clone());
        }
        item.unwrap_or_default()
    }

    /// Cards that `to` has asked for.
    pub(super) fn give_cards(&mut self, to: &Peer, keys: &[super::items::Key], now: Instant) {
        self.show_card();
        let mut items = vec![];
        for card in keys.iter().take(super::sync::MAX_REPORTS_GIVEN).filter_map(|key| self.cards.by_key(*key)) {
            items.push(Item::Card(Box::new(card.clone())));
        }
        if self.limits.allow(Limit::Give, &to.node, now) {
            self.send_items(to.clone(), &items);
        }
    }
}
