//! Edges that leave, in good order or not, with a pretended mesh and engine.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::sync::Arc;

use mesh::{
    clock::Micros,
    trace::TraceContext,
    wire::{
        Epoch, SpurtNo, Term,
        control::{CloseReason, ToCore, ToEdge},
    },
};

use super::fakes::{ALIAS, ALICE, Core, Edge, next, spec, spurt_bytes};
use crate::{
    edges::SpurtError,
    meeting::{Meeting, wall},
    store::record::{GapReason, LeaveRules, Spec, Status},
};

fn core(dir: &tempfile::TempDir) -> Core {
    let core = Core::named("core-1", &dir.path().join("1.redb"), false, |_| {});
    core.mesh.leasing.lock().unwrap().extend(["edge-a".into(), "edge-b".into()]);
    core
}

#[tokio::test]
async fn an_edge_that_hands_over_captures_until_its_successor_is_live() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = core(&dir);
    let meeting = core.create().await;
    core.assigned().await;
    let mut first = core.connect("edge-a").await;
    core.serve(&first, meeting, Epoch(1), Term(1)).await;
    let live = core.meetings.live(meeting).unwrap();
    core.until("active", |_| live.record().status == Status::Active).await;
    core.say(&first, ToCore::HandOver { alias: ALIAS }).await;
    let (edge, assignment) = core.assigned().await;
    assert_eq!((edge.as_str(), assignment.epoch), ("edge-b", Epoch(2)));
    // It is still heard, and its beats are still good.
    core.spurt(&first, 0, 50, 0, false).await;
    assert_eq!(next(&mut first).await, ToEdge::Done { alias: ALIAS, participant: ALICE, spurt: SpurtNo(0) });
    core.say(&first, ToCore::Beat { seq: 1 }).await;
    assert!(matches!(next(&mut first).await, ToEdge::Beat { seq: 1, .. }));

    let second = core.connect("edge-b").await;
    core.serve(&second, meeting, Epoch(2), Term(1)).await;
    assert_eq!(next(&mut first).await, ToEdge::Leave { alias: ALIAS });
    core.say(&first, ToCore::Close { alias: ALIAS, reason: CloseReason::Drain }).await;
    let record = live.record();
    assert_eq!((record.status, record.gaps, record.owners.epoch), (Status::Active, vec![], Epoch(2)));
}

#[tokio::test]
async fn the_last_packets_of_an_edge_without_a_lease_are_taken_though_its_successor_is_live() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::named("core-1", &dir.path().join("1.redb"), false, |_| {});
    let meeting = core.create().await;
    core.assigned().await;
    let mut first = core.connect("edge-a").await;
    core.open(&first, meeting, Epoch(1)).await;
    let live = core.meetings.live(meeting).unwrap();
    core.until("active", |_| live.record().status == Status::Active).await;
    core.say(&first, ToCore::HandOver { alias: ALIAS }).await;
    core.assigned().await;
    let bytes = spurt_bytes(0, 50, 0, false);
    let cut = core.acceptor.read_spurt(&first.link, &bytes[..bytes.len() / 2]).await;
    assert!(matches!(cut, Err(SpurtError::Truncated)), "{cut:?}");

    let second = core.connect("edge-b").await;
    core.open(&second, meeting, Epoch(2)).await;
    assert_eq!(next(&mut first).await, ToEdge::Leave { alias: ALIAS });
    core.spurt(&first, 0, 50, 0, false).await;
    assert_eq!(next(&mut first).await, ToEdge::Done { alias: ALIAS, participant: ALICE, spurt: SpurtNo(0) });
    assert_eq!(live.record().counts.frames_durable, 50);
}

#[tokio::test]
async fn what_an_edge_has_beyond_a_spurt_that_was_ended_for_it_is_taken_as_its_next_part() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = core(&dir);
    let meeting = core.create().await;
    core.assigned().await;
    let mut edge = core.connect("edge-a").await;
    core.serve(&edge, meeting, Epoch(1), Term(1)).await;
    let bytes = spurt_bytes(0, 50, 0, false);
    let cut = core.acceptor.read_spurt(&edge.link, &bytes[..bytes.len() / 2]).await;
    assert!(matches!(cut, Err(SpurtError::Truncated)), "{cut:?}");
    let live = core.meetings.live(meeting).unwrap();
    live.end_open(Epoch(2), &Default::default()).await;
    let items = match next(&mut edge).await {
        ToEdge::DoneTo { spurt: SpurtNo(0), items, .. } => items,
        other => panic!("{other:?}"),
    };
    assert!((10..40).contains(&items), "{items}");
    let rest = SpurtNo(0).next_part().unwrap();
    core.spurt(&edge, rest.0, 50 - items, 0, false).await;
    assert_eq!(next(&mut edge).await, ToEdge::Done { alias: ALIAS, participant: ALICE, spurt: rest });
    assert_eq!(live.record().counts.frames_durable, 50);
}

/// A meeting under these rules, active, with Alice in it, and its edge.
async fn under(core: &mut Core, leave: LeaveRules) -> (Arc<Meeting>, Edge) {
    let spec = Spec { leave, ..spec() };
    let created = core.meetings.create(spec, TraceContext::new(7), None).await.map_err(|e| e.to_string()).unwrap();
    core.assigned().await;
    let edge = core.connect("edge-a").await;
    core.serve(&edge, created.record.id, Epoch(1), Term(1)).await;
    let live = core.meetings.live(created.record.id).unwrap();
    core.until("active", |_| live.record().status == Status::Active).await;
    (live, edge)
}

/// The edge is told to leave and does; the meeting is done for the reason returned.
async fn left(core: &Core, live: &Arc<Meeting>, mut edge: Edge) -> String {
    assert_eq!(next(&mut edge).await, ToEdge::Leave { alias: ALIAS });
    core.say(&edge, ToCore::Close { alias: ALIAS, reason: CloseReason::Asked }).await;
    core.until("done", |_| live.record().status == Status::Done).await;
    live.record().sub_code.unwrap()
}

#[tokio::test]
async fn a_meeting_that_everybody_has_left_is_left_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = core(&dir);
    let (live, edge) = under(&mut core, LeaveRules { alone_after_seconds: Some(1), at: None }).await;
    core.say(&edge, ToCore::Left { alias: ALIAS, participant: ALICE }).await;
    assert_eq!(left(&core, &live, edge).await, "alone");
}

#[tokio::test]
async fn a_meeting_whose_time_is_up_is_left_with_people_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = core(&dir);
    let soon = Some(Micros(wall().0 + 300_000));
    let (live, edge) = under(&mut core, LeaveRules { alone_after_seconds: Some(1), at: soon }).await;
    assert_eq!(live.present(), 1);
    assert_eq!(left(&core, &live, edge).await, "deadline");
}

#[tokio::test]
async fn a_meeting_that_is_ended_says_by_whom() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = core(&dir);
    let (live, edge) = under(&mut core, LeaveRules::default()).await;
    core.meetings.stop(live.id).await;
    assert_eq!(left(&core, &live, edge).await, "requested");
    let (live, edge) = under(&mut core, LeaveRules::default()).await;
    core.say(&edge, ToCore::Close { alias: ALIAS, reason: CloseReason::Ended }).await;
    core.until("done", |_| live.record().status == Status::Done).await;
    assert_eq!(live.record().sub_code.as_deref(), Some("relay_ended"));
}

#[tokio::test]
async fn speech_that_an_edge_had_to_give_up_is_a_gap_and_named_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = core(&dir);
    let (live, edge) = under(&mut core, LeaveRules::default()).await;
    let at = |seconds: u64| Micros(1_700_000_000_000_000 + seconds * 1_000_000);
    for spans in [vec![(at(1), at(3))], vec![(at(1), at(3)), (at(9), at(10)), (at(20), at(19))]] {
        core.say(&edge, ToCore::GivenUp { alias: ALIAS, spans }).await;
    }
    let gaps: Vec<_> = live.record().gaps.iter().map(|gap| (gap.from, gap.to, gap.reason)).collect();
    assert_eq!(gaps, [(at(1), Some(at(3)), GapReason::GivenUp), (at(9), Some(at(10)), GapReason::GivenUp)]);
}
