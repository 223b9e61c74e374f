//! Ways into a meeting: each yields who is there and the packets they send.
//!
//! A [`Connector`] owns its signalling and its media connection. Each kind of relay has a file, and a folder of that name:
//! `whep`, `janus`, `livekit`, `rtms`. What they share:
//!
//! - `stay`: come back when the relay is lost; `retries` says how often
//! - `peer`: the media connection, described by `sdp`
//! - `roster`: who is there; `error`: what went wrong, by `fault` where a library met it
//! - `ice_server`, `tls`, `url`, `websocket`: how a relay is reached; `steps`: how long it took
//! - [`inbox`]: what the meeting hears

pub(crate) mod fuzzing {
    //! Bodies of fuzz targets for what is private here.
    pub(crate) use super::{
        janus::fuzzing::messages,
        livekit::fuzzing::{messages as livekit, session as livekit_session},
        peer::fuzzing::{offer, rtp},
        rtms::fuzzing::{messages as rtms, session as rtms_session},
        whep::fuzzing::answer,
    };
}
mod error;
mod fault;
mod flood;
#[cfg(test)]
#[path = "../tests/rigs/hostile.rs"]
#[allow(clippy::unwrap_used)]
mod hostile;
mod ice_server;
pub mod inbox;
mod janus;
mod livekit;
mod peer;
mod retries;
mod roster;
mod rtms;
mod sdp;
mod stay;
mod steps;
mod tls;
mod url;
mod websocket;
mod whep;

use std::{net::IpAddr, time::Duration};

use async_trait::async_trait;
use mesh::wire::{
    control::{EdgeState, EdgeTotals},
    request::Source,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use self::{
    error::{ConnectError, Failure, Meaning},
    ice_server::{BadServer, IceServer, MAX_SERVERS},
    peer::Sockets,
    retries::{GIVE_UP, MAX_TRIES},
};
pub use crate::media::{AudioLevel, BadParticipantId, ParticipantId, RtpPacket};
use crate::{egress::Policy, spurt::Output};

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
        Source::ZoomRtms { url, meeting_uuid, stream_id, client_id, client_secret } => {
            let key = client_secret.clone().map(|client_secret| rtms::Key {
                meeting_uuid: meeting_uuid.clone(),
                stream_id: stream_id.clone(),
                client_id: client_id.clone(),
                client_secret,
            });
            Box::new(rtms::Rtms::new(url, key, settings.clone())?)
        }
        Source::LiveKit { url, access } => Box::new(livekit::LiveKit::new(url, access.clone(), settings.clone())?),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_source_without_a_usable_url_is_refused_by_name() {
        let settings = Settings::on_loopback();
        for url in ["", "meet", "ftp://a/b", "http:///"] {
            let source = Source::Whep { url: url.into(), token: None, participants: vec![] };
            let error = connector(&source, &settings).err().unwrap();
            assert!(matches!(error, ConnectError::Source { .. }), "{url}: {error}");
        }
    }
}
