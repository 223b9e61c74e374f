//! How long a hole is waited for: delay against loss.
//!
//! A packet that comes after its successor was reordered, or was sent again because it was asked for; in either case it
//! takes about as long as those before it took on this path. To wait longer delays words for nothing, to wait less
//! loses what was on its way. So the wait is what the slowest of the latest took, and half as much again; where holes
//! are hardly ever filled (loss, and nothing is sent again) it is [`Settings::least`], since waiting does not help.
//!
//! What comes after its hole was given up is no use any more, but tells how long it would have taken: so the wait grows
//! with the first such packet.

use std::{
    collections::VecDeque,
    ops::Range,
    time::{Duration, Instant},
};

/// Bounds of the wait.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Before anything is known, and the shortest where holes are filled. 60 ms cover the reordering of the Internet and of a
    /// relay, and a retransmission from nearby.
    pub first: Duration,
    /// Where they are not.
    pub least: Duration,
    /// The longest: words wait no longer than this for what is lost.
    pub most: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self { first: ms(60), least: ms(40), most: ms(200) }
    }
}

/// Holes that are judged by: the latest of them.
const HOLES: usize = 32;
/// Of these so many must have been filled for waiting to be worth it: one in eight.
const WORTH: usize = 8;
/// So many must be known.
const KNOWN: usize = 8;
/// Packets that were given up and may still come.
const GIVEN_UP: usize = 64;

/// What one source's holes have come to.
#[derive(Debug)]
pub(super) struct ReorderDelay {
    settings: Settings,
    /// How long the latest took to be filled; `None` for those that never were.
    holes: VecDeque<Option<Duration>>,
    /// Packets given up, and since when they were missing.
    given_up: VecDeque<(u64, Instant)>,
}

impl ReorderDelay {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, holes: VecDeque::new(), given_up: VecDeque::new() }
    }

    /// How long to wait for what is missing.
    pub(super) fn wait(&self) -> Duration {
        let Settings { first, least, most } = self.settings;
        let slowest = self.holes.iter().flatten().max();
        let filled = self.holes.iter().flatten().count();
        match slowest {
            Some(slowest) if filled * WORTH >= self.holes.len() => (*slowest * 3 / 2).clamp(first, most),
            _ if self.holes.len() < KNOWN => first,
            _ => least,
        }
    }

    /// A packet filled its hole, which had been there for so long.
    pub(super) fn handle_filled(&mut self, after: Duration) {
        self.note(Some(after));
    }

    /// Packets were given up that were missing since then.
    pub(super) fn handle_given_up(&mut self, packets: Range<u64>, missing: Instant) {
        // A long outage is one piece of bad luck, and the latest of it is what may still come.
        let latest = packets.end.saturating_sub(GIVEN_UP as u64).max(packets.start);
        for packet in latest..packets.end {
            if self.given_up.len() >= GIVEN_UP {
                self.given_up.pop_front();
            }
            self.given_up.push_back((packet, missing));
        }
        self.note(None);
    }

    /// It came all the same.
    pub(super) fn handle_late(&mut self, sequence: u64, now: Instant) {
        let Some(at) = self.given_up.iter().position(|(given_up, _)| *given_up == sequence) else { return };
        if let Some((_, missing)) = self.given_up.remove(at) {
            // No hole is waited for longer than `most`: what took more would not have been.
            let took = now.saturating_duration_since(missing);
            if took <= self.settings.most {
                // It was counted as one that never came.
                if let Some(hole) = self.holes.iter_mut().rev().find(|hole| hole.is_none()) {
                    *hole = Some(took);
                }
            }
        }
    }

    fn note(&mut self, took: Option<Duration>) {
        let outcome = if took.is_some() { "filled" } else { "given_up" };
        metrics::histogram!("nearfield_edge_jitter_wait_seconds", "hole" => outcome).record(self.wait());
        if self.holes.len() >= HOLES {
            self.holes.pop_front();
        }
        self.holes.push_back(took);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "any instant will do to count from")]

    use proptest::prelude::*;

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn reorder_delay() -> ReorderDelay {
        ReorderDelay::new(Settings::default())
    }

    #[test]
    fn it_waits_as_long_as_it_took_before_and_forgets_in_time() {
        let mut reorder_delay = reorder_delay();
        assert_eq!(reorder_delay.wait(), ms(60), "nothing is known");
        reorder_delay.handle_filled(ms(100));
        assert_eq!(reorder_delay.wait(), ms(150));
        reorder_delay.handle_filled(ms(190));
        assert_eq!(reorder_delay.wait(), ms(200), "no longer than the most");
        for _ in 0..HOLES {
            reorder_delay.handle_filled(ms(5));
        }
        assert_eq!(reorder_delay.wait(), ms(60), "no shorter than at first");
    }

    #[test]
    fn where_nothing_ever_comes_it_hardly_waits_until_something_does() {
        let (mut reorder_delay, start) = (reorder_delay(), Instant::now());
        for n in 0..20 {
            reorder_delay.handle_given_up(n..n + 1, start);
        }
        assert_eq!(reorder_delay.wait(), ms(40));
        // Retransmissions, each after 120 ms, when their holes have been given up.
        for n in 0..4 {
            reorder_delay.handle_late(n, start + ms(120));
        }
        assert_eq!(reorder_delay.wait(), ms(180));
        // What takes longer than is ever waited tells nothing.
        reorder_delay.handle_late(5, start + ms(900));
        assert_eq!(reorder_delay.wait(), ms(180));
    }

    proptest! {
        #[test]
        fn it_stays_within_its_bounds(events in proptest::collection::vec((0u8..3, 0u64..40, 0u64..1000), 0..300)) {
            let (mut reorder_delay, start) = (reorder_delay(), Instant::now());
            for (kind, sequence, time) in events {
                match kind {
                    0 => reorder_delay.handle_filled(ms(time)),
                    1 => reorder_delay.handle_given_up(sequence..sequence + time, start),
                    _ => reorder_delay.handle_late(sequence, start + ms(time)),
                }
                prop_assert!((ms(40)..=ms(200)).contains(&reorder_delay.wait()));
                prop_assert!(reorder_delay.holes.len() <= HOLES && reorder_delay.given_up.len() <= GIVEN_UP);
            }
        }
    }
}
