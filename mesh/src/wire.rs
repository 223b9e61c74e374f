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

pub use crate::{
    ids::{Epoch, MeetingAlias, MeetingId, ParticipantAlias, SpurtNo, Term},
    version::Version,
};
