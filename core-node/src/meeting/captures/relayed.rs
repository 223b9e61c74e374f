//! Renewals that come by way of other nodes: which of them are new, and whose speech has no way here meanwhile.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use mesh::{clock::Micros, wire::Epoch};

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
pub(super) struct Relayed {
    newest: BTreeMap<Epoch, (u64, Instant)>,
    /// Of epochs that have been renewed in no other way: since when, and when their edge was heard itself before that.
    only: BTreeMap<Epoch, (Instant, Micros)>,
}

impl Relayed {
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

    /// The edge of `epoch` was heard itself; whether that is new.
    pub(super) fn handle_direct(&mut self, epoch: Epoch) -> bool {
        self.only.remove(&epoch).is_some()
    }

    /// The edge of `epoch`, which was last heard at `heard`, has renewed its lease by way of another node; whether that is new.
    pub(super) fn handle_relayed(&mut self, epoch: Epoch, heard: Micros, now: Instant) -> bool {
        let known = self.only.contains_key(&epoch);
        self.only.entry(epoch).or_insert((now, heard));
        while self.only.len() > MAX_EPOCHS {
            self.only.pop_first();
        }
        !known
    }

    /// Since when the edge of `epoch` has been heard by way of others only, and when it was last heard itself.
    pub(super) fn only_since(&self, epoch: Epoch) -> Option<(Instant, Micros)> {
        self.only.get(&epoch).copied()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use super::*;

    #[test]
    fn a_renewal_counts_once_and_not_when_it_was_held_back() {
        let (mut relayed, start) = (Relayed::default(), Instant::now());
        let mut at = |sent, after| relayed.is_fresh(Epoch(1), sent, start + Duration::from_millis(after));
        assert!(at(5_000, 0));
        assert!(!at(5_000, 10), "again, by way of another node");
        assert!(at(5_400, 1_500), "a slow way");
        assert!(!at(5_200, 1_600), "older than the newest");
        assert!(!at(5_800, 4_300), "kept back");
        assert!(at(9_000, 5_200));
    }

    #[test]
    fn an_edge_is_heard_by_way_of_others_only_until_it_is_heard_itself() {
        let (mut relayed, start) = (Relayed::default(), Instant::now());
        let later = start + Duration::from_secs(4);
        assert!(relayed.handle_relayed(Epoch(1), Micros(5), start));
        assert!(!relayed.handle_relayed(Epoch(1), Micros(9), later));
        assert_eq!(relayed.only_since(Epoch(1)), Some((start, Micros(5))));
        assert!(relayed.handle_direct(Epoch(1)) && !relayed.handle_direct(Epoch(1)));
        assert_eq!(relayed.only_since(Epoch(1)), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut relayed, now) = (Relayed::default(), Instant::now());
        (0..100).for_each(|epoch| _ = relayed.handle_relayed(Epoch(epoch), Micros(0), now));
        assert_eq!(relayed.only.len(), MAX_EPOCHS);
        assert!((0..100).all(|epoch| relayed.is_fresh(Epoch(epoch), 1, now)));
        assert_eq!(relayed.newest.len(), MAX_EPOCHS);
    }
}
