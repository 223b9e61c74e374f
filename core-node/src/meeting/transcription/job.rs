//! One utterance on its way to words: read back, decoded, transcribed, published.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use mesh::{
    clock::Micros,
    tasks::{Broken, blocking},
    wire::spurt::{EdgeStages, Item, Step},
};

use super::tries::Tries;
use crate::{
    key::SpurtKey,
    lock,
    meeting::{Meeting, wall},
    speech::{
        merge::ledger::Ledger,
        utterance::{Decoded, Name, Piece, Utterance, denoise, duration_of},
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

/// The words of an utterance, before anybody may see them.
pub(super) struct Finished {
    pub(super) job: Job,
    pub(super) draft: Draft,
    pub(super) since: Instant,
}

impl Finished {
    pub(super) async fn publish(self) {
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
pub(super) async fn drop_spurts(meeting: Arc<Meeting>, spurts: Vec<SpurtKey>) {
    // An error means that the store has ended or another core serves: what follows from it is done elsewhere.
    if meeting.publisher.drop_spurts(spurts.clone(), wall()).await.is_ok() {
        metrics::counter!("nearfield_core_merge_spurts_dropped_total").increment(spurts.len() as u64);
        meeting.handle_done(&spurts).await;
    }
}

/// One utterance on its way to words.
pub(super) struct Job {
    pub(super) meeting: Arc<Meeting>,
    pub(super) utterance: Utterance,
    pub(super) language: Option<String>,
    pub(super) noise_suppression: bool,
    pub(super) ledger: Arc<Mutex<Ledger>>,
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

    pub(super) async fn make_final(
        self,
        pool: Pool,
        durable: Option<Micros>,
        shown: Option<(Micros, Text)>,
    ) -> Option<Finished> {
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
    pub(super) async fn make_partial(self, pool: Pool) -> Option<(Name, Micros, Text)> {
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
