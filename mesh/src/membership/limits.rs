//! How much one peer may cause here: so many at once, then one each period.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::identity::NodeId;

/// What is limited, and for whom it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Limit {
    /// New lives of this node that one teller causes by saying that it is down.
    Renewal,
    /// All new lives of this node: two nodes with one certificate would else outdo each other for ever.
    Renewals,
    /// Refutations that one teller causes by suspecting this node.
    Refutation,
    /// All refutations: each is a card that everyone is told.
    Refutations,
    /// Suspicions of others that one teller tells.
    Suspicion,
    /// New lives of one other node.
    Life,
    /// Looking for ourselves whether a node is down of which one teller says so, or that any suspects.
    Look,
    /// Signatures checked of what one teller tells.
    Proof,
    /// Cards asked of one teller.
    Ask,
    /// Cards, reports and lists given to one asker, by the packet.
    Give,
    /// Telling one node of its later life, or of its clock.
    Remind,
}

impl Limit {
    /// How many at once, and how often one after that.
    fn rate(self) -> (u32, Duration) {
        match self {
            Self::Renewal => (2, Duration::from_secs(30)),
            Self::Renewals => (3, Duration::from_secs(5)),
            Self::Refutation => (3, Duration::from_secs(10)),
            Self::Refutations => (4, Duration::from_secs(2)),
            Self::Suspicion => (8, Duration::from_secs(2)),
            Self::Life => (4, Duration::from_secs(2)),
            Self::Look => (16, Duration::from_millis(250)),
            Self::Proof => (512, Duration::from_millis(2)),
            Self::Ask => (512, Duration::from_millis(10)),
            Self::Give => (64, Duration::from_millis(50)),
            Self::Remind => (3, Duration::from_secs(1)),
        }
    }
}

/// What has been used up, by the generic cell rate algorithm (ITU-T I.371): one instant for each pair.
///
/// Bounded by those who hold a certificate of the mesh, and forgotten by [`Limits::tidy`].
#[derive(Debug, Default)]
pub(super) struct Limits(BTreeMap<(Limit, NodeId), Instant>);

impl Limits {
    /// Whether one more is within the limit; if so it is used up.
    pub(super) fn allow(&mut self, limit: Limit, node: &NodeId, now: Instant) -> bool {
        let (burst, period) = limit.rate();
        let due = self.0.get(&(limit, node.clone())).copied().unwrap_or(now).max(now);
        if due.saturating_duration_since(now) > period * (burst - 1) {
            return false;
        }
        self.0.insert((limit, node.clone()), due + period);
        true
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Forgets what has been made up for.
    pub(super) fn tidy(&mut self, now: Instant) {
        self.0.retain(|_, due| *due > now);
    }
}

#[cfg(test)]
mod tests {
    // An `Instant` can only come from the clock: it is the base of virtual time, nothing waits on it.
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;

    #[test]
    fn so_many_at_once_then_one_each_period_for_each_node() {
        let (mut limits, now) = (Limits::default(), Instant::now());
        let (a, b): (NodeId, NodeId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let at = |seconds| now + Duration::from_secs(seconds);
        let allowed = |limits: &mut Limits, node, at| (0..100).filter(|_| limits.allow(Limit::Life, node, at)).count();
        assert_eq!((allowed(&mut limits, &a, now), allowed(&mut limits, &b, now)), (4, 4));
        assert_eq!((allowed(&mut limits, &a, at(1)), allowed(&mut limits, &a, at(2))), (0, 1));
        assert_eq!(allowed(&mut limits, &a, at(100)), 4);
        limits.tidy(at(200));
        assert!(limits.0.is_empty());
    }
}
