//! Renewals that come by way of other nodes: which of them are new.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use mesh::wire::Epoch;

/// What a renewal may take longer on its way than the one before it. An edge waits less for its answer.
const LATE: Duration = Duration::from_secs(2);
/// Epochs remembered, the newest.
const MAX_EPOCHS: usize = 8;

/// Of each epoch the newest renewal: when it was sent, by the edge's clock, and when it came.
///
/// Whoever passes renewals on could keep some back, and let a dead edge seem alive with them. One that is older than the newest is
/// worth nothing, and so is one that took longer than the newest did by more than [`LATE`], and an eighth of the time between
/// them for two clocks of different rate. Clocks are not compared, only spans on each.
#[derive(Debug, Default)]
pub(super) struct Detours {
    newest: BTreeMap<Epoch, (u64, Instant)>,
}

impl Detours {
    /// Whether this is a new one.
    pub(super) fn is_fresh(&mut self, epoch: Epoch, sent_ms: u64, now: Instant) -> bool {
        let fresh = self.newest.get(&epoch).is_none_or(|(before, came)| {
            let between = Duration::from_millis(sent_ms.saturating_sub(*before));
            sent_ms > *before && now.duration_since(*came) <= between.saturating_add(between / 8 + LATE)
        });
        if fresh {
            self.newest.insert(epoch, (sent_ms, now));
            while self.newest.len() > MAX_EPOCHS {
                self.newest.pop_first();
            }
        }
        fresh
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use super::*;

    #[test]
    fn a_renewal_counts_once_and_not_when_it_was_held_back() {
        let (mut detours, start) = (Detours::default(), Instant::now());
        let mut at = |sent, after| detours.is_fresh(Epoch(1), sent, start + Duration::from_millis(after));
        assert!(at(5_000, 0));
        assert!(!at(5_000, 10), "again, by way of another node");
        assert!(at(5_400, 1_500), "a slow way");
        assert!(!at(5_200, 1_600), "older than the newest");
        assert!(!at(5_800, 4_300), "kept back");
        assert!(at(9_000, 5_200));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut detours, now) = (Detours::default(), Instant::now());
        assert!((0..100).all(|epoch| detours.is_fresh(Epoch(epoch), 1, now)));
        assert_eq!(detours.newest.len(), MAX_EPOCHS);
    }
}
