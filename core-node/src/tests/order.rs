//! Edges that are faster than their own answers: their control streams are up already.

#![allow(clippy::unwrap_used)]

use mesh::wire::{
    Epoch,
    control::{CloseReason, ToCore, ToEdge},
};

use super::fakes::{ALIAS, Core, next};
use crate::store::record::Status;

fn core(dir: &tempfile::TempDir) -> Core {
    Core::start(&dir.path().join("core.redb"), false)
}

#[tokio::test]
async fn an_edge_that_is_live_before_its_answer_is_read_is_the_meetings_edge() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = core(&dir);
    core.mesh.answers.send_replace(false);
    let id = core.create().await;
    let (name, assignment) = core.assigned().await;
    let edge = core.connect(&name).await;
    core.open(&edge, id, assignment.epoch).await;
    tokio::task::yield_now().await;
    core.mesh.answers.send_replace(true);
    let live = core.meetings.live(id).unwrap();
    core.until("it is active", |_| live.record().status == Status::Active).await;
}

#[tokio::test]
async fn a_second_edge_that_is_live_before_its_answer_is_read_takes_the_firsts_place_when_that_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = core(&dir);
    let id = core.create_for(2).await;
    let (first, assignment) = core.assigned().await;
    let one = core.connect(&first).await;
    core.mesh.answers.send_replace(false);
    let (second, other) = core.assigned().await;
    core.open(&one, id, assignment.epoch).await;
    let two = core.connect(&second).await;
    core.open(&two, id, other.epoch).await;
    let live = core.meetings.live(id).unwrap();
    core.until("the first is live", |_| live.record().status == Status::Active).await;
    core.mesh.answers.send_replace(true);
    // Known for live, it goes on alone: there is no gap.
    core.say(&one, ToCore::Close { alias: ALIAS, reason: CloseReason::LeaseOver }).await;
    core.until("the first is over", |_| !live.capturing().contains(&Epoch(assignment.epoch.0))).await;
    core.assigned().await;
    assert_eq!((live.record().status, live.record().gaps), (Status::Active, vec![]));
}

#[tokio::test]
async fn a_meeting_that_is_ended_before_the_answer_is_read_has_its_edge_leave() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = core(&dir);
    core.mesh.answers.send_replace(false);
    let id = core.create().await;
    let (name, assignment) = core.assigned().await;
    core.meetings.stop(id).await;
    assert_eq!(core.meetings.record(id).unwrap().unwrap().status, Status::Finishing);
    let mut edge = core.connect(&name).await;
    core.open(&edge, id, assignment.epoch).await;
    core.mesh.answers.send_replace(true);
    assert_eq!(next(&mut edge).await, ToEdge::Leave { alias: ALIAS });
    core.say(&edge, ToCore::Close { alias: ALIAS, reason: CloseReason::Asked }).await;
    core.until("it has ended", |c| c.meetings.live(id).is_none()).await;
    assert_eq!(core.meetings.record(id).unwrap().unwrap().status, Status::Done);
}
