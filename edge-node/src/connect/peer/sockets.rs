//! The UDP sockets that all connections of a node share.
//!
//! Whose a datagram is its source says: so no two connections to the same address of a relay's are on one socket. Most
//! relays have an address for each connection; for one that has a single port for all there is a socket for each, up to
//! [`MAX_SOCKETS`].

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{net::UdpSocket, sync::mpsc};

use super::{
    identity::Identity,
    shard::{Command, Shard},
};
use crate::connect::ConnectError;

/// Connections on one socket: what its receive buffer holds for as long as its task may be kept waiting.
const PER_SOCKET: usize = 64;
/// Sets of sockets at a time.
const MAX_SOCKETS: usize = 4096;
/// Commands waiting for one; whoever has more waits.
const COMMANDS: usize = 64;

/// The sockets of a node. Cheap to clone; the clones share them.
#[derive(Clone, Default)]
pub struct Sockets(Arc<Inner>);

#[derive(Default)]
struct Inner {
    identity: OnceLock<Arc<Identity>>,
    open: Mutex<Vec<Open>>,
    next: AtomicU64,
}

/// What is known of a shard that may have ended.
struct Open {
    bind: Vec<IpAddr>,
    handle: Weak<Handle>,
}

/// A shard at work. It ends with the last of these.
pub(super) struct Handle {
    pub(super) commands: mpsc::Sender<Command>,
    /// Where it receives.
    pub(super) addresses: Vec<SocketAddr>,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    places: usize,
    /// Its one place is of a connection that does not know the relay's addresses yet.
    alone: bool,
    remotes: BTreeSet<SocketAddr>,
}

/// A connection's place on a shard, given back when dropped.
pub(super) struct Place {
    pub(super) id: u64,
    pub(super) handle: Arc<Handle>,
    remotes: Vec<SocketAddr>,
}

impl std::fmt::Debug for Sockets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sockets").field("open", &lock(&self.0.open).len()).finish()
    }
}

impl Sockets {
    /// Sets of sockets that are open, and the connections on them.
    pub fn tables(&self) -> [(&'static str, usize); 2] {
        let handles: Vec<Arc<Handle>> = lock(&self.0.open).iter().filter_map(|open| open.handle.upgrade()).collect();
        let places = handles.iter().map(|handle| lock(&handle.taken).places).sum();
        [("sockets", handles.len()), ("relay_connections", places)]
    }

    /// Who this node is to relays.
    pub(super) fn identity(&self) -> Result<Arc<Identity>, ConnectError> {
        if let Some(identity) = self.0.identity.get() {
            return Ok(identity.clone());
        }
        let identity = Arc::new(Identity::new().map_err(super::media)?);
        Ok(self.0.identity.get_or_init(|| identity).clone())
    }

    /// A place for a connection with a relay at `remotes`; on sockets of its own if they are not known.
    pub(super) async fn place(&self, bind: &[IpAddr], remotes: Option<&[SocketAddr]>) -> Result<Place, ConnectError> {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        if let Some(remotes) = remotes
            && let Some(handle) = self.find(bind, remotes)
        {
            return Ok(Place { id, handle, remotes: remotes.to_vec() });
        }
        if lock(&self.0.open).len() >= MAX_SOCKETS {
            return Err(ConnectError::Media(format!("all {MAX_SOCKETS} sockets are taken")));
        }
        let taken =
            Taken { places: 1, alone: remotes.is_none(), remotes: remotes.into_iter().flatten().copied().collect() };
        let mut sockets = vec![];
        for ip in bind {
            let unusable = |e: std::io::Error| ConnectError::Media(format!("no socket on {ip}: {e}"));
            sockets.push(UdpSocket::bind((*ip, 0)).await.map_err(unusable)?);
        }
        let (commands, orders) = mpsc::channel(COMMANDS);
        let shard = Shard::new(sockets, orders).map_err(|e| ConnectError::Media(e.to_string()))?;
        let handle = Arc::new(Handle { commands, addresses: shard.addresses(), taken: Mutex::new(taken) });
        mesh::tasks::once("sockets", shard.run());
        let mut open = lock(&self.0.open);
        open.retain(|open| open.handle.strong_count() > 0);
        open.push(Open { bind: bind.to_vec(), handle: Arc::downgrade(&handle) });
        metrics::gauge!("nearfield_edge_connect_sockets").set(open.len() as f64);
        Ok(Place { id, handle, remotes: remotes.unwrap_or_default().to_vec() })
    }

    /// A shard with room for such a connection, which it then has.
    fn find(&self, bind: &[IpAddr], remotes: &[SocketAddr]) -> Option<Arc<Handle>> {
        let mut open = lock(&self.0.open);
        open.retain(|open| open.handle.strong_count() > 0);
        let handles = open.iter().filter(|open| open.bind == bind).filter_map(|open| open.handle.upgrade());
        let found = handles.into_iter().find(|handle| handle.take(remotes));
        drop(open);
        found
    }
}

impl Handle {
    fn take(&self, remotes: &[SocketAddr]) -> bool {
        // It has ended with the runtime it was on.
        if self.commands.is_closed() {
            return false;
        }
        let mut taken = lock(&self.taken);
        let free = taken.places < PER_SOCKET && !taken.alone && !remotes.iter().any(|to| taken.remotes.contains(to));
        if free {
            taken.places += 1;
            taken.remotes.extend(remotes);
        }
        free
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.handle.taken);
        taken.places -= 1;
        self.remotes.iter().for_each(|remote| {
            taken.remotes.remove(remote);
        });
        drop(taken);
        // A full queue finds out by the closed events of the meeting.
        let _ = self.handle.commands.try_send(Command::Close(self.id));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
