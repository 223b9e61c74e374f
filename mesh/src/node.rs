//! A node: membership, connections and streams put together behind one handle.
//!
//! One task (`gossip`) owns the SWIM state and is the only one to touch it; one task per connection
//! (`inbound`) reads what a peer sends and hands it on; `pool` holds the connections, `dial` makes
//! them, `join` feeds in seeds and `outside` says why they do not help, `locate` learns
//! where the node is from their round trips, `keyring` holds the certificates that gossip is verified by, `renewal` renews certificates, `twins` finds out who has the same id or address, `versions` tells of those with whom
//! this node has no wire version in common, and `validity` judges peers by them. Everything else is this handle.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

mod dial;
mod error;
mod gossip;
mod inbound;
mod join;
mod keyring;
mod locate;
mod outside;
mod peer;
mod pool;
mod renewal;
mod twins;
mod validity;
mod versions;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use quinn::{Connection, VarInt};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

pub use self::{
    error::{ConnectError, OpenError, RequestError, StartError},
    peer::{Inbound, Peer, Reply},
};
use self::{gossip::Input, keyring::Keyring, pool::Pool};
pub use crate::membership::Member;
use crate::{
    authorize::Denials,
    clock::Micros,
    coordinate::Coordinate,
    identity::{Identity, NodeId, certs::Credentials},
    membership, seeds,
    tasks::Tasks,
    transport::{HandshakeError, Transport},
    wire::{
        Version,
        report::Report,
        request::{Request, Response},
    },
};

/// A peer must be reached, dialling included, within this.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// A request must be answered, connecting included, within this.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// A stream must be granted, and its first bytes must come, within this.
pub const STREAM_DEADLINE: Duration = Duration::from_secs(5);
/// On shutdown: the goodbye must be said within this, and connections must be drained within it again.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(2);
/// What peers ask and open waits here for [`Inbound`]'s reader; when full, their streams wait.
const INBOUND_QUEUE: usize = 256;
/// Packets and events for the gossip task wait here; when full, packets are dropped and counted.
const GOSSIP_QUEUE: usize = 1024;

/// A running node. Cheap to clone; it runs until [`Node::shutdown`].
#[derive(Clone)]
pub struct Node {
    shared: Arc<Shared>,
}

/// What a node needs to start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The UDP address to listen on. Port 0: any.
    pub listen: SocketAddr,
    /// The address at which other nodes reach it. Port 0: the one that was bound.
    pub advertise: SocketAddr,
    /// Who it is.
    pub credentials: Credentials,
    /// Where it finds its first peers.
    pub seeds: seeds::Settings,
    /// SWIM's timing.
    pub swim: membership::Settings,
    /// The software version, for operators.
    pub software: String,
    /// Where its tasks are entered.
    pub tasks: Tasks,
}

/// What the node's tasks share.
struct Shared {
    me: Identity,
    advertise: SocketAddr,
    transport: Transport,
    pool: Pool,
    /// One turn per address, so that many who want a peer dial it once.
    turns: Mutex<BTreeMap<SocketAddr, Arc<tokio::sync::Mutex<()>>>>,
    /// Addresses that turned out to lead back here.
    own_addresses: Mutex<BTreeSet<SocketAddr>>,
    ends: twins::Ends,
    twins: Mutex<twins::Twins>,
    versions: Mutex<versions::Told>,
    /// What came of dialling whom.
    dials: Mutex<outside::Dials>,
    report: Mutex<Report>,
    report_changed: Notify,
    /// Where it is, as far as it has learnt.
    coordinate: Mutex<Coordinate>,
    members: watch::Receiver<Arc<Vec<Member>>>,
    gossip: mpsc::Sender<Input>,
    /// The own key, and the certificates of those who sign gossip.
    keyring: Arc<Keyring>,
    keys_changed: Notify,
    /// Weak: the gossip task holds the strong one, so that the reader sees the end when the node stops.
    inbound: mpsc::WeakSender<Inbound>,
    denials: Denials,
    tasks: Tasks,
    stop: CancellationToken,
}

impl Node {
    /// Opens the socket and joins the mesh. Inbound streams come out of the receiver, which ends after
    /// [`Node::shutdown`]; it must be read, or peers wait.
    ///
    /// # Errors
    /// The address cannot be opened, or is not fit to be told to others.
    pub async fn start(settings: Settings) -> Result<(Self, mpsc::Receiver<Inbound>), StartError> {
        let unfit = |why| StartError::Advertise(settings.advertise, why);
        let mut advertise = geo::address::told_of(settings.listen, settings.advertise).map_err(unfit)?;
        let transport = Transport::bind(settings.listen, settings.credentials.clone())?;
        if advertise.port() == 0 {
            advertise.set_port(transport.local_addr().map_or(settings.listen.port(), |addr| addr.port()));
        }
        let me = settings.credentials.identity().clone();
        note_expiry(&settings.credentials);

        let seeds = seeds::Seeds::new(settings.seeds)?;
        let (inbound, inbound_end) = mpsc::channel(INBOUND_QUEUE);
        let (gossip, gossip_end) = mpsc::channel(GOSSIP_QUEUE);
        let (members_in, members) = watch::channel(Arc::default());
        let shared = Arc::new(Shared {
            report: Mutex::new(first_report(&me, settings.software)),
            me,
            advertise,
            transport,
            pool: Pool::default(),
            turns: Mutex::default(),
            own_addresses: Mutex::default(),
            ends: twins::Ends::default(),
            twins: Mutex::default(),
            versions: Mutex::default(),
            dials: Mutex::default(),
            report_changed: Notify::new(),
            coordinate: Mutex::new(Coordinate::unknown()),
            members,
            gossip,
            keyring: Arc::new(Keyring::new(settings.credentials)),
            keys_changed: Notify::new(),
            inbound: inbound.downgrade(),
            denials: Denials::default(),
            tasks: settings.tasks,
            stop: CancellationToken::new(),
        });
        tracing::info!(node = %shared.me.node, role = %shared.me.role, region = %shared.me.region, %advertise, "node up");
        let ends = gossip::Ends { inputs: Arc::new(gossip_end.into()), members: members_in, _inbound: inbound };
        begin(&shared, settings.swim, ends, Arc::new(seeds));
        Ok((Self { shared }, inbound_end))
    }

    /// Its tasks, and those of the program around it.
    pub fn tasks(&self) -> &Tasks {
        &self.shared.tasks
    }

    /// What other nodes tried that they may not.
    pub fn denials(&self) -> &Denials {
        &self.shared.denials
    }

    /// Who this node is.
    pub fn identity(&self) -> &Identity {
        &self.shared.me
    }

    /// The newest version it speaks; what it speaks with one peer is [`Peer::wire`].
    pub fn wire(&self) -> Version {
        self.shared.transport.wire()
    }

    /// What it proves itself with now.
    pub fn credentials(&self) -> Credentials {
        self.shared.transport.credentials()
    }

    /// Has every handshake from now on use `credentials`, which must be of this node, and ends connections with
    /// peers that they do not trust. Certificate files are watched without this.
    ///
    /// # Errors
    /// The TLS library cannot use them.
    pub fn renew(&self, credentials: Credentials) -> std::io::Result<()> {
        renewal::take_up(&self.shared, credentials)
    }

    /// The address other nodes reach it at.
    pub fn address(&self) -> SocketAddr {
        self.shared.advertise
    }

    /// The live members, this node excluded, sorted by node id; changes with every change of them.
    pub fn members(&self) -> watch::Receiver<Arc<Vec<Member>>> {
        self.shared.members.clone()
    }

    /// What this node says of itself now.
    pub fn report(&self) -> Report {
        self.shared.report().clone()
    }

    /// Changes what this node says of itself. Its node id, time and round trips are filled in for it;
    /// a change is gossiped soon, and everything every 10 s.
    pub fn publish(&self, change: impl FnOnce(&mut Report)) {
        let mut report = self.shared.report();
        let before = report.clone();
        change(&mut report);
        if *report != before {
            self.shared.report_changed.notify_one();
        }
    }

    /// A connection to `id`: one that is there, or a new one to its address as a live member.
    ///
    /// # Errors
    /// It is not a member, or not reached within [`CONNECT_DEADLINE`].
    pub async fn peer(&self, id: &NodeId) -> Result<Peer, ConnectError> {
        let addr = self.shared.members.borrow().iter().find(|m| &m.identity.node == id).map(|m| m.addr);
        let there = match addr {
            Some(addr) => self.shared.pool.toward(id, addr),
            None => self.shared.pool.newest(id),
        };
        if let Some(peer) = there {
            return Ok(peer);
        }
        let addr = addr.ok_or_else(|| ConnectError::Unknown(id.clone()))?;
        dial::connect(&self.shared, addr, Some(id)).await
    }

    /// The smoothed round trip to `id`, if it is connected.
    pub fn rtt(&self, id: &NodeId) -> Option<Duration> {
        self.shared.pool.newest(id).map(|peer| peer.connection.rtt())
    }

    /// Asks `id` and waits for its answer, [`REQUEST_DEADLINE`] at most.
    ///
    /// # Errors
    /// It was not reached or gave no answer. Whether it acted on the request is then not known.
    pub async fn request(&self, id: &NodeId, request: &Request) -> Result<Response, RequestError> {
        timeout(REQUEST_DEADLINE, async { self.peer(id).await?.request(request).await })
            .await
            .map_err(|_| RequestError::Deadline)?
    }

    /// Leaves the mesh: says goodbye, closes every connection, waits for both at most 4 s. The node is of
    /// no use after it.
    pub async fn shutdown(&self) {
        let shared = &self.shared;
        let (left, left_end) = oneshot::channel();
        let goodbye = async {
            if shared.gossip.send(Input::Leave(left)).await.is_ok() {
                // The task ending without an answer is the same: nothing more will be sent.
                let _ = left_end.await;
            }
            let connections: Vec<Connection> = shared.pool.all().into_iter().map(|peer| peer.connection).collect();
            Transport::flush(&connections, Instant::now() + SHUTDOWN_DEADLINE / 4).await;
        };
        if timeout(SHUTDOWN_DEADLINE, goodbye).await.is_err() {
            tracing::warn!(node = %shared.me.node, "left without saying goodbye: the others will find out");
        }
        shared.stop.cancel();
        shared.transport.shutdown(SHUTDOWN_DEADLINE).await;
        tracing::info!(node = %shared.me.node, "node down");
    }
}

impl Shared {
    fn report(&self) -> MutexGuard<'_, Report> {
        lock(&self.report)
    }
}

/// Starts the node's tasks.
fn begin(shared: &Arc<Shared>, swim: membership::Settings, ends: gossip::Ends, seeds: Arc<seeds::Seeds>) {
    let of = |shared: &Arc<Shared>| shared.clone();
    let (tasks, s) = (&shared.tasks, of(shared));
    tasks.keep("gossip", move || gossip::run(s.clone(), swim.clone(), ends.clone()));
    tasks.need("accept", inbound::accept(of(shared)));
    let s = of(shared);
    tasks.keep("join", move || join::run(s.clone(), seeds.clone()));
    let s = of(shared);
    tasks.keep("locate", move || locate::run(s.clone()));
    let s = of(shared);
    tasks.keep("certificates", move || renewal::run(s.clone()));
}

fn first_report(me: &Identity, software: String) -> Report {
    Report {
        node: me.node.clone(),
        at: Micros::from_system(SystemTime::now()),
        stress_permille: 0,
        meetings: 0,
        capacity: 0,
        draining: false,
        api: None,
        software,
        rtts: vec![],
        extension: None,
    }
}

/// An expired certificate takes a node out of the mesh at its next reconnect: let it be seen coming.
fn note_expiry(credentials: &Credentials) {
    let at = Micros::from_system(credentials.expires()).0 / 1_000_000;
    metrics::gauge!("nearfield_mesh_certificate_expires_timestamp_seconds").set(at as f64);
    if let Some(next) = credentials.next_crl() {
        let at = Micros::from_system(next).0 / 1_000_000;
        metrics::gauge!("nearfield_mesh_crl_next_update_timestamp_seconds").set(at as f64);
    }
}

/// Counts a handshake that came to nothing, and a refusal apart from a mere silence.
fn handshake_failed(side: &'static str, error: &HandshakeError) {
    let reason = error.reason();
    metrics::counter!("nearfield_mesh_handshakes_failed_total", "side" => side, "reason" => reason).increment(1);
    if error.is_refusal() {
        refused(reason);
    }
}

fn refused(reason: &'static str) {
    metrics::counter!("nearfield_mesh_peers_refused_total", "reason" => reason).increment(1);
}

/// The lock, whatever a panicking holder left: what our locks guard is whole between statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes `connection` and says why.
fn close(connection: &Connection, code: VarInt, why: &str) {
    connection.close(code, why.as_bytes());
}

#[cfg(test)]
mod tests;
