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
#[serde(try_from = "Trailer", into = "Trailer")]
pub struct SpurtEnd {
    /// Items in the whole spurt, from number 0.
    pub items: u32,
    /// The speaker went on: the spurt was cut for its length, and the next one continues it; or the edge has left, and another
    /// one may hear how it goes on.
    pub continues: bool,
    /// The lowest step of the uplink's ladder that any of it was sent on.
    pub step: Step,
    /// When the last item passed each stage at the edge.
    pub stages: EdgeStages,
}

/// How speech is sent, by what the link to the core lets pass: a ladder, from the top down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum Step {
    /// The source's own Opus packets.
    #[default]
    #[serde(rename = "pass_through")]
    PassThrough,
    /// Encoded anew: Opus of 24 kb/s in frames of 60 ms.
    #[serde(rename = "opus_24")]
    Opus24,
    /// The same at 16 kb/s.
    #[serde(rename = "opus_16")]
    Opus16,
    /// The same at 12 kb/s.
    #[serde(rename = "opus_12")]
    Opus12,
    /// At 12 kb/s, and each spurt only when it is over: there are finals and no partials.
    #[serde(rename = "final_only")]
    FinalOnly,
}

/// A [`SpurtEnd`] as it is written: `how` holds `continues` in its lowest bit and the step above it. Before there were
/// steps it was `continues` alone, in the same byte, so a trailer of [`Step::PassThrough`] is what it always was.
#[derive(Serialize, Deserialize)]
struct Trailer {
    items: u32,
    how: u8,
    stages: EdgeStages,
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

impl Step {
    /// All of them, from the top down.
    pub const ALL: [Self; 5] = [Self::PassThrough, Self::Opus24, Self::Opus16, Self::Opus12, Self::FinalOnly];

    /// As in segments and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PassThrough => "pass_through",
            Self::Opus24 => "opus_24",
            Self::Opus16 => "opus_16",
            Self::Opus12 => "opus_12",
            Self::FinalOnly => "final_only",
        }
    }

    /// Bits per second of what is encoded anew; `None` at the top.
    pub const fn bitrate(self) -> Option<i32> {
        match self {
            Self::PassThrough => None,
            Self::Opus24 => Some(24_000),
            Self::Opus16 => Some(16_000),
            Self::Opus12 | Self::FinalOnly => Some(12_000),
        }
    }

    /// The next one down; the lowest stays.
    pub fn down(self) -> Self {
        Self::ALL[(self as usize + 1).min(Self::ALL.len() - 1)]
    }

    /// The next one up; the highest stays.
    pub fn up(self) -> Self {
        Self::ALL[(self as usize).saturating_sub(1)]
    }
}

impl From<SpurtEnd> for Trailer {
    fn from(SpurtEnd { items, continues, step, stages }: SpurtEnd) -> Self {
        Self { items, how: u8::from(continues) | (step as u8) << 1, stages }
    }
}

impl TryFrom<Trailer> for SpurtEnd {
    type Error = String;

    fn try_from(Trailer { items, how, stages }: Trailer) -> Result<Self, String> {
        let step = Step::ALL.get(usize::from(how >> 1)).ok_or_else(|| format!("a spurt that ended in manner {how}"))?;
        Ok(Self { items, continues: how & 1 == 1, step: *step, stages })
    }
}

impl SpurtEnd {
    /// The end of so many items: nothing continues it, nothing was encoded anew, and no stamps.
    pub fn of(items: u32) -> Self {
        Self { items, continues: false, step: Step::PassThrough, stages: EdgeStages::default() }
    }
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

    /// Gives back the memory that longer reads took. What has come and is not polled stays.
    pub fn shrink(&mut self) {
        self.buffer = BytesMut::from(&self.buffer[..]);
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

    #[derive(Serialize)]
    struct BeforeSteps {
        items: u32,
        continues: bool,
        stages: EdgeStages,
    }

    #[test]
    fn a_trailer_without_a_step_is_what_it_was_before_there_were_any() {
        let stages = EdgeStages { sent: Micros(9), ..EdgeStages::default() };
        for continues in [false, true] {
            let end = SpurtEnd { items: 300, continues, step: Step::PassThrough, stages };
            assert_eq!(codec::encode(&end), codec::encode(&BeforeSteps { items: 300, continues, stages }));
        }
    }

    #[test]
    fn every_step_is_read_as_it_was_written_and_no_other_is_known() {
        let stages = EdgeStages::default();
        for step in Step::ALL {
            let end = SpurtEnd { items: 3, continues: true, step, stages };
            assert_eq!(codec::decode(&codec::encode(&end).expect("small")), Ok(end));
        }
        let strange = codec::encode(&Trailer { items: 3, how: 10, stages }).expect("small");
        assert!(matches!(codec::decode::<SpurtEnd>(&strange), Err(DecodeError::Malformed(_))));
    }

    #[test]
    fn the_ladder_ends_at_both_ends() {
        assert_eq!((Step::PassThrough.up(), Step::FinalOnly.down()), (Step::PassThrough, Step::FinalOnly));
        assert!(Step::ALL.windows(2).all(|two| two[0].down() == two[1] && two[1].up() == two[0] && two[0] < two[1]));
    }

    proptest! {
        #[test]
        fn a_spurt_survives_any_cutting_of_its_bytes(items in items(), cuts in 1usize..40) {
            let mut bytes = BytesMut::new();
            header().encode(&mut bytes);
            items.iter().for_each(|item| item.encode(&mut bytes));
            let (items_in, stages) = (items.len() as u32, EdgeStages::default());
            let end = SpurtEnd { items: items_in, continues: false, step: Step::Opus16, stages };
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
