//! Candidates as a [`Search`](super::Search) sees them.

use std::time::Duration;

use geo::RegionId;

use super::{Candidate, Policy, ms};
use crate::{coordinate::Coordinate, identity::NodeId};

/// An edge that may be asked, all fixed conditions being met.
#[derive(Debug, Clone, PartialEq)]
pub struct Site {
    /// Which.
    pub node: NodeId,
    /// Where it is; `None` if nothing is known of that.
    pub coordinate: Option<Coordinate>,
    /// What it costs however near it is to the relay, in milliseconds: the weighted way to the core and stress.
    pub cost_ms: f64,
    /// It is in the region that the customer wants most.
    pub preferred: bool,
    /// How far it is from where the relay is guessed to be before anything is measured; the nearest is asked first.
    pub guess: Option<Duration>,
}

/// A coordinate that errs by more than this share of what it predicts has not settled, and is not used.
const SETTLED: f32 = 0.5;

/// Places on a map and measured coordinates do not mix. The former are used where fewer than this share of the
/// edges has the latter: while a mesh comes up, or is mostly of nodes that know no coordinates.
const ENOUGH: f64 = 0.8;

/// Those of `candidates` that `policy` admits, wherever the relay is. `map` places a region where coordinates are not
/// known, and `guess` says how far it is from where the relay is thought to be.
pub fn sites(
    candidates: &[Candidate],
    policy: &Policy,
    map: impl Fn(&RegionId) -> Option<Coordinate>,
    guess: impl Fn(&RegionId) -> Option<Duration>,
) -> Vec<Site> {
    let admitted: Vec<&Candidate> = candidates.iter().filter(|c| policy.admits(c)).collect();
    let settled = admitted.iter().filter(|c| own(c).is_some()).count();
    let by_map = (settled as f64) < ENOUGH * admitted.len() as f64;
    let far_core = candidates.iter().filter_map(|c| Some(c.rtt_core?.rtt)).max().unwrap_or_default();
    let site = |c: &&Candidate| Site {
        node: c.node.clone(),
        coordinate: if by_map { map(&c.region) } else { own(c) },
        cost_ms: c.cost_ms(policy, far_core),
        preferred: policy.prefer.first() == Some(&c.region),
        guess: guess(&c.region),
    };
    admitted.iter().map(site).collect()
}

fn own(candidate: &Candidate) -> Option<Coordinate> {
    candidate.report.as_ref()?.coordinate().filter(|at| at.is_sane() && at.error <= SETTLED)
}

impl Candidate {
    /// What it costs wherever the relay is, one whose way to the core is unknown being `far_core` from it.
    pub(super) fn cost_ms(&self, policy: &Policy, far_core: Duration) -> f64 {
        let core = self.rtt_core.map_or(far_core, |core| core.rtt);
        policy.core_weight * ms(core) + ms(policy.stress_weight) * self.stress().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use crate::{
        placement::tests::edge,
        wire::report::{Extension, Report},
    };

    fn at(name: &str, x: f32, error: f32) -> Candidate {
        let mut edge = edge(name, "eu", 0);
        let coordinate = Coordinate::new([x, 0.0, 0.0], 1.0, error);
        let report: &mut Report = Arc::make_mut(edge.report.as_mut().unwrap());
        report.extension = Some(Extension { wire: 2, coordinate });
        edge
    }

    fn places(candidates: &[Candidate]) -> Vec<f32> {
        let map = |_: &RegionId| Coordinate::new([7.0, 0.0, 0.0], 1.0, 0.5);
        let sites = sites(candidates, &Policy::default(), map, |_| None);
        sites.iter().map(|site| site.coordinate.map_or(-1.0, |c| c.position[0])).collect()
    }

    #[test]
    fn a_map_stands_in_for_all_coordinates_or_for_none() {
        let settled: Vec<Candidate> = (0..4u8).map(|i| at(&format!("e{i}"), f32::from(i), 0.1)).collect();
        let with = |error| [&settled[..], &[at("new", 99.0, error)]].concat();
        assert_eq!(places(&with(0.2)), [0.0, 1.0, 2.0, 3.0, 99.0]);
        assert_eq!(places(&with(0.9)), [0.0, 1.0, 2.0, 3.0, -1.0], "one that has not settled is nowhere yet");
        assert_eq!(places(&[at("a", 1.0, 0.9), at("b", 2.0, 0.1)]), [7.0, 7.0]);
    }

    #[test]
    fn whoever_is_out_is_not_asked_and_the_far_core_counts_for_the_unknown() {
        let mut lost = at("lost", 0.0, 0.1);
        lost.rtt_core = None;
        let mut mute = Policy::default();
        mute.silent.insert("mute".parse().unwrap());
        let all = [at("near", 0.0, 0.1), lost, at("mute", 0.0, 0.1)];
        let found = sites(&all, &mute, |_| None, |_| None);
        let costs: Vec<_> = found.iter().map(|site| (site.node.as_str(), site.cost_ms)).collect();
        assert_eq!(costs, [("near", 7.0), ("lost", 7.0)], "50 ms at a tenth, and a tenth of 20 ms");
    }
}
