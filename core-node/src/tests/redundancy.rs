//! Two edges in one meeting, with a pretended mesh and engine.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::sync::Arc;

use mesh::wire::{
    Epoch, MeetingId, SpurtNo, Term,
    control::{CloseReason, ToCore, ToEdge},
};

use super::fakes::{ALIAS, ALICE, Core, Edge, next, spurt_bytes};
use crate::{
    edges::SpurtError,
    meeting::{Meeting, wishes::Wish},
    store::record::Status,
};

struct Pair {
    core: Core,
    meeting: MeetingId,
    live: Arc<Meeting>,
    one: Edge,
    two: Edge,
    dir: tempfile::TempDir,
}

fn done(spurt: u32) -> ToEdge {
    ToEdge::Done { alias: ALIAS, participant: ALICE, spurt: SpurtNo(spurt) }
}

fn leasing(core: &Core) {
    core.mesh.leasing.lock().unwrap().extend(["edge-a", "edge-b", "edge-c"].map(String::from));
}

/// A meeting that edges a and b capture.
async fn pair() -> Pair {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::named("core-1", &dir.path().join("1.redb"), false, |_| {});
    leasing(&core);
    let meeting = core.create_for(2).await;
    let (edge, assignment) = core.assigned().await;
    assert_eq!((edge.as_str(), assignment.epoch), ("edge-a", Epoch(1)));
    let (edge, assignment) = core.assigned().await;
    assert_eq!((edge.as_str(), assignment.epoch), ("edge-b", Epoch(2)), "another one, under an epoch of its own");
    let (one, two) = (core.connect("edge-a").await, core.connect("edge-b").await);
    core.serve(&one, meeting, Epoch(1), Term(1)).await;
    core.serve(&two, meeting, Epoch(2), Term(1)).await;
    let live = core.meetings.live(meeting).unwrap();
    core.until("both capture", |_| live.record().status == Status::Active && live.capturing().len() == 2).await;
    Pair { core, meeting, live, one, two, dir }
}

fn slots(live: &Meeting) -> Vec<(u8, String, u64)> {
    let record = live.record();
    let mut slots: Vec<_> = record.owners.capturing().map(|(e, o)| (o.slot, o.edge.to_string(), e.0)).collect();
    slots.sort();
    slots
}

#[tokio::test]
async fn two_edges_that_say_the_same_make_its_words_once_and_both_are_told() {
    let Pair { core, meeting, live, mut one, mut two, dir: _dir } = pair().await;
    assert_eq!(slots(&live), [(0, "edge-a".into(), 1), (1, "edge-b".into(), 2)]);
    core.spurt(&one, 0, 50, 0, false).await;
    core.spurt(&two, 0, 50, 0, false).await;
    assert_eq!((next(&mut one).await, next(&mut two).await), (done(0), done(0)));
    core.spurt(&two, 1, 100, 0, false).await;
    assert_eq!(next(&mut two).await, done(1), "after a while without the other");
    core.spurt(&one, 1, 100, 0, false).await;
    assert_eq!(next(&mut one).await, done(1), "too late to matter");
    let texts: Vec<_> = core.meetings.store().segments(meeting, 0).unwrap().into_iter().map(|s| s.text).collect();
    assert_eq!(texts, ["1000ms", "2000ms"]);
    let counts = live.record().counts;
    assert_eq!((counts.frames_durable, counts.frames_twice), (300, 150));
}

#[tokio::test]
async fn one_of_two_that_dies_in_the_middle_of_a_word_is_replaced_and_nothing_is_missed() {
    let Pair { mut core, meeting, live, one, mut two, dir: _dir } = pair().await;
    core.beats(&two);
    let bytes = spurt_bytes(0, 100, 0, false);
    let torn = core.acceptor.read_spurt(&one.link, &bytes[..bytes.len() / 2]).await;
    assert!(matches!(torn, Err(SpurtError::Truncated)), "{torn:?}");
    core.mesh.members.send_modify(|m| *m = Arc::new(m[1..].to_vec()));
    let (edge, assignment) = core.assigned().await;
    assert_eq!((edge.as_str(), assignment.epoch), ("edge-c", Epoch(3)), "not the one that is there");
    core.spurt(&two, 0, 100, 0, false).await;
    assert_eq!(next(&mut two).await, done(0));
    let three = core.connect("edge-c").await;
    core.serve(&three, meeting, Epoch(3), Term(1)).await;
    core.beats(&three);
    core.until("two again", |_| live.capturing().len() == 2).await;
    assert_eq!(slots(&live), [(0, "edge-c".into(), 3), (1, "edge-b".into(), 2)]);
    let texts: Vec<_> = core.meetings.store().segments(meeting, 0).unwrap().into_iter().map(|s| s.text).collect();
    assert_eq!(texts, ["2000ms"]);
    // What the dead one had is over in the end, without words of its own.
    core.until("nothing is open", |_| live.backlog() == (0, 0)).await;
    let record = live.record();
    assert_eq!((record.status, record.gaps), (Status::Active, vec![]));
    assert_eq!(core.meetings.store().segments(meeting, 0).unwrap().len(), 1);
}

#[tokio::test]
async fn the_last_one_that_dies_leaves_a_gap() {
    let Pair { mut core, live, one, two, dir: _dir, .. } = pair().await;
    core.say(&two, ToCore::Close { alias: ALIAS, reason: CloseReason::LeaseOver }).await;
    core.assigned().await;
    assert_eq!(live.record().gaps, []);
    core.say(&one, ToCore::Close { alias: ALIAS, reason: CloseReason::LeaseOver }).await;
    core.until("a gap", |_| live.record().gaps.len() == 1).await;
}

#[tokio::test]
async fn one_that_was_asked_to_be_the_second_and_did_not_take_it_is_no_edge_of_the_meeting() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::named("core-1", &dir.path().join("1.redb"), false, |_| {});
    leasing(&core);
    core.mesh.refuse.lock().unwrap().extend(["edge-b", "edge-c"].map(String::from));
    let meeting = core.create_for(2).await;
    core.assigned().await;
    let one = core.connect("edge-a").await;
    core.serve(&one, meeting, Epoch(1), Term(1)).await;
    core.beats(&one);
    let live = core.meetings.live(meeting).unwrap();
    core.until("it lacks a second", |_| live.wishes.unmet().iter().any(|unmet| unmet.wish == Wish::Redundancy)).await;
    core.until("the first is alone", |_| live.capturing() == [Epoch(1)].into()).await;
    assert_eq!(live.record().owners.owner().map(|owner| owner.edge.to_string()), Some("edge-a".into()));
}

#[tokio::test]
async fn after_a_restart_both_are_taken_back_and_nothing_is_said_again() {
    let Pair { core, meeting, live, mut one, two, dir } = pair().await;
    core.spurt(&one, 0, 50, 0, false).await;
    assert_eq!(next(&mut one).await, done(0));
    core.until("written", |c| {
        c.meetings.store().meeting(meeting).unwrap().is_some_and(|r| r.owners.capturing().count() == 2)
    })
    .await;
    drop((live, two));
    // What a kill would leave.
    let killed = dir.path().join("killed.redb");
    std::fs::copy(dir.path().join("1.redb"), &killed).unwrap();
    let core = Core::named("core-1", &killed, false, |_| {});
    leasing(&core);
    let (again, mut late) = (core.connect("edge-a").await, core.connect("edge-b").await);
    core.serve(&again, meeting, Epoch(1), Term(1)).await;
    core.serve(&late, meeting, Epoch(2), Term(1)).await;
    core.spurt(&late, 0, 50, 0, false).await;
    assert_eq!(next(&mut late).await, done(0), "the words were out before the restart");
    let live = core.meetings.live(meeting).unwrap();
    assert_eq!(slots(&live), [(0, "edge-a".into(), 1), (1, "edge-b".into(), 2)]);
    assert_eq!(core.meetings.store().segments(meeting, 0).unwrap().len(), 1);
}

#[tokio::test]
async fn the_meeting_ends_when_both_have_left() {
    let Pair { core, live, mut one, mut two, meeting, dir: _dir } = pair().await;
    core.meetings.stop(meeting).await;
    for edge in [&mut one, &mut two] {
        assert_eq!(next(edge).await, ToEdge::Leave { alias: ALIAS });
    }
    core.say(&one, ToCore::Close { alias: ALIAS, reason: CloseReason::Asked }).await;
    // The other one is slower.
    core.spurt(&two, 0, 50, 0, false).await;
    assert_eq!(next(&mut two).await, done(0));
    assert_eq!(live.record().status, Status::Finishing);
    core.say(&two, ToCore::Close { alias: ALIAS, reason: CloseReason::Asked }).await;
    core.until("done", |_| live.record().status == Status::Done).await;
    assert_eq!(core.meetings.store().segments(meeting, 0).unwrap().len(), 1);
}
