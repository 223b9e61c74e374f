#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::time::{Duration, Instant};

use mesh::wire::{Epoch, SpurtNo, Term};

use super::*;
use crate::transcribe::Text;

impl Publisher {
    /// Keeps anything from being published while what it returns is held.
    pub(crate) async fn hold(&self) -> impl Drop + '_ {
        self.transcript.lock().await
    }
}

fn key(spurt: u32) -> SpurtKey {
    SpurtKey { epoch: Epoch(1), participant: "a".into(), spurt: SpurtNo(spurt) }
}

fn draft(spurt: u32, text: &str) -> Draft {
    Draft {
        key: key(spurt),
        item: 0,
        participant: None,
        text: Text { text: text.into(), ..Text::default() },
        captured: Micros(u64::from(spurt) * 1_000_000),
        length: Duration::from_millis(500),
        stages: None,
        step: None,
        received: Micros(0),
        durable: Micros(0),
        words: Micros(0),
        edge: None,
    }
}

struct Bench {
    publisher: Publisher,
    store: Arc<Store>,
    _dir: tempfile::TempDir,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("core.redb")).unwrap());
    let meeting = Uuid::from_u128(3);
    let transcript = Transcript::new(meeting, None, store.sequence(meeting).unwrap(), []);
    let alone = Replicator::new(Default::default(), "core-1".parse().unwrap(), Term(1), None, 0, Instant::now());
    let log = Log::start(store.clone()).unwrap();
    let publisher =
        Publisher::new(meeting, transcript, (&[], None), store.clone(), log, Arc::new(Replication::new(alone)));
    Bench { publisher, store, _dir: dir }
}

async fn rest(listener: &mut Listener) -> Vec<(u64, String)> {
    let mut seen = vec![];
    while let Some(event) = listener.next().await.unwrap() {
        let name = match event.what {
            What::Partial(s) => format!("partial {}", s.text),
            What::Final(s) => format!("final {}", s.text),
            What::Status(s) => s.status.as_str().into(),
            What::Done(_) => "end".into(),
            What::Gap(_) => "gap".into(),
            What::Moved(moved) => format!("moved {}", moved.core),
        };
        seen.push((event.seq, name));
    }
    seen
}

#[tokio::test]
async fn a_listener_resumes_after_the_last_number_it_saw() {
    let Bench { publisher, store, _dir } = bench();
    publisher.status(Status::Active, None).await.unwrap();
    publisher.partial(draft(0, "on")).await.unwrap();
    publisher.partial(draft(0, "one")).await.unwrap();
    publisher.finish(draft(0, "one."), None, || vec![key(0)]).await.unwrap();
    publisher.partial(draft(1, "tw")).await.unwrap();
    publisher.partial(draft(1, "two")).await.unwrap();
    let mut late = publisher.listen(store.clone(), 2).unwrap();
    publisher.finish(draft(1, "two."), None, || vec![key(1)]).await.unwrap();
    publisher.partial(draft(1, "too late")).await.unwrap();
    publisher.status(Status::Done, None).await.unwrap();
    let from_two = [(4, "final one."), (7, "final two."), (9, "end")];
    assert_eq!(rest(&mut late).await, from_two.map(|(n, s)| (n, s.to_owned())));
    let mut last = publisher.listen(store.clone(), 7).unwrap();
    assert_eq!(rest(&mut last).await, [(9, "end".to_owned())]);
    assert_eq!(publisher.listen(store.clone(), 10).err(), Some(NotYet(9)));
    assert!(publisher.listen(store, 9).is_ok());
}

#[tokio::test]
async fn a_listener_that_falls_behind_still_gets_every_final() {
    let Bench { publisher, store, _dir } = bench();
    let mut slow = publisher.listen(store, 0).unwrap();
    publisher.status(Status::Active, None).await.unwrap();
    assert!(slow.next().await.unwrap().is_some());
    for n in 0..400 {
        publisher.finish(draft(n, "word"), None, || vec![key(n)]).await.unwrap();
    }
    publisher.status(Status::Done, None).await.unwrap();
    let finals = rest(&mut slow).await.into_iter().filter(|(_, what)| what == "final word").count();
    assert_eq!(finals, 400);
}

/// A meeting that is taken up again with two finals, of which its standby, which is not there, may have gone on from the second.
async fn taken_up() -> (Bench, Arc<Replication>) {
    let Bench { publisher, store, _dir } = bench();
    publisher.finish(draft(0, "one."), None, || vec![key(0)]).await.unwrap();
    publisher.finish(draft(1, "two."), None, || vec![key(1)]).await.unwrap();
    let (meeting, next) = (Uuid::from_u128(3), store.sequence(Uuid::from_u128(3)).unwrap());
    let segments = store.segments(meeting, 0).unwrap();
    let (newest, ids) = (segments.last().map(|s| s.seq), segments.iter().map(|s| s.id));
    let transcript = Transcript::new(meeting, None, next, ids);
    let standby = Some("core-2".parse().unwrap());
    let me = "core-1".parse().unwrap();
    let machine = Replicator::new(Default::default(), me, Term(1), standby, 0, Instant::now());
    let replication = Arc::new(Replication::new(machine));
    let log = Log::start(store.clone()).unwrap();
    let publisher = Publisher::new(meeting, transcript, (&[], newest), store.clone(), log, replication.clone());
    (Bench { publisher, store, _dir }, replication)
}

#[tokio::test(start_paused = true)]
async fn what_was_published_is_served_at_once_and_what_is_unsure_once_it_is_known() {
    let (Bench { publisher, store, _dir }, replication) = taken_up().await;
    let finals = publisher.finals(0).await.unwrap();
    let texts = |finals: &Finals| finals.out.iter().map(|s| s.text.clone()).collect::<Vec<_>>();
    assert_eq!((texts(&finals), finals.unsure), (vec!["one.".to_owned()], true));
    let after_one = publisher.finals(finals.out[0].seq).await.unwrap();
    assert!(after_one.out.is_empty() && after_one.unsure);
    let mut listener = publisher.listen(store, 0).unwrap();
    assert!(matches!(listener.next().await.unwrap().unwrap().what, What::Final(s) if s.text == "one."));
    let waited = tokio::time::timeout(Duration::from_secs(1000), listener.next()).await;
    assert!(waited.is_err(), "the second is not told, nor anything after it");
    // The standby says that it does not serve the meeting: there is no witness of anything else.
    replication.with(|m, now| m.handle_unfit(now));
    replication.with(|m, _| m.handle_no_witness());
    while let Some(event) = replication.see_mut(Replicator::poll_event) {
        if let crate::replicate::sender::Event::Persist(number, None) = event {
            replication.with(|m, _| m.handle_persisted(number));
        }
    }
    assert!(matches!(listener.next().await.unwrap().unwrap().what, What::Final(s) if s.text == "two."));
    assert_eq!(texts(&publisher.finals(0).await.unwrap()), ["one.", "two."]);
}

#[tokio::test]
async fn numbers_go_on_rising_after_a_crash() {
    let Bench { publisher, store, _dir } = bench();
    publisher.partial(draft(0, "on")).await.unwrap();
    assert!(store.sequence(Uuid::from_u128(3)).unwrap() > 2);
}
