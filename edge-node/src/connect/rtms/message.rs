//! What Zoom's servers say and are told: JSON, version 1 of the protocol.
//!
//! <https://developers.zoom.us/docs/rtms/event-reference/>. Messages and events are told apart by number: Zoom's documents
//! disagree on some names. What is unknown is passed over.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::{ConnectError, error::cut},
    key::Key,
};

/// The greatest time that is one, in milliseconds: far beyond any, and whole in a double.
const MAX_TIME: u64 = 1 << 52;

/// The longest id of a user, in digits or letters.
const MAX_USER: usize = 64;

/// What a server says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Said {
    /// On our handshake with the signalling, and where media are then.
    Signalling { status: u64, reason: String, media: Option<String> },
    /// On our handshake with the media server, and what we get.
    Media { status: u64, reason: String, audio: Option<Format> },
    /// Somebody speaks, is there, or is gone.
    Event(Event),
    /// How the stream stands, and why.
    Stream { state: u64, reason: u64 },
    /// It wants to know whether we are there. Milliseconds of Unix time.
    KeepAlive { time: u64 },
    /// Somebody's voice.
    Audio(Audio),
    /// Nothing to us.
    Other,
}

/// What happens in the meeting.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Event {
    /// They are there, or speak.
    Here(Vec<User>),
    /// They are gone.
    Gone {
        users: Vec<User>,
        time: u64,
    },
    /// Zoom has lost the media connection.
    Interrupted,
    Other,
}

/// A participant, as they are called in this meeting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) id: String,
    pub(super) name: Option<String>,
}

/// A piece of somebody's voice.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Audio {
    pub(super) user: User,
    /// When it was made, in milliseconds of Unix time.
    pub(super) time: u64,
    pub(super) data: Bytes,
}

/// How audio comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) struct Format {
    #[serde(default = "one")]
    pub(super) codec: u8,
    /// By its number in Zoom's list.
    #[serde(default = "of_16_khz")]
    pub(super) sample_rate: u8,
    #[serde(default = "one")]
    pub(super) channel: u8,
}

/// Codecs by number.
pub(super) const L16: u8 = 1;
pub(super) const OPUS: u8 = 4;

impl Format {
    /// What Zoom's own client asks for unless told otherwise.
    pub(super) const OPUS: Self = Self { codec: OPUS, sample_rate: 3, channel: 2 };
    /// Zoom's default.
    pub(super) const L16: Self = Self { codec: L16, sample_rate: 1, channel: 1 };

    /// Samples a second.
    pub(super) fn rate(self) -> u32 {
        match self.sample_rate {
            0 => 8000,
            1 => 16_000,
            2 => 32_000,
            _ => 48_000,
        }
    }
}

fn of_16_khz() -> u8 {
    1
}

fn one() -> u8 {
    1
}

/// Each message's fields, of which it has some.
#[derive(Deserialize)]
struct Raw {
    msg_type: u64,
    #[serde(default)]
    status_code: u64,
    #[serde(default)]
    reason: Value,
    #[serde(default)]
    stop_reason: Value,
    #[serde(default)]
    state: u64,
    #[serde(default)]
    timestamp: Number,
    media_server: Option<MediaServer>,
    media_params: Option<MediaParams>,
    event: Option<RawEvent>,
    content: Option<Content>,
}

#[derive(Deserialize)]
struct MediaServer {
    server_urls: Urls,
}

#[derive(Deserialize)]
struct Urls {
    audio: Option<String>,
    all: Option<String>,
}

#[derive(Deserialize)]
struct MediaParams {
    audio: Option<Format>,
}

#[derive(Deserialize)]
struct RawEvent {
    event_type: u64,
    #[serde(default)]
    timestamp: Number,
    #[serde(default)]
    user_id: Number,
    user_name: Option<String>,
    #[serde(default)]
    participants: Vec<RawUser>,
}

#[derive(Deserialize)]
struct RawUser {
    #[serde(default)]
    user_id: Number,
    user_name: Option<String>,
}

#[derive(Deserialize)]
struct Content {
    #[serde(default)]
    user_id: Number,
    user_name: Option<String>,
    #[serde(default)]
    data: String,
    #[serde(default)]
    timestamp: Number,
}

/// A number, which some examples of Zoom's write as a text.
#[derive(Deserialize, Default)]
#[serde(untagged)]
enum Number {
    Whole(u64),
    Text(String),
    #[default]
    None,
}

impl Number {
    fn time(&self) -> u64 {
        let time = match self {
            Self::Whole(number) => Some(*number),
            Self::Text(text) => text.parse().ok(),
            Self::None => None,
        };
        time.filter(|time| *time <= MAX_TIME).unwrap_or_default()
    }

    fn id(self) -> Option<String> {
        match self {
            Self::Whole(number) => Some(number.to_string()),
            Self::Text(text) => Some(text).filter(|text| (1..=MAX_USER).contains(&text.len())),
            Self::None => None,
        }
    }
}

/// Reads one message.
///
/// # Errors
/// It is none.
pub(super) fn read(text: &[u8]) -> Result<Said, ConnectError> {
    // What it says is not repeated: names are in it.
    let bad = |why: &str| ConnectError::BadMessage { what: "RTMS message", why: why.into() };
    let raw: Raw = serde_json::from_slice(text)
        .map_err(|e| bad(&format!("{:?} at line {}, column {}", e.classify(), e.line(), e.column())))?;
    let (status, reason) = (raw.status_code, words(&raw.reason));
    Ok(match raw.msg_type {
        2 => {
            let media = raw.media_server.and_then(|MediaServer { server_urls: Urls { audio, all } }| audio.or(all));
            Said::Signalling { status, reason, media }
        }
        4 => Said::Media { status, reason, audio: raw.media_params.and_then(|params| params.audio) },
        6 => Said::Event(raw.event.map_or(Event::Other, RawEvent::read)),
        8 => Said::Stream { state: raw.state, reason: number(&raw.reason).max(number(&raw.stop_reason)) },
        12 => Said::KeepAlive { time: raw.timestamp.time() },
        14 => {
            let content = raw.content.ok_or_else(|| bad("audio without content"))?;
            let data = BASE64_STANDARD.decode(content.data).map_err(|_| bad("audio that is not in base64"))?;
            let time = content.timestamp.time();
            // Without an id it is everybody's, as it is with 0.
            let id = content.user_id.id().unwrap_or_else(|| "0".into());
            Said::Audio(Audio { user: User { id, name: content.user_name }, time, data: data.into() })
        }
        _ => Said::Other,
    })
}

impl RawEvent {
    fn read(self) -> Event {
        let user = |id: Number, name| id.id().map(|id| User { id, name });
        let time = self.timestamp.time();
        let users = self.participants.into_iter().filter_map(|RawUser { user_id, user_name }| user(user_id, user_name));
        match self.event_type {
            2 => Event::Here(user(self.user_id, self.user_name).into_iter().collect()),
            3 => Event::Here(users.collect()),
            4 => Event::Gone { users: users.collect(), time },
            7 => Event::Interrupted,
            _ => Event::Other,
        }
    }
}

fn words(reason: &Value) -> String {
    reason.as_str().map(|text| cut(text, 200)).unwrap_or_default()
}

fn number(reason: &Value) -> u64 {
    reason.as_u64().unwrap_or_default()
}

/// Our first word on the signalling. What was said before we came is wanted, up to a minute of it.
pub(super) fn signalling_handshake(key: &Key, sequence: u32) -> String {
    let mut message = handshake(1, key, sequence);
    message["buffer_data"] = true.into();
    message.to_string()
}

/// Our first word to the media server: each participant's voice by itself, in packets of 20 ms.
pub(super) fn media_handshake(key: &Key, sequence: u32, format: Format) -> String {
    let Format { codec, sample_rate, channel } = format;
    let mut message = handshake(3, key, sequence);
    message["media_type"] = 1.into();
    message["payload_encryption"] = false.into();
    message["media_params"] = json!({"audio": {
        "content_type": 2, "sample_rate": sample_rate, "channel": channel, "codec": codec, "data_opt": 2, "send_rate": 20,
    }});
    message.to_string()
}

fn handshake(kind: u8, key: &Key, sequence: u32) -> Value {
    json!({
        "msg_type": kind,
        "protocol_version": 1,
        "sequence": sequence,
        "meeting_uuid": key.meeting_uuid,
        "rtms_stream_id": key.stream_id,
        "signature": key.signature(),
    })
}

/// Who speaks, comes and goes is to be told. That media are interrupted is told anyhow, and may not be asked for.
pub(super) fn subscription() -> String {
    let events = [2, 3, 4].map(|event| json!({"event_type": event, "subscribe": true}));
    json!({"msg_type": 5, "events": events}).to_string()
}

/// For the signalling, when the media server has agreed.
pub(super) fn ready(key: &Key) -> String {
    json!({"msg_type": 7, "rtms_stream_id": key.stream_id}).to_string()
}

/// We are there.
pub(super) fn alive(time: u64) -> String {
    json!({"msg_type": 13, "timestamp": time}).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn user(id: &str, name: Option<&str>) -> User {
        User { id: id.into(), name: name.map(Into::into) }
    }

    fn said(message: Value) -> Said {
        read(message.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_user_s_number_may_be_a_text_and_their_name_may_be_missing() {
        for id in [json!(16_778_240), json!("16778240")] {
            let participants = json!([{"user_id": id, "user_name": "Ada"}, {"user_id": 7}, {"user_id": ""}, {}]);
            let event = json!({"event_type": 3, "timestamp": 5, "participants": participants});
            let here = vec![user("16778240", Some("Ada")), user("7", None)];
            assert_eq!(said(json!({"msg_type": 6, "event": event})), Said::Event(Event::Here(here)));
        }
        let content = json!({"data": "AAE=", "timestamp": 1_738_392_033_699u64, "user_id": 0});
        let Said::Audio(audio) = said(json!({"msg_type": 14, "content": content})) else { panic!() };
        assert_eq!((audio.user, audio.time, &audio.data[..]), (user("0", None), 1_738_392_033_699, &[0, 1][..]));
    }

    #[test]
    fn audio_is_taken_from_its_own_server_and_else_from_that_of_all() {
        for (urls, media) in [
            (json!({"audio": "wss://a", "all": "wss://b"}), Some("wss://a")),
            (json!({"video": "wss://c", "all": "wss://b"}), Some("wss://b")),
            (json!({"video": "wss://c"}), None),
        ] {
            let message = json!({"msg_type": 2, "status_code": 0, "reason": "", "media_server": {"server_urls": urls}});
            let media = media.map(Into::into);
            assert_eq!(said(message), Said::Signalling { status: 0, reason: String::new(), media });
        }
    }

    #[test]
    fn why_a_stream_ends_has_either_of_two_names() {
        for name in ["reason", "stop_reason"] {
            assert_eq!(said(json!({"msg_type": 8, "state": 4, name: 6})), Said::Stream { state: 4, reason: 6 });
        }
    }

    #[test]
    fn what_is_no_message_is_refused_and_none_of_it_repeated() {
        let deep = format!("{{\"msg_type\":6,\"event\":{}", "[".repeat(100_000));
        let secret = br#"{"msg_type": 14, "content": {"data": "hush", "user_name": 5}}"#;
        for bad in [&b""[..], b"{}", b"[1]", b"{\"msg_type\":-1}", deep.as_bytes(), secret] {
            let error = read(bad).unwrap_err();
            assert!(matches!(error, ConnectError::BadMessage { .. }) && !error.to_string().contains("hush"), "{error}");
        }
        assert_eq!(said(json!({"msg_type": 4000})), Said::Other);
        assert_eq!(said(json!({"msg_type": 12, "timestamp": u64::MAX})), Said::KeepAlive { time: 0 });
    }
}
