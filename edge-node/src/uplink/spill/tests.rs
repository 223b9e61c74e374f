#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use mesh::{
    clock::Micros,
    trace::TraceContext,
    wire::{Epoch, MeetingId, SpurtNo, Term, spurt::SpurtEnd},
};

use super::*;

fn origin() -> Origin {
    let core = "core-1".parse().unwrap();
    let meeting = MeetingId::from_u128(7);
    Origin { meeting, epoch: Epoch(3), core, term: Term(1), trace: TraceContext::new(7), key: Default::default() }
}

fn settings(dir: &Path) -> Settings {
    Settings { dir: dir.to_owned(), max_bytes: 1 << 30, max_age: Duration::from_secs(3600) }
}

fn key(participant: u16, spurt: u32) -> SpurtKey {
    SpurtKey { participant: ParticipantAlias(participant), spurt: SpurtNo(spurt) }
}

fn packet(n: u32, len: usize) -> Vec<u8> {
    let mut packet = n.to_be_bytes().to_vec();
    packet.resize(len, 0);
    packet
}

/// A spurt of `items` packets of `len` bytes; without its end if `open`.
fn spurt(SpurtKey { participant, spurt }: SpurtKey, items: u32, len: usize, open: bool) -> Vec<Record> {
    let captured = Micros(u64::from(spurt.0) * 1000);
    let mut records = vec![Record::Start { participant, spurt, captured }];
    records.extend((0..items).map(|offset| Record::Item {
        participant,
        spurt,
        offset,
        packet: Some(packet(offset, len)),
    }));
    let end = SpurtEnd::of(items);
    if !open {
        records.push(Record::End { participant, spurt, end });
    }
    records
}

fn frames(items: u32, len: usize) -> Vec<Item> {
    (0..items).map(|n| Item::Frame(packet(n, len).into())).collect()
}

fn row(participant: u16) -> Record {
    Record::Participant { participant: ParticipantAlias(participant), id: format!("p{participant}"), name: None }
}

fn done(SpurtKey { participant, spurt }: SpurtKey) -> Record {
    Record::Done { participant, spurt }
}

#[test]
fn what_a_dead_process_had_spilled_is_found_with_its_table_and_without_what_was_done() {
    let dir = tempfile::tempdir().unwrap();
    let mut spill = Spill::new(settings(dir.path()), origin());
    spill.write(vec![row(0), row(1)]).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "a table alone is worth no file");
    for (records, at) in [(spurt(key(0, 0), 5, 60, false), 0), (spurt(key(1, 0), 3, 60, false), 1)] {
        assert_eq!(spill.write(records).unwrap(), [], "{at}");
    }
    spill.write(spurt(key(0, 1), 4, 60, true)).unwrap();
    spill.write(vec![done(key(1, 0))]).unwrap();
    drop(spill);

    let mut found = recover(&settings(dir.path()));
    let Recovered { origin: from, spill, rows, spurts } = found.pop().unwrap();
    assert!(found.is_empty());
    assert_eq!((from, rows), (origin(), vec![row(0), row(1)]));
    let brief: Vec<_> =
        spurts.iter().map(|(key, captured, items, end)| (*key, captured.0, *items, end.items)).collect();
    assert_eq!(brief, [(key(0, 0), 0, 5, 5), (key(0, 1), 1000, 4, 4)]);
    assert_eq!(spill.read(key(0, 0)), frames(5, 60));
    assert_eq!(spill.read(key(0, 1)), frames(4, 60));
    spill.remove();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn segments_go_when_all_in_them_is_done_and_the_oldest_when_there_is_too_much() {
    let dir = tempfile::tempdir().unwrap();
    let mut spill = Spill::new(Settings { max_bytes: 5 << 20, ..settings(dir.path()) }, origin());
    let mut lost = vec![];
    for n in 0..8 {
        lost.extend(spill.write(spurt(key(0, n), 1000, 1000, false)).unwrap());
        assert!(spill.bytes() <= 6 << 20);
    }
    assert!(!lost.is_empty() && lost.contains(&key(0, 0)), "{lost:?}");
    assert!(spill.read(key(0, 0)).is_empty());
    assert_eq!(spill.read(key(0, 7)), frames(1000, 1000));
    let all: Vec<Record> = (0..8).map(|n| done(key(0, n))).collect();
    spill.write(all).unwrap();
    assert_eq!(spill.segments.len(), 1, "the one being written");
    spill.write(spurt(key(0, 9), 2000, 1000, false)).unwrap();
    assert_eq!(spill.read(key(0, 9)), frames(2000, 1000), "over two segments");
}

#[test]
fn a_damaged_file_costs_what_is_damaged_and_a_foreign_one_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut spill = Spill::new(settings(dir.path()), origin());
    spill.write([row(0)].into_iter().chain(spurt(key(0, 0), 5, 60, false)).collect()).unwrap();
    let file = spill.segments[0].path.clone();
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.windows(4).rposition(|four| four == 2u32.to_be_bytes()).unwrap();
    bytes[at] ^= 4;
    fs::write(&file, &bytes).unwrap();
    fs::write(dir.path().join(folder(&origin())).join("00000007.spill"), b"NFSPILL2 is not enough").unwrap();
    let other = dir.path().join("0-0");
    fs::create_dir(&other).unwrap();
    fs::copy(&file, other.join("00000000.spill")).unwrap();

    let found = recover(&settings(dir.path()));
    assert_eq!(found.len(), 1, "a file in another meeting's folder is nobody's");
    let mut want = frames(5, 60);
    want[2] = Item::Gap;
    assert_eq!(found[0].spill.read(key(0, 0)), want);
}

#[test]
fn speech_too_old_is_not_brought_home() {
    let dir = tempfile::tempdir().unwrap();
    let mut spill = Spill::new(settings(dir.path()), origin());
    spill.write(spurt(key(0, 0), 5, 60, false)).unwrap();
    assert!(recover(&Settings { max_age: Duration::ZERO, ..settings(dir.path()) }).is_empty());
    assert!(recover(&settings(dir.path())).is_empty(), "and is deleted");
}

#[test]
fn a_full_disk_costs_nothing_that_is_on_it_and_is_written_to_again_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let mut spill = Spill::new(settings(dir.path()), origin());
    spill.write([row(0)].into_iter().chain(spurt(key(0, 0), 5, 60, false)).collect()).unwrap();
    let whole = spill.bytes();
    // What a write leaves behind that the disk has no room for.
    let mut torn = fs::File::options().append(true).open(&spill.segments[0].path).unwrap();
    torn.write_all(&[0, 40, 1, 2, 3]).unwrap();
    spill.leave_off();
    assert_eq!(fs::metadata(&spill.segments[0].path).unwrap().len(), whole);
    spill.file = Some(fs::File::options().append(true).open("/dev/full").unwrap());
    assert!(spill.write(spurt(key(0, 1), 5, 60, false)).is_err());
    assert_eq!(spill.read(key(0, 0)), frames(5, 60));
    spill.write(spurt(key(0, 1), 5, 60, false)).unwrap();
    assert_eq!(spill.segments.len(), 2, "another segment");
    drop(spill);
    let found = recover(&settings(dir.path())).pop().unwrap();
    assert_eq!((found.spurts.len(), found.rows), (2, vec![row(0)]));
    assert_eq!(found.spill.read(key(0, 1)), frames(5, 60));
}
