#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use mesh::{
    clock::Micros,
    trace::TraceContext,
    wire::{Epoch, MeetingId, SpurtNo, keys::KeyDigest},
};
use redb::TableHandle;

use super::*;
use crate::{
    key::SpurtKey,
    store::{
        Chunk, Op, SpurtRecord,
        record::{MeetingRecord, Participant, Status},
    },
    tests::fakes,
};

fn node() -> NodeId {
    "core-1".parse().unwrap()
}

fn meeting(n: u128) -> MeetingId {
    MeetingId::from_u128(n)
}

fn person(n: u128) -> Participant {
    let joined_at = "2026-01-01T00:00:00Z".into();
    Participant { id: format!("p{n}"), name: Some("x".repeat(200)), joined_at, left_at: None, unheard: None }
}

/// All that is written of a meeting in one transaction.
fn ops(n: u128) -> Vec<Op> {
    let key = SpurtKey { epoch: Epoch(1), participant: "a".into(), spurt: SpurtNo(0) };
    let opened = Some(SpurtRecord { captured: Micros(5), trace: TraceContext::new(1), done: None });
    let chunk = Chunk::new(vec![], None, Micros(7));
    let status = if n.is_multiple_of(2) { Status::Active } else { Status::Done };
    let record = MeetingRecord { id: meeting(n), status, ..fakes::record() };
    vec![
        Op::Meeting(record.into()),
        Op::Participant(meeting(n), person(n), None),
        Op::Placement(meeting(n), Epoch(1), serde_json::json!({"why": "near"})),
        Op::Sequence(meeting(n), 1024),
        Op::Receipt(meeting(n), "sealed".into()),
        Op::Append { meeting: meeting(n), key, first: 0, chunk, opened },
    ]
}

fn file(dir: &tempfile::TempDir, name: &str) -> (PathBuf, File) {
    let path = dir.path().join(name);
    (path.clone(), new_file(&path).unwrap())
}

fn tables(store: &Store) -> Vec<String> {
    let read = store.db.begin_read().unwrap();
    let mut names: Vec<String> = read.list_tables().unwrap().map(|t| t.name().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn there_is_a_place_for_one_copy_until_it_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("core.redb")).unwrap();
    let place = store.place_for_copy().unwrap();
    assert!(matches!(store.place_for_copy(), Err(StoreError::Copying)));
    drop(place);
    assert!(store.place_for_copy().is_ok());
}

#[test]
fn a_copy_of_a_store_that_is_written_to_is_whole_and_of_one_moment() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("core.redb")).unwrap();
    store.belong_to(&node()).unwrap();
    (1..50).for_each(|n| store.write(&ops(n)).unwrap());
    store.replace_claim(meeting(1), None, Some(b"claimed")).unwrap();
    let (path, to) = file(&dir, "copy.redb");
    let (begin, begun) = std::sync::mpsc::channel();
    let copied = std::thread::scope(|scope| {
        let store = &store;
        scope.spawn(move || {
            for n in 50..200 {
                store.write(&ops(n)).unwrap();
                let _ = begin.send(n);
            }
        });
        assert_eq!(begun.recv(), Ok(50));
        store.copy_to(to).unwrap()
    });
    assert!(copied.meetings >= 50 && copied.broken.is_empty(), "{copied:?}");
    assert_eq!(Store::copy_file(&path, &node(), None).unwrap().meetings, copied.meetings);
    assert_eq!(Store::owner_of(&path).as_deref(), Some("core-1"));
    let copy = Store::open(&path).unwrap();
    assert_eq!(tables(&copy), tables(&store), "a table that is not copied");
    for n in 1..200 {
        let there = n <= u128::from(copied.meetings);
        assert_eq!(copy.meeting(meeting(n)).unwrap(), store.meeting(meeting(n)).unwrap().filter(|_| there));
        assert_eq!(copy.participants(meeting(n)).unwrap().len(), usize::from(there), "of one moment");
        assert_eq!(copy.receipt(meeting(n)).unwrap().is_some(), there);
        assert_eq!(copy.spurts(meeting(n)).unwrap().len(), usize::from(there));
    }
    assert_eq!(copy.claim(meeting(1)).unwrap(), store.claim(meeting(1)).unwrap());
    let standing = |store: &Store| store.standing(Status::Done, Some(meeting(50)), 100).unwrap();
    assert_eq!(standing(&copy), standing(&store));
    let key = KeyDigest::of_request("none");
    assert_eq!(copy.keyed(&key).unwrap(), None);
}

#[test]
fn a_store_is_its_node_s_and_refuses_to_be_another_s() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("core.redb");
    let store = Store::open(&path).unwrap();
    store.belong_to(&node()).unwrap();
    store.belong_to(&node()).unwrap();
    let other: NodeId = "core-2".parse().unwrap();
    let refused = store.belong_to(&other).unwrap_err().to_string();
    assert!(refused.contains("core-1") && refused.contains("core-2"), "{refused}");
    assert_eq!(Store::owner_of(&path), None, "it is open");
    store.settle().unwrap();
    drop(store);
    assert_eq!(Store::owner_of(&path).as_deref(), Some("core-1"));
    assert!(matches!(Store::copy_file(&path, &other, None), Err(StoreError::Foreign { .. })));
}

/// A store as a kill leaves it.
fn killed(dir: &tempfile::TempDir) -> Vec<u8> {
    let path = dir.path().join("core.redb");
    let store = Store::open(&path).unwrap();
    store.belong_to(&node()).unwrap();
    (1..=120).for_each(|n| store.write(&ops(n)).unwrap());
    let bytes = fs::read(&path).unwrap();
    drop(store);
    bytes
}

#[test]
fn of_a_store_that_was_killed_and_has_a_flipped_bit_all_but_a_page_of_rows_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let sound = killed(&dir);
    let mut losses = vec![];
    // Beyond the header, in most of its pages.
    for (n, at) in (4096 + 100..sound.len()).step_by(5120).enumerate() {
        let mut bytes = sound.clone();
        bytes[at] ^= 1 << (n % 8);
        let path = dir.path().join("damaged.redb");
        fs::write(&path, &bytes).unwrap();
        let opened = Store::open(&path);
        if opened.is_ok() {
            continue;
        }
        assert!(matches!(opened.err(), Some(StoreError::Damaged { .. })), "byte {at}");
        fs::write(&path, &bytes).unwrap();
        let (to, out) = file(&dir, "saved.redb");
        let copied = Store::salvage(&path, out).unwrap_or_else(|e| panic!("byte {at}: {e}"));
        assert_eq!(fs::read(&path).unwrap(), bytes, "the damaged file is only read");
        let saved = Store::open(&to).unwrap();
        let lost = (1..=120).filter(|n| saved.meeting(meeting(*n)).ok().flatten().is_none()).count();
        losses.push(lost);
        // What is left can be gone on with.
        let next = saved.sequence(meeting(1)).unwrap();
        assert!(next >= 1 && saved.write(&ops(500)).is_ok(), "{copied:?}");
        drop(saved);
        fs::remove_file(&to).unwrap();
    }
    assert!(losses.len() > 10, "{losses:?}");
    assert!(losses.iter().all(|lost| *lost <= 8), "meetings lost to one bit: {losses:?}");
}
