//! What a node says of itself by gossip: newest wins, about 100 to 300 bytes.

use geo::RegionId;
use serde::{Deserialize, Serialize};

use crate::{clock::Micros, identity::NodeId};

/// The most regions a report names a round trip for.
pub const MAX_RTTS: usize = 12;

/// A node's state, on change and at least every 10 s, as a custom SWIM broadcast.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Whose.
    pub node: NodeId,
    /// When it was written, by its own clock; the newer of two wins.
    pub at: Micros,
    /// How busy it is, 0 idle to 1000 at its limit.
    pub stress_permille: u16,
    /// Meetings it serves now.
    pub meetings: u32,
    /// Meetings it can serve.
    pub capacity: u32,
    /// It takes no new work.
    pub draining: bool,
    /// Where its HTTP API is, for cores.
    pub api: Option<String>,
    /// Software version.
    pub software: String,
    /// Smoothed QUIC round trip to its nearest peer in each region, in microseconds; at most [`MAX_RTTS`].
    pub rtts: Vec<(RegionId, u32)>,
}
