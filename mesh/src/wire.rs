//! What crosses between nodes (ALPN [`crate::codec::ALPN`]).
//!
//! | carrier | first byte | then |
//! |---|---|---|
//! | datagram | [`DATAGRAM_SWIM`] | one foca packet |
//! | bidirectional stream | [`STREAM_CONTROL`] | [`control`] messages both ways, for as long as edge and core talk |
//! | bidirectional stream | [`STREAM_REQUEST`] | one [`request::Request`], one [`request::Response`], end |
//! | unidirectional stream | [`STREAM_SPURT`] | one talk spurt: [`spurt`] header, frames, trailer |
//!
//! Messages on bidirectional streams are a 4-byte big-endian length and a [`crate::codec`] message.

pub mod control;
pub mod report;
pub mod request;
pub mod spurt;

/// First byte of a datagram that carries SWIM.
pub const DATAGRAM_SWIM: u8 = 0;
/// First byte of a control stream.
pub const STREAM_CONTROL: u8 = 1;
/// First byte of a request stream.
pub const STREAM_REQUEST: u8 = 2;
/// First byte of a talk spurt's stream.
pub const STREAM_SPURT: u8 = 3;

use serde::{Deserialize, Serialize};

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

/// The fencing epoch of a meeting's ownership: rises by one with each new owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);
