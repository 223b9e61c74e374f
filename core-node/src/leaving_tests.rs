//! Edges that leave, in good order or not, with a pretended mesh and engine.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use mesh::wire::{
    Epoch, SpurtNo, Term,
    control::{CloseReason, ToCore, ToEdge},
};

use crate::{
    accept::SpurtError,
    fakes::{ALIAS, ALICE, Core, next, spurt_bytes},
    record::Status,
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
    assert_eq!((record.status, record.gaps, record.epoch), (Status::Active, vec![], Epoch(2)));
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
