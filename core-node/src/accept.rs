//! Reads what edges send: one task for each control stream, one for each talk spurt.
//!
//! A spurt travels on a stream of its own and may overtake the row that names its meeting or speaker;
//! it waits for that, [`Caps::row_wait`] at most; then the control stream is closed, so that the edge starts over.
//! It has one append in flight: while the disk works, QUIC's flow control holds the edge back, and the next
//! append carries what came in between.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

pub(crate) mod contain;
mod copies;
mod room;
#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
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
        Epoch, MeetingAlias, MeetingId,
        control::{RefusedReason, ToCore, ToEdge},
        spurt::{Item, Part, SpurtDecoder, SpurtHeader},
    },
};
use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::{Semaphore, mpsc, watch},
    time::{sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::Instrument;

use self::room::{Room, Rooms, SHARE, Share};
use crate::{
    ingest::Opened,
    key::SpurtKey,
    link::{Acks, Aliases, BadControl, Caps, ToLink},
    lock,
    log::LogClosed,
    meeting::{IntakeError, Meeting, Notice, wall},
    meetings::Meetings,
    seat::NotHere,
};

/// How long a spurt may send nothing: longer than any pause within one.
const READ_WAIT: Duration = Duration::from_secs(60);
/// Messages to one edge that wait for its control stream; when full, who sends them waits.
const LINK_QUEUE: usize = 1024;
/// Meetings that one edge was sent elsewhere with, or that are over, remembered.
const MAX_ELSEWHERE: usize = 1024;
/// For so long: an edge that has heard so sends nothing more.
const ELSEWHERE_FOR: Duration = Duration::from_secs(30);
/// How often, at most, it is noted how full the tables are.
const NOTE_EVERY: Duration = Duration::from_secs(1);
/// Bytes taken off a spurt stream at a time: below what one chunk of the log may hold.
const READ_BYTES: usize = 16 * 1024;
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

/// One edge's connection.
pub struct Link {
    /// Rises from one that is accepted to the next.
    number: u64,
    edge: Identity,
    aliases: Mutex<Aliases>,
    /// Where its spurts are while they are read.
    room: Room,
    /// Counts changes of `aliases`.
    changed: watch::Sender<u64>,
    /// What the edge opened and was told to take elsewhere, and what is over: the spurts of it are none of ours.
    elsewhere: Mutex<BTreeMap<MeetingAlias, Instant>>,
    /// Something was lost: the edge is to start over.
    over: CancellationToken,
    out: mpsc::Sender<ToLink>,
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
    /// Its participant was not taken ([`crate::link::BadControl`] says why), and nothing of theirs is.
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
        #[cfg(test)]
        contain::break_on(&message);
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

/// The place of an edge's link, given back however its task ends.
struct LinkPlace<'a> {
    of: &'a Acceptor,
    id: usize,
    link: &'a Arc<Link>,
}

impl Drop for LinkPlace<'_> {
    fn drop(&mut self) {
        let mut links = lock(&self.of.links);
        if links.get(&self.id).is_some_and(|current| Arc::ptr_eq(current, self.link)) {
            links.remove(&self.id);
        }
    }
}

/// A spurt stream that is being read.
struct SpurtStream;

impl SpurtStream {
    fn new() -> Self {
        metrics::gauge!("nearfield_core_spurt_streams").increment(1.0);
        Self
    }
}

impl Drop for SpurtStream {
    fn drop(&mut self) {
        metrics::gauge!("nearfield_core_spurt_streams").decrement(1.0);
    }
}

async fn take_spurt<R: AsyncRead + Unpin>(
    meeting: &Meeting,
    key: &SpurtKey,
    header: &SpurtHeader,
    mut reader: SpurtReader<R>,
) -> Result<(), SpurtError> {
    if meeting.is_nobodys(key, header.captured) {
        // Read to its end, it can be done with: the edge would keep it otherwise.
        while reader.items().await?.is_some() {}
        meeting.tell_done(key).await;
        return Ok(());
    }
    if meeting.handle_header(key, header.captured, header.trace, header.offset).await? == Opened::Done {
        return Ok(());
    }
    let mut offset = header.offset;
    while let Some(items) = reader.items().await? {
        let numbered = items.iter().filter(|i| !matches!(i, Item::End(_))).count() as u32;
        meeting.handle_items(key, offset, items, wall()).await?;
        offset += numbered;
    }
    Ok(())
}

impl Link {
    /// The edge's next message; none when the stream has ended or the edge is to start over. What has been read is always
    /// handled to its end.
    async fn next(&self, recv: &mut MessageReceiver) -> Result<Option<ToCore>, StreamError> {
        tokio::select! {
            () = self.over.cancelled() => Ok(None),
            message = recv.recv::<ToCore>() => message,
        }
    }

    async fn tell(&self, message: ToEdge) {
        // An error means that the link has gone.
        let _ = self.out.send(ToLink::Message(message)).await;
    }

    fn change<T>(&self, change: impl FnOnce(&mut Aliases) -> T) -> T {
        let result = change(&mut lock(&self.aliases));
        self.changed.send_modify(|n| *n += 1);
        result
    }

    /// What `header` means, as soon as its rows are here.
    async fn resolve(&self, header: &SpurtHeader, wait: Duration) -> Result<(MeetingId, SpurtKey), SpurtError> {
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
    fn none_of_ours(&self, aliases: impl IntoIterator<Item = MeetingAlias>) {
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
async fn write(link: Arc<Link>, mut queue: mpsc::Receiver<ToLink>, mut sink: impl ControlSink) {
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

/// A spurt stream, part by part.
struct SpurtReader<R> {
    recv: R,
    decoder: SpurtDecoder,
    share: Share,
    /// The last read took all that had come.
    caught_up: bool,
}

thread_local! {
    /// What is read passes through here: a stream that waits holds no buffer.
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

impl<R: AsyncRead + Unpin> SpurtReader<R> {
    fn new(recv: R, share: Share) -> Self {
        Self { recv, decoder: SpurtDecoder::default(), share, caught_up: true }
    }

    async fn header(&mut self) -> Result<SpurtHeader, SpurtError> {
        loop {
            if let Some(Part::Header(header)) = self.decoder.poll()? {
                return Ok(header);
            }
            self.read().await?;
        }
    }

    /// All items that are here, at least one; `None` after the trailer.
    async fn items(&mut self) -> Result<Option<Vec<Item>>, SpurtError> {
        if self.decoder.ended() {
            return Ok(None);
        }
        let mut items = vec![];
        loop {
            while let Some(Part::Item(item)) = self.decoder.poll()? {
                items.push(item);
                if self.decoder.ended() {
                    return Ok(Some(items));
                }
            }
            if !items.is_empty() {
                return Ok(Some(items));
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<(), SpurtError> {
        if self.caught_up && self.share.give_back() {
            self.decoder.shrink();
        }
        let read = poll_fn(|cx| READ.with_borrow_mut(|buffer| self.poll_read(cx, buffer)));
        match timeout(READ_WAIT, read).await {
            Ok(Ok(0)) => Err(SpurtError::Truncated),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(SpurtError::Silent),
        }
    }

    /// Takes what has come, as much as the stream's share lets it: how many bytes.
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<std::io::Result<usize>> {
        let mut taken = 0;
        loop {
            let room = self.share.bytes() - taken;
            let mut part = ReadBuf::new(&mut buffer[..room]);
            match Pin::new(&mut self.recv).poll_read(cx, &mut part) {
                Poll::Pending if taken > 0 => return Poll::Ready(Ok(taken)),
                polled => ready!(polled)?,
            }
            let count = part.filled().len();
            self.decoder.feed(part.filled());
            taken += count;
            self.caught_up = count < room;
            // Borrowed now, it is for what is there now.
            if self.caught_up || taken > SHARE || !self.share.borrow() {
                return Poll::Ready(Ok(taken));
            }
        }
    }
}
