//! Speech as it comes in from a meeting's edges, by way of [`ingest`](crate::speech::ingest) to the log and to the transcription task.

use std::{collections::BTreeSet, time::Duration};

use mesh::{
    clock::Micros,
    trace::TraceContext,
    wire::{Epoch, spurt::Item},
};

use super::{Meeting, link::ToLink};
use crate::{
    key::SpurtKey,
    lock,
    speech::{
        ingest::{Append, Event, Opened, Receipt, Refusal},
        utterance::{Fresh, IntakeEvent},
    },
    store::{
        Chunk, Op, SpurtRecord,
        log::{LogClosed, Pending},
    },
};

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

/// How long a stream waits for transcription to catch up before it is given up.
const BACKLOG_WAIT: Duration = Duration::from_secs(60);

impl Meeting {
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
    pub(super) fn begin(
        &self,
        key: &SpurtKey,
        captured: Micros,
        trace: TraceContext,
        offset: u32,
    ) -> Result<Opened, Refusal> {
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

    pub(super) fn op(&self, append: Append, received: Micros) -> Op {
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

    pub(super) async fn note_origin(&self, captured: Micros) -> Result<(), LogClosed> {
        if lock(&self.rest).origin.is_some() {
            return Ok(());
        }
        let mut origin = captured;
        // The standby gets it before any final: the edge's streams need not wait for that.
        self.update_here(|record| origin = *record.origin.get_or_insert(captured)).await?;
        self.publisher.set_origin(origin).await;
        Ok(())
    }

    pub(super) async fn hear(&self, heard: IntakeEvent) {
        // An error means that the meeting has ended.
        let _ = self.heard.send(heard).await;
    }
}
