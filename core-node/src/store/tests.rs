#![allow(clippy::unwrap_used)]

use std::{cell::RefCell, path::Path};

use mesh::wire::{SpurtNo, keys::KeyDigest};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{record::Status, *};
use crate::{
    replicate::{
        entry::{Assembler, Entry},
        snapshot::snapshot,
    },
    tests::fakes,
};

fn key(n: u32) -> SpurtKey {
    SpurtKey { epoch: Epoch(1), participant: "alice".into(), spurt: SpurtNo(n) }
}

fn append(meeting: MeetingId, n: u32, first: u32, items: &[Item], last: bool) -> Op {
    let items_so_far = first + items.len() as u32;
    let end = SpurtEnd::of(items_so_far);
    Op::Append {
        meeting,
        key: key(n),
        first,
        chunk: Chunk::new(items.to_vec(), last.then_some(end), Micros(7)),
        opened: (first == 0).then_some(SpurtRecord { captured: Micros(5), trace: TraceContext::new(1), done: None }),
    }
}

fn frame(byte: u8) -> Item {
    Item::Frame(vec![byte; 3].into())
}

#[test]
fn what_was_written_is_there_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/core.redb");
    let meeting = MeetingId::from_u128(9);
    {
        let store = Store::open(&path).unwrap();
        store.write(&[append(meeting, 0, 0, &[frame(1), Item::Gap], false)]).unwrap();
        store.write(&[append(meeting, 0, 2, &[frame(2)], true), append(meeting, 1, 0, &[frame(3)], true)]).unwrap();
        // A copy of the file as it is now: what a kill would leave.
        fs::copy(&path, dir.path().join("killed.redb")).unwrap();
        std::mem::forget(store);
    }
    let store = Store::open(&dir.path().join("killed.redb")).unwrap();
    let speech = store.speech(meeting, &key(0)).unwrap().unwrap();
    assert_eq!(speech.items, [frame(1), Item::Gap, frame(2)]);
    assert_eq!((speech.captured, speech.received), (Micros(5), Micros(7)));
    let spurts = store.spurts(meeting).unwrap();
    assert_eq!(spurts.iter().map(|s| (s.items, s.frames, s.done)).collect::<Vec<_>>(), [(3, 2, false), (1, 1, false)]);
    assert!(spurts[0].end.is_some());
    assert_eq!(store.spurts(MeetingId::from_u128(8)).unwrap(), []);
}

#[test]
fn a_done_spurt_keeps_its_count_and_loses_its_sound() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("core.redb")).unwrap();
    let meeting = MeetingId::from_u128(9);
    store.write(&[append(meeting, 0, 0, &[frame(1), Item::Gap], true)]).unwrap();
    let finish = Op::Finish { meeting, spurts: vec![key(0)], segment: None, at: Micros(9), cover: None };
    store.write([&finish]).unwrap();
    store.write([&finish]).unwrap();
    assert_eq!(store.speech(meeting, &key(0)).unwrap().unwrap().items, []);
    let spurts = store.spurts(meeting).unwrap();
    assert_eq!((spurts[0].items, spurts[0].frames, spurts[0].done), (2, 1, true));
}

#[test]
fn a_hole_ends_what_is_known_of_a_spurt() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("core.redb")).unwrap();
    let meeting = MeetingId::from_u128(9);
    store.write(&[append(meeting, 0, 0, &[frame(1)], false), append(meeting, 0, 5, &[frame(2)], true)]).unwrap();
    assert_eq!(store.speech(meeting, &key(0)).unwrap().unwrap().items, [frame(1)]);
    assert_eq!(store.spurts(meeting).unwrap()[0].end, None);
}

#[test]
fn a_file_that_is_no_store_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("core.redb");
    fs::write(&path, vec![7; 9000]).unwrap();
    let error = Store::open(&path).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("core.redb"), "{error}");
}

/// A record that stands there; the greater `n`, the newer.
fn record(n: u128, status: Status) -> MeetingRecord {
    MeetingRecord { id: MeetingId::from_u128(n), status, ..fakes::record() }
}

fn keep(store: &Store, record: &MeetingRecord) {
    store.write([&Op::Meeting(Box::new(record.clone()))]).unwrap();
}

fn newest(store: &Store, before: Option<u128>, most: usize) -> Vec<u128> {
    let mut ids = vec![];
    let mut take = |id: MeetingId, read: &dyn Fn() -> Result<Option<MeetingRecord>, StoreError>| {
        ids.extend(read()?.map(|_| id.as_u128()));
        Ok(ids.len() < most)
    };
    store.newest(before.map(MeetingId::from_u128), &mut take).unwrap();
    ids
}

fn standing(store: &Store, status: Status) -> Vec<u128> {
    store.standing(status, None, 100).unwrap().iter().map(MeetingId::as_u128).collect()
}

#[test]
fn the_index_follows_where_meetings_stand() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("core.redb");
    let store = Store::open(&path).unwrap();
    for (n, status) in [(1, Status::Done), (2, Status::Active), (3, Status::Placing), (4, Status::Failed)] {
        keep(&store, &record(n, status));
    }
    keep(&store, &record(3, Status::Active));
    keep(&store, &record(2, Status::Done));
    assert_eq!(standing(&store, Status::Active), [3]);
    assert_eq!(standing(&store, Status::Done), [2, 1]);
    assert_eq!(standing(&store, Status::Placing), []);
    assert_eq!(newest(&store, None, 3), [4, 3, 2]);
    assert_eq!(newest(&store, Some(3), 9), [2, 1]);
    assert_eq!(store.standing(Status::Done, Some(MeetingId::from_u128(2)), 9).unwrap(), [MeetingId::from_u128(1)]);
    drop(store);
    let under_way = Store::open(&path).unwrap().under_way().unwrap();
    assert_eq!(under_way.iter().map(|r| r.id.as_u128()).collect::<Vec<_>>(), [3]);
}

#[test]
fn an_older_store_gets_its_indexes_when_it_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("core.redb");
    let store = Store::open(&path).unwrap();
    let transaction = store.stall();
    let old = record(5, Status::Active);
    let row = serde_json::to_vec(&old).unwrap();
    transaction.open_table(tables::MEETINGS).unwrap().insert(5, row.as_slice()).unwrap();
    transaction.open_table(tables::OLD_RECEIPTS).unwrap().insert(5, "sealed").unwrap();
    transaction.open_table(tables::REVISIONS).unwrap().remove("schema").unwrap();
    transaction.commit().unwrap();
    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!(store.under_way().unwrap(), [old]);
    assert_eq!(store.receipt(MeetingId::from_u128(5)).unwrap(), None);
}

#[test]
fn a_key_stands_for_its_meeting_while_it_should() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("core.redb")).unwrap();
    let mut one = record(1, Status::Active);
    one.idempotency = Some(("k".into(), "body".into()));
    one.spec.deduplication_key = Some("standup".into());
    keep(&store, &one);
    let (request, meeting) = (KeyDigest::of_request("k"), KeyDigest::of_meeting("standup"));
    assert_eq!(store.keyed(&request).unwrap(), Some((one.id, "body".into())));
    assert_eq!(store.keyed(&meeting).unwrap(), Some((one.id, String::new())));
    one.status = Status::Done;
    keep(&store, &one);
    assert_eq!(store.keyed(&request).unwrap(), Some((one.id, "body".into())));
    assert_eq!(store.keyed(&meeting).unwrap(), None);
    let mut two = record(2, Status::Active);
    two.spec.deduplication_key = Some("standup".into());
    keep(&store, &two);
    keep(&store, &one);
    assert_eq!(
        store.keyed(&meeting).unwrap(),
        Some((two.id, String::new())),
        "the first one's end is not the second's"
    );
    store.write([&Op::Remove(one.id, Removal::told(&one, Micros(1)))]).unwrap();
    assert_eq!(store.keyed(&request).unwrap(), None);
}

/// A meeting with a row in every table.
fn fill(store: &Store, n: u128) -> MeetingRecord {
    let record = record(n, Status::Done);
    let id = record.id;
    let participant =
        Participant { id: "a".into(), name: None, joined_at: String::new(), left_at: None, unheard: None };
    store
        .write(&[
            Op::Meeting(Box::new(record.clone())),
            Op::Participant(id, participant, None),
            Op::Placement(id, Epoch(1), json!({"rows": []})),
            append(id, 0, 0, &[frame(1)], true),
            Op::Sequence(id, 9),
            Op::Receipt(id, "x".repeat(3000)),
        ])
        .unwrap();
    store.replace_claim(id, None, Some(b"claim")).unwrap();
    record
}

#[test]
fn nothing_is_left_of_a_meeting_that_is_removed_and_its_room_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("core.redb");
    let store = Store::open(&path).unwrap();
    let (one, two) = (fill(&store, 1), fill(&store, 2));
    let room = |store: &Store| fs::metadata(&path).unwrap().len() - store.size();
    assert_eq!(room(&store), 0);
    store.write([&Op::Remove(one.id, Removal::told(&one, Micros(1)))]).unwrap();
    assert_eq!(store.meeting(one.id).unwrap(), None);
    assert_eq!((store.participants(one.id).unwrap(), store.placements(one.id).unwrap()), (vec![], vec![]));
    assert_eq!((store.held(one.id).unwrap(), store.sequence(one.id).unwrap()), (vec![], 1));
    assert_eq!((store.receipt(one.id).unwrap(), store.claim(one.id).unwrap()), (None, None));
    assert_eq!((standing(&store, Status::Done), newest(&store, None, 9)), (vec![2], vec![2]));
    assert_eq!(store.meeting(two.id).unwrap(), Some(two.clone()));
    assert_eq!((store.held(two.id).unwrap().len(), store.receipt(two.id).unwrap().is_some()), (1, true));
    let left = room(&store);
    assert!(left > 0);
    drop(store);
    assert_eq!(room(&Store::open(&path).unwrap()), left, "also after a restart");
    let (long, short) = Store::compact(&path, Opening::default()).unwrap();
    assert!(short <= long, "{long} {short}");
    let store = Store::open(&path).unwrap();
    assert_eq!((room(&store), store.meeting(two.id).unwrap()), (0, Some(two)));
}

#[test]
fn a_flipped_bit_anywhere_in_one_record_leaves_the_others_served() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("core.redb");
    let store = Store::open(&path).unwrap();
    let records: Vec<_> = [1, 2, 3].map(|n| record(n, Status::Active)).to_vec();
    records.iter().for_each(|record| keep(&store, record));
    let row = Op::Meeting(Box::new(records[1].clone())).prepare().unwrap().rows()[0].clone();
    store.settle().unwrap();
    // As a kill would leave it: nothing is closed.
    let killed = fs::read(&path).unwrap();
    drop(store);
    for file in [killed, fs::read(&path).unwrap()] {
        survive_flips(&dir.path().join("broken.redb"), &file, &row, &records[1]);
    }
}

fn survive_flips(broken: &Path, file: &[u8], row: &[u8], spoiled: &MeetingRecord) {
    // Every place where the row is: a page that is not used any more may hold it too.
    let places: Vec<usize> = (0..file.len() - row.len()).filter(|at| file[*at..].starts_with(row)).collect();
    assert!(!places.is_empty());
    for n in (0..row.len() * 8).step_by(row.len() * 8 / 12) {
        let mut bytes = file.to_vec();
        places.iter().for_each(|at| bytes[at + n / 8] ^= 1 << (n % 8));
        fs::write(broken, bytes).unwrap();
        let store = Store::open(broken).unwrap();
        let under_way: Vec<u128> = store.under_way().unwrap().iter().map(|r| r.id.as_u128()).collect();
        assert_eq!(under_way, [1, 3], "bit {n}");
        assert_eq!(newest(&store, None, 9), [3, 1], "bit {n}");
        assert!(matches!(store.meeting(spoiled.id), Err(StoreError::Record { .. })), "bit {n}");
        let named = Damaged { table: "meetings", row: spoiled.id.to_string() };
        assert_eq!(store.damaged(), [named], "bit {n}");
        keep(&store, &record(4, Status::Active));
        assert_eq!(store.scrub(MeetingId::nil(), 9).unwrap(), None);
    }
}

#[test]
fn a_damaged_row_of_a_meeting_costs_no_other_row_and_no_write() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("core.redb")).unwrap();
    let id = fill(&store, 1).id;
    let transaction = store.stall();
    transaction.open_table(tables::PARTICIPANTS).unwrap().insert((1, "b"), &b"?"[..]).unwrap();
    transaction.open_table(tables::PLACEMENTS).unwrap().insert((1, 2), &b"{"[..]).unwrap();
    transaction.open_table(tables::SPURTS).unwrap().insert((1, 1, "alice", 1), &b"?"[..]).unwrap();
    transaction.open_table(tables::LOG).unwrap().insert((1, 1, "alice", 1, 0), &b"?"[..]).unwrap();
    transaction.open_table(tables::RECEIPTS).unwrap().insert(1, &b"?"[..]).unwrap();
    transaction.commit().unwrap();
    assert_eq!((store.participants(id).unwrap().len(), store.placements(id).unwrap().len()), (1, 1));
    assert_eq!((store.held(id).unwrap().len(), store.receipt(id).unwrap()), (1, None));
    assert!(snapshot(&store, id).unwrap().is_some(), "the rest goes to a standby");
    assert_eq!(store.damaged().len(), 4);
    let finish = Op::Finish { meeting: id, spurts: vec![key(1)], segment: None, at: Micros(9), cover: None };
    store.write([&finish]).unwrap();
    assert!(store.spurt(id, &key(1)).unwrap().unwrap().done.is_some(), "its words do not come out again");
    store.write([&Op::Forget(id)]).unwrap();
}

#[test]
fn a_store_that_is_open_elsewhere_is_waited_for_and_then_its_holder_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("core.redb");
    let first = RefCell::new(Some(Store::open(&path).unwrap()));
    let error = Store::open(&path).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains(&format!("pid {}", std::process::id())) && error.contains("core.redb"), "{error}");
    let mut tries = 0;
    let opened = Store::open_when_free(&path, 1 << 20, |_| {
        tries += 1;
        if tries == 3 {
            first.borrow_mut().take();
        }
        tries < 10
    });
    assert!(opened.is_ok());
    assert_eq!(tries, 3);
}

#[test]
fn a_check_takes_what_is_open_elsewhere_and_refuses_what_is_no_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("core.redb");
    assert!(Store::check(&path).is_err() && !path.exists());
    let _held = Store::open(&path).unwrap();
    Store::check(&path).unwrap();
    fs::write(dir.path().join("text"), "no store").unwrap();
    assert!(Store::check(&dir.path().join("text")).is_err());
    assert!(Store::check(dir.path()).is_err());
}

/// Anything that JSON can say, so many levels deep.
fn any_json(levels: u32) -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(levels, 64, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..4).prop_map(|m| m.into_iter().collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_taken_can_be_read_back_and_shipped(
        metadata in prop::collection::btree_map(any::<String>(), any_json(24), 0..4),
        detail in any::<Option<String>>(),
        levels in 0usize..200,
    ) {
        let mut record = record(7, Status::Active);
        record.spec.metadata = metadata.into_iter().collect();
        let deep = (0..levels).fold(Value::from(1), |inner, _| json!([inner]));
        record.spec.metadata.insert("deep".into(), deep);
        record.detail = detail;
        let op = Op::Meeting(Box::new(record.clone()));
        let Ok(values) = op.prepare() else { return Ok(()) };
        prop_assert!(levels <= MAX_DEPTH);
        let read: MeetingRecord = value::json("meetings", &values.rows()[0]).unwrap();
        prop_assert_eq!(&read.spec.source, &record.spec.source);
        let mut assembler = Assembler::default();
        let entries: Vec<_> = Entry::Record(Box::new(read)).pieces().iter()
            .map(|piece| assembler.push(record.id, piece).unwrap()).collect();
        prop_assert!(entries.last().unwrap().is_some());
    }
}

#[test]
fn what_a_core_sends_is_numbered_above_its_former_lives_though_its_clock_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("core.redb");
    let life = |now| Store::open(&path).unwrap().begin_life(Micros(now)).unwrap().0;
    assert_eq!(life(1 << 50), 1 << 50);
    assert_eq!(life(1 << 49), (1 << 50) + NUMBERS_OF_A_LIFE);
    assert_eq!(life(1 << 51), 1 << 51);
}
