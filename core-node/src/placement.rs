//! Choosing the edge for a meeting: the edges likely to be nearest measure their way to its relay, the best is
//! asked to join, the next best if it will not. A meeting whose edge is lost is placed by what was measured within the
//! minute, without asking anybody; `rebalance` sees to it that there is something.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

mod anti_affinity;
pub(crate) mod assign;
mod measure;
mod memory;
mod probe_round;
mod ramp;
pub(crate) mod rebalance;
mod target;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use geo::{RegionId, latency::LatencyModel};
use mesh::{
    clock::Micros,
    coordinate::Coordinate,
    identity::{NodeId, Role},
    node::Member,
    placement::{Candidate, Decision, Measured, Policy, RttSource, Site, Verdict, rank, sites},
    wire::{
        Epoch,
        request::{Response, Source},
    },
};
use tokio::sync::Semaphore;

use self::{
    assign::{assign, knows_leases},
    measure::Distances,
    memory::Memory,
    ramp::Ramp,
    target::Target,
};
use crate::{
    lock,
    meeting::{
        Meeting,
        lifecycle::Unplaced,
        machine::{
            Order,
            seek::{Declined, DeclinedBy, Eligible, Found},
        },
    },
    peers::Mesh,
};

/// Edges asked to take one meeting before it has to wait.
const MAX_ASKED: usize = 3;

/// A report older than this is no sign of health. Reports come every 10 s.
const REPORT_AGE: Duration = Duration::from_secs(90);

/// So many edges with fresh measurements are enough to replace one without measuring: the best may decline.
const ENOUGH: usize = 2;

/// Live meetings whose surroundings are measured at once; the others wait.
const MAX_MEASURING: usize = 16;

/// What was measured within this, for whatever meeting, is not measured again to rebalance.
const RECENT: Duration = Duration::from_secs(20);

/// Chooses edges.
pub struct Placer {
    /// The other nodes.
    pub mesh: Arc<dyn Mesh>,
    /// Distances where nothing was measured.
    pub model: LatencyModel,
    memory: Mutex<Memory>,
    ramp: Mutex<Ramp>,
    measuring: Semaphore,
}

/// What a meeting asks of its edge.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The way in.
    pub source: Source,
    /// Where the relay answers STUN, if that is known.
    pub stun: Option<String>,
    /// The conditions.
    pub policy: Policy,
}

impl Placer {
    /// Knows nothing yet of any relay.
    pub fn new(mesh: Arc<dyn Mesh>, model: LatencyModel) -> Self {
        Self { mesh, model, memory: Mutex::default(), ramp: Mutex::default(), measuring: Semaphore::new(MAX_MEASURING) }
    }

    /// The edges that may take `meeting`, the best first; and why they are in that order.
    pub(crate) async fn rank_for(&self, meeting: &Meeting, wanted: Wanted, order: Order) -> (Found, Option<Decision>) {
        let begun = Instant::now();
        let Some(target) = Target::of(&wanted.source, wanted.stun.as_deref()) else {
            let detail = "the source's address names no host".into();
            return (Found::Ranked(Err(Unplaced { code: "bad_source", detail, retry: false })), None);
        };
        let mut policy = self.current(&wanted.policy);
        policy.without.extend(order.without);
        let had_edge = !meeting.captures(|captures| captures.owners().rows.is_empty());
        let distances = self.distances(&target, &policy, had_edge).await;
        let decision = rank(&self.candidates(&distances), &policy, uuid::Uuid::new_v4().as_u128() as u64);
        metrics::histogram!("nearfield_core_placement_seconds").record(begun.elapsed().as_secs_f64());
        let best = anti_affinity::order(&decision.rows, order.anti_affinity.as_ref()).into_iter().take(MAX_ASKED);
        let best: Vec<Eligible> =
            best.map(|row| Eligible { edge: row.node.clone(), region: row.region.clone() }).collect();
        if best.is_empty() {
            let epoch = Epoch(order.after.0 + 1);
            // Why all were excluded is worth as much as why one was chosen; the log's end is noticed elsewhere.
            let _ = meeting.decided(epoch, shown(&decision, epoch, None)).await;
        }
        (Found::Ranked(Ok((best, decision.rows.len()))), Some(decision))
    }

    /// `edge` is to be asked under `epoch`: that is noted, with why it was chosen. Whether it knows leases.
    ///
    /// # Errors
    /// It does not answer, or the store takes no more writes.
    pub(crate) async fn begin(
        &self,
        meeting: &Meeting,
        edge: &NodeId,
        epoch: Epoch,
        decision: &Option<Decision>,
    ) -> Result<bool, Declined> {
        let report = report_of(&self.mesh.members().borrow(), edge).unwrap_or_default();
        lock(&self.ramp).handle_asked(edge, report, Instant::now());
        if let Some(decision) = decision {
            meeting.decided(epoch, shown(decision, epoch, Some(edge))).await?;
        }
        knows_leases(&*self.mesh, edge).await
    }

    /// Asks the owner of `epoch` to join.
    ///
    /// # Errors
    /// Why there is no answer.
    pub(crate) async fn join(&self, meeting: &Meeting, wanted: Wanted, epoch: Epoch) -> Result<Response, Declined> {
        let regions = wanted.policy.residency.into_iter().flatten().collect();
        assign(&*self.mesh, regions, meeting, wanted.source, epoch).await
    }

    /// An edge did not take a meeting.
    pub(crate) fn handle_declined(&self, by: &DeclinedBy) {
        if by.begun {
            lock(&self.ramp).handle_refused(&by.edge);
        }
        if by.silent {
            self.handle_silent(&by.edge);
        }
    }

    /// Measures again, where that is some time ago, what a live meeting depends on: its own edge, and those that would be
    /// next. The ranking of all; `None` if its source names no relay.
    pub async fn rank_live(&self, wanted: &Wanted, owner: &NodeId) -> Option<Decision> {
        // Closed by nobody.
        let _turn = self.measuring.acquire().await.ok()?;
        let target = Target::of(&wanted.source, wanted.stun.as_deref())?;
        let policy = self.current(&wanted.policy);
        let (fresh, sites) = (self.fresh(&target), self.sites(&policy));
        let ready = sites.iter().filter(|site| site.node != *owner && fresh.contains_key(&site.node)).count();
        if ready < ENOUGH.min(sites.len()) {
            self.search(&target, sites).await;
        }
        let known = || rank(&self.candidates(&self.known(&target)), &policy, 0);
        let eligible = known().rows.into_iter().filter(|row| !matches!(row.verdict, Verdict::Excluded(_)));
        let next = eligible.map(|row| row.node).filter(|node| node != owner).take(ENOUGH);
        let measured: BTreeSet<NodeId> = next.chain([owner.clone()]).collect();
        self.refresh(&target, measured, RECENT).await;
        Some(known())
    }

    /// `edge` is not to be asked until it is heard of again.
    pub fn handle_silent(&self, edge: &NodeId) {
        metrics::counter!("nearfield_core_edges_silent_total").increment(1);
        let report = report_of(&self.mesh.members().borrow(), edge);
        lock(&self.memory).handle_silent(edge, report, Instant::now());
    }

    /// Rows of what is remembered of edges and relays.
    pub(crate) fn tables(&self) -> [(&'static str, usize); 3] {
        let (relays, silent) = lock(&self.memory).sizes();
        [("measured_relays", relays), ("silent_edges", silent), ("assigned_edges", lock(&self.ramp).len())]
    }

    /// How far edges are from `target`. In a `hurry` what was measured within the minute is enough.
    async fn distances(&self, target: &Target, policy: &Policy, hurry: bool) -> Distances {
        let sites = self.sites(policy);
        let fresh = self.fresh(target);
        let ready = sites.iter().filter(|site| fresh.contains_key(&site.node)).count();
        if hurry && ready > 0 && ready >= sites.len().min(ENOUGH) {
            metrics::counter!("nearfield_core_placements_unprobed_total").increment(1);
            return fresh;
        }
        self.search(target, sites).await
    }

    /// The policy of a meeting at this moment.
    fn current(&self, policy: &Policy) -> Policy {
        let members = self.mesh.members().borrow().clone();
        let silent = lock(&self.memory).silent(|edge| report_of(&members, edge), Instant::now());
        Policy { heard_since: Instant::now().checked_sub(REPORT_AGE), silent, ..policy.clone() }
    }

    /// The edges that may take it, wherever its relay is.
    fn sites(&self, policy: &Policy) -> Vec<Site> {
        let hint = policy.prefer.first().unwrap_or(&self.mesh.identity().region);
        let map = |region: &RegionId| Some(Coordinate::on_map(self.model.map().region(region)?.place));
        let guess = |region: &RegionId| self.model.estimate(hint, region).map(|latency| latency.rtt);
        sites(&self.candidates(&Distances::new()), policy, map, guess)
    }

    /// All edges, as they are now.
    fn candidates(&self, distances: &Distances) -> Vec<Candidate> {
        let members = self.mesh.members().borrow().clone();
        let here = &self.mesh.identity().region;
        let (ramp, now) = (lock(&self.ramp), Instant::now());
        let candidate = |m: &Member| Candidate {
            node: m.identity.node.clone(),
            region: m.identity.region.clone(),
            role: m.identity.role,
            report: m.report.clone(),
            heard: m.heard,
            pending: m.report.as_ref().map_or(0, |report| ramp.pending(&m.identity.node, report.at, now)),
            rtt_relay: distances.get(&m.identity.node).copied(),
            rtt_core: self.rtt_to_core(m, here),
        };
        members.iter().filter(|m| m.identity.role == Role::Edge).map(candidate).collect()
    }

    fn rtt_to_core(&self, edge: &Member, here: &RegionId) -> Option<Measured> {
        let told = edge.report.as_ref().and_then(|r| r.rtts.iter().find(|(region, _)| region == here));
        let measured = self.mesh.rtt(&edge.identity.node).or(told.map(|(_, us)| Duration::from_micros(u64::from(*us))));
        if let Some(rtt) = measured {
            return Some(Measured::now(rtt, RttSource::Gossip));
        }
        Some(Measured::now(self.model.estimate(here, &edge.identity.region)?.rtt, RttSource::Model))
    }
}

/// The policy of one meeting.
pub fn policy(residency: Option<BTreeSet<RegionId>>, prefer: &[RegionId], max_rtt_ms: Option<u32>) -> Policy {
    let max_rtt = max_rtt_ms.map(|ms| Duration::from_millis(u64::from(ms)));
    Policy { residency, prefer: prefer.to_vec(), max_rtt, ..Policy::default() }
}

fn report_of(members: &[Member], edge: &NodeId) -> Option<Micros> {
    let member = members.iter().find(|m| m.identity.node == *edge)?;
    member.report.as_ref().map(|report| report.at)
}

fn shown(decision: &Decision, epoch: Epoch, asked: Option<&NodeId>) -> serde_json::Value {
    let at = crate::transcript::timestamp(Micros::from_system(SystemTime::now())).to_string();
    serde_json::json!({ "epoch": epoch.0, "at": at, "asked": asked, "chosen": decision.chosen, "rows": decision.rows })
}
