//! Meetings that edges were given since they last said how many they have.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use mesh::{clock::Micros, identity::NodeId};

/// A report written before the edge was asked may arrive this much later.
const LATE: Duration = Duration::from_secs(1);

/// After this, an edge that has not reported again counts as it last did.
const FORGOTTEN: Duration = Duration::from_secs(30);

/// Assignments remembered of each edge; more than this are as good as this many.
const MAX_PENDING: usize = 4096;

/// What was assigned, by edge. No clock of another node is compared with ours: what counts is whether a newer report has come.
#[derive(Debug, Default)]
pub(crate) struct Ramp {
    edges: BTreeMap<NodeId, VecDeque<Assigned>>,
}

#[derive(Debug)]
struct Assigned {
    at: Instant,
    /// When the edge wrote the report that was known then.
    report: Micros,
}

impl Ramp {
    /// `edge` is asked to take a meeting; its newest report was written at `report`.
    pub(crate) fn handle_asked(&mut self, edge: &NodeId, report: Micros, now: Instant) {
        self.edges.retain(|_, given| given.back().is_some_and(|last| !last.is_over(now)));
        let given = self.edges.entry(edge.clone()).or_default();
        given.push_back(Assigned { at: now, report });
        if given.len() > MAX_PENDING {
            given.pop_front();
        }
    }

    /// Edges that were asked lately.
    pub(crate) fn len(&self) -> usize {
        self.edges.len()
    }

    /// It would not.
    pub(crate) fn handle_refused(&mut self, edge: &NodeId) {
        if let Some(given) = self.edges.get_mut(edge) {
            given.pop_back();
        }
    }

    /// Meetings that `edge` was given and the report it wrote at `report` does not count.
    pub(crate) fn pending(&self, edge: &NodeId, report: Micros, now: Instant) -> u32 {
        let Some(given) = self.edges.get(edge) else { return 0 };
        let unknown = |one: &&Assigned| {
            let late = now.saturating_duration_since(one.at) < LATE;
            !one.is_over(now) && (late || report <= one.report)
        };
        given.iter().filter(unknown).count() as u32
    }
}

impl Assigned {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) >= FORGOTTEN
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]
    use super::*;

    #[test]
    fn what_was_given_counts_until_the_edge_has_reported_it() {
        let (mut ramp, start, edge) = (Ramp::default(), Instant::now(), "a".parse().unwrap());
        ramp.handle_asked(&edge, Micros(100), start);
        ramp.handle_asked(&edge, Micros(100), start);
        assert_eq!(ramp.pending(&edge, Micros(100), start), 2);
        assert_eq!(ramp.pending(&edge, Micros(200), start + LATE / 2), 2, "that report may be an older one");
        assert_eq!(ramp.pending(&edge, Micros(200), start + LATE), 0);
        assert_eq!(ramp.pending(&edge, Micros(100), start + LATE), 2);
        assert_eq!(ramp.pending(&"b".parse().unwrap(), Micros(100), start), 0);
        ramp.handle_refused(&edge);
        assert_eq!(ramp.pending(&edge, Micros(100), start), 1);
        assert_eq!(ramp.pending(&edge, Micros(100), start + FORGOTTEN), 0, "for ever silent is not for ever full");
    }

    #[test]
    fn what_is_over_is_forgotten_and_what_is_not_is_bounded() {
        let (mut ramp, start) = (Ramp::default(), Instant::now());
        for i in 0..MAX_PENDING + 10 {
            ramp.handle_asked(&"a".parse().unwrap(), Micros(i as u64), start);
        }
        assert_eq!(ramp.edges.values().map(VecDeque::len).sum::<usize>(), MAX_PENDING);
        ramp.handle_asked(&"b".parse().unwrap(), Micros(0), start + FORGOTTEN);
        assert_eq!(ramp.edges.len(), 1);
    }
}
