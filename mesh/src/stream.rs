//! Typed messages on a QUIC stream: a 4-byte big-endian length, then one [`codec`] message.

use bytes::{Buf, BytesMut};
use serde::{Serialize, de::DeserializeOwned};

use crate::codec::{self, DecodeError, EncodeError};

/// The priority of control streams, above everything: they must never wait for speech.
pub(crate) const CONTROL: i32 = i32::MAX;

/// The writing half.
#[derive(Debug)]
pub struct MessageSender {
    inner: quinn::SendStream,
}

/// The reading half. Holds at most one message and what came with it.
#[derive(Debug)]
pub struct MessageReceiver {
    inner: quinn::RecvStream,
    buffer: BytesMut,
}

/// Why messages can no longer be exchanged on a stream.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The peer stopped reading, or the connection is gone.
    #[error("stream cannot be written: {0}")]
    Write(#[from] quinn::WriteError),
    /// The peer reset the stream, or the connection is gone.
    #[error("stream cannot be read: {0}")]
    Read(#[from] quinn::ReadError),
    /// The peer sent what is no message.
    #[error("peer sent a bad message: {0}")]
    Decode(#[from] DecodeError),
    /// Our own message is too long.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The stream ended within a message.
    #[error("stream ended within a message, {0} bytes into it")]
    Truncated(usize),
    /// The stream was finished before.
    #[error("stream already closed")]
    Closed,
}

impl MessageSender {
    /// Messages on `inner` from here on.
    pub fn new(inner: quinn::SendStream) -> Self {
        Self { inner }
    }

    /// Sends one message. Not cancel-safe: a send given up half-way ruins the stream.
    ///
    /// # Errors
    /// The message is too long, or the stream cannot be written.
    pub async fn send<T: Serialize>(&mut self, message: &T) -> Result<(), StreamError> {
        let bytes = frame(message)?;
        Ok(self.inner.write_all(&bytes).await?)
    }

    /// Says that no more messages follow.
    ///
    /// # Errors
    /// It was said before, or the stream was reset.
    pub fn finish(&mut self) -> Result<(), StreamError> {
        self.inner.finish().map_err(|_| StreamError::Closed)
    }

    /// Gives the stream up with an application error code.
    pub fn reset(&mut self, code: quinn::VarInt) {
        // Already closed is as good.
        let _ = self.inner.reset(code);
    }

    /// The stream itself, for its priority or raw bytes.
    pub fn get_mut(&mut self) -> &mut quinn::SendStream {
        &mut self.inner
    }
}

impl MessageReceiver {
    /// Messages on `inner` from here on.
    pub fn new(inner: quinn::RecvStream) -> Self {
        Self { inner, buffer: BytesMut::new() }
    }

    /// The next message, or `None` when the peer has finished the stream. Cancel-safe.
    ///
    /// # Errors
    /// The peer sent what is not a `T`, or the stream broke.
    pub async fn recv<T: DeserializeOwned>(&mut self) -> Result<Option<T>, StreamError> {
        loop {
            if let Some(message) = take(&mut self.buffer)? {
                return Ok(Some(message));
            }
            match self.inner.read_chunk(16 * 1024, true).await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk.bytes),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(StreamError::Truncated(self.buffer.len())),
            }
        }
    }

    /// Asks the peer to stop sending, with an application error code.
    pub fn stop(&mut self, code: quinn::VarInt) {
        // Already closed is as good.
        let _ = self.inner.stop(code);
    }
}

/// A message as it stands on the stream.
fn frame<T: Serialize>(message: &T) -> Result<Vec<u8>, EncodeError> {
    let body = codec::encode(message)?;
    let mut bytes = Vec::with_capacity(4 + body.len());
    bytes.extend_from_slice(&(body.len() as u32).to_be_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// The message at the front of `buffer`, if it is there whole. The length is judged before anything is awaited for it.
fn take<T: DeserializeOwned>(buffer: &mut BytesMut) -> Result<Option<T>, DecodeError> {
    let Some(head) = buffer.first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_be_bytes(*head) as usize;
    if len > codec::MAX_MESSAGE {
        return Err(DecodeError::TooLong(len));
    }
    let Some(body) = buffer.get(4..4 + len) else { return Ok(None) };
    let message = codec::decode(body)?;
    buffer.advance(4 + len);
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{
        control::{ToCore, ToEdge},
        report::Report,
        request::{Request, Response},
    };

    proptest! {
        #[test]
        fn messages_survive_any_cutting(texts in proptest::collection::vec(".{0,300}", 0..8), cut in 1usize..50) {
            let messages: Vec<_> = texts.into_iter().map(|software| ToCore::Hello { software }).collect();
            let bytes: Vec<u8> = messages.iter().flat_map(|m| frame(m).expect("short")).collect();
            let (mut buffer, mut read) = (BytesMut::new(), vec![]);
            for piece in bytes.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(message) = take::<ToCore>(&mut buffer).expect("what we wrote") {
                    read.push(message);
                }
            }
            prop_assert_eq!(read, messages);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn arbitrary_bytes_end_in_an_error_or_in_waiting(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = codec::decode::<ToCore>(&bytes);
            let _ = codec::decode::<ToEdge>(&bytes);
            let _ = codec::decode::<Request>(&bytes);
            let _ = codec::decode::<Response>(&bytes);
            let _ = codec::decode::<Report>(&bytes);
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = take::<ToEdge>(&mut buffer) {}
        }

        #[test]
        fn damaged_messages_never_panic(at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut bytes = frame(&ToEdge::Hello { software: "nearfield 0.1.0".into() }).expect("short");
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let _ = take::<ToEdge>(&mut BytesMut::from(&bytes[..]));
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_its_bytes_come() {
        let mut buffer = BytesMut::from(&u32::MAX.to_be_bytes()[..]);
        assert_eq!(take::<ToCore>(&mut buffer), Err(DecodeError::TooLong(u32::MAX as usize)));
    }

    #[test]
    fn a_vector_that_claims_to_be_huge_is_refused() {
        // Version, `Request::Assign`'s neighbours aside: a string length of 2^32 in front of nothing.
        let bytes = [codec::VERSION, 0, 253, 0, 0, 0, 0, 1, 0, 0, 0];
        assert!(codec::decode::<ToCore>(&bytes).is_err());
    }
}
