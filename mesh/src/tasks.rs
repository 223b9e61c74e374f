//! The tasks of a node, by name, and what becomes of the node when one of them panics.
//!
//! | started by | after a panic |
//! |---|---|
//! | [`Tasks::keep`] | it is started again, after a pause that grows from 0.1 to 10 s |
//! | [`Tasks::need`] | the program ends, and says why: [`Tasks::failed`]. Nothing could be started again there |
//! | [`once`], [`told`], [`blocking`], [`caught`], [`contained`] | what it was about is lost with it: a connection, a request. It is counted |
//!
//! Meetings have guards of their own (`edge-node::guard`, `core-node::meetings::guard`). A panic is never silent: it is logged
//! where it happens ([`tell_panic`]), and again with the task's name; where it was, not what it said ([`Panic`]). [`Tasks::ailing`] is
//! what `/readyz` looks at.
//!
//! [`Tasks::break_now`] has one of them panic when it next waits, [`Tasks::rehearse`] all in turn: tests and drills show by it
//! that the above holds.

mod panics;

use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, Span};

#[cfg(test)]
pub(crate) use self::panics::Tracing;
pub(crate) use self::panics::await_trace;
pub use self::panics::{Broken, Panic, tell_panic};

/// First and longest pause before a task is started again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// A task that ran so long was well: its next pause is the first again.
const WELL: Duration = Duration::from_secs(60);
/// A task that broke so often within [`WELL`] is ailing even while it runs.
const OFTEN: usize = 3;

/// The long-lived tasks of one node. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tasks(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    rows: Mutex<BTreeMap<&'static str, Row>>,
    failed: watch::Sender<Option<String>>,
}

/// All tasks of one name.
#[derive(Debug, Default)]
struct Row {
    kept: bool,
    /// Raised to have them panic.
    fault: watch::Sender<u64>,
    /// Of them, how many wait to be started again.
    down: usize,
    /// How often one of them broke.
    breaks: u64,
    /// When the last of them broke, [`OFTEN`] at most.
    broke: VecDeque<Instant>,
}

impl Tasks {
    /// Runs what `work` makes until it returns. Should it panic, it is made and run again.
    pub fn keep<F>(&self, name: &'static str, mut work: impl FnMut() -> F + Send + 'static) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (this, mut fault) = (self.clone(), self.enter(name, true));
        let run = async move {
            let mut pause = PAUSE.0;
            loop {
                let begun = Instant::now();
                let Err(why) = run(work(), fault.clone()).await else { return };
                let why = why.to_string();
                if begun.elapsed() >= WELL {
                    pause = PAUSE.0;
                }
                tracing::error!(task = name, why, ?pause, "a task broke: it is started again");
                this.handle_broken(name);
                sleep(pause).await;
                this.lock().entry(name).and_modify(|row| row.down -= 1);
                fault.mark_unchanged();
                pause = (pause * 2).min(PAUSE.1);
            }
        };
        spawn(run)
    }

    /// Runs `work`, without which the program is of no use: if it panics or fails, [`Tasks::failed`] returns.
    pub fn need(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<(), String>> + Send + 'static,
    ) -> JoinHandle<()> {
        let (this, fault) = (self.clone(), self.enter(name, false));
        spawn(async move {
            if let Err(why) = run(work, fault).await.map_err(|broken| broken.to_string()).flatten() {
                tracing::error!(task = name, why, "a task broke that nothing goes without");
                this.handle_broken(name);
                let reason = format!("the task `{name}` broke: {why}");
                this.0.failed.send_if_modified(|failed| {
                    let first = failed.is_none();
                    failed.get_or_insert(reason);
                    first
                });
            }
        })
    }

    /// Returns with the reason if the program cannot go on; otherwise never.
    pub async fn failed(&self) -> String {
        let mut failed = self.0.failed.subscribe();
        let reason = failed.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        // The sender is here.
        reason.unwrap_or_default()
    }

    /// Those that are not running, or break again and again.
    pub fn ailing(&self) -> Vec<&'static str> {
        let now = Instant::now();
        let often = |row: &Row| row.broke.len() >= OFTEN && row.broke.iter().all(|at| now.duration_since(*at) < WELL);
        let rows = self.lock();
        rows.iter().filter(|(_, row)| row.down > 0 || often(row)).map(|(name, _)| *name).collect()
    }

    /// Those that are started again when they break, by name.
    pub fn kept(&self) -> Vec<&'static str> {
        self.lock().iter().filter(|(_, row)| row.kept).map(|(name, _)| *name).collect()
    }

    /// How often a task called `name` has broken.
    pub fn breaks(&self, name: &str) -> u64 {
        self.lock().get(name).map_or(0, |row| row.breaks)
    }

    /// Has every task called `name` panic at once.
    pub fn break_now(&self, name: &str) {
        if let Some(row) = self.lock().get(name) {
            row.fault.send_modify(|count| *count += 1);
        }
    }

    /// At each SIGUSR1 from now on, [`Tasks::rehearse`]. Call within a tokio runtime.
    pub fn drill(&self) {
        let this = self.clone();
        match signal(SignalKind::user_defined1()) {
            Err(error) => tracing::warn!(%error, "there will be no drill"),
            Ok(mut asked) => drop(once("drill", async move {
                while asked.recv().await.is_some() {
                    this.rehearse(Duration::from_secs(1)).await;
                }
            })),
        }
    }

    /// Has all that are started again panic in turn, `apart` from each other.
    pub async fn rehearse(&self, apart: Duration) {
        for name in self.kept() {
            tracing::warn!(task = name, "this task is broken on purpose");
            self.break_now(name);
            sleep(apart).await;
        }
    }

    fn enter(&self, name: &'static str, kept: bool) -> watch::Receiver<u64> {
        let mut rows = self.lock();
        let row = rows.entry(name).or_default();
        row.kept |= kept;
        row.fault.subscribe()
    }

    fn handle_broken(&self, name: &'static str) {
        count(name);
        let mut rows = self.lock();
        let row = rows.entry(name).or_default();
        row.down += 1;
        row.breaks += 1;
        row.broke.push_back(Instant::now());
        while row.broke.len() > OFTEN {
            row.broke.pop_front();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Row>> {
        self.0.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs `work` in a task of its own. Should it panic, that is told and counted under `name`.
pub fn once<T: Send + 'static>(name: &'static str, work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    spawn(told(name, work))
}

/// Runs `work` on a thread that may be blocked. Should it panic, that is told and counted under `name`.
#[allow(clippy::disallowed_methods, reason = "the one place")]
pub fn blocking<T: Send + 'static>(name: &'static str, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let span = Span::current();
    tokio::task::spawn_blocking(move || {
        span.in_scope(|| catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| tell(name, payload).go_on()))
    })
}

/// Does `work` in the task that waits for this. Should it panic, that is told and counted under `name`, and the task ends with the
/// [`Panic`]: what it said goes no further.
pub async fn told<T>(name: &'static str, work: impl Future<Output = T>) -> T {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|payload| tell(name, payload).go_on())
}

/// Runs `work` in a task of its own, for as long as this is waited for.
///
/// # Errors
/// It panicked, or the runtime ended.
pub async fn caught<T: Send + 'static>(
    name: &'static str,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, Broken> {
    Ok(AbortOnDropHandle::new(once(name, work)).await?)
}

/// Runs `work` here. Should it panic, that is told and counted under `name`, and the caller goes on.
///
/// # Errors
/// It panicked.
pub async fn contained<T>(name: &'static str, work: impl Future<Output = T>) -> Result<T, Panic> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|payload| tell(name, payload))
}

fn tell(name: &'static str, payload: Box<dyn std::any::Any + Send>) -> Panic {
    let panic = Panic::caught(payload);
    count(name);
    tracing::error!(task = name, why = %panic, "a task broke");
    panic
}

async fn run<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
    mut fault: watch::Receiver<u64>,
) -> Result<T, Broken> {
    let breakable = async move {
        tokio::select! {
            done = work => done,
            // The sender is in the table.
            _ = fault.changed() => panic!("broken on purpose"),
        }
    };
    // Whoever runs it tells of it.
    let quiet = async { AssertUnwindSafe(breakable).catch_unwind().await.map_err(Panic::caught) };
    Ok(AbortOnDropHandle::new(spawn(quiet)).await??)
}

#[allow(clippy::disallowed_methods, reason = "the one place")]
fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(work.in_current_span())
}

fn count(name: &'static str) {
    metrics::counter!("nearfield_task_panics_total", "task" => name).increment(1);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::timeout;

    use super::*;

    fn counting(runs: &Arc<AtomicUsize>) -> impl FnMut() -> std::future::Pending<()> + Send + 'static {
        let runs = runs.clone();
        move || {
            runs.fetch_add(1, Ordering::Relaxed);
            std::future::pending()
        }
    }

    async fn settle() {
        sleep(Duration::from_millis(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_kept_task_that_breaks_runs_again_and_is_ailing_meanwhile() {
        let (tasks, runs) = (Tasks::default(), Arc::default());
        tasks.keep("one", counting(&runs));
        settle().await;
        assert_eq!((runs.load(Ordering::Relaxed), tasks.ailing()), (1, vec![]));
        tasks.break_now("one");
        settle().await;
        assert_eq!((runs.load(Ordering::Relaxed), tasks.ailing()), (1, vec!["one"]));
        sleep(PAUSE.0).await;
        assert_eq!((runs.load(Ordering::Relaxed), tasks.ailing()), (2, vec![]));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_breaks_again_and_again_waits_longer_and_is_ailing_until_it_has_been_well_for_a_minute() {
        let (tasks, runs) = (Tasks::default(), Arc::default());
        tasks.keep("one", counting(&runs));
        for pause in [1, 2, 4] {
            settle().await;
            tasks.break_now("one");
            settle().await;
            assert_eq!(tasks.ailing(), ["one"]);
            sleep(PAUSE.0 * pause).await;
        }
        assert_eq!((runs.load(Ordering::Relaxed), tasks.ailing()), (4, vec!["one"]));
        sleep(WELL).await;
        assert_eq!(tasks.ailing(), Vec::<&str>::new());
    }

    #[tokio::test(start_paused = true)]
    async fn a_needed_task_that_breaks_or_fails_takes_the_program_down() {
        for broken in [true, false] {
            let tasks = Tasks::default();
            tasks.need("two", async move {
                sleep(Duration::from_secs(1)).await;
                if broken { panic!("item {}", 3) } else { Err("no socket".into()) }
            });
            let why = timeout(Duration::from_secs(2), tasks.failed()).await.unwrap();
            let said = if broken { "it panicked" } else { "no socket" };
            assert_eq!(why, format!("the task `two` broke: {said}"));
            assert_eq!(tasks.ailing(), ["two"]);
        }
        let tasks = Tasks::default();
        tasks.need("three", async { Ok(()) });
        assert!(timeout(Duration::from_secs(9), tasks.failed()).await.is_err(), "it ended in good order");
    }

    #[tokio::test(start_paused = true)]
    async fn that_a_task_that_is_run_once_panicked_is_known() {
        assert_eq!(caught("four", async { 4 }).await, Ok(4));
        assert!(matches!(caught("four", async { panic!("late") }).await, Err::<(), _>(Broken::Panicked(_))));
        assert!(contained("five", async { panic!("later") }).await.is_err());
        let stopped = once("six", std::future::pending::<()>());
        stopped.abort();
        assert_eq!(stopped.await.map_err(Broken::from), Err(Broken::Stopped));
    }

    #[tokio::test(start_paused = true)]
    async fn a_rehearsal_breaks_each_kept_task_once() {
        let (tasks, runs) = (Tasks::default(), [Arc::default(), Arc::default()]);
        tasks.keep("a", counting(&runs[0]));
        tasks.keep("b", counting(&runs[1]));
        tasks.need("c", std::future::pending());
        settle().await;
        tasks.rehearse(Duration::from_secs(1)).await;
        assert_eq!(runs.map(|runs| runs.load(Ordering::Relaxed)), [2, 2]);
        assert!(timeout(Duration::from_secs(1), tasks.failed()).await.is_err());
    }
}
