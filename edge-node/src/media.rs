//! What a connector hands on, whatever way it reached the meeting.

use std::{fmt, sync::Arc, time::Instant};

use bytes::Bytes;
use mesh::clock::Micros;

/// The longest participant id, in bytes, as on the wire.
pub const MAX_PARTICIPANT_ID: usize = 256;

/// The platform's own id of a participant: 1 to [`MAX_PARTICIPANT_ID`] bytes. Cheap to clone.
///
/// It may be personal data: `Display` is for API and wire, logs above DEBUG use the alias.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParticipantId(Arc<str>);

/// The platform gave an id that cannot name anyone; cutting it short could confuse two people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a participant id of {0} bytes; 1 to {MAX_PARTICIPANT_ID} are allowed")]
pub struct BadParticipantId(usize);

impl ParticipantId {
    /// The participant called `id`.
    ///
    /// # Errors
    /// It is empty or longer than [`MAX_PARTICIPANT_ID`].
    pub fn new(id: impl AsRef<str>) -> Result<Self, BadParticipantId> {
        let id = id.as_ref();
        if (1..=MAX_PARTICIPANT_ID).contains(&id.len()) { Ok(Self(id.into())) } else { Err(BadParticipantId(id.len())) }
    }

    /// The id as the platform spells it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ParticipantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How loud a packet is, as the sender said in the RTP header (RFC 6464).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AudioLevel {
    /// Below full scale, in -dBov: 0 is the loudest, 127 silence.
    pub dbov: u8,
    /// The sender's own voice detector said speech (the V bit).
    pub voice: bool,
}

impl AudioLevel {
    /// The level in the header extension's one byte of data: V, then seven bits (RFC 6464 section 3).
    pub fn from_byte(byte: u8) -> Self {
        Self { dbov: byte & 0x7f, voice: byte & 0x80 != 0 }
    }
}

/// One audio packet of one participant, off the socket and decrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RtpPacket {
    /// Whose voice.
    pub participant: ParticipantId,
    /// From which of the participant's sources: those of one are numbered and timed together (RTP's SSRC).
    pub source: u32,
    /// RTP sequence number.
    pub sequence: u16,
    /// RTP timestamp, at 48 kHz.
    pub timestamp: u32,
    /// The level the sender gave, where it gave one.
    pub level: Option<AudioLevel>,
    /// The Opus packet (RFC 6716); empty where there is no sound in it (padding, another codec's): then it only has its number.
    pub payload: Bytes,
    /// When it arrived, for the timers.
    pub arrived: Instant,
    /// When it arrived, by the wall clock.
    pub arrived_at: Micros,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_level_byte_is_a_flag_and_seven_bits() {
        assert_eq!(AudioLevel::from_byte(0x80 | 37), AudioLevel { dbov: 37, voice: true });
        assert_eq!(AudioLevel::from_byte(127), AudioLevel { dbov: 127, voice: false });
    }

    #[test]
    fn an_id_is_refused_rather_than_cut() {
        assert_eq!(ParticipantId::new("a".repeat(257)), Err(BadParticipantId(257)));
        assert_eq!(ParticipantId::new(""), Err(BadParticipantId(0)));
        assert_eq!(ParticipantId::new("é".repeat(128)).unwrap().as_str().len(), 256);
    }
}
