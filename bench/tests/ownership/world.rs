//! The world: true time, each node's own clock, streams, requests, and what happens when.
//!
//! - `plan`: how a history is run; `event`: what happens; `faults`: what goes wrong

mod event;
mod faults;
mod plan;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::LazyLock,
    time::{Duration, Instant},
};

use core_node::{authority::Claim, meeting::captures::Now};
use mesh::{
    clock::Micros,
    identity::{Identity, NodeId, Role},
    wire::{
        MeetingId,
        request::{Request, Response},
    },
};

pub(crate) use self::{
    event::{Asked, Down, Event, Stream, Up},
    plan::{Broken, Kind, Plan},
};
use crate::{core::Core, edge::Edge, oracle::Oracle, rng::Rng};

pub(crate) const CORES: usize = 3;
pub(crate) const EDGES: usize = 3;
pub(crate) const NODES: usize = CORES + EDGES;
pub(crate) const MS: u64 = 1000;
pub(crate) const SECOND: u64 = 1_000_000;

/// What a wall clock that is right shows at the beginning.
pub(crate) const START: u64 = 1_700_000_000_000_000;

/// Events in one history.
const MOST_EVENTS: u64 = 1_000_000;

/// A request that is not answered within this has failed, as in `mesh::node`.
const REQUEST_WAIT: u64 = 2 * SECOND;

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
    /// Edges that take no new meetings, and end soon.
    pub(crate) draining: [bool; NODES],
    /// Of 1,000 writes so many are slow.
    pub(crate) slow_writes: u64,
    /// Since when the meeting is to be left.
    pub(crate) left: Option<u64>,
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
        let loss = if plan.kind == Kind::Gaps { 0 } else { loss };
        let slow_writes = [0, 20, 20, 500][rng.range(0, 4) as usize];
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
            draining: [false; NODES],
            slow_writes,
            left: None,
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
        Micros((START as i64 + self.now as i64 + self.walls[n]) as u64)
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
                self.note_capture();
            }
        }
    }

    /// Where it is judged, each time in which no edge captures is noted.
    fn note_capture(&mut self) {
        if self.plan.kind != Kind::Gaps {
            return;
        }
        let (now, captured) = (self.now, !self.capturing().is_empty());
        let silences = &mut self.oracle.silences;
        match silences.last_mut() {
            Some((_, end @ None)) if captured => *end = Some(now),
            Some((_, Some(_))) | None if !captured => silences.push((now, None)),
            _ => {}
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
            Event::Found(n, life, ..) | Event::Ranked(n, life, ..) => (Some(*n), Some(*life)),
            Event::Relay(n, life, _) => (Some(*n), Some(*life)),
            Event::Up(s) | Event::Again(s, 0) => (Some(self.streams[*s].core), None),
            Event::Down(s) | Event::Again(s, _) => (Some(self.streams[*s].edge), None),
            Event::Request { to, .. } | Event::Response { to, .. } => (Some(*to), None),
            Event::Exit(n, life) => (Some(*n), Some(*life)),
            Event::Fault | Event::Restart(_) | Event::Calm | Event::Stop => (None, None),
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
            Event::Found(c, _, step, found) => self.core_found(c, step, *found),
            Event::Ranked(c, _, step, order) => self.core_ranked(c, step, &order),
            Event::Relay(e, _, i) => self.edge_relay(e, i),
            Event::Fault => self.fault(),
            Event::Exit(n, _) => {
                self.crash(n);
                self.after(SECOND / 2, Event::Restart(n));
            }
            Event::Stop => self.ask_to_leave(),
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
}
