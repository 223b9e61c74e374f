//! The other side of a connection's keys.

use std::net::SocketAddr;

use bytes::BytesMut;
use rtc::{rtp::Header, shared::marshal::Marshal};

use super::Session;

impl Session {
    /// A packet as the other side would open it, and where that is.
    pub(in super::super) fn protect(&mut self, header: &Header, payload: &[u8]) -> (BytesMut, SocketAddr) {
        let mut plain = Marshal::marshal(header).expect("a header of ours");
        plain.extend_from_slice(payload);
        let (reports, path) = (self.reports.as_mut().expect("keys"), self.path.expect("a path"));
        (reports.ours.encrypt_rtp_with_header(&plain, header).expect("our keys"), path.1)
    }
}
