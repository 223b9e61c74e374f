//! What is attested of a meeting when it is over: every node and region that had part in it.
//!
//! A receipt is made once, signed with the key of this core's certificate, and kept with the transcript. It can be checked
//! without us ([`verify`]): a flattened JSON Web Signature ([`jws`]) that carries its certificates along.

pub mod jws;
pub mod show;
pub mod verify;

use jiff::Timestamp;
use mesh::{clock::Micros, identity::Identity, wire::request::Source};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    key::SpurtKey,
    store::{
        SpurtRecord, Store, StoreError,
        record::{CoreRole, Gap, GapReason, MeetingRecord, Owner, Status, turns::CoreTurn},
    },
    transcript::{Segment, in_spoken_order, timestamp},
};

/// The kind and version of what [`Receipt`] says.
pub const KIND: &str = "nearfield-receipt/1";

/// What is attested. All times are of the clock of the core that served the meeting then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// [`KIND`].
    #[serde(rename = "type")]
    pub kind: String,
    /// The meeting.
    pub meeting_id: Uuid,
    /// `done` or `failed`.
    pub status: Status,
    /// Why it failed, or was left.
    pub sub_code: Option<String>,
    /// When it was asked for.
    pub begun_at: Timestamp,
    /// When its last word was out.
    pub ended_at: Timestamp,
    /// When this was signed.
    pub issued_at: Timestamp,
    /// The core that signs.
    pub issuer: String,
    /// What it runs.
    pub software: String,
    /// Where the meeting was allowed to be: regions and residency groups; empty: anywhere.
    pub residency: Vec<String>,
    /// The way in.
    pub relay: RelayLine,
    /// The cores that served it or held a copy of it.
    pub cores: Vec<CoreLine>,
    /// The edges that were given it.
    pub edges: Vec<EdgeLine>,
    /// How much there was.
    pub counts: CountsLine,
    /// When nobody captured it.
    pub gaps: Vec<GapLine>,
    /// What was said.
    pub transcript: TranscriptLine,
}

/// The relay of a meeting, without path or secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayLine {
    /// `whep`, `janus`, `livekit` or `zoom_rtms`.
    pub kind: String,
    /// Its host, and the port where the address names one.
    pub host: String,
}

/// A core's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoreLine {
    /// Which.
    pub node: String,
    /// Where, by its certificate.
    pub region: String,
    /// `serving`, or `standby`: it held a copy of all but audio.
    pub role: CoreRole,
    /// Rises each time another core takes the meeting over.
    pub term: u32,
    /// Since when.
    pub from: Timestamp,
    /// Until when.
    pub to: Timestamp,
    /// What it ran.
    pub software: String,
}

/// An edge's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeLine {
    /// Which.
    pub node: String,
    /// Where, by its certificate.
    pub region: String,
    /// The ownership under which it captured.
    pub epoch: u64,
    /// Which of the meeting's capturing edges it was.
    pub slot: u8,
    /// Since when; absent of meetings that older software placed.
    pub from: Option<Timestamp>,
    /// Until when.
    pub to: Timestamp,
    /// RTP packets it received.
    pub packets: u64,
    /// Talk spurts of it that were taken in.
    pub spurts: u64,
    /// Speech frames in these.
    pub frames: u64,
}

/// How much there was, over all edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountsLine {
    /// Speech frames made words of.
    pub frames: u64,
    /// Talk spurts.
    pub spurts: u64,
    /// Segments of the transcript.
    pub segments: u64,
    /// Words in these.
    pub words: u64,
}

/// A time in which nobody captured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapLine {
    /// Since when.
    pub from: Timestamp,
    /// Until when.
    pub to: Timestamp,
    /// Why.
    pub reason: GapReason,
}

/// What was said, as a digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TranscriptLine {
    /// SHA-256, in hexadecimal, of the canonical JSON (RFC 8785) of the transcript's `segments`.
    pub sha256: String,
}

impl Receipt {
    /// What is to be attested by `issuer` of an ended meeting.
    ///
    /// # Errors
    /// The store could not be read.
    pub fn of(store: &Store, record: &MeetingRecord, issuer: &Identity, at: Micros) -> Result<Self, StoreError> {
        let segments = in_spoken_order(store.segments(record.id, 0)?);
        Self::made(record, &segments, &store.spurt_records(record.id)?, issuer, at)
    }

    /// The same of what the store holds: `segments` in spoken order, and `spurts`.
    pub(crate) fn made(
        record: &MeetingRecord,
        segments: &[Segment],
        spurts: &[(SpurtKey, SpurtRecord)],
        issuer: &Identity,
        at: Micros,
    ) -> Result<Self, StoreError> {
        // Other cores, with clocks of their own, may have noted when it began and ended.
        let ended = record.ended_at.unwrap_or(at).max(record.created_at);
        let at = at.max(ended);
        let edges = edges(spurts, record, ended);
        Ok(Self {
            kind: KIND.into(),
            meeting_id: record.id,
            status: record.status,
            sub_code: record.sub_code.clone(),
            begun_at: timestamp(record.created_at),
            ended_at: timestamp(ended),
            issued_at: timestamp(at),
            issuer: issuer.node.to_string(),
            software: crate::SOFTWARE.into(),
            residency: record.spec.residency.clone(),
            relay: relay(&record.spec.source),
            cores: cores(record, issuer, ended),
            counts: CountsLine {
                frames: edges.iter().map(|e| e.frames).fold(0, u64::saturating_add),
                spurts: edges.iter().map(|e| e.spurts).sum(),
                segments: segments.len() as u64,
                words: segments.iter().map(|s| s.words.len() as u64).sum(),
            },
            edges,
            gaps: gaps(record, ended),
            transcript: TranscriptLine { sha256: digest(segments)? },
        })
    }

    /// Every region that had part, with the node that was there.
    pub fn regions(&self) -> impl Iterator<Item = (&str, &str)> {
        let cores = self.cores.iter().map(|c| (c.node.as_str(), c.region.as_str()));
        cores.chain(self.edges.iter().map(|e| (e.node.as_str(), e.region.as_str())))
    }
}

fn cores(record: &MeetingRecord, issuer: &Identity, ended: Micros) -> Vec<CoreLine> {
    let line = |turn: &CoreTurn| CoreLine {
        node: turn.core.to_string(),
        region: turn.region.to_string(),
        role: turn.role,
        term: turn.term.0,
        from: timestamp(turn.from),
        to: timestamp(turn.to.unwrap_or(ended)),
        software: turn.software.clone(),
    };
    if record.cores.is_empty() {
        // Older software has kept no turns; it had no standbys either.
        let mut record = record.clone();
        let term = record.serving.term;
        record.begin_turn(issuer, CoreRole::Serving, term, crate::SOFTWARE, record.created_at);
        return record.cores.iter().map(line).collect();
    }
    record.cores.iter().map(line).collect()
}

fn edges(spurts: &[(SpurtKey, SpurtRecord)], record: &MeetingRecord, ended: Micros) -> Vec<EdgeLine> {
    let line = |(epoch, owner): (&u64, &Owner)| {
        let of = spurts.iter().filter(|(key, _)| key.epoch.0 == *epoch || owner.joined.contains(&key.epoch.0));
        EdgeLine {
            node: owner.edge.to_string(),
            region: owner.region.to_string(),
            epoch: *epoch,
            slot: owner.slot,
            from: owner.since.map(timestamp),
            to: timestamp(owner.until.unwrap_or(ended)),
            packets: record.owners.totals.get(epoch).map_or(0, |t| t.packets_in),
            spurts: of.clone().count() as u64,
            // A spurt may be of another core, which may count as it likes.
            frames: of.filter_map(|(_, spurt)| spurt.done).map(|mark| mark.frames).fold(0, u64::saturating_add),
        }
    };
    record.owners.rows.iter().map(line).collect()
}

/// When nobody had part; whether there are words of what somebody captured is in the transcript.
fn gaps(record: &MeetingRecord, ended: Micros) -> Vec<GapLine> {
    let captured = |reason| matches!(reason, GapReason::NotTranscribed | GapReason::GivenUp);
    let uncaptured = record.gaps.iter().filter(|gap| !captured(gap.reason));
    let line =
        |gap: &Gap| GapLine { from: timestamp(gap.from), to: timestamp(gap.to.unwrap_or(ended)), reason: gap.reason };
    uncaptured.map(line).collect()
}

fn relay(source: &Source) -> RelayLine {
    let url = reqwest::Url::parse(source.url()).ok();
    let port = url.as_ref().and_then(|u| u.port()).map(|p| format!(":{p}")).unwrap_or_default();
    let host = url.as_ref().and_then(|u| u.host_str()).unwrap_or_default();
    RelayLine { kind: source.kind().into(), host: format!("{host}{port}") }
}

/// See [`TranscriptLine::sha256`].
fn digest(segments: &[Segment]) -> Result<String, StoreError> {
    let unwritable = |e: serde_json::Error| StoreError::Record { what: "segments", why: e.to_string() };
    // By way of text: a reader's numbers are those of the text, and a confidence of 0.9 is not 0.9 in 32 bits.
    let text = serde_json::to_string(segments).map_err(unwritable)?;
    digest_of(&text).map_err(unwritable)
}

/// The digest of segments that are JSON already.
fn digest_of(text: &str) -> Result<String, serde_json::Error> {
    let value: serde_json::Value = serde_json::from_str(text)?;
    let canonical = serde_json_canonicalizer::to_vec(&value)?;
    Ok(Sha256::digest(canonical).iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests;
