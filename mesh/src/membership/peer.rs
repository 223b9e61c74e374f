//! A node as SWIM knows it: its certificate's identity, where it is now, and which life it is on.

use std::net::SocketAddr;

use geo::RegionId;
use serde::{Deserialize, Serialize};

use crate::identity::{Identity, NodeId, Role};

/// The node an announcement is for while only its address is known.
///
/// foca wants a destination's name in every packet, but a seed is an address. Whoever receives an
/// announcement for this name puts its own in, so a node that is really called this works too.
const ANYONE: &str = "-";

/// foca's identity. Everything is keyed on the node id; the rest may change from life to life.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Peer {
    pub(super) node: NodeId,
    pub(super) role: Role,
    pub(super) region: RegionId,
    pub(super) addr: SocketAddr,
    /// Unix milliseconds at the node's start, and later after each time it was declared down in error.
    pub(super) life: u64,
}

impl Peer {
    pub(super) fn new(identity: Identity, addr: SocketAddr, life: u64) -> Self {
        let Identity { node, role, region } = identity;
        Self { node, role, region, addr, life }
    }

    /// Whoever answers at `addr`.
    pub(super) fn anyone(addr: SocketAddr) -> Self {
        let node = ANYONE.parse().expect("`-` is a node id");
        let region = ANYONE.parse().expect("`-` is a region id");
        Self { node, role: Role::Edge, region, addr, life: 0 }
    }

    pub(super) fn is_anyone(&self) -> bool {
        self.node.as_str() == ANYONE
    }

    pub(super) fn identity(&self) -> Identity {
        Identity { node: self.node.clone(), role: self.role, region: self.region.clone() }
    }

    /// Whether a certificate for `identity` may speak as this peer.
    pub(super) fn is(&self, identity: &Identity) -> bool {
        self.node == identity.node && self.role == identity.role && self.region == identity.region
    }

    /// Whether another part than the life differs: something a user of the member list would see.
    pub(super) fn moved(&self, other: &Self) -> bool {
        (self.addr, self.role, &self.region) != (other.addr, other.role, &other.region)
    }

    /// The same in the life after `life`.
    pub(super) fn after(&self, life: u64) -> Option<Self> {
        Some(Self { life: life.checked_add(1)?, ..self.clone() })
    }

    /// A total order, so that two nodes never keep different sides of one conflict.
    fn rank(&self) -> (u64, SocketAddr, Role, &RegionId) {
        (self.life, self.addr, self.role, &self.region)
    }
}

impl PartialEq for Peer {
    fn eq(&self, other: &Self) -> bool {
        self.node == other.node && self.rank() == other.rank()
    }
}

impl Eq for Peer {}

impl foca::Identity for Peer {
    type Addr = Key;

    /// The next life. A node that was in a later one before, since its clock went back, is told so with that one's
    /// card, and goes on from there.
    fn renew(&self) -> Option<Self> {
        self.after(self.life)
    }

    fn addr(&self) -> Key {
        Key::of(&self.node)
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.rank() > adversary.rank()
    }
}

/// A node id in place, zeros after it. foca goes through its members by this for each update, so it must cost less
/// than a count of references.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key([u8; 64]);

impl Key {
    fn of(node: &NodeId) -> Self {
        let mut key = [0; 64];
        // An id has 63 bytes at most, none of them zero.
        key.iter_mut().zip(node.as_str().bytes()).for_each(|(to, byte)| *to = byte);
        Self(key)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use foca::Identity as _;

    use super::*;

    fn peer(life: u64) -> Peer {
        let identity = Identity { node: "a".parse().unwrap(), role: Role::Edge, region: "eu-central".parse().unwrap() };
        Peer::new(identity, "192.0.2.1:4433".parse().unwrap(), life)
    }

    #[test]
    fn a_later_life_wins_and_there_is_none_after_the_last() {
        let renewed = peer(7).renew().unwrap();
        assert_eq!(renewed, peer(8));
        assert!(renewed.win_addr_conflict(&peer(7)) && !peer(7).win_addr_conflict(&renewed));
        assert_eq!(peer(u64::MAX).renew(), None);
    }
}
