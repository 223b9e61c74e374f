#![allow(clippy::unwrap_used)]

use super::*;

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
