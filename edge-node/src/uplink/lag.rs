//! When what was said of a spurt, as far as the core does not hold it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Items are marked so far apart: a spurt of 28 s has 280 marks at most.
const APART: Duration = Duration::from_millis(100);

/// One spurt's, oldest first: up to how many items were said from when on.
#[derive(Debug, Default)]
pub(super) struct Marks(VecDeque<(u32, Instant)>);

impl Marks {
    /// There are `count` items now.
    pub(super) fn handle_said(&mut self, count: u32, now: Instant) {
        match self.0.back_mut() {
            Some((upto, since)) if now.saturating_duration_since(*since) < APART => *upto = count,
            _ => self.0.push_back((count, now)),
        }
    }

    /// All `count` of them count from now.
    pub(super) fn begin_at(&mut self, count: u32, now: Instant) {
        if !self.0.is_empty() {
            self.0.clear();
            self.0.push_back((count, now));
        }
    }

    /// The core holds the first `upto`.
    pub(super) fn handle_durable(&mut self, upto: u32) {
        while self.0.front().is_some_and(|(items, _)| *items <= upto) {
            self.0.pop_front();
        }
    }

    /// How old the oldest is that it does not hold.
    pub(super) fn age(&self, now: Instant) -> Option<Duration> {
        self.0.front().map(|(_, since)| now.saturating_duration_since(*since))
    }
}
