//! What one edge is asked before it captures a meeting, and whether it will.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::time::Duration;

use geo::RegionId;
use mesh::{
    identity::NodeId,
    lease::{LEASE_MAX, lease_for},
    trace::TraceContext,
    wire::{
        Epoch, Version,
        request::{Assignment, Join, Request, Response, Source},
    },
};
use tokio::time::timeout;

use crate::{
    authority::standing::Lost,
    meeting::{Meeting, machine::seek::Declined},
    peers::Mesh,
    store::log::LogClosed,
};

/// An edge that is there says yes or no at once, and connects to the relay afterwards.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);

impl From<LogClosed> for Declined {
    fn from(closed: LogClosed) -> Self {
        Self::Refused(closed.to_string())
    }
}

impl From<Lost> for Declined {
    fn from(lost: Lost) -> Self {
        Self::Refused(lost.to_string())
    }
}

/// Asks `edge`, before a lapsed lease is ended for it, whether it is there and has not got that lease itself, under the `former` epoch:
/// nobody reached it for a while, perhaps, and it has gone on capturing.
///
/// # Errors
/// It is not there, or it has the lease.
pub(crate) async fn reach(
    peers: &dyn Mesh,
    meeting: &Meeting,
    edge: &NodeId,
    former: Option<Epoch>,
) -> Result<(), Declined> {
    if !knows_leases(peers, edge).await? {
        return Ok(());
    }
    let question = Request::Captures { meeting: meeting.id, key: meeting.key().for_edge(edge) };
    match in_time(peers.request(edge, &question)).await? {
        Ok(Response::Captures(Some(epoch))) if former == Some(epoch) => Err(Declined::Captures),
        // It has none, or will not say; it is there.
        Ok(_) => Ok(()),
        Err(reason) => Err(Declined::Refused(reason)),
    }
}

/// Whether `edge` knows leases.
///
/// # Errors
/// It does not answer.
pub(super) async fn knows_leases(peers: &dyn Mesh, edge: &NodeId) -> Result<bool, Declined> {
    Ok(in_time(peers.wire(edge)).await? >= Version::V2)
}

/// Asks the owner of `epoch` to join: the epoch is at the authority, on disk, and at the standby.
///
/// # Errors
/// Why there is no answer.
pub(super) async fn assign(
    peers: &dyn Mesh,
    regions: Vec<RegionId>,
    meeting: &Meeting,
    source: Source,
    epoch: Epoch,
) -> Result<Response, Declined> {
    let owner = meeting.owner(epoch).ok_or_else(|| Declined::Refused("the meeting has ended".into()))?;
    let (edge, record) = (owner.edge, meeting.record());
    let assignment = Assignment {
        meeting: meeting.id,
        epoch,
        core: peers.identity().node.clone(),
        source,
        vad: record.spec.vad,
        trace: record.trace.parse().unwrap_or_else(|_| TraceContext::new(meeting.id.as_u128())),
    };
    let lease = peers.rtt(&edge).map_or(LEASE_MAX, lease_for);
    let request =
        if owner.leased { join(meeting, regions, &edge, assignment, lease) } else { Request::Assign(assignment) };
    let answer = in_time(peers.request(&edge, &request)).await?.map_err(Declined::Refused)?;
    if answer == Response::Accepted {
        tracing::info!(meeting = %meeting.id, %edge, epoch = epoch.0, leases = owner.leased, "meeting placed");
    }
    Ok(answer)
}

async fn in_time<T>(answer: impl Future<Output = T>) -> Result<T, Declined> {
    timeout(ANSWER_DEADLINE, answer).await.map_err(|_| Declined::Silent)
}

fn join(meeting: &Meeting, regions: Vec<RegionId>, edge: &NodeId, assignment: Assignment, lease: Duration) -> Request {
    let (standby, term) = meeting.replication.see_mut(|m| {
        m.handle_told();
        (m.binding().cloned(), m.term())
    });
    let key = meeting.key().for_edge(edge);
    Request::Join(Join { assignment, term, standby, lease_ms: lease.as_millis() as u32, key, regions })
}
