//! Speech as far as merging needs to know it: when each item was said, and what it looks like.

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

/// Where an item is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Source {
    pub(super) epoch: Epoch,
    pub(super) spurt: SpurtNo,
    pub(super) item: u32,
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

/// An item in its place on its speaker's time line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    /// When it was said, in microseconds by the clock of the speaker's first edge.
    pub(super) at: i64,
    pub(super) micros: u32,
    pub(super) print: u32,
    /// Where it is held; `None` for the place of an item that nobody sent.
    pub(super) source: Option<Source>,
}

impl Cell {
    pub(super) fn is_frame(&self) -> bool {
        self.print != 0
    }

    pub(super) fn end(&self) -> i64 {
        self.at + i64::from(self.micros)
    }

    pub(super) fn same(&self, other: &Self) -> bool {
        self.is_frame() && self.print == other.print
    }
}

/// When the first begins and the last ends; nothing of an empty list.
pub(super) fn span(cells: &[Cell]) -> Range<i64> {
    match (cells.first(), cells.last()) {
        (Some(first), Some(last)) => first.at..last.end(),
        _ => 0..0,
    }
}

pub(super) fn media(cells: &[Cell]) -> u64 {
    cells.iter().map(|c| u64::from(c.micros)).sum()
}

/// The cells as parts of spurts, in the order given.
pub(super) fn parts(cells: &[Cell]) -> Vec<Part> {
    let mut parts: Vec<Part> = vec![];
    for Source { epoch, spurt, item } in cells.iter().filter_map(|c| c.source) {
        match parts.last_mut() {
            Some(last) if last.epoch == epoch && last.spurt == spurt && last.items.end == item => last.items.end += 1,
            _ => parts.push(Part { epoch, spurt, items: item..item + 1 }),
        }
    }
    parts
}
