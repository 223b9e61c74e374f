//! What is remembered of a meeting that was removed: none of its words, and no name but those of cores.

use std::collections::BTreeSet;

use mesh::{clock::Micros, identity::NodeId, mandate::MeetingKey, wire::Term};
use serde::{Deserialize, Serialize};

use super::MeetingRecord;

/// That a meeting was removed. A core that was away then, or comes back with an older store, hears of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// The meeting's key: who shows it has, or had, a copy.
    pub key: MeetingKey,
    /// The last turn in which it was served, as far as is known.
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
