#![allow(clippy::disallowed_methods)]

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use geo::map::RegionMap;
use mesh::{
    identity::Role,
    lease::lease_for,
    node::Member,
    placement::Policy,
    wire::{Epoch, MeetingId, Term},
};
use serde_json::Value;

use super::Wanted;
use crate::{
    lock,
    tests::fakes::{Core, identity, member},
};

struct Bench {
    core: Core,
    _dir: tempfile::TempDir,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    Bench { core: Core::start(&dir.path().join("core.redb"), false), _dir: dir }
}

fn edge(name: &str, region: &str, capacity: u32) -> Member {
    let mut member = member(identity(name, Role::Edge, region), None);
    Arc::make_mut(member.report.as_mut().unwrap()).capacity = capacity;
    member
}

fn probed(core: &Core) -> usize {
    core.mesh.probed.lock().unwrap().len()
}

/// The rows of a meeting's newest placement, by edge.
fn row(core: &Core, meeting: MeetingId, edge: &str) -> Value {
    let placements = core.meetings.store().placements(meeting).unwrap();
    let rows = placements.last().unwrap()["rows"].as_array().unwrap().clone();
    rows.into_iter().find(|row| row["node"] == *edge).unwrap()
}

#[tokio::test]
async fn an_edge_that_dies_is_replaced_by_what_was_measured_without_asking_anybody() {
    let Bench { mut core, _dir } = bench();
    *core.mesh.rtt.lock().unwrap() = Some(Duration::from_millis(1));
    core.mesh.leasing.lock().unwrap().extend(["edge-a".into(), "edge-b".into()]);
    let meeting = core.create().await;
    assert_eq!(core.assigned().await.0, "edge-a");
    let link = core.connect("edge-a").await;
    core.serve(&link, meeting, Epoch(1), Term(1)).await;
    core.until("active", |c| c.meetings.record(meeting).unwrap().unwrap().status.as_str() == "active").await;
    let asked = probed(&core);
    assert_eq!(asked, 3);
    let live = core.meetings.live(meeting).unwrap();
    assert!(live.renew(&"edge-a".parse().unwrap(), Epoch(1), lease_for(Duration::from_millis(1))));

    // Nobody would answer a probe any more, and membership knows nothing.
    core.mesh.mute.lock().unwrap().extend(["edge-a".into(), "edge-c".into()]);
    let died = Instant::now();
    assert_eq!(core.assigned().await.0, "edge-b");
    assert!(died.elapsed() < Duration::from_millis(2200), "a lease is 1.7 s: {:?}", died.elapsed());
    assert_eq!(probed(&core), asked);
    let dead = row(&core, meeting, "edge-a");
    assert_eq!((&dead["verdict"]["excluded"], &dead["why"]), (&"silent".into(), &"It has stopped answering.".into()));
    assert_eq!(dead["rtt_relay_source"], "probe");
    let chosen = row(&core, meeting, "edge-b");
    assert!(chosen["rtt_relay_age_ms"].as_u64().unwrap() >= 1500, "{chosen}");
    assert!(chosen["why"].as_str().unwrap().contains(" s ago: the best"), "{chosen}");
}

#[tokio::test]
async fn an_edge_that_does_not_answer_is_passed_over_and_not_asked_for_the_next_meeting() {
    let Bench { mut core, _dir } = bench();
    let first = core.create().await;
    assert_eq!(core.assigned().await.0, "edge-a");
    core.mesh.mute.lock().unwrap().push("edge-a".into());
    let second = core.create().await;
    let taken = core.assigned().await;
    assert_eq!((taken.0.as_str(), taken.1.epoch), ("edge-b", Epoch(2)), "it is the second that was tried");
    core.create().await;
    let taken = core.assigned().await;
    assert_eq!((taken.0.as_str(), taken.1.epoch), ("edge-b", Epoch(1)));
    assert_ne!(first, second);
}

#[tokio::test]
async fn meetings_that_begin_together_measure_once_and_fill_edges_that_have_not_reported() {
    let Bench { mut core, _dir } = bench();
    core.mesh.edges(["edge-a", "edge-b", "edge-c"].map(|name| edge(name, "eu-central", 1)).to_vec());
    let mut last = core.create().await;
    let mut taken = vec![core.assigned().await.0];
    for _ in 0..2 {
        last = core.create().await;
        taken.push(core.assigned().await.0);
    }
    assert_eq!(taken, ["edge-a", "edge-b", "edge-c"]);
    assert_eq!(probed(&core), 3);
    let full = row(&core, last, "edge-a");
    assert_eq!((&full["pending"], &full["verdict"]["excluded"]), (&1.into(), &"capacity".into()));
}

#[tokio::test]
async fn the_nearest_of_many_is_found_though_few_are_asked() {
    let Bench { mut core, _dir } = bench();
    let map = RegionMap::built_in();
    let edges = map.iter().map(|region| edge(&format!("edge-{}", region.id), region.id.as_str(), 10));
    core.mesh.edges(edges.collect());
    for relay in ["ap-northeast", "us-west", "eu-north"] {
        *core.mesh.relay.lock().unwrap() = Some(relay.parse().unwrap());
        let mut spec = crate::tests::fakes::spec();
        let mesh::wire::request::Source::Whep { url, .. } = &mut spec.source else { unreachable!() };
        *url = format!("https://{relay}.example/whep");
        core.mesh.probed.lock().unwrap().clear();
        core.meetings.create(spec, mesh::trace::TraceContext::new(1), None).await.map_err(|e| e.to_string()).unwrap();
        assert_eq!(core.assigned().await.0, format!("edge-{relay}"));
        assert!(probed(&core) <= 18 && map.iter().count() >= 40, "{} were asked", probed(&core));
    }
}

#[tokio::test]
async fn a_live_meetings_edge_and_its_next_best_are_measured_again_and_nobody_twice() {
    let Bench { mut core, _dir } = bench();
    core.mesh.edges(["a", "b", "c", "d", "e"].map(|name| edge(name, "eu-central", 10)).to_vec());
    core.create().await;
    let wanted = Wanted { source: core.assigned().await.1.source, stun: None, policy: Policy::default() };
    let before = probed(&core);
    let placer = core.meetings.placer();
    placer.rank_live(&wanted, &"a".parse().unwrap()).await.unwrap();
    assert_eq!((before, probed(&core)), (5, 5), "all was measured just now");
    lock(&placer.memory).forget(Duration::from_secs(30));
    let decision = placer.rank_live(&wanted, &"d".parse().unwrap()).await.unwrap();
    let asked: BTreeSet<String> = core.mesh.probed.lock().unwrap()[5..].iter().cloned().collect();
    assert_eq!(asked, ["a", "b", "d"].map(String::from).into());
    let ages: Vec<bool> = decision.rows.iter().map(|row| row.rtt_relay_age_ms.unwrap() < 20_000).collect();
    assert_eq!(ages, [true, true, false, true, false], "{:?}", decision.rows);
    lock(&placer.memory).forget(Duration::from_secs(90));
    placer.rank_live(&wanted, &"d".parse().unwrap()).await.unwrap();
    assert_eq!(probed(&core), 13, "nothing fresh was left, so that a search found all five");
}

#[tokio::test]
async fn an_edge_that_is_dead_holds_up_no_meeting_for_long() {
    let Bench { mut core, _dir } = bench();
    core.mesh.mute.lock().unwrap().push("edge-a".into());
    let begun = Instant::now();
    core.create().await;
    assert_eq!(core.assigned().await.0, "edge-b");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let asked = core.mesh.probed.lock().unwrap().iter().filter(|edge| *edge == "edge-a").count();
    assert_eq!(asked, 3, "one lost answer does not decide");
}
