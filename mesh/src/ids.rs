//! What meetings, and parts of them, are called between nodes.

use serde::{Deserialize, Serialize};

/// A meeting, everywhere and for ever.
pub type MeetingId = uuid::Uuid;

/// A meeting on one control stream: what an edge calls it in front of one core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MeetingAlias(pub u32);

/// A participant of one meeting, as the edge's participant table numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ParticipantAlias(pub u16);

/// A talk spurt's number, counted from 0 for each participant and epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SpurtNo(pub u32);

impl SpurtNo {
    const PART_SHIFT: u32 = 28;

    /// The number as it was counted: of all parts of one spurt the same.
    pub fn counted(self) -> u32 {
        self.0 & ((1 << Self::PART_SHIFT) - 1)
    }

    /// What is left of this spurt when a core has ended it before its edge did. The same each time it is asked for, so that a
    /// replay is known as one. `None` after 15 parts.
    pub fn next_part(self) -> Option<Self> {
        self.0.checked_add(1 << Self::PART_SHIFT).map(Self)
    }
}

/// The fencing epoch of a meeting's ownership: rises by one with each new owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// Whose turn it is to serve a meeting: rises by one each time another core takes it over. [`crate::lease`] says how they
/// are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Term(pub u32);
