//! What must hold in every history, as somebody sees it who sees all nodes at once.

use std::collections::BTreeMap;

use core_node::{
    key::SpurtKey,
    store::record::{Gap, Status},
};
use mesh::wire::{Epoch, Term};

/// All that was seen.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    served: BTreeMap<u32, usize>,
    /// To which edge, and in which slot.
    granted: BTreeMap<u64, (usize, u8)>,
    accepted: BTreeMap<u64, usize>,
    published: BTreeMap<SpurtKey, (u64, usize)>,
    /// By core and slot.
    captured: BTreeMap<(usize, u8), (Epoch, usize)>,
    /// A core went on alone: until all is healed two may serve, in different terms, ...
    pub(crate) isolated: bool,
    /// ... unless an authority that all share keeps them from it.
    pub(crate) shared: bool,
    pub(crate) frames: u64,
    pub(crate) turns: u64,
    /// Those that were named.
    pub(crate) gaps: Vec<Gap>,
    /// When nobody captured, since when and until when.
    pub(crate) silences: Vec<(u64, Option<u64>)>,
    /// It was ended: by which core, how, and why.
    pub(crate) ended: Option<(usize, Status, Option<String>)>,
    pub(crate) violation: Option<String>,
}

impl Oracle {
    /// The cores share an authority, or do not.
    pub(crate) fn new(shared: bool) -> Self {
        Self { shared, ..Self::default() }
    }

    pub(crate) fn violated(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// `core` begins to serve, or goes on after a restart.
    pub(crate) fn serves(&mut self, core: usize, term: Term) {
        self.isolated |= term.is_isolated();
        self.turns += 1;
        let first = *self.served.entry(term.0).or_insert(core);
        if first != core {
            self.violated(format!("cores {first} and {core} both serve in term {}", term.0));
        }
    }

    /// In which slot an epoch was granted.
    pub(crate) fn slot(&self, epoch: Epoch) -> Option<u8> {
        self.granted.get(&epoch.0).map(|(_, slot)| *slot)
    }

    /// `core` grants `epoch` to an edge in a slot, while `holder` still has the lease of an earlier one.
    pub(crate) fn grants(&mut self, core: usize, epoch: Epoch, to: (usize, u8), holder: Option<(usize, Epoch)>) {
        if let Some((other, held)) = holder {
            let (held, epoch) = (held.0, epoch.0);
            self.violated(format!("core {core} grants epoch {epoch} while edge {other} holds the lease of {held}"));
        }
        let first = *self.granted.entry(epoch.0).or_insert(to);
        if first != to {
            self.violated(format!("core {core} grants epoch {} to {to:?}, and {first:?} had it", epoch.0));
        }
    }

    /// `core` takes a frame that `edge` captured under `epoch`.
    pub(crate) fn accepts(&mut self, core: usize, epoch: Epoch, edge: usize) {
        self.frames += 1;
        let first = *self.accepted.entry(epoch.0).or_insert(edge);
        if first != edge {
            self.violated(format!("core {core} takes frames of edges {first} and {edge} in epoch {}", epoch.0));
        }
    }

    /// `edge` captures because it holds the lease of `epoch`, which it renews at `core`.
    pub(crate) fn captures(&mut self, edge: usize, core: usize, epoch: Epoch) {
        let slot = self.slot(epoch).unwrap_or_default();
        let (newest, other) = *self.captured.entry((core, slot)).or_insert((epoch, edge));
        if newest > epoch && self.one_serves() {
            let (held, newest) = (epoch.0, newest.0);
            self.violated(format!(
                "edge {edge} has core {core}'s lease of {held} after edge {other} had that of {newest}"
            ));
        }
        self.captured.insert((core, slot), (newest.max(epoch), if newest > epoch { other } else { edge }));
    }

    /// `core` has ended the meeting, which this edge `captured` when that was decided, or a while after the last fault (`late`).
    pub(crate) fn ends(
        &mut self,
        core: usize,
        status: Status,
        why: Option<String>,
        captured: Option<(usize, Epoch)>,
        late: bool,
    ) {
        if let (Status::Failed, Some((edge, epoch))) = (status, captured) {
            self.violated(format!(
                "core {core} gives the meeting up, {why:?}: edge {edge} captures it under {}",
                epoch.0
            ));
        }
        if status == Status::Failed && late {
            self.violated(format!("core {core} gives the meeting up, {why:?}: all is well"));
        }
        self.ended.get_or_insert((core, status, why));
    }

    /// Listeners at `core` may hear these words.
    pub(crate) fn publishes(&mut self, core: usize, key: &SpurtKey, words: u64) {
        let (first, by) = *self.published.entry(key.clone()).or_insert((words, core));
        if first != words && self.one_serves() {
            self.violated(format!(
                "core {core} publishes {key:?} again: {words}, where core {by} had published {first}"
            ));
        }
    }

    fn one_serves(&self) -> bool {
        self.shared || !self.isolated
    }

    pub(crate) fn published(&self) -> usize {
        self.published.len()
    }
}
