//! What an edge was asked to take.

use geo::RegionId;
use mesh::{
    identity::NodeId,
    mandate::EdgeKey,
    wire::{
        Term,
        request::{Assignment, Join},
    },
};

/// See the module.
#[derive(Debug, Clone)]
pub struct Offer {
    /// What to join, and under which epoch.
    pub assignment: Assignment,
    /// The turn in which its core serves it.
    pub term: Term,
    /// The core that would serve it next.
    pub standby: Option<NodeId>,
    /// Whether it is to be joined under a lease only: it was offered by a core of version 2.
    pub leased: bool,
    /// This edge's key for the meeting.
    pub key: EdgeKey,
    /// The regions that may touch it; all if there are none.
    pub regions: Vec<RegionId>,
}

impl Offer {
    /// As version 1 assigns.
    pub fn assigned(assignment: Assignment) -> Self {
        let (key, regions) = Default::default();
        Self { assignment, term: Term(1), standby: None, leased: false, key, regions }
    }

    /// As version 2 offers.
    pub fn joined(Join { assignment, term, standby, key, regions, .. }: Join) -> Self {
        Self { assignment, term, standby, leased: true, key, regions }
    }
}
