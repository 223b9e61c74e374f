//! Zoom's clock over ours.
//!
//! Both are set by the network, so at first they are taken for the same. Each keep-alive says how late it is there, and comes a
//! little later: the least difference of the last minutes is what the clocks differ by, and how long the way is.

use std::time::{Duration, Instant};

use mesh::clock::Micros;

/// What was made earlier than that and comes now was made by a clock that is wrong, as long as nothing else is known of it. Zoom
/// keeps a minute.
const OLDEST_AT_FIRST: i64 = 70_000_000;
/// The same when it is known: we may be behind.
const OLDEST: i64 = 600_000_000;
/// How long a difference counts: from one to two of these.
const WINDOW: Duration = Duration::from_secs(120);

/// See the module.
#[derive(Debug)]
pub(super) struct Clock {
    /// Our wall clock at one moment.
    anchor: (Instant, Micros),
    /// Our time less theirs, in microseconds.
    offset: i64,
    /// The least that was seen in this window and the one before; `None` if nothing was.
    least: [Option<i64>; 2],
    since: Instant,
}

impl Clock {
    /// `wall` is what our wall clock shows at `now`.
    pub(super) fn new(now: Instant, wall: Micros) -> Self {
        Self { anchor: (now, wall), offset: 0, least: [None; 2], since: now }
    }

    /// It was `time` there, in milliseconds, when this was sent that has just come.
    pub(super) fn observe(&mut self, time: u64, now: Instant) {
        if time == 0 {
            return;
        }
        if now.saturating_duration_since(self.since) >= WINDOW {
            (self.least, self.since) = ([None, self.least[0]], now);
        }
        let difference = self.wall(now).saturating_sub_unsigned(time.saturating_mul(1000));
        self.least[0] = Some(self.least[0].map_or(difference, |least| least.min(difference)));
        self.offset = self.least.into_iter().flatten().min().unwrap_or(difference);
    }

    /// When what was made there at `time`, in microseconds, was made here; never later than now.
    pub(super) fn here(&mut self, time: u64, now: Instant) -> Instant {
        let wall = self.wall(now);
        let age = |offset: i64| wall.saturating_sub(offset).saturating_sub_unsigned(time);
        let oldest = if self.least.iter().any(Option::is_some) { OLDEST } else { OLDEST_AT_FIRST };
        if !(0..=oldest).contains(&age(self.offset)) {
            self.offset = wall.saturating_sub_unsigned(time);
        }
        let age = Duration::from_micros(age(self.offset).max(0) as u64);
        now.checked_sub(age).unwrap_or(now)
    }

    fn wall(&self, now: Instant) -> i64 {
        let (at, wall) = self.anchor;
        wall.0.cast_signed().saturating_add(now.saturating_duration_since(at).as_micros() as i64)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "any instant will do to count from")]
mod tests {
    use super::*;

    const WALL: u64 = 1_700_000_000_000_000;
    const MS: Duration = Duration::from_millis(1);

    /// An hour in, so that there is something before it.
    fn clock() -> (Clock, Instant) {
        let begun = Instant::now() + 3600 * 1000 * MS;
        (Clock::new(begun, Micros(WALL)), begun)
    }

    #[test]
    fn what_was_kept_for_a_minute_was_made_then() {
        let (mut clock, now) = clock();
        assert_eq!(clock.here(WALL - 60_000_000, now), now - 60_000 * MS);
        assert_eq!(clock.here(WALL - 59_980_000, now + 5 * MS), now - 59_980 * MS);
    }

    #[test]
    fn a_clock_that_is_behind_or_ahead_is_found_out_by_its_keep_alives() {
        for wrong in [-3_600_000_000, -400_000, 400_000, 3_600_000_000i64] {
            let (mut clock, now) = clock();
            let there = |at: Duration| WALL.saturating_add_signed(wrong) + at.as_micros() as u64;
            clock.observe(there(Duration::ZERO) / 1000, now + 80 * MS);
            clock.observe(there(10_000 * MS) / 1000, now + 10_030 * MS);
            let made = clock.here(there(12_000 * MS), now + 12_500 * MS);
            assert_eq!(made, now + 12_030 * MS, "{wrong}: with the least way");
        }
    }

    #[test]
    fn nothing_is_made_after_it_has_come_nor_hours_before() {
        let (mut clock, now) = clock();
        assert_eq!(clock.here(WALL + 5_000_000, now), now);
        assert_eq!(clock.here(WALL + 4_000_000, now), now - 1000 * MS);
        let (mut clock, now) = self::clock();
        assert_eq!(clock.here(0, now), now);
        assert_eq!(clock.here(u64::MAX, now), now);
    }

    #[test]
    fn an_offset_is_forgotten_when_the_clock_there_is_set() {
        let (mut clock, now) = clock();
        clock.observe((WALL - 1_000_000) / 1000, now);
        for n in 1..40 {
            let at = n * 10_000 * MS;
            clock.observe((WALL + at.as_micros() as u64 - 5_000_000) / 1000, now + at);
        }
        let at = 400_000 * MS;
        assert_eq!(clock.here(WALL + at.as_micros() as u64 - 5_000_000, now + at), now + at);
    }
}
