//! Many nodes and the network between them, in virtual time: everything follows from one seed.
//!
//! A discrete-event simulation of [`crate::membership`] with the round trips of ten real regions, loss,
//! jitter, partitions, crashes and stalls. Behind the feature `sim`: tests and `bench gossip` use it, no
//! program does. What it leaves out is QUIC: a packet is one datagram, and nobody has to be dialled.

#![allow(clippy::disallowed_methods, reason = "the base of virtual time; nothing waits on it")]

pub mod keys;
mod load;
pub mod measure;
mod network;
mod questions;
mod view;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng};

pub use self::{
    load::{Load, report},
    view::percentile,
};
use self::{network::Network, view::View};
use crate::{
    identity::{Identity, NodeId, Role},
    membership::{Event, Fetch, Fingerprint, Keys, MAX_PACKET, Membership, Settings, Transmit},
};

/// The world's clock reads this at its start, in Unix milliseconds.
pub const EPOCH_MS: u64 = 1_800_000_000_000;

/// What each packet costs beside itself in the payload of UDP: our type byte (1) and QUIC's short header (1),
/// connection id (8), packet number (2), DATAGRAM frame's type and length (3, RFC 9221 section 4) and AEAD tag (16).
/// QUIC's acknowledgements and keep-alives, which the connections cost with or without gossip, are not in it.
pub const FRAMING: u64 = 31;

/// Packets that the socket of a stalled node holds; the newest are lost, as a kernel does it.
const SOCKET: usize = 256;

/// The simulated mesh.
pub struct World {
    /// What nodes were told, in order: when, by whose list, what. [`Event::Changed`] only if asked for.
    pub log: Vec<(Duration, usize, Event)>,
    /// Whether [`Event::Changed`] is logged too: hundreds for each node and minute.
    pub log_changes: bool,
    /// Packets sent since this was last set to 0.
    pub packets: u64,
    /// Their bytes, with [`FRAMING`] for each.
    pub bytes: u64,
    settings: Settings,
    authority: keys::Authority,
    network: Network,
    nodes: Vec<Node>,
    at_address: BTreeMap<SocketAddr, usize>,
    view: View,
    base: Instant,
    now: Duration,
    rng: StdRng,
    load: Load,
    queue: BinaryHeap<Reverse<Entry>>,
    number: u64,
}

struct Node {
    identity: Identity,
    addr: SocketAddr,
    keys: Arc<keys::Ring>,
    /// `None` while crashed.
    swim: Option<Membership>,
    /// When it is to be woken; `None` if it is not.
    wake: Option<Duration>,
    /// What came while it was stopped; `None` while it runs.
    stalled: Option<VecDeque<(usize, Bytes)>>,
    /// Renewals of its former processes.
    rejoins: u64,
    load: load::State,
}

enum Happening {
    Arrival { from: usize, to: SocketAddr, packet: Bytes },
    Certificate { to: usize, certificate: Fingerprint },
    Wake(usize),
    Resume(usize),
    Report(usize),
}

struct Entry {
    at: Duration,
    number: u64,
    happening: Happening,
}

impl World {
    /// `count` nodes, none of which knows another, that lose the share `loss` of their packets.
    pub fn new(count: usize, loss: f64, seed: u64) -> Self {
        Self::with_settings(count, loss, seed, Settings::default())
    }

    /// The same with other timing than the default.
    pub fn with_settings(count: usize, loss: f64, seed: u64, settings: Settings) -> Self {
        let mut world = Self {
            log: Vec::new(),
            log_changes: false,
            packets: 0,
            bytes: 0,
            settings,
            authority: keys::Authority::default(),
            network: Network::new(count, loss),
            nodes: Vec::new(),
            at_address: BTreeMap::new(),
            view: View::new(count),
            base: Instant::now(),
            now: Duration::ZERO,
            rng: StdRng::seed_from_u64(seed),
            load: Load::None,
            queue: BinaryHeap::new(),
            number: 0,
        };
        for index in 0..count {
            let (identity, addr) = (identity(index), address(index, 0));
            let node = Node {
                keys: world.authority.issue(identity.clone()),
                identity,
                addr,
                swim: None,
                wake: None,
                stalled: None,
                rejoins: 0,
                load: load::State::default(),
            };
            world.nodes.push(node);
            world.start(index, 0, EPOCH_MS);
        }
        world
    }

    /// `count` nodes that have all joined through the first one, have reported and had time to settle.
    ///
    /// # Panics
    /// They have not found each other after 30 s.
    pub fn joined(count: usize, loss: f64, seed: u64) -> Self {
        Self::joined_with(count, loss, seed, Settings::default())
    }

    /// The same with other timing than the default.
    ///
    /// # Panics
    /// As [`World::joined`].
    pub fn joined_with(count: usize, loss: f64, seed: u64, settings: Settings) -> Self {
        let mut world = Self::with_settings(count, loss, seed, settings);
        (1..count).for_each(|index| world.announce(index, 0));
        let joined = world.run_until(Duration::from_secs(30), Self::everyone_sees_everyone);
        assert!(joined.is_some(), "seed {seed}: not joined after 30 s");
        world.set_load(Load::Idle);
        world.run_for(Duration::from_secs(20));
        world.forget();
        world
    }

    /// Starts node `index` afresh, at its address of generation `generation`, its clock being `clock` in Unix
    /// milliseconds.
    pub fn start(&mut self, index: usize, generation: u8, clock: u64) {
        let seed = self.rng.random();
        let addr = address(index, generation);
        self.at_address.retain(|_, at| *at != index);
        self.at_address.insert(addr, index);
        let (identity, keys) = (self.nodes[index].identity.clone(), self.nodes[index].keys.clone());
        let clock = (clock, self.base + self.now);
        let swim = Membership::new(identity, addr, keys, clock, self.settings.clone(), seed);
        let node = &mut self.nodes[index];
        node.rejoins += node.swim.take().map_or(0, |swim| swim.rejoins());
        (node.addr, node.swim, node.wake, node.stalled) = (addr, Some(swim), None, None);
        self.view.reset(index);
        self.begin_reports(index);
    }

    /// Gives node `index` a new certificate, which its process takes up.
    pub fn renew_certificate(&mut self, index: usize) {
        let keys = self.authority.issue(self.nodes[index].identity.clone());
        let known: Vec<Fingerprint> = self.nodes.iter().map(|node| node.keys.certificate()).collect();
        known.into_iter().for_each(|certificate| assert!(keys.learn(certificate), "it was issued"));
        self.nodes[index].keys = keys.clone();
        self.with(index, |swim, now| swim.take_keys(keys, now));
    }

    /// How often nodes have verified a signature since the world began.
    pub fn verified(&self) -> u64 {
        self.authority.verified()
    }

    /// Sends `packet`, whatever it is, from node `from` to node `to`.
    pub fn send(&mut self, from: usize, to: usize, packet: Bytes) {
        let (to, node) = (self.nodes[to].addr, Some(id(to)));
        self.transmit(from, Transmit { to, node, packet });
    }

    /// What nodes were told and did not believe since this was last called, by reason.
    pub fn take_disbelieved(&mut self) -> BTreeMap<&'static str, u64> {
        let mut all = BTreeMap::new();
        for swim in self.nodes.iter_mut().filter_map(|node| node.swim.as_mut()) {
            swim.take_disbelieved().into_iter().for_each(|(reason, count)| *all.entry(reason).or_default() += count);
        }
        all
    }

    /// The process is gone without a word.
    pub fn crash(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.rejoins += node.swim.take().map_or(0, |swim| swim.rejoins());
        node.stalled = None;
    }

    /// The process is stopped (SIGSTOP) for `time`, then goes on; what came meanwhile waits in its socket.
    pub fn stall(&mut self, index: usize, time: Duration) {
        self.nodes[index].stalled = Some(VecDeque::new());
        self.push(self.now + time, Happening::Resume(index));
    }

    /// Cuts `far` off from all others, who no longer reach them either.
    pub fn cut(&mut self, far: &[usize]) {
        self.network.cut(far);
    }

    /// Ends every partition.
    pub fn heal(&mut self) {
        self.network.cut(&[]);
    }

    /// Lets `index` join through `seed`.
    pub fn announce(&mut self, index: usize, seed: usize) {
        let to = self.nodes[seed].addr;
        self.with(index, |swim, now| swim.announce(to, now));
    }

    /// Calls into one node and carries out what comes of it; `None` if it has crashed.
    pub fn with<T>(&mut self, index: usize, call: impl FnOnce(&mut Membership, Instant) -> T) -> Option<T> {
        let now = self.base + self.now;
        let result = call(self.nodes[index].swim.as_mut()?, now);
        self.drain(index);
        Some(result)
    }

    /// Forgets what was logged and counted so far.
    pub fn forget(&mut self) {
        self.log.clear();
        (self.packets, self.bytes) = (0, 0);
    }

    /// Virtual time since the world began.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// Lets `time` pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.queue.peek().is_some_and(|Reverse(entry)| entry.at <= end) {
            let Some(Reverse(entry)) = self.queue.pop() else { break };
            self.now = entry.at;
            self.happen(entry.happening);
        }
        self.now = end;
    }

    /// Runs until `done`, looking every 50 ms; how long that took, or `None` after `limit`.
    pub fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> Option<Duration> {
        let start = self.now;
        while !done(self) {
            if self.now - start >= limit {
                return None;
            }
            self.run_for(Duration::from_millis(50));
        }
        Some(self.now - start)
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrival { from, to, packet } => self.arrive(from, to, packet),
            Happening::Certificate { to, certificate } => {
                self.nodes[to].keys.learn(certificate);
                self.with(to, |swim, now| swim.handle_certificate(certificate, now));
            }
            // Another wake-up has taken its place.
            Happening::Wake(index) if self.nodes[index].wake != Some(self.now) => {}
            Happening::Wake(index) if self.nodes[index].stalled.is_some() => {}
            Happening::Wake(index) => self.wake_up(index),
            Happening::Resume(index) => {
                let waiting = self.nodes[index].stalled.take().unwrap_or_default();
                self.wake_up(index);
                waiting.into_iter().for_each(|(from, packet)| self.deliver(from, index, &packet));
            }
            Happening::Report(index) => self.report(index),
        }
    }

    fn wake_up(&mut self, index: usize) {
        self.nodes[index].wake = None;
        self.with(index, |swim, now| {
            if swim.poll_timeout().is_some_and(|at| at <= now) {
                swim.handle_timeout(now);
            }
        });
    }

    fn arrive(&mut self, from: usize, to: SocketAddr, packet: Bytes) {
        let Some(&index) = self.at_address.get(&to) else { return };
        match &mut self.nodes[index].stalled {
            None => self.deliver(from, index, &packet),
            Some(socket) if socket.len() < SOCKET => socket.push_back((from, packet)),
            Some(_) => {}
        }
    }

    fn deliver(&mut self, from: usize, to: usize, packet: &[u8]) {
        let sender = self.nodes[from].identity.clone();
        // The handshake has shown it.
        let certificate = self.nodes[from].keys.certificate();
        let new = !self.nodes[to].keys.knows(certificate);
        self.nodes[to].keys.learn(certificate);
        let taken = self.with(to, |swim, now| {
            if new {
                swim.handle_certificate(certificate, now);
            }
            swim.handle_packet(&sender, packet, now)
        });
        assert!(matches!(taken, None | Some(Ok(()))), "{sender:?} sent what {to} refused: {taken:?}");
    }

    /// A stream of its own: it takes a round trip, and another one where a packet of it is lost.
    fn fetch(&mut self, to: usize, Fetch { from, certificate }: Fetch) {
        let Some(from) = index_of(&from).filter(|from| self.nodes[*from].keys.knows(certificate)) else { return };
        for _ in 0..3 {
            let there = self.network.carry(to, Some(from), &mut self.rng);
            let back = self.network.carry(from, Some(to), &mut self.rng);
            if let (Some(there), Some(back)) = (there, back) {
                return self.push(self.now + there + back, Happening::Certificate { to, certificate });
            }
        }
    }

    fn drain(&mut self, index: usize) {
        let Some(mut swim) = self.nodes[index].swim.take() else { return };
        while let Some(transmit) = swim.poll_transmit() {
            self.transmit(index, transmit);
        }
        while let Some(fetch) = swim.poll_fetch() {
            self.fetch(index, fetch);
        }
        while let Some(event) = swim.poll_event() {
            self.view.note(index, &event);
            if self.log_changes || !matches!(event, Event::Changed(_)) {
                self.log.push((self.now, index, event));
            }
        }
        if let Some(at) = swim.poll_timeout() {
            self.wake_at(index, at.saturating_duration_since(self.base).max(self.now));
        }
        self.nodes[index].swim = Some(swim);
    }

    fn wake_at(&mut self, index: usize, at: Duration) {
        if self.nodes[index].wake.is_none_or(|set| at < set) {
            self.nodes[index].wake = Some(at);
            self.push(at, Happening::Wake(index));
        }
    }

    fn transmit(&mut self, from: usize, Transmit { to, packet, .. }: Transmit) {
        assert!(packet.len() <= MAX_PACKET, "{} bytes", packet.len());
        self.packets += 1;
        self.bytes += packet.len() as u64 + FRAMING;
        let target = self.at_address.get(&to).copied();
        if let Some(delay) = self.network.carry(from, target, &mut self.rng) {
            self.push(self.now + delay, Happening::Arrival { from, to, packet });
        }
    }

    fn push(&mut self, at: Duration, happening: Happening) {
        self.number += 1;
        self.queue.push(Reverse(Entry { at, number: self.number, happening }));
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Entry {}

/// The name of node `index`.
pub fn id(index: usize) -> NodeId {
    format!("node-{index:04}").parse().expect("a node id")
}

/// The index of the node of that name.
pub fn index_of(node: &NodeId) -> Option<usize> {
    node.as_str().strip_prefix("node-")?.parse().ok()
}

/// Who node `index` is: every fifth one a core, regions in turn.
pub fn identity(index: usize) -> Identity {
    let role = if index.is_multiple_of(5) { Role::Core } else { Role::Edge };
    Identity { node: id(index), role, region: network::region(index % network::REGIONS) }
}

/// Where node `index` is in its life `generation`.
pub fn address(index: usize, generation: u8) -> SocketAddr {
    SocketAddr::from(([10, generation, (index / 250) as u8, (index % 250) as u8 + 1], 4433))
}
