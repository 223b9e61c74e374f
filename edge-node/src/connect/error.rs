//! Why a meeting could not be joined, or not kept.

use std::time::Duration;

use mesh::wire::cause::Cause;
use serde::{Deserialize, Serialize};

use crate::egress::{Denied, NoAddress};

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
    /// The relay said no in signalling of its own.
    #[error("{}{relay} refused {request} with error {code}: {reason}", meaning.words)]
    Signalling {
        /// The kind of relay.
        relay: &'static str,
        /// What was asked of it.
        request: &'static str,
        /// Its error code.
        code: i64,
        /// What that code means.
        meaning: Meaning,
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

/// What an error code of a relay's signalling comes to, for whoever asked for the meeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meaning {
    /// In words, with `": "` at their end; empty where the relay's own say enough.
    pub words: &'static str,
    /// As a word for programs.
    pub cause: Cause,
    /// Whether the same thing tried again may work.
    pub is_transient: bool,
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
            Self::Signalling { meaning, .. } => meaning.cause,
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
    pub(super) fn is_no(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::Closed => true,
            Self::Lost { last, .. } => last.is_no(),
            _ => false,
        }
    }

    /// Whether the same thing tried again may work.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Closed
            | Self::Timeout { .. }
            | Self::MediaUnreachable { .. }
            | Self::MediaLost(_) => true,
            Self::Refused { status, .. } => matches!(status, 408 | 425 | 429 | 500 | 502..=504),
            Self::Signalling { meaning, .. } => meaning.is_transient,
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

/// At most `limit` characters of a relay's own words, on one line.
pub(super) fn cut(text: &str, limit: usize) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(limit).collect()
}
