//! Looking at meetings from outside: never on the runtime's threads, and never more of the disk than is shown.

use std::{collections::BTreeMap, sync::Arc};

use mesh::wire::MeetingId;

use super::Meetings;
use crate::{
    lock,
    meeting::Meeting,
    store::{
        Store, StoreError,
        reads::ReadError,
        record::{MeetingRecord, Participant, Status},
    },
};

/// Which meetings are wanted.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// Those that stand there.
    pub status: Option<Status>,
    /// Those with smaller ids, which are older.
    pub before: Option<MeetingId>,
    /// At most so many.
    pub limit: usize,
}

/// A meeting, and how many participants are known in it.
pub type Row = (MeetingRecord, usize);

type Live = BTreeMap<MeetingId, Arc<Meeting>>;

impl Meetings {
    /// How some meetings stand, the newest first.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn page(&self, page: Page) -> Result<Vec<Row>, ReadError> {
        let live = lock(&self.live).clone();
        self.reads.run(move |store| rows(store, &live, page)).await
    }

    /// How one stands.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn look(&self, id: MeetingId) -> Result<Option<MeetingRecord>, ReadError> {
        match self.live(id) {
            Some(meeting) => Ok(Some(meeting.record())),
            None => self.reads.run(move |store| store.meeting(id)).await,
        }
    }

    /// Who is known in one.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn people(&self, id: MeetingId) -> Result<Vec<Participant>, ReadError> {
        match self.live(id) {
            Some(meeting) => Ok(meeting.participants()),
            None => self.reads.run(move |store| store.participants(id)).await,
        }
    }

    /// How many they are.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn count_people(&self, id: MeetingId) -> Result<usize, ReadError> {
        match self.live(id) {
            Some(meeting) => Ok(meeting.participants().len()),
            None => self.reads.run(move |store| store.count_participants(id)).await,
        }
    }
}

fn rows(store: &Store, live: &Live, page: Page) -> Result<Vec<Row>, StoreError> {
    let records = match page.status {
        Some(status) => standing(store, live, page, status)?,
        None => newest(store, live, page)?,
    };
    let count = |record: MeetingRecord| {
        let known = live.get(&record.id).map(|meeting| meeting.participants().len());
        let known = known.map_or_else(|| store.count_participants(record.id), Ok)?;
        Ok((record, known))
    };
    records.into_iter().map(count).collect()
}

fn newest(store: &Store, live: &Live, page: Page) -> Result<Vec<MeetingRecord>, StoreError> {
    let mut records = vec![];
    store.newest(page.before, |id, read| {
        match live.get(&id) {
            Some(meeting) => records.push(meeting.record()),
            None => records.extend(read()?),
        }
        Ok(records.len() < page.limit)
    })?;
    Ok(records)
}

/// Of a live meeting its own word counts: the disk's may be behind.
fn standing(store: &Store, live: &Live, page: Page, status: Status) -> Result<Vec<MeetingRecord>, StoreError> {
    let there = live.values().filter(|m| page.before.is_none_or(|before| m.id < before));
    let mut records: Vec<_> = there.map(|m| m.record()).filter(|record| record.status == status).collect();
    let mut before = page.before;
    let mut on_disk = 0;
    while on_disk < page.limit {
        let ids = store.standing(status, before, page.limit)?;
        let Some(last) = ids.last() else { break };
        before = Some(*last);
        for id in ids.iter().filter(|id| !live.contains_key(*id)) {
            // One that cannot be read is passed over.
            if let Ok(Some(record)) = store.meeting(*id)
                && record.status == status
            {
                records.push(record);
                on_disk += 1;
            }
        }
    }
    records.sort_by_key(|record| std::cmp::Reverse(record.id));
    records.truncate(page.limit);
    Ok(records)
}

#[cfg(test)]
mod measure;
