//! Delay, loss and partitions between nodes.

use std::time::Duration;

use geo::RegionId;
use rand::{RngExt, rngs::StdRng};

pub(super) const REGIONS: usize = 10;

/// Round trips in ms between ten Azure regions, P50, from Microsoft's published matrix (CC BY 4.0):
/// West Europe, Sweden Central, UK South, East US, West US 2, Brazil South, Japan East, Southeast
/// Asia, Australia East, South Africa North.
pub(super) const RTT_MS: [[u32; REGIONS]; REGIONS] = [
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

/// The paths between all nodes; node `i` is in region `i % 10`.
pub(super) struct Network {
    loss: f64,
    far: Vec<bool>,
}

impl Network {
    pub(super) fn new(nodes: usize, loss: f64) -> Self {
        Self { loss, far: vec![false; nodes] }
    }

    /// Cuts `far`, and nobody else, off from the rest.
    pub(super) fn cut(&mut self, far: &[usize]) {
        self.far.fill(false);
        far.iter().for_each(|index| self.far[*index] = true);
    }

    /// How long a packet is under way; `None` if it never comes.
    ///
    /// Jitter is exponential with a mean of 0.5 ms and 5 % of the way.
    pub(super) fn carry(&self, from: usize, to: Option<usize>, rng: &mut StdRng) -> Option<Duration> {
        let cut = to.is_some_and(|to| self.far[from] != self.far[to]);
        if cut || rng.random::<f64>() < self.loss {
            return None;
        }
        let one_way = to.map_or(1.0, |to| f64::from(RTT_MS[from % REGIONS][to % REGIONS]) / 2.0);
        let jitter = -(1.0 - rng.random::<f64>()).ln() * (0.5 + 0.05 * one_way);
        Some(Duration::from_secs_f64((one_way + jitter) / 1000.0))
    }
}

pub(super) fn region(number: usize) -> RegionId {
    format!("region-{number}").parse().expect("a region id")
}
