//! One meeting's scribe: joins spurts, has them transcribed, publishes the words.
//!
//! Finals are made from the log alone, so that what was durable before a restart needs no other way.
//! Utterances that wait are only keys; their sound stays on disk until an engine is free.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use mesh::{clock::Micros, wire::spurt::EdgeStages};
use tokio::{sync::mpsc, task::JoinSet, time::sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::{
    key::SpurtKey,
    lock,
    log::LogClosed,
    meeting::{Meeting, wall},
    store::{Store, StoreError},
    transcribe::{Clip, Text, TranscribeError, pool::Pool},
    transcript::Draft,
    turns::HOLD,
    utterance::{Decoded, Heard, Joiner, Utterance},
};

/// Shorter than this nobody says a word: no engine is asked.
const MIN_UTTERANCE: Duration = Duration::from_millis(120);

/// New sound that is worth another partial.
const PARTIAL_STEP: Duration = Duration::from_millis(400);

/// The longest pause between two tries of a failing engine.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(30);

/// How a scribe works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Finals of one meeting under way at a time; as many as the pool has workers.
    pub parallel: usize,
    /// How often partials are made; `None` for never.
    pub interim: Option<Duration>,
    /// Spoken language; `None` to detect it.
    pub language: Option<String>,
}

/// Makes one meeting's words until `heard` ends or `stop` fires.
pub async fn run(
    meeting: Arc<Meeting>,
    pool: Pool,
    settings: Settings,
    mut heard: mpsc::Receiver<Heard>,
    stop: CancellationToken,
) {
    let mut scribe = Scribe::new(meeting, pool, settings);
    loop {
        scribe.start_finals();
        scribe.publish_due(Instant::now());
        let timeout = scribe.poll_timeout();
        let partial = scribe.partial_due();
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(result) = scribe.finals.join_next() => scribe.final_ended(result),
            Some(_) = scribe.publishing.join_next() => {}
            next = heard.recv() => match next {
                Some(heard) => scribe.hear(heard),
                None => return,
            },
            () = sleep_until(timeout.unwrap_or_else(Instant::now).into()), if timeout.is_some() => {
                scribe.joiner.handle_timeout(Instant::now());
            }
            Some(_) = scribe.partials.join_next() => {}
            () = sleep_until(partial.unwrap_or_else(Instant::now).into()), if partial.is_some() => {
                scribe.start_partials(Instant::now());
            }
        }
    }
}

struct Scribe {
    meeting: Arc<Meeting>,
    pool: Pool,
    settings: Settings,
    joiner: Joiner,
    waiting: VecDeque<Utterance>,
    finals: JoinSet<Option<Finished>>,
    /// Finals whose speaker said something before that has no words yet.
    held: Vec<Finished>,
    publishing: JoinSet<()>,
    partials: JoinSet<()>,
    /// When the next partial may be made.
    next_partial: Instant,
    /// Something has come in since one was last thought of.
    grown: bool,
    /// How much of each growing utterance was in its last partial.
    partial_lengths: BTreeMap<SpurtKey, Duration>,
    media: BTreeMap<SpurtKey, Duration>,
    durable: BTreeMap<SpurtKey, Micros>,
}

impl Scribe {
    fn new(meeting: Arc<Meeting>, pool: Pool, settings: Settings) -> Self {
        Self {
            meeting,
            pool,
            settings,
            joiner: Joiner::default(),
            waiting: VecDeque::new(),
            finals: JoinSet::new(),
            held: vec![],
            publishing: JoinSet::new(),
            partials: JoinSet::new(),
            next_partial: Instant::now(),
            grown: false,
            partial_lengths: BTreeMap::new(),
            media: BTreeMap::new(),
            durable: BTreeMap::new(),
        }
    }

    fn hear(&mut self, heard: Heard) {
        let now = Instant::now();
        match heard {
            Heard::Progress { key, media, durable } => {
                self.grown = true;
                self.joiner.handle_progress(&key, media, now);
                // A trailer alone adds nothing: the stamp stays that of the last frame.
                if self.media.insert(key.clone(), media) != Some(media) {
                    self.durable.extend(durable.map(|at| (key, at)));
                }
            }
            Heard::Whole { key, continues, media } => {
                self.joiner.handle_whole(&key, continues, media, now);
                self.media.insert(key, media);
            }
        }
    }

    fn start_finals(&mut self) {
        self.waiting.extend(std::iter::from_fn(|| self.joiner.poll_ready()));
        metrics::gauge!("nearfield_core_scribe_waiting_utterances").set(self.waiting.len() as f64);
        while self.finals.len() < self.settings.parallel {
            let Some(utterance) = self.waiting.pop_front() else { return };
            let key = utterance.spurts.last().unwrap_or(utterance.key()).clone();
            let durable = self.durable.get(&key).copied();
            for spurt in &utterance.spurts {
                self.durable.remove(spurt);
                self.media.remove(spurt);
            }
            self.partial_lengths.remove(utterance.key());
            let job = Job { meeting: self.meeting.clone(), utterance, language: self.settings.language.clone() };
            let span = tracing::info_span!("utterance", epoch = key.epoch.0, spurt = key.spurt.0);
            self.finals.spawn(job.make_final(self.pool.clone(), durable).instrument(span));
        }
    }

    fn final_ended(&mut self, result: Result<Option<Finished>, tokio::task::JoinError>) {
        match result {
            Ok(finished) => self.held.extend(finished),
            Err(error) => {
                tracing::error!(meeting = %self.meeting.id, %error, "a final was abandoned; its speech stays stored");
            }
        }
    }

    /// Publishes the finals whose turn it is, and those that have waited for too long.
    fn publish_due(&mut self, now: Instant) {
        let is_due = |finished: &mut Finished| {
            let next = lock(&self.meeting.turns).is_next(&finished.job.utterance.spurts);
            if !next && finished.since + HOLD <= now {
                metrics::counter!("nearfield_core_finals_out_of_order_total").increment(1);
            }
            next || finished.since + HOLD <= now
        };
        for finished in self.held.extract_if(.., is_due) {
            self.publishing.spawn(finished.publish().in_current_span());
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let held = self.held.iter().map(|finished| finished.since + HOLD);
        self.joiner.poll_timeout().into_iter().chain(held).min()
    }

    /// When a partial is to be made of what has come in.
    fn partial_due(&self) -> Option<Instant> {
        let wanted = self.settings.interim.is_some() && self.grown && self.partials.is_empty();
        wanted.then_some(self.next_partial)
    }

    /// One partial at a time for a meeting: what is behind is better served by the next.
    fn start_partials(&mut self, now: Instant) {
        self.grown = false;
        let behind = self.joiner.growing().into_iter().filter_map(|utterance| {
            let length: Duration = utterance.spurts.iter().filter_map(|key| self.media.get(key)).sum();
            let last = self.partial_lengths.get(utterance.key()).copied().unwrap_or_default();
            (length >= last + PARTIAL_STEP).then_some((length - last, length, utterance))
        });
        let Some((_, length, utterance)) = behind.max_by_key(|(new, _, _)| *new) else { return };
        self.next_partial = now + self.settings.interim.unwrap_or_default();
        self.partial_lengths.insert(utterance.key().clone(), length);
        let job = Job { meeting: self.meeting.clone(), utterance, language: self.settings.language.clone() };
        self.partials.spawn(job.make_partial(self.pool.clone()));
    }
}

/// The words of an utterance, before anybody may see them.
struct Finished {
    job: Job,
    draft: Draft,
    since: Instant,
}

impl Finished {
    async fn publish(self) {
        let Self { job, draft, .. } = self;
        let spoken = draft.captured.plus(draft.length);
        match job.meeting.publisher.finish(draft, job.utterance.spurts.clone()).await {
            Ok(Some(_)) => {
                metrics::counter!("nearfield_core_segments_final_total").increment(1);
                metrics::histogram!("nearfield_core_word_delay_seconds").record(wall().since(spoken).as_secs_f64());
            }
            Ok(None) => metrics::counter!("nearfield_core_utterances_silent_total").increment(1),
            Err(LogClosed) => return,
        }
        job.meeting.handle_done(&job.utterance.spurts).await;
    }
}

/// One utterance on its way to words.
struct Job {
    meeting: Arc<Meeting>,
    utterance: Utterance,
    language: Option<String>,
}

/// An utterance's sound and what is known of it.
struct Sound {
    samples: Arc<[f32]>,
    captured: Micros,
    received: Micros,
    stages: Option<EdgeStages>,
    bad_packets: u64,
}

impl Job {
    async fn make_final(self, pool: Pool, durable: Option<Micros>) -> Option<Finished> {
        let sound = self.load().await?;
        metrics::counter!("nearfield_core_decode_bad_packets_total").increment(sound.bad_packets);
        let text = self.transcribe(&pool, &sound).await?;
        let draft = self.draft(&sound, text, durable.unwrap_or(sound.received));
        Some(Finished { job: self, draft, since: Instant::now() })
    }

    async fn make_partial(self, pool: Pool) {
        let Some(sound) = self.load().await else { return };
        let Some(partial) = pool.try_partial(self.clip(&sound)) else {
            metrics::counter!("nearfield_core_partials_skipped_total").increment(1);
            return;
        };
        match partial.await {
            Ok(text) => {
                let draft = self.draft(&sound, text, wall());
                // A log that has ended ends the node; nothing is lost with a partial.
                let _ = self.meeting.publisher.partial(draft).await;
            }
            Err(error) => tracing::debug!(meeting = %self.meeting.id, %error, "no partial"),
        }
    }

    async fn load(&self) -> Option<Sound> {
        let (store, id, spurts) = (self.meeting.store.clone(), self.meeting.id, self.utterance.spurts.clone());
        let loaded = tokio::task::spawn_blocking(move || load(&store, id, &spurts)).await;
        match loaded {
            Ok(Ok(sound)) => sound,
            Ok(Err(error)) => {
                tracing::error!(meeting = %id, %error, "speech could not be read back");
                None
            }
            Err(error) => {
                tracing::error!(meeting = %id, %error, "decoding panicked");
                None
            }
        }
    }

    fn clip(&self, sound: &Sound) -> Clip {
        Clip { samples: sound.samples.clone(), language: self.language.clone() }
    }

    /// The words, however long the engine fails; `None` when the node stops first.
    async fn transcribe(&self, pool: &Pool, sound: &Sound) -> Option<Text> {
        let mut pause = Duration::from_secs(1);
        loop {
            let clip = self.clip(sound);
            if clip.duration() < MIN_UTTERANCE {
                return Some(Text::default());
            }
            match pool.transcribe_final(clip).await {
                Ok(text) => return Some(text),
                Err(TranscribeError::Closed) => return None,
                Err(error @ TranscribeError::Clip(_)) => {
                    tracing::warn!(meeting = %self.meeting.id, %error, "an utterance has no words");
                    return Some(Text::default());
                }
                Err(error) => tracing::warn!(meeting = %self.meeting.id, %error, ?pause, "engine failed; trying again"),
            }
            metrics::counter!("nearfield_core_engine_retries_total").increment(1);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_RETRY_PAUSE);
        }
    }

    fn draft(&self, sound: &Sound, text: Text, durable: Micros) -> Draft {
        let key = self.utterance.key().clone();
        let owner = self.meeting.owner(key.epoch);
        Draft {
            participant: Some(self.meeting.speaker(&key.participant)),
            text,
            captured: sound.captured,
            length: self.clip(sound).duration(),
            stages: sound.stages,
            received: sound.received,
            durable,
            words: wall(),
            edge: owner.map(|o| (o.edge, o.region)),
            key,
        }
    }
}

/// Reads and decodes an utterance; `None` if nothing of it is there.
fn load(store: &Store, meeting: mesh::wire::MeetingId, spurts: &[SpurtKey]) -> Result<Option<Sound>, StoreError> {
    let mut decoded = Decoded::new().map_err(|e| StoreError::Record { what: "log", why: e.to_string() })?;
    let mut sound: Option<Sound> = None;
    for key in spurts {
        let Some(speech) = store.speech(meeting, key)? else { continue };
        speech.items.iter().for_each(|item| decoded.push(item));
        let sound = sound.get_or_insert_with(|| Sound {
            samples: Arc::default(),
            captured: speech.captured,
            received: speech.received,
            stages: None,
            bad_packets: 0,
        });
        sound.received = speech.received;
        sound.stages = speech.stages;
    }
    Ok(sound.map(|sound| Sound { bad_packets: decoded.bad_packets(), samples: decoded.finish(), ..sound }))
}
