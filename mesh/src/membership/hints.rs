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
    /// Who was asked to look, too.
    helpers: Vec<NodeId>,
    /// Whether it has been told that it is suspected: then this time counts as time to answer.
    pub(super) told: bool,
}

/// At most one for each member.
#[derive(Debug, Default)]
pub(super) struct Hints(BTreeMap<NodeId, Hint>);

impl Hints {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn contains(&self, node: &NodeId) -> bool {
        self.0.contains_key(node)
    }

    pub(super) fn add(&mut self, member: &Member<Peer>, helpers: Vec<NodeId>, told: bool, until: Instant) {
        let hint = Hint { peer: member.id().clone(), incarnation: member.incarnation(), until, helpers, told };
        self.0.insert(member.id().node.clone(), hint);
    }

    /// `node` was heard, or is down.
    pub(super) fn clear(&mut self, node: &NodeId) {
        self.0.remove(node);
    }

    /// `helper` says that `node` has answered it. Only those who were asked are heard: any other could keep a dead node alive.
    pub(super) fn vouch(&mut self, node: &NodeId, helper: &NodeId) {
        if self.0.get(node).is_some_and(|hint| hint.helpers.contains(helper)) {
            self.clear(node);
        }
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

#[cfg(test)]
mod tests {
    // An `Instant` can only come from the clock: it is the base of virtual time, nothing waits on it.
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use foca::State;

    use super::*;
    use crate::identity::{Identity, Role};

    fn member(life: u64, incarnation: Incarnation) -> Member<Peer> {
        let identity =
            Identity { node: "edge-1".parse().unwrap(), role: Role::Edge, region: "eu-central".parse().unwrap() };
        Member::new(Peer::new(identity, "192.0.2.1:4433".parse().unwrap(), life), incarnation, State::Alive)
    }

    #[test]
    fn a_later_life_or_word_is_an_answer() {
        let (mut hints, now) = (Hints::default(), Instant::now());
        hints.add(&member(1, 0), vec![], false, now);
        assert_eq!(hints.next(), Some(now));
        let hint = hints.pop(now).unwrap();
        assert!(hint.is_of(&member(1, 0)) && !hint.is_of(&member(2, 0)) && !hint.is_of(&member(1, 1)));
        assert!(hints.pop(now).is_none());
    }

    #[test]
    fn only_who_was_asked_may_say_that_a_node_lives() {
        let (mut hints, now) = (Hints::default(), Instant::now());
        let [node, asked, other] = ["edge-1", "edge-2", "edge-3"].map(|name| name.parse::<NodeId>().unwrap());
        hints.add(&member(1, 0), vec![asked.clone()], false, now);
        hints.vouch(&node, &other);
        assert!(hints.contains(&node));
        hints.vouch(&node, &asked);
        assert!(!hints.contains(&node));
    }
}
