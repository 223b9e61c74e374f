//! Edges that fail by what may be their own trouble, with a pretended mesh and engine.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use mesh::wire::{
    Epoch, MeetingId, Term,
    cause::Cause,
    control::{CloseReason, EdgeState, ToCore},
};

use super::fakes::{ALIAS, Core, Edge};
use crate::{
    meeting::Meeting,
    store::record::{GapReason, Status},
};

/// A core near which there are so many edges.
fn core(dir: &tempfile::TempDir, edges: usize) -> Core {
    let core = Core::start(&dir.path().join("core.redb"), false);
    core.mesh.leasing.lock().unwrap().extend(["edge-a", "edge-b", "edge-c"].map(String::from));
    core.mesh.members.send_modify(|members| *members = Arc::new(members[..edges].to_vec()));
    core
}

async fn is(core: &Core, live: &Arc<Meeting>, status: Status) {
    core.until(status.as_str(), |_| live.record().status == status).await;
}

/// The edge that is asked next, in the meeting.
async fn joins(core: &mut Core, id: MeetingId) -> (String, Edge) {
    let (name, assignment) = core.assigned().await;
    let edge = core.connect(&name).await;
    core.serve(&edge, id, assignment.epoch, Term(1)).await;
    core.beats(&edge);
    (name, edge)
}

async fn fails(core: &Core, edge: &Edge, cause: Cause) {
    let (state, detail) = (EdgeState::Failed(cause), Some(cause.to_string()));
    core.say(edge, ToCore::State { alias: ALIAS, state, detail }).await;
    core.say(edge, ToCore::Close { alias: ALIAS, reason: CloseReason::Failed }).await;
}

/// An active meeting.
async fn active(core: &mut Core) -> (Arc<Meeting>, Edge) {
    let id = core.create().await;
    let (name, edge) = joins(core, id).await;
    assert_eq!(name, "edge-a");
    let live = core.meetings.live(id).unwrap();
    is(core, &live, Status::Active).await;
    (live, edge)
}

#[tokio::test]
async fn a_meeting_whose_edge_loses_the_media_goes_on_at_another_edge_with_a_gap_and_all_that_was_said() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = core(&dir, 3);
    let (live, first) = active(&mut core).await;
    core.spurt(&first, 0, 50, 0, false).await;
    fails(&core, &first, Cause::MediaLost).await;
    let (name, second) = joins(&mut core, live.id).await;
    assert_eq!(name, "edge-b");
    is(&core, &live, Status::Active).await;
    core.until("the gap is over", |_| live.record().gaps.iter().any(|gap| gap.to.is_some())).await;
    core.spurt(&second, 1, 100, 0, false).await;
    core.until("both are said", |c| c.meetings.store().segments(live.id, 0).unwrap().len() == 2).await;
    let record = live.record();
    assert_eq!(record.gaps.iter().map(|gap| gap.reason).collect::<Vec<_>>(), [GapReason::RelayLost]);
    assert_eq!((record.sub_code, record.detail), (None, None));

    // The same at a second edge: it is the relay.
    fails(&core, &second, Cause::MediaUnreachable).await;
    is(&core, &live, Status::Failed).await;
    assert_eq!((live.record().sub_code.as_deref(), core.next_assigned()), (Some("media_lost"), None));
}

#[tokio::test]
async fn an_edge_that_does_not_get_in_is_not_asked_again_for_that_meeting_and_its_cause_is_told_when_no_other_is_left()
{
    let dir = tempfile::tempdir().unwrap();
    let mut core = core(&dir, 2);
    let id = core.create().await;
    for (edge, cause) in [("edge-a", Cause::TlsFailed), ("edge-b", Cause::RelayTimeout)] {
        let (name, assignment) = core.assigned().await;
        assert_eq!(name, edge);
        let edge = core.connect(&name).await;
        let (meeting, epoch, term, trace) = (id, assignment.epoch, Term(1), assignment.trace);
        core.say(&edge, ToCore::Serve { alias: ALIAS, meeting, epoch, term, trace }).await;
        fails(&core, &edge, cause).await;
    }
    core.until("failed", |c| {
        let record = c.meetings.store().meeting(id).unwrap();
        record.is_some_and(|r| r.status == Status::Failed && r.sub_code.as_deref() == Some("tls_failed"))
    })
    .await;
    assert_eq!(core.next_assigned(), None);
}

#[tokio::test]
async fn a_lone_edge_s_trouble_and_a_relay_that_says_no_fail_the_meeting() {
    for (edges, cause) in [(1, Cause::EdgeFailed), (3, Cause::NoSuchRoom)] {
        let dir = tempfile::tempdir().unwrap();
        let mut core = core(&dir, edges);
        let (live, edge) = active(&mut core).await;
        core.spurt(&edge, 0, 50, 0, false).await;
        fails(&core, &edge, cause).await;
        is(&core, &live, Status::Failed).await;
        assert_eq!((live.record().sub_code.as_deref(), core.next_assigned()), (Some(cause.as_str()), None));
        assert_eq!(core.meetings.store().segments(live.id, 0).unwrap().len(), 1);
    }
}

#[tokio::test]
async fn of_two_edges_the_one_that_fails_is_replaced_by_a_third_and_asked_again_if_there_is_none() {
    for (edges, next) in [(3, "edge-c"), (2, "edge-a")] {
        let dir = tempfile::tempdir().unwrap();
        let mut core = core(&dir, edges);
        let id = core.create_for(2).await;
        let (_, first) = joins(&mut core, id).await;
        let (_, _second) = joins(&mut core, id).await;
        let live = core.meetings.live(id).unwrap();
        core.until("both capture", |_| live.record().status == Status::Active && live.capturing().len() == 2).await;
        fails(&core, &first, Cause::MediaLost).await;
        let (name, assignment) = core.assigned().await;
        assert_eq!((name.as_str(), assignment.epoch > Epoch(2)), (next, true));
        is(&core, &live, Status::Active).await;
        assert_eq!(live.record().gaps, []);
    }
}
