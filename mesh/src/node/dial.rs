//! Reaching a node: at most one dial per address at a time.

use std::{net::SocketAddr, sync::Arc};

use tokio::time::timeout;

use super::{CONNECT_DEADLINE, ConnectError, Peer, Shared, close, handshake_failed, inbound, lock, refused};
use crate::{identity::NodeId, transport::close as code};

/// Addresses known to lead back here: a handful, or something is wrong with the seeds.
const MAX_OWN: usize = 64;

/// A connection to whoever is at `addr`, who must be `expected` if that is given.
pub(super) async fn connect(
    shared: &Arc<Shared>,
    addr: SocketAddr,
    expected: Option<&NodeId>,
) -> Result<Peer, ConnectError> {
    let attempt = async {
        let turn = take_turn(shared, addr);
        let _mine = turn.lock().await;
        // Another may have connected while we waited.
        let there = match expected {
            Some(node) => shared.pool.newest(node),
            None => shared.pool.at(addr),
        };
        match there {
            Some(peer) => Ok(peer),
            None => dial(shared, addr, expected).await,
        }
    };
    let outcome = timeout(CONNECT_DEADLINE, attempt).await.unwrap_or(Err(ConnectError::Deadline));
    drop_turn(shared, addr);
    outcome
}

async fn dial(shared: &Arc<Shared>, addr: SocketAddr, expected: Option<&NodeId>) -> Result<Peer, ConnectError> {
    if shared.stop.is_cancelled() {
        return Err(ConnectError::Shutdown);
    }
    metrics::counter!("nearfield_mesh_dials_total").increment(1);
    let (identity, connection) = shared.transport.dial(addr).await.inspect_err(|e| handshake_failed("dialler", e))?;
    if identity.node == shared.me.node {
        close(&connection, code::SELF, "this is me");
        note_own(shared, addr);
        return Err(ConnectError::Myself(addr));
    }
    if let Some(expected) = expected
        && identity.node != *expected
    {
        refused("wrong_node");
        close(&connection, code::WRONG_NODE, "another node was dialled");
        return Err(ConnectError::WrongNode { expected: expected.clone(), found: identity.node, addr });
    }
    let peer = Peer { identity, connection };
    inbound::take_in(shared, peer.clone())?;
    Ok(peer)
}

fn take_turn(shared: &Shared, addr: SocketAddr) -> Arc<tokio::sync::Mutex<()>> {
    lock(&shared.turns).entry(addr).or_default().clone()
}

/// Forgets the turn when nobody is waiting for it, so the table holds only dials under way.
fn drop_turn(shared: &Shared, addr: SocketAddr) {
    let mut turns = lock(&shared.turns);
    if turns.get(&addr).is_some_and(|turn| Arc::strong_count(turn) == 1) {
        turns.remove(&addr);
    }
}

fn note_own(shared: &Shared, addr: SocketAddr) {
    tracing::debug!(%addr, "seed leads back to this node");
    let mut own = lock(&shared.own_addresses);
    if own.len() < MAX_OWN {
        own.insert(addr);
    }
}
