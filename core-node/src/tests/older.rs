//! A core that is started with an older copy of its store, while another knows better.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use mesh::{
    identity::Role,
    mandate::Statement,
    wire::{
        Epoch, MeetingId, SpurtNo, Term,
        control::{CloseReason, ToCore, ToEdge},
        request::{Held, Replica, Response, Resumed},
    },
};

use super::fakes::{ALIAS, ALICE, Core, Edge, identity, next};
use crate::store::{
    Op, Store, new_file,
    record::{CoreRole, MeetingRecord, Status},
};

struct World {
    second: Core,
    meeting: MeetingId,
    older: PathBuf,
    _dir: tempfile::TempDir,
}

fn done(spurt: u32) -> ToEdge {
    ToEdge::Done { alias: ALIAS, participant: ALICE, spurt: SpurtNo(spurt) }
}

/// What happens after the copy was made.
enum Since {
    /// More is said; then both cores stand still, so that nobody takes the meeting over.
    Words,
    /// The meeting ends.
    End,
}

/// A meeting of which the first core has an older copy, made before or after it had a standby.
async fn world(since: Since, bound: bool) -> World {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Core::start_as("core-1", &dir.path().join("1.redb"));
    let second = Core::start_as("core-2", &dir.path().join("2.redb"));
    first.mesh.leasing.lock().unwrap().push("edge-a".into());
    let older = dir.path().join("older.redb");
    let copy = |first: &Core| {
        first.meetings.store().copy_to(new_file(&older).unwrap()).unwrap();
    };
    let meeting = first.create().await;
    first.assigned().await;
    let mut edge = first.connect("edge-a").await;
    first.serve(&edge, meeting, Epoch(1), Term(1)).await;
    first.spurt(&edge, 0, 50, 0, false).await;
    assert_eq!(next(&mut edge).await, done(0));
    if !bound {
        copy(&first);
    }
    first.introduce(&second);
    first
        .until("a standby", |c| c.meetings.live(meeting).is_some_and(|m| m.replication.see(|r| r.binding().is_some())))
        .await;
    if bound {
        copy(&first);
    }
    match since {
        Since::Words => {
            first.spurt(&edge, 1, 100, 0, false).await;
            assert_eq!(next(&mut edge).await, done(1));
        }
        Since::End => end(&first, &second, &mut edge, meeting).await,
    }
    first.cut_off(&second);
    World { second, meeting, older, _dir: dir }
}

async fn end(first: &Core, second: &Core, edge: &mut Edge, meeting: MeetingId) {
    first.meetings.stop(meeting).await;
    assert_eq!(next(edge).await, ToEdge::Leave { alias: ALIAS });
    first.say(edge, ToCore::Close { alias: ALIAS, reason: CloseReason::Asked }).await;
    first.until("its end", |c| c.meetings.live(meeting).is_none()).await;
    let ended = |c: &Core| c.meetings.store().meeting(meeting).unwrap().is_some_and(|r| r.status.ended());
    second.until("its end at the standby", ended).await;
}

#[tokio::test]
async fn a_meeting_that_has_ended_stays_so_whatever_an_older_copy_of_a_store_says() {
    for bound in [true, false] {
        let World { second, meeting, older, _dir } = world(Since::End, bound).await;
        let words = second.meetings.store().segments(meeting, 0).unwrap();
        let again = Core::start_as("core-1", &older);
        assert!(again.meetings.live(meeting).is_some(), "as its store has it");
        again.introduce(&second);
        again.until("it steps down", |c| c.meetings.live(meeting).is_none()).await;
        let record = second.meetings.record(meeting).unwrap().unwrap();
        assert_eq!((record.status, record.serving.role), (Status::Done, CoreRole::Serving));
        assert_eq!(second.meetings.store().segments(meeting, 0).unwrap(), words);
        let moved = again.meetings.record(meeting).unwrap().unwrap().serving;
        assert_eq!((moved.role, moved.by), (CoreRole::Moved, Some("core-2".parse().unwrap())));
    }
}

#[tokio::test]
async fn words_that_a_standby_holds_outlast_an_older_copy_of_its_core_s_store() {
    let World { second, meeting, older, _dir } = world(Since::Words, true).await;
    let words = second.meetings.store().segments(meeting, 0).unwrap();
    assert_eq!(words.len(), 2);
    let again = Core::start_as("core-1", &older);
    again.introduce(&second);
    second.until("it takes over", |c| c.meetings.live(meeting).is_some()).await;
    again.until("it steps down", |c| c.meetings.live(meeting).is_none()).await;
    assert_eq!(second.meetings.store().segments(meeting, 0).unwrap(), words);
    // It is the standby now, and has all.
    again.until("the words come back", |c| c.meetings.store().segments(meeting, 0).unwrap() == words).await;
}

#[tokio::test]
async fn words_of_a_standby_that_the_older_copy_does_not_know_outlast_it_too() {
    let World { second, meeting, older, _dir } = world(Since::Words, false).await;
    let words = second.meetings.store().segments(meeting, 0).unwrap();
    // It ships nothing to anybody: only what it says at its start tells how far its copy goes.
    let again = Core::named("core-1", &older, false, |settings| settings.failover.standby = false);
    again.introduce(&second);
    second.until("it takes over", |c| c.meetings.live(meeting).is_some()).await;
    again.until("it steps down", |c| c.meetings.live(meeting).is_none()).await;
    assert_eq!(second.meetings.store().segments(meeting, 0).unwrap(), words);
}

/// What `core-1` says at a start then, and it arrives now.
async fn word(second: &Core, meeting: MeetingId, since: u64) -> Response {
    let (first, to) = (identity("core-1", Role::Core, "eu-central"), "core-2".parse().unwrap());
    let said = Statement::Serves { meeting, core: &first.node, term: Term(1), from: &first.node, to: &to };
    let proof = second.meetings.record(meeting).unwrap().unwrap().key.prove(&said);
    let resumed = Resumed { held: Held { ended: false, newest: 0 }, since };
    second.meetings.handle_replica(&first, Replica::word(meeting, Term(1), Some(resumed), proof)).await
}

#[tokio::test]
async fn a_word_that_comes_late_makes_no_second_core_of_a_meeting_that_has_ended_meanwhile() {
    let World { second, meeting, _dir, .. } = world(Since::End, true).await;
    let role = || second.meetings.record(meeting).unwrap().unwrap().serving.role;
    word(&second, meeting, 0).await;
    assert_eq!(role(), CoreRole::Standby);
    // The control: said by a core that was started after it had sent all that is known here.
    word(&second, meeting, u64::MAX).await;
    assert_eq!(role(), CoreRole::Serving);
}

#[tokio::test]
async fn of_two_cores_that_hold_an_ended_meeting_one_gives_it_to_the_other() {
    let World { second, meeting, older, _dir } = world(Since::End, true).await;
    // The meeting has ended at the first core as well.
    let store = Store::open(&older).unwrap();
    let ended = MeetingRecord { status: Status::Done, ..store.meeting(meeting).unwrap().unwrap() };
    store.write([&Op::Meeting(Box::new(ended))]).unwrap();
    drop(store);
    let again = Core::start_as("core-1", &older);
    let role = |core: &Core| core.meetings.record(meeting).unwrap().unwrap().serving.role;
    assert_eq!(role(&again), CoreRole::Serving);
    again.introduce(&second);
    // What it said at its start comes late, and nobody is there to hear the answer.
    word(&second, meeting, u64::MAX).await;
    assert_eq!(role(&second), CoreRole::Serving);
    again.until("it leaves it to the other", |c| role(c) == CoreRole::Moved).await;
}

/// The first core again, with the copy; no meeting of it is live.
fn of_copy(older: &std::path::Path) -> Core {
    Core::opened(None, ("core-1", "eu-central"), older, false, |_| {})
}

#[tokio::test]
async fn of_a_copy_no_meeting_is_served_that_another_core_has_more_of() {
    let World { second, meeting, older, _dir } = world(Since::Words, true).await;
    let words = second.meetings.store().segments(meeting, 0).unwrap();
    let again = of_copy(&older);
    again.introduce(&second);
    again.meetings.consult().await.unwrap();
    again.meetings.resume(&again.app.tasks).unwrap();
    assert!(again.meetings.live(meeting).is_none(), "not for a moment");
    assert!(second.meetings.live(meeting).is_some());
    // It is the other's standby by now, or will be.
    let serving = again.meetings.record(meeting).unwrap().unwrap().serving;
    assert_eq!(serving.by, Some("core-2".parse().unwrap()));
    assert_eq!(second.meetings.store().segments(meeting, 0).unwrap(), words);
    assert!(!again.meetings.store().is_unchecked_copy().unwrap());
}

#[tokio::test]
async fn of_a_copy_a_meeting_is_served_that_no_other_core_answers_for() {
    let World { second, meeting, older, _dir } = world(Since::Words, true).await;
    let again = of_copy(&older);
    // A member that does not answer.
    again.introduce(&second);
    again.cut_off(&second);
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    again.meetings.consult().await.unwrap();
    assert!((10..15).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    // Only the first start with a copy asks.
    let begun = tokio::time::Instant::now();
    again.meetings.consult().await.unwrap();
    assert!(begun.elapsed().is_zero());
    tokio::time::resume();
    again.meetings.resume(&again.app.tasks).unwrap();
    assert!(again.meetings.live(meeting).is_some());
}

#[tokio::test]
async fn what_was_removed_is_gone_on_every_core_also_on_one_that_was_away_or_has_an_older_copy() {
    let World { second, meeting, older, _dir } = world(Since::End, true).await;
    assert!(second.meetings.remove(meeting).await.is_ok());
    let again = Core::start_as("core-1", &older);
    assert!(again.meetings.live(meeting).is_some(), "as its store has it");
    again.introduce(&second);
    again.until("it is gone", |c| c.meetings.record(meeting).unwrap().is_none()).await;
    assert!(second.meetings.record(meeting).unwrap().is_none());
}
