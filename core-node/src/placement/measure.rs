//! Asking edges for their round trip to a relay, in the rounds that [`Search`] wants.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use mesh::{
    identity::NodeId,
    placement::{Effort, Measured, Search, Site},
    tasks::{Broken, told},
    wire::request::Response,
};
use tokio::{task::JoinSet, time::timeout_at};

use super::{
    Placer,
    memory::FRESH,
    probe_round::{PROBE_DEADLINE, ProbeRound},
    target::Target,
};
use crate::{lock, peers::Mesh};

/// Meetings that begin together at one relay measure it once: for a new one, answers this old are as good as new.
const SHARED: Duration = Duration::from_secs(10);

/// An edge, and its answer: a round trip, or none.
type Answer = (NodeId, Option<Duration>);

/// How far edges are from a relay.
pub(super) type Distances = BTreeMap<NodeId, Measured>;

impl Placer {
    /// Searches among `sites` for the edges near `target`. What was not asked is estimated or remembered, where it can be.
    pub(super) async fn search(&self, target: &Target, sites: Vec<Site>) -> Distances {
        let remembered: Vec<_> = self.known(target).into_iter().map(|(edge, measured)| (edge, measured.rtt)).collect();
        let mut search = Search::new(sites, &remembered, Effort::default());
        let (mut questions, mut before) = (JoinSet::new(), None);
        loop {
            let round = search.next_round();
            if round.is_empty() {
                break;
            }
            let probes = ProbeRound::new(round.iter().cloned().collect(), before.as_ref(), Instant::now());
            before = Some(self.round(target, round, probes, &mut search, &mut questions).await);
        }
        let mut found = search.distances();
        found.extend(self.known(target));
        found
    }

    /// Asks one round, and takes what comes until that is over.
    async fn round(
        &self,
        target: &Target,
        round: Vec<NodeId>,
        mut probes: ProbeRound,
        search: &mut Search,
        questions: &mut JoinSet<Answer>,
    ) -> ProbeRound {
        let now = Instant::now();
        let shared = lock(&self.memory).within(target, SHARED, now);
        for edge in round {
            if let Some(measured) = shared.get(&edge) {
                search.handle_answer(&edge, Some(measured.rtt));
                probes.handle_answer(&edge, now);
            } else {
                questions.spawn(told("probe", ask(self.mesh.clone(), edge, target.clone())));
            }
        }
        while let Some(until) = probes.poll_timeout() {
            let Ok(Some(answer)) = timeout_at(until.into(), questions.join_next()).await else { break };
            let Some((edge, rtt)) = self.take(target, answer.map_err(Broken::from)) else { continue };
            search.handle_answer(&edge, rtt);
            probes.handle_answer(&edge, Instant::now());
        }
        probes
    }

    /// Has those of `edges` measure again that have not lately.
    pub(super) async fn refresh(&self, target: &Target, edges: BTreeSet<NodeId>, age: Duration) {
        let fresh = lock(&self.memory).within(target, age, Instant::now());
        let stale = edges.into_iter().filter(|edge| !fresh.contains_key(edge));
        let mut questions: JoinSet<Answer> =
            stale.map(|edge| told("probe", ask(self.mesh.clone(), edge, target.clone()))).collect();
        while let Some(answer) = questions.join_next().await {
            self.take(target, answer.map_err(Broken::from));
        }
    }

    /// What was measured within the minute.
    pub(super) fn fresh(&self, target: &Target) -> Distances {
        lock(&self.memory).within(target, FRESH, Instant::now())
    }

    /// Everything that is remembered.
    pub(super) fn known(&self, target: &Target) -> Distances {
        lock(&self.memory).known(target, Instant::now())
    }

    fn take(&self, target: &Target, answer: Result<Answer, Broken>) -> Option<Answer> {
        let (edge, rtt) = answer.inspect_err(|why| tracing::error!(%why, "a probe was abandoned")).ok()?;
        let outcome = if rtt.is_some() { "answered" } else { "silent" };
        metrics::counter!("nearfield_core_probes_total", "outcome" => outcome).increment(1);
        if let Some(rtt) = rtt {
            lock(&self.memory).handle_probed(target, &edge, rtt, Instant::now());
        }
        Some((edge, rtt))
    }
}

async fn ask(mesh: Arc<dyn Mesh>, edge: NodeId, target: Target) -> Answer {
    let deadline = Instant::now() + PROBE_DEADLINE;
    let request = target.request();
    let rtt = match timeout_at(deadline.into(), mesh.request(&edge, &request)).await {
        Ok(Ok(Response::Probed { rtt_us, answered: 1.. })) => Some(Duration::from_micros(rtt_us)),
        Ok(Ok(Response::Refused { reason })) => {
            tracing::debug!(%edge, reason, "a probe found nothing");
            None
        }
        Ok(Ok(_)) | Ok(Err(_)) | Err(_) => {
            tracing::debug!(%edge, "no answer to a probe");
            None
        }
    };
    (edge, rtt)
}
