//! What is remembered of a meeting that was removed: none of its words, and no name but those of cores.

use std::collections::{BTreeMap, BTreeSet};

use mesh::{
    clock::Micros,
    identity::NodeId,
    mandate::MeetingKey,
    wire::{MeetingId, Term},
};
use serde::{Deserialize, Serialize};

use super::MeetingRecord;

/// That a meeting was removed. A core that was away then, or comes back with an older store, hears of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// The meeting's key: who shows it has, or had, a copy.
    pub key: MeetingKey,
    /// The last term in which it was served, as far as is known.
    pub term: Term,
    /// When it was removed.
    pub at: Micros,
    /// Cores that may have a copy, and have not said yet that it is gone.
    pub owed: BTreeSet<NodeId>,
}

impl Removal {
    /// That of a meeting which `me` removes: every other core that had a part in it is to hear of it.
    pub fn new(record: &MeetingRecord, me: &NodeId, at: Micros) -> Self {
        let owed = record.cores.iter().map(|turn| turn.core.clone()).filter(|core| core != me).collect();
        Self { key: record.key, term: record.serving.term, at, owed }
    }

    /// The same at a core that was told to remove it: who told it tells the others.
    pub fn told(record: &MeetingRecord, at: Micros) -> Self {
        Self { key: record.key, term: record.serving.term, at, owed: BTreeSet::new() }
    }
}

/// Which of more than `most` gives way: the oldest removal of which all have heard, else the oldest; never that of `newest`.
pub fn giving_way(
    removals: &BTreeMap<MeetingId, Removal>,
    newest: MeetingId,
    most: usize,
) -> Option<(MeetingId, &Removal)> {
    let others = removals.iter().filter(|(id, _)| **id != newest).map(|(id, removal)| (*id, removal));
    let first = others.min_by_key(|(id, removal)| (!removal.owed.is_empty(), removal.at, *id));
    first.filter(|_| removals.len() > most)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_oldest_removal_gives_way_that_nobody_is_owed_and_never_the_newest() {
        let removal = |at, owed: &[&str]| Removal {
            key: MeetingKey::random(),
            term: Term(1),
            at: Micros(at),
            owed: owed.iter().map(|core| core.parse().unwrap()).collect(),
        };
        let id = MeetingId::from_u128;
        // The oldest meeting was removed last.
        let mut removals: BTreeMap<_, _> =
            [(id(1), removal(50, &[])), (id(2), removal(20, &["core-2"])), (id(3), removal(40, &[]))].into();
        let gives_way = |removals: &_, most| giving_way(removals, id(1), most).map(|(id, _)| id);
        assert_eq!(gives_way(&removals, 3), None);
        assert_eq!(gives_way(&removals, 2), Some(id(3)));
        removals.remove(&id(3));
        assert_eq!(gives_way(&removals, 1), Some(id(2)), "for want of another");
        removals.remove(&id(2));
        assert_eq!(gives_way(&removals, 0), None);
    }
}
