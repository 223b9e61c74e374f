//! Learning the own coordinate, one round trip at a time.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{Coordinate, FARTHEST_MS, euclidean};
use crate::identity::NodeId;

/// Peers whose last samples are kept; when full, the one heard of longest ago goes.
const MAX_PEERS: usize = 1024;

/// Samples of one peer whose lower quartile is used (Ledlie, Gardner, Seltzer, "Network Coordinates in the Wild",
/// NSDI 2007, section 4: a short moving low percentile removes what a heavy tail does to coordinates).
const SAMPLES: usize = 5;

/// No height is below it, in milliseconds: a node at height zero could never leave it.
const MIN_HEIGHT: f64 = 0.05;

/// From this round trip on, in milliseconds, a longer one weighs less than its length: what placement asks is
/// which of some near nodes is the nearest, and on Azure's matrix this takes the ninth decile of the errors from 26 % to 22 %.
const NEAR_MS: f64 = 40.0;

/// No peer counts as surer of itself than this, whatever it says.
const MIN_ERROR: f64 = 0.02;

/// How a coordinate follows what is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// How far each sample moves the coordinate at most, as a share of how wrong it was (0.25, the paper's): more
    /// follows faster and shakes more.
    pub step: f64,
    /// How fast the error estimate forgets (0.25, the paper's).
    pub smoothing: f64,
    /// No sample moves the coordinate further than this, in milliseconds (50): what one liar can do.
    pub max_move_ms: f64,
    /// Samples of one peer that come sooner after its last are not taken (500 ms): who talks most must not weigh most.
    pub min_gap: Duration,
    /// How far out a coordinate is drawn back by 1 ms with each sample, in milliseconds (1000): keeps the
    /// whole mesh from drifting away together, which distances alone cannot see (Ledlie et al., section 5).
    pub gravity_ms: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            step: 0.25,
            smoothing: 0.25,
            max_move_ms: 50.0,
            min_gap: Duration::from_millis(500),
            gravity_ms: 1_000.0,
        }
    }
}

/// Why a sample was not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not a round trip on Earth.
    #[error("the round trip is zero or absurdly long")]
    Rtt,
    /// Not finite, or not on Earth.
    #[error("the peer's coordinate is not one")]
    Coordinate,
    /// See [`Settings::min_gap`].
    #[error("the peer was sampled a moment ago")]
    TooSoon,
}

/// A node's own coordinate. Equal inputs in equal order give equal outputs.
#[derive(Debug)]
pub struct Vivaldi {
    settings: Settings,
    position: [f64; 3],
    height: f64,
    error: f64,
    peers: BTreeMap<NodeId, Recent>,
    rng: StdRng,
}

/// One peer's last round trips, in milliseconds.
#[derive(Debug, Clone)]
struct Recent {
    rtts: VecDeque<f64>,
    at: Instant,
}

impl Vivaldi {
    /// At the origin. `seed` decides in which direction it leaves a peer at the very same place.
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self {
            settings,
            position: [0.0; 3],
            height: MIN_HEIGHT,
            error: 1.0,
            peers: BTreeMap::new(),
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// Where it is now.
    pub fn coordinate(&self) -> Coordinate {
        Coordinate {
            position: self.position.map(|x| x as f32),
            height: self.height as f32,
            error: (self.error as f32).min(1.0),
        }
    }

    /// A round trip to `peer`, which said that it is at `theirs`.
    ///
    /// # Errors
    /// The sample was not used; nothing has changed.
    pub fn handle_rtt(
        &mut self,
        peer: &NodeId,
        rtt: Duration,
        theirs: &Coordinate,
        now: Instant,
    ) -> Result<(), Refused> {
        let ms = rtt.as_secs_f64() * 1000.0;
        if ms <= 0.0 || ms > FARTHEST_MS {
            return Err(Refused::Rtt);
        }
        if !theirs.is_sane() {
            return Err(Refused::Coordinate);
        }
        let typical = self.filter(peer, ms, now)?;
        self.pull(typical, theirs);
        Ok(())
    }

    /// Forgets the samples of peers for which `keep` is false.
    pub fn retain(&mut self, keep: impl Fn(&NodeId) -> bool) {
        self.peers.retain(|node, _| keep(node));
    }

    /// The lower quartile of what was measured to `peer` lately, `ms` included.
    fn filter(&mut self, peer: &NodeId, ms: f64, now: Instant) -> Result<f64, Refused> {
        if let Some(recent) = self.peers.get(peer)
            && now.saturating_duration_since(recent.at) < self.settings.min_gap
        {
            return Err(Refused::TooSoon);
        }
        if self.peers.len() >= MAX_PEERS && !self.peers.contains_key(peer) {
            let oldest = self.peers.iter().min_by_key(|(_, recent)| recent.at).map(|(node, _)| node.clone());
            oldest.and_then(|node| self.peers.remove(&node));
        }
        let recent = self.peers.entry(peer.clone()).or_insert_with(|| Recent { rtts: VecDeque::new(), at: now });
        recent.at = now;
        recent.rtts.push_back(ms);
        if recent.rtts.len() > SAMPLES {
            recent.rtts.pop_front();
        }
        let mut sorted: Vec<f64> = recent.rtts.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        Ok(sorted[(sorted.len() - 1) / 4])
    }

    /// The paper's figure 3, with heights (section 5.4).
    fn pull(&mut self, rtt_ms: f64, theirs: &Coordinate) {
        let there = theirs.position.map(f64::from);
        let their_error = f64::from(theirs.error).max(MIN_ERROR);
        let apart = euclidean(&self.position, &there);
        let estimate = apart + self.height + f64::from(theirs.height);

        let weight = self.error / (self.error + their_error);
        let off = (estimate - rtt_ms).abs() / rtt_ms;
        let forget = self.settings.smoothing * weight;
        self.error = (off * forget + self.error * (1.0 - forget)).clamp(MIN_ERROR, 1.0);

        let limit = self.settings.max_move_ms;
        let near = (NEAR_MS / rtt_ms).min(1.0).sqrt();
        let force = (self.settings.step * weight * near * (rtt_ms - estimate)).clamp(-limit, limit);
        let away = self.direction(&there, apart);
        // The force is shared out between the Euclidean part and the height as the estimate is.
        let total = estimate.max(MIN_HEIGHT);
        let share = if apart > 0.0 { apart / total } else { 1.0 };
        (0..3).for_each(|i| self.position[i] += away[i] * force * share);
        self.height = (self.height + force * (1.0 - share)).clamp(MIN_HEIGHT, FARTHEST_MS);
        self.gravitate();
    }

    /// The unit vector from `there` to here; any, from the very same place.
    fn direction(&mut self, there: &[f64; 3], apart: f64) -> [f64; 3] {
        if apart > 1e-6 {
            return std::array::from_fn(|i| (self.position[i] - there[i]) / apart);
        }
        let random: [f64; 3] = std::array::from_fn(|_| self.rng.random_range(-1.0..1.0));
        let length = euclidean(&random, &[0.0; 3]).max(1e-3);
        random.map(|x| x / length)
    }

    fn gravitate(&mut self) {
        let out = euclidean(&self.position, &[0.0; 3]);
        if out > 0.0 {
            let back = (out / self.settings.gravity_ms).powi(2).max(out - FARTHEST_MS).min(out);
            self.position.iter_mut().for_each(|x| *x *= 1.0 - back / out);
        }
    }
}
