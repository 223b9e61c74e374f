//! The open connections, by node.

use std::{collections::BTreeMap, net::SocketAddr, sync::Mutex, time::Duration};

use geo::RegionId;

use super::{Peer, locate::Sample, lock};
use crate::{identity::NodeId, wire::report::MAX_RTTS};

/// Two nodes that dial each other at once keep both connections; a node that restarts leaves some
/// behind until they time out. More than this many from one node is a fault.
const MAX_PER_NODE: usize = 8;

/// Every open connection; the newest of each node last.
#[derive(Default)]
pub(super) struct Pool {
    peers: Mutex<BTreeMap<NodeId, Vec<Peer>>>,
}

/// The node has [`MAX_PER_NODE`] connections already.
pub(super) struct TooMany;

impl Pool {
    pub(super) fn insert(&self, peer: Peer) -> Result<(), TooMany> {
        let mut peers = lock(&self.peers);
        let of_node = peers.entry(peer.identity.node.clone()).or_default();
        if of_node.len() >= MAX_PER_NODE {
            return Err(TooMany);
        }
        of_node.push(peer);
        note_size(&peers);
        Ok(())
    }

    /// Takes a closed connection out, and says whether it was the node's last.
    pub(super) fn remove(&self, peer: &Peer) -> bool {
        let mut peers = lock(&self.peers);
        let id = peer.connection.stable_id();
        let Some(of_node) = peers.get_mut(&peer.identity.node) else { return false };
        of_node.retain(|p| p.connection.stable_id() != id);
        let last = of_node.is_empty();
        if last {
            peers.remove(&peer.identity.node);
        }
        note_size(&peers);
        last
    }

    /// The newest open connection to `node`.
    pub(super) fn newest(&self, node: &NodeId) -> Option<Peer> {
        lock(&self.peers).get(node)?.iter().rev().find(|peer| is_open(peer)).cloned()
    }

    /// The newest open connection to `node` as it is at `addr`; if none leads there, the newest at all: there may be a
    /// translator of addresses between.
    pub(super) fn toward(&self, node: &NodeId, addr: SocketAddr) -> Option<Peer> {
        let all = self.of(node);
        let there = all.iter().rev().find(|peer| is_at(peer, addr) && is_open(peer)).cloned();
        there.or_else(|| all.into_iter().rev().find(is_open))
    }

    /// Its connections, open or not, oldest first.
    pub(super) fn of(&self, node: &NodeId) -> Vec<Peer> {
        lock(&self.peers).get(node).cloned().unwrap_or_default()
    }

    /// An open connection whose far end is `addr`, whoever that is.
    pub(super) fn at(&self, addr: SocketAddr) -> Option<Peer> {
        let peers = lock(&self.peers);
        let mut all = peers.values().flat_map(|of_node| of_node.iter().rev());
        all.find(|peer| same(peer.connection.remote_address(), addr) && is_open(peer)).cloned()
    }

    pub(super) fn all(&self) -> Vec<Peer> {
        lock(&self.peers).values().flatten().cloned().collect()
    }

    /// What the newest open connection to each node shows.
    pub(super) fn samples(&self) -> BTreeMap<NodeId, Sample> {
        let peers = lock(&self.peers);
        let newest = peers.iter().filter_map(|(node, all)| Some((node, all.iter().rev().find(|peer| is_open(peer))?)));
        newest.map(|(node, peer)| (node.clone(), sample(peer))).collect()
    }

    /// The lowest smoothed round trip into each region, nearest regions first, as reports carry it.
    pub(super) fn rtts(&self) -> Vec<(RegionId, u32)> {
        let measured = self.all().into_iter().map(|peer| (peer.identity.region, peer.connection.rtt()));
        nearest(measured)
    }
}

fn sample(peer: &Peer) -> Sample {
    let stats = peer.connection.stats();
    Sample { connection: peer.connection.stable_id(), acks: stats.frame_rx.acks, rtt: stats.path.rtt }
}

/// Whether `peer` is reached at `addr`.
pub(super) fn is_at(peer: &Peer, addr: SocketAddr) -> bool {
    same(peer.connection.remote_address(), addr)
}

fn is_open(peer: &Peer) -> bool {
    peer.connection.close_reason().is_none()
}

/// A socket that listens on IPv6 sees IPv4 peers as mapped addresses.
fn same(a: SocketAddr, b: SocketAddr) -> bool {
    (a.ip().to_canonical(), a.port()) == (b.ip().to_canonical(), b.port())
}

fn nearest(measured: impl Iterator<Item = (RegionId, Duration)>) -> Vec<(RegionId, u32)> {
    let mut lowest = BTreeMap::new();
    for (region, rtt) in measured {
        let micros = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX);
        let entry = lowest.entry(region).or_insert(micros);
        *entry = micros.min(*entry);
    }
    let mut list: Vec<_> = lowest.into_iter().collect();
    list.sort_by_key(|(_, micros)| *micros);
    list.truncate(MAX_RTTS);
    list
}

fn note_size(peers: &BTreeMap<NodeId, Vec<Peer>>) {
    metrics::gauge!("nearfield_mesh_connections").set(peers.values().map(Vec::len).sum::<usize>() as f64);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_report_names_the_lowest_round_trip_of_each_of_the_nearest_regions() {
        let measured = (0..20u64).flat_map(|n| {
            let region: RegionId = format!("region-{n}").parse().unwrap();
            [(region.clone(), Duration::from_millis(200 - n)), (region, Duration::from_millis(100 - n))]
        });
        let rtts = nearest(measured);
        assert_eq!(rtts.len(), MAX_RTTS);
        assert_eq!((rtts[0].0.as_str(), rtts[0].1), ("region-19", 81_000));
    }
}
