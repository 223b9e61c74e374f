//! On which step of the ladder a meeting's speech is sent, by how late it comes to the core.
//!
//! ```text
//! pass-through ⇄ Opus 24 kb/s ⇄ 16 ⇄ 12 ⇄ final-only        down: late, and not getting better
//!                                                            up:   in time for as long as is waited
//! ```
//!
//! What is measured is the *lag*: how long ago the oldest live speech was said that the core does not hold yet, beyond the
//! shortest round trip. It says whatever the cause is that the link lets too little pass: a queue before a narrow link,
//! loss, or others' traffic. A backlog after an outage is no cause: it gives way to live speech anyhow. Nor is a core that is
//! slow to commit, or an edge that has too much to do, which encoding would give still more: speech counts as late only
//! where the path is short of bandwidth, as `mesh::transport::congestion::Path::is_short` sees it.
//!
//! A step up is a try: if it has to be taken back, the next is waited for twice as long, up to [`LONGEST_WAIT`]; if it
//! holds as long as it was waited for, that is forgiven.

use std::time::{Duration, Instant};

use mesh::wire::spurt::Step;

/// Speech is late from here on. Far above what a sound link and a group commit take, far below what a listener bears.
const LATE: Duration = Duration::from_secs(1);
/// Speech is in time up to here.
const IN_TIME: Duration = Duration::from_millis(400);
/// How long a step is given to show its effect.
const EFFECT: Duration = Duration::from_millis(1500);
/// How much less the lag must be by then not to step down again.
const BETTER: Duration = Duration::from_millis(100);
/// How long speech must be in time before a step up, at first and at most.
pub const FIRST_WAIT: Duration = Duration::from_secs(10);
/// See [`FIRST_WAIT`].
pub const LONGEST_WAIT: Duration = Duration::from_secs(160);

/// Measurements further apart show that this process stood still: acknowledgements are still to be read.
const AWAY: Duration = Duration::from_millis(1500);

/// One meeting's.
#[derive(Debug)]
pub struct Ladder {
    step: Step,
    /// When the lag was last told.
    told: Instant,
    judged: Judged,
    /// For how long speech has been in time. Silence says nothing of the link, and does not count.
    calm: Duration,
    wait: Duration,
    /// Since the last step up, while it may have to be taken back: for how long there was speech.
    tried: Option<Duration>,
    shortest: Option<Duration>,
    /// More is to be sent than the path lets pass.
    short: bool,
}

/// When the lag was last judged, and what it was then if it was late.
#[derive(Debug, Clone, Copy)]
struct Judged {
    at: Instant,
    lag: Duration,
    /// That was of speech said on this step.
    settled: bool,
}

impl Ladder {
    /// At the top.
    pub fn new(now: Instant) -> Self {
        Self {
            step: Step::PassThrough,
            told: now,
            judged: Judged { at: now, lag: Duration::ZERO, settled: true },
            calm: Duration::ZERO,
            wait: FIRST_WAIT,
            tried: None,
            shortest: None,
            short: false,
        }
    }

    /// Where it stands.
    pub fn step(&self) -> Step {
        self.step
    }

    /// There is another connection, perhaps by another way: what was measured says little of it.
    pub fn handle_connected(&mut self, now: Instant) {
        (self.shortest, self.short) = (None, false);
        self.calm = Duration::ZERO;
        (self.told, self.judged) = (now, Judged { at: now, lag: Duration::ZERO, settled: true });
    }

    /// The connection's round trip, as it is now, and whether more is to be sent than the path lets pass.
    pub fn handle_path(&mut self, rtt: Duration, short: bool) {
        self.handle_short(short);
        self.shortest = Some(self.shortest.map_or(rtt, |shortest| shortest.min(rtt)));
    }

    /// The same, as long as its round trip is not known anew.
    pub fn handle_short(&mut self, short: bool) {
        self.short = short;
    }

    /// How old the oldest live speech is that the core does not hold, `None` if nobody speaks; to be told a few times a
    /// second while there is a connection. The new step, if it is another.
    pub fn handle_age(&mut self, age: Option<Duration>, now: Instant) -> Option<Step> {
        let passed = now.saturating_duration_since(self.told);
        self.told = now;
        if passed > AWAY {
            self.judged.at = now;
            return None;
        }
        let lag = age?.saturating_sub(self.shortest.unwrap_or_default());
        self.calm = if lag > IN_TIME { Duration::ZERO } else { self.calm + passed };
        self.tried = self.tried.map(|tried| tried + passed);
        if lag > LATE && self.short {
            return self.late(lag, now);
        }
        (self.judged.lag, self.judged.settled) = (Duration::ZERO, true);
        self.in_time(now)
    }

    fn late(&mut self, lag: Duration, now: Instant) -> Option<Step> {
        let Judged { at, lag: before, settled } = self.judged;
        let since = now.saturating_duration_since(at);
        let worse = lag >= before * 2;
        // What was said before the step may still be on its way.
        if since < EFFECT || (since < lag && !worse) {
            return None;
        }
        self.judged = Judged { at: now, lag, settled: true };
        let better = lag + BETTER <= before;
        if !worse && (better || !settled) {
            return None;
        }
        self.judged.settled = false;
        if self.tried.take().is_some() {
            self.wait = (self.wait * 2).min(LONGEST_WAIT);
        }
        self.turn_to(self.step.down())
    }

    fn in_time(&mut self, now: Instant) -> Option<Step> {
        if self.tried.is_some_and(|tried| tried >= self.wait) {
            (self.tried, self.wait) = (None, FIRST_WAIT);
        }
        if self.step == Step::PassThrough || self.calm < self.wait {
            return None;
        }
        self.calm = Duration::ZERO;
        self.tried = Some(Duration::ZERO);
        self.judged.at = now;
        self.turn_to(self.step.up())
    }

    fn turn_to(&mut self, step: Step) -> Option<Step> {
        let changed = step != self.step;
        self.step = step;
        changed.then_some(step)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "virtual time begins at some instant")]

    use super::*;

    const TICK: Duration = Duration::from_millis(250);

    /// A link of `rate` bits per second on which somebody speaks without pause, in virtual time.
    struct Link {
        now: Instant,
        ladder: Ladder,
        /// Speech that waits, in bits, and what it is worth in time.
        queue: f64,
        steps: Vec<(u64, Step)>,
        start: Instant,
    }

    impl Link {
        fn new() -> Self {
            let now = Instant::now();
            Self { now, ladder: Ladder::new(now), queue: 0.0, steps: vec![], start: now }
        }

        fn speak(&mut self, seconds: u64, rate: f64) {
            for _ in 0..seconds * 4 {
                self.now += TICK;
                let bits = self.ladder.step().bitrate().map_or(40_000.0, |bits| f64::from(bits) * 1.1);
                self.queue = (self.queue + (bits - rate) / 4.0).max(0.0);
                self.ladder.handle_path(Duration::from_millis(60), self.queue > 0.0);
                let age = Duration::from_millis(60) + Duration::from_secs_f64(self.queue / rate.max(1.0));
                if let Some(step) = self.ladder.handle_age(Some(age), self.now) {
                    self.steps.push(((self.now - self.start).as_secs(), step));
                }
            }
        }

        fn time_on(&self, step: Step, until: u64) -> u64 {
            let ends = self.steps.iter().skip(1).map(|(at, _)| *at).chain([until]);
            self.steps.iter().zip(ends).filter(|((_, s), _)| *s == step).map(|((from, _), to)| to - from).sum()
        }
    }

    #[test]
    fn a_wide_link_is_never_stepped_down_on() {
        let mut link = Link::new();
        link.speak(600, 100_000.0);
        assert_eq!(link.steps, []);
    }

    #[test]
    fn it_goes_down_to_what_the_link_carries_and_stays_there_most_of_the_time() {
        for (rate, fits) in [(30_000.0, Step::Opus24), (20_000.0, Step::Opus16), (14_000.0, Step::Opus12)] {
            let mut link = Link::new();
            link.speak(1200, rate);
            let on = link.time_on(fits, 1200);
            assert!(on > 700, "{fits:?} for {on} of 1200 s at {rate} b/s: {:?}", link.steps);
            assert!(link.steps.len() < 60, "it does not flap: {:?}", link.steps);
        }
        let mut link = Link::new();
        link.speak(60, 8_000.0);
        assert_eq!(link.ladder.step(), Step::FinalOnly, "{:?}", link.steps);
    }

    #[test]
    fn each_try_that_fails_makes_the_next_wait_twice_as_long() {
        let mut link = Link::new();
        link.speak(1200, 30_000.0);
        let tries: Vec<u64> =
            link.steps.iter().filter(|(_, step)| *step == Step::PassThrough).map(|(at, _)| *at).collect();
        let waits: Vec<u64> = tries.windows(2).map(|two| two[1] - two[0]).collect();
        assert!(waits.windows(2).all(|two| two[1] > two[0] || two[1] >= 160), "{waits:?}");
        assert!(waits.last().is_some_and(|last| *last >= 160), "{waits:?}");
    }

    #[test]
    fn when_the_link_is_wide_again_it_climbs_to_the_top() {
        let mut link = Link::new();
        link.speak(60, 8_000.0);
        assert_eq!(link.ladder.step(), Step::FinalOnly);
        link.speak(120, 200_000.0);
        assert_eq!(link.ladder.step(), Step::PassThrough);
        let climb: Vec<u64> = link.steps.iter().rev().take(4).map(|(at, _)| *at).collect();
        assert!(climb.windows(2).all(|two| two[0] - two[1] == 10), "a step each ten seconds: {:?}", link.steps);
    }

    #[test]
    fn a_long_way_is_not_a_thin_link() {
        let start = Instant::now();
        let mut ladder = Ladder::new(start);
        for n in 1..400u32 {
            ladder.handle_path(Duration::from_millis(900) + TICK * (n % 2), true);
            assert_eq!(ladder.handle_age(Some(Duration::from_millis(1300)), start + TICK * n), None);
        }
    }

    #[test]
    fn a_core_or_an_edge_that_is_slow_is_not_a_thin_link() {
        let start = Instant::now();
        let mut ladder = Ladder::new(start);
        for n in 1..400u32 {
            ladder.handle_path(Duration::from_millis(30), false);
            assert_eq!(ladder.handle_age(Some(TICK * n), start + TICK * n), None);
        }
        ladder.handle_path(Duration::from_millis(30), true);
        let told = (400..410u32).map(|n| ladder.handle_age(Some(TICK * n), start + TICK * n));
        assert_eq!(told.flatten().next(), Some(Step::Opus24), "it is one now");
    }

    #[test]
    fn a_process_that_stood_still_does_not_blame_the_link() {
        let start = Instant::now();
        let mut ladder = Ladder::new(start);
        ladder.handle_path(TICK, true);
        ladder.handle_age(Some(Duration::ZERO), start);
        let woken = start + Duration::from_secs(5);
        assert_eq!(ladder.handle_age(Some(Duration::from_secs(5)), woken), None);
        assert_eq!(ladder.handle_age(Some(Duration::ZERO), woken + TICK), None);
    }

    #[test]
    fn silence_proves_nothing() {
        let mut link = Link::new();
        link.speak(30, 8_000.0);
        for n in 1..4000u32 {
            assert_eq!(link.ladder.handle_age(None, link.now + TICK * n), None);
        }
    }

    #[test]
    fn a_queue_that_drains_is_waited_for() {
        let start = Instant::now();
        let mut ladder = Ladder::new(start);
        ladder.handle_path(TICK, true);
        let mut steps = 0;
        for n in 1..80u32 {
            let age = Duration::from_secs(12).saturating_sub(TICK * n / 2);
            steps += u32::from(ladder.handle_age(Some(age), start + TICK * n).is_some());
        }
        assert_eq!((steps, ladder.step()), (1, Step::Opus24));
    }
}
