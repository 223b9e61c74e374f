//! Meetings of which this core is the standby: what is shipped to it goes to the store and is not live.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

mod outlast;
mod table;

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use mesh::{
    authorize::Residency,
    identity::{Identity, NodeId},
    wire::{
        MeetingId, Term,
        request::{Replica, Response},
    },
};

use self::table::Table;
use super::Meetings;
use crate::{
    lock,
    meeting::role,
    replicate::{
        entry::Entry,
        receiver::{Receiver, StreamId},
        snapshot::op,
    },
    store::{
        Op,
        log::LogClosed,
        record::{MeetingRecord, Serving},
    },
};

/// What comes in of meetings that other cores serve. At most as many streams as the core may have meetings live; who serves more of
/// them than others gives way to those.
#[derive(Default)]
pub(super) struct Standbys(Mutex<Table>);

impl Standbys {
    pub(super) fn receiver(
        &self,
        meeting: MeetingId,
        by: &NodeId,
        room: usize,
    ) -> Option<Arc<tokio::sync::Mutex<Receiver>>> {
        self.change(|table, now| table.receiver(meeting, by, room, now))
    }

    pub(super) fn forget(&self, meeting: MeetingId) {
        self.change(|table, _| table.forget(meeting));
    }

    /// This core is the standby of `meeting`, which `by` serves.
    pub(super) fn hold(&self, meeting: MeetingId, by: &NodeId) {
        self.change(|table, now| table.hold(meeting, by, now));
    }

    /// It is not, or the meeting has ended.
    pub(super) fn let_go(&self, meeting: MeetingId) {
        self.change(|table, now| table.let_go(meeting, now));
    }

    /// The meetings that may be orphaned one day.
    pub(super) fn held(&self) -> Vec<MeetingId> {
        self.change(|table, now| {
            table.sweep(now);
            table.held()
        })
    }

    pub(super) fn tables(&self) -> [(&'static str, usize); 2] {
        self.change(|table, _| [("standby_streams", table.streams()), ("standby_meetings", table.held().len())])
    }

    fn change<T>(&self, change: impl FnOnce(&mut Table, Instant) -> T) -> T {
        let mut table = lock(&self.0);
        let changed = change(&mut table, Instant::now());
        metrics::gauge!("nearfield_core_standby_meetings").set(table.streams() as f64);
        changed
    }
}

/// What a replica comes to.
enum Taken {
    Answered(Response),
    /// This core goes on with the meeting instead, as soon as others may decide on it.
    Outlasted(Box<MeetingRecord>),
}

fn refused(why: impl ToString) -> Response {
    Response::Refused { reason: why.to_string() }
}

impl Meetings {
    /// Another core ships a meeting that it serves to this one, which is to be its standby.
    pub async fn handle_replica(self: &Arc<Self>, from: &Identity, replica: Replica) -> Response {
        match self.heed_replica(from, &replica).await {
            Ok(Taken::Answered(answer)) | Err(answer) => answer,
            Ok(Taken::Outlasted(record)) => self.outlast(from, *record).await,
        }
    }

    async fn heed_replica(self: &Arc<Self>, from: &Identity, replica: &Replica) -> Result<Taken, Response> {
        self.give_way(from, replica).await?;
        if self.draining() {
            return Err(refused("this core is draining"));
        }
        let known = self.known(from, replica)?.is_some();
        if !known {
            self.check_new(from, replica)?;
        }
        let receiver = self.receiver(from, replica, known)?;
        let mut receiver = receiver.lock().await;
        // Held until all is on disk: a takeover sees all of a batch or nothing.
        let _hands = self.hands.lock().await;
        self.take_replica(from, replica, &mut receiver).await
    }

    /// What is served here ends, if the other core's term is later; else that core hears of ours.
    async fn give_way(&self, from: &Identity, replica: &Replica) -> Result<(), Response> {
        let (id, term) = (replica.meeting, replica.term);
        let Some(meeting) = self.live(id) else { return Ok(()) };
        let record = meeting.record();
        self.admit_replica(from, Some(&record), replica).map_err(refused)?;
        if !meeting.replication.with(|m, _| m.handle_other(&from.node, term)) {
            let term = meeting.replication.see(|m| m.term());
            return Err(self.serving_answer(from, &record, self.me().clone(), term));
        }
        self.step_down(id, from.node.clone(), term).await;
        Ok(())
    }

    /// What is known here of a meeting that the other core may ship.
    fn known(&self, from: &Identity, replica: &Replica) -> Result<Option<MeetingRecord>, Response> {
        let known = self.store.meeting(replica.meeting).map_err(refused)?;
        self.admit_replica(from, known.as_ref(), replica).map_err(refused)?;
        Ok(known)
    }

    fn check_new(&self, from: &Identity, replica: &Replica) -> Result<(), Response> {
        if self.store_shortage().is_some() {
            return Err(refused("this core's store takes no more meetings"));
        }
        if self.was_removed(replica.meeting, from) {
            return Err(refused("this meeting is over, and was removed"));
        }
        // Before it takes a place: a core that starts says a word of each of its meetings to every other.
        if replica.is_word() { Err(Response::Unknown) } else { Ok(()) }
    }

    fn receiver(
        &self,
        from: &Identity,
        replica: &Replica,
        known: bool,
    ) -> Result<Arc<tokio::sync::Mutex<Receiver>>, Response> {
        let id = replica.meeting;
        match self.standbys.receiver(id, &from.node, self.settings.meetings) {
            Some(receiver) => Ok(receiver),
            // It takes no place to hear that this core need not be the standby any more.
            None if known && Receiver::is_farewell(id, replica) => Ok(Arc::default()),
            None => Err(refused("this core is the standby of as many meetings as it can be")),
        }
    }

    /// `hands` is held.
    async fn take_replica(
        self: &Arc<Self>,
        from: &Identity,
        replica: &Replica,
        receiver: &mut Receiver,
    ) -> Result<Taken, Response> {
        let (id, term) = (replica.meeting, replica.term);
        // Looked at again: it may have come from another core meanwhile.
        let known = self.known(from, replica)?;
        match &known {
            None if replica.is_word() => return Err(Response::Unknown),
            None => {}
            Some(record) => {
                if let Some(taken) = self.stands_against(from, record, replica).await {
                    return Ok(taken);
                }
            }
        }
        let newest = StreamId { term, by: from.node.clone(), number: replica.stream };
        let entries = receiver.handle(id, &newest, replica.first, &replica.entries).map_err(|error| {
            metrics::counter!("nearfield_core_replicas_bad_total").increment(1);
            tracing::warn!(meeting = %id, core = %from.node, %error, "replica refused");
            refused(error)
        })?;
        if let Some(record) = known.as_ref().filter(|record| self.outlasts(record, from, term, &entries)) {
            return Ok(self.outlasted(from, record).await);
        }
        self.keep(from, known.as_ref(), replica, entries).await.map_err(|why| {
            self.standbys.forget(id);
            refused(why)
        })?;
        Ok(Taken::Answered(Response::Replicated { next: receiver.next() }))
    }

    /// What is known here stands against what the other core says, or follows from a mere word of it.
    async fn stands_against(
        self: &Arc<Self>,
        from: &Identity,
        record: &MeetingRecord,
        replica: &Replica,
    ) -> Option<Taken> {
        if replica.is_word() && role::cedes(record, replica.term) {
            return Some(Taken::Answered(self.cede(from, record.clone(), replica.term).await));
        }
        if self.outlasts_word(record, from, replica) {
            return Some(self.outlasted(from, record).await);
        }
        let (core, term) = role::outranked(&record.serving, self.me(), &from.node, replica.term, replica.stream)?;
        Some(Taken::Answered(self.serving_answer(from, record, core, term)))
    }

    /// The other core has an older copy.
    async fn outlasted(self: &Arc<Self>, from: &Identity, record: &MeetingRecord) -> Taken {
        if record.status.ended() {
            return Taken::Answered(self.outlast_ended(from, record).await);
        }
        Taken::Outlasted(Box::new(record.clone()))
    }

    async fn keep(
        &self,
        from: &Identity,
        known: Option<&MeetingRecord>,
        replica: &Replica,
        entries: Vec<Entry>,
    ) -> Result<(), String> {
        let (id, term, stream) = (replica.meeting, replica.term, replica.stream);
        let (mut pending, mut over) = (vec![], false);
        for entry in entries {
            let closed = |LogClosed| LogClosed.to_string();
            let op = match entry {
                Entry::Dropped => {
                    over = true;
                    self.dropped(from, id, term, stream)?
                }
                Entry::Record(record) if !self.may_hold(&record) => {
                    return Err("this core is outside the allowed residency".into());
                }
                entry => {
                    if let Entry::Record(record) = &entry {
                        self.admit_record(from, known, replica, record).map_err(|denied| denied.to_string())?;
                        over = record.status.ended();
                        self.standbys.hold(id, &from.node);
                    }
                    op(id, entry, &from.node, term, stream)
                }
            };
            if let Some(op) = op {
                pending.push(self.log.reserve().await.map_err(closed)?.write(op));
            }
        }
        for write in pending {
            write.durable().await.map_err(|e| e.to_string())?;
        }
        if over {
            self.standbys.let_go(id);
        }
        Ok(())
    }

    /// The meeting goes on without this core.
    fn dropped(&self, from: &Identity, id: MeetingId, term: Term, stream: u64) -> Result<Option<Op>, String> {
        let record = self.store.meeting(id).map_err(|e| e.to_string())?;
        // What is over is of use here, whoever has it as well.
        Ok(record.filter(|record| !record.status.ended()).map(|mut record| {
            record.serving =
                Serving { standby: self.perhaps_mine(id), ..Serving::moved(from.node.clone(), term, stream) };
            if record.serving.standby.is_none() {
                record.erase_secrets();
            }
            Op::Meeting(Box::new(record))
        }))
    }

    /// Whether the meeting's speech and words may be at this core.
    pub(super) fn may_hold(&self, record: &MeetingRecord) -> bool {
        self.residency(record, &self.placer.mesh.identity().region) == Residency::Inside
    }
}
