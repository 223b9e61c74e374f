//! Two nodes that were given one id, or that tell the others one address.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use quinn::Connection;
use tokio::{sync::Notify, time::timeout};

use super::{Member, Shared, lock};
use crate::identity::NodeId;

/// How often the log tells of the same twin.
const TOLD: Duration = Duration::from_secs(60);
/// So long one that was met counts as there.
const LASTS: Duration = Duration::from_secs(90);
/// Both ends of a connection know of it within this, if both are in this process.
const OTHER_END: Duration = Duration::from_secs(1);
/// The most twins that are remembered.
const MOST: usize = 64;

/// What both ends of a TLS connection know, and nobody else (RFC 8446 section 7.5).
type Mark = [u8; 16];

/// Connections of this node with its own id, of which one end waits for the other to show up in this process.
#[derive(Debug, Default)]
pub(super) struct Ends(Mutex<BTreeMap<Mark, Arc<Notify>>>);

impl Ends {
    /// One end is here; what it waits for, unless the other came before.
    fn arrive(&self, mark: Mark) -> Option<Arc<Notify>> {
        let mut waiting = lock(&self.0);
        if let Some(other) = waiting.remove(&mark) {
            other.notify_one();
            return None;
        }
        Some(waiting.entry(mark).or_default().clone())
    }

    fn give_up(&self, mark: Mark) {
        lock(&self.0).remove(&mark);
    }
}

/// Whether the other end of `connection`, which shows this node's id, is this process.
pub(super) async fn is_here(shared: &Shared, connection: &Connection) -> bool {
    let mut mark = Mark::default();
    if connection.export_keying_material(&mut mark, b"nearfield both ends", b"").is_err() {
        return true; // not to be found out: no reason to alarm anybody
    }
    let Some(other) = shared.ends.arrive(mark) else { return true };
    let here = timeout(OTHER_END, other.notified()).await.is_ok();
    if !here {
        shared.ends.give_up(mark);
    }
    here
}

/// Another node with this node's id is at `addr`.
pub(super) fn note(shared: &Shared, addr: SocketAddr, now: Instant) {
    let mut twins = lock(&shared.twins);
    let tell = twins.note(addr, now);
    metrics::gauge!("nearfield_mesh_twins").set(twins.count(now) as f64);
    drop(twins);
    if tell {
        let (node, advertise) = (&shared.me.node, shared.advertise);
        tracing::warn!(%node, %advertise, other = %addr, "another node has this node's id: two were given one certificate. The one that came first stays in the mesh; give the other a certificate of its own");
    }
}

/// Other nodes with this node's id, by where they were met.
#[derive(Debug, Default)]
pub(super) struct Twins(BTreeMap<SocketAddr, Met>);

#[derive(Debug)]
struct Met {
    last: Instant,
    told: Instant,
}

impl Twins {
    /// One was met; whether that is to be told.
    pub(super) fn note(&mut self, addr: SocketAddr, now: Instant) -> bool {
        let known = self.0.get(&addr).map(|met| met.told);
        if known.is_none() && self.0.len() >= MOST {
            return false;
        }
        let tell = known.is_none_or(|told| told + TOLD <= now);
        let told = known.filter(|_| !tell).unwrap_or(now);
        self.0.insert(addr, Met { last: now, told });
        tell
    }

    /// How many were met lately.
    pub(super) fn count(&mut self, now: Instant) -> usize {
        self.0.retain(|_, met| met.last + LASTS > now);
        self.0.len()
    }
}

/// Nodes that tell the others the same address as another does: at most one of them can be reached.
#[derive(Debug, Default)]
pub(super) struct Shares(BTreeMap<SocketAddr, BTreeSet<NodeId>>);

impl Shares {
    /// How it is now; what is new of it.
    pub(super) fn follow(
        &mut self,
        me: (&NodeId, SocketAddr),
        members: &[Member],
    ) -> Vec<(SocketAddr, BTreeSet<NodeId>)> {
        let mut by_address = BTreeMap::<SocketAddr, BTreeSet<NodeId>>::new();
        let others = members.iter().map(|member| (&member.identity.node, member.addr));
        for (node, addr) in others.chain([me]) {
            by_address.entry(addr).or_default().insert(node.clone());
        }
        by_address.retain(|_, nodes| nodes.len() > 1);
        let new = by_address.iter().filter(|(addr, nodes)| self.0.get(addr) != Some(*nodes));
        let new = new.map(|(addr, nodes)| (*addr, nodes.clone())).collect();
        self.0 = by_address;
        new
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    // An `Instant` can only come from the clock: it is the base of virtual time, nothing waits on it.
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]

    use super::*;
    use crate::identity::Identity;

    fn addr(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 7).into()
    }

    #[test]
    fn a_twin_is_told_of_once_a_minute_and_counts_while_it_is_met() {
        let (mut twins, start) = (Twins::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let told = (0..=120u64).filter(|second| twins.note(addr(1), at(*second)));
        assert_eq!(told.collect::<Vec<_>>(), [0, 60, 120]);
        assert!(twins.note(addr(2), at(121)));
        assert_eq!((twins.count(at(122)), twins.count(at(210)), twins.count(at(211))), (2, 1, 0));
    }

    #[test]
    fn two_that_advertise_one_address_are_named_once() {
        let member = |name: &str, last| {
            let identity = format!("spiffe://a.test/region/eu/role/edge/node/{name}");
            Member {
                identity: Identity::from_spiffe(&identity, "a.test").unwrap(),
                addr: addr(last),
                report: None,
                heard: None,
            }
        };
        let (mut shares, me) = (Shares::default(), "me".parse().unwrap());
        assert_eq!(shares.follow((&me, addr(1)), &[member("a", 2), member("b", 3)]), []);
        let new = shares.follow((&me, addr(1)), &[member("a", 2), member("b", 1), member("c", 2)]);
        let named: Vec<String> = new.iter().map(|(addr, nodes)| format!("{addr} {}", nodes.len())).collect();
        assert_eq!(named, ["192.0.2.1:7 2", "192.0.2.2:7 2"]);
        assert_eq!(shares.follow((&me, addr(1)), &[member("b", 1)]), []);
        assert_eq!(shares.count(), 1);
    }
}
