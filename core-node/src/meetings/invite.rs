//! Asking one edge to join: the epoch is at the authority, on disk, and at the standby, before the edge hears of it.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::time::{Duration, Instant};

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

use crate::{authority::standing::Lost, log::LogClosed, meeting::Meeting, peers::Mesh, record::Owner};

/// An edge that is there says yes or no at once, and connects to the relay afterwards.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);

/// Why an edge has not taken a meeting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Declined {
    /// There was no answer within [`ANSWER_DEADLINE`], nor has it opened the meeting. If it does so later while none else is
    /// asked, it is the meeting's edge all the same (`supervise`).
    #[error("no answer within {ANSWER_DEADLINE:?}")]
    Silent,
    /// It captures the meeting still, under the lease that has lapsed: it is to come back by itself, and no other is asked.
    #[error("it captures the meeting still, and is expected back")]
    Captures,
    /// It will not, or the meeting is not to be had.
    #[error("{0}")]
    Refused(String),
}

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

/// Asks `edge`, before the lapsed lease of `slot` is ended for it, whether it is there and has not got that lease itself: nobody
/// reached it for a while, perhaps, and it has gone on capturing. As long as no other epoch is granted it may come back
/// ([`Grantor`](mesh::lease::Grantor)), and nothing that it has captured is lost.
///
/// # Errors
/// It is not there, or it has the lease.
pub(super) async fn reach(peers: &dyn Mesh, meeting: &Meeting, slot: u8, edge: &NodeId) -> Result<(), Declined> {
    let Some(former) = meeting.captures(|captures| captures.renewable(slot).cloned()) else { return Ok(()) };
    if in_time(peers.wire(edge)).await? < Version::V2 {
        return Ok(());
    }
    let question = Request::Captures { meeting: meeting.id, key: meeting.key().for_edge(edge) };
    match in_time(peers.request(edge, &question)).await? {
        Ok(Response::Captures(Some(epoch))) if (&former.edge, former.epoch) == (edge, epoch) => Err(Declined::Captures),
        // It has none, or will not say; it is there.
        Ok(_) => Ok(()),
        Err(reason) => Err(Declined::Refused(reason)),
    }
}

/// Has `owner` join `meeting` under `epoch`, which is newer than all before it and of this core's term.
///
/// # Errors
/// Why it will not, in words.
pub(super) async fn invite(
    peers: &dyn Mesh,
    regions: Vec<RegionId>,
    meeting: &Meeting,
    source: Source,
    epoch: Epoch,
    owner: Owner,
) -> Result<(), Declined> {
    let edge = owner.edge.clone();
    let leases = in_time(peers.wire(&edge)).await? >= Version::V2;
    let slot = owner.slot;
    meeting.vacant(slot).await;
    meeting.claim_epoch(epoch).await?;
    meeting.assign(epoch, Owner { leased: leases, ..owner }).await?;
    meeting.offer(epoch).map_err(|e| Declined::Refused(e.to_string()))?;
    let record = meeting.record();
    let assignment = Assignment {
        meeting: meeting.id,
        epoch,
        core: peers.identity().node.clone(),
        source,
        vad: record.spec.vad,
        trace: record.trace.parse().unwrap_or_else(|_| TraceContext::new(meeting.id.as_u128())),
    };
    let lease = peers.rtt(&edge).map_or(LEASE_MAX, lease_for);
    let request = if leases { join(meeting, regions, &edge, assignment, lease) } else { Request::Assign(assignment) };
    let answer = match in_time(peers.request(&edge, &request)).await {
        // Where its answer is late or lost: what it has opened it has taken.
        Err(_) | Ok(Err(_)) if meeting.captures(|captures| captures.is_taken(epoch, Instant::now())) => {
            Response::Accepted
        }
        answer => answer?.map_err(Declined::Refused)?,
    };
    match answer {
        Response::Accepted => {
            tracing::info!(meeting = %meeting.id, %edge, epoch = epoch.0, leases, "meeting placed");
            Ok(())
        }
        answer => {
            meeting.handle_declined(epoch);
            match answer {
                Response::Refused { reason } => Err(Declined::Refused(reason)),
                _ => Err(Declined::Refused("answered another question".into())),
            }
        }
    }
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
