//! One speaker: when a run of spurts is an utterance, and what the other edges add to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use mesh::wire::Epoch;

use super::{
    align::{SLACK, align, align_by_time, overlay, shift, unlike, zip},
    held::{Run, Spurts, State},
    past::{Past, coincide},
    slot::{Cell, media, parts, span},
};
use crate::speech::utterance::{Cover, MAX_UTTERANCE, Part};

/// How well two edges' capture times agree once their clocks are known to each other.
const NEAR: Duration = Duration::from_millis(300);
/// An edge that captures, but has nothing of an utterance, is waited for so long ...
const ABSENT_WAIT: Duration = Duration::from_millis(400);
/// ... until it has missed so many in a row.
const MAX_MISSES: u32 = 3;
/// One that brings it, but more slowly, is waited for so long after its last item, ...
const BEHIND_WAIT: Duration = Duration::from_millis(500);
/// ... and so long at most.
const BEHIND_MOST: Duration = Duration::from_millis(1500);
/// One that heard more than the edge whose utterance it is goes on until its own end; so long after its last item.
const BEYOND_WAIT: Duration = Duration::from_secs(1);

/// What an edge left in the middle of goes on in another one's spurt that begins so close to its end: clocks are apart, and there
/// may be a pause, of which neither edge sends all.
const JOIN: Duration = Duration::from_millis(700);

/// Items around that moment of which none may be lost, for at least one of the two: longer than [`JOIN`] and what clocks are apart.
const SEAM: usize = 60;

/// Utterances in a row in which an edge has nothing but other packets, before they are held to be the same speech.
const STRANGE: u32 = 3;

/// One speaker.
#[derive(Debug, Default)]
pub(super) struct Track {
    pub(super) spurts: Spurts,
    pub(super) past: Past,
    /// Utterances in a row of which an edge had nothing.
    misses: BTreeMap<Epoch, u32>,
    /// How often an edge had nothing but other packets than another at the same time; `None` once it had the same.
    strange: BTreeMap<Epoch, Option<u32>>,
    /// Where the growing utterance that was spoken of begins.
    named: Option<Part>,
}

/// What became of it.
#[derive(Debug)]
pub(super) struct Made {
    /// What it is made of.
    pub(super) cells: Vec<Cell>,
    /// That, and what was the same.
    pub(super) taken: Vec<Part>,
    /// Where what was spoken of as growing begins, or else its first item.
    pub(super) name: Part,
    pub(super) rest: bool,
    /// Packets that were there twice.
    pub(super) twice: u64,
}

/// What may happen next.
#[derive(Debug)]
pub(super) enum Next {
    Made(Made),
    Wait(Instant),
    Nothing,
}

impl Track {
    /// Drops what utterances have had. Returns how many packets that were.
    pub(super) fn drop_known(&mut self) -> u64 {
        let mut dropped = 0;
        // What lies before what was dropped has ended by that, and may be told now.
        while let more @ 1.. = self.drop_known_once() {
            dropped += more;
        }
        dropped
    }

    fn drop_known_once(&mut self) -> u64 {
        if self.past.items() == 0 {
            return 0;
        }
        let mut dropped = 0;
        for run in self.spurts.runs() {
            let (margin, strange) = (self.margin(run.epoch), self.is_strange(run.epoch));
            let foreign = |a: &[Cell], b: &[Cell]| strange && coincide(a, b);
            let known = self.past.known(&run, &mut self.spurts, margin, foreign);
            if !known.is_empty() {
                self.misses.remove(&run.epoch);
            }
            dropped += self.spurts.take(&known);
        }
        dropped
    }

    /// Learns how far the clocks of edges are apart whose speech has not been together in an utterance yet.
    pub(super) fn acquaint(&mut self) {
        let runs = self.spurts.runs();
        for new in &runs {
            if self.spurts.lag(new.epoch).is_some() {
                continue;
            }
            let mut others: Vec<&Run> =
                runs.iter().filter(|r| r.epoch != new.epoch && r.meets(&new.span, SLACK)).collect();
            // Two of which nothing is known yet may be acquainted with each other.
            others.sort_by_key(|r| self.spurts.lag(r.epoch).is_none());
            for old in others {
                let (mut cells, mut theirs) = (self.spurts.cells(&old.parts), self.spurts.cells(&new.parts));
                let pairs = align(&cells, &theirs, SLACK);
                if !pairs.is_empty() {
                    self.synchronise(&mut cells, &mut theirs, old, new, &pairs);
                    break;
                }
            }
        }
    }

    /// The next utterance, if there is one. `capturing` are the epochs whose edges capture now.
    pub(super) fn next(&mut self, capturing: &BTreeSet<Epoch>, now: Instant) -> Next {
        let runs = self.spurts.runs();
        let mut soonest: Option<Instant> = None;
        for run in &runs {
            let wait = match run.state {
                State::Growing => continue,
                State::Waiting(until) if until > now && !is_resolved(run, &runs, capturing) => {
                    soonest = Some(soonest.map_or(until, |s| s.min(until)));
                    continue;
                }
                State::Ended | State::Cut | State::Waiting(_) => self.wait(run, &runs, capturing),
            };
            match wait.filter(|until| *until > now) {
                None => return Next::Made(self.make(run, &runs, capturing)),
                // What was said later must not come out before.
                Some(until) => return Next::Wait(soonest.map_or(until, |s| s.min(until))),
            }
        }
        soonest.map_or(Next::Nothing, Next::Wait)
    }

    /// Until when the other edges may still add to `run`.
    fn wait(&self, run: &Run, runs: &[Run], capturing: &BTreeSet<Epoch>) -> Option<Instant> {
        let others = || runs.iter().filter(|r| r.epoch != run.epoch);
        let waits =
            capturing.iter().filter(|e| **e != run.epoch).filter_map(|e| self.wait_for(*e, run, runs, capturing));
        let left = is_left(run, capturing);
        // The last packets of an edge that was told to leave, on their way.
        let leaving = others()
            .filter(|r| r.state == State::Growing && !capturing.contains(&r.epoch) && self.reaches(run, r, left));
        // Who took over has left, too.
        let next =
            others().filter(|r| is_left(r, capturing) && r.span.end > run.span.end && self.reaches(run, r, left));
        let next = next.filter_map(|next| match next.state {
            State::Waiting(until) if !is_resolved(next, runs, capturing) => Some(until),
            _ => self.wait(next, runs, capturing),
        });
        let most = if left { None } else { Some(run.since + BEHIND_MOST) };
        let leaving = leaving.map(|r| r.fresh + BEHIND_WAIT).map(|until| most.map_or(until, |most| until.min(most)));
        waits.chain(leaving).chain(next).max()
    }

    fn wait_for(&self, epoch: Epoch, run: &Run, runs: &[Run], capturing: &BTreeSet<Epoch>) -> Option<Instant> {
        let left = is_left(run, capturing);
        let mut others = runs.iter().filter(|r| r.epoch == epoch && self.reaches(run, r, left)).peekable();
        if others.peek().is_none() {
            let missed = self.misses.get(&epoch).is_some_and(|n| *n >= MAX_MISSES);
            return (!missed).then(|| run.since + ABSENT_WAIT);
        }
        let margin = self.margin_of(run.epoch, epoch);
        let growing = others.filter(|r| matches!(r.state, State::Growing | State::Waiting(_)));
        growing.filter_map(|other| until(run, other, margin, left)).max()
    }

    /// Whether `other` may be of the same moment as `run`, or, where that was `left` in the middle, go on with it.
    fn reaches(&self, run: &Run, other: &Run, left: bool) -> bool {
        let margin = self.margin_of(run.epoch, other.epoch);
        other.meets(&run.span, if left { margin.max(JOIN) } else { margin })
    }

    fn margin_of(&self, one: Epoch, two: Epoch) -> Duration {
        self.margin(one).max(self.margin(two))
    }

    fn margin(&self, epoch: Epoch) -> Duration {
        if self.spurts.lag(epoch).is_some() { NEAR } else { SLACK }
    }

    /// `run`; only its first spurts, where with what goes on with it it would be too long: between them its edge found a pause.
    fn fitting(&self, run: &Run, runs: &[Run], capturing: &BTreeSet<Epoch>) -> Run {
        let further = |r: &&Run| r.epoch != run.epoch && r.span.end > run.span.end && self.reaches(run, r, true);
        let end = runs.iter().filter(further).map(|r| r.span.end).max().filter(|_| is_left(run, capturing));
        let before = &run.parts[..run.parts.len().saturating_sub(1)];
        match end {
            Some(end) if end - run.span.start > MAX_UTTERANCE.as_micros() as i64 && !before.is_empty() => {
                let mut first = run.clone();
                (first.parts, first.state) = (before.to_vec(), State::Cut);
                first.span = span(&self.spurts.cells(before));
                first
            }
            _ => run.clone(),
        }
    }

    fn make(&mut self, run: &Run, runs: &[Run], capturing: &BTreeSet<Epoch>) -> Made {
        let run = &self.fitting(run, runs, capturing);
        let mut cells = self.spurts.cells(&run.parts);
        let mut taken = run.parts.clone();
        let mut heard = BTreeSet::from([run.epoch]);
        // Whose end it ends with: that edge may have left in the middle of it.
        let mut last = run;
        for other in runs.iter().filter(|r| r.epoch != run.epoch) {
            let left = is_left(last, capturing);
            let margin = self.margin_of(run.epoch, other.epoch);
            if !other.meets(&span(&cells), if left { margin.max(JOIN) } else { margin }) {
                continue;
            }
            let added = self.add(&mut cells, run, other, left);
            if !added.is_empty() {
                heard.insert(other.epoch);
                last = if other.span.end > last.span.end { other } else { last };
            }
            taken.extend(added);
        }
        self.count_misses(&heard, capturing);
        let frames = cells.iter().filter(|c| c.is_frame()).count() as u64;
        let twice = self.spurts.take(&taken).saturating_sub(frames);
        let first = parts(&cells[..cells.len().min(1)]).pop().unwrap_or_else(|| run.parts[0].clone());
        let named = self.named.take_if(|name| taken.iter().any(|p| has(p, name)));
        Made { cells, taken, name: named.unwrap_or(first), rest: run.rest, twice }
    }

    /// Adds what `other` has to the utterance that `run` makes, and whose edge has `left` in the middle of it or not. Returns what
    /// of it was used or was the same.
    fn add(&mut self, cells: &mut Vec<Cell>, run: &Run, other: &Run, left: bool) -> Vec<Part> {
        let mut theirs = self.spurts.cells(&other.parts);
        let mut pairs = align(cells, &theirs, self.margin_of(run.epoch, other.epoch));
        if pairs.is_empty() {
            pairs = align_by_time(cells, &theirs);
        } else {
            self.synchronise(cells, &mut theirs, run, other, &pairs);
        }
        let cut = run.state == State::Cut;
        let (Some(first), Some(last)) = (pairs.first().copied(), pairs.last().copied()) else {
            return self.add_unlike(cells, theirs, run, other, left);
        };
        let reach = reach(cells, &theirs, last);
        let mut range = 0..if cut { reach } else { theirs.len() };
        let mut room = (MAX_UTTERANCE.as_micros() as u64).saturating_sub(media(cells));
        // Too long in all: what lies outside is an utterance of its own.
        let ahead = first.1.saturating_sub(first.0);
        match room.checked_sub(media(&theirs[..ahead])) {
            Some(left) => room = left,
            None => range.start = ahead,
        }
        if media(&theirs[reach..range.end]) > room {
            range.end = reach;
        }
        let moved: Vec<(usize, usize)> = pairs.iter().map(|(i, j)| (*i, j - range.start)).collect();
        *cells = zip(cells, &theirs[range.clone()], &moved);
        parts(&theirs[range])
    }

    /// The same where the two have no packet in common: by the clocks.
    fn add_unlike(
        &mut self,
        cells: &mut Vec<Cell>,
        mut theirs: Vec<Cell>,
        run: &Run,
        other: &Run,
        left: bool,
    ) -> Vec<Part> {
        let (mine, span) = (span(cells), span(&theirs));
        let same = if cells.iter().chain(&theirs).any(|c| c.recoded) {
            // Whether it was encoded anew is not known for sure before its trailer.
            other.state != State::Growing && mine.start < span.end && span.start < mine.end
        } else {
            self.meet_strangers(cells, &theirs, run.epoch, other.epoch)
        };
        if !same {
            let fits = media(cells) + media(&theirs) <= MAX_UTTERANCE.as_micros() as u64;
            let Some(both) = joined(cells, &theirs).filter(|_| left && fits) else { return vec![] };
            *cells = both;
            return parts(&theirs);
        }
        theirs.retain(|c| run.state != State::Cut || c.at < mine.end);
        *cells = overlay(cells, &theirs);
        parts(&theirs)
    }

    /// The two were captured at the same time: so far apart are the clocks.
    fn synchronise(
        &mut self,
        cells: &mut [Cell],
        theirs: &mut [Cell],
        run: &Run,
        other: &Run,
        pairs: &[(usize, usize)],
    ) {
        self.strange.extend([(run.epoch, None), (other.epoch, None)]);
        let by = shift(cells, theirs, pairs);
        if self.spurts.lag(run.epoch).is_none() && self.spurts.lag(other.epoch).is_none() {
            self.spurts.learn(run.epoch, 0);
        }
        if self.spurts.lag(run.epoch).is_none() {
            cells.iter_mut().for_each(|c| c.at -= by);
            self.spurts.learn(run.epoch, by);
        } else {
            theirs.iter_mut().for_each(|c| c.at += by);
            let lag = self.spurts.lag(other.epoch).unwrap_or(0) - by;
            self.spurts.learn(other.epoch, lag);
        }
    }

    /// Two have no packet in common. Whether they are the same speech all the same: a relay that encodes anew for each
    /// subscriber. A wrong clock looks like it as well, so it takes several in a row.
    fn meet_strangers(&mut self, mine: &[Cell], theirs: &[Cell], one: Epoch, two: Epoch) -> bool {
        if !coincide(mine, theirs) {
            return false;
        }
        for epoch in [one, two] {
            if let Some(times) = self.strange.entry(epoch).or_insert(Some(0)) {
                *times += 1;
            }
        }
        self.is_strange(one) && self.is_strange(two)
    }

    fn is_strange(&self, epoch: Epoch) -> bool {
        self.strange.get(&epoch).is_some_and(|times| times.is_some_and(|times| times > STRANGE))
    }

    fn count_misses(&mut self, heard: &BTreeSet<Epoch>, capturing: &BTreeSet<Epoch>) {
        self.misses.retain(|epoch, _| capturing.contains(epoch) && !heard.contains(epoch));
        for epoch in capturing.iter().filter(|e| !heard.contains(e)) {
            *self.misses.entry(*epoch).or_default() += 1;
        }
    }

    /// What is growing, as far as it is here, and its name: of what two edges bring only what the longer one has, but all that
    /// one has that left in the middle of it.
    pub(super) fn growing(&mut self) -> Option<(Part, Vec<Part>)> {
        let runs = self.spurts.runs();
        let growing = runs.iter().filter(|r| r.state == State::Growing);
        let best = growing.max_by_key(|r| (r.span.end, r.span.end - r.span.start))?;
        let parts = self.with_halves_before(best, &runs);
        let first = parts.first()?.clone();
        self.named.take_if(|name| !self.spurts.holds(name));
        let named = self.named.get_or_insert(Part { items: first.items.start..first.items.start + 1, ..first });
        Some((named.clone(), parts))
    }

    /// The parts of `run` after those of what it goes on with.
    fn with_halves_before(&self, run: &Run, runs: &[Run]) -> Vec<Part> {
        let earlier = |r: &&Run| r.epoch != run.epoch && r.span.start < run.span.start && r.span.end < run.span.end;
        let goes_on = |r: &&Run| matches!(r.state, State::Growing | State::Waiting(_)) && self.reaches(r, run, true);
        let before = runs.iter().filter(earlier).filter(goes_on);
        let Some(before) = before.max_by_key(|r| r.span.end) else { return run.parts.clone() };
        let mine = self.spurts.cells(&self.with_halves_before(before, runs));
        let theirs = self.spurts.cells(&run.parts);
        let pairs = align(&mine, &theirs, self.margin_of(before.epoch, run.epoch));
        match pairs.is_empty() {
            true if before.state == State::Growing => run.parts.clone(),
            true => joined(&mine, &theirs).map_or_else(|| run.parts.clone(), |both| parts(&both)),
            false => parts(&zip(&mine, &theirs, &pairs)),
        }
    }

    /// What it has made, to be remembered.
    pub(super) fn remember(&mut self, participant: &str, made: &Made) -> Cover {
        let cover = Cover::new(participant, &made.cells, made.taken.clone(), self.spurts.lags());
        let mut until = BTreeMap::new();
        for part in &made.taken {
            let end = span(&self.spurts.cells(std::slice::from_ref(part))).end;
            until.entry(part.epoch).and_modify(|u: &mut i64| *u = end.max(*u)).or_insert(end);
        }
        let spurts = &self.spurts;
        self.past.push(&made.cells, until, |epoch| spurts.lag(epoch).is_some());
        cover
    }

    pub(super) fn recall(&mut self, cover: &Cover) {
        cover.lags.iter().for_each(|(epoch, lag)| self.spurts.learn(*epoch, *lag));
        self.past.recall(cover);
    }

    pub(super) fn is_over(&self) -> bool {
        self.spurts.is_empty() && self.past.items() == 0
    }
}

/// Whether the edge of `run` left the meeting while the speaker went on.
fn is_left(run: &Run, capturing: &BTreeSet<Epoch>) -> bool {
    matches!(run.state, State::Waiting(_)) && !capturing.contains(&run.epoch)
}

/// Whether `run`, which waits for what continues it, waits for nothing of its own edge's any more: that has left, and another
/// has come further, or nobody captures.
fn is_resolved(run: &Run, runs: &[Run], capturing: &BTreeSet<Epoch>) -> bool {
    let further = |other: &Run| other.epoch != run.epoch && other.span.end > run.span.end;
    is_left(run, capturing) && (capturing.is_empty() || runs.iter().any(further))
}

/// `theirs` after `mine`, if it may go on with that, though the two have no packet in common. Where either has lost none at the seam,
/// that shows that it does, for they would have one; where both have, no clock is good enough to tell what was said first.
fn joined(mine: &[Cell], theirs: &[Cell]) -> Option<Vec<Cell>> {
    // What the first has lost at its end the second has heard, or nobody has.
    let heard = mine.iter().rposition(Cell::is_frame).map_or(0, |last| last + 1);
    let (earlier, later) = (span(mine), span(theirs));
    let near = later.end > earlier.end && later.start.abs_diff(earlier.end) <= JOIN.as_micros() as u64;
    let whole = |cells: &[Cell]| cells.iter().all(Cell::is_frame);
    let ends_whole = mine.len() >= SEAM && whole(&mine[mine.len() - SEAM..]);
    let sure = ends_whole || whole(&theirs[..theirs.len().min(SEAM)]);
    (near && sure).then(|| [&mine[..heard], theirs].concat())
}

/// Until when `other`, which is still growing, may add to `run`.
fn until(run: &Run, other: &Run, margin: Duration, left: bool) -> Option<Instant> {
    let beyond = other.span.end - run.span.end;
    let behind = || (run.since.max(other.fresh) + BEHIND_WAIT).min(run.since + BEHIND_MOST);
    match run.state {
        // The speaker goes on in any case: what is beyond belongs to the next one.
        State::Cut => (beyond < 0).then(behind),
        // The rest of the sentence.
        _ if left => Some(other.fresh + BEYOND_WAIT),
        _ if beyond <= 100_000 => Some(behind()),
        _ if margin > NEAR => Some((other.fresh + BEYOND_WAIT).min(run.since + BEHIND_MOST)),
        _ => Some(other.fresh + BEYOND_WAIT),
    }
}

/// How many of `theirs` were said before the end of `mine`: by their number, and by the clocks where one was encoded anew.
fn reach(mine: &[Cell], theirs: &[Cell], last: (usize, usize)) -> usize {
    let (after, beside) = (&mine[last.0 + 1..], &theirs[last.1 + 1..]);
    let there = if unlike(after, beside) {
        let end = span(mine).end;
        beside.iter().take_while(|c| c.middle() < end).count()
    } else {
        after.len().min(beside.len())
    };
    last.1 + 1 + there
}

fn has(part: &Part, name: &Part) -> bool {
    part.epoch == name.epoch && part.spurt == name.spurt && part.items.contains(&name.items.start)
}
