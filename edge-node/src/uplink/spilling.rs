//! What of the ring is to be on disk, and what is there only.

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use mesh::{
    clock::Micros,
    wire::spurt::{Item, SpurtEnd},
};

use super::{OVERHEAD, Record, SLOT, Spurt, SpurtKey, Stream, Uplink, cost, length};

/// Speech that the core has had so long and does not hold is spilled.
const AGE: Duration = Duration::from_secs(1);

/// A disk that refused is tried again after this.
pub(super) const RETRY: Duration = Duration::from_secs(5);

/// What makes room on a disk that refuses, in bytes: it is given back in whole segments.
const ROOM: usize = 2 * super::spill::SEGMENT as usize;

/// How much of a spurt has been handed out to be written.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    started: bool,
    items: u32,
    ended: bool,
}

#[derive(Debug)]
pub(super) struct OnDisk {
    mark: Mark,
    /// Something of it may be there, whatever the mark says.
    touched: bool,
    /// Bytes of it there, about.
    bytes: usize,
    /// The disk has given it up: it is not spilled again.
    refused: bool,
    /// How many items there were when.
    aged: (Instant, u32),
}

/// The ring's other tier.
#[derive(Debug, Default)]
pub(super) struct Spilling {
    /// Spurts that may have something to be written.
    dirty: BTreeSet<u64>,
    /// Spurts whose last part is being written.
    writing: Vec<u64>,
    /// What is being written, with its marks before.
    batch: Vec<(SpurtKey, Mark)>,
    /// The disk refused: until then nothing is written.
    refused_until: Option<Instant>,
    /// Whole on disk, and in memory.
    evictable: BTreeSet<u64>,
    /// Of what is on disk, what is of no use any more.
    gone: VecDeque<SpurtKey>,
    wanted: Option<SpurtKey>,
    /// In memory only to be sent.
    loaded: Option<SpurtKey>,
    /// There is no disk any more.
    gone_for_good: bool,
    /// The process is about to end: all of it at once.
    all: bool,
}

impl OnDisk {
    pub(super) fn new(now: Instant) -> Self {
        Self { mark: Mark::default(), touched: false, bytes: 0, refused: false, aged: (now, 0) }
    }
}

impl Spilling {
    pub(super) fn handle_grown(&mut self, order: u64) {
        self.dirty.insert(order);
    }

    pub(super) fn handle_removed(&mut self, key: SpurtKey, spurt: &Spurt) {
        self.dirty.remove(&spurt.order);
        self.evictable.remove(&spurt.order);
        self.writing.retain(|order| *order != spurt.order);
        self.loaded.take_if(|loaded| *loaded == key);
        self.wanted.take_if(|wanted| *wanted == key);
        if spurt.on_disk.touched && !spurt.on_disk.refused {
            self.gone.push_back(key);
        }
    }

    pub(super) fn want(&mut self, key: SpurtKey) {
        self.wanted = Some(key);
    }
}

impl Spurt {
    fn is_whole_on_disk(&self) -> bool {
        self.on_disk.mark.ended && !self.on_disk.refused
    }

    /// Its items are on disk only.
    pub(super) fn is_evicted(&self) -> bool {
        self.items.is_empty() && self.count > 0
    }

    /// Items before which all should be on disk now.
    fn due(&mut self, at_once: bool, now: Instant) -> u32 {
        if at_once {
            return self.count;
        }
        let durable = self.durable.as_ref().map_or(0, |(_, upto)| *upto);
        let (since, aged) = self.on_disk.aged;
        if now.saturating_duration_since(since) < AGE {
            return 0;
        }
        self.on_disk.aged = (now, self.count);
        if aged > durable { aged } else { 0 }
    }

    /// Appends what is to be written of it; whether it is whole on disk then.
    fn spill(&mut self, key: SpurtKey, upto: u32, out: &mut Vec<Record>) -> bool {
        let SpurtKey { participant, spurt } = key;
        let (from, mark) = (self.on_disk.mark.items, &mut self.on_disk.mark);
        if upto > from {
            if !mark.started {
                mark.started = true;
                out.push(Record::Start { participant, spurt, captured: self.captured });
            }
            for (item, offset) in self.items[from as usize..upto as usize].iter().zip(from..) {
                self.on_disk.bytes += cost(item);
                let packet = if let Item::Frame(packet) = item { Some(packet.to_vec()) } else { None };
                out.push(Record::Item { participant, spurt, offset, packet });
            }
            (mark.items, self.on_disk.touched) = (upto, true);
        }
        if let Some(end) = self.end
            && mark.items == self.count
            && mark.started
            && !mark.ended
        {
            mark.ended = true;
            out.push(Record::End { participant, spurt, end });
        }
        mark.ended
    }
}

impl Uplink {
    /// What is to be written to disk now: at least `max` records if there are so many, and one spurt's more at most.
    /// [`Uplink::handle_spilled`] follows before the next.
    pub fn poll_spill(&mut self, max: usize, now: Instant) -> Vec<Record> {
        let mut out: Vec<Record> = vec![];
        self.spilling.batch.clear();
        while let Some(SpurtKey { participant, spurt }) = self.spilling.gone.pop_front() {
            out.push(Record::Done { participant, spurt });
        }
        let waits = self.spilling.refused_until.is_some_and(|until| now < until);
        if !self.settings.spill || self.spilling.gone_for_good || waits {
            return out;
        }
        let at_once = self.spilling.all || self.core.is_none() || self.bytes > self.settings.max_bytes / 2;
        let dirty: Vec<u64> = self.spilling.dirty.iter().copied().collect();
        for order in dirty {
            if out.len() >= max {
                break;
            }
            let Some(key) = self.order.get(&order).copied() else { continue };
            let Some(spurt) = self.spurts.get_mut(&key).filter(|s| !s.on_disk.refused) else {
                self.spilling.dirty.remove(&order);
                continue;
            };
            let (upto, before) = (spurt.due(at_once, now), spurt.on_disk.mark);
            self.spilling.batch.push((key, before));
            if spurt.spill(key, upto, &mut out) {
                self.spilling.dirty.remove(&order);
                self.spilling.writing.push(order);
            }
        }
        out
    }

    /// The process is about to end: from here on all that is not done is to be on disk.
    pub fn spill_all(&mut self) {
        self.spilling.all = true;
    }

    /// What was last polled is written; or it could not be: what was before stays, and the rest is tried again.
    pub fn handle_spilled(&mut self, written: bool, now: Instant) {
        let (writing, batch) = (std::mem::take(&mut self.spilling.writing), std::mem::take(&mut self.spilling.batch));
        if written {
            self.spilling.refused_until = None;
            self.spilling.evictable.extend(writing);
            return;
        }
        for (key, before) in batch {
            if let Some(spurt) = self.spurts.get_mut(&key) {
                spurt.on_disk.mark = before;
                self.spilling.dirty.insert(spurt.order);
            }
        }
        let room = self.bytes > self.settings.max_bytes / 4 * 3 && self.make_room_on_disk();
        self.spilling.refused_until = Some(if room { now } else { now + RETRY });
    }

    /// Memory is nearly full, and so is the disk: the oldest speech on it makes room. Whether there was any.
    fn make_room_on_disk(&mut self) -> bool {
        let mut freed = 0;
        while freed < ROOM
            && let Some(key) = self.order.values().find(|key| self.spurts.get(key).is_some_and(Spurt::is_whole_on_disk))
        {
            let key = *key;
            freed += self.spurts.get(&key).map_or(0, |spurt| spurt.on_disk.bytes);
            self.give_up(key);
        }
        freed > 0
    }

    /// There is no disk any more: what was only there is lost.
    pub fn handle_disk_gone(&mut self) {
        self.spilling.gone_for_good = true;
        self.spilling.writing.clear();
        self.spilling.evictable.clear();
        let lost: Vec<SpurtKey> = self.spurts.iter().filter(|(_, s)| s.is_evicted()).map(|(key, _)| *key).collect();
        lost.into_iter().for_each(|key| self.give_up(key));
    }

    /// The disk is full: it has given these spurts up.
    pub fn handle_dropped(&mut self, keys: &[SpurtKey]) {
        for key in keys {
            let Some(spurt) = self.spurts.get_mut(key) else { continue };
            spurt.on_disk.refused = true;
            let (order, evicted) = (spurt.order, spurt.is_evicted());
            self.spilling.evictable.remove(&order);
            self.spilling.writing.retain(|o| *o != order);
            // What was loaded stays in memory: it is the only copy now.
            self.spilling.loaded.take_if(|loaded| loaded == key);
            if evicted {
                self.give_up(*key);
            }
        }
    }

    /// A spurt to be read from disk: nothing else is sent before [`Uplink::handle_loaded`].
    pub fn poll_load(&mut self) -> Option<SpurtKey> {
        self.spilling.wanted.take()
    }

    /// The items of a spurt, as the disk has them: fewer than there were, if it lost some.
    pub fn handle_loaded(&mut self, key: SpurtKey, items: Vec<Item>) {
        let Some(spurt) = self.spurts.get_mut(&key).filter(|s| s.is_evicted()) else { return };
        let found = items.len() as u32;
        if found == 0 {
            return self.give_up(key);
        }
        if found < spurt.count {
            self.overflowed += u64::from(spurt.count - found);
            let kept = length(&items);
            self.lost.note(spurt.captured.plus(kept), spurt.captured.plus(spurt.spoken));
            (spurt.count, spurt.spoken) = (found, kept);
        }
        self.spilling.wanted.take_if(|wanted| *wanted == key);
        spurt.items = items;
        spurt.items.truncate(spurt.count as usize);
        if let Some(end) = &mut spurt.end {
            end.items = spurt.count;
        }
        if let Stream::At(items) = &mut spurt.stream {
            *items = (*items).min(spurt.count);
        }
        let bytes: usize = spurt.items.iter().map(cost).sum();
        spurt.bytes += bytes;
        self.bytes += bytes;
        self.spilling.loaded = Some(key);
        if let Some(items) = self.cut.remove(&key) {
            let since = self.spurts.get(&key).map(|spurt| spurt.since);
            since.into_iter().for_each(|since| self.keep_rest(key, items, since));
        }
    }

    /// Takes up a spurt that an earlier process has left on disk; in the order in which they were spoken.
    pub fn restore(&mut self, key: SpurtKey, captured: Micros, items: u32, end: SpurtEnd, now: Instant) {
        if items == 0 || self.spurts.contains_key(&key) {
            return;
        }
        self.start(key, captured, now);
        if let Some(spurt) = self.spurts.get_mut(&key) {
            spurt.count = items;
            spurt.end = Some(SpurtEnd { items, ..end });
            spurt.spoken = SLOT * items;
            let mark = Mark { started: true, items, ended: true };
            spurt.on_disk =
                OnDisk { mark, touched: true, bytes: items as usize * OVERHEAD, refused: false, aged: (now, items) };
            self.spilling.dirty.remove(&spurt.order);
            self.refresh(key);
        }
    }

    /// Takes the oldest spurt that is whole on disk out of memory, if there is one.
    pub(super) fn evict_oldest(&mut self) -> bool {
        let Some(order) = self.spilling.evictable.pop_first() else { return false };
        if let Some(key) = self.order.get(&order).copied() {
            self.evict(key);
        }
        true
    }

    /// What was loaded to be sent has been, or is not to be any more.
    pub(super) fn unload(&mut self) {
        if let Some(key) = self.spilling.loaded.take() {
            self.evict(key);
        }
    }

    fn evict(&mut self, key: SpurtKey) {
        if let Some(spurt) = self.spurts.get_mut(&key) {
            spurt.items = vec![];
            self.bytes -= spurt.bytes - OVERHEAD;
            spurt.bytes = OVERHEAD;
        }
    }
}
