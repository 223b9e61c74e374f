//! One meeting's events, to whoever listens: the newest partial wins, finals are kept.
//!
//! Events are numbered and sent under one lock, a final only after the store has it; so the order of
//! numbers is the order of sending, and a listener that names the last number it saw misses nothing:
//! finals come from the store, partials and the status as they now are.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
};

use mesh::{clock::Micros, wire::MeetingId};
use serde::Serialize;
use tokio::sync::broadcast::{self, error::RecvError};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    key::SpurtKey,
    lock,
    log::{Log, LogClosed},
    record::Status,
    store::{Op, Store, StoreError},
    transcript::{Draft, Finality, Segment, Transcript},
};

/// Events a slow listener may fall behind by before it is sent to the store again.
const FEED_QUEUE: usize = 256;

/// Listeners of one meeting.
const MAX_LISTENERS: usize = 256;

/// Numbers reserved on disk at a time: a crash skips what is left of them.
const SEQ_BLOCK: u64 = 1024;

/// Something that happened to a meeting's transcript.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its number.
    pub seq: u64,
    /// What.
    pub what: What,
}

/// See [`Event`].
#[derive(Debug, Clone)]
pub enum What {
    /// A revision that another will follow.
    Partial(Arc<Segment>),
    /// The last revision.
    Final(Arc<Segment>),
    /// The meeting moved on.
    Status(StatusChange),
    /// Nothing more will come.
    Done(StatusChange),
}

/// Where a meeting stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct StatusChange {
    /// The meeting.
    pub meeting_id: Uuid,
    /// Where it stands now.
    pub status: Status,
    /// Why it failed.
    pub sub_code: Option<String>,
}

/// More listeners than one meeting may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_LISTENERS} listeners already")]
pub struct TooManyListeners;

/// Publishes for one meeting.
pub struct Publisher {
    meeting: MeetingId,
    transcript: tokio::sync::Mutex<Numbered>,
    feed: Arc<Feed>,
    log: Log,
}

struct Numbered {
    transcript: Transcript,
    reserved: u64,
}

/// What a new listener needs besides the store.
struct Feed {
    newest: Mutex<Newest>,
    events: broadcast::Sender<Event>,
}

#[derive(Default)]
struct Newest {
    partials: BTreeMap<Uuid, Event>,
    status: Option<Event>,
}

impl Publisher {
    /// A publisher that goes on where `transcript` is.
    pub fn new(meeting: MeetingId, transcript: Transcript, log: Log) -> Self {
        let feed = Feed { newest: Mutex::default(), events: broadcast::channel(FEED_QUEUE).0 };
        let reserved = transcript.next_seq();
        Self {
            meeting,
            transcript: tokio::sync::Mutex::new(Numbered { transcript, reserved }),
            feed: Arc::new(feed),
            log,
        }
    }

    /// Sets the meeting's first captured frame, once.
    pub async fn set_origin(&self, captured: Micros) {
        self.transcript.lock().await.transcript.set_origin(captured);
    }

    /// Sends a partial, unless the utterance is final already.
    ///
    /// # Errors
    /// The store takes no more writes.
    pub async fn partial(&self, draft: Draft) -> Result<(), LogClosed> {
        let mut numbered = self.numbered().await?;
        if let Some(segment) = numbered.transcript.handle_partial(draft) {
            self.feed.send(Event { seq: segment.seq, what: What::Partial(segment.into()) });
        }
        Ok(())
    }

    /// Stores a final with the done marks of its spurts, and sends it. Returns the segment if there is one.
    ///
    /// # Errors
    /// The store takes no more writes; nothing was sent.
    pub async fn finish(&self, draft: Draft, spurts: Vec<SpurtKey>) -> Result<Option<Arc<Segment>>, LogClosed> {
        let mut numbered = self.numbered().await?;
        let at = draft.words;
        let segment = match numbered.transcript.handle_final(draft) {
            Finality::Segment(segment) => Some(segment),
            Finality::Silence | Finality::Repeated => None,
        };
        self.log.write(Op::Finish { meeting: self.meeting, spurts, segment: segment.clone(), at }).await?;
        let segment: Option<Arc<Segment>> = segment.map(Arc::from);
        if let Some(segment) = &segment {
            self.feed.send(Event { seq: segment.seq, what: What::Final(segment.clone()) });
        }
        Ok(segment)
    }

    /// Sends where the meeting stands; the last such event ends the feed. Returns its number.
    ///
    /// # Errors
    /// The store takes no more writes.
    pub async fn status(&self, status: Status, sub_code: Option<String>) -> Result<u64, LogClosed> {
        let mut numbered = self.numbered().await?;
        let change = StatusChange { meeting_id: self.meeting, status, sub_code };
        let seq = numbered.transcript.take_seq();
        self.feed.send(Event { seq, what: What::Status(change.clone()) });
        if !status.ended() {
            return Ok(seq);
        }
        let seq = numbered.transcript.take_seq();
        self.feed.send(Event { seq, what: What::Done(change) });
        Ok(seq)
    }

    /// Listens from after number `since`.
    ///
    /// # Errors
    /// The meeting has as many listeners as it may have.
    pub fn listen(&self, store: Arc<Store>, since: u64) -> Result<Listener, TooManyListeners> {
        if self.feed.events.receiver_count() >= MAX_LISTENERS {
            return Err(TooManyListeners);
        }
        Ok(Listener {
            meeting: self.meeting,
            feed: self.feed.clone(),
            store,
            live: self.feed.events.subscribe(),
            backlog: None,
            last: since,
            ended: false,
        })
    }

    /// The transcript, with room for two more numbers on disk.
    async fn numbered(&self) -> Result<tokio::sync::MutexGuard<'_, Numbered>, LogClosed> {
        let mut numbered = self.transcript.lock().await;
        if numbered.transcript.next_seq() + 2 > numbered.reserved {
            let reserved = numbered.transcript.next_seq() + SEQ_BLOCK;
            self.log.write(Op::Sequence(self.meeting, reserved)).await?;
            numbered.reserved = reserved;
        }
        Ok(numbered)
    }
}

impl Feed {
    fn send(&self, event: Event) {
        let mut newest = lock(&self.newest);
        match &event.what {
            What::Partial(segment) => {
                newest.partials.insert(segment.id, event.clone());
            }
            What::Final(segment) => {
                newest.partials.remove(&segment.id);
            }
            What::Status(_) | What::Done(_) => newest.status = Some(event.clone()),
        }
        // An error means that nobody listens.
        let _ = self.events.send(event);
    }
}

/// One listener's place in a meeting's events.
pub struct Listener {
    meeting: MeetingId,
    feed: Arc<Feed>,
    store: Arc<Store>,
    live: broadcast::Receiver<Event>,
    backlog: Option<VecDeque<Event>>,
    last: u64,
    ended: bool,
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
            if event.seq > self.last {
                self.last = event.seq;
                self.ended = matches!(event.what, What::Done(_));
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// What was sent after `last`, as far as it still matters. Subscribing comes first, so that nothing
    /// falls between.
    async fn load(&mut self) -> Result<VecDeque<Event>, StoreError> {
        self.live = self.feed.events.subscribe();
        let (store, meeting, since) = (self.store.clone(), self.meeting, self.last);
        let newest: Vec<Event> = {
            let newest = lock(&self.feed.newest);
            newest.partials.values().chain(&newest.status).cloned().collect()
        };
        let finals = tokio::task::spawn_blocking(move || store.segments(meeting, since)).await;
        let finals = finals.map_err(|e| StoreError::Record { what: "segments", why: e.to_string() })??;
        let finals = finals.into_iter().map(|s| Event { seq: s.seq, what: What::Final(s.into()) });
        let mut events: Vec<Event> = finals.chain(newest).collect();
        events.sort_by_key(|e| e.seq);
        Ok(events.into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use mesh::wire::{Epoch, SpurtNo};

    use super::*;
    use crate::transcribe::Text;

    fn key(spurt: u32) -> SpurtKey {
        SpurtKey { epoch: Epoch(1), participant: "a".into(), spurt: SpurtNo(spurt) }
    }

    fn draft(spurt: u32, text: &str) -> Draft {
        Draft {
            key: key(spurt),
            participant: None,
            text: Text { text: text.into(), ..Text::default() },
            captured: Micros(u64::from(spurt) * 1_000_000),
            length: Duration::from_millis(500),
            stages: None,
            received: Micros(0),
            durable: Micros(0),
            words: Micros(0),
            edge: None,
        }
    }

    struct Bench {
        publisher: Publisher,
        store: Arc<Store>,
        _dir: tempfile::TempDir,
    }

    fn bench() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&dir.path().join("core.redb")).unwrap());
        let meeting = Uuid::from_u128(3);
        let transcript = Transcript::new(meeting, None, store.sequence(meeting).unwrap(), []);
        let publisher = Publisher::new(meeting, transcript, Log::start(store.clone()).unwrap());
        Bench { publisher, store, _dir: dir }
    }

    async fn rest(listener: &mut Listener) -> Vec<(u64, String)> {
        let mut seen = vec![];
        while let Some(event) = listener.next().await.unwrap() {
            let name = match event.what {
                What::Partial(s) => format!("partial {}", s.text),
                What::Final(s) => format!("final {}", s.text),
                What::Status(s) => s.status.as_str().into(),
                What::Done(_) => "end".into(),
            };
            seen.push((event.seq, name));
        }
        seen
    }

    #[tokio::test]
    async fn a_listener_resumes_after_the_last_number_it_saw() {
        let Bench { publisher, store, _dir } = bench();
        publisher.status(Status::Active, None).await.unwrap();
        publisher.partial(draft(0, "on")).await.unwrap();
        publisher.partial(draft(0, "one")).await.unwrap();
        publisher.finish(draft(0, "one."), vec![key(0)]).await.unwrap();
        publisher.partial(draft(1, "tw")).await.unwrap();
        publisher.partial(draft(1, "two")).await.unwrap();
        let mut late = publisher.listen(store.clone(), 2).unwrap();
        publisher.finish(draft(1, "two."), vec![key(1)]).await.unwrap();
        publisher.partial(draft(1, "too late")).await.unwrap();
        publisher.status(Status::Done, None).await.unwrap();
        let from_two = [(4, "final one."), (7, "final two."), (9, "end")];
        assert_eq!(rest(&mut late).await, from_two.map(|(n, s)| (n, s.to_owned())));
        let mut last = publisher.listen(store, 7).unwrap();
        assert_eq!(rest(&mut last).await, [(9, "end".to_owned())]);
    }

    #[tokio::test]
    async fn a_listener_that_falls_behind_still_gets_every_final() {
        let Bench { publisher, store, _dir } = bench();
        let mut slow = publisher.listen(store, 0).unwrap();
        publisher.status(Status::Active, None).await.unwrap();
        assert!(slow.next().await.unwrap().is_some());
        for n in 0..400 {
            publisher.finish(draft(n, "word"), vec![key(n)]).await.unwrap();
        }
        publisher.status(Status::Done, None).await.unwrap();
        let finals = rest(&mut slow).await.into_iter().filter(|(_, what)| what == "final word").count();
        assert_eq!(finals, 400);
    }

    #[tokio::test]
    async fn numbers_go_on_rising_after_a_crash() {
        let Bench { publisher, store, _dir } = bench();
        publisher.partial(draft(0, "on")).await.unwrap();
        assert!(store.sequence(Uuid::from_u128(3)).unwrap() > 2);
    }
}
