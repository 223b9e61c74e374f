//! One control stream to one core, shared by every meeting whose speech goes there.
//!
//! ```text
//!            dial, hello                 stream or connection lost
//! Dialling ─────────────▶ Up ──────────────────────────────────────▶ Dialling (after a back-off)
//! ```
//!
//! Each meeting hears `Connected` and `Disconnected` and starts over with `Open` after each; the link
//! itself remembers nothing of what was said.
#![allow(clippy::disallowed_methods, reason = "I/O shell")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use mesh::{
    identity::NodeId,
    node::{Node, Peer},
    stream::{MessageReceiver, MessageSender},
    wire::{
        MeetingAlias,
        control::{ToCore, ToEdge},
    },
};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

/// Commands waiting for a link; senders wait when it is full.
const COMMANDS: usize = 256;
/// Events waiting for one meeting. When it overflows the link starts over, so no acknowledgement is
/// lost for good: what is durable or done is said again.
const EVENTS: usize = 4096;
/// Deadline of the core's answer to our hello.
const HELLO: Duration = Duration::from_secs(5);
/// First and longest wait between two dials.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// What a meeting hears of its link.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// The control stream is up; everything said on an earlier one is forgotten.
    Connected(Peer),
    /// It is gone; another will come.
    Disconnected,
    /// The core spoke of this meeting.
    Message(ToEdge),
}

/// A meeting's end of a link. Dropping it takes the meeting off the link.
#[derive(Debug)]
pub(crate) struct LinkHandle {
    /// What the core calls this meeting on this link.
    pub(crate) alias: MeetingAlias,
    commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<LinkEvent>,
}

/// The links of this node, by core. Cheap to clone.
#[derive(Clone)]
pub struct Links {
    node: Node,
    software: String,
    open: Arc<Mutex<BTreeMap<NodeId, Shared>>>,
}

#[derive(Debug)]
struct Shared {
    commands: mpsc::Sender<Command>,
    next_alias: u32,
}

#[derive(Debug)]
enum Command {
    Register(MeetingAlias, mpsc::Sender<LinkEvent>),
    Unregister(MeetingAlias),
    Send(ToCore),
    Reset(&'static str),
}

impl Links {
    /// No links yet.
    pub fn new(node: Node, software: String) -> Self {
        Self { node, software, open: Arc::default() }
    }

    /// A place on the link to `core`, which is dialled if there is none.
    pub(crate) async fn join(&self, core: &NodeId) -> LinkHandle {
        let (alias, commands) = self.shared(core);
        let (tx, events) = mpsc::channel(EVENTS);
        // A link task lives as long as its sender is in the table, so it is there to hear this.
        let _ = commands.send(Command::Register(alias, tx)).await;
        LinkHandle { alias, commands, events }
    }

    fn shared(&self, core: &NodeId) -> (MeetingAlias, mpsc::Sender<Command>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = open.entry(core.clone()).or_insert_with(|| {
            let (commands, rx) = mpsc::channel(COMMANDS);
            let link = Link {
                node: self.node.clone(),
                software: self.software.clone(),
                core: core.clone(),
                meetings: BTreeMap::new(),
            };
            tokio::spawn(link.run(rx));
            Shared { commands, next_alias: 0 }
        });
        shared.next_alias += 1;
        (MeetingAlias(shared.next_alias), shared.commands.clone())
    }
}

impl LinkHandle {
    /// The next event; `None` when the link task is gone, which only a panic can cause.
    pub(crate) async fn recv(&mut self) -> Option<LinkEvent> {
        self.events.recv().await
    }

    /// Says `message` on the control stream; it is dropped if there is none just now.
    pub(crate) async fn send(&self, message: ToCore) {
        let _ = self.commands.send(Command::Send(message)).await;
    }

    /// Has the link start over, because of `why`.
    pub(crate) async fn reset(&self, why: &'static str) {
        let _ = self.commands.send(Command::Reset(why)).await;
    }
}

impl Drop for LinkHandle {
    fn drop(&mut self) {
        let _ = self.commands.try_send(Command::Unregister(self.alias));
    }
}

struct Link {
    node: Node,
    software: String,
    core: NodeId,
    meetings: BTreeMap<MeetingAlias, mpsc::Sender<LinkEvent>>,
}

/// Why a link that was up is up no more.
enum Lost {
    Stream(String),
    Closed,
}

impl Link {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let backoff = || {
            ExponentialBuilder::new()
                .with_min_delay(BACKOFF.0)
                .with_max_delay(BACKOFF.1)
                .with_jitter()
                .without_max_times()
                .build()
        };
        let mut waits = backoff();
        loop {
            match self.dial().await {
                Ok((peer, send, recv)) => {
                    info!(core = %self.core, "control stream up");
                    waits = backoff();
                    match self.up(&mut commands, peer, send, recv).await {
                        Lost::Closed => return,
                        Lost::Stream(why) => info!(core = %self.core, why, "control stream lost"),
                    }
                    metrics::counter!("nearfield_edge_link_lost_total").increment(1);
                    self.tell_all(|| LinkEvent::Disconnected);
                }
                Err(why) => debug!(core = %self.core, why, "core not reached"),
            }
            let wait = tokio::time::sleep(waits.next().unwrap_or(BACKOFF.1));
            tokio::pin!(wait);
            loop {
                tokio::select! {
                    () = &mut wait => break,
                    command = commands.recv() => match command {
                        Some(command) => { self.handle_down(command); }
                        None => return,
                    }
                }
            }
        }
    }

    async fn dial(&self) -> Result<(Peer, MessageSender, MessageReceiver), String> {
        let peer = self.node.peer(&self.core).await.map_err(|e| e.to_string())?;
        let (mut send, mut recv) = peer.open_control().await.map_err(|e| e.to_string())?;
        send.send(&ToCore::Hello { software: self.software.clone() }).await.map_err(|e| e.to_string())?;
        match tokio::time::timeout(HELLO, recv.recv::<ToEdge>()).await {
            Ok(Ok(Some(ToEdge::Hello { .. }))) => Ok((peer, send, recv)),
            Ok(Ok(other)) => Err(format!("expected a hello, the core said {other:?}")),
            Ok(Err(e)) => Err(e.to_string()),
            Err(_) => Err(format!("no hello within {HELLO:?}")),
        }
    }

    async fn up(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        peer: Peer,
        mut send: MessageSender,
        mut recv: MessageReceiver,
    ) -> Lost {
        self.tell_all(|| LinkEvent::Connected(peer.clone()));
        // Reading a message is not cancel-safe, so a task of its own does it.
        let (tx, mut incoming) = mpsc::channel(EVENTS);
        let reader = tokio::spawn(async move {
            loop {
                let message = recv.recv::<ToEdge>().await;
                let last = !matches!(message, Ok(Some(_)));
                if tx.send(message).await.is_err() || last {
                    return;
                }
            }
        });
        let lost = loop {
            tokio::select! {
                message = incoming.recv() => match message {
                    Some(Ok(Some(message))) => if let Err(why) = self.route(message) { break Lost::Stream(why) },
                    Some(Ok(None)) | None => break Lost::Stream("the core closed it".into()),
                    Some(Err(e)) => break Lost::Stream(e.to_string()),
                },
                command = commands.recv() => match command {
                    None => break Lost::Closed,
                    Some(Command::Send(message)) => if let Err(e) = send.send(&message).await { break Lost::Stream(e.to_string()) },
                    Some(Command::Reset(why)) => break Lost::Stream(why.into()),
                    Some(command) => if let Some(added) = self.handle_down(command) {
                        let _ = added.try_send(LinkEvent::Connected(peer.clone()));
                    },
                },
            }
        };
        reader.abort();
        lost
    }

    /// A command that needs no stream; the meeting that it added, if it did.
    fn handle_down(&mut self, command: Command) -> Option<&mpsc::Sender<LinkEvent>> {
        match command {
            Command::Register(alias, events) => return Some(self.meetings.entry(alias).or_insert(events)),
            Command::Unregister(alias) => drop(self.meetings.remove(&alias)),
            Command::Send(_) | Command::Reset(_) => {}
        }
        None
    }

    fn route(&mut self, message: ToEdge) -> Result<(), String> {
        let Some(alias) = alias_of(&message) else {
            self.tell_all(|| LinkEvent::Message(message.clone()));
            return Ok(());
        };
        match self.meetings.get(&alias).map(|events| events.try_send(LinkEvent::Message(message))) {
            Some(Err(mpsc::error::TrySendError::Full(_))) => {
                warn!(core = %self.core, alias = alias.0, "a meeting does not keep up with its acknowledgements");
                Err("event queue of a meeting full".into())
            }
            _ => Ok(()),
        }
    }

    fn tell_all(&mut self, event: impl Fn() -> LinkEvent) {
        self.meetings
            .retain(|_, events| !matches!(events.try_send(event()), Err(mpsc::error::TrySendError::Closed(_))));
    }
}

fn alias_of(message: &ToEdge) -> Option<MeetingAlias> {
    match message {
        ToEdge::Durable { alias, .. }
        | ToEdge::Done { alias, .. }
        | ToEdge::Refused { alias, .. }
        | ToEdge::Leave { alias }
        | ToEdge::Standby { alias, .. }
        | ToEdge::Moved { alias, .. } => Some(*alias),
        ToEdge::Hello { .. } | ToEdge::Drain | ToEdge::Beat { .. } => None,
    }
}
