//! Copies of a store: of one that is in use, as it stood at one moment, and of one that is damaged, as far as it can be read.

mod wreck;

use std::{
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use mesh::identity::NodeId;
use redb::{
    Database, Durability, Key, Range, ReadOnlyDatabase, ReadTransaction, ReadableDatabase, ReadableTable,
    TableDefinition, TableError, Value, backends::FileBackend,
};

use self::wreck::Wreck;
use super::{DISK_RESERVE, Store, StoreError, remove::Room, tables::*};

/// Bytes of rows in one transaction of the copy: they are in memory until it is committed.
const BATCH_BYTES: usize = 8 << 20;

/// In [`REVISIONS`]: the store is a copy, and no core has looked yet whether others know better.
const COPY: &str = "copy";

/// The most memory that pages of the copy are kept in while it is written, in bytes.
const CACHE_BYTES: usize = 16 << 20;

/// What was copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copied {
    /// Meetings.
    pub meetings: u64,
    /// Rows of all tables.
    pub rows: u64,
    /// Tables of which something could not be read; none but of a damaged store.
    pub broken: Vec<&'static str>,
}

/// One table as far as it was copied.
#[derive(Debug, Default)]
struct Part {
    rows: u64,
    broken: bool,
}

/// Where rows come from.
trait Source {
    fn table<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'_, K, V>,
        to: Option<&Database>,
    ) -> Result<Part, StoreError>;
}

/// Held while a copy takes room on the disk.
#[derive(Debug)]
pub struct CopyPlace(Arc<AtomicBool>);

impl Drop for CopyPlace {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Store {
    /// Writes all that the store holds at this moment to `file`, which is empty; others go on writing to the store.
    ///
    /// # Errors
    /// The disk is full, or something cannot be read: `file` is of no use then.
    pub fn copy_to(&self, file: File) -> Result<Copied, StoreError> {
        copy(&mut Whole(self.db.begin_read()?), Some(file))
    }

    /// The place of the one copy that there may be at a time, on the store's own disk.
    ///
    /// # Errors
    /// Another copy has it, or the disk has no room for one.
    pub fn place_for_copy(&self) -> Result<CopyPlace, StoreError> {
        if self.copying.swap(true, Ordering::AcqRel) {
            return Err(StoreError::Copying);
        }
        let place = CopyPlace(self.copying.clone());
        let (needed, left) = (self.size(), self.disk_left());
        if left < needed.saturating_add(DISK_RESERVE) {
            return Err(StoreError::NoRoomForCopy { needed, left });
        }
        Ok(place)
    }

    /// Whether it is a copy, perhaps of a time long ago, that no core has compared with what others hold.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn is_unchecked_copy(&self) -> Result<bool, StoreError> {
        let revisions = self.db.begin_read()?.open_table(REVISIONS)?;
        Ok(revisions.get(COPY)?.is_some())
    }

    /// It has been compared, as far as it can be.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn copy_is_checked(&self) -> Result<(), StoreError> {
        let mut transaction = self.db.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        transaction.open_table(REVISIONS)?.remove(COPY)?;
        transaction.commit()?;
        Ok(())
    }

    /// Copies a whole store that is not in use to an empty file, or only reads it through.
    ///
    /// # Errors
    /// `from` is no store, was not closed in good order, or is another node's than `node`.
    pub fn copy_file(from: &Path, node: &NodeId, to: Option<File>) -> Result<Copied, StoreError> {
        let open = |source: Box<dyn std::error::Error + Send + Sync>| StoreError::Open { path: from.into(), source };
        let read = ReadOnlyDatabase::open(from).map_err(|e| open(e.into()))?.begin_read()?;
        if let Some(of) = owner(&read)?.filter(|of| of != node.as_str()) {
            return Err(StoreError::Foreign { path: from.into(), of, node: node.clone() });
        }
        copy(&mut Whole(read), to)
    }

    /// Copies what can be read of a damaged store that is not in use. Of each table the rows before the first damaged page are kept
    /// and those after the last one, and what the commit before the newest has of the rest.
    ///
    /// # Errors
    /// Nothing of it can be read, or `to` cannot be written.
    pub fn salvage(from: &Path, to: File) -> Result<Copied, StoreError> {
        let to = target(to)?;
        let [mut newest, others @ ..] = Wreck::views(from)?;
        let mut copied = fill(&mut newest, Some(&to))?;
        if !copied.broken.is_empty() {
            for mut other in others {
                fill(&mut other, Some(&to))?;
            }
            // Last, so that the newest of each row stands.
            fill(&mut newest, Some(&to))?;
            let broken = std::mem::take(&mut copied.broken);
            copied = Copied { broken, ..fill(&mut Whole(to.begin_read()?), None)? };
        }
        if copied.rows == 0 {
            return Err(StoreError::Record { what: "file", why: "no row of it can be read".into() });
        }
        finish(&to, !copied.broken.is_empty())?;
        Ok(copied)
    }
}

/// A new file that only this user may read.
///
/// # Errors
/// It is there already, or cannot be made.
pub fn new_file(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// The node whose store it is, if it says so.
pub(super) fn owner(read: &ReadTransaction) -> Result<Option<String>, StoreError> {
    match read.open_table(ABOUT) {
        Ok(table) => Ok(table.get("node")?.map(|row| row.value().to_owned())),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn copy(from: &mut impl Source, file: Option<File>) -> Result<Copied, StoreError> {
    let to = file.map(target).transpose()?;
    let copied = fill(from, to.as_ref())?;
    to.map_or(Ok(()), |to| finish(&to, false))?;
    Ok(copied)
}

/// A new store in an empty file.
fn target(file: File) -> Result<Database, StoreError> {
    let made = FileBackend::new(file)
        .and_then(|backend| Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend));
    made.map_err(|e| StoreError::Database(Box::new(e.into())))
}

/// Copies every table.
fn fill(from: &mut impl Source, to: Option<&Database>) -> Result<Copied, StoreError> {
    let mut copied = Copied::default();
    macro_rules! tables {
        ($($table:ident)*) => {$(
            let part = from.table($table, to)?;
            copied.rows += part.rows;
            if part.broken {
                copied.broken.push(stringify!($table));
            }
            if stringify!($table) == "MEETINGS" {
                copied.meetings = part.rows;
            }
        )*};
    }
    // Indexes as well: they are made anew only where something is missing.
    tables!(ABOUT MEETINGS PARTICIPANTS PLACEMENTS SPURTS LOG SEQUENCES COVERS SEGMENTS RECEIPTS CLAIMS REVISIONS STANDING KEYS TAKEN REMOVED);
    Ok(copied)
}

/// Makes the copy good for a start: its numbers fit what it holds, and it says that it is a copy, and was closed in good order.
fn finish(to: &Database, broken: bool) -> Result<(), StoreError> {
    let mut transaction = to.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    transaction.set_quick_repair(true);
    super::write::create_tables(&transaction)?;
    Room::forget(&transaction)?;
    transaction.open_table(REVISIONS)?.insert(COPY, 1)?;
    if broken {
        // What is given out next must be beyond all that is there, and indexes are made anew at the start.
        let mut revisions = transaction.open_table(REVISIONS)?;
        revisions.remove("schema")?;
        let mut newest = revisions.get("claims")?.map_or(0, |row| row.value());
        for row in transaction.open_table(CLAIMS)?.iter()? {
            newest = newest.max(row?.1.value().0);
        }
        revisions.insert("claims", newest)?;
        let mut sequences = transaction.open_table(SEQUENCES)?;
        for row in transaction.open_table(SEGMENTS)?.iter()? {
            let (meeting, seq) = row?.0.value();
            let below = sequences.get(meeting)?.map_or(0, |row| row.value());
            sequences.insert(meeting, below.max(seq + 1))?;
        }
        transaction.open_table(STANDING)?.retain(|_, _| false)?;
        transaction.open_table(KEYS)?.retain(|_, _| false)?;
    }
    transaction.commit()?;
    Ok(())
}

/// A store that can be read, as it stood when the transaction began.
struct Whole(ReadTransaction);

impl Source for Whole {
    fn table<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'_, K, V>,
        to: Option<&Database>,
    ) -> Result<Part, StoreError> {
        let mut rows = match self.0.open_table(table) {
            Ok(open) => open.range::<K::SelfType<'_>>(..)?,
            Err(TableError::TableDoesNotExist(_)) => return Ok(Part::default()),
            Err(error) => return Err(error.into()),
        };
        let mut broken = None;
        let rows = put(to, table, || match step(&mut rows, End::Front) {
            Step::Row(key, value) => Some((key, value)),
            Step::End => None,
            Step::Broken(why) => {
                broken = Some(why);
                None
            }
        })?;
        match broken {
            Some(why) => Err(StoreError::Record { what: "file", why }),
            None => Ok(Part { rows, broken: false }),
        }
    }
}

/// From which end rows are taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Front,
    Back,
}

/// What comes next of a table: a row as it is stored, or why there is none.
enum Step {
    Row(Vec<u8>, Vec<u8>),
    End,
    Broken(String),
}

/// The next row. Damaged pages may break the database's own code: that is a row that cannot be read.
fn step<K: Key + 'static, V: Value + 'static>(rows: &mut Range<'_, K, V>, end: End) -> Step {
    let next = catch_unwind(AssertUnwindSafe(|| {
        let row = if end == End::Front { rows.next() } else { rows.next_back() }?;
        Some(row.map(|(key, value)| {
            let (key, value) = (key.value(), value.value());
            (K::as_bytes(&key).as_ref().to_vec(), V::as_bytes(&value).as_ref().to_vec())
        }))
    }));
    match next {
        Ok(Some(Ok((key, value)))) => Step::Row(key, value),
        Ok(None) => Step::End,
        Ok(Some(Err(error))) => Step::Broken(error.to_string()),
        Err(_) => Step::Broken("the database could not read it".into()),
    }
}

/// Writes rows as long as `next` has some; returns how many.
fn put<K: Key + 'static, V: Value + 'static>(
    to: Option<&Database>,
    table: TableDefinition<'_, K, V>,
    mut next: impl FnMut() -> Option<(Vec<u8>, Vec<u8>)>,
) -> Result<u64, StoreError> {
    let Some(to) = to else { return Ok(std::iter::from_fn(next).count() as u64) };
    let (mut rows, mut more) = (0, true);
    while more {
        let mut transaction = to.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        let mut open = transaction.open_table(table)?;
        let mut bytes = 0;
        while more && bytes < BATCH_BYTES {
            let Some((key, value)) = next() else {
                more = false;
                break;
            };
            bytes += key.len() + value.len();
            rows += 1;
            open.insert(K::from_bytes(&key), V::from_bytes(&value))?;
        }
        drop(open);
        transaction.commit()?;
    }
    Ok(rows)
}

#[cfg(test)]
mod tests;
