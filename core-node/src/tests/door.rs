//! What a node with a valid certificate may not do to a core's meetings.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use mesh::{
    identity::{Identity, NodeId, Role},
    mandate::{EdgeKey, Proof, Statement},
    wire::{
        Epoch, MeetingId, Term,
        request::{LeaseProof, Replica, Request, Response},
    },
};

use super::fakes::{Core, Edge, identity, record};
use crate::{replicate::entry::Entry, store::record::MeetingRecord};

/// A meeting at `core-1` that `edge-a` captures under a lease.
struct Set {
    core: Core,
    meeting: MeetingId,
    _edge: Edge,
    _dir: tempfile::TempDir,
}

async fn set() -> Set {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::named("core-1", &dir.path().join("1.redb"), false, |_| {});
    core.mesh.leasing.lock().unwrap().push("edge-a".into());
    let meeting = core.create().await;
    core.assigned().await;
    let edge = core.connect("edge-a").await;
    core.serve(&edge, meeting, Epoch(1), Term(1)).await;
    Set { core, meeting, _edge: edge, _dir: dir }
}

impl Set {
    fn record(&self) -> MeetingRecord {
        self.core.meetings.record(self.meeting).unwrap().unwrap()
    }

    fn edge_key(&self) -> EdgeKey {
        self.record().key.for_edge(&"edge-a".parse().unwrap())
    }

    async fn ask(&self, from: &Identity, request: Request) -> Response {
        self.core.meetings.clone().answer(from, request).await
    }
}

fn evil(role: Role) -> Identity {
    identity("evil", role, "us-east")
}

fn replica(record: &MeetingRecord, term: Term, from: &Identity, entries: &[Entry], key: bool) -> Replica {
    let to = "core-1".parse().unwrap();
    let said = Statement::Serves { meeting: record.id, core: &from.node, term, from: &from.node, to: &to };
    let proof = if key { record.key.prove(&said) } else { Proof::default() };
    let entries = entries.iter().flat_map(Entry::pieces).collect();
    Replica { meeting: record.id, term, stream: 1, first: 0, entries, resumed: None, proof }
}

fn reason(response: Response) -> String {
    match response {
        Response::Refused { reason } => reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_core_that_was_never_given_a_meeting_takes_it_from_nobody() {
    let set = set().await;
    let (evil, record) = (evil(Role::Core), set.record());
    let claim = replica(&record, Term(9), &evil, &[], false);
    let refused = reason(set.ask(&evil, Request::Replicate(claim)).await);
    assert_eq!(refused, "`replicate` refused: the sender has not shown that it has a part in the meeting");
    assert!(set.core.meetings.live(set.meeting).is_some(), "it goes on");
    // What one of its cores was told is worth nothing to another.
    let heir = identity("core-2", Role::Core, "eu-north");
    let overheard = replica(&record, Term(9), &heir, &[], true);
    reason(set.ask(&evil, Request::Replicate(overheard)).await);
    assert!(set.core.meetings.live(set.meeting).is_some());
    // The control: one that has the key takes it over.
    let claim = replica(&record, Term(2), &heir, &[], true);
    set.ask(&heir, Request::Replicate(claim)).await;
    assert!(set.core.meetings.live(set.meeting).is_none());
}

#[tokio::test]
async fn a_core_outside_the_residency_takes_no_meeting_over_even_with_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let core = Core::named("core-1", &dir.path().join("1.redb"), false, |_| {});
    let spec = crate::store::record::Spec { residency: vec!["eu".into()], ..crate::tests::fakes::spec() };
    let trace = mesh::trace::TraceContext::new(7);
    let made = core.meetings.create(spec, trace, None).await.map_err(|e| e.to_string()).unwrap().record;
    let claim = replica(&made, Term(9), &evil(Role::Core), &[], true);
    let refused = reason(core.meetings.clone().answer(&evil(Role::Core), Request::Replicate(claim)).await);
    assert_eq!(refused, "`replicate` refused: the sender's region is outside the meeting's residency");
    assert!(core.meetings.live(made.id).is_some());
}

#[tokio::test]
async fn a_meeting_that_is_not_known_here_is_taken_of_a_core_that_shows_its_key_and_is_where_it_may_be() {
    let set = set().await;
    let eu = || crate::store::record::Spec { residency: vec!["eu".into()], ..crate::tests::fakes::spec() };
    let there = identity("core-2", Role::Core, "eu-north");
    for (from, spec, key, taken) in
        [(evil(Role::Core), eu(), true, false), (there.clone(), eu(), false, false), (there.clone(), eu(), true, true)]
    {
        let record = MeetingRecord { spec, ..record() };
        let entries = [Entry::Begin { stream: 1, held: None }, Entry::Record(Box::new(record.clone()))];
        let answer = set.ask(&from, Request::Replicate(replica(&record, Term(1), &from, &entries, key))).await;
        assert_eq!(matches!(answer, Response::Replicated { .. }), taken, "{answer:?}");
        assert_eq!(set.core.meetings.store().meeting(record.id).unwrap().is_some(), taken);
    }
}

#[tokio::test]
async fn a_lease_is_renewed_by_its_own_edge_s_word_only_and_once_for_each() {
    let set = set().await;
    let (core, edge): (NodeId, NodeId) = ("core-1".parse().unwrap(), "edge-a".parse().unwrap());
    let (meeting, epoch) = (set.meeting, Epoch(1));
    let renewal = |key: EdgeKey, sent_ms| {
        let proof = key.prove(&Statement::Renew { meeting, epoch, core: &core, sent_ms });
        let leases = vec![LeaseProof { meeting, epoch, proof }];
        Request::Renew { core: core.clone(), edge: edge.clone(), sent_ms, leases }
    };
    let kept = |response| match response {
        Response::Renewed { leases, .. } => leases.iter().map(|lease| lease.kept).collect::<Vec<_>>(),
        other => panic!("not renewed: {other:?}"),
    };
    for who in [evil(Role::Edge), evil(Role::Core)] {
        reason(set.ask(&who, renewal(EdgeKey::default(), 5)).await);
        let other = set.record().key.for_edge(&"evil".parse().unwrap());
        reason(set.ask(&who, renewal(other, 5)).await);
    }
    // Whoever carries it.
    assert_eq!(kept(set.ask(&evil(Role::Edge), renewal(set.edge_key(), 5)).await), [true]);
    assert!(kept(set.ask(&evil(Role::Edge), renewal(set.edge_key(), 5)).await).is_empty(), "again");
    let elsewhere = |edge: &str| {
        let (core, edge) = ("core-9".parse().unwrap(), edge.parse().unwrap());
        Request::Renew { core, edge, sent_ms: 1, leases: vec![] }
    };
    let refused = reason(set.ask(&evil(Role::Edge), elsewhere("edge-a")).await);
    assert_eq!(refused, "`renew_elsewhere` refused: the sender has not shown that it has a part in the meeting");
}

#[tokio::test]
async fn who_serves_is_believed_of_those_alone_that_have_the_meeting() {
    let set = set().await;
    let (record, liar) = (set.record(), evil(Role::Core));
    let answer = Response::Serving { core: liar.node.clone(), term: Term(99), proof: Proof::default() };
    let taken = reason(set.core.meetings.believed(&liar, &record, answer));
    assert_eq!(taken, "`serving_answer` refused: the sender has not shown that it has a part in the meeting");
    let (heir, me) = (identity("core-2", Role::Core, "eu-north"), "core-1".parse().unwrap());
    let said = Statement::Serves { meeting: record.id, core: &heir.node, term: Term(2), from: &heir.node, to: &me };
    let answer = Response::Serving { core: heir.node.clone(), term: Term(2), proof: record.key.prove(&said) };
    assert_eq!(set.core.meetings.believed(&heir, &record, answer.clone()), answer);
}

#[tokio::test]
async fn who_serves_is_told_to_cores_and_to_edges_that_had_part() {
    let set = set().await;
    let ask = Request::Serving { meeting: set.meeting };
    reason(set.ask(&evil(Role::Edge), ask.clone()).await);
    reason(set.ask(&identity("edge-a", Role::Edge, "us-east"), ask.clone()).await);
    assert!(matches!(set.ask(&evil(Role::Core), ask.clone()).await, Response::Serving { .. }));
    let (edge, core) = (identity("edge-a", Role::Edge, "eu-central"), "core-1".parse().unwrap());
    let Response::Serving { term, proof, .. } = set.ask(&edge, ask).await else { panic!("not told") };
    let said = Statement::Serves { meeting: set.meeting, core: &core, term, from: &core, to: &edge.node };
    assert!(set.edge_key().proves(&said, &proof), "the edge can tell that it is true");
}

#[tokio::test]
async fn nodes_of_other_roles_ask_a_core_nothing() {
    let set = set().await;
    let record = set.record();
    let meeting = set.meeting;
    let release = Request::Release { meeting, key: set.edge_key() };
    let probe = Request::Probe { relay: "relay:1".into(), stun: false };
    let claim = |role| Request::Replicate(replica(&record, Term(9), &evil(role), &[], true));
    for (role, request) in [
        (Role::Edge, claim(Role::Edge)),
        (Role::Dns, claim(Role::Dns)),
        (Role::Dns, Request::Serving { meeting }),
        (Role::Core, release.clone()),
        (Role::Edge, release),
        (Role::Core, probe),
    ] {
        let refused = reason(set.ask(&evil(role), request).await);
        assert!(refused.contains("may not send it to a node of role core"), "{refused}");
    }
    assert!(set.core.meetings.live(meeting).is_some());
}
