//! The bounded pool before an engine: finals wait their turn, partials take what is idle.

use std::{
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use mesh::tasks::{Broken, once};
use metrics::{counter, gauge, histogram};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
    time::Instant,
};

use super::{Clip, Text, TranscribeError, Transcriber, health::Health, whole};
use crate::lock;

/// A fixed number of workers in front of one engine.
///
/// The queue `transcribe` holds finals only, in the order they came; when it is full the next final
/// waits outside, and the backlog stays with whoever made it. A partial is taken only by an idle
/// worker, and where there are several, one is kept free for finals.
///
/// A caller that goes away while waiting leaves the queue. One that goes away later wastes its
/// worker's time but nothing else: the worker is not free before its engine is.
#[derive(Clone)]
pub struct Pool {
    engine: Arc<dyn Transcriber>,
    places: Arc<Semaphore>,
    workers: Arc<Semaphore>,
    partials: Arc<Semaphore>,
    answered: Arc<AtomicU64>,
    health: Arc<Mutex<Health>>,
}

/// What a clip is transcribed for.
enum Kind {
    /// Of which that was shown before.
    Final(Option<Text>),
    Partial,
}

/// Counts itself in a gauge for as long as it lives, however it ends.
struct Waiting;

impl Pool {
    /// A pool of `workers`, with `queue` finals waiting at most; each is at least 1.
    pub fn new(engine: Arc<dyn Transcriber>, workers: usize, queue: usize) -> Self {
        let workers = workers.max(1);
        Self {
            engine,
            places: Arc::new(Semaphore::new(queue.max(1))),
            workers: Arc::new(Semaphore::new(workers)),
            partials: Arc::new(Semaphore::new((workers - 1).max(1))),
            answered: Arc::default(),
            health: Arc::default(),
        }
    }

    /// What the engine says to every clip of late, if it makes words of none.
    pub fn refusal(&self) -> Option<String> {
        lock(&self.health).refusal()
    }

    /// How many finals the engine has made.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// What is told of a final for which the engine has no words: those `shown`, and what speech has none.
    pub async fn without_engine(&self, clip: &Clip, shown: Option<&Text>) -> Text {
        whole::without_engine(clip, shown).await
    }

    /// The engine's name.
    pub fn engine(&self) -> &str {
        self.engine.name()
    }

    /// Whether the engine knows a language, by its ISO 639 code.
    pub fn knows(&self, language: &str) -> bool {
        self.engine.knows(language)
    }

    /// The words of a whole utterance; waits for a worker for as long as that takes. They cover its speech, or
    /// [`Text::missing`] says where not. `shown` are words of the same clip that a listener has seen.
    ///
    /// # Errors
    /// The engine's.
    pub async fn transcribe_final(&self, clip: Clip, shown: Option<Text>) -> Result<Text, TranscribeError> {
        let since = Instant::now();
        let worker = {
            let _waiting = Waiting::new();
            let _place = acquire(&self.places).await?;
            acquire(&self.workers).await?
        };
        histogram!("nearfield_core_transcribe_wait_seconds").record(since.elapsed());
        finish(self.start(clip, Kind::Final(shown), vec![worker])).await
    }

    /// The words so far, if a worker is idle; `None` means that this partial is given up.
    ///
    /// The work begins at once, whether or not the future is awaited.
    pub fn try_partial(
        &self,
        clip: Clip,
    ) -> Option<impl Future<Output = Result<Text, TranscribeError>> + Send + use<>> {
        // Tokio's semaphore is fair: while finals wait there is no permit to try for.
        let permits = self.partials.clone().try_acquire_owned().and_then(|partial| {
            let worker = self.workers.clone().try_acquire_owned()?;
            Ok(vec![partial, worker])
        });
        match permits {
            Ok(permits) => Some(finish(self.start(clip, Kind::Partial, permits))),
            Err(_) => {
                counter!("nearfield_core_transcribe_partials_dropped_total").increment(1);
                None
            }
        }
    }

    /// Runs the engine in a task of its own that keeps `permits` to the end.
    fn start(
        &self,
        clip: Clip,
        kind: Kind,
        permits: Vec<OwnedSemaphorePermit>,
    ) -> JoinHandle<Result<Text, TranscribeError>> {
        let (engine, answered, health) = (self.engine.clone(), self.answered.clone(), self.health.clone());
        let work = async move {
            let (since, media, name) = (Instant::now(), clip.duration(), kind.name());
            let result = match kind {
                Kind::Final(shown) => {
                    let text = whole::transcribe(&*engine, clip, shown.as_ref()).await;
                    answered.fetch_add(text.is_ok().into(), Ordering::Relaxed);
                    text
                }
                Kind::Partial => whole::partial(&*engine, clip).await,
            };
            lock(&health).handle(result.as_ref().map(|_| ()));
            let outcome = if result.is_ok() { "ok" } else { "error" };
            histogram!("nearfield_core_transcribe_run_seconds", "kind" => name).record(since.elapsed());
            counter!("nearfield_core_transcribe_clips_total", "kind" => name, "outcome" => outcome).increment(1);
            histogram!("nearfield_core_transcribe_clip_seconds").record(media.as_secs_f64());
            drop(permits);
            result
        };
        once("transcription", work)
    }
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Self::Final(_) => "final",
            Self::Partial => "partial",
        }
    }
}

impl Waiting {
    fn new() -> Self {
        gauge!("nearfield_core_transcribe_waiting_finals").increment(1);
        Self
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        gauge!("nearfield_core_transcribe_waiting_finals").decrement(1);
    }
}

async fn acquire(semaphore: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, TranscribeError> {
    semaphore.clone().acquire_owned().await.map_err(|_| TranscribeError::Closed)
}

async fn finish(work: JoinHandle<Result<Text, TranscribeError>>) -> Result<Text, TranscribeError> {
    work.await.unwrap_or_else(|stopped| {
        Err(TranscribeError::Engine { engine: "pool", cause: format!("the engine broke: {}", Broken::from(stopped)) })
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use futures_util::{FutureExt, future::join_all};

    use super::*;

    /// Takes as many virtual milliseconds as the clip has samples; panics on an empty one, and refuses one of 777.
    #[derive(Default)]
    struct Slow {
        running: Mutex<(usize, usize)>,
    }

    #[async_trait::async_trait]
    impl Transcriber for Slow {
        fn name(&self) -> &str {
            "slow"
        }

        async fn transcribe(&self, clip: Clip) -> Result<Text, TranscribeError> {
            assert!(!clip.samples.is_empty());
            {
                let mut running = self.running.lock().unwrap();
                running.0 += 1;
                running.1 = running.1.max(running.0);
            }
            tokio::time::sleep(Duration::from_millis(clip.samples.len() as u64)).await;
            self.running.lock().unwrap().0 -= 1;
            if clip.samples.len() == 777 {
                return Err(TranscribeError::Status { engine: "slow", status: 404, cause: "no such model".into() });
            }
            Ok(Text { text: clip.samples.len().to_string(), ..Text::default() })
        }
    }

    fn clip(ms: usize) -> Clip {
        Clip { samples: vec![0.0; ms].into(), language: None }
    }

    fn pool(workers: usize, queue: usize) -> (Pool, Arc<Slow>) {
        let engine = Arc::new(Slow::default());
        (Pool::new(engine.clone(), workers, queue), engine)
    }

    #[tokio::test(start_paused = true)]
    async fn every_final_is_done_and_no_more_at_once_than_there_are_workers() {
        let (pool, engine) = pool(3, 2);
        let texts = join_all((1..=20).map(|ms| pool.transcribe_final(clip(ms), None))).await;
        let texts: Vec<String> = texts.into_iter().map(|t| t.unwrap().text).collect();
        assert_eq!(texts, (1..=20).map(|ms| ms.to_string()).collect::<Vec<_>>());
        assert_eq!(engine.running.lock().unwrap().1, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn partials_take_idle_workers_only_and_leave_one_for_finals() {
        let (pool, _) = pool(2, 8);
        let first = pool.try_partial(clip(100)).unwrap();
        assert!(pool.try_partial(clip(100)).is_none());
        let since = Instant::now();
        pool.transcribe_final(clip(10), None).await.unwrap();
        assert!(since.elapsed() < Duration::from_millis(20));
        assert_eq!(first.await.unwrap().text, "100");
        assert!(pool.try_partial(clip(1)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_final_goes_before_any_partial() {
        let (pool, _) = pool(1, 8);
        let mut finals =
            vec![pool.transcribe_final(clip(50), None).boxed(), pool.transcribe_final(clip(50), None).boxed()];
        for waiting in &mut finals {
            assert!(waiting.now_or_never().is_none());
        }
        assert!(pool.try_partial(clip(1)).is_none());
        tokio::time::advance(Duration::from_millis(51)).await;
        tokio::task::yield_now().await;
        assert!(pool.try_partial(clip(1)).is_none(), "the second final has the worker");
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_goes_away_frees_no_worker_early_and_blocks_none_for_ever() {
        let (pool, engine) = pool(1, 8);
        let mut gone = pool.transcribe_final(clip(100), None).boxed();
        assert!((&mut gone).now_or_never().is_none());
        tokio::task::yield_now().await;
        drop(gone);
        let mut waiting = pool.transcribe_final(clip(100), None).boxed();
        assert!((&mut waiting).now_or_never().is_none());
        drop(waiting);
        let since = Instant::now();
        pool.transcribe_final(clip(10), None).await.unwrap();
        let waited = since.elapsed().as_millis();
        assert!((105..130).contains(&waited), "{waited} ms");
        assert_eq!(engine.running.lock().unwrap().1, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_refuses_everything_is_known_by_what_it_says_until_it_answers() {
        let (pool, _) = pool(1, 1);
        for _ in 0..3 {
            assert_eq!(pool.refusal(), None);
            assert!(pool.transcribe_final(clip(777), None).await.is_err());
        }
        assert_eq!(pool.refusal().as_deref(), Some("slow answered 404: no such model"));
        pool.transcribe_final(clip(3), None).await.unwrap();
        assert_eq!(pool.refusal(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_panics_costs_one_clip_only() {
        let (pool, _) = pool(1, 1);
        assert!(matches!(pool.transcribe_final(clip(0), None).await, Err(TranscribeError::Engine { .. })));
        assert_eq!(pool.transcribe_final(clip(3), None).await.unwrap().text, "3");
    }
}
