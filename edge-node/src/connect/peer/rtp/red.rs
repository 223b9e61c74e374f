//! Redundant audio (RFC 2198): the packet itself behind copies of those before it, which the jitter buffer can do without.

use bytes::{Buf, BytesMut};

/// The primary encoding in a payload, if it is of type `opus`; `None` if it is of another or the headers make no sense.
pub(super) fn primary(mut payload: BytesMut, opus: u8) -> Option<BytesMut> {
    let (mut head, mut copies) = (0, 0);
    // Headers of copies are of four bytes, with ten bits of length; the last header is one byte.
    while payload.get(head)? & 0x80 != 0 {
        let header = payload.get(head..head + 4)?;
        copies += usize::from(u16::from_be_bytes([header[2] & 0x03, header[3]]));
        head += 4;
    }
    let start = head + 1 + copies;
    if payload[head] != opus || payload.len() < start {
        return None;
    }
    payload.advance(start);
    Some(payload)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const OPUS: u8 = 111;

    #[test]
    fn the_last_block_is_the_packet_itself() {
        let copy = [0x80 | OPUS, 0, 0, 3];
        let two = [&copy[..], &copy, &[OPUS], b"oneTWOnew"].concat();
        assert_eq!(&primary(two[..].into(), OPUS).unwrap()[..], b"new");
        assert_eq!(&primary([&[OPUS], &b"new"[..]].concat()[..].into(), OPUS).unwrap()[..], b"new");
        assert_eq!(primary([&[9], &b"new"[..]].concat()[..].into(), OPUS), None, "another codec");
        assert_eq!(primary(two[..10].into(), OPUS), None, "cut short");
        assert_eq!(primary(BytesMut::new(), OPUS), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let length = bytes.len();
            prop_assert!(primary(bytes[..].into(), OPUS).is_none_or(|found| found.len() < length));
        }
    }
}
