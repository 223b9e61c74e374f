//! What Janus says over its WebSocket, as far as we listen.
//!
//! <https://janus.conf.meetecho.com/docs/rest.html> and `/videoroom.html`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest id of a feed that is one, in bytes: a participant's id is no longer.
const MAX_ID: usize = 256;

/// What a room or a feed is called: a number or, where Janus is run with `string_ids`, a text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub(in super::super) enum Id {
    /// As is usual.
    Number(u64),
    /// Of 1 to 256 bytes.
    Text(#[serde(deserialize_with = "short")] String),
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl From<u64> for Id {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

fn short<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.len() {
        1..=MAX_ID => Ok(text),
        length => Err(serde::de::Error::custom(format!("an id of {length} bytes"))),
    }
}

/// One message. Fields absent from a kind of message are `None`; unknown ones are passed over.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Incoming {
    /// The kind: `ack`, `success`, `event`, `error`, `webrtcup`, `hangup`, `timeout`, ...
    pub(super) janus: String,
    /// Ours, if it answers a request.
    pub(super) transaction: Option<String>,
    /// The handle it concerns.
    pub(super) sender: Option<u64>,
    /// The new id, after `create` and `attach`.
    pub(super) data: Option<NewId>,
    /// What Janus's core refuses.
    pub(super) error: Option<Refusal>,
    /// The room's own words.
    pub(super) plugindata: Option<PluginData>,
    /// A description.
    pub(super) jsep: Option<Jsep>,
    /// Late ICE candidate of the relay's.
    pub(super) candidate: Option<Candidate>,
    /// Why a handle was hung up.
    pub(super) reason: Option<String>,
}

impl Incoming {
    /// The error code and words, if it is a refusal: of Janus itself, or of its VideoRoom.
    pub(super) fn refusal(&self) -> Option<(i64, String)> {
        if let Some(error) = &self.error {
            return Some((error.code, error.reason.clone()));
        }
        let data = &self.plugindata.as_ref()?.data;
        Some((data.error_code?, data.error.clone().unwrap_or_default()))
    }
}

/// An id Janus has made.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct NewId {
    /// The id of a session or handle.
    pub(super) id: u64,
}

/// An error of Janus's core.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Refusal {
    pub(super) code: i64,
    pub(super) reason: String,
}

/// An SDP offer or answer.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Jsep {
    /// `offer` or `answer`.
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) sdp: String,
}

/// A trickled candidate, or the note that there are no more.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Candidate {
    pub(super) candidate: Option<String>,
    pub(super) sdp_mid: Option<String>,
    #[serde(rename = "sdpMLineIndex")]
    pub(super) sdp_mline_index: Option<u16>,
}

/// What a plugin says.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct PluginData {
    pub(super) data: Room,
}

/// What the VideoRoom plugin says.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Room {
    /// `joined`, `attached`, `updated`, `updating`, `event`, `destroyed`, ...
    pub(super) videoroom: Option<String>,
    pub(super) error_code: Option<i64>,
    pub(super) error: Option<String>,
    /// In `joined`: what ties our subscription to us, which some rooms ask for (`require_pvtid`).
    pub(super) private_id: Option<u64>,
    /// Who publishes: all of them in `joined`, the new and changed ones in `event`.
    pub(super) publishers: Option<Vec<Publisher>>,
    /// What we receive, by mid, in `attached` and `updated`.
    pub(super) streams: Option<Vec<Subscribed>>,
    /// A feed, or `"ok"` where it is ourselves: so too `leaving` and `kicked`.
    pub(super) unpublished: Option<Id>,
    pub(super) leaving: Option<Id>,
    pub(super) kicked: Option<Id>,
    /// Whose new name `display` is; without one, other things.
    pub(super) id: Option<Id>,
    pub(super) display: Option<String>,
    /// `ok`, once our answer is taken.
    pub(super) started: Option<String>,
}

/// A participant who sends.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Publisher {
    pub(super) id: Id,
    pub(super) display: Option<String>,
    /// Janus' own placeholder to subscribe to, which never sends anything.
    #[serde(default)]
    pub(super) dummy: bool,
    #[serde(default)]
    pub(super) streams: Vec<Published>,
    /// How Janus 0.x says what is published: it has no `streams`.
    pub(super) audio_codec: Option<String>,
}

/// One of a publisher's streams.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Published {
    /// `audio`, `video` or `data`.
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) mid: Option<String>,
    pub(super) codec: Option<String>,
    #[serde(default)]
    pub(super) disabled: bool,
}

/// One of the streams we are subscribed to, or were: then without a feed.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Subscribed {
    /// The section of our own description.
    pub(super) mid: String,
    pub(super) feed_id: Option<Id>,
    pub(super) feed_mid: Option<String>,
    /// Whether the feed is still there.
    #[serde(default = "yes")]
    pub(super) active: bool,
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_roster_is_read_from_what_janus_writes() {
        let text = r#"{"janus":"event","session_id":1,"transaction":"4","sender":2,"plugindata":{"plugin":
            "janus.plugin.videoroom","data":{"videoroom":"joined","room":1234,"description":"x","id":77,"private_id":5,
            "publishers":[{"id":9,"display":"Ada","talking":false,"streams":[{"type":"audio","mindex":0,"mid":"0",
            "codec":"opus","fec":true},{"type":"video","mindex":1,"mid":"1","codec":"vp8"}]}]}}}"#;
        let message: Incoming = serde_json::from_str(text).unwrap();
        let room = message.plugindata.unwrap().data;
        let publishers = room.publishers.unwrap();
        assert_eq!((&publishers[0].id, publishers[0].streams.len()), (&Id::Number(9), 2));
    }

    #[test]
    fn ids_are_numbers_or_texts_of_a_bounded_length() {
        let id = |text: &str| serde_json::from_str::<Id>(text);
        assert_eq!(id("17").unwrap(), Id::Number(17));
        assert_eq!(id("\"17\"").unwrap(), Id::Text("17".into()));
        assert_eq!(serde_json::to_string(&id("\"ada\"").unwrap()).unwrap(), "\"ada\"");
        assert!(id("\"\"").is_err() && id(&format!("{:?}", "x".repeat(MAX_ID + 1))).is_err() && id("-1").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
            let _ = serde_json::from_str::<Incoming>(&text);
        }
    }
}
