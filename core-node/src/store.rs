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
//! | revisions | a name | a number: the newest revision of `claims` given out, and the store's own |
//! | standing | [`Status`](crate::store::record::Status) as a number, meeting | –: an index |
//! | keys | digest of a key of a request | the meeting made under it, and the digest of the request's body: an index |
//! | taken | meeting | of the replica that this core holds: term and core that it is of, and its newest final |
//! | removed | meeting | [`Removal`], JSON: that it was removed, and which cores have not heard |
//! | about | `node` | whose store it is |
//!
//! JSON is packed where that is shorter (`value`). What is written was read back before; what cannot be read all the same, because
//! a disk lies, is passed over, counted and named (`damage`), and the rest is served.
//!
//! A spurt's done mark and the segment made of it are written in one transaction: a second final of
//! the same speech cannot be.

pub mod backup;
mod copy;
mod damage;
mod index;
pub mod log;
mod open;
mod read;
pub mod reads;
pub mod record;
mod remove;
mod tables;
#[cfg(test)]
mod tests;
mod value;
mod write;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use mesh::{
    clock::Micros,
    identity::NodeId,
    trace::TraceContext,
    wire::{
        Epoch, MeetingId, Term,
        spurt::{EdgeStages, Item, SpurtEnd, Step},
    },
};
use nix::sys::statvfs::statvfs;
use redb::{Database, Durability, ReadableTable};
use serde::{Deserialize, Serialize};

pub(crate) use self::value::{is_within, json, to_json};
pub use self::{
    copy::{Copied, CopyPlace, new_file},
    damage::{Damaged, MAX_NAMED},
    open::{Held, LOCK_WAIT, Opening},
    value::{MAX_DEPTH, MAX_VALUE},
    write::Values,
};
use self::{
    damage::Damage,
    record::{MeetingRecord, Participant, removal::Removal},
    write::{apply, replace_claim},
};
use crate::{key::SpurtKey, speech::utterance::Cover, transcript::Segment};

/// Live meetings need so much room on the disk to come to their end, in bytes: below it no others are made, and no copies.
pub const DISK_RESERVE: u64 = 64 << 20;

/// So many numbers one life of a core may use ([`Store::begin_life`]).
const NUMBERS_OF_A_LIFE: u64 = 1 << 32;

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
    /// Another process has it open.
    #[error("store {path}: open in another process{}", holder.map_or_else(String::new, |pid| format!(": pid {pid}")))]
    Locked {
        /// The file.
        path: PathBuf,
        /// That process, if the system tells.
        holder: Option<u32>,
    },
    /// The file is damaged, so that the database does not open it.
    #[error("store {path}: damaged: {why}; `core-node repair` keeps what can be read of it")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the database says.
        why: String,
    },
    /// It is another node's: what it holds is that node's to serve.
    #[error("store {path}: it is the store of node {of}, and this node is {node}: give this one a file of its own")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        of: String,
        /// Whose it would have to be.
        node: NodeId,
    },
    /// One copy at a time.
    #[error("store: another copy is being made")]
    Copying,
    /// A copy would fill the disk, and the store would fail with it.
    #[error(
        "store: a copy needs {needed} bytes beside the {DISK_RESERVE} that live meetings need, and the disk has {left}"
    )]
    NoRoomForCopy {
        /// Bytes.
        needed: u64,
        /// Bytes that the disk has.
        left: u64,
    },
    /// The database failed.
    #[error("store: {0}")]
    Database(Box<redb::Error>),
    /// A record is not what this version writes, or would not be.
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

impl StoreError {
    pub(crate) fn io(error: std::io::Error) -> Self {
        Self::Database(Box::new(redb::Error::Io(error)))
    }
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
    /// A participant as they now stand, and the id of one who makes room for them.
    Participant(MeetingId, Participant, Option<String>),
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
        /// In which turn, and of which core.
        turn: (Term, NodeId),
    },
    /// What is attested of a meeting that is over.
    Receipt(MeetingId, String),
    /// Another core serves the meeting: speech whose words are not out here is forgotten.
    Forget(MeetingId),
    /// Nothing is to be kept of a meeting that is over but that.
    Remove(MeetingId, Removal),
    /// That is remembered from now on of a meeting that was removed, or nothing any more.
    Removal(MeetingId, Option<Removal>),
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
    damage: Damage,
    room: remove::Room,
    /// Meetings looked at since the start: see [`Store::scrub`].
    scrubbed: AtomicU64,
    /// Transactions since the start.
    commits: AtomicU64,
    /// A copy is being made.
    copying: Arc<AtomicBool>,
}

impl Store {
    /// Writes down that this is the store of `node`, unless it says already whose it is.
    ///
    /// # Errors
    /// It is another node's: [`StoreError::Foreign`]; or the disk's fault.
    pub fn belong_to(&self, node: &NodeId) -> Result<(), StoreError> {
        let mut transaction = self.db.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        {
            let mut about = transaction.open_table(tables::ABOUT)?;
            let of = about.get("node")?.map(|row| row.value().to_owned());
            match of {
                Some(of) if of != node.as_str() => {
                    return Err(StoreError::Foreign { path: self.path.clone(), of, node: node.clone() });
                }
                Some(_) => return Ok(()),
                None => drop(about.insert("node", node.as_str())?),
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// A new life of this core begins at `now`. Returns from where on what it sends is numbered: above all that former lives have
    /// numbered, should the clock have gone back since.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn begin_life(&self, now: Micros) -> Result<Micros, StoreError> {
        let mut transaction = self.db.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        let begun = {
            let mut revisions = transaction.open_table(tables::REVISIONS)?;
            let former = revisions.get("life")?.map_or(0, |row| row.value());
            let begun = now.0.max(former.saturating_add(NUMBERS_OF_A_LIFE));
            revisions.insert("life", begun)?;
            begun
        };
        transaction.commit()?;
        Ok(Micros(begun))
    }

    /// How much of the file is in use, in bytes: its length, but for what [`Op::Remove`] gave back and nothing has taken since.
    pub fn size(&self) -> u64 {
        self.room.used(fs::metadata(&self.path).map_or(0, |m| m.len()))
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How much room its disk has for it, in bytes; as much as there can be if the system does not say.
    pub fn disk_left(&self) -> u64 {
        statvfs(&self.path).map_or(u64::MAX, |disk| {
            let (blocks, size): (u64, u64) = (disk.blocks_available(), disk.fragment_size());
            blocks.saturating_mul(size)
        })
    }

    /// What could not be read so far.
    pub fn damaged(&self) -> Vec<Damaged> {
        self.damage.rows()
    }

    /// How many meetings [`Store::scrub`] has looked at.
    pub fn scrubbed(&self) -> u64 {
        self.scrubbed.load(Ordering::Relaxed)
    }

    /// How many transactions there were since the start.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Makes the changes and returns when the disk has them.
    ///
    /// # Errors
    /// None of them was made.
    pub fn write<'a>(&self, ops: impl IntoIterator<Item = &'a Op>) -> Result<(), StoreError> {
        let prepared = ops.into_iter().map(|op| Ok((op, op.prepare()?))).collect::<Result<Vec<_>, StoreError>>()?;
        self.commit(prepared.iter().map(|(op, values)| (*op, values)))
    }

    /// Makes changes that [`Op::prepare`] has found good, and returns when the disk has them.
    ///
    /// # Errors
    /// None of them was made: the disk's fault.
    pub fn commit<'a>(&self, ops: impl IntoIterator<Item = (&'a Op, &'a Values)>) -> Result<(), StoreError> {
        let mut transaction = self.db.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        let mut removed = 0;
        for (op, values) in ops {
            removed += apply(&transaction, op, values, &self.damage)?;
        }
        let room = self.room.after(&transaction, removed, &self.path)?;
        transaction.commit()?;
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.room.set(room);
        Ok(())
    }

    /// Writes down which pages are in use, so that a start after a crash need not read the whole file for that, and stumbles over none
    /// that is damaged. Worth it when nothing else is to be written: the next write undoes it.
    ///
    /// # Errors
    /// The disk's fault.
    pub fn settle(&self) -> Result<(), StoreError> {
        let mut transaction = self.db.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        transaction.set_quick_repair(true);
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
        self.commits.fetch_add(1, Ordering::Relaxed);
        Ok(replaced)
    }

    /// Bytes in pages that hold something.
    #[cfg(test)]
    pub(crate) fn used(&self) -> u64 {
        let stats = self.stall().stats().expect("numbers");
        stats.allocated_pages() * stats.page_size() as u64
    }

    /// What is stored of a meeting becomes unreadable.
    #[cfg(test)]
    pub(crate) fn spoil(&self, meeting: MeetingId) {
        let transaction = self.stall();
        let spoiled =
            transaction.open_table(tables::MEETINGS).map(|mut t| t.insert(meeting.as_u128(), &b"?"[..]).map(drop));
        spoiled.expect("a table").expect("a row");
        transaction.commit().expect("a commit");
    }

    /// No other write is made while this is held.
    #[cfg(test)]
    pub(crate) fn stall(&self) -> redb::WriteTransaction {
        self.db.begin_write().expect("a store that can be written")
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
