//! What the fuzz targets in `fuzz/` run, and, over their seeds, an ordinary test: each takes any bytes and panics
//! only where this crate is wrong.

use mesh::{
    clock::Micros,
    codec,
    identity::NodeId,
    trace::TraceContext,
    wire::{
        Epoch, MeetingId, SpurtNo, Term,
        request::{Source, VadSettings},
        spurt::{Item, Part, SpurtDecoder},
    },
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    authority::Claim,
    ingest::{Ingest, Limits},
    key::SpurtKey,
    receipt::{Receipt, jws},
    record::{CoreRole, MeetingRecord, Participant, Spec},
    replicate::{
        entry::Entry,
        receiver::{Receiver, StreamId},
        snapshot::op,
    },
    store::{Chunk, Op, SpurtRecord, survives},
    transcript::Segment,
    utterance::Cover,
};

/// The meeting that all of it is about.
pub fn meeting() -> MeetingId {
    MeetingId::from_u128(0x77)
}

/// A record of it.
pub fn record() -> MeetingRecord {
    let source = Source::Whep { url: "http://relay.example/whep".into(), token: None, participants: vec![] };
    let spec = Spec {
        source,
        stun: None,
        meeting_url: None,
        residency: vec!["eu".into()],
        prefer: vec![],
        max_rtt_ms: None,
        language: Some("en".into()),
        interim: true,
        noise_suppression: None,
        vad: VadSettings::default(),
        metadata: serde_json::Map::new(),
        deduplication_key: None,
        redundancy: 1,
        leave: crate::record::LeaveRules::default(),
    };
    MeetingRecord { id: meeting(), ..crate::meetings::new_record(spec, TraceContext::new(7), None) }
}

/// The number of the stream that [`replica`] takes.
pub const STREAM: u64 = 1;

/// Pieces of a replica, each behind two bytes of length and one that says where in the stream it claims to be. Whatever
/// comes out is of this meeting, and serves nowhere but where it came from.
pub fn replica(mut data: &[u8]) {
    let (mut receiver, mut next) = (Receiver::default(), 0u64);
    let from: NodeId = "core-1".parse().expect("a valid id");
    let stream = StreamId { term: Term(2), by: from.clone(), number: STREAM };
    while let Some((head, rest)) = data.split_first_chunk::<3>() {
        let length = usize::from(u16::from_be_bytes([head[0], head[1]])).min(rest.len());
        let (piece, rest) = rest.split_at(length);
        data = rest;
        let first = if head[2] == 0 { next } else { u64::from(head[2]) - 1 };
        next = first + 1;
        let Ok(entries) = receiver.handle(meeting(), &stream, first, &[piece.to_vec()]) else { continue };
        for entry in entries {
            check(op(meeting(), entry, &from, Term(2), STREAM), &from);
        }
    }
}

fn check(op: Option<Op>, from: &NodeId) {
    match op {
        Some(Op::Meeting(record)) => {
            assert_eq!((record.id, record.serving.role), (meeting(), CoreRole::Standby));
            assert_eq!((record.serving.by.as_ref(), record.serving.term), (Some(from), Term(2)));
        }
        Some(Op::Taken { meeting: of, segment, .. }) => {
            assert!(of == meeting() && segment.is_none_or(|s| s.meeting_id == meeting()));
        }
        Some(Op::Participant(of, ..) | Op::Placement(of, ..) | Op::Sequence(of, _)) => assert_eq!(of, meeting()),
        None => {}
        Some(other) => panic!("an entry became {other:?}"),
    }
}

/// A row of the store, of any of its tables: what can be read is written as it was read.
pub fn stored(data: &[u8]) {
    json::<MeetingRecord>(data);
    json::<Participant>(data);
    json::<Segment>(data);
    json::<Entry>(data);
    coded::<SpurtRecord>(data);
    coded::<Chunk>(data);
    let survives = survives::<MeetingRecord>(data)
        && survives::<Participant>(data)
        && survives::<Segment>(data)
        && survives::<Cover>(data)
        && survives::<serde_json::Value>(data);
    assert!(survives, "a value reads otherwise than it was written");
}

/// The body of `POST /v1/meetings`: what is accepted can be stored, read back and shipped to a standby.
pub fn create(data: &[u8]) {
    let Some(spec) = crate::api::accepted(data) else { return };
    let record = MeetingRecord { spec, ..record() };
    let op = Op::Meeting(Box::new(record.clone()));
    op.prepare().expect("what is accepted can be stored");
    let pieces = Entry::Record(Box::new(record.clone())).pieces();
    let mut receiver = Receiver::default();
    let from: NodeId = "core-1".parse().expect("a valid id");
    let stream = StreamId { term: Term(2), by: from, number: STREAM };
    let begin = Entry::Begin { stream: STREAM, held: None }.pieces();
    let all: Vec<Vec<u8>> = begin.into_iter().chain(pieces).collect();
    let taken = receiver.handle(meeting(), &stream, 0, &all).expect("what is accepted can be shipped");
    assert!(matches!(taken.last(), Some(Entry::Record(_))));
}

/// Queries of the API: `status`, `limit`, `before`, `purge`, `format`, `since`.
pub fn query(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        crate::api::queries(text);
    }
}

fn json<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(data) else { return };
    let Ok(written) = serde_json::to_vec(&value) else { return };
    let again = serde_json::from_slice::<T>(&written);
    assert!(again.is_ok_and(|again| again == value), "{}", String::from_utf8_lossy(&written));
}

fn coded<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(data: &[u8]) {
    let Ok(value) = codec::decode::<T>(data) else { return };
    if let Ok(written) = codec::encode(&value) {
        assert_eq!(codec::decode::<T>(&written).as_ref(), Ok(&value));
    }
}

/// A receipt.
pub fn receipt(data: &[u8]) {
    if let Ok(opened) = jws::open(data) {
        let _ = serde_json::from_slice::<Receipt>(&opened.payload);
    }
}

/// A claim as a bucket may hold it, that others can write to as well.
pub fn claim(data: &[u8]) {
    if let Ok(claim) = Claim::decode(data) {
        let written = claim.encode().expect("a claim that was read can be written");
        assert_eq!(Claim::decode(&written).as_ref(), Ok(&claim));
    }
}

/// Spurt streams of one participant into intake, each behind two bytes of length: nothing is taken in twice.
pub fn intake(mut data: &[u8]) {
    let mut ingest = Ingest::new(Limits { participants: 4, open_spurts: 8, undone_spurts: 16, items_per_spurt: 64 });
    let mut upto = std::collections::BTreeMap::<SpurtKey, u32>::new();
    while let Some((length, rest)) = data.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (stream, rest) = rest.split_at(length);
        data = rest;
        let mut decoder = SpurtDecoder::default();
        decoder.feed(stream);
        let Ok(Some(Part::Header(header))) = decoder.poll() else { continue };
        let participant = format!("p{}", header.participant.0 % 5).as_str().into();
        let key = SpurtKey { epoch: Epoch(1), participant, spurt: SpurtNo(header.spurt.0 % 32) };
        if ingest.handle_header(&key, header.captured, header.trace, header.offset).is_err() {
            continue;
        }
        let mut offset = header.offset;
        while let Ok(Some(Part::Item(item))) = decoder.poll() {
            let step = u32::from(!matches!(item, Item::End(_)));
            let Ok(append) = ingest.handle_items(&key, offset, vec![item]) else { break };
            offset = offset.saturating_add(step);
            let Some(append) = append else { continue };
            let held = upto.entry(key.clone()).or_default();
            assert_eq!(append.first, *held, "a hole, or twice");
            *held += append.items.len() as u32;
            ingest.handle_logged(append.receipt());
        }
        while ingest.poll_event().is_some() {}
        assert!(ingest.undone() <= 16);
    }
}

/// A spurt's rows in the log.
pub fn chunk() -> Chunk {
    Chunk { received: Micros(7), items: vec![Some(vec![0x78; 40]), None], end: None }
}
