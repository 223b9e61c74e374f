//! Edges that could not get into this meeting, or stay in it: others are asked first.

use std::{collections::BTreeMap, time::Instant};

use mesh::identity::NodeId;

use crate::meeting::lifecycle::REMEMBERED;

/// Which, and since when. Each has had the meeting within [`REMEMBERED`], so there are few.
#[derive(Debug, Default)]
pub(super) struct Avoided(BTreeMap<NodeId, Instant>);

impl Avoided {
    /// `edge` has failed.
    pub(super) fn add(&mut self, edge: NodeId, now: Instant) {
        self.0.insert(edge, now);
    }

    /// Those that have failed lately.
    pub(super) fn current(&mut self, now: Instant) -> impl Iterator<Item = NodeId> {
        self.0.retain(|_, since| now < *since + REMEMBERED);
        self.0.keys().cloned()
    }

    /// There is nobody else; whether that makes a difference.
    pub(super) fn forget(&mut self) -> bool {
        !std::mem::take(&mut self.0).is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]

    use super::*;

    #[test]
    fn an_edge_is_avoided_for_a_while_or_until_there_is_nobody_else() {
        let now = Instant::now();
        let edge: NodeId = "edge-a".parse().unwrap();
        let mut avoided = Avoided::default();
        avoided.add(edge.clone(), now);
        assert_eq!(avoided.current(now).collect::<Vec<_>>(), std::slice::from_ref(&edge));
        assert_eq!(avoided.current(now + REMEMBERED).count(), 0);
        avoided.add(edge, now);
        assert!(avoided.forget() && !avoided.forget());
        assert_eq!(avoided.current(now).count(), 0);
    }
}
