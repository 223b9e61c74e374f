//! Rows that could not be read: each is counted and named once, and the rest is served.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Mutex,
};

use mesh::wire::MeetingId;

use super::StoreError;
use crate::lock;

/// The most rows that are named; more are counted together.
pub const MAX_NAMED: usize = 100;

/// A row that could not be read. What it holds stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Damaged {
    /// Of which table.
    pub table: &'static str,
    /// Its key: a meeting's id and what follows; no name of anybody.
    pub row: String,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.table, self.row)
    }
}

/// All of them since the start.
#[derive(Default)]
pub(super) struct Damage {
    rows: Mutex<BTreeSet<Damaged>>,
}

impl Damage {
    /// What could be read of a row; `None` where it could not.
    ///
    /// # Errors
    /// The database's.
    pub(super) fn tally<T>(
        &self,
        table: &'static str,
        row: impl fmt::Display,
        read: Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        match read {
            Ok(value) => Ok(Some(value)),
            Err(StoreError::Record { why, .. }) => {
                self.note(table, row, &why);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// A row could not be read.
    pub(super) fn note(&self, table: &'static str, row: impl fmt::Display, why: &str) {
        let damaged = Damaged { table, row: row.to_string() };
        let mut rows = lock(&self.rows);
        if rows.len() >= MAX_NAMED || !rows.insert(damaged.clone()) {
            return;
        }
        tracing::error!(%damaged, why, "a record of the store cannot be read: it is passed over, the rest is served");
        let mut tables = BTreeMap::<&str, u32>::new();
        rows.iter().for_each(|row| *tables.entry(row.table).or_default() += 1);
        for (table, count) in tables {
            metrics::gauge!("nearfield_core_store_unreadable_records", "table" => table).set(f64::from(count));
        }
    }

    /// Nothing is kept of the meeting any more.
    pub(super) fn forget(&self, meeting: MeetingId) {
        let id = meeting.to_string();
        lock(&self.rows).retain(|row| !row.row.starts_with(&id));
    }

    /// They, in order.
    pub(super) fn rows(&self) -> Vec<Damaged> {
        lock(&self.rows).iter().cloned().collect()
    }
}
