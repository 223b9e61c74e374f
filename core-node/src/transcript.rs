//! What was said: segments, their revisions and their numbers.
//!
//! A segment's id follows from the speech it was made of, so the same speech transcribed twice is the
//! same segment. Partial revisions share the id and rise; a final ends them and never changes.

pub mod format;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use geo::RegionId;
use jiff::Timestamp;
use mesh::{
    clock::Micros,
    identity::NodeId,
    wire::{
        MeetingId,
        spurt::{EdgeStages, Step},
    },
};
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{key::SpurtKey, transcribe::Text};

/// The greatest number of an event that is taken from another core: the greatest that every reader of JSON takes (RFC 8259, section 6).
pub const MAX_SEQ: u64 = (1 << 53) - 1;

/// What one speaker said in one go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Segment {
    /// The same for all revisions.
    pub id: Uuid,
    /// Rises with every event of the meeting's transcript.
    pub seq: u64,
    /// The meeting.
    pub meeting_id: Uuid,
    /// Who spoke, by the platform's own id; `null` where the platform did not say.
    pub participant: Option<Speaker>,
    /// The words.
    pub text: String,
    /// Spoken language, BCP 47, if the engine said.
    pub language: Option<String>,
    /// Whether this is the last revision.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// From 1, rising with each revision.
    pub revision: u32,
    /// Begin, in milliseconds from the meeting's first captured frame.
    pub start_ms: u64,
    /// End, likewise.
    pub end_ms: u64,
    /// Begin, by the capturing edge's clock.
    #[schema(value_type = String, format = DateTime)]
    pub start_at: Timestamp,
    /// End, likewise.
    #[schema(value_type = String, format = DateTime)]
    pub end_at: Timestamp,
    /// The engine's confidence, 0 to 1.
    #[serde(default, deserialize_with = "certainty")]
    pub confidence: Option<f32>,
    /// The words with their times.
    pub words: Vec<TimedWord>,
    /// Speech in it of which there are no words, after several tries; of finals only.
    #[serde(default)]
    pub not_transcribed: Vec<Stretch>,
    /// Why this final has fewer words than the partial before it, if it has.
    #[serde(default)]
    pub fewer_words: Option<FewerWords>,
    /// The edge that captured it.
    #[schema(value_type = Option<String>)]
    pub edge: Option<NodeId>,
    /// That edge's region.
    #[schema(value_type = Option<String>)]
    pub region: Option<RegionId>,
    /// The lowest step of the edge's uplink ladder on which it came: `pass_through`, or encoded anew because the link let too
    /// little pass: `opus_24`, `opus_16`, `opus_12` (kb/s), `final_only`. Known once its spurts have ended.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub uplink: Option<Step>,
    /// When its last frame passed each stage.
    pub timing: Timing,
}

/// Who spoke.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Speaker {
    /// The platform's own participant id.
    pub id: String,
    /// The display name the platform gave.
    pub name: Option<String>,
}

/// One word.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TimedWord {
    /// The word.
    pub text: String,
    /// Begin, in milliseconds from the meeting's first captured frame.
    pub start_ms: u64,
    /// End, likewise.
    pub end_ms: u64,
    /// The engine's confidence, 0 to 1.
    #[serde(deserialize_with = "certain")]
    pub confidence: f32,
}

/// A time in a meeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stretch {
    /// Begin, in milliseconds from the meeting's first captured frame.
    pub start_ms: u64,
    /// End, likewise.
    pub end_ms: u64,
}

/// Why a final has fewer words than the partial before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FewerWords {
    /// The rest of the partial's speech belongs to another segment.
    OtherSegment,
    /// Some of its speech could not be transcribed: see `not_transcribed`.
    NotTranscribed,
    /// The engine had begun to repeat itself.
    Repetition,
    /// All of its speech is covered: the engine, having heard more of it, makes other words of it.
    HeardOtherwise,
}

/// When a segment's last frame passed each stage, in Unix microseconds. The edge's own stages are
/// known once its spurt has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Timing {
    /// Came off the edge's socket.
    pub captured: u64,
    /// Decoded at the edge, or found not to need it.
    pub decoded: Option<u64>,
    /// The edge's VAD had decided.
    pub vad: Option<u64>,
    /// Handed to the QUIC stream.
    pub sent: Option<u64>,
    /// Read by the core.
    pub received: u64,
    /// On the core's disk.
    pub durable: u64,
    /// The words were there.
    pub words: u64,
}

/// Words that are not yet a segment.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// The spurt that names the utterance.
    pub key: SpurtKey,
    /// The item in it that does.
    pub item: u32,
    /// Who spoke.
    pub participant: Option<Speaker>,
    /// What the engine made of it.
    pub text: Text,
    /// Capture time of the clip's first sample.
    pub captured: Micros,
    /// How long the clip is.
    pub length: Duration,
    /// The edge's stamps of its last frame.
    pub stages: Option<EdgeStages>,
    /// How the edge's link let it be sent.
    pub step: Option<Step>,
    /// When the core had read its last frame.
    pub received: Micros,
    /// When the disk had it.
    pub durable: Micros,
    /// When the words were there.
    pub words: Micros,
    /// The edge that captured it, and its region.
    pub edge: Option<(NodeId, RegionId)>,
}

/// What becomes of a final draft.
#[derive(Debug, Clone, PartialEq)]
pub enum Finality {
    /// To be stored and published.
    Segment(Box<Segment>),
    /// Nothing was said, and nobody was told otherwise.
    Silence,
    /// The segment is final already.
    Repeated,
}

/// The newest revision of a segment.
#[derive(Debug, Default)]
struct Shown {
    revision: u32,
    words: usize,
    length: Duration,
}

/// One meeting's transcript: gives ids, revisions, numbers and meeting times.
#[derive(Debug)]
pub struct Transcript {
    meeting: MeetingId,
    origin: Option<Micros>,
    next_seq: u64,
    revisions: BTreeMap<Uuid, Shown>,
    finals: BTreeSet<Uuid>,
}

impl Transcript {
    /// The transcript so far: no number below `next_seq` is given out again, no segment of `finals`
    /// is made again, times count from `origin` (if known).
    pub fn new(
        meeting: MeetingId,
        origin: Option<Micros>,
        next_seq: u64,
        finals: impl IntoIterator<Item = Uuid>,
    ) -> Self {
        let finals = finals.into_iter().collect();
        Self { meeting, origin, next_seq: next_seq.max(1), revisions: BTreeMap::new(), finals }
    }

    /// Sets the meeting's first captured frame, once.
    pub fn set_origin(&mut self, captured: Micros) {
        self.origin.get_or_insert(captured);
    }

    /// The number of the next event.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Takes a number for an event that is no segment.
    pub fn take_seq(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq - 1
    }

    /// The next revision of a partial; `None` if it is final already or says nothing.
    pub fn handle_partial(&mut self, draft: Draft) -> Option<Segment> {
        let id = segment_id(self.meeting, &draft.key, draft.item);
        if self.finals.contains(&id) || !says_something(&draft.text.text) {
            return None;
        }
        Some(self.segment(id, draft, false))
    }

    /// The final. One without words is a segment only if partials had promised some, or if it has speech that should have had.
    pub fn handle_final(&mut self, mut draft: Draft) -> Finality {
        let id = segment_id(self.meeting, &draft.key, draft.item);
        if !self.finals.insert(id) {
            return Finality::Repeated;
        }
        if !says_something(&draft.text.text) {
            draft.text.text.clear();
            draft.text.words.clear();
            if draft.text.missing.is_empty() && !self.revisions.contains_key(&id) {
                return Finality::Silence;
            }
        }
        let segment = self.segment(id, draft, true);
        self.revisions.remove(&id);
        Finality::Segment(Box::new(segment))
    }

    fn segment(&mut self, id: Uuid, draft: Draft, is_final: bool) -> Segment {
        let shown = self.revisions.entry(id).or_default();
        let fewer_words = if is_final { shown.why_fewer(&draft) } else { None };
        *shown = Shown { revision: shown.revision + 1, words: draft.text.words.len(), length: draft.length };
        let revision = shown.revision;
        let origin = *self.origin.get_or_insert(draft.captured);
        let start_ms = draft.captured.since(origin).as_millis() as u64;
        let end = draft.captured.plus(draft.length);
        let word = |w: &crate::transcribe::Word| TimedWord {
            text: w.text.clone(),
            start_ms: start_ms + u64::from(w.start_ms),
            end_ms: start_ms + u64::from(w.end_ms),
            confidence: w.confidence,
        };
        let stretch = |span: &crate::transcribe::Span| Stretch {
            start_ms: start_ms + u64::from(span.start_ms),
            end_ms: start_ms + u64::from(span.end_ms),
        };
        let (edge, region) = draft.edge.clone().unzip();
        Segment {
            id,
            seq: self.take_seq(),
            meeting_id: self.meeting,
            words: draft.text.words.iter().map(word).collect(),
            not_transcribed: draft.text.missing.iter().map(stretch).collect(),
            fewer_words,
            timing: draft.timing(end),
            participant: draft.participant,
            text: draft.text.text.trim().to_owned(),
            language: draft.text.language,
            is_final,
            revision,
            start_ms,
            end_ms: end.since(origin).as_millis() as u64,
            start_at: timestamp(draft.captured),
            end_at: timestamp(end),
            confidence: draft.text.confidence,
            edge,
            region,
            uplink: draft.step,
        }
    }
}

impl Shown {
    fn why_fewer(&self, draft: &Draft) -> Option<FewerWords> {
        let Text { words, missing, repeated, .. } = &draft.text;
        let why = if draft.length < self.length {
            FewerWords::OtherSegment
        } else if !missing.is_empty() {
            FewerWords::NotTranscribed
        } else if *repeated {
            FewerWords::Repetition
        } else {
            FewerWords::HeardOtherwise
        };
        (words.len() < self.words).then_some(why)
    }
}

impl Draft {
    fn timing(&self, end: Micros) -> Timing {
        Timing {
            captured: self.stages.map_or(end, |s| s.captured).0,
            decoded: self.stages.map(|s| s.decoded.0),
            vad: self.stages.map(|s| s.vad.0),
            sent: self.stages.map(|s| s.sent.0),
            received: self.received.0,
            durable: self.durable.0,
            words: self.words.0,
        }
    }
}

/// The segment made of the utterance that this item of a spurt names: a UUID of version 8 (RFC 9562
/// section 5.8) from the SHA-256 of the key.
pub fn segment_id(meeting: MeetingId, key: &SpurtKey, item: u32) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(meeting.as_bytes());
    hash.update(key.epoch.0.to_be_bytes());
    hash.update(key.spurt.0.to_be_bytes());
    hash.update(key.participant.as_bytes());
    if item > 0 {
        hash.update(item.to_be_bytes());
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// As a timestamp; times beyond the year 9999 end there.
pub fn timestamp(at: Micros) -> Timestamp {
    Timestamp::from_microsecond(at.0.min(i64::MAX as u64) as i64).unwrap_or(Timestamp::MAX)
}

/// A confidence that another core or a disk tells.
fn certain<'de, D: Deserializer<'de>>(from: D) -> Result<f32, D::Error> {
    let told = f32::deserialize(from)?;
    if (0.0..=1.0).contains(&told) { Ok(told) } else { Err(D::Error::custom("a confidence is 0 to 1")) }
}

/// The same where there may be none.
fn certainty<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f32>, D::Error> {
    #[derive(Deserialize)]
    struct Certain(#[serde(deserialize_with = "certain")] f32);
    Ok(Option::<Certain>::deserialize(from)?.map(|Certain(told)| told))
}

/// Dashes, dots and notes of music are what engines write where nobody says a word.
fn says_something(text: &str) -> bool {
    text.chars().any(char::is_alphanumeric)
}

/// In the order they were spoken, by the capture clock; those that tell nothing are left out.
pub fn in_spoken_order(mut segments: Vec<Segment>) -> Vec<Segment> {
    segments.retain(|s| says_something(&s.text) || !s.not_transcribed.is_empty());
    segments.sort_by_key(|s| (s.start_at, s.end_at, s.id));
    segments
}

#[cfg(test)]
mod tests;
