//! DNS over TCP (RFC 7766): so many connections at a time, and each is closed when it asks nothing.
//!
//! hickory-server's own listener has no bound, and spins while the process may open no more files.

mod places;

use std::{convert::Infallible, io, net::SocketAddr, time::Duration};

use futures_util::StreamExt;
use hickory_proto::op::{Header, MessageType, ResponseCode};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use hickory_server::{
    net::{
        BufDnsStreamHandle,
        runtime::{TokioTime, iocompat::AsyncIoTokioAsStd},
        tcp::TcpStream as DnsStream,
        xfer::Protocol,
    },
    server::{Request, RequestHandler, ResponseHandle, ResponseHandler, TimeoutStream},
    zone_handler::{MessageResponseBuilder, Queries},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep},
};

use self::places::Places;
use super::handler::Handler;

/// Responses that one connection may have waiting: then no more questions are read from it.
const RESPONSES: usize = 32;

/// How long nothing is accepted after the system had no more file descriptors or memory.
const RESPITE: Duration = Duration::from_millis(100);

/// How often the log tells of connections that could not be accepted, at most.
const TELL: Duration = Duration::from_secs(60);

/// Where connections come from.
pub(super) trait Listener {
    fn accept(&mut self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send;
}

impl Listener for TcpListener {
    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        TcpListener::accept(self).await
    }
}

/// A listener and its connections.
pub(super) struct Tcp<L> {
    listener: L,
    handler: Handler,
    idle: Duration,
    places: Places<AbortHandle>,
    connections: JoinSet<()>,
    told: Option<Instant>,
}

impl<L: Listener> Tcp<L> {
    pub(super) fn new(listener: L, handler: Handler, idle: Duration, most: usize) -> Self {
        Self { listener, handler, idle, places: Places::new(most), connections: JoinSet::new(), told: None }
    }

    /// Serves for as long as it is polled; dropped, it closes all connections.
    pub(super) async fn run(mut self) -> Infallible {
        loop {
            tokio::select! {
                Some(ended) = self.connections.join_next_with_id() => {
                    let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                    self.places.leave(|there| there.id() == id);
                }
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, from)) => self.take(stream, from),
                    Err(error) if of_one_connection(&error) => {}
                    Err(error) => self.wait(&error).await,
                },
            }
            metrics::gauge!("nearfield_geo_dns_tcp_connections").set(self.places.len() as f64);
        }
    }

    fn take(&mut self, stream: TcpStream, from: SocketAddr) {
        if from.port() == 0 || from.ip().is_unspecified() {
            return; // nobody to answer to
        }
        let ip = from.ip().to_canonical();
        if self.places.is_full() {
            self.make_room(Some(ip));
        }
        let keep = keep(stream, from, self.handler.clone(), self.idle);
        self.places.take(ip, self.connections.spawn(keep));
    }

    fn make_room(&mut self, newcomer: Option<std::net::IpAddr>) {
        if let Some(former) = self.places.give_up(newcomer) {
            former.abort();
            metrics::counter!("nearfield_geo_dns_tcp_replaced_total").increment(1);
        }
    }

    /// The system is short of file descriptors or memory: one connection makes room, and nobody is accepted for a moment.
    async fn wait(&mut self, error: &io::Error) {
        self.make_room(None);
        let now = Instant::now();
        if self.told.is_none_or(|told| told + TELL <= now) {
            self.told = Some(now);
            tracing::error!(%error, "DNS connections over TCP cannot be accepted");
        }
        sleep(RESPITE).await;
    }
}

/// Answers what is asked on one connection, until it ends or asks nothing for `idle`.
async fn keep(stream: TcpStream, from: SocketAddr, handler: Handler, idle: Duration) {
    let stream = AsyncIoTokioAsStd(stream);
    let (stream, replies) = DnsStream::from_stream_with_buffer_size(stream, from, RESPONSES);
    let mut stream = TimeoutStream::new(stream, idle);
    while let Some(Ok(message)) = stream.next().await {
        let (bytes, _) = message.into_parts();
        // In order, so that one client gets no more than its turn.
        answer(&handler, bytes, from, replies.clone()).await;
    }
}

async fn answer(handler: &Handler, bytes: Vec<u8>, from: SocketAddr, replies: BufDnsStreamHandle) {
    let Ok(header) = Header::read(&mut BinDecoder::new(&bytes)) else { return };
    let mut reply = ResponseHandle::new(from, replies, Protocol::Tcp);
    if header.metadata.message_type == MessageType::Response {
        return; // or two servers could be made to talk for ever
    }
    match Request::from_bytes(bytes, from, Protocol::Tcp) {
        Ok(request) => drop(handler.handle_request::<_, TokioTime>(&request, reply).await),
        Err(_) => {
            let Ok(none) = Queries::read(&mut BinDecoder::new(&[]), 0) else { return };
            let malformed = MessageResponseBuilder::new(&none, None);
            // The caller may be gone.
            let _ = reply.send_response(malformed.error_msg(&header.metadata, ResponseCode::FormErr)).await;
        }
    }
}

/// A connection that ended before it was accepted; the listener is well.
fn of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;
    use crate::answer::{Settings, Zone};

    /// Of a process that may open no more files.
    #[derive(Clone, Default)]
    struct Short(Arc<AtomicUsize>);

    impl Listener for Short {
        async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Err(io::Error::from_raw_os_error(24)) // EMFILE
        }
    }

    #[tokio::test(start_paused = true)]
    async fn out_of_file_descriptors_it_waits_and_does_not_spin() {
        let (_directory, directory) = tokio::sync::watch::channel(Arc::default());
        let zone = Zone::new(Settings { domain: "mesh.example".into(), ..Settings::default() }).unwrap();
        let short = Short::default();
        let tcp = Tcp::new(short.clone(), Handler::new(zone, directory), Duration::from_secs(5), 8);
        let second = tokio::time::timeout(Duration::from_secs(1), tcp.run()).await;
        assert!(second.is_err());
        let tries = short.0.load(Ordering::Relaxed);
        assert!((8..=12).contains(&tries), "{tries}: once each tenth of a second");
    }
}
