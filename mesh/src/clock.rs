//! The clocks a frame passes, kept apart by type.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Microseconds since the Unix epoch.
///
/// Two readings of it appear on the wire: *capture time*, the RTP timeline of one participant laid
/// over the edge's wall clock when its first packet arrived, so that network jitter does not move
/// it; and plain wall-clock stamps of the stages a frame has passed. Nodes are expected to run NTP:
/// a difference between two nodes' stamps is only as good as their clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Micros(pub u64);

impl Micros {
    /// The same instant from the system's clock; the epoch if the clock stands before it.
    pub fn from_system(time: SystemTime) -> Self {
        Self(time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64))
    }

    /// Milliseconds since the epoch.
    pub fn as_millis(self) -> u64 {
        self.0 / 1000
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// This instant moved later by `by`, stopping at the largest value.
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by.as_micros() as u64))
    }
}
