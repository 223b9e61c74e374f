//! Zoom's Realtime Media Streams: the roster by the signalling connection, voices by the media connection, both WebSockets.
//!
//! Version 1 of the protocol, in JSON. A participant is called by their `user_id`. [`session`] decides; here are the sockets and the
//! clock. [`voices`] makes packets of what is said.

mod clock;
pub(super) mod fuzzing;
mod key;
mod line;
mod message;
mod people;
mod session;
mod voices;

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use mesh::{clock::Micros, wire::control::EdgeState};
use reqwest::Url;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

pub(super) use self::key::Key;
use super::{
    ConnectError, Connector, Event, Settings,
    stay::{Ended, Stay},
    steps::Steps,
    url::parse_url,
};
use line::{Heard, Line};
use people::Change;
use session::{Action, Line as Which, Session};
use voices::Voices;

/// As a label of metrics.
const VIA: &str = "zoom_rtms";

/// To close a connection.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// One stream of a Zoom meeting.
pub(super) struct Rtms {
    url: Url,
    key: Key,
    settings: Settings,
}

impl Rtms {
    pub(super) fn new(url: &str, key: Option<Key>, settings: Settings) -> Result<Self, ConnectError> {
        let url = parse_url(url, ["ws", "wss"], "wss")?;
        let missing = || ConnectError::Source {
            url: url.host_str().unwrap_or_default().into(),
            wanted: "Zoom RTMS",
            why: "no client secret".into(),
        };
        let key = key.ok_or_else(missing)?;
        Ok(Self { url, key, settings })
    }
}

#[async_trait]
impl Connector for Rtms {
    async fn run(self: Box<Self>, events: mpsc::Sender<Event>, stop: CancellationToken) -> Result<(), ConnectError> {
        let mut stay = Stay::new(events, stop);
        stay.state(EdgeState::Connecting, None).await;
        let mut shell = Shell::new(*self);
        let ended = shell.run(&mut stay).await;
        shell.signalling.close_soon().await;
        shell.media.close_soon().await;
        if let Err(error) = &ended {
            stay.state(EdgeState::Failed(error.cause()), Some(error.to_string())).await;
        }
        ended.map(|ended| tracing::debug!(?ended, "left the meeting"))
    }
}

/// The connections of one stay, and what decides about them.
struct Shell {
    settings: Settings,
    /// Whether our signature went out under TLS: then it goes nowhere without.
    secure: bool,
    session: Session,
    voices: Voices,
    signalling: Line,
    media: Line,
    steps: Steps,
}

/// What the loop woke up for.
enum Woken {
    Line(Which, Heard),
    Due,
    Stop,
}

impl Shell {
    #[allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock once for the meeting")]
    fn new(rtms: Rtms) -> Self {
        let Rtms { url, key, settings } = rtms;
        let now = Instant::now();
        let wall = Micros::from_system(SystemTime::now());
        Self {
            settings,
            secure: url.scheme() == "wss",
            session: Session::new(key, url.into(), rand::random(), now),
            voices: Voices::new(now.into_std(), wall),
            signalling: Line::Closed,
            media: Line::Closed,
            steps: Steps::new(VIA, now.into_std()),
        }
    }

    async fn run(&mut self, stay: &mut Stay) -> Result<Ended, ConnectError> {
        loop {
            while let Some(action) = self.session.poll_action() {
                if self.act(action, stay).await? {
                    return Ok(Ended::ByRelay);
                }
            }
            stay.tell_roster().await;
            if !self.hand_on(stay).await {
                return Ok(Ended::Stopped);
            }
            match self.wait(stay).await {
                Woken::Line(which, heard) => self.heard(which, heard)?,
                Woken::Due => self.session.handle_timeout(Instant::now())?,
                Woken::Stop => return Ok(Ended::Stopped),
            }
        }
    }

    /// Hands on what it is time for. False if there is nobody to take it any more.
    async fn hand_on(&mut self, stay: &Stay) -> bool {
        while let Some(packet) = self.voices.poll_packet(Instant::now().into_std()) {
            self.steps.reach("media", Instant::now().into_std());
            // It waits for room: what was kept for us is not to be dropped, and Zoom waits meanwhile.
            let sent = tokio::select! {
                () = stay.stopped() => return false,
                sent = stay.events.send(Event::Packet(packet)) => sent,
            };
            if sent.is_err() {
                return false;
            }
        }
        true
    }

    async fn wait(&mut self, stay: &Stay) -> Woken {
        let due = [self.session.poll_timeout(), self.voices.poll_timeout().map(Instant::from_std)];
        let due = async {
            match due.into_iter().flatten().min() {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let takes_more = !self.voices.is_full();
        tokio::select! {
            () = stay.stopped() => Woken::Stop,
            heard = self.signalling.next() => Woken::Line(Which::Signalling, heard),
            heard = self.media.next(), if takes_more => Woken::Line(Which::Media, heard),
            () = due => Woken::Due,
        }
    }

    fn heard(&mut self, which: Which, heard: Heard) -> Result<(), ConnectError> {
        let now = Instant::now();
        match heard {
            Heard::Opened => self.session.handle_opened(which, now),
            Heard::Message(text) => self.session.handle_message(which, &text, now)?,
            Heard::Nothing => {}
            Heard::Lost(error) => self.session.handle_lost(which, error, now)?,
        }
        Ok(())
    }

    /// Does as the session says; true if it has ended.
    async fn act(&mut self, action: Action, stay: &mut Stay) -> Result<bool, ConnectError> {
        match action {
            Action::Open(which, url) => self.open(which, url).await?,
            Action::Close(which) => self.line(which).close_soon().await,
            Action::Send(which, text) => self.line(which).send(text).await,
            Action::Live(format) => {
                self.steps.reach("room", Instant::now().into_std());
                self.voices.handle_format(format);
                stay.state(EdgeState::Live, None).await;
            }
            Action::Lost(why) => {
                tracing::info!(why, "a connection with Zoom is lost; trying again");
                metrics::counter!("nearfield_edge_connect_reconnects_total").increment(1);
                stay.lost(Instant::now(), why).await;
            }
            Action::Person(Change::Joined { id, name }) => stay.roster.join(id, name, None),
            Action::Person(Change::Left { id }) => stay.roster.leave(&id),
            Action::Audio(audio) => self.voices.handle_audio(audio, Instant::now().into_std()),
            Action::Time(time) => self.voices.handle_time(time, Instant::now().into_std()),
            Action::Ended => return Ok(true),
        }
        Ok(false)
    }

    async fn open(&mut self, which: Which, url: String) -> Result<(), ConnectError> {
        if which == Which::Media {
            self.steps.reach("socket", Instant::now().into_std());
            if self.secure && !url.starts_with("wss://") {
                let why = "our signature would go there in the clear".into();
                return Err(ConnectError::BadMessage { what: "address of a media server", why });
            }
        }
        let opening = Line::open(url, &self.settings.egress);
        let line = self.line(which);
        line.close_soon().await;
        *line = opening;
        Ok(())
    }

    fn line(&mut self, which: Which) -> &mut Line {
        match which {
            Which::Signalling => &mut self.signalling,
            Which::Media => &mut self.media,
        }
    }
}

impl Line {
    async fn close_soon(&mut self) {
        let _ = timeout(CLOSE_DEADLINE, self.close()).await;
        *self = Self::Closed;
    }
}
