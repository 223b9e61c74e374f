//! One meeting's transcription task: joins spurts, has them transcribed, publishes the words.
//!
//! Finals are made from the log alone, so that what was durable before a restart needs no other way.
//! Utterances that wait are only keys; their sound stays on disk until an engine is free.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

mod tries;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use mesh::{
    clock::Micros,
    tasks::{Broken, blocking, told},
    wire::spurt::{EdgeStages, Item, Step},
};
use tokio::{sync::mpsc, task::JoinSet, time::sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use self::tries::Tries;
use super::{Meeting, wall};
use crate::{
    key::SpurtKey,
    lock,
    speech::{
        merge::{Merger, ledger::Ledger},
        utterance::{Cover, Decoded, Fresh, IntakeEvent, Name, Piece, Utterance, denoise, duration_of},
    },
    store::{
        Speech, Store, StoreError,
        log::LogClosed,
        record::{Gap, GapReason},
    },
    transcribe::{Clip, Text, TranscribeError, pool::Pool},
    transcript::{Draft, Segment},
};

/// Shorter than this nobody says a word: no engine is asked.
const MIN_UTTERANCE: Duration = Duration::from_millis(120);

/// The same for what was left over beside an utterance: where one edge heard speech begin or end, and another a little
/// earlier or later, there is less than a word, and its words would be guessed.
const MIN_REST: Duration = Duration::from_millis(400);

/// New sound that is worth another partial.
const PARTIAL_STEP: Duration = Duration::from_millis(400);

/// How the task works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Finals of one meeting under way at a time; as many as the pool has workers.
    pub parallel: usize,
    /// How often partials are made; `None` for never.
    pub interim: Option<Duration>,
    /// Spoken language; `None` to detect it.
    pub language: Option<String>,
    /// Whether noise is taken out of what the engine hears.
    pub noise_suppression: bool,
}

/// Makes one meeting's words until `heard` ends or `stop` fires. `covers` is what those had that
/// are out already, where there may be such.
pub async fn run(
    meeting: Arc<Meeting>,
    pool: Pool,
    settings: Settings,
    covers: Option<Vec<Cover>>,
    mut heard: mpsc::Receiver<IntakeEvent>,
    stop: CancellationToken,
) {
    let mut task = Transcription::new(meeting, pool, settings);
    if let Some(covers) = covers {
        task.merger.recall(&covers);
    }
    loop {
        task.merge();
        task.start_finals();
        task.publish_due(Instant::now());
        let timeout = task.poll_timeout();
        let partial = task.partial_due();
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(result) = task.finals.join_next() => task.final_ended(result.map_err(Broken::from)),
            Some(_) = task.publishing.join_next() => {}
            next = heard.recv() => match next {
                Some(heard) => task.hear(heard),
                None => return,
            },
            () = sleep_until(timeout.unwrap_or_else(Instant::now).into()), if timeout.is_some() => {
                task.merger.handle_timeout(Instant::now());
            }
            Some(partial) = task.partials.join_next() => task.partial_ended(partial.ok().flatten()),
            () = sleep_until(partial.unwrap_or_else(Instant::now).into()), if partial.is_some() => {
                task.start_partials(Instant::now());
            }
        }
    }
}

struct Transcription {
    meeting: Arc<Meeting>,
    pool: Pool,
    settings: Settings,
    merger: Merger,
    ledger: Arc<Mutex<Ledger>>,
    /// In the order in which they were spoken: after an outage the newest come in first.
    waiting: BTreeMap<(Option<Micros>, u64), Utterance>,
    /// Utterances that have waited.
    waited: u64,
    finals: JoinSet<Option<Finished>>,
    /// Finals whose speaker said something before that has no words yet.
    held: Vec<Finished>,
    publishing: JoinSet<()>,
    partials: JoinSet<Option<(Name, Micros, Text)>>,
    /// When the next partial may be made.
    next_partial: Instant,
    /// Something has come in since one was last thought of.
    grown: bool,
    /// The last partial of each utterance that has no words yet.
    shown: BTreeMap<Name, Shown>,
    durable: BTreeMap<SpurtKey, Micros>,
}

impl Transcription {
    fn new(meeting: Arc<Meeting>, pool: Pool, settings: Settings) -> Self {
        Self {
            meeting,
            pool,
            settings,
            merger: Merger::default(),
            ledger: Arc::default(),
            waiting: BTreeMap::new(),
            waited: 0,
            finals: JoinSet::new(),
            held: vec![],
            publishing: JoinSet::new(),
            partials: JoinSet::new(),
            next_partial: Instant::now(),
            grown: false,
            shown: BTreeMap::new(),
            durable: BTreeMap::new(),
        }
    }

    fn hear(&mut self, heard: IntakeEvent) {
        #[cfg(test)]
        break_if_poisoned(self.meeting.id);
        if let IntakeEvent::Capturing(capturing) = &heard {
            self.merger.handle_capturing(capturing.clone(), Instant::now());
        }
        // Before anything else: who captures decides whether anybody is waited for.
        self.merger.handle_capturing(self.meeting.capturing_going_on(), Instant::now());
        match heard {
            IntakeEvent::Progress { key, durable, fresh } => {
                // A trailer alone adds nothing: the stamp stays that of the last frame.
                if fresh.is_some() {
                    self.grown = true;
                    self.durable.extend(durable.map(|at| (key.clone(), at)));
                }
                self.take(&key, fresh);
            }
            IntakeEvent::Whole { key, end, fresh } => {
                self.take(&key, fresh);
                self.merger.handle_whole(&key, end, Instant::now());
            }
            IntakeEvent::Capturing(_) => {}
        }
    }

    fn take(&mut self, key: &SpurtKey, fresh: Option<Fresh>) {
        if let Some(fresh) = fresh {
            self.merger.handle_fresh(key, &fresh, Instant::now());
        }
    }

    /// What has become ready, and what is over without words of its own.
    fn merge(&mut self) {
        let mut ledger = lock(&self.ledger);
        while let Some(utterance) = self.merger.poll_ready() {
            ledger.begin(&utterance.spurts);
            let captured = lock(&self.meeting.turns).work(&utterance.spurts);
            self.waiting.insert((captured, self.waited), utterance);
            self.waited += 1;
        }
        let mut over = vec![];
        while let Some(key) = self.merger.poll_settled() {
            over.extend(ledger.settle(&key).then_some(key));
        }
        drop(ledger);
        self.meeting.note_twice(self.merger.twice());
        for key in &over {
            self.durable.remove(key);
        }
        if !over.is_empty() {
            self.publishing.spawn(told("publishing", drop_spurts(self.meeting.clone(), over)));
        }
    }

    fn start_finals(&mut self) {
        metrics::gauge!("nearfield_core_scribe_waiting_utterances").set(self.waiting.len() as f64);
        while self.finals.len() < self.settings.parallel {
            let Some((_, utterance)) = self.waiting.pop_first() else { return };
            let last = utterance.pieces.last().map_or(&utterance.name.key, |piece| &piece.key);
            let (epoch, spurt) = (last.epoch.0, last.spurt.0);
            let durable = self.durable.get(last).copied();
            for spurt in &utterance.spurts {
                self.durable.remove(spurt);
            }
            let shown = self.shown.remove(&utterance.name).and_then(|shown| shown.text);
            let span = tracing::info_span!("utterance", epoch, spurt);
            let work = self.job(utterance).make_final(self.pool.clone(), durable, shown);
            self.finals.spawn(told("final", work).instrument(span));
        }
    }

    fn job(&self, utterance: Utterance) -> Job {
        let Settings { language, noise_suppression, .. } = self.settings.clone();
        Job { meeting: self.meeting.clone(), utterance, language, noise_suppression, ledger: self.ledger.clone() }
    }

    /// What breaks one final would break it again: the whole meeting ends for it, rather than never.
    fn final_ended(&mut self, result: Result<Option<Finished>, Broken>) {
        match result {
            Ok(finished) => self.held.extend(finished),
            Err(why) => {
                tracing::error!(meeting = %self.meeting.id, %why, "a final was abandoned; its speech stays stored");
                if let Broken::Panicked(panic) = why {
                    panic.go_on();
                }
            }
        }
    }

    /// Publishes the finals whose turn it is, and those that have waited for too long.
    fn publish_due(&mut self, now: Instant) {
        let turns = lock(&self.meeting.turns);
        let is_due = |finished: &mut Finished| {
            let wait = turns.wait(&finished.job.utterance.spurts);
            let due = finished.since + wait <= now;
            if due && !wait.is_zero() {
                metrics::counter!("nearfield_core_finals_out_of_order_total").increment(1);
            }
            due
        };
        for finished in self.held.extract_if(.., is_due) {
            self.publishing.spawn(told("publishing", finished.publish()).in_current_span());
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let turns = lock(&self.meeting.turns);
        let held = self.held.iter().map(|finished| finished.since + turns.wait(&finished.job.utterance.spurts));
        self.merger.poll_timeout().into_iter().chain(held).min()
    }

    /// When a partial is to be made of what has come in.
    fn partial_due(&self) -> Option<Instant> {
        let wanted = self.settings.interim.is_some() && self.grown && self.partials.is_empty();
        wanted.then_some(self.next_partial)
    }

    /// One partial at a time for a meeting: what is behind is better served by the next.
    fn start_partials(&mut self, now: Instant) {
        self.grown = false;
        let growing = self.merger.growing();
        let waiting = || self.waiting.values();
        self.shown.retain(|name, _| growing.iter().chain(waiting()).any(|utterance| utterance.name == *name));
        let behind = growing.into_iter().filter_map(|utterance| {
            let length = utterance.length;
            let last = self.shown.get(&utterance.name).map(|shown| shown.length).unwrap_or_default();
            // Merged with another edge's, it may be shorter than it was.
            let new = length.saturating_sub(last);
            (new >= PARTIAL_STEP).then_some((new, length, utterance))
        });
        let Some((_, length, utterance)) = behind.max_by_key(|(new, _, _)| *new) else { return };
        self.next_partial = now + self.settings.interim.unwrap_or_default();
        let shown = self.shown.entry(utterance.name.clone()).or_default();
        shown.length = length;
        self.partials.spawn(told("partial", self.job(utterance).make_partial(self.pool.clone())));
    }

    /// Its final may have begun in the meantime.
    fn partial_ended(&mut self, partial: Option<(Name, Micros, Text)>) {
        let Some((name, captured, text)) = partial else { return };
        if let Some(shown) = self.shown.get_mut(&name) {
            shown.text = Some((captured, text));
        }
    }
}

/// An utterance's last partial.
#[derive(Default)]
struct Shown {
    /// How much of the utterance it was made of.
    length: Duration,
    /// When that begins, and its words, once they are out.
    text: Option<(Micros, Text)>,
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
        let done = || lock(&job.ledger).finish(&job.utterance.spurts);
        let done = match job.meeting.publisher.finish(draft, job.utterance.cover.clone(), done).await {
            Ok((Some(segment), done)) => {
                job.tell_missing(&segment).await;
                metrics::counter!("nearfield_core_segments_final_total").increment(1);
                metrics::histogram!("nearfield_core_word_delay_seconds").record(wall().since(spoken).as_secs_f64());
                done
            }
            Ok((None, done)) => {
                metrics::counter!("nearfield_core_utterances_silent_total").increment(1);
                done
            }
            Err(LogClosed) => return,
        };
        // What more comes of a spurt whose words are out in part is late, and holds up nothing.
        job.utterance.spurts.iter().for_each(|key| lock(&job.meeting.turns).end(key));
        job.meeting.handle_done(&done).await;
    }
}

/// Spurts of which all was there already.
async fn drop_spurts(meeting: Arc<Meeting>, spurts: Vec<SpurtKey>) {
    // An error means that the store has ended or another core serves: what follows from it is done elsewhere.
    if meeting.publisher.drop_spurts(spurts.clone(), wall()).await.is_ok() {
        metrics::counter!("nearfield_core_merge_spurts_dropped_total").increment(spurts.len() as u64);
        meeting.handle_done(&spurts).await;
    }
}

/// One utterance on its way to words.
struct Job {
    meeting: Arc<Meeting>,
    utterance: Utterance,
    language: Option<String>,
    noise_suppression: bool,
    ledger: Arc<Mutex<Ledger>>,
}

/// An utterance's sound and what is known of it.
struct Sound {
    samples: Arc<[f32]>,
    captured: Micros,
    received: Micros,
    stages: Option<EdgeStages>,
    step: Option<Step>,
    bad_packets: u64,
}

impl Job {
    /// What a final has no words of is a gap, too.
    async fn tell_missing(&self, segment: &Segment) {
        for stretch in &segment.not_transcribed {
            tracing::warn!(meeting = %self.meeting.id, segment = %segment.id, ms = stretch.end_ms - stretch.start_ms, "speech has no words");
            let start = segment.start_at.as_microsecond().max(0) as u64;
            let at = |ms: u64| Micros(start + ms.saturating_sub(segment.start_ms) * 1000);
            let gap = Gap {
                seq: 0,
                from: at(stretch.start_ms),
                to: Some(at(stretch.end_ms)),
                reason: GapReason::NotTranscribed,
                segment: Some(segment.id),
            };
            let keep = |gap: Gap| self.meeting.update(|record| record.add_gap(gap));
            // An error means that the store has ended or another core serves; the segment says it all the same.
            if self.meeting.publisher.gap(gap, keep).await.is_err() {
                return;
            }
        }
    }

    async fn make_final(self, pool: Pool, durable: Option<Micros>, shown: Option<(Micros, Text)>) -> Option<Finished> {
        let draft = self.make_draft(&pool, durable, shown).await;
        if draft.is_none() {
            // Its speech stays stored; nothing waits for its words before the next start.
            let mut turns = lock(&self.meeting.turns);
            self.utterance.spurts.iter().for_each(|spurt| turns.end(spurt));
        }
        Some(Finished { draft: draft?, job: self, since: Instant::now() })
    }

    async fn make_draft(&self, pool: &Pool, durable: Option<Micros>, shown: Option<(Micros, Text)>) -> Option<Draft> {
        let sound = self.load().await?;
        metrics::counter!("nearfield_core_decode_bad_packets_total").increment(sound.bad_packets);
        // Merged with what another edge heard it may begin elsewhere, and the times would be others.
        let shown = shown.filter(|(captured, _)| *captured == sound.captured).map(|(_, text)| text);
        let text = self.transcribe(pool, &sound, shown).await?;
        Some(self.draft(&sound, text, durable.unwrap_or(sound.received)))
    }

    /// Its name, when it begins and its words, once they are out.
    async fn make_partial(self, pool: Pool) -> Option<(Name, Micros, Text)> {
        let sound = self.load().await?;
        let Some(partial) = pool.try_partial(self.clip(&sound)) else {
            metrics::counter!("nearfield_core_partials_skipped_total").increment(1);
            return None;
        };
        match partial.await {
            Ok(text) => {
                let draft = self.draft(&sound, text.clone(), wall());
                // A log that has ended ends the node; nothing is lost with a partial.
                self.meeting.publisher.partial(draft).await.ok()?;
                Some((self.utterance.name, sound.captured, text))
            }
            Err(error) => {
                tracing::debug!(meeting = %self.meeting.id, %error, "no partial");
                None
            }
        }
    }

    async fn load(&self) -> Option<Sound> {
        let (store, id, pieces) = (self.meeting.store.clone(), self.meeting.id, self.utterance.pieces.clone());
        let suppress = self.noise_suppression;
        let loaded = blocking("decoding", move || {
            let mut sound = load(&store, id, &pieces)?;
            if let Some(sound) = sound.as_mut().filter(|_| suppress) {
                sound.samples = denoise::suppress(&sound.samples).into();
            }
            Ok::<_, StoreError>(sound)
        })
        .await;
        match loaded {
            Ok(Ok(sound)) => sound,
            Ok(Err(error)) => {
                tracing::error!(meeting = %id, %error, "speech could not be read back");
                None
            }
            Err(error) => {
                tracing::error!(meeting = %id, why = %Broken::from(error), "speech could not be decoded");
                None
            }
        }
    }

    fn clip(&self, sound: &Sound) -> Clip {
        Clip { samples: sound.samples.clone(), language: self.language.clone() }
    }

    /// The words, and what of the speech has none; `None` when the node stops first.
    async fn transcribe(&self, pool: &Pool, sound: &Sound, shown: Option<Text>) -> Option<Text> {
        let clip = self.clip(sound);
        if clip.duration() < if self.utterance.rest { MIN_REST } else { MIN_UTTERANCE } {
            return Some(Text::default());
        }
        let mut tries = Tries::new(pool.answered(), Instant::now());
        loop {
            let error = match pool.transcribe_final(clip.clone(), shown.clone()).await {
                Ok(text) => return Some(text),
                Err(TranscribeError::Closed) => return None,
                Err(error) => error,
            };
            let Some(pause) = tries.after(&error, pool.answered(), Instant::now()) else {
                tracing::warn!(meeting = %self.meeting.id, %error, "the engine has no words for an utterance");
                metrics::counter!("nearfield_core_finals_given_up_total").increment(1);
                return Some(pool.without_engine(&clip, shown.as_ref()).await);
            };
            tracing::warn!(meeting = %self.meeting.id, %error, ?pause, "engine failed; trying again");
            metrics::counter!("nearfield_core_engine_retries_total").increment(1);
            tokio::time::sleep(pause).await;
        }
    }

    fn draft(&self, sound: &Sound, text: Text, durable: Micros) -> Draft {
        let Name { key, item } = self.utterance.name.clone();
        let first = self.utterance.pieces.first().map_or(key.epoch, |piece| piece.key.epoch);
        let owner = self.meeting.owner(first);
        Draft {
            participant: Some(self.meeting.speaker(&key.participant)),
            text,
            captured: sound.captured,
            length: self.clip(sound).duration(),
            stages: sound.stages,
            step: sound.step,
            received: sound.received,
            durable,
            words: wall(),
            edge: owner.map(|o| (o.edge, o.region)),
            key,
            item,
        }
    }
}

/// Reads and decodes an utterance; `None` if nothing of it is there.
fn load(store: &Store, meeting: mesh::wire::MeetingId, pieces: &[Piece]) -> Result<Option<Sound>, StoreError> {
    let mut decoded = Decoded::new().map_err(|e| StoreError::Record { what: "log", why: e.to_string() })?;
    let mut sound: Option<Sound> = None;
    let mut spurts: BTreeMap<&SpurtKey, Option<Speech>> = BTreeMap::new();
    for Piece { key, items } in pieces {
        let speech = match spurts.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(store.speech(meeting, key)?),
        };
        let Some(speech) = speech else { continue };
        let (first, end) = (items.start as usize, (items.end as usize).min(speech.items.len()));
        speech.items.iter().take(end).skip(first).for_each(|item| decoded.push(item));
        let sound = sound.get_or_insert_with(|| Sound {
            samples: Arc::default(),
            captured: speech.captured.plus(length(&speech.items[..first.min(end)])),
            received: speech.received,
            stages: None,
            step: None,
            bad_packets: 0,
        });
        sound.received = speech.received;
        sound.stages = speech.stages;
        sound.step = sound.step.max(speech.step);
    }
    Ok(sound.map(|sound| Sound { bad_packets: decoded.bad_packets(), samples: decoded.finish(), ..sound }))
}

fn length(items: &[Item]) -> Duration {
    let mut slot = duration_of(&[]);
    let lengths = items.iter().map(|item| {
        if let Item::Frame(packet) = item {
            slot = duration_of(packet);
        }
        slot
    });
    lengths.sum()
}

/// Meetings whose transcription is to panic at the next that it hears.
#[cfg(test)]
pub(crate) static POISONED: std::sync::Mutex<Vec<mesh::wire::MeetingId>> = std::sync::Mutex::new(vec![]);

#[cfg(test)]
fn break_if_poisoned(meeting: mesh::wire::MeetingId) {
    let poisoned = crate::lock(&POISONED).contains(&meeting);
    assert!(!poisoned, "poisoned");
}
