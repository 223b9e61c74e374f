//! The world: how far everything really is, and what is seen of that.
#![allow(clippy::disallowed_methods, reason = "the base of virtual time; nothing waits on it")]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use geo::{latency::fit, map::RegionMap, matrix::RttMatrix, places, region::Place};
use mesh::{
    coordinate::{Coordinate, Settings, Vivaldi},
    identity::NodeId,
};
use rand::{RngExt, rngs::StdRng};

/// Samples that each node takes of others, one a second, before its coordinate counts.
const LEARNING: u32 = 1200;

/// One round trip in so many meets a full queue.
const SPIKES: f64 = 0.02;

/// How much longer a full queue is than a common one.
const SPIKE: f64 = 30.0;

/// Round trips that an edge measures for one answer, the shortest of which it gives: as the edge does.
const SAMPLES: usize = 5;

/// Sites, as a matrix and a map have them.
pub(super) struct World {
    matrix: RttMatrix,
    places: Vec<Option<Place>>,
    nodes: Vec<NodeId>,
    vivaldi: Vec<Vivaldi>,
    noise: f64,
    loss: f64,
    pub(super) rng: StdRng,
}

/// One meeting.
pub(super) struct Scene {
    pub(super) relay: usize,
    /// Where the core is, which guesses that the relay is near itself.
    pub(super) core: usize,
    /// Sites with an edge whose round trip to the relay is known.
    pub(super) edges: Vec<usize>,
}

impl World {
    pub(super) fn new(
        matrix: RttMatrix,
        own: Option<BTreeMap<String, Place>>,
        (noise, loss): (f64, f64),
        mut rng: StdRng,
    ) -> Self {
        let (azure, regions) = (places::azure(), RegionMap::built_in());
        let known = |name: &str| match &own {
            Some(own) => own.get(name).copied(),
            None => azure.get(name).copied().or_else(|| Some(regions.region(&name.parse().ok()?)?.place)),
        };
        let places = matrix.sites().iter().map(|name| known(name)).collect();
        let count = matrix.sites().len();
        // The sites' own names may be no node ids.
        let nodes = (0..count).filter_map(|i| format!("edge-{i:04}").parse().ok()).collect();
        let vivaldi = (0..count).map(|_| Vivaldi::new(Settings::default(), rng.random())).collect();
        Self { matrix, places, nodes, vivaldi, noise, loss, rng }
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Every node learns where it is.
    pub(super) fn learn(&mut self) {
        let mut now = Instant::now();
        for _ in 0..LEARNING {
            now += Duration::from_secs(1);
            for here in 0..self.len() {
                let there = self.rng.random_range(0..self.len());
                let Some(rtt) = self.sample(here, there) else { continue };
                let at = self.vivaldi[there].coordinate().rounded();
                // Refused only if the matrix says 0 ms, which teaches nothing.
                let _ = self.vivaldi[here].handle_rtt(&self.nodes[there], rtt, &at, now);
            }
        }
    }

    /// A meeting: each site in turn has the relay; every other time, half of the edges are not there.
    pub(super) fn scene(&mut self, number: u32) -> Option<Scene> {
        let relay = number as usize % self.len();
        let half = number as usize / self.len() % 2 == 1;
        let core = self.rng.random_range(0..self.len());
        let mut edges: Vec<usize> = (0..self.len()).filter(|site| self.rtt_ms(*site, relay).is_some()).collect();
        if half {
            let kept: Vec<usize> = edges.iter().copied().filter(|_| self.rng.random_bool(0.5)).collect();
            edges = if kept.len() < 2 { edges } else { kept };
        }
        (!edges.is_empty()).then_some(Scene { relay, core, edges })
    }

    pub(super) fn rtt_ms(&self, a: usize, b: usize) -> Option<f64> {
        self.matrix.rtt_ms(a, b)
    }

    pub(super) fn node(&self, site: usize) -> &NodeId {
        &self.nodes[site]
    }

    pub(super) fn site(&self, node: &NodeId) -> Option<usize> {
        self.nodes.binary_search(node).ok()
    }

    /// As the edge's report has it.
    pub(super) fn coordinate(&self, site: usize) -> Coordinate {
        self.vivaldi[site].coordinate().rounded()
    }

    pub(super) fn distance_km(&self, a: usize, b: usize) -> Option<f64> {
        Some(self.places[a]?.distance_km(self.places[b]?))
    }

    /// How far it is from the core, by the map.
    pub(super) fn guess(&self, core: usize, site: usize) -> Option<Duration> {
        Some(fit(self.distance_km(core, site)?))
    }

    /// What a question to the edge at `site` brings: the shortest of some round trips; `None` if it is lost.
    pub(super) fn probe(&mut self, site: usize, relay: usize) -> Option<Duration> {
        if self.rng.random_bool(self.loss) {
            return None;
        }
        (0..SAMPLES).filter_map(|_| self.sample(site, relay)).min()
    }

    fn sample(&mut self, a: usize, b: usize) -> Option<Duration> {
        let ms = self.rtt_ms(a, b)?;
        let queue = self.rng.random_range(0.0..=1.0) * self.noise;
        let queue = queue * if self.rng.random_bool(SPIKES) { SPIKE } else { 1.0 };
        Some(Duration::from_secs_f64(ms * (1.0 + queue) / 1000.0))
    }

    /// How much further the edge at `chosen` is from the relay than the nearest; to choose none is to choose the furthest.
    pub(super) fn penalty(&self, scene: &Scene, chosen: Option<usize>) -> f64 {
        let all = || scene.edges.iter().filter_map(|site| self.rtt_ms(*site, scene.relay));
        let best = all().fold(f64::INFINITY, f64::min);
        let ours = chosen.and_then(|site| self.rtt_ms(site, scene.relay));
        ours.unwrap_or_else(|| all().fold(0.0, f64::max)) - best
    }

    /// The median over all pairs, as a share of the round trip.
    pub(super) fn coordinate_error(&self) -> f64 {
        let pairs = (0..self.len()).flat_map(|a| (0..a).map(move |b| (a, b)));
        let off = |(a, b)| {
            let ms: f64 = self.rtt_ms(a, b).filter(|ms| *ms > 0.0)?;
            Some((self.coordinate(a).rtt_ms(&self.coordinate(b)) / ms - 1.0).abs())
        };
        let mut errors: Vec<f64> = pairs.filter_map(off).collect();
        errors.sort_by(f64::total_cmp);
        errors.get(errors.len() / 2).copied().unwrap_or(1.0)
    }
}
