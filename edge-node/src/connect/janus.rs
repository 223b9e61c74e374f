//! Janus VideoRoom over Janus's WebSocket: the roster by signalling, all voices on one connection.
//!
//! A participant is a publisher of the room: its feed id as text, and its display name. [`room`] decides;
//! here are the socket, the clock and the media connection.

mod access;
pub(super) mod fuzzing;
mod message;
mod refusal;
mod requests;
mod room;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::StreamExt;
use mesh::wire::{cause::Cause, control::EdgeState};
use reqwest::Url;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::tungstenite::{
    self, Message,
    client::IntoClientRequest,
    http::{HeaderValue, header::SEC_WEBSOCKET_PROTOCOL},
};
use tokio_util::sync::CancellationToken;

pub(super) use self::{access::Access, message::Id};
use room::{Action, Room};

use super::{
    ConnectError, Connector, Event, Settings,
    peer::{self, Link, Peer, Voice, Voices},
    sdp::{self, Side},
    stay::{Attempt, Ended, Stay, keep},
    steps::Steps,
    url::parse_url,
    websocket::{self, Socket, unreachable},
};
use crate::{egress::Policy, media::ParticipantId};

/// As a label of metrics.
const VIA: &str = "janus";

/// To tell Janus we leave; it forgets us by itself otherwise.
const LEAVE_DEADLINE: Duration = Duration::from_secs(3);

/// The longest message taken: an offer with room for its JSON.
const MAX_MESSAGE: usize = 2 * sdp::MAX_SDP;

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
            Err(ConnectError::Signalling { code: refusal::NO_SUCH_ROOM, .. }) if self.was_in => Ok(Ended::ByRelay),
            other => other,
        }
    }
}

async fn open(url: &Url, egress: &Policy) -> Result<Socket, ConnectError> {
    let mut request = url.as_str().into_client_request().map_err(unreachable)?;
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("janus-protocol"));
    websocket::open(request, url, egress, MAX_MESSAGE, |_| None).await
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
            Some((audio.mid.clone(), Voice { participant, level: audio.level, takes_unnamed: true }))
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
        websocket::send(&mut self.socket, Message::text(text)).await
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
