//! HTTP/1.1 for programs that strangers can reach: every connection has a deadline, and a newcomer gets in.
//!
//! **Follow one connection.** [`serve`] accepts it if the `table` has a place for it, or takes one from a connection that waits for
//! its client. `watched` tells the connection's `progress` what its client does; once a second the table closes those whose
//! deadline is over. A handler finds its [`Client`] in the request's extensions; streams ask it when to end.

mod progress;
mod table;
mod watched;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{Router, extract::ConnectInfo};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use self::{
    progress::{Over, Progress},
    table::{Admission, Table},
    watched::Watched,
};
use crate::{
    share::Address,
    tasks::{self, Tasks},
};

/// Bytes that the head of a request may have, and that wait in this process to be written.
const BUFFER: usize = 64 * 1024;

/// Bytes that wait in the kernel to be sent: what a client does not read soon shows as a write that blocks.
const UNSENT: u32 = 16 * 1024;

/// After so long without any answer of the peer's machine the kernel closes the connection.
const DEAD: Duration = Duration::from_secs(60);

/// How often deadlines are looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// How long nothing is accepted after the system had no more file descriptors or memory.
const RESPITE: Duration = Duration::from_millis(100);

/// How often the log tells of refused connections, at most.
const TELL: Duration = Duration::from_secs(60);

/// How many connections there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// At a time; beyond it one that waits for its client makes room. Never more than half of the process's file descriptors.
    pub connections: usize,
    /// Of those, from one address (of IPv6, one /64).
    pub per_address: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 1024, per_address: 512 }
    }
}

/// Who sent a request: an extension of every request that came through [`serve`].
#[derive(Debug, Clone)]
pub struct Client {
    /// From where.
    pub addr: SocketAddr,
    /// Cancelled when it has read nothing for a while; the connection ends a few seconds later.
    pub stalled: CancellationToken,
}

/// Listens on `listen` and serves `router` in a task of its own. Returns where it listens.
///
/// # Errors
/// The address is taken or not this machine's; the error names it.
pub async fn serve(listen: SocketAddr, router: Router, limits: Limits, tasks: &Tasks) -> io::Result<SocketAddr> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot listen on {listen} (TCP): {e}"));
    let listener = TcpListener::bind(listen).await.map_err(named)?;
    let addr = listener.local_addr()?;
    let connections = limits.connections.min(descriptors() / 2).max(1);
    if connections < limits.connections {
        warn!(connections, "fewer HTTP connections than configured: the process may open too few files");
    }
    let door = Door::new(router, Limits { connections, ..limits });
    let server = Arc::new(tokio::sync::Mutex::new(Server { listener, door }));
    tasks.keep("http", move || {
        let server = server.clone();
        async move { server.lock().await.run().await }
    });
    Ok(addr)
}

/// The files that this process may open.
pub fn descriptors() -> usize {
    use nix::sys::resource::{Resource, getrlimit};
    getrlimit(Resource::RLIMIT_NOFILE).map_or(usize::MAX, |(soft, _)| usize::try_from(soft).unwrap_or(usize::MAX))
}

/// How a connection is ended.
#[derive(Debug, Clone, Default)]
struct Ends {
    stalled: CancellationToken,
    closed: CancellationToken,
}

struct Server {
    listener: TcpListener,
    door: Door,
}

impl Server {
    async fn run(&mut self) {
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                now = sweep.tick() => self.door.sweep(now),
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, addr)) => self.take(stream, addr),
                    Err(error) if of_one_connection(&error) => {}
                    Err(error) => {
                        self.door.handle_short(&error);
                        tokio::time::sleep(RESPITE).await;
                    }
                },
            }
        }
    }

    fn take(&mut self, stream: TcpStream, addr: SocketAddr) {
        // What fails here fails with the first read as well.
        let socket = socket2::SockRef::from(&stream);
        let _ = socket.set_tcp_nodelay(true);
        let _ = socket.set_tcp_notsent_lowat(UNSENT);
        let _ = socket.set_tcp_user_timeout(Some(DEAD));
        let Some(place) = self.door.admit(addr) else { return };
        let router = self.door.router.clone();
        tasks::once("http connection", async move {
            // Buffers are for those who say something.
            let said = tokio::select! {
                () = place.ends.closed.cancelled() => false,
                ready = stream.readable() => ready.is_ok(),
            };
            if said {
                // Boxed, so that the task of one that says nothing is small.
                Box::pin(place.keep(stream, router)).await;
            }
        });
    }
}

/// Decides who comes in, and who must go.
struct Door {
    router: Router,
    table: Arc<Mutex<Table<Ends>>>,
    /// When the log last told of refused connections.
    told: Option<Instant>,
}

impl Door {
    fn new(router: Router, limits: Limits) -> Self {
        Self { router, table: Arc::new(Mutex::new(Table::new(limits))), told: None }
    }

    /// A place for a connection from `addr`, if there is one.
    fn admit(&mut self, addr: SocketAddr) -> Option<Place> {
        let ends = Ends::default();
        let progress = Arc::new(Mutex::new(Progress::new(Instant::now())));
        let admission = lock(&self.table).admit(Address::of(addr.ip()), progress.clone(), ends.clone());
        let id = match admission {
            Admission::Free(id) => id,
            Admission::InsteadOf(id, former) => {
                former.closed.cancel();
                closed("replaced");
                id
            }
            Admission::Full => {
                closed("refused");
                self.tell("an HTTP connection was refused: all places, or all of its address, are in use");
                return None;
            }
        };
        Some(Place { addr, ends, progress, _seat: Seat { table: self.table.clone(), id } })
    }

    fn sweep(&mut self, now: Instant) {
        let mut table = lock(&self.table);
        for (ends, over) in table.over(now) {
            match over {
                Over::Stalled => ends.stalled.cancel(),
                Over::Closed(why) => {
                    ends.closed.cancel();
                    closed(why);
                }
            }
        }
        metrics::gauge!("nearfield_http_connections").set(table.len() as f64);
    }

    /// The system is short of descriptors or memory: one connection makes room.
    fn handle_short(&mut self, error: &io::Error) {
        let former = lock(&self.table).give_up();
        if let Some(former) = former {
            former.closed.cancel();
            closed("replaced");
        }
        self.tell(&format!("HTTP connections cannot be accepted: {error}"));
    }

    fn tell(&mut self, what: &str) {
        let now = Instant::now();
        if self.told.is_none_or(|told| now.duration_since(told) >= TELL) {
            self.told = Some(now);
            error!("{what}");
        }
    }
}

/// A connection that was let in.
struct Place {
    addr: SocketAddr,
    ends: Ends,
    progress: Arc<Mutex<Progress>>,
    _seat: Seat,
}

/// Its place in the table; given back when this is dropped.
struct Seat {
    table: Arc<Mutex<Table<Ends>>>,
    id: u64,
}

impl Drop for Seat {
    fn drop(&mut self) {
        lock(&self.table).leave(self.id);
    }
}

impl Place {
    /// Serves the connection until it ends or is told to.
    async fn keep<S>(self, stream: S, router: Router)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (watching, io) = (self.progress.clone(), TokioIo::new(Watched::new(stream, self.progress)));
        let client = Client { addr: self.addr, stalled: self.ends.stalled };
        let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let mut request = watched::request(request, &watching);
            request.extensions_mut().insert(ConnectInfo(client.addr));
            request.extensions_mut().insert(client.clone());
            let owed = watched::Answer::of(&watching);
            let answer = tower::Service::call(&mut router.clone(), request);
            async move { answer.await.map(|answer| owed.watch(answer)) }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        // The table has the deadlines.
        http.max_buf_size(BUFFER).header_read_timeout(None);
        tokio::select! {
            biased;
            () = self.ends.closed.cancelled() => {}
            // An error is the client's end of the connection.
            _ = http.serve_connection(io, service) => {}
        }
    }
}

/// A connection that ended before it was accepted; the listener is well.
fn of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn closed(why: &'static str) {
    metrics::counter!("nearfield_http_connections_closed_total", "why" => why).increment(1);
}

/// The lock, whatever a panicking holder left: what our locks guard is whole between statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
