//! What other nodes ask of a core.

use std::{sync::Arc, time::Duration};

use mesh::{
    authorize::{Denied, Message, Relation, Residency, check_role},
    identity::{Identity, NodeId, Role},
    lease::{LEASE_MAX, lease_for},
    mandate::Statement,
    wire::request::{LeaseAnswer, LeaseProof, MAX_RENEWED, Request, Response},
};

use super::Meetings;
use crate::store::record::MeetingRecord;

impl Meetings {
    /// Answers a request of `from`. What it asks for is done whole even if this is dropped.
    pub async fn answer(self: Arc<Self>, from: &Identity, request: Request) -> Response {
        let (this, from) = (self.clone(), from.clone());
        let answer = self.whole(async move { this.heed(&from, request).await }).await;
        answer.unwrap_or_else(|| Response::Refused { reason: "an internal error of this core".into() })
    }

    async fn heed(self: &Arc<Self>, from: &Identity, request: Request) -> Response {
        let refused = |reason: &str| Response::Refused { reason: reason.into() };
        if let Err(denied) = check_role(Message::of_request(&request, self.me()), Role::Core, from.role) {
            self.denials.note(from, &denied);
            return refused(&denied.to_string());
        }
        match request {
            Request::Replicate(replica) => self.handle_replica(from, replica).await,
            Request::Serving { meeting } => match self.record(meeting) {
                Ok(Some(record)) => self.tell_serving(from, &record),
                Ok(None) => Response::Unknown,
                Err(error) => refused(&error.to_string()),
            },
            Request::Keys(keys) => self.handle_keys(from, keys).await,
            Request::Remove { meeting, term, proof } => self.handle_remove(from, meeting, term, &proof).await,
            Request::Renew { leases, .. } if leases.len() > MAX_RENEWED => refused("too many meetings"),
            Request::Renew { core, edge, sent_ms, leases } if core == *self.me() => {
                self.renew(from, &edge, sent_ms, &leases)
            }
            Request::Renew { core, edge, sent_ms, leases } => {
                let who = if from.node == edge { Relation::Itself } else { Relation::Nobody };
                match self.admit(Message::RenewElsewhere, from, who, Residency::Inside) {
                    Ok(()) => self.pass_on(core.clone(), Request::Renew { core, edge, sent_ms, leases }).await,
                    Err(denied) => refused(&denied.to_string()),
                }
            }
            Request::Probe { .. }
            | Request::Assign(_)
            | Request::Release { .. }
            | Request::Join(_)
            | Request::Captures { .. } => refused("a core serves no meeting's media"),
        }
    }

    /// How long a lease this core gives to an edge.
    pub fn lease_of(&self, edge: &NodeId) -> Duration {
        self.placer.mesh.rtt(edge).map_or(LEASE_MAX, lease_for)
    }

    fn tell_serving(&self, from: &Identity, record: &MeetingRecord) -> Response {
        if let Err(denied) = self.admit_question(from, record) {
            return Response::Refused { reason: denied.to_string() };
        }
        match record.serving.core(self.me()) {
            Some(core) => self.serving_answer(from, record, core, record.serving.term),
            None => Response::Unknown,
        }
    }

    /// Passes an edge's renewals on to the core that they are meant for.
    async fn pass_on(&self, core: NodeId, request: Request) -> Response {
        metrics::counter!("nearfield_core_renewals_passed_total").increment(1);
        match self.placer.mesh.request(&core, &request).await {
            Ok(response) => response,
            Err(reason) => Response::Refused { reason },
        }
    }

    /// An edge that has no way here renews its leases through others: whoever carries it, each lease is proven by the edge's key.
    fn renew(&self, from: &Identity, edge: &NodeId, sent_ms: u64, asked: &[LeaseProof]) -> Response {
        let answers: Vec<Result<Option<LeaseAnswer>, Denied>> =
            asked.iter().map(|lease| self.renew_one(from, edge, sent_ms, lease)).collect();
        let denied = answers.iter().find_map(|answer| answer.as_ref().err());
        if let Some(denied) = denied.filter(|_| answers.iter().all(Result::is_err)) {
            return Response::Refused { reason: denied.to_string() };
        }
        let leases = answers.into_iter().filter_map(|answer| answer.ok().flatten()).collect();
        Response::Renewed { lease_ms: LEASE_MAX.as_millis() as u32, leases }
    }

    fn renew_one(
        &self,
        from: &Identity,
        edge: &NodeId,
        sent_ms: u64,
        lease: &LeaseProof,
    ) -> Result<Option<LeaseAnswer>, Denied> {
        let LeaseProof { meeting: id, epoch, proof } = lease;
        // Of one that is not served here nothing is said: its lease ends by itself, whoever grants it now.
        let Some(live) = self.live(*id) else { return Ok(None) };
        let key = live.key().for_edge(edge);
        let (meeting, epoch, core) = (*id, *epoch, self.me());
        let proven = key.proves(&Statement::Renew { meeting, epoch, core, sent_ms }, proof);
        let who = if proven { Relation::Owner } else { Relation::Nobody };
        self.admit(Message::Renew, from, who, Residency::Inside)?;
        // The way round is longer than any that was measured.
        let kept = live.renew_by_detour(edge, epoch, sent_ms, LEASE_MAX);
        Ok(kept.map(|kept| {
            let lease_ms = LEASE_MAX.as_millis() as u32;
            let said = Statement::Renewed { meeting, epoch, core, sent_ms, lease_ms, kept };
            LeaseAnswer { meeting, kept, proof: key.prove(&said) }
        }))
    }
}
