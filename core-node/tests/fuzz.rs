//! The fuzz targets over their seeds, and over what becomes of these when they are damaged.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

#[path = "../../fuzz/seeds.rs"]
mod seeds;

use std::time::Duration;

use bytes::BytesMut;
use core_node::{
    authority::Claim,
    fuzzing::{self, meeting},
    receipt::jws,
    record::Participant,
    replicate::entry::{DoneSpurt, Entry},
    store::{DoneMark, Op, SpurtRecord},
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
        ("receipt", vec![receipt()]),
        ("intake", vec![streams()]),
        ("claim", claims()),
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
        Entry::Begin { stream: 1, held: None },
        Entry::Participant(participant(), None),
        Entry::Finish { spurts: vec![spurt], segment: None, cover: None },
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
    let spurt = SpurtRecord { captured: Micros(5), trace: TraceContext::new(7), done: None };
    let mut rows = vec![
        serde_json::to_vec(&fuzzing::record()).unwrap(),
        serde_json::to_vec(&participant()).unwrap(),
        codec::encode(&spurt).unwrap(),
        codec::encode(&fuzzing::chunk()).unwrap(),
    ];
    rows.extend(entries().iter().map(|e| serde_json::to_vec(e).unwrap()));
    for op in [Op::Meeting(Box::new(fuzzing::record())), Op::Participant(meeting(), participant(), None)] {
        rows.extend(op.prepare().unwrap().rows().iter().cloned());
    }
    rows
}

fn receipt() -> Vec<u8> {
    let hour = Duration::from_secs(3600);
    let authority = Authority::create("nearfield.test", hour).unwrap();
    let uri = "spiffe://nearfield.test/region/eu-central/role/core/node/core-1";
    let (cert, key) = authority.issue(&Identity::from_spiffe(uri, "nearfield.test").unwrap(), hour).unwrap();
    let credentials = Credentials::from_pem(authority.ca_pem(), &cert, &key, "nearfield.test").unwrap();
    let payload = format!("{{\"type\":\"nearfield-receipt/1\",\"meeting_id\":\"{}\"}}", meeting());
    jws::seal(payload.as_bytes(), &credentials).unwrap().into_bytes()
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

fn streams() -> Vec<u8> {
    let mut all = vec![];
    for (spurt, offset) in [(0, 0), (0, 0), (1, 0), (1, 2), (2, 1)] {
        let mut stream = BytesMut::new();
        let (meeting, participant) = (MeetingAlias(1), ParticipantAlias(1));
        let (captured, trace) = (Micros(5), TraceContext::new(7));
        SpurtHeader { meeting, participant, spurt: SpurtNo(spurt), offset, captured, trace }.encode(&mut stream);
        for n in offset..4 {
            let item = if n == 2 { Item::Gap } else { Item::Frame(vec![n as u8; 20].into()) };
            item.encode(&mut stream);
        }
        Item::End(SpurtEnd::of(4)).encode(&mut stream);
        let stream = &stream[1..];
        all.extend((stream.len() as u16).to_be_bytes());
        all.extend(stream);
    }
    all
}
