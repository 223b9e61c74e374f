//! Where a meeting may be, end to end: who is asked, and whose frames are taken.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::sync::Arc;

use mesh::{
    identity::{Identity, Role},
    mandate::Statement,
    trace::TraceContext,
    wire::{
        Epoch, MeetingId, Term,
        control::{RefusedReason, ToCore, ToEdge},
        request::{Replica, Request, Response},
    },
};

use super::fakes::{ALIAS, Core, identity, member, record, spec, spurt_bytes};
use crate::{peers::Mesh, replicate::entry::Entry, store::record::Spec};

fn european() -> Spec {
    Spec { residency: vec!["eu".into()], ..spec() }
}

async fn create(core: &Core, spec: Spec) -> MeetingId {
    core.meetings.create(spec, TraceContext::new(7), None).await.map_err(|e| e.to_string()).unwrap().record.id
}

fn opening(how: &str, meeting: MeetingId) -> ToCore {
    let (alias, epoch, trace) = (ALIAS, Epoch(1), TraceContext::new(7));
    match how {
        "open" => ToCore::Open { alias, meeting, epoch, trace },
        "serve" => ToCore::Serve { alias, meeting, epoch, term: Term(1), trace },
        _ => ToCore::Late { alias, meeting, epoch, trace },
    }
}

#[tokio::test]
async fn edges_outside_the_residency_are_asked_for_nothing_however_near_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::start(&dir.path().join("core.redb"), false);
    // By name the nearest of all, as the stand-in measures.
    let abroad = ["edge-0", "edge-1"].map(|e| member(identity(e, Role::Edge, "ap-northeast"), None));
    core.mesh.members.send_modify(|m| *m = Arc::new([&abroad[..], &m[..]].concat()));
    create(&core, european()).await;
    let (edge, _) = core.assigned().await;
    assert_eq!(edge, "edge-a");
    let asked = core.mesh.asked.lock().unwrap().clone();
    assert!(asked.iter().all(|e| !["edge-0", "edge-1"].contains(&e.as_str())), "{asked:?}");
    assert!(asked.len() > 3, "the others were measured: {asked:?}");
    // With no condition the nearest is asked: the stand-in does measure them.
    create(&core, spec()).await;
    assert_eq!(core.assigned().await.0, "edge-0");
}

#[tokio::test]
async fn a_core_outside_the_residency_takes_no_frame_even_of_the_edge_that_owns_the_meeting() {
    let dir = tempfile::tempdir().unwrap();
    let (file, copy) = (dir.path().join("core.redb"), dir.path().join("abroad.redb"));
    let mut core = Core::start(&file, false);
    let id = create(&core, european()).await;
    core.assigned().await;
    core.until("placed", |c| c.meetings.store().meeting(id).unwrap().unwrap().owners.rows.len() == 1).await;
    std::fs::copy(&file, &copy).unwrap();
    // The same store behind a certificate of another region.
    let abroad = Core::placed("core-1", "ap-northeast", &copy, false, |_| {});
    assert!(abroad.meetings.live(id).is_some());
    for how in ["open", "serve", "late"] {
        let mut edge = abroad.connect("edge-a").await;
        abroad.say(&edge, opening(how, id)).await;
        let refused = ToEdge::Refused { alias: ALIAS, reason: RefusedReason::Residency };
        assert_eq!(edge.next().await, refused, "{how}");
        if how == "open" {
            assert!(abroad.acceptor.read_spurt(&edge.link, &spurt_bytes(0, 50, 0, false)[..]).await.is_err());
        }
    }
    assert_eq!(abroad.meetings.record(id).unwrap().unwrap().counts.frames_received, 0);
    assert!(abroad.meetings.store().spurts(id).unwrap().is_empty());
    // The control: at home the same edge is let in.
    let edge = core.connect("edge-a").await;
    core.open(&edge, id, Epoch(1)).await;
    core.spurt(&edge, 0, 50, 0, false).await;
    assert_eq!(core.meetings.record(id).unwrap().unwrap().counts.frames_received, 50);
}

#[tokio::test]
async fn an_edge_whose_certificate_names_another_region_is_refused_under_the_owner_s_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::start(&dir.path().join("core.redb"), false);
    let id = create(&core, european()).await;
    core.assigned().await;
    for how in ["open", "serve", "late"] {
        let mut edge = core.connect_from("edge-a", "ap-northeast").await;
        core.say(&edge, opening(how, id)).await;
        assert_eq!(edge.next().await, ToEdge::Refused { alias: ALIAS, reason: RefusedReason::NotAllowed }, "{how}");
    }
}

#[tokio::test]
async fn a_core_outside_the_residency_refuses_to_stand_by() {
    let dir = tempfile::tempdir().unwrap();
    let from: Identity = identity("core-1", Role::Core, "eu-central");
    for (region, taken) in [("eu-north", true), ("ap-northeast", false)] {
        let core = Core::placed("core-2", region, &dir.path().join(region), false, |_| {});
        let mut record = record();
        record.spec = european();
        let (id, key) = (record.id, record.key);
        let entries = [Entry::Begin { stream: 1, held: None }, Entry::Record(Box::new(record))];
        let entries = entries.iter().flat_map(Entry::pieces).collect();
        let (term, core_2) = (Term(1), core.mesh.identity().node.clone());
        let said = Statement::Serves { meeting: id, core: &from.node, term, from: &from.node, to: &core_2 };
        let replica =
            Replica { meeting: id, term, stream: 1, first: 0, entries, resumed: None, proof: key.prove(&said) };
        let answer = core.meetings.clone().answer(&from, Request::Replicate(replica)).await;
        assert_eq!(matches!(answer, Response::Replicated { .. }), taken, "{region}: {answer:?}");
        assert_eq!(core.meetings.store().meeting(id).unwrap().is_some(), taken, "{region}");
    }
}
