//! Janus VideoRoom over Janus's WebSocket: the roster by signalling, all voices on one connection.
//!
//! A participant is a publisher of the room: its feed id as text, and its display name. [`room`] decides;
//! here are the socket, the clock and the media connection.

pub(super) mod fuzzing;
mod message;
mod room;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{SinkExt, StreamExt};
use mesh::wire::{cause::Cause, control::EdgeState};
use reqwest::Url;
use tokio::{
    net::TcpStream,
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, client_async_tls_with_config,
    tungstenite::{
        self, Message, client::IntoClientRequest, http::HeaderValue, http::header::SEC_WEBSOCKET_PROTOCOL,
        protocol::WebSocketConfig,
    },
};
use tokio_util::sync::CancellationToken;

pub(super) use self::{message::Id, room::Access};
use room::{Action, Room};

use super::{
    Attempt, ConnectError, Connector, Ended, Event, Settings, Stay, cut, fault, keep, parse_url,
    peer::{self, Link, Peer, Voice, Voices},
    sdp::{self, Side},
    steps::Steps,
    tls,
};
use crate::{egress::Policy, media::ParticipantId};

/// As a label of metrics.
const VIA: &str = "janus";

/// TCP, TLS and the WebSocket handshake.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// For the socket to take one message.
const SEND_DEADLINE: Duration = Duration::from_secs(5);

/// To tell Janus we leave; it forgets us by itself otherwise.
const LEAVE_DEADLINE: Duration = Duration::from_secs(3);

/// The longest message taken: an offer with room for its JSON.
const MAX_MESSAGE: usize = 2 * sdp::MAX_SDP;

/// Janus's code for a room that is not there.
const NO_SUCH_ROOM: i64 = 426;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Whether an error of Janus's may be gone when tried again: a feed or session that has just vanished
/// (428, 458, 459) and faults of its own (490, 499).
pub(super) fn is_transient(code: i64) -> bool {
    matches!(code, 428 | 458 | 459 | 490 | 499)
}

/// What an error of Janus's comes to, for whoever asked for the meeting: of its core (<https://janus.conf.meetecho.com/docs/rest.html>)
/// and of the VideoRoom.
pub(super) fn meaning(code: i64) -> &'static str {
    match code {
        403 => "the API secret or the token is wrong: ",
        405 => "the token does not allow this: ",
        426 => "there is no such room: ",
        428 => "whoever was to be heard is gone: ",
        429 => "something is missing that the room wants: ",
        430 => "the room takes nothing of this kind, as of a number where it wants a text: ",
        432 => "the room is full: ",
        433 => "the room's PIN or the token is wrong: ",
        436 => "somebody is there under this id already: ",
        460 => "it has no VideoRoom: ",
        _ => "",
    }
}

/// The same, as a word.
pub(super) fn cause(code: i64) -> Cause {
    match code {
        403 | 405 | 433 => Cause::AccessDenied,
        426 => Cause::NoSuchRoom,
        432 => Cause::RoomFull,
        _ => Cause::RelayRefused,
    }
}

/// A room of a Janus.
pub(super) struct Janus {
    url: Url,
    room: Id,
    access: Access,
    display: String,
    settings: Settings,
    /// We have been in the room.
    was_in: bool,
}

impl Janus {
    pub(super) fn new(
        url: &str,
        room: Id,
        access: Access,
        display: String,
        settings: Settings,
    ) -> Result<Self, ConnectError> {
        let url = parse_url(url, ["ws", "wss"], "ws or wss")?;
        Ok(Self { url, room, access, display, settings, was_in: false })
    }
}

#[async_trait]
impl Connector for Janus {
    async fn run(self: Box<Self>, events: mpsc::Sender<Event>, stop: CancellationToken) -> Result<(), ConnectError> {
        keep(*self, events, stop).await
    }
}

#[async_trait]
impl Attempt for Janus {
    async fn stay(&mut self, stay: &mut Stay) -> Result<Ended, ConnectError> {
        let mut steps = Steps::new(VIA, Instant::now().into_std());
        let socket = tokio::select! {
            socket = open(&self.url, &self.settings.egress) => socket?,
            () = stay.stopped() => return Ok(Ended::Stopped),
        };
        steps.reach("socket", Instant::now().into_std());
        let room = Room::new(self.room.clone(), self.display.clone(), self.access.clone(), Instant::now());
        let mut session = Session {
            janus: self,
            socket,
            room,
            steps,
            peer: None,
            feeds: BTreeSet::new(),
            entered: false,
            connected: false,
        };
        let result = session.run(stay).await;
        let entered = session.entered;
        session.close().await;
        self.was_in |= entered;
        match result {
            Err(ConnectError::Janus { code: NO_SUCH_ROOM, .. }) if self.was_in => Ok(Ended::ByRelay),
            other => other,
        }
    }
}

async fn open(url: &Url, egress: &Policy) -> Result<Socket, ConnectError> {
    let mut request = url.as_str().into_client_request().map_err(unreachable)?;
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("janus-protocol"));
    let limits = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    let connector = (url.scheme() == "wss").then(|| tokio_tungstenite::Connector::Rustls(tls::config()));
    let connect = async {
        let port = url.port_or_known_default().unwrap_or(443);
        let found = egress.resolve(url.host_str().unwrap_or_default(), port).await?;
        let stream = Policy::connect(&found).await.map_err(|e| unreachable(e.into()))?;
        let _ = stream.set_nodelay(true);
        let opened = client_async_tls_with_config(request, stream, Some(limits), connector).await;
        opened.map_err(unreachable)
    };
    match timeout(CONNECT_DEADLINE, connect).await {
        Ok(connected) => Ok(connected?.0),
        Err(_) => Err(ConnectError::Timeout { what: "the WebSocket to open", after: CONNECT_DEADLINE }),
    }
}

/// One session with Janus, from the open socket on.
struct Session<'a> {
    janus: &'a Janus,
    socket: Socket,
    room: Room,
    steps: Steps,
    peer: Option<Peer>,
    /// Everyone seen to publish in this session, and still there.
    feeds: BTreeSet<ParticipantId>,
    /// We are in the room.
    entered: bool,
    /// Media flow, or could and nobody sends any.
    connected: bool,
}

/// What the session's loop woke up for.
enum Woken {
    Text(String),
    Ignored,
    Link(Link),
    Due,
    Stop,
}

impl Session<'_> {
    async fn run(&mut self, stay: &mut Stay) -> Result<Ended, ConnectError> {
        loop {
            while let Some(action) = self.room.poll_action() {
                if self.act(action, stay).await? {
                    return Ok(Ended::ByRelay);
                }
            }
            // Not before we are in: until then nothing is known of who is still there.
            if self.entered {
                stay.roster.retain(&self.feeds);
                stay.tell_roster().await;
            }
            if self.hears_all() {
                stay.state(EdgeState::Live, None).await;
            }
            match self.wait(stay).await? {
                Woken::Text(text) => self.room.handle_text(&text, Instant::now())?,
                Woken::Due => self.room.handle_timeout(Instant::now())?,
                Woken::Link(Link::Up) => self.connected = true,
                // Who is there the room says.
                Woken::Link(Link::Idle) => {}
                Woken::Link(Link::Candidate(candidate)) => self.room.handle_candidate(&candidate, Instant::now()),
                Woken::Link(Link::Silent(since)) => {
                    self.connected = false;
                    if !self.hears_all() {
                        stay.lost(since.into(), "the relay is silent".into()).await;
                    }
                    self.room.handle_silence(Instant::now())?;
                }
                Woken::Ignored => {}
                Woken::Stop => return Ok(Ended::Stopped),
            }
        }
    }

    /// Whether whoever speaks is heard: media flow, or Janus says that nobody publishes any.
    fn hears_all(&self) -> bool {
        self.entered && (self.connected || self.room.is_silent())
    }

    async fn wait(&mut self, stay: &Stay) -> Result<Woken, ConnectError> {
        let due = self.room.poll_timeout();
        let due = async {
            match due {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let link = async {
            match &mut self.peer {
                Some(peer) => peer.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stay.stopped() => Ok(Woken::Stop),
            message = self.socket.next() => received(message),
            link = link => link.map(Woken::Link),
            () = due => Ok(Woken::Due),
        }
    }

    /// Does as the room says; true if it has ended.
    async fn act(&mut self, action: Action, stay: &mut Stay) -> Result<bool, ConnectError> {
        match action {
            Action::Send(text) => self.send(text).await?,
            Action::Entered => {
                self.entered = true;
                self.steps.reach("room", Instant::now().into_std());
            }
            Action::Joined { feed, name, unheard } => {
                let id = participant(&feed);
                self.feeds.insert(id.clone());
                stay.roster.join(id, name, unheard);
            }
            Action::Left { feed } => {
                let id = participant(&feed);
                self.feeds.remove(&id);
                stay.roster.leave(&id);
            }
            Action::Answer { offer, feeds } => self.answer(&offer, &feeds, stay).await?,
            Action::Candidate(candidate) => self.add_candidate(candidate).await,
            Action::Ended => return Ok(true),
        }
        Ok(false)
    }

    async fn answer(&mut self, offer: &str, feeds: &BTreeMap<String, Id>, stay: &Stay) -> Result<(), ConnectError> {
        self.steps.reach("offer", Instant::now().into_std());
        let offer = sdp::read(offer, Side::Offer)
            .map_err(|e| ConnectError::BadMessage { what: "SDP offer", why: e.to_string() })?;
        let voice = |audio: &sdp::Audio| {
            let participant = participant(feeds.get(&audio.mid)?);
            Some((audio.mid.clone(), Voice { participant, level: audio.level }))
        };
        let voices: Voices = offer.audio.iter().filter_map(voice).collect();
        let peer = match &mut self.peer {
            Some(peer) => peer,
            none => {
                let bind = peer::local_addresses(&self.janus.settings, &self.janus.url).await?;
                none.insert(Peer::new(VIA, &self.janus.settings, &bind, stay.events.clone())?)
            }
        };
        let answer = peer.answer(&offer, voices).await?;
        self.room.handle_answer(&answer, Instant::now());
        Ok(())
    }

    /// A candidate that is of no use costs one path, not the meeting.
    async fn add_candidate(&mut self, candidate: message::Candidate) {
        let (Some(peer), Some(text)) = (&mut self.peer, candidate.candidate) else { return };
        if let Err(error) = peer.add_candidate(&text).await {
            metrics::counter!("nearfield_edge_connect_bad_candidates_total").increment(1);
            tracing::debug!(%error, "candidate passed over");
        }
    }

    async fn send(&mut self, text: String) -> Result<(), ConnectError> {
        match timeout(SEND_DEADLINE, self.socket.send(Message::text(text))).await {
            Ok(sent) => sent.map_err(unreachable),
            Err(_) => Err(ConnectError::Timeout { what: "the WebSocket to take a message", after: SEND_DEADLINE }),
        }
    }

    /// Leaves as far as the relay lets us.
    async fn close(mut self) {
        if let Some(peer) = self.peer.take() {
            peer.close().await;
        }
        if timeout(LEAVE_DEADLINE, self.leave()).await.is_err() {
            tracing::debug!("Janus took no leave in {LEAVE_DEADLINE:?}");
        }
    }

    async fn leave(&mut self) {
        if self.room.leave(Instant::now()) {
            while let Some(Action::Send(text)) = self.room.poll_action() {
                if self.send(text).await.is_err() {
                    return;
                }
            }
            while !self.room.has_left() {
                let Ok(Woken::Text(text)) = received(self.socket.next().await) else { return };
                let _ = self.room.handle_text(&text, Instant::now());
            }
        }
        let _ = self.socket.close(None).await;
    }
}

fn unreachable(error: tungstenite::Error) -> ConnectError {
    ConnectError::Unreachable { cause: fault::of(&error), why: cut(&error.to_string(), 200) }
}

fn received(message: Option<Result<Message, tungstenite::Error>>) -> Result<Woken, ConnectError> {
    match message {
        Some(Ok(Message::Text(text))) => Ok(Woken::Text(text.as_str().to_owned())),
        Some(Ok(Message::Close(_))) | None => {
            Err(ConnectError::Unreachable { cause: Cause::RelayUnreachable, why: "Janus closed the WebSocket".into() })
        }
        Some(Ok(_)) => Ok(Woken::Ignored),
        Some(Err(error)) => Err(unreachable(error)),
    }
}

fn participant(feed: &Id) -> ParticipantId {
    ParticipantId::new(feed.to_string()).expect("an id has 1 to 256 bytes")
}

#[cfg(test)]
mod tests;
