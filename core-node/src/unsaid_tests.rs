//! A core that was superseded with a final that nobody had heard, and serves the meeting again later.

#![allow(clippy::unwrap_used)]

use mesh::wire::{Epoch, MeetingId, SpurtNo, Term, control::ToEdge};

use crate::{
    fakes::{ALIAS, ALICE, Core, Edge, next},
    record::CoreRole,
};

fn done(spurt: u32) -> ToEdge {
    ToEdge::Done { alias: ALIAS, participant: ALICE, spurt: SpurtNo(spurt) }
}

fn texts(core: &Core, meeting: MeetingId) -> Vec<String> {
    core.meetings.store().segments(meeting, 0).unwrap().into_iter().map(|segment| segment.text).collect()
}

async fn has_standby(core: &Core, meeting: MeetingId) {
    let binding = |c: &Core| c.meetings.live(meeting).is_some_and(|m| m.replication.see(|r| r.binding().is_some()));
    core.until("a standby", binding).await;
}

/// The first core has made a final of Alice's first spurt, and its standby, the second, has not heard of it when the edge turns to it.
/// Whether that one makes words is `stuck`.
async fn superseded(dir: &tempfile::TempDir, stuck: bool) -> (Core, Core, MeetingId, Edge) {
    let mut first = Core::start_as("core-1", &dir.path().join("1.redb"));
    let second = Core::named("core-2", &dir.path().join("2.redb"), stuck, |_| {});
    first.introduce(&second);
    first.mesh.leasing.lock().unwrap().push("edge-a".into());
    let meeting = first.create().await;
    first.assigned().await;
    let edge = first.connect("edge-a").await;
    first.serve(&edge, meeting, Epoch(1), Term(1)).await;
    has_standby(&first, meeting).await;
    // It is heard of no more, and hears the others.
    first.mesh.cores.lock().unwrap().clear();
    first.spurt(&edge, 0, 50, 0, false).await;
    first.until("a final that nobody hears of", |c| texts(c, meeting) == ["1000ms"]).await;
    let moved = second.connect("edge-a").await;
    second.serve(&moved, meeting, Epoch(1), Term(2)).await;
    second.spurt(&moved, 0, 50, 0, false).await;
    (first, second, meeting, moved)
}

async fn becomes_the_standby(first: &Core, second: &Core, meeting: MeetingId) {
    has_standby(second, meeting).await;
    assert_eq!(first.meetings.record(meeting).unwrap().unwrap().serving.role, CoreRole::Standby);
}

#[tokio::test]
async fn words_that_the_other_core_made_as_well_are_there_once() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second, meeting, mut edge) = superseded(&dir, false).await;
    assert_eq!(next(&mut edge).await, done(0));
    becomes_the_standby(&first, &second, meeting).await;
    let ids = |c: &Core| c.meetings.store().segments(meeting, 0).unwrap().iter().map(|s| s.seq).collect::<Vec<_>>();
    assert_eq!(ids(&first), ids(&second), "a replica has what the core that serves has, and nothing else");

    let mut back = first.connect("edge-a").await;
    first.serve(&back, meeting, Epoch(1), Term(3)).await;
    first.spurt(&back, 1, 100, 0, false).await;
    assert_eq!(next(&mut back).await, done(1));
    assert_eq!(texts(&first, meeting), ["1000ms", "2000ms"]);
}

#[tokio::test]
async fn words_that_the_other_core_has_not_made_are_made_of_the_speech_that_the_edge_still_has() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second, meeting, _edge) = superseded(&dir, true).await;
    becomes_the_standby(&first, &second, meeting).await;
    assert_eq!(texts(&first, meeting), Vec::<String>::new());
    assert!(!first.meetings.store().spurts(meeting).unwrap().iter().any(|spurt| spurt.done));

    let mut back = first.connect("edge-a").await;
    first.serve(&back, meeting, Epoch(1), Term(3)).await;
    first.spurt(&back, 0, 50, 0, false).await;
    assert_eq!(next(&mut back).await, done(0));
    assert_eq!(texts(&first, meeting), ["1000ms"]);
}
