//! Speech without its sound: when each item was said, and what it looks like.

use std::ops::Range;

use mesh::{
    clock::Micros,
    wire::{Epoch, SpurtNo, spurt::Item},
};
use serde::{Deserialize, Serialize};

/// One item of a spurt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u32, u32)", into = "(u32, u32)")]
pub struct Slot {
    /// CRC-32 of the Opus packet, never 0; 0 where there is none.
    pub print: u32,
    /// How long it plays, in microseconds.
    pub micros: u32,
}

impl From<(u32, u32)> for Slot {
    fn from((print, micros): (u32, u32)) -> Self {
        Self { print, micros }
    }
}

impl From<Slot> for (u32, u32) {
    fn from(slot: Slot) -> Self {
        (slot.print, slot.micros)
    }
}

impl Slot {
    /// What there is to know of `item`, which plays for `micros`.
    pub fn of(item: &Item, micros: u32) -> Self {
        let print = match item {
            Item::Frame(packet) => crc32fast::hash(packet).max(1),
            Item::Gap | Item::End(_) => 0,
        };
        Self { print, micros }
    }
}

/// Items of a spurt that have come since the last time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fresh {
    /// Capture time of the spurt's item 0, by the clock of the edge that captured it.
    pub captured: Micros,
    /// Number of the first of these.
    pub first: u32,
    /// The items.
    pub slots: Vec<Slot>,
}

/// Items of one spurt, without a hole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Under which ownership it was captured.
    pub epoch: Epoch,
    /// Which spurt.
    pub spurt: SpurtNo,
    /// The items' numbers.
    pub items: Range<u32>,
}

/// What one utterance had, while more than one edge captured: kept with its words, so that no restart and no takeover
/// has it said twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cover {
    /// Who spoke.
    pub participant: String,
    /// When its first item was said, in microseconds by the clock of the speaker's first edge.
    pub at: i64,
    /// Its items in the order in which they were said.
    pub slots: Vec<Slot>,
    /// The spurts it was made of, and those that had the same.
    pub parts: Vec<Part>,
    /// What each edge's clock was ahead of the first one's.
    pub lags: Vec<(Epoch, i64)>,
}
