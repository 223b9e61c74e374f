//! What a customer and an operator ask of a placement.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use geo::RegionId;

use super::{Candidate, Reason};
use crate::identity::{NodeId, Role};

/// No new meeting goes to an edge at or above this stress. An edge that says what it has room for is taken at its word:
/// a margin here would be one that its operator did not choose.
pub const MAX_STRESS_PERMILLE: u16 = 1000;

/// The conditions and weights of one placement.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Nodes that are not to be chosen: the one to be replaced, the other one of a meeting with two, those that failed in it.
    pub without: BTreeSet<NodeId>,
    /// Nodes that have stopped answering, though membership has not found out yet.
    pub silent: BTreeSet<NodeId>,
    /// The oldest wire version that will do; a node that has not said otherwise speaks the first.
    pub wire: u8,
    /// The regions where the meeting's speech may be; `None` allows all, an empty set none.
    pub residency: Option<BTreeSet<RegionId>>,
    /// Regions to be taken first if an edge there is as well measured as elsewhere; the first is dearest.
    pub prefer: Vec<RegionId>,
    /// The longest round trip to the relay. An edge whose round trip is unknown does not meet it.
    pub max_rtt: Option<Duration>,
    /// Reports that came before this do not count; `None` accepts all.
    pub heard_since: Option<Instant>,
    /// `a`: what a millisecond to the core weighs against one to the relay (0.1, finite, not negative).
    ///
    /// Audio lost or late on the way from the relay is lost for good; on the way to the core it is sent
    /// again, and its delay is small beside transcription's. 0 ignores the core, 1 minimises the sum.
    pub core_weight: f64,
    /// `b`: what full stress weighs (20 ms): an idle edge may be that much further away.
    pub stress_weight: Duration,
    /// Scores this close (1 ms) are equal: less than a probe's own noise.
    pub near_equal: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            without: BTreeSet::new(),
            silent: BTreeSet::new(),
            wire: 1,
            residency: None,
            prefer: Vec::new(),
            max_rtt: None,
            heard_since: None,
            core_weight: 0.1,
            stress_weight: Duration::from_millis(20),
            near_equal: Duration::from_millis(1),
        }
    }
}

impl Policy {
    /// Whether `candidate` may join if it is near enough.
    pub fn admits(&self, candidate: &Candidate) -> bool {
        self.check_node(candidate).is_ok()
    }

    /// Whether `candidate` may join; if not, the first condition that it fails.
    pub(super) fn check(&self, candidate: &Candidate) -> Result<(), Reason> {
        self.check_node(candidate)?;
        let near = |limit| candidate.rtt_relay.is_some_and(|relay| relay.rtt <= limit);
        if self.max_rtt.is_none_or(near) { Ok(()) } else { Err(Reason::MaxRtt) }
    }

    /// Everything but the distance to the relay.
    fn check_node(&self, candidate: &Candidate) -> Result<(), Reason> {
        if candidate.role != Role::Edge {
            return Err(Reason::Role);
        }
        if self.without.contains(&candidate.node) {
            return Err(Reason::Taken);
        }
        if self.residency.as_ref().is_some_and(|allowed| !allowed.contains(&candidate.region)) {
            return Err(Reason::Residency);
        }
        if self.silent.contains(&candidate.node) {
            return Err(Reason::Silent);
        }
        let fresh = self.heard_since.is_none_or(|since| candidate.heard.is_some_and(|heard| heard >= since));
        let report = candidate.report.as_ref().filter(|_| fresh).ok_or(Reason::Health)?;
        if report.draining {
            return Err(Reason::Draining);
        }
        if report.wire() < self.wire {
            return Err(Reason::Version);
        }
        if report.meetings.saturating_add(candidate.pending) >= report.capacity {
            return Err(Reason::Capacity);
        }
        if candidate.stress_permille().is_some_and(|stress| stress >= MAX_STRESS_PERMILLE) {
            return Err(Reason::Stress);
        }
        Ok(())
    }

    /// The place of `region` among those preferred; their number if it is not one.
    pub(super) fn preference(&self, region: &RegionId) -> usize {
        self.prefer.iter().position(|preferred| preferred == region).unwrap_or(self.prefer.len())
    }
}
