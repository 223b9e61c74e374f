//! Many nodes and the network between them, in virtual time: everything follows from one seed.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    net::SocketAddr,
    time::{Duration, Instant},
};

use mesh::{
    clock::Micros,
    identity::{Identity, NodeId, Role},
    membership::{Event, Member, Membership, Settings, Transmit},
    wire::report::Report,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Round trips in ms between ten Azure regions, P50, from Microsoft's published matrix (CC BY 4.0):
/// West Europe, Sweden Central, UK South, East US, West US 2, Brazil South, Japan East, Southeast
/// Asia, Australia East, South Africa North.
const RTT_MS: [[u64; 10]; 10] = [
    [1, 36, 12, 85, 151, 186, 235, 161, 251, 165],
    [36, 1, 38, 113, 184, 217, 278, 202, 297, 199],
    [12, 37, 1, 79, 145, 180, 231, 155, 247, 161],
    [83, 111, 78, 1, 68, 117, 163, 222, 198, 217],
    [150, 184, 145, 69, 1, 177, 100, 163, 161, 278],
    [186, 215, 180, 119, 178, 1, 271, 332, 298, 319],
    [234, 277, 230, 164, 100, 270, 1, 73, 103, 249],
    [160, 201, 155, 224, 163, 332, 73, 1, 94, 180],
    [250, 294, 247, 199, 162, 299, 104, 94, 1, 270],
    [164, 197, 161, 218, 277, 319, 249, 180, 269, 1],
];

/// The world's clock reads this at its start, in Unix milliseconds.
pub(crate) const EPOCH_MS: u64 = 1_800_000_000_000;

pub(crate) struct World {
    pub(crate) loss: f64,
    /// Nodes on the far side of a partition.
    pub(crate) cut_off: Vec<usize>,
    /// What each node was told, in order: when, by whose list, what.
    pub(crate) log: Vec<(Duration, usize, Event)>,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    nodes: Vec<Node>,
    at_address: BTreeMap<SocketAddr, usize>,
    base: Instant,
    now: Duration,
    rng: StdRng,
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    number: u64,
}

struct Node {
    identity: Identity,
    addr: SocketAddr,
    /// `None` while crashed.
    swim: Option<Membership>,
    /// When it is to be woken; `None` if it is not.
    wake: Option<Duration>,
}

enum Happening {
    Arrival { from: usize, to: SocketAddr, packet: bytes::Bytes },
    Wake(usize),
}

impl World {
    /// `count` nodes, none of which knows another.
    pub(crate) fn new(count: usize, loss: f64, seed: u64) -> Self {
        let mut world = Self {
            loss,
            cut_off: Vec::new(),
            log: Vec::new(),
            packets: 0,
            bytes: 0,
            nodes: Vec::new(),
            at_address: BTreeMap::new(),
            base: Instant::now(),
            now: Duration::ZERO,
            rng: StdRng::seed_from_u64(seed),
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            number: 0,
        };
        for index in 0..count {
            world.nodes.push(Node { identity: identity(index), addr: address(index, 0), swim: None, wake: None });
            world.start(index, 0, EPOCH_MS);
        }
        world
    }

    /// `count` nodes that have all joined through the first one and had time to settle.
    pub(crate) fn joined(count: usize, loss: f64, seed: u64) -> Self {
        let mut world = Self::new(count, loss, seed);
        (1..count).for_each(|index| world.announce(index, 0));
        world.run_for(Duration::from_secs(10));
        assert!(world.everyone_sees_everyone(), "seed {seed}: not joined after 10 s");
        for index in 0..count {
            world.publish(index, 0);
        }
        world.run_for(Duration::from_secs(10));
        world.log.clear();
        world
    }

    /// Starts node `index` afresh, at its address of generation `generation`.
    pub(crate) fn start(&mut self, index: usize, generation: u8, incarnation: u64) {
        let seed = self.rng.random();
        let addr = address(index, generation);
        let identity = identity(index);
        self.at_address.retain(|_, at| *at != index);
        self.at_address.insert(addr, index);
        let swim = Membership::new(identity.clone(), addr, incarnation, Settings::default(), seed);
        self.nodes[index] = Node { identity, addr, swim: Some(swim), wake: None };
    }

    pub(crate) fn crash(&mut self, index: usize) {
        self.nodes[index].swim = None;
    }

    pub(crate) fn announce(&mut self, index: usize, seed: usize) {
        let to = self.nodes[seed].addr;
        self.with(index, |swim, now| swim.announce(to, now));
    }

    pub(crate) fn publish(&mut self, index: usize, meetings: u32) {
        let report = Report {
            node: id(index),
            at: Micros(EPOCH_MS * 1000 + self.now.as_micros() as u64),
            stress_permille: 400,
            meetings,
            capacity: 40,
            draining: false,
            api: None,
            software: "nearfield 0.1.0".into(),
            rtts: (0..10).map(|r| (region(r), RTT_MS[index % 10][r] as u32 * 1000)).collect(),
            extension: None,
        };
        self.with(index, |swim, now| swim.publish(report, now));
    }

    /// Calls into one node and carries out what comes of it.
    pub(crate) fn with<T>(&mut self, index: usize, call: impl FnOnce(&mut Membership, Instant) -> T) -> Option<T> {
        let now = self.base + self.now;
        let result = call(self.nodes[index].swim.as_mut()?, now);
        self.drain(index);
        Some(result)
    }

    pub(crate) fn members(&self, index: usize) -> Vec<Member> {
        self.nodes[index].swim.as_ref().map_or_else(Vec::new, Membership::members)
    }

    pub(crate) fn live(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|index| self.nodes[*index].swim.is_some()).collect()
    }

    /// Whether every live node's list is exactly the other live nodes.
    pub(crate) fn everyone_sees_everyone(&self) -> bool {
        let live = self.live();
        live.iter().all(|observer| {
            let seen: Vec<NodeId> = self.members(*observer).into_iter().map(|m| m.identity.node).collect();
            seen == live.iter().filter(|i| *i != observer).map(|i| id(*i)).collect::<Vec<_>>()
        })
    }

    pub(crate) fn now(&self) -> Duration {
        self.now
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.queue.peek().is_some_and(|Reverse((at, _))| *at <= end) {
            let Some(Reverse((at, number))) = self.queue.pop() else { break };
            self.now = at;
            if let Some(happening) = self.happenings.remove(&number) {
                self.happen(happening);
            }
        }
        self.now = end;
    }

    /// Runs until `done`, looking every 50 ms; how long that took, or `None` after `limit`.
    pub(crate) fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> Option<Duration> {
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
            Happening::Arrival { from, to, packet } => {
                let sender = self.nodes[from].identity.clone();
                let Some(&index) = self.at_address.get(&to) else { return };
                let taken = self.with(index, |swim, now| swim.handle_packet(&sender, &packet, now));
                assert!(matches!(taken, None | Some(Ok(()))), "{sender:?} sent what {index} refused: {taken:?}");
            }
            Happening::Wake(index) => {
                self.nodes[index].wake = None;
                self.with(index, |swim, now| {
                    if swim.poll_timeout().is_some_and(|at| at <= now) {
                        swim.handle_timeout(now);
                    }
                });
            }
        }
    }

    fn drain(&mut self, index: usize) {
        let Some(mut swim) = self.nodes[index].swim.take() else { return };
        while let Some(transmit) = swim.poll_transmit() {
            self.transmit(index, transmit);
        }
        while let Some(event) = swim.poll_event() {
            self.log.push((self.now, index, event));
        }
        if let Some(at) = swim.poll_timeout() {
            self.wake(index, at.saturating_duration_since(self.base).max(self.now));
        }
        self.nodes[index].swim = Some(swim);
    }

    fn wake(&mut self, index: usize, at: Duration) {
        if self.nodes[index].wake.is_none_or(|set| at < set) {
            self.nodes[index].wake = Some(at);
            self.push(at, Happening::Wake(index));
        }
    }

    fn transmit(&mut self, from: usize, Transmit { to, packet, .. }: Transmit) {
        assert!(packet.len() <= mesh::membership::MAX_PACKET, "{} bytes", packet.len());
        self.packets += 1;
        self.bytes += packet.len() as u64;
        let target = self.at_address.get(&to).copied();
        let cut = target.is_some_and(|target| self.cut_off.contains(&from) != self.cut_off.contains(&target));
        if cut || self.rng.random::<f64>() < self.loss {
            return;
        }
        let one_way = target.map_or(1.0, |target| RTT_MS[from % 10][target % 10] as f64 / 2.0);
        // Exponential jitter of 0.5 ms and 5 % of the way, as it was in the runs the settings come from.
        let jitter = -(1.0 - self.rng.random::<f64>()).ln() * (0.5 + 0.05 * one_way);
        let at = self.now + Duration::from_secs_f64((one_way + jitter) / 1000.0);
        self.push(at, Happening::Arrival { from, to, packet });
    }

    fn push(&mut self, at: Duration, happening: Happening) {
        self.number += 1;
        self.queue.push(Reverse((at, self.number)));
        self.happenings.insert(self.number, happening);
    }
}

pub(crate) fn id(index: usize) -> NodeId {
    format!("node-{index:03}").parse().expect("a node id")
}

pub(crate) fn identity(index: usize) -> Identity {
    let role = if index.is_multiple_of(5) { Role::Core } else { Role::Edge };
    Identity { node: id(index), role, region: region(index % 10) }
}

pub(crate) fn address(index: usize, generation: u8) -> SocketAddr {
    SocketAddr::from(([10, generation, (index / 250) as u8, (index % 250) as u8 + 1], 4433))
}

fn region(number: usize) -> geo::RegionId {
    format!("region-{number}").parse().expect("a region id")
}

/// The value below which `share` of `times` lie.
pub(crate) fn percentile(times: &mut [Duration], share: f64) -> Duration {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * share).round() as usize]
}
