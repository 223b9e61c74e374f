//! Reads what edges send: one task for each control stream, one for each talk spurt.
//!
//! A spurt travels on a stream of its own and may overtake the row that names its meeting or speaker;
//! it waits for that, [`Caps::row_wait`] at most; then the control stream is closed, so that the edge starts over.
//! It has one append in flight: while the disk works, QUIC's flow control holds the edge back, and the next
//! append carries what came in between.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

pub mod aliases;
mod contain;
mod copies;
mod link;
mod room;
mod streams;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use mesh::{
    authorize::{Denied, Message as Kind},
    codec::DecodeError,
    identity::Identity,
    node::{Inbound, Peer},
    stream::{MessageReceiver, MessageSender, StreamError},
    tasks::once,
    transport::close,
    wire::{
        Epoch, MeetingAlias,
        control::{RefusedReason, ToCore, ToEdge},
        spurt::SpurtHeader,
    },
};
use tokio::{
    io::AsyncRead,
    sync::{Semaphore, mpsc, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::Instrument;

pub use self::link::Link;
use self::{
    aliases::{Aliases, BadControl, Caps},
    link::{LinkPlace, write},
    room::Rooms,
    streams::{READ_WAIT, SpurtReader, SpurtStream, take_spurt},
};
use crate::{
    lock,
    meeting::{IntakeError, Meeting, Notice, role::NotHere},
    meetings::Meetings,
    store::log::LogClosed,
};

/// Messages to one edge that wait for its control stream; when full, who sends them waits.
const LINK_QUEUE: usize = 1024;
/// How often, at most, it is noted how full the tables are.
const NOTE_EVERY: Duration = Duration::from_secs(1);
/// The longest that an edge says of what cannot be heard, in bytes.
const MAX_UNHEARD: usize = 64;

/// Takes what edges open.
pub struct Acceptor {
    meetings: Arc<Meetings>,
    software: String,
    caps: Caps,
    links: Mutex<BTreeMap<usize, Arc<Link>>>,
    /// Links so far.
    numbers: AtomicU64,
    copies: Arc<Semaphore>,
    rooms: Rooms,
    /// Counts changes of `links`.
    changed: watch::Sender<u64>,
}

/// How an edge opens a meeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opening {
    /// It is of version 1: it owns the meeting until further notice.
    Unleased,
    /// It renews its lease.
    Leased,
    /// It has left, and brings what it kept.
    Late,
}

/// Why a spurt stream was not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum SpurtError {
    /// It broke.
    #[error("stream: {0}")]
    Read(#[from] std::io::Error),
    /// It is no spurt.
    #[error("malformed: {0}")]
    Decode(#[from] DecodeError),
    /// It ended before its trailer.
    #[error("ended before its trailer")]
    Truncated,
    /// It sent nothing for too long.
    #[error("silent for {READ_WAIT:?}")]
    Silent,
    /// Nothing on the control stream says what its header means.
    #[error("its meeting or participant was not named in time")]
    Unknown,
    /// Its participant was not taken ([`BadControl`] says why), and nothing of theirs is.
    #[error("its participant was not taken")]
    Refused,
    /// Its meeting is not live here, or never was.
    #[error("its meeting is not here")]
    Gone,
    /// The edge does not capture the meeting.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// Not taken.
    #[error(transparent)]
    Intake(#[from] IntakeError),
}

/// Why a control stream ended badly.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// It broke, or carried no message.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A message that makes no sense here.
    #[error(transparent)]
    Bad(#[from] BadControl),
    /// The store takes no more writes.
    #[error(transparent)]
    Log(#[from] LogClosed),
}

/// The sending half of a control stream.
#[async_trait]
pub trait ControlSink: Send {
    /// Sends one message; false when there is nobody to send to any more.
    async fn send(&mut self, message: &ToEdge) -> bool;
}

#[async_trait]
impl ControlSink for MessageSender {
    async fn send(&mut self, message: &ToEdge) -> bool {
        MessageSender::send(self, message).await.is_ok()
    }
}

impl Acceptor {
    /// Takes what is for `meetings`.
    pub fn new(meetings: Arc<Meetings>, software: &str, caps: Caps) -> Arc<Self> {
        Arc::new(Self {
            meetings,
            software: software.into(),
            caps,
            links: Mutex::default(),
            numbers: AtomicU64::new(0),
            copies: Arc::new(Semaphore::new(copies::MAX_COPIES)),
            rooms: Rooms::default(),
            changed: watch::channel(0).0,
        })
    }

    /// Serves until `inbound` ends.
    pub async fn run(self: Arc<Self>, inbound: Arc<tokio::sync::Mutex<mpsc::Receiver<Inbound>>>) {
        let mut inbound = inbound.lock().await;
        let mut noted = Instant::now();
        while let Some(inbound) = inbound.recv().await {
            if noted.elapsed() >= NOTE_EVERY {
                noted = Instant::now();
                self.note_tables();
            }
            match inbound {
                // Of edges only: `mesh::authorize`.
                Inbound::Control { peer, send, recv } => {
                    once("edge", self.clone().serve_control(peer, send, recv));
                }
                Inbound::Spurt { peer, recv } => {
                    once("spurt", self.clone().serve_spurt(peer, recv));
                }
                Inbound::Copies { peer, datagram } => self.serve_copies(&peer, datagram),
                Inbound::Request { peer, request, reply } => {
                    let meetings = self.meetings.clone();
                    once("request", async move {
                        let response = meetings.answer(&peer.identity, *request).await;
                        // The asker may have gone.
                        let _ = reply.send(response).await;
                    });
                }
            }
        }
    }

    /// Tables and their rows, over all edges.
    pub fn tables(&self) -> [(&'static str, usize); 4] {
        let links: Vec<Arc<Link>> = lock(&self.links).values().cloned().collect();
        let aliases = links.iter().map(|link| lock(&link.aliases).rows()).sum();
        let elsewhere = links.iter().map(|link| lock(&link.elsewhere).len()).sum();
        [
            ("links", links.len()),
            ("aliases", aliases),
            ("meetings_elsewhere", elsewhere),
            ("spurt_rooms", self.rooms.nodes()),
        ]
    }

    fn note_tables(&self) {
        for (table, rows) in self.tables() {
            metrics::gauge!("nearfield_core_table_rows", "table" => table).set(rows as f64);
        }
    }

    /// Tells every edge that this core is going away.
    pub async fn drain(&self) {
        let links: Vec<Arc<Link>> = lock(&self.links).values().cloned().collect();
        for link in links {
            link.tell(ToEdge::Drain).await;
        }
    }

    async fn serve_control(self: Arc<Self>, peer: Peer, send: MessageSender, mut recv: MessageReceiver) {
        let id = peer.connection.stable_id();
        let edge = peer.identity.node.clone();
        let (link, writer) = self.link(peer.identity, send);
        let over = link.over.clone().drop_guard();
        let writer = async move {
            let _over = over;
            writer.await;
        };
        let _writer = AbortOnDropHandle::new(once("edge writer", writer));
        lock(&self.links).insert(id, link.clone());
        let _place = LinkPlace { of: &self, id, link: &link };
        self.changed.send_modify(|n| *n += 1);
        if let Err(error) = self.read_control(&link, &mut recv).await {
            metrics::counter!("nearfield_core_control_errors_total").increment(1);
            tracing::debug!(%edge, %error, "control stream ended");
        }
    }

    async fn read_control(&self, link: &Arc<Link>, recv: &mut MessageReceiver) -> Result<(), ControlError> {
        match link.next(recv).await? {
            Some(hello @ ToCore::Hello { .. }) => self.handle(link, hello).await?,
            Some(_) => return Err(BadControl::NoHello.into()),
            None => return Ok(()),
        }
        while let Some(message) = link.next(recv).await? {
            match self.handle(link, message).await {
                Err(ControlError::Bad(error)) => {
                    // One meeting's bad row must not end the others on this connection.
                    metrics::counter!("nearfield_core_control_bad_messages_total").increment(1);
                    match error {
                        BadControl::BadName | BadControl::TooManyParticipants(_) => {
                            tracing::warn!(edge = %link.edge.node, %error, "a participant is not heard");
                        }
                        _ => tracing::debug!(edge = %link.edge.node, %error, "control message ignored"),
                    }
                }
                other => other?,
            }
        }
        Ok(())
    }

    /// A link for an edge, and the task that writes to it.
    pub fn link<S: ControlSink>(&self, edge: Identity, sink: S) -> (Arc<Link>, impl Future<Output = ()> + use<S>) {
        let (out, queue) = mpsc::channel(LINK_QUEUE);
        let aliases = Mutex::new(Aliases::new(self.caps));
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (elsewhere, over) = (Mutex::default(), CancellationToken::new());
        let room = self.rooms.room(&edge.node);
        let link = Arc::new(Link { number, edge, aliases, room, changed: watch::channel(0).0, elsewhere, over, out });
        (link.clone(), write(link, queue, sink))
    }

    async fn heed(&self, link: &Arc<Link>, message: ToCore) -> Result<(), ControlError> {
        let kind = Kind::of_edge(&message);
        match message {
            ToCore::Hello { software } => {
                tracing::debug!(edge = %link.edge.node, software, "edge connected");
                link.tell(ToEdge::Hello { software: self.software.clone() }).await;
                if self.meetings.draining() {
                    link.tell(ToEdge::Drain).await;
                }
            }
            ToCore::Open { alias, meeting, epoch, .. } => {
                let opened = self.meetings.open(&link.edge, meeting, epoch).map_err(NotHere::from);
                self.opened(link, alias, epoch, opened, Opening::Unleased).await;
            }
            ToCore::Serve { alias, meeting, epoch, term, .. } => {
                let opened = self.meetings.serve(&link.edge, meeting, epoch, term).await;
                self.opened(link, alias, epoch, opened, Opening::Leased).await;
            }
            ToCore::Late { alias, meeting, epoch, .. } => {
                let opened = self.meetings.open_late(&link.edge, meeting, epoch);
                self.opened(link, alias, epoch, opened, Opening::Late).await;
            }
            ToCore::Beat { seq } => self.beat(link, seq).await,
            ToCore::Standby { alias, core, number } => {
                if let Some((meeting, epoch)) = self.meeting(link, alias, kind)? {
                    meeting.handle_standby(epoch, number, core);
                }
            }
            ToCore::HandOver { alias } => {
                if let Some((meeting, epoch)) = self.meeting(link, alias, kind)? {
                    meeting.notify(Notice::HandOver(epoch)).await;
                }
            }
            ToCore::Participant { alias, participant, id, name, unheard } => {
                let (_, id) = link.change(|a| a.participant(alias, participant, &id, name.as_deref()))?;
                if let Some((meeting, _)) = self.meeting(link, alias, kind)? {
                    let unheard = unheard.filter(|codecs| codecs.len() <= MAX_UNHEARD);
                    meeting.handle_participant(&id, name, unheard).await?;
                }
            }
            ToCore::Left { alias, participant } => {
                let speaker = lock(&link.aliases).speaker(alias, participant);
                if let (Some((meeting, epoch)), Some(speaker)) = (self.meeting(link, alias, kind)?, speaker) {
                    meeting.handle_left(epoch, &speaker).await?;
                }
            }
            ToCore::Forget { alias, participant } => {
                self.meeting(link, alias, kind)?;
                link.change(|a| a.forget(alias, participant))?;
            }
            ToCore::State { alias, state, detail } => {
                if let Some((meeting, epoch)) = self.meeting(link, alias, kind)? {
                    meeting.notify(Notice::State(epoch, state, detail)).await;
                }
            }
            ToCore::GivenUp { alias, spans } => {
                if let Some((meeting, _)) = self.meeting(link, alias, kind)? {
                    meeting.handle_given_up(spans).await?;
                }
            }
            ToCore::Stats { alias, totals } => {
                if let Some((meeting, epoch)) = self.meeting(link, alias, kind)? {
                    meeting.handle_totals(epoch, totals);
                }
            }
            ToCore::Close { alias, reason } => {
                // The alias stays: spurts and acknowledgements may still be on their way.
                if let Some((meeting, epoch)) = self.meeting(link, alias, kind)? {
                    link.change(|a| a.lease(alias, false));
                    meeting.release(&link.edge.node, epoch);
                    meeting.notify(Notice::Closed(epoch, reason)).await;
                }
            }
        }
        Ok(())
    }

    async fn opened(
        &self,
        link: &Arc<Link>,
        alias: MeetingAlias,
        epoch: Epoch,
        opened: Result<Arc<Meeting>, NotHere>,
        how: Opening,
    ) {
        self.sweep(link);
        let opened = opened.and_then(|meeting| {
            link.change(|a| {
                a.open(alias, meeting.id, epoch)?;
                a.lease(alias, how == Opening::Leased);
                Ok(meeting)
            })
        });
        match &opened {
            Ok(_) => drop(lock(&link.elsewhere).remove(&alias)),
            Err(_) => link.none_of_ours([alias]),
        }
        match opened {
            Ok(meeting) => {
                meeting.attach(epoch, link.number, link.out.clone());
                if how == Opening::Late {
                    meeting.release(&link.edge.node, epoch);
                    meeting.notify(Notice::Late(epoch)).await;
                    return;
                }
                if how == Opening::Leased {
                    // Whoever opens and is never heard again is missed like one whose beats stop. One that is refused here
                    // hears so at its next beat.
                    meeting.renew(&link.edge.node, epoch, self.meetings.lease_of(&link.edge.node));
                }
                meeting.notify(Notice::Opened(epoch)).await;
            }
            Err(NotHere::Refused(reason)) => {
                metrics::counter!("nearfield_core_opens_refused_total").increment(1);
                tracing::info!(edge = %link.edge.node, ?reason, "meeting refused");
                link.tell(ToEdge::Refused { alias, reason }).await;
            }
            Err(NotHere::Moved(core, term)) => link.tell(ToEdge::Moved { alias, core, term }).await,
        }
    }

    /// Renews the leases of all meetings that the edge has opened here; what it has lost it is told before the answer.
    async fn beat(&self, link: &Arc<Link>, seq: u64) {
        let lease = self.meetings.lease_of(&link.edge.node);
        let rows = lock(&link.aliases).leased();
        for (alias, id, epoch) in rows {
            let lost = match self.meetings.live(id) {
                Some(meeting) => !meeting.renew(&link.edge.node, epoch, lease),
                None => true,
            };
            if lost {
                link.change(|a| a.lease(alias, false));
                let reason = RefusedReason::StaleEpoch;
                link.tell(ToEdge::Refused { alias, reason }).await;
            }
        }
        self.sweep(link);
        link.tell(ToEdge::Beat { seq, lease_ms: lease.as_millis() as u32 }).await;
    }

    /// Forgets what the edge calls meetings that are over.
    fn sweep(&self, link: &Link) {
        let over = lock(&link.aliases).sweep(|id| self.meetings.live(id).is_some(), Instant::now());
        link.none_of_ours(over);
    }

    /// The live meeting behind an alias, with the epoch it was opened under, of which the edge says something of this `kind`.
    fn meeting(
        &self,
        link: &Link,
        alias: MeetingAlias,
        kind: Kind,
    ) -> Result<Option<(Arc<Meeting>, Epoch)>, BadControl> {
        let (meeting, epoch) = lock(&link.aliases).meeting(alias)?;
        let Some(live) = self.meetings.live(meeting) else { return Ok(None) };
        self.meetings.admit_edge(kind, &link.edge, live.owner(epoch).as_ref())?;
        Ok(Some((live, epoch)))
    }

    async fn serve_spurt(self: Arc<Self>, peer: Peer, mut recv: quinn::RecvStream) {
        let _counted = SpurtStream::new();
        let link = self.link_of(peer.connection.stable_id()).await;
        let read = match &link {
            Some(link) => self.read_spurt(link, &mut recv).await,
            // The edge starts over when it finds that its control stream is gone.
            None => Err(SpurtError::Unknown),
        };
        if let (Err(SpurtError::Unknown | SpurtError::Silent), Some(link)) = (&read, &link) {
            // If all of it has come already, the edge hears nothing of this.
            let _ = recv.stop(close::UNREAD);
            link.over.cancel();
        }
        if let Err(error) = read {
            metrics::counter!("nearfield_core_spurt_errors_total").increment(1);
            tracing::debug!(edge = %peer.identity.node, %error, "spurt stream ended");
        }
    }

    async fn link_of(&self, connection: usize) -> Option<Arc<Link>> {
        let mut changed = self.changed.subscribe();
        let find = || lock(&self.links).get(&connection).cloned();
        let found = timeout(self.caps.row_wait, async {
            while find().is_none() {
                changed.changed().await.ok()?;
            }
            find()
        });
        found.await.ok().flatten()
    }

    /// Reads one spurt to its end.
    ///
    /// # Errors
    /// It was not read to its end; what was acknowledged is kept.
    pub async fn read_spurt<R: AsyncRead + Unpin>(&self, link: &Link, recv: R) -> Result<(), SpurtError> {
        let mut reader = SpurtReader::new(recv, link.room.share().await);
        let header = reader.header().await?;
        let named = link.resolve(&header, self.caps.row_wait).await;
        if matches!(named, Err(SpurtError::Refused)) {
            // Read to its end, it can be done with: the edge would keep it otherwise.
            while reader.items().await?.is_some() {}
            let SpurtHeader { meeting: alias, participant, spurt, .. } = header;
            link.tell(ToEdge::Done { alias, participant, spurt }).await;
        }
        let (meeting, key) = named?;
        let meeting = self.meetings.live(meeting).ok_or(SpurtError::Gone)?;
        self.meetings.admit_edge(Kind::SpurtStream, &link.edge, meeting.owner(key.epoch).as_ref())?;
        let span = tracing::debug_span!(
            "spurt", meeting = %meeting.id, epoch = key.epoch.0, spurt = key.spurt.0, trace = %header.trace,
        );
        // What broke on it would break again, whenever the edge sent it again.
        let taken = take_spurt(&meeting, &key, &header, reader).instrument(span);
        let taken = self.meetings.clone().guarded(meeting.clone(), "the intake", taken).await;
        taken.unwrap_or(Err(SpurtError::Gone))
    }
}
