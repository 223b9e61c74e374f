//! The fuzz targets over their seeds, and over what becomes of these when they are damaged.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

use std::{fs, path::PathBuf, time::Duration};

use bytes::BytesMut;
use core_node::{
    authority::Claim,
    fuzzing::{self, TARGETS, meeting},
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
use proptest::prelude::*;

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<_> = fs::read_dir(corpus(target)).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{target} has no seeds");
    files.iter().map(|f| fs::read(f).unwrap()).collect()
}

/// What becomes of a seed: bytes changed, cut out, put in, doubled.
fn damaged(target: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let edit = (any::<u16>(), any::<u8>(), 0..5u8);
    (prop::sample::select(seeds(target)), prop::collection::vec(edit, 0..12)).prop_map(|(mut bytes, edits)| {
        for (at, value, how) in edits {
            let at = usize::from(at) % (bytes.len() + 1);
            match how {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, value),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                3 if bytes.len() < 4000 => bytes.extend_from_within(at..),
                _ if at < bytes.len() => bytes[at] ^= value,
                _ => {}
            }
        }
        bytes
    })
}

#[test]
fn every_target_takes_its_seeds() {
    for (name, target) in TARGETS {
        seeds(name).iter().for_each(|seed| target(seed));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn replicas_take_damage(data in damaged("replica")) {
        fuzzing::replica(&data);
    }

    #[test]
    fn stored_rows_take_damage(data in damaged("stored")) {
        fuzzing::stored(&data);
    }

    #[test]
    fn receipts_take_damage(data in damaged("receipt")) {
        fuzzing::receipt(&data);
    }

    #[test]
    fn claims_take_damage(data in damaged("claim")) {
        fuzzing::claim(&data);
    }

    #[test]
    fn bodies_that_are_accepted_can_be_kept(data in damaged("create")) {
        fuzzing::create(&data);
    }

    #[test]
    fn queries_take_damage(data in damaged("query")) {
        fuzzing::query(&data);
    }

    #[test]
    fn intake_takes_damage(data in damaged("intake")) {
        fuzzing::intake(&data);
    }
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
        let dir = corpus(target);
        fs::create_dir_all(&dir).unwrap();
        for (n, seed) in seeds.iter().enumerate() {
            fs::write(dir.join(format!("seed-{n:02}")), seed).unwrap();
        }
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
