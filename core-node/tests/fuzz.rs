//! The fuzz targets over their seeds, and over what becomes of these when they are damaged.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

#[path = "../../fuzz/seeds.rs"]
mod seeds;

use std::time::Duration;

use bytes::BytesMut;
use core_node::{
    authority::Claim,
    fuzzing::{self, COPIES, DONE, END_OPEN, FENCE, LOGGED, REPLICA, STREAM, meeting},
    key::SpurtKey,
    receipt::jws,
    replicate::entry::{DoneSpurt, Entry},
    store::{
        DoneMark, Op, SpurtRecord,
        record::{Participant, removal::Removal},
    },
};
use mesh::{
    clock::Micros,
    codec,
    identity::{
        Identity,
        certs::{Authority, Credentials},
    },
    trace::TraceContext,
    wire::{
        Epoch, MeetingAlias, ParticipantAlias, SpurtNo, Term,
        copies::Copies,
        spurt::{Item, SpurtEnd, SpurtHeader},
    },
};

#[test]
fn replicas_take_damage() {
    seeds::take_damage("replica", fuzzing::replica);
}

#[test]
fn stored_rows_take_damage() {
    seeds::take_damage("stored", fuzzing::stored);
}

#[test]
fn receipts_take_damage() {
    seeds::take_damage("receipt", fuzzing::receipt);
}

#[test]
fn claims_take_damage() {
    seeds::take_damage("claim", fuzzing::claim);
}

#[test]
fn bodies_that_are_accepted_can_be_kept() {
    seeds::take_damage("create", fuzzing::create);
}

#[test]
fn queries_take_damage() {
    seeds::take_damage("query", fuzzing::query);
}

#[test]
fn engines_may_answer_anything() {
    seeds::take_damage("engine", fuzzing::engine);
}

#[test]
fn intake_takes_damage() {
    seeds::take_damage("intake", fuzzing::intake);
}

/// Writes the seeds anew: `cargo test -p core-node --test fuzz -- --ignored`.
#[test]
#[ignore = "writes the seeds; to be run when records have changed"]
fn write_seeds() {
    for (target, seeds) in [
        ("replica", replicas()),
        ("stored", rows()),
        ("receipt", vec![receipt(), vec![0], vec![0, 0, 9, b'x']]),
        ("intake", steps()),
        ("claim", claims()),
        ("engine", answers()),
    ] {
        seeds::write(target, &seeds);
    }
}

fn participant() -> Participant {
    let joined_at = "2026-01-01T00:00:00Z".into();
    Participant { id: "p".into(), name: Some("N".into()), joined_at, left_at: None, unheard: None }
}

fn entries() -> Vec<Entry> {
    let mark = DoneMark { at: Micros(9), items: 4, frames: 3 };
    let spurt = DoneSpurt {
        epoch: Epoch(1),
        participant: "p".into(),
        spurt: SpurtNo(0),
        captured: Micros(5),
        trace: TraceContext::new(7),
        mark,
    };
    vec![
        Entry::Begin { stream: REPLICA, held: None },
        Entry::Participant(participant(), Some("q".into())),
        Entry::Placement { epoch: Epoch(1), decision: serde_json::json!({"edge": "edge-1", "rtt_ms": 1.5}) },
        Entry::Finish { spurts: vec![spurt.clone()], segment: None, cover: None },
        Entry::Finish { spurts: vec![spurt], segment: Some(fuzzing::segment().into()), cover: Some(fuzzing::cover()) },
        Entry::Sequence { below: 1024 },
        Entry::Record(Box::new(fuzzing::record())),
        Entry::Dropped,
    ]
}

fn replicas() -> Vec<Vec<u8>> {
    let framed = |piece: Vec<u8>| [&(piece.len() as u16).to_be_bytes()[..], &[0], &piece].concat();
    let whole: Vec<u8> = entries().iter().flat_map(Entry::pieces).flat_map(framed).collect();
    let begin: Vec<u8> = entries()[0].pieces().into_iter().flat_map(framed).collect();
    vec![whole, begin]
}

fn rows() -> Vec<Vec<u8>> {
    let mark = DoneMark { at: Micros(9), items: 4, frames: 3 };
    let spurt = |done| SpurtRecord { captured: Micros(5), trace: TraceContext::new(7), done };
    let key = || SpurtKey { epoch: Epoch(1), participant: "p".into(), spurt: SpurtNo(0) };
    let ops = [
        Op::Meeting(Box::new(fuzzing::record())),
        Op::Participant(meeting(), participant(), None),
        Op::Placement(meeting(), Epoch(1), serde_json::json!({"edge": "edge-1", "rtt_ms": 1.5})),
        Op::Removal(meeting(), Some(Removal::new(&fuzzing::record(), &"core-2".parse().unwrap(), Micros(9)))),
        Op::Taken {
            meeting: meeting(),
            spurts: vec![(key(), spurt(None)), (key(), spurt(Some(mark)))],
            segment: Some(fuzzing::segment().into()),
            cover: Some(fuzzing::cover()),
            turn: (Term(2), "core-1".parse().unwrap()),
        },
    ];
    let plain = [
        serde_json::to_vec(&fuzzing::record()).unwrap(),
        serde_json::to_vec(&participant()).unwrap(),
        serde_json::to_vec(&fuzzing::segment()).unwrap(),
        serde_json::to_vec(&fuzzing::cover()).unwrap(),
        codec::encode(&fuzzing::chunk()).unwrap(),
    ];
    let entries = entries();
    let entries = entries.iter().map(|e| serde_json::to_vec(e).unwrap());
    plain.into_iter().chain(entries).chain(ops.iter().flat_map(|op| op.prepare().unwrap().rows().to_vec())).collect()
}

fn receipt() -> Vec<u8> {
    let hour = Duration::from_secs(3600);
    let authority = Authority::create("nearfield.test", hour).unwrap();
    let uri = "spiffe://nearfield.test/region/eu-central/role/core/node/core-1";
    let (cert, key) = authority.issue(&Identity::from_spiffe(uri, "nearfield.test").unwrap(), hour).unwrap();
    let credentials = Credentials::from_pem(authority.ca_pem(), &cert, &key, "nearfield.test").unwrap();
    let payload = format!("{{\"type\":\"nearfield-receipt/1\",\"meeting_id\":\"{}\"}}", meeting());
    jws::sign(payload.as_bytes(), &credentials).unwrap().into_bytes()
}

fn claims() -> Vec<Vec<u8>> {
    let claim = |standby: Option<&str>| Claim {
        core: "core-eu-central-1".parse().unwrap(),
        term: Term(3),
        epoch: Epoch::of(Term(3), 7),
        standby: standby.map(|name| name.parse().unwrap()),
    };
    [None, Some("core-2")].map(|standby| claim(standby).encode().unwrap()).to_vec()
}

/// Streams, one of them twice, one from its third item on; copies; epochs that end.
fn steps() -> Vec<Vec<u8>> {
    let framed = |kind: u8, bytes: &[u8]| {
        let bytes = &bytes[1..];
        [&[kind], &(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
    };
    let mut whole = vec![];
    for (spurt, offset) in [(0, 0), (0, 0), (1, 0), (1, 2), (2, 1)] {
        whole.extend(framed(STREAM, &stream(spurt, offset, 4)));
        whole.extend([LOGGED, LOGGED, DONE]);
    }
    let begun = framed(STREAM, &stream(3, 0, 2));
    let mut cut = framed(STREAM, &stream(3, 0, 2)[..40]);
    cut.extend(framed(COPIES, &datagram(3, 1)));
    cut.extend([LOGGED, FENCE, 2, 3, LOGGED, END_OPEN, 3, 0, DONE]);
    vec![whole, cut, [&begun[..], &[END_OPEN, 4, 4, LOGGED, DONE]].concat()]
}

fn items(offset: u32, count: u32) -> Vec<(u32, Item)> {
    let item = |n| if n == 2 { Item::Gap } else { Item::Frame(vec![n as u8; 20].into()) };
    (offset..count).map(|n| (n, item(n))).chain([(count, Item::End(SpurtEnd::of(count)))]).collect()
}

fn stream(spurt: u32, offset: u32, count: u32) -> Vec<u8> {
    let mut stream = BytesMut::new();
    let (meeting, participant) = (MeetingAlias(1), ParticipantAlias(1));
    let (captured, trace) = (Micros(5), TraceContext::new(7));
    SpurtHeader { meeting, participant, spurt: SpurtNo(spurt), offset, captured, trace }.encode(&mut stream);
    items(offset, count).iter().for_each(|(_, item)| item.encode(&mut stream));
    stream.to_vec()
}

fn datagram(spurt: u32, offset: u32) -> Vec<u8> {
    let mut datagram = BytesMut::new();
    let (meeting, participant) = (MeetingAlias(1), ParticipantAlias(1));
    let items = items(offset, 4);
    Copies { meeting, participant, spurt: SpurtNo(spurt), header: None, items }.encode(&mut datagram);
    datagram.to_vec()
}

/// With times of words, with times of stretches, with neither, and asked again.
fn answers() -> Vec<Vec<u8>> {
    let words = r#"{"text":"Good morning, all.","language":"english","words":[{"word":"Good","start":0.1,"end":0.4},
        {"word":"morning,","start":0.5,"end":1.2},{"word":"all.","start":4.2,"end":4.9}],
        "segments":[{"avg_logprob":-0.3,"start":0.0,"end":5.0,"text":" Good morning, all."}]}"#;
    let early =
        r#"{"text":"Good morning","segments":[{"avg_logprob":-0.3,"start":0.0,"end":1.5,"text":" Good morning"}]}"#;
    let plain = r#"{"text":"Good morning, all."}"#;
    let again = [early, plain, r#"{"text":""}"#, early].join("\n");
    [&words.replace('\n', ""), plain, &again].map(|text| text.as_bytes().to_vec()).to_vec()
}
