//! One connection's place at a TURN server (RFC 8656), without I/O: what it is sent through there, and what comes back.
//!
//! The server knows us by the address we speak to it from, so a place needs that address for itself.

use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Instant,
};

use bytes::BytesMut;
use mesh::wire::request::Secret;
use rtc::{
    crypto::RTCCryptoProvider,
    sansio::Protocol,
    shared::{TaggedBytesMut, TransportContext, TransportProtocol, error::Error},
    turn::client::{Client, ClientConfig, Event},
};

use super::{super::ice_server::At, describe::MAX_CANDIDATES};

/// Before a request to the server is sent again, in milliseconds; doubled each time.
const FIRST_WAIT_MS: u64 = 300;

/// A place at a server, or the wish for one.
pub(super) struct Turn {
    client: Client,
    /// From where we speak to the server.
    local: SocketAddr,
    at: At,
    relayed: Option<SocketAddr>,
    /// Addresses of the relay's that something was sent to.
    peers: BTreeSet<SocketAddr>,
    inward: VecDeque<(SocketAddr, BytesMut)>,
}

/// What became of the wish.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// This is our address there.
    Granted(SocketAddr),
    /// Its reason.
    Refused(String),
}

impl Turn {
    /// Asks for a place.
    pub(super) fn new(
        (at, username, credential): (At, String, Secret),
        local: SocketAddr,
        provider: Arc<dyn RTCCryptoProvider>,
        now: Instant,
    ) -> Result<Self, Error> {
        let config = ClientConfig {
            turn_serv_addr: at.address.to_string(),
            local_addr: local,
            transport_protocol: if at.tcp { TransportProtocol::TCP } else { TransportProtocol::UDP },
            username,
            password: credential.0,
            rto_in_ms: FIRST_WAIT_MS,
            ..ClientConfig::default()
        };
        let mut client = Client::new(config, provider)?;
        client.allocate(now)?;
        Ok(Self { client, local, at, relayed: None, peers: BTreeSet::new(), inward: VecDeque::new() })
    }

    /// Where the server is.
    pub(super) fn at(&self) -> At {
        self.at
    }

    /// From where we speak to it.
    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Our address there, once there is one.
    pub(super) fn relayed(&self) -> Option<SocketAddr> {
        self.relayed
    }

    /// Takes what the server sent.
    pub(super) fn handle(&mut self, bytes: &[u8], now: Instant) -> Option<Outcome> {
        let transport = TransportContext {
            local_addr: self.local,
            peer_addr: self.at.address,
            transport_protocol: if self.at.tcp { TransportProtocol::TCP } else { TransportProtocol::UDP },
            ecn: None,
        };
        if let Err(error) = self.client.handle_read(TaggedBytesMut { now, transport, message: BytesMut::from(bytes) }) {
            tracing::debug!(%error, "TURN");
        }
        self.settle()
    }

    /// What has come through it, and from which address of the relay's.
    pub(super) fn poll_inward(&mut self) -> Option<(SocketAddr, BytesMut)> {
        self.inward.pop_front()
    }

    /// Sends this through it. What the server does not allow yet falls: checks and handshakes are repeated.
    pub(super) fn send(&mut self, to: SocketAddr, bytes: &[u8], now: Instant) {
        let Some(relayed) = self.relayed else { return };
        if !self.peers.contains(&to) && self.peers.len() >= 2 * MAX_CANDIDATES {
            return;
        }
        let Ok(mut relay) = self.client.relay(relayed) else { return };
        if self.peers.insert(to) {
            let _ = relay.create_permission(now, to);
        }
        let _ = relay.send_to(now, bytes, to);
    }

    /// The next datagram for the server.
    pub(super) fn poll_transmit(&mut self) -> Option<BytesMut> {
        self.client.poll_write().map(|message| message.message)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<Outcome> {
        let _ = self.client.handle_timeout(now);
        self.settle()
    }

    pub(super) fn poll_timeout(&mut self) -> Option<Instant> {
        self.client.poll_timeout()
    }

    /// Gives the place back.
    pub(super) fn close(&mut self, now: Instant) {
        if let Some(relayed) = self.relayed.take()
            && let Ok(mut relay) = self.client.relay(relayed)
        {
            let _ = relay.close(now);
        }
    }

    fn settle(&mut self) -> Option<Outcome> {
        let mut outcome = None;
        while let Some(event) = self.client.poll_event() {
            match event {
                Event::AllocateResponse(_, relayed) => {
                    self.relayed = Some(relayed);
                    outcome = Some(Outcome::Granted(relayed));
                }
                Event::AllocateError(_, error) => outcome = Some(Outcome::Refused(super::cut(&error.to_string(), 200))),
                Event::TransactionTimeout(_) if self.relayed.is_none() => {
                    outcome = Some(Outcome::Refused("it does not answer".into()));
                }
                // Of strangers nothing comes through: the server lets pass whom we permitted.
                Event::DataIndicationOrChannelData(_, peer, bytes) => self.inward.push_back((peer, bytes)),
                Event::CreatePermissionError(_, error) => tracing::debug!(%error, "TURN permission"),
                _ => {}
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "any instant will do to count from")]
    use proptest::prelude::*;
    use rtc::crypto::default_provider;

    use super::*;

    fn turn(now: Instant) -> Turn {
        let at = At { address: SocketAddr::from(([127, 0, 0, 1], 3478)), tcp: false };
        let local = SocketAddr::from(([127, 0, 0, 1], 5000));
        Turn::new((at, "u".into(), Secret("p".into())), local, default_provider().unwrap(), now).unwrap()
    }

    #[test]
    fn a_server_that_does_not_answer_is_asked_again_and_then_given_up() {
        let mut now = Instant::now();
        let (mut turn, begun, mut asked) = (turn(now), now, 0);
        let outcome = loop {
            asked += std::iter::from_fn(|| turn.poll_transmit()).count();
            now = turn.poll_timeout().unwrap();
            if let Some(outcome) = turn.handle_timeout(now) {
                break outcome;
            }
        };
        assert_eq!(outcome, Outcome::Refused("it does not answer".into()));
        assert!(
            (3..20).contains(&asked) && now - begun < std::time::Duration::from_secs(120),
            "{asked} {:?}",
            now - begun
        );
        turn.send(SocketAddr::from(([127, 0, 0, 1], 1)), b"x", now);
        assert!(turn.poll_transmit().is_none(), "there is no way to send");
    }

    proptest! {
        #[test]
        fn a_server_may_say_anything(
            kind in prop::sample::select(vec![[0x01u8, 0x03], [0x01, 0x13], [0x00, 0x17], [0x40, 0x00], [0x00, 0x01]]),
            rest in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let now = Instant::now();
            let mut turn = turn(now);
            let asked = turn.poll_transmit().unwrap();
            // As an answer to what was asked, too.
            let mut bytes = [&kind[..], &(rest.len() as u16).to_be_bytes(), &asked[4..20], &rest].concat();
            turn.handle(&bytes, now);
            bytes.truncate(rest.len());
            turn.handle(&bytes, now);
            while turn.poll_inward().is_some() {}
            prop_assert!(turn.relayed().is_none() || kind == [0x01, 0x03]);
        }
    }
}
