//! What the honest nodes know, answer and pay, at one moment.
#![allow(clippy::disallowed_methods, reason = "a shell: it measures by the wall clock")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use mesh::{
    clock::Micros,
    identity::{Identity, NodeId, Role},
    seeds,
};
use serde_json::Value;

use super::{
    super::stage::Stage,
    traitor::{ROOMY, Traitor},
};
use crate::{bed::DNS_DOMAIN, client::Client};

/// A final that comes so long after the end of what was said is late.
const LATE: Duration = Duration::from_secs(4);
/// The port by which the edges that DNS names are told from the nodes that its SRV records name.
const EDGES: u16 = 7;
/// What an edge counts of beats that were not answered before the next.
const BEATS: &str = "nearfield_edge_beats_missed_total";
/// What an edge counts when it loses its core, or its meeting.
const TURNED: [&str; 3] =
    ["nearfield_edge_link_lost_total", "nearfield_edge_turns_total", "nearfield_edge_leases_lost_total"];

/// Who is there, and who pretends.
pub(super) struct Watch {
    /// Every node as its certificate has it, with its address.
    all: BTreeMap<NodeId, (Identity, IpAddr)>,
    traitors: BTreeSet<IpAddr>,
    /// So many times the time is allowed.
    patience: u32,
}

/// How it looks.
#[derive(Debug, Clone, Default)]
pub(super) struct Look {
    /// What is not as it should be: nodes put out, nodes that are not, false roles and addresses, in gossip and in DNS.
    pub(super) wrong: Vec<String>,
    pub(super) beats_missed: u64,
    pub(super) words_late: u64,
    /// Links, leases and cores that edges have lost.
    pub(super) turned: u64,
    /// What each node has counted as turned away, by metric.
    pub(super) turned_away: BTreeMap<&'static str, BTreeMap<String, u64>>,
    /// Cores that see a traitor report that it has much room.
    pub(super) lured: u64,
    /// Of the core that serves the meeting that is looked at.
    pub(super) memory_mb: u64,
}

impl Watch {
    pub(super) fn new(stage: &Stage, traitors: &BTreeMap<Role, Traitor>, patience: u32) -> Self {
        let honest = stage.bed.nodes.iter().map(|node| (node.identity.clone(), node.mesh.ip()));
        let evil = traitors.values().map(|traitor| (traitor.identity.clone(), traitor.ip));
        let all = honest.chain(evil).map(|(identity, ip)| (identity.node.clone(), (identity, ip))).collect();
        Self { all, traitors: traitors.values().map(|traitor| traitor.ip).collect(), patience }
    }

    /// Waits until the cores see the traitors.
    ///
    /// # Errors
    /// They do not.
    pub(super) async fn arrived(&self, stage: &Stage, patience: Duration) -> Result<()> {
        let begun = Instant::now();
        loop {
            let wrong = self.gossip(stage, &mut 0).await;
            if wrong.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > patience * self.patience {
                bail!("not all are seen by all: {}", wrong.join("; "));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    pub(super) async fn look(&self, stage: &Stage, counted: &[&'static str]) -> Look {
        let mut lured = 0;
        let mut wrong = self.gossip(stage, &mut lured).await;
        wrong.extend(self.dns(stage).await.unwrap_or_else(|error| vec![format!("DNS does not answer: {error:#}")]));
        wrong.extend(self.placed(stage).await);
        let mut turned = 0;
        for name in TURNED {
            turned += sum(stage, name).await;
        }
        let mut turned_away = BTreeMap::new();
        for name in counted {
            let counts = stage.gauges(name).await.into_iter();
            turned_away.insert(*name, counts.map(|(node, count)| (node, count.unwrap_or(0.0) as u64)).collect());
        }
        let core = stage.serving().await.map(|(core, _)| core);
        Look {
            wrong,
            beats_missed: sum(stage, BEATS).await,
            words_late: self.words_late(stage),
            turned,
            turned_away,
            lured,
            memory_mb: core.map_or(0, |core| self.memory_mb(stage, &core)),
        }
    }

    /// Resident, in MB.
    pub(super) fn memory_mb(&self, stage: &Stage, node: &NodeId) -> u64 {
        let status = stage.bed.process(node).and_then(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok());
        let line = status.as_deref().unwrap_or_default().lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
    }

    /// What the cores see otherwise than it is.
    async fn gossip(&self, stage: &Stage, lured: &mut u64) -> Vec<String> {
        let mut wrong = vec![];
        for core in stage.bed.nodes.iter().filter(|node| node.identity.role == Role::Core) {
            let (name, api) = (&core.identity.node, core.api);
            let call = core.host.run(move || async move { Client::new(api)?.get("/v1/nodes").await });
            let seen = match tokio::time::timeout(Duration::from_secs(4), call).await {
                Ok(Ok(Ok(seen))) => seen,
                _ => {
                    wrong.push(format!("{name} does not answer"));
                    continue;
                }
            };
            let nodes = seen["nodes"].as_array().cloned().unwrap_or_default();
            let roomy = nodes.iter().filter(|node| node["report"]["capacity"] == ROOMY);
            *lured += u64::from(roomy.count() > 0);
            wrong.extend(self.list(&nodes).into_iter().map(|what| format!("{name} sees {what}")));
        }
        wrong
    }

    fn list(&self, nodes: &[Value]) -> Vec<String> {
        let mut wrong = vec![];
        let mut strangers = 0;
        for node in nodes {
            let Some((identity, ip)) = node["id"].as_str().and_then(|id| self.all.get(&id.parse().ok()?)) else {
                strangers += 1;
                continue;
            };
            let id = &identity.node;
            if node["role"] != identity.role.as_str() || node["region"] != identity.region.as_str() {
                wrong.push(format!("{id} as {} of {}", node["role"], node["region"]));
            }
            let address = node["address"].as_str().and_then(|addr| addr.parse::<SocketAddr>().ok());
            if address.is_some_and(|addr| addr.ip() != *ip) {
                wrong.push(format!("{id} at {}", node["address"]));
            }
            let report = &node["report"];
            let api = report["api"].as_str().and_then(|api| api.parse::<SocketAddr>().ok());
            if !self.traitors.contains(ip) && (report["draining"] == true || api.is_some_and(|api| api.ip() != *ip)) {
                wrong.push(format!("{id} drains, or has its API at {}", report["api"]));
            }
        }
        if strangers > 0 {
            wrong.push(format!("{strangers} nodes that are not"));
        }
        let seen: BTreeSet<&str> = nodes.iter().filter_map(|node| node["id"].as_str()).collect();
        let honest = self.all.values().filter(|(_, ip)| !self.traitors.contains(ip));
        wrong.extend(honest.filter(|(i, _)| !seen.contains(i.node.as_str())).map(|(i, _)| format!("{} not", i.node)));
        wrong
    }

    /// What DNS names that it should not: whoever is not where it says, and who is no edge as one.
    async fn dns(&self, stage: &Stage) -> Result<Vec<String>> {
        let server = SocketAddr::new(stage.bed.nodes[0].mesh.ip(), 53);
        let (domain, dns_servers) = (Some(DNS_DOMAIN.into()), vec![server]);
        let user = stage.meeting().cores.user.clone();
        let found = user.run(move || async move {
            let addresses = vec![format!("edge.{DNS_DOMAIN}:{EDGES}")];
            let settings = seeds::Settings { addresses, domain, dns_servers, ..seeds::Settings::default() };
            anyhow::Ok(seeds::Seeds::new(settings)?.resolve().await.addresses.into_keys().collect::<Vec<_>>())
        });
        let named = found.await??;
        let known: BTreeSet<IpAddr> = self.all.values().map(|(_, ip)| *ip).collect();
        let strangers = named.iter().filter(|addr| !known.contains(&addr.ip()));
        let mut wrong: Vec<String> = strangers.map(|addr| format!("DNS names {addr}, which is nobody")).collect();
        // An edge may be named as one: last, where so many are named that those nearer do not fill the answer.
        let is_edge = |ip: IpAddr| self.all.values().any(|(who, at)| *at == ip && who.role == Role::Edge);
        let others = named.iter().filter(|addr| addr.port() == EDGES && !is_edge(addr.ip()));
        wrong.extend(others.map(|addr| format!("DNS names {} as an edge", addr.ip())));
        if named.is_empty() {
            wrong.push("DNS names no node".into());
        }
        Ok(wrong)
    }

    /// Meetings that are served or captured by a traitor, or not at all.
    async fn placed(&self, stage: &Stage) -> Vec<String> {
        let mut wrong = vec![];
        for meeting in &stage.meetings {
            let Ok(view) = meeting.view().await else {
                wrong.push("a meeting is not there".into());
                continue;
            };
            wrong.extend(self.misplaced(&view));
        }
        wrong
    }

    /// What is wrong with where a meeting is.
    pub(super) fn misplaced(&self, view: &Value) -> Vec<String> {
        let is_honest = |who: &Value| {
            let known = who.as_str().and_then(|id| self.all.get(&id.parse().ok()?));
            known.is_some_and(|(_, ip)| !self.traitors.contains(ip))
        };
        let places = [&view["core"], &view["owner"]["edge"], &view["standby"]];
        let mut wrong: Vec<String> =
            places.into_iter().filter(|who| !is_honest(who)).map(|who| format!("a meeting is at {who}")).collect();
        if view["status"] != "active" {
            wrong.push(format!("a meeting is {}", view["status"]));
        }
        wrong
    }

    fn words_late(&self, stage: &Stage) -> u64 {
        let late = LATE * self.patience;
        let mut words = 0;
        for meeting in &stage.meetings {
            for text in meeting.reader.seen().finals() {
                let end = text.segment.end_at.parse::<jiff::Timestamp>();
                let Ok(end) = end.map(|end| Micros(end.as_microsecond() as u64)) else { continue };
                if text.at > end.plus(late) {
                    words += text.segment.text.split_whitespace().count() as u64;
                }
            }
        }
        words
    }

    /// What went wrong in the meetings by their end: nothing of what was said may be without words.
    pub(super) async fn meetings(&self, stage: &Stage) -> Vec<String> {
        let mut wrong = vec![];
        for meeting in &stage.meetings {
            if meeting.reader.seen().finals().next().is_none() {
                wrong.push(format!("{} has no words", meeting.path));
            }
            if let Ok(view) = meeting.view().await
                && view["gaps"].as_array().is_some_and(|gaps| !gaps.is_empty())
            {
                wrong.push(format!("{} has gaps: {}", meeting.path, view["gaps"]));
            }
        }
        wrong
    }
}

/// A metric of all nodes together.
async fn sum(stage: &Stage, name: &str) -> u64 {
    stage.gauges(name).await.values().flatten().sum::<f64>() as u64
}
