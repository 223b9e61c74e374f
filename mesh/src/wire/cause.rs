//! Why an edge gave a meeting up, as a stable word.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why an edge gave a meeting up. What it was in the single case is said in words beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Cause {
    /// The source names no relay of its kind.
    SourceInvalid,
    /// The relay's name is not found.
    DnsFailed,
    /// Nobody listens where the relay should be.
    ConnectionRefused,
    /// No TLS with the relay: above all, its certificate is not trusted.
    TlsFailed,
    /// The relay did not answer in time.
    RelayTimeout,
    /// The relay cannot be reached otherwise, or hung up.
    RelayUnreachable,
    /// The source or the relay named an address that the edge does not go to.
    AddressDenied,
    /// The relay knows no such room or stream.
    NoSuchRoom,
    /// The PIN, token or secret is wrong, or does not suffice.
    AccessDenied,
    /// The room takes nobody more.
    RoomFull,
    /// The relay said no otherwise.
    RelayRefused,
    /// The relay said what cannot be understood.
    RelayProtocol,
    /// The relay sends nothing in Opus.
    CodecUnsupported,
    /// Signalling works, and no media connection comes up.
    MediaUnreachable,
    /// The media connection was there and is lost.
    MediaLost,
    /// More came than one meeting may send.
    Flooded,
    /// The edge's own fault.
    EdgeFailed,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::SourceInvalid,
        Self::DnsFailed,
        Self::ConnectionRefused,
        Self::TlsFailed,
        Self::RelayTimeout,
        Self::RelayUnreachable,
        Self::AddressDenied,
        Self::NoSuchRoom,
        Self::AccessDenied,
        Self::RoomFull,
        Self::RelayRefused,
        Self::RelayProtocol,
        Self::CodecUnsupported,
        Self::MediaUnreachable,
        Self::MediaLost,
        Self::Flooded,
        Self::EdgeFailed,
    ];

    /// Its word, which users see as `sub_code`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SourceInvalid => "source_invalid",
            Self::DnsFailed => "dns_failed",
            Self::ConnectionRefused => "connection_refused",
            Self::TlsFailed => "tls_failed",
            Self::RelayTimeout => "relay_timeout",
            Self::RelayUnreachable => "relay_unreachable",
            Self::AddressDenied => "address_denied",
            Self::NoSuchRoom => "no_such_room",
            Self::AccessDenied => "access_denied",
            Self::RoomFull => "room_full",
            Self::RelayRefused => "relay_refused",
            Self::RelayProtocol => "relay_protocol",
            Self::CodecUnsupported => "codec_unsupported",
            Self::MediaUnreachable => "media_unreachable",
            Self::MediaLost => "media_lost",
            Self::Flooded => "flooded",
            Self::EdgeFailed => "edge_failed",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_has_a_word_of_its_own() {
        let words: BTreeSet<&str> = Cause::ALL.iter().map(|cause| cause.as_str()).collect();
        assert_eq!(words.len(), Cause::ALL.len());
        assert!(words.iter().all(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '_')));
    }
}
