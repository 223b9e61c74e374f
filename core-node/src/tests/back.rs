//! Edges that were given up, or not known to have taken the meeting, and have it after all.

#![allow(clippy::unwrap_used)]

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use mesh::{
    identity::Role,
    wire::{
        Epoch, MeetingId, Term,
        control::{CloseReason, EdgeState, ToCore},
    },
};

use super::fakes::{ALIAS, Core, Edge};
use crate::{
    meeting::{Meeting, wall},
    store::record::{GapReason, Status},
};

/// A core near which there is one edge.
fn core(dir: &tempfile::TempDir) -> Core {
    let core = Core::start(&dir.path().join("core.redb"), false);
    core.mesh.leasing.lock().unwrap().push("edge-a".into());
    *core.mesh.rtt.lock().unwrap() = Some(Duration::ZERO);
    core.mesh.members.send_modify(|members| {
        *members = Arc::new(members.iter().filter(|m| m.identity.node.as_str() == "edge-a").cloned().collect());
    });
    core
}

async fn is(core: &Core, live: &Arc<Meeting>, status: Status) {
    core.until(status.as_str(), |_| live.record().status == status).await;
}

/// An active meeting whose edge has fallen silent, and was given up.
async fn given_up(core: &mut Core) -> (Arc<Meeting>, Edge) {
    let id = core.create().await;
    core.assigned().await;
    let edge = core.connect("edge-a").await;
    core.serve(&edge, id, Epoch(1), Term(1)).await;
    let live = core.meetings.live(id).unwrap();
    is(core, &live, Status::Active).await;
    is(core, &live, Status::Placing).await;
    (live, edge)
}

#[tokio::test]
async fn a_meeting_whose_edge_was_cut_off_for_longer_than_its_lease_goes_on_with_it_and_names_no_gap() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = core(&dir);
    let (live, edge) = given_up(&mut core).await;
    core.beats(&edge);
    is(&core, &live, Status::Active).await;
    // Nothing was lost: it has captured all the while.
    core.spurt(&edge, 0, 50, 0, false).await;
    core.until("its words", |_| live.record().counts.frames_durable == 50).await;
    core.say(&edge, ToCore::Close { alias: ALIAS, reason: CloseReason::Ended }).await;
    is(&core, &live, Status::Done).await;
    assert_eq!((live.record().gaps, live.record().owners.epoch), (vec![], Epoch(1)));
}

#[tokio::test]
async fn an_edge_that_stood_still_and_leaves_when_it_wakes_is_a_gap_from_where_it_was_last_heard() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = core(&dir);
    let (live, edge) = given_up(&mut core).await;
    let lost = live.heard_at();
    // Its beats are faster than its meeting.
    core.say(&edge, ToCore::Beat { seq: 1 }).await;
    is(&core, &live, Status::Active).await;
    core.say(&edge, ToCore::Close { alias: ALIAS, reason: CloseReason::LeaseOver }).await;
    is(&core, &live, Status::Placing).await;
    let gap = live.record().gaps[0].clone();
    assert_eq!((gap.from, gap.reason), (lost, GapReason::EdgeLost));
}

#[tokio::test]
async fn a_relay_s_loss_is_a_gap_from_when_it_fell_silent_and_no_gap_begins_within_another() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = core(&dir);
    let id = core.create().await;
    core.assigned().await;
    let edge = core.connect("edge-a").await;
    core.serve(&edge, id, Epoch(1), Term(1)).await;
    core.beats(&edge);
    let live = core.meetings.live(id).unwrap();
    is(&core, &live, Status::Active).await;
    let noticed = wall();
    for gaps in [1, 2] {
        for state in [EdgeState::Reconnecting { silent_ms: 5000 }, EdgeState::Live] {
            core.say(&edge, ToCore::State { alias: ALIAS, state, detail: None }).await;
        }
        core.until("it is over", |_| live.record().gaps.len() == gaps).await;
    }
    let record = live.record();
    let [one, two] = &record.gaps[..] else { panic!() };
    assert_eq!((one.reason, two.reason), (GapReason::RelayLost, GapReason::RelayLost));
    // The meeting is younger than the silence.
    assert!(one.from <= noticed && one.from >= record.created_at, "{one:?} {noticed:?}");
    assert_eq!(Some(two.from), one.to);
}

async fn asked(core: &mut Core) -> (MeetingId, Epoch) {
    core.mesh.answers.send_replace(false);
    let id = core.create().await;
    (id, core.assigned().await.1.epoch)
}

#[tokio::test]
async fn an_edge_whose_answer_is_lost_has_taken_what_it_has_opened() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = core(&dir);
    let (id, epoch) = asked(&mut core).await;
    let edge = core.connect("edge-a").await;
    core.serve(&edge, id, epoch, Term(1)).await;
    core.beats(&edge);
    let live = core.meetings.live(id).unwrap();
    is(&core, &live, Status::Active).await;
    assert_eq!(live.record().owners.epoch, epoch);
}

#[tokio::test]
async fn nor_need_it_have_opened_it_before_its_answer_was_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = core(&dir);
    let (id, epoch) = asked(&mut core).await;
    let live = core.meetings.live(id).unwrap();
    core.until("it is given up", |c| c.meetings.tables()["silent_edges"] == 1).await;
    let edge = core.connect("edge-a").await;
    core.serve(&edge, id, epoch, Term(1)).await;
    core.beats(&edge);
    is(&core, &live, Status::Active).await;
    assert_eq!(live.record().owners.epoch, epoch);
}

/// Its edge is heard of again, and says that it captures the meeting or not.
async fn reappears(core: &Core, captures: Option<Epoch>) {
    *core.mesh.captures.lock().unwrap() = captures;
    core.mesh.members.send_modify(|members| {
        let mut newer = (**members).clone();
        newer.iter_mut().for_each(|member| *member = crate::tests::fakes::member(member.identity.clone(), None));
        *members = Arc::new(newer);
    });
    core.until("it is asked", |c| c.mesh.questions.load(Relaxed) > 0).await;
}

#[tokio::test]
async fn an_edge_that_captures_still_is_waited_for_and_not_made_to_begin_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = core(&dir);
    let (live, edge) = given_up(&mut core).await;
    reappears(&core, Some(Epoch(1))).await;
    core.beats(&edge);
    is(&core, &live, Status::Active).await;
    assert_eq!((live.record().owners.epoch, core.next_assigned()), (Epoch(1), None));
}

#[tokio::test]
async fn one_that_does_not_is_asked_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = core(&dir);
    let (live, _edge) = given_up(&mut core).await;
    reappears(&core, None).await;
    let (edge, assignment) = core.assigned().await;
    assert_eq!((edge.as_str(), assignment.epoch > Epoch(1)), ("edge-a", true));
    is(&core, &live, Status::Connecting).await;
}

#[tokio::test]
async fn an_edge_that_cannot_be_reached_takes_no_lease_from_one_that_may_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = core(&dir);
    let (live, edge) = given_up(&mut core).await;
    core.mesh.mute.lock().unwrap().push("edge-b".into());
    core.mesh.leasing.lock().unwrap().push("edge-b".into());
    let other = crate::tests::fakes::member(crate::tests::fakes::identity("edge-b", Role::Edge, "eu-central"), None);
    core.mesh.members.send_modify(|members| *members = Arc::new(vec![other]));
    core.until("it is asked in vain", |c| c.meetings.tables()["silent_edges"] == 2).await;
    core.beats(&edge);
    is(&core, &live, Status::Active).await;
    assert_eq!((live.record().owners.epoch, core.next_assigned()), (Epoch(1), None));
}
