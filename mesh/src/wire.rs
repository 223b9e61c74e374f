//! What crosses between nodes (ALPN: [`Version`]).
//!
//! | carrier | first byte | then |
//! |---|---|---|
//! | datagram | [`DATAGRAM_SWIM`] | one foca packet |
//! | datagram | [`DATAGRAM_COPIES`] | [`copies`] of items of a talk spurt (version 2) |
//! | bidirectional stream | [`STREAM_CONTROL`] | [`control`] messages both ways, for as long as edge and core talk |
//! | bidirectional stream | [`STREAM_REQUEST`] | one [`request::Request`], one [`request::Response`], end |
//! | bidirectional stream | [`STREAM_CERTIFICATE`] | 8 bytes of a certificate's SHA-256; its chain, as a message of DER certificates, or nothing |
//! | unidirectional stream | [`STREAM_SPURT`] | one talk spurt: [`spurt`] header, frames, trailer |
//!
//! Messages on bidirectional streams are a 4-byte big-endian length and a [`crate::codec`] message.

pub mod cause;
pub mod control;
pub mod copies;
pub mod keys;
pub mod report;
pub mod request;
pub mod spurt;

/// First byte of a datagram that carries SWIM.
pub const DATAGRAM_SWIM: u8 = 0;
/// First byte of a datagram that carries copies of a talk spurt's items.
pub const DATAGRAM_COPIES: u8 = 1;
/// First byte of a control stream.
pub const STREAM_CONTROL: u8 = 1;
/// First byte of a request stream.
pub const STREAM_REQUEST: u8 = 2;
/// First byte of a talk spurt's stream.
pub const STREAM_SPURT: u8 = 3;
/// First byte of a stream that asks for a certificate by which gossip is verified.
pub const STREAM_CERTIFICATE: u8 = 4;

use serde::{Deserialize, Serialize};

pub use crate::version::Version;

/// A meeting, everywhere and for ever.
pub type MeetingId = uuid::Uuid;

/// A meeting on one control stream: what an edge calls it in front of one core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MeetingAlias(pub u32);

/// A participant of one meeting, as the edge's participant table numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ParticipantAlias(pub u16);

/// A talk spurt's number, counted from 0 for each participant and epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SpurtNo(pub u32);

impl SpurtNo {
    const PART_SHIFT: u32 = 28;

    /// The number as it was counted: of all parts of one spurt the same.
    pub fn counted(self) -> u32 {
        self.0 & ((1 << Self::PART_SHIFT) - 1)
    }

    /// What is left of this spurt when a core has ended it before its edge did. The same each time it is asked for, so that a
    /// replay is known as one. `None` after 15 parts.
    pub fn next_part(self) -> Option<Self> {
        self.0.checked_add(1 << Self::PART_SHIFT).map(Self)
    }
}

/// The fencing epoch of a meeting's ownership: rises by one with each new owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// Whose turn it is to serve a meeting: rises by one each time another core takes it over. [`crate::lease`] says how they
/// are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Term(pub u32);
