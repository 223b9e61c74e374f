//! One meeting's events, to whoever listens: the newest partial wins, finals are kept.
//!
//! Events are numbered and sent under one lock, a final only after the store has it; so the order of
//! numbers is the order of sending, and a listener that names the last number it saw misses nothing:
//! finals come from the store, partials and the status as they now are.

mod listener;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use mesh::{
    clock::Micros,
    tasks::{Broken, blocking},
    wire::MeetingId,
};
use serde::Serialize;
use tokio::sync::broadcast::{self};
use utoipa::ToSchema;
use uuid::Uuid;

pub use self::listener::Listener;
use crate::{
    key::SpurtKey,
    lock,
    replicate::{
        entry::Entry,
        handle::Replication,
        sender::{Replicator, Settled},
        snapshot::finished,
    },
    speech::utterance::Cover,
    store::{
        Op, Store, StoreError,
        log::{Log, LogClosed},
        record::{Gap, MAX_GAPS, Status},
    },
    transcript::{Draft, Finality, Segment, Transcript},
};

/// Events a slow listener may fall behind by before it is sent to the store again.
const FEED_QUEUE: usize = 256;

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
    /// Nobody captured the meeting for a while, or there are no words of something.
    Gap(Gap),
    /// Another core serves the meeting: nothing more will come from this one. Its number is that of the event
    /// before it, since the other core goes on from there.
    Moved(Moved),
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

/// Where a meeting is served by now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Moved {
    /// The meeting.
    pub meeting_id: Uuid,
    /// The core that serves it.
    pub core: String,
    /// Its stream of this transcript, if its address is known; `Last-Event-ID` resumes there.
    pub location: Option<String>,
}

/// The finals that anybody may hear of.
#[derive(Debug, Default)]
pub struct Finals {
    /// They.
    pub out: Vec<Segment>,
    /// There is one more of which that is not known yet.
    pub unsure: bool,
}

/// A number that no event of the meeting has yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the newest event has the number {0}")]
pub struct NotYet(pub u64);

/// Publishes for one meeting.
pub struct Publisher {
    meeting: MeetingId,
    transcript: tokio::sync::Mutex<Numbered>,
    feed: Arc<Feed>,
    store: Arc<Store>,
    log: Log,
    replication: Arc<Replication>,
}

struct Numbered {
    transcript: Transcript,
    reserved: u64,
}

/// What a new listener needs besides the store.
struct Feed {
    replication: Arc<Replication>,
    /// The number of the change that stands for all before the meeting was taken up.
    before: u64,
    newest: Mutex<Newest>,
    events: broadcast::Sender<Event>,
}

#[derive(Default)]
struct Newest {
    partials: BTreeMap<Uuid, Event>,
    gaps: Vec<Event>,
    status: Option<Event>,
    moved: Option<Event>,
    /// The final that the store may have and the standby not yet: nobody is to hear of it.
    held: Option<u64>,
    /// The newest final that was there when the meeting was taken up: it is not known whether it was out until all that was
    /// written before has settled.
    unsure: Option<u64>,
    /// The highest number that was sent or may have been.
    last: u64,
}

impl Publisher {
    /// A publisher that goes on where `transcript` is; `gaps` are those that have ended, `newest` is the number of the newest
    /// final that the store has.
    pub fn new(
        meeting: MeetingId,
        transcript: Transcript,
        (gaps, newest): (&[Gap], Option<u64>),
        store: Arc<Store>,
        log: Log,
        replication: Arc<Replication>,
    ) -> Self {
        let gaps = gaps.iter().filter(|g| g.to.is_some()).map(|g| Event { seq: g.seq, what: What::Gap(g.clone()) });
        let newest =
            Newest { gaps: gaps.collect(), last: transcript.next_seq() - 1, unsure: newest, ..Newest::default() };
        let before = replication.see(Replicator::written);
        let events = broadcast::channel(FEED_QUEUE).0;
        let feed = Feed { replication: replication.clone(), before, newest: Mutex::new(newest), events };
        let reserved = transcript.next_seq();
        let transcript = tokio::sync::Mutex::new(Numbered { transcript, reserved });
        Self { meeting, transcript, feed: Arc::new(feed), store, log, replication }
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

    /// Stores a final with the done marks of its spurts, here and at the standby, and sends it. `done` says which those
    /// are; finals are stored in the order in which it is called. Returns them, and the segment if there is one.
    ///
    /// # Errors
    /// The store takes no more writes, or another core serves the meeting; nothing was sent.
    pub async fn finish(
        &self,
        draft: Draft,
        cover: Option<Cover>,
        done: impl FnOnce() -> Vec<SpurtKey>,
    ) -> Result<(Option<Arc<Segment>>, Vec<SpurtKey>), LogClosed> {
        let mut numbered = self.numbered().await?;
        let (at, spurts) = (draft.words, done());
        let segment = match numbered.transcript.handle_final(draft) {
            Finality::Segment(segment) => Some(segment),
            Finality::Silence | Finality::Repeated => None,
        };
        // On failure it stays hidden: another core may make its own of the same speech.
        lock(&self.feed.newest).held = segment.as_ref().map(|s| s.seq);
        self.store(spurts.clone(), segment.clone(), at, cover).await?;
        lock(&self.feed.newest).held = None;
        let segment: Option<Arc<Segment>> = segment.map(Arc::from);
        if let Some(segment) = &segment {
            self.feed.send(Event { seq: segment.seq, what: What::Final(segment.clone()) });
        }
        Ok((segment, spurts))
    }

    /// These spurts are done without words of their own: all of them was there already, or is nothing.
    ///
    /// # Errors
    /// The store takes no more writes, or another core serves the meeting.
    pub async fn drop_spurts(&self, spurts: Vec<SpurtKey>, at: Micros) -> Result<(), LogClosed> {
        let _numbered = self.transcript.lock().await;
        self.store(spurts, None, at, None).await
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

    /// Numbers and sends a gap that has ended; `keep` writes it down with its number.
    ///
    /// # Errors
    /// The store takes no more writes.
    pub async fn gap<F>(&self, gap: Gap, keep: impl FnOnce(Gap) -> F) -> Result<(), LogClosed>
    where
        F: Future<Output = Result<(), LogClosed>>,
    {
        let mut numbered = self.numbered().await?;
        let gap = Gap { seq: numbered.transcript.take_seq(), ..gap };
        keep(gap.clone()).await?;
        self.feed.send(Event { seq: gap.seq, what: What::Gap(gap) });
        Ok(())
    }

    /// Tells listeners where the meeting is served by now; ends the feed.
    pub fn moved(&self, moved: Moved) {
        self.feed.send(Event { seq: 0, what: What::Moved(moved) });
    }

    /// The finals numbered above `since` of which anybody may hear, at once: those that are out. One is stored after the one before is,
    /// so there is one at most that is not, or of which that is not known.
    ///
    /// # Errors
    /// The store could not be read.
    pub async fn finals(&self, since: u64) -> Result<Finals, StoreError> {
        self.feed.finals(self.store.clone(), self.meeting, since).await
    }

    /// Listens from after number `since`.
    ///
    /// # Errors
    /// No event has that number yet.
    pub fn listen(&self, store: Arc<Store>, since: u64) -> Result<Listener, NotYet> {
        let last = lock(&self.feed.newest).last;
        if since > last {
            return Err(NotYet(last));
        }
        Ok(Listener {
            meeting: self.meeting,
            feed: self.feed.clone(),
            store,
            live: self.feed.events.subscribe(),
            backlog: None,
            unsure: false,
            last: since,
            ended: false,
        })
    }

    /// The transcript, with room for two more numbers on disk.
    async fn numbered(&self) -> Result<tokio::sync::MutexGuard<'_, Numbered>, LogClosed> {
        let mut numbered = self.transcript.lock().await;
        if numbered.transcript.next_seq() + 2 > numbered.reserved {
            let below = numbered.transcript.next_seq() + SEQ_BLOCK;
            self.log.write(Op::Sequence(self.meeting, below)).await?;
            let number = self.replication.push(|| Entry::Sequence { below });
            self.replication.settled(number).await?;
            numbered.reserved = below;
        }
        Ok(numbered)
    }

    /// Writes it down, here and at the standby.
    async fn store(
        &self,
        spurts: Vec<SpurtKey>,
        segment: Option<Box<Segment>>,
        at: Micros,
        cover: Option<Cover>,
    ) -> Result<(), LogClosed> {
        let op = Op::Finish {
            meeting: self.meeting,
            spurts: spurts.clone(),
            segment: segment.clone(),
            at,
            cover: cover.clone(),
        };
        self.log.write(op).await?;
        let mut number = self.replication.see(Replicator::written);
        if self.replication.see(Replicator::wants_entries) {
            let (store, meeting) = (self.store.clone(), self.meeting);
            let read = blocking("done marks", move || finished(&store, meeting, &spurts)).await;
            let spurts = read.map_err(|_| LogClosed)?.map_err(|error| {
                tracing::error!(%meeting, %error, "a done mark could not be read back");
                LogClosed
            })?;
            number = self.replication.push(|| Entry::Finish { spurts, segment, cover });
        }
        self.replication.settled(number).await
    }
}

impl Feed {
    async fn finals(&self, store: Arc<Store>, meeting: MeetingId, since: u64) -> Result<Finals, StoreError> {
        let unsure = match self.replication.see(|machine| machine.settled(self.before)) {
            // The core that serves the meeting will tell.
            Settled::Never => return Ok(Finals::default()),
            Settled::Yes => None,
            Settled::No => lock(&self.newest).unsure,
        };
        let read = blocking("finals", move || store.segments(meeting, since)).await;
        let mut out = read.map_err(|e| StoreError::Record { what: "segments", why: Broken::from(e).to_string() })??;
        // After reading: what is written is held first.
        let held = lock(&self.newest).held;
        out.retain(|s| Some(s.seq) != held && unsure.is_none_or(|unsure| s.seq < unsure));
        Ok(Finals { out, unsure: unsure.is_some_and(|unsure| unsure > since) })
    }

    /// Returns when it is known of every final whether it is out.
    async fn sure(&self) {
        // An error is a core that serves the meeting: then nothing is out here.
        let _ = self.replication.settled(self.before).await;
    }

    fn send(&self, event: Event) {
        let mut newest = lock(&self.newest);
        newest.last = newest.last.max(event.seq);
        match &event.what {
            What::Partial(segment) => {
                newest.partials.insert(segment.id, event.clone());
            }
            What::Final(segment) => {
                newest.partials.remove(&segment.id);
            }
            What::Gap(_) => {
                newest.gaps.push(event.clone());
                let excess = newest.gaps.len().saturating_sub(MAX_GAPS);
                newest.gaps.drain(..excess);
            }
            What::Status(_) | What::Done(_) => newest.status = Some(event.clone()),
            What::Moved(_) => newest.moved = Some(event.clone()),
        }
        // An error means that nobody listens.
        let _ = self.events.send(event);
    }
}
