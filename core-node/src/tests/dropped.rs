//! Whoever asks may go away at any moment: what was asked for is done whole, or not at all.

#![allow(clippy::unwrap_used)]

use std::{future::poll_fn, task::Poll};

use mesh::{
    identity::Role,
    mandate::Statement,
    trace::TraceContext,
    wire::{
        Term,
        control::ToCore,
        request::{Replica, Request, Response},
    },
};

use super::fakes::{self, ALIAS, ALICE, Core, identity, spec};
use crate::{replicate::entry::Entry, store::record::Status};

/// What `future` comes to if it is polled so often at most, each time when it asks to be; then it is dropped.
async fn polled<F: Future>(times: usize, future: F) -> Option<F::Output> {
    let (mut future, mut polls) = (Box::pin(future), 0);
    poll_fn(move |context| {
        if polls < times
            && let Poll::Ready(done) = future.as_mut().poll(context)
        {
            return Poll::Ready(Some(done));
        }
        polls += 1;
        if polls >= times { Poll::Ready(None) } else { Poll::Pending }
    })
    .await
}

fn core(dir: &tempfile::TempDir) -> Core {
    Core::start(&dir.path().join("core.redb"), false)
}

/// Its meetings stay `placing`, and end as soon as they are told to.
fn without_edges(dir: &tempfile::TempDir) -> Core {
    let core = core(dir);
    core.mesh.edges(vec![]);
    core
}

#[tokio::test]
async fn a_request_that_is_dropped_anywhere_makes_a_whole_meeting_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let core = without_edges(&dir);
    let mut made = 0;
    for polls in 1.. {
        let done = polled(polls, core.meetings.create(spec(), TraceContext::new(7), None)).await.is_some();
        core.until("it is made", |c| c.meetings.store().under_way().unwrap().len() == 1).await;
        for record in core.meetings.store().under_way().unwrap() {
            core.meetings.stop(record.id).await;
        }
        core.until("nothing lives", |c| c.meetings.live_count() == 0).await;
        made = polls;
        if done {
            break;
        }
    }
    assert!(made > 1, "it was dropped at least once");
    assert!(core.meetings.store().under_way().unwrap().is_empty());
}

#[tokio::test]
async fn a_meeting_that_cannot_be_written_down_gives_its_place_back() {
    let dir = tempfile::tempdir().unwrap();
    let core = core(&dir);
    core.meetings.create(spec(), TraceContext::new(7), None).await.unwrap();
    let duplicate = || crate::store::record::Spec { deduplication_key: Some("one".into()), ..spec() };
    core.meetings.create(duplicate(), TraceContext::new(7), None).await.unwrap();
    assert!(core.meetings.create(duplicate(), TraceContext::new(7), None).await.is_err());
    assert_eq!(core.meetings.live_count(), 2);
}

#[tokio::test]
async fn an_end_that_was_asked_for_comes_even_if_nobody_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let core = without_edges(&dir);
    for polls in 1..4 {
        let id = core.create().await;
        polled(polls, core.meetings.stop(id)).await;
        core.until("it ends", |c| c.meetings.live(id).is_none()).await;
        assert_eq!(core.meetings.record(id).unwrap().unwrap().status, Status::Done);
    }
}

#[tokio::test]
async fn a_participant_is_known_here_and_on_disk_or_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = core(&dir);
    let id = core.create().await;
    let (name, assignment) = core.assigned().await;
    let edge = core.connect(&name).await;
    core.open(&edge, id, assignment.epoch).await;
    let live = core.meetings.live(id).unwrap();
    for polls in 1..4 {
        let who = format!("p-{polls}");
        let message =
            ToCore::Participant { alias: ALIAS, participant: ALICE, id: who.clone(), name: None, unheard: None };
        _ = polled(polls, core.acceptor.handle(&edge.link, message)).await;
        // The log is one queue: what was written is on disk after this.
        core.say(
            &edge,
            ToCore::Participant { alias: ALIAS, participant: ALICE, id: "last".into(), name: None, unheard: None },
        )
        .await;
        assert_eq!(live.participants(), core.meetings.store().participants(id).unwrap());
    }
}

#[tokio::test]
async fn a_replica_that_is_dropped_anywhere_is_taken_whole_and_the_next_goes_on_from_it() {
    let dir = tempfile::tempdir().unwrap();
    let core = core(&dir);
    let other = identity("core-2", Role::Core, "eu-central");
    for polls in 1..5 {
        let record = fakes::record();
        let entries = [Entry::Begin { stream: 1, held: None }, Entry::Record(Box::new(record.clone()))];
        let entries: Vec<_> = entries.iter().flat_map(Entry::pieces).collect();
        let next = entries.len() as u64;
        let (id, term, me) = (record.id, Term(1), identity("core-1", Role::Core, "eu-central").node);
        let said = Statement::Serves { meeting: id, core: &other.node, term, from: &other.node, to: &me };
        let proof = record.key.prove(&said);
        let replica = Replica { meeting: id, term, stream: 1, first: 0, entries, resumed: None, proof };
        _ = polled(polls, core.meetings.clone().answer(&other, Request::Replicate(replica))).await;
        let rest = Replica { meeting: id, term, stream: 1, first: next, entries: vec![], resumed: None, proof };
        let answer = core.meetings.clone().answer(&other, Request::Replicate(rest)).await;
        assert_eq!(answer, Response::Replicated { next });
        assert!(core.meetings.store().meeting(record.id).unwrap().is_some());
    }
}
