//! Finding what updates have missed: lists of live members are compared, and differences are looked into.
//!
//! ```text
//! a ──ping, digest──▶ b      once a second, to a random member
//! a ◀───────── roll ─── b    if the digests differ and both lists have been quiet
//! a ── roll, doubt, missing, members ─▶ b
//! a ◀────── doubt, missing, members ─── b
//! ```
//!
//! A life that one holds to be over and the other does not is not simply taken as over: after a partition
//! that would carry its errors on. Whoever holds it alive probes it; whoever holds it down announces to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use foca::{Member, Message, State};

use super::{
    Membership,
    items::{self, Digest, Item, Key},
    limits::Limit,
    peer::Peer,
    reports::{Heard, Judge},
};
use crate::identity::NodeId;

/// A list that has not changed for this long is quiet: gossip of the last change has ended.
const QUIET: Duration = Duration::from_secs(2);
/// A roll is called at most this often.
const ROLL_GAP: Duration = Duration::from_secs(1);
/// Packets that one roll call may cause; the next one finds the rest.
const MAX_PACKETS: usize = 24;
/// Members told of, probed or announced to for one part of a roll.
const MAX_TOLD: usize = 48;
const MAX_DOUBTS: usize = 8;
/// The longest wait before reports that are lacking are asked for again.
const LONGEST_WANT: Duration = Duration::from_secs(30);
/// A report that was asked for is asked for again no sooner: marks of it come from many within two seconds, and each
/// question and each answer may be lost.
const ASK_AGAIN: Duration = Duration::from_millis(300);
/// Reports given to one that wants some.
pub(super) const MAX_REPORTS_GIVEN: usize = 48;

/// When lists changed and were compared.
#[derive(Debug, Default)]
pub(super) struct Sync {
    changed: Option<Instant>,
    /// No roll is called before it.
    next: Option<Instant>,
    /// Whose reports were asked for when; forgotten with each repair.
    asked: BTreeMap<Key, Instant>,
    /// When to ask for reports that are lacking, and how long to wait after that.
    want: Option<(Instant, Duration)>,
}

impl Sync {
    /// The list of live members has changed.
    pub(super) fn changed(&mut self, now: Instant) {
        self.changed = Some(now);
        self.want = None;
    }

    fn quiet(&self, now: Instant) -> bool {
        self.changed.is_none_or(|at| at + QUIET <= now)
    }

    /// Forgets whom it asked long ago.
    pub(super) fn tidy(&mut self, now: Instant, period: Duration) {
        self.asked.retain(|_, at| *at + period > now);
    }
}

impl Membership {
    pub(super) fn digest(&self, now: Instant) -> Digest {
        let me = self.foca.identity();
        let own = items::life_hash(&me.node, me.life);
        let others = self.foca.iter_members().map(|member| items::life_hash(&member.id().node, member.id().life));
        let sum = others.fold(own, u64::wrapping_add);
        Digest { count: self.foca.num_members() as u16, sum: (sum >> 32) as u32, quiet: self.sync.quiet(now) }
    }

    /// Takes in what `from` sent along with its packet.
    pub(super) fn read_items(&mut self, from: &Peer, items: Vec<Item>, now: Instant) {
        let mut missing = BTreeSet::new();
        for item in items {
            match item {
                Item::Notes(notes) => {
                    missing.extend(notes.iter().filter_map(|note| self.hear_note(note, from, now)));
                }
                Item::Marks(marks) => {
                    missing.extend(marks.iter().filter_map(|mark| self.hear_mark(mark, from, now)));
                }
                Item::Report(report) => self.hear_report(*report, from, true, now),
                Item::Answer(report) => self.hear_report(*report, from, false, now),
                Item::Want(keys) => self.give_reports(from, &keys, now),
                Item::Digest(theirs) => self.compare(from, theirs, now),
                Item::Roll { answer, range, lives } => self.hear_roll(from, answer, range, &lives, now),
                Item::Doubt(lives) => self.hear_doubt(from, &lives, now),
                Item::Missing(lives) => self.introduce(from, &lives, now),
                // Taken before: they count whoever the sender is.
                Item::Card(_) | Item::Cards(_) | Item::Clock(_) => {}
            }
        }
        if !missing.is_empty() {
            self.ask(from.clone(), missing, now);
        }
    }

    /// By what the word of `node` is judged; `None` if we do not know it.
    fn judge_of(
        &self,
        node: &NodeId,
        now: Instant,
    ) -> Option<(std::sync::Arc<dyn super::Keys>, super::Fingerprint, u64, u64)> {
        let card = self.cards.get(node)?;
        Some((self.keys.clone(), card.certificate, card.peer.life, self.latest(now)))
    }

    /// Takes in a note; the key, if the report that it continues is to be asked for.
    fn hear_note(&mut self, note: &items::Note, from: &Peer, now: Instant) -> Option<Key> {
        if note.key == self.own_key() {
            return None;
        }
        let Some(node) = self.reports.node(note.key).cloned() else { return Some(note.key) };
        let Some((keys, certificate, life, until)) = self.judge_of(&node, now) else {
            self.want_card(from, &node, now);
            return None;
        };
        if !self.limits.allow(Limit::Proof, &from.node, now) {
            self.disbelieve("too_much");
            return None;
        }
        let heard = self.reports.hear_note(&node, note, Judge { keys: &*keys, certificate, life, until });
        self.note_heard(&node, heard, Some(from), now)
    }

    /// Takes in a mark; the key, if what it continues is to be asked for.
    fn hear_mark(&mut self, mark: &items::Mark, from: &Peer, now: Instant) -> Option<Key> {
        if mark.key == self.own_key() {
            return None;
        }
        let Some(node) = self.reports.node(mark.key).cloned() else { return Some(mark.key) };
        let heard = self.reports.hear_mark(&node, mark);
        self.note_heard(&node, heard, Some(from), now)
    }

    /// `pass_on` is false if we had asked for it.
    fn hear_report(&mut self, report: items::Signed, from: &Peer, pass_on: bool, now: Instant) {
        let node = report.report.node.clone();
        if node == self.foca.identity().node {
            return;
        }
        let Some((keys, certificate, life, until)) = self.judge_of(&node, now) else {
            return self.want_card(from, &node, now);
        };
        if !self.limits.allow(Limit::Proof, &from.node, now) {
            return self.disbelieve("too_much");
        }
        let heard = self.reports.hear_report(report, Judge { keys: &*keys, certificate, life, until });
        self.note_heard(&node, heard, pass_on.then_some(from), now);
        if !pass_on {
            return;
        }
        self.tell_soon(now);
    }

    /// What comes of something that was heard; `from` is `None` if it is not to be passed on.
    fn note_heard(&mut self, node: &NodeId, heard: Heard, from: Option<&Peer>, now: Instant) -> Option<Key> {
        match heard {
            Heard::News { node, telling, brisk } => {
                self.reports.note_heard(&node, now);
                if let Some(from) = from {
                    self.updates.hear(node, telling, brisk, Some(from.node.clone()));
                    self.tell_soon(now);
                }
                None
            }
            Heard::Known => None,
            Heard::Missing => Some(Key::of(node)),
            Heard::Elsewhere => {
                if let Some(from) = from {
                    self.want_card(from, node, now);
                }
                None
            }
            Heard::Forged => {
                self.disbelieve("report");
                None
            }
        }
    }

    /// Asks a random member for the reports that are lacking: soon after the list has changed, then ever more
    /// rarely, for some nodes have nothing to report.
    pub(super) fn ask_for_reports(&mut self, now: Instant) {
        let (at, wait) = self.sync.want.unwrap_or((now, self.settings.repair_period));
        if at > now {
            return;
        }
        let lacking = |peer: &&Peer| self.reports.get(&peer.node).is_none();
        let keys = self.foca.iter_members().map(Member::id).filter(lacking).map(|peer| Key::of(&peer.node)).collect();
        self.sync.want = Some((now + wait, (wait * 2).min(LONGEST_WANT)));
        if let Some(whom) = self.some_members(1).pop() {
            self.ask(whom, keys, now);
        }
    }

    /// Asks `whom` for the reports with these keys, each at most once in [`ASK_AGAIN`].
    pub(super) fn ask(&mut self, whom: Peer, keys: BTreeSet<Key>, now: Instant) {
        let lately = |key: &Key| self.sync.asked.get(key).is_some_and(|at| *at + ASK_AGAIN > now);
        let new: Vec<Key> = keys.into_iter().filter(|key| !lately(key)).take(MAX_REPORTS_GIVEN).collect();
        self.sync.asked.extend(new.iter().map(|key| (*key, now)));
        if !new.is_empty() {
            self.send_items(whom, &[Item::Want(new)]);
        }
    }

    fn give_reports(&mut self, to: &Peer, keys: &[Key], now: Instant) {
        if !self.limits.allow(Limit::Give, &to.node, now) {
            return self.disbelieve("too_much");
        }
        let mut items = vec![];
        for node in keys.iter().take(MAX_REPORTS_GIVEN).filter_map(|key| self.reports.node(*key)) {
            items.extend(self.reports.signed(node).map(|signed| Item::Answer(Box::new(signed.clone()))));
            items.extend(self.reports.note(node).map(|note| Item::Notes(vec![note.clone()])));
            items.extend(self.reports.mark(node).filter(|mark| mark.steps > 0).map(|mark| Item::Marks(vec![mark])));
        }
        self.send_items(to.clone(), &items);
    }

    fn compare(&mut self, from: &Peer, theirs: Digest, now: Instant) {
        let ours = self.digest(now);
        let alike = (ours.count, ours.sum) == (theirs.count, theirs.sum);
        if alike || !ours.quiet || !theirs.quiet || self.sync.next.is_some_and(|at| at > now) {
            return;
        }
        self.sync.next = Some(now + ROLL_GAP);
        self.call_roll(from, (Key::FIRST, Key::LAST), false);
    }

    /// The live members by the key of their life, this node included.
    fn lives(&self, range: (Key, Key)) -> BTreeMap<Key, Peer> {
        let me = self.foca.identity().clone();
        let all = self.foca.iter_members().map(|member| member.id().clone()).chain([me]);
        let keyed = all.map(|peer| (Key::of_life(&peer.node, peer.life), peer));
        keyed.filter(|(key, _)| (range.0..=range.1).contains(key)).collect()
    }

    fn call_roll(&mut self, to: &Peer, range: (Key, Key), answer: bool) {
        let lives: Vec<Key> = self.lives(range).into_keys().collect();
        let mut first = range.0;
        let chunks: Vec<&[Key]> = lives.chunks(items::keys_in(self.room(to)).max(1)).take(MAX_PACKETS).collect();
        for (number, chunk) in chunks.iter().enumerate() {
            // The ranges meet, so that what lies between two of our keys is in one of them.
            let last = if number + 1 == chunks.len() { range.1 } else { chunk[chunk.len() - 1] };
            self.send_items(to.clone(), &[Item::Roll { answer, range: (first, last), lives: chunk.to_vec() }]);
            first = last.next();
        }
    }

    fn hear_roll(&mut self, from: &Peer, answer: bool, range: (Key, Key), theirs: &[Key], now: Instant) {
        if !self.limits.allow(Limit::Give, &from.node, now) {
            return self.disbelieve("too_much");
        }
        let mut ours = self.lives(range);
        let over: BTreeMap<Key, Peer> = self.over();
        let (mut doubt, mut missing) = (vec![], vec![]);
        for key in theirs {
            if ours.remove(key).is_none() {
                if over.contains_key(key) { doubt.push(*key) } else { missing.push(*key) }
            }
        }
        doubt.truncate(MAX_DOUBTS);
        missing.truncate(MAX_TOLD);
        let mistaken: Vec<Peer> = doubt.iter().filter_map(|key| over.get(key).cloned()).collect();
        if !answer {
            self.call_roll(from, range, true);
        }
        self.tell_members(from, ours.into_values());
        let items = [Item::Doubt(doubt), Item::Missing(missing)];
        let wanted =
            items.into_iter().filter(|item| !matches!(item, Item::Doubt(k) | Item::Missing(k) if k.is_empty()));
        self.send_items(from.clone(), &wanted.collect::<Vec<_>>());
        mistaken.into_iter().for_each(|peer| self.announce_to(peer, now));
    }

    /// The lives that this node holds to be over.
    fn over(&self) -> BTreeMap<Key, Peer> {
        let down = self.foca.iter_membership_state().filter(|member| member.state() == State::Down);
        down.map(|member| (Key::of_life(&member.id().node, member.id().life), member.id().clone())).collect()
    }

    /// Somebody holds these lives to be over: see for ourselves.
    fn hear_doubt(&mut self, from: &Peer, lives: &[Key], now: Instant) {
        let ours = self.lives((Key::FIRST, Key::LAST));
        let doubted: Vec<Peer> = lives.iter().take(MAX_DOUBTS).filter_map(|key| ours.get(key).cloned()).collect();
        for peer in doubted {
            self.look(&peer.node, from, now);
        }
    }

    fn introduce(&mut self, to: &Peer, lives: &[Key], now: Instant) {
        if !self.limits.allow(Limit::Give, &to.node, now) {
            return self.disbelieve("too_much");
        }
        let ours = self.lives((Key::FIRST, Key::LAST));
        let known: Vec<Peer> = lives.iter().take(MAX_TOLD).filter_map(|key| ours.get(key).cloned()).collect();
        self.tell_members(to, known.into_iter());
    }

    /// Shows the members' cards to one who has just come: the feed that foca answers with names fewer, and each would
    /// have to be asked for.
    pub(super) fn tell_all(&mut self, to: &Peer, now: Instant) {
        let keys: Vec<Key> = self.foca.iter_members().map(|member| Key::of(&member.id().node)).collect();
        self.give_cards(to, &keys, now);
    }

    /// Names live members to `to`, with their incarnation.
    fn tell_members(&mut self, to: &Peer, peers: impl Iterator<Item = Peer>) {
        let wanted: BTreeSet<_> = peers.take(MAX_TOLD).map(|peer| peer.node).collect();
        let members = self.foca.iter_members().filter(|m| wanted.contains(&m.id().node) && m.id().node != to.node);
        // Not as suspects: a suspicion has a timer only where it was raised.
        let alive = |m: &Member<Peer>| Member::new(m.id().clone(), m.incarnation(), State::Alive);
        let members: Vec<Member<Peer>> = members.map(alive).collect();
        for some in members.chunks(12) {
            self.send(to.clone(), Message::Gossip, some);
        }
    }

    /// Sends items, as many to a packet as fit.
    pub(super) fn send_items(&mut self, to: Peer, items: &[Item]) {
        let room = self.room(&to);
        let mut tail = Vec::new();
        for bytes in items.iter().filter_map(|item| item.encode(room)) {
            if tail.len() + bytes.len() > room {
                self.send_with(to.clone(), &std::mem::take(&mut tail));
            }
            tail.extend(bytes);
        }
        if !tail.is_empty() {
            self.send_with(to, &tail);
        }
    }
}
