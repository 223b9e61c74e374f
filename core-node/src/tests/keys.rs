//! Idempotency and deduplication keys, on one core and over several.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::{
    sync::Arc,
    task::{Context, Waker},
};

use mesh::{trace::TraceContext, wire::MeetingId};
use tokio::task::JoinSet;

use super::fakes::{Core, spec};
use crate::{
    meetings::{CreateError, Created, Meetings},
    store::record::Spec,
};

/// Many at once.
const MANY: usize = 20;

struct Pair {
    one: Core,
    two: Core,
    _dir: tempfile::TempDir,
}

fn pair() -> Pair {
    let dir = tempfile::tempdir().unwrap();
    let roomy = |name: &str| Core::named(name, &dir.path().join(name), false, |s| s.meetings = 100);
    let (one, two) = (roomy("core-1"), roomy("core-2"));
    one.introduce(&two);
    Pair { one, two, _dir: dir }
}

async fn under(meetings: Arc<Meetings>, key: &str, body: &str) -> Result<Created, CreateError> {
    meetings.create(spec(), TraceContext::new(7), Some((key.into(), body.into()))).await
}

async fn deduplicated(meetings: Arc<Meetings>, key: &str) -> Result<Created, CreateError> {
    let spec = Spec { deduplication_key: Some(key.into()), ..spec() };
    meetings.create(spec, TraceContext::new(7), None).await
}

/// The meetings that were made, each once.
fn made(outcomes: &[Result<Created, CreateError>]) -> Vec<MeetingId> {
    let mut ids: Vec<_> = outcomes.iter().flatten().filter(|c| !c.existing).map(|c| c.record.id).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn many_at_once_with_one_idempotency_key_are_one_meeting() {
    let Pair { one, two: _two, _dir } = pair();
    let mut asked = JoinSet::new();
    (0..MANY).for_each(|_| drop(asked.spawn(under(one.meetings.clone(), "k", "b"))));
    let outcomes = asked.join_all().await;
    let made = made(&outcomes);
    assert_eq!((made.len(), one.meetings.live_count()), (1, 1));
    assert!(outcomes.iter().all(|o| o.as_ref().is_ok_and(|c| c.record.id == made[0])));
}

#[tokio::test]
async fn many_at_once_with_one_deduplication_key_are_one_meeting() {
    let Pair { one, two: _two, _dir } = pair();
    let mut asked = JoinSet::new();
    (0..MANY).for_each(|_| drop(asked.spawn(deduplicated(one.meetings.clone(), "k"))));
    let outcomes = asked.join_all().await;
    let made = made(&outcomes);
    assert_eq!(made.len(), 1);
    let refused = |o: &Result<Created, CreateError>| matches!(o, Err(CreateError::Duplicate(id)) if *id == made[0]);
    assert_eq!(outcomes.iter().filter(|o| refused(o)).count(), MANY - 1);
}

#[tokio::test]
async fn another_core_knows_what_was_made_under_a_key() {
    let Pair { one, two, _dir } = pair();
    let first = under(one.meetings.clone(), "k", "b").await.map_err(|e| e.to_string()).unwrap().record.id;
    match under(two.meetings.clone(), "k", "b").await {
        Err(CreateError::Made { meeting, api }) => assert_eq!((meeting, api.as_str()), (first, "http://core-1:80")),
        other => panic!("{:?}", other.map(|c| c.record)),
    }
    assert!(matches!(under(two.meetings.clone(), "k", "other").await, Err(CreateError::KeyReused)));
    let second = deduplicated(one.meetings.clone(), "k").await.map_err(|e| e.to_string()).unwrap().record.id;
    let refused = deduplicated(two.meetings.clone(), "k").await;
    assert!(matches!(refused, Err(CreateError::Duplicate(id)) if id == second));
    assert_eq!(two.meetings.live_count(), 0);
}

#[tokio::test]
async fn many_at_once_at_two_cores_are_one_meeting() {
    let Pair { one, two, _dir } = pair();
    for round in 0..5 {
        let (key, mut asked) = (format!("k{round}"), JoinSet::new());
        for n in 0..MANY {
            let meetings = if n % 2 == 0 { &one } else { &two }.meetings.clone();
            let key = key.clone();
            asked.spawn(async move { deduplicated(meetings, &key).await });
        }
        let outcomes = asked.join_all().await;
        let made = made(&outcomes);
        assert_eq!(made.len(), 1, "round {round}");
        let refused = |o: &Result<Created, CreateError>| matches!(o, Err(CreateError::Duplicate(id)) if *id == made[0]);
        assert_eq!(outcomes.iter().filter(|o| refused(o)).count(), MANY - 1, "round {round}");
    }
}

#[tokio::test]
async fn requests_that_were_given_up_make_one_meeting_which_has_their_key() {
    let Pair { one, two, _dir } = pair();
    for _ in 0..50 {
        // As far as its first wait, and no further.
        let mut request = std::pin::pin!(deduplicated(one.meetings.clone(), "k"));
        assert!(request.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    // They go on, and agree with whoever asks next.
    let other = usize::from(deduplicated(two.meetings.clone(), "k").await.is_ok());
    one.until("there is one", |one| one.meetings.live_count() + other == 1).await;
}

#[tokio::test]
async fn cores_that_cannot_reach_each_other_make_one_each() {
    let Pair { one, two, _dir } = pair();
    one.cut_off(&two);
    assert!(deduplicated(one.meetings.clone(), "k").await.is_ok());
    assert!(deduplicated(two.meetings.clone(), "k").await.is_ok());
}
