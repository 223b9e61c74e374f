//! One speaker's spurts that are not yet utterances, and how they join to runs.

use std::{
    collections::BTreeMap,
    ops::Range,
    time::{Duration, Instant},
};

use mesh::wire::{
    Epoch, SpurtNo,
    spurt::{SpurtEnd, Step},
};

use super::slot::{Cell, Source, is_long};
use crate::speech::utterance::{CONTINUATION_WAIT, Fresh, MAX_UTTERANCE, Part, Slot};

/// Lost packets at the beginning of a spurt are not among its items; so many of them are reckoned with.
const MAX_UNSENT: i64 = 50;

/// By how much a spurt may seem to begin before the end of what it continues: capture time is only so exact. What begins earlier
/// is of another source of the same participant, which speaks at the same time.
const OVERLAP: i64 = 500_000;

/// A spurt as far as it has come.
#[derive(Debug)]
pub(super) struct Held {
    captured: i64,
    slots: Vec<Slot>,
    /// By item: an utterance has it, or another spurt had it before.
    taken: Vec<bool>,
    whole: Option<Whole>,
    /// When it last grew.
    fresh: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Whole {
    continues: bool,
    /// Its edge may have encoded some of it anew.
    recoded: bool,
    since: Instant,
}

/// Items of one edge that belong together, none of them taken.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) epoch: Epoch,
    pub(super) parts: Vec<Part>,
    pub(super) state: State,
    /// When it became what it is.
    pub(super) since: Instant,
    /// When it last grew.
    pub(super) fresh: Instant,
    /// From its first item to the end of its last, on the speaker's time line.
    pub(super) span: Range<i64>,
    /// What lies before or behind it is taken.
    pub(super) rest: bool,
    micros: u64,
}

/// How a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It has ended.
    Ended,
    /// It has ended for its length alone; the speaker goes on.
    Cut,
    /// More is on its way, or something that it may belong to.
    Growing,
    /// What continues it has not begun; give up at this time.
    Waiting(Instant),
}

/// One speaker's spurts.
#[derive(Debug, Default)]
pub(super) struct Spurts {
    by_epoch: BTreeMap<Epoch, BTreeMap<SpurtNo, Held>>,
    /// What each edge's clock is ahead of the first one's, where that is known.
    lags: BTreeMap<Epoch, i64>,
    slots: usize,
}

impl Held {
    fn new(captured: i64, now: Instant) -> Self {
        Self { captured, slots: vec![], taken: vec![], whole: None, fresh: now }
    }

    /// What is not taken, without holes.
    fn islands(&self) -> Vec<Range<usize>> {
        let mut islands: Vec<Range<usize>> = vec![];
        for (n, _) in self.taken.iter().enumerate().filter(|(_, taken)| !**taken) {
            match islands.last_mut() {
                Some(last) if last.end == n => last.end += 1,
                _ => islands.push(n..n + 1),
            }
        }
        // Places of lost packets at the edge of what is taken are nothing by themselves.
        let has_frame = |r: &Range<usize>| self.slots[r.clone()].iter().any(|s| s.print != 0);
        let grows = |r: &Range<usize>| self.whole.is_none() && r.end == self.slots.len();
        islands.retain(|r| has_frame(r) || grows(r));
        islands
    }

    fn micros(&self, items: Range<usize>) -> u64 {
        self.slots[items].iter().map(|s| u64::from(s.micros)).sum()
    }
}

impl Spurts {
    /// Items that have come; `taken` says of each whether it was taken before a restart.
    pub(super) fn grow(
        &mut self,
        epoch: Epoch,
        spurt: SpurtNo,
        fresh: &Fresh,
        taken: impl Fn(u32) -> bool,
        now: Instant,
    ) {
        if self.lags.is_empty() {
            self.lags.insert(epoch, 0);
        }
        let captured = fresh.captured.0 as i64;
        let held = self.by_epoch.entry(epoch).or_default().entry(spurt).or_insert_with(|| Held::new(captured, now));
        let Some(seen) = held.slots.len().checked_sub(fresh.first as usize) else { return };
        for slot in fresh.slots.iter().skip(seen) {
            held.taken.push(taken(held.slots.len() as u32));
            held.slots.push(*slot);
            held.fresh = now;
            self.slots += 1;
        }
    }

    /// No more will come of this spurt.
    pub(super) fn end(&mut self, epoch: Epoch, spurt: SpurtNo, end: Option<SpurtEnd>, now: Instant) {
        if let Some(held) = self.by_epoch.get_mut(&epoch).and_then(|e| e.get_mut(&spurt)) {
            let continues = end.is_some_and(|e| e.continues);
            let recoded = end.is_none_or(|e| e.step != Step::PassThrough);
            held.whole.get_or_insert(Whole { continues, recoded, since: now });
        }
    }

    /// Whether this spurt is here.
    pub(super) fn has(&self, epoch: Epoch, spurt: SpurtNo) -> bool {
        self.by_epoch.get(&epoch).is_some_and(|e| e.contains_key(&spurt))
    }

    /// Whether the first item of `part` is here and not taken.
    pub(super) fn holds(&self, part: &Part) -> bool {
        let held = self.by_epoch.get(&part.epoch).and_then(|e| e.get(&part.spurt));
        held.is_some_and(|held| held.taken.get(part.items.start as usize) == Some(&false))
    }

    /// Whether more than one edge's speech is here.
    pub(super) fn is_mixed(&self) -> bool {
        self.by_epoch.len() > 1
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_epoch.is_empty()
    }

    /// Items held.
    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    /// What this edge's clock is ahead of the first one's; `None` as long as nothing has shown it.
    pub(super) fn lag(&self, epoch: Epoch) -> Option<i64> {
        self.lags.get(&epoch).copied()
    }

    pub(super) fn lags(&self) -> &BTreeMap<Epoch, i64> {
        &self.lags
    }

    pub(super) fn learn(&mut self, epoch: Epoch, lag: i64) {
        self.lags.insert(epoch, lag);
    }

    /// The items of these parts in their places.
    pub(super) fn cells(&self, parts: &[Part]) -> Vec<Cell> {
        let mut cells: Vec<Cell> = vec![];
        for part in parts {
            let Some(held) = self.by_epoch.get(&part.epoch).and_then(|e| e.get(&part.spurt)) else { continue };
            let mut at = held.captured - self.lag(part.epoch).unwrap_or(0);
            for (item, slot) in (0..).zip(&held.slots) {
                if part.items.start == item {
                    bridge(&mut cells, at);
                }
                if part.items.contains(&item) {
                    let source = Source { epoch: part.epoch, spurt: part.spurt, item };
                    let recoded = held.whole.is_none_or(|w| w.recoded) && is_long(slot);
                    let Slot { print, micros } = *slot;
                    cells.push(Cell { at, micros, print, recoded, source: Some(source) });
                }
                at += i64::from(slot.micros);
            }
        }
        cells
    }

    /// These items are used, or not wanted. Returns how many of them are packets.
    pub(super) fn take(&mut self, parts: &[Part]) -> u64 {
        let mut frames = 0;
        for part in parts {
            let Some(held) = self.by_epoch.get_mut(&part.epoch).and_then(|e| e.get_mut(&part.spurt)) else { continue };
            let end = (part.items.end as usize).min(held.slots.len());
            for n in part.items.start as usize..end {
                frames += u64::from(held.slots[n].print != 0 && !held.taken[n]);
                held.taken[n] = true;
            }
        }
        frames
    }

    /// Removes the spurts of which nothing more will be used.
    pub(super) fn settle(&mut self) -> Vec<(Epoch, SpurtNo)> {
        let mut settled = vec![];
        for (epoch, spurts) in &mut self.by_epoch {
            let over = |held: &Held| held.whole.is_some() && held.islands().is_empty();
            let gone: Vec<SpurtNo> = spurts.iter().filter(|(_, held)| over(held)).map(|(no, _)| *no).collect();
            for spurt in gone {
                self.slots -= spurts.remove(&spurt).map_or(0, |held| held.slots.len());
                settled.push((*epoch, spurt));
            }
        }
        self.by_epoch.retain(|_, spurts| !spurts.is_empty());
        settled
    }

    /// What belongs together, in the order of its beginning.
    pub(super) fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = self.by_epoch.iter().flat_map(|(e, spurts)| self.runs_of(*e, spurts)).collect();
        runs.sort_by_key(|run| run.span.start);
        runs
    }

    fn runs_of(&self, epoch: Epoch, spurts: &BTreeMap<SpurtNo, Held>) -> Vec<Run> {
        let mut joiner = Joiner::default();
        for (spurt, held) in spurts {
            let islands = held.islands();
            if islands.is_empty() {
                joiner.pass(*spurt, held.whole.is_none());
            }
            let last = islands.len().saturating_sub(1);
            for (n, island) in islands.into_iter().enumerate() {
                joiner.push(self.run(epoch, *spurt, held, island), held, n == last);
            }
        }
        joiner.finish()
    }

    fn run(&self, epoch: Epoch, spurt: SpurtNo, held: &Held, island: Range<usize>) -> Run {
        let from = held.captured - self.lag(epoch).unwrap_or(0) + held.micros(0..island.start) as i64;
        let micros = held.micros(island.clone());
        Run {
            epoch,
            parts: vec![Part { epoch, spurt, items: island.start as u32..island.end as u32 }],
            state: State::Growing,
            since: held.whole.map_or(held.fresh, |w| w.since),
            fresh: held.fresh,
            span: from..from + micros as i64,
            rest: island.start > 0 || island.end < held.slots.len(),
            micros,
        }
    }
}

/// Puts places where items are missing before `at`, so that items can be told by their number.
fn bridge(cells: &mut Vec<Cell>, at: i64) {
    let Some(last) = cells.last().copied() else { return };
    let (hole, slot) = (at - last.end(), i64::from(last.micros.max(1)));
    for n in 0..((hole + slot / 2) / slot).clamp(0, MAX_UNSENT) {
        cells.push(Cell { at: last.end() + n * slot, print: 0, recoded: false, source: None, ..last });
    }
}

/// Puts one edge's pieces together, in the order of their numbers.
#[derive(Default)]
struct Joiner {
    runs: Vec<Run>,
    open: Option<Run>,
    /// The spurt that continues what is open.
    next: Option<SpurtNo>,
    /// A spurt still open, which ends here so far, may lead into this one.
    led: Option<(SpurtNo, i64)>,
    /// What is open may belong to what comes before it.
    blocked: bool,
}

impl Joiner {
    fn push(&mut self, run: Run, held: &Held, last: bool) {
        let Some(part) = run.parts.first().cloned() else { return };
        let end = run.span.end;
        self.join(run, part.items.start == 0 && self.next == Some(part.spurt), part.spurt);
        let after = part.spurt.0.checked_add(1).map(SpurtNo);
        match held.whole {
            _ if !last => self.close(State::Ended),
            None => {
                self.close(State::Growing);
                self.led = after.map(|after| (after, end));
            }
            Some(Whole { continues: true, .. }) if after.is_some() => self.next = after,
            Some(_) => self.close(State::Ended),
        }
    }

    /// A spurt of which nothing is left: what led to it ends there.
    fn pass(&mut self, spurt: SpurtNo, open: bool) {
        if self.next == Some(spurt) {
            self.close(State::Ended);
        }
        self.led = spurt.0.checked_add(1).map(SpurtNo).filter(|_| open).map(|after| (after, i64::MIN));
    }

    fn join(&mut self, run: Run, continues: bool, spurt: SpurtNo) {
        let follows = |end: i64| run.span.start >= end.saturating_sub(OVERLAP);
        let blocked = self.led.is_some_and(|(led, end)| led == spurt && follows(end));
        if let Some(open) = self.open.as_mut().filter(|open| continues && follows(open.span.end)) {
            if u128::from(open.micros + run.micros) <= MAX_UTTERANCE.as_micros() {
                open.micros += run.micros;
                open.span.end = run.span.end;
                (open.since, open.fresh, open.rest) = (run.since, run.fresh, open.rest || run.rest);
                open.parts.extend(run.parts);
                return;
            }
            self.close(State::Cut);
        } else {
            // Something of what continues it is here, but not its beginning: that is taken.
            let state = if self.next == Some(spurt) { State::Ended } else { self.waiting() };
            self.close(state);
        }
        self.blocked = blocked;
        self.open = Some(run);
    }

    fn waiting(&self) -> State {
        self.open.as_ref().map_or(State::Ended, |open| State::Waiting(open.since + CONTINUATION_WAIT))
    }

    fn close(&mut self, state: State) {
        let blocked = std::mem::take(&mut self.blocked);
        if let Some(run) = self.open.take() {
            let state = if blocked { State::Growing } else { state };
            self.runs.push(Run { state, ..run });
        }
        self.next = None;
        self.led = None;
    }

    fn finish(mut self) -> Vec<Run> {
        let state = self.waiting();
        self.close(state);
        self.runs
    }
}

impl Run {
    /// Whether it and `span` may be the same moment, `margin` being how well the clocks are known.
    pub(super) fn meets(&self, span: &Range<i64>, margin: Duration) -> bool {
        let margin = margin.as_micros() as i64;
        self.span.start < span.end + margin && span.start < self.span.end + margin
    }
}
