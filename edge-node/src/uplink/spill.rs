//! Speech of one meeting on disk: append-only segments in a folder of its own.
//!
//! What is written is handed to the operating system at once, which survives the process; it is synced to the disk once a second
//! at most, which a power failure may cost. A segment is deleted when everything in it is done. When the bound in bytes or
//! minutes is reached, the oldest segment goes, and who wrote it is told what was in it.
//!
//! All of it blocks: call it where that is allowed.
#![allow(clippy::disallowed_methods, reason = "I/O shell")]

mod recover;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use mesh::wire::{ParticipantAlias, spurt::Item};
use tracing::warn;

pub use self::recover::{Recovered, Spoken, recover};
use super::{
    SpurtKey,
    format::{Origin, Reader, Record, write_origin, write_record},
};

/// A segment is closed when it is this long.
pub(super) const SEGMENT: u64 = 1024 * 1024;
/// How often what is written is synced to the disk.
const SYNC: Duration = Duration::from_secs(1);

/// No spurt has more items: a cut one of 28 s has 11,200 of the shortest packets.
const MAX_ITEMS: u32 = 16 * 1024;

/// Where, and how much.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder for all meetings of this node.
    pub dir: PathBuf,
    /// Bytes for one meeting.
    pub max_bytes: u64,
    /// Speech older than this is deleted.
    pub max_age: Duration,
}

/// One meeting's folder.
#[derive(Debug)]
pub struct Spill {
    settings: Settings,
    dir: PathBuf,
    origin: Origin,
    seed: u32,
    /// Repeated at the head of each segment, since older ones go.
    table: BTreeMap<ParticipantAlias, Record>,
    segments: VecDeque<Segment>,
    /// The last of them, while it is open.
    file: Option<File>,
    next: u32,
    synced: Instant,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    bytes: u64,
    begun: Instant,
    /// What is in it and not done.
    spurts: BTreeSet<SpurtKey>,
}

impl Spill {
    /// For speech of `origin`; nothing is touched before the first write.
    pub fn new(settings: Settings, origin: Origin) -> Self {
        let dir = settings.dir.join(folder(&origin));
        Self {
            settings,
            dir,
            origin,
            seed: 0,
            table: BTreeMap::new(),
            segments: VecDeque::new(),
            file: None,
            next: 0,
            synced: Instant::now(),
        }
    }

    /// Writes `records`; the spurts that the bound has cost.
    ///
    /// # Errors
    /// The disk refuses; what was written before stays, and what there was to be done away with is.
    pub fn write(&mut self, records: Vec<Record>) -> io::Result<Vec<SpurtKey>> {
        // It may make the room that the rest needs.
        let (done, rest): (Vec<_>, Vec<_>) = records.into_iter().partition(|r| matches!(r, Record::Done { .. }));
        let written = self.put(done).and_then(|()| self.put(rest)).and_then(|()| self.sync());
        if let Err(error) = written {
            self.leave_off();
            return Err(error);
        }
        Ok(self.bound())
    }

    fn put(&mut self, records: Vec<Record>) -> io::Result<()> {
        let mut buffer = vec![];
        for record in records {
            self.write_one(record, &mut buffer)?;
        }
        self.append(&mut buffer)
    }

    /// After a write that failed: the segment ends with its last whole record, and the next begins another, with the table.
    fn leave_off(&mut self) {
        let (Some(file), Some(segment)) = (self.file.take(), self.segments.back()) else { return };
        if segment.bytes == 0 {
            delete(&segment.path);
            self.segments.pop_back();
        } else if let Err(error) = file.set_len(segment.bytes) {
            // What is torn there is passed over by whoever reads it.
            warn!(path = %segment.path.display(), %error, "spilled speech: a torn record stays");
        }
        self.forget(&[]);
    }

    /// The items of a spurt, in order; a damaged one is a gap. What is missing at the end is missing.
    pub fn read(&self, key: SpurtKey) -> Vec<Item> {
        let mut found = BTreeMap::new();
        for segment in self.segments.iter().filter(|s| s.spurts.contains(&key)) {
            let bytes = fs::read(&segment.path).unwrap_or_default();
            let Ok((_, records)) = Reader::new(&bytes) else { continue };
            for record in records {
                if let Record::Item { participant, spurt, offset, packet } = record
                    && (SpurtKey { participant, spurt }) == key
                    && offset < MAX_ITEMS
                {
                    found.insert(offset, packet.map_or(Item::Gap, |packet| Item::Frame(packet.into())));
                }
            }
        }
        let count = found.last_key_value().map_or(0, |(last, _)| last + 1);
        (0..count).map(|offset| found.remove(&offset).unwrap_or(Item::Gap)).collect()
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.bytes).sum()
    }

    /// Deletes all of it.
    pub fn remove(mut self) {
        self.file = None;
        self.segments.drain(..).for_each(|segment| delete(&segment.path));
        // It is not there if nothing was ever written.
        let _ = fs::remove_dir(&self.dir);
    }

    fn write_one(&mut self, record: Record, buffer: &mut Vec<u8>) -> io::Result<()> {
        let key = match &record {
            Record::Participant { participant, .. } => {
                self.table.insert(*participant, record.clone());
                if self.file.is_some() {
                    write_record(&record, self.seed, buffer);
                }
                return Ok(());
            }
            // The segments that are there keep the row.
            Record::Forgotten { participant } => {
                self.table.remove(participant);
                return Ok(());
            }
            Record::Done { participant, spurt } => {
                let key = SpurtKey { participant: *participant, spurt: *spurt };
                if self.file.is_some() {
                    write_record(&record, self.seed, buffer);
                }
                self.forget(&[key]);
                return Ok(());
            }
            Record::Start { participant, spurt, .. }
            | Record::Item { participant, spurt, .. }
            | Record::End { participant, spurt, .. } => SpurtKey { participant: *participant, spurt: *spurt },
        };
        let full = self.segments.back().is_some_and(|s| s.bytes + buffer.len() as u64 >= SEGMENT);
        if self.file.is_none() || full {
            self.append(buffer)?;
            self.begin(buffer)?;
        }
        write_record(&record, self.seed, buffer);
        if let Some(segment) = self.segments.back_mut() {
            segment.spurts.insert(key);
        }
        Ok(())
    }

    /// Closes the segment being written and begins the next.
    fn begin(&mut self, buffer: &mut Vec<u8>) -> io::Result<()> {
        if let Some(file) = &self.file {
            file.sync_data()?;
        }
        self.file = None;
        self.forget(&[]);
        // Speech is in it: nobody else's business.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let path = self.dir.join(format!("{:08}.{ENDING}", self.next));
        let file = OpenOptions::new().create_new(true).append(true).mode(0o600).open(&path)?;
        self.next += 1;
        self.seed = write_origin(&self.origin, buffer).map_err(io::Error::other)?;
        self.table.values().for_each(|row| {
            write_record(row, self.seed, buffer);
        });
        self.segments.push_back(Segment { path, bytes: 0, begun: Instant::now(), spurts: BTreeSet::new() });
        self.file = Some(file);
        Ok(())
    }

    fn append(&mut self, buffer: &mut Vec<u8>) -> io::Result<()> {
        if let (Some(file), Some(segment)) = (&mut self.file, self.segments.back_mut()) {
            file.write_all(buffer)?;
            segment.bytes += buffer.len() as u64;
            metrics::counter!("nearfield_edge_spilled_bytes_total").increment(buffer.len() as u64);
        }
        buffer.clear();
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.synced.elapsed() < SYNC {
            return Ok(());
        }
        self.synced = Instant::now();
        self.file.as_ref().map_or(Ok(()), File::sync_data)
    }

    /// Forgets `keys`, and deletes the segments that hold nothing else; the one being written stays.
    fn forget(&mut self, keys: &[SpurtKey]) {
        let writing = self.file.is_some().then(|| self.segments.len().saturating_sub(1));
        let mut at = 0;
        self.segments.retain_mut(|segment| {
            keys.iter().for_each(|key| {
                segment.spurts.remove(key);
            });
            let keep = !segment.spurts.is_empty() || Some(at) == writing;
            at += 1;
            if !keep {
                delete(&segment.path);
            }
            keep
        });
    }

    /// The oldest segments go while there is too much, or they are too old.
    fn bound(&mut self) -> Vec<SpurtKey> {
        let mut dropped = BTreeSet::new();
        while self.segments.len() > 1
            && let Some(first) = self.segments.front()
            && (self.bytes() > self.settings.max_bytes || first.begun.elapsed() > self.settings.max_age)
            && let Some(first) = self.segments.pop_front()
        {
            delete(&first.path);
            // Of one that goes on in the next, the beginning is gone.
            let keys: Vec<SpurtKey> = first.spurts.into_iter().collect();
            self.forget(&keys);
            dropped.extend(keys);
        }
        if !dropped.is_empty() {
            warn!(spurts = dropped.len(), "spilled speech over its bound: the oldest is given up");
        }
        dropped.into_iter().collect()
    }
}

/// How a segment's name ends.
const ENDING: &str = "spill";

/// The name of a meeting's folder.
fn folder(origin: &Origin) -> String {
    format!("{}-{}", origin.meeting, origin.epoch.0)
}

fn delete(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        warn!(path = %path.display(), %error, "spilled speech could not be deleted");
    }
}

#[cfg(test)]
mod tests;
