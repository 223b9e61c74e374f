//! What is kept of meetings that are over: whether it can be read, and whether there is room.

use std::{sync::Weak, time::Duration};

use mesh::{tasks::blocking, wire::MeetingId};
use tokio_util::sync::CancellationToken;

use super::Meetings;
use crate::store::{Damaged, MAX_NAMED, Store, log::LogClosed, reads::ReadError, record::Status};

/// Records looked at in one go at the start.
const SCRUB_ROWS: usize = 256;
/// Between two of these.
const SCRUB_PAUSE: Duration = Duration::from_millis(20);

/// No write for so long: now is a good time to settle the store.
const IDLE: Duration = Duration::from_millis(500);

/// Why a meeting is kept.
#[derive(Debug, thiserror::Error)]
pub enum NotRemoved {
    /// No meeting has that id.
    #[error("no meeting has this id here")]
    Unknown,
    /// It is not over.
    #[error("the meeting is `{}`: it can be removed when it is over", .0.as_str())]
    NotEnded(Status),
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store takes no more writes.
    #[error(transparent)]
    Log(#[from] LogClosed),
}

/// What the store lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// It has reached `store.max_bytes`.
    Limit,
    /// Its disk is nearly full.
    Disk,
}

impl Shortage {
    /// What to do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Limit => {
                "The store has reached `store.max_bytes`: live meetings go on, none is made. Remove meetings that are over by \
                 `DELETE /v1/meetings/{id}?purge=true`, or raise the limit."
            }
            Self::Disk => {
                "The store's disk has less than 64 MiB left: live meetings go on, none is made. Give it room, or remove meetings \
                 that are over by `DELETE /v1/meetings/{id}?purge=true`."
            }
        }
    }
}

impl Meetings {
    /// Why the store takes no more meetings, if so.
    pub fn store_shortage(&self) -> Option<Shortage> {
        if self.store.size() > self.settings.max_store_bytes {
            return Some(Shortage::Limit);
        }
        (self.store.disk_left() < crate::store::DISK_RESERVE).then_some(Shortage::Disk)
    }

    /// Why the store has failed, if it has: then this core ends.
    pub fn store_failure(&self) -> Option<String> {
        self.log.failure()
    }

    /// What cannot be read of what is kept, and whether there may be more than is named.
    pub fn damaged(&self) -> (Vec<Damaged>, bool) {
        let rows = self.store.damaged();
        let more = rows.len() >= MAX_NAMED;
        (rows, more)
    }
}

/// Looks once at every record, so that one that cannot be read is known before somebody asks for it.
pub(super) async fn scrub(meetings: Weak<Meetings>, stop: CancellationToken) {
    let mut next = Some(MeetingId::nil());
    while let Some(from) = next {
        let Some(reads) = meetings.upgrade().map(|this| this.reads.clone()) else { return };
        let looked = stop.run_until_cancelled(reads.run(move |store| store.scrub(from, SCRUB_ROWS))).await;
        next = match looked {
            Some(Ok(next)) => next,
            Some(Err(error)) => return tracing::warn!(%error, "the records were not looked through"),
            None => return,
        };
        tokio::time::sleep(SCRUB_PAUSE).await;
    }
}

/// Settles the store whenever nothing has been written for [`IDLE`].
pub(super) async fn settle(store: Weak<Store>, stop: CancellationToken) {
    let (mut seen, mut settled) = (0, 0);
    while stop.run_until_cancelled(tokio::time::sleep(IDLE)).await.is_some() {
        let Some(store) = store.upgrade() else { return };
        let commits = store.commits();
        if commits == seen && commits != settled {
            let done = blocking("settling", move || store.settle()).await;
            if let Ok(Err(error)) = done {
                return tracing::warn!(%error, "the store is not settled; a start after a crash takes longer");
            }
            settled = commits;
        }
        seen = commits;
    }
}
