//! What a relay may send and describe: see `crate::fuzzing`.

use bytes::BytesMut;

use super::{
    describe::{Credentials, Local, MAX_CANDIDATES, Remote, candidate, read_fragment},
    rtp::header::Header,
};
use crate::connect::sdp::{Side, read};

/// An RTP packet that was opened. Whatever is read of it lies in it.
pub(crate) fn rtp(data: &[u8]) {
    let Some(header) = Header::parse(data) else { return };
    assert!(header.length <= data.len());
    for id in 0..=u8::MAX {
        if let Some(value) = header.extension(data, id) {
            let at = value.as_ptr() as usize - data.as_ptr() as usize;
            assert!(value.is_empty() || at >= 12 && at + value.len() <= header.length);
        }
    }
    if let Some(payload) = header.payload(BytesMut::from(data)) {
        assert!(payload.len() <= data.len() - header.length);
    }
}

/// What is new of a relay's, between descriptions.
pub(in crate::connect) fn fragment(data: &[u8]) -> bool {
    read_fragment(&String::from_utf8_lossy(data)).is_some_and(|(_, candidates)| candidates.len() <= MAX_CANDIDATES)
}

/// An offer. What we answer is a description to ourselves, and takes nothing but audio.
pub(crate) fn offer(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = candidate(&text);
    let Ok(description) = read(&text, Side::Offer) else { return };
    let Ok(remote) = Remote::read(&description.clean) else { return };
    assert!(remote.candidates.len() <= MAX_CANDIDATES);
    let credentials = Credentials { ufrag: "ours".into(), password: "p".repeat(24) };
    let candidates = vec!["1 1 udp 2130706431 127.0.0.1 5000 typ host".into()];
    let local =
        Local { id: 1, version: 2, credentials, fingerprint: "AA:BB".into(), candidates, trickles: false, data: false };
    for line in remote.answer(&local).lines().filter_map(|line| line.strip_prefix("m=")) {
        let mut words = line.split(' ');
        let (kind, port) = (words.next(), words.next());
        assert!(kind == Some("audio") || port == Some("0"), "{line}");
    }
}
