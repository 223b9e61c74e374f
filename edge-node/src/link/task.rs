//! The task behind one link.
#![allow(clippy::disallowed_methods, reason = "I/O shell")]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder, ExponentialBuilder};
use futures_util::FutureExt;
use mesh::{
    identity::NodeId,
    lease::{BEAT_EVERY, Beats},
    mandate::EdgeKey,
    node::{Node, Peer},
    stream::{MessageReceiver, MessageSender, StreamError},
    tasks::once,
    transport::{close, congestion::Path},
    wire::{
        Epoch, MeetingAlias, MeetingId, Version,
        control::{ToCore, ToEdge},
    },
};
use tokio::{
    sync::mpsc,
    task::AbortHandle,
    time::{Interval, MissedTickBehavior, interval},
};
use tracing::{debug, info, warn};

use super::{
    Command, EVENTS, LinkEvent, Tagged,
    relayed::{Answer, Lease, RelayedRenewals},
};
use crate::meeting::Beat;

/// Deadline of reaching the core and of its answer to our hello. A core that comes back meanwhile is found by the next
/// dial, not by QUIC's retransmissions of this one.
const DIAL: Duration = Duration::from_millis(2000);
/// First and longest wait between two dials.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(1000));
/// Beats without an answer after which the core is asked by way of others.
const RELAY_AFTER: u32 = 2;
/// The same, after which the connection is given up: 3 s, and 4 round trips. Counted in beats, so that a time in which this
/// process stood still does not count.
const GIVE_UP_AFTER: u32 = 12;
/// The same while anything else comes from it.
const GIVE_UP_ALIVE_AFTER: u32 = 24;

pub(super) struct Link {
    node: Node,
    software: String,
    core: NodeId,
    born: Instant,
    meetings: BTreeMap<MeetingAlias, Place>,
    commands: mpsc::Receiver<Command>,
}

struct Place {
    events: mpsc::Sender<Tagged>,
    /// This edge's for the meeting.
    key: EdgeKey,
    /// What was last opened under this alias: it is to be renewed.
    opened: Option<(MeetingId, Epoch)>,
    /// The core has renewed its lease on this stream or an earlier one.
    served: bool,
    /// Something it should have heard did not fit.
    behind: bool,
}

/// Why a link that was up is up no more.
enum Lost {
    Stream(String),
    Closed,
}

/// Meetings of all links have come, or gone.
fn note_places(rows: usize, came: bool) {
    let places = metrics::gauge!("nearfield_edge_table_rows", "table" => "link_meetings");
    if came { places.increment(rows as f64) } else { places.decrement(rows as f64) }
}

impl Drop for Link {
    fn drop(&mut self) {
        note_places(self.meetings.len(), false);
    }
}

/// A control stream that has said hello.
struct Dialled {
    peer: Peer,
    send: MessageSender,
    recv: MessageReceiver,
}

/// A control stream that is up.
struct Up {
    peer: Peer,
    path: Option<Path>,
    send: MessageSender,
    incoming: mpsc::Receiver<Result<Option<ToEdge>, StreamError>>,
    reader: AbortHandle,
    beats: Beats,
    /// Beats since the core last said anything.
    quiet: u32,
    /// Datagrams that have come from it.
    datagrams: u64,
    every: Interval,
}

impl Link {
    pub(super) fn new(
        node: Node,
        software: String,
        core: NodeId,
        born: Instant,
        commands: mpsc::Receiver<Command>,
    ) -> Self {
        Self { node, software, core, born, meetings: BTreeMap::new(), commands }
    }

    /// Runs until nobody can want the link any more. Should it break, it may be run again: to its meetings that is a lost stream.
    pub(super) async fn run(&mut self) {
        self.tell_all(|| LinkEvent::Disconnected);
        let backoff = || {
            ExponentialBuilder::new()
                .with_min_delay(BACKOFF.0)
                .with_max_delay(BACKOFF.1)
                .with_jitter()
                .without_max_times()
                .build()
        };
        let (mut waits, mut wait) = (backoff(), Duration::ZERO);
        let mut relayed = RelayedRenewals::new(self.node.clone(), self.core.clone(), self.born);
        loop {
            match self.down(&mut relayed, wait).await {
                None => return,
                Some(Err(why)) => debug!(core = %self.core, why, "core not reached"),
                Some(Ok(dialled)) => {
                    waits = backoff();
                    info!(core = %self.core, wire = ?dialled.peer.wire(), "control stream up");
                    match self.up(&mut relayed, Up::new(dialled)).await {
                        Lost::Closed => return,
                        Lost::Stream(why) => info!(core = %self.core, why, "control stream lost"),
                    }
                    metrics::counter!("nearfield_edge_link_lost_total").increment(1);
                    self.tell_all(|| LinkEvent::Disconnected);
                }
            }
            wait = waits.next().unwrap_or(BACKOFF.1);
        }
    }

    /// Without a stream: waits, dials, and meanwhile takes commands. `None` when nobody can want the link any more.
    async fn down(&mut self, relayed: &mut RelayedRenewals, wait: Duration) -> Option<Result<Dialled, String>> {
        let attempt = dial(self.node.clone(), self.core.clone(), self.software.clone(), wait);
        tokio::pin!(attempt);
        loop {
            tokio::select! {
                done = &mut attempt => return Some(done),
                command = self.commands.recv() => { self.handle_down(command?); }
                answer = relayed.next() => self.handle_relayed(answer, relayed, true),
            }
        }
    }

    async fn up(&mut self, relayed: &mut RelayedRenewals, mut up: Up) -> Lost {
        self.tell_all(|| LinkEvent::Connected(up.peer.clone()));
        loop {
            let step = tokio::select! {
                message = up.incoming.recv() => match message {
                    Some(Ok(Some(message))) => self.route(&mut up, message),
                    Some(Ok(None)) | None => Err("the core closed it".into()),
                    Some(Err(e)) => Err(e.to_string()),
                },
                command = self.commands.recv() => match command {
                    None => return Lost::Closed,
                    Some(Command::Reset(why)) => Err(why.into()),
                    Some(Command::Send(message)) => self.send(&mut up, message).await,
                    Some(command) => {
                        self.handle_up(&mut up, command);
                        Ok(())
                    }
                },
                _ = up.every.tick() => {
                    self.catch_up(&up.peer);
                    let alive = up.is_alive();
                    if up.quiet > 0 {
                        metrics::counter!("nearfield_edge_beats_missed_total").increment(1);
                        let short = up.is_short();
                        self.tell_all(|| LinkEvent::Unanswered { alive, short });
                    }
                    match self.has_newer_connection(&up) {
                        _ if !up.beating() => Ok(()),
                        true => Err("the core has come back on another connection".into()),
                        false => up.beat_or_give_up(alive).await,
                    }
                }
                answer = relayed.next() => {
                    self.handle_relayed(answer, relayed, up.quiet >= RELAY_AFTER);
                    Ok(())
                }
            };
            if let Err(why) = step {
                return Lost::Stream(why);
            }
        }
    }

    /// A core that was restarted dials its peers, long before its former life's connection times out.
    fn has_newer_connection(&self, up: &Up) -> bool {
        let newest = || self.node.peer(&self.core).now_or_never()?.ok();
        up.quiet >= RELAY_AFTER
            && newest().is_some_and(|peer| peer.connection.stable_id() != up.peer.connection.stable_id())
    }

    /// A command that needs no stream.
    fn handle_down(&mut self, command: Command) {
        match command {
            Command::Register(alias, key, events) => {
                let place = Place { events, key, opened: None, served: false, behind: false };
                let rows = self.meetings.len();
                self.meetings.entry(alias).or_insert(place);
                note_places(self.meetings.len() - rows, true);
            }
            Command::Unregister(alias) => note_places(self.meetings.remove(&alias).iter().count(), false),
            Command::Release(alias) => {
                self.meetings.entry(alias).and_modify(|place| (place.opened, place.served) = (None, false));
            }
            Command::Send(_) | Command::Reset(_) => {}
        }
    }

    fn handle_up(&mut self, up: &mut Up, command: Command) {
        match &command {
            Command::Register(alias, _, events) => {
                let _ = events.try_send((self.core.clone(), *alias, LinkEvent::Connected(up.peer.clone())));
            }
            Command::Unregister(alias) | Command::Release(alias) => up.beats.handle_closed(*alias),
            Command::Send(_) | Command::Reset(_) => {}
        }
        self.handle_down(command);
    }

    /// Writes a message, and a beat at once after one that opens a meeting: its lease begins with the answer.
    async fn send(&mut self, up: &mut Up, message: ToCore) -> Result<(), String> {
        up.send.send(&message).await.map_err(|e| e.to_string())?;
        let (alias, opened) = match message {
            ToCore::Serve { alias, meeting, epoch, .. } => (alias, Some((meeting, epoch))),
            ToCore::Open { alias, .. } | ToCore::Late { alias, .. } | ToCore::Close { alias, .. } => (alias, None),
            _ => return Ok(()),
        };
        if let Some(place) = self.meetings.get_mut(&alias) {
            place.opened = opened;
            place.served &= opened.is_some();
        }
        if opened.is_none() {
            up.beats.handle_closed(alias);
            return Ok(());
        }
        up.beats.handle_opened(alias);
        up.beat().await
    }

    fn route(&mut self, up: &mut Up, message: ToEdge) -> Result<(), String> {
        up.quiet = 0;
        if let ToEdge::Beat { seq, lease_ms } = message {
            let Some((renewal, renewed)) = up.beats.handle_answer(seq, lease_ms, Instant::now()) else { return Ok(()) };
            // What a beat waits in a queue of its own class counts, too.
            let rtt = up.peer.connection.rtt().max(renewal.sent.elapsed());
            let short = up.is_short();
            let opened = |alias: &MeetingAlias| renewed.binary_search(alias).is_ok().then_some(renewal);
            renewed.iter().for_each(|alias| {
                self.meetings.entry(*alias).and_modify(|place| place.served = true);
            });
            self.tell_each(|alias| Some(LinkEvent::Beat(Beat { rtt, short, renewal: opened(alias) })));
            return Ok(());
        }
        let Some(alias) = alias_of(&message) else {
            self.tell_all(|| LinkEvent::Message(message.clone()));
            return Ok(());
        };
        if matches!(message, ToEdge::Refused { .. } | ToEdge::Moved { .. }) {
            up.beats.handle_closed(alias);
            self.meetings.entry(alias).and_modify(|place| place.opened = None);
        }
        let event = (self.core.clone(), alias, LinkEvent::Message(message));
        let told = self.meetings.get(&alias).filter(|p| !p.behind).map(|place| place.events.try_send(event));
        if matches!(told, Some(Err(mpsc::error::TrySendError::Full(_)))) {
            self.fall_behind(up, alias);
        }
        Ok(())
    }

    /// A meeting does not keep up. Its lease is renewed no more; once there is room it begins anew, as on a new stream.
    fn fall_behind(&mut self, up: &mut Up, alias: MeetingAlias) {
        if let Some(place) = self.meetings.get_mut(&alias).filter(|place| !place.behind) {
            warn!(core = %self.core, alias = alias.0, "a meeting does not keep up with its acknowledgements");
            metrics::counter!("nearfield_edge_link_events_overflowed_total").increment(1);
            (place.behind, place.opened) = (true, None);
            up.beats.handle_closed(alias);
        }
    }

    /// Meetings that had fallen behind, and have room again, hear of the stream as if it were new.
    fn catch_up(&mut self, peer: &Peer) {
        for (alias, place) in self.meetings.iter_mut().filter(|(_, place)| place.behind) {
            if place.events.capacity() < EVENTS / 2 {
                continue;
            }
            place.behind = false;
            for event in [LinkEvent::Disconnected, LinkEvent::Connected(peer.clone())] {
                // There is room.
                let _ = place.events.try_send((self.core.clone(), *alias, event));
            }
        }
    }

    /// It is time to ask by way of others, if that is `wanted`; or one of them has answered.
    fn handle_relayed(&mut self, answer: Option<Answer>, relayed: &mut RelayedRenewals, wanted: bool) {
        let lease = |place: &Place| place.opened.map(|(meeting, epoch)| Lease { meeting, epoch, key: place.key });
        let opened = || self.meetings.values().filter_map(lease).collect::<Vec<_>>();
        match answer {
            None if wanted => {
                let meetings = opened();
                if !meetings.is_empty() {
                    relayed.ask(meetings);
                }
            }
            None => {}
            Some(Answer { kept, renewal, lost }) => {
                let places: Vec<(MeetingAlias, MeetingId, bool)> = self
                    .meetings
                    .iter()
                    .filter_map(|(alias, place)| {
                        let told = |opened: &(MeetingId, Epoch)| kept.contains(opened) || lost.contains(opened);
                        Some((*alias, place.opened.filter(told)?.0, place.served))
                    })
                    .collect();
                // A standby that our call has not reached yet does not know that the meeting is to be its.
                let is_lost = |meeting: &MeetingId| lost.iter().any(|(of, _)| of == meeting);
                let event = |meeting: &MeetingId, served: bool| match is_lost(meeting) {
                    true => served.then_some(LinkEvent::Lost),
                    false => Some(LinkEvent::Renewed(renewal)),
                };
                self.tell_each(|alias| {
                    let (_, meeting, served) = places.iter().find(|(of, ..)| of == alias)?;
                    event(meeting, *served)
                });
            }
        }
    }

    fn tell_all(&mut self, event: impl Fn() -> LinkEvent) {
        self.tell_each(|_| Some(event()));
    }

    fn tell_each(&mut self, event: impl Fn(&MeetingAlias) -> Option<LinkEvent>) {
        let core = &self.core;
        self.meetings.retain(|alias, place| {
            let Some(event) = event(alias) else { return true };
            let told = place.events.try_send((core.clone(), *alias, event));
            !matches!(told, Err(mpsc::error::TrySendError::Closed(_)))
        });
    }
}

impl Up {
    fn new(Dialled { peer, send, mut recv }: Dialled) -> Self {
        let (tx, incoming) = mpsc::channel(EVENTS);
        let reader = once("link reader", async move {
            loop {
                let message = recv.recv::<ToEdge>().await;
                let last = !matches!(message, Ok(Some(_)));
                if tx.send(message).await.is_err() || last {
                    return;
                }
            }
        });
        let mut every = interval(BEAT_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let reader = reader.abort_handle();
        let path = Path::of(&peer.connection);
        Self { peer, path, send, incoming, reader, beats: Beats::default(), quiet: 0, datagrams: 0, every }
    }

    fn beating(&self) -> bool {
        self.peer.wire() >= Version::V2
    }

    /// Whether something has come since the last beat although that was not answered.
    fn is_alive(&mut self) -> bool {
        let datagrams = self.peer.connection.stats().udp_rx.datagrams;
        let came = datagrams > std::mem::replace(&mut self.datagrams, datagrams);
        came && self.quiet > 0
    }

    fn is_short(&self) -> bool {
        self.path.as_ref().is_some_and(|path| path.is_short(Instant::now()))
    }

    async fn beat_or_give_up(&mut self, alive: bool) -> Result<(), String> {
        self.quiet += 1;
        let beats = if alive { GIVE_UP_ALIVE_AFTER } else { GIVE_UP_AFTER };
        let patience = beats + (self.peer.connection.rtt().as_millis() * 4 / BEAT_EVERY.as_millis()) as u32;
        if self.quiet > patience {
            // Else the pool would hand out this very connection again, until QUIC gives it up after 10 s.
            self.peer.connection.close(close::SHUTDOWN, b"no answer");
            return Err(format!("{} beats not answered", self.quiet));
        }
        self.beat().await
    }

    async fn beat(&mut self) -> Result<(), String> {
        if !self.beating() {
            return Ok(());
        }
        let seq = self.beats.handle_sent(Instant::now());
        self.send.send(&ToCore::Beat { seq }).await.map_err(|e| e.to_string())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn dial(node: Node, core: NodeId, software: String, wait: Duration) -> Result<Dialled, String> {
    tokio::time::sleep(wait).await;
    let peer = tokio::time::timeout(DIAL, node.peer(&core)).await;
    let peer = peer.map_err(|_| format!("not reached within {DIAL:?}"))?.map_err(|e| e.to_string())?;
    let Ok(hello) = tokio::time::timeout(DIAL, hello(&peer, software)).await else {
        // A pooled connection to a process that is gone: else it is handed out again until QUIC gives it up.
        peer.connection.close(close::SHUTDOWN, b"no answer");
        return Err(format!("no hello within {DIAL:?}"));
    };
    hello.map(|(send, recv)| Dialled { peer, send, recv })
}

async fn hello(peer: &Peer, software: String) -> Result<(MessageSender, MessageReceiver), String> {
    let (mut send, mut recv) = peer.open_control().await.map_err(|e| e.to_string())?;
    send.send(&ToCore::Hello { software }).await.map_err(|e| e.to_string())?;
    match recv.recv::<ToEdge>().await {
        Ok(Some(ToEdge::Hello { .. })) => Ok((send, recv)),
        Ok(other) => Err(format!("expected a hello, the core said {other:?}")),
        Err(e) => Err(e.to_string()),
    }
}

fn alias_of(message: &ToEdge) -> Option<MeetingAlias> {
    match message {
        ToEdge::Durable { alias, .. }
        | ToEdge::Done { alias, .. }
        | ToEdge::DoneTo { alias, .. }
        | ToEdge::Refused { alias, .. }
        | ToEdge::Leave { alias }
        | ToEdge::Standby { alias, .. }
        | ToEdge::Moved { alias, .. } => Some(*alias),
        ToEdge::Hello { .. } | ToEdge::Drain | ToEdge::Beat { .. } => None,
    }
}
