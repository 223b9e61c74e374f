//! All of a meeting that a standby must hold, as the store has it.

use mesh::{
    identity::NodeId,
    wire::{MeetingId, Term},
};

use super::entry::{DoneSpurt, Entry};
use crate::{
    key::SpurtKey,
    store::{
        Op, SpurtRecord, Store, StoreError,
        record::{MeetingRecord, Serving},
    },
};

/// Done spurts in one entry.
const SPURTS_PER_ENTRY: usize = 64;

/// The meeting so far, its record last; `None` if the store does not know it.
///
/// # Errors
/// The store could not be read.
pub fn snapshot(store: &Store, meeting: MeetingId) -> Result<Option<Vec<Entry>>, StoreError> {
    let Some(record) = store.meeting(meeting)? else { return Ok(None) };
    let mut entries: Vec<Entry> =
        store.participants(meeting)?.into_iter().map(|p| Entry::Participant(p, None)).collect();
    let decisions = store.decisions(meeting)?.into_iter();
    entries.extend(decisions.map(|(epoch, decision)| Entry::Placement { epoch, decision }));
    let done: Vec<DoneSpurt> = store.spurt_records(meeting)?.into_iter().filter_map(done_spurt).collect();
    entries.extend(done.chunks(SPURTS_PER_ENTRY).map(|c| Entry::Finish {
        spurts: c.to_vec(),
        segment: None,
        cover: None,
    }));
    let segments = store.segments(meeting, 0)?.into_iter();
    entries.extend(segments.map(|s| Entry::Finish { spurts: vec![], segment: Some(s.into()), cover: None }));
    let covers = store.covers(meeting)?.into_iter();
    entries.extend(covers.map(|c| Entry::Finish { spurts: vec![], segment: None, cover: Some(c) }));
    entries.push(Entry::Sequence { below: store.sequence(meeting)? });
    entries.push(Entry::Record(record.into()));
    Ok(Some(entries))
}

/// The spurts of a [`Op::Finish`] that is on disk.
///
/// # Errors
/// The store could not be read.
pub fn finished(store: &Store, meeting: MeetingId, spurts: &[SpurtKey]) -> Result<Vec<DoneSpurt>, StoreError> {
    let rows = spurts.iter().map(|key| Ok(store.spurt(meeting, key)?.and_then(|r| done_spurt((key.clone(), r)))));
    Ok(rows.collect::<Result<Vec<_>, StoreError>>()?.into_iter().flatten().collect())
}

/// What the standby writes for an entry of `meeting`, which `by` serves in `term`, from that stream.
pub fn op(meeting: MeetingId, entry: Entry, by: &NodeId, term: Term, stream: u64) -> Option<Op> {
    Some(match entry {
        Entry::Begin { .. } | Entry::Dropped => return None,
        Entry::Participant(participant, forgotten) => Op::Participant(meeting, participant, forgotten),
        Entry::Placement { epoch, decision } => Op::Placement(meeting, epoch, decision),
        Entry::Sequence { below } => Op::Sequence(meeting, below),
        Entry::Finish { spurts, segment, cover } => {
            let row = |s: &DoneSpurt| SpurtRecord { captured: s.captured, trace: s.trace, done: Some(s.mark) };
            let spurts = spurts.iter().map(|s| (s.key(), row(s))).collect();
            Op::Taken { meeting, spurts, segment, cover, turn: (term, by.clone()) }
        }
        Entry::Record(record) => {
            let standby = record.serving.standby.clone();
            let serving = Serving { standby, ..Serving::held(by.clone(), term, stream) };
            Op::Meeting(Box::new(MeetingRecord { serving, ..*record }))
        }
    })
}

fn done_spurt((key, record): (SpurtKey, SpurtRecord)) -> Option<DoneSpurt> {
    Some(DoneSpurt {
        epoch: key.epoch,
        participant: key.participant.to_string(),
        spurt: key.spurt,
        captured: record.captured,
        trace: record.trace,
        mark: record.done?,
    })
}
