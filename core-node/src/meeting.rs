//! One live meeting: what its parts share.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

mod claim;
mod copies;
mod detour;
pub mod wishes;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant, SystemTime},
};

use mesh::{
    clock::Micros,
    identity::NodeId,
    lease::{Grantor, Lapsed, NotYet},
    mandate::MeetingKey,
    trace::TraceContext,
    wire::{
        Epoch, MeetingId, Term,
        control::{CloseReason, EdgeState, EdgeTotals, MAX_GIVEN_UP},
        spurt::Item,
    },
};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::{detour::Detours, wishes::Wishes};
use crate::{
    authority::standing::Standing,
    ingest::{Append, Counts, Event, Ingest, Opened, Receipt, Refusal},
    key::{ParticipantId, SpurtKey},
    link::ToLink,
    lock,
    log::{Log, LogClosed, Pending},
    publish::Publisher,
    record::{CoreRole, Gap, GapReason, MeetingRecord, Owner, Participant, SLOTS, Status},
    replicate::{entry::Entry, handle::Replication, sender::Settled, witnesses::Witnesses},
    seat,
    store::{Chunk, Op, SpurtRecord, Store},
    transcript::{Speaker, timestamp},
    turns::Turns,
    utterance::{Fresh, Heard},
};

/// What an edge or the API tells a meeting's supervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The edge has opened it here.
    Opened(Epoch),
    /// Where the edge stands.
    State(Epoch, EdgeState, Option<String>),
    /// The edge has left.
    Closed(Epoch, CloseReason),
    /// Its lease is over, and it brings home what it has: another is wanted, unless the meeting is at its end.
    Late(Epoch),
    /// The edge is going away and wants a successor.
    HandOver(Epoch),
    /// Somebody wants it to end.
    Stop,
}

/// Why items were not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IntakeError {
    /// The edge's doing.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store's.
    #[error(transparent)]
    Log(#[from] LogClosed),
}

/// People remembered of one meeting. Beyond it the one who left first makes room; their names stay with their segments. A day's
/// meeting with a new guest every twenty seconds has fewer.
pub const MAX_KNOWN: usize = if cfg!(test) { 20 } else { 5000 };

/// Edges that may be connected about one meeting; beyond it the one with the oldest epoch is not answered.
const MAX_LINKS: usize = 8;

/// How long one meeting may keep an edge's control stream waiting.
const NOTICE_WAIT: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 10_000 });

/// How long a stream waits for transcription to catch up before it is given up.
const BACKLOG_WAIT: Duration = Duration::from_secs(60);

/// A live meeting. Its tasks hold it; when it has ended, the store alone remembers it.
pub struct Meeting {
    /// Its id.
    pub id: MeetingId,
    /// Its events.
    pub publisher: Publisher,
    /// The disk, for reading.
    pub store: Arc<Store>,
    log: Log,
    record: Mutex<MeetingRecord>,
    participants: Mutex<BTreeMap<ParticipantId, Participant>>,
    ingest: Mutex<Ingest>,
    /// In which order its finals go out.
    pub turns: Mutex<Turns>,
    /// Held while events leave `ingest`, so that they arrive in order.
    events: tokio::sync::Mutex<()>,
    /// By epoch: an edge whose epoch is over may still bring what it kept.
    links: Mutex<BTreeMap<Epoch, (u64, mpsc::Sender<ToLink>)>>,
    /// Its leases, by slot.
    grantors: [Mutex<Grantor>; SLOTS],
    /// Renewals that came by way of other nodes.
    detours: Mutex<Detours>,
    /// Who may call the standby.
    witnesses: Mutex<Witnesses>,
    /// When its edge was last heard of.
    heard_at: Mutex<Micros>,
    /// Its standby.
    pub replication: Arc<Replication>,
    /// What this core claims of it.
    pub standing: Standing,
    /// What it was asked to have and has not.
    pub wishes: Wishes,
    /// Ends its tasks.
    pub stop: CancellationToken,
    heard: mpsc::Sender<Heard>,
    notices: mpsc::Sender<Notice>,
    /// Where it stands, as soon as the record says so.
    status: watch::Sender<Status>,
    /// Told when a spurt is done, or its streams' state changed.
    progress: Notify,
    room: Notify,
    stuck: Notify,
}

/// What a [`Meeting`] is made of.
pub struct Parts {
    /// How it stands.
    pub record: MeetingRecord,
    /// Who is known in it.
    pub participants: Vec<Participant>,
    /// Its intake.
    pub ingest: Ingest,
    /// What of it is not done.
    pub turns: Turns,
    /// Its leases, by slot.
    pub grantors: [Grantor; SLOTS],
    /// Its standby.
    pub replication: Arc<Replication>,
    /// What this core claims of it.
    pub standing: Standing,
    /// Ends its tasks.
    pub stop: CancellationToken,
    /// Its events.
    pub publisher: Publisher,
    /// The disk.
    pub store: Arc<Store>,
    /// Its one writer.
    pub log: Log,
    /// To the scribe.
    pub heard: mpsc::Sender<Heard>,
    /// To the supervisor.
    pub notices: mpsc::Sender<Notice>,
}

impl Meeting {
    /// The meeting made of its parts.
    pub fn new(parts: Parts) -> Self {
        let participants = parts.participants.into_iter().map(|p| (ParticipantId::from(p.id.as_str()), p)).collect();
        Self {
            id: parts.record.id,
            publisher: parts.publisher,
            store: parts.store,
            log: parts.log,
            witnesses: Mutex::new(Witnesses::of(&parts.record)),
            status: watch::channel(parts.record.status).0,
            record: Mutex::new(parts.record),
            participants: Mutex::new(participants),
            ingest: Mutex::new(parts.ingest),
            turns: Mutex::new(parts.turns),
            events: tokio::sync::Mutex::default(),
            links: Mutex::default(),
            grantors: parts.grantors.map(Mutex::new),
            detours: Mutex::default(),
            heard_at: Mutex::new(wall()),
            replication: parts.replication,
            standing: parts.standing,
            wishes: Wishes::default(),
            stop: parts.stop,
            heard: parts.heard,
            notices: parts.notices,
            progress: Notify::new(),
            room: Notify::new(),
            stuck: Notify::new(),
        }
    }

    /// How it stands, with its counts up to date.
    pub fn record(&self) -> MeetingRecord {
        let counts = self.counts();
        MeetingRecord { counts, ..lock(&self.record).clone() }
    }

    /// What has been taken in.
    pub fn counts(&self) -> Counts {
        lock(&self.ingest).counts()
    }

    /// Spurts whose words are not out, and those of them that are still open.
    pub fn backlog(&self) -> (usize, usize) {
        let ingest = lock(&self.ingest);
        (ingest.undone(), ingest.open())
    }

    /// Its participants, by id.
    pub fn participants(&self) -> Vec<Participant> {
        lock(&self.participants).values().cloned().collect()
    }

    /// How many of them are there.
    pub fn present(&self) -> usize {
        lock(&self.participants).values().filter(|p| p.left_at.is_none()).count()
    }

    /// Changes the record and returns when the disk has it, and the standby.
    ///
    /// # Errors
    /// The store takes no more writes, or another core serves the meeting.
    pub async fn update(&self, change: impl FnOnce(&mut MeetingRecord)) -> Result<(), LogClosed> {
        let number = self.update_here(change).await?;
        self.replication.settled(number).await
    }

    /// Changes the record and returns when the disk has it; the standby gets it by and by. Returns the change's number.
    ///
    /// # Errors
    /// The store takes no more writes.
    pub async fn update_here(&self, change: impl FnOnce(&mut MeetingRecord)) -> Result<u64, LogClosed> {
        let slot = self.log.reserve().await?;
        let counts = self.counts();
        let (pending, number) = {
            let mut record = lock(&self.record);
            change(&mut record);
            record.counts = counts;
            if record.status.ended() || record.serving.role == CoreRole::Moved {
                record.erase_secrets();
            }
            self.status.send_replace(record.status);
            let pending = slot.write(Op::Meeting(Box::new(record.clone())));
            (pending, self.replication.push(|| Entry::Record(Box::new(record.clone()))))
        };
        pending.durable().await?;
        Ok(number)
    }

    /// Its tables and their rows.
    pub fn tables(&self) -> [(&'static str, usize); 5] {
        [
            ("participants", lock(&self.participants).len()),
            ("spurts", lock(&self.ingest).rows()),
            ("turns", lock(&self.turns).len()),
            ("edge_links", lock(&self.links).len()),
            ("owners", lock(&self.record).owners.len()),
        ]
    }

    /// Returns when it is being left, or has ended.
    pub async fn leaves(&self) {
        let mut status = self.status.subscribe();
        // The sender is here.
        _ = status.wait_for(|status| *status == Status::Finishing || status.ended()).await;
    }

    /// Stores why an edge was chosen.
    ///
    /// # Errors
    /// The store takes no more writes.
    pub async fn decided(&self, epoch: Epoch, decision: serde_json::Value) -> Result<(), LogClosed> {
        let slot = self.log.reserve().await?;
        let pending = slot.write(Op::Placement(self.id, epoch, decision.clone()));
        self.replication.push(|| Entry::Placement { epoch, decision });
        pending.durable().await.map(|_| ())
    }

    /// Tells the supervisor. One that takes nothing in for 10 s is [`Meeting::stuck`]: whoever tells it has other meetings
    /// to serve.
    pub async fn notify(&self, notice: Notice) {
        // An error of the queue means that the meeting has ended.
        if tokio::time::timeout(NOTICE_WAIT, self.notices.send(notice)).await.is_err() {
            self.stuck.notify_one();
        }
    }

    /// Returns when the supervisor has not taken in what it was told.
    pub async fn stuck(&self) {
        self.stuck.notified().await;
    }

    /// Returns when [`Meeting::backlog`] or [`Meeting::present`] may have changed.
    pub async fn progressed(&self) {
        self.progress.notified().await;
    }

    /// The edge's totals so far under `epoch`. Kept in memory until the record is next written.
    pub fn handle_totals(&self, epoch: Epoch, totals: EdgeTotals) {
        lock(&self.record).note_totals(epoch.0, totals);
    }

    /// Speech captured in these spans never comes, says an edge that had it: that is a gap.
    ///
    /// # Errors
    /// The store takes no more writes.
    pub async fn handle_given_up(&self, spans: Vec<(Micros, Micros)>) -> Result<(), LogClosed> {
        for (from, to) in spans.into_iter().take(MAX_GIVEN_UP).filter(|(from, to)| from < to) {
            let told =
                |gap: &Gap| gap.reason == GapReason::GivenUp && gap.from <= from && gap.to.is_some_and(|end| to <= end);
            if lock(&self.record).gaps.iter().any(told) {
                continue;
            }
            tracing::warn!(meeting = %self.id, ms = to.since(from).as_millis() as u64, "speech was given up by its edge");
            let gap = Gap { seq: 0, from, to: Some(to), reason: GapReason::GivenUp, segment: None };
            // Its edge says it again to whichever core takes over; its other meetings need not wait for the standby.
            let keep = |gap: Gap| async move { self.update_here(|record| record.add_gap(gap)).await.map(|_| ()) };
            self.publisher.gap(gap, keep).await?;
        }
        Ok(())
    }

    /// A beat of the edge: its lease runs for `lease` from now. False if it has none.
    pub fn renew(&self, edge: &NodeId, epoch: Epoch, lease: Duration) -> bool {
        if lock(&self.detours).handle_direct(epoch) {
            self.progress.notify_one();
        }
        self.renew_lease(edge, epoch, lease)
    }

    fn renew_lease(&self, edge: &NodeId, epoch: Epoch, lease: Duration) -> bool {
        // In a hand-over the predecessor's lease is over for the next owner's sake, but it captures until it is told.
        if self.owner(epoch).is_some_and(|o| o.leaving && o.until.is_none() && o.edge == *edge) {
            return true;
        }
        let Some(owner) = self.owner(epoch).filter(|o| o.until.is_none()) else { return false };
        let mut grantor = self.grantor(owner.slot);
        let (fresh, now) = (grantor.poll_timeout().is_none(), Instant::now());
        let renewed = grantor.renew(edge, epoch, lease, now).is_ok();
        *lock(&self.heard_at) = wall();
        if fresh {
            self.progress.notify_one();
        }
        renewed
    }

    /// As [`Meeting::renew`], by way of another node: sent when the edge's own clock stood at `sent_ms`. `None` if that has come before,
    /// or was held back on its way.
    pub fn renew_by_detour(&self, edge: &NodeId, epoch: Epoch, sent_ms: u64, lease: Duration) -> Option<bool> {
        let (now, heard) = (Instant::now(), self.heard_at());
        if !lock(&self.detours).is_fresh(epoch, sent_ms, now) {
            return None;
        }
        let renewed = self.renew_lease(edge, epoch, lease);
        if renewed && lock(&self.detours).handle_detour(epoch, heard, now) {
            self.progress.notify_one();
        }
        Some(renewed)
    }

    /// Since when the edge of `epoch` has been heard by way of other nodes only, so that its speech does not come; and when it was
    /// last heard itself.
    pub fn detoured(&self, epoch: Epoch) -> Option<(Instant, Micros)> {
        lock(&self.detours).only_since(epoch)
    }

    /// Of the edge of `epoch` is waited for what it has captured since then; or for nothing more.
    ///
    /// # Errors
    /// The store takes no more writes.
    pub async fn note_owed(&self, epoch: Epoch, since: Option<Micros>) -> Result<(), LogClosed> {
        let note = |record: &mut MeetingRecord| {
            if let Some(owner) = record.owners.get_mut(&epoch.0) {
                owner.owes = since;
            }
        };
        self.update_here(note).await.map(|_| ())
    }

    /// Those who were relieved and have not brought all that they captured.
    pub fn owing(&self) -> Vec<(Epoch, Owner)> {
        lock(&self.record).owing().map(|(epoch, owner)| (epoch, owner.clone())).collect()
    }

    /// What its cores alone know.
    pub fn key(&self) -> MeetingKey {
        lock(&self.record).key
    }

    /// The edge hands over: it needs no lease any more to capture until it is told to leave.
    ///
    /// # Errors
    /// The store takes no more writes.
    pub async fn hand_over(&self, edge: &NodeId, epoch: Epoch) -> Result<(), LogClosed> {
        let leaves = |record: &mut MeetingRecord| {
            if let Some(owner) = record.owners.get_mut(&epoch.0) {
                owner.leaving = true;
            }
        };
        self.update_here(leaves).await?;
        self.release(edge, epoch);
        Ok(())
    }

    /// The edge has left the relay.
    pub fn release(&self, edge: &NodeId, epoch: Epoch) {
        if let Some(owner) = self.owner(epoch) {
            self.grantor(owner.slot).release(edge, epoch);
        }
    }

    /// When an owner of it was last heard of.
    pub fn heard_at(&self) -> Micros {
        *lock(&self.heard_at)
    }

    /// The leases of a slot.
    pub fn grantor(&self, slot: u8) -> MutexGuard<'_, Grantor> {
        lock(&self.grantors[usize::from(slot).min(SLOTS - 1)])
    }

    /// The lease that has run out, once; or when the next one does.
    pub fn lapsed(&self, now: Instant) -> Option<Lapsed> {
        (0..SLOTS as u8).find_map(|slot| self.grantor(slot).handle_timeout(now))
    }

    /// When the next lease runs out.
    pub fn lease_end(&self) -> Option<Instant> {
        (0..SLOTS as u8).filter_map(|slot| self.grantor(slot).poll_timeout()).min()
    }

    /// This core serves in a later term from here on.
    pub fn handle_term(&self, term: Term) {
        (0..SLOTS as u8).for_each(|slot| self.grantor(slot).handle_term(term));
    }

    /// The edge of `epoch` captures no more: what it captures from now on is not wanted.
    ///
    /// # Errors
    /// The store takes no more writes.
    pub async fn retire(&self, epoch: Epoch) -> Result<(), LogClosed> {
        if !lock(&self.record).captures(epoch) {
            return Ok(());
        }
        let now = wall();
        let retire = |record: &mut MeetingRecord| {
            if let Some(owner) = record.owners.get_mut(&epoch.0) {
                owner.until.get_or_insert(now);
            }
        };
        let number = self.update_here(retire).await?;
        lock(&self.witnesses).handle_retired(epoch, number);
        self.settle_witnesses();
        self.tell_captors().await;
        Ok(())
    }

    /// `epoch` was granted in `slot`, to an edge that may call the standby if it is `leased`. It has not heard of it yet.
    pub fn handle_granted(&self, slot: u8, epoch: Epoch, leased: bool) {
        lock(&self.witnesses).handle_granted(slot, leased.then_some(epoch));
    }

    /// The edge does not want `epoch`, and calls nobody.
    pub fn handle_declined(&self, edge: &NodeId, epoch: Epoch) {
        self.release(edge, epoch);
        lock(&self.witnesses).handle_declined(epoch);
        self.sift_witnesses();
    }

    /// The edge of `epoch` has opened the meeting: who may call the standby is told of it anew. One that has left calls nobody,
    /// but may still be asked whether it has called.
    pub fn handle_attached(&self, epoch: Epoch) {
        if lock(&self.witnesses).contains(epoch) {
            self.replication.with(|m, _| m.handle_attached());
        }
    }

    /// The edge of `epoch` answers announcement `number` of a standby.
    pub fn handle_standby(&self, epoch: Epoch, number: u64, core: Option<NodeId>) {
        lock(&self.witnesses).handle_answer(epoch, number, core);
        self.sift_witnesses();
    }

    /// Looks whether those who may call the standby have agreed that they do not.
    pub fn sift_witnesses(&self) {
        let (empty, agreed) = {
            let witnesses = lock(&self.witnesses);
            (witnesses.is_empty(), witnesses.agreed())
        };
        if empty {
            self.replication.with(|m, _| m.handle_no_witness());
        } else if let Some((number, core)) = agreed {
            self.replication.with(|m, _| m.handle_confirmed(number, core.as_ref()));
        }
    }

    /// The standby may have been told of more by now: whom it obeys no more need not be asked.
    pub fn settle_witnesses(&self) {
        let settled = |number| self.replication.see(|m| m.settled(number)) == Settled::Yes;
        if lock(&self.witnesses).handle_settled(settled) {
            self.sift_witnesses();
        }
    }

    /// Those who may call the standby and are connected.
    pub fn witnesses(&self) -> Vec<Epoch> {
        let links = lock(&self.links);
        lock(&self.witnesses).iter().filter(|epoch| links.contains_key(epoch)).collect()
    }

    /// Returns when no edge can hold a lease of `slot` any more, so that the next may be granted. None is renewed from here on: this
    /// lasts as long as a lease at most.
    pub async fn vacant(&self, slot: u8) {
        self.grantor(slot).close();
        loop {
            let until = match self.grantor(slot).revoke(Instant::now()) {
                Err(NotYet::Leased(until)) => until,
                _ => return,
            };
            tokio::time::sleep_until(until.into()).await;
        }
    }

    /// What is said about speech of `epoch` goes to this link from now on, unless a newer one, of a higher number, has come
    /// already: of one that is lost the last may be read late.
    pub fn attach(&self, epoch: Epoch, number: u64, link: mpsc::Sender<ToLink>) {
        let mut links = lock(&self.links);
        if links.get(&epoch).is_none_or(|(newest, _)| *newest <= number) {
            links.insert(epoch, (number, link));
        }
        if links.len() > MAX_LINKS {
            links.pop_first();
        }
    }

    /// Sends to the edge of `epoch`, if it is connected; whether it is.
    pub async fn tell_edge(&self, epoch: Epoch, what: ToLink) -> bool {
        let link = lock(&self.links).get(&epoch).map(|(_, link)| link.clone());
        match link {
            // An error means that the link has gone; the edge will open the meeting again and ask.
            Some(link) => link.send(what).await.is_ok(),
            None => false,
        }
    }

    /// Sends to every edge that is connected.
    pub async fn tell_all(&self, what: impl Fn(Epoch) -> ToLink) {
        let epochs: Vec<Epoch> = lock(&self.links).keys().copied().collect();
        for epoch in epochs {
            self.tell_edge(epoch, what(epoch)).await;
        }
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
        if !lock(&self.record).captures(epoch) {
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
            let forgotten = if participants.contains_key(id) { None } else { crowded_out(&mut participants) };
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

    /// Who captured under `epoch`.
    pub fn owner(&self, epoch: Epoch) -> Option<Owner> {
        lock(&self.record).owners.get(&epoch.0).cloned()
    }

    /// Whether a spurt was captured when its epoch was over: another edge has it.
    pub fn is_nobodys(&self, key: &SpurtKey, captured: Micros) -> bool {
        self.owner(key.epoch).is_some_and(|owner| !seat::is_in_time(&owner, captured))
    }

    /// A spurt stream that is not [`Meeting::is_nobodys`] begins. Waits for room while transcription is behind, which holds the edge back.
    ///
    /// # Errors
    /// The stream is not to be read.
    pub async fn handle_header(
        &self,
        key: &SpurtKey,
        captured: Micros,
        trace: TraceContext,
        offset: u32,
    ) -> Result<Opened, IntakeError> {
        self.note_origin(captured).await?;
        let deadline = tokio::time::Instant::now() + BACKLOG_WAIT;
        let opened = loop {
            let room = self.room.notified();
            let opened = lock(&self.ingest).handle_header(key, captured, trace, offset);
            match opened {
                Err(refusal @ Refusal::Backlog(_)) => {
                    metrics::counter!("nearfield_core_intake_backlog_waits_total").increment(1);
                    tokio::time::timeout_at(deadline, room).await.map_err(|_| refusal)?;
                }
                opened => break opened?,
            }
        };
        self.drain(None).await;
        Ok(opened)
    }

    /// Items of a spurt, read at `received`. Returns when they are on disk and acknowledged.
    ///
    /// # Errors
    /// The stream is not to be read on.
    pub async fn handle_items(
        &self,
        key: &SpurtKey,
        offset: u32,
        items: Vec<Item>,
        received: Micros,
    ) -> Result<(), IntakeError> {
        let durable = match self.append(key, offset, items, received).await? {
            Some((pending, receipt)) => {
                let at = pending.durable().await?;
                lock(&self.ingest).handle_logged(receipt);
                Some(at)
            }
            None => None,
        };
        self.drain(durable).await;
        Ok(())
    }

    /// Room in the log comes first: what is accepted first must be written first.
    async fn append(
        &self,
        key: &SpurtKey,
        offset: u32,
        items: Vec<Item>,
        received: Micros,
    ) -> Result<Option<(Pending, Receipt)>, IntakeError> {
        let slot = self.log.reserve().await?;
        let mut ingest = lock(&self.ingest);
        let append = ingest.handle_items(key, offset, items)?;
        Ok(append.map(|append| {
            let receipt = append.receipt();
            (slot.write(self.op(append, received)), receipt)
        }))
    }

    fn op(&self, append: Append, received: Micros) -> Op {
        if let Some((captured, _)) = append.opened {
            lock(&self.turns).begin(&append.key, captured);
        }
        let opened = append.opened.map(|(captured, trace)| SpurtRecord { captured, trace, done: None });
        let chunk = Chunk::new(append.items, append.end, received);
        Op::Append { meeting: self.id, key: append.key, first: append.first, chunk, opened }
    }

    /// The words of these spurts are published and stored.
    pub async fn handle_done(&self, spurts: &[SpurtKey]) {
        for key in spurts {
            lock(&self.ingest).handle_done(key);
            lock(&self.turns).end(key);
            self.tell_done(key).await;
        }
        self.room.notify_waiters();
        self.progress.notify_one();
    }

    /// Tells the edge of a spurt that it need not keep it, or more of it than this.
    pub async fn tell_done(&self, key: &SpurtKey) {
        let leased = self.owner(key.epoch).is_some_and(|owner| owner.leased);
        let items = lock(&self.ingest).done_to(key).filter(|_| leased);
        self.tell_edge(key.epoch, ToLink::Done { meeting: self.id, key: key.clone(), items }).await;
    }

    /// Epochs below `epoch` are over, whoever captures.
    pub async fn seal_below(&self, epoch: Epoch) {
        lock(&self.ingest).seal(epoch, BTreeSet::new());
        self.drain(None).await;
    }

    /// Epochs below `epoch` are over, but of those who capture.
    pub async fn seal_former(&self, epoch: Epoch) {
        lock(&self.ingest).seal(epoch, self.captors());
        self.drain(None).await;
    }

    /// The spurts that epochs below `epoch`, except `but`, have left open end where they are.
    pub async fn end_open(&self, epoch: Epoch, but: &BTreeSet<Epoch>) {
        lock(&self.ingest).end_open(epoch, but);
        self.drain(None).await;
    }

    /// Passes on what follows from what was taken in.
    pub async fn drain(&self, durable: Option<Micros>) {
        let _turn = self.events.lock().await;
        while let Some((event, fresh)) = self.next_event() {
            match event {
                Event::Durable { key, upto, grown, .. } => {
                    if grown {
                        self.hear(Heard::Progress { key: key.clone(), durable, fresh }).await;
                    }
                    self.tell_edge(key.epoch, ToLink::Durable { meeting: self.id, key, upto }).await;
                }
                Event::Whole { key, end, .. } => {
                    self.hear(Heard::Whole { key, end, fresh }).await;
                    self.progress.notify_one();
                }
                Event::Done { key } => self.tell_done(&key).await,
            }
        }
    }

    fn next_event(&self) -> Option<(Event, Option<Fresh>)> {
        let mut ingest = lock(&self.ingest);
        let event = ingest.poll_event()?;
        let fresh = match &event {
            Event::Durable { key, grown: true, .. } | Event::Whole { key, .. } => ingest.take_fresh(key),
            _ => None,
        };
        Some((event, fresh))
    }

    /// The epochs under which edges capture now, or may.
    pub fn captors(&self) -> BTreeSet<Epoch> {
        lock(&self.record).captors().map(|(epoch, _)| epoch).collect()
    }

    /// The scribe is to know who captures now, or may: by the next speech it may be others already.
    pub async fn tell_captors(&self) {
        self.hear(Heard::Captors(self.captors())).await;
    }

    /// The same, for who puts together what they bring: when the meeting ends, nobody goes on with what the last of them leaves
    /// in the middle.
    pub fn captors_going_on(&self) -> BTreeSet<Epoch> {
        let record = lock(&self.record);
        let captors: BTreeSet<Epoch> = record.captors().map(|(epoch, _)| epoch).collect();
        if record.status == Status::Finishing && captors.len() == 1 { BTreeSet::new() } else { captors }
    }

    /// So many frames, so far, had been brought by another edge already.
    pub fn note_twice(&self, frames: u64) {
        lock(&self.ingest).note_twice(frames);
    }

    async fn hear(&self, heard: Heard) {
        // An error means that the meeting has ended.
        let _ = self.heard.send(heard).await;
    }

    async fn note_origin(&self, captured: Micros) -> Result<(), LogClosed> {
        if lock(&self.record).origin.is_some() {
            return Ok(());
        }
        let mut origin = captured;
        // The standby gets it before any final: the edge's streams need not wait for that.
        self.update_here(|record| origin = *record.origin.get_or_insert(captured)).await?;
        self.publisher.set_origin(origin).await;
        Ok(())
    }
}

/// Takes out who is to make room for another, if somebody is: whoever left first, or came first.
fn crowded_out(participants: &mut BTreeMap<ParticipantId, Participant>) -> Option<String> {
    if participants.len() < MAX_KNOWN {
        return None;
    }
    let first = participants.values().min_by_key(|p| (p.left_at.is_none(), &p.left_at, &p.joined_at))?;
    let first = ParticipantId::from(first.id.as_str());
    participants.remove(&first).map(|row| row.id)
}

/// Now, by the wall clock.
pub fn wall() -> Micros {
    Micros::from_system(SystemTime::now())
}
