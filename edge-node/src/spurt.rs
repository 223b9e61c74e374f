//! Talk spurts: pre-roll, hangover, items numbered and timed.
//!
//! ```text
//!          onset: pre-roll goes out first               quiet beyond the tail: held back
//! Closed ─────────────────────────────────▶ Open ◀──────────────────────────────────────▶ Open, holding
//!    ▲                                       │ ▲        speech again: what was held goes out   │
//!    └───────────────────────────────────────┘ └─ at 28 s, or holding after 15 s: cut, ────────┤
//!                 a long hole                     and the next one continues it                │
//!    ▲                                                                                         │
//!    └───────────────────────── hangover over: what was held becomes pre-roll ─────────────────┘
//! ```
//!
//! Of the quiet that ends a spurt only [`Settings::tail`] is sent, enough for a speech engine to hear that it ended.
//! The rest is kept until it is known whether the speaker goes on, so that a spurt never has a hole of our making.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use mesh::{
    clock::Micros,
    wire::{
        SpurtNo,
        spurt::{EdgeStages, Item, SpurtEnd},
    },
};

use crate::vad::Activity;

/// A longer run of gaps ends a spurt: one second at 20 ms.
pub const MAX_GAPS: u32 = 50;
/// Slots kept from before a spurt; the oldest go when there are more (20 s at 20 ms, 2.5 s at 2.5 ms).
const MAX_KEPT: usize = 1024;
/// The same in bytes of payload.
const MAX_KEPT_BYTES: usize = 256 * 1024;

/// The lengths that matter.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Kept from before an onset is recognised.
    pub preroll: Duration,
    /// Quiet sent after speech. 300 ms: Whisper drops a last word that is cut off hard.
    pub tail: Duration,
    /// From here on a short pause is enough to cut.
    pub soft_max: Duration,
    /// The tail from there on: a pause that no speaker makes within a word.
    pub soft_tail: Duration,
    /// A spurt is cut here in any case: below the 30 s window of Whisper.
    pub hard_max: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            preroll: Duration::from_millis(400),
            tail: Duration::from_millis(300),
            soft_max: Duration::from_secs(15),
            soft_tail: Duration::from_millis(160),
            hard_max: Duration::from_secs(28),
        }
    }
}

/// What a pipeline yields: whole spurts, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// A spurt begins.
    Start {
        /// Its number.
        spurt: SpurtNo,
        /// Capture time of item 0.
        captured: Micros,
    },
    /// It goes on.
    Item {
        /// Its number.
        spurt: SpurtNo,
        /// The item's number in it, from 0.
        offset: u32,
        /// A gap or a frame; item 0 is a frame.
        item: Item,
        /// When it passed each stage; `sent` is still open.
        stages: EdgeStages,
    },
    /// It is over.
    End {
        /// Its number.
        spurt: SpurtNo,
        /// The trailer; `sent` is still open.
        end: SpurtEnd,
    },
}

impl Output {
    /// The spurt's number.
    pub fn spurt(&self) -> SpurtNo {
        match self {
            Self::Start { spurt, .. } | Self::Item { spurt, .. } | Self::End { spurt, .. } => *spurt,
        }
    }
}

/// One packet's place in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// The Opus packet; `None` where there is none.
    pub payload: Option<Bytes>,
    /// When it was spoken.
    pub captured: Micros,
    /// How long it plays.
    pub duration: Duration,
    /// When it passed each stage; `vad` is set when it is sent.
    pub stages: EdgeStages,
}

/// Makes spurts of one participant's slots.
#[derive(Debug)]
pub struct Assembler {
    settings: Settings,
    kept: VecDeque<Slot>,
    kept_time: Duration,
    kept_bytes: usize,
    open: Option<Open>,
    next: SpurtNo,
    out: VecDeque<Output>,
}

#[derive(Debug)]
struct Open {
    spurt: SpurtNo,
    items: u32,
    length: Duration,
    last: EdgeStages,
}

impl Assembler {
    /// No spurt yet; the first is number 0.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            kept: VecDeque::new(),
            kept_time: Duration::ZERO,
            kept_bytes: 0,
            open: None,
            next: SpurtNo::default(),
            out: VecDeque::new(),
        }
    }

    /// The next slot, and where the speaker is after it; `wall` is when that was decided.
    pub fn push(&mut self, slot: Slot, activity: Activity, wall: Micros) {
        let holding = !self.kept.is_empty();
        self.keep(slot);
        match activity {
            Activity::Silence => self.end(false),
            Activity::Speech => {
                if holding && self.length() >= self.settings.soft_max {
                    self.end(true);
                }
                self.send_kept(wall);
            }
            Activity::Pause(quiet) if self.open.is_some() && quiet <= self.tail() => self.send_kept(wall),
            Activity::Pause(_) => {}
        }
        self.trim();
    }

    /// Nothing more comes for now: ends the spurt under way.
    pub fn end(&mut self, continues: bool) {
        if let Some(Open { spurt, items, last, .. }) = self.open.take() {
            self.out.push_back(Output::End { spurt, end: SpurtEnd { continues, stages: last, ..SpurtEnd::of(items) } });
        }
    }

    /// Nobody listens from here on. Unless the speaker was making a pause already, whoever else listens hears how it goes on.
    pub fn leave(&mut self) {
        self.end(self.kept.is_empty());
    }

    /// A hole too long to be filled with gaps: what came before has nothing to do with what follows.
    pub fn cut(&mut self) {
        self.end(false);
        self.kept.clear();
        (self.kept_time, self.kept_bytes) = (Duration::ZERO, 0);
    }

    /// Whether a spurt is open.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether all output has been polled.
    pub fn is_drained(&self) -> bool {
        self.out.is_empty()
    }

    /// The last slots that were not sent, oldest first: at most `count`.
    pub fn kept(&self, count: usize) -> impl Iterator<Item = &Slot> {
        self.kept.range(self.kept.len().saturating_sub(count)..)
    }

    /// The next output.
    pub fn poll(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    fn keep(&mut self, slot: Slot) {
        self.kept_time += slot.duration;
        self.kept_bytes += slot.payload.as_ref().map_or(0, Bytes::len);
        self.kept.push_back(slot);
    }

    fn take_kept(&mut self) -> Option<Slot> {
        let slot = self.kept.pop_front()?;
        self.kept_time -= slot.duration;
        self.kept_bytes -= slot.payload.as_ref().map_or(0, Bytes::len);
        Some(slot)
    }

    /// While a spurt is open what is held may still be its middle, so only the bounds apply, which no hangover reaches.
    fn trim(&mut self) {
        let over = |this: &Self| match this.kept.front() {
            Some(first) => this.open.is_none() && this.kept_time - first.duration >= this.settings.preroll,
            None => false,
        };
        while over(self) || self.kept.len() > MAX_KEPT || self.kept_bytes > MAX_KEPT_BYTES {
            self.take_kept();
        }
    }

    fn send_kept(&mut self, wall: Micros) {
        while let Some(slot) = self.take_kept() {
            self.send(slot, wall);
            if self.length() >= self.settings.hard_max {
                self.end(true);
            }
        }
    }

    fn send(&mut self, slot: Slot, wall: Micros) {
        if self.open.is_none() && slot.payload.is_none() {
            return;
        }
        let open = self.open.get_or_insert_with(|| {
            let spurt = self.next;
            self.next = SpurtNo(spurt.0.wrapping_add(1));
            self.out.push_back(Output::Start { spurt, captured: slot.captured });
            Open { spurt, items: 0, length: Duration::ZERO, last: EdgeStages::default() }
        });
        let stages = EdgeStages { vad: wall, ..slot.stages };
        let item = slot.payload.map_or(Item::Gap, Item::Frame);
        self.out.push_back(Output::Item { spurt: open.spurt, offset: open.items, item, stages });
        open.items += 1;
        open.length += slot.duration;
        open.last = stages;
    }

    fn length(&self) -> Duration {
        self.open.as_ref().map_or(Duration::ZERO, |o| o.length)
    }

    fn tail(&self) -> Duration {
        if self.length() < self.settings.soft_max { self.settings.tail } else { self.settings.soft_tail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS20: Duration = Duration::from_millis(20);

    /// Runs slots of 20 ms through; the spurts that came out, as [`collect`] has them.
    fn run(activities: impl IntoIterator<Item = Activity>) -> (Vec<(u32, u64, u32, bool)>, Assembler) {
        let mut assembler = Assembler::new(Settings::default());
        let mut spurts = vec![];
        for (n, activity) in activities.into_iter().enumerate() {
            assembler.push(slot(n as u64), activity, Micros(n as u64));
            collect(&mut assembler, &mut spurts);
        }
        (spurts, assembler)
    }

    fn slot(n: u64) -> Slot {
        let payload = Some(Bytes::copy_from_slice(&n.to_be_bytes()));
        Slot { payload, captured: Micros(n * 20_000), duration: MS20, stages: EdgeStages::default() }
    }

    /// (number, captured in ms, items, continues) of each spurt that ended; checks numbering on the way.
    fn collect(assembler: &mut Assembler, spurts: &mut Vec<(u32, u64, u32, bool)>) {
        while let Some(output) = assembler.poll() {
            match output {
                Output::Start { spurt, captured } => {
                    assert_eq!(spurts.len(), spurt.0 as usize);
                    spurts.push((spurt.0, captured.as_millis(), 0, false));
                }
                Output::Item { offset, item, .. } => {
                    let last = spurts.last_mut().expect("a start came first");
                    assert_eq!(offset, last.2);
                    if let Item::Frame(bytes) = item {
                        let n = u64::from_be_bytes(bytes[..].try_into().expect("eight bytes"));
                        assert_eq!(n * 20, last.1 + u64::from(offset) * 20, "nothing is missing in between");
                    }
                    last.2 += 1;
                }
                Output::End { end, .. } => {
                    let last = spurts.last_mut().expect("a start came first");
                    assert_eq!(end.items, last.2);
                    last.3 = end.continues;
                }
            }
        }
    }

    fn quiet(slots: u32) -> impl Iterator<Item = Activity> {
        (1..=slots).map(|n| if n < 30 { Activity::Pause(MS20 * n) } else { Activity::Silence })
    }

    fn many(activity: Activity, count: usize) -> impl Iterator<Item = Activity> {
        std::iter::repeat_n(activity, count)
    }

    #[test]
    fn preroll_goes_out_first_and_the_tail_last() {
        let (spurts, assembler) = run(many(Activity::Silence, 100).chain(many(Activity::Speech, 50)).chain(quiet(40)));
        assert_eq!(spurts, [(0, 1600, 20 + 50 + 15, false)]);
        assert!(!assembler.is_open());
    }

    #[test]
    fn a_pause_within_the_hangover_leaves_no_hole() {
        let (spurts, _) =
            run(many(Activity::Speech, 50).chain(quiet(28)).chain(many(Activity::Speech, 10)).chain(quiet(40)));
        assert_eq!(spurts, [(0, 0, 50 + 28 + 10 + 15, false)]);
    }

    #[test]
    fn what_was_held_back_is_the_next_ones_preroll() {
        let (spurts, _) =
            run(many(Activity::Speech, 50).chain(quiet(32)).chain(many(Activity::Speech, 10)).chain(quiet(40)));
        assert_eq!(spurts, [(0, 0, 65, false), (1, 1300, 17 + 10 + 15, false)]);
    }

    #[test]
    fn long_speech_is_cut_at_a_short_pause() {
        let (spurts, _) =
            run(many(Activity::Speech, 800).chain(quiet(12)).chain(many(Activity::Speech, 100)).chain(quiet(40)));
        assert_eq!(spurts, [(0, 0, 808, true), (1, 16_160, 4 + 100 + 15, false)]);
    }

    #[test]
    fn long_speech_that_simply_ends_does_not_claim_to_go_on() {
        let (spurts, _) = run(many(Activity::Speech, 800).chain(quiet(40)));
        assert_eq!(spurts, [(0, 0, 808, false)]);
    }

    #[test]
    fn who_leaves_in_the_middle_of_speech_says_that_it_goes_on_and_after_it_that_it_does_not() {
        for (pause, goes_on) in [(0, true), (10, true), (20, false)] {
            let (mut spurts, mut assembler) = run(many(Activity::Speech, 100).chain(quiet(pause)));
            assembler.leave();
            collect(&mut assembler, &mut spurts);
            assert_eq!(spurts, [(0, 0, 100 + pause.min(15), goes_on)]);
        }
        let (spurts, mut assembler) = run(many(Activity::Speech, 100).chain(quiet(40)));
        assembler.leave();
        assert!(assembler.is_drained(), "{spurts:?}");
    }

    #[test]
    fn speech_without_any_pause_is_cut_at_the_hard_limit() {
        let (spurts, _) = run(many(Activity::Speech, 1500).chain(quiet(40)));
        assert_eq!(spurts, [(0, 0, 1400, true), (1, 28_000, 115, false)]);
    }

    #[test]
    fn gaps_are_items_but_never_the_first() {
        let mut assembler = Assembler::new(Settings::default());
        let gap = |n| Slot { payload: None, ..slot(n) };
        for (n, slot) in [gap(0), slot(1), gap(2), slot(3)].into_iter().enumerate() {
            assembler.push(slot, if n < 3 { Activity::Silence } else { Activity::Speech }, Micros(0));
        }
        assembler.end(false);
        let mut spurts = vec![];
        collect(&mut assembler, &mut spurts);
        assert_eq!(spurts, [(0, 20, 3, false)]);
    }

    #[test]
    fn a_cut_forgets_what_came_before() {
        let (_, mut assembler) = run(many(Activity::Silence, 30));
        assert_eq!(assembler.kept(1000).count(), 20);
        assembler.cut();
        assert_eq!(assembler.kept(1000).count(), 0);
    }
}
