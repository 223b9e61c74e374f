//! The one task that owns the SWIM state: packets, timers and seeds in; packets and members out.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tracing::{debug, info, trace, warn};

use super::{
    ConnectError, Inbound, Member, Peer, Shared, close, dial, keyring, lock, outside, pool::is_at, refused,
    twins::Shares,
};
use crate::{
    clock::Micros,
    identity::{Identity, NodeId},
    membership::{Event, Fingerprint, Membership, Settings, Transmit},
    tasks,
    transport::close as code,
    wire::{self, report::Extension},
};

/// What is said of this node goes out again after this long even when nothing changed: round trips did.
const REPORT_PERIOD: Duration = Duration::from_secs(10);
/// Packets that wait for a connection to one address; the oldest make room.
const OUTBOX: usize = 16;
/// Addresses for which packets wait or a dial failed lately; beyond it packets are dropped.
const OUTBOXES: usize = 1024;
/// How often a differing clock is told of.
const CLOCK_TOLD: Duration = Duration::from_secs(60);
/// After a failed dial the address is left alone for this long, doubled with each failure up to the
/// second: a partition outlasts its cause by that and by [`Settings::rejoin_period`].
const QUIET: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(4));

/// What reaches the task.
pub(super) enum Input {
    /// A SWIM packet, without its type byte, from an authenticated peer.
    Packet { from: Identity, packet: Bytes },
    /// A certificate is in the keyring now.
    Certificate(Fingerprint),
    /// The last connection to a node was lost.
    Lost(NodeId),
    /// A dial that [`Gossip::send`] began has ended.
    Dialled { addr: SocketAddr, outcome: Result<Peer, ConnectError> },
    /// A seed.
    Announce(SocketAddr),
    /// Say goodbye, answer, end.
    Leave(oneshot::Sender<()>),
}

struct Gossip {
    shared: Arc<Shared>,
    membership: Membership,
    outboxes: BTreeMap<SocketAddr, Outbox>,
    members: watch::Sender<Arc<Vec<Member>>>,
    next_report: Instant,
    last_report: Micros,
    clock_told: Option<Instant>,
    shares: Shares,
}

/// Packets for an address without a connection.
struct Outbox {
    waiting: VecDeque<Bytes>,
    dialling: bool,
    failures: u32,
    quiet_until: Instant,
}

/// The task's ends of what others hold. They outlive it, should it have to be started again.
#[derive(Clone)]
pub(super) struct Ends {
    pub(super) inputs: Arc<Mutex<mpsc::Receiver<Input>>>,
    pub(super) members: watch::Sender<Arc<Vec<Member>>>,
    /// Held so that its reader sees the end when this task ends.
    pub(super) _inbound: mpsc::Sender<Inbound>,
}

/// Runs until told to leave.
pub(super) async fn run(shared: Arc<Shared>, settings: Settings, ends: Ends) {
    let Ends { inputs, members, _inbound } = ends;
    let mut inputs = inputs.lock().await;
    let now = Instant::now();
    // Rises with every start, so that what others remember of an earlier run of this node loses.
    let clock = (Micros::from_system(SystemTime::now()).as_millis(), now);
    let (me, keys) = (shared.me.clone(), shared.keyring.clone());
    let mut membership = Membership::new(me, shared.advertise, keys, clock, settings, rand::random());
    // Whom this task knew before it broke knows the others.
    members.borrow().iter().for_each(|member| membership.announce(member.addr, now));
    let mut gossip = Gossip {
        shared: shared.clone(),
        membership,
        outboxes: BTreeMap::new(),
        members,
        next_report: now,
        last_report: Micros::default(),
        clock_told: None,
        shares: Shares::default(),
    };
    loop {
        gossip.settle();
        let wake = gossip.wake_at();
        tokio::select! {
            input = inputs.recv() => match input {
                Some(Input::Leave(done)) => return gossip.leave(done),
                Some(input) => gossip.handle(input, Instant::now()),
                None => return,
            },
            () = shared.keys_changed.notified() => gossip.membership.handle_keys(Instant::now()),
            () = shared.report_changed.notified() => gossip.report(Instant::now()),
            () = tokio::time::sleep_until(wake.into()) => gossip.handle_timeout(Instant::now()),
        }
    }
}

impl Gossip {
    fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Packet { from, packet } => self.packet(&from, &packet, now),
            Input::Certificate(certificate) => self.membership.handle_certificate(certificate, now),
            Input::Lost(node) => self.membership.hint_lost(&node, now),
            Input::Announce(addr) => self.membership.announce(addr, now),
            Input::Dialled { addr, outcome } => self.dialled(addr, outcome, now),
            // Taken before this is called; to leave twice is to leave.
            Input::Leave(done) => drop(done),
        }
    }

    fn packet(&mut self, from: &Identity, packet: &[u8], now: Instant) {
        metrics::counter!("nearfield_mesh_gossip_packets_total", "direction" => "in").increment(1);
        if let Err(error) = self.membership.handle_packet(from, packet, now) {
            debug!(node = %from.node, %error, "gossip packet refused");
            metrics::counter!("nearfield_mesh_gossip_refused_total").increment(1);
        }
    }

    fn wake_at(&self) -> Instant {
        self.membership.poll_timeout().map_or(self.next_report, |at| at.min(self.next_report))
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.membership.handle_timeout(now);
        if now >= self.next_report {
            self.report(now);
            metrics::gauge!("nearfield_mesh_local_health").set(self.membership.doubt_of_itself());
            self.membership.handle_clock(Micros::from_system(SystemTime::now()).as_millis(), now);
            self.shared.keyring.tidy(SystemTime::now());
            metrics::gauge!("nearfield_mesh_twins").set(lock(&self.shared.twins).count(now) as f64);
            self.outboxes.retain(|_, outbox| outbox.dialling || outbox.quiet_until > now);
            self.note_tables();
        }
    }

    fn note_tables(&self) {
        let shared = &self.shared;
        let own = [
            ("gossip_outboxes", self.outboxes.len()),
            ("certificates", shared.keyring.len()),
            ("dials", lock(&shared.turns).len()),
            ("own_addresses", lock(&shared.own_addresses).len()),
        ];
        for (table, rows) in own.into_iter().chain(self.membership.tables()) {
            metrics::gauge!("nearfield_mesh_table_rows", "table" => table).set(rows as f64);
        }
    }

    /// Sends out what the membership has to send and tells what it has to tell.
    fn settle(&mut self) {
        while let Some(transmit) = self.membership.poll_transmit() {
            self.send(transmit, Instant::now());
        }
        while let Some(fetch) = self.membership.poll_fetch() {
            keyring::fetch(&self.shared, fetch);
        }
        for (reason, count) in self.membership.take_disbelieved() {
            metrics::counter!("nearfield_mesh_gossip_disbelieved_total", "reason" => reason).increment(count);
        }
        let mut changed = false;
        while let Some(event) = self.membership.poll_event() {
            changed = true;
            match event {
                Event::Twin { node, known, other } => self.refuse_twin(&node, known, other),
                Event::ClockDiffers { by, ahead } => self.clock_differs(&by, ahead),
                Event::Up(member) => {
                    info!(node = %member.identity.node, role = %member.identity.role, region = %member.identity.region, addr = %member.addr, "member up");
                }
                Event::Down(node) => info!(%node, "member down"),
                Event::Changed(node) => debug!(%node, "member changed"),
            }
        }
        if changed {
            let members = self.membership.members();
            metrics::gauge!("nearfield_mesh_members").set(members.len() as f64);
            self.follow_addresses(&members);
            self.members.send_replace(Arc::new(members));
        }
    }

    /// Two nodes that advertise one address are named by everyone who sees both.
    fn follow_addresses(&mut self, members: &[Member]) {
        for (addr, nodes) in self.shares.follow((&self.shared.me.node, self.shared.advertise), members) {
            let nodes = nodes.iter().map(NodeId::as_str).collect::<Vec<_>>().join(", ");
            warn!(%addr, nodes, "these nodes advertise one address: at most one of them can be reached (mesh.advertise)");
        }
        metrics::gauge!("nearfield_mesh_addresses_shared").set(self.shares.count() as f64);
    }

    /// The connections of the one that came later are closed, or what is meant for the first would go there.
    fn refuse_twin(&self, node: &NodeId, known: SocketAddr, other: SocketAddr) {
        info!(%node, %known, %other, "two nodes have one id: the second is refused while the first answers");
        refused("twin");
        for peer in self.shared.pool.of(node).iter().filter(|peer| is_at(peer, other)) {
            close(&peer.connection, code::TWIN, &known.to_string());
        }
    }

    /// Said once a minute at most: whoever holds a wrong time does so with every packet.
    fn clock_differs(&mut self, by: &NodeId, ahead: i64) {
        metrics::gauge!("nearfield_mesh_clock_ahead_seconds").set(ahead as f64 / 1000.0);
        let now = Instant::now();
        if self.clock_told.is_none_or(|at| at + CLOCK_TOLD <= now) {
            self.clock_told = Some(now);
            let seconds = ahead / 1000;
            warn!(node = %by, seconds, "this node's clock is ahead of another's by so much (behind, if negative): one of them is set wrong, and what is far in the future is not believed; use NTP");
        }
    }

    /// Publishes what the node says of itself, with the round trips as they are now.
    fn report(&mut self, now: Instant) {
        let mut report = self.shared.report().clone();
        report.node = self.shared.me.node.clone();
        // Strictly later than the last, though the clock be set back: the newer of two wins.
        report.at = Micros::from_system(SystemTime::now()).max(Micros(self.last_report.0 + 1));
        report.rtts = self.shared.pool.rtts();
        let (wire, coordinate) = (self.shared.transport.wire(), Some(*lock(&self.shared.coordinate)));
        report.extension = Some(Extension { wire: wire.number(), coordinate });
        self.last_report = report.at;
        self.next_report = now + REPORT_PERIOD;
        {
            // What this node shows of itself is as old as what others have of it.
            let mut shown = self.shared.report();
            (shown.at, shown.rtts, shown.extension) = (report.at, report.rtts.clone(), report.extension);
        }
        self.membership.publish(report, now);
    }

    fn send(&mut self, transmit: Transmit, now: Instant) {
        let Transmit { to, node, packet } = transmit;
        let datagram = datagram(&packet);
        let peer = match &node {
            Some(node) => self.shared.pool.toward(node, to),
            None => self.shared.pool.at(to),
        };
        match peer {
            Some(peer) => send_to(&peer, datagram),
            None => self.send_later(to, node, datagram, now),
        }
    }

    /// Keeps a packet for the connection that is being made, and makes it unless that failed just now.
    fn send_later(&mut self, to: SocketAddr, node: Option<NodeId>, datagram: Bytes, now: Instant) {
        if lock(&self.shared.own_addresses).contains(&to) {
            return; // a seed that is ourselves
        }
        if self.outboxes.len() >= OUTBOXES && !self.outboxes.contains_key(&to) {
            return dropped("outboxes");
        }
        let outbox = self.outboxes.entry(to).or_insert_with(|| Outbox::new(now));
        if !outbox.dialling && outbox.quiet_until > now {
            return dropped("quiet");
        }
        if outbox.dialling && node.is_none() {
            return; // one announcement is enough, and it waits already
        }
        if outbox.waiting.len() >= OUTBOX {
            outbox.waiting.pop_front();
            dropped("outbox");
        }
        outbox.waiting.push_back(datagram);
        if !outbox.dialling {
            outbox.dialling = true;
            let shared = self.shared.clone();
            tasks::once("dial", async move {
                let (dialler, wanted) = (shared.clone(), node);
                let dialled = async move { dial::connect(&dialler, to, wanted.as_ref()).await };
                // Else the address would be held to be dialled for ever.
                let outcome = tasks::caught("dial", dialled).await.unwrap_or(Err(ConnectError::Deadline));
                // The task is gone only when the node is.
                let _ = shared.gossip.send(Input::Dialled { addr: to, outcome }).await;
            });
        }
    }

    fn dialled(&mut self, addr: SocketAddr, outcome: Result<Peer, ConnectError>, now: Instant) {
        lock(&self.shared.dials).note(addr, outside::told(&outcome));
        if let Err(ConnectError::Twin(addr)) = outcome {
            self.membership.handle_twin(addr);
        }
        match outcome {
            Ok(peer) => {
                let waiting = self.outboxes.remove(&addr).map(|outbox| outbox.waiting).unwrap_or_default();
                waiting.into_iter().for_each(|datagram| send_to(&peer, datagram));
            }
            Err(error) => {
                match &error {
                    ConnectError::Handshake(e) if e.is_refusal() => info!(%addr, %error, "not reached"),
                    _ => debug!(%addr, %error, "not reached"),
                }
                if let Some(outbox) = self.outboxes.get_mut(&addr) {
                    outbox.fail(now);
                }
            }
        }
    }

    /// Says goodbye over the connections there are; nobody is dialled for it.
    fn leave(mut self, done: oneshot::Sender<()>) {
        self.membership.leave(Instant::now());
        while let Some(transmit) = self.membership.poll_transmit() {
            let peer = transmit.node.as_ref().and_then(|node| self.shared.pool.newest(node));
            if let Some(peer) = peer.or_else(|| self.shared.pool.at(transmit.to)) {
                send_to(&peer, datagram(&transmit.packet));
            }
        }
        self.members.send_replace(Arc::default());
        // Whoever asked may have given up waiting.
        let _ = done.send(());
    }
}

impl Outbox {
    fn new(now: Instant) -> Self {
        Self { waiting: VecDeque::new(), dialling: false, failures: 0, quiet_until: now }
    }

    fn fail(&mut self, now: Instant) {
        self.waiting.drain(..).for_each(|_| dropped("unreached"));
        self.dialling = false;
        let quiet = QUIET.0.saturating_mul(1 << self.failures.min(8)).min(QUIET.1);
        self.failures += 1;
        self.quiet_until = now + quiet.mul_f64(rand::random_range(0.75..1.25));
    }
}

fn datagram(packet: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + packet.len());
    bytes.put_u8(wire::DATAGRAM_SWIM);
    bytes.put_slice(packet);
    bytes.freeze()
}

fn send_to(peer: &Peer, datagram: Bytes) {
    metrics::counter!("nearfield_mesh_gossip_packets_total", "direction" => "out").increment(1);
    if let Err(error) = peer.connection.send_datagram(datagram) {
        trace!(node = %peer.identity.node, %error, "datagram not sent");
        dropped("send");
    }
}

fn dropped(queue: &'static str) {
    metrics::counter!("nearfield_mesh_gossip_dropped_total", "queue" => queue).increment(1);
}
