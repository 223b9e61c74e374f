//! When a lost relay is tried again, and when it is given up.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time::Instant;

use super::error::ConnectError;

/// Tries in a row before a lost relay is given up.
pub const MAX_TRIES: usize = 5;

/// Time since the relay was last live after which it is given up, tries left or not: longer than so many tries of a connection
/// that never comes up.
pub const GIVE_UP: Duration = Duration::from_secs(120);

/// When to try again, and when to stop trying.
pub(super) struct Retries {
    delays: backon::ExponentialBackoff,
    tries: usize,
    since: Instant,
}

impl Retries {
    /// `seed` decides what is left to chance.
    pub(super) fn new(since: Instant, seed: u64) -> Self {
        // 0.5, 1, 2, 4 s, each up to as much again at random, so that the edges of a restarted relay spread out.
        Self::of(MAX_TRIES - 1, Duration::from_secs(8), since, seed)
    }

    /// As often as [`GIVE_UP`] allows: where nothing is missed meanwhile.
    pub(super) fn patient(since: Instant, seed: u64) -> Self {
        Self::of(usize::MAX, Duration::from_secs(2), since, seed)
    }

    fn of(times: usize, longest: Duration, since: Instant, seed: u64) -> Self {
        let delays = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(500))
            .with_max_delay(longest)
            .with_max_times(times)
            .with_jitter()
            .with_jitter_seed(seed)
            .build();
        Self { delays, tries: 0, since }
    }

    /// How long to wait after `error`, or what to give up with.
    pub(super) fn after(&mut self, error: ConnectError, now: Instant) -> Result<Duration, ConnectError> {
        self.tries += 1;
        if !error.is_transient() {
            return Err(error);
        }
        match self.delays.next() {
            Some(delay) if now + delay < self.since + GIVE_UP => Ok(delay),
            _ => Err(ConnectError::Lost { tries: self.tries, last: Box::new(error) }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn lost() -> ConnectError {
        ConnectError::MediaLost("test".into())
    }

    #[test]
    fn a_lost_relay_is_tried_five_times_then_given_up_with_the_last_cause() {
        let now = Instant::now();
        let mut retries = Retries::new(now, 1);
        for _ in 1..MAX_TRIES {
            retries.after(lost(), now).unwrap();
        }
        let given_up = retries.after(lost(), now).unwrap_err();
        assert_eq!(given_up, ConnectError::Lost { tries: MAX_TRIES, last: Box::new(lost()) });
    }

    #[test]
    fn patience_ends_after_two_minutes_and_no_pause_is_longer_than_four_seconds() {
        let (begun, mut now) = (Instant::now(), Instant::now());
        let mut retries = Retries::patient(begun, 1);
        while let Ok(delay) = retries.after(lost(), now) {
            assert!(delay <= Duration::from_secs(4), "{delay:?}");
            now += delay;
        }
        assert!(now - begun > GIVE_UP - Duration::from_secs(5) && now - begun < GIVE_UP, "{:?}", now - begun);
    }

    #[test]
    fn two_minutes_without_the_relay_ends_it_whatever_the_count() {
        let now = Instant::now();
        assert!(Retries::new(now, 1).after(lost(), now + GIVE_UP).is_err());
    }

    #[test]
    fn a_refusal_is_not_tried_again() {
        let refused = ConnectError::Refused { request: "an offer", status: 401, problem: "no" };
        assert_eq!(Retries::new(Instant::now(), 1).after(refused.clone(), Instant::now()), Err(refused));
    }

    #[test]
    fn no_two_edges_wait_equally_long() {
        let delays: Vec<Duration> = (0..32)
            .map(|_| Retries::new(Instant::now(), rand::random()).after(lost(), Instant::now()).unwrap())
            .collect();
        assert!(delays.iter().any(|delay| *delay != delays[0]), "{delays:?}");
        // Nor does anything else that leaves it to the library.
        let others: Vec<_> = (0..32).map(|_| ExponentialBuilder::new().with_jitter().build().next()).collect();
        assert!(others.iter().any(|delay| *delay != others[0]), "{others:?}");
        let seeded = |seed| Retries::new(Instant::now(), seed).after(lost(), Instant::now());
        assert_eq!(seeded(7), seeded(7), "chance is an argument");
    }
}
