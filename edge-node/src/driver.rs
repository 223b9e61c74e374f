//! The only loop that waits: moves bytes and time between a relay, a [`Meeting`] and a core.
#![allow(clippy::disallowed_methods, reason = "I/O shell: this is where the clocks are read")]

use std::{
    future::Future,
    pin::Pin,
    time::{Duration, Instant, SystemTime},
};

use mesh::{
    clock::Micros,
    node::Peer,
    spurts::SpurtSender,
    trace::TraceContext,
    wire::{
        MeetingAlias,
        control::CloseReason,
        request::Assignment,
        spurt::{Item, SpurtHeader},
    },
};
use nix::time::{ClockId, clock_gettime};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::{
    connect::{ConnectError, Connector, Event},
    link::{LinkEvent, LinkHandle, Links},
    meeting::{Meeting, Settings},
    uplink::{SpurtKey, Transmit},
};

/// Events of one meeting's relay that wait for the driver; the connector drops packets and counts
/// them when it is full (about half a second of a large meeting).
const RELAY_EVENTS: usize = 2048;
/// Items written in one go before the loop looks around again.
const BATCH: usize = 64;
/// How long a connector may take to leave its relay.
const LEAVE: Duration = Duration::from_secs(5);

/// Runs a meeting until its last word is done or given up.
pub async fn run(
    assignment: Assignment,
    connector: Box<dyn Connector>,
    links: Links,
    settings: Settings,
    stop: CancellationToken,
) {
    let link = links.join(&assignment.core).await;
    let (events_tx, events) = mpsc::channel(RELAY_EVENTS);
    let leave = CancellationToken::new();
    let relay = Relay { task: Some(tokio::spawn(connector.run(events_tx, leave.clone()))), events, leave };
    let (alias, trace) = (link.alias, assignment.trace);
    let meeting = Meeting::new(assignment, alias, settings, Instant::now());
    let writing = Writing::Idle(Writer { alias, trace, sender: None });
    Driver { meeting, link, relay, writing, next_peer: None }.run(stop).await;
}

struct Driver {
    meeting: Meeting,
    link: LinkHandle,
    relay: Relay,
    writing: Writing,
    /// The connection to go on with when the write under way is done; `Some(None)` is none at all.
    next_peer: Option<Option<Peer>>,
}

struct Relay {
    task: Option<JoinHandle<Result<(), ConnectError>>>,
    events: mpsc::Receiver<Event>,
    leave: CancellationToken,
}

/// One batch is written at a time; media goes on being taken in meanwhile.
enum Writing {
    Idle(Writer),
    Busy(Pin<Box<dyn Future<Output = Written> + Send>>),
    Moving,
}

/// The writer again, the bytes it wrote, and how that ended.
type Written = (Writer, u64, Result<(), WriteFailed>);

struct WriteFailed(String);

impl Driver {
    async fn run(mut self, stop: CancellationToken) {
        let mut stopping = false;
        while !self.meeting.is_over() {
            self.flush().await;
            let copies = self.writing.copies_due();
            let deadline = copies.map_or(self.meeting.poll_timeout(), |at| at.min(self.meeting.poll_timeout()));
            tokio::select! {
                biased;
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    self.meeting.leave(CloseReason::Drain, Instant::now(), wall());
                }
                (writer, bytes, result) = self.writing.done() => self.handle_written(writer, bytes, result).await,
                event = self.link.recv() => match event {
                    Some(event) => self.handle_link(event),
                    None => break,
                },
                event = self.relay.events.recv(), if self.relay.task.is_some() => match event {
                    Some(event) => self.handle_relay(event),
                    None => self.handle_relay_end().await,
                },
                () = tokio::time::sleep_until(deadline.into()) => {
                    self.repeat();
                    self.timed(|meeting, now| meeting.handle_timeout(now, wall()));
                }
            }
            if !self.meeting.is_listening() {
                self.relay.leave.cancel();
            }
        }
        self.flush().await;
        self.relay.leave.cancel();
        if let Some(task) = self.relay.task.take() {
            self.relay.events.close();
            let _ = tokio::time::timeout(LEAVE, task).await;
        }
        info!("meeting left");
    }

    /// Hands on what the meeting has to say, as far as nothing is in the way.
    async fn flush(&mut self) {
        if let Writing::Idle(writer) = &mut self.writing {
            if let Some(peer) = self.next_peer.take() {
                match &peer {
                    Some(peer) => self.meeting.handle_connected(&peer.identity.node, Instant::now()),
                    None => self.meeting.handle_disconnected(Instant::now()),
                }
                writer.replace(peer);
            }
            let batch: Vec<Transmit> = std::iter::from_fn(|| self.meeting.poll_transmit(wall())).take(BATCH).collect();
            if !batch.is_empty()
                && let Writing::Idle(writer) = std::mem::replace(&mut self.writing, Writing::Moving)
            {
                self.writing = Writing::Busy(Box::pin(writer.write(batch)));
            }
        }
        while let Some(message) = self.meeting.poll_control() {
            self.link.send(message).await;
        }
    }

    async fn handle_written(&mut self, writer: Writer, bytes: u64, result: Result<(), WriteFailed>) {
        self.writing = Writing::Idle(writer);
        self.meeting.account(Duration::ZERO, bytes);
        if let Err(WriteFailed(why)) = result {
            debug!(why, "a spurt could not be written");
            // Whatever the cause, the ring still holds it: begin again on a fresh control stream.
            if self.next_peer.is_none() {
                self.next_peer = Some(None);
                self.link.reset("a spurt stream failed").await;
            }
        }
    }

    fn repeat(&mut self) {
        if let Writing::Idle(writer) = &mut self.writing {
            let bytes = writer.repeat();
            self.meeting.account(Duration::ZERO, bytes);
        }
    }

    fn handle_link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Connected(peer) => self.next_peer = Some(Some(peer)),
            LinkEvent::Disconnected => self.next_peer = Some(None),
            LinkEvent::Message(message) => self.meeting.handle_message(message, Instant::now(), wall()),
        }
    }

    fn handle_relay(&mut self, event: Event) {
        self.timed(|meeting, now| meeting.handle_event(event, now));
    }

    async fn handle_relay_end(&mut self) {
        let Some(task) = self.relay.task.take() else { return };
        let failure = match task.await {
            Ok(Ok(())) => None,
            Ok(Err(e)) => Some(e.to_string()),
            Err(e) => Some(format!("the connector broke: {e}")),
        };
        self.meeting.handle_ended(failure, Instant::now(), wall());
    }

    /// Runs `work` on the meeting and books its CPU time.
    fn timed(&mut self, work: impl FnOnce(&mut Meeting, Instant)) {
        let before = thread_cpu();
        work(&mut self.meeting, Instant::now());
        self.meeting.account(thread_cpu().saturating_sub(before), 0);
    }
}

impl Writing {
    /// Resolves when a write under way is done; never when there is none.
    async fn done(&mut self) -> Written {
        match self {
            Self::Busy(write) => write.await,
            Self::Idle(_) | Self::Moving => std::future::pending().await,
        }
    }

    /// When copies are due that no write takes along.
    fn copies_due(&self) -> Option<Instant> {
        match self {
            Self::Idle(writer) => writer.sender.as_ref().and_then(SpurtSender::poll_timeout),
            Self::Busy(_) | Self::Moving => None,
        }
    }
}

/// Writes this meeting's spurts to the connection there is.
struct Writer {
    alias: MeetingAlias,
    trace: TraceContext,
    sender: Option<SpurtSender>,
}

impl Writer {
    fn replace(&mut self, peer: Option<Peer>) {
        // Streams that are dropped end without a trailer; the core takes what came before.
        self.sender = peer.map(SpurtSender::new);
    }

    /// Sends the copies that are due; the bytes they took.
    fn repeat(&mut self) -> u64 {
        self.sender.as_mut().map_or(0, |sender| sender.repeat(Instant::now()))
    }

    async fn write(mut self, batch: Vec<Transmit>) -> Written {
        let mut bytes = 0;
        for transmit in batch {
            match self.write_one(transmit).await {
                Ok(written) => bytes += written,
                Err(why) => return (self, bytes, Err(why)),
            }
        }
        bytes += self.repeat();
        (self, bytes, Ok(()))
    }

    async fn write_one(&mut self, transmit: Transmit) -> Result<u64, WriteFailed> {
        let sender = self.sender.as_mut().ok_or_else(|| WriteFailed("no connection".into()))?;
        let written = match transmit {
            Transmit::Open { key: SpurtKey { participant, spurt }, offset, captured } => {
                let (meeting, trace) = (self.alias, self.trace);
                sender.open(SpurtHeader { meeting, participant, spurt, offset, captured, trace }, wall()).await
            }
            Transmit::Item { key, item } => sender.write((key.participant, key.spurt), &item).await,
            Transmit::End { key, end } => sender.write((key.participant, key.spurt), &Item::End(end)).await,
        };
        written.map_err(|error| WriteFailed(error.to_string()))
    }
}

fn wall() -> Micros {
    Micros::from_system(SystemTime::now())
}

fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}
