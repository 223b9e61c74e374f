//! What other nodes ask of a core.

use std::time::Duration;

use mesh::{
    identity::{Identity, NodeId, Role},
    lease::{LEASE_MAX, lease_for},
    wire::{
        Epoch, MeetingId,
        request::{MAX_RENEWED, Request, Response},
    },
};

use super::Meetings;

impl Meetings {
    /// Answers a request of `from`.
    pub async fn answer(self: std::sync::Arc<Self>, from: &Identity, request: Request) -> Response {
        let refused = |reason: &str| Response::Refused { reason: reason.into() };
        match request {
            Request::Replicate(replica) if from.role == Role::Core => self.handle_replica(from, replica).await,
            Request::Serving { meeting } if from.role == Role::Core => match self.serving(meeting) {
                Ok(Some((core, term))) => Response::Serving { core, term },
                Ok(None) => Response::Unknown,
                Err(error) => refused(&error.to_string()),
            },
            Request::Keys(keys) if from.role == Role::Core => self.handle_keys(from, keys).await,
            Request::Remove { meeting } if from.role == Role::Core => self.handle_remove(from, meeting).await,
            Request::Renew { meetings, .. } if meetings.len() > MAX_RENEWED => refused("too many meetings"),
            Request::Renew { core, edge, meetings } => self.renew(from, core, edge, meetings).await,
            Request::Replicate(_) | Request::Serving { .. } | Request::Keys(_) | Request::Remove { .. } => {
                refused("only a core may ask this")
            }
            Request::Probe { .. } | Request::Assign(_) | Request::Release { .. } | Request::Join(_) => {
                refused("a core serves no meeting's media")
            }
        }
    }

    /// How long a lease this core gives to an edge.
    pub fn lease_of(&self, edge: &NodeId) -> Duration {
        self.placer.mesh.rtt(edge).map_or(LEASE_MAX, lease_for)
    }

    /// An edge that has no way here renews its leases through others; any node of the mesh may vouch for it. Meant for
    /// another core, it is passed on once: by the edge's own word only.
    async fn renew(&self, from: &Identity, core: NodeId, edge: NodeId, meetings: Vec<(MeetingId, Epoch)>) -> Response {
        if core != *self.me() {
            if from.node != edge {
                return Response::Refused { reason: "it has been passed on already".into() };
            }
            metrics::counter!("nearfield_core_renewals_passed_total").increment(1);
            let request = Request::Renew { core: core.clone(), edge, meetings };
            return match self.placer.mesh.request(&core, &request).await {
                Ok(response) => response,
                Err(reason) => Response::Refused { reason },
            };
        }
        // The way round is longer than any that was measured.
        let lost = |(id, epoch): &(MeetingId, Epoch)| {
            !self.live(*id).is_some_and(|meeting| meeting.renew(&edge, *epoch, LEASE_MAX))
        };
        let lost = meetings.iter().filter(|m| lost(m)).map(|(id, _)| *id).collect();
        Response::Renewed { lease_ms: LEASE_MAX.as_millis() as u32, lost }
    }
}
