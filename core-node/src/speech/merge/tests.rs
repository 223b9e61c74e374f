//! Two edges hear one speaker; whatever happens to either, every packet comes out once and in order.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod hand_over;

use std::{ops::Range, time::Duration};

use mesh::{
    clock::Micros,
    wire::{SpurtNo, spurt::Step},
};
use proptest::prelude::*;

use super::*;
use crate::speech::utterance::{CONTINUATION_WAIT, Slot};

const FRAME: u64 = 20_000;
/// A wall clock to count from.
const WALL: u64 = 1_700_000_000_000_000;

fn key(epoch: u64, spurt: u32) -> SpurtKey {
    SpurtKey { epoch: Epoch(epoch), participant: "a".into(), spurt: SpurtNo(spurt) }
}

fn ended(continues: bool) -> Option<SpurtEnd> {
    Some(SpurtEnd { continues, ..SpurtEnd::of(0) })
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Speech in frames of 20 ms: which of them belong to a sentence, and which are alike.
#[derive(Debug, Clone)]
struct Said {
    sentences: Vec<Range<u64>>,
    /// Frames that look like any other silence.
    silent: Vec<Range<u64>>,
    /// From this frame on all is played again and again, every so many frames, byte for byte.
    played: Option<(u64, u64)>,
}

impl Said {
    fn print(&self, frame: u64) -> u32 {
        if self.silent.iter().any(|r| r.contains(&frame)) {
            return 7;
        }
        let frame = match self.played {
            Some((from, every)) if frame >= from => from + (frame - from) % every,
            _ => frame,
        };
        crc32fast::hash(&frame.to_be_bytes()).max(8)
    }
}

/// One edge's part.
#[derive(Debug, Clone)]
struct Ear {
    epoch: u64,
    /// Frames during which it captures.
    alive: Range<u64>,
    /// It is killed at the end, rather than leaving.
    killed: bool,
    /// When it leaves in the middle of a sentence it says that this goes on.
    tells: bool,
    /// Frames that it hears earlier and later than a sentence begins and ends.
    early: u64,
    late: u64,
    /// Where it cuts its sentences, in frames.
    cut_after: u64,
    lost: Vec<u64>,
    clock: i64,
    drift_ppm: i64,
    delay: Duration,
    /// Nothing gets through to the core meanwhile, in frames.
    outage: Range<u64>,
    /// Frames that it encodes anew, three in one.
    recodes: Range<u64>,
    /// How long a packet of the source plays, in microseconds.
    frame: u64,
}

#[derive(Debug, Clone)]
enum What {
    Fresh(SpurtKey, Fresh),
    Whole(SpurtKey, Option<SpurtEnd>),
    Joins(u64),
    Leaves(u64),
}

/// By epoch, spurt and item: its frames.
type Origin = BTreeMap<(u64, u32, u32), Range<u64>>;

impl Ear {
    fn new(epoch: u64) -> Self {
        Self {
            epoch,
            alive: 0..u64::MAX,
            killed: false,
            tells: true,
            early: 15,
            late: 15,
            cut_after: 700,
            lost: vec![],
            clock: 0,
            drift_ppm: 0,
            delay: ms(30),
            outage: 0..0,
            recodes: 0..0,
            frame: FRAME,
        }
    }

    fn captured(&self, frame: u64) -> Micros {
        let at = (frame * self.frame) as i64;
        Micros((WALL as i64 + at + self.clock + at * self.drift_ppm / 1_000_000) as u64)
    }

    fn arrives(&self, frame: u64) -> Duration {
        let sent = if self.outage.contains(&frame) { self.outage.end } else { frame };
        Duration::from_micros(sent * self.frame) + self.delay
    }

    /// What it sends; `origin` learns which frame each item is.
    fn speak(&self, said: &Said, origin: &mut Origin) -> Vec<(Duration, What)> {
        // It is told to join before it hears anything.
        let mut events = vec![(Duration::from_micros(self.alive.start * self.frame), What::Joins(self.epoch))];
        let mut spurt = 0;
        let mut after = 0;
        for sentence in &said.sentences {
            let heard = sentence.start.saturating_sub(self.early).max(after)..sentence.end + self.late;
            after = heard.end;
            let mut from = heard.start;
            while from < heard.end {
                let to = (from + self.cut_after).min(heard.end);
                self.spurt(said, spurt, from..to, to < heard.end, origin, &mut events);
                spurt += 1;
                from = to;
            }
        }
        if self.alive.end < u64::MAX {
            let known = if self.killed { ms(2000) } else { ms(0) };
            events.push((
                Duration::from_micros(self.alive.end * self.frame) + self.delay + known,
                What::Leaves(self.epoch),
            ));
        }
        events
    }

    fn spurt(
        &self,
        said: &Said,
        spurt: u32,
        frames: Range<u64>,
        continues: bool,
        origin: &mut Origin,
        events: &mut Vec<(Duration, What)>,
    ) {
        let heard = frames.start.max(self.alive.start)..frames.end.min(self.alive.end);
        let there = |n: &u64| !self.lost.contains(n);
        let Some(first) = heard.clone().find(there) else { return };
        let captured = self.captured(first);
        let (mut item, mut recoded) = (0, false);
        for chunk in (first..heard.end).collect::<Vec<_>>().chunks(3) {
            let at = *chunk.last().unwrap();
            let print = |n: &u64| if there(n) { said.print(*n) } else { 0 };
            let slots = if chunk.len() == 3 && self.recodes.contains(&chunk[0]) {
                recoded = true;
                let print = crc32fast::hash(&(chunk[0] << 8 | self.epoch).to_be_bytes()).max(8);
                vec![Slot { print, micros: 3 * self.frame as u32 }]
            } else {
                chunk.iter().map(|n| Slot { print: print(n), micros: self.frame as u32 }).collect()
            };
            let fresh = Fresh { captured, first: item, slots };
            for frames in chunk.chunks(chunk.len() / fresh.slots.len()) {
                origin.insert((self.epoch, spurt, item), frames[0]..frames[0] + frames.len() as u64);
                item += 1;
            }
            events.push((self.arrives(at), What::Fresh(key(self.epoch, spurt), fresh)));
        }
        let torn = self.killed && heard.end < frames.end;
        let end = if torn { self.arrives(heard.end) + ms(12_000) } else { self.arrives(heard.end) + ms(1) };
        let step = if recoded { Step::Opus24 } else { Step::PassThrough };
        let continues = continues || (self.tells && heard.end < frames.end);
        let trailer = SpurtEnd { continues, step, ..SpurtEnd::of(item) };
        events.push((end, What::Whole(key(self.epoch, spurt), (!torn).then_some(trailer))));
    }
}

/// What came out, in frames, utterance by utterance.
struct Outcome {
    utterances: Vec<Vec<u64>>,
    /// The same without the places of lost ones.
    frames: Vec<u64>,
    /// When each came out, and when its last frame was said.
    delays: Vec<Duration>,
    settled: Vec<SpurtKey>,
    spurts: BTreeSet<SpurtKey>,
    heard: BTreeSet<u64>,
    silent: BTreeSet<u64>,
}

/// Plays it; a restart of the core is made at `restart`, with the utterances out that were ready by then.
fn play(said: &Said, ears: &[Ear], restart: Option<Duration>) -> Outcome {
    let mut origin = Origin::new();
    let mut events: Vec<(Duration, What)> = ears.iter().flat_map(|ear| ear.speak(said, &mut origin)).collect();
    // In the order of their arrival; of one edge's at the same moment in the order of their sending.
    events.sort_by_key(|(at, _)| *at);
    let lost: BTreeMap<u64, BTreeSet<u64>> = ears.iter().map(|e| (e.epoch, e.lost.iter().copied().collect())).collect();
    let there = |(e, n): &(u64, u64)| !lost[e].contains(n);
    let all = origin.iter().flat_map(|((e, _, _), frames)| frames.clone().map(|n| (*e, n)));
    let heard = all.filter(there).map(|(_, n)| n).collect();
    let silent = said.silent.iter().flat_map(Clone::clone).collect();
    let t0 = Instant::now();
    let mut run = Run {
        merger: Merger::default(),
        origin,
        lost,
        capturing: BTreeSet::new(),
        covers: vec![],
        log: vec![],
        t0,
        out: Outcome {
            utterances: vec![],
            frames: vec![],
            delays: vec![],
            settled: vec![],
            spurts: BTreeSet::new(),
            heard,
            silent,
        },
    };
    let mut restart = restart;
    for (at, what) in events {
        if restart.is_some_and(|r| r <= at) {
            run.restart(at);
            restart = None;
        }
        run.timeouts(at);
        run.handle(what, at);
    }
    run.timeouts(Duration::from_secs(100_000));
    run.out
}

struct Run {
    merger: Merger,
    origin: Origin,
    lost: BTreeMap<u64, BTreeSet<u64>>,
    capturing: BTreeSet<Epoch>,
    covers: Vec<Cover>,
    /// What a store would hold.
    log: Vec<What>,
    t0: Instant,
    out: Outcome,
}

impl Run {
    fn handle(&mut self, what: What, at: Duration) {
        let now = self.t0 + at;
        match &what {
            What::Fresh(key, fresh) => {
                self.out.spurts.insert(key.clone());
                self.merger.handle_fresh(key, fresh, now);
            }
            What::Whole(key, end) => self.merger.handle_whole(key, *end, now),
            What::Joins(epoch) => {
                self.capturing.insert(Epoch(*epoch));
                self.merger.handle_capturing(self.capturing.clone(), now);
            }
            What::Leaves(epoch) => {
                self.capturing.remove(&Epoch(*epoch));
                self.merger.handle_capturing(self.capturing.clone(), now);
            }
        }
        self.log.push(what);
        self.drain(at);
    }

    fn timeouts(&mut self, until: Duration) {
        while let Some(at) = self.merger.poll_timeout().filter(|at| *at <= self.t0 + until) {
            self.merger.handle_timeout(at);
            self.drain(at - self.t0);
        }
    }

    fn drain(&mut self, at: Duration) {
        self.merger.growing();
        while let Some(utterance) = self.merger.poll_ready() {
            let mut frames = vec![];
            for Piece { key, items } in &utterance.pieces {
                frames.extend(items.clone().map(|i| (key.clone(), i)));
            }
            for (key, item) in &frames {
                let all = self.origin[&(key.epoch.0, key.spurt.0, *item)].clone();
                self.out.frames.extend(all.filter(|n| !self.lost[&key.epoch.0].contains(n)));
            }
            let said: Vec<u64> = frames
                .into_iter()
                .filter_map(|(key, item)| self.origin.get(&(key.epoch.0, key.spurt.0, item)).map(|n| n.start))
                .collect();
            self.out.delays.push(at.saturating_sub(Duration::from_micros(said.last().unwrap() * FRAME)));
            self.out.utterances.push(said);
            self.covers.extend(utterance.cover);
        }
        while let Some(key) = self.merger.poll_settled() {
            assert!(!self.out.settled.contains(&key), "{key:?} settled twice");
            self.out.settled.push(key);
        }
    }

    /// All that is settled is done and gone; the rest comes again from the log.
    fn restart(&mut self, at: Duration) {
        self.merger = Merger::default();
        self.merger.recall(&self.covers);
        let now = self.t0 + at;
        self.merger.handle_capturing(self.capturing.clone(), now);
        for what in self.log.clone() {
            match &what {
                What::Fresh(key, _) | What::Whole(key, _) if self.out.settled.contains(key) => {}
                What::Fresh(key, fresh) => self.merger.handle_fresh(key, fresh, now),
                What::Whole(key, end) => self.merger.handle_whole(key, *end, now),
                What::Joins(_) | What::Leaves(_) => {}
            }
        }
        self.drain(at);
    }
}

impl Outcome {
    /// Every frame that anybody heard, once; each utterance in order. Lost frames may be there as places.
    fn check(&self) -> Result<(), TestCaseError> {
        let mut times: BTreeMap<u64, u32> = BTreeMap::new();
        for utterance in &self.utterances {
            let rises = |a: &u64, b: &u64| a < b || (self.silent.contains(a) && self.silent.contains(b));
            prop_assert!(utterance.is_sorted_by(rises), "out of order: {utterance:?}");
        }
        self.frames.iter().for_each(|n| *times.entry(*n).or_default() += 1);
        let wrong: Vec<(u64, u32)> = self.heard.iter().map(|n| (*n, times.get(n).copied().unwrap_or(0))).collect();
        // Packets of silence are all alike: where nothing else tells, one may pass for another.
        let once = |n: u64, count: u32| if self.silent.contains(&n) { count <= 3 } else { count == 1 };
        let wrong: Vec<_> = wrong.into_iter().filter(|(n, count)| !once(*n, *count)).collect();
        prop_assert!(wrong.is_empty(), "not once: {wrong:?}");
        let settled: BTreeSet<SpurtKey> = self.settled.iter().cloned().collect();
        prop_assert_eq!(&settled, &self.spurts, "done in the end");
        Ok(())
    }

    /// The same where packets are encoded anew: nothing longer than 80 ms is missing or there twice, and a word that two
    /// edges brought in unlike packets is not said again. What is lost in a packet made of three is made up in it.
    fn check_recoded(&self, lost: &BTreeSet<u64>) -> Result<(), TestCaseError> {
        let times = |n: u64| self.frames.iter().filter(|m| **m == n).count();
        let missing = runs(self.heard.iter().copied().filter(|n| times(*n) == 0 && !lost.contains(n)));
        let doubled = runs(self.heard.iter().copied().filter(|n| times(*n) > 1));
        prop_assert!(missing.iter().all(|run| run.end - run.start <= 4), "missing: {missing:?}");
        prop_assert!(doubled.iter().all(|run| run.end - run.start <= 4), "twice: {doubled:?}");
        let settled: BTreeSet<SpurtKey> = self.settled.iter().cloned().collect();
        prop_assert_eq!(&settled, &self.spurts, "done in the end");
        Ok(())
    }

    fn in_order(&self) -> bool {
        // A few packets that a dead edge alone had come when it is surely dead.
        self.utterances.iter().filter(|u| u.len() > 25).filter_map(|u| u.first()).is_sorted()
    }
}

/// Numbers in a row.
fn runs(numbers: impl Iterator<Item = u64>) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = vec![];
    for n in numbers {
        match runs.last_mut() {
            Some(last) if last.end == n => last.end += 1,
            _ => runs.push(n..n + 1),
        }
    }
    runs
}

fn sentences(lengths: &[(u64, u64)]) -> Said {
    let mut at = 40;
    let mut sentences = vec![];
    for (pause, length) in lengths {
        at += pause;
        sentences.push(at..at + length);
        at += length;
    }
    Said { sentences, silent: vec![], played: None }
}

#[test]
fn two_edges_that_hear_the_same_make_each_utterance_once_without_delay() {
    let said = sentences(&[(40, 100), (60, 200), (50, 30)]);
    let second = Ear { clock: 80_000, delay: ms(110), early: 12, late: 17, ..Ear::new(2) };
    let out = play(&said, &[Ear::new(1), second], None);
    out.check().unwrap();
    assert_eq!(out.utterances.len(), 3);
    assert!(out.in_order());
    // The slower one's end, and nothing more.
    assert!(out.delays.iter().all(|d| *d <= ms(150)), "{:?}", out.delays);
}

#[test]
fn one_edge_alone_waits_for_nobody_and_remembers_nothing() {
    let said = sentences(&[(40, 100), (60, 200)]);
    let mut merger = Merger::default();
    let mut origin = Origin::new();
    let now = Instant::now();
    merger.handle_capturing(BTreeSet::from([Epoch(1)]), now);
    let mut made = 0;
    for (_, what) in Ear::new(1).speak(&said, &mut origin) {
        match what {
            What::Fresh(key, fresh) => merger.handle_fresh(&key, &fresh, now),
            What::Whole(key, end) => {
                merger.handle_whole(&key, end, now);
                assert_eq!(merger.poll_ready().map(|u| (u.spurts, u.cover)), Some((vec![key.clone()], None)));
                assert_eq!(merger.poll_settled(), Some(key));
                made += 1;
            }
            _ => {}
        }
    }
    assert_eq!((made, merger.poll_timeout(), merger.tracks.len()), (2, None, 0));
}

#[test]
fn an_edge_killed_in_the_middle_of_a_word_costs_nothing_but_its_share() {
    let said = sentences(&[(40, 150), (40, 150), (40, 100)]);
    let killed = Ear { alive: 0..320, killed: true, ..Ear::new(1) };
    let other = Ear { clock: -40_000, delay: ms(60), ..Ear::new(2) };
    for ears in [[killed.clone(), other.clone()], [other, killed]] {
        let out = play(&said, &ears, None);
        out.check().unwrap();
        assert_eq!(out.utterances.len(), 3, "{:?}", out.utterances);
        assert!(out.in_order());
        assert!(out.delays.iter().all(|d| *d <= ms(600)), "{:?}", out.delays);
    }
}

#[test]
fn what_one_edge_lost_the_other_fills_in() {
    let said = sentences(&[(40, 100)]);
    let one = Ear { lost: (90..110).collect(), ..Ear::new(1) };
    let two = Ear { lost: (120..125).chain([100, 170]).collect(), ..Ear::new(2) };
    let out = play(&said, &[one, two], None);
    out.check().unwrap();
    assert_eq!(out.utterances.len(), 1);
    assert_eq!(out.utterances[0].len(), 130, "of what both lost the place is kept");
}

#[test]
fn copies_that_come_a_minute_late_are_dropped() {
    let said = sentences(&[(40, 100), (60, 200), (50, 30)]);
    let cut_off = Ear { outage: 100..4000, clock: 150_000, ..Ear::new(2) };
    let out = play(&said, &[Ear::new(1), cut_off], None);
    out.check().unwrap();
    assert!(out.in_order());
    assert_eq!(out.utterances.len(), 3);
}

#[test]
fn nor_is_anything_said_twice_that_comes_late_of_an_edge_that_another_succeeded_unseen() {
    let said = sentences(&[(40, 300), (60, 100), (60, 200)]);
    let (mut merger, mut origin, t0) = (Merger::default(), Origin::new(), Instant::now());
    let relieved = Ear { alive: 0..560, outage: 30..2000, ..Ear::new(1) };
    let comes = Ear { alive: 200..u64::MAX, clock: 60_000, ..Ear::new(2) };
    let mut made = BTreeMap::<u64, u32>::new();
    let mut hear = |merger: &mut Merger, origin: &Origin, what: What, at: Duration| {
        match what {
            What::Fresh(key, fresh) => merger.handle_fresh(&key, &fresh, t0 + at),
            What::Whole(key, end) => merger.handle_whole(&key, end, t0 + at),
            What::Joins(_) | What::Leaves(_) => return,
        }
        merger.handle_timeout(t0 + at + ms(5000));
        let pieces = std::iter::from_fn(|| merger.poll_ready()).flat_map(|utterance| utterance.pieces);
        for Piece { key, items } in pieces {
            items.for_each(|item| *made.entry(origin[&(key.epoch.0, key.spurt.0, item)].start).or_default() += 1);
        }
    };
    merger.handle_capturing([Epoch(1)].into(), t0);
    let (late, now) = (relieved.speak(&said, &mut origin), comes.speak(&said, &mut origin));
    // The two were never seen together: nothing came while both captured.
    merger.handle_capturing([Epoch(2)].into(), t0);
    now.into_iter().for_each(|(at, what)| hear(&mut merger, &origin, what, at));
    // What was said last is sent first.
    let mut spurts: BTreeMap<u32, Vec<What>> = BTreeMap::new();
    for (_, what) in late {
        if let What::Fresh(key, _) | What::Whole(key, _) = &what {
            spurts.entry(key.spurt.0).or_default().push(what);
        }
    }
    let newest_first = spurts.into_values().rev().flatten();
    newest_first.for_each(|what| hear(&mut merger, &origin, what, Duration::from_secs(60)));
    let heard: BTreeSet<u64> = origin.values().map(|frames| frames.start).collect();
    let wrong: Vec<u64> = heard.into_iter().filter(|frame| made.get(frame) != Some(&1)).collect();
    assert!(wrong.is_empty(), "not once: {wrong:?}");
}

#[test]
fn a_copy_that_comes_after_a_restart_is_known_though_only_one_edge_captured_then() {
    let said = Said { sentences: vec![85..342, 484..798], ..sentences(&[]) };
    let plain = |epoch| Ear { early: 0, late: 0, cut_after: 1400, ..Ear::new(epoch) };
    // The first has joined and is cut off; the second is killed, and that is known just before the restart.
    let one = Ear { alive: 354..u64::MAX, outage: 0..1429, delay: ms(1), ..plain(1) };
    let two = Ear { alive: 0..603, killed: true, delay: ms(50), ..plain(2) };
    play(&said, &[one, two], Some(ms(14_111))).check().unwrap();
}

/// One sentence, then a jingle of 1 s every 1.2 s.
fn jingles() -> Said {
    let jingles = (0..200).map(|n| 300 + n * 60..300 + n * 60 + 50);
    Said { sentences: std::iter::once(40..140).chain(jingles).collect(), silent: vec![], played: Some((300, 60)) }
}

#[test]
fn what_is_played_again_and_again_is_no_copy_after_a_restart_of_the_core() {
    let said = Said { sentences: jingles().sentences.split_off(1), ..jingles() };
    let ear = Ear { early: 0, late: 0, ..Ear::new(1) };
    let out = play(&said, &[ear], Some(ms(20_000)));
    out.check().unwrap();
    assert_eq!(out.utterances.len(), 200);
}

#[test]
fn nor_is_it_where_another_edge_brings_it_late_whose_clock_is_known() {
    let plain = |epoch| Ear { early: 0, late: 0, ..Ear::new(epoch) };
    let late = Ear { outage: 290..12_200, clock: 150_000, ..plain(2) };
    play(&jingles(), &[plain(1), late], None).check().unwrap();
    // Or is the only one to bring some of it.
    let one = Ear { alive: 0..6000, killed: true, ..plain(1) };
    play(&jingles(), &[one, Ear { clock: 150_000, ..plain(2) }], Some(ms(130_000))).check().unwrap();
}

#[test]
fn long_speech_cut_at_different_places_is_cut_once() {
    let said = sentences(&[(40, 4000)]);
    let two = Ear { alive: 300..u64::MAX, cut_after: 760, delay: ms(90), ..Ear::new(2) };
    let out = play(&said, &[Ear { cut_after: 700, ..Ear::new(1) }, two], None);
    out.check().unwrap();
    assert!(out.in_order());
    let most = crate::speech::utterance::MAX_UTTERANCE.as_micros() as u64 / FRAME;
    assert!(out.utterances.iter().all(|u| u.len() as u64 <= most), "{:?}", out.utterances.iter().map(Vec::len));
    assert!(out.utterances.len() <= 5, "{:?}", out.utterances.iter().map(Vec::len).collect::<Vec<_>>());
}

#[test]
fn packets_that_a_relay_made_anew_for_each_subscriber_are_merged_by_their_time() {
    let said = sentences(&[(40, 100); 8]);
    let mut merger = Merger::default();
    let now = Instant::now();
    merger.handle_capturing(BTreeSet::from([Epoch(1), Epoch(2)]), now);
    let mut made = vec![];
    let mut at = now;
    for (n, sentence) in (0..).zip(&said.sentences) {
        for epoch in [1, 2] {
            let slot =
                |frame: u64| Slot { print: crc32fast::hash(&(frame << 8 | epoch).to_be_bytes()), micros: FRAME as u32 };
            let slots = sentence.clone().map(slot).collect();
            let fresh = Fresh { captured: Micros(WALL + sentence.start * FRAME + epoch * 3000), first: 0, slots };
            merger.handle_fresh(&key(epoch, n), &fresh, at);
        }
        for epoch in [1, 2] {
            merger.handle_whole(&key(epoch, n), ended(false), at);
        }
        at += ms(5000);
        merger.handle_timeout(at);
        made.push(std::iter::from_fn(|| merger.poll_ready()).count());
    }
    assert_eq!(made, [2, 2, 2, 1, 1, 1, 1, 1], "a few are needed to tell it from a wrong clock");
}

#[test]
fn what_one_edge_encodes_anew_is_no_other_speech_than_what_the_other_heard() {
    let said = sentences(&[(60, 200); 6]);
    let slow = Ear { delay: ms(2500), ..Ear::new(2) };
    for second in [Ear::new(2), slow] {
        // From the third sentence's middle to the fifth's.
        for recodes in [700..1250, 0..3000] {
            let (one, two) = (Ear::new(1), Ear { recodes: recodes.clone(), clock: 4000, ..second.clone() });
            for ears in [[one.clone(), two.clone()], [Ear { recodes: recodes.clone(), ..one }, two]] {
                let out = play(&said, &ears, None);
                let lengths: Vec<usize> = out.utterances.iter().map(Vec::len).collect();
                println!("{recodes:?}: {lengths:?}");
                let first = |n: usize| said.sentences[n].start - 15;
                let starts: Vec<u64> = out.utterances.iter().map(|u| u[0]).collect();
                let near = |n: usize| starts.iter().any(|start| start.abs_diff(first(n)) <= 3);
                assert_eq!(starts.len(), 6, "each sentence once: {starts:?}");
                assert!((0..6).all(near), "{starts:?}");
                assert_eq!(out.settled.len(), out.spurts.len(), "done in the end");
            }
        }
    }
}

#[test]
fn a_partial_s_name_is_the_final_s() {
    let said = sentences(&[(40, 150)]);
    let killed = Ear { alive: 0..130, killed: true, ..Ear::new(1) };
    let (mut origin, now, mut merger) = (Origin::new(), Instant::now(), Merger::default());
    let mut events: Vec<_> =
        [killed, Ear { delay: ms(70), ..Ear::new(2) }].iter().flat_map(|e| e.speak(&said, &mut origin)).collect();
    events.sort_by_key(|(at, _)| *at);
    merger.handle_capturing(BTreeSet::from([Epoch(1), Epoch(2)]), now);
    let mut names = BTreeSet::new();
    for (at, what) in events {
        match what {
            What::Fresh(key, fresh) => merger.handle_fresh(&key, &fresh, now + at),
            What::Whole(key, end) => merger.handle_whole(&key, end, now + at),
            _ => {}
        }
        names.extend(merger.growing().into_iter().map(|u| u.name));
        if let Some(utterance) = merger.poll_ready() {
            names.insert(utterance.name);
            break;
        }
    }
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
fn a_continuation_that_never_comes_is_given_up_at_its_deadline() {
    let (now, mut merger) = (Instant::now(), Merger::default());
    merger.handle_capturing([Epoch(1)].into(), now);
    let fresh = Fresh { captured: Micros(WALL), first: 0, slots: vec![Slot { print: 9, micros: 20_000 }; 1000] };
    merger.handle_fresh(&key(1, 4), &fresh, now);
    merger.handle_whole(&key(1, 4), ended(true), now);
    assert_eq!(merger.poll_timeout(), Some(now + CONTINUATION_WAIT));
    merger.handle_timeout(now + ms(1000));
    assert_eq!(merger.poll_ready(), None);
    merger.handle_timeout(now + CONTINUATION_WAIT);
    assert_eq!(merger.poll_ready().map(|u| u.spurts), Some(vec![key(1, 4)]));
    assert_eq!(merger.poll_timeout(), None);
}

/// Spurts of one edge: (number, whether it is whole and continues, its frames), in the order given.
fn joined(moves: &[(u32, Option<bool>, usize)]) -> Vec<Vec<u32>> {
    let (now, mut merger) = (Instant::now(), Merger::default());
    merger.handle_capturing([Epoch(1)].into(), now);
    let mut held: BTreeMap<u32, u32> = BTreeMap::new();
    let mut made = vec![];
    for (n, whole, frames) in moves {
        let first = held.insert(*n, *frames as u32).unwrap_or(0);
        let slots = (first..*frames as u32).map(|i| Slot { print: 1 + n * 5000 + i, micros: 20_000 }).collect();
        let captured = Micros(WALL + u64::from(*n) * 30_000_000);
        merger.handle_fresh(&key(1, *n), &Fresh { captured, first, slots }, now);
        if let Some(continues) = whole {
            merger.handle_whole(&key(1, *n), ended(*continues), now);
        }
        made.extend(std::iter::from_fn(|| merger.poll_ready()).map(|u| u.spurts.iter().map(|k| k.spurt.0).collect()));
    }
    made
}

#[test]
fn continued_spurts_join_in_whatever_order_they_end_up_to_the_engine_s_window() {
    assert_eq!(joined(&[(0, None, 50), (0, Some(false), 100)]), [[0]]);
    let none: Vec<Vec<u32>> = vec![];
    assert_eq!(joined(&[(0, None, 50), (1, Some(false), 250)]), none, "spurt 0 may lead into it");
    assert_eq!(joined(&[(0, None, 50), (1, Some(false), 250), (0, Some(true), 500)]), [[0, 1]]);
    assert_eq!(joined(&[(0, Some(true), 1000), (1, None, 350)]), none);
    assert_eq!(joined(&[(0, Some(true), 1000), (1, None, 350), (1, None, 450)]), [[0]]);
    assert_eq!(joined(&[(0, Some(true), 1000), (1, None, 450), (1, Some(false), 600)]), [[0], [1]]);
}

prop_compose! {
    fn an_ear(epoch: u64)(
        born in prop_oneof![3 => Just(0u64), 1 => 0u64..800],
        life in prop_oneof![2 => Just(u64::MAX), 2 => 0u64..1500],
        (killed, tells) in (any::<bool>(), any::<bool>()),
        (early, late) in (0u64..25, 0u64..25),
        cut_after in prop_oneof![Just(1400u64), 60u64..700],
        lost in prop::collection::vec((0u64..1600, 1u64..12), 0..20),
        clock in -200_000i64..200_000,
        drift_ppm in -150i64..150,
        delay in prop_oneof![3 => 1u64..150, 1 => 150u64..3000],
        outage in prop_oneof![3 => Just((0, 0)), 1 => (0u64..1500, 0u64..3000)],
    ) -> Ear {
        Ear {
            epoch,
            alive: born..born.saturating_add(life),
            killed,
            tells,
            early,
            late,
            cut_after,
            lost: lost.into_iter().flat_map(|(at, count)| at..at + count).collect(),
            clock,
            drift_ppm,
            delay: ms(delay),
            outage: outage.0..outage.0 + outage.1,
            recodes: 0..0,
            frame: FRAME,
        }
    }
}

prop_compose! {
    fn speech()(lengths in prop::collection::vec((45u64..200, 10u64..500), 1..6),
                silent in prop::collection::vec((0u64..1600, 1u64..30), 0..4)) -> Said {
        let silent = silent.into_iter().map(|(at, count)| at..at + count).collect();
        Said { silent, ..sentences(&lengths) }
    }
}

proptest! {
    #[test]
    fn every_packet_that_anybody_heard_comes_out_once_and_in_order(
        said in speech(), one in an_ear(1), two in an_ear(2),
    ) {
        play(&said, &[one, two], None).check()?;
    }

    #[test]
    fn neither_a_replacement_nor_a_third_edge_doubles_anything(
        said in speech(), one in an_ear(1), two in an_ear(2), three in an_ear(3),
    ) {
        play(&said, &[one, two, three], None).check()?;
    }

    #[test]
    fn a_restart_of_the_core_says_nothing_twice_and_loses_nothing(
        said in speech(), one in an_ear(1), two in an_ear(2), at in 0u64..40_000,
    ) {
        play(&said, &[one, two], Some(ms(at))).check()?;
    }

    #[test]
    fn order_is_kept_while_both_edges_keep_up(
        said in speech(), one in an_ear(1), two in an_ear(2), killed in any::<bool>(),
    ) {
        let keeps_up = |ear: Ear| Ear { alive: 0..u64::MAX, outage: 0..0, delay: ear.delay.min(ms(200)), ..ear };
        let alive = if killed { two.alive.clone() } else { 0..u64::MAX };
        let (one, two) = (keeps_up(one), Ear { alive: 0..alive.end, killed: true, ..keeps_up(two) });
        let out = play(&said, &[one, two], None);
        out.check()?;
        prop_assert!(out.in_order(), "{:?}", out.utterances.iter().map(|u| u.first()).collect::<Vec<_>>());
    }

    #[test]
    fn a_source_of_long_packets_is_merged_as_any_other(
        said in speech(), one in an_ear(1), two in an_ear(2),
    ) {
        // What is torn off has no trailer to say that its packets are the source's: where nothing is equal the clocks tell.
        let long = |ear: Ear| Ear { frame: 60_000, cut_after: ear.cut_after.min(450), killed: false, ..ear };
        let said = Said { silent: vec![], ..said };
        play(&said, &[long(one), long(two)], None).check()?;
    }

    #[test]
    fn what_is_encoded_anew_is_neither_lost_nor_said_twice(
        said in speech(), one in an_ear(1), two in an_ear(2),
        first in (0u64..1600, 0u64..1600), second in (0u64..1600, 0u64..1600),
    ) {
        // Where nothing else tells, the clocks do: they are as good as NTP makes them.
        let near = |ear: Ear| Ear { clock: ear.clock / 10, drift_ppm: ear.drift_ppm / 10, ..ear };
        let ear = |ear, (from, length)| Ear { recodes: from..from + length, ..near(ear) };
        let lost = one.lost.iter().chain(&two.lost).copied().collect();
        let said = Said { silent: vec![], ..said };
        play(&said, &[ear(one, first), ear(two, second)], None).check_recoded(&lost)?;
    }
}

#[test]
fn two_sources_of_one_participant_that_speak_at_once_are_two_utterances() {
    let now = Instant::now();
    let mut merger = Merger::default();
    merger.handle_capturing([Epoch(1)].into(), now);
    let fresh = |from: u64, frames: u64| Fresh {
        captured: Micros(WALL + from * FRAME),
        first: 0,
        slots: (from..from + frames).map(|n| Slot { print: n as u32 + 10, micros: FRAME as u32 }).collect(),
    };
    // A monologue, and what another microphone hears meanwhile.
    merger.handle_fresh(&key(1, 0), &fresh(0, 300), now);
    merger.handle_fresh(&key(1, 1), &fresh(100, 50), now);
    merger.handle_whole(&key(1, 1), ended(false), now);
    let made = |merger: &mut Merger| {
        std::iter::from_fn(|| merger.poll_ready()).map(|u| (u.spurts, u.length)).collect::<Vec<_>>()
    };
    assert_eq!(made(&mut merger), [(vec![key(1, 1)], ms(1000))], "it does not wait for the monologue");
    merger.handle_fresh(&key(1, 2), &fresh(200, 50), now);
    merger.handle_whole(&key(1, 0), ended(true), now);
    merger.handle_whole(&key(1, 2), ended(false), now);
    let made = made(&mut merger);
    assert!(made.iter().all(|(spurts, _)| spurts.len() == 1), "{made:?}");
}
