//! Which nodes to name, and in what order.

use std::{collections::BTreeMap, time::Duration};

use super::LiveNode;
use crate::{latency::LatencyModel, region::RegionId};

/// Nodes grouped by region, the nearest region first; within each, `turn` says who is first, so that callers
/// of one region share its nodes.
pub(super) struct Ranked<'a>(Vec<Vec<&'a LiveNode>>);

impl<'a> Ranked<'a> {
    /// Ranks `nodes` as seen from a region; regions at no known distance come last.
    pub(super) fn new(
        nodes: impl Iterator<Item = &'a LiveNode>,
        from: &RegionId,
        latency: &LatencyModel,
        turn: usize,
    ) -> Self {
        let mut regions: BTreeMap<&RegionId, Vec<&LiveNode>> = BTreeMap::new();
        for node in nodes {
            regions.entry(&node.region).or_default().push(node);
        }
        let mut groups: Vec<_> = regions.into_iter().collect();
        groups.sort_by_key(|(region, _)| latency.estimate(from, region).map_or(Duration::MAX, |found| found.rtt));
        Self(groups.into_iter().map(|(_, nodes)| in_turn(nodes, turn)).collect())
    }

    /// The `limit` nearest; the last of them is from a second region where there is one, so that no answer
    /// hangs on a single region.
    pub(super) fn nearest(&self, limit: usize) -> Vec<&'a LiveNode> {
        let mut chosen: Vec<_> = self.0.iter().flatten().take(limit).copied().collect();
        if let [first, second, ..] = &self.0[..]
            && first.len() >= limit
            && let Some(last) = chosen.last_mut()
        {
            *last = second[0];
        }
        chosen
    }

    /// Up to `limit` nodes, one from each region in turn: what a newcomer to the mesh wants to meet.
    pub(super) fn spread(&self, limit: usize) -> Vec<&'a LiveNode> {
        let rounds = self.0.iter().map(Vec::len).max().unwrap_or(0);
        (0..rounds)
            .flat_map(|round| self.0.iter().filter_map(move |nodes| nodes.get(round).copied()))
            .take(limit)
            .collect()
    }
}

fn in_turn(mut nodes: Vec<&LiveNode>, turn: usize) -> Vec<&LiveNode> {
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    let first = turn % nodes.len().max(1);
    nodes.rotate_left(first);
    nodes
}
