//! What LiveKit's client and server say to each other, as far as we speak and listen: the fields that are used, under the
//! numbers of `livekit_rtc.proto` and `livekit_models.proto` (<https://github.com/livekit/protocol>, Apache-2.0). What is not
//! named here is passed over in reading.

use std::collections::BTreeMap;

use bytes::Buf;
use prost::{
    DecodeError, Message as _,
    encoding::{self, DecodeContext, WireType},
};
use serde::Deserialize;
use serde_json::json;

/// Fields of a message, of what is in it, and of what is in that: a room of five thousand has half of it. An empty participant
/// is of two bytes as it is sent, and of a hundred as it is kept.
const MAX_FIELDS: usize = 200_000;

/// Reads what the server says.
///
/// # Errors
/// It is not what LiveKit writes, or has more than [`MAX_FIELDS`].
pub(super) fn read(bytes: &[u8]) -> Result<SignalResponse, &'static str> {
    const LEVELS: usize = 3;
    if count_fields(bytes, LEVELS, MAX_FIELDS) > MAX_FIELDS {
        return Err("it has too many fields");
    }
    SignalResponse::decode(bytes).map_err(|_| "it is not what LiveKit writes")
}

/// The fields of a message and, so many levels deep, of what may be one in it; more than `enough` are not counted on.
fn count_fields(mut bytes: &[u8], levels: usize, enough: usize) -> usize {
    let mut count = 0;
    while bytes.has_remaining() && count <= enough {
        // A text is looked at like a message, until it is seen to be none.
        let Ok(within) = next_field(&mut bytes) else { break };
        count += 1;
        if levels > 1 {
            count += count_fields(within, levels - 1, enough - count.min(enough));
        }
    }
    count
}

/// Goes past one field; what is in it, where it may be a message.
fn next_field<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], DecodeError> {
    let (tag, wire) = encoding::decode_key(bytes)?;
    if wire != WireType::LengthDelimited {
        encoding::skip_field(wire, tag, bytes, DecodeContext::default())?;
        return Ok(&[]);
    }
    let whole = *bytes;
    encoding::skip_field(wire, tag, bytes, DecodeContext::default())?;
    let mut within = &whole[..whole.len() - bytes.len()];
    encoding::decode_varint(&mut within)?;
    Ok(within)
}

/// What we ask.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SignalRequest {
    #[prost(oneof = "Ask", tags = "1, 2, 3, 6, 8, 12, 16")]
    pub(super) message: Option<Ask>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Ask {
    #[prost(message, tag = "1")]
    Offer(Description),
    #[prost(message, tag = "2")]
    Answer(Description),
    #[prost(message, tag = "3")]
    Trickle(Trickle),
    #[prost(message, tag = "6")]
    Subscription(Subscription),
    #[prost(message, tag = "8")]
    Leave(Leave),
    #[prost(message, tag = "12")]
    Sync(Sync),
    #[prost(message, tag = "16")]
    Ping(Ping),
}

/// What the server says.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SignalResponse {
    #[prost(oneof = "Said", tags = "1, 2, 3, 4, 5, 8, 16, 19, 20, 21, 24, 25")]
    pub(super) message: Option<Said>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Said {
    #[prost(message, tag = "1")]
    Join(Join),
    #[prost(message, tag = "2")]
    Answer(Description),
    #[prost(message, tag = "3")]
    Offer(Description),
    #[prost(message, tag = "4")]
    Trickle(Trickle),
    #[prost(message, tag = "5")]
    Update(Update),
    #[prost(message, tag = "8")]
    Leave(Leave),
    /// A token to come back with.
    #[prost(string, tag = "16")]
    Token(String),
    #[prost(message, tag = "19")]
    Reconnect(Reconnect),
    #[prost(message, tag = "20")]
    Pong(Pong),
    #[prost(message, tag = "21")]
    Unsubscribed(Unsubscribed),
    #[prost(message, tag = "24")]
    Moved(Moved),
    #[prost(message, tag = "25")]
    Sections(Sections),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Description {
    /// `offer` or `answer`.
    #[prost(string, tag = "1")]
    pub(super) kind: String,
    #[prost(string, tag = "2")]
    pub(super) sdp: String,
    /// Of an answer, that of the offer; 0 where none are counted.
    #[prost(uint32, tag = "3")]
    pub(super) id: u32,
    #[prost(btree_map = "string, string", tag = "4")]
    pub(super) tracks_by_mid: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Trickle {
    /// As JSON: `RTCIceCandidateInit`.
    #[prost(string, tag = "1")]
    pub(super) candidate: String,
    #[prost(enumeration = "Target", tag = "2")]
    pub(super) target: i32,
}

/// A candidate as browsers write it.
#[derive(Deserialize)]
struct CandidateInit {
    candidate: String,
}

impl Trickle {
    /// A candidate as in `a=candidate`. All are on the first section's transport (RFC 8843).
    pub(super) fn new(candidate: &str, target: Target) -> Self {
        let init = json!({ "candidate": format!("candidate:{candidate}"), "sdpMid": "0", "sdpMLineIndex": 0 });
        Self { candidate: init.to_string(), target: target as i32 }
    }

    /// The candidate, if it is one.
    pub(super) fn read(&self) -> Option<String> {
        serde_json::from_str(&self.candidate).map(|init: CandidateInit| init.candidate).ok()
    }
}

/// Which connection: where there is one only, it is the publisher's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
pub(super) enum Target {
    Publisher = 0,
    Subscriber = 1,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Subscription {
    #[prost(string, repeated, tag = "1")]
    pub(super) tracks: Vec<String>,
    #[prost(bool, tag = "2")]
    pub(super) subscribe: bool,
}

/// `SubscriptionResponse`: a track is not sent to us. Its field 2 says why: 1, the codec; 2, there is no such track; 0, another
/// cause.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Unsubscribed {
    #[prost(string, tag = "1")]
    pub(super) track: String,
}

/// What we know of the session, for a server that is to go on with it.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Sync {
    #[prost(message, optional, tag = "1")]
    pub(super) answer: Option<Description>,
    #[prost(message, optional, tag = "2")]
    pub(super) subscription: Option<Subscription>,
    #[prost(message, optional, tag = "5")]
    pub(super) offer: Option<Description>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Ping {
    /// In milliseconds, of the sender's clock.
    #[prost(int64, tag = "1")]
    pub(super) timestamp: i64,
    /// In milliseconds.
    #[prost(int64, tag = "2")]
    pub(super) rtt: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Pong {
    #[prost(int64, tag = "1")]
    pub(super) last_ping: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Join {
    #[prost(message, optional, tag = "2")]
    pub(super) us: Option<Participant>,
    #[prost(message, repeated, tag = "3")]
    pub(super) others: Vec<Participant>,
    #[prost(message, repeated, tag = "5")]
    pub(super) ice_servers: Vec<IceServer>,
    /// Where to join instead; the rest means nothing then.
    #[prost(string, tag = "7")]
    pub(super) alternative_url: String,
    /// In seconds; 0: no pings.
    #[prost(int32, tag = "10")]
    pub(super) ping_timeout: i32,
    #[prost(int32, tag = "11")]
    pub(super) ping_interval: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Reconnect {
    #[prost(message, repeated, tag = "1")]
    pub(super) ice_servers: Vec<IceServer>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Moved {
    #[prost(message, optional, tag = "1")]
    pub(super) room: Option<RoomInfo>,
    #[prost(string, tag = "2")]
    pub(super) token: String,
    #[prost(message, optional, tag = "3")]
    pub(super) us: Option<Participant>,
    #[prost(message, repeated, tag = "4")]
    pub(super) others: Vec<Participant>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RoomInfo {
    #[prost(string, tag = "2")]
    pub(super) name: String,
}

/// So many more sections are wanted in our next offer.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Sections {
    #[prost(uint32, tag = "1")]
    pub(super) audios: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Update {
    #[prost(message, repeated, tag = "1")]
    pub(super) participants: Vec<Participant>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct IceServer {
    #[prost(string, repeated, tag = "1")]
    pub(super) urls: Vec<String>,
    #[prost(string, tag = "2")]
    pub(super) username: String,
    #[prost(string, tag = "3")]
    pub(super) credential: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Leave {
    /// What servers before protocol 13 say instead of an action.
    #[prost(bool, tag = "1")]
    pub(super) can_reconnect: bool,
    #[prost(enumeration = "Reason", tag = "2")]
    pub(super) reason: i32,
    #[prost(enumeration = "Action", tag = "3")]
    pub(super) action: i32,
}

/// What a client is to do on a [`Leave`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
pub(super) enum Action {
    Disconnect = 0,
    Resume = 1,
    Reconnect = 2,
}

/// Why somebody is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
pub(super) enum Reason {
    Unknown = 0,
    ClientInitiated = 1,
    DuplicateIdentity = 2,
    ServerShutdown = 3,
    ParticipantRemoved = 4,
    RoomDeleted = 5,
    StateMismatch = 6,
    JoinFailure = 7,
    Migration = 8,
    SignalClose = 9,
    RoomClosed = 10,
    UserUnavailable = 11,
    UserRejected = 12,
    SipTrunkFailure = 13,
    ConnectionTimeout = 14,
    MediaFailure = 15,
    AgentError = 16,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Participant {
    /// Of this stay.
    #[prost(string, tag = "1")]
    pub(super) sid: String,
    /// Of whoever made the token: one at a time in a room has it.
    #[prost(string, tag = "2")]
    pub(super) identity: String,
    #[prost(enumeration = "State", tag = "3")]
    pub(super) state: i32,
    #[prost(message, repeated, tag = "4")]
    pub(super) tracks: Vec<Track>,
    #[prost(string, tag = "9")]
    pub(super) name: String,
    /// Rises with each change.
    #[prost(uint32, tag = "10")]
    pub(super) version: u32,
    #[prost(message, optional, tag = "11")]
    pub(super) permission: Option<Permission>,
    #[prost(enumeration = "Kind", tag = "14")]
    pub(super) kind: i32,
}

impl Participant {
    /// Whether the server says that they may not listen.
    pub(super) fn is_deaf(&self) -> bool {
        self.permission.as_ref().is_some_and(|permission| !permission.can_subscribe)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
pub(super) enum State {
    Joining = 0,
    Joined = 1,
    Active = 2,
    Disconnected = 3,
}

/// What a participant is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
pub(super) enum Kind {
    Standard = 0,
    Ingress = 1,
    /// Only listens: a recording, or a stream out of the room.
    Egress = 2,
    /// A telephone.
    Sip = 3,
    Agent = 4,
    Connector = 7,
    Bridge = 8,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Permission {
    #[prost(bool, tag = "1")]
    pub(super) can_subscribe: bool,
    #[prost(bool, tag = "2")]
    pub(super) can_publish: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Track {
    #[prost(string, tag = "1")]
    pub(super) sid: String,
    #[prost(enumeration = "Medium", tag = "2")]
    pub(super) medium: i32,
    #[prost(string, tag = "11")]
    pub(super) mime_type: String,
    /// 0: the server can hear it, and we.
    #[prost(int32, tag = "16")]
    pub(super) encryption: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
pub(super) enum Medium {
    Audio = 0,
    Video = 1,
    Data = 2,
}

/// The query of `/rtc/v1`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WrappedJoinRequest {
    /// A [`JoinRequest`], not compressed: field 1 says how it is.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) join_request: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct JoinRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) client: Option<Client>,
    #[prost(message, optional, tag = "2")]
    pub(super) settings: Option<ConnectionSettings>,
    #[prost(bool, tag = "7")]
    pub(super) reconnect: bool,
    #[prost(string, tag = "9")]
    pub(super) sid: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Client {
    #[prost(enumeration = "Sdk", tag = "1")]
    pub(super) sdk: i32,
    #[prost(string, tag = "2")]
    pub(super) version: String,
    #[prost(int32, tag = "3")]
    pub(super) protocol: i32,
}

/// What kind of client we say we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
pub(super) enum Sdk {
    Unknown = 0,
    Go = 5,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ConnectionSettings {
    #[prost(bool, tag = "1")]
    pub(super) auto_subscribe: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(participants: Vec<Participant>) -> Vec<u8> {
        SignalResponse { message: Some(Said::Update(Update { participants })) }.encode_to_vec()
    }

    fn person(n: usize, tracks: usize) -> Participant {
        let track = |n| Track { sid: format!("TR_{n}"), mime_type: "audio/opus".into(), ..Track::default() };
        let (sid, identity, name) = (format!("PA_{n}"), format!("person-{n}"), "Ada Lovelace".into());
        Participant {
            sid,
            identity,
            name,
            version: 7,
            tracks: (0..tracks).map(track).collect(),
            ..Participant::default()
        }
    }

    #[test]
    fn a_large_room_is_read() {
        let all: Vec<Participant> = (0..5000).map(|n| person(n, 3)).collect();
        let read = read(&update(all.clone())).map(|response| response.message);
        assert_eq!(read, Ok(Some(Said::Update(Update { participants: all }))));
    }

    #[test]
    fn what_would_be_large_only_as_it_is_kept_is_not_read() {
        let empty = update(vec![Participant::default(); MAX_FIELDS + 1]);
        assert!(empty.len() < 3 * MAX_FIELDS, "{}", empty.len());
        assert_eq!(read(&empty), Err("it has too many fields"));
        let tracks = vec![Track::default(); MAX_FIELDS + 1];
        assert_eq!(read(&update(vec![Participant { tracks, ..person(1, 0) }])), Err("it has too many fields"));
        let urls = vec![String::new(); MAX_FIELDS + 1];
        let ice_servers = vec![IceServer { urls, ..IceServer::default() }];
        let back = SignalResponse { message: Some(Said::Reconnect(Reconnect { ice_servers })) }.encode_to_vec();
        assert_eq!(read(&back), Err("it has too many fields"));
        assert_eq!(read(b"\x0b\xff\xff"), Err("it is not what LiveKit writes"));
    }
}
