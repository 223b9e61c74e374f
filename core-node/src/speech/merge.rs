//! What several edges heard of one meeting becomes one speech: every packet once and in order.
//!
//! ```text
//!  edge 0   ──[ a0 ............ ]      ──[ a1 ..✝                      runs: what continues each other, by edge
//!  edge 1      ──[ b0 ............... ]   ──[ b1 ........ ]
//!                    │ align, zip               │
//!  utterance  ──[ a0 ∪ b0 ......... ]    ──[ a1 ∪ b1 .... ]            packets of either, by their number
//!                    │
//!  past       ──[ what was in it ]   <── copies that come later, after a restart or a takeover: dropped
//! ```
//!
//! Two edges capture a meeting of redundancy 2, and any meeting while it is handed over. A participant is who the platform's
//! signalling says, so only spurts of the same one are compared. Equal Opus packets are the same moment (`align`); the
//! edges' clocks and the boundaries of their spurts may differ. What an edge has encoded anew equals nothing: that is laid
//! over the others' by the clocks, which equal packets before have shown.
//!
//! Rules: a run of spurts that has ended is an utterance as soon as every other edge that captures has ended too, has come
//! as far as to be no help, or was waited for long enough (`track`). What comes after that and is not in it is an utterance
//! of its own. A spurt is *settled* when nothing of it is left; it is done when what it was used for is published
//! ([`ledger`]). Where one edge captures, and always has, nothing is waited for or remembered.
//!
//! An edge that leaves while somebody speaks says that this goes on. Whatever edge captures then is waited for until the speaker
//! ends, and both halves are one utterance, even where they have no packet in common.
//!
//! Calling contract: after [`Merger::handle_fresh`], [`Merger::handle_whole`], [`Merger::handle_capturing`] and
//! [`Merger::handle_timeout`], drain [`Merger::poll_ready`] and then [`Merger::poll_settled`].

mod align;
mod held;
pub mod ledger;
mod past;
mod slot;
#[cfg(test)]
mod tests;
mod track;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use mesh::wire::{Epoch, spurt::SpurtEnd};

use self::{
    past::MAX_PAST,
    track::{Made, Next, Track},
};
use super::utterance::{Cover, Fresh, Name, Part, Piece, Utterance};
use crate::key::{ParticipantId, SpurtKey};

/// Items of spurts that are not yet utterances; beyond it nothing is waited for. Five hours in packets of 20 ms, 10 MB.
const MAX_HELD: usize = 900_000;

/// How long a copy may be under way after several edges captured: as long as edges keep speech that is not done.
const KEEP: Duration = Duration::from_secs(3600);

/// One meeting's merger.
#[derive(Debug, Default)]
pub struct Merger {
    capturing: BTreeSet<Epoch>,
    /// The newest epoch under which an edge has captured.
    newest: Option<Epoch>,
    /// Until when utterances are remembered: several edges captured, or one succeeded another, not long before.
    remember: Option<Instant>,
    /// They may have before a restart.
    recalled: bool,
    tracks: BTreeMap<ParticipantId, Track>,
    /// When to look at a speaker again.
    timers: BTreeMap<ParticipantId, Instant>,
    ready: VecDeque<Utterance>,
    settled: VecDeque<SpurtKey>,
    /// Packets that were dropped because they were there already.
    twice: u64,
}

impl Merger {
    /// What utterances had before a restart or a takeover; perhaps none, for several edges may capture all the same, or have
    /// captured just before. To be called before anything else.
    pub fn recall(&mut self, covers: &[Cover]) {
        for cover in covers {
            self.tracks.entry(cover.participant.as_str().into()).or_default().recall(cover);
        }
        self.recalled = true;
        self.bound_past();
    }

    /// The epochs under which edges capture now, or may.
    pub fn handle_capturing(&mut self, capturing: BTreeSet<Epoch>, now: Instant) {
        // Whoever was succeeded may still bring what the successor has heard, too, however short the two were seen together.
        let succeeded = self.newest.is_some_and(|newest| capturing.last().is_some_and(|last| *last > newest));
        self.newest = self.newest.max(capturing.last().copied());
        if succeeded || capturing.len() > 1 || std::mem::take(&mut self.recalled) {
            self.remember = Some(now + KEEP);
        }
        if capturing != self.capturing {
            self.capturing = capturing;
            let all: Vec<ParticipantId> = self.tracks.keys().cloned().collect();
            all.iter().for_each(|participant| self.settle(participant, now));
        }
    }

    /// Items of a spurt that are on disk.
    pub fn handle_fresh(&mut self, key: &SpurtKey, fresh: &Fresh, now: Instant) {
        let track = self.tracks.entry(key.participant.clone()).or_default();
        let past = &track.past;
        track.spurts.grow(key.epoch, key.spurt, fresh, |item| past.had(key.epoch, key.spurt, item), now);
        self.settle(&key.participant, now);
    }

    /// All of a spurt is here; `end` is its trailer, `None` where it was cut off.
    pub fn handle_whole(&mut self, key: &SpurtKey, end: Option<SpurtEnd>, now: Instant) {
        let track = self.tracks.entry(key.participant.clone()).or_default();
        if !track.spurts.has(key.epoch, key.spurt) {
            // It holds nothing at all.
            self.settled.push_back(key.clone());
        }
        track.spurts.end(key.epoch, key.spurt, end, now);
        self.settle(&key.participant, now);
    }

    /// Something was waited for long enough.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due: Vec<ParticipantId> =
            self.timers.iter().filter(|(_, at)| **at <= now).map(|(p, _)| p.clone()).collect();
        due.iter().for_each(|participant| self.settle(participant, now));
    }

    /// When [`Merger::handle_timeout`] is next needed.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.values().min().copied()
    }

    /// The next utterance that is ready.
    pub fn poll_ready(&mut self) -> Option<Utterance> {
        self.ready.pop_front()
    }

    /// The next spurt of which nothing more will be used.
    pub fn poll_settled(&mut self) -> Option<SpurtKey> {
        self.settled.pop_front()
    }

    /// Utterances that are growing, one for each speaker, as far as they are here: for partials.
    pub fn growing(&mut self) -> Vec<Utterance> {
        let growing = self.tracks.iter_mut().filter_map(|(participant, track)| {
            let (name, parts) = track.growing()?;
            let key = |part: &Part| spurt_key(participant, part);
            let pieces: Vec<Piece> = parts.iter().map(|p| Piece { key: key(p), items: p.items.clone() }).collect();
            let spurts = pieces.iter().map(|p| p.key.clone()).collect();
            let name = Name { key: key(&name), item: name.items.start };
            let length = Duration::from_micros(slot::media(&track.spurts.cells(&parts)));
            Some(Utterance { name, pieces, length, spurts, rest: false, cover: None })
        });
        growing.collect()
    }

    /// Packets dropped so far because another edge had brought them.
    pub fn twice(&self) -> u64 {
        self.twice
    }

    fn settle(&mut self, participant: &ParticipantId, now: Instant) {
        let crowded = self.tracks.values().map(|t| t.spurts.slots()).sum::<usize>() > MAX_HELD;
        let Some(track) = self.tracks.get_mut(participant) else { return };
        // Where one edge captures, there is nobody to wait for.
        let capturing = if crowded { BTreeSet::new() } else { self.capturing.clone() };
        self.timers.remove(participant);
        loop {
            self.twice += track.drop_known();
            let settled = track.spurts.settle().into_iter();
            let key = |(epoch, spurt)| SpurtKey { epoch, participant: participant.clone(), spurt };
            self.settled.extend(settled.map(key));
            track.acquaint();
            let mixed = self.remember.is_some_and(|until| now < until) || track.spurts.is_mixed();
            match track.next(&capturing, now) {
                Next::Made(made) => {
                    let cover = mixed.then(|| track.remember(participant, &made));
                    self.twice += made.twice;
                    self.ready.push_back(utterance(participant, made, cover));
                }
                Next::Wait(at) => {
                    self.timers.insert(participant.clone(), at);
                    break;
                }
                Next::Nothing => break,
            }
        }
        if track.is_over() {
            self.tracks.remove(participant);
        }
        self.bound_past();
    }

    fn bound_past(&mut self) {
        while self.tracks.values().map(|t| t.past.items()).sum::<usize>() > MAX_PAST {
            let oldest = self.tracks.values_mut().filter(|t| t.past.oldest().is_some()).min_by_key(|t| t.past.oldest());
            let Some(track) = oldest else { return };
            metrics::counter!("nearfield_core_merge_forgotten_utterances_total").increment(1);
            track.past.forget_oldest();
        }
    }
}

fn spurt_key(participant: &ParticipantId, part: &Part) -> SpurtKey {
    SpurtKey { epoch: part.epoch, participant: participant.clone(), spurt: part.spurt }
}

fn utterance(participant: &ParticipantId, made: Made, cover: Option<Cover>) -> Utterance {
    let Made { cells, taken, name, rest, .. } = made;
    let piece = |part: Part| Piece { key: spurt_key(participant, &part), items: part.items };
    let spurts: BTreeSet<SpurtKey> = taken.iter().map(|p| spurt_key(participant, p)).collect();
    Utterance {
        name: Name { key: spurt_key(participant, &name), item: name.items.start },
        pieces: slot::parts(&cells).into_iter().map(piece).collect(),
        length: Duration::from_micros(slot::media(&cells)),
        spurts: spurts.into_iter().collect(),
        rest,
        cover,
    }
}
