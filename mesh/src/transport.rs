//! The QUIC endpoint: one UDP socket that dials and is dialled, every connection mutually
//! authenticated, its other end named by certificate.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

pub mod congestion;
mod queue_limit;
mod settings;

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use quinn::{ConnectError, Connection, ConnectionError, Endpoint, EndpointConfig, TransportConfig};
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};

pub(crate) use self::settings::DATAGRAM_BUFFER;
use self::settings::transport_config;
use crate::{
    identity::{
        Identity,
        certs::{BadCertificate, Credentials, Offered, Unacceptable, shown_ids},
    },
    tasks,
    wire::Version,
};

/// A dial or an inbound handshake may take this long.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// Connections one endpoint holds, both directions; beyond it inbound ones are refused.
pub const MAX_CONNECTIONS: usize = 1024;

/// Inbound handshakes under way at a time; beyond it they are refused.
const MAX_HANDSHAKES: usize = 128;

/// From this many handshakes on, an address must prove itself with a retry token (RFC 9000 section 8.1.2).
const RETRY_FROM: usize = 32;

/// Application error codes on connections and streams of the mesh.
pub mod close {
    use quinn::VarInt;

    /// Going away; nothing is wrong.
    pub const SHUTDOWN: VarInt = VarInt::from_u32(0);
    /// The certificate does not name a node of this mesh.
    pub const IDENTITY: VarInt = VarInt::from_u32(1);
    /// The certificate names another node than the one that was dialled.
    pub const WRONG_NODE: VarInt = VarInt::from_u32(2);
    /// A node that reached itself.
    pub const SELF: VarInt = VarInt::from_u32(3);
    /// The peer has too many connections already.
    pub const TOO_MANY: VarInt = VarInt::from_u32(4);
    /// The stream's first byte names no type this build knows.
    pub const UNKNOWN_STREAM: VarInt = VarInt::from_u32(5);
    /// The stream's first message was malformed or late.
    pub const MALFORMED: VarInt = VarInt::from_u32(6);
    /// Too many requests at a time.
    pub const BUSY: VarInt = VarInt::from_u32(7);
    /// The peer's certificate has expired since the handshake.
    pub const EXPIRED: VarInt = VarInt::from_u32(8);
    /// The peer's certificate has been revoked since the handshake.
    pub const REVOKED: VarInt = VarInt::from_u32(9);
    /// The authority of the peer's certificate is trusted no more.
    pub const UNTRUSTED: VarInt = VarInt::from_u32(10);
    /// A spurt was not read to its end, and is wanted again.
    pub const UNREAD: VarInt = VarInt::from_u32(11);
    /// The peer may not open such a stream here: [`crate::authorize`].
    pub const DENIED: VarInt = VarInt::from_u32(12);
    /// Another node with the peer's id answers elsewhere; the reason is its address.
    pub const TWIN: VarInt = VarInt::from_u32(14);
    /// The peer's certificate is not valid yet, by our clock.
    pub const NOT_YET_VALID: VarInt = VarInt::from_u32(13);
    /// The task that served the connection broke.
    pub const BROKEN: VarInt = VarInt::from_u32(15);
}

/// The endpoint. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Transport {
    endpoint: Endpoint,
    settings: Arc<TransportConfig>,
    credentials: Arc<watch::Sender<Credentials>>,
    handshakes: Arc<Semaphore>,
    /// What a dialler spoke of which this node speaks nothing.
    offered: Offered,
}

/// The socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on UDP {addr}: {source}")]
pub struct BindError {
    addr: SocketAddr,
    source: io::Error,
}

/// Why a handshake did not end in a connection to a node of this mesh.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// No answer in [`HANDSHAKE_DEADLINE`].
    #[error("no answer in {HANDSHAKE_DEADLINE:?}")]
    Deadline,
    /// The address is of a family that the own socket does not speak.
    #[error(
        "{to} cannot be reached from {listen}, where this node listens (mesh.listen): `[::]` speaks both IPv4 and IPv6"
    )]
    Family {
        /// Whom.
        to: SocketAddr,
        /// The own socket's address.
        listen: SocketAddr,
    },
    /// The address cannot be dialled from here.
    #[error("cannot be dialled: {0}")]
    Address(#[from] quinn::ConnectError),
    /// There is no wire version that both speak (RFC 7301 section 3.2).
    #[error("no common wire version: this node speaks {ours}, the other one {theirs}")]
    Version {
        /// What this node speaks.
        ours: String,
        /// What the other one does, as far as it said.
        theirs: String,
    },
    /// QUIC or TLS refused, on this side or the other.
    #[error("handshake failed: {0}")]
    Connection(#[from] ConnectionError),
    /// A valid certificate that does not name a node of this mesh.
    #[error("refused: {0}")]
    Identity(#[from] BadCertificate),
}

impl HandshakeError {
    /// Whether somebody was there and one side would not have the other.
    pub fn is_refusal(&self) -> bool {
        let reason = self.reason();
        reason.starts_with("certificate") || matches!(reason, "trust_domain" | "identity" | "version")
    }

    /// The `reason` label under which this is counted.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::Address(_) => "address",
            Self::Family { .. } => "family",
            Self::Version { .. } => "version",
            Self::Connection(e) => connection_reason(e),
            Self::Identity(BadCertificate::Identity(crate::identity::BadIdentity::TrustDomain { .. })) => {
                "trust_domain"
            }
            Self::Identity(_) => "identity",
        }
    }
}

/// A short fixed word for why a connection ended, fit for a metric's label.
pub fn connection_reason(error: &ConnectionError) -> &'static str {
    match error {
        ConnectionError::TransportError(e) => tls_reason(e.code.into()).unwrap_or("protocol"),
        ConnectionError::ConnectionClosed(e) => tls_reason(e.error_code.into()).unwrap_or("protocol"),
        ConnectionError::ApplicationClosed(e) => match e.error_code {
            close::EXPIRED => Unacceptable::Expired.reason(),
            close::REVOKED => Unacceptable::Revoked.reason(),
            close::NOT_YET_VALID => Unacceptable::NotYetValid.reason(),
            close::UNTRUSTED => Unacceptable::Untrusted.reason(),
            _ => "closed_by_peer",
        },
        ConnectionError::LocallyClosed => "closed",
        ConnectionError::TimedOut => "timeout",
        ConnectionError::Reset => "reset",
        _ => "protocol",
    }
}

/// `no_application_protocol`, as a transport error.
const NO_COMMON_VERSION: u64 = 0x178;

/// TLS alerts are transport errors 0x100 to 0x1ff (RFC 9001 section 4.8); which one is in the low byte (RFC 8446 section 6).
fn tls_reason(code: u64) -> Option<&'static str> {
    match code {
        0x12d => Some(Unacceptable::Expired.reason()),
        0x12c => Some(Unacceptable::Revoked.reason()),
        NO_COMMON_VERSION => Some("version"),
        0x100..0x200 => Some(Unacceptable::Untrusted.reason()),
        _ => None,
    }
}

impl Transport {
    /// Opens `listen` and serves on it with `credentials`.
    ///
    /// # Errors
    /// The address is in use or not this machine's. Must be called within a tokio runtime.
    pub fn bind(listen: SocketAddr, credentials: Credentials) -> Result<Self, BindError> {
        let fail = |source| BindError { addr: listen, source };
        let config = Arc::new(transport_config());
        let offered = Offered::default();
        let server = server_config(&credentials, &offered, &config).map_err(fail)?;

        let socket = std::net::UdpSocket::bind(listen).map_err(fail)?;
        let runtime = quinn::default_runtime().ok_or_else(|| fail(io::Error::other("no tokio runtime")))?;
        let endpoint = Endpoint::new(EndpointConfig::default(), Some(server), socket, runtime).map_err(fail)?;
        Ok(Self {
            endpoint,
            settings: config,
            credentials: Arc::new(watch::Sender::new(credentials)),
            handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
            offered,
        })
    }

    /// Has every handshake from now on use `credentials`. Connections that are there live on; who minds asks
    /// [`Credentials::check`] about them.
    ///
    /// # Errors
    /// The TLS library has no cipher suite for QUIC's first packets, which ours always has.
    pub fn renew(&self, credentials: Credentials) -> io::Result<()> {
        self.endpoint.set_server_config(Some(server_config(&credentials, &self.offered, &self.settings)?));
        self.credentials.send_replace(credentials);
        Ok(())
    }

    /// What it proves itself with now.
    pub fn credentials(&self) -> Credentials {
        self.credentials.borrow().clone()
    }

    /// The same, and every renewal of it.
    pub fn renewals(&self) -> watch::Receiver<Credentials> {
        self.credentials.subscribe()
    }

    /// Dials `addr` and learns who is there.
    ///
    /// # Errors
    /// Any [`HandshakeError`]; a peer that names no node of this mesh has been closed on.
    pub async fn dial(&self, addr: SocketAddr) -> Result<(Identity, Connection), HandshakeError> {
        if let Some(listen) = self.local_addr().ok().filter(|listen| !speaks(*listen, addr)) {
            return Err(HandshakeError::Family { to: addr, listen });
        }
        let credentials = self.credentials();
        let tls = credentials.client().map_err(|e| ConnectError::InvalidServerName(e.to_string()));
        let mut config = quinn::ClientConfig::new(Arc::new(tls?));
        config.transport_config(self.settings.clone());
        let connecting = self.endpoint.connect_with(config, addr, &credentials.server_name())?;
        let connected = timeout(HANDSHAKE_DEADLINE, connecting).await.map_err(|_| HandshakeError::Deadline)?;
        let connection = connected.map_err(|e| self.failed(e, || "none of these".to_owned()))?;
        self.identify(connection)
    }

    /// Runs inbound handshakes, each in a task of its own, and hands on what comes of them, until the endpoint closes.
    pub async fn accept<F>(&self, done: F)
    where
        F: Fn(SocketAddr, Result<(Identity, Connection), HandshakeError>) + Clone + Send + 'static,
    {
        while let Some(incoming) = self.endpoint.accept().await {
            let Ok(permit) = self.handshakes.clone().try_acquire_owned() else {
                metrics::counter!("nearfield_mesh_peers_refused_total", "reason" => "handshakes").increment(1);
                incoming.refuse();
                continue;
            };
            if self.endpoint.open_connections() >= MAX_CONNECTIONS {
                metrics::counter!("nearfield_mesh_peers_refused_total", "reason" => "connections").increment(1);
                incoming.refuse();
                continue;
            }
            let under_way = MAX_HANDSHAKES - self.handshakes.available_permits();
            if under_way > RETRY_FROM && incoming.may_retry() && !incoming.remote_address_validated() {
                // It can only fail for an address that has been validated, which we have just excluded.
                let _ = incoming.retry();
                continue;
            }
            let (transport, done) = (self.clone(), done.clone());
            tasks::once("handshake", async move {
                let from = incoming.remote_address();
                let outcome = transport.welcome(incoming).await;
                done(from, outcome);
                drop(permit);
            });
        }
    }

    async fn welcome(&self, incoming: quinn::Incoming) -> Result<(Identity, Connection), HandshakeError> {
        let connected = timeout(HANDSHAKE_DEADLINE, incoming).await.map_err(|_| HandshakeError::Deadline)?;
        let theirs = || self.offered.take().unwrap_or_else(|| "none of these".to_owned());
        let connection = connected.map_err(|e| self.failed(e, theirs))?;
        self.identify(connection)
    }

    fn failed(&self, error: ConnectionError, theirs: impl FnOnce() -> String) -> HandshakeError {
        if connection_reason(&error) != "version" {
            return error.into();
        }
        let ours = self.wire().offer();
        HandshakeError::Version { ours: shown_ids(ours.iter().map(Vec::as_slice)), theirs: theirs() }
    }

    fn identify(&self, connection: Connection) -> Result<(Identity, Connection), HandshakeError> {
        match self.credentials().identify(&connection) {
            Ok(identity) => Ok((identity, connection)),
            Err(e) => {
                connection.close(close::IDENTITY, b"certificate names no node of this mesh");
                Err(e.into())
            }
        }
    }

    /// The newest version this endpoint offers its peers.
    pub fn wire(&self) -> Version {
        self.credentials.borrow().wire()
    }

    /// The address the socket has got.
    ///
    /// # Errors
    /// The system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Says goodbye on every connection and waits, at most `deadline`, for the packets to be out.
    pub async fn shutdown(&self, deadline: Duration) {
        self.endpoint.close(close::SHUTDOWN, b"shutdown");
        if timeout(deadline, self.endpoint.wait_idle()).await.is_err() {
            tracing::debug!(?deadline, "connections still draining");
        }
    }

    /// Waits until the datagrams given to `connections` have left, at most until `deadline`.
    pub async fn flush(connections: &[Connection], deadline: Instant) {
        let unsent = |c: &Connection| c.close_reason().is_none() && c.datagram_send_buffer_space() < DATAGRAM_BUFFER;
        while Instant::now() < deadline && connections.iter().any(unsent) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Whether a socket that is bound to `listen` can send to `addr`.
fn speaks(listen: SocketAddr, addr: SocketAddr) -> bool {
    let both = listen.is_ipv6() && listen.ip().is_unspecified();
    both || listen.ip().to_canonical().is_ipv4() == addr.ip().to_canonical().is_ipv4()
}

fn server_config(
    credentials: &Credentials,
    offered: &Offered,
    settings: &Arc<TransportConfig>,
) -> io::Result<quinn::ServerConfig> {
    let tls = credentials.server(offered).map_err(io::Error::other)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(settings.clone());
    // Waiting for our accept loop, which only ever dispatches: a few hundred is a flood already.
    config.max_incoming(256);
    Ok(config)
}

#[cfg(test)]
pub(crate) mod tests;
