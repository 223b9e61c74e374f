//! What is on this core's disk: one redb file.
//!
//! | table | key | value |
//! |---|---|---|
//! | meetings | meeting | [`MeetingRecord`], JSON |
//! | participants | meeting, participant id | [`Participant`], JSON |
//! | placements | meeting, epoch | the decision as the API shows it, JSON |
//! | spurts | meeting, epoch, participant id, spurt | [`SpurtRecord`], by the mesh's codec |
//! | log | the spurt's key, first item | [`Chunk`], by the mesh's codec; removed when the spurt is done |
//! | sequences | meeting | every event number of it given out so far is below this |
//! | segments | meeting, seq | final [`Segment`], JSON |
//! | covers | meeting, participant id, when it was said | [`Cover`], JSON; removed when the meeting has ended |
//! | receipts | meeting | its signed receipt |
//! | claims | meeting | revision, and who serves it as [`crate::authority`] writes it |
//! | revisions | `claims` | the newest revision given out |
//!
//! A spurt's done mark and the segment made of it are written in one transaction: a second final of
//! the same speech cannot be.

mod tables;
#[cfg(test)]
mod tests;
mod write;

use std::{
    fs,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use mesh::{
    clock::Micros,
    trace::TraceContext,
    wire::{
        Epoch, MeetingId, SpurtNo,
        spurt::{EdgeStages, Item, SpurtEnd, Step},
    },
};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, backends::FileBackend};
use serde::{Deserialize, Serialize};

use self::{
    tables::*,
    write::{apply, create_tables, replace_claim},
};
use crate::{
    ingest::Restored,
    key::SpurtKey,
    record::{MeetingRecord, Participant},
    transcript::Segment,
    utterance::{Cover, Slot, duration_of},
};

/// Why the store could not do what was asked: the disk's or the file's fault, never a caller's.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file could not be made or opened.
    #[error("store {path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database failed.
    #[error("store: {0}")]
    Database(Box<redb::Error>),
    /// A record is not what this version writes.
    #[error("store: unreadable {what} record: {why}")]
    Record {
        /// Which table.
        what: &'static str,
        /// Why.
        why: String,
    },
}

macro_rules! from_redb {
    ($($error:ident),*) => {$(
        impl From<redb::$error> for StoreError {
            fn from(error: redb::$error) -> Self {
                Self::Database(Box::new(error.into()))
            }
        }
    )*};
}

from_redb!(TransactionError, TableError, StorageError, CommitError, SetDurabilityError);

/// What is remembered of a talk spurt besides its items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpurtRecord {
    /// Capture time of item 0.
    pub captured: Micros,
    /// The request that created the meeting.
    pub trace: TraceContext,
    /// Set when the words are out.
    pub done: Option<DoneMark>,
}

/// The words of a spurt are out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoneMark {
    /// Since when.
    pub at: Micros,
    /// Items it had.
    pub items: u32,
    /// Of those, frames.
    pub frames: u64,
}

/// Items of one spurt that came in together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// When the last of them was read off the stream.
    pub received: Micros,
    /// The packets; `None` is a gap.
    pub items: Vec<Option<Vec<u8>>>,
    /// The trailer.
    pub end: Option<SpurtEnd>,
}

/// The most bytes of packets in one [`Chunk`]: far below the codec's limit.
pub const MAX_CHUNK_BYTES: usize = 32 * 1024;

/// A spurt with its items, as the log holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Speech {
    /// Capture time of item 0.
    pub captured: Micros,
    /// The request that created the meeting.
    pub trace: TraceContext,
    /// The items, without a hole.
    pub items: Vec<Item>,
    /// When the last of them came in.
    pub received: Micros,
    /// Stamps of the last item at the edge, if the trailer has come.
    pub stages: Option<EdgeStages>,
    /// The lowest step of the uplink's ladder on which it came, if the trailer has come.
    pub step: Option<Step>,
}

/// One change; those of one [`Store::write`] happen together or not at all.
#[derive(Debug, Clone)]
pub enum Op {
    /// Items of a spurt.
    Append {
        /// The meeting.
        meeting: MeetingId,
        /// The spurt.
        key: SpurtKey,
        /// Number of the first item.
        first: u32,
        /// The items.
        chunk: Chunk,
        /// Written with a spurt's first items.
        opened: Option<SpurtRecord>,
    },
    /// The words of some spurts are out.
    Finish {
        /// The meeting.
        meeting: MeetingId,
        /// The spurts.
        spurts: Vec<SpurtKey>,
        /// The words, unless there were none.
        segment: Option<Box<Segment>>,
        /// When.
        at: Micros,
        /// What the words were made of, where several edges captured it.
        cover: Option<Cover>,
    },
    /// Every event number below this may have been given out.
    Sequence(MeetingId, u64),
    /// A meeting as it now stands.
    Meeting(Box<MeetingRecord>),
    /// A participant as they now stand.
    Participant(MeetingId, Participant),
    /// Why an edge was chosen.
    Placement(MeetingId, Epoch, serde_json::Value),
    /// The words of some spurts are out at the core that serves the meeting.
    Taken {
        /// The meeting.
        meeting: MeetingId,
        /// The spurts, done.
        spurts: Vec<(SpurtKey, SpurtRecord)>,
        /// The words, unless there were none.
        segment: Option<Box<Segment>>,
        /// What the words were made of, where several edges captured it.
        cover: Option<Cover>,
    },
    /// What is attested of a meeting that is over.
    Receipt(MeetingId, String),
    /// Another core serves the meeting: speech whose words are not out here is forgotten.
    Forget(MeetingId),
    /// Nothing: what was queued before it is on disk when it is answered.
    Barrier,
}

/// What came of [`Store::replace_claim`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replaced {
    /// It has this revision.
    By(u64),
    /// Nothing was changed: this revision stands, or none.
    Not(Option<(u64, Vec<u8>)>),
}

/// The database. One process at a time has it open.
pub struct Store {
    db: Database,
    path: PathBuf,
}

impl Store {
    /// Opens the file, making it and its directory where they are missing; only this user may read it.
    ///
    /// # Errors
    /// It cannot be made, is no database, or is open elsewhere.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let wrap = |source: Box<dyn std::error::Error + Send + Sync>| StoreError::Open { path: path.into(), source };
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(|e| wrap(e.into()))?;
        }
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let backend = FileBackend::new(file.map_err(|e| wrap(e.into()))?).map_err(|e| wrap(e.into()))?;
        let db = Database::builder().create_with_backend(backend).map_err(|e| wrap(e.into()))?;
        let store = Self { db, path: path.into() };
        store.write(&[])?;
        Ok(store)
    }

    /// The file's length in bytes.
    pub fn size(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |m| m.len())
    }

    /// Makes the changes and returns when the disk has them.
    ///
    /// # Errors
    /// None of them was made.
    pub fn write<'a>(&self, ops: impl IntoIterator<Item = &'a Op>) -> Result<(), StoreError> {
        let mut transaction = self.db.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        create_tables(&transaction)?;
        for op in ops {
            apply(&transaction, op)?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Replaces what is claimed of `meeting` by `claim`, or by nothing, if it is of revision `after` still; returns when the disk
    /// has it.
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn replace_claim(
        &self,
        meeting: MeetingId,
        after: Option<u64>,
        claim: Option<&[u8]>,
    ) -> Result<Replaced, StoreError> {
        let mut transaction = self.db.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        let replaced = replace_claim(&transaction, meeting, after, claim)?;
        transaction.commit()?;
        Ok(replaced)
    }

    /// No other write is made while this is held.
    #[cfg(test)]
    pub(crate) fn stall(&self) -> redb::WriteTransaction {
        self.db.begin_write().expect("a store that can be written")
    }

    /// What is claimed of `meeting`, and the revision of that.
    ///
    /// # Errors
    /// See [`StoreError`], as for all reads.
    pub fn claim(&self, meeting: MeetingId) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        let table = self.db.begin_read()?.open_table(CLAIMS)?;
        Ok(table.get(meeting.as_u128())?.map(|row| (row.value().0, row.value().1.to_vec())))
    }

    /// Every meeting, oldest id first.
    ///
    /// # Errors
    /// See [`StoreError`], as for all reads.
    pub fn meetings(&self) -> Result<Vec<MeetingRecord>, StoreError> {
        let table = self.db.begin_read()?.open_table(MEETINGS)?;
        table.iter()?.map(|row| json("meetings", row?.1.value())).collect()
    }

    /// One meeting.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn meeting(&self, id: MeetingId) -> Result<Option<MeetingRecord>, StoreError> {
        let table = self.db.begin_read()?.open_table(MEETINGS)?;
        table.get(id.as_u128())?.map(|row| json("meetings", row.value())).transpose()
    }

    /// A meeting's participants, by id.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn participants(&self, meeting: MeetingId) -> Result<Vec<Participant>, StoreError> {
        let table = self.db.begin_read()?.open_table(PARTICIPANTS)?;
        let (from, to) = ((meeting.as_u128(), ""), (after(meeting), ""));
        table.range(from..to)?.map(|row| json("participants", row?.1.value())).collect()
    }

    /// Why a meeting's edges were chosen, newest last.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn placements(&self, meeting: MeetingId) -> Result<Vec<serde_json::Value>, StoreError> {
        Ok(self.decisions(meeting)?.into_iter().map(|(_, decision)| decision).collect())
    }

    /// As [`Store::placements`], each with its epoch.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn decisions(&self, meeting: MeetingId) -> Result<Vec<(Epoch, serde_json::Value)>, StoreError> {
        let table = self.db.begin_read()?.open_table(PLACEMENTS)?;
        let rows = table.range(both(meeting, 0))?.map(|row| {
            let (at, decision) = row?;
            Ok((Epoch(at.value().1), json("placements", decision.value())?))
        });
        rows.collect()
    }

    /// What is remembered of one spurt.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn spurt(&self, meeting: MeetingId, key: &SpurtKey) -> Result<Option<SpurtRecord>, StoreError> {
        let table = self.db.begin_read()?.open_table(SPURTS)?;
        table.get(spurt_key(meeting, key))?.map(|row| coded("spurts", row.value())).transpose()
    }

    /// The first event number of a meeting that was surely never given out.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn sequence(&self, meeting: MeetingId) -> Result<u64, StoreError> {
        let table = self.db.begin_read()?.open_table(SEQUENCES)?;
        Ok(table.get(meeting.as_u128())?.map_or(1, |row| row.value()))
    }

    /// A meeting's final segments numbered above `since`, in the order of their numbers.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn segments(&self, meeting: MeetingId, since: u64) -> Result<Vec<Segment>, StoreError> {
        let table = self.db.begin_read()?.open_table(SEGMENTS)?;
        let Some(first) = since.checked_add(1) else { return Ok(vec![]) };
        table.range(both(meeting, first))?.map(|row| json("segments", row?.1.value())).collect()
    }

    /// The signed receipt of a meeting, if it was made here.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn receipt(&self, meeting: MeetingId) -> Result<Option<String>, StoreError> {
        let table = self.db.begin_read()?.open_table(RECEIPTS)?;
        Ok(table.get(meeting.as_u128())?.map(|row| row.value().to_owned()))
    }

    /// A spurt as far as the log holds it without a hole; `None` if it has no items there.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn speech(&self, meeting: MeetingId, key: &SpurtKey) -> Result<Option<Speech>, StoreError> {
        let read = self.db.begin_read()?;
        let spurts = read.open_table(SPURTS)?;
        let Some(row) = spurts.get(spurt_key(meeting, key))? else { return Ok(None) };
        let record: SpurtRecord = coded("spurts", row.value())?;
        let mut speech = Speech {
            captured: record.captured,
            trace: record.trace,
            items: vec![],
            received: Micros(0),
            stages: None,
            step: None,
        };
        for row in read.open_table(LOG)?.range(log_keys(meeting, key))? {
            let (at, chunk) = row?;
            if at.value().4 as usize != speech.items.len() {
                break;
            }
            speech.extend(coded("log", chunk.value())?);
        }
        Ok(Some(speech))
    }

    /// Every spurt of a meeting, as intake needs to know it after a restart.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn spurts(&self, meeting: MeetingId) -> Result<Vec<Restored>, StoreError> {
        let rows = self.spurt_records(meeting)?;
        rows.into_iter().map(|(key, record)| self.restored(meeting, key, &record)).collect()
    }

    /// Every spurt of a meeting: when it was captured, and what the disk holds or held of it.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn held(&self, meeting: MeetingId) -> Result<Vec<(Micros, Restored)>, StoreError> {
        let rows = self.spurt_records(meeting)?.into_iter();
        rows.map(|(key, record)| Ok((record.captured, self.restored(meeting, key, &record)?))).collect()
    }

    /// What is remembered of every spurt of a meeting.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn spurt_records(&self, meeting: MeetingId) -> Result<Vec<(SpurtKey, SpurtRecord)>, StoreError> {
        let table = self.db.begin_read()?.open_table(SPURTS)?;
        let (from, to) = ((meeting.as_u128(), 0, "", 0), (after(meeting), 0, "", 0));
        let rows = table.range(from..to)?.map(|row| {
            let (key, record) = row?;
            let (_, epoch, participant, spurt) = key.value();
            let key = SpurtKey { epoch: Epoch(epoch), participant: participant.into(), spurt: SpurtNo(spurt) };
            Ok((key, coded("spurts", record.value())?))
        });
        rows.collect()
    }

    /// What each utterance had, of those that several edges captured; the oldest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn covers(&self, meeting: MeetingId) -> Result<Vec<Cover>, StoreError> {
        let table = self.db.begin_read()?.open_table(COVERS)?;
        let (from, to) = cover_keys(meeting);
        table.range(from..to)?.map(|row| json("covers", row?.1.value())).collect()
    }

    fn restored(&self, meeting: MeetingId, key: SpurtKey, record: &SpurtRecord) -> Result<Restored, StoreError> {
        let (media, end, slots, captured) = (Default::default(), None, vec![], record.captured);
        if let Some(DoneMark { items, frames, .. }) = record.done {
            return Ok(Restored { key, captured, items, frames, media, slots, end, done: true });
        }
        let mut restored = Restored { key, captured, items: 0, frames: 0, media, slots, end, done: false };
        let mut slot = duration_of(&[]);
        for row in self.db.begin_read()?.open_table(LOG)?.range(log_keys(meeting, &restored.key))? {
            let (at, chunk) = row?;
            if at.value().4 != restored.items {
                break;
            }
            let chunk: Chunk = coded("log", chunk.value())?;
            restored.items += chunk.items.len() as u32;
            restored.end = chunk.end;
            for item in items(chunk) {
                if let Item::Frame(packet) = &item {
                    slot = duration_of(packet);
                    restored.frames += 1;
                }
                restored.media += slot;
                restored.slots.push(Slot::of(&item, slot.as_micros() as u32));
            }
        }
        Ok(restored)
    }
}

impl Speech {
    fn extend(&mut self, chunk: Chunk) {
        if !chunk.items.is_empty() {
            self.received = chunk.received;
        }
        self.stages = chunk.end.map(|end| end.stages);
        self.step = chunk.end.map(|end| end.step);
        self.items.extend(items(chunk));
    }
}

fn items(chunk: Chunk) -> impl Iterator<Item = Item> {
    chunk.items.into_iter().map(|i| i.map_or(Item::Gap, |p| Item::Frame(p.into())))
}

impl Chunk {
    /// The chunk that holds these items.
    pub fn new(items: Vec<Item>, end: Option<SpurtEnd>, received: Micros) -> Self {
        let items = items.into_iter().map(|item| match item {
            Item::Frame(packet) => Some(packet.to_vec()),
            Item::Gap | Item::End(_) => None,
        });
        Self { received, items: items.collect(), end }
    }
}
