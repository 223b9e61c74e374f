//! Which edge joins a meeting, and why: a pure function from candidates and policy to a ranked list.
//!
//! Hard conditions first, each with its own [`Reason`]. Among those that meet them:
//!
//! 1. A round trip to this meeting's own relay that was **probed** beats any that was not: the nearest by
//!    map is wrong by more than 2 ms for one choice in six. Only if nobody was probed do hearsay and
//!    model decide; a node about whose distance nothing is known comes last.
//! 2. Then the regions the customer prefers, in their order.
//! 3. Then the lowest `rtt(edge, relay) + a * rtt(edge, core) + b * stress`.
//!
//! Reports are seconds old, so many meetings that start at once would all choose the same edge. What was
//! assigned since an edge's report was written counts as load, and among those near-equal to the best, two are drawn
//! and the less stressed one is chosen (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001).
//!
//! [`Search`] decides whom to probe, [`Watch`] and [`should_move`] whether a live meeting is better served elsewhere.

mod locate;
mod moving;
mod policy;
mod search;
mod site;
mod watch;
mod why;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use geo::RegionId;
use serde::{Deserialize, Serialize};

pub use self::{
    moving::{History, Hysteresis, Move, should_move},
    policy::{MAX_STRESS_PERMILLE, Policy},
    search::{Effort, Search},
    site::{Site, sites},
    watch::Watch,
};
use crate::{
    identity::{NodeId, Role},
    wire::report::Report,
};

/// A node that may be asked to join.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Its id; one candidate for each.
    pub node: NodeId,
    /// Where it runs.
    pub region: RegionId,
    /// What it does; only edges are chosen.
    pub role: Role,
    /// What it last said of itself.
    pub report: Option<Arc<Report>>,
    /// When that came, by this node's monotonic clock.
    pub heard: Option<Instant>,
    /// Meetings assigned to it that its report cannot know of yet.
    pub pending: u32,
    /// Round trip between it and the meeting's relay.
    pub rtt_relay: Option<Measured>,
    /// Round trip between it and the core that takes the speech.
    pub rtt_core: Option<Measured>,
}

/// A round trip, and how it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// How long.
    pub rtt: Duration,
    /// By what.
    pub source: RttSource,
    /// How long ago it was measured; zero where that means nothing.
    pub age: Duration,
}

impl Measured {
    /// A round trip known by `source` as of now.
    pub fn now(rtt: Duration, source: RttSource) -> Self {
        Self { rtt, source, age: Duration::ZERO }
    }

    fn is_measured(&self) -> bool {
        matches!(self.source, RttSource::Probe | RttSource::Remembered)
    }
}

/// How a round trip is known, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RttSource {
    /// The node itself measured it, just now or within the minute: [`Measured::age`].
    Probe,
    /// The node itself measured it, longer ago.
    Remembered,
    /// Computed from where both are in the space of round trips.
    Coordinate,
    /// The node's report names it for the region.
    Gossip,
    /// Computed from a table or from distance.
    Model,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Who is to join; `None` if nobody may.
    pub chosen: Option<NodeId>,
    /// One row for each candidate: the chosen one, then the others in the order in which they would
    /// take its place, then those excluded, by id.
    pub rows: Vec<Row>,
}

/// What became of one candidate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The candidate.
    pub node: NodeId,
    /// Where it runs.
    pub region: RegionId,
    /// Chosen, next in line, or out.
    pub verdict: Verdict,
    /// Its score in milliseconds, lower is better; `None` if it is out or its distance is unknown.
    pub score_ms: Option<f64>,
    /// Round trip to the relay, in milliseconds.
    pub rtt_relay_ms: Option<f64>,
    /// How that is known.
    pub rtt_relay_source: Option<RttSource>,
    /// How long before the decision it was measured, in milliseconds; `None` where it was not.
    pub rtt_relay_age_ms: Option<u64>,
    /// Round trip to the core, in milliseconds.
    pub rtt_core_ms: Option<f64>,
    /// How that is known.
    pub rtt_core_source: Option<RttSource>,
    /// How busy it says it is, 0 to 1.
    pub stress: Option<f64>,
    /// The ramp-up allowance: meetings assigned to it since it said so, each of which adds its part to the stress.
    pub pending: u32,
    /// The verdict in one sentence.
    pub why: String,
}

/// The place of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is to join.
    Chosen,
    /// It may, and is in line.
    Ranked {
        /// From 2 on; the chosen one is 1.
        place: usize,
    },
    /// It may not.
    Excluded(Reason),
}

/// Why a candidate may not join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It is not an edge.
    Role,
    /// It is the one to be replaced, captures the meeting already, or could not get in or stay in it.
    Taken,
    /// It does not speak what the meeting needs.
    Version,
    /// The meeting's speech may not be in its region.
    Residency,
    /// It has said nothing of itself, or nothing lately.
    Health,
    /// It has stopped answering, whatever membership thinks of it.
    Silent,
    /// It takes no new meetings.
    Draining,
    /// It is near its limit.
    Stress,
    /// It serves as many meetings as it can.
    Capacity,
    /// The relay is further away than the policy allows, or nobody knows how far.
    MaxRtt,
}

/// Ranks `candidates` under `policy`; `chance` is uniformly random bits and decides between near-equals.
///
/// Equal input gives equal output, and the order of `candidates` does not matter.
pub fn rank(candidates: &[Candidate], policy: &Policy, chance: u64) -> Decision {
    let far_core = candidates.iter().filter_map(|c| Some(c.rtt_core?.rtt)).max().unwrap_or_default();
    let mut eligible = Vec::new();
    let mut excluded = Vec::new();
    for candidate in candidates {
        match policy.check(candidate) {
            Ok(()) => eligible.push(Scored::new(candidate, policy, far_core)),
            Err(reason) => excluded.push((candidate, reason)),
        }
    }
    eligible.sort_by(|a, b| a.order(b));
    excluded.sort_by(|(a, _), (b, _)| a.node.cmp(&b.node));

    let near = near_equals(&eligible, policy);
    let best = eligible.first().and_then(|first| first.score_ms);
    if let Some(winner) = draw(&eligible[..near], chance) {
        eligible[..=winner].rotate_right(1);
    }
    let mut rows: Vec<Row> = Vec::with_capacity(candidates.len());
    for (index, scored) in eligible.iter().enumerate() {
        let verdict = if index == 0 { Verdict::Chosen } else { Verdict::Ranked { place: index + 1 } };
        rows.push(scored.candidate.row(verdict, scored.score_ms, why::eligible(scored, index, near, best, policy)));
    }
    for (candidate, reason) in excluded {
        rows.push(candidate.row(Verdict::Excluded(reason), None, why::excluded(candidate, reason, policy)));
    }
    Decision { chosen: eligible.first().map(|first| first.candidate.node.clone()), rows }
}

/// A candidate that meets the hard conditions.
struct Scored<'a> {
    candidate: &'a Candidate,
    /// 0 probed, 1 known otherwise, 2 unknown.
    knowledge: u8,
    /// Its region's place among those preferred; their number if it is not.
    preference: usize,
    score_ms: Option<f64>,
}

impl<'a> Scored<'a> {
    /// A candidate whose way to the core is unknown counts as far from it as the furthest known.
    fn new(candidate: &'a Candidate, policy: &Policy, far_core: Duration) -> Self {
        let cost = candidate.cost_ms(policy, far_core);
        Self {
            candidate,
            knowledge: match candidate.rtt_relay.map(|relay| relay.source) {
                Some(RttSource::Probe) => 0,
                Some(_) => 1,
                None => 2,
            },
            preference: policy.preference(&candidate.region),
            score_ms: candidate.rtt_relay.map(|relay| ms(relay.rtt) + cost),
        }
    }

    fn order(&self, other: &Self) -> std::cmp::Ordering {
        let score = |scored: &Self| scored.score_ms.unwrap_or(f64::INFINITY);
        (self.knowledge, self.preference)
            .cmp(&(other.knowledge, other.preference))
            .then(score(self).total_cmp(&score(other)))
            .then(self.candidate.stress_permille().cmp(&other.candidate.stress_permille()))
            .then(self.candidate.node.cmp(&other.candidate.node))
    }
}

/// How many of the `sorted` are as good as the first: at least one if there is one.
fn near_equals(sorted: &[Scored<'_>], policy: &Policy) -> usize {
    let Some(first) = sorted.first() else { return 0 };
    let near = |other: &&Scored<'_>| {
        let close = match (first.score_ms, other.score_ms) {
            (Some(best), Some(score)) => score - best <= ms(policy.near_equal),
            (None, None) => true,
            _ => false,
        };
        close && (other.knowledge, other.preference) == (first.knowledge, first.preference)
    };
    sorted.iter().take_while(near).count().max(1)
}

/// The less stressed of two drawn from `near`; of two alike, the one that ranks first.
fn draw(near: &[Scored<'_>], chance: u64) -> Option<usize> {
    let count = near.len() as u64;
    if count < 2 {
        return None;
    }
    let one = chance % count;
    let other = (one + 1 + (chance >> 32) % (count - 1)) % count;
    let stress = |index: &u64| (near[*index as usize].candidate.stress_permille(), *index);
    [one, other].into_iter().min_by_key(stress).map(|index| index as usize)
}

impl Candidate {
    /// What it said, and what was put on it since.
    fn stress_permille(&self) -> Option<u16> {
        self.report.as_ref().map(|report| {
            let added = u64::from(self.pending) * 1000 / u64::from(report.capacity.max(1));
            (u64::from(report.stress_permille) + added).min(u64::from(u16::MAX)) as u16
        })
    }

    fn stress(&self) -> Option<f64> {
        self.stress_permille().map(|stress| f64::from(stress) / 1000.0)
    }

    fn row(&self, verdict: Verdict, score_ms: Option<f64>, why: String) -> Row {
        Row {
            node: self.node.clone(),
            region: self.region.clone(),
            verdict,
            score_ms,
            rtt_relay_ms: self.rtt_relay.map(|relay| ms(relay.rtt)),
            rtt_relay_source: self.rtt_relay.map(|relay| relay.source),
            rtt_relay_age_ms: self
                .rtt_relay
                .and_then(|relay| relay.is_measured().then_some(relay.age.as_millis() as u64)),
            rtt_core_ms: self.rtt_core.map(|core| ms(core.rtt)),
            rtt_core_source: self.rtt_core.map(|core| core.source),
            stress: self.report.as_ref().map(|report| f64::from(report.stress_permille) / 1000.0),
            pending: self.pending,
            why,
        }
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
pub(crate) mod tests;
