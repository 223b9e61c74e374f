//! A second chance for items of a spurt: copies of them in a QUIC datagram, which race the spurt's stream.
//!
//! After [`super::DATAGRAM_COPIES`], with every number a QUIC variable-length integer (RFC 9000 section 16):
//! meeting alias, participant alias, spurt; then 0, or the length of a [`crate::codec`] message holding the
//! [`SpurtHeader`] and that message; then, to the end of the datagram, items as on a stream, each behind the
//! number of items skipped since the one before it (since item 0 for the first). A trailer has the number
//! that the next item would have.
//!
//! Only a peer that speaks version 2 understands it. A receiver may drop any of it: the stream has it all.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{
    DATAGRAM_COPIES, MeetingAlias, ParticipantAlias, SpurtNo,
    spurt::{Item, MAX_OPUS, SpurtHeader},
};
use crate::codec::{self, DecodeError};

/// The longest header or trailer in a datagram, in bytes.
const MAX_PART: u64 = 512;

/// Copies of some items of one spurt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copies {
    /// The meeting, as opened on the control stream of the same connection.
    pub meeting: MeetingAlias,
    /// Who speaks.
    pub participant: ParticipantAlias,
    /// Which spurt.
    pub spurt: SpurtNo,
    /// The header, while the stream's own may not have arrived.
    pub header: Option<SpurtHeader>,
    /// Items by number, rising.
    pub items: Vec<(u32, Item)>,
}

impl Copies {
    /// Appends the datagram's bytes, the type byte included.
    ///
    /// # Panics
    /// Item numbers that do not rise, or a frame longer than [`MAX_OPUS`].
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(DATAGRAM_COPIES);
        for number in [self.meeting.0, u32::from(self.participant.0), self.spurt.0] {
            put_number(u64::from(number), out);
        }
        match &self.header {
            Some(header) => put_part(&codec::encode(header).expect("fixed-size numbers, far under the limit"), out),
            None => put_number(0, out),
        }
        let mut next = 0;
        for (number, item) in &self.items {
            assert!(*number >= next, "item numbers rise");
            put_number(u64::from(*number - next), out);
            item.encode(out);
            next = number.saturating_add(1);
        }
    }

    /// Takes a datagram apart, the type byte having been read. Frames are slices of `datagram`.
    ///
    /// # Errors
    /// The bytes are no copies; nothing of the datagram is to be used.
    pub fn decode(mut datagram: Bytes) -> Result<Self, DecodeError> {
        let meeting = MeetingAlias(take_small(&mut datagram)?);
        let participant = take_small::<u16>(&mut datagram).map(ParticipantAlias)?;
        let spurt = SpurtNo(take_small(&mut datagram)?);
        let header = match take_number(&mut datagram)? {
            0 => None,
            len => Some(codec::decode(&take_bytes(len, MAX_PART, &mut datagram)?)?),
        };
        let (mut items, mut next) = (vec![], 0u32);
        while datagram.has_remaining() {
            let skipped: u32 = take_small(&mut datagram)?;
            let number = next.checked_add(skipped).filter(|n| *n < u32::MAX).ok_or_else(|| bad("item number"))?;
            items.push((number, take_item(&mut datagram)?));
            next = number + 1;
        }
        Ok(Self { meeting, participant, spurt, header, items })
    }
}

/// An item, encoded as on a stream.
fn take_item(datagram: &mut Bytes) -> Result<Item, DecodeError> {
    match take_number(datagram)? {
        0 => Ok(Item::Gap),
        1 if datagram.remaining() < 2 => Err(bad("trailer")),
        1 => {
            let len = u64::from(datagram.get_u16());
            Ok(Item::End(codec::decode(&take_bytes(len, MAX_PART, datagram)?)?))
        }
        n => Ok(Item::Frame(take_bytes(n - 2, MAX_OPUS as u64, datagram)?)),
    }
}

fn take_bytes(len: u64, limit: u64, datagram: &mut Bytes) -> Result<Bytes, DecodeError> {
    if len > limit {
        return Err(DecodeError::TooLong(usize::try_from(len).unwrap_or(usize::MAX)));
    }
    if len > datagram.remaining() as u64 {
        return Err(bad("length beyond the datagram"));
    }
    Ok(datagram.split_to(len as usize))
}

fn put_part(part: &[u8], out: &mut BytesMut) {
    put_number(part.len() as u64, out);
    out.put_slice(part);
}

fn put_number(value: u64, out: &mut BytesMut) {
    match value {
        0..64 => out.put_u8(value as u8),
        64..16_384 => out.put_u16(value as u16 | 0x4000),
        16_384..1_073_741_824 => out.put_u32(value as u32 | 0x8000_0000),
        _ => out.put_u64(value | 0xc000_0000_0000_0000),
    }
}

fn take_small<T: TryFrom<u64>>(datagram: &mut Bytes) -> Result<T, DecodeError> {
    T::try_from(take_number(datagram)?).map_err(|_| bad("number out of range"))
}

fn take_number(datagram: &mut Bytes) -> Result<u64, DecodeError> {
    let first = *datagram.first().ok_or_else(|| bad("cut short"))?;
    let width = 1usize << (first >> 6);
    if datagram.remaining() < width {
        return Err(bad("cut short"));
    }
    Ok(match width {
        1 => u64::from(datagram.get_u8()),
        2 => u64::from(datagram.get_u16() & 0x3fff),
        4 => u64::from(datagram.get_u32() & 0x3fff_ffff),
        _ => datagram.get_u64() & 0x3fff_ffff_ffff_ffff,
    })
}

fn bad(what: &str) -> DecodeError {
    DecodeError::Malformed(format!("copies: {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{clock::Micros, trace::TraceContext, wire::spurt::SpurtEnd};

    fn copies() -> impl Strategy<Value = Copies> {
        let frame = proptest::collection::vec(any::<u8>(), 0..200).prop_map(|v| Item::Frame(v.into()));
        let end = any::<u32>().prop_map(|items| Item::End(SpurtEnd { continues: true, ..SpurtEnd::of(items) }));
        let item = prop_oneof![1 => Just(Item::Gap), 8 => frame, 1 => end];
        let items = proptest::collection::vec((0u32..70_000, item), 0..12);
        (any::<u32>(), any::<u16>(), any::<u32>(), any::<bool>(), items).prop_map(|(m, p, s, with_header, steps)| {
            let (meeting, participant, spurt) = (MeetingAlias(m), ParticipantAlias(p), SpurtNo(s));
            let trace = TraceContext::new(5);
            let header = SpurtHeader { meeting, participant, spurt, offset: 9, captured: Micros(1 << 50), trace };
            let mut next = 0;
            let mut number = |skip: u32| {
                let number = next + skip;
                next = number + 1;
                number
            };
            let items = steps.into_iter().map(|(skip, item)| (number(skip), item)).collect();
            Copies { meeting, participant, spurt, header: with_header.then_some(header), items }
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(copies in copies()) {
            let mut bytes = BytesMut::new();
            copies.encode(&mut bytes);
            prop_assert_eq!(bytes[0], DATAGRAM_COPIES);
            prop_assert_eq!(Copies::decode(bytes.freeze().slice(1..)), Ok(copies));
        }

        #[test]
        fn a_datagram_cut_anywhere_is_an_error_or_fewer_items(copies in copies(), cut in any::<prop::sample::Index>()) {
            let mut bytes = BytesMut::new();
            copies.encode(&mut bytes);
            let cut = cut.index(bytes.len() - 1);
            if let Ok(read) = Copies::decode(bytes.freeze().slice(1..1 + cut)) {
                prop_assert!(copies.items.starts_with(&read.items));
            }
        }

        #[test]
        fn arbitrary_bytes_never_yield_more_than_they_hold(bytes in proptest::collection::vec(any::<u8>(), 0..1400)) {
            let len = bytes.len();
            if let Ok(copies) = Copies::decode(bytes.into()) {
                prop_assert!(copies.items.len() * 2 <= len);
            }
        }
    }

    #[test]
    fn a_frame_longer_than_any_opus_packet_is_refused_by_its_length() {
        let bytes = Bytes::from_static(&[1, 1, 1, 0, 0, 0x80, 0x00, 0xff, 0xff]);
        assert_eq!(Copies::decode(bytes), Err(DecodeError::TooLong(0xfffd)));
    }
}
