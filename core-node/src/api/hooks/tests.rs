#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use axum::{
    body::{Body, to_bytes},
    http::Request as HttpRequest,
};
use tower::ServiceExt;

use super::*;
use crate::{
    api::router,
    store::record::{MeetingRecord, Status},
    tests::fakes::Core,
};

struct Bench {
    core: Core,
    app: App,
    _dir: tempfile::TempDir,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let core = Core::start(&dir.path().join("core.redb"), false);
    let zoom = Zoom {
        client_id: "client".into(),
        client_secret: Secret("client's secret".into()),
        secret_token: Secret("token".into()),
        residency: vec!["eu".into()],
        language: Some("en".into()),
    };
    let app = App { zoom: Some(Arc::new(zoom)), token: Some(Secret("the API's own token".into())), ..core.app.clone() };
    Bench { core, app, _dir: dir }
}

impl Bench {
    /// As Zoom sends it, by this token.
    async fn tell(&self, event: &Value, token: &str) -> (StatusCode, Value) {
        let body = event.to_string();
        let time = (wall().as_millis() / 1000).to_string();
        let signature = Key::new(&Secret(token.into())).sign(format!("v0:{time}:{body}").as_bytes());
        let request = HttpRequest::post("/v1/hooks/zoom")
            .header("x-zm-request-timestamp", time)
            .header("x-zm-signature", format!("v0={signature}"))
            .body(Body::from(body))
            .unwrap();
        let answer = router(self.app.clone()).oneshot(request).await.unwrap();
        let status = answer.status();
        let body = to_bytes(answer.into_body(), 1 << 16).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }

    /// The meetings, once all is done that was told.
    async fn meetings(&self) -> Vec<MeetingRecord> {
        drop(AT_WORK.acquire_many(MAX_WORK as u32).await.unwrap());
        let page = crate::meetings::list::Page { status: None, before: None, limit: 100 };
        self.core.meetings.page(page).await.unwrap().into_iter().map(|(record, _)| record).collect()
    }
}

fn started(stream: &str, at: u64) -> Value {
    let payload = json!({"meeting_uuid": "uuid==", "rtms_stream_id": stream, "server_urls": "wss://zoom.example", "operator_id": "x"});
    json!({"event": "meeting.rtms_started", "event_ts": at, "payload": payload})
}

#[tokio::test]
async fn a_url_is_validated_by_the_secret_token_and_nothing_is_done_for_another_s_signature() {
    let bench = bench();
    let event = json!({"event": "endpoint.url_validation", "payload": {"plainToken": "qgg8vlvZRS6UYooatFL8Aw"}});
    let (status, answer) = bench.tell(&event, "token").await;
    // printf %s qgg8vlvZRS6UYooatFL8Aw | openssl dgst -sha256 -hmac token
    let encrypted = "414abd224443df658c657e796f92313035961d4b4abbf7136289307425f70631";
    assert_eq!(
        (status, answer),
        (StatusCode::OK, json!({"plainToken": "qgg8vlvZRS6UYooatFL8Aw", "encryptedToken": encrypted}))
    );
    assert_eq!(bench.tell(&event, "another").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(bench.tell(&started("s", 1), "another").await.0, StatusCode::UNAUTHORIZED);
    assert!(bench.meetings().await.is_empty());
}

#[tokio::test]
async fn a_stream_becomes_one_meeting_however_often_it_is_told_of() {
    let bench = bench();
    for at in [1, 1, 2] {
        assert_eq!(bench.tell(&started("s", at), "token").await, (StatusCode::OK, json!({})));
    }
    let nested = json!({"event": "webinar.rtms_started", "payload": {"object": started("t", 1)["payload"]}});
    assert_eq!(bench.tell(&nested, "token").await.0, StatusCode::OK);
    let meetings = bench.meetings().await;
    assert_eq!(meetings.len(), 2);
    let spec = &meetings.iter().find(|m| m.spec.metadata["zoom"]["rtms_stream_id"] == "s").unwrap().spec;
    assert_eq!((spec.source.kind(), spec.source.url()), ("zoom_rtms", "wss://zoom.example"));
    assert_eq!((&spec.residency[..], spec.language.as_deref()), (&["eu".to_owned()][..], Some("en")));
}

#[tokio::test]
async fn of_several_addresses_the_first_is_joined() {
    let bench = bench();
    let mut event = started("s", 1);
    event["payload"]["server_urls"] = "wss://first.example:443, wss://second.example".into();
    bench.tell(&event, "token").await;
    assert_eq!(bench.meetings().await[0].spec.source.url(), "wss://first.example:443");
}

#[tokio::test]
async fn a_stream_that_people_stop_ends_its_meeting() {
    let bench = bench();
    bench.tell(&started("s", 1), "token").await;
    let id = bench.meetings().await[0].id;
    let stopped = |reason: u64| {
        let payload = json!({"meeting_uuid": "uuid==", "rtms_stream_id": "s", "stop_reason": reason});
        json!({"event": "meeting.rtms_stopped", "payload": payload})
    };
    bench.tell(&stopped(6), "token").await;
    for _ in 0..500 {
        let status = bench.core.meetings.record(id).unwrap().unwrap().status;
        if matches!(status, Status::Finishing | Status::Done) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it is not left");
}

#[test]
fn a_stream_that_a_fault_ends_comes_back() {
    let ended = |reason: Value| {
        let payload = json!({"meeting_uuid": "uuid==", "rtms_stream_id": "s", "stop_reason": reason});
        Stream::of(&payload).unwrap().comes_back()
    };
    let back: Vec<u64> = (0..40).filter(|reason| ended(json!(reason))).collect();
    assert_eq!(back, (10..=19).chain([24]).collect::<Vec<_>>());
    assert!(!ended(Value::Null) && !ended(json!("14")) && !ended(json!(-1)));
}

#[tokio::test]
async fn what_is_no_stream_is_told_so_and_another_event_is_nothing_to_us() {
    let bench = bench();
    for payload in [json!({}), json!({"rtms_stream_id": 5}), json!({"object": []})] {
        let event = json!({"event": "meeting.rtms_started", "payload": payload});
        assert_eq!(bench.tell(&event, "token").await.0, StatusCode::BAD_REQUEST, "{event}");
    }
    assert_eq!(bench.tell(&json!([1]), "token").await.0, StatusCode::BAD_REQUEST);
    assert_eq!(bench.tell(&json!({"event": "meeting.started"}), "token").await.0, StatusCode::OK);
    // Not what a meeting may be asked for with.
    let mut event = started("s", 1);
    event["payload"]["server_urls"] = "https://zoom.example".into();
    assert_eq!(bench.tell(&event, "token").await.0, StatusCode::OK);
    assert!(bench.meetings().await.is_empty());
}

#[tokio::test]
async fn without_its_section_it_is_not_there() {
    let bench = bench();
    let app = App { zoom: None, ..bench.app.clone() };
    let off = Bench { app, ..bench };
    assert_eq!(off.tell(&started("s", 1), "token").await.0, StatusCode::NOT_FOUND);
}
