//! What utterances have had already, for copies of it that come late.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Range,
    time::Duration,
};

use mesh::wire::{Epoch, SpurtNo};

use super::{
    align::{SLACK, align, align_by_time, shift},
    held::{Run, Spurts, State},
    slot::{Cell, Source, is_long, media, span},
};
use crate::speech::utterance::{Cover, Part, Slot};

/// Items remembered of one meeting, the newest: three hours of speech in packets of 20 ms, 7 MB.
pub(super) const MAX_PAST: usize = 540_000;

impl Cover {
    pub(super) fn new(participant: &str, cells: &[Cell], parts: Vec<Part>, lags: &BTreeMap<Epoch, i64>) -> Self {
        Self {
            participant: participant.into(),
            at: span(cells).start,
            slots: cells.iter().map(|c| Slot { print: c.print, micros: c.micros }).collect(),
            parts,
            lags: lags.iter().map(|(epoch, lag)| (*epoch, *lag)).collect(),
        }
    }
}

/// One speaker's past.
#[derive(Debug, Default)]
pub(super) struct Past {
    strips: VecDeque<Strip>,
    items: usize,
    /// What utterances had of spurts before a restart.
    recalled: BTreeMap<(Epoch, SpurtNo), Vec<Range<u32>>>,
}

#[derive(Debug)]
struct Strip {
    cells: Vec<Cell>,
    /// Whose it is.
    epochs: BTreeSet<Epoch>,
    /// The clocks by which its times are were known to each other.
    exact: bool,
    /// By edge: the end of what it had of this.
    until: BTreeMap<Epoch, i64>,
    /// By spurt: how much of `cells` it has been compared with and found to be the same.
    seen: BTreeMap<(Epoch, SpurtNo), usize>,
}

impl Past {
    /// Remembers an utterance; `until` says where what each edge had of it ends, `known` whose clocks are known.
    pub(super) fn push(&mut self, cells: &[Cell], until: BTreeMap<Epoch, i64>, known: impl Fn(Epoch) -> bool) {
        let epochs: BTreeSet<Epoch> = until.keys().copied().collect();
        let exact = epochs.iter().all(|epoch| known(*epoch));
        self.keep(Strip { cells: cells.to_vec(), epochs, exact, until, seen: BTreeMap::new() });
    }

    fn keep(&mut self, mut strip: Strip) {
        strip.cells.iter_mut().for_each(|cell| cell.source = None);
        self.items += strip.cells.len();
        self.strips.push_back(strip);
    }

    pub(super) fn items(&self) -> usize {
        self.items
    }

    /// When the oldest remembered was said.
    pub(super) fn oldest(&self) -> Option<i64> {
        self.strips.front().map(|s| span(&s.cells).start)
    }

    pub(super) fn forget_oldest(&mut self) {
        self.items -= self.strips.pop_front().map_or(0, |s| s.cells.len());
    }

    /// Remembers an utterance of before a restart.
    pub(super) fn recall(&mut self, cover: &Cover) {
        let mut at = cover.at;
        let mut cells = vec![];
        for slot in &cover.slots {
            let Slot { print, micros } = *slot;
            // What it was is not known any more: by its length it may be.
            cells.push(Cell { at, micros, print, recoded: is_long(slot), source: None });
            at += i64::from(micros);
        }
        let epochs: BTreeSet<Epoch> = cover.parts.iter().map(|part| part.epoch).collect();
        let exact = epochs.iter().all(|epoch| cover.lags.iter().any(|(known, _)| known == epoch));
        self.keep(Strip { cells, epochs, exact, until: BTreeMap::new(), seen: BTreeMap::new() });
        for Part { epoch, spurt, items } in &cover.parts {
            self.recalled.entry((*epoch, *spurt)).or_default().push(items.clone());
        }
    }

    /// Whether, before a restart, this item of a spurt went into an utterance or was the same as one that did.
    pub(super) fn had(&self, epoch: Epoch, spurt: SpurtNo, item: u32) -> bool {
        self.recalled.get(&(epoch, spurt)).is_some_and(|had| had.iter().any(|items| items.contains(&item)))
    }

    /// The items of `run` that utterances have had; the clock of its edge is learnt on the way. `margin` is how well that
    /// is known; `foreign` says whether its packets are known to be others than those of `span`.
    pub(super) fn known(
        &mut self,
        run: &Run,
        spurts: &mut Spurts,
        margin: Duration,
        foreign: impl Fn(&[Cell], &[Cell]) -> bool,
    ) -> Vec<Part> {
        let mut known = vec![];
        // An edge sends nothing under two numbers: what looks like what it has sent itself has been said twice.
        let others = |strip: &Strip| strip.epochs.iter().any(|epoch| *epoch != run.epoch);
        for strip in self.strips.iter_mut().filter(|strip| others(strip)) {
            let margin = if strip.exact { margin } else { SLACK };
            if !run.meets(&span(&strip.cells), margin) {
                continue;
            }
            for part in &run.parts {
                let cells = spurts.cells(std::slice::from_ref(part));
                known.extend(strip.known(part, &cells, run.state != State::Growing, margin, spurts, &foreign));
            }
        }
        known
    }
}

impl Strip {
    fn known(
        &mut self,
        part: &Part,
        cells: &[Cell],
        ended: bool,
        margin: Duration,
        spurts: &mut Spurts,
        foreign: impl Fn(&[Cell], &[Cell]) -> bool,
    ) -> Vec<Part> {
        let from = self.seen.get(&(part.epoch, part.spurt)).copied().unwrap_or(0);
        let rest = &self.cells[from..];
        let (mut pairs, mut ahead) = (align(rest, cells, margin), 0);
        if !pairs.is_empty() {
            ahead = shift(rest, cells, &pairs);
            spurts.learn(part.epoch, spurts.lag(part.epoch).unwrap_or(0) - ahead);
        } else if ended {
            pairs = align_by_time(rest, cells);
        }
        // Of what still grows, that is not known for sure.
        let recoded = cells.iter().filter(|c| ended && self.recoded(c, ahead, part.epoch));
        let mut known: Vec<Part> = recoded.filter_map(item).collect();
        let (Some(first), Some(last)) = (pairs.first(), pairs.last()) else {
            if foreign(rest, cells) {
                known.extend(within(cells, &span(rest)));
            }
            return known;
        };
        let paired = |n: usize| pairs.binary_search_by_key(&n, |(_, j)| *j).is_ok();
        // The place of a packet that was lost says nothing beside one that was not.
        let same = (first.1..=last.1).filter(|n| paired(*n) || !cells[*n].is_frame());
        known.extend(same.filter_map(|n| item(&cells[n])));
        self.seen.insert((part.epoch, part.spurt), from + last.0 + 1);
        known
    }

    /// Whether `cell`, once moved by `ahead`, was said while a packet was that it cannot be compared with, for one of the
    /// two was encoded anew: nobody says two things at once. What comes after all that its edge had is told by the edge's
    /// own clock alone, which may have been set back.
    fn recoded(&self, cell: &Cell, ahead: i64, epoch: Epoch) -> bool {
        let middle = cell.middle() + ahead;
        let after = self.cells.partition_point(|c| c.at <= middle);
        let there = after.checked_sub(1).map(|n| self.cells[n]).filter(|c| middle < c.end() && c.is_frame());
        let unlike = |c: Cell| !c.same(cell) && (c.recoded || cell.recoded);
        cell.is_frame() && self.until.get(&epoch).is_none_or(|until| middle >= *until) && there.is_some_and(unlike)
    }
}

fn within(cells: &[Cell], span: &Range<i64>) -> Vec<Part> {
    cells.iter().filter(|c| span.contains(&c.middle())).filter_map(item).collect()
}

fn item(cell: &Cell) -> Option<Part> {
    let Source { epoch, spurt, item } = cell.source?;
    Some(Part { epoch, spurt, items: item..item + 1 })
}

/// Whether two are long enough together, and in the same time, for their packets to be others on purpose.
pub(super) fn coincide(a: &[Cell], b: &[Cell]) -> bool {
    let (one, two) = (span(a), span(b));
    let common = one.end.min(two.end) - one.start.max(two.start);
    let inside =
        |cells: &[Cell], other: &Range<i64>| cells.iter().filter(|c| c.is_frame() && other.contains(&c.at)).count();
    let shorter = media(a).min(media(b)) as i64;
    common > 0 && 2 * common >= shorter && inside(a, &two).min(inside(b, &one)) >= 10
}
