//! When a meeting is left without anybody asking: nobody has been there for a while, or its time is up.

use std::time::{Duration, Instant};

use mesh::clock::Micros;

use crate::store::record::LeaveRules;

/// Nobody has been in the meeting for as long as its rules allow.
pub const ALONE: &str = "alone";

/// The time its rules name has come.
pub const DEADLINE: &str = "deadline";

/// Somebody asked for it over the API.
pub const REQUESTED: &str = "requested";

/// The relay has ended it.
pub const RELAY_ENDED: &str = "relay_ended";

/// A meeting's rules at work. Feed it, then ask for [`Leave::poll_due`].
#[derive(Debug)]
pub(super) struct Leave {
    alone_after: Option<Duration>,
    until: Option<Instant>,
    alone_since: Option<Instant>,
}

impl Leave {
    /// `wall` is the time of day at `now`.
    pub(super) fn new(rules: &LeaveRules, wall: Micros, now: Instant) -> Self {
        let left = |at: Micros| now.checked_add(Duration::from_micros(at.0.saturating_sub(wall.0)));
        Self {
            alone_after: rules.alone_after_seconds.map(|s| Duration::from_secs(s.into())),
            until: rules.at.and_then(left),
            alone_since: None,
        }
    }

    /// How many participants are there, if that is known: it is not while no edge hears the relay.
    pub(super) fn handle_present(&mut self, present: Option<usize>, now: Instant) {
        self.alone_since = match present {
            Some(0) => self.alone_since.or(Some(now)),
            _ => None,
        };
    }

    /// When [`Leave::poll_due`] is next of interest.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.until.into_iter().chain(self.alone_at()).min()
    }

    /// Why to leave now, if so; a stable word.
    pub(super) fn poll_due(&self, now: Instant) -> Option<&'static str> {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        match () {
            () if due(self.until) => Some(DEADLINE),
            () if due(self.alone_at()) => Some(ALONE),
            () => None,
        }
    }

    fn alone_at(&self) -> Option<Instant> {
        self.alone_since?.checked_add(self.alone_after?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;

    const WALL: Micros = Micros(1_000_000_000);

    fn leave(alone_after_seconds: Option<u32>, at: Option<Micros>) -> (Leave, Instant) {
        let now = Instant::now();
        (Leave::new(&LeaveRules { alone_after_seconds, at }, WALL, now), now)
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn an_empty_meeting_is_left_after_its_grace_and_not_a_moment_before() {
        let (mut leave, now) = leave(Some(60), None);
        leave.handle_present(Some(0), now);
        leave.handle_present(Some(0), now + seconds(30));
        assert_eq!(leave.poll_timeout(), Some(now + seconds(60)));
        assert_eq!(leave.poll_due(now + Duration::from_millis(59_999)), None);
        assert_eq!(leave.poll_due(now + seconds(60)), Some(ALONE));
    }

    #[test]
    fn whoever_comes_back_in_time_keeps_it_and_the_grace_begins_anew() {
        let (mut leave, now) = leave(Some(60), None);
        leave.handle_present(Some(0), now);
        leave.handle_present(Some(1), now + seconds(59));
        assert_eq!((leave.poll_timeout(), leave.poll_due(now + seconds(600))), (None, None));
        leave.handle_present(Some(0), now + seconds(600));
        assert_eq!(leave.poll_due(now + seconds(659)), None);
        assert_eq!(leave.poll_due(now + seconds(660)), Some(ALONE));
    }

    #[test]
    fn time_in_which_nobody_knows_who_is_there_is_not_counted() {
        let (mut leave, now) = leave(Some(60), None);
        leave.handle_present(Some(0), now);
        leave.handle_present(None, now + seconds(50));
        assert_eq!(leave.poll_due(now + seconds(100)), None);
    }

    #[test]
    fn a_deadline_ends_a_full_meeting_and_one_that_is_past_at_once() {
        let (mut leave, now) = leave(None, Some(Micros(WALL.0 + 90_000_000)));
        leave.handle_present(Some(3), now);
        assert_eq!(leave.poll_due(now + seconds(89)), None);
        assert_eq!(leave.poll_due(now + seconds(90)), Some(DEADLINE));
        let (late, now) = self::leave(None, Some(Micros(5)));
        assert_eq!(late.poll_due(now), Some(DEADLINE));
    }

    #[test]
    fn without_rules_it_stays() {
        let (mut leave, now) = leave(None, None);
        leave.handle_present(Some(0), now);
        assert_eq!((leave.poll_timeout(), leave.poll_due(now + seconds(1_000_000))), (None, None));
    }
}
