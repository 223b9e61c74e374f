//! Speech as far as merging needs to know it: when each item was said, and what it looks like.

use std::ops::Range;

use mesh::wire::{Epoch, SpurtNo};

use crate::utterance::Part;

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
    /// Where it is held; `None` for the place of an item that nobody sent.
    pub(super) source: Option<Source>,
}

/// A packet so long may be the edge's own, made of several that came: speech that was encoded anew.
const RECODED: u32 = 60_000;

/// Whether packets of these may have been made anew by the edge, so that they equal no other edge's.
pub(super) fn recoded(cells: &[Cell]) -> bool {
    cells.iter().any(|c| c.is_frame() && c.micros >= RECODED)
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
