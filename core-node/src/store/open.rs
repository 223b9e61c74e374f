//! Opening the file: one process at a time, and whoever comes too early waits a while.

#![allow(clippy::disallowed_methods, reason = "I/O shell: waits for the other process")]

use std::{
    fs,
    io::Read,
    ops::Bound,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use redb::{
    Database, DatabaseError, Durability, ReadOnlyDatabase, ReadableDatabase, StorageBackend, StorageError,
    backends::FileBackend,
};

use super::{Store, StoreError, copy, damage::Damage, index, remove::Room, write::create_tables};

/// How long a start waits for the process that has the file open: one that was killed takes a while to give its memory back.
pub const LOCK_WAIT: Duration = Duration::from_secs(30);

/// Between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// How a store is opened.
#[derive(Debug, Clone, Copy)]
pub struct Opening {
    /// The most memory that pages of the file are kept in, in bytes.
    pub cache_bytes: usize,
    /// How long another process that has it open is waited for.
    pub lock_wait: Duration,
}

impl Default for Opening {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, lock_wait: Duration::ZERO }
    }
}

impl Store {
    /// Opens the file, making it and its directory where they are missing; only this user may read it.
    ///
    /// # Errors
    /// It cannot be made, is no database, or is open elsewhere.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_as(path, Opening::default())
    }

    /// The same, as `opening` says. Blocks while another process has the file.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_as(path: &Path, opening: Opening) -> Result<Self, StoreError> {
        let deadline = Instant::now() + opening.lock_wait;
        Self::open_when_free(path, opening.cache_bytes, |holder| {
            tracing::warn!(store = %path.display(), holder, "another process has the store open: waiting for it to end");
            std::thread::sleep(LOCK_PAUSE);
            Instant::now() < deadline
        })
    }

    /// Tries again as long as `again` says, which is told who has the file.
    pub(super) fn open_when_free(
        path: &Path,
        cache_bytes: usize,
        mut again: impl FnMut(Option<u32>) -> bool,
    ) -> Result<Self, StoreError> {
        loop {
            // Damaged pages may break the database's own code.
            let opened = catch_unwind(AssertUnwindSafe(|| Self::over(database(path, cache_bytes)?, path)));
            let broken = || StoreError::Damaged { path: path.into(), why: "the database could not read it".into() };
            match opened.unwrap_or_else(|_| Err(broken())) {
                Err(StoreError::Locked { holder, .. }) if again(holder) => {}
                opened => return opened,
            }
        }
    }

    /// Makes the file as short as it can be, and returns how long it was and is, in bytes.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn compact(path: &Path, opening: Opening) -> Result<(u64, u64), StoreError> {
        let mut store = Self::open_as(path, opening)?;
        let length = || fs::metadata(path).map_or(0, |m| m.len());
        let before = length();
        store.db.compact().map_err(|e| StoreError::Database(Box::new(e.into())))?;
        let mut transaction = store.db.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        Room::forget(&transaction)?;
        transaction.commit()?;
        drop(store);
        Ok((before, length()))
    }

    /// Whether the file at `path` can be a store that this user may open, without opening it as one.
    ///
    /// # Errors
    /// What is in the way.
    pub fn check(path: &Path) -> Result<(), StoreError> {
        let refuse = |source: std::io::Error| StoreError::Open { path: path.into(), source: source.into() };
        let opened = fs::OpenOptions::new().read(true).write(true).open(path);
        opened.and_then(is_database).map_err(refuse)
    }

    fn over(db: Database, path: &Path) -> Result<Self, StoreError> {
        let damage = Damage::default();
        let mut transaction = db.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        create_tables(&transaction)?;
        index::build(&transaction, &damage)?;
        let room = Room::read(&transaction)?;
        transaction.commit()?;
        let (path, scrubbed, commits, copying) = (path.into(), AtomicU64::new(0), AtomicU64::new(1), Arc::default());
        Ok(Self { db, path, damage, room, scrubbed, commits, copying })
    }

    /// Whose store the file is, if it says so and can be asked now: no process has it open, and it was closed in good order.
    pub fn owner_of(path: &Path) -> Option<String> {
        let read = ReadOnlyDatabase::open(path).ok()?.begin_read().ok()?;
        copy::owner(&read).ok().flatten()
    }

    /// Keeps other processes from opening the file as long as what is returned is held. One that is not there is free.
    ///
    /// # Errors
    /// One has it open: [`StoreError::Locked`]; or it cannot be opened.
    pub fn hold(path: &Path) -> Result<Held, StoreError> {
        let wrap = |source: Box<dyn std::error::Error + Send + Sync>| StoreError::Open { path: path.into(), source };
        let file = match fs::OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Held(None)),
            Err(error) => return Err(wrap(error.into())),
        };
        let backend = FileBackend::new(file).map_err(|e| wrap(e.into()))?;
        match backend.try_lock_range(Bound::Unbounded, Bound::Unbounded) {
            Ok(false) => Err(StoreError::Locked { path: path.into(), holder: holder(path) }),
            // Where files have no locks, there is none to look at.
            Ok(true) | Err(_) => Ok(Held(Some(backend))),
        }
    }
}

/// A store's file that no other process opens meanwhile.
#[derive(Debug)]
pub struct Held(#[expect(dead_code, reason = "held for its lock")] Option<FileBackend>);

fn database(path: &Path, cache_bytes: usize) -> Result<Database, StoreError> {
    let wrap = |source: Box<dyn std::error::Error + Send + Sync>| StoreError::Open { path: path.into(), source };
    let refuse = |error: DatabaseError| match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::Locked { path: path.into(), holder: holder(path) },
        DatabaseError::Storage(StorageError::Corrupted(why)) => StoreError::Damaged { path: path.into(), why },
        error => wrap(error.into()),
    };
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(|e| wrap(e.into()))?;
    }
    let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let backend = FileBackend::new(file.map_err(|e| wrap(e.into()))?).map_err(refuse)?;
    Database::builder().set_cache_size(cache_bytes).create_with_backend(backend).map_err(refuse)
}

/// The first bytes of a redb file.
const MAGIC: &[u8] = b"redb";

fn is_database(file: fs::File) -> std::io::Result<()> {
    let mut head = vec![];
    file.take(MAGIC.len() as u64).read_to_end(&mut head)?;
    // One that was just made is empty.
    let is = head.is_empty() || head == MAGIC;
    is.then_some(()).ok_or_else(|| std::io::Error::other("not a store of this program"))
}

/// The process that has locked the file, if the system tells.
fn holder(path: &Path) -> Option<u32> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    holder_of(&locks, fs::metadata(path).ok()?.ino())
}

/// As `/proc/locks` has it (proc_locks(5)): `1: FLOCK ADVISORY WRITE 708 08:01:1234 0 EOF`. A lock that belongs to no process has -1.
fn holder_of(locks: &str, inode: u64) -> Option<u32> {
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let at = fields.iter().position(|f| matches!(*f, "FLOCK" | "POSIX" | "OFDLCK"))?;
        let (pid, file) = (fields.get(at + 3)?, fields.get(at + 4)?);
        let of = file.rsplit(':').next()?.parse::<u64>().ok()?;
        // `->`: it waits.
        (of == inode && !fields.contains(&"->")).then(|| pid.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_read_from_the_system_s_table() {
        let locks = "1: OFDLCK ADVISORY  WRITE -1 fe:01:77 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 4711 fe:01:77 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 12 fe:01:78 0 EOF\n";
        assert_eq!(holder_of(locks, 77), Some(4711));
        assert_eq!(holder_of(locks, 78), None);
        assert_eq!(holder_of("", 77), None);
    }
}
