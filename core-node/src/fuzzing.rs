//! What the fuzz targets in `fuzz/` run, and, over their seeds, an ordinary test: each takes any bytes and panics only where
//! this crate is wrong.

mod api;
mod engine;
mod intake;
mod receipt;
mod replica;
mod stored;

use mesh::{
    clock::Micros,
    identity::{Identity, NodeId, Role},
    trace::TraceContext,
    wire::{
        Epoch, MeetingId, SpurtNo, Term,
        control::EdgeTotals,
        request::{Source, VadSettings},
    },
};
use uuid::Uuid;

pub use self::{
    api::{create, query},
    engine::engine,
    intake::{COPIES, DONE, END_OPEN, FENCE, LOGGED, STREAM, intake},
    receipt::receipt,
    replica::{REPLICA, replica},
    stored::stored,
};
use crate::{
    authority::Claim,
    speech::utterance::{Cover, Part, Slot},
    store::{
        Chunk,
        record::{CoreRole, Gap, GapReason, LeaveRules, MeetingRecord, Owner, Owners, Serving, Spec, turns::CoreTurn},
    },
    transcript::{Segment, Speaker, Stretch, TimedWord, Timing, timestamp},
};

/// The meeting that all of it is about.
pub fn meeting() -> MeetingId {
    MeetingId::from_u128(0x77)
}

/// The core that serves it.
///
/// # Panics
/// Never: the parts are valid.
pub fn core() -> Identity {
    let region = "eu-central".parse().expect("a valid region");
    Identity { node: "core-1".parse().expect("a valid id"), role: Role::Core, region }
}

/// A record of it, in which nothing is missing.
///
/// # Panics
/// Never: the parts are valid.
pub fn record() -> MeetingRecord {
    let (at, region) = (Micros(1_767_225_600_000_000), core().region);
    let source = Source::Whep { url: "http://relay.example/whep".into(), token: None, participants: vec![] };
    let spec = Spec {
        source,
        stun: Some("relay.example:3478".into()),
        meeting_url: Some("https://meet.example/1".into()),
        residency: vec!["eu".into()],
        prefer: vec![region.clone()],
        max_rtt_ms: Some(80),
        language: Some("en".into()),
        interim: true,
        noise_suppression: Some(false),
        vad: VadSettings::default(),
        metadata: serde_json::Map::from_iter([("n".into(), 1.into())]),
        deduplication_key: Some("standup".into()),
        redundancy: 1,
        leave: LeaveRules { at: Some(at), ..LeaveRules::default() },
    };
    let edge: NodeId = "edge-1".parse().expect("a valid id");
    let owner = Owner { since: Some(at), until: Some(at), ..Owner::new(edge, region.clone()) };
    let gap = Gap { seq: 4, from: at, to: Some(at), reason: GapReason::NotTranscribed, segment: Some(Uuid::nil()) };
    let turn = |role| CoreTurn {
        core: core().node,
        region: region.clone(),
        role,
        term: Term(1),
        from: at,
        to: Some(at),
        software: "core-node 0".into(),
    };
    MeetingRecord {
        ended_at: Some(at),
        sub_code: Some("requested".into()),
        detail: Some("so it was".into()),
        idempotency: Some(("key".into(), "digest".into())),
        trace: TraceContext::new(7).to_string(),
        owners: Owners { epoch: Epoch(1), rows: [(1, owner)].into(), totals: [(1, EdgeTotals::default())].into() },
        origin: Some(at),
        last_seq: 5,
        serving: Serving { standby: Some(core().node), ..Serving::held(core().node, Term(1), 1) },
        gaps: vec![gap],
        cores: vec![turn(CoreRole::Serving), turn(CoreRole::Standby)],
        ..MeetingRecord::new(meeting(), spec, at)
    }
}

/// Words of it.
///
/// # Panics
/// Never: the parts are valid.
pub fn segment() -> Segment {
    let (begin, speaker) =
        (timestamp(Micros(1_767_225_600_000_000)), Speaker { id: "p".into(), name: Some("N".into()) });
    let word =
        |text: &str, start_ms| TimedWord { text: text.into(), start_ms, end_ms: start_ms + 200, confidence: 0.9 };
    Segment {
        id: Uuid::from_u128(5),
        seq: 3,
        meeting_id: meeting(),
        participant: Some(speaker),
        text: "Good morning.".into(),
        language: Some("en".into()),
        is_final: true,
        revision: 2,
        start_ms: 100,
        end_ms: 900,
        start_at: begin,
        end_at: begin,
        confidence: Some(0.9),
        words: vec![word("Good", 100), word("morning.", 400)],
        not_transcribed: vec![Stretch { start_ms: 600, end_ms: 900 }],
        fewer_words: None,
        edge: Some("edge-1".parse().expect("a valid id")),
        region: Some(core().region),
        uplink: None,
        timing: Timing {
            captured: 1,
            decoded: Some(2),
            vad: Some(3),
            sent: Some(4),
            received: 5,
            durable: 6,
            words: 7,
        },
    }
}

/// What one utterance of it had.
pub fn cover() -> Cover {
    let part = Part { epoch: Epoch(1), spurt: SpurtNo(0), items: 0..2 };
    let slots = vec![Slot { print: 9, micros: 20_000 }, Slot { print: 0, micros: 20_000 }];
    Cover { participant: "p".into(), at: -5, slots, parts: vec![part], lags: vec![(Epoch(2), -7)] }
}

/// A spurt's rows in the log.
pub fn chunk() -> Chunk {
    Chunk { received: Micros(7), items: vec![Some(vec![0x78; 40]), None], end: None }
}

/// A claim as a bucket may hold it, that others can write to as well.
///
/// # Panics
/// This crate is wrong.
pub fn claim(data: &[u8]) {
    if let Ok(claim) = Claim::decode(data) {
        let written = claim.encode().expect("a claim that was read can be written");
        assert_eq!(Claim::decode(&written).as_ref(), Ok(&claim));
    }
}
