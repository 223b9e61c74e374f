//! Many short meetings, one after the other: nothing that one leaves behind is in the way of the next.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use mesh::{
    identity::Role,
    node::Member,
    wire::{
        MeetingAlias,
        control::{CloseReason, ToCore, ToEdge},
    },
};

use super::fakes::{ALIAS, Core, Edge, identity, member, next};
use crate::store::record::Status;

/// Meetings until every table that is bounded has reached its bound.
const WARM: usize = 12;
/// And so many more; far more than either core may have at a time.
const MORE: usize = 24;

struct Pair {
    one: Core,
    two: Core,
    _dir: tempfile::TempDir,
}

fn pair() -> Pair {
    let dir = tempfile::tempdir().unwrap();
    let start = |name: &str| Core::named(name, &dir.path().join(name), false, |settings| settings.meetings = 3);
    let (one, two) = (start("core-1"), start("core-2"));
    // One edge with room for all of them at once: what it was given a moment ago counts.
    let edge = member(identity("edge-a", Role::Edge, "eu-central"), None);
    let report = edge.report.as_deref().cloned().unwrap();
    let roomy = mesh::wire::report::Report { capacity: 1000, ..report };
    one.mesh.edges(vec![Member { report: Some(roomy.into()), ..edge }]);
    one.introduce(&two);
    Pair { one, two, _dir: dir }
}

/// One meeting from its first moment to its last; how many words it has.
async fn meet(Pair { one, two, .. }: &mut Pair, edge: &mut Edge, number: usize) -> usize {
    let id = one.create().await;
    let (name, assignment) = one.assigned().await;
    assert_eq!(name, "edge-a");
    one.open(edge, id, assignment.epoch).await;
    let live = one.meetings.live(id).unwrap();
    one.until("it has a standby", |_| live.record().serving.standby.is_some()).await;
    let guest = ToCore::Participant {
        alias: ALIAS,
        participant: mesh::wire::ParticipantAlias(2),
        id: format!("guest-{number}"),
        name: None,
        unheard: None,
    };
    one.say(edge, guest).await;
    one.spurt(edge, 0, 10, 0, false).await;
    assert!(matches!(next(edge).await, ToEdge::Done { alias: MeetingAlias(1), .. }));
    one.meetings.stop(id).await;
    assert_eq!(next(edge).await, ToEdge::Leave { alias: ALIAS });
    one.say(edge, ToCore::Close { alias: ALIAS, reason: CloseReason::Asked }).await;
    one.until("it has ended", |c| c.meetings.live(id).is_none()).await;
    two.until("its standby knows", |c| c.meetings.record(id).unwrap().is_some_and(|r| r.status == Status::Done)).await;
    let words = one.meetings.store().segments(id, 0).unwrap();
    assert_eq!(words, two.meetings.store().segments(id, 0).unwrap());
    words.len()
}

fn tables(Pair { one, two, .. }: &Pair) -> BTreeMap<String, usize> {
    let named = |core: &str, tables: Vec<(&'static str, usize)>| {
        let named = tables.into_iter().map(|(table, rows)| (format!("{core} {table}"), rows));
        named.collect::<Vec<_>>()
    };
    let of = |name: &str, core: &Core| {
        named(name, core.meetings.tables().into_iter().chain(core.acceptor.tables()).collect())
    };
    of("one", one).into_iter().chain(of("two", two)).collect()
}

#[tokio::test]
async fn every_one_of_many_short_meetings_has_a_standby_and_its_words_and_no_table_grows() {
    let mut pair = pair();
    let mut edge = pair.one.connect("edge-a").await;
    for number in 0..WARM {
        assert_eq!(meet(&mut pair, &mut edge, number).await, 1);
    }
    let before = tables(&pair);
    for number in WARM..WARM + MORE {
        assert_eq!(meet(&mut pair, &mut edge, number).await, 1, "meeting {number}");
    }
    pair.one
        .until("every task of theirs has ended", |_| {
            let now = tables(&pair);
            now.iter().all(|(table, rows)| *rows <= before[table])
        })
        .await;
}

#[tokio::test]
async fn a_meeting_without_a_standby_says_so_until_it_has_one() {
    let dir = tempfile::tempdir().unwrap();
    let start = |name: &str| Core::start_as(name, &dir.path().join(name));
    let one = start("core-1");
    let id = one.create().await;
    let live = one.meetings.live(id).unwrap();
    one.until("it is told", |_| !live.wishes.unmet().is_empty()).await;
    assert_eq!(one.meetings.shortcomings().len(), 1);
    assert!(one.meetings.shortcomings()[0].starts_with("standby: 1 of 1"), "{:?}", one.meetings.shortcomings());
    let two = start("core-2");
    one.introduce(&two);
    one.until("it has one", |_| live.wishes.unmet().is_empty()).await;
    assert_eq!(one.meetings.shortcomings(), Vec::<String>::new());
}

#[tokio::test]
async fn a_meeting_of_two_edges_that_has_one_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let core = Core::start(&dir.path().join("core.redb"), false);
    // Not in one statement: the guard would last until `edges` waits for it.
    let one = core.mesh.members.borrow()[..1].to_vec();
    core.mesh.edges(one);
    let id = core.create_for(2).await;
    let live = core.meetings.live(id).unwrap();
    let lacks_edge = || live.wishes.unmet().iter().any(|unmet| unmet.wish == crate::meeting::wishes::Wish::Redundancy);
    core.until("it is told", |_| lacks_edge()).await;
}

#[tokio::test]
async fn no_key_to_a_relay_outlasts_its_meeting_here_or_at_the_standby() {
    let dir = tempfile::tempdir().unwrap();
    let start = |name: &str| Core::start_as(name, &dir.path().join(name));
    let (mut one, two) = (start("core-1"), start("core-2"));
    one.introduce(&two);
    let token = Some(mesh::wire::request::Secret("hush".into()));
    let url = "http://relay.example:8889/room/whep?key=hush".to_owned();
    let source = mesh::wire::request::Source::Whep { url, token, participants: vec![] };
    let spec = crate::store::record::Spec { source, ..crate::tests::fakes::spec() };
    let made = one.meetings.create(spec, mesh::trace::TraceContext::new(7), None).await.map_err(|e| e.to_string());
    let id = made.unwrap().record.id;
    let live = one.meetings.live(id).unwrap();
    one.until("it has a standby", |_| live.record().serving.standby.is_some()).await;
    let kept = |core: &Core| {
        let record = core.meetings.store().meeting(id).unwrap().unwrap();
        serde_json::to_string(&record).unwrap().contains("hush")
    };
    assert!(kept(&one) && kept(&two), "needed while it lives");
    let (name, assignment) = one.assigned().await;
    let edge = one.connect(&name).await;
    one.open(&edge, id, assignment.epoch).await;
    one.meetings.stop(id).await;
    one.say(&edge, ToCore::Close { alias: ALIAS, reason: CloseReason::Asked }).await;
    one.until("it is over", |c| c.meetings.live(id).is_none()).await;
    two.until("everywhere", |c| c.meetings.record(id).unwrap().is_some_and(|r| r.status.ended())).await;
    assert!(!kept(&one) && !kept(&two));
}
