//! The one writer of the store: group commit.
//!
//! Requests queue here (bound: [`QUEUE`]; when full, writers wait). The thread takes what is there,
//! commits it in one transaction, and then answers all: under load a commit carries more, and no
//! request waits for more than the commit before its own. A store that fails ends the log: nothing
//! is acknowledged any more, [`Log::failed`] tells the node to stop, and the edges replay to it
//! after its restart.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::{sync::Arc, thread, time::Instant};

use mesh::clock::Micros;
use tokio::sync::{
    mpsc::{self, error::TryRecvError},
    oneshot, watch,
};

use super::{Op, Store, Values};

/// Requests that wait for the writer.
pub const QUEUE: usize = 1024;

/// The most requests in one commit: keeps a commit's length, and so each answer's delay, bounded.
const MAX_BATCH: usize = 512;

/// The store has failed, the node is stopping, or another core serves the meeting by now: nothing more may be
/// said of what was to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store takes no more writes")]
pub struct LogClosed;

struct Request {
    op: Op,
    durable: oneshot::Sender<Micros>,
}

/// Hands writes to the writer thread. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    requests: mpsc::Sender<Request>,
    failed: watch::Receiver<Option<String>>,
}

/// Room for one write: taken before its order is decided, so that the order holds in the log.
pub struct Slot<'a>(mpsc::Permit<'a, Request>);

/// A write under way.
pub struct Pending(oneshot::Receiver<Micros>);

impl Log {
    /// Starts the writer thread, which ends when every `Log` is gone.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(store: Arc<Store>) -> std::io::Result<Self> {
        let (requests, queue) = mpsc::channel(QUEUE);
        let (failure, failed) = watch::channel(None);
        thread::Builder::new().name("store-writer".into()).spawn(move || write_all(&store, queue, &failure))?;
        Ok(Self { requests, failed })
    }

    /// Waits for room.
    ///
    /// # Errors
    /// The log has ended.
    pub async fn reserve(&self) -> Result<Slot<'_>, LogClosed> {
        metrics::gauge!("nearfield_core_log_queue_requests").set((QUEUE - self.requests.capacity()) as f64);
        Ok(Slot(self.requests.reserve().await.map_err(|_| LogClosed)?))
    }

    /// Writes and returns when it is on disk, with the time of that.
    ///
    /// # Errors
    /// The log has ended; the write may or may not be on disk.
    pub async fn write(&self, op: Op) -> Result<Micros, LogClosed> {
        self.reserve().await?.write(op).durable().await
    }

    /// Why the store has failed, if it has.
    pub fn failure(&self) -> Option<String> {
        self.failed.borrow().clone()
    }

    /// Returns with the reason if the store fails; otherwise never.
    pub async fn failed(&self) -> String {
        let mut failed = self.failed.clone();
        match failed.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "the writer thread ended".into(),
        }
    }
}

impl Slot<'_> {
    /// Queues the write behind those queued before.
    pub fn write(self, op: Op) -> Pending {
        let (durable, pending) = oneshot::channel();
        self.0.send(Request { op, durable });
        Pending(pending)
    }
}

impl Pending {
    /// Returns when the write is on disk.
    ///
    /// # Errors
    /// As for [`Log::write`].
    pub async fn durable(self) -> Result<Micros, LogClosed> {
        self.0.await.map_err(|_| LogClosed)
    }
}

fn write_all(store: &Store, mut queue: mpsc::Receiver<Request>, failure: &watch::Sender<Option<String>>) {
    while let Some(first) = queue.blocking_recv() {
        let batch: Vec<_> = gather(first, &mut queue).into_iter().filter_map(prepared).collect();
        let begun = Instant::now();
        if let Err(error) = store.commit(batch.iter().map(|(request, values)| (&request.op, values))) {
            tracing::error!(%error, "store failed");
            failure.send_replace(Some(error.to_string()));
            return;
        }
        metrics::histogram!("nearfield_core_log_commit_seconds").record(begun.elapsed().as_secs_f64());
        metrics::histogram!("nearfield_core_log_batch_requests").record(batch.len() as f64);
        let now = Micros::from_system(std::time::SystemTime::now());
        for (request, _) in batch {
            // Whoever asked may have gone; the write stands.
            let _ = request.durable.send(now);
        }
    }
}

/// A write that could not be read back is not made: whoever asked for it is told, and the others go on.
fn prepared(request: Request) -> Option<(Request, Values)> {
    match request.op.prepare() {
        Ok(values) => Some((request, values)),
        Err(error) => {
            metrics::counter!("nearfield_core_store_refused_writes_total").increment(1);
            tracing::error!(%error, "a write is refused: it could not be read back");
            None
        }
    }
}

fn gather(first: Request, queue: &mut mpsc::Receiver<Request>) -> Vec<Request> {
    let mut batch = vec![first];
    while batch.len() < MAX_BATCH {
        match queue.try_recv() {
            Ok(request) => batch.push(request),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
        }
    }
    batch
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use mesh::wire::{Epoch, MeetingId};

    use super::*;

    #[tokio::test]
    async fn writes_are_on_disk_in_their_order_when_they_are_answered() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&dir.path().join("core.redb")).unwrap());
        let log = Log::start(store.clone()).unwrap();
        let meeting = MeetingId::from_u128(1);
        let mut pending = vec![];
        for n in 0..50u64 {
            let op = Op::Placement(meeting, Epoch(n % 5), n.into());
            pending.push(log.reserve().await.unwrap().write(op));
        }
        for write in pending {
            write.durable().await.unwrap();
        }
        assert_eq!(store.placements(meeting).unwrap(), [45, 46, 47, 48, 49].map(serde_json::Value::from));
    }

    #[tokio::test]
    async fn a_write_that_could_not_be_read_back_is_refused_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&dir.path().join("core.redb")).unwrap());
        let log = Log::start(store.clone()).unwrap();
        let meeting = MeetingId::from_u128(1);
        let deep = (0..200).fold(serde_json::Value::from(1), |inner, _| vec![inner].into());
        let before = log.reserve().await.unwrap().write(Op::Placement(meeting, Epoch(1), 1.into()));
        let bad = log.reserve().await.unwrap().write(Op::Placement(meeting, Epoch(2), deep));
        let after = log.reserve().await.unwrap().write(Op::Placement(meeting, Epoch(3), 3.into()));
        before.durable().await.unwrap();
        assert_eq!(bad.durable().await, Err(LogClosed));
        after.durable().await.unwrap();
        assert_eq!(store.placements(meeting).unwrap(), [1, 3].map(serde_json::Value::from));
    }
}
