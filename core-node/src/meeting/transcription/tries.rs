//! How often one final is tried with an engine that fails.

use std::time::{Duration, Instant};

use crate::transcribe::TranscribeError;

/// The first pause; each is twice as long as the one before,
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// up to this.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// So often, if the engine has had words for others meanwhile: then it is not down, it has none for this. About a minute, and
/// what it is waited for.
const TRIES: u32 = 6;
/// An engine that has words for nobody is waited for so long: its speech is stored all the while.
const OUTAGE: Duration = Duration::from_secs(3600);

/// The tries of one final.
#[derive(Debug)]
pub(super) struct Tries {
    begun: Instant,
    /// How many finals the engine had made then.
    answered: u64,
    failed: u32,
}

impl Tries {
    /// The first begins, of an engine that has made so many finals.
    pub(super) fn new(answered: u64, now: Instant) -> Self {
        Self { begun: now, answered, failed: 0 }
    }

    /// One has failed: how long to wait before the next, or nothing if there is to be none.
    pub(super) fn after(&mut self, error: &TranscribeError, answered: u64, now: Instant) -> Option<Duration> {
        let others = answered > self.answered;
        let pause = (FIRST_PAUSE * 2u32.pow(self.failed.min(5))).min(MAX_PAUSE);
        self.failed += 1;
        let lasts = matches!(error, TranscribeError::Clip(_)) || (others && self.failed >= TRIES);
        (!lasts && now + pause < self.begun + OUTAGE).then_some(pause)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test needs an instant to count from")]
mod tests {
    use super::*;

    /// How often it is tried, and for how long, where the engine takes so long to fail and then has made so many finals.
    fn tried(takes: Duration, answered: impl Fn(u32) -> u64) -> (u32, Duration) {
        let begun = Instant::now();
        let mut tries = Tries::new(answered(0), begun);
        let (mut now, mut times) = (begun, 0);
        loop {
            (now, times) = (now + takes, times + 1);
            let error = TranscribeError::Deadline { engine: "openai", after: takes };
            match tries.after(&error, answered(times), now) {
                Some(pause) => now += pause,
                None => return (times, now - begun),
            }
        }
    }

    #[test]
    fn a_clip_that_an_engine_fails_on_while_it_has_words_for_others_is_given_up() {
        let s = Duration::from_secs;
        assert_eq!(tried(s(60), u64::from), (TRIES, s(6 * 60 + 31)));
    }

    #[test]
    fn an_engine_that_is_down_is_waited_for_but_not_for_ever() {
        let (times, lasted) = tried(Duration::from_secs(5), |_| 7);
        assert!(times > 90 && lasted > OUTAGE - 2 * MAX_PAUSE && lasted <= OUTAGE, "{times} in {lasted:?}");
        // One answer is enough to know that it is up again.
        assert_eq!(tried(Duration::ZERO, |n| u64::from(n > 20)).0, 21);
    }

    #[test]
    fn a_clip_that_is_refused_for_what_it_is_is_tried_once() {
        let mut tries = Tries::new(0, Instant::now());
        assert_eq!(tries.after(&TranscribeError::Clip("too long".into()), 0, Instant::now()), None);
    }
}
