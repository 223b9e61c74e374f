//! What a node signs of itself: where it is, which life it is on, and whether that life is over.
//!
//! SWIM's own packets tell of third parties unsigned. So they are taken for hints: a node enters the table with its
//! card alone, and a later life, a refutation or a goodbye counts with a later card. Who asks whom:
//!
//! ```text
//! teller ── member, or card ──▶ us      we lack the card: it is asked for of whoever told
//! teller ◀──── wanted cards ─── us
//! teller ───────── cards ─────▶ us      of a certificate that we lack: it is fetched, by the shell, of whoever told
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{
    items::{self, BadItem},
    keys::{Fetch, Fingerprint, Keys},
    peer::Peer,
};
use crate::{codec, identity::NodeId};

/// What is signed begins with this: a node's key signs other things as well.
const DOMAIN: &[u8] = b"nearfield gossip card 1\0";
/// A card that was asked for is asked for again after this: of whoever tells of it, and of the same teller.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(600));
/// How often the same teller is asked.
const TRIES: u8 = 3;
/// The most cards asked for at a time.
const MOST_ASKED: usize = 2048;
/// So long a card waits for its certificate.
const WAIT: Duration = Duration::from_secs(5);
/// The most cards that wait for their certificates, of all tellers and of one.
const WAITING: (usize, usize) = (512, 64);
/// How often each node passes a new card on unasked; whoever hears of the node by SWIM asks for it.
const TELLS: u8 = 6;
/// The most cards told in one packet.
const MOST: usize = 8;

/// One node's word of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Card {
    pub(super) peer: Peer,
    pub(super) incarnation: foca::Incarnation,
    /// It has left: this life is over.
    pub(super) gone: bool,
    /// When it was signed, in Unix milliseconds.
    pub(super) at: u64,
    /// By whose key.
    pub(super) certificate: Fingerprint,
    pub(super) signature: Vec<u8>,
}

impl Card {
    /// Signs it; `None` if the key refuses.
    pub(super) fn sign(
        keys: &dyn Keys,
        peer: Peer,
        incarnation: foca::Incarnation,
        gone: bool,
        at: u64,
    ) -> Option<Self> {
        let certificate = keys.certificate();
        let mut card = Self { peer, incarnation, gone, at, certificate, signature: vec![] };
        card.signature = keys.sign(&card.message())?;
        Some(card)
    }

    /// Whether the key of its certificate signed it.
    pub(super) fn is_signed(&self, keys: &dyn Keys) -> bool {
        keys.verify(self.certificate, &self.message(), &self.signature)
    }

    /// Whether it says more than `other`, of the same node.
    pub(super) fn is_later(&self, other: &Self) -> bool {
        let rest = |card: &Self| (card.incarnation, card.gone, card.at);
        foca::Identity::win_addr_conflict(&self.peer, &other.peer)
            || self.peer == other.peer && rest(self) > rest(other)
    }

    /// What SWIM is to take it for.
    pub(super) fn update(&self) -> foca::Member<Peer> {
        let state = if self.gone { foca::State::Down } else { foca::State::Alive };
        foca::Member::new(self.peer.clone(), self.incarnation, state)
    }

    fn message(&self) -> Vec<u8> {
        let mut bytes = DOMAIN.to_vec();
        self.put_said(&mut bytes);
        bytes
    }

    fn put_said(&self, bytes: &mut Vec<u8>) {
        let said = (&self.peer, self.incarnation, self.gone, self.at);
        let put = codec::encode_body(&said, bytes);
        debug_assert!(put.is_ok(), "names and numbers are short");
        self.certificate.put(bytes);
    }

    pub(super) fn put(&self, bytes: &mut Vec<u8>) {
        self.put_said(bytes);
        bytes.extend(&self.signature);
    }

    pub(super) fn take(bytes: &[u8]) -> Result<Self, super::reports::BadReport> {
        let ((peer, incarnation, gone, at), used) = codec::decode_body(bytes)?;
        let mut rest = bytes.get(used..).unwrap_or_default();
        let certificate = Fingerprint::take(&mut rest).ok_or(BadItem::Short)?;
        Ok(Self { peer, incarnation, gone, at, certificate, signature: rest.to_vec() })
    }
}

/// The newest card of each node, and what is under way to more of them.
#[derive(Debug, Default)]
pub(super) struct Cards {
    newest: BTreeMap<NodeId, Card>,
    keys: BTreeMap<items::Key, NodeId>,
    /// Cards whose certificates are being fetched.
    waiting: BTreeMap<(NodeId, Fingerprint), Waiting>,
    fetches: Vec<Fetch>,
    asked: BTreeMap<items::Key, Asked>,
    /// What the packet at hand makes us ask its sender for.
    wanted: BTreeSet<items::Key>,
    telling: BTreeMap<NodeId, Telling>,
}

#[derive(Debug)]
struct Waiting {
    card: Card,
    from: Peer,
    since: Instant,
}

#[derive(Debug)]
struct Asked {
    at: Instant,
    from: Peer,
    tries: u8,
}

#[derive(Debug)]
struct Telling {
    told: u8,
    /// Who knows it already.
    from: Option<NodeId>,
}

impl Cards {
    pub(super) fn get(&self, node: &NodeId) -> Option<&Card> {
        self.newest.get(node)
    }

    pub(super) fn by_key(&self, key: items::Key) -> Option<&Card> {
        self.newest.get(self.keys.get(&key)?)
    }

    pub(super) fn len(&self) -> usize {
        self.newest.len()
    }

    pub(super) fn tables(&self) -> [(&'static str, usize); 5] {
        [
            ("gossip_cards", self.newest.len()),
            ("gossip_card_keys", self.keys.len()),
            ("gossip_cards_asked", self.asked.len()),
            ("gossip_cards_told", self.telling.len()),
            ("gossip_cards_waiting", self.waiting.len()),
        ]
    }

    /// Keeps a card that is proven, and has it passed on.
    pub(super) fn keep(&mut self, card: Card, from: Option<NodeId>) {
        let node = card.peer.node.clone();
        self.telling.insert(node.clone(), Telling { told: 0, from });
        self.asked.remove(&items::Key::of(&node));
        self.keys.insert(items::Key::of(&node), node.clone());
        self.newest.insert(node, card);
    }

    /// Keeps a card until its certificate is there, and has that fetched; whether there is room.
    pub(super) fn wait(&mut self, card: Card, from: &Peer, now: Instant) -> bool {
        self.waiting.retain(|_, waiting| waiting.since + WAIT > now);
        let key = (card.peer.node.clone(), card.certificate);
        if self.waiting.get(&key).is_some_and(|there| there.from.node == from.node) {
            return true;
        }
        let of_teller = self.waiting.values().filter(|waiting| waiting.from.node == from.node).count();
        if self.waiting.len() >= WAITING.0 || of_teller >= WAITING.1 {
            return false;
        }
        self.fetches.push(Fetch { from: from.node.clone(), certificate: card.certificate });
        self.waiting.insert(key, Waiting { card, from: from.clone(), since: now });
        true
    }

    /// The cards that waited for `certificate`, and who told them.
    pub(super) fn arrived(&mut self, certificate: Fingerprint) -> Vec<(Card, Peer)> {
        let all = std::mem::take(&mut self.waiting).into_iter();
        let (found, rest): (BTreeMap<_, _>, _) = all.partition(|((_, waits_for), _)| *waits_for == certificate);
        self.waiting = rest;
        found.into_values().map(|waiting| (waiting.card, waiting.from)).collect()
    }

    pub(super) fn next_fetch(&mut self) -> Option<Fetch> {
        self.fetches.pop()
    }

    /// The sender of the packet at hand is to be asked for that node's card, if nobody was a moment ago.
    pub(super) fn want(&mut self, node: &NodeId, now: Instant) {
        let key = items::Key::of(node);
        let lately = self.asked.get(&key).is_some_and(|asked| asked.at + ASK_AGAIN.0 > now);
        if !lately && self.asked.len() < MOST_ASKED {
            self.wanted.insert(key);
        }
    }

    pub(super) fn take_wanted(&mut self, from: &Peer, now: Instant) -> Vec<items::Key> {
        let wanted: Vec<_> = std::mem::take(&mut self.wanted).into_iter().collect();
        for key in &wanted {
            self.asked.insert(*key, Asked { at: now, from: from.clone(), tries: 1 });
        }
        wanted
    }

    pub(super) fn ask_again_at(&self) -> Option<Instant> {
        self.asked.values().map(|asked| asked.at + ASK_AGAIN.1).min()
    }

    /// What was asked for and has not come, by whom it is to be asked of once more; what was asked for too often is
    /// given up.
    pub(super) fn take_unanswered(&mut self, now: Instant) -> Vec<(Peer, Vec<items::Key>)> {
        self.asked.retain(|_, asked| asked.at + ASK_AGAIN.1 > now || asked.tries < TRIES);
        let mut again: BTreeMap<NodeId, (Peer, Vec<items::Key>)> = BTreeMap::new();
        for (key, asked) in self.asked.iter_mut().filter(|(_, asked)| asked.at + ASK_AGAIN.1 <= now) {
            (asked.at, asked.tries) = (now, asked.tries + 1);
            again.entry(asked.from.node.clone()).or_insert_with(|| (asked.from.clone(), vec![])).1.push(*key);
        }
        again.into_values().collect()
    }

    /// Forgets cards that waited too long, and those of nodes for which `keep` is false.
    pub(super) fn tidy(&mut self, now: Instant, keep: impl Fn(&NodeId) -> bool) {
        self.waiting.retain(|_, waiting| waiting.since + WAIT > now);
        self.newest.retain(|node, _| keep(node));
        self.keys.retain(|_, node| keep(node));
        self.telling.retain(|node, _| keep(node));
    }

    /// Forgets every card whose certificate is not accepted any more; whose they were.
    pub(super) fn drop_unaccepted(&mut self, keys: &dyn Keys) -> Vec<NodeId> {
        let unaccepted = |card: &&Card| keys.holder(card.certificate).is_none();
        let nodes: Vec<NodeId> = self.newest.values().filter(unaccepted).map(|card| card.peer.node.clone()).collect();
        nodes.iter().for_each(|node| drop(self.newest.remove(node)));
        nodes
    }

    /// Whether cards wait to be told.
    pub(super) fn are_new(&self) -> bool {
        !self.telling.is_empty()
    }

    /// New cards that `to` should see, as items for the end of a packet with `room`.
    pub(super) fn fill(&mut self, to: &NodeId, room: usize) -> Vec<u8> {
        let lacks = |(node, t): &(&NodeId, &Telling)| *node != to && t.from.as_ref() != Some(to);
        let mut order: Vec<(u8, NodeId)> =
            self.telling.iter().filter(lacks).map(|(node, t)| (t.told, node.clone())).collect();
        order.sort_unstable();
        let mut items = vec![];
        for (_, node) in order.into_iter().take(MOST) {
            let (Some(telling), Some(card)) = (self.telling.get_mut(&node), self.newest.get(&node)) else {
                self.telling.remove(&node);
                continue;
            };
            let Some(item) = items::Item::Card(Box::new(card.clone())).encode(room - items.len()) else { break };
            items.extend(item);
            telling.told += 1;
            if telling.told >= TELLS {
                self.telling.remove(&node);
            }
        }
        items
    }
}
