//! The sockets around [`answer`]: UDP and TCP on one address, by hickory-server.
//!
//! Not here: DNS over TLS and QUIC, EDNS Client Subnet, DNSSEC, rate limiting. TCP connections are bounded in number
//! and by their idle time.

mod handler;
mod tcp;

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use hickory_server::net::NetError;
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::watch,
};

use self::{handler::Handler, tcp::Tcp};
use crate::answer::{self, BadSettings, Directory, Zone};

/// Deadline "stop": for questions that came by UDP to be answered once no new ones are taken.
const STOP: Duration = Duration::from_secs(2);

/// How often a port that the system chose for TCP may turn out to be taken for UDP.
const PORT_TRIES: usize = 16;

/// What an operator chooses.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen, UDP and TCP alike. Port 0 lets the system choose one that is free for both. Default
    /// `127.0.0.1:5300`: 53 needs privileges, and an open server should be a decision.
    pub listen: SocketAddr,
    /// Deadline "idle": a TCP connection without a question for this long is closed; 1 s to 2 min. Default 5 s:
    /// resolvers that keep connections open (RFC 7766) gain little from a server whose answers they cache.
    pub tcp_idle: Duration,
    /// TCP connections at a time, 1 to 10,000; a newcomer takes the place of the oldest of whoever has the most. Default
    /// 128: resolvers use TCP for answers that are too long for a datagram.
    pub tcp_connections: usize,
    /// The zone.
    pub zone: answer::Settings,
}

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The operator's: a setting of the zone.
    #[error(transparent)]
    Zone(#[from] BadSettings),
    /// The operator's: the idle deadline.
    #[error("tcp_idle is {0:?}: allowed are 1 s to 2 min")]
    TcpIdle(Duration),
    /// The operator's: the number of connections.
    #[error("tcp_connections is {0}: allowed are 1 to 10,000")]
    TcpConnections(usize),
    /// The machine's: the address cannot be used.
    #[error("cannot listen on {addr} ({protocol}): {error}")]
    Listen {
        /// Which address.
        addr: SocketAddr,
        /// `udp` or `tcp`.
        protocol: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// A socket broke while serving.
    #[error("a DNS socket failed: {0}")]
    Socket(#[from] NetError),
}

/// A server whose sockets are bound.
pub struct Server {
    inner: hickory_server::Server<Handler>,
    tcp: Tcp<TcpListener>,
    addr: SocketAddr,
}

/// Binds and serves until `stop` completes.
///
/// # Errors
/// As [`Server::bind`] and [`Server::run`].
pub async fn serve(
    settings: Settings,
    directory: watch::Receiver<Arc<Directory>>,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    Server::bind(settings, directory).await?.run(stop).await
}

impl Server {
    /// Binds the sockets and begins to answer from whatever `directory` holds at each question.
    ///
    /// # Errors
    /// A setting is out of range, or the address cannot be used.
    pub async fn bind(settings: Settings, directory: watch::Receiver<Arc<Directory>>) -> Result<Self, ServeError> {
        if !(Duration::from_secs(1)..=Duration::from_secs(120)).contains(&settings.tcp_idle) {
            return Err(ServeError::TcpIdle(settings.tcp_idle));
        }
        if !(1..=10_000).contains(&settings.tcp_connections) {
            return Err(ServeError::TcpConnections(settings.tcp_connections));
        }
        let handler = Handler::new(Zone::new(settings.zone)?, directory);
        let mut inner = hickory_server::Server::new(handler.clone());
        let (udp, tcp, addr) = bind(settings.listen).await?;
        inner.register_socket(udp);
        let tcp = Tcp::new(tcp, handler, settings.tcp_idle, settings.tcp_connections);
        tracing::info!(%addr, "answering DNS");
        Ok(Self { inner, tcp, addr })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until `stop` completes; then closes what came by TCP, takes no more questions, and returns once those that
    /// came by UDP are answered or their deadline is over.
    ///
    /// # Errors
    /// A socket failed.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
        tokio::select! {
            () = stop => {}
            ended = self.inner.block_until_done() => return Ok(ended?),
            never = self.tcp.run() => match never {},
        }
        match tokio::time::timeout(STOP, self.inner.shutdown_gracefully()).await {
            Ok(ended) => Ok(ended?),
            Err(_) => Ok(()),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 5300)),
            tcp_idle: Duration::from_secs(5),
            tcp_connections: 128,
            zone: answer::Settings::default(),
        }
    }
}

async fn bind(listen: SocketAddr) -> Result<(UdpSocket, TcpListener, SocketAddr), ServeError> {
    let mut tries = if listen.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        match bind_once(listen).await {
            Err(ServeError::Listen { protocol: "udp", .. }) if tries > 0 => {}
            done => return done,
        }
    }
}

async fn bind_once(listen: SocketAddr) -> Result<(UdpSocket, TcpListener, SocketAddr), ServeError> {
    let refused = |protocol| move |error| ServeError::Listen { addr: listen, protocol, error };
    let tcp = TcpListener::bind(listen).await.map_err(refused("tcp"))?;
    let addr = tcp.local_addr().map_err(refused("tcp"))?;
    let udp = UdpSocket::bind(addr).await.map_err(refused("udp"))?;
    Ok((udp, tcp, addr))
}
