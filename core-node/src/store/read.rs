//! Reading: what cannot be read is passed over where there is more than one row, and counted everywhere.

use std::{collections::BTreeMap, ops::Bound, sync::atomic::Ordering};

use mesh::{
    clock::Micros,
    identity::NodeId,
    wire::{Epoch, MeetingId, SpurtNo, Term, keys::KeyDigest, spurt::Item},
};
use redb::{ReadableDatabase, ReadableTable};

use super::{
    Chunk, DoneMark, Speech, SpurtRecord, Store, StoreError,
    index::{STATUSES, code},
    items,
    record::{MeetingRecord, Participant, Status, removal::Removal},
    tables::*,
    value::{coded, json},
};
use crate::{
    key::SpurtKey,
    speech::{
        ingest::Restored,
        utterance::{Cover, Slot, duration_of},
    },
    transcript::Segment,
};

impl Store {
    /// What is claimed of `meeting`, and the revision of that.
    ///
    /// # Errors
    /// See [`StoreError`], as for all reads.
    pub fn claim(&self, meeting: MeetingId) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        let table = self.db.begin_read()?.open_table(CLAIMS)?;
        Ok(table.get(meeting.as_u128())?.map(|row| (row.value().0, row.value().1.to_vec())))
    }

    /// The newest final of `meeting` that was taken of `by`, which served in `term`; 0 if none was.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn taken(&self, meeting: MeetingId, by: &NodeId, term: Term) -> Result<u64, StoreError> {
        let table = self.db.begin_read()?.open_table(TAKEN)?;
        let Some(row) = table.get(meeting.as_u128())? else { return Ok(0) };
        let (of, core, newest) = row.value();
        Ok(if (of, core) == (term.0, by.as_str()) { newest } else { 0 })
    }

    /// Number of a meeting's newest final; 0 if there is none.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn newest_final(&self, meeting: MeetingId) -> Result<u64, StoreError> {
        let table = self.db.begin_read()?.open_table(SEGMENTS)?;
        let newest = table.range(both(meeting, 0))?.next_back().transpose()?;
        Ok(newest.map_or(0, |(key, _)| key.value().1))
    }

    /// What is remembered of meetings that were removed.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn removals(&self) -> Result<BTreeMap<MeetingId, Removal>, StoreError> {
        let mut removals = BTreeMap::new();
        for row in self.db.begin_read()?.open_table(REMOVED)?.iter()? {
            let (id, value) = row?;
            let id = MeetingId::from_u128(id.value());
            removals.extend(self.tally("removed", id, json("removed", value.value()))?.map(|removal| (id, removal)));
        }
        Ok(removals)
    }

    /// Meetings with ids below `before`, the greatest first: ids rise with time, so that is the newest first. `take` is shown each,
    /// and how to read it, until it says that it has enough.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn newest(
        &self,
        before: Option<MeetingId>,
        mut take: impl FnMut(MeetingId, &dyn Fn() -> Result<Option<MeetingRecord>, StoreError>) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let table = self.db.begin_read()?.open_table(MEETINGS)?;
        let below = before.map_or(Bound::Unbounded, |id| Bound::Excluded(id.as_u128()));
        for row in table.range((Bound::Unbounded, below))?.rev() {
            let (id, value) = row?;
            let id = MeetingId::from_u128(id.value());
            let read = || self.tally("meetings", id, json("meetings", value.value()));
            if !take(id, &read)? {
                break;
            }
        }
        Ok(())
    }

    /// The ids below `before` of meetings that stand there, as last written, the newest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn standing(
        &self,
        status: Status,
        before: Option<MeetingId>,
        most: usize,
    ) -> Result<Vec<MeetingId>, StoreError> {
        let table = self.db.begin_read()?.open_table(STANDING)?;
        let code = code(status);
        let below = before.map_or(Bound::Included((code, u128::MAX)), |id| Bound::Excluded((code, id.as_u128())));
        let rows = table.range((Bound::Included((code, 0)), below))?.rev().take(most);
        rows.map(|row| Ok(MeetingId::from_u128(row?.0.value().1))).collect()
    }

    /// Every meeting that has not ended, as last written.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn under_way(&self) -> Result<Vec<MeetingRecord>, StoreError> {
        let mut records = vec![];
        for status in STATUSES.into_iter().filter(|status| !status.ended()) {
            for id in self.standing(status, None, usize::MAX)? {
                records.extend(self.tally("meetings", id, self.meeting(id))?.flatten());
            }
        }
        records.sort_by_key(|record| record.id);
        Ok(records)
    }

    /// One meeting.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn meeting(&self, id: MeetingId) -> Result<Option<MeetingRecord>, StoreError> {
        let table = self.db.begin_read()?.open_table(MEETINGS)?;
        let read = table.get(id.as_u128())?.map(|row| json("meetings", row.value())).transpose();
        if let Err(StoreError::Record { why, .. }) = &read {
            self.damage.note("meetings", id, why);
        }
        read
    }

    /// Looks at up to `most` meetings with ids from `from` on, so that what cannot be read is known; returns where to go on.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn scrub(&self, from: MeetingId, most: usize) -> Result<Option<MeetingId>, StoreError> {
        let table = self.db.begin_read()?.open_table(MEETINGS)?;
        let mut rows = table.range(from.as_u128()..)?;
        for row in rows.by_ref().take(most) {
            let (id, value) = row?;
            self.tally("meetings", MeetingId::from_u128(id.value()), json::<MeetingRecord>("meetings", value.value()))?;
            self.scrubbed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(rows.next().transpose()?.map(|(id, _)| MeetingId::from_u128(id.value())))
    }

    /// The meeting made under a key, and the digest of the request's body.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn keyed(&self, key: &KeyDigest) -> Result<Option<(MeetingId, String)>, StoreError> {
        let table = self.db.begin_read()?.open_table(KEYS)?;
        Ok(table.get(key.0.as_slice())?.map(|row| (MeetingId::from_u128(row.value().0), row.value().1.to_owned())))
    }

    /// A meeting's participants, by id.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn participants(&self, meeting: MeetingId) -> Result<Vec<Participant>, StoreError> {
        let table = self.db.begin_read()?.open_table(PARTICIPANTS)?;
        let rows = table.range((meeting.as_u128(), "")..(after(meeting), ""))?;
        self.rows("participants", meeting, rows.map(|row| row.map(|(_, value)| json("participants", value.value()))))
    }

    /// How many they are.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn count_participants(&self, meeting: MeetingId) -> Result<usize, StoreError> {
        let table = self.db.begin_read()?.open_table(PARTICIPANTS)?;
        Ok(table.range((meeting.as_u128(), "")..(after(meeting), ""))?.count())
    }

    /// Why a meeting's edges were chosen, newest last.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn placements(&self, meeting: MeetingId) -> Result<Vec<serde_json::Value>, StoreError> {
        Ok(self.decisions(meeting)?.into_iter().map(|(_, decision)| decision).collect())
    }

    /// As [`Store::placements`], each with its epoch.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn decisions(&self, meeting: MeetingId) -> Result<Vec<(Epoch, serde_json::Value)>, StoreError> {
        let table = self.db.begin_read()?.open_table(PLACEMENTS)?;
        let rows = table.range(both(meeting, 0))?.map(|row| {
            let (at, decision) = row?;
            Ok(json("placements", decision.value()).map(|decision| (Epoch(at.value().1), decision)))
        });
        self.rows("placements", meeting, rows)
    }

    /// What is remembered of one spurt.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn spurt(&self, meeting: MeetingId, key: &SpurtKey) -> Result<Option<SpurtRecord>, StoreError> {
        let table = self.db.begin_read()?.open_table(SPURTS)?;
        let Some(row) = table.get(spurt_key(meeting, key))? else { return Ok(None) };
        self.tally("spurts", meeting, coded("spurts", row.value()))
    }

    /// The first event number of a meeting that was surely never given out.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn sequence(&self, meeting: MeetingId) -> Result<u64, StoreError> {
        let table = self.db.begin_read()?.open_table(SEQUENCES)?;
        Ok(table.get(meeting.as_u128())?.map_or(1, |row| row.value()))
    }

    /// A meeting's final segments numbered above `since`, in the order of their numbers.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn segments(&self, meeting: MeetingId, since: u64) -> Result<Vec<Segment>, StoreError> {
        let table = self.db.begin_read()?.open_table(SEGMENTS)?;
        let Some(first) = since.checked_add(1) else { return Ok(vec![]) };
        let rows = table.range(both(meeting, first))?;
        self.rows("segments", meeting, rows.map(|row| row.map(|(_, value)| json("segments", value.value()))))
    }

    /// The signed receipt of a meeting, if it was made here and can be read.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn receipt(&self, meeting: MeetingId) -> Result<Option<String>, StoreError> {
        let table = self.db.begin_read()?.open_table(RECEIPTS)?;
        let Some(row) = table.get(meeting.as_u128())? else { return Ok(None) };
        self.tally("receipts", meeting, json("receipts", row.value()))
    }

    /// A spurt as far as the log holds it without a hole; `None` if it has no items there.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn speech(&self, meeting: MeetingId, key: &SpurtKey) -> Result<Option<Speech>, StoreError> {
        let Some(record) = self.spurt(meeting, key)? else { return Ok(None) };
        let mut speech = Speech {
            captured: record.captured,
            trace: record.trace,
            items: vec![],
            received: Micros(0),
            stages: None,
            step: None,
        };
        self.chunks(meeting, key, |first, chunk| {
            let whole = first as usize == speech.items.len();
            if whole {
                speech.extend(chunk);
            }
            whole
        })?;
        Ok(Some(speech))
    }

    /// Every spurt of a meeting, as intake needs to know it after a restart.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn spurts(&self, meeting: MeetingId) -> Result<Vec<Restored>, StoreError> {
        Ok(self.held(meeting)?.into_iter().map(|(_, restored)| restored).collect())
    }

    /// Every spurt of a meeting: when it was captured, and what the disk holds or held of it.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn held(&self, meeting: MeetingId) -> Result<Vec<(Micros, Restored)>, StoreError> {
        let rows = self.spurt_records(meeting)?.into_iter();
        rows.map(|(key, record)| Ok((record.captured, self.restored(meeting, key, &record)?))).collect()
    }

    /// What is remembered of every spurt of a meeting.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn spurt_records(&self, meeting: MeetingId) -> Result<Vec<(SpurtKey, SpurtRecord)>, StoreError> {
        let table = self.db.begin_read()?.open_table(SPURTS)?;
        let rows = table.range((meeting.as_u128(), 0, "", 0)..(after(meeting), 0, "", 0))?.map(|row| {
            let (key, record) = row?;
            let (_, epoch, participant, spurt) = key.value();
            let key = SpurtKey { epoch: Epoch(epoch), participant: participant.into(), spurt: SpurtNo(spurt) };
            Ok(coded("spurts", record.value()).map(|record| (key, record)))
        });
        self.rows("spurts", meeting, rows)
    }

    /// What each utterance had, of those that several edges captured; the oldest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn covers(&self, meeting: MeetingId) -> Result<Vec<Cover>, StoreError> {
        let table = self.db.begin_read()?.open_table(COVERS)?;
        let (from, to) = cover_keys(meeting);
        let rows = table.range(from..to)?;
        self.rows("covers", meeting, rows.map(|row| row.map(|(_, value)| json("covers", value.value()))))
    }

    fn restored(&self, meeting: MeetingId, key: SpurtKey, record: &SpurtRecord) -> Result<Restored, StoreError> {
        let (media, end, slots, captured) = (Default::default(), None, vec![], record.captured);
        if let Some(DoneMark { items, frames, .. }) = record.done {
            return Ok(Restored { key, captured, items, frames, media, slots, end, done: true });
        }
        let mut restored = Restored { key: key.clone(), captured, items: 0, frames: 0, media, slots, end, done: false };
        let mut slot = duration_of(&[]);
        self.chunks(meeting, &key, |first, chunk| {
            if first != restored.items {
                return false;
            }
            restored.items += chunk.items.len() as u32;
            restored.end = chunk.end;
            for item in items(chunk) {
                if let Item::Frame(packet) = &item {
                    slot = duration_of(packet);
                    restored.frames += 1;
                }
                restored.media += slot;
                restored.slots.push(Slot::of(&item, slot.as_micros() as u32));
            }
            true
        })?;
        Ok(restored)
    }

    /// A spurt's chunks in order, as long as `take` wants more; one that cannot be read is the end.
    fn chunks(
        &self,
        meeting: MeetingId,
        key: &SpurtKey,
        mut take: impl FnMut(u32, Chunk) -> bool,
    ) -> Result<(), StoreError> {
        for row in self.db.begin_read()?.open_table(LOG)?.range(log_keys(meeting, key))? {
            let (at, chunk) = row?;
            let Some(chunk) = self.tally("log", meeting, coded("log", chunk.value()))? else { break };
            if !take(at.value().4, chunk) {
                break;
            }
        }
        Ok(())
    }

    fn tally<T>(
        &self,
        table: &'static str,
        row: impl std::fmt::Display,
        read: Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        self.damage.tally(table, row, read)
    }

    /// Those of a meeting's rows that can be read.
    fn rows<T>(
        &self,
        table: &'static str,
        meeting: MeetingId,
        rows: impl Iterator<Item = Result<Result<T, StoreError>, redb::StorageError>>,
    ) -> Result<Vec<T>, StoreError> {
        let mut all = vec![];
        for (n, row) in rows.enumerate() {
            all.extend(self.tally(table, format_args!("{meeting} {n}"), row?)?);
        }
        Ok(all)
    }
}
