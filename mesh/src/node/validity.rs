//! Whether the node at the other end of a connection may still be talked to.

use std::time::{Duration, SystemTime};

use tokio::time::sleep;

use super::{Peer, Shared};
use crate::identity::certs::Unacceptable;

/// The wall clock may be set: how long it is trusted to run as the machine's own does.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Ends when `peer`'s certificate stops being acceptable, and says why: it has expired, or the node's own credentials
/// were renewed and no longer trust it.
pub(super) async fn watch(shared: &Shared, peer: &Peer) -> Unacceptable {
    let mut renewed = shared.transport.renewals();
    loop {
        let now = SystemTime::now();
        let checked = renewed.borrow_and_update().check(&peer.connection, now);
        let until = match checked {
            Ok(until) => until,
            Err(why) => return why,
        };
        // A second later: to the second of its expiry it is valid.
        let left = until.duration_since(now).unwrap_or_default() + Duration::from_secs(1);
        tokio::select! {
            changed = renewed.changed() => if changed.is_err() { std::future::pending::<()>().await },
            () = sleep(left.min(LOOK_AGAIN)) => {}
        }
    }
}
