//! In which order one meeting's finals go out: each speaker's as they were spoken.
//!
//! After an outage an edge sends the newest speech first, and engines differ in how long they take. [`Turns`] knows what
//! has come in and is not done, by its capture time; a final whose turn has not come waits: [`HOLD`] at most, or [`LONG_HOLD`]
//! if what it waits for is being made words of.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mesh::clock::Micros;

use crate::key::{ParticipantId, SpurtKey};

/// The longest that a final waits for what was said before it and is not here in whole.
pub const HOLD: Duration = Duration::from_secs(6);

/// The longest that it waits for what is here: an engine that has a minute's speech to catch up with takes its time, and
/// one that fails must not hold a speaker up for ever.
pub const LONG_HOLD: Duration = Duration::from_secs(120);

/// What is on its way to words. Bounded by what [`Ingest`](crate::speech::ingest::Ingest) holds.
#[derive(Debug, Default)]
pub struct Turns {
    speakers: BTreeMap<ParticipantId, BTreeSet<(Micros, SpurtKey)>>,
    begun: BTreeMap<SpurtKey, Micros>,
    /// Those of which words are being made.
    working: BTreeSet<SpurtKey>,
}

impl Turns {
    /// Spurts on their way to words.
    pub fn len(&self) -> usize {
        self.begun.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.begun.is_empty()
    }

    /// A spurt has come in that begins at `captured`.
    pub fn begin(&mut self, key: &SpurtKey, captured: Micros) {
        if self.begun.insert(key.clone(), captured).is_none() {
            self.speakers.entry(key.participant.clone()).or_default().insert((captured, key.clone()));
        }
    }

    /// Words are being made of these: when the first of them began.
    pub fn work(&mut self, spurts: &[SpurtKey]) -> Option<Micros> {
        self.working.extend(spurts.iter().filter(|key| self.begun.contains_key(key)).cloned());
        spurts.iter().filter_map(|key| self.begun.get(key)).min().copied()
    }

    /// Its words are out, or it holds nothing up any more.
    pub fn end(&mut self, key: &SpurtKey) {
        self.working.remove(key);
        let Some(captured) = self.begun.remove(key) else { return };
        if let Some(spurts) = self.speakers.get_mut(&key.participant) {
            spurts.remove(&(captured, key.clone()));
            if spurts.is_empty() {
                self.speakers.remove(&key.participant);
            }
        }
    }

    /// How long the final of an utterance of these `spurts` may have to wait for what its speaker said before; zero: it is next.
    pub fn wait(&self, spurts: &[SpurtKey]) -> Duration {
        let Some(first) = spurts.first().filter(|first| self.begun.contains_key(first)) else { return Duration::ZERO };
        match self.speakers.get(&first.participant).and_then(BTreeSet::first) {
            Some((_, next)) if spurts.contains(next) => Duration::ZERO,
            Some((_, next)) if self.working.contains(next) => LONG_HOLD,
            Some(_) => HOLD,
            None => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh::wire::{Epoch, SpurtNo};

    use super::*;

    fn key(who: &str, epoch: u64, spurt: u32) -> SpurtKey {
        SpurtKey { epoch: Epoch(epoch), participant: who.into(), spurt: SpurtNo(spurt) }
    }

    #[test]
    fn each_speaker_s_finals_go_out_as_they_were_spoken_whatever_edge_captured_them() {
        let mut turns = Turns::default();
        turns.begin(&key("a", 1, 5), Micros(50));
        turns.begin(&key("a", 1, 4), Micros(40));
        turns.begin(&key("a", 2, 0), Micros(45));
        turns.begin(&key("b", 1, 0), Micros(60));
        let next = Duration::ZERO;
        assert_eq!(turns.wait(&[key("b", 1, 0)]), next, "others do not wait");
        assert_eq!((turns.wait(&[key("a", 1, 5)]), turns.wait(&[key("a", 2, 0)])), (HOLD, HOLD));
        assert_eq!(turns.wait(&[key("a", 1, 4), key("a", 1, 5)]), next, "one utterance of several spurts");
        assert_eq!(turns.work(&[key("a", 1, 4)]), Some(Micros(40)));
        assert_eq!(turns.wait(&[key("a", 1, 5)]), LONG_HOLD);
        turns.end(&key("a", 1, 4));
        assert_eq!((turns.wait(&[key("a", 2, 0)]), turns.wait(&[key("a", 1, 5)])), (next, HOLD));
        turns.end(&key("a", 2, 0));
        assert_eq!(turns.wait(&[key("a", 1, 5)]), next);
    }

    #[test]
    fn what_is_done_or_was_never_here_holds_nothing_up() {
        let mut turns = Turns::default();
        turns.begin(&key("a", 1, 0), Micros(10));
        assert_eq!(turns.wait(&[key("a", 1, 9)]), Duration::ZERO, "not known here");
        assert_eq!(turns.work(&[key("a", 1, 9), key("a", 1, 0)]), Some(Micros(10)));
        turns.end(&key("a", 1, 0));
        turns.end(&key("a", 1, 0));
        assert!(turns.speakers.is_empty() && turns.begun.is_empty() && turns.working.is_empty());
    }
}
