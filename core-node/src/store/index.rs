//! Indexes: which meetings stand where, and which was made under a key. They follow each record as it is written.

use mesh::wire::{MeetingId, keys::KeyDigest};
use redb::{ReadableTable, WriteTransaction};

use super::{
    StoreError,
    damage::Damage,
    record::{MeetingRecord, Status},
    tables::*,
    value::json,
};

/// What the tables hold in this version; an older store's indexes are made anew.
const SCHEMA: u64 = 2;

pub(super) fn code(status: Status) -> u8 {
    match status {
        Status::Placing => 0,
        Status::Connecting => 1,
        Status::Active => 2,
        Status::Finishing => 3,
        Status::Done => 4,
        Status::Failed => 5,
    }
}

/// Every status.
pub(super) const STATUSES: [Status; 6] =
    [Status::Placing, Status::Connecting, Status::Active, Status::Finishing, Status::Done, Status::Failed];

/// Follows a record that is being written.
pub(super) fn put(transaction: &WriteTransaction, record: &MeetingRecord) -> Result<(), StoreError> {
    let id = record.id.as_u128();
    let mut standing = transaction.open_table(STANDING)?;
    for status in STATUSES {
        let row = (code(status), id);
        let there = standing.get(row)?.is_some();
        // Most writes change no status: then no page of the index is.
        if there && status != record.status {
            standing.remove(row)?;
        } else if !there && status == record.status {
            standing.insert(row, ())?;
        }
    }
    let mut keys = transaction.open_table(KEYS)?;
    if let Some((key, body)) = &record.idempotency {
        let key = KeyDigest::of_request(key);
        if keys.get(key.0.as_slice())?.is_none() {
            keys.insert(key.0.as_slice(), (id, body.as_str()))?;
        }
    }
    if let Some(key) = &record.spec.deduplication_key {
        let key = KeyDigest::of_meeting(key);
        let mine = keys.get(key.0.as_slice())?.map(|row| row.value().0 == id);
        match (record.status.ended(), mine) {
            (true, Some(true)) => drop(keys.remove(key.0.as_slice())?),
            (false, None | Some(false)) => drop(keys.insert(key.0.as_slice(), (id, ""))?),
            _ => {}
        }
    }
    Ok(())
}

/// Nothing is known of the meeting any more. Returns how many bytes that was.
pub(super) fn remove(transaction: &WriteTransaction, meeting: MeetingId) -> Result<u64, StoreError> {
    let id = meeting.as_u128();
    let mut standing = transaction.open_table(STANDING)?;
    let mut removed = 0;
    for status in STATUSES {
        removed += standing.remove((code(status), id))?.map_or(0, |_| 17);
    }
    transaction.open_table(KEYS)?.retain(|key, (of, body)| {
        let stays = of != id;
        removed += if stays { 0 } else { (key.len() + 16 + body.len()) as u64 };
        stays
    })?;
    Ok(removed)
}

/// Makes the indexes of a store that has none yet.
pub(super) fn build(transaction: &WriteTransaction, damage: &Damage) -> Result<(), StoreError> {
    let mut revisions = transaction.open_table(REVISIONS)?;
    if revisions.get("schema")?.is_some_and(|row| row.value() == SCHEMA) {
        return Ok(());
    }
    for row in transaction.open_table(MEETINGS)?.iter()? {
        let (id, value) = row?;
        let id = MeetingId::from_u128(id.value());
        if let Some(record) = damage.tally("meetings", id, json::<MeetingRecord>("meetings", value.value()))? {
            put(transaction, &record)?;
        }
    }
    transaction.delete_table(OLD_RECEIPTS)?;
    revisions.insert("schema", SCHEMA)?;
    Ok(())
}
