//! The world: true time, each node's own clock, streams, requests, disks, and what goes wrong.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    sync::LazyLock,
    time::{Duration, Instant},
};

use core_node::{authority::Claim, key::SpurtKey, meeting::captures::Now};
use mesh::{
    clock::Micros,
    identity::{Identity, NodeId, Role},
    wire::{
        MeetingId,
        control::{ToCore, ToEdge},
        request::{Request, Response},
    },
};

use crate::{authority::Ask, core::Core, edge::Edge, oracle::Oracle, rng::Rng};

pub(crate) const CORES: usize = 3;
pub(crate) const EDGES: usize = 3;
pub(crate) const NODES: usize = CORES + EDGES;
pub(crate) const MS: u64 = 1000;
pub(crate) const SECOND: u64 = 1_000_000;

/// Events in one history.
const MOST_EVENTS: u64 = 1_000_000;

/// A request that is not answered within this has failed, as in `mesh::node`.
const REQUEST_WAIT: u64 = 2 * SECOND;

/// Rules that can be broken, to see that it is noticed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Broken {
    /// The core takes a lease to be no longer than the edge does.
    pub(crate) margin: bool,
    /// A core serves whoever calls.
    pub(crate) fence: bool,
    /// Words go out before the standby has them.
    pub(crate) acknowledgement: bool,
    /// A standby is dropped without a word of the edge or of itself.
    pub(crate) confirmation: bool,
    /// The edge is told of a standby before that is on disk.
    pub(crate) persistence: bool,
    /// Old streams of entries are taken.
    pub(crate) streams: bool,
    /// A core does what it asks the authority for, whatever that says.
    pub(crate) claim: bool,
    /// Words go out without a standby that the authority still lets take over.
    pub(crate) unbound: bool,
}

/// How one history is run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) broken: Broken,
    /// Whether the cores share an authority.
    pub(crate) authority: bool,
    pub(crate) trace: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Up {
    Message(ToCore),
    /// A spurt of one frame: its number, and when it was captured.
    Frame(u32, Micros),
    Closed,
}

#[derive(Debug, Clone)]
pub(crate) enum Down {
    Message(ToEdge),
    Closed,
}

/// A control stream; each end closes by itself.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) edge: usize,
    pub(crate) core: usize,
    pub(crate) instance: usize,
    pub(crate) up: VecDeque<Up>,
    pub(crate) down: VecDeque<Down>,
    pub(crate) edge_open: bool,
    pub(crate) core_open: bool,
    /// Messages that have arrived and wait for the way to be free, up and down, and whether that is looked at again.
    pub(crate) due: [usize; 2],
    pub(crate) again: [bool; 2],
}

/// What a node asked, to go on when it is answered.
#[derive(Debug, Clone)]
pub(crate) enum Asked {
    Replicate,
    Join,
    Former {
        tries: u32,
    },
    Reunite,
    Adopt,
    Renew {
        instance: usize,
        core: usize,
        sent: Instant,
    },
    /// Passed on for another node's request.
    Passed {
        asker: usize,
        request: u64,
    },
    WhoServes {
        instance: usize,
        of: usize,
    },
}

#[derive(Debug)]
pub(crate) enum Event {
    Timer(usize, u32),
    Up(usize),
    Down(usize),
    /// Whether what has arrived can be taken by now.
    Again(usize, usize),
    Dialled(usize, u32, usize, usize),
    Request {
        id: u64,
        from: usize,
        to: usize,
        request: Box<Request>,
        tries: u32,
    },
    Response {
        id: u64,
        from: usize,
        to: usize,
        response: Box<Option<Response>>,
        tries: u32,
    },
    Disk(usize, u32),
    Tick(usize, u32),
    Capture(usize, u32),
    Transcribed(usize, u32, u64, SpurtKey),
    Former(usize, u32, usize),
    Authority(usize, u32, Box<Ask>),
    CallOver(usize, u32, usize),
    Fault,
    Restart(usize),
    Calm,
}

/// One history.
pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) plan: Plan,
    pub(crate) rng: Rng,
    pub(crate) oracle: Oracle,
    pub(crate) cores: Vec<Core>,
    pub(crate) edges: Vec<Edge>,
    pub(crate) streams: Vec<Stream>,
    pub(crate) meeting: MeetingId,
    /// After how long a core goes on alone.
    pub(crate) isolated_after: Duration,
    pub(crate) story: Vec<String>,
    names: Vec<Identity>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    next_event: u64,
    asked: BTreeMap<u64, (usize, u32, Asked)>,
    next_request: u64,
    cut: [[bool; NODES]; NODES],
    delay: [[u64; NODES]; NODES],
    loss: u64,
    rates: [f64; NODES],
    walls: [i64; NODES],
    stalled: [u64; NODES],
    up: [bool; NODES],
    lives: [u32; NODES],
    timers: [u64; NODES],
    pub(crate) calm: Option<u64>,
    /// Events so far.
    pub(crate) handled: u64,
    /// What stands at the authority.
    pub(crate) register: Option<Claim>,
    /// Cores that do not reach it.
    pub(crate) far: [bool; CORES],
}

static BASE: LazyLock<Instant> = LazyLock::new(|| Instant::now() + Duration::from_secs(1000));

pub(crate) fn identity(n: usize) -> Identity {
    let (name, role) = if n < CORES { (format!("core-{n}"), Role::Core) } else { (format!("edge-{n}"), Role::Edge) };
    Identity { node: name.parse().unwrap(), role, region: "eu-central".parse().unwrap() }
}

impl World {
    pub(crate) fn new(plan: Plan) -> Self {
        let mut rng = Rng::new(plan.seed);
        let mut delay = [[0; NODES]; NODES];
        let slowest = [2, 20, 80, 150][rng.range(0, 4) as usize];
        for a in 0..NODES {
            for b in 0..a {
                delay[a][b] = rng.range(MS / 2, slowest * MS);
                delay[b][a] = delay[a][b];
            }
        }
        let odd = rng.chance(500);
        let rates = std::array::from_fn(|_| match odd {
            true => 0.95 + rng.range(0, 1001) as f64 / 10_000.0,
            false => 1.0 + (rng.range(0, 201) as f64 - 100.0) / 1e6,
        });
        let isolated_after = Duration::from_secs(if rng.chance(400) { 12 } else { 300 });
        let loss = [0, 10, 50, 200][rng.range(0, 4) as usize];
        let mut this = Self {
            now: 0,
            plan,
            rng,
            oracle: Oracle::new(plan.authority),
            cores: (0..CORES).map(|_| Core::new()).collect(),
            edges: (0..EDGES).map(|_| Edge::default()).collect(),
            streams: vec![],
            meeting: MeetingId::from_u128(7),
            isolated_after,
            story: vec![],
            names: (0..NODES).map(identity).collect(),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next_event: 0,
            asked: BTreeMap::new(),
            next_request: 0,
            cut: [[false; NODES]; NODES],
            delay,
            loss,
            rates,
            walls: [0; NODES],
            stalled: [0; NODES],
            up: [true; NODES],
            lives: [0; NODES],
            timers: [u64::MAX; NODES],
            calm: None,
            handled: 0,
            register: None,
            far: [false; CORES],
        };
        this.tell(|w| {
            format!(
                "alone after {:?}, delays to {slowest} ms, loss {loss} permille, rates {:?}",
                w.isolated_after, w.rates
            )
        });
        this
    }

    /// Writes down what happens, if somebody wants to read it.
    pub(crate) fn tell(&mut self, what: impl FnOnce(&Self) -> String) {
        if self.plan.trace {
            let line = format!("{:>10.3} ms  {}", self.now as f64 / 1e3, what(self));
            self.story.push(line);
        }
    }

    pub(crate) fn name(&self, n: usize) -> NodeId {
        self.names[n].node.clone()
    }

    pub(crate) fn identity(&self, n: usize) -> &Identity {
        &self.names[n]
    }

    pub(crate) fn index(&self, name: &NodeId) -> usize {
        self.names.iter().position(|i| i.node == *name).unwrap()
    }

    /// Node `n`'s monotonic clock.
    pub(crate) fn clock(&self, n: usize) -> Instant {
        *BASE + Duration::from_micros((self.now as f64 * self.rates[n]) as u64)
    }

    /// The same, as it writes it into messages.
    pub(crate) fn uptime_ms(&self, n: usize) -> u64 {
        self.clock(n).saturating_duration_since(*BASE).as_millis() as u64
    }

    /// When its clock will show `at`.
    pub(crate) fn true_time(&self, n: usize, at: Instant) -> u64 {
        (at.saturating_duration_since(*BASE).as_micros() as f64 / self.rates[n]).ceil() as u64 + 1
    }

    /// Node `n`'s wall clock.
    pub(crate) fn wall(&self, n: usize) -> Micros {
        Micros((1_700_000_000_000_000 + self.now as i64 + self.walls[n]) as u64)
    }

    /// Both.
    pub(crate) fn both_clocks(&self, n: usize) -> Now {
        Now { at: self.clock(n), wall: self.wall(n) }
    }

    pub(crate) fn life(&self, n: usize) -> u32 {
        self.lives[n]
    }

    pub(crate) fn rtt(&self, a: usize, b: usize) -> Duration {
        Duration::from_micros(self.delay[a][b] * 2)
    }

    /// Whether it is there and does not stand still.
    pub(crate) fn is_awake(&self, n: usize) -> bool {
        self.up[n] && self.stalled[n] <= self.now
    }

    /// Whether both are there and reach each other.
    pub(crate) fn reach(&self, a: usize, b: usize) -> bool {
        self.up[b] && self.stalled[b] <= self.now && !self.cut[a][b] && !self.cut[b][a]
    }

    pub(crate) fn after(&mut self, by: u64, event: Event) {
        self.next_event += 1;
        if self.next_event > MOST_EVENTS {
            self.oracle.violated(format!("more than {MOST_EVENTS} events: something goes round in circles"));
        }
        self.queue.push(Reverse((self.now + by, self.next_event)));
        self.events.insert(self.next_event, event);
    }

    /// Node `n` wants to look at its clock at `at`.
    pub(crate) fn wake(&mut self, n: usize, at: Instant) {
        let at = self.true_time(n, at).max(self.now + MS);
        if at < self.timers[n] {
            self.timers[n] = at;
            self.after(at - self.now, Event::Timer(n, self.lives[n]));
        }
    }

    fn travel(&mut self, from: usize, to: usize) -> u64 {
        let again = if self.rng.chance(self.loss) { self.rng.range(100 * MS, 800 * MS) } else { 0 };
        self.delay[from][to] + self.rng.range(0, 2 * MS) + again
    }

    pub(crate) fn send_up(&mut self, stream: usize, what: Up) {
        let (edge, core) = (self.streams[stream].edge, self.streams[stream].core);
        self.streams[stream].up.push_back(what);
        let by = self.travel(edge, core);
        self.after(by, Event::Up(stream));
    }

    pub(crate) fn send_down(&mut self, stream: usize, what: Down) {
        if !self.streams[stream].core_open {
            return;
        }
        let (edge, core) = (self.streams[stream].edge, self.streams[stream].core);
        self.streams[stream].down.push_back(what);
        let by = self.travel(core, edge);
        self.after(by, Event::Down(stream));
    }

    pub(crate) fn ask(&mut self, from: usize, to: usize, request: Request, asked: Asked) -> u64 {
        self.next_request += 1;
        let id = self.next_request;
        self.asked.insert(id, (from, self.lives[from], asked));
        let by = self.travel(from, to);
        if self.rng.chance(20) {
            let late = by + self.rng.range(0, 6 * SECOND);
            self.after(late, Event::Request { id, from, to, request: Box::new(request.clone()), tries: 0 });
        }
        self.after(by, Event::Request { id, from, to, request: Box::new(request), tries: 0 });
        self.after(REQUEST_WAIT, Event::Response { id, from: to, to: from, response: Box::new(None), tries: u32::MAX });
        id
    }

    pub(crate) fn respond(&mut self, id: u64, from: usize, to: usize, response: Response) {
        let by = self.travel(from, to);
        self.after(by, Event::Response { id, from, to, response: Box::new(Some(response)), tries: 0 });
    }

    /// Runs until the end, or until something is wrong.
    pub(crate) fn run(&mut self, until: u64) {
        while let Some(Reverse((at, id))) = self.queue.peek().copied() {
            if at > until || self.oracle.violation.is_some() {
                return;
            }
            self.queue.pop();
            self.now = at;
            self.handled += 1;
            if let Some(event) = self.events.remove(&id) {
                self.handle(event);
            }
        }
    }

    /// A node that stands still finds everything when it wakes, in no particular order.
    fn put_off(&mut self, n: usize, event: Event) -> Option<Event> {
        if self.stalled[n] <= self.now {
            return Some(event);
        }
        let by = self.stalled[n] - self.now + self.rng.range(0, 30 * MS);
        self.after(by, event);
        None
    }

    fn handle(&mut self, event: Event) {
        let (node, life) = match &event {
            Event::Timer(n, life) | Event::Disk(n, life) | Event::Tick(n, life) | Event::Capture(n, life) => {
                (Some(*n), Some(*life))
            }
            Event::Transcribed(n, life, ..) | Event::Former(n, life, _) | Event::Dialled(n, life, ..) => {
                (Some(*n), Some(*life))
            }
            Event::Authority(n, life, _) | Event::CallOver(n, life, _) => (Some(*n), Some(*life)),
            Event::Up(s) | Event::Again(s, 0) => (Some(self.streams[*s].core), None),
            Event::Down(s) | Event::Again(s, _) => (Some(self.streams[*s].edge), None),
            Event::Request { to, .. } | Event::Response { to, .. } => (Some(*to), None),
            Event::Fault | Event::Restart(_) | Event::Calm => (None, None),
        };
        if let Some(n) = node {
            if !self.up[n] || life.is_some_and(|life| life != self.lives[n]) {
                return;
            }
            if let Some(event) = self.put_off(n, event) {
                self.act(event);
            }
        } else {
            self.act(event);
        }
    }

    fn act(&mut self, event: Event) {
        match event {
            // One that an earlier one has made needless is as if it had never been: else each makes another for ever.
            Event::Timer(n, _) if self.timers[n] > self.now => {}
            Event::Timer(n, _) => {
                self.timers[n] = u64::MAX;
                if n < CORES { self.core_pump(n) } else { self.edge_pump(n) }
            }
            Event::Up(s) => {
                self.streams[s].due[0] += 1;
                self.arrive(s, 0);
            }
            Event::Down(s) => {
                self.streams[s].due[1] += 1;
                self.arrive(s, 1);
            }
            Event::Again(s, way) => {
                self.streams[s].again[way] = false;
                self.arrive(s, way);
            }
            Event::Dialled(edge, _, instance, core) => self.edge_dialled(edge, instance, core),
            Event::Request { id, from, to, request, tries } => {
                if self.cut[from][to] {
                    if tries < 40 {
                        self.after(200 * MS, Event::Request { id, from, to, request, tries: tries + 1 });
                    }
                } else if to < CORES {
                    self.core_request(to, from, id, *request);
                } else {
                    self.edge_request(to, from, id, *request);
                }
            }
            Event::Response { id, from, to, response, tries } => {
                if tries < 8 && self.cut[from][to] {
                    self.after(200 * MS, Event::Response { id, from, to, response, tries: tries + 1 });
                } else if let Some((asker, life, asked)) = self.asked.remove(&id)
                    && asker == to
                    && life == self.lives[to]
                {
                    if to < CORES {
                        self.core_response(to, from, id, asked, *response)
                    } else {
                        self.edge_response(to, from, asked, *response)
                    }
                }
            }
            Event::Disk(n, _) => self.core_disk(n),
            Event::Tick(n, life) => {
                self.core_tick(n);
                self.after(SECOND, Event::Tick(n, life));
            }
            Event::Capture(n, life) => {
                self.edge_capture(n);
                let by = self.rng.range(100 * MS, 400 * MS);
                self.after(by, Event::Capture(n, life));
            }
            Event::Transcribed(n, _, live, key) => self.core_transcribed(n, live, key),
            Event::Former(n, _, former) => self.core_tell_former(n, former, 0),
            Event::Authority(c, _, ask) => self.authority(c, *ask),
            Event::CallOver(c, _, s) => self.call_over(c, s),
            Event::Fault => self.fault(),
            Event::Restart(n) => self.restart(n),
            Event::Calm => self.heal(),
        }
    }

    fn arrive(&mut self, s: usize, way: usize) {
        let Stream { edge, core, .. } = self.streams[s];
        while self.streams[s].due[way] > 0 {
            let open = [self.streams[s].core_open, self.streams[s].edge_open][way];
            let cut = [self.cut[edge][core] || self.core_waits(core, s), self.cut[core][edge]][way];
            if open && cut {
                if !self.streams[s].again[way] {
                    self.streams[s].again[way] = true;
                    self.after(100 * MS, Event::Again(s, way));
                }
                return;
            }
            self.streams[s].due[way] -= 1;
            if way == 0 {
                let what = self.streams[s].up.pop_front();
                what.filter(|_| open).into_iter().for_each(|what| self.core_hears(core, s, what));
            } else {
                let what = self.streams[s].down.pop_front();
                what.filter(|_| open).into_iter().for_each(|what| self.edge_hears(edge, s, what));
            }
        }
    }

    fn fault(&mut self) {
        if self.calm.is_some() {
            return;
        }
        let n = self.rng.range(0, NODES as u64) as usize;
        let long = [SECOND, 3 * SECOND, 8 * SECOND, 16 * SECOND][self.rng.range(0, 4) as usize];
        let long = self.rng.range(long / 4, long);
        match self.rng.range(0, 10) {
            0 | 1 => {
                self.crash(n);
                self.after(long, Event::Restart(n));
            }
            2 => {
                self.stalled[n] = self.stalled[n].max(self.now + long);
                self.tell(|_| format!("node {n} stands still for {} ms", long / MS));
            }
            3 => {
                self.walls[n] += self.rng.range(0, 3 * SECOND) as i64 - 1_500_000;
                self.tell(|_| format!("node {n}'s wall clock jumps"));
            }
            4 => self.drop_stream(),
            5 => self.cut = [[false; NODES]; NODES],
            6 => {
                let side = self.rng.next();
                for a in 0..NODES {
                    for b in 0..NODES {
                        self.cut[a][b] |= (side >> a) & 1 != (side >> b) & 1;
                    }
                }
                self.tell(|_| format!("partition {:06b}", side & 0x3f));
            }
            7 => {
                for m in 0..NODES {
                    (self.cut[n][m], self.cut[m][n]) = (true, true);
                }
                self.tell(|_| format!("node {n} is cut off"));
            }
            _ => {
                let m = self.rng.range(0, NODES as u64) as usize;
                let (one, both) = (self.rng.chance(300), n != m);
                self.cut[n][m] |= both;
                self.cut[m][n] |= both && !one;
                self.tell(|_| format!("link {n} to {m} is cut{}", if one { " one way" } else { "" }));
            }
        }
        if self.plan.authority && self.rng.chance(300) {
            let c = self.rng.range(0, CORES as u64) as usize;
            self.far[c] ^= true;
            self.tell(|w| format!("core {c} reaches the authority: {}", !w.far[c]));
        }
        let next = [300 * MS, 2 * SECOND, 5 * SECOND][self.rng.range(0, 3) as usize];
        let by = self.rng.range(next / 4, next);
        self.after(by, Event::Fault);
    }

    fn drop_stream(&mut self) {
        let open: Vec<usize> = (0..self.streams.len()).filter(|s| self.streams[*s].edge_open).collect();
        if open.is_empty() {
            return;
        }
        let s = open[self.rng.range(0, open.len() as u64) as usize];
        if self.stalled[self.streams[s].edge] <= self.now {
            self.tell(|_| format!("stream {s} is lost"));
            self.edge_loses(s);
        }
    }

    fn crash(&mut self, n: usize) {
        if !self.up[n] {
            return;
        }
        self.tell(|_| format!("node {n} crashes"));
        self.up[n] = false;
        self.lives[n] += 1;
        self.timers[n] = u64::MAX;
        self.stalled[n] = 0;
        if n < CORES { self.core_crash(n) } else { self.edge_crash(n) }
    }

    fn restart(&mut self, n: usize) {
        if self.up[n] {
            return;
        }
        self.tell(|_| format!("node {n} is back"));
        self.up[n] = true;
        self.begin(n);
    }

    /// A node's process begins.
    pub(crate) fn begin(&mut self, n: usize) {
        let life = self.lives[n];
        if n < CORES {
            let by = self.rng.range(0, SECOND);
            self.after(by, Event::Tick(n, life));
            self.core_begin(n);
        } else {
            self.after(SECOND / 10, Event::Capture(n, life));
            self.edge_begin(n);
        }
    }

    /// No more faults: everything is healed and started.
    fn heal(&mut self) {
        self.tell(|_| "all is healed".into());
        self.calm = Some(self.now);
        self.cut = [[false; NODES]; NODES];
        self.far = [false; CORES];
        self.loss = 0;
        for n in 0..NODES {
            self.stalled[n] = self.stalled[n].min(self.now);
            self.restart(n);
        }
    }
}
