//! A timer for a deadline that moves all the time, mostly on.

use std::{
    pin::Pin,
    time::{Duration, Instant},
};

use tokio::time::{Sleep, sleep};

/// Setting a timer costs more than a packet does, so it is not set anew where a deadline has moved on: it goes off as it
/// was set, and is set to where the deadline is by then.
#[derive(Debug)]
pub struct Alarm(Pin<Box<Sleep>>);

impl Default for Alarm {
    fn default() -> Self {
        Self(Box::pin(sleep(Duration::ZERO)))
    }
}

impl Alarm {
    /// Waits until `deadline`. Cancel-safe.
    ///
    /// # Panics
    /// Outside of a tokio runtime with timers.
    pub async fn wait(&mut self, deadline: Instant) {
        let deadline = deadline.into();
        loop {
            if self.0.is_elapsed() || deadline < self.0.deadline() {
                self.0.as_mut().reset(deadline);
            }
            self.0.as_mut().await;
            if self.0.deadline() >= deadline {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_goes_off_when_it_should_however_the_deadline_moves() {
        let (mut alarm, begun) = (Alarm::default(), Instant::now());
        let at = |ms| (begun + Duration::from_millis(ms)).into_std();
        // It moves on, and the wait is given up, again and again.
        for ms in 0..50 {
            let early = timeout(Duration::from_millis(1), alarm.wait(at(ms + 30))).await;
            assert!(early.is_err(), "{ms}");
        }
        alarm.wait(at(79)).await;
        assert_eq!(begun.elapsed().as_millis(), 79);
        // It moves back.
        assert!(timeout(Duration::from_millis(1), alarm.wait(at(500))).await.is_err());
        alarm.wait(at(100)).await;
        assert_eq!(begun.elapsed().as_millis(), 100);
        // It has passed.
        alarm.wait(at(50)).await;
        assert_eq!(begun.elapsed().as_millis(), 100);
    }
}
