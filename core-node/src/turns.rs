//! In which order one meeting's finals go out: each speaker's as they were spoken.
//!
//! After an outage an edge sends the newest speech first, and engines differ in how long they take. [`Turns`] knows what
//! has come in and is not done, by its capture time; a final whose turn has not come waits, [`HOLD`] at most.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mesh::clock::Micros;

use crate::key::{ParticipantId, SpurtKey};

/// The longest that a final waits for what was said before it.
pub const HOLD: Duration = Duration::from_secs(6);

/// What is on its way to words. Bounded by what [`Ingest`](crate::ingest::Ingest) holds.
#[derive(Debug, Default)]
pub struct Turns {
    speakers: BTreeMap<ParticipantId, BTreeSet<(Micros, SpurtKey)>>,
    begun: BTreeMap<SpurtKey, Micros>,
}

impl Turns {
    /// A spurt has come in that begins at `captured`.
    pub fn begin(&mut self, key: &SpurtKey, captured: Micros) {
        if self.begun.insert(key.clone(), captured).is_none() {
            self.speakers.entry(key.participant.clone()).or_default().insert((captured, key.clone()));
        }
    }

    /// Its words are out.
    pub fn end(&mut self, key: &SpurtKey) {
        let Some(captured) = self.begun.remove(key) else { return };
        if let Some(spurts) = self.speakers.get_mut(&key.participant) {
            spurts.remove(&(captured, key.clone()));
            if spurts.is_empty() {
                self.speakers.remove(&key.participant);
            }
        }
    }

    /// Whether nothing that its speaker said before waits for its words: `spurts` are those of one utterance.
    pub fn is_next(&self, spurts: &[SpurtKey]) -> bool {
        let Some(first) = spurts.first() else { return true };
        let speaker = self.speakers.get(&first.participant);
        speaker
            .and_then(BTreeSet::first)
            .is_none_or(|(_, next)| spurts.contains(next) || !self.begun.contains_key(first))
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
        assert!(turns.is_next(&[key("b", 1, 0)]), "others do not wait");
        assert!(!turns.is_next(&[key("a", 1, 5)]) && !turns.is_next(&[key("a", 2, 0)]));
        assert!(turns.is_next(&[key("a", 1, 4), key("a", 1, 5)]), "one utterance of several spurts");
        turns.end(&key("a", 1, 4));
        assert!(turns.is_next(&[key("a", 2, 0)]) && !turns.is_next(&[key("a", 1, 5)]));
        turns.end(&key("a", 2, 0));
        assert!(turns.is_next(&[key("a", 1, 5)]));
    }

    #[test]
    fn what_is_done_or_was_never_here_holds_nothing_up() {
        let mut turns = Turns::default();
        turns.begin(&key("a", 1, 0), Micros(10));
        assert!(turns.is_next(&[key("a", 1, 9)]), "not known here");
        turns.end(&key("a", 1, 0));
        turns.end(&key("a", 1, 0));
        assert!(turns.speakers.is_empty() && turns.begun.is_empty());
    }
}
