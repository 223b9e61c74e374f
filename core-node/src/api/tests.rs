#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use axum::{
    body::{Body, to_bytes},
    http::{Request, Response},
};
use mesh::{identity::Role, wire::Epoch};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::tests::fakes::{Core, identity, member};

struct Bench {
    core: Core,
    _dir: tempfile::TempDir,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    Bench { core: Core::start(&dir.path().join("core.redb"), false), _dir: dir }
}

async fn call(core: &Core, request: Request<Body>) -> (StatusCode, Response<()>, String) {
    let (parts, body) = core.router().oneshot(request).await.unwrap().into_parts();
    let body = String::from_utf8(to_bytes(body, 1 << 20).await.unwrap().to_vec()).unwrap();
    (parts.status, Response::from_parts(parts, ()), body)
}

fn get_request(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

fn post(body: impl Into<Body>) -> Request<Body> {
    Request::post("/v1/meetings").header("content-type", "application/json").body(body.into()).unwrap()
}

fn livekit(access: Value) -> Value {
    let mut source = json!({"kind": "livekit", "url": "wss://livekit.example"});
    source.as_object_mut().unwrap().extend(access.as_object().unwrap().clone());
    source
}

fn zoom(other: Value) -> Value {
    let mut source = json!({"kind": "zoom_rtms", "server_urls": "wss://z.example", "meeting_uuid": "m", "rtms_stream_id": "s",
        "client_id": "c", "client_secret": "hush"});
    source.as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
    source
}

fn whep() -> Value {
    json!({"source": {"kind": "whep", "url": "http://relay.example/whep", "token": "t0p-secret"}})
}

fn nested(levels: usize) -> Value {
    (0..levels).fold(json!(1), |inner, _| json!([inner]))
}

/// A problem's status and code; the answer must be one.
async fn problem(core: &Core, request: Request<Body>) -> (u16, String, Value) {
    let (status, response, body) = call(core, request).await;
    assert_eq!(response.headers()["content-type"], "application/problem+json", "{body}");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["status"], status.as_u16());
    assert_eq!(body["type"], format!("urn:nearfield:problem:{}", body["code"].as_str().unwrap()));
    (status.as_u16(), body["code"].as_str().unwrap().to_owned(), body)
}

#[tokio::test]
async fn a_meeting_is_made_shown_and_ended_without_telling_its_secrets() {
    let Bench { mut core, _dir } = bench();
    let traced = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut request = post(whep().to_string());
    request.headers_mut().insert("traceparent", traced.parse().unwrap());
    let (status, response, body) = call(&core, request).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    let made: Value = serde_json::from_str(&body).unwrap();
    let path = format!("/v1/meetings/{}", made["id"].as_str().unwrap());
    assert_eq!(response.headers()["location"], path);
    assert_eq!(made["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert!(!body.contains("t0p-secret"));
    let (_, assignment) = core.assigned().await;
    assert_eq!(assignment.trace.to_string(), traced);

    let edge = core.connect("edge-a").await;
    core.open(&edge, assignment.meeting, Epoch(1)).await;
    core.until("active", |c| c.meetings.record(assignment.meeting).unwrap().unwrap().status.as_str() == "active").await;
    let (_, _, shown) = call(&core, get_request(&path)).await;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let owner = json!({"edge": "edge-a", "region": "eu-central", "epoch": 1, "slot": 0});
    assert_eq!((&shown["owner"], &shown["edges"]), (&owner, &json!([owner])));
    assert_eq!((&shown["core"], &shown["participants"]), (&json!("core-1"), &json!(1)));
    let (_, _, who) = call(&core, get_request(&format!("{path}/participants"))).await;
    assert_eq!(serde_json::from_str::<Value>(&who).unwrap()["participants"][0]["name"], "Alice");
    let (_, _, why) = call(&core, get_request(&format!("{path}/placement"))).await;
    let why: Value = serde_json::from_str(&why).unwrap();
    assert_eq!(why["placements"][0]["rows"].as_array().unwrap().len(), 3);
    assert_eq!(why["placements"][0]["asked"], "edge-a");

    let end = Request::delete(&path).body(Body::empty()).unwrap();
    let (status, _, ending) = call(&core, end).await;
    let ending: Value = serde_json::from_str(&ending).unwrap();
    assert_eq!((status, ending["status"].as_str()), (StatusCode::ACCEPTED, Some("finishing")), "how it stands now");
    let (_, _, list) = call(&core, get_request("/v1/meetings?status=finishing")).await;
    assert_eq!(serde_json::from_str::<Value>(&list).unwrap()["meetings"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn how_words_are_made_is_the_meeting_s_own_affair_where_it_says_so() {
    let Bench { core, _dir } = bench();
    for (said, kept) in [(json!({}), None), (json!({"noise_suppression": true}), Some(true))] {
        let mut body = whep();
        body["transcription"] = said;
        let (status, _, body) = call(&core, post(body.to_string())).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
        let made: Value = serde_json::from_str(&body).unwrap();
        let id = made["id"].as_str().unwrap().parse().unwrap();
        assert_eq!(core.meetings.record(id).unwrap().unwrap().spec.noise_suppression, kept);
    }
}

#[tokio::test]
async fn bad_requests_are_told_what_is_wrong_and_where() {
    let Bench { core, _dir } = bench();
    let with = |change: fn(&mut Value)| {
        let mut body = whep();
        change(&mut body);
        post(body.to_string())
    };
    for (request, status, code, field) in [
        (post("{"), 400, "bad_json", None),
        (post("{}"), 422, "missing_field", Some("source")),
        (post("{} {}"), 400, "bad_json", None),
        (post("[]"), 422, "invalid_field", None),
        (
            post(r#"{"source": {"kind": "whep", "url": "http://a/"}, "redundancy": 1, "redundancy": 2}"#),
            422,
            "duplicate_field",
            Some("redundancy"),
        ),
        (with(|b| b["source"] = json!(["whep", "http://relay.example/"])), 422, "invalid_field", Some("source")),
        (
            with(|b| b["placement"] = json!({"prefer": ["Not A Region"]})),
            422,
            "invalid_field",
            Some("placement.prefer[0]"),
        ),
        (with(|b| b["colour"] = json!(1)), 422, "unknown_field", Some("colour")),
        (with(|b| b["vad"] = json!({"pre_roll": 1})), 422, "unknown_field", Some("vad.pre_roll")),
        (with(|b| b["vad"] = json!({"preroll_ms": 2001})), 422, "invalid_field", Some("vad.preroll_ms")),
        (with(|b| b["vad"] = json!({"hangover_ms": "x"})), 422, "invalid_field", Some("vad.hangover_ms")),
        (with(|b| b["source"]["url"] = json!("ftp://x/")), 422, "invalid_field", Some("source.url")),
        (with(|b| b["redundancy"] = json!(3)), 422, "invalid_field", Some("redundancy")),
        (
            with(|b| b["placement"] = json!({"prefer": ["eu-central", "atlantis"]})),
            422,
            "unknown_place",
            Some("placement.prefer"),
        ),
        (
            with(|b| b["transcription"] = json!({"language": "xx"})),
            422,
            "unknown_language",
            Some("transcription.language"),
        ),
        (with(|b| b["redundancy"] = json!("two")), 422, "invalid_field", Some("redundancy")),
        (
            with(|b| {
                b["redundancy"] = json!(2);
                b["source"]["single_receiver"] = json!(true);
            }),
            422,
            "single_receiver",
            Some("redundancy"),
        ),
        (with(|b| b["source"] = livekit(json!({}))), 422, "invalid_field", Some("source.token")),
        (with(|b| b["source"] = livekit(json!({"key": "k", "room": "r"}))), 422, "invalid_field", Some("source.token")),
        (
            with(|b| b["source"] = livekit(json!({"token": "t", "secret": "s"}))),
            422,
            "invalid_field",
            Some("source.token"),
        ),
        (
            with(|b| b["source"] = livekit(json!({"key": "k", "secret": "s", "room": ""}))),
            422,
            "invalid_field",
            Some("source.room"),
        ),
        (
            with(|b| b["source"] = zoom(json!({"server_urls": "https://z"}))),
            422,
            "invalid_field",
            Some("source.server_urls"),
        ),
        (
            with(|b| b["source"] = zoom(json!({"client_secret": ""}))),
            422,
            "invalid_field",
            Some("source.client_secret"),
        ),
        (
            with(|b| {
                b["redundancy"] = json!(2);
                b["source"] = zoom(json!({}));
            }),
            422,
            "single_receiver",
            Some("redundancy"),
        ),
        (
            with(|b| {
                b["redundancy"] = json!(2);
                b["source"] = livekit(json!({"token": "t"}));
            }),
            422,
            "single_receiver",
            Some("redundancy"),
        ),
        (with(|b| b["leave"] = json!({"alone": 1})), 422, "unknown_field", Some("leave.alone")),
        (
            with(|b| b["leave"] = json!({"alone_after_seconds": 0})),
            422,
            "invalid_field",
            Some("leave.alone_after_seconds"),
        ),
        (with(|b| b["leave"] = json!({"after_seconds": 0})), 422, "invalid_field", Some("leave.after_seconds")),
        (with(|b| b["leave"] = json!({"at": "noon"})), 422, "invalid_field", Some("leave.at")),
        (with(|b| b["leave"] = json!({"at": "2020-01-01T00:00:00Z"})), 422, "invalid_field", Some("leave.at")),
        (
            with(|b| b["leave"] = json!({"at": "2999-01-01T00:00:00Z", "after_seconds": 5})),
            422,
            "invalid_field",
            Some("leave.at"),
        ),
        (with(|b| b["source"]["kind"] = json!("zoom")), 422, "invalid_field", Some("source.kind")),
        (with(|b| b["source"]["extra"] = json!(1)), 422, "unknown_field", Some("source.extra")),
        (
            with(|b| b["placement"] = json!({"residency": ["atlantis"]})),
            422,
            "unknown_place",
            Some("placement.residency"),
        ),
        (with(|b| b["placement"] = json!({"stun": "no-port"})), 422, "invalid_field", Some("placement.stun")),
        (with(|b| b["placement"] = json!({"stun": "u@h:1"})), 422, "invalid_field", Some("placement.stun")),
        (with(|b| b["placement"] = json!({"stun": "h:3478/x"})), 422, "invalid_field", Some("placement.stun")),
        (with(|b| b["metadata"] = json!({"x": "y".repeat(17_000)})), 422, "invalid_field", Some("metadata")),
        (with(|b| b["metadata"] = json!({"x": nested(16)})), 422, "invalid_field", Some("metadata")),
        (with(|b| b["metadata"] = json!({"x": nested(120)})), 422, "invalid_field", Some("metadata")),
        (post(format!("{{\"metadata\": {{\"x\": {}", "[".repeat(300))), 400, "too_deep", None),
        (post("x".repeat(70_000)), 413, "body_too_large", None),
        (Request::post("/v1/meetings").body(Body::from("{}")).unwrap(), 415, "unsupported_media_type", None),
        (Request::put("/v1/meetings").body(Body::empty()).unwrap(), 405, "method_not_allowed", None),
        (get_request("/v2/meetings"), 404, "not_found", None),
        (get_request("/v1/meetings/nonsense"), 404, "meeting_not_found", None),
        (get_request("/v1/meetings?limit=0"), 422, "invalid_field", Some("limit")),
        (get_request("/v1/meetings?color=1"), 422, "invalid_query", Some("query")),
    ] {
        let (got, got_code, body) = problem(&core, request).await;
        assert_eq!((got, got_code.as_str()), (status, code), "{body}");
        assert_eq!(body["field"].as_str(), field, "{body}");
    }
    let token = with(|b| b["source"]["token"] = json!(["hunter2"]));
    let (_, _, body) = problem(&core, token).await;
    assert!(!body.to_string().contains("hunter2"), "{body}");
    let several = with(|b| {
        b["source"]["url"] = json!("ftp://x/");
        b["deduplication_key"] = json!("");
        b["leave"] = json!({"at": "2020-01-01T00:00:00Z"});
    });
    let (_, _, body) = problem(&core, several).await;
    let errors = body["errors"].as_array().unwrap();
    let pointers: Vec<_> =
        errors.iter().map(|e| (e["pointer"].as_str().unwrap(), e["code"].as_str().unwrap())).collect();
    let of = |pointer| (pointer, "invalid_field");
    assert_eq!(pointers, [of("#/deduplication_key"), of("#/source/url"), of("#/leave/at")], "{body}");
    assert!(body["detail"].as_str().unwrap().ends_with("2 more: see `errors`."), "{body}");
    assert_eq!(core.meetings.live_count(), 0);
}

#[tokio::test]
async fn the_same_request_is_one_meeting_and_a_taken_key_is_a_conflict() {
    let Bench { core, _dir } = bench();
    let keyed = |key: &str, body: &Value| {
        let mut request = post(body.to_string());
        request.headers_mut().insert("idempotency-key", key.parse().unwrap());
        request
    };
    let mut body = whep();
    body["deduplication_key"] = json!("standup");
    let (status, _, first) = call(&core, keyed("k1", &body)).await;
    assert_eq!(status, StatusCode::CREATED);
    let (status, _, second) = call(&core, keyed("k1", &body)).await;
    assert_eq!(status, StatusCode::OK);
    let id = |text: &str| serde_json::from_str::<Value>(text).unwrap()["id"].clone();
    assert_eq!(id(&first), id(&second));
    let (status, code, _) = problem(&core, keyed("k1", &whep())).await;
    assert_eq!((status, code.as_str()), (422, "idempotency_key_reused"));
    let (status, code, conflict) = problem(&core, post(body.to_string())).await;
    assert_eq!((status, code.as_str()), (409, "meeting_active"));
    assert_eq!(conflict["meeting_id"], id(&first));
}

#[tokio::test]
async fn residency_sends_a_request_to_a_core_that_may_serve_it_or_says_that_none_may() {
    let Bench { core, _dir } = bench();
    let japan = || post(json!({"source": whep()["source"], "placement": {"residency": ["jp"]}}).to_string());
    let (status, code, _) = problem(&core, japan()).await;
    assert_eq!((status, code.as_str()), (422, "residency_unsatisfiable"));
    let tokyo = member(identity("core-jp", Role::Core, "ap-northeast"), Some("10.0.0.9:8080"));
    core.mesh.members.send_modify(|m| *m = Arc::new(vec![tokyo]));
    let (status, response, _) = call(&core, japan()).await;
    assert_eq!(status, StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(response.headers()["location"], "http://10.0.0.9:8080/v1/meetings");
}

#[tokio::test]
async fn a_transcript_can_be_had_whole_and_a_stream_of_it_resumed() {
    let Bench { mut core, _dir } = bench();
    let id = core.create().await;
    core.assigned().await;
    let mut edge = core.connect("edge-a").await;
    core.open(&edge, id, Epoch(1)).await;
    for n in 0..3 {
        core.spurt(&edge, n, 50 + n * 50, 0, false).await;
        edge.next_but_durable().await;
    }
    let path = format!("/v1/meetings/{id}/transcript");
    let (_, _, whole) = call(&core, get_request(&path)).await;
    let whole: Value = serde_json::from_str(&whole).unwrap();
    let texts: Vec<&str> = whole["segments"].as_array().unwrap().iter().map(|s| s["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["1000ms", "2000ms", "3000ms"]);
    let second = &whole["segments"][1];
    assert_eq!((&second["final"], &second["participant"]["name"]), (&json!(true), &json!("Alice")));
    let seq = second["seq"].as_u64().unwrap();
    let (_, _, rest) = call(&core, get_request(&format!("{path}?since={seq}"))).await;
    assert_eq!(serde_json::from_str::<Value>(&rest).unwrap()["segments"].as_array().unwrap().len(), 1);
    for (format, kind, part) in [
        ("vtt", "text/vtt; charset=utf-8", "<v Alice>2000ms"),
        ("srt", "application/x-subrip; charset=utf-8", "Alice: 2000ms"),
        ("txt", "text/plain; charset=utf-8", "[00:00:10] Alice: 2000ms"),
    ] {
        let (_, response, body) = call(&core, get_request(&format!("{path}?format={format}"))).await;
        assert_eq!(response.headers()["content-type"], kind);
        assert!(body.contains(part), "{body}");
    }

    let resume = |last: u64| {
        let request = Request::get(format!("{path}/stream")).header("last-event-id", last.to_string());
        request.body(Body::empty()).unwrap()
    };
    assert_eq!(problem(&core, resume(1 << 40)).await.1, "unknown_event_id");
    let router = core.router();
    let live = tokio::spawn(router.oneshot(resume(seq)));
    let live = live.await.unwrap().unwrap();
    core.meetings.stop(id).await;
    edge.next_but_durable().await;
    let reason = mesh::wire::control::CloseReason::Asked;
    core.say(&edge, mesh::wire::control::ToCore::Close { alias: crate::tests::fakes::ALIAS, reason }).await;
    core.until("done", |c| c.meetings.live(id).is_none()).await;
    let streamed = String::from_utf8(to_bytes(live.into_body(), 1 << 20).await.unwrap().to_vec()).unwrap();
    assert!(streamed.contains("event: transcript.final") && streamed.contains("3000ms"), "{streamed}");
    assert!(!streamed.contains("\"2000ms\"") && streamed.contains("event: done"), "{streamed}");

    let (_, _, after) = call(&core, resume(seq)).await;
    assert!(after.contains("3000ms") && after.contains("event: done") && !after.contains("\"2000ms\""), "{after}");
    let last = after.lines().filter_map(|l| l.strip_prefix("id: ")).next_back().unwrap().parse().unwrap();
    assert_eq!(call(&core, resume(last)).await.0, StatusCode::NO_CONTENT);
    let (status, code, body) = problem(&core, resume(last + 1)).await;
    assert_eq!((status, code.as_str(), &body["field"]), (422, "unknown_event_id", &json!("Last-Event-ID")));
    assert!(body["detail"].as_str().unwrap().contains(&last.to_string()), "{body}");
    let bad = Request::get(format!("{path}/stream")).header("last-event-id", "x").body(Body::empty()).unwrap();
    assert_eq!(problem(&core, bad).await.0, 422);
}

#[tokio::test]
async fn v1_needs_the_token_where_there_is_one_and_health_does_not() {
    let Bench { mut core, _dir } = bench();
    core.app.token = Some(Secret("correct horse battery".into()));
    assert_eq!(problem(&core, get_request("/v1/nodes")).await.1, "unauthorized");
    let with = |token: &str| {
        Request::get("/v1/nodes").header("authorization", format!("Bearer {token}")).body(Body::empty()).unwrap()
    };
    assert_eq!(problem(&core, with("wrong")).await.0, 401);
    let (status, _, body) = call(&core, with("correct horse battery")).await;
    assert_eq!(status, StatusCode::OK);
    let nodes: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((nodes["nodes"].as_array().unwrap().len(), &nodes["nodes"][0]["this"]), (4, &json!(true)));
    assert_eq!(call(&core, get_request("/healthz")).await.0, StatusCode::OK);
    assert_eq!(call(&core, get_request("/readyz")).await.0, StatusCode::OK);
    core.meetings.drain();
    assert_eq!(problem(&core, get_request("/readyz")).await.0, 503);
    core.app.token = None;
    assert_eq!(problem(&core, post(whep().to_string())).await.1, "draining");
}

#[tokio::test]
async fn a_client_can_be_made_of_the_openapi_document() {
    let Bench { core, _dir } = bench();
    let (_, _, body) = call(&core, get_request("/openapi.json")).await;
    let document: Value = serde_json::from_str(&body).unwrap();
    let mut ids = std::collections::BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let name = format!("{method} {path}");
            assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{name}: its id is another's");
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let in_path = path.contains(&format!("{{{}}}", parameter["name"].as_str().unwrap()));
                assert_eq!(parameter["in"] == "path", in_path, "{name}: {parameter}");
            }
            for (status, response) in operation["responses"].as_object().unwrap() {
                assert!(response["description"].as_str().is_some_and(|d| !d.is_empty()), "{name}: {status}");
                let failed = status.starts_with('4') || status.starts_with('5') || status == "307";
                assert_eq!(response["content"].get("application/problem+json").is_some(), failed, "{name}: {response}");
            }
            assert_eq!(operation["security"].is_array(), path.starts_with("/v1/"), "{name}");
        }
    }
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
    let sources = document["components"]["schemas"]["SourceBody"]["oneOf"].as_array().unwrap();
    assert!(sources.iter().all(|source| source["additionalProperties"] == json!(false)), "{sources:?}");
    // Generators name types after titles, and make two of an object that is written out within a variant.
    for source in sources {
        assert!(source["title"].is_string(), "{source}");
        let properties = source["properties"].as_object().unwrap();
        assert!(properties.values().all(|property| property["type"] != "object"), "{source}");
    }
    let receipt = &document["paths"]["/v1/meetings/{id}/receipt"]["get"]["responses"]["200"]["content"];
    assert_eq!(receipt["application/jose+json"]["schema"]["$ref"], "#/components/schemas/SignedReceipt");
    let ending = &document["paths"]["/v1/meetings/{id}"]["delete"]["responses"];
    assert!(ending["422"].is_object(), "a query that cannot be read: {ending}");
    let since = &document["paths"]["/v1/meetings/{id}/transcript"]["get"]["parameters"];
    let since = since.as_array().unwrap().iter().find(|p| p["name"] == "since").unwrap();
    assert_eq!(since["schema"]["format"], "uint64", "{since}");
    let copy = &document["paths"]["/v1/backup"]["get"]["responses"]["200"]["content"]["application/octet-stream"];
    assert_eq!(document["components"]["schemas"]["StoreFile"]["format"], "binary", "{copy}");
    let file = _dir.path().join("openapi.json");
    std::fs::write(&file, &body).unwrap();
    let said = std::process::Command::new("openapi-spec-validator").arg(&file).output();
    let said = said.expect("openapi-spec-validator, which `./dev openapi-tools` fetches");
    assert!(
        said.status.success(),
        "{}{}",
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr)
    );
}

#[tokio::test]
async fn the_openapi_document_names_every_route() {
    let Bench { core, _dir } = bench();
    let (_, _, body) = call(&core, get_request("/openapi.json")).await;
    let document: Value = serde_json::from_str(&body).unwrap();
    let paths: Vec<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    let want = [
        "/healthz",
        "/metrics",
        "/readyz",
        "/v1/backup",
        "/v1/hooks/zoom",
        "/v1/meetings",
        "/v1/meetings/{id}",
        "/v1/meetings/{id}/participants",
        "/v1/meetings/{id}/placement",
        "/v1/meetings/{id}/receipt",
        "/v1/meetings/{id}/spurts",
        "/v1/meetings/{id}/transcript",
        "/v1/meetings/{id}/transcript/stream",
        "/v1/nodes",
    ];
    let mut paths = paths;
    paths.sort_unstable();
    assert_eq!(paths, want);
    assert!(document["components"]["schemas"]["Segment"]["properties"]["final"].is_object(), "{document}");
}

#[tokio::test]
async fn what_is_accepted_is_listed_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("core.redb");
    let core = Core::start(&file, false);
    let mut body = whep();
    body["metadata"] = json!({"deepest": nested(15), "greatest": f64::MAX, "least": i64::MIN});
    let (status, _, made) = call(&core, post(body.to_string())).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let made: Value = serde_json::from_str(&made).unwrap();
    let path = format!("/v1/meetings/{}", made["id"].as_str().unwrap());
    core.meetings.finish(std::time::Instant::now()).await;
    let killed = dir.path().join("killed.redb");
    std::fs::copy(&file, &killed).unwrap();
    let core = Core::start(&killed, false);
    let (status, _, list) = call(&core, get_request("/v1/meetings")).await;
    assert_eq!(status, StatusCode::OK, "{list}");
    let (_, _, one) = call(&core, get_request(&path)).await;
    assert_eq!(serde_json::from_str::<Value>(&one).unwrap()["metadata"], body["metadata"]);
}

/// Records of meetings that are over, the greater the id the newer.
fn over(core: &Core, ids: std::ops::RangeInclusive<u128>) {
    let ended = |n| {
        let id = mesh::wire::MeetingId::from_u128(n);
        let record = crate::store::record::MeetingRecord {
            id,
            status: crate::store::record::Status::Done,
            ..crate::tests::fakes::record()
        };
        crate::store::Op::Meeting(Box::new(record))
    };
    core.meetings.store().write(&ids.map(ended).collect::<Vec<_>>()).unwrap();
}

fn listed(body: &str) -> Vec<u128> {
    let list: Value = serde_json::from_str(body).unwrap();
    let id = |m: &Value| m["id"].as_str().unwrap().parse::<uuid::Uuid>().unwrap().as_u128();
    list["meetings"].as_array().unwrap().iter().map(id).collect()
}

#[tokio::test]
async fn pages_go_from_the_newest_to_the_oldest() {
    let Bench { core, _dir } = bench();
    over(&core, 1..=7);
    let live = core.create().await;
    let (_, _, first) = call(&core, get_request("/v1/meetings?limit=3")).await;
    assert_eq!(listed(&first), [live.as_u128(), 7, 6]);
    let (_, _, next) =
        call(&core, get_request(&format!("/v1/meetings?limit=3&before={}", uuid::Uuid::from_u128(6)))).await;
    assert_eq!(listed(&next), [5, 4, 3]);
    let done = format!("/v1/meetings?status=done&limit=2&before={}", uuid::Uuid::from_u128(3));
    let (_, _, done) = call(&core, get_request(&done)).await;
    assert_eq!(listed(&done), [2, 1]);
    assert_eq!(problem(&core, get_request("/v1/meetings?before=x")).await.1, "invalid_query");
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_named_and_the_rest_is_served() {
    let Bench { core, _dir } = bench();
    over(&core, 1..=3);
    core.meetings.store().spoil(mesh::wire::MeetingId::from_u128(2));
    let (status, _, list) = call(&core, get_request("/v1/meetings")).await;
    assert_eq!((status, listed(&list)), (StatusCode::OK, vec![3, 1]));
    let (status, _, ready) = call(&core, get_request("/readyz")).await;
    assert_eq!(status, StatusCode::OK);
    assert!(ready.starts_with("ready\ndegraded: 1 records") && ready.contains("000000000002"), "{ready}");
    let one = get_request(&format!("/v1/meetings/{}", uuid::Uuid::from_u128(2)));
    assert_eq!(problem(&core, one).await.1, "record_unreadable");
}

#[tokio::test]
async fn a_full_store_is_not_ready() {
    let dir = tempfile::tempdir().unwrap();
    let core = Core::with(&dir.path().join("core.redb"), false, |s| s.max_store_bytes = 1);
    assert_eq!(problem(&core, get_request("/readyz")).await.1, "store_full");
    assert_eq!(problem(&core, post(whep().to_string())).await.0, 507);
}

#[tokio::test]
async fn a_meeting_that_is_over_is_removed_when_that_is_said() {
    let Bench { core, _dir } = bench();
    over(&core, 1..=2);
    let path = format!("/v1/meetings/{}", uuid::Uuid::from_u128(1));
    let delete = |path: &str| Request::delete(path).body(Body::empty()).unwrap();
    let (status, code, said) = problem(&core, delete(&path)).await;
    assert_eq!((status, code.as_str()), (409, "meeting_ended"));
    assert!(said["detail"].as_str().unwrap().contains("purge=true"));
    assert_eq!(call(&core, delete(&format!("{path}?purge=true"))).await.0, StatusCode::NO_CONTENT);
    assert_eq!(problem(&core, get_request(&path)).await.0, 404);
    assert_eq!(problem(&core, delete(&format!("{path}?purge=true"))).await.0, 404);
    let (_, _, list) = call(&core, get_request("/v1/meetings")).await;
    assert_eq!(listed(&list), [2]);
    let live = core.create().await;
    let (status, code, _) = problem(&core, delete(&format!("/v1/meetings/{live}?purge=true"))).await;
    assert_eq!((status, code.as_str()), (409, "meeting_not_ended"));
}
