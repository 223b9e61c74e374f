//! The connector of a meeting: joined when the meeting may be, left when it must.

use std::time::Duration;

use mesh::tasks::{Broken, once};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::connect::{
    ConnectError, Connector, Event,
    inbox::{Inbox, inbox},
};

/// How long a connector may take to leave its relay.
const LEAVE: Duration = Duration::from_secs(5);

pub(super) enum Relay {
    /// Not to be joined yet.
    Ready(Box<dyn Connector>),
    Running {
        task: JoinHandle<Result<(), ConnectError>>,
        events: Inbox,
        leave: CancellationToken,
    },
    Gone,
}

impl Relay {
    pub(super) fn join(&mut self) {
        if matches!(self, Self::Ready(_))
            && let Self::Ready(connector) = std::mem::replace(self, Self::Gone)
        {
            let (events_tx, events) = inbox();
            let leave = CancellationToken::new();
            let task = once("relay", connector.run(events_tx, leave.clone()));
            *self = Self::Running { task, events, leave };
        }
    }

    pub(super) fn tell_to_leave(&mut self) {
        match self {
            Self::Ready(_) => *self = Self::Gone,
            Self::Running { leave, .. } => leave.cancel(),
            Self::Gone => {}
        }
    }

    /// The next events, or how the connector ended; never, while there are none. Cancel-safe.
    pub(super) async fn next(
        &mut self,
        batch: &mut Vec<Event>,
    ) -> Result<(), Result<Result<(), ConnectError>, Broken>> {
        let Self::Running { task, events, .. } = self else { return std::future::pending().await };
        if events.next(batch).await {
            return Ok(());
        }
        let ended = task.await;
        *self = Self::Gone;
        Err(ended.map_err(Broken::from))
    }

    pub(super) async fn leave(&mut self) {
        self.tell_to_leave();
        if let Self::Running { task, events, .. } = self {
            events.close();
            let _ = tokio::time::timeout(LEAVE, task).await;
        }
    }
}
