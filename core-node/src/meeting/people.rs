//! Who is, or was, in a meeting.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::collections::BTreeMap;

use mesh::wire::Epoch;

use super::{Meeting, wall};
use crate::{
    key::ParticipantId,
    lock,
    replicate::entry::Entry,
    store::{Op, log::LogClosed, record::Participant},
    transcript::{Speaker, timestamp},
};

impl Meeting {
    /// Its participants, by id.
    pub fn participants(&self) -> Vec<Participant> {
        lock(&self.participants).values().cloned().collect()
    }

    /// How many of them are there.
    pub fn present(&self) -> usize {
        lock(&self.participants).values().filter(|p| p.left_at.is_none()).count()
    }

    /// A participant came, or has another name; `unheard` is what they publish, if none of it can be heard.
    ///
    /// # Errors
    /// The store takes no more writes.
    pub async fn handle_participant(
        &self,
        id: &ParticipantId,
        name: Option<String>,
        unheard: Option<String>,
    ) -> Result<(), LogClosed> {
        let came = |row: Option<Participant>| {
            let new = || Participant {
                id: id.to_string(),
                name: None,
                joined_at: timestamp(wall()).to_string(),
                left_at: None,
                unheard: None,
            };
            let row = row.unwrap_or_else(new);
            Some(Participant { name: name.or_else(|| row.name.clone()), unheard, left_at: None, ..row })
        };
        self.change_participant(id, came).await
    }

    /// A participant has left, says the edge of `epoch`: one that captures no more does not know who has come back.
    ///
    /// # Errors
    /// The store takes no more writes.
    pub async fn handle_left(&self, epoch: Epoch, id: &ParticipantId) -> Result<(), LogClosed> {
        if !self.captures(|captures| captures.owners().captures(epoch)) {
            return Ok(());
        }
        let left =
            |row: Option<Participant>| Some(Participant { left_at: Some(timestamp(wall()).to_string()), ..row? });
        self.change_participant(id, left).await
    }

    /// Changes a participant's row, here, on disk and at the standby: all of it, or, if it is dropped before there is room in
    /// the log, nothing.
    async fn change_participant(
        &self,
        id: &ParticipantId,
        change: impl FnOnce(Option<Participant>) -> Option<Participant>,
    ) -> Result<(), LogClosed> {
        let slot = self.log.reserve().await?;
        let pending = {
            let mut participants = lock(&self.participants);
            let Some(row) = change(participants.get(id).cloned()) else { return Ok(()) };
            let forgotten =
                if participants.contains_key(id) { None } else { crowded_out(&mut participants, self.bounds.people) };
            participants.insert(id.clone(), row.clone());
            let pending = slot.write(Op::Participant(self.id, row.clone(), forgotten.clone()));
            self.replication.push(|| Entry::Participant(row, forgotten));
            pending
        };
        self.progress.notify_one();
        pending.durable().await.map(|_| ())
    }

    /// Who speaks, as a segment names them.
    pub fn speaker(&self, id: &ParticipantId) -> Speaker {
        let name = lock(&self.participants).get(id).and_then(|p| p.name.clone());
        Speaker { id: id.to_string(), name }
    }
}

/// Takes out who is to make room for another, if somebody is: whoever left first, or came first.
fn crowded_out(participants: &mut BTreeMap<ParticipantId, Participant>, room: usize) -> Option<String> {
    if participants.len() < room {
        return None;
    }
    let first = participants.values().min_by_key(|p| (p.left_at.is_none(), &p.left_at, &p.joined_at))?;
    let first = ParticipantId::from(first.id.as_str());
    participants.remove(&first).map(|row| row.id)
}
