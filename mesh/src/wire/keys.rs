//! Keys under which a meeting is made at most once: what cores ask each other before they make one.

use std::fmt;

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::MeetingId;
use crate::identity::NodeId;

/// The most keys of one [`Keys`].
pub const MAX_KEYS: usize = 4;

/// A key's SHA-256: whoever is asked about a key learns it only if they know it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyDigest(pub [u8; 32]);

impl KeyDigest {
    /// Of an `Idempotency-Key`.
    pub fn of_request(key: &str) -> Self {
        Self::of("request", key)
    }

    /// Of a deduplication key.
    pub fn of_meeting(key: &str) -> Self {
        Self::of("meeting", key)
    }

    fn of(kind: &str, key: &str) -> Self {
        let hash = digest(&SHA256, format!("{kind}\0{key}").as_bytes());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(hash.as_ref());
        Self(bytes)
    }
}

impl fmt::Display for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// From a core that is about to make a meeting under these keys, or waits for another that is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// What it makes: whoever is asked makes nothing else under the keys for a while. `None`: it only looks.
    pub making: Option<MeetingId>,
    /// At most [`MAX_KEYS`].
    pub keys: Vec<KeyDigest>,
}

/// What a core knows of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// This meeting is being made under it.
    Making {
        /// Which.
        meeting: MeetingId,
        /// By the core that was asked, and not by another that has asked it.
        here: bool,
    },
    /// This one has been.
    Made {
        /// Which.
        meeting: MeetingId,
        /// The core that serves it.
        core: NodeId,
        /// SHA-256 of the request's body in hexadecimal; empty for a deduplication key.
        body: String,
    },
}
