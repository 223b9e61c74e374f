//! Choosing the edge for a meeting: the nearest few measure their way to its relay, the best is asked
//! to join, the next best if it will not.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use geo::{RegionId, latency::LatencyModel};
use mesh::{
    clock::Micros,
    identity::{NodeId, Role},
    node::Member,
    placement::{Candidate, Decision, Measured, Policy, RttSource, Verdict, rank},
    wire::{
        Epoch,
        request::{Request, Response, Source},
    },
};
use reqwest::Url;
use tokio::{task::JoinSet, time::timeout};

use super::{invite::invite, lifecycle::Unplaced};
use crate::{log::LogClosed, meeting::Meeting, peers::Mesh, record::Owner};

/// Edges asked to measure for one meeting.
const MAX_PROBED: usize = 8;

/// A probe answered later than this is no answer: a relay that far away is no choice.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);

/// Edges asked to take one meeting before it has to wait.
const MAX_ASKED: usize = 3;

/// A report older than this is no sign of health. Reports come every 10 s; clocks differ.
const REPORT_AGE: Duration = Duration::from_secs(60);

/// Chooses edges.
pub struct Placer {
    /// The other nodes.
    pub mesh: Arc<dyn Mesh>,
    /// Distances where nothing was measured.
    pub model: LatencyModel,
}

/// What a meeting asks of its edge.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The way in.
    pub source: Source,
    /// The conditions.
    pub policy: Policy,
}

impl Placer {
    /// Finds an edge for `meeting` and has it join, under epochs above `after`. Returns the epoch taken.
    ///
    /// # Errors
    /// The newest epoch tried, and why nobody took it.
    pub async fn place(&self, meeting: &Meeting, wanted: Wanted, after: Epoch) -> Result<Epoch, (Epoch, Unplaced)> {
        let begun = Instant::now();
        let failed = |code, detail: String, retry| Unplaced { code, detail, retry };
        let relay = relay_address(&wanted.source)
            .ok_or_else(|| (after, failed("bad_source", "the source's address names no host".into(), false)))?;
        let candidates = self.candidates(&wanted.policy, &relay).await;
        let policy = Policy { fresh_since: Some(fresh_since()), ..wanted.policy.clone() };
        let decision = rank(&candidates, &policy, uuid::Uuid::new_v4().as_u128() as u64);
        metrics::histogram!("nearfield_core_placement_seconds").record(begun.elapsed().as_secs_f64());
        let mut epoch = after;
        let mut refusals = vec![];
        for row in decision.rows.iter().filter(|r| !matches!(r.verdict, Verdict::Excluded(_))).take(MAX_ASKED) {
            epoch = Epoch(epoch.0 + 1);
            let owner = Owner::new(row.node.clone(), row.region.clone());
            match self.assign(meeting, &wanted, epoch, owner, &decision).await {
                Ok(()) => return Ok(epoch),
                Err(reason) => refusals.push(format!("{}: {reason}", row.node)),
            }
        }
        let detail = match refusals.is_empty() {
            true => format!("none of {} edges may take it", candidates.len()),
            false => refusals.join("; "),
        };
        let code = if candidates.is_empty() || !refusals.is_empty() { "no_edge" } else { "no_edge_allowed" };
        if refusals.is_empty() {
            // Why all were excluded is worth as much as why one was chosen; the log's end is noticed elsewhere.
            let _ = meeting.decided(Epoch(epoch.0 + 1), shown(&decision, Epoch(epoch.0 + 1), None)).await;
        }
        Err((epoch, failed(code, detail, true)))
    }

    async fn assign(
        &self,
        meeting: &Meeting,
        wanted: &Wanted,
        epoch: Epoch,
        owner: Owner,
        decision: &Decision,
    ) -> Result<(), String> {
        let stopped = |LogClosed| LogClosed.to_string();
        meeting.decided(epoch, shown(decision, epoch, Some(&owner.edge))).await.map_err(stopped)?;
        invite(&*self.mesh, meeting, wanted.source.clone(), epoch, owner).await
    }

    async fn candidates(&self, policy: &Policy, relay: &Relay) -> Vec<Candidate> {
        let members = self.mesh.members().borrow().clone();
        let nearest = self.nearest(&members, policy);
        let probed = self.probe(&nearest, relay).await;
        let here = self.mesh.identity().region.clone();
        let edges = members.iter().filter(|m| m.identity.role == Role::Edge);
        edges
            .map(|m| Candidate {
                node: m.identity.node.clone(),
                region: m.identity.region.clone(),
                role: m.identity.role,
                report: m.report.clone(),
                pending: 0,
                rtt_relay: probed.get(&m.identity.node).map(|rtt| Measured { rtt: *rtt, source: RttSource::Probe }),
                rtt_core: self.rtt_to_core(m, &here),
            })
            .collect()
    }

    /// The edges worth asking: those the policy's fixed conditions allow, region by region, regions near
    /// the preferred one (else near this core) first.
    fn nearest(&self, members: &[Member], policy: &Policy) -> Vec<NodeId> {
        let hint = policy.prefer.first().unwrap_or(&self.mesh.identity().region);
        let allowed = |region: &RegionId| policy.residency.as_ref().is_none_or(|r| r.contains(region));
        let mut by_region: BTreeMap<(bool, Option<Duration>, RegionId), Vec<&Member>> = BTreeMap::new();
        for member in members.iter().filter(|m| m.identity.role == Role::Edge && allowed(&m.identity.region)) {
            let fit = member.report.as_ref().is_some_and(|r| !r.draining && r.meetings < r.capacity);
            if fit {
                let rtt = self.model.estimate(hint, &member.identity.region).map(|l| l.rtt);
                by_region.entry((rtt.is_none(), rtt, member.identity.region.clone())).or_default().push(member);
            }
        }
        let longest = by_region.values().map(Vec::len).max().unwrap_or(0);
        let turns = (0..longest).flat_map(|turn| by_region.values().filter_map(move |edges| edges.get(turn)));
        turns.take(MAX_PROBED).map(|m| m.identity.node.clone()).collect()
    }

    async fn probe(&self, edges: &[NodeId], relay: &Relay) -> BTreeMap<NodeId, Duration> {
        let mut probes = JoinSet::new();
        for edge in edges.iter().cloned() {
            let mesh = self.mesh.clone();
            let request = Request::Probe { relay: relay.0.clone(), stun: false };
            probes.spawn(async move {
                let answer = timeout(PROBE_DEADLINE, mesh.request(&edge, &request)).await;
                (edge, answer)
            });
        }
        let mut answers = BTreeMap::new();
        while let Some(probe) = probes.join_next().await {
            match probe {
                Ok((edge, Ok(Ok(Response::Probed { rtt_us, answered: 1.. })))) => {
                    answers.insert(edge, Duration::from_micros(rtt_us));
                }
                Ok((edge, _)) => tracing::debug!(%edge, "no answer to a probe"),
                Err(error) => tracing::error!(%error, "a probe was abandoned"),
            }
        }
        answers
    }

    fn rtt_to_core(&self, edge: &Member, here: &RegionId) -> Option<Measured> {
        let told = edge.report.as_ref().and_then(|r| r.rtts.iter().find(|(region, _)| region == here));
        let measured = self.mesh.rtt(&edge.identity.node).or(told.map(|(_, us)| Duration::from_micros(u64::from(*us))));
        if let Some(rtt) = measured {
            return Some(Measured { rtt, source: RttSource::Gossip });
        }
        let rtt = self.model.estimate(here, &edge.identity.region)?.rtt;
        Some(Measured { rtt, source: RttSource::Model })
    }
}

/// The policy of one meeting.
pub fn policy(residency: Option<BTreeSet<RegionId>>, prefer: &[RegionId], max_rtt_ms: Option<u32>) -> Policy {
    let max_rtt = max_rtt_ms.map(|ms| Duration::from_millis(u64::from(ms)));
    Policy { residency, prefer: prefer.to_vec(), max_rtt, ..Policy::default() }
}

/// `host:port` of a relay's signalling.
struct Relay(String);

fn relay_address(source: &Source) -> Option<Relay> {
    let (Source::Whep { url, .. } | Source::Janus { url, .. }) = source;
    let url = Url::parse(url).ok()?;
    Some(Relay(format!("{}:{}", url.host_str()?, url.port_or_known_default()?)))
}

fn shown(decision: &Decision, epoch: Epoch, asked: Option<&NodeId>) -> serde_json::Value {
    let at = crate::transcript::timestamp(Micros::from_system(SystemTime::now())).to_string();
    serde_json::json!({ "epoch": epoch.0, "at": at, "asked": asked, "chosen": decision.chosen, "rows": decision.rows })
}

fn fresh_since() -> Micros {
    SystemTime::now().checked_sub(REPORT_AGE).map(Micros::from_system).unwrap_or_default()
}
