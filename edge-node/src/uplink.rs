//! One meeting's speech that is not *done* yet, and what of it the present core has still to be sent.
//!
//! Two acknowledgements move it on. What a core holds *durable* need not be sent to that core again, but a dead core's
//! disk must not be the only copy, so it stays here, and another core gets the whole of it. What is *done* (its words
//! are published and stored) is forgotten. Replay is idempotent: (participant, spurt, offset) is the key.
//!
//! The ring is bounded: memory first, then disk. What no core holds after a second, and everything while there is no core or memory
//! is half full, is to be spilled ([`Uplink::poll_spill`]); what is on disk leaves memory when that is full, and comes
//! back ([`Uplink::poll_load`]) when it is to be sent. A disk that refuses is tried again, and keeps what it has until memory is
//! nearly full, too; then the oldest speech on it makes room. Only where nothing can be spilled the oldest speech in memory that
//! is not done goes first, the spurt being spoken last. What is given up is counted, and the core is told when it was said
//! ([`Uplink::take_given_up`]).
//!
//! Calling contract: hand in outputs and acknowledgements at any time; between [`Uplink::handle_connected`] and
//! [`Uplink::handle_disconnected`] call [`Uplink::poll_transmit`] until it has no more, and write what it yields in
//! that order: one stream for each [`Transmit::Open`], finished after its [`Transmit::End`].

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;
use mesh::{
    clock::Micros,
    identity::NodeId,
    wire::{
        ParticipantAlias, SpurtNo,
        spurt::{Item, SpurtEnd},
    },
};

use crate::{spurt::Output, toc::packet_duration};

pub mod format;
mod held;
pub mod ladder;
mod lag;
mod lost;
pub mod spill;
mod spilling;

use self::{
    format::Record,
    held::{OVERHEAD, SLOT, Spurt, Stream, cost, length, packets},
    lag::Marks,
    lost::Lost,
    spilling::OnDisk,
};

/// What bounds the ring.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Memory for one meeting's speech. 32 MiB hold about an hour of one speaker at 32 kb/s.
    pub max_bytes: usize,
    /// Speech older than this is given up. Longer than the longest outage that words are wanted after.
    pub max_age: Duration,
    /// Whether there is a disk to spill to.
    pub spill: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { max_bytes: 32 * 1024 * 1024, max_age: Duration::from_secs(3600), spill: false }
    }
}

/// A spurt of this meeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpurtKey {
    /// Whose.
    pub participant: ParticipantAlias,
    /// Which.
    pub spurt: SpurtNo,
}

/// One step of writing spurt streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transmit {
    /// Open a stream for this spurt.
    Open {
        /// The spurt.
        key: SpurtKey,
        /// The number of the first item that follows.
        offset: u32,
        /// Capture time of item 0.
        captured: Micros,
    },
    /// The next item on its stream.
    Item {
        /// The spurt.
        key: SpurtKey,
        /// A gap or a frame.
        item: Item,
    },
    /// Write the trailer and finish its stream.
    End {
        /// The spurt.
        key: SpurtKey,
        /// The trailer; fewer items than were spoken if the rest had to be given up.
        end: SpurtEnd,
    },
}

/// The ring of one meeting.
#[derive(Debug)]
pub struct Uplink {
    settings: Settings,
    spurts: BTreeMap<SpurtKey, Spurt>,
    /// The spurts in the order in which they began.
    order: BTreeMap<u64, SpurtKey>,
    /// Those of them with something to transmit now; empty while there is no connection.
    ready: BTreeSet<u64>,
    /// Trailers of spurts that are gone while their streams were open.
    closing: VecDeque<(SpurtKey, SpurtEnd)>,
    core: Option<NodeId>,
    bytes: usize,
    began: u64,
    overflowed: u64,
    /// The first spurt that began on this connection: earlier ones are a backlog.
    live_from: u64,
    /// Spurts that begin now are sent when they are over.
    whole_only: bool,
    /// Spurts to be read from disk because the core has made words of a part of them: of how many items.
    cut: BTreeMap<SpurtKey, u32>,
    spilling: spilling::Spilling,
    lost: Lost,
    /// Of spurts that were given up while they were spoken: up to when, and how long their last item was.
    cut_short: BTreeMap<SpurtKey, (Micros, Duration)>,
}

impl Uplink {
    /// An empty ring, not connected.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            spurts: BTreeMap::new(),
            order: BTreeMap::new(),
            ready: BTreeSet::new(),
            closing: VecDeque::new(),
            core: None,
            bytes: 0,
            began: 0,
            overflowed: 0,
            live_from: 0,
            whole_only: false,
            cut: BTreeMap::new(),
            spilling: spilling::Spilling::default(),
            lost: Lost::default(),
            cut_short: BTreeMap::new(),
        }
    }

    /// Takes what a participant's pipeline yields, in its order.
    pub fn handle_output(&mut self, participant: ParticipantAlias, output: Output, now: Instant) {
        match output {
            Output::Start { spurt, captured } => self.start(SpurtKey { participant, spurt }, captured, now),
            Output::Item { spurt, item, .. } => self.append(SpurtKey { participant, spurt }, item, now),
            Output::End { spurt, end } => {
                let key = SpurtKey { participant, spurt };
                self.cut_short.remove(&key);
                if let Some(spurt) = self.spurts.get_mut(&key) {
                    spurt.end = Some(end);
                    if spurt.whole {
                        // In time is what comes home as fast as it was said.
                        spurt.marks.begin_at(spurt.count, now + now.saturating_duration_since(spurt.since));
                    }
                    self.spilling.handle_grown(spurt.order);
                    self.refresh(key);
                }
            }
        }
        self.expire(now);
    }

    /// There is a connection to `core`: everything not done is to be sent, except what this very core has on disk.
    pub fn handle_connected(&mut self, core: &NodeId, _now: Instant) {
        self.unload();
        self.closing.clear();
        self.core = Some(core.clone());
        self.live_from = self.began;
        for spurt in self.spurts.values_mut() {
            spurt.stream = Stream::None;
            spurt.durable.take_if(|(node, _)| node != core);
        }
        self.ready = self.spurts.values().filter(|spurt| spurt.is_ready()).map(|spurt| spurt.order).collect();
    }

    /// The connection is gone, and all its streams with it.
    pub fn handle_disconnected(&mut self, _now: Instant) {
        self.unload();
        self.core = None;
        self.closing.clear();
        self.ready.clear();
    }

    /// The core has items before `upto` on its disk.
    pub fn handle_durable(&mut self, participant: ParticipantAlias, spurt: SpurtNo, upto: u32) {
        if let Some(core) = &self.core
            && let Some(spurt) = self.spurts.get_mut(&SpurtKey { participant, spurt })
        {
            let before = spurt.durable.as_ref().map_or(0, |(_, upto)| *upto);
            spurt.marks.handle_durable(upto);
            spurt.durable = Some((core.clone(), upto.min(spurt.count).max(before)));
        }
    }

    /// The words of this spurt are out. Ignored while it is still being spoken: more of it is to come.
    pub fn handle_done(&mut self, participant: ParticipantAlias, spurt: SpurtNo) {
        let key = SpurtKey { participant, spurt };
        if self.spurts.get(&key).is_some_and(|s| s.end.is_some()) {
            self.remove(key);
        }
    }

    /// The words of the first `items` items of this spurt are out: what it has beyond is to be sent as its next part.
    pub fn handle_done_to(&mut self, participant: ParticipantAlias, spurt: SpurtNo, items: u32, now: Instant) {
        let key = SpurtKey { participant, spurt };
        let Some(held) = self.spurts.get(&key).filter(|s| s.end.is_some()) else { return };
        if held.is_evicted() && held.count > items {
            self.cut.insert(key, items);
            self.spilling.want(key);
        } else {
            self.keep_rest(key, items, now);
        }
    }

    /// The next thing to write, `wall` being now: newest speech first, and each spurt in its order. `None` while there
    /// is no connection.
    pub fn poll_transmit(&mut self, wall: Micros) -> Option<Transmit> {
        if let Some((key, end)) = self.closing.pop_front() {
            return Some(Transmit::End { key, end });
        }
        let key = *self.order.get(self.ready.last()?)?;
        let spurt = self.spurts.get_mut(&key)?;
        if spurt.is_evicted() {
            self.spilling.want(key);
            return None;
        }
        let transmit = spurt.transmit(key, wall);
        if matches!(transmit, Some(Transmit::End { .. })) {
            self.unload();
        }
        self.refresh(key);
        transmit
    }

    /// Whether spurts that begin from now on are to be sent when they are over only.
    pub fn send_whole_only(&mut self, whole_only: bool) {
        self.whole_only = whole_only;
    }

    /// How old the oldest speech is that the core does not hold, of what was said since it was connected to; `None` if it
    /// holds all of that, and nobody speaks. A spurt that is sent whole counts from when it might be home, had it been sent
    /// as fast as it was said.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        self.core.as_ref()?;
        let live = self.order.range(self.live_from..).filter_map(|(_, key)| self.spurts.get(key));
        let age = |spurt: &Spurt| {
            let speaking = spurt.end.is_none().then_some(Duration::ZERO);
            if spurt.is_held_back() { speaking } else { spurt.marks.age(now).or(speaking) }
        };
        live.filter_map(age).max()
    }

    /// Whether something of `participant` is not done.
    pub fn holds(&self, participant: ParticipantAlias) -> bool {
        let of = |spurt| SpurtKey { participant, spurt: SpurtNo(spurt) };
        self.spurts.range(of(0)..=of(u32::MAX)).next().is_some()
    }

    /// Whether everything handed in is done (or given up).
    pub fn is_empty(&self) -> bool {
        self.spurts.is_empty()
    }

    /// Whether nothing is left to be sent now.
    pub fn is_sent(&self) -> bool {
        self.ready.is_empty() && self.closing.is_empty()
    }

    /// Whether the core holds all of it, to its end: nothing is under way, and nothing more will be said.
    pub fn is_home(&self) -> bool {
        self.is_sent() && self.spurts.values().all(Spurt::is_home)
    }

    /// Memory taken, by its own count; never above [`Settings::max_bytes`].
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Packets given up because the ring was full or they were too old.
    pub fn overflowed(&self) -> u64 {
        self.overflowed
    }

    fn start(&mut self, key: SpurtKey, captured: Micros, now: Instant) {
        self.make_room(OVERHEAD, key);
        if self.bytes + OVERHEAD > self.settings.max_bytes {
            return;
        }
        self.bytes += OVERHEAD;
        let order = self.began;
        self.began += 1;
        self.order.insert(order, key);
        let spurt = Spurt {
            order,
            since: now,
            captured,
            items: vec![],
            count: 0,
            spoken: Duration::ZERO,
            slot: SLOT,
            end: None,
            bytes: OVERHEAD,
            on_disk: OnDisk::new(now),
            durable: None,
            stream: Stream::None,
            sent_at: Micros::default(),
            marks: Marks::default(),
            whole: self.whole_only,
        };
        self.spurts.insert(key, spurt);
        self.spilling.handle_grown(order);
        self.refresh(key);
    }

    fn append(&mut self, key: SpurtKey, item: Item, now: Instant) {
        // A slice of a larger read buffer would keep all of that buffer.
        let item = if let Item::Frame(packet) = item { Item::Frame(Bytes::copy_from_slice(&packet)) } else { item };
        let cost = cost(&item);
        self.make_room(cost, key);
        let Some(spurt) = self.spurts.get_mut(&key).filter(|s| s.end.is_none()) else {
            self.overflowed += packets(&item);
            if let Some((end, slot)) = self.cut_short.get_mut(&key) {
                let from = *end;
                *end = end.plus(*slot);
                self.lost.note(from, *end);
            }
            return;
        };
        if let Item::Frame(packet) = &item {
            spurt.slot = packet_duration(packet).unwrap_or(spurt.slot);
        }
        spurt.spoken += spurt.slot;
        spurt.items.push(item);
        spurt.count += 1;
        spurt.marks.handle_said(spurt.count, now);
        spurt.bytes += cost;
        self.bytes += cost;
        self.spilling.handle_grown(spurt.order);
        self.refresh(key);
    }

    /// Takes what is on disk out of memory, then gives up the oldest speech, `wanted_by` itself last, until `cost` fits.
    fn make_room(&mut self, cost: usize, wanted_by: SpurtKey) {
        while self.bytes + cost > self.settings.max_bytes {
            if self.evict_oldest() {
                continue;
            }
            let spoken = |key: &&SpurtKey| self.spurts.get(key).is_some_and(|s| s.end.is_none());
            // What is on disk only takes no room here.
            let here = |key: &&SpurtKey| self.spurts.get(key).is_some_and(|s| !s.is_evicted());
            let all = || self.order.values();
            let oldest = all().find(|key| !spoken(key) && here(key));
            let oldest = oldest.or_else(|| all().find(|key| **key != wanted_by && here(key)));
            let oldest = oldest.or_else(|| all().find(|key| **key != wanted_by));
            let Some(&key) = oldest.or_else(|| self.order.values().next()) else { return };
            self.give_up(key);
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((_, &key)) = self.order.first_key_value()
            && self.spurts.get(&key).is_some_and(|s| now.saturating_duration_since(s.since) > self.settings.max_age)
        {
            self.give_up(key);
        }
    }

    fn give_up(&mut self, key: SpurtKey) {
        if let Some(spurt) = self.remove(key) {
            if !spurt.is_safe() {
                self.lost.note(spurt.captured, spurt.captured.plus(spurt.spoken));
            }
            if spurt.end.is_none() {
                self.cut_short.insert(key, (spurt.captured.plus(spurt.spoken), spurt.slot));
            }
            self.overflowed += match spurt.is_evicted() {
                true => u64::from(spurt.count),
                false => spurt.items.iter().map(packets).sum::<u64>(),
            };
        }
    }

    /// When speech was said that has been given up, if there is more of it than was taken last, or if `again`.
    pub fn take_given_up(&mut self, again: bool) -> Option<Vec<(Micros, Micros)>> {
        self.lost.take(again)
    }

    /// Forgets a spurt; a stream that is open for it gets its trailer.
    fn remove(&mut self, key: SpurtKey) -> Option<Spurt> {
        let spurt = self.spurts.remove(&key)?;
        self.order.remove(&spurt.order);
        self.cut.remove(&key);
        self.ready.remove(&spurt.order);
        self.bytes -= spurt.bytes;
        self.spilling.handle_removed(key, &spurt);
        if let (Some(_), Stream::At(items)) = (&self.core, spurt.stream) {
            let mut end = spurt.end.unwrap_or(SpurtEnd::of(items));
            end.items = items;
            end.stages.sent = spurt.sent_at;
            self.closing.push_back((key, end));
        }
        Some(spurt)
    }

    /// Forgets the first `items` items of a spurt that has ended; what is left becomes its next part.
    fn keep_rest(&mut self, key: SpurtKey, items: u32, now: Instant) {
        let Some(spurt) = self.remove(key) else { return };
        let Some((rest, mut end)) = spurt.items.get(items as usize..).zip(spurt.end) else { return };
        let Some(part) = key.spurt.next_part().filter(|_| !rest.is_empty()) else { return };
        let rest_key = SpurtKey { spurt: part, ..key };
        if self.spurts.contains_key(&rest_key) {
            return;
        }
        metrics::counter!("nearfield_edge_spurts_cut_total").increment(1);
        self.start(rest_key, spurt.captured.plus(length(&spurt.items[..items as usize])), now);
        rest.iter().for_each(|item| self.append(rest_key, item.clone(), now));
        (end.items, end.continues) = (rest.len() as u32, false);
        self.handle_output(key.participant, Output::End { spurt: part, end }, now);
    }

    fn refresh(&mut self, key: SpurtKey) {
        let Some(spurt) = self.spurts.get(&key) else { return };
        if self.core.is_some() && spurt.is_ready() {
            self.ready.insert(spurt.order);
        } else {
            self.ready.remove(&spurt.order);
        }
    }
}

#[cfg(test)]
mod tests;
