//! What each change does to the tables.

use mesh::{clock::Micros, wire::MeetingId};
use redb::{ReadableTable, WriteTransaction};

use super::{Chunk, DoneMark, Op, Replaced, SpurtRecord, StoreError, tables::*};
use crate::{key::SpurtKey, utterance::Cover};

pub(super) fn create_tables(transaction: &WriteTransaction) -> Result<(), StoreError> {
    transaction.open_table(MEETINGS)?;
    transaction.open_table(PARTICIPANTS)?;
    transaction.open_table(PLACEMENTS)?;
    transaction.open_table(SPURTS)?;
    transaction.open_table(LOG)?;
    transaction.open_table(SEQUENCES)?;
    transaction.open_table(SEGMENTS)?;
    transaction.open_table(COVERS)?;
    transaction.open_table(RECEIPTS)?;
    transaction.open_table(CLAIMS)?;
    transaction.open_table(REVISIONS)?;
    Ok(())
}

pub(super) fn apply(transaction: &WriteTransaction, op: &Op) -> Result<(), StoreError> {
    match op {
        Op::Append { meeting, key, first, chunk, opened } => {
            if let Some(record) = opened {
                let bytes = encode("spurts", record)?;
                transaction.open_table(SPURTS)?.insert(spurt_key(*meeting, key), bytes.as_slice())?;
            }
            let bytes = encode("log", chunk)?;
            transaction.open_table(LOG)?.insert(log_key(*meeting, key, *first), bytes.as_slice())?;
        }
        Op::Finish { meeting, spurts, segment, at, cover } => {
            for key in spurts {
                finish_spurt(transaction, *meeting, key, *at)?;
            }
            if let Some(segment) = segment {
                let at = (meeting.as_u128(), segment.seq);
                transaction.open_table(SEGMENTS)?.insert(at, to_json("segments", segment)?.as_slice())?;
            }
            keep_cover(transaction, *meeting, cover)?;
        }
        Op::Sequence(meeting, below) => {
            transaction.open_table(SEQUENCES)?.insert(meeting.as_u128(), below)?;
        }
        Op::Meeting(record) => {
            let bytes = to_json("meetings", record)?;
            transaction.open_table(MEETINGS)?.insert(record.id.as_u128(), bytes.as_slice())?;
            if record.status.ended() {
                let (from, to) = cover_keys(record.id);
                transaction.open_table(COVERS)?.retain_in(from..to, |_, _| false)?;
            }
        }
        Op::Participant(meeting, participant) => {
            let at = (meeting.as_u128(), participant.id.as_str());
            transaction.open_table(PARTICIPANTS)?.insert(at, to_json("participants", participant)?.as_slice())?;
        }
        Op::Placement(meeting, epoch, decision) => {
            let at = (meeting.as_u128(), epoch.0);
            transaction.open_table(PLACEMENTS)?.insert(at, to_json("placements", decision)?.as_slice())?;
        }
        Op::Taken { meeting, spurts, segment, cover } => {
            for (key, record) in spurts {
                drop_items(transaction, *meeting, key)?;
                let bytes = encode("spurts", record)?;
                transaction.open_table(SPURTS)?.insert(spurt_key(*meeting, key), bytes.as_slice())?;
            }
            if let Some(segment) = segment {
                let at = (meeting.as_u128(), segment.seq);
                transaction.open_table(SEGMENTS)?.insert(at, to_json("segments", segment)?.as_slice())?;
            }
            keep_cover(transaction, *meeting, cover)?;
        }
        Op::Receipt(meeting, receipt) => {
            transaction.open_table(RECEIPTS)?.insert(meeting.as_u128(), receipt.as_str())?;
        }
        Op::Forget(meeting) => forget(transaction, *meeting)?,
        Op::Barrier => {}
    }
    Ok(())
}

/// Replaces what is claimed of `meeting` by `claim`, or by nothing, if it is of revision `after` still.
pub(super) fn replace_claim(
    transaction: &WriteTransaction,
    meeting: MeetingId,
    after: Option<u64>,
    claim: Option<&[u8]>,
) -> Result<Replaced, StoreError> {
    let (mut claims, mut revisions) = (transaction.open_table(CLAIMS)?, transaction.open_table(REVISIONS)?);
    let found = claims.get(meeting.as_u128())?.map(|row| (row.value().0, row.value().1.to_vec()));
    if found.as_ref().map(|(revision, _)| *revision) != after {
        return Ok(Replaced::Not(found));
    }
    let revision = revisions.get("claims")?.map_or(1, |row| row.value() + 1);
    revisions.insert("claims", revision)?;
    match claim {
        Some(claim) => drop(claims.insert(meeting.as_u128(), (revision, claim))?),
        None => drop(claims.remove(meeting.as_u128())?),
    }
    Ok(Replaced::By(revision))
}

/// Drops the speech of a meeting whose words are not out.
fn forget(transaction: &WriteTransaction, meeting: MeetingId) -> Result<(), StoreError> {
    let mut log = transaction.open_table(LOG)?;
    let (from, to) = ((meeting.as_u128(), 0, "", 0, 0), (after(meeting), 0, "", 0, 0));
    log.retain_in(from..to, |_, _| false)?;
    let mut spurts = transaction.open_table(SPURTS)?;
    let (from, to) = ((meeting.as_u128(), 0, "", 0), (after(meeting), 0, "", 0));
    // A row that cannot be read is no done mark either.
    spurts.retain_in(from..to, |_, row| coded::<SpurtRecord>("spurts", row).is_ok_and(|r| r.done.is_some()))?;
    Ok(())
}

/// Drops a spurt's items from the log; returns how many there were, and how many of them frames.
fn drop_items(transaction: &WriteTransaction, meeting: MeetingId, key: &SpurtKey) -> Result<(u32, u64), StoreError> {
    let (mut items, mut frames) = (0, 0);
    let mut log = transaction.open_table(LOG)?;
    let mut rows = vec![];
    for row in log.range(log_keys(meeting, key))? {
        let (row, chunk) = row?;
        let chunk: Chunk = coded("log", chunk.value())?;
        items += chunk.items.len() as u32;
        frames += chunk.items.iter().flatten().count() as u64;
        rows.push(row.value().4);
    }
    for first in rows {
        log.remove(log_key(meeting, key, first))?;
    }
    Ok((items, frames))
}

/// Marks a spurt done and drops its items from the log, counting them.
fn finish_spurt(
    transaction: &WriteTransaction,
    meeting: MeetingId,
    key: &SpurtKey,
    at: Micros,
) -> Result<(), StoreError> {
    let (items, frames) = drop_items(transaction, meeting, key)?;
    let mark = DoneMark { at, items, frames };
    let mut spurts = transaction.open_table(SPURTS)?;
    let found = spurts.get(spurt_key(meeting, key))?.map(|row| coded::<SpurtRecord>("spurts", row.value()));
    let Some(mut record) = found.transpose()? else { return Ok(()) };
    record.done = record.done.or(Some(mark));
    spurts.insert(spurt_key(meeting, key), encode("spurts", &record)?.as_slice())?;
    Ok(())
}

fn keep_cover(transaction: &WriteTransaction, meeting: MeetingId, cover: &Option<Cover>) -> Result<(), StoreError> {
    if let Some(cover) = cover {
        let at = (meeting.as_u128(), cover.participant.as_str(), cover.at);
        transaction.open_table(COVERS)?.insert(at, to_json("covers", cover)?.as_slice())?;
    }
    Ok(())
}
