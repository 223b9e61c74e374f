//! What each change does to the tables.

use mesh::{
    clock::Micros,
    identity::NodeId,
    trace::TraceContext,
    wire::{MeetingId, Term},
};
use redb::{ReadableTable, WriteTransaction};

use super::{
    Chunk, DoneMark, Op, Replaced, SpurtRecord, StoreError,
    damage::Damage,
    index, remove,
    tables::*,
    value::{check_depth, coded, encode, to_json, to_text},
};
use crate::{key::SpurtKey, speech::utterance::Cover, transcript::Segment};

/// What one change writes, in the order in which `apply` takes it.
#[derive(Debug, Clone)]
pub struct Values(Vec<Vec<u8>>);

impl Values {
    /// Each of them.
    pub fn rows(&self) -> &[Vec<u8>] {
        &self.0
    }
}

impl Op {
    /// The change as it is written, every part of it proven readable.
    ///
    /// # Errors
    /// A part could not be read back, or is too long: this change is not to be made.
    pub fn prepare(&self) -> Result<Values, StoreError> {
        let spoken = |segment: &Option<Box<Segment>>, cover: &Option<Cover>| {
            let segment = segment.as_ref().map(|segment| to_json("segments", segment));
            let cover = cover.as_ref().map(|cover| to_json("covers", cover));
            segment.into_iter().chain(cover)
        };
        let values: Result<_, _> = match self {
            Self::Append { chunk, opened, .. } => {
                let opened = opened.as_ref().map(|record| encode("spurts", record));
                opened.into_iter().chain([encode("log", chunk)]).collect()
            }
            Self::Finish { segment, cover, .. } => spoken(segment, cover).collect(),
            Self::Taken { spurts, segment, cover, .. } => {
                let rows = spurts.iter().map(|(_, record)| encode("spurts", record));
                rows.chain(spoken(segment, cover)).collect()
            }
            Self::Meeting(record) => {
                record.spec.metadata.values().try_for_each(|value| check_depth("meetings", value))?;
                to_json("meetings", record).map(|row| vec![row])
            }
            Self::Participant(_, participant, _) => to_json("participants", participant).map(|row| vec![row]),
            Self::Placement(_, _, decision) => {
                check_depth("placements", decision)?;
                to_json("placements", decision).map(|row| vec![row])
            }
            Self::Receipt(_, receipt) => to_text("receipts", receipt).map(|row| vec![row]),
            Self::Remove(_, removal) | Self::Removal(_, Some(removal)) => {
                to_json("removed", removal).map(|row| vec![row])
            }
            Self::Sequence(..) | Self::Forget(_) | Self::Removal(_, None) | Self::Barrier => Ok(vec![]),
        };
        values.map(Values)
    }
}

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
    transaction.open_table(STANDING)?;
    transaction.open_table(KEYS)?;
    transaction.open_table(ABOUT)?;
    transaction.open_table(TAKEN)?;
    transaction.open_table(REMOVED)?;
    Ok(())
}

/// Makes a change; returns how many bytes it has removed for good.
pub(super) fn apply(
    transaction: &WriteTransaction,
    op: &Op,
    Values(values): &Values,
    damage: &Damage,
) -> Result<u64, StoreError> {
    let mut values = values.iter().map(Vec::as_slice);
    let mut next = || values.next().unwrap_or_default();
    match op {
        Op::Append { meeting, key, first, opened, .. } => {
            if opened.is_some() {
                transaction.open_table(SPURTS)?.insert(spurt_key(*meeting, key), next())?;
            }
            transaction.open_table(LOG)?.insert(log_key(*meeting, key, *first), next())?;
        }
        Op::Finish { meeting, spurts, segment, at, cover } => {
            for key in spurts {
                finish_spurt(transaction, *meeting, key, *at, damage)?;
            }
            keep_segment(transaction, *meeting, segment, &mut next)?;
            keep_cover(transaction, *meeting, cover, &mut next)?;
        }
        Op::Sequence(meeting, below) => {
            transaction.open_table(SEQUENCES)?.insert(meeting.as_u128(), below)?;
        }
        Op::Meeting(record) => {
            transaction.open_table(MEETINGS)?.insert(record.id.as_u128(), next())?;
            index::put(transaction, record)?;
            if record.status.ended() {
                let (from, to) = cover_keys(record.id);
                transaction.open_table(COVERS)?.retain_in(from..to, |_, _| false)?;
            }
        }
        Op::Participant(meeting, participant, forgotten) => {
            let mut table = transaction.open_table(PARTICIPANTS)?;
            if let Some(forgotten) = forgotten {
                table.remove((meeting.as_u128(), forgotten.as_str()))?;
            }
            let at = (meeting.as_u128(), participant.id.as_str());
            table.insert(at, next())?;
        }
        Op::Placement(meeting, epoch, _) => {
            transaction.open_table(PLACEMENTS)?.insert((meeting.as_u128(), epoch.0), next())?;
        }
        Op::Taken { meeting, spurts, segment, cover, turn } => {
            if let Some(segment) = segment {
                note_taken(transaction, *meeting, turn, segment.seq)?;
            }
            for (key, _) in spurts {
                drop_items(transaction, *meeting, key, damage)?;
                transaction.open_table(SPURTS)?.insert(spurt_key(*meeting, key), next())?;
            }
            keep_segment(transaction, *meeting, segment, &mut next)?;
            keep_cover(transaction, *meeting, cover, &mut next)?;
        }
        Op::Receipt(meeting, _) => {
            transaction.open_table(RECEIPTS)?.insert(meeting.as_u128(), next())?;
        }
        Op::Forget(meeting) => forget(transaction, *meeting)?,
        Op::Removal(meeting, Some(_)) => {
            transaction.open_table(REMOVED)?.insert(meeting.as_u128(), next())?;
        }
        Op::Removal(meeting, None) => {
            transaction.open_table(REMOVED)?.remove(meeting.as_u128())?;
        }
        Op::Remove(meeting, _) => {
            damage.forget(*meeting);
            transaction.open_table(REMOVED)?.insert(meeting.as_u128(), next())?;
            return remove::remove(transaction, *meeting);
        }
        Op::Barrier => {}
    }
    Ok(0)
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

/// Drops a spurt's items from the log; returns how many there were, and how many of them frames. Those that cannot be read are
/// not among them.
fn drop_items(
    transaction: &WriteTransaction,
    meeting: MeetingId,
    key: &SpurtKey,
    damage: &Damage,
) -> Result<(u32, u64), StoreError> {
    let (mut items, mut frames) = (0, 0);
    let mut log = transaction.open_table(LOG)?;
    let mut rows = vec![];
    for row in log.range(log_keys(meeting, key))? {
        let (row, chunk) = row?;
        if let Some(chunk) = damage.tally("log", meeting, coded::<Chunk>("log", chunk.value()))? {
            items += chunk.items.len() as u32;
            frames += chunk.items.iter().flatten().count() as u64;
        }
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
    damage: &Damage,
) -> Result<(), StoreError> {
    let (items, frames) = drop_items(transaction, meeting, key, damage)?;
    let mark = DoneMark { at, items, frames };
    let mut spurts = transaction.open_table(SPURTS)?;
    let found = match spurts.get(spurt_key(meeting, key))? {
        Some(row) => damage.tally("spurts", meeting, coded::<SpurtRecord>("spurts", row.value()))?,
        None => return Ok(()),
    };
    // Of one that cannot be read this much is known: its words are out, and must not come out again.
    let mut record = found.unwrap_or(SpurtRecord { captured: at, trace: TraceContext::new(0), done: None });
    record.done = record.done.or(Some(mark));
    spurts.insert(spurt_key(meeting, key), encode("spurts", &record)?.as_slice())?;
    Ok(())
}

/// Notes the newest final taken of a core's turn.
fn note_taken(
    transaction: &WriteTransaction,
    meeting: MeetingId,
    (term, by): &(Term, NodeId),
    seq: u64,
) -> Result<(), StoreError> {
    let mut taken = transaction.open_table(TAKEN)?;
    let known = taken.get(meeting.as_u128())?.map(|row| {
        let (of, core, newest) = row.value();
        if (of, core) == (term.0, by.as_str()) { newest } else { 0 }
    });
    taken.insert(meeting.as_u128(), (term.0, by.as_str(), known.unwrap_or(0).max(seq)))?;
    Ok(())
}

fn keep_segment<'a>(
    transaction: &WriteTransaction,
    meeting: MeetingId,
    segment: &Option<Box<Segment>>,
    next: &mut impl FnMut() -> &'a [u8],
) -> Result<(), StoreError> {
    if let Some(segment) = segment {
        transaction.open_table(SEGMENTS)?.insert((meeting.as_u128(), segment.seq), next())?;
    }
    Ok(())
}

fn keep_cover<'a>(
    transaction: &WriteTransaction,
    meeting: MeetingId,
    cover: &Option<Cover>,
    next: &mut impl FnMut() -> &'a [u8],
) -> Result<(), StoreError> {
    if let Some(cover) = cover {
        let at = (meeting.as_u128(), cover.participant.as_str(), cover.at);
        transaction.open_table(COVERS)?.insert(at, next())?;
    }
    Ok(())
}
