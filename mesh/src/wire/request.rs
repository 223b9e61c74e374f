//! One question, one answer, each on its own stream.

use std::fmt;

use geo::RegionId;
use serde::{Deserialize, Serialize};

use super::{
    Epoch, MeetingId, Term,
    keys::{Found, Keys},
};
use crate::{
    identity::NodeId,
    mandate::{EdgeKey, Proof},
    trace::TraceContext,
};

/// What one node asks another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// To an edge: how far is this relay from you?
    Probe {
        /// `host:port` of the relay's signalling, to be timed by TCP connect; or of its STUN.
        relay: String,
        /// Whether the port speaks STUN (RFC 8489) over UDP.
        stun: bool,
    },
    /// To an edge: join this meeting and send its speech to `core`.
    Assign(Assignment),
    /// To an edge: leave this meeting.
    Release {
        /// Which.
        meeting: MeetingId,
        /// The edge's key: only a core of the meeting has it.
        key: EdgeKey,
    },
    /// To an edge that speaks version 2: as `Assign`, with what it needs to keep the meeting through a core's death.
    Join(Join),
    /// From an edge that cannot reach `core`, to any other node, which passes it on once, and to `core` itself:
    /// the leases of these meetings are to be renewed.
    Renew {
        /// The core that serves them.
        core: NodeId,
        /// The edge that owns them: each proof is by its key for that meeting.
        edge: NodeId,
        /// When it was sent, in milliseconds of the edge's own monotonic clock.
        sent_ms: u64,
        /// The leases; at most [`MAX_RENEWED`].
        leases: Vec<LeaseProof>,
    },
    /// From the core that serves a meeting to its standby.
    Replicate(Replica),
    /// To a core: who serves this meeting, as far as you know?
    Serving {
        /// The meeting.
        meeting: MeetingId,
    },
    /// To a core: has a meeting been made under these keys, or is one?
    Keys(Keys),
    /// From a core that served a meeting to its end: nothing is to be kept of it.
    Remove {
        /// The meeting.
        meeting: MeetingId,
        /// The last turn in which it was served, as far as the sender knows.
        term: Term,
        /// By the meeting's key, that the sender was given it.
        proof: Proof,
    },
    /// To an edge that is to take a meeting whose lease has lapsed: are you there, and do you capture it still?
    Captures {
        /// The meeting.
        meeting: MeetingId,
        /// The edge's key: what an edge captures is told to a core of the meeting only.
        key: EdgeKey,
    },
}

/// The most meetings one [`Request::Renew`] names.
pub const MAX_RENEWED: usize = 1024;

/// The most bytes of entries one [`Replica`] carries.
pub const MAX_REPLICA: usize = 48 * 1024;

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Response {
    /// Round trip by the probes that were answered, in microseconds.
    Probed {
        /// The shortest; of version 1 the median.
        rtt_us: u64,
        /// How many of the probes were answered.
        answered: u8,
    },
    /// The edge has taken the assignment and is joining.
    Accepted,
    /// The edge had left already, or is leaving now.
    Released,
    /// It cannot, and why; never a secret.
    Refused {
        /// In words, for the API's problem answer.
        reason: String,
    },
    /// Answer to `Renew`.
    Renewed {
        /// The leases run for so long from when the request was *sent*.
        lease_ms: u32,
        /// What became of each lease of which the core knows the meeting.
        leases: Vec<LeaseAnswer>,
    },
    /// Answer to `Replicate`: everything before entry `next` is stored.
    Replicated {
        /// The next entry wanted; smaller than what was sent if something is missing.
        next: u64,
    },
    /// Answer to `Replicate` and `Serving`: `core` serves the meeting, in `term`.
    Serving {
        /// Who.
        core: NodeId,
        /// In which turn.
        term: Term,
        /// By the meeting's key, or to an edge by its own, that whoever answers has a part in the meeting.
        proof: Proof,
    },
    /// Answer to `Serving` and `Remove`: the meeting is not known here, or no more.
    Unknown,
    /// Answer to `Keys`, in their order.
    Keys(Vec<Found>),
    /// Answer to `Captures`: under which epoch; `None` if it does not.
    Captures(Option<Epoch>),
}

/// An assignment with what version 2 adds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Join {
    /// What to join, and under which epoch.
    pub assignment: Assignment,
    /// The turn in which `assignment.core` serves it.
    pub term: Term,
    /// The core that would serve it next.
    pub standby: Option<NodeId>,
    /// The lease granted, counted from when the core sent this.
    pub lease_ms: u32,
    /// The edge's key for this meeting.
    pub key: EdgeKey,
    /// The regions that may touch it; all if there are none.
    pub regions: Vec<RegionId>,
}

/// One lease that is to be renewed by way of other nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseProof {
    /// The meeting.
    pub meeting: MeetingId,
    /// The epoch of the lease.
    pub epoch: Epoch,
    /// By the edge's key.
    pub proof: Proof,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseAnswer {
    /// The meeting.
    pub meeting: MeetingId,
    /// Whether it is renewed; else the edge does not own it any more.
    pub kept: bool,
    /// By the edge's key.
    pub proof: Proof,
}

/// Part of what a standby must hold to take a meeting over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Replica {
    /// The meeting.
    pub meeting: MeetingId,
    /// The turn in which the sender serves it.
    pub term: Term,
    /// Which stream of entries they are of: rises from one to the next that this core sends of the meeting.
    pub stream: u64,
    /// The number of the first entry, counted from 0 within the stream.
    pub first: u64,
    /// Entries in the core's own stored form; together at most [`MAX_REPLICA`] bytes.
    pub entries: Vec<Vec<u8>>,
    /// Of a word: how its sender has gone on with the meeting after a start. `None` where its turn has just begun.
    pub resumed: Option<Resumed>,
    /// By the meeting's key, that the sender was given it. A core that does not know the meeting looks for the key in the record.
    pub proof: Proof,
}

/// How far a core's copy of a meeting goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Whether the meeting is over.
    pub ended: bool,
    /// Number of its newest final; 0 if there is none.
    pub newest: u64,
}

/// A core that has started goes on with what its store says, which may be an older copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumed {
    /// How far that copy goes.
    pub held: Held,
    /// Streams that it has sent since its start have this number, or a greater one.
    pub since: u64,
}

impl Replica {
    /// Only that the sender serves the meeting in `term`, or did to its end: nothing of it.
    pub fn word(meeting: MeetingId, term: Term, resumed: Option<Resumed>, proof: Proof) -> Self {
        Self { meeting, term, stream: 0, first: 0, entries: vec![], resumed, proof }
    }

    /// Whether it is one.
    pub fn is_word(&self) -> bool {
        self.stream == 0 && self.entries.is_empty()
    }
}

/// Everything an edge needs to serve a meeting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// The meeting.
    pub meeting: MeetingId,
    /// The epoch under which the edge owns it.
    pub epoch: Epoch,
    /// The core its speech goes to.
    pub core: NodeId,
    /// The way in.
    pub source: Source,
    /// How speech is told from silence.
    pub vad: VadSettings,
    /// The request that created it.
    pub trace: TraceContext,
}

/// A way into a meeting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Source {
    /// WHEP (draft-ietf-wish-whep): one HTTP endpoint, one or many audio streams.
    Whep {
        /// The endpoint, `http://` or `https://`.
        url: String,
        /// Bearer token.
        token: Option<Secret>,
        /// Display names by the stream id in `a=msid`; a stream not listed has no name.
        participants: Vec<(String, String)>,
    },
    /// Janus VideoRoom over its WebSocket API.
    Janus {
        /// `ws://` or `wss://`.
        url: String,
        /// Room number.
        room: u64,
        /// The room's PIN.
        pin: Option<Secret>,
        /// A signed token of Janus's own.
        token: Option<Secret>,
        /// Janus's API secret.
        api_secret: Option<Secret>,
        /// The name to join under.
        display: String,
    },
    /// The same where Janus is run with `string_ids`: rooms and feeds are called by texts.
    JanusNamed {
        /// `ws://` or `wss://`.
        url: String,
        /// The room's name, 1 to 256 bytes.
        room: String,
        /// The room's PIN.
        pin: Option<Secret>,
        /// A signed token of Janus's own.
        token: Option<Secret>,
        /// Janus's API secret.
        api_secret: Option<Secret>,
        /// The name to join under.
        display: String,
    },
    /// A LiveKit room over LiveKit's client protocol.
    LiveKit {
        /// `ws://` or `wss://`.
        url: String,
        /// How to get in; `None` once the meeting is over.
        access: Option<LiveKitAccess>,
    },
    /// A stream of Zoom's Realtime Media Streams, version 1.
    ZoomRtms {
        /// Of the signalling: `wss://`, or `ws://` where the edge's operator allows it.
        url: String,
        /// Zoom's id of the meeting's instance.
        meeting_uuid: String,
        /// The stream's.
        stream_id: String,
        /// The app's.
        client_id: String,
        /// The app's secret; `None` once the meeting is over.
        client_secret: Option<Secret>,
    },
}

/// How to get into a LiveKit room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LiveKitAccess {
    /// A token for one room, and one name in it.
    Token(Secret),
    /// What a token is made of each time the room is joined.
    Key {
        /// Which of the server's API keys.
        key: Secret,
        /// Its secret.
        secret: Secret,
        /// The room's name.
        room: String,
    },
}

impl Source {
    /// What kind it is, as the API has it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Whep { .. } => "whep",
            Self::Janus { .. } | Self::JanusNamed { .. } => "janus",
            Self::LiveKit { .. } => "livekit",
            Self::ZoomRtms { .. } => "zoom_rtms",
        }
    }

    /// Where its relay is.
    pub fn url(&self) -> &str {
        match self {
            Self::Whep { url, .. }
            | Self::Janus { url, .. }
            | Self::JanusNamed { url, .. }
            | Self::LiveKit { url, .. }
            | Self::ZoomRtms { url, .. } => url,
        }
    }

    /// Forgets whatever lets somebody in: tokens, PINs, and all of the URL but where the relay is. For a meeting that is over.
    pub fn erase_secrets(&mut self) {
        let (url, secrets) = match self {
            Self::Whep { url, token, .. } => (url, [Some(token), None, None]),
            Self::Janus { url, pin, token, api_secret, .. } | Self::JanusNamed { url, pin, token, api_secret, .. } => {
                (url, [Some(pin), Some(token), Some(api_secret)])
            }
            Self::LiveKit { url, access } => {
                *access = None;
                (url, [None, None, None])
            }
            Self::ZoomRtms { url, client_secret, .. } => (url, [Some(client_secret), None, None]),
        };
        secrets.into_iter().flatten().for_each(|secret| *secret = None);
        *url = origin(url);
    }
}

/// The scheme and host of a URL (RFC 3986 section 3): no user, path, query or fragment.
fn origin(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return String::new() };
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}/")
}

/// The VAD's timing, in milliseconds. What the API accepts is checked there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VadSettings {
    /// Audio kept from before the onset.
    pub preroll_ms: u16,
    /// Quiet that ends a talk spurt.
    pub hangover_ms: u16,
}

impl Default for VadSettings {
    fn default() -> Self {
        Self { preroll_ms: 400, hangover_ms: 600 }
    }
}

/// A text that never reaches a log: `Debug` hides it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn nothing_that_lets_somebody_in_outlasts_a_meeting() {
        let secret = || Some(Secret("hush".into()));
        let mut whep = Source::Whep {
            url: "https://hush:hush@relay.example:8443/room/hush?token=hush#hush".into(),
            token: secret(),
            participants: vec![("stream".into(), "Alice".into())],
        };
        let mut janus = Source::Janus {
            url: "wss://relay.example/janus?key=hush".into(),
            room: 1,
            pin: secret(),
            token: secret(),
            api_secret: secret(),
            display: "n".into(),
        };
        let mut odd = Source::Whep { url: "hush".into(), token: secret(), participants: vec![] };
        let url = "wss://hush@relay.example?hush";
        let livekit = |access| Source::LiveKit { url: url.into(), access: Some(access) };
        let hush = || Secret("hush".into());
        let mut given = livekit(LiveKitAccess::Token(hush()));
        let mut minted = livekit(LiveKitAccess::Key { key: hush(), secret: hush(), room: "hush".into() });
        let mut zoom = Source::ZoomRtms {
            url: url.into(),
            meeting_uuid: "m".into(),
            stream_id: "s".into(),
            client_id: "c".into(),
            client_secret: secret(),
        };
        for source in [&mut whep, &mut janus, &mut odd, &mut given, &mut minted, &mut zoom] {
            source.erase_secrets();
            let mut kept = vec![];
            crate::codec::encode_body(&*source, &mut kept).unwrap();
            assert!(!kept.windows(4).any(|bytes| bytes == b"hush"), "{}", source.url());
        }
        assert_eq!((whep.url(), janus.url()), ("https://relay.example:8443/", "wss://relay.example/"));
    }
}
