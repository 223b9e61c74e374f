//! A meeting's wall clock: the system's, read once, and from then on the monotonic one.
//!
//! A step of the system's clock (NTP at boot, an operator) would put what is said after it an hour before or behind what was
//! said before. So each meeting has one reading on this edge, for all of its participants, and what it missed by stays the same.
#![allow(clippy::disallowed_methods, reason = "I/O shell: this is where the clocks are read")]

use std::time::{Duration, Instant, SystemTime};

use mesh::clock::Micros;
use nix::time::{ClockId, clock_gettime};

/// What the wall clock showed at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    at: Instant,
    wall: Micros,
}

impl Anchor {
    /// `wall` at this moment.
    pub fn new(at: Instant, wall: Micros) -> Self {
        Self { at, wall }
    }

    /// What the system says now.
    pub fn now() -> Self {
        Self::new(Instant::now(), Micros::from_system(SystemTime::now()))
    }

    /// The wall clock at `now`, be it before or after the reading.
    pub fn wall(self, now: Instant) -> Micros {
        let before = self.at.saturating_duration_since(now).as_micros() as u64;
        Micros(self.wall.plus(now.saturating_duration_since(self.at)).0.saturating_sub(before))
    }

    /// The same for another process of this system.
    pub fn at_monotonic_zero(self) -> Micros {
        Micros(self.wall(Instant::now()).0.saturating_sub(monotonic().as_micros() as u64))
    }

    /// What another process said.
    pub fn of_monotonic(zero: Micros) -> Self {
        Self::new(Instant::now(), zero.plus(monotonic()))
    }
}

fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_from_its_reading_in_either_direction() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let clock = Anchor::new(start, Micros(5_000_000));
        assert_eq!(clock.wall(start + second), Micros(6_000_000));
        assert_eq!(clock.wall(start.checked_sub(second).expect("an earlier instant")), Micros(4_000_000));
    }

    #[test]
    fn another_process_has_the_same() {
        let clock = Anchor::new(Instant::now(), Micros(1_700_000_000_000_000));
        let there = Anchor::of_monotonic(clock.at_monotonic_zero());
        let now = Instant::now();
        assert!(clock.wall(now).0.abs_diff(there.wall(now).0) < 100_000);
    }
}
