//! What breaks in one meeting, and the meeting beside it.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::sync::Arc;

use mesh::{
    trace::TraceContext,
    wire::{
        Epoch, MeetingAlias,
        control::{CloseReason, EdgeState, RefusedReason, ToCore, ToEdge},
    },
};

use super::fakes::{ALIAS, Core, Edge};
use crate::{
    meeting::Notice,
    publish::{Event, What},
    store::record::Status,
};

#[tokio::test]
async fn a_panic_in_one_meeting_fails_it_with_its_reason_and_the_one_beside_it_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::start(&dir.path().join("core.redb"), false);
    let (broken, sound) = (core.create().await, core.create().await);
    core.assigned().await;
    core.assigned().await;
    let edges = core.meetings.record(broken).unwrap().unwrap().owners.rows;
    let owner = |c: &Core, id| c.meetings.record(id).unwrap().unwrap().owners.owner().unwrap().edge.to_string();
    assert_eq!(edges.len(), 1);
    let mut one = core.connect(&owner(&core, broken)).await;
    core.open(&one, broken, Epoch(1)).await;
    let mut other = core.connect(&owner(&core, sound)).await;
    core.open(&other, sound, Epoch(1)).await;

    let meeting = core.meetings.live(broken).unwrap();
    let panics = async { panic!("poisoned") };
    let done: Option<()> = core.meetings.clone().guarded(meeting, "the transcription", panics).await;
    assert_eq!(done, None);
    core.until("the end of the broken one", |c| c.meetings.live(broken).is_none()).await;
    let record = core.meetings.store().meeting(broken).unwrap().unwrap();
    assert_eq!((record.status, record.sub_code.as_deref()), (Status::Failed, Some("internal_error")));
    assert_eq!(record.detail.as_deref(), Some("the transcription broke: it panicked"));
    assert_eq!(one.next_but_durable().await, ToEdge::Leave { alias: ALIAS });
    let receipt = core.meetings.receipt(broken).await;
    assert!(receipt.is_ok(), "a failed meeting has its receipt, too");

    core.spurt(&other, 0, 50, 0, false).await;
    core.until("words of the other", |c| c.meetings.store().segments(sound, 0).unwrap().len() == 1).await;
    assert!(matches!(other.next_but_durable().await, ToEdge::Done { .. }));
}

/// The core breaks on this message.
async fn breaks(core: &Core, edge: &Edge, message: &ToCore) {
    let panics = async { panic!("poisoned") };
    core.acceptor.contain(&edge.link, message.about(), panics).await.unwrap();
}

#[tokio::test]
async fn a_message_that_breaks_the_core_fails_its_own_meeting_and_the_edge_s_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::start(&dir.path().join("core.redb"), false);
    let (broken, sound) = (core.create().await, core.create().await);
    core.assigned().await;
    core.assigned().await;
    let edge_of = |id| core.meetings.record(id).unwrap().unwrap().owners.owner().unwrap().edge.to_string();
    let mut edge = core.connect(&edge_of(broken)).await;
    core.open(&edge, broken, Epoch(1)).await;
    let beside = MeetingAlias(2);
    let trace = TraceContext::new(7);
    core.say(&edge, ToCore::Open { alias: beside, meeting: sound, epoch: Epoch(1), trace }).await;

    let state = |alias| ToCore::State { alias, state: EdgeState::Live, detail: None };
    // Nothing is known under this alias, and nothing comes of it.
    breaks(&core, &edge, &state(MeetingAlias(9))).await;
    assert!(core.meetings.live(broken).is_some());
    breaks(&core, &edge, &state(ALIAS)).await;
    assert!(core.meetings.live(broken).is_none() && core.meetings.live(sound).is_some());
    let record = core.meetings.store().meeting(broken).unwrap().unwrap();
    assert_eq!((record.status, record.sub_code.as_deref()), (Status::Failed, Some("internal_error")));
    assert_eq!(record.detail.as_deref(), Some("a message of its edge broke: it panicked"));
    assert_eq!(edge.next_but_durable().await, ToEdge::Leave { alias: ALIAS });
    core.say(&edge, ToCore::Beat { seq: 3 }).await;
    assert!(matches!(edge.next_but_durable().await, ToEdge::Beat { seq: 3, .. }), "the link goes on");

    // Of a meeting that another edge captures it costs nothing but the answer.
    let mut stranger = core.connect("edge-stranger").await;
    breaks(&core, &stranger, &ToCore::Open { alias: ALIAS, meeting: sound, epoch: Epoch(1), trace }).await;
    let refused = ToEdge::Refused { alias: ALIAS, reason: RefusedReason::UnknownMeeting };
    assert_eq!(stranger.next_but_durable().await, refused);
    assert!(core.meetings.live(sound).is_some());
}

#[tokio::test]
async fn a_meeting_that_takes_in_nothing_holds_its_edge_s_other_meetings_up_once_and_is_failed() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::start(&dir.path().join("core.redb"), false);
    let id = core.create().await;
    core.assigned().await;
    let meeting = core.meetings.live(id).unwrap();
    // What its supervisor waits for is held by somebody.
    let held = meeting.publisher.hold().await;
    // As many as wait for it, and some.
    for _ in 0..70 {
        meeting.notify(Notice::State(Epoch(1), EdgeState::Live, None)).await;
    }
    core.until("failed", |c| c.meetings.live(id).is_none()).await;
    drop(held);
    // What it was to take in comes too late: it has ended.
    let (meeting, _) = (Arc::downgrade(&meeting), drop(meeting));
    core.until("its tasks have ended", |_| meeting.upgrade().is_none()).await;
    let record = core.meetings.store().meeting(id).unwrap().unwrap();
    assert_eq!((record.status, record.detail.as_deref()), (Status::Failed, Some("its supervisor stands still")));
}

#[tokio::test]
async fn a_meeting_that_stands_still_while_it_ends_is_ended_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::start(&dir.path().join("core.redb"), false);
    let id = core.create().await;
    let (name, _) = core.assigned().await;
    let edge = core.connect(&name).await;
    core.open(&edge, id, Epoch(1)).await;
    let meeting = core.meetings.live(id).unwrap();
    core.until("active", |_| meeting.record().status == Status::Active).await;
    let mut events = meeting.publisher.listen(core.meetings.store().clone(), 0).unwrap();
    meeting.notify(Notice::Stop).await;
    let finishing = |event: &Event| matches!(&event.what, What::Status(change) if change.status == Status::Finishing);
    while !finishing(&events.next().await.unwrap().unwrap()) {}
    let held = meeting.publisher.hold().await;
    core.say(&edge, ToCore::Close { alias: ALIAS, reason: CloseReason::Asked }).await;
    for _ in 0..70 {
        meeting.notify(Notice::Stop).await;
    }
    core.until("ended", |c| c.meetings.live(id).is_none()).await;
    drop(held);
    let record = core.meetings.store().meeting(id).unwrap().unwrap();
    assert_eq!((record.status, core.meetings.receipt(id).await.is_ok()), (Status::Done, true));
}
