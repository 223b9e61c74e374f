//! Removing a meeting that is over, and the room that leaves in the file.
//!
//! Pages that are free are written to again, but the file stays as long as it is until it is compacted
//! ([`Store::compact`](super::Store::compact)). So what was removed is counted as room until the file grows: then it is used up.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use mesh::wire::MeetingId;
use redb::{ReadableTable, WriteTransaction};

use super::{StoreError, index, tables::*};

/// How much longer the file may have become by the removal itself.
const SLACK: u64 = 1 << 20;

/// What was removed, and how long the file was then; in bytes.
#[derive(Default)]
pub(super) struct Room {
    removed: AtomicU64,
    length: AtomicU64,
}

impl Room {
    pub(super) fn read(transaction: &WriteTransaction) -> Result<Self, StoreError> {
        let rows = transaction.open_table(REVISIONS)?;
        let number = |name| Ok::<_, StoreError>(rows.get(name)?.map_or(0, |row| row.value()));
        Ok(Self { removed: number("removed")?.into(), length: number("length")?.into() })
    }

    /// How much of a file of `length` bytes is in use.
    pub(super) fn used(&self, length: u64) -> u64 {
        let (removed, then) = (self.removed.load(Ordering::Relaxed), self.length.load(Ordering::Relaxed));
        if length <= then.saturating_add(SLACK) { length.saturating_sub(removed) } else { length }
    }

    /// The room there will be once so many bytes more are `removed`.
    pub(super) fn after(
        &self,
        transaction: &WriteTransaction,
        removed: u64,
        path: &Path,
    ) -> Result<Option<(u64, u64)>, StoreError> {
        if removed == 0 {
            return Ok(None);
        }
        let length = fs::metadata(path).map_or(0, |m| m.len());
        let room = (removed + length - self.used(length), length);
        let mut rows = transaction.open_table(REVISIONS)?;
        rows.insert("removed", room.0)?;
        rows.insert("length", room.1)?;
        Ok(Some(room))
    }

    pub(super) fn set(&self, room: Option<(u64, u64)>) {
        let Some((removed, length)) = room else { return };
        self.removed.store(removed, Ordering::Relaxed);
        self.length.store(length, Ordering::Relaxed);
    }

    /// The file has no room left in it.
    pub(super) fn forget(transaction: &WriteTransaction) -> Result<(), StoreError> {
        let mut rows = transaction.open_table(REVISIONS)?;
        rows.remove("removed")?;
        rows.remove("length")?;
        Ok(())
    }
}

/// Removes all that is known of a meeting; returns how many bytes that was.
pub(super) fn remove(transaction: &WriteTransaction, meeting: MeetingId) -> Result<u64, StoreError> {
    let (id, end) = (meeting.as_u128(), after(meeting));
    let mut removed = index::remove(transaction, meeting)?;
    {
        let mut gone = |bytes: usize| {
            removed += bytes as u64;
            false
        };
        transaction
            .open_table(PARTICIPANTS)?
            .retain_in((id, "")..(end, ""), |(_, k), v| gone(16 + k.len() + v.len()))?;
        transaction.open_table(PLACEMENTS)?.retain_in((id, 0)..(end, 0), |_, v| gone(24 + v.len()))?;
        transaction.open_table(SEGMENTS)?.retain_in((id, 0)..(end, 0), |_, v| gone(24 + v.len()))?;
        let spurts = (id, 0, "", 0)..(end, 0, "", 0);
        transaction.open_table(SPURTS)?.retain_in(spurts, |(_, _, k, _), v| gone(28 + k.len() + v.len()))?;
        let log = (id, 0, "", 0, 0)..(end, 0, "", 0, 0);
        transaction.open_table(LOG)?.retain_in(log, |(_, _, k, ..), v| gone(32 + k.len() + v.len()))?;
        let covers = (id, "", i64::MIN)..(end, "", i64::MIN);
        transaction.open_table(COVERS)?.retain_in(covers, |(_, k, _), v| gone(24 + k.len() + v.len()))?;
    }
    for table in [MEETINGS, RECEIPTS] {
        removed += transaction.open_table(table)?.remove(id)?.map_or(0, |row| 16 + row.value().len() as u64);
    }
    removed += transaction.open_table(SEQUENCES)?.remove(id)?.map_or(0, |_| 24);
    transaction.open_table(TAKEN)?.remove(id)?;
    removed += transaction.open_table(CLAIMS)?.remove(id)?.map_or(0, |row| 24 + row.value().1.len() as u64);
    Ok(removed)
}
