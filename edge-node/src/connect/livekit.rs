//! LiveKit over its client protocol: the roster by signalling, all voices on one connection.
//!
//! A participant is whoever may publish: called by its identity, named as the server says. [`room`] decides; here are the socket,
//! the clock and the media connection. When signalling is lost media go on, and the server is asked to go on with us;
//! where it does not, the room is joined anew.

pub(super) mod fuzzing;
mod line;
mod message;
mod people;
mod room;
mod token;

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use mesh::{
    clock::Micros,
    wire::{
        cause::Cause,
        control::EdgeState,
        request::{LiveKitAccess, Secret},
    },
};
use reqwest::Url;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    ConnectError, Connector, Event, IceServer, Settings,
    peer::{self, Link, Peer, Voice, Voices},
    retries::Retries,
    sdp::{self, Side},
    stay::{Attempt, Ended, Stay, keep},
    steps::Steps,
    url::parse_url,
};
use crate::media::ParticipantId;
use line::{Door, Heard, Line};
use people::{Change, Whose};
use room::{Action, Offers, Room};

/// As a label of metrics.
const VIA: &str = "livekit";

/// To tell the server we leave; it forgets us by itself otherwise.
const LEAVE_DEADLINE: Duration = Duration::from_secs(3);

/// The server closes the media connection before it says why.
const WHY_DEADLINE: Duration = Duration::from_secs(3);

/// Signalling that was lost is there for good after this long: longer than a server that says nothing is waited for (10 s).
const SETTLED: Duration = Duration::from_secs(30);

/// Of a server that knows one connection for both ways, as those before it do not.
const NOT_FOUND: u16 = 404;

/// A room of a LiveKit.
pub(super) struct LiveKit {
    url: Url,
    access: LiveKitAccess,
    settings: Settings,
    /// Under which we join with a token of our own making: the same each time, so that we replace what is left of us.
    identity: String,
    /// What the server gave us to come back with.
    given: Option<Secret>,
    /// It has moved us to another room.
    moved: bool,
    offers: Offers,
    /// Where the server would have us join next.
    elsewhere: Option<Url>,
}

impl LiveKit {
    pub(super) fn new(url: &str, access: Option<LiveKitAccess>, settings: Settings) -> Result<Self, ConnectError> {
        let url = parse_url(url, ["ws", "wss"], "ws or wss")?;
        let missing = || ConnectError::Source {
            url: url.host_str().unwrap_or_default().into(),
            wanted: "LiveKit",
            why: "no token and no key to make one of".into(),
        };
        let access = access.ok_or_else(missing)?;
        let identity = format!("nearfield-{:016x}", rand::random::<u64>());
        Ok(Self { url, access, settings, identity, given: None, moved: false, offers: Offers::Ours, elsewhere: None })
    }

    /// The way in, or back in.
    fn door(&self, url: Url, back: bool) -> Door {
        let token = match (&self.access, &self.given) {
            // Where it has moved us to the server itself has let us in: of our making is no token but to the room that we were
            // told.
            (_, Some(given)) if back || self.moved => given.clone(),
            (LiveKitAccess::Key { key, secret, room }, _) => self.mint(key, secret, room),
            (LiveKitAccess::Token(_), Some(given)) => given.clone(),
            (LiveKitAccess::Token(token), None) => token.clone(),
        };
        Door { url, token, offers: self.offers, egress: self.settings.egress.clone() }
    }

    #[allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the token")]
    fn mint(&self, key: &Secret, secret: &Secret, room: &str) -> Secret {
        token::mint(key, secret, room, &self.identity, Micros::from_system(SystemTime::now()))
    }

    /// Opens the signalling; of a server without `/rtc/v1` the older one, from then on.
    async fn open(&mut self, url: &Url) -> Result<Line, ConnectError> {
        let mut opened = self.door(url.clone(), false).open(None).await;
        if self.offers == Offers::Ours && matches!(opened, Err(ConnectError::Refused { status: NOT_FOUND, .. })) {
            self.offers = Offers::Theirs;
            opened = self.door(url.clone(), false).open(None).await;
            if opened.is_err() {
                self.offers = Offers::Ours;
            }
        }
        Ok(Line::Open(Box::new(opened?)))
    }
}

#[async_trait]
impl Connector for LiveKit {
    async fn run(self: Box<Self>, events: mpsc::Sender<Event>, stop: CancellationToken) -> Result<(), ConnectError> {
        keep(*self, events, stop).await
    }
}

#[async_trait]
impl Attempt for LiveKit {
    async fn stay(&mut self, stay: &mut Stay) -> Result<Ended, ConnectError> {
        let mut steps = Steps::new(VIA, Instant::now().into_std());
        let url = self.elsewhere.take().unwrap_or_else(|| self.url.clone());
        let line = tokio::select! {
            line = self.open(&url) => line?,
            () = stay.stopped() => return Ok(Ended::Stopped),
        };
        steps.reach("socket", Instant::now().into_std());
        let room = Room::new(self.offers, Instant::now());
        let mut session = Session {
            livekit: self,
            url,
            line,
            room,
            steps,
            peer: None,
            servers: vec![],
            here: BTreeSet::new(),
            entered: false,
            connected: false,
            why_by: None,
            resume: None,
            back_since: Instant::now(),
        };
        let result = session.run(stay).await;
        session.close().await;
        result
    }
}

/// One stay, from the open socket on.
struct Session<'a> {
    livekit: &'a mut LiveKit,
    url: Url,
    line: Line,
    room: Room,
    steps: Steps,
    peer: Option<Peer>,
    /// TURN servers that the server named.
    servers: Vec<IceServer>,
    /// Everyone seen in this stay, and still there.
    here: BTreeSet<ParticipantId>,
    /// We are in the room.
    entered: bool,
    /// Media flow, or could and nobody sends any.
    connected: bool,
    /// The media connection was closed in good order: until then why is awaited.
    why_by: Option<Instant>,
    /// Tries to come back since signalling was last there for long.
    resume: Option<Retries>,
    /// Since when it is.
    back_since: Instant,
}

/// What the loop woke up for.
enum Woken {
    Line(Heard),
    Link(Link),
    /// The server has closed the media connection,
    Farewell,
    /// and has not said why.
    Unexplained,
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
                stay.roster.retain(&self.here);
                stay.tell_roster().await;
            }
            // In a quiet room too: where no media can come, whoever speaks next is not heard.
            if self.entered && self.connected {
                stay.state(EdgeState::Live, None).await;
            }
            match self.wait(stay).await? {
                Woken::Line(heard) => self.heard(heard)?,
                Woken::Due => {
                    if let Err(error) = self.room.handle_timeout(Instant::now()) {
                        self.lose(error)?;
                    }
                }
                Woken::Link(Link::Up) => self.connected = true,
                // Who is there the room says.
                Woken::Link(Link::Idle) => {}
                Woken::Link(Link::Candidate(candidate)) => self.room.handle_candidate(&candidate),
                Woken::Link(Link::Silent(since)) => {
                    self.connected = false;
                    stay.lost(since.into(), "the relay is silent".into()).await;
                    self.room.handle_silence(Instant::now())?;
                }
                Woken::Farewell => {
                    self.peer = None;
                    self.connected = false;
                    self.why_by = Some(Instant::now() + WHY_DEADLINE);
                }
                Woken::Unexplained => return Err(ConnectError::Closed),
                Woken::Stop => return Ok(Ended::Stopped),
            }
        }
    }

    async fn wait(&mut self, stay: &Stay) -> Result<Woken, ConnectError> {
        let (due, unexplained) = (at(self.room.poll_timeout()), at(self.why_by));
        let link = async {
            match &mut self.peer {
                Some(peer) => peer.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stay.stopped() => Ok(Woken::Stop),
            heard = self.line.next() => Ok(Woken::Line(heard)),
            link = link => match link {
                Err(ConnectError::Closed) => Ok(Woken::Farewell),
                link => link.map(Woken::Link),
            },
            () = unexplained => Ok(Woken::Unexplained),
            () = due => Ok(Woken::Due),
        }
    }

    fn heard(&mut self, heard: Heard) -> Result<(), ConnectError> {
        match heard {
            Heard::Message(bytes) => self.room.handle_message(&bytes, Instant::now()),
            Heard::Nothing => Ok(()),
            Heard::Back => {
                metrics::counter!("nearfield_edge_connect_resumes_total").increment(1);
                self.back_since = Instant::now();
                self.room.handle_back(Instant::now());
                Ok(())
            }
            Heard::Lost(error) => self.lose(error),
        }
    }

    /// Signalling is lost, or does not come back: it is tried again while there is a connection that media come by.
    ///
    /// # Errors
    /// What it was lost by, if that is not tried any more.
    fn lose(&mut self, error: ConnectError) -> Result<(), ConnectError> {
        if !self.entered || self.peer.is_none() {
            return Err(error);
        }
        if !error.is_transient() {
            return Err(if matches!(self.line, Line::Open(_)) { error } else { anew(&error) });
        }
        let now = Instant::now();
        if matches!(self.line, Line::Open(_)) && now - self.back_since >= SETTLED {
            self.resume = None;
        }
        let retries = self.resume.get_or_insert_with(|| Retries::patient(now, rand::random()));
        let after = match retries.after(error, now) {
            Ok(after) => after,
            // Media have flown for long without it: the room is joined anew.
            Err(ConnectError::Lost { last, .. }) => return Err(*last),
            Err(error) => return Err(error),
        };
        tracing::info!(?after, "signalling is lost; trying to go on");
        self.room.handle_lost();
        let door = self.livekit.door(self.url.clone(), true);
        self.line = Line::again(door, self.room.sid().to_owned(), after);
        Ok(())
    }

    /// Does as the room says; true if it has ended.
    async fn act(&mut self, action: Action, stay: &mut Stay) -> Result<bool, ConnectError> {
        match action {
            Action::Send(bytes) => self.line.send(bytes).await,
            Action::Entered => {
                self.entered = true;
                self.steps.reach("room", Instant::now().into_std());
            }
            Action::Servers(servers) => self.servers = servers,
            Action::Person(Change::Joined { id, name, unheard }) => {
                self.here.insert(id.clone());
                stay.roster.join(id, name, unheard);
            }
            Action::Person(Change::Left { id }) => {
                self.here.remove(&id);
                stay.roster.leave(&id);
            }
            Action::Offer { sections, restart } => {
                let offer = self.peer(stay).await?.offer(sections, restart).await?;
                self.room.handle_offer(offer);
            }
            Action::Accept { answer, whose } => {
                self.steps.reach("offer", Instant::now().into_std());
                let (answer, voices) = read(&answer, Side::Answer, &whose)?;
                self.peer(stay).await?.accept(&answer, voices).await?;
            }
            Action::Answer { offer, whose } => {
                self.steps.reach("offer", Instant::now().into_std());
                let (offer, voices) = read(&offer, Side::OfferAhead, &whose)?;
                let answer = self.peer(stay).await?.answer(&offer, voices).await?;
                self.room.handle_answer(answer);
            }
            Action::Candidate(candidate) => self.add_candidate(&candidate).await,
            Action::Token(token) => self.livekit.given = Some(token),
            Action::Moved => self.livekit.moved = true,
            Action::Elsewhere(url) => return Err(self.elsewhere(&url)),
            Action::Resume => {
                let why = "LiveKit would have us open the signalling anew".into();
                self.lose(ConnectError::Unreachable { cause: Cause::RelayUnreachable, why })?;
            }
            Action::Ended => return Ok(true),
        }
        Ok(false)
    }

    /// The media connection, made where there is none yet.
    async fn peer(&mut self, stay: &Stay) -> Result<&mut Peer, ConnectError> {
        match &mut self.peer {
            Some(peer) => Ok(peer),
            none => {
                let settings = &self.livekit.settings;
                let bind = peer::local_addresses(settings, &self.url).await?;
                let servers = self.servers.clone();
                Ok(none.insert(Peer::new(VIA, settings, &bind, stay.events.clone())?.through(servers).with_data()))
            }
        }
    }

    /// A candidate that is of no use costs one path, not the meeting.
    async fn add_candidate(&mut self, candidate: &str) {
        let Some(peer) = &mut self.peer else { return };
        if let Err(error) = peer.add_candidate(candidate).await {
            metrics::counter!("nearfield_edge_connect_bad_candidates_total").increment(1);
            tracing::debug!(%error, "candidate passed over");
        }
    }

    /// Will join there next.
    fn elsewhere(&mut self, url: &str) -> ConnectError {
        match another(&self.url, url) {
            Ok(url) => {
                self.livekit.elsewhere = Some(url);
                let why = "LiveKit sends us to another of its servers".into();
                ConnectError::Unreachable { cause: Cause::RelayUnreachable, why }
            }
            Err(why) => ConnectError::BadMessage { what: "address of another server", why },
        }
    }

    /// Leaves as far as the relay lets us.
    async fn close(mut self) {
        if let Some(peer) = self.peer.take() {
            peer.close().await;
        }
        let leave = async {
            if self.room.leave()
                && let Some(Action::Send(bytes)) = self.room.poll_action()
            {
                self.line.send(bytes).await;
            }
            self.line.close().await;
        };
        if timeout(LEAVE_DEADLINE, leave).await.is_err() {
            tracing::debug!("LiveKit took no leave in {LEAVE_DEADLINE:?}");
        }
    }
}

/// Whoever is not gone on with may still be let in: the room is joined anew, and what that is refused with is the end.
fn anew(refused: &ConnectError) -> ConnectError {
    let why = format!("LiveKit does not go on with our stay: {refused}");
    ConnectError::Unreachable { cause: Cause::RelayUnreachable, why }
}

/// The address of another server that one at `here` sends us to; servers write it with `http` or `ws`.
fn another(here: &Url, url: &str) -> Result<Url, String> {
    let rest = url.strip_prefix("http").map(|rest| format!("ws{rest}"));
    let url = parse_url(rest.as_deref().unwrap_or(url), ["ws", "wss"], "ws or wss").map_err(|e| e.to_string())?;
    if here.scheme() == "wss" && url.scheme() == "ws" {
        return Err("our token would go there in the clear".into());
    }
    Ok(url)
}

/// Ready then; without a time never.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// A description of the server's, and whose voices its sections carry.
fn read(text: &str, side: Side, whose: &Whose) -> Result<(sdp::Description, Voices), ConnectError> {
    let what = if side == Side::Answer { "SDP answer" } else { "SDP offer" };
    let description = sdp::read(text, side).map_err(|e| ConnectError::BadMessage { what, why: e.to_string() })?;
    let voice = |audio: &sdp::Audio| {
        let participant = whose.section(&audio.mid, audio.stream.as_deref())?.clone();
        Some((audio.mid.clone(), Voice { participant, level: audio.level, takes_unnamed: false }))
    };
    let voices = description.audio.iter().filter_map(voice).collect();
    Ok((description, voices))
}

#[cfg(test)]
mod tests;
