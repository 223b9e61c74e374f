//! Whom the core would choose, and whom the map.

use std::sync::Arc;

use geo::RegionId;
use mesh::{
    clock::Micros,
    coordinate::Coordinate,
    identity::Role,
    placement::{Candidate, Effort, Policy, Search, rank, sites},
    wire::report::{Extension, Report},
};
use rand::RngExt;

use super::truth::{Scene, World};

/// An edge, and how many were asked to find it.
pub(super) struct Choice {
    pub(super) edge: Option<usize>,
    pub(super) asked: usize,
}

/// As the core does it: a search, then a ranking of what it found.
pub(super) fn ours(world: &mut World, scene: &Scene) -> Choice {
    let policy = Policy { core_weight: 0.0, ..Policy::default() };
    let mut candidates: Vec<Candidate> = scene.edges.iter().map(|site| candidate(world, *site)).collect();
    let mut sites = sites(&candidates, &policy, |_| None::<Coordinate>, |_| None);
    for site in &mut sites {
        site.guess = world.site(&site.node).and_then(|edge| world.guess(scene.core, edge));
    }
    let (mut search, mut asked) = (Search::new(sites, &[], Effort::default()), 0);
    loop {
        let round = search.next_round();
        if round.is_empty() {
            break;
        }
        asked += round.len();
        for node in round {
            let rtt = world.site(&node).and_then(|site| world.probe(site, scene.relay));
            search.handle_answer(&node, rtt);
        }
    }
    let distances = search.distances();
    candidates.iter_mut().for_each(|edge| edge.rtt_relay = distances.get(&edge.node).copied());
    let chosen = rank(&candidates, &policy, world.rng.random()).chosen;
    Choice { edge: chosen.and_then(|node| world.site(&node)), asked }
}

/// The one whose great circle to the relay is the shortest, among those whose place is known; `None` if the relay's is not.
pub(super) fn by_distance(world: &World, scene: &Scene) -> Option<usize> {
    let far = |site: &usize| Some((world.distance_km(*site, scene.relay)?, *site));
    let all = scene.edges.iter().filter_map(far);
    all.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, site)| site)
}

/// An idle edge.
fn candidate(world: &World, site: usize) -> Candidate {
    let node = world.node(site).clone();
    let region: RegionId = node.as_str().parse().expect("a node id of ours is a region id too");
    let report = Report {
        node: node.clone(),
        at: Micros(1),
        stress_permille: 0,
        meetings: 0,
        capacity: 100,
        draining: false,
        api: None,
        software: "0.2.0".into(),
        rtts: vec![],
        extension: Some(Extension { wire: 2, coordinate: Some(world.coordinate(site)) }),
    };
    Candidate {
        node,
        region,
        role: Role::Edge,
        report: Some(Arc::new(report)),
        heard: None,
        pending: 0,
        rtt_relay: None,
        rtt_core: None,
    }
}
