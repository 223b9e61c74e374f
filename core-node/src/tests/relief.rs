//! Edges whose beats come by way of other nodes, and whose speech does not come.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::{sync::Arc, time::Duration};

use mesh::{
    clock::Micros,
    lease::LEASE_MAX,
    trace::TraceContext,
    wire::{
        Epoch, SpurtNo, Term,
        control::{CloseReason, ToCore, ToEdge},
    },
};
use tokio_util::task::AbortOnDropHandle;

use super::fakes::{ALIAS, ALICE, Core, Edge, next};
use crate::{
    meeting::{Meeting, wishes::Wish},
    store::record::{GapReason, Status},
};

/// Why words are late.
fn told(live: &Meeting) -> Option<String> {
    live.wishes.unmet().into_iter().find(|unmet| unmet.wish == Wish::Path).map(|unmet| unmet.why)
}

/// Its way is open again: it has speech of an epoch that is over.
async fn is_back(core: &Core, edge: &Edge, live: &Meeting) {
    let (meeting, epoch, trace) = (live.id, Epoch(1), TraceContext::new(7));
    core.say(edge, ToCore::Late { alias: ALIAS, meeting, epoch, trace }).await;
    let (id, name) = ("p-alice".into(), Some("Alice".into()));
    core.say(edge, ToCore::Participant { alias: ALIAS, participant: ALICE, id, name, unheard: None }).await;
}

async fn is_done(edge: &mut Edge, spurt: u32) {
    let done = ToEdge::Done { alias: ALIAS, participant: ALICE, spurt: SpurtNo(spurt) };
    while next(edge).await != done {}
}

/// It has brought all that it had.
async fn has_left(core: &Core, edge: &Edge, reason: CloseReason) {
    core.say(edge, ToCore::Close { alias: ALIAS, reason }).await;
}

/// An active meeting whose edge is heard by way of others only, from now on until the handle is dropped.
async fn detoured(core: &mut Core) -> (Arc<Meeting>, Edge, AbortOnDropHandle<()>) {
    core.mesh.leasing.lock().unwrap().extend(["edge-a".into(), "edge-b".into(), "edge-c".into()]);
    let id = core.create().await;
    core.assigned().await;
    let edge = core.connect("edge-a").await;
    core.serve(&edge, id, Epoch(1), Term(1)).await;
    let live = core.meetings.live(id).unwrap();
    core.until("active", |_| live.record().status == Status::Active).await;
    let meeting = live.clone();
    let renewing = tokio::spawn(async move {
        for sent_ms in (50..).step_by(50) {
            meeting.renew_by_detour(&"edge-a".parse().unwrap(), Epoch(1), sent_ms, LEASE_MAX);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    (live, edge, AbortOnDropHandle::new(renewing))
}

/// The meeting has moved to another edge.
async fn moved(core: &mut Core, live: &Arc<Meeting>) -> Edge {
    let (name, assignment) = core.assigned().await;
    assert_eq!((name.as_str(), assignment.epoch), ("edge-b", Epoch(2)));
    assert_eq!(live.record().status, Status::Active, "the first goes on meanwhile");
    let second = core.connect("edge-b").await;
    core.serve(&second, live.id, Epoch(2), Term(1)).await;
    core.beats(&second);
    core.until("the first is relieved", |_| live.record().owners.rows[&1].until.is_some()).await;
    core.until("that is told", |_| told(live).is_some_and(|why| why.starts_with("edge-a was heard by way of"))).await;
    assert_eq!(
        (core.next_assigned(), live.capturing()),
        (None, [Epoch(2)].into()),
        "nobody is to relieve the one that came"
    );
    second
}

#[tokio::test]
async fn a_meeting_whose_edge_cannot_be_heard_moves_without_a_gap_and_takes_what_is_late() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::start(&dir.path().join("core.redb"), false);
    let (live, mut first, _renewing) = detoured(&mut core).await;
    let second = moved(&mut core, &live).await;
    assert_eq!(live.record().status, Status::Active);
    let told = live.renew_by_detour(&"edge-a".parse().unwrap(), Epoch(1), 1 << 40, LEASE_MAX);
    assert_eq!(told, Some(false), "it is told that it owns it no more");

    // The meeting ends before the way is open: what the first has is waited for.
    core.meetings.stop(live.id).await;
    has_left(&core, &second, CloseReason::Asked).await;
    is_back(&core, &first, &live).await;
    assert_eq!(live.record().status, Status::Finishing);
    core.spurt(&first, 0, 50, 0, false).await;
    is_done(&mut first, 0).await;
    has_left(&core, &first, CloseReason::LeaseOver).await;
    core.until("done", |_| live.record().status == Status::Done).await;
    assert_eq!(live.record().gaps, []);
}

#[tokio::test]
async fn what_both_edges_heard_has_its_words_once_and_why_words_are_late_is_told_until_they_are_here() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::start(&dir.path().join("core.redb"), false);
    let (live, mut first, _renewing) = detoured(&mut core).await;
    let mut second = moved(&mut core, &live).await;
    core.spurt(&second, 0, 50, 0, false).await;
    is_done(&mut second, 0).await;
    is_back(&core, &first, &live).await;
    core.spurt(&first, 0, 100, 0, false).await;
    is_done(&mut first, 0).await;
    has_left(&core, &first, CloseReason::LeaseOver).await;
    core.until("nothing is late", |_| told(&live).is_none()).await;
    let segments = core.meetings.store().segments(live.id, 0).unwrap();
    let texts: Vec<_> = segments.into_iter().map(|segment| segment.text).collect();
    assert_eq!(texts, ["1000ms", "1000ms"], "of two seconds one was out");
    assert_eq!(live.record().counts.frames_twice, 50);
}

#[tokio::test]
async fn a_core_that_was_started_again_still_waits_for_what_a_relieved_edge_has() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::start(&dir.path().join("core.redb"), false);
    let (live, first, renewing) = detoured(&mut core).await;
    let second = moved(&mut core, &live).await;
    core.until("written", |core| {
        let record = core.meetings.store().meeting(live.id).unwrap();
        record.is_some_and(|record| record.owners.rows[&1].until.is_some() && record.owners.rows[&1].owes.is_some())
    })
    .await;
    let id = live.id;
    drop((renewing, live, first, second));
    // What a kill would leave.
    let killed = dir.path().join("killed.redb");
    std::fs::copy(dir.path().join("core.redb"), &killed).unwrap();
    let core = Core::start(&killed, false);
    core.mesh.leasing.lock().unwrap().extend(["edge-a".into(), "edge-b".into()]);
    let (first, second) = (core.connect("edge-a").await, core.connect("edge-b").await);
    core.serve(&second, id, Epoch(2), Term(1)).await;
    let live = core.meetings.live(id).unwrap();
    core.meetings.stop(id).await;
    has_left(&core, &second, CloseReason::Asked).await;
    is_back(&core, &first, &live).await;
    core.spurt(&first, 0, 50, 0, false).await;
    assert_eq!(live.record().status, Status::Finishing);
    has_left(&core, &first, CloseReason::LeaseOver).await;
    core.until("done", |_| live.record().status == Status::Done).await;
    let record = live.record();
    assert_eq!((record.gaps, record.counts.frames_durable), (vec![], 50));
}

#[tokio::test]
async fn nor_does_it_matter_that_the_meeting_s_own_edge_dies_at_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::start(&dir.path().join("core.redb"), false);
    *core.mesh.rtt.lock().unwrap() = Some(Duration::ZERO);
    let (live, first, _renewing) = detoured(&mut core).await;
    let second = moved(&mut core, &live).await;
    core.meetings.stop(live.id).await;
    drop(second);
    core.mesh.members.send_modify(|members| {
        *members = Arc::new(members.iter().filter(|m| m.identity.node.as_str() != "edge-b").cloned().collect());
    });
    core.until("its lease is over", |_| !live.captures(|c| c.is_leased(1, std::time::Instant::now()))).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    is_back(&core, &first, &live).await;
    core.spurt(&first, 0, 50, 0, false).await;
    has_left(&core, &first, CloseReason::LeaseOver).await;
    core.until("done", |_| live.record().status == Status::Done).await;
    let record = live.record();
    assert_eq!((record.gaps, record.counts.frames_durable), (vec![], 50));
}

#[tokio::test]
async fn of_speech_captured_after_the_meeting_had_moved_nothing_is_kept_here_or_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::start(&dir.path().join("core.redb"), false);
    let (live, mut first, _renewing) = detoured(&mut core).await;
    let _second = moved(&mut core, &live).await;
    is_back(&core, &first, &live).await;
    // Spurts begin 10 s apart: this one does in years.
    let late = 100_000_000;
    core.spurt(&first, late, 50, 0, false).await;
    is_done(&mut first, late).await;
    assert_eq!(live.record().counts.frames_received, 0);
}

#[tokio::test]
async fn what_a_relieved_edge_never_brings_is_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::start(&dir.path().join("core.redb"), false);
    let (live, _first, renewing) = detoured(&mut core).await;
    let heard: Micros = live.detoured(Epoch(1)).map_or(live.heard_at(), |(_, heard)| heard);
    let second = moved(&mut core, &live).await;
    drop(renewing);
    core.mesh.members.send_modify(|members| {
        *members = Arc::new(members.iter().filter(|m| m.identity.node.as_str() != "edge-a").cloned().collect());
    });
    core.say(&second, ToCore::Close { alias: ALIAS, reason: CloseReason::Ended }).await;
    core.until("done", |_| live.record().status == Status::Done).await;
    let gaps = live.record().gaps;
    assert_eq!(gaps.iter().map(|gap| (gap.reason, gap.from)).collect::<Vec<_>>(), [(GapReason::GivenUp, heard)]);
}

#[tokio::test]
async fn an_edge_that_is_heard_itself_again_keeps_the_meeting() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::start(&dir.path().join("core.redb"), false);
    let (live, first, renewing) = detoured(&mut core).await;
    let (_, assignment) = core.assigned().await;
    drop(renewing);
    core.beats(&first);
    core.until("the second is not wanted", |_| {
        live.record().owners.get(assignment.epoch).is_some_and(|owner| owner.until.is_some())
    })
    .await;
    assert_eq!((live.record().status, live.record().gaps), (Status::Active, vec![]));
    assert_eq!(live.record().owners.rows[&1].until, None);
    assert!(live.wishes.unmet().iter().all(|unmet| unmet.wish != Wish::Path));
}
