//! Renewing leases by way of other nodes while the core itself does not answer.
#![allow(clippy::disallowed_methods, reason = "I/O shell")]

use std::time::{Duration, Instant};

use mesh::{
    authorize::{self, Message, Relation, Residency},
    identity::{Identity, NodeId, Role},
    lease::Renewal,
    mandate::{EdgeKey, Statement},
    node::{Member, Node},
    wire::{
        Epoch, MeetingId,
        request::{LeaseAnswer, LeaseProof, MAX_RENEWED, Request, Response},
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

/// What is to be renewed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    pub(super) meeting: MeetingId,
    pub(super) epoch: Epoch,
    pub(super) key: EdgeKey,
}

/// What came back, as far as the core has proven that it said it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) kept: Vec<(MeetingId, Epoch)>,
    pub(super) renewal: Renewal,
    pub(super) lost: Vec<(MeetingId, Epoch)>,
}

/// The renewals to one core.
pub(super) struct RelayedRenewals {
    node: Node,
    core: NodeId,
    born: Instant,
    every: Interval,
    asking: JoinSet<Option<Answer>>,
    turn: usize,
}

impl RelayedRenewals {
    pub(super) fn new(node: Node, core: NodeId, born: Instant) -> Self {
        let mut every = interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { node, core, born, every, asking: JoinSet::new(), turn: 0 }
    }

    /// The next answer that renews something; `None` when it is time to [`RelayedRenewals::ask`]. Cancel-safe.
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
    pub(super) fn ask(&mut self, mut leases: Vec<Lease>) {
        leases.truncate(MAX_RENEWED);
        for helper in self.helpers() {
            if self.asking.len() >= MAX_ASKED {
                return;
            }
            metrics::counter!("nearfield_edge_leases_relayed_total").increment(1);
            let asked =
                Asked { core: self.core.clone(), leases: leases.clone(), sent: Instant::now(), born: self.born };
            self.asking.spawn(ask(self.node.clone(), helper, asked));
        }
    }

    /// In turn, so that one that cannot reach the core either does not matter for long; cores before edges.
    fn helpers(&mut self) -> Vec<Identity> {
        let members = self.node.members().borrow().clone();
        let mut all = others(&members, Role::Core, &self.core);
        all.extend(others(&members, Role::Edge, &self.core));
        let chosen = all.iter().cycle().skip(self.turn).take(HELPERS.min(all.len())).cloned().collect();
        self.turn = if all.is_empty() { 0 } else { (self.turn + HELPERS) % all.len() };
        chosen
    }
}

fn others(members: &[Member], role: Role, core: &NodeId) -> Vec<Identity> {
    let fit = |m: &&Member| m.identity.role == role && m.identity.node != *core;
    members.iter().filter(fit).map(|m| m.identity.clone()).collect()
}

/// One question, put to two nodes.
#[derive(Debug)]
struct Asked {
    core: NodeId,
    leases: Vec<Lease>,
    sent: Instant,
    /// Where this edge's clock stood at 0.
    born: Instant,
}

async fn ask(node: Node, helper: Identity, asked: Asked) -> Option<Answer> {
    let request = asked.request(&node.identity().node);
    match tokio::time::timeout(DEADLINE, node.request(&helper.node, &request)).await {
        Ok(Ok(Response::Renewed { lease_ms, leases })) => {
            let (answer, unproven) = asked.read(lease_ms, &leases);
            if unproven > 0 {
                let denied =
                    authorize::check(Message::Renewed, Role::Edge, helper.role, Relation::Nobody, Residency::Inside);
                denied.err().iter().for_each(|denied| node.denials().note(&helper, denied));
            }
            Some(answer)
        }
        Ok(other) => {
            debug!(helper = %helper.node, ?other, "no renewal by way of this node");
            None
        }
        Err(_) => None,
    }
}

impl Asked {
    fn sent_ms(&self) -> u64 {
        self.sent.duration_since(self.born).as_millis() as u64
    }

    fn request(&self, edge: &NodeId) -> Request {
        let (core, sent_ms) = (&self.core, self.sent_ms());
        let lease = |Lease { meeting, epoch, key }: &Lease| {
            let (meeting, epoch) = (*meeting, *epoch);
            LeaseProof { meeting, epoch, proof: key.prove(&Statement::Renew { meeting, epoch, core, sent_ms }) }
        };
        let leases = self.leases.iter().map(lease).collect();
        Request::Renew { core: core.clone(), edge: edge.clone(), sent_ms, leases }
    }

    /// What the core said, whoever brought it; and how much of it anybody else may have said.
    fn read(&self, lease_ms: u32, answers: &[LeaseAnswer]) -> (Answer, usize) {
        let (core, sent_ms) = (&self.core, self.sent_ms());
        let mut read = Answer { kept: vec![], renewal: Renewal::new(self.sent, lease_ms), lost: vec![] };
        let mut unproven = 0;
        for LeaseAnswer { meeting, kept, proof } in answers {
            let asked = self.leases.iter().find(|lease| lease.meeting == *meeting).filter(|lease| {
                let (meeting, epoch, kept) = (*meeting, lease.epoch, *kept);
                lease.key.proves(&Statement::Renewed { meeting, epoch, core, sent_ms, lease_ms, kept }, proof)
            });
            match asked {
                Some(lease) if *kept => read.kept.push((lease.meeting, lease.epoch)),
                Some(lease) => read.lost.push((lease.meeting, lease.epoch)),
                None => unproven += 1,
            }
        }
        (read, unproven)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use mesh::mandate::{MeetingKey, Proof};

    use super::*;

    #[test]
    fn whoever_brings_it_only_what_the_core_said_is_believed() {
        let (edge, core): (NodeId, NodeId) = ("edge-1".parse().unwrap(), "core-1".parse().unwrap());
        let (key, epoch, now) = (MeetingKey::random().for_edge(&edge), Epoch(3), Instant::now());
        let meetings = [1, 2, 3].map(MeetingId::from_u128);
        let leases = meetings.map(|meeting| Lease { meeting, epoch, key }).to_vec();
        let asked = Asked { core: core.clone(), leases, sent: now, born: now - Duration::from_millis(70) };
        let Request::Renew { sent_ms: 70, leases, .. } = asked.request(&edge) else { panic!("no renewal") };
        let renew = Statement::Renew { meeting: meetings[0], epoch, core: &core, sent_ms: 70 };
        assert!(key.proves(&renew, &leases[0].proof));

        let said = |meeting, kept, lease_ms| {
            key.prove(&Statement::Renewed { meeting, epoch, core: &core, sent_ms: 70, lease_ms, kept })
        };
        let answers = [
            LeaseAnswer { meeting: meetings[0], kept: true, proof: said(meetings[0], true, 6000) },
            // What was kept is said to be lost, and the other way round.
            LeaseAnswer { meeting: meetings[1], kept: false, proof: said(meetings[1], true, 6000) },
            LeaseAnswer { meeting: meetings[2], kept: false, proof: said(meetings[2], false, 6000) },
            LeaseAnswer { meeting: meetings[2], kept: true, proof: Proof::default() },
        ];
        let (read, unproven) = asked.read(6000, &answers);
        assert_eq!((read.kept, read.lost, unproven), (vec![(meetings[0], epoch)], vec![(meetings[2], epoch)], 2));
        let (read, unproven) = asked.read(60_000, &answers);
        assert_eq!((read.kept, read.lost, unproven), (vec![], vec![], 4), "nor is it renewed for longer");
    }
}
