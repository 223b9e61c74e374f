//! Watches over one meeting's task, so that whatever becomes of it happens to that meeting alone, and is told.

#![allow(clippy::disallowed_methods, reason = "I/O shell: waits by the clock")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use mesh::tasks::{self, Panic};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

/// How often a task's pulse is felt.
const EVERY: Duration = Duration::from_secs(1);

/// So many times in a row without a pulse, and the task stands still. Counted, not timed: while the whole process is
/// stopped no meeting is to blame.
const STILL: u32 = 15;

/// What a meeting's task shows of itself each time it looks around: at least once a second.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Arc<Shown>);

#[derive(Debug, Default)]
struct Shown {
    beats: AtomicU64,
    captures: AtomicBool,
}

/// How a task ended that should have gone on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// It panicked.
    #[error("its task broke: {0}")]
    Panicked(Panic),
    /// It did nothing for too long.
    #[error("its task stood still for {STILL} s")]
    Still,
}

impl Pulse {
    /// The task is at work, and captures its meeting or not.
    pub fn beat(&self, captures: bool) {
        self.0.beats.fetch_add(1, Ordering::Relaxed);
        self.0.captures.store(captures, Ordering::Relaxed);
    }

    /// Whether it captured when it last looked around.
    pub fn captures(&self) -> bool {
        self.0.captures.load(Ordering::Relaxed)
    }

    fn count(&self) -> u64 {
        self.0.beats.load(Ordering::Relaxed)
    }
}

/// Runs `work` as a task of its own to its end.
///
/// # Errors
/// It panicked, or `pulse` stopped. A task that stands still is given up: it goes no further than its next wait.
pub async fn watch(work: impl Future<Output = ()> + Send + 'static, pulse: Pulse) -> Result<(), Broken> {
    let mut task = AbortOnDropHandle::new(tasks::once("meeting", work));
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut last, mut still) = (pulse.count(), 0);
    loop {
        tokio::select! {
            ended = &mut task => return match ended.map_err(tasks::Broken::from) {
                Err(tasks::Broken::Panicked(panic)) => Err(Broken::Panicked(panic)),
                // Only the runtime's end stops it.
                Ok(()) | Err(tasks::Broken::Stopped) => Ok(()),
            },
            _ = ticks.tick() => {}
        }
        let now = pulse.count();
        still = if now == last { still + 1 } else { 0 };
        last = now;
        if still > STILL {
            return Err(Broken::Still);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn that_a_task_has_panicked_is_told_and_not_what_it_said() {
        let broken = watch(async { panic!("item {} of 3", 4) }, Pulse::default()).await;
        let told = broken.map_err(|broken| broken.to_string());
        assert_eq!(told, Err("its task broke: it panicked".into()));
        assert_eq!(watch(async {}, Pulse::default()).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_stands_still_is_given_up_and_one_that_works_is_not() {
        let begun = Instant::now();
        assert_eq!(watch(std::future::pending(), Pulse::default()).await, Err(Broken::Still));
        assert!((15..18).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
        let pulse = Pulse::default();
        let beating = pulse.clone();
        let work = async move {
            for _ in 0..60 {
                sleep(Duration::from_secs(1)).await;
                beating.beat(true);
            }
        };
        assert_eq!(watch(work, pulse).await, Ok(()));
    }
}
