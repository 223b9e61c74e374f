//! A meeting as the API shows it: no secret of its source among it.

use mesh::{
    identity::Identity,
    trace::TraceContext,
    wire::{Epoch, control::EdgeTotals},
};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    meeting::wishes::{Unmet, Wish},
    store::record::{Gap, GapReason, MeetingRecord, Owner, Status},
    transcript::timestamp,
};

/// A meeting.
#[derive(Serialize, ToSchema)]
pub(super) struct MeetingView {
    id: Uuid,
    status: Status,
    /// Why it ended, as a stable word. Of a meeting that is done: `requested`, `relay_ended`, `alone` (nobody was in it
    /// for as long as `leave` allows) or `deadline`. Of one that failed: `dns_failed`, `connection_refused`, `tls_failed`,
    /// `relay_timeout`, `relay_unreachable` or `address_denied` (the relay is not reached), `no_such_room`, `access_denied`,
    /// `room_full` or `relay_refused` (it says no), `relay_protocol`, `codec_unsupported` or `source_invalid` (it is not
    /// understood), `media_unreachable`, `media_lost` or `flooded`, or `no_edge`, `edge_failed`, `internal_error` or
    /// `transcription_failed`. There may be more in time.
    sub_code: Option<String>,
    /// Why it failed, in words.
    detail: Option<String>,
    owner: Option<OwnerView>,
    /// All edges that capture it, by slot; two where `redundancy` is 2 or while it is handed over.
    edges: Vec<OwnerView>,
    /// How many edges were asked for.
    redundancy: u8,
    /// The core that makes its words.
    core: String,
    /// That core's region.
    region: String,
    /// `whep`, `janus`, `livekit` or `zoom_rtms`.
    source_kind: &'static str,
    meeting_url: Option<String>,
    participants: usize,
    /// What the edges have done, over all epochs.
    totals: TotalsView,
    /// Frames taken in, each once.
    frames_received: u64,
    /// Of those, on this core's disk.
    frames_durable: u64,
    /// Slots for which the edge had no packet.
    packet_gaps: u64,
    /// Items that came again after a replay, and were dropped.
    duplicates: u64,
    /// Frames that another edge had brought already; no words were made of them again.
    frames_twice: u64,
    /// Talk spurts begun.
    spurts: u64,
    /// Talk spurts whose words are out.
    spurts_done: u64,
    #[schema(value_type = Object)]
    metadata: serde_json::Map<String, serde_json::Value>,
    deduplication_key: Option<String>,
    /// W3C trace id of the request.
    trace_id: Option<String>,
    created_at: String,
    ended_at: Option<String>,
    /// Capture time of the first frame: 0 ms of the transcript.
    first_frame_at: Option<String>,
    /// The core that would serve it next.
    standby: Option<String>,
    /// Rises each time another core takes it over.
    term: u32,
    /// When nobody captured it, and speech of which there are no words, oldest first.
    gaps: Vec<GapView>,
    /// What it was asked to have and has not now.
    unmet: Vec<UnmetView>,
}

/// Something that a live meeting was asked to have and has not.
#[derive(Serialize, ToSchema)]
struct UnmetView {
    /// `standby`: no core would take it over. `redundancy`: one edge captures it, not two.
    wish: Wish,
    /// Since when, RFC 3339.
    since: String,
    /// Why, as far as is known.
    reason: String,
}

impl From<Unmet> for UnmetView {
    fn from(unmet: Unmet) -> Self {
        Self { wish: unmet.wish, since: timestamp(unmet.since).to_string(), reason: unmet.why }
    }
}

/// A time in which nobody captured a meeting, or of which there are no words.
#[derive(Serialize, ToSchema)]
pub(super) struct GapView {
    meeting_id: Uuid,
    /// Since when, RFC 3339.
    from: String,
    /// Until when; absent while it lasts.
    to: Option<String>,
    /// How long it was.
    length_ms: Option<u64>,
    reason: GapReason,
    /// The segment in which words are missing, where the reason is `not_transcribed`.
    segment_id: Option<Uuid>,
}

impl GapView {
    pub(super) fn new(meeting_id: Uuid, gap: &Gap) -> Self {
        Self {
            meeting_id,
            from: timestamp(gap.from).to_string(),
            to: gap.to.map(|to| timestamp(to).to_string()),
            length_ms: gap.to.map(|to| to.since(gap.from).as_millis() as u64),
            reason: gap.reason,
            segment_id: gap.segment,
        }
    }
}

/// Who captures a meeting.
#[derive(Serialize, ToSchema)]
struct OwnerView {
    edge: String,
    region: String,
    /// Rises with each new owner.
    epoch: u64,
    /// Which of the meeting's edges it is, 0 or 1.
    slot: u8,
}

impl OwnerView {
    fn new(epoch: Epoch, owner: &Owner) -> Self {
        let Owner { edge, region, slot, .. } = owner;
        Self { edge: edge.to_string(), region: region.to_string(), epoch: epoch.0, slot: *slot }
    }
}

/// What the edges have done for a meeting.
#[derive(Serialize, ToSchema)]
struct TotalsView {
    /// RTP packets received.
    packets_in: u64,
    /// Opus payload bytes received.
    opus_bytes_in: u64,
    /// Media time received, summed over participants.
    media_ms_in: u64,
    /// Packets run through the decoder.
    packets_decoded: u64,
    /// Packets sent to the core.
    packets_forwarded: u64,
    /// Packets that never arrived at the edge.
    packets_lost: u64,
    /// Bytes written to spurt streams.
    uplink_bytes: u64,
    /// CPU time of the media path.
    media_cpu_us: u64,
    /// Packets dropped because the edge's ring was full.
    packets_overflowed: u64,
}

impl MeetingView {
    /// As the core `me` knows it.
    pub(super) fn new(record: MeetingRecord, participants: usize, me: &Identity) -> Self {
        let (core, region) = served_by(&record, me);
        let mut edges: Vec<OwnerView> =
            record.owners.capturing().map(|(epoch, owner)| OwnerView::new(epoch, owner)).collect();
        edges.sort_by_key(|edge| (edge.slot, edge.epoch));
        let last = || Some(OwnerView::new(record.owners.epoch, record.owners.get(record.owners.epoch)?));
        let owner = record.owners.capturing().next().map(|(epoch, owner)| OwnerView::new(epoch, owner)).or_else(last);
        Self {
            id: record.id,
            status: record.status,
            owner,
            edges,
            redundancy: record.spec.redundancy,
            core,
            region,
            source_kind: record.spec.source.kind(),
            participants,
            totals: record.owners.sum().into(),
            frames_received: record.counts.frames_received,
            frames_durable: record.counts.frames_durable,
            packet_gaps: record.counts.gaps_durable,
            duplicates: record.counts.duplicates,
            frames_twice: record.counts.frames_twice,
            spurts: record.counts.spurts,
            spurts_done: record.counts.spurts_done,
            trace_id: record.trace.parse::<TraceContext>().ok().map(|t| format!("{:032x}", t.trace_id)),
            created_at: timestamp(record.created_at).to_string(),
            ended_at: record.ended_at.map(|at| timestamp(at).to_string()),
            first_frame_at: record.origin.map(|at| timestamp(at).to_string()),
            standby: record.serving.standby.as_ref().map(ToString::to_string),
            term: record.serving.term.0,
            gaps: record.gaps.iter().map(|gap| GapView::new(record.id, gap)).collect(),
            unmet: vec![],
            sub_code: record.sub_code,
            detail: record.detail,
            meeting_url: record.spec.meeting_url,
            metadata: record.spec.metadata,
            deduplication_key: record.spec.deduplication_key,
        }
    }

    /// With what it has not and was asked to have.
    pub(super) fn lacking(mut self, unmet: Vec<Unmet>) -> Self {
        self.unmet = unmet.into_iter().map(UnmetView::from).collect();
        self
    }
}

/// The core that makes its words, as far as `me` knows, and that core's region; a standby names the core it stands by for.
fn served_by(record: &MeetingRecord, me: &Identity) -> (String, String) {
    let core = record.serving.core(&me.node).unwrap_or_else(|| me.node.clone());
    let turn = record.cores.iter().rev().find(|turn| turn.core == core);
    let region = if core == me.node { me.region.clone() } else { turn.map_or(me.region.clone(), |t| t.region.clone()) };
    (core.to_string(), region.to_string())
}

impl From<EdgeTotals> for TotalsView {
    fn from(t: EdgeTotals) -> Self {
        Self {
            packets_in: t.packets_in,
            opus_bytes_in: t.opus_bytes_in,
            media_ms_in: t.media_ms_in,
            packets_decoded: t.packets_decoded,
            packets_forwarded: t.packets_forwarded,
            packets_lost: t.packets_lost,
            uplink_bytes: t.uplink_bytes,
            media_cpu_us: t.media_cpu_us,
            packets_overflowed: t.packets_overflowed,
        }
    }
}
