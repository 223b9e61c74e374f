//! One meeting's transcription task: joins spurts, has them transcribed, publishes the words.
//!
//! Finals are made from the log alone, so that what was durable before a restart needs no other way.
//! Utterances that wait are only keys; their sound stays on disk until an engine is free.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

mod job;
mod tries;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use mesh::{
    clock::Micros,
    tasks::{Broken, told},
};
use tokio::{sync::mpsc, task::JoinSet, time::sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use self::job::{Finished, Job, drop_spurts};
use super::Meeting;
use crate::{
    key::SpurtKey,
    lock,
    speech::{
        merge::{Merger, ledger::Ledger},
        utterance::{Cover, Fresh, IntakeEvent, Name, Utterance},
    },
    transcribe::{Text, pool::Pool},
};

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
