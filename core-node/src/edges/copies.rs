//! Datagrams with copies of speech, which may be dropped at will.

use std::sync::Arc;

use mesh::{
    authorize::Message,
    node::Peer,
    tasks::once,
    wire::{Version, copies::Copies},
};

use super::{Acceptor, SpurtError};
use crate::{lock, meeting::wall};

/// Datagrams under way to the log at a time; more are dropped: their streams bring the same.
pub(super) const MAX_COPIES: usize = 256;

impl Acceptor {
    /// Takes one datagram, in a task of its own.
    pub(super) fn serve_copies(self: &Arc<Self>, peer: &Peer, datagram: bytes::Bytes) {
        if peer.wire() < Version::V2 {
            return;
        }
        let Ok(permit) = self.copies.clone().try_acquire_owned() else {
            metrics::counter!("nearfield_core_copies_dropped_total", "reason" => "busy").increment(1);
            return;
        };
        let (this, connection) = (self.clone(), peer.connection.stable_id());
        once("copies", async move {
            if let Err(error) = this.take_copies(connection, datagram).await {
                let reason = if matches!(error, SpurtError::Unknown) { "unknown" } else { "refused" };
                metrics::counter!("nearfield_core_copies_dropped_total", "reason" => reason).increment(1);
                tracing::trace!(%error, "copies dropped");
            }
            drop(permit);
        });
    }

    /// Takes the copies in a datagram of this connection.
    ///
    /// # Errors
    /// The bytes are no copies, or they are not taken; unlike a stream they wait for no row of the control stream.
    pub async fn take_copies(&self, connection: usize, datagram: bytes::Bytes) -> Result<(), SpurtError> {
        let copies = Copies::decode(datagram)?;
        let link = lock(&self.links).get(&connection).cloned().ok_or(SpurtError::Unknown)?;
        let named = lock(&link.aliases).resolve_names(copies.meeting, copies.participant, copies.spurt);
        let (meeting, key) = named.ok_or(SpurtError::Unknown)?;
        let meeting = self.meetings.live(meeting).ok_or(SpurtError::Unknown)?;
        self.meetings.admit_edge(Message::Copies, &link.edge, meeting.owner(key.epoch).as_ref())?;
        Ok(meeting.handle_copies(key, copies, wall()).await?)
    }
}
