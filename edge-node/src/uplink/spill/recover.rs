//! What an earlier process has left.
#![allow(clippy::disallowed_methods, reason = "I/O shell")]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use mesh::{
    clock::Micros,
    wire::{ParticipantAlias, SpurtNo, spurt::SpurtEnd},
};
use tracing::{info, warn};

use super::{ENDING, MAX_ITEMS, Segment, Settings, Spill, delete, folder};
use crate::uplink::{
    SpurtKey,
    format::{Origin, Reader, Record},
};

/// Meetings taken up again; more stay for the next start.
const MAX_MEETINGS: usize = 1024;

/// A spurt: which, since when, how many items, and how it ended.
pub type Spoken = (SpurtKey, Micros, u32, SpurtEnd);

/// One meeting's speech that an earlier process has left.
#[derive(Debug)]
pub struct Recovered {
    /// Whose.
    pub origin: Origin,
    /// Its folder.
    pub spill: Spill,
    /// The participant table.
    pub rows: Vec<Record>,
    /// What is not done, in the order of capture.
    pub spurts: Vec<Spoken>,
}

/// What is known of a spurt.
#[derive(Debug, Default)]
struct Found {
    captured: Option<Micros>,
    items: u32,
    end: Option<SpurtEnd>,
}

/// Everything in the folder that is whole and not too old. Files that are not, and files that are not ours, cost nothing else.
pub fn recover(settings: &Settings) -> Vec<Recovered> {
    let dirs = match fs::read_dir(&settings.dir) {
        Ok(dirs) => dirs,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return vec![],
        Err(error) => {
            warn!(dir = %settings.dir.display(), %error, "spilled speech cannot be read");
            return vec![];
        }
    };
    let mut dirs: Vec<PathBuf> = dirs.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    dirs.sort();
    dirs.iter().filter_map(|dir| one(settings, dir)).take(MAX_MEETINGS).collect()
}

fn one(settings: &Settings, dir: &Path) -> Option<Recovered> {
    let mut origin: Option<Origin> = None;
    let (mut rows, mut found, mut done) = (BTreeMap::new(), BTreeMap::<SpurtKey, Found>::new(), BTreeSet::new());
    let (mut segments, mut damaged, mut next) = (VecDeque::new(), 0, 0);
    for (number, path) in files(dir) {
        next = number + 1;
        let Some((age, bytes)) = read(&path) else { continue };
        if age > settings.max_age {
            info!(path = %path.display(), "spilled speech is too old");
            delete(&path);
            continue;
        }
        let (from, mut records) = match Reader::new(&bytes) {
            Ok(read) => read,
            Err(error) => {
                warn!(path = %path.display(), %error, "passed over");
                metrics::counter!("nearfield_edge_spill_files_damaged_total").increment(1);
                continue;
            }
        };
        let ours = dir.file_name().is_some_and(|name| name.to_str() == Some(&*folder(&from)));
        if !ours || origin.as_ref().is_some_and(|o| (o.meeting, o.epoch) != (from.meeting, from.epoch)) {
            warn!(path = %path.display(), "passed over: it holds another meeting's speech than its folder");
            continue;
        }
        origin = Some(from);
        let mut spurts = BTreeSet::new();
        for record in records.by_ref() {
            take(record, &mut rows, &mut found, &mut done, &mut spurts);
        }
        damaged += records.damaged();
        let begun = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
        segments.push_back(Segment { path, bytes: bytes.len() as u64, begun, spurts });
    }
    let origin = origin?;
    if damaged > 0 {
        warn!(meeting = %origin.meeting, records = damaged, "damaged records of spilled speech");
        metrics::counter!("nearfield_edge_spill_records_damaged_total").increment(damaged);
    }
    let spurts = usable(found, &done);
    let mut spill = Spill { segments, next, ..Spill::new(settings.clone(), origin.clone()) };
    let keep: BTreeSet<SpurtKey> = spurts.iter().map(|(key, ..)| *key).collect();
    spill.segments.iter_mut().for_each(|segment| segment.spurts.retain(|key| keep.contains(key)));
    spill.forget(&[]);
    if spurts.is_empty() {
        spill.remove();
        return None;
    }
    let rows: Vec<Record> = rows.into_values().collect();
    Some(Recovered { origin, spill, rows, spurts })
}

fn take(
    record: Record,
    rows: &mut BTreeMap<ParticipantAlias, Record>,
    found: &mut BTreeMap<SpurtKey, Found>,
    done: &mut BTreeSet<SpurtKey>,
    here: &mut BTreeSet<SpurtKey>,
) {
    match record {
        Record::Participant { participant, .. } => drop(rows.insert(participant, record)),
        Record::Start { participant, spurt, captured } => {
            of(found, here, participant, spurt).captured = Some(captured);
        }
        Record::Item { participant, spurt, offset, .. } if offset < MAX_ITEMS => {
            let spurt = of(found, here, participant, spurt);
            spurt.items = spurt.items.max(offset + 1);
        }
        Record::Item { .. } | Record::Forgotten { .. } => {}
        Record::End { participant, spurt, end } => of(found, here, participant, spurt).end = Some(end),
        Record::Done { participant, spurt } => drop(done.insert(SpurtKey { participant, spurt })),
    }
}

fn of<'a>(
    found: &'a mut BTreeMap<SpurtKey, Found>,
    here: &mut BTreeSet<SpurtKey>,
    participant: ParticipantAlias,
    spurt: SpurtNo,
) -> &'a mut Found {
    let key = SpurtKey { participant, spurt };
    here.insert(key);
    found.entry(key).or_default()
}

/// Those that have a beginning and are not done, oldest first. One that did not end ends where it is.
fn usable(found: BTreeMap<SpurtKey, Found>, done: &BTreeSet<SpurtKey>) -> Vec<Spoken> {
    let open_end = |items| SpurtEnd::of(items);
    let mut usable: Vec<_> = found
        .into_iter()
        .filter(|(key, spurt)| !done.contains(key) && spurt.items > 0)
        .filter_map(|(key, s)| Some((key, s.captured?, s.items, s.end.unwrap_or(open_end(s.items)))))
        .collect();
    usable.sort_by_key(|(key, captured, ..)| (*captured, *key));
    usable
}

/// The segments in a folder, by number.
fn files(dir: &Path) -> Vec<(u32, PathBuf)> {
    let number = |path: &Path| {
        let ours = path.extension().is_some_and(|e| e == ENDING);
        path.file_stem().filter(|_| ours)?.to_str()?.parse::<u32>().ok()
    };
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<(u32, PathBuf)> = entries.filter_map(|path| Some((number(&path)?, path))).collect();
    files.sort();
    files
}

fn read(path: &Path) -> Option<(Duration, Vec<u8>)> {
    let age = |path: &Path| SystemTime::now().duration_since(fs::metadata(path).ok()?.modified().ok()?).ok();
    match fs::read(path) {
        Ok(bytes) => Some((age(path).unwrap_or_default(), bytes)),
        Err(error) => {
            warn!(path = %path.display(), %error, "spilled speech cannot be read");
            None
        }
    }
}
