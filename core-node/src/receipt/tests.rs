#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::time::Duration;

use axum::{
    body::{Body, to_bytes},
    http::Request,
};
use geo::map::RegionMap;
use mesh::{
    clock::Micros,
    identity::{
        Role,
        certs::{Authority, Credentials},
    },
    trace::TraceContext,
    wire::{
        Epoch, MeetingId, SpurtNo, Term,
        control::{CloseReason, ToCore},
    },
};
use tower::ServiceExt;

use super::{
    Receipt,
    jws::{open, sign},
    verify::{Against, Invalid, verify},
};
use crate::{
    key::SpurtKey,
    meetings::receipts::NoReceipt,
    store::{DoneMark, SpurtRecord, record::CoreRole},
    tests::fakes::{ALIAS, Core, Edge, authority, identity},
};

async fn get(core: &Core, path: &str) -> (u16, Vec<u8>) {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let (parts, body) = core.router().oneshot(request).await.unwrap().into_parts();
    (parts.status.as_u16(), to_bytes(body, 1 << 20).await.unwrap().to_vec())
}

async fn end(core: &Core, edge: &Edge, id: MeetingId) {
    core.meetings.stop(id).await;
    core.say(edge, ToCore::Close { alias: ALIAS, reason: CloseReason::Asked }).await;
    core.until("done", |c| c.meetings.live(id).is_none()).await;
}

fn check(text: &[u8], ca: &str, transcript: Option<&[u8]>) -> Result<Receipt, Invalid> {
    let map = RegionMap::built_in();
    verify(text, &Against { ca: ca.as_bytes(), crl: None, map: &map, transcript }).map(|(receipt, _)| receipt)
}

fn valid(text: &[u8]) -> Receipt {
    check(text, authority().ca_pem(), None).unwrap()
}

/// What `node` would sign, changed.
fn signed(text: &[u8], role: Role, node: &str, region: &str, change: impl FnOnce(&mut Receipt)) -> String {
    let mut receipt: Receipt = serde_json::from_slice(&open(text).unwrap().payload).unwrap();
    change(&mut receipt);
    let (cert, key) = authority().issue(&identity(node, role, region), Duration::from_secs(3600)).unwrap();
    let credentials = Credentials::from_pem(authority().ca_pem(), &cert, &key, "nearfield.test").unwrap();
    sign(&serde_json::to_vec(&receipt).unwrap(), &credentials).unwrap()
}

/// A meeting with two sentences, and its receipt.
async fn finished(core: &mut Core) -> (MeetingId, Vec<u8>) {
    let id = core.create().await;
    core.assigned().await;
    let mut edge = core.connect("edge-a").await;
    core.open(&edge, id, Epoch(1)).await;
    for n in 0..2 {
        core.spurt(&edge, n, 50, 0, false).await;
        edge.next_but_durable().await;
    }
    end(core, &edge, id).await;
    let (status, receipt) = get(core, &format!("/v1/meetings/{id}/receipt")).await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&receipt));
    (id, receipt)
}

#[tokio::test]
async fn an_ended_meeting_has_one_receipt_that_names_who_had_part_and_what_was_said() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::start(&dir.path().join("core.redb"), false);
    let early = core.create().await;
    core.assigned().await;
    let (status, body) = get(&core, &format!("/v1/meetings/{early}/receipt")).await;
    assert_eq!(status, 409);
    assert!(String::from_utf8_lossy(&body).contains("meeting_not_ended"));
    assert!(matches!(core.meetings.receipt(early).await, Err(NoReceipt::NotEnded(_))));
    assert_eq!(get(&core, &format!("/v1/meetings/{}/receipt", uuid::Uuid::nil())).await.0, 404);

    let (id, text) = finished(&mut core).await;
    let receipt = valid(&text);
    assert_eq!((receipt.meeting_id, receipt.issuer.as_str()), (id, "core-1"));
    let cores: Vec<_> = receipt.cores.iter().map(|c| (c.node.as_str(), c.region.as_str(), c.role, c.term)).collect();
    assert_eq!(cores, [("core-1", "eu-central", CoreRole::Serving, 1)]);
    let edge = &receipt.edges[0];
    assert_eq!((edge.node.as_str(), edge.region.as_str(), edge.epoch, edge.frames), ("edge-a", "eu-central", 1, 100));
    assert!(edge.from.unwrap() >= receipt.begun_at && edge.to <= receipt.ended_at);
    assert_eq!((receipt.counts.frames, receipt.counts.spurts, receipt.counts.words), (100, 2, 2));
    assert_eq!(receipt.relay.host, "relay.example:8889");
    assert!(!String::from_utf8_lossy(&open(&text).unwrap().payload).contains("/room/"), "a path may be a secret");

    let (_, again) = get(&core, &format!("/v1/meetings/{id}/receipt")).await;
    assert_eq!(again, text, "it is made once");
    assert_eq!(core.meetings.store().receipt(id).unwrap().unwrap().as_bytes(), text);

    let (_, transcript) = get(&core, &format!("/v1/meetings/{id}/transcript")).await;
    check(&text, authority().ca_pem(), Some(&transcript)).unwrap();
    let altered = String::from_utf8(transcript).unwrap().replacen("1000ms", "1001ms", 1);
    let refused = check(&text, authority().ca_pem(), Some(altered.as_bytes())).unwrap_err();
    assert!(matches!(refused, Invalid::OtherTranscript { .. }), "{refused}");
    let shown = super::show::show(&receipt, &identity("core-1", Role::Core, "eu-central"));
    assert!(["core-1", "edge-a", "eu-central", "100 frames in 2 spurts"].iter().all(|s| shown.contains(s)), "{shown}");
}

#[tokio::test]
async fn a_receipt_that_was_altered_anywhere_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::start(&dir.path().join("core.redb"), false);
    let (_, text) = finished(&mut core).await;
    valid(&text);
    // Every byte, one bit of each; a different bit from one byte to the next.
    for at in 0..text.len() {
        let mut altered = text.clone();
        altered[at] ^= 1 << (at % 7);
        assert!(check(&altered, authority().ca_pem(), None).is_err(), "byte {at} of {}", text.len());
    }
    for cut in (0..text.len()).step_by(97) {
        assert!(check(&text[..cut], authority().ca_pem(), None).is_err());
    }
    let other = Authority::create("nearfield.test", Duration::from_secs(60)).unwrap();
    let refused = check(&text, other.ca_pem(), None).unwrap_err();
    assert!(refused.to_string().contains("not accepted under the given authorities"), "{refused}");
}

#[tokio::test]
async fn a_receipt_proves_nothing_if_a_node_was_outside_or_another_than_a_core_of_it_signed() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::start(&dir.path().join("core.redb"), false);
    let (_, text) = finished(&mut core).await;
    let mine = |change: fn(&mut Receipt)| signed(&text, Role::Core, "core-1", "eu-central", change);
    valid(mine(|r| r.residency = vec!["eu".into()]).as_bytes());
    let refused = |text: String| check(text.as_bytes(), authority().ca_pem(), None).unwrap_err();
    let outside = |change: fn(&mut Receipt)| match refused(mine(change)) {
        Invalid::Outside { node, .. } => node,
        other => panic!("{other}"),
    };
    assert_eq!(outside(|r| r.residency = vec!["jp".into()]), "core-1");
    let edge = outside(|r| {
        r.residency = vec!["eu".into()];
        r.edges[0].region = "ap-northeast".into();
    });
    assert_eq!(edge, "edge-a");
    assert!(matches!(refused(mine(|r| r.residency = vec!["atlantis".into()])), Invalid::Place(_)));
    assert!(matches!(refused(mine(|r| r.ended_at = r.issued_at + Duration::from_secs(1))), Invalid::Times { .. }));
    assert!(matches!(refused(mine(|r| r.kind = "other/1".into())), Invalid::Kind(_)));
    let by = |role, node, region| refused(signed(&text, role, node, region, |_| {}));
    assert!(matches!(by(Role::Edge, "edge-a", "eu-central"), Invalid::NotACore { .. }));
    assert!(matches!(by(Role::Core, "core-9", "eu-central"), Invalid::Stranger { .. }));
    assert!(matches!(by(Role::Core, "core-1", "eu-north"), Invalid::Stranger { .. }));
}

#[tokio::test]
async fn what_was_before_a_takeover_is_on_the_receipt_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Core::named("core-1", &dir.path().join("1.redb"), false, |_| {});
    let second = Core::named("core-2", &dir.path().join("2.redb"), false, |_| {});
    first.introduce(&second);
    first.mesh.leasing.lock().unwrap().push("edge-a".into());
    let id = first.create().await;
    first.assigned().await;
    let edge = first.connect("edge-a").await;
    first.serve(&edge, id, Epoch(1), Term(1)).await;
    let bound = |c: &Core| c.meetings.live(id).is_some_and(|m| m.replication.see(|r| r.binding().is_some()));
    first.until("a standby", bound).await;
    first.spurt(&edge, 0, 50, 0, false).await;
    first.until("words", |c| c.meetings.record(id).unwrap().unwrap().counts.spurts_done == 1).await;
    first.cut_off(&second);

    let mut moved = second.connect("edge-a").await;
    second.serve(&moved, id, Epoch(1), Term(2)).await;
    second.spurt(&moved, 1, 50, 0, false).await;
    moved.next_but_durable().await;
    end(&second, &moved, id).await;
    let receipt = valid(second.meetings.receipt(id).await.unwrap().as_bytes());
    let cores: Vec<_> = receipt.cores.iter().map(|c| (c.node.as_str(), c.role, c.term)).collect();
    let want = [("core-1", CoreRole::Serving, 1), ("core-2", CoreRole::Standby, 1), ("core-2", CoreRole::Serving, 2)];
    assert_eq!(cores, want);
    assert!(receipt.cores[0].to <= receipt.cores[2].from);
    assert_eq!((receipt.counts.frames, receipt.counts.segments), (100, 2));
}

#[test]
fn turns_beyond_the_limit_are_told_as_one_and_none_is_forgotten() {
    use mesh::clock::Micros;

    use crate::store::record::{MeetingRecord, turns::MAX_TURNS};
    let mut record: MeetingRecord = crate::tests::fakes::record();
    let cores = ["core-1", "core-2"].map(|n| identity(n, Role::Core, "eu-central"));
    for term in 1..=(MAX_TURNS as u32 * 2) {
        let at = Micros(u64::from(term));
        let core = &cores[term as usize % 2];
        record.begin_turn(core, CoreRole::Serving, Term(term), "x", at);
        record.end_turn(&core.node, CoreRole::Serving, Micros(at.0 + 1));
    }
    assert_eq!(record.cores.len(), MAX_TURNS);
    assert_eq!(record.cores.iter().map(|t| t.from).min(), Some(Micros(1)));
    assert_eq!(record.cores.iter().filter_map(|t| t.to).max(), Some(Micros(MAX_TURNS as u64 * 2 + 1)));
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_are_no_receipt(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
        proptest::prop_assert!(check(&bytes, authority().ca_pem(), None).is_err());
    }
}

#[test]
fn another_core_may_have_counted_any_number_of_frames() {
    let record = crate::fuzzing::record();
    let mark = DoneMark { at: Micros(1), items: 1, frames: u64::MAX };
    let done = SpurtRecord { captured: Micros(1), trace: TraceContext::new(1), done: Some(mark) };
    let key = |n| SpurtKey { epoch: Epoch(1), participant: "p".into(), spurt: SpurtNo(n) };
    let spurts = [(key(0), done), (key(1), done)];
    let receipt = Receipt::made(&record, &[], &spurts, &crate::fuzzing::core(), Micros(2)).unwrap();
    assert_eq!((receipt.edges[0].frames, receipt.counts.frames), (u64::MAX, u64::MAX));
}

#[test]
fn clocks_of_several_cores_make_no_receipt_whose_times_are_out_of_order() {
    let mut record = crate::fuzzing::record();
    // Made by a core whose clock is ahead, ended by one whose clock is behind, attested by a third.
    for (created, ended, at) in [(90, Some(50), 10), (10, Some(90), 50), (90, None, 10), (10, Some(20), 30)] {
        (record.created_at, record.ended_at) = (Micros(created), ended.map(Micros));
        let receipt = Receipt::made(&record, &[], &[], &crate::fuzzing::core(), Micros(at)).unwrap();
        assert!(receipt.begun_at <= receipt.ended_at && receipt.ended_at <= receipt.issued_at, "{receipt:?}");
    }
}
