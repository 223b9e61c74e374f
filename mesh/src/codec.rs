//! bincode behind one door: every message is a version byte and a bounded bincode body.
//!
//! bincode 2 is finished but unmaintained (RUSTSEC-2025-0141); nothing outside this module names it,
//! so another format can take its place behind a new version byte.

use serde::{Serialize, de::DeserializeOwned};

/// The version byte this build writes.
pub const VERSION: u8 = 1;

/// The longest control message, in bytes, version byte included.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// There was nothing.
    #[error("empty message")]
    Empty,
    /// The first byte names a version this build does not read.
    #[error("message version {0}, this build reads {VERSION}")]
    Version(u8),
    /// More bytes than a message may have.
    #[error("message of {0} bytes, at most {MAX_MESSAGE} are allowed")]
    TooLong(usize),
    /// The body is not what it should be.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// The message ended, but bytes followed it.
    #[error("{0} bytes left over after the message")]
    Trailing(usize),
}

/// A message that would not fit: [`MAX_MESSAGE`] or the limit asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("message cannot be encoded: {0}")]
pub struct EncodeError(String);

const CONFIG: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<MAX_MESSAGE>,
> = bincode::config::standard().with_limit::<MAX_MESSAGE>();

/// `message` as version byte and body.
///
/// # Errors
/// The message is longer than [`MAX_MESSAGE`] or holds what bincode cannot write.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = vec![VERSION];
    encode_body(message, &mut bytes)?;
    Ok(bytes)
}

/// One whole message from `bytes`, which must end where it ends.
///
/// # Errors
/// Any [`DecodeError`]. Arbitrary bytes never panic and never allocate more than the limit.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (&version, body) = bytes.split_first().ok_or(DecodeError::Empty)?;
    if version != VERSION {
        return Err(DecodeError::Version(version));
    }
    let (message, used) = decode_body(body)?;
    if used == body.len() { Ok(message) } else { Err(DecodeError::Trailing(body.len() - used)) }
}

/// The body alone, appended to `bytes`: for parts of a larger frame that carries its own version.
///
/// # Errors
/// As [`encode`].
pub fn encode_body<T: Serialize>(message: &T, bytes: &mut Vec<u8>) -> Result<(), EncodeError> {
    let start = bytes.len();
    bincode::serde::encode_into_std_write(message, bytes, CONFIG).map_err(|e| EncodeError(e.to_string()))?;
    let written = bytes.len() - start;
    if written < MAX_MESSAGE {
        Ok(())
    } else {
        Err(EncodeError(format!("{written} bytes, at most {MAX_MESSAGE} are allowed")))
    }
}

/// A body from the front of `bytes`, and how many bytes it took.
///
/// # Errors
/// [`DecodeError::TooLong`] or [`DecodeError::Malformed`].
pub fn decode_body<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), DecodeError> {
    if bytes.len() > MAX_MESSAGE {
        return Err(DecodeError::TooLong(bytes.len()));
    }
    bincode::serde::decode_from_slice(bytes, CONFIG).map_err(|e| DecodeError::Malformed(e.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::wire::{
        MeetingAlias,
        control::{ToCore, ToEdge},
        request::{Request, Response},
    };

    #[test]
    fn another_version_and_left_over_bytes_are_refused() {
        let mut bytes = encode(&ToEdge::Leave { alias: MeetingAlias(7) }).unwrap();
        assert_eq!(decode::<ToEdge>(&bytes), Ok(ToEdge::Leave { alias: MeetingAlias(7) }));
        bytes.push(0);
        assert_eq!(decode::<ToEdge>(&bytes), Err(DecodeError::Trailing(1)));
        bytes[0] = VERSION + 1;
        assert_eq!(decode::<ToEdge>(&bytes), Err(DecodeError::Version(VERSION + 1)));
        assert_eq!(decode::<ToEdge>(&[]), Err(DecodeError::Empty));
    }

    #[test]
    fn what_is_too_long_is_not_sent() {
        let message = ToCore::Hello { software: "x".repeat(MAX_MESSAGE) };
        assert!(encode(&message).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_a_message_or_an_error(mut bytes in proptest::collection::vec(any::<u8>(), 1..300)) {
            bytes[0] = VERSION;
            let _ = decode::<ToCore>(&bytes);
            let _ = decode::<ToEdge>(&bytes);
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Response>(&bytes);
        }
    }
}
