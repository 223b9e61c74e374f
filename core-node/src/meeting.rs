//! One live meeting: what its parts share.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

pub mod captures;
mod claim;
mod copies;
mod edges;
mod end;
mod intake;
pub mod leave;
pub mod lifecycle;
pub mod link;
pub mod machine;
mod people;
pub mod role;
pub mod secondary;
pub mod transcription;
pub mod wishes;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use mesh::{
    clock::Micros,
    mandate::MeetingKey,
    wire::{
        Epoch, MeetingId,
        control::{CloseReason, EdgeState, MAX_GIVEN_UP},
    },
};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use self::intake::IntakeError;
use self::{
    captures::{Captures, Now},
    link::ToLink,
    machine::Machine,
    wishes::Wishes,
};
use crate::{
    authority::standing::Standing,
    key::ParticipantId,
    lock,
    publish::Publisher,
    replicate::{entry::Entry, handle::Replication},
    speech::{
        ingest::{Counts, Ingest},
        order::Turns,
        utterance::IntakeEvent,
    },
    store::{
        Op, Store,
        log::{Log, LogClosed},
        record::{CoreRole, Gap, GapReason, MeetingRecord, Owners, Participant, Status},
    },
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
    /// Its lease is over, and it uploads late what it has: another is wanted, unless the meeting is at its end.
    Late(Epoch),
    /// The edge is going away and wants a successor.
    HandOver(Epoch),
    /// Somebody wants it to end.
    Stop,
}

/// Bounds of one meeting.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// People remembered of it. Beyond it the one who left first makes room; their names stay with their segments. A day's meeting with
    /// a new guest every twenty seconds has fewer.
    pub people: usize,
    /// How long it may keep an edge's control stream waiting.
    pub notice_timeout: Duration,
    /// How long its edge may be heard by way of other nodes only: longer than a link takes to come back after a short cut.
    pub path_timeout: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { people: 5000, notice_timeout: Duration::from_secs(10), path_timeout: Duration::from_secs(8) }
    }
}

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
    bounds: Bounds,
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
    /// Its bounds.
    pub bounds: Bounds,
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
            bounds: parts.bounds,
            machine: Mutex::new(parts.machine.with_path_timeout(parts.bounds.path_timeout)),
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

    /// Tells the supervisor. Should it take nothing in for too long the meeting fails: whoever tells it has other meetings to serve.
    pub async fn notify(&self, notice: Notice) {
        // An error of the queue means that the meeting has ended.
        if tokio::time::timeout(self.bounds.notice_timeout, self.notices.send(notice)).await.is_err() {
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
}

/// Now, by both clocks.
pub fn now() -> Now {
    Now { at: Instant::now(), wall: wall() }
}

/// Now, by the wall clock.
pub fn wall() -> Micros {
    Micros::from_system(SystemTime::now())
}
