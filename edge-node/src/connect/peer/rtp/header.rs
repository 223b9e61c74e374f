//! The RTP header, read where it lies (RFC 3550 section 5.1, RFC 8285).

use bytes::{Buf, BytesMut};

/// Bytes of a header without sources and extensions.
pub(super) const FIXED: usize = 12;
/// Profiles of the two forms of extensions; of the second only the upper twelve bits count.
const ONE_BYTE: u16 = 0xBEDE;
const TWO_BYTE: u16 = 0x100;

/// What is needed of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Header {
    pub(in super::super) payload_type: u8,
    pub(in super::super) sequence: u16,
    pub(in super::super) timestamp: u32,
    pub(in super::super) ssrc: u32,
    /// Bytes of it, extensions included.
    pub(in super::super) length: usize,
    /// Where its extensions begin; their profile is before that.
    extensions: Option<usize>,
    padded: bool,
}

impl Header {
    /// The header of a packet that is long enough to have it.
    pub(in super::super) fn parse(datagram: &[u8]) -> Option<Self> {
        let fixed: &[u8; FIXED] = datagram.first_chunk()?;
        if fixed[0] >> 6 != 2 {
            return None;
        }
        let mut length = FIXED + usize::from(fixed[0] & 0x0F) * 4;
        let mut extensions = None;
        if fixed[0] & 0x10 != 0 {
            let words = u16_at(datagram, length + 2)?;
            extensions = Some(length + 4);
            length += 4 + usize::from(words) * 4;
        }
        (datagram.len() >= length).then_some(Self {
            payload_type: fixed[1] & 0x7F,
            sequence: u16::from_be_bytes([fixed[2], fixed[3]]),
            timestamp: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            ssrc: u32::from_be_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]),
            length,
            extensions,
            padded: fixed[0] & 0x20 != 0,
        })
    }

    /// The extension with this id, 1 to 14 (255 in the longer form).
    pub(in super::super) fn extension<'a>(&self, datagram: &'a [u8], id: u8) -> Option<&'a [u8]> {
        let start = self.extensions?;
        let profile = u16_at(datagram, start - 4)?;
        let mut rest = datagram.get(start..self.length)?;
        let long = match profile {
            ONE_BYTE => false,
            other if other >> 4 == TWO_BYTE => true,
            _ => return None,
        };
        loop {
            let (found, len) = match (*rest.first()?, long) {
                (0, _) => {
                    rest = &rest[1..];
                    continue;
                }
                (first, false) if first >> 4 == 15 => return None,
                (first, false) => {
                    rest = &rest[1..];
                    (first >> 4, usize::from(first & 0x0F) + 1)
                }
                (first, true) => {
                    let len = *rest.get(1)?;
                    rest = &rest[2..];
                    (first, usize::from(len))
                }
            };
            let value = rest.get(..len)?;
            if found == id {
                return Some(value);
            }
            rest = &rest[len..];
        }
    }

    /// The payload of the opened packet, without padding, of which it may be all; `None` if that is more than there is.
    pub(in super::super) fn payload(&self, mut plain: BytesMut) -> Option<BytesMut> {
        if self.padded {
            let padding = usize::from(*plain.last()?);
            let kept = plain.len().checked_sub(padding)?;
            if padding == 0 {
                return None;
            }
            plain.truncate(kept);
        }
        if plain.len() < self.length {
            return None;
        }
        plain.advance(self.length);
        Some(plain)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|two| u16::from_be_bytes(*two))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;
    use proptest::prelude::*;
    use rtc::{
        rtp,
        shared::marshal::{Marshal, MarshalSize, Unmarshal},
    };

    use super::*;

    proptest! {
        #[test]
        fn what_another_implementation_writes_is_read(
            sequence: u16, timestamp: u32, ssrc: u32, pt in 0u8..128, marker: bool,
            csrc in proptest::collection::vec(any::<u32>(), 0..16),
            extensions in proptest::collection::btree_map(1u8..15, proptest::collection::vec(any::<u8>(), 1..17), 0..6),
            long: bool,
        ) {
            let mut theirs = rtp::Header {
                version: 2, marker, payload_type: pt, sequence_number: sequence, timestamp, ssrc, csrc,
                ..rtp::Header::default()
            };
            if long && !extensions.is_empty() {
                (theirs.extension, theirs.extension_profile) = (true, 0x1000);
            }
            for (id, value) in &extensions {
                theirs.set_extension(*id, Bytes::copy_from_slice(value)).unwrap();
            }
            let mut bytes = theirs.marshal().unwrap();
            bytes.extend_from_slice(b"payload");
            let ours = Header::parse(&bytes).unwrap();
            prop_assert_eq!((ours.sequence, ours.timestamp, ours.ssrc), (sequence, timestamp, ssrc));
            prop_assert_eq!((ours.payload_type, ours.length), (pt, theirs.marshal_size()));
            for id in 1..15 {
                prop_assert_eq!(ours.extension(&bytes, id), extensions.get(&id).map(Vec::as_slice));
            }
            prop_assert_eq!(&ours.payload(bytes).unwrap()[..], b"payload");
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80), id: u8) {
            if let Some(header) = Header::parse(&bytes) {
                header.extension(&bytes, id);
                if let Ok(theirs) = rtp::Header::unmarshal(&mut &bytes[..]) {
                    prop_assert_eq!((header.ssrc, header.sequence), (theirs.ssrc, theirs.sequence_number));
                }
                header.payload(BytesMut::from(&bytes[..]));
            }
        }
    }
}
