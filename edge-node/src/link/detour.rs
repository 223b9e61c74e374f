//! Renewing leases by way of other nodes while the core itself does not answer.
#![allow(clippy::disallowed_methods, reason = "I/O shell")]

use std::time::{Duration, Instant};

use mesh::{
    identity::{NodeId, Role},
    lease::Renewal,
    node::{Member, Node},
    wire::{
        Epoch, MeetingId,
        request::{MAX_RENEWED, Request, Response},
    },
};
use tokio::{
    task::JoinSet,
    time::{Interval, MissedTickBehavior, interval},
};
use tracing::debug;

/// How often it is tried: several times in the shortest lease.
const EVERY: Duration = Duration::from_millis(400);
/// Nodes asked at a time.
const HELPERS: usize = 2;
/// A later answer would renew little.
const DEADLINE: Duration = Duration::from_millis(1500);
/// Questions under way; no more are asked until one is answered or its deadline passes.
const MAX_ASKED: usize = 16;

/// What came back.
pub(super) struct Answer {
    pub(super) asked: Vec<(MeetingId, Epoch)>,
    pub(super) renewal: Renewal,
    pub(super) lost: Vec<MeetingId>,
}

/// The detours to one core.
pub(super) struct Detours {
    node: Node,
    core: NodeId,
    every: Interval,
    asking: JoinSet<Option<Answer>>,
    turn: usize,
}

impl Detours {
    pub(super) fn new(node: Node, core: NodeId) -> Self {
        let mut every = interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { node, core, every, asking: JoinSet::new(), turn: 0 }
    }

    /// The next answer that renews something; `None` when it is time to [`Detours::ask`]. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Answer> {
        loop {
            tokio::select! {
                _ = self.every.tick() => return None,
                Some(answer) = self.asking.join_next(), if !self.asking.is_empty() => {
                    if let Ok(Some(answer)) = answer {
                        return Some(answer);
                    }
                }
            }
        }
    }

    /// Asks the next few nodes to pass on that `meetings` are to be renewed.
    pub(super) fn ask(&mut self, mut meetings: Vec<(MeetingId, Epoch)>) {
        meetings.truncate(MAX_RENEWED);
        for helper in self.helpers() {
            if self.asking.len() >= MAX_ASKED {
                return;
            }
            metrics::counter!("nearfield_edge_lease_detours_total").increment(1);
            self.asking.spawn(ask(self.node.clone(), helper, self.core.clone(), meetings.clone()));
        }
    }

    /// In turn, so that one that cannot reach the core either does not matter for long; cores before edges.
    fn helpers(&mut self) -> Vec<NodeId> {
        let members = self.node.members().borrow().clone();
        let mut all = others(&members, Role::Core, &self.core);
        all.extend(others(&members, Role::Edge, &self.core));
        let chosen = all.iter().cycle().skip(self.turn).take(HELPERS.min(all.len())).cloned().collect();
        self.turn = if all.is_empty() { 0 } else { (self.turn + HELPERS) % all.len() };
        chosen
    }
}

fn others(members: &[Member], role: Role, core: &NodeId) -> Vec<NodeId> {
    let fit = |m: &&Member| m.identity.role == role && m.identity.node != *core;
    members.iter().filter(fit).map(|m| m.identity.node.clone()).collect()
}

async fn ask(node: Node, helper: NodeId, core: NodeId, meetings: Vec<(MeetingId, Epoch)>) -> Option<Answer> {
    let sent = Instant::now();
    let edge = node.identity().node.clone();
    let request = Request::Renew { core, edge, meetings: meetings.clone() };
    match tokio::time::timeout(DEADLINE, node.request(&helper, &request)).await {
        Ok(Ok(Response::Renewed { lease_ms, lost })) => {
            Some(Answer { asked: meetings, renewal: Renewal::new(sent, lease_ms), lost })
        }
        Ok(other) => {
            debug!(%helper, ?other, "no renewal by way of this node");
            None
        }
        Err(_) => None,
    }
}
