//! One live meeting: what its parts share.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

pub mod captures;
mod claim;
mod copies;
mod edges;
mod end;
pub mod leave;
pub mod lifecycle;
pub mod link;
pub mod machine;
pub mod role;
pub mod secondary;
pub mod transcription;
pub mod wishes;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use mesh::{
    clock::Micros,
    mandate::MeetingKey,
    trace::TraceContext,
    wire::{
        Epoch, MeetingId,
        control::{CloseReason, EdgeState, MAX_GIVEN_UP},
        spurt::Item,
    },
};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::{
    captures::{Captures, Now},
    link::ToLink,
    machine::Machine,
    wishes::Wishes,
};
use crate::{
    authority::standing::Standing,
    key::{ParticipantId, SpurtKey},
    lock,
    publish::Publisher,
    replicate::{entry::Entry, handle::Replication},
    speech::{
        ingest::{Append, Counts, Event, Ingest, Opened, Receipt, Refusal},
        order::Turns,
        utterance::{Fresh, IntakeEvent},
    },
    store::{
        Chunk, Op, SpurtRecord, Store,
        log::{Log, LogClosed, Pending},
        record::{CoreRole, Gap, GapReason, MeetingRecord, Owners, Participant, Status},
    },
    transcript::{Speaker, timestamp},
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

/// How long one meeting may keep an edge's control stream waiting.
const NOTICE_WAIT: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 10_000 });

/// How long a stream waits for transcription to catch up before it is given up.
const BACKLOG_WAIT: Duration = Duration::from_secs(60);

/// The queue to an edge's control stream.
pub type Link = mpsc::Sender<ToLink>;

/// A live meeting. Its tasks hold it; when it has ended, the store alone remembers it.
pub struct Meeting {
    /// Its id.
    pub id: MeetingId,
    /// Its events.
    pub publisher: Publisher,
    /// The disk, for reading.
    pub store: Arc<Store>,
    log: Log,
    /// The record, but for its owners and counts: see [`Meeting::record`].
    rest: Mutex<MeetingRecord>,
    /// What becomes of it, and which edges capture it. Locked after `rest`, if both are.
    machine: Mutex<Machine<Link>>,
    participants: Mutex<BTreeMap<ParticipantId, Participant>>,
    ingest: Mutex<Ingest>,
    /// In which order its finals go out.
    pub turns: Mutex<Turns>,
    /// Held while events leave `ingest`, so that they arrive in order.
    events: tokio::sync::Mutex<()>,
    /// Its standby.
    pub replication: Arc<Replication>,
    /// What this core claims of it.
    pub standing: Standing,
    /// What it was asked to have and has not.
    pub wishes: Wishes,
    /// Ends its tasks.
    pub stop: CancellationToken,
    heard: mpsc::Sender<IntakeEvent>,
    notices: mpsc::Sender<Notice>,
    /// Where it stands, as soon as the record says so.
    status: watch::Sender<Status>,
    /// Told when a spurt is done, or its streams' state changed.
    progress: Notify,
    room: Notify,
    /// Told when it is to end at once.
    cut_short: Notify,
    /// Cancelled when it has ended here.
    gone: CancellationToken,
}

/// What a [`Meeting`] is made of.
pub struct Parts {
    /// How it stands, without its owners.
    pub record: MeetingRecord,
    /// What becomes of it.
    pub machine: Machine<Link>,
    /// Who is known in it.
    pub participants: Vec<Participant>,
    /// Its intake.
    pub ingest: Ingest,
    /// What of it is not done.
    pub turns: Turns,
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
    /// To the transcription task.
    pub heard: mpsc::Sender<IntakeEvent>,
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
            machine: Mutex::new(parts.machine),
            status: watch::channel(parts.record.status).0,
            rest: Mutex::new(parts.record),
            participants: Mutex::new(participants),
            ingest: Mutex::new(parts.ingest),
            turns: Mutex::new(parts.turns),
            events: tokio::sync::Mutex::default(),
            replication: parts.replication,
            standing: parts.standing,
            wishes: Wishes::default(),
            stop: parts.stop,
            heard: parts.heard,
            notices: parts.notices,
            progress: Notify::new(),
            room: Notify::new(),
            cut_short: Notify::new(),
            gone: CancellationToken::new(),
        }
    }

    /// How it stands, with its counts up to date.
    pub fn record(&self) -> MeetingRecord {
        let counts = self.counts();
        let rest = lock(&self.rest).clone();
        let owners = self.captures(|captures| captures.owners().clone());
        MeetingRecord { counts, owners, ..rest }
    }

    /// What only its cores know.
    pub fn key(&self) -> MeetingKey {
        lock(&self.rest).key
    }

    /// Looks at which edges capture it, or changes what need not be written.
    pub fn captures<T>(&self, act: impl FnOnce(&mut Captures<Link>) -> T) -> T {
        self.machine(|machine| act(&mut machine.captures))
    }

    /// Hands something in to what decides on it, or looks at that. Its driver alone does what it asks.
    pub fn machine<T>(&self, act: impl FnOnce(&mut Machine<Link>) -> T) -> T {
        act(&mut lock(&self.machine))
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
            let mut rest = lock(&self.rest);
            change(&mut rest);
            let owners = self.captures(|captures| captures.owners().clone());
            debug_assert_eq!(rest.owners, Owners::default(), "`captures` has them");
            if rest.status.ended() || rest.serving.role == CoreRole::Moved {
                rest.erase_secrets();
            }
            self.status.send_replace(rest.status);
            let record = MeetingRecord { owners, counts, ..rest.clone() };
            let pending = slot.write(Op::Meeting(Box::new(record.clone())));
            (pending, self.replication.push(|| Entry::Record(Box::new(record))))
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
            ("edge_links", self.captures(|captures| captures.connected())),
            ("owners", self.captures(|captures| captures.owners().rows.len())),
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

    /// Tells the supervisor. Should it take nothing in for 10 s the meeting fails: whoever tells it has other meetings to serve.
    pub async fn notify(&self, notice: Notice) {
        // An error of the queue means that the meeting has ended.
        if tokio::time::timeout(NOTICE_WAIT, self.notices.send(notice)).await.is_err() {
            self.handle_broken("its supervisor stands still".into());
        }
    }

    /// Returns when [`Meeting::backlog`] or [`Meeting::present`] may have changed.
    pub async fn progressed(&self) {
        self.progress.notified().await;
    }

    /// Speech captured in these spans never comes, says an edge that had it: that is a gap.
    ///
    /// # Errors
    /// The store takes no more writes.
    pub async fn handle_given_up(&self, spans: Vec<(Micros, Micros)>) -> Result<(), LogClosed> {
        for (from, to) in spans.into_iter().filter(|(from, to)| from < to).take(MAX_GIVEN_UP) {
            let told =
                |gap: &Gap| gap.reason == GapReason::GivenUp && gap.from <= from && gap.to.is_some_and(|end| to <= end);
            if lock(&self.rest).gaps.iter().any(told) {
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
            let opened = self.begin(key, captured, trace, offset);
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

    /// Whether a spurt may be begun is decided by its epoch, what becomes of it then by `ingest`.
    fn begin(&self, key: &SpurtKey, captured: Micros, trace: TraceContext, offset: u32) -> Result<Opened, Refusal> {
        let mut ingest = lock(&self.ingest);
        if !ingest.knows(key) && self.captures(|captures| captures.is_fenced(key.epoch)) {
            return Err(Refusal::Fenced);
        }
        ingest.handle_header(key, captured, trace, offset)
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

    /// None of epochs below `epoch`, except `but`, is begun any more, and what is open of them ends where it is.
    pub async fn fence(&self, epoch: Epoch, but: BTreeSet<Epoch>) {
        self.captures(|captures| captures.fence(epoch, but.clone()));
        self.end_open(epoch, &but).await;
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
                        self.hear(IntakeEvent::Progress { key: key.clone(), durable, fresh }).await;
                    }
                    self.tell_edge(key.epoch, ToLink::Durable { meeting: self.id, key, upto }).await;
                }
                Event::Whole { key, end, .. } => {
                    self.hear(IntakeEvent::Whole { key, end, fresh }).await;
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

    /// So many frames, so far, had been brought by another edge already.
    pub fn note_twice(&self, frames: u64) {
        lock(&self.ingest).note_twice(frames);
    }

    async fn hear(&self, heard: IntakeEvent) {
        // An error means that the meeting has ended.
        let _ = self.heard.send(heard).await;
    }

    async fn note_origin(&self, captured: Micros) -> Result<(), LogClosed> {
        if lock(&self.rest).origin.is_some() {
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

/// Now, by both clocks.
pub fn now() -> Now {
    Now { at: Instant::now(), wall: wall() }
}

/// Now, by the wall clock.
pub fn wall() -> Micros {
    Micros::from_system(SystemTime::now())
}
