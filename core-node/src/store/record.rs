//! What is remembered of a meeting.

pub mod owners;
pub mod removal;
pub mod turns;

use geo::RegionId;
use mesh::{
    clock::Micros,
    identity::NodeId,
    mandate::MeetingKey,
    wire::{
        MeetingId, Term,
        request::{Source, VadSettings},
    },
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

pub use self::owners::{Owner, Owners};
use self::turns::CoreTurn;
use crate::speech::ingest::Counts;

/// A meeting, as it was asked for and as it stands. Holds secrets: it is never sent out as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MeetingRecord {
    /// Its id.
    pub id: MeetingId,
    /// When it was asked for.
    pub created_at: Micros,
    /// When it reached [`Status::Done`] or [`Status::Failed`].
    pub ended_at: Option<Micros>,
    /// Where it stands.
    pub status: Status,
    /// Why it ended, as a stable word: it failed, or was left.
    pub sub_code: Option<String>,
    /// Why, in words.
    pub detail: Option<String>,
    /// What was asked for.
    pub spec: Spec,
    /// The request's `Idempotency-Key` and a digest of its body.
    pub idempotency: Option<(String, String)>,
    /// W3C `traceparent` of the request.
    pub trace: String,
    /// Who was asked to capture it.
    pub owners: Owners,
    /// Capture time of its first frame.
    pub origin: Option<Micros>,
    /// Number of its last event, once it has ended.
    pub last_seq: u64,
    /// What this core has taken in.
    pub counts: Counts,
    /// Who serves it, as far as this core knows.
    #[serde(default)]
    pub serving: Serving,
    /// When nobody captured it, and speech of which there are no words, oldest first; at most [`MAX_GAPS`], the newest are
    /// kept, and of the latter fewer if need be.
    #[serde(default)]
    pub gaps: Vec<Gap>,
    /// The cores that served it or stood by, in order.
    #[serde(default)]
    pub cores: Vec<CoreTurn>,
    /// What only its cores know; see [`mesh::mandate`].
    #[serde(default)]
    pub key: MeetingKey,
}

impl MeetingRecord {
    /// A meeting that was asked for at `created_at`, of which no more is known.
    pub fn new(id: MeetingId, spec: Spec, created_at: Micros) -> Self {
        Self {
            id,
            created_at,
            ended_at: None,
            status: Status::Placing,
            sub_code: None,
            detail: None,
            spec,
            idempotency: None,
            trace: String::new(),
            owners: Owners::default(),
            origin: None,
            last_seq: 0,
            counts: Counts::default(),
            serving: Serving::default(),
            gaps: vec![],
            cores: vec![],
            key: MeetingKey::default(),
        }
    }
}

impl MeetingRecord {
    /// Adds a gap that has ended in its place. Where there are too many, those in which nobody captured are kept.
    pub fn add_gap(&mut self, gap: Gap) {
        let at = self.gaps.partition_point(|other| other.from <= gap.from);
        self.gaps.insert(at, gap);
        if self.gaps.len() > MAX_GAPS {
            let oldest = self.gaps.iter().position(|gap| gap.reason == GapReason::NotTranscribed);
            self.gaps.remove(oldest.unwrap_or(0));
        }
    }
}

/// Capture slots of a meeting.
pub const SLOTS: usize = 2;

/// Gaps remembered of one meeting.
pub const MAX_GAPS: usize = 1000;

/// Which core serves a meeting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// In which term.
    pub term: Term,
    /// What this core is to the meeting.
    pub role: CoreRole,
    /// The core that serves it, where it is another.
    pub by: Option<NodeId>,
    /// The standby that an edge may turn to, as the core that serves has written down; `None` if there is surely none. Where the meeting
    /// has moved: this core, if it may have claimed it all the same.
    pub standby: Option<NodeId>,
    /// The newest stream of replicas taken from the core that serves it.
    #[serde(default)]
    pub stream: u64,
}

impl Default for Serving {
    /// As every meeting was served before there were standbys.
    fn default() -> Self {
        Self { term: Term(1), role: CoreRole::Serving, by: None, standby: None, stream: 0 }
    }
}

/// What this core is to a meeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CoreRole {
    /// It serves it.
    Serving,
    /// It holds all of it that is done, and would serve it next. Nothing of it is live here.
    Standby,
    /// Another core serves it, and this one is not its standby.
    Moved,
}

impl CoreRole {
    /// As receipts write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Standby => "standby",
            Self::Moved => "moved",
        }
    }
}

/// A time in which nobody captured a meeting, by this core's clock, or of which there are no words, by the edge's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The number of its event; 0 while it lasts.
    pub seq: u64,
    /// Since when.
    pub from: Micros,
    /// Until when; `None` while it lasts.
    pub to: Option<Micros>,
    /// Why.
    pub reason: GapReason,
    /// The segment in which words are missing, where that is the reason.
    #[serde(default)]
    pub segment: Option<Uuid>,
}

/// Why nobody captured a meeting, or why there are no words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// Its edge was heard of no more.
    EdgeLost,
    /// Its edge left before another had joined.
    EdgeLeft,
    /// Its edge lost the relay.
    RelayLost,
    /// It was captured, and its edge could not bring it here: it had no room for it, or no way.
    GivenUp,
    /// It was captured, but the engine made no words of what one speaker said: see `segment_id`.
    NotTranscribed,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// The way in.
    pub source: Source,
    /// The meeting's own address, for people.
    pub meeting_url: Option<String>,
    /// Residency groups or regions that may touch it; empty for all.
    pub residency: Vec<String>,
    /// Regions to prefer where the measurements are near-equal.
    pub prefer: Vec<RegionId>,
    /// No edge farther from the relay than this, in milliseconds.
    pub max_rtt_ms: Option<u32>,
    /// `host:port` at which the relay answers STUN, where edges are to measure it so.
    #[serde(default)]
    pub stun: Option<String>,
    /// Spoken language, BCP 47; `None` to detect it.
    pub language: Option<String>,
    /// Whether partial results are wanted.
    pub interim: bool,
    /// Whether noise is taken out of what the engine hears; `None`: as the core is set.
    #[serde(default)]
    pub noise_suppression: Option<bool>,
    /// How speech is told from silence.
    pub vad: VadSettings,
    /// The caller's own data.
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// At most one live meeting has it.
    pub deduplication_key: Option<String>,
    /// How many edges capture it at a time: 1 or 2.
    #[serde(default = "one")]
    pub redundancy: u8,
    /// When it is left without being asked.
    #[serde(default)]
    pub leave: LeaveRules,
}

/// When a meeting is left without anybody asking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaveRules {
    /// Once nobody has been in it for so long; `None`: never.
    pub alone_after_seconds: Option<u32>,
    /// At this time, whoever is in it.
    pub at: Option<Micros>,
}

impl LeaveRules {
    /// Ten minutes: longer than people are late, and than a relay takes to come back.
    pub const ALONE_AFTER_SECONDS: u32 = 600;
}

impl Default for LeaveRules {
    fn default() -> Self {
        Self { alone_after_seconds: Some(Self::ALONE_AFTER_SECONDS), at: None }
    }
}

fn one() -> u8 {
    1
}

/// Where a meeting stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// An edge is being chosen.
    Placing,
    /// The edge is joining.
    Connecting,
    /// Media may flow.
    Active,
    /// The edge has left or is leaving; words are still being made.
    Finishing,
    /// All words are out.
    Done,
    /// It could not be served to its end; `sub_code` says why.
    Failed,
}

impl Status {
    /// Nothing more will come of it.
    pub fn ended(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }

    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Placing => "placing",
            Self::Connecting => "connecting",
            Self::Active => "active",
            Self::Finishing => "finishing",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// Somebody in a meeting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Participant {
    /// The platform's own id.
    pub id: String,
    /// The display name the platform gave.
    pub name: Option<String>,
    /// When this core first heard of them, RFC 3339.
    pub joined_at: String,
    /// When they left, RFC 3339.
    pub left_at: Option<String>,
    /// What they publish, where none of it can be heard: the names of its codecs. Only Opus is heard.
    #[serde(default)]
    pub unheard: Option<String>,
}

impl MeetingRecord {
    /// What this core is done with needs no keys to the relay any more: they are not kept longer than the meeting.
    pub fn erase_secrets(&mut self) {
        self.spec.source.erase_secrets();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_stand_in_order_and_missing_words_crowd_out_no_missing_capture() {
        let gap = |from: u64, reason| Gap {
            seq: from,
            from: Micros(from),
            to: Some(Micros(from + 1)),
            reason,
            segment: None,
        };
        let mut record = crate::tests::fakes::record();
        for from in [5, 2, 9] {
            record.add_gap(gap(from, GapReason::EdgeLost));
        }
        assert_eq!(record.gaps.iter().map(|gap| gap.from.0).collect::<Vec<_>>(), [2, 5, 9]);
        for from in 0..2 * MAX_GAPS as u64 {
            record.add_gap(gap(10 + from, GapReason::NotTranscribed));
        }
        let lost = record.gaps.iter().filter(|gap| gap.reason == GapReason::EdgeLost).count();
        assert_eq!((record.gaps.len(), lost), (MAX_GAPS, 3));
    }
}
