//! What comes in for one meeting: each item of each talk spurt once, in order, whatever is replayed.
//!
//! The caller's duties, in this order: pass a spurt stream's header to [`Ingest::handle_header`] and
//! what follows to [`Ingest::handle_items`]; hand every [`Append`] to the log in the order they were
//! returned; when the log has it on disk, return its [`Receipt`] to [`Ingest::handle_logged`]; when
//! the words are published and stored, call [`Ingest::handle_done`]. Drain [`Ingest::poll_event`]
//! after each of these.

mod copies;
mod spurt;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use mesh::{
    clock::Micros,
    redundancy::ahead::Ahead,
    trace::TraceContext,
    wire::{
        Epoch, SpurtNo,
        spurt::{Item, SpurtEnd},
    },
};
use serde::{Deserialize, Serialize};

use self::spurt::{DEFAULT_SLOT, DoneSet, Spurt};
use super::utterance::{Fresh, Slot};
use crate::key::{ParticipantId, SpurtKey};

/// What one meeting may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Participants of whom it is remembered what is done, over all epochs: who spoke longest ago makes room. What comes again
    /// of such a one goes through transcription again; its segments, keyed by spurt, are there already.
    pub participants: usize,
    /// Spurts of one participant that have begun and not ended. Speech is sequential: more than a
    /// few are open only while an edge replays.
    pub open_spurts: usize,
    /// Spurts whose words are not out yet, over the whole meeting: beyond it, streams wait.
    pub undone_spurts: usize,
    /// Items in one spurt: 30 s of the shortest Opus frame, 2.5 ms.
    pub items_per_spurt: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { participants: 500, open_spurts: 64, undone_spurts: 4096, items_per_spurt: 12_000 }
    }
}

/// How far a participant's spurt numbers may run ahead of the first one that is not done.
const SPURTS_AHEAD: u32 = 65_536;

/// Why a stream is not read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Items are missing before these: the edge must replay from what was acknowledged.
    #[error("gap: item {got} came where {expected} was next")]
    Gap {
        /// The item that was next.
        expected: u32,
        /// The item that came.
        got: u32,
    },
    /// The trailer contradicts what was sent.
    #[error("the trailer counts {said} items, {held} were sent")]
    WrongCount {
        /// By the trailer.
        said: u32,
        /// By us.
        held: u32,
    },
    /// More items than a spurt may have.
    #[error("more than {0} items in one spurt")]
    TooLong(u32),
    /// Too many speakers whose words are not out.
    #[error("more than {0} participants speak at once")]
    TooManyParticipants(usize),
    /// Too many spurts of one speaker at once.
    #[error("more than {0} open spurts of one participant")]
    TooManyOpen(usize),
    /// A spurt number far from any other.
    #[error("spurt number {0} is too far ahead")]
    TooFarAhead(u32),
    /// Its epoch is over, or it was ended where it was.
    #[error("the spurt's epoch is over")]
    Fenced,
    /// Transcription is behind; try again when something is done.
    #[error("{0} spurts wait for their words")]
    Backlog(usize),
    /// Items without a header.
    #[error("the spurt was never opened")]
    NotOpen,
}

/// What a header leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// Read on; items before `next` are held already.
    Ready {
        /// The first item not yet held.
        next: u32,
    },
    /// The words of this spurt are out: nothing needs to be read.
    Done,
}

/// What the log is to write.
#[derive(Debug, Clone, PartialEq)]
pub struct Append {
    /// Which spurt.
    pub key: SpurtKey,
    /// Number of the first item.
    pub first: u32,
    /// The items, trailer excluded.
    pub items: Vec<Item>,
    /// The trailer, if this closes the spurt.
    pub end: Option<SpurtEnd>,
    /// For the first append of a spurt: capture time of item 0, and its trace.
    pub opened: Option<(Micros, TraceContext)>,
}

/// What is to be returned when an [`Append`] is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    key: SpurtKey,
    upto: u32,
    frames: u64,
    gaps: u64,
    ended: bool,
}

impl Append {
    /// The receipt for this append.
    pub fn receipt(&self) -> Receipt {
        let gaps = self.items.iter().filter(|i| matches!(i, Item::Gap)).count() as u64;
        Receipt {
            key: self.key.clone(),
            upto: self.first + self.items.len() as u32,
            frames: self.items.len() as u64 - gaps,
            gaps,
            ended: self.end.is_some(),
        }
    }
}

/// What follows from what was taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Items before `upto` are on disk: to be acknowledged, and worth a partial.
    Durable {
        /// Which spurt.
        key: SpurtKey,
        /// One past the last item held.
        upto: u32,
        /// How much speech that is.
        media: Duration,
        /// Whether it has grown; if not, the edge sent again what is held.
        grown: bool,
    },
    /// No more will come for this spurt, and all of it is on disk.
    Whole {
        /// Which spurt.
        key: SpurtKey,
        /// Its trailer; `None` where it was cut off.
        end: Option<SpurtEnd>,
        /// Its length.
        media: Duration,
    },
    /// The edge sent again what is done: it has not heard so.
    Done {
        /// Which spurt.
        key: SpurtKey,
    },
}

/// Running totals of one meeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Frames taken in, each once.
    pub frames_received: u64,
    /// Of those, on disk.
    pub frames_durable: u64,
    /// Slots for which the edge had no packet, on disk.
    pub gaps_durable: u64,
    /// Items dropped because they were held already.
    pub duplicates: u64,
    /// Spurts begun.
    pub spurts: u64,
    /// Spurts whose words are out.
    pub spurts_done: u64,
    /// Frames that another edge had brought already, and that no words were made of again.
    #[serde(default)]
    pub frames_twice: u64,
}

/// A spurt as the store remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Which.
    pub key: SpurtKey,
    /// Capture time of item 0.
    pub captured: Micros,
    /// Items on disk, without a hole.
    pub items: u32,
    /// Of those, frames.
    pub frames: u64,
    /// Their length.
    pub media: Duration,
    /// What merging needs to know of them; empty for a spurt that is done.
    pub slots: Vec<Slot>,
    /// The trailer, if it is on disk.
    pub end: Option<SpurtEnd>,
    /// Its words are out.
    pub done: bool,
}

/// One meeting's intake.
#[derive(Debug, Default)]
pub struct Ingest {
    limits: Limits,
    spurts: BTreeMap<SpurtKey, Spurt>,
    done: BTreeMap<(Epoch, ParticipantId), DoneSet>,
    /// Counts the uses of `done`.
    uses: u64,
    /// Done spurts of which the edge may have more, and how many items the words were made of.
    short: BTreeMap<SpurtKey, u32>,
    counts: Counts,
    events: VecDeque<Event>,
}

impl Ingest {
    /// An empty intake.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes up what the store remembers of a spurt; [`Event::Whole`] follows for one that is complete and not done.
    pub fn restore(&mut self, spurt: Restored) {
        let gaps = u64::from(spurt.items).saturating_sub(spurt.frames);
        self.counts.spurts += 1;
        // What is done may have been taken from another core, which may count as it likes.
        for count in [&mut self.counts.frames_received, &mut self.counts.frames_durable] {
            *count = count.saturating_add(spurt.frames);
        }
        self.counts.gaps_durable += gaps;
        if spurt.done {
            self.counts.spurts_done += 1;
            self.done_set(&spurt.key).insert(spurt.key.spurt.0);
            // Whether it had its trailer is not remembered.
            self.short.insert(spurt.key, spurt.items);
            return;
        }
        let held = Spurt {
            captured: spurt.captured,
            fresh: spurt.slots,
            opened: None,
            accepted: spurt.items,
            logged: spurt.items,
            media: spurt.media,
            slot: DEFAULT_SLOT,
            end_logged: spurt.end.is_some(),
            end: spurt.end,
            truncated: false,
            whole: false,
            ahead: Ahead::default(),
        };
        self.spurts.insert(spurt.key.clone(), held);
        self.settle(&spurt.key);
    }

    /// A stream begins: `captured` is the capture time of item 0, `offset` the first item on this stream.
    ///
    /// # Errors
    /// The stream is not to be read; see [`Refusal`].
    pub fn handle_header(
        &mut self,
        key: &SpurtKey,
        captured: Micros,
        trace: TraceContext,
        offset: u32,
    ) -> Result<Opened, Refusal> {
        if self.is_done(key) {
            self.events.push_back(Event::Done { key: key.clone() });
            return Ok(Opened::Done);
        }
        if let Some(spurt) = self.spurts.get(key) {
            return Self::resume(spurt, offset);
        }
        self.check_room(key)?;
        if offset > 0 {
            return Err(Refusal::Gap { expected: 0, got: offset });
        }
        self.counts.spurts += 1;
        self.spurts.insert(key.clone(), Spurt::new(captured, trace));
        Ok(Opened::Ready { next: 0 })
    }

    fn resume(spurt: &Spurt, offset: u32) -> Result<Opened, Refusal> {
        if spurt.truncated && !spurt.whole {
            return Err(Refusal::Fenced);
        }
        if offset > spurt.accepted {
            return Err(Refusal::Gap { expected: spurt.accepted, got: offset });
        }
        Ok(Opened::Ready { next: spurt.accepted })
    }

    fn check_room(&mut self, key: &SpurtKey) -> Result<(), Refusal> {
        if self.spurts.len() >= self.limits.undone_spurts {
            return Err(Refusal::Backlog(self.spurts.len()));
        }
        let speaker = (key.epoch, key.participant.clone());
        while !self.done.contains_key(&speaker) && self.done.len() >= self.limits.participants {
            if !self.forget_speaker() {
                return Err(Refusal::TooManyParticipants(self.limits.participants));
            }
        }
        if key.spurt.counted() >= self.done_set(key).below.saturating_add(SPURTS_AHEAD) {
            return Err(Refusal::TooFarAhead(key.spurt.0));
        }
        let of_speaker = key.with_spurt(SpurtNo(0))..=key.with_spurt(SpurtNo(u32::MAX));
        let open = self.spurts.range(of_speaker).filter(|(_, s)| !s.whole).count();
        if open >= self.limits.open_spurts {
            return Err(Refusal::TooManyOpen(self.limits.open_spurts));
        }
        Ok(())
    }

    /// Items from a stream, `offset` being the number of the first; a trailer may come last.
    /// Returns what is new among them.
    ///
    /// # Errors
    /// The stream is not to be read on; what was taken in before stays.
    pub fn handle_items(
        &mut self,
        key: &SpurtKey,
        offset: u32,
        mut items: Vec<Item>,
    ) -> Result<Option<Append>, Refusal> {
        if self.is_done(key) {
            self.events.push_back(Event::Done { key: key.clone() });
            return Ok(None);
        }
        let spurt = self.spurts.get_mut(key).ok_or(Refusal::NotOpen)?;
        if offset > spurt.accepted {
            return Err(Refusal::Gap { expected: spurt.accepted, got: offset });
        }
        spurt.join_ahead(offset, &mut items);
        let append = spurt.take(key, offset, items, self.limits.items_per_spurt, &mut self.counts)?;
        if append.is_none() && spurt.logged > 0 {
            let (upto, media) = (spurt.logged, spurt.media);
            self.events.push_back(Event::Durable { key: key.clone(), upto, media, grown: false });
        }
        Ok(append)
    }

    /// An append is on disk.
    pub fn handle_logged(&mut self, receipt: Receipt) {
        let Some(spurt) = self.spurts.get_mut(&receipt.key) else { return };
        spurt.logged = spurt.logged.max(receipt.upto);
        spurt.end_logged |= receipt.ended;
        self.counts.frames_durable += receipt.frames;
        self.counts.gaps_durable += receipt.gaps;
        let (upto, media) = (spurt.logged, spurt.media);
        self.events.push_back(Event::Durable { key: receipt.key.clone(), upto, media, grown: true });
        self.settle(&receipt.key);
    }

    /// The words of a spurt are published and stored.
    pub fn handle_done(&mut self, key: &SpurtKey) {
        if let Some(spurt) = self.spurts.remove(key) {
            if spurt.end.is_none() {
                self.short.insert(key.clone(), spurt.logged);
            }
            self.counts.spurts_done += 1;
            self.done_set(key).insert(key.spurt.0);
        }
    }

    /// How many items the words of a done spurt were made of, if the edge may have more.
    pub fn done_to(&self, key: &SpurtKey) -> Option<u32> {
        self.short.get(key).copied()
    }

    /// The open spurts of epochs below `epoch`, except `but`, end where they are. Others may still come: whether any is begun is not
    /// decided here (`meeting::captures`).
    pub fn end_open(&mut self, epoch: Epoch, but: &BTreeSet<Epoch>) {
        let over = |key: &SpurtKey| key.epoch < epoch && !but.contains(&key.epoch);
        let open: Vec<SpurtKey> =
            self.spurts.iter().filter(|(k, s)| over(k) && !s.whole).map(|(k, _)| k.clone()).collect();
        for key in open {
            if let Some(spurt) = self.spurts.get_mut(&key) {
                spurt.truncated = true;
            }
            self.settle(&key);
        }
    }

    /// What follows from the calls so far.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What is on disk of a spurt since the last time; `None` if there is nothing new.
    pub fn take_fresh(&mut self, key: &SpurtKey) -> Option<Fresh> {
        let spurt = self.spurts.get_mut(key)?;
        let first = spurt.accepted - spurt.fresh.len() as u32;
        let count = spurt.logged.saturating_sub(first) as usize;
        let slots: Vec<Slot> = spurt.fresh.drain(..count).collect();
        (!slots.is_empty()).then_some(Fresh { captured: spurt.captured, first, slots })
    }

    /// Frames that another edge had brought already, so many so far.
    pub fn note_twice(&mut self, frames: u64) {
        self.counts.frames_twice = self.counts.frames_twice.max(frames);
    }

    /// The totals.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Spurts whose words are not out yet.
    pub fn undone(&self) -> usize {
        self.spurts.len()
    }

    /// Spurts that have begun and are not whole.
    pub fn open(&self) -> usize {
        self.spurts.values().filter(|s| !s.whole).count()
    }

    fn settle(&mut self, key: &SpurtKey) {
        let Some(spurt) = self.spurts.get_mut(key) else { return };
        // A trailer that was taken is waited for: its receipt would end another spurt of the same number.
        let cut = spurt.truncated && spurt.end.is_none() && spurt.logged == spurt.accepted;
        let ended = spurt.end_logged || cut;
        if !ended || spurt.whole {
            return;
        }
        if cut && spurt.logged == 0 {
            self.spurts.remove(key);
            return;
        }
        spurt.whole = true;
        self.events.push_back(Event::Whole { key: key.clone(), end: spurt.end, media: spurt.media });
    }

    fn is_done(&self, key: &SpurtKey) -> bool {
        self.done.get(&(key.epoch, key.participant.clone())).is_some_and(|d| d.contains(key.spurt.0))
    }

    /// Forgets what is done of whoever spoke longest ago and has nothing under way; whether there was one.
    fn forget_speaker(&mut self) -> bool {
        let busy: BTreeSet<(Epoch, &ParticipantId)> = self.spurts.keys().map(|k| (k.epoch, &k.participant)).collect();
        let idle = self.done.iter().filter(|((epoch, who), _)| !busy.contains(&(*epoch, who)));
        let Some((epoch, who)) = idle.min_by_key(|(_, set)| set.used).map(|(speaker, _)| speaker.clone()) else {
            return false;
        };
        let of = |spurt| SpurtKey { epoch, participant: who.clone(), spurt: SpurtNo(spurt) };
        let short: Vec<SpurtKey> = self.short.range(of(0)..=of(u32::MAX)).map(|(key, _)| key.clone()).collect();
        for key in &short {
            self.short.remove(key);
        }
        self.done.remove(&(epoch, who)).is_some()
    }

    fn done_set(&mut self, key: &SpurtKey) -> &mut DoneSet {
        self.uses += 1;
        let set = self.done.entry((key.epoch, key.participant.clone())).or_default();
        set.used = self.uses;
        set
    }

    /// Rows of all tables.
    pub fn rows(&self) -> usize {
        self.spurts.len() + self.done.values().map(|set| set.above.len() + 1).sum::<usize>() + self.short.len()
    }
}

#[cfg(test)]
mod tests;
