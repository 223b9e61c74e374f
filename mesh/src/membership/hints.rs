//! Members that are being looked at out of turn, and until when they may show that they live.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use foca::{Incarnation, Member};

use super::peer::Peer;
use crate::identity::NodeId;

/// One member that is looked at.
#[derive(Debug)]
pub(super) struct Hint {
    /// A later life, or a later word of it, is its answer.
    peer: Peer,
    incarnation: Incarnation,
    until: Instant,
    /// Whether it has been told that it is suspected: then this time counts as time to answer.
    pub(super) told: bool,
}

/// At most one for each member.
#[derive(Debug, Default)]
pub(super) struct Hints(BTreeMap<NodeId, Hint>);

impl Hints {
    pub(super) fn contains(&self, node: &NodeId) -> bool {
        self.0.contains_key(node)
    }

    pub(super) fn add(&mut self, member: &Member<Peer>, told: bool, until: Instant) {
        let hint = Hint { peer: member.id().clone(), incarnation: member.incarnation(), until, told };
        self.0.insert(member.id().node.clone(), hint);
    }

    /// `node` was heard, or is down.
    pub(super) fn clear(&mut self, node: &NodeId) {
        self.0.remove(node);
    }

    /// When the next one's time is up.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().map(|hint| hint.until).min()
    }

    /// One whose time is up, until there is none.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Hint> {
        let node = self.0.iter().find(|(_, hint)| hint.until <= now).map(|(node, _)| node.clone())?;
        self.0.remove(&node)
    }

    /// The process slept: nobody could be heard.
    pub(super) fn postpone(&mut self, by: Duration) {
        self.0.values_mut().for_each(|hint| hint.until += by);
    }
}

impl Hint {
    /// Whether `member` is who was looked at, and has said nothing since.
    pub(super) fn is_of(&self, member: &Member<Peer>) -> bool {
        (member.id(), member.incarnation()) == (&self.peer, self.incarnation)
    }

    pub(super) fn node(&self) -> &NodeId {
        &self.peer.node
    }
}
