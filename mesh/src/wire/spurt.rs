//! One talk spurt on one unidirectional stream.
//!
//! After [`super::STREAM_SPURT`]: a 2-byte big-endian length and a [`crate::codec`] message holding
//! the [`SpurtHeader`], then items until the trailer. Each item begins with a QUIC variable-length
//! integer (RFC 9000 section 16):
//!
//! | value | item |
//! |---|---|
//! | 0 | [`Item::Gap`] |
//! | 1 | [`Item::End`]: a 2-byte big-endian length and a codec message holding the [`SpurtEnd`] |
//! | n >= 2 | [`Item::Frame`]: an Opus packet of n - 2 bytes |
//!
//! So a frame of up to 61 bytes costs one byte of ours and any other two.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::{MeetingAlias, ParticipantAlias, SpurtNo};
use crate::{
    clock::Micros,
    codec::{self, DecodeError},
    trace::TraceContext,
};

/// The longest Opus packet: RFC 6716 section 3.4, one frame of 1275 bytes, three frames in 60 ms.
pub const MAX_OPUS: usize = 1275 * 3 + 7;

/// The longest header or trailer, in bytes.
const MAX_PART: usize = 512;

/// What stands before the items of a spurt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpurtHeader {
    /// The meeting, as opened on the control stream of the same connection.
    pub meeting: MeetingAlias,
    /// Who speaks, from the participant table.
    pub participant: ParticipantAlias,
    /// Which spurt.
    pub spurt: SpurtNo,
    /// The number of the first item on this stream: 0, or where a replay takes up.
    pub offset: u32,
    /// Capture time of item 0, whatever `offset` is.
    pub captured: Micros,
    /// The request that created the meeting.
    pub trace: TraceContext,
}

/// What closes a spurt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpurtEnd {
    /// Items in the whole spurt, from number 0.
    pub items: u32,
    /// The speaker went on: the spurt was cut for its length, and the next one continues it.
    pub continues: bool,
    /// When the last item passed each stage at the edge.
    pub stages: EdgeStages,
}

/// Stamps of one frame at the edge, by its wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EdgeStages {
    /// Came off the socket.
    pub captured: Micros,
    /// Decoded, or found not to need it.
    pub decoded: Micros,
    /// The VAD had decided.
    pub vad: Micros,
    /// Handed to the QUIC stream.
    pub sent: Micros,
}

/// One step of a spurt. Items are numbered from 0; acknowledgements count them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A slot as long as the packet before it for which there is none: lost, or not sent (DTX).
    Gap,
    /// An Opus packet as the source made it.
    Frame(Bytes),
    /// The last thing on the stream; not numbered.
    End(SpurtEnd),
}

impl SpurtHeader {
    /// Appends the stream's first bytes, the type byte included.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(super::STREAM_SPURT);
        put_part(self, out);
    }
}

impl Item {
    /// Appends the item.
    ///
    /// # Panics
    /// A frame longer than [`MAX_OPUS`].
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Gap => put_varint(0, out),
            Self::Frame(packet) => {
                assert!(packet.len() <= MAX_OPUS, "an Opus packet has at most {MAX_OPUS} bytes");
                put_varint(packet.len() as u16 + 2, out);
                out.put_slice(packet);
            }
            Self::End(end) => {
                put_varint(1, out);
                put_part(end, out);
            }
        }
    }
}

/// Takes a spurt stream apart as its bytes come in; the type byte has been read already.
///
/// Holds at most one part of a spurt: feed it, then call [`SpurtDecoder::poll`] until it has no more.
#[derive(Debug, Default)]
pub struct SpurtDecoder {
    buffer: BytesMut,
    header_seen: bool,
    ended: bool,
}

/// What a spurt stream turned out to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// First, once.
    Header(SpurtHeader),
    /// Then these.
    Item(Item),
}

impl SpurtDecoder {
    /// Takes the next bytes of the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next part, if it has come in whole.
    ///
    /// # Errors
    /// The bytes are no spurt; the stream cannot be read any further.
    pub fn poll(&mut self) -> Result<Option<Part>, DecodeError> {
        if self.ended && !self.buffer.is_empty() {
            return Err(DecodeError::Trailing(self.buffer.len()));
        }
        if !self.header_seen {
            let Some(header) = take_part(&mut self.buffer, 0)? else { return Ok(None) };
            self.header_seen = true;
            return Ok(Some(Part::Header(header)));
        }
        let Some((value, width)) = peek_varint(&self.buffer)? else { return Ok(None) };
        let item = match value {
            0 => {
                self.buffer.advance(width);
                Item::Gap
            }
            1 => {
                let Some(end) = take_part(&mut self.buffer, width)? else { return Ok(None) };
                self.ended = true;
                Item::End(end)
            }
            n => {
                let len = n as usize - 2;
                if len > MAX_OPUS {
                    return Err(DecodeError::TooLong(len));
                }
                if self.buffer.len() < width + len {
                    return Ok(None);
                }
                self.buffer.advance(width);
                Item::Frame(self.buffer.split_to(len).freeze())
            }
        };
        Ok(Some(Part::Item(item)))
    }

    /// Whether the trailer has been read.
    pub fn ended(&self) -> bool {
        self.ended
    }
}

fn put_part<T: Serialize>(part: &T, out: &mut BytesMut) {
    let bytes = codec::encode(part).expect("headers and trailers are fixed-size numbers, far under the limit");
    out.put_u16(bytes.len() as u16);
    out.put_slice(&bytes);
}

fn take_part<T: serde::de::DeserializeOwned>(buffer: &mut BytesMut, skip: usize) -> Result<Option<T>, DecodeError> {
    let Some(head) = buffer.get(skip..skip + 2) else { return Ok(None) };
    let len = u16::from_be_bytes([head[0], head[1]]) as usize;
    if len > MAX_PART {
        return Err(DecodeError::TooLong(len));
    }
    let Some(body) = buffer.get(skip + 2..skip + 2 + len) else { return Ok(None) };
    let part = codec::decode(body)?;
    buffer.advance(skip + 2 + len);
    Ok(Some(part))
}

/// One or two bytes are all a length here can need.
fn put_varint(value: u16, out: &mut BytesMut) {
    if value < 64 { out.put_u8(value as u8) } else { out.put_u16(value | 0x4000) }
}

fn peek_varint(buffer: &[u8]) -> Result<Option<(u16, usize)>, DecodeError> {
    match buffer {
        [] => Ok(None),
        [first, ..] if first >> 6 == 0 => Ok(Some((u16::from(*first), 1))),
        [first, second, ..] if first >> 6 == 1 => Ok(Some((u16::from_be_bytes([first & 0x3f, *second]), 2))),
        [first] if first >> 6 == 1 => Ok(None),
        _ => Err(DecodeError::Malformed("a length of more than two bytes".into())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> SpurtHeader {
        SpurtHeader {
            meeting: MeetingAlias(3),
            participant: ParticipantAlias(7),
            spurt: SpurtNo(11),
            offset: 0,
            captured: Micros(1_700_000_000_000_000),
            trace: TraceContext::new(99),
        }
    }

    fn items() -> impl Strategy<Value = Vec<Item>> {
        let frame = proptest::collection::vec(any::<u8>(), 0..200).prop_map(|v| Item::Frame(v.into()));
        proptest::collection::vec(prop_oneof![1 => Just(Item::Gap), 9 => frame], 0..50)
    }

    proptest! {
        #[test]
        fn a_spurt_survives_any_cutting_of_its_bytes(items in items(), cuts in 1usize..40) {
            let mut bytes = BytesMut::new();
            header().encode(&mut bytes);
            items.iter().for_each(|item| item.encode(&mut bytes));
            let end = SpurtEnd { items: items.len() as u32, continues: false, stages: EdgeStages::default() };
            Item::End(end).encode(&mut bytes);

            let mut decoder = SpurtDecoder::default();
            let mut parts = vec![];
            for piece in bytes[1..].chunks(cuts) {
                decoder.feed(piece);
                while let Some(part) = decoder.poll().expect("what we wrote") {
                    parts.push(part);
                }
            }
            let mut want = vec![Part::Header(header())];
            want.extend(items.into_iter().map(Part::Item));
            want.push(Part::Item(Item::End(end)));
            prop_assert_eq!(parts, want);
            prop_assert!(decoder.ended());
        }

        #[test]
        fn a_frame_costs_at_most_two_bytes_of_ours(len in 0usize..=MAX_OPUS) {
            let mut bytes = BytesMut::new();
            Item::Frame(vec![0; len].into()).encode(&mut bytes);
            prop_assert!(bytes.len() - len <= 2);
        }

        #[test]
        fn arbitrary_bytes_end_in_an_error_or_in_waiting(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut decoder = SpurtDecoder::default();
            decoder.feed(&bytes);
            while let Ok(Some(_)) = decoder.poll() {}
        }
    }
}
