//! One connection's place at a TURN server (RFC 8656), without I/O: what it is sent through there, and what comes back.
//!
//! The server knows us by the address we speak to it from, so a place needs that address for itself.
//!
//! Its nonces grow stale, each ten minutes at coturn's own defaults. The client takes the new one from the refusal and asks
//! again only when it would have anyway, which for the place is too late, and for a channel wrong: it forgets a channel by
//! which the server goes on sending. So there are none: everything goes as indications, which need no nonce. The place is
//! renewed often, and what a stale nonce has refused is asked for again at once.

use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use mesh::wire::request::Secret;
use rtc::{
    crypto::RTCCryptoProvider,
    sansio::Protocol,
    shared::{TaggedBytesMut, TransportContext, TransportProtocol, error::Error},
    stun::{
        error_code::{CODE_STALE_NONCE, ErrorCodeAttribute},
        fingerprint::FINGERPRINT,
        message::{Getter, Message, TransactionId},
    },
    turn::{
        client::{Client, ClientConfig, Event},
        proto::{data::Data, peeraddr::PeerAddress, send_indication},
    },
};

use super::{super::ice_server::At, describe::MAX_CANDIDATES};

/// Before a request to the server is sent again, in milliseconds; doubled each time.
const FIRST_WAIT_MS: u64 = 300;

/// How often a place is renewed, and with it the nonce: a permission lasts 300 s and is renewed each 120 s, so that of two
/// renewals in a row one has a fresh nonce, if nonces last for three minutes.
const RENEWAL: Duration = Duration::from_secs(30);

/// How often in a row a stale nonce is answered at once.
const MAX_RETRIES: u8 = 3;

/// What answers to a renewal begin with (RFC 8489 section 5, RFC 8656 section 17).
const REFRESHED: [u8; 2] = [0x01, 0x04];
const NOT_REFRESHED: [u8; 2] = [0x01, 0x14];

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
    outward: VecDeque<BytesMut>,
    /// How often in a row a nonce was stale.
    stale: u8,
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
            allocation_refresh_interval_cap: Some(RENEWAL),
            ..ClientConfig::default()
        };
        let mut client = Client::new(config, provider)?;
        client.allocate(now)?;
        Ok(Self {
            client,
            local,
            at,
            relayed: None,
            peers: BTreeSet::new(),
            inward: VecDeque::new(),
            outward: VecDeque::new(),
            stale: 0,
        })
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
        let answer = self.renewal(bytes);
        if let Err(error) = self.client.handle_read(TaggedBytesMut { now, transport, message: BytesMut::from(bytes) }) {
            tracing::debug!(%error, "TURN");
        }
        match answer {
            Some(Renewal::Done) => self.stale = 0,
            Some(Renewal::Stale) if self.relayed.is_some() && self.may_retry() => {
                let _ = self.client.refresh_allocations(now);
            }
            _ => {}
        }
        self.settle(now)
    }

    /// What has come through it, and from which address of the relay's.
    pub(super) fn poll_inward(&mut self) -> Option<(SocketAddr, BytesMut)> {
        self.inward.pop_front()
    }

    /// Sends this through it. What the server does not allow yet falls there: checks and handshakes are repeated.
    pub(super) fn send(&mut self, to: SocketAddr, bytes: &[u8], now: Instant) {
        let Some(relayed) = self.relayed else { return };
        if !self.peers.contains(&to) && self.peers.len() >= 2 * MAX_CANDIDATES {
            return;
        }
        let Ok(mut relay) = self.client.relay(relayed) else { return };
        if self.peers.insert(to) {
            let _ = relay.create_permission(now, to);
        }
        let mut message = Message::new();
        let (ip, port) = (to.ip(), to.port());
        let built = message.build(&[
            Box::new(TransactionId::new()),
            Box::new(send_indication()),
            Box::new(Data(bytes.to_vec())),
            Box::new(PeerAddress { ip, port }),
            Box::new(FINGERPRINT),
        ]);
        if built.is_ok() {
            self.outward.push_back(BytesMut::from(&message.raw[..]));
        }
    }

    /// What the server answers to a renewal of the place.
    fn renewal(&self, bytes: &[u8]) -> Option<Renewal> {
        if ![REFRESHED, NOT_REFRESHED].contains(bytes.first_chunk()?) {
            return None;
        }
        let mut message = Message::new();
        message.raw = bytes.to_vec();
        message.decode().ok()?;
        if !self.client.has_transaction(&message.transaction_id) {
            return None;
        }
        if bytes.starts_with(&REFRESHED) {
            return Some(Renewal::Done);
        }
        let mut error = ErrorCodeAttribute::default();
        error.get_from(&message).ok()?;
        (error.code == CODE_STALE_NONCE).then_some(Renewal::Stale)
    }

    fn may_retry(&mut self) -> bool {
        self.stale = self.stale.saturating_add(1);
        self.stale <= MAX_RETRIES
    }

    /// The next datagram for the server.
    pub(super) fn poll_transmit(&mut self) -> Option<BytesMut> {
        self.client.poll_write().map(|message| message.message).or_else(|| self.outward.pop_front())
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<Outcome> {
        let _ = self.client.handle_timeout(now);
        self.settle(now)
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

    fn settle(&mut self, now: Instant) -> Option<Outcome> {
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
                Event::CreatePermissionError(_, Error::ErrTryAgain) if self.may_retry() => self.permit(now),
                Event::CreatePermissionResponse(..) => self.stale = 0,
                Event::CreatePermissionError(_, error) => tracing::debug!(%error, "TURN permission"),
                _ => {}
            }
        }
        outcome
    }

    /// Asks for the permissions that there are not.
    fn permit(&mut self, now: Instant) {
        let Some(relayed) = self.relayed else { return };
        let Ok(mut relay) = self.client.relay(relayed) else { return };
        for peer in &self.peers {
            let _ = relay.create_permission(now, *peer);
        }
    }
}

enum Renewal {
    Done,
    Stale,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "any instant will do to count from")]
mod tests;
