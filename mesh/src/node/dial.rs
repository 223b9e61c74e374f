//! Reaching a node: at most one dial per address at a time.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Instant,
};

use tokio::time::timeout;

use super::{
    CONNECT_DEADLINE, ConnectError, Peer, Shared, close, handshake_failed, inbound, lock, refused, twins, versions,
};
use crate::{
    identity::NodeId,
    transport::{HandshakeError, close as code},
};

/// Addresses known to lead back here: a handful, or something is wrong with the seeds.
const MAX_OWN: usize = 64;

/// A connection to whoever is at `addr`, who must be `expected` if that is given.
pub(super) async fn connect(
    shared: &Arc<Shared>,
    addr: SocketAddr,
    expected: Option<&NodeId>,
) -> Result<Peer, ConnectError> {
    let dialling = AtomicBool::new(false);
    let attempt = async {
        let turn = take_turn(shared, addr);
        let _mine = turn.lock().await;
        // Another may have connected while we waited.
        let there = match expected {
            Some(node) => shared.pool.toward(node, addr),
            None => shared.pool.at(addr),
        };
        if let Some(peer) = there {
            let taken = || ConnectError::Taken { addr, found: peer.identity.node.clone() };
            return if addr == shared.advertise { Err(taken()) } else { Ok(peer) };
        }
        dialling.store(true, Relaxed);
        let outcome = dial(shared, addr, expected).await;
        dialling.store(false, Relaxed);
        outcome
    };
    let outcome = timeout(CONNECT_DEADLINE, attempt).await.unwrap_or(Err(ConnectError::Deadline));
    if dialling.load(Relaxed) {
        handshake_failed("dialler", &HandshakeError::Deadline);
    }
    drop_turn(shared, addr);
    outcome
}

async fn dial(shared: &Arc<Shared>, addr: SocketAddr, expected: Option<&NodeId>) -> Result<Peer, ConnectError> {
    if shared.stop.is_cancelled() {
        return Err(ConnectError::Shutdown);
    }
    metrics::counter!("nearfield_mesh_dials_total").increment(1);
    let (identity, connection) = shared.transport.dial(addr).await.inspect_err(|e| {
        handshake_failed("dialler", e);
        versions::note(shared, addr.ip(), e);
    })?;
    if identity.node == shared.me.node {
        let is_here = twins::is_here(shared, &connection).await;
        close(&connection, code::SELF, "this is me");
        if is_here {
            note_own(shared, addr);
            return Err(ConnectError::Myself(addr));
        }
        twins::note(shared, addr, Instant::now());
        return Err(ConnectError::Twin(addr));
    }
    if let Some(expected) = expected
        && identity.node != *expected
    {
        refused("wrong_node");
        close(&connection, code::WRONG_NODE, "another node was dialled");
        return Err(ConnectError::WrongNode { expected: expected.clone(), found: identity.node, addr });
    }
    if addr == shared.advertise {
        refused("address_taken");
        close(&connection, code::SELF, "your address is the one that I advertise");
        return Err(ConnectError::Taken { addr, found: identity.node });
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
