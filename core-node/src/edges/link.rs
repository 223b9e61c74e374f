//! One edge's connection: what its names mean, and the task that writes to it.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use mesh::{
    identity::Identity,
    stream::{MessageReceiver, StreamError},
    wire::{
        MeetingAlias, MeetingId,
        control::{ToCore, ToEdge},
        spurt::SpurtHeader,
    },
};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Acceptor, ControlSink, SpurtError,
    aliases::{Acks, Aliases},
    room::Room,
};
use crate::{key::SpurtKey, lock, meeting::link::ToLink};

/// Meetings that one edge was sent elsewhere with, or that are over, remembered.
const MAX_ELSEWHERE: usize = 1024;
/// For so long: an edge that has heard so sends nothing more.
const ELSEWHERE_FOR: Duration = Duration::from_secs(30);

/// One edge's connection.
pub struct Link {
    /// Rises from one that is accepted to the next.
    pub(super) number: u64,
    pub(super) edge: Identity,
    pub(super) aliases: Mutex<Aliases>,
    /// Where its spurts are while they are read.
    pub(super) room: Room,
    /// Counts changes of `aliases`.
    pub(super) changed: watch::Sender<u64>,
    /// What the edge opened and was told to take elsewhere, and what is over: the spurts of it are none of ours.
    pub(super) elsewhere: Mutex<BTreeMap<MeetingAlias, Instant>>,
    /// Something was lost: the edge is to start over.
    pub(super) over: CancellationToken,
    pub(super) out: mpsc::Sender<ToLink>,
}

impl Link {
    /// The edge's next message; none when the stream has ended or the edge is to start over. What has been read is always
    /// handled to its end.
    pub(super) async fn next(&self, recv: &mut MessageReceiver) -> Result<Option<ToCore>, StreamError> {
        tokio::select! {
            () = self.over.cancelled() => Ok(None),
            message = recv.recv::<ToCore>() => message,
        }
    }

    pub(super) async fn tell(&self, message: ToEdge) {
        // An error means that the link has gone.
        let _ = self.out.send(ToLink::Message(message)).await;
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Aliases) -> T) -> T {
        let result = change(&mut lock(&self.aliases));
        self.changed.send_modify(|n| *n += 1);
        result
    }

    /// What `header` means, as soon as its rows are here.
    pub(super) async fn resolve(
        &self,
        header: &SpurtHeader,
        wait: Duration,
    ) -> Result<(MeetingId, SpurtKey), SpurtError> {
        let mut changed = self.changed.subscribe();
        let named = async {
            loop {
                if let Some(named) = self.find(header) {
                    return named;
                }
                changed.changed().await.map_err(|_| SpurtError::Unknown)?;
            }
        };
        let elsewhere = || lock(&self.elsewhere).contains_key(&header.meeting);
        let unnamed = || if elsewhere() { SpurtError::Gone } else { SpurtError::Unknown };
        timeout(wait, named).await.unwrap_or_else(|_| Err(unnamed()))
    }

    /// What comes of these from now on is none of ours. An edge numbers its meetings on: the oldest are long forgotten there.
    pub(super) fn none_of_ours(&self, aliases: impl IntoIterator<Item = MeetingAlias>) {
        let (mut elsewhere, now) = (lock(&self.elsewhere), Instant::now());
        elsewhere.retain(|_, since| now.saturating_duration_since(*since) < ELSEWHERE_FOR);
        elsewhere.extend(aliases.into_iter().map(|alias| (alias, now)));
        while elsewhere.len() > MAX_ELSEWHERE {
            elsewhere.pop_first();
        }
    }

    fn find(&self, header: &SpurtHeader) -> Option<Result<(MeetingId, SpurtKey), SpurtError>> {
        let aliases = lock(&self.aliases);
        let refused = aliases.is_refused(header.meeting, header.participant);
        if refused { Some(Err(SpurtError::Refused)) } else { aliases.resolve(header).map(Ok) }
    }
}

/// Writes to one edge, acknowledgements together, until nobody sends any more or the edge is gone.
pub(super) async fn write(link: Arc<Link>, mut queue: mpsc::Receiver<ToLink>, mut sink: impl ControlSink) {
    let mut acks = Acks::default();
    loop {
        let timeout = acks.poll_timeout();
        let messages = tokio::select! {
            next = queue.recv() => match next {
                Some(what) => acks.handle(what, &lock(&link.aliases), Instant::now()),
                None => return,
            },
            () = sleep_until(timeout.unwrap_or_else(Instant::now).into()), if timeout.is_some() => {
                acks.handle_timeout(Instant::now())
            }
        };
        for message in &messages {
            if !sink.send(message).await {
                return;
            }
        }
    }
}

/// The place of an edge's link, given back however its task ends.
pub(super) struct LinkPlace<'a> {
    pub(super) of: &'a Acceptor,
    pub(super) id: usize,
    pub(super) link: &'a Arc<Link>,
}

impl Drop for LinkPlace<'_> {
    fn drop(&mut self) {
        let mut links = lock(&self.of.links);
        if links.get(&self.id).is_some_and(|current| Arc::ptr_eq(current, self.link)) {
            links.remove(&self.id);
        }
    }
}
