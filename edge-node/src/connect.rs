//! Ways into a meeting: each yields who is there and the packets they send.
//!
//! A connector owns its signalling and its media connection. It comes back by itself when the relay
//! is lost, a bounded number of times, and tells one story all the while: a participant who is still
//! there after a reconnect has neither left nor joined.

pub(crate) mod fuzzing {
    //! Bodies of fuzz targets for what is private here.
    pub(crate) use super::{
        janus::fuzzing::messages,
        peer::fuzzing::{offer, rtp},
        whep::fuzzing::answer,
    };
}
mod fault;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod hostile;
mod ice_server;
pub mod inbox;
mod janus;
mod peer;
mod roster;
mod sdp;
mod steps;
mod tls;
mod whep;

use std::{net::IpAddr, time::Duration};

use async_trait::async_trait;
use backon::{BackoffBuilder, ExponentialBuilder};
use mesh::wire::{
    cause::Cause,
    control::{EdgeState, EdgeTotals},
    request::Source,
};
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

pub use self::{
    ice_server::{BadServer, IceServer, MAX_SERVERS},
    peer::Sockets,
};
pub use crate::media::{AudioLevel, BadParticipantId, ParticipantId, RtpPacket};
use crate::{
    egress::{Denied, NoAddress, Policy},
    spurt::Output,
};
use roster::Roster;

/// Tries in a row before a lost relay is given up.
pub const MAX_TRIES: usize = 5;

/// Time since the relay was last live after which it is given up, tries left or not: longer than so many tries of a connection
/// that never comes up.
pub const GIVE_UP: Duration = Duration::from_secs(120);

/// A relay that was live for less is the same loss as the one before.
const STEADY: Duration = Duration::from_secs(10);

/// See [`Settings::nobody_after`].
const NOBODY_AFTER: Duration = Duration::from_secs(60);

/// What happens in a meeting, in order.
///
/// A packet of a participant who has just left may still come after its `Left`: let it fall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Signalling named a participant, or named it anew: nothing need have been heard of it yet.
    Joined {
        /// The platform's id.
        id: ParticipantId,
        /// The display name, where there is one.
        name: Option<String>,
        /// What they publish, where none of it can be heard: names of codecs.
        unheard: Option<String>,
    },
    /// The participant is gone.
    Left {
        /// The platform's id.
        id: ParticipantId,
    },
    /// A participant's audio. Dropped and counted when the queue is full.
    Packet(RtpPacket),
    /// Where the way in stands.
    State {
        /// The state.
        state: EdgeState,
        /// Why, in words; never a secret.
        detail: Option<String>,
    },
    /// The media path is in another process: instead of packets there will be speech, and some of it may follow the
    /// order to leave. Comes first.
    Apart,
    /// What a participant's media path there yields.
    Speech {
        /// The platform's id.
        id: ParticipantId,
        /// The next of it.
        output: Output,
    },
    /// What a participant's media path there has done so far.
    Tally {
        /// The platform's id.
        id: ParticipantId,
        /// So far.
        totals: EdgeTotals,
    },
}

/// One way into one meeting, ready to be used once.
#[async_trait]
pub trait Connector: Send {
    /// Joins, and stays until the relay ends the meeting or `stop` fires; then leaves cleanly.
    ///
    /// Events other than packets wait for room in `events`; a closed `events` counts as `stop`.
    ///
    /// # Errors
    /// The relay refused, or was lost for good; a [`Event::State`] with [`EdgeState::Failed`] says so too.
    async fn run(self: Box<Self>, events: mpsc::Sender<Event>, stop: CancellationToken) -> Result<(), ConnectError>;
}

/// What all connectors of a node share.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Addresses media is received on, as ICE host candidates. Empty: the one this host would reach
    /// the relay's signalling from, which is right wherever signalling and media share a network.
    pub bind: Vec<IpAddr>,
    /// TURN servers to go through where there is no straight way; at most [`MAX_SERVERS`].
    pub ice_servers: Vec<IceServer>,
    /// Go through TURN servers only.
    pub relay_only: bool,
    /// What media is received on; clones of the settings share them.
    pub sockets: Sockets,
    /// Where sources and relays may send it.
    pub egress: Policy,
    /// Where nobody has sent a packet for so long, though media could flow, nobody is there. Longer: a meeting without anybody is
    /// left later. Below half a second Opus that stops in silence is taken for nobody.
    pub nobody_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            bind: vec![],
            ice_servers: vec![],
            relay_only: false,
            sockets: Sockets::default(),
            egress: Policy::default(),
            nobody_after: NOBODY_AFTER,
        }
    }
}

impl Settings {
    /// The defaults, and relays on this host: for tests and benches.
    pub fn on_loopback() -> Self {
        Self { egress: Policy::with_loopback(), ..Self::default() }
    }
}

/// The connector for a source.
///
/// # Errors
/// The source's URL is none, or of the wrong scheme.
pub fn connector(source: &Source, settings: &Settings) -> Result<Box<dyn Connector>, ConnectError> {
    Ok(match source {
        Source::Whep { url, token, participants } => {
            Box::new(whep::Whep::new(url, token.clone(), participants, settings.clone())?)
        }
        Source::Janus { url, room, pin, token, api_secret, display } => {
            let access = janus::Access { pin: pin.clone(), token: token.clone(), api_secret: api_secret.clone() };
            Box::new(janus::Janus::new(url, (*room).into(), access, display.clone(), settings.clone())?)
        }
        Source::JanusNamed { url, room, pin, token, api_secret, display } => {
            let access = janus::Access { pin: pin.clone(), token: token.clone(), api_secret: api_secret.clone() };
            let room = janus::Id::Text(room.clone());
            Box::new(janus::Janus::new(url, room, access, display.clone(), settings.clone())?)
        }
    })
}

/// Why a meeting could not be joined, or not kept. No variant carries a token, PIN or secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Ours or the caller's fault: the source does not name a relay.
    #[error("{url:?} is not a {wanted} URL: {why}")]
    Source {
        /// What was given, without query and user.
        url: String,
        /// The schemes allowed.
        wanted: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The relay said no over HTTP.
    #[error("the relay answered {status} to {request}: {problem}")]
    Refused {
        /// What was asked of it.
        request: &'static str,
        /// The HTTP status.
        status: u16,
        /// What the status means; nothing of what the answer held.
        problem: &'static str,
    },
    /// Janus said no.
    #[error("{meaning}Janus refused {request} with error {code}: {reason}", meaning = janus::meaning(*code))]
    Janus {
        /// What was asked of it.
        request: &'static str,
        /// Its error code.
        code: i64,
        /// Its own words, cut at 200 characters, without our secrets.
        reason: String,
    },
    /// The relay sent what cannot be understood.
    #[error("the relay sent a bad {what}: {why}")]
    BadMessage {
        /// The kind of message.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The source or the relay named an address that this edge does not go to.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// Nothing of what the relay sends is in Opus.
    #[error("nothing that the relay sends can be heard: it is {codecs}, and only Opus is")]
    Codec {
        /// What it is in.
        codecs: String,
    },
    /// The relay cannot be reached, or hung up.
    #[error("the relay cannot be reached: {why}")]
    Unreachable {
        /// By what kind of fault.
        cause: Cause,
        /// What it was.
        why: String,
    },
    /// The relay did not answer in time.
    #[error("the relay left us waiting {after:?} for {what}")]
    Timeout {
        /// What was awaited.
        what: &'static str,
        /// How long.
        after: Duration,
    },
    /// Signalling works, and no media connection comes up.
    #[error(
        "the relay is reached, but no media connection with it came up in {after:?}: UDP may be blocked on the way{denied}",
        denied = hint(*denied)
    )]
    MediaUnreachable {
        /// How long it was tried.
        after: Duration,
        /// Addresses that the relay told and this edge does not go to.
        denied: usize,
    },
    /// The relay closed the media connection in good order.
    #[error("the relay has closed the media connection")]
    Closed,
    /// The media connection broke.
    #[error("the media connection to the relay is gone: {0}")]
    MediaLost(String),
    /// The media connection could not be set up on this side.
    #[error("cannot set up a media connection: {0}")]
    Media(String),
    /// What the process that joins the relay for us said when it gave up.
    #[error("{0}")]
    Apart(Failure),
    /// The process that joins the relay for us is gone.
    #[error("the meeting's process is gone for the {deaths}. time in a minute: {why}")]
    ProcessGone {
        /// How often lately.
        deaths: usize,
        /// How.
        why: String,
    },
    /// Every try to come back failed.
    #[error("the relay is lost after {tries} tries; the last: {last}")]
    Lost {
        /// Tries since the relay was last live.
        tries: usize,
        /// How the last one failed.
        last: Box<ConnectError>,
    },
}

/// Why a meeting was given up: a word for programs, and words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{why}")]
pub struct Failure {
    /// The word.
    pub cause: Cause,
    /// The words; never a secret.
    pub why: String,
}

impl From<&ConnectError> for Failure {
    fn from(error: &ConnectError) -> Self {
        Self { cause: error.cause(), why: error.to_string() }
    }
}

impl From<NoAddress> for ConnectError {
    fn from(error: NoAddress) -> Self {
        match error {
            NoAddress::Denied(denied) => Self::Denied(denied),
            NoAddress::Unknown { .. } => Self::Unreachable { cause: Cause::DnsFailed, why: error.to_string() },
        }
    }
}

impl ConnectError {
    /// Which of the causes that users are told it is.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Source { .. } => Cause::SourceInvalid,
            Self::Refused { status: 404 | 410, .. } => Cause::NoSuchRoom,
            Self::Refused { status: 401 | 403, .. } => Cause::AccessDenied,
            Self::Refused { .. } => Cause::RelayRefused,
            Self::Janus { code, .. } => janus::cause(*code),
            Self::BadMessage { .. } => Cause::RelayProtocol,
            Self::Denied(_) => Cause::AddressDenied,
            Self::Codec { .. } => Cause::CodecUnsupported,
            Self::Unreachable { cause, .. } => *cause,
            Self::Timeout { .. } => Cause::RelayTimeout,
            Self::MediaUnreachable { .. } => Cause::MediaUnreachable,
            Self::Closed | Self::MediaLost(_) => Cause::MediaLost,
            Self::Media(_) | Self::ProcessGone { .. } => Cause::EdgeFailed,
            Self::Apart(failure) => failure.cause,
            Self::Lost { last, .. } => last.cause(),
        }
    }

    /// Whether it is the relay's own word that there is nothing for us, rather than our loss of it.
    fn is_no(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::Closed => true,
            Self::Lost { last, .. } => last.is_no(),
            _ => false,
        }
    }

    /// Whether the same thing tried again may work.
    fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Closed
            | Self::Timeout { .. }
            | Self::MediaUnreachable { .. }
            | Self::MediaLost(_) => true,
            Self::Refused { status, .. } => matches!(status, 408 | 425 | 429 | 500 | 502..=504),
            Self::Janus { code, .. } => janus::is_transient(*code),
            Self::Source { .. }
            | Self::Denied(_)
            | Self::Codec { .. }
            | Self::BadMessage { .. }
            | Self::Media(_)
            | Self::Lost { .. } => false,
            // Its parent has tried again already.
            Self::Apart(_) | Self::ProcessGone { .. } => false,
        }
    }
}

fn hint(denied: usize) -> String {
    match denied {
        0 => String::new(),
        n => format!(", or they are the reason: {n} of the relay's addresses are not public ([egress] allow)"),
    }
}

/// How a stay in a meeting ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// We were told to leave, and have.
    Stopped,
    /// The relay has ended it.
    ByRelay,
}

/// One stay in a meeting at a time, from the first request to the last.
#[async_trait]
trait Attempt: Send {
    /// Joins and stays. Whatever it held open at the relay is closed, or gone with it, on return.
    async fn stay(&mut self, stay: &mut Stay) -> Result<Ended, ConnectError>;
}

/// What outlives a single attempt.
struct Stay {
    events: mpsc::Sender<Event>,
    stop: CancellationToken,
    roster: Roster,
    /// Media could flow in this attempt: the next loss starts a new count.
    live: bool,
    /// It could in this or an earlier one.
    was_live: bool,
    /// Since when it can, and for how long it could in this attempt before.
    since: Option<Instant>,
    lasted: Duration,
    /// The relay took leave of us when we were last live.
    farewell: bool,
    /// The relay is lost, since then.
    lost_since: Option<Instant>,
    /// The state last told.
    told: Option<EdgeState>,
}

impl Stay {
    fn new(events: mpsc::Sender<Event>, stop: CancellationToken) -> Self {
        Self {
            events,
            stop,
            roster: Roster::default(),
            live: false,
            was_live: false,
            since: None,
            lasted: Duration::ZERO,
            farewell: false,
            lost_since: None,
            told: None,
        }
    }

    async fn state(&mut self, state: EdgeState, detail: Option<String>) {
        let now = Instant::now();
        self.lasted += self.since.take().map_or(Duration::ZERO, |since| now - since);
        self.since = (state == EdgeState::Live).then_some(now);
        self.live |= state == EdgeState::Live;
        self.was_live |= self.live;
        if state == EdgeState::Live {
            self.lost_since = None;
        }
        if self.told.replace(state) == Some(state) && detail.is_none() {
            return;
        }
        self.tell(Event::State { state, detail }).await;
    }

    /// The relay is lost, since then if it was not before.
    async fn lost(&mut self, since: Instant, why: String) {
        let since = *self.lost_since.get_or_insert(since);
        self.state(EdgeState::silent(since.elapsed()), Some(why)).await;
    }

    /// An attempt begins.
    fn begin(&mut self) {
        (self.live, self.since, self.lasted) = (false, None, Duration::ZERO);
    }

    /// An attempt has ended. True if it was live for long enough to be forgiven: the next loss is another one.
    fn end(&mut self, error: &ConnectError) -> bool {
        self.lasted += self.since.take().map_or(Duration::ZERO, |since| Instant::now() - since);
        if self.live {
            self.farewell = *error == ConnectError::Closed;
        }
        self.lasted >= STEADY
    }

    /// Whether the relay has ended the meeting, whatever it says now that we try to come back: it took leave of us, and lets
    /// us in no more.
    fn is_over(&self, error: &ConnectError) -> bool {
        self.was_live && self.farewell && error.is_no()
    }

    /// Brings the listener's view of who is there up to date.
    async fn tell_roster(&mut self) {
        while let Some(event) = self.roster.poll_event() {
            self.tell(event).await;
        }
    }

    async fn tell(&self, event: Event) {
        // A closed queue is seen by `stopped`, where every loop waits.
        let _ = self.events.send(event).await;
    }

    /// Ready when there is no reason to stay.
    async fn stopped(&self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.events.closed() => {}
        }
    }
}

/// Stays in a meeting across losses of the relay.
async fn keep(
    mut attempt: impl Attempt,
    events: mpsc::Sender<Event>,
    stop: CancellationToken,
) -> Result<(), ConnectError> {
    let mut stay = Stay::new(events, stop);
    stay.state(EdgeState::Connecting, None).await;
    let mut retries = Retries::new(Instant::now(), rand::random());
    loop {
        stay.begin();
        let error = match attempt.stay(&mut stay).await {
            Ok(ended) => {
                tracing::debug!(?ended, "left the meeting");
                return Ok(());
            }
            Err(error) => error,
        };
        if stay.end(&error) {
            retries = Retries::new(Instant::now(), rand::random());
        }
        let delay = match retries.after(error.clone(), Instant::now()) {
            Ok(delay) => delay,
            Err(last) if stay.is_over(&last) => {
                tracing::debug!(error = %last, "the relay has ended the meeting");
                return Ok(());
            }
            Err(last) => {
                stay.state(EdgeState::Failed(last.cause()), Some(last.to_string())).await;
                return Err(last);
            }
        };
        tracing::info!(%error, ?delay, "the relay is lost; trying again");
        metrics::counter!("nearfield_edge_connect_reconnects_total").increment(1);
        stay.lost(Instant::now(), error.to_string()).await;
        tokio::select! {
            () = stay.stopped() => return Ok(()),
            () = tokio::time::sleep(delay) => {}
        }
    }
}

/// When to try again, and when to stop trying.
struct Retries {
    delays: backon::ExponentialBackoff,
    tries: usize,
    since: Instant,
}

impl Retries {
    /// `seed` decides what is left to chance.
    fn new(since: Instant, seed: u64) -> Self {
        // 0.5, 1, 2, 4 s, each up to as much again at random, so that the edges of a restarted relay spread out.
        let delays = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(500))
            .with_max_delay(Duration::from_secs(8))
            .with_max_times(MAX_TRIES - 1)
            .with_jitter()
            .with_jitter_seed(seed)
            .build();
        Self { delays, tries: 0, since }
    }

    /// How long to wait after `error`, or what to give up with.
    fn after(&mut self, error: ConnectError, now: Instant) -> Result<Duration, ConnectError> {
        self.tries += 1;
        if !error.is_transient() {
            return Err(error);
        }
        match self.delays.next() {
            Some(delay) if now + delay < self.since + GIVE_UP => Ok(delay),
            _ => Err(ConnectError::Lost { tries: self.tries, last: Box::new(error) }),
        }
    }
}

/// `url`, if it is one of `schemes` with a host.
fn parse_url(url: &str, schemes: [&str; 2], wanted: &'static str) -> Result<reqwest::Url, ConnectError> {
    let bad = |shown: String, why: &str| ConnectError::Source { url: shown, wanted, why: why.into() };
    let parsed = reqwest::Url::parse(url).map_err(|e| bad(cut(url, 40), &e.to_string()))?;
    let shown = || format!("{}://{}", parsed.scheme(), parsed.host_str().unwrap_or_default());
    if !schemes.contains(&parsed.scheme()) {
        return Err(bad(shown(), "the scheme is another"));
    }
    if parsed.host_str().is_none_or(str::is_empty) {
        return Err(bad(shown(), "it names no host"));
    }
    Ok(parsed)
}

/// At most `limit` characters of a relay's own words, on one line.
fn cut(text: &str, limit: usize) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(limit).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn lost() -> ConnectError {
        ConnectError::MediaLost("test".into())
    }

    #[test]
    fn a_lost_relay_is_tried_five_times_then_given_up_with_the_last_cause() {
        let now = Instant::now();
        let mut retries = Retries::new(now, 1);
        for _ in 1..MAX_TRIES {
            retries.after(lost(), now).unwrap();
        }
        let given_up = retries.after(lost(), now).unwrap_err();
        assert_eq!(given_up, ConnectError::Lost { tries: MAX_TRIES, last: Box::new(lost()) });
    }

    #[test]
    fn two_minutes_without_the_relay_ends_it_whatever_the_count() {
        let now = Instant::now();
        assert!(Retries::new(now, 1).after(lost(), now + GIVE_UP).is_err());
    }

    #[test]
    fn a_refusal_is_not_tried_again() {
        let refused = ConnectError::Refused { request: "an offer", status: 401, problem: "no" };
        assert_eq!(Retries::new(Instant::now(), 1).after(refused.clone(), Instant::now()), Err(refused));
    }

    #[test]
    fn no_two_edges_wait_equally_long() {
        let delays: Vec<Duration> = (0..32)
            .map(|_| Retries::new(Instant::now(), rand::random()).after(lost(), Instant::now()).unwrap())
            .collect();
        assert!(delays.iter().any(|delay| *delay != delays[0]), "{delays:?}");
        // Nor does anything else that leaves it to the library.
        let others: Vec<_> = (0..32).map(|_| ExponentialBuilder::new().with_jitter().build().next()).collect();
        assert!(others.iter().any(|delay| *delay != others[0]), "{others:?}");
        let seeded = |seed| Retries::new(Instant::now(), seed).after(lost(), Instant::now());
        assert_eq!(seeded(7), seeded(7), "chance is an argument");
    }

    /// A relay that is live for so long, ends thus, and so on.
    struct Scripted {
        lives: Duration,
        ends: Vec<ConnectError>,
        attempts: std::sync::Arc<std::sync::atomic::AtomicUsize>,
    }

    #[async_trait]
    impl Attempt for Scripted {
        async fn stay(&mut self, stay: &mut Stay) -> Result<Ended, ConnectError> {
            let n = self.attempts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let end = self.ends[n.min(self.ends.len() - 1)].clone();
            let was_in = matches!(end, ConnectError::Closed | ConnectError::MediaLost(_));
            if n < 20 && was_in {
                stay.state(EdgeState::Live, None).await;
                tokio::time::sleep(self.lives).await;
            }
            if end == unreached() {
                tokio::time::sleep(Duration::from_secs(15)).await;
            }
            Err(end)
        }
    }

    fn unreached() -> ConnectError {
        ConnectError::MediaUnreachable { after: Duration::from_secs(15), denied: 0 }
    }

    /// How many attempts are made, what comes of them, and the last state told.
    async fn kept(lives: Duration, ends: Vec<ConnectError>) -> (usize, Result<(), Cause>, EdgeState) {
        let attempts = std::sync::Arc::default();
        let (events, mut told) = mpsc::channel(1024);
        let scripted = Scripted { lives, ends, attempts: std::sync::Arc::clone(&attempts) };
        let ended = keep(scripted, events, CancellationToken::new()).await.map_err(|e| e.cause());
        let mut last = EdgeState::Connecting;
        while let Some(Event::State { state, .. }) = told.recv().await {
            last = state;
        }
        (attempts.load(std::sync::atomic::Ordering::Relaxed), ended, last)
    }

    #[tokio::test(start_paused = true)]
    async fn media_that_never_connects_fails_after_five_tries_with_its_reason() {
        let failed = kept(Duration::ZERO, vec![unreached()]).await;
        let cause = Cause::MediaUnreachable;
        assert_eq!(failed, (MAX_TRIES, Err(cause), EdgeState::Failed(cause)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_relay_that_is_lost_as_soon_as_it_is_live_is_given_up_and_one_that_lasts_is_not() {
        let brief = kept(Duration::from_secs(3), vec![lost()]).await;
        assert_eq!((brief.0, brief.1), (MAX_TRIES, Err(Cause::MediaLost)));
        // Twenty losses an hour apart, and then it does not come back.
        let lasting = kept(Duration::from_secs(3600), vec![lost()]).await;
        assert_eq!((lasting.0, lasting.1), (20 + MAX_TRIES - 1, Err(Cause::MediaLost)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_ended_has_one_outcome_however_its_relay_refuses_us_then() {
        let refused = |status| ConnectError::Refused { request: "our offer", status, problem: "" };
        let live = Duration::from_secs(60);
        for status in [403, 404, 409, 500, 502] {
            let (_, ended, _) = kept(live, vec![ConnectError::Closed, refused(status)]).await;
            assert_eq!(ended, Ok(()), "{status}");
        }
        assert_eq!(kept(live, vec![ConnectError::Closed]).await.1, Ok(()), "it hangs up each time");
        // What broke was not ended, and a relay that is gone has not said so.
        assert_eq!(kept(live, vec![lost(), refused(403)]).await.1, Err(Cause::AccessDenied));
        let gone = ConnectError::Unreachable { cause: Cause::ConnectionRefused, why: "refused".into() };
        assert_eq!(kept(live, vec![ConnectError::Closed, gone]).await.1, Err(Cause::ConnectionRefused));
    }

    #[tokio::test(start_paused = true)]
    async fn a_loss_is_told_with_how_long_nothing_has_come_until_the_relay_is_live_again() {
        let (events, mut told) = mpsc::channel(8);
        let mut stay = Stay::new(events, CancellationToken::new());
        let begun = Instant::now();
        let mut silent = async |stay: &mut Stay, since| {
            stay.lost(since, "gone".into()).await;
            match told.recv().await {
                Some(Event::State { state: EdgeState::Reconnecting { silent_ms }, .. }) => silent_ms,
                other => panic!("{other:?}"),
            }
        };
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(silent(&mut stay, begun).await, 5000);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(silent(&mut stay, Instant::now()).await, 15_000, "it has not come back in between");
        stay.told = Some(EdgeState::Live);
        stay.state(EdgeState::Live, None).await;
        assert_eq!(silent(&mut stay, Instant::now()).await, 0);
    }

    #[test]
    fn a_source_without_a_usable_url_is_refused_by_name() {
        let settings = Settings::on_loopback();
        for url in ["", "meet", "ftp://a/b", "http:///"] {
            let source = Source::Whep { url: url.into(), token: None, participants: vec![] };
            let error = connector(&source, &settings).err().unwrap();
            assert!(matches!(error, ConnectError::Source { .. }), "{url}: {error}");
        }
    }

    #[test]
    fn a_url_with_credentials_is_not_repeated_in_the_error() {
        let error = parse_url("ftp://user:hunter2@host/p?key=hunter2", ["ws", "wss"], "ws").unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
