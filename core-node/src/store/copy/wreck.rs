//! A store that the database refuses to open, read without its checks.
//!
//! After a crash redb verifies the checksum of every page before it lets anybody in, so that one flipped bit locks all the rest away. A
//! reader beside a live writer does not: it trusts the newest commit that its header names. So the file is shown to such a reader, as
//! if it had been closed in good order, and is never written to. Rows have checksums of their own (`value`).

use std::{
    fs::File,
    io,
    ops::Bound,
    os::unix::fs::FileExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use redb::{
    BackendError, Builder, ConcurrencyMode, Database, Key, Range, ReadOnlyDatabase, ReadableDatabase, StorageBackend,
    TableDefinition, Value,
};

use super::{End, Part, Source, Step, put, step};
use crate::store::StoreError;

/// Where redb 4's header has its flags.
const FLAGS: u64 = 9;
/// Flags: the file was not closed in good order; the newest commit may not be on disk.
const UNCLEAN: u8 = 2 | 8;
/// Flag: the newest commit needs none to fall back on.
const TWO_PHASE: u8 = 4;

/// Where its two commit slots begin, and how long they are; a slot's last bytes are its checksum.
const SLOTS: [u64; 2] = [64, 192];
const SLOT_BYTES: u64 = 128;
const HEADER_BYTES: u64 = SLOTS[1] + SLOT_BYTES;

/// A damaged file as it is read: all of it, or but for one of its two newest commits.
pub(super) struct Wreck {
    path: PathBuf,
    hidden: Option<u64>,
}

impl Wreck {
    /// The ways to look at it, the best first.
    pub(super) fn views(path: &Path) -> Result<[Self; 3], StoreError> {
        File::open(path).map_err(|e| StoreError::Open { path: path.into(), source: e.into() })?;
        let [first, second] = SLOTS;
        Ok([None, Some(first), Some(second)].map(|hidden| Self { path: path.into(), hidden }))
    }

    /// The rows of a table from one end; `None` if not even its root can be read.
    fn rows<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<'_, K, V>,
    ) -> Option<(ReadOnlyDatabase, Range<'static, K, V>)> {
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let view = View { file: File::open(&self.path).ok()?, hidden: self.hidden };
            let mut builder = Builder::new();
            builder.set_cache_size(super::CACHE_BYTES).set_concurrency_mode(ConcurrencyMode::SingleWriter);
            let db = builder.open_read_only_with_backend(view).ok()?;
            let rows = db.begin_read().ok()?.open_table(table).ok()?.range::<K::SelfType<'_>>(..).ok()?;
            Some((db, rows))
        }));
        opened.ok().flatten()
    }
}

impl Source for Wreck {
    fn table<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'_, K, V>,
        to: Option<&Database>,
    ) -> Result<Part, StoreError> {
        let Some((_held, mut rows)) = self.rows(table) else { return Ok(Part { rows: 0, broken: true }) };
        let (mut broken, mut last) = (false, None::<Vec<u8>>);
        // Each key is greater than the one before, or it is none.
        let mut count = put(to, table, || match step(&mut rows, End::Front) {
            Step::Row(key, value) if last.as_ref().is_none_or(|last| K::compare(last, &key).is_lt()) => {
                last = Some(key.clone());
                Some((key, value))
            }
            Step::End => None,
            Step::Row(..) | Step::Broken(_) => {
                broken = true;
                None
            }
        })?;
        if broken && let Some((_held, mut rows)) = self.rows(table) {
            // Not up to the last of those: that may be one that was never written.
            let mut first = None::<Vec<u8>>;
            count += put(to, table, || match step(&mut rows, End::Back) {
                Step::Row(key, value) if first.as_ref().is_none_or(|first| K::compare(&key, first).is_lt()) => {
                    first = Some(key.clone());
                    Some((key, value))
                }
                _ => None,
            })?;
        }
        Ok(Part { rows: count, broken })
    }
}

#[derive(Debug)]
struct View {
    file: File,
    hidden: Option<u64>,
}

impl View {
    /// Makes of the header's bytes what is shown: the checksum of the hidden slot is wrong.
    fn cover(&self, offset: u64, out: &mut [u8]) {
        for (at, byte) in (offset..HEADER_BYTES).zip(out) {
            if at == FLAGS {
                *byte &= !UNCLEAN;
                *byte &= if self.hidden.is_some() { !TWO_PHASE } else { u8::MAX };
            } else if self.hidden.is_some_and(|slot| (slot + SLOT_BYTES - 16..slot + SLOT_BYTES).contains(&at)) {
                *byte = !*byte;
            }
        }
    }
}

fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "a damaged file is only read")
}

impl StorageBackend for View {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)?;
        self.cover(offset, out);
        Ok(())
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(refused())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(refused())
    }

    fn try_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn try_lock_shared_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn lock_shared_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn query_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(false)
    }
}
