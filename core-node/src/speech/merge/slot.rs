//! Speech as far as merging needs to know it: when each item was said, and what it looks like.

use std::ops::Range;

use mesh::wire::{Epoch, SpurtNo};

use crate::speech::utterance::{Part, Slot};

/// Where an item is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Source {
    pub(super) epoch: Epoch,
    pub(super) spurt: SpurtNo,
    pub(super) item: u32,
}

/// An item in its place on its speaker's time line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    /// When it was said, in microseconds by the clock of the speaker's first edge.
    pub(super) at: i64,
    pub(super) micros: u32,
    pub(super) print: u32,
    /// Its edge may have made it of several packets, to send less: it equals no other edge's then.
    pub(super) recoded: bool,
    /// Where it is held; `None` for the place of an item that nobody sent.
    pub(super) source: Option<Source>,
}

/// As long as what an edge encodes anew, in microseconds.
const LONG: u32 = 60_000;

/// Whether it is a packet as long as one that an edge encodes anew; some sources send such themselves.
pub(super) fn is_long(slot: &Slot) -> bool {
    slot.print != 0 && slot.micros >= LONG
}

impl Cell {
    pub(super) fn is_frame(&self) -> bool {
        self.print != 0
    }

    pub(super) fn middle(&self) -> i64 {
        self.at + i64::from(self.micros / 2)
    }

    pub(super) fn end(&self) -> i64 {
        self.at + i64::from(self.micros)
    }

    pub(super) fn is_long(&self) -> bool {
        is_long(&Slot { print: self.print, micros: self.micros })
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
