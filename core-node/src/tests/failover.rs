//! Two cores and an edge, with a pretended mesh and engine.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use mesh::wire::{
    Epoch, SpurtNo, Term,
    control::{RefusedReason, ToCore, ToEdge},
};

use super::fakes::{ALIAS, ALICE, Core, Edge, next};
use crate::{publish::What, replicate::sender::Replicator, store::record::CoreRole};

struct Pair {
    first: Core,
    second: Core,
    meeting: mesh::wire::MeetingId,
    edge: Edge,
    _dir: tempfile::TempDir,
}

fn done(spurt: u32) -> ToEdge {
    ToEdge::Done { alias: ALIAS, participant: ALICE, spurt: SpurtNo(spurt) }
}

/// A meeting at the first core, with the second as its standby and an edge that knows.
async fn pair(stuck: bool) -> Pair {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Core::named("core-1", &dir.path().join("1.redb"), stuck, |_| {});
    let second = Core::named("core-2", &dir.path().join("2.redb"), false, |_| {});
    first.introduce(&second);
    first.mesh.leasing.lock().unwrap().push("edge-a".into());
    let meeting = first.create().await;
    first.assigned().await;
    let edge = first.connect("edge-a").await;
    first.serve(&edge, meeting, Epoch(1), Term(1)).await;
    first
        .until("a standby", |c| c.meetings.live(meeting).is_some_and(|m| m.replication.see(|r| r.binding().is_some())))
        .await;
    Pair { first, second, meeting, edge, _dir: dir }
}

#[tokio::test]
async fn what_was_said_before_a_takeover_is_there_after_it_once_and_numbers_go_on() {
    let Pair { first, second, meeting, mut edge, _dir } = pair(false).await;
    first.spurt(&edge, 0, 50, 0, false).await;
    assert_eq!(next(&mut edge).await, done(0));
    let held = second.meetings.store().segments(meeting, 0).unwrap();
    assert_eq!(held, first.meetings.store().segments(meeting, 0).unwrap(), "done means that the standby has it");
    assert!(second.meetings.live(meeting).is_none());

    first.cut_off(&second);
    let mut moved = second.connect("edge-a").await;
    second.serve(&moved, meeting, Epoch(1), Term(2)).await;
    second.spurt(&moved, 0, 50, 0, false).await;
    let done_to = ToEdge::DoneTo { alias: ALIAS, participant: ALICE, spurt: SpurtNo(0), items: 50 };
    assert_eq!(next(&mut moved).await, done_to, "it had its words already");
    second.spurt(&moved, 1, 100, 0, false).await;
    assert_eq!(next(&mut moved).await, done(1));
    let segments = second.meetings.store().segments(meeting, 0).unwrap();
    assert_eq!(segments.iter().map(|s| s.text.as_str()).collect::<Vec<_>>(), ["1000ms", "2000ms"]);
    assert!(segments[1].seq > segments[0].seq);
    assert_eq!(second.meetings.record(meeting).unwrap().unwrap().counts.frames_durable, 150);
}

#[tokio::test]
async fn what_was_durable_but_not_done_comes_out_of_the_other_core_once() {
    let Pair { first, second, meeting, edge, _dir } = pair(true).await;
    first.spurt(&edge, 0, 50, 0, false).await;
    let mut moved = second.connect("edge-a").await;
    second.serve(&moved, meeting, Epoch(1), Term(2)).await;
    second.spurt(&moved, 0, 50, 0, false).await;
    assert_eq!(next(&mut moved).await, done(0));
    assert_eq!(second.meetings.store().segments(meeting, 0).unwrap().len(), 1);
    first.until("step down", |c| c.meetings.live(meeting).is_none()).await;
    let open = |c: &Core| c.meetings.store().spurts(meeting).unwrap().iter().filter(|s| !s.done).count();
    first.until("forgotten", |c| open(c) == 0).await;
}

#[tokio::test]
async fn a_core_that_is_superseded_says_nothing_more_and_sends_everybody_on() {
    let Pair { first, second, meeting, mut edge, _dir } = pair(false).await;
    let live = first.meetings.live(meeting).unwrap();
    let mut listener = live.publisher.listen(first.meetings.store().clone(), 0).unwrap();
    let moved = second.connect("edge-a").await;
    second.serve(&moved, meeting, Epoch(1), Term(2)).await;
    let last = loop {
        match listener.next().await.unwrap() {
            Some(event) => {
                if let What::Moved(moved) = event.what {
                    break moved;
                }
            }
            None => panic!("the stream ended without a word of where it goes on"),
        }
    };
    assert_eq!(last.core, "core-2");
    assert_eq!(last.location, Some(format!("http://core-2:80/v1/meetings/{meeting}/transcript/stream")));
    let core = "core-2".parse().unwrap();
    assert_eq!(next(&mut edge).await, ToEdge::Moved { alias: ALIAS, core, term: Term(2) });
    first.until("step down", |c| c.meetings.live(meeting).is_none()).await;
    assert!(first.meetings.record(meeting).unwrap().unwrap().serving.role != CoreRole::Serving);
    // The former core is asked to be the next standby.
    second
        .until("a new standby", |c| {
            c.meetings.live(meeting).is_some_and(|m| m.replication.see(|r| r.binding().is_some()))
        })
        .await;
    let role = first.meetings.record(meeting).unwrap().unwrap().serving.role;
    assert_eq!(role, CoreRole::Standby);
    // Whoever asks here is sent there, however the id is spelt.
    let plain = meeting.to_string();
    let encoded = format!("%{:02x}{}", plain.as_bytes()[0], &plain[1..]);
    for id in [plain, encoded, meeting.simple().to_string()] {
        let request = axum::http::Request::get(format!("/v1/meetings/{id}")).body(axum::body::Body::empty()).unwrap();
        let answer = tower::ServiceExt::oneshot(first.router(), request).await.unwrap();
        assert_eq!(answer.status(), 307, "{id}");
        assert_eq!(answer.headers()["location"], format!("http://core-2:80/v1/meetings/{id}").as_str());
    }
    let again = first.connect("edge-a").await;
    first.serve(&again, meeting, Epoch(1), Term(3)).await;
    second.until("back again", |c| c.meetings.live(meeting).is_none()).await;
}

#[tokio::test]
async fn only_the_owner_brings_a_meeting_to_its_standby() {
    let Pair { second, meeting, _dir, .. } = pair(false).await;
    let mut stranger = second.connect("edge-b").await;
    second
        .say(
            &stranger,
            ToCore::Serve {
                alias: ALIAS,
                meeting,
                epoch: Epoch(1),
                term: Term(2),
                trace: mesh::trace::TraceContext::new(1),
            },
        )
        .await;
    assert_eq!(stranger.next().await, ToEdge::Refused { alias: ALIAS, reason: RefusedReason::NotAllowed });
    assert!(second.meetings.live(meeting).is_none());
}
#[tokio::test]
async fn words_wait_while_the_standby_is_lost_until_the_edge_agrees_to_go_on_without_it() {
    let Pair { first, second, meeting, mut edge, _dir } = pair(false).await;
    first.cut_off(&second);
    first.spurt(&edge, 0, 50, 0, false).await;
    let live = first.meetings.live(meeting).unwrap();
    first.until("the standby is given up", |_| live.replication.see(|m| m.binding().is_none())).await;
    assert!(live.replication.see(|m| !m.wants_standby()), "the edge may still turn to it");
    let mut named = false;
    let number = loop {
        if let ToEdge::Standby { core, number, .. } = edge.next_but_durable().await {
            if named && core.is_none() {
                break number;
            }
            named |= core.is_some();
        }
    };
    // An answer to what was said before counts for nothing.
    let say = |number, core| ToCore::Standby { alias: ALIAS, core, number };
    first.say(&edge, say(number - 1, None)).await;
    first.say(&edge, say(number, Some("core-2".parse().unwrap()))).await;
    assert!(live.replication.see(|m| !m.wants_standby()));
    first.say(&edge, say(number, None)).await;
    assert_eq!(next(&mut edge).await, done(0));
    assert!(live.replication.see(Replicator::wants_standby));
}
