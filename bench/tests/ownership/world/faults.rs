//! What goes wrong, and when all of it is healed.

use crate::world::{CORES, EDGES, Event, Kind, MS, NODES, SECOND, World};

impl World {
    pub(super) fn fault(&mut self) {
        if self.calm.is_some() {
            return;
        }
        let n = self.rng.range(0, NODES as u64) as usize;
        let long = [SECOND, 3 * SECOND, 8 * SECOND, 16 * SECOND][self.rng.range(0, 4) as usize];
        let long = self.rng.range(long / 4, long);
        if self.plan.kind.drains() && self.rng.chance(200) {
            let e = CORES + self.rng.range(0, EDGES as u64) as usize;
            self.drain(e);
        }
        match self.rng.range(0, 10) {
            _ if self.plan.kind == Kind::Gaps => {
                let e = CORES + self.rng.range(0, EDGES as u64) as usize;
                self.crash(e);
                self.after(long, Event::Restart(e));
            }
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
        let next = if self.plan.kind == Kind::Gaps { [5 * SECOND; 3] } else { [300 * MS, 2 * SECOND, 5 * SECOND] };
        let next = next[self.rng.range(0, 3) as usize];
        let by = self.rng.range(next / 4, next);
        self.after(by, Event::Fault);
    }

    /// The edge hands its meetings over, takes no new ones, and ends a while later.
    fn drain(&mut self, e: usize) {
        if !self.is_awake(e) || self.draining[e] {
            return;
        }
        self.draining[e] = true;
        self.tell(|_| format!("edge {e} drains"));
        self.edge_drain(e);
        let by = self.rng.range(9 * SECOND, 14 * SECOND);
        self.after(by, Event::Exit(e, self.lives[e]));
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

    pub(super) fn crash(&mut self, n: usize) {
        if !self.up[n] {
            return;
        }
        self.tell(|_| format!("node {n} crashes"));
        self.up[n] = false;
        self.draining[n] = false;
        self.lives[n] += 1;
        self.timers[n] = u64::MAX;
        self.stalled[n] = 0;
        if n < CORES { self.core_crash(n) } else { self.edge_crash(n) }
    }

    pub(super) fn restart(&mut self, n: usize) {
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
    pub(super) fn heal(&mut self) {
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
