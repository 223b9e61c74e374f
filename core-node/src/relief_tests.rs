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

use crate::{
    fakes::{ALIAS, ALICE, Core, Edge, next},
    meeting::{Meeting, wishes::Wish},
    record::{GapReason, Status},
};

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
    core.until("the first is relieved", |_| live.record().owners[&1].until.is_some()).await;
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
    core.say(&second, ToCore::Close { alias: ALIAS, reason: CloseReason::Asked }).await;
    let (meeting, epoch, trace) = (live.id, Epoch(1), TraceContext::new(7));
    core.say(&first, ToCore::Late { alias: ALIAS, meeting, epoch, trace }).await;
    assert_eq!(live.record().status, Status::Finishing);
    core.spurt(&first, 0, 50, 0, false).await;
    loop {
        if next(&mut first).await == (ToEdge::Done { alias: ALIAS, participant: ALICE, spurt: SpurtNo(0) }) {
            break;
        }
    }
    core.say(&first, ToCore::Close { alias: ALIAS, reason: CloseReason::LeaseOver }).await;
    core.until("done", |_| live.record().status == Status::Done).await;
    assert_eq!(live.record().gaps, []);
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
        live.record().owners.get(&assignment.epoch.0).is_some_and(|owner| owner.until.is_some())
    })
    .await;
    assert_eq!((live.record().status, live.record().gaps), (Status::Active, vec![]));
    assert_eq!(live.record().owners[&1].until, None);
    assert!(live.wishes.unmet().iter().all(|unmet| unmet.wish != Wish::Path));
}
