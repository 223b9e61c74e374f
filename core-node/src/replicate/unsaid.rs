//! What this core's store has of a meeting, and the turn that stands has not: words that were made in a turn which another has overtaken
//! before they were out, or where that core was alone. Others have been made of the same speech, or will be. Pure.

use std::collections::BTreeSet;

use super::entry::Entry;
use crate::key::{ParticipantId, SpurtKey};

/// Rows of one meeting, by their keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unsaid {
    /// Finals, by number.
    pub finals: BTreeSet<u64>,
    /// Spurts.
    pub spurts: BTreeSet<SpurtKey>,
    /// What utterances had.
    pub covers: BTreeSet<(ParticipantId, i64)>,
}

impl Unsaid {
    /// The snapshot has this as well.
    pub fn handle(&mut self, entry: &Entry) {
        let Entry::Finish { spurts, segment, cover } = entry else { return };
        for spurt in spurts {
            self.spurts.remove(&spurt.key());
        }
        if let Some(segment) = segment {
            self.finals.remove(&segment.seq);
        }
        if let Some(cover) = cover {
            self.covers.remove(&(cover.participant.as_str().into(), cover.at));
        }
    }

    /// Whether the two have the same.
    pub fn is_empty(&self) -> bool {
        self.finals.is_empty() && self.spurts.is_empty() && self.covers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use mesh::{
        clock::Micros,
        trace::TraceContext,
        wire::{Epoch, SpurtNo},
    };

    use super::*;
    use crate::{replicate::entry::DoneSpurt, store::DoneMark, utterance::Cover};

    #[test]
    fn what_the_snapshot_has_in_any_of_its_entries_stays() {
        let key = |spurt| SpurtKey { epoch: Epoch(1), participant: "p-alice".into(), spurt: SpurtNo(spurt) };
        let mut unsaid = Unsaid {
            finals: BTreeSet::from([3]),
            spurts: (0..2).map(key).collect(),
            covers: [(key(0).participant, 7), (key(0).participant, 8)].into(),
        };
        let mark = DoneMark { at: Micros(1), items: 1, frames: 1 };
        let (participant, trace) = ("p-alice".to_owned(), TraceContext::new(1));
        let spurt = DoneSpurt {
            epoch: Epoch(1),
            participant: participant.clone(),
            spurt: SpurtNo(1),
            captured: Micros(1),
            trace,
            mark,
        };
        let cover = Cover { participant, at: 8, slots: vec![], parts: vec![], lags: vec![] };
        unsaid.handle(&Entry::Finish { spurts: vec![spurt], segment: None, cover: Some(cover) });
        let left =
            Unsaid { finals: BTreeSet::from([3]), spurts: [key(0)].into(), covers: [(key(0).participant, 7)].into() };
        assert_eq!(unsaid, left);
        assert!(!unsaid.is_empty() && Unsaid::default().is_empty());
    }
}
