//! Who listens to one meeting's events, from any number on.

use std::{collections::VecDeque, sync::Arc};

use mesh::wire::MeetingId;
use tokio::sync::broadcast::{self, error::RecvError};

use super::{Event, Feed, Finals, What};
use crate::{
    lock,
    store::{Store, StoreError},
};

/// One listener's place in a meeting's events.
pub struct Listener {
    pub(super) meeting: MeetingId,
    pub(super) feed: Arc<Feed>,
    pub(super) store: Arc<Store>,
    pub(super) live: broadcast::Receiver<Event>,
    pub(super) backlog: Option<VecDeque<Event>>,
    /// The backlog ends before a final of which it is not known whether it is out: nothing beyond is told before that.
    pub(super) unsure: bool,
    pub(super) last: u64,
    pub(super) ended: bool,
}

impl Listener {
    /// The next event; `None` after the last.
    ///
    /// # Errors
    /// The store could not be read; calling again goes on.
    pub async fn next(&mut self) -> Result<Option<Event>, StoreError> {
        while !self.ended {
            let event = match &mut self.backlog {
                None => {
                    self.backlog = Some(self.load().await?);
                    continue;
                }
                Some(backlog) => match backlog.pop_front() {
                    Some(event) => event,
                    None if self.unsure => {
                        self.feed.sure().await;
                        self.backlog = None;
                        continue;
                    }
                    None => match self.live.recv().await {
                        Ok(event) => event,
                        Err(RecvError::Lagged(missed)) => {
                            metrics::counter!("nearfield_core_feed_lagged_events_total").increment(missed);
                            self.backlog = None;
                            continue;
                        }
                        Err(RecvError::Closed) => return Ok(None),
                    },
                },
            };
            let moved = matches!(event.what, What::Moved(_));
            if event.seq > self.last || moved {
                self.ended = moved || matches!(event.what, What::Done(_));
                let seq = event.seq.max(self.last);
                self.last = seq;
                return Ok(Some(Event { seq, ..event }));
            }
        }
        Ok(None)
    }

    /// What was sent after `last`, as far as it still matters. Subscribing comes first, so that nothing
    /// falls between.
    async fn load(&mut self) -> Result<VecDeque<Event>, StoreError> {
        self.live = self.feed.events.subscribe();
        let (newest, moved): (Vec<Event>, _) = {
            let newest = lock(&self.feed.newest);
            (
                newest.partials.values().chain(&newest.gaps).chain(&newest.status).cloned().collect(),
                newest.moved.clone(),
            )
        };
        let Finals { out, unsure } = self.feed.finals(self.store.clone(), self.meeting, self.last).await?;
        let first = if unsure { lock(&self.feed.newest).unsure } else { None };
        self.unsure = unsure;
        let finals = out.into_iter().map(|s| Event { seq: s.seq, what: What::Final(s.into()) });
        let newest = newest.into_iter().filter(|event| first.is_none_or(|first| event.seq < first));
        let mut events: Vec<Event> = finals.chain(newest).collect();
        events.sort_by_key(|e| e.seq);
        Ok(events.into_iter().chain(moved).collect())
    }
}
