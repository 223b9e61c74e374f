#![allow(clippy::unwrap_used, clippy::disallowed_methods)]
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderMap as Headers, StatusCode as Status},
    response::{IntoResponse, Response as Answer},
    routing::{any, post},
};
use tokio::{net::TcpListener, sync::oneshot};

use mesh::wire::cause::Cause;

use super::*;
use crate::connect::peer::far::{Far, Order, Plain};

fn description(streams: &[Option<&str>]) -> Description {
    let audio = |(index, stream): (usize, &Option<&str>)| Audio {
        mid: index.to_string(),
        stream: stream.map(Into::into),
        level: None,
        unheard: None,
    };
    Description { audio: streams.iter().enumerate().map(audio).collect(), clean: String::new() }
}

fn ids(streams: &[Option<&str>], side: Side) -> Vec<String> {
    voices(&description(streams), side).unwrap().0.iter().map(|(id, _)| id.to_string()).collect()
}

#[test]
fn a_participant_is_a_stream_id_or_else_a_section() {
    assert_eq!(ids(&[Some("ada"), Some("bob"), None], Side::Offer), ["ada", "bob", "2"]);
    assert_eq!(ids(&[Some("janus"), Some("janus")], Side::Offer), ["0", "1"], "two voices stay two");
    assert_eq!(ids(&[Some("ada")], Side::Answer), ["ada"]);
    assert_eq!(ids(&[None], Side::Answer), [ONLY]);
}

#[test]
fn an_overlong_stream_id_is_refused_rather_than_cut() {
    let long = "x".repeat(300);
    assert!(matches!(
        voices(&description(&[Some(&long)]), Side::Offer),
        Err(ConnectError::BadMessage { what: "a=msid", .. })
    ));
}

/// Serves `router` on loopback for as long as the test runs.
async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    format!("http://{address}/whep")
}

fn endpoint(url: &str) -> Whep {
    Whep::new(url, Some(Secret("s3cret".into())), &[], Settings::on_loopback()).unwrap()
}

async fn post_to(router: Router) -> Result<Reply, ConnectError> {
    endpoint(&serve(router).await).post("offer".into(), &mut None).await
}

async fn error_of(answer: impl IntoResponse + Clone + Send + Sync + 'static) -> ConnectError {
    let router = Router::new().route("/whep", post(move || async move { answer }));
    post_to(router).await.err().unwrap()
}

#[tokio::test]
async fn a_refusal_names_its_status_and_nothing_that_the_answer_holds() {
    let error = error_of((Status::UNAUTHORIZED, "token s3cret has\nexpired".to_string())).await;
    assert_eq!(error.to_string(), "the relay answered 401 to our offer: Unauthorized");
    // Not in an answer that is taken for a description, either.
    let answer = || (Status::CREATED, [("location", "/resource/1")], "AccessKeyId=hidden").into_response();
    let (error, _) = run_against(answer).await;
    assert_eq!(error.to_string(), "the relay sent a bad SDP answer: it cannot be read as SDP");
    assert!(matches!(error_of(Status::NOT_ACCEPTABLE).await, ConnectError::Refused { status: 406, .. }));
}

#[tokio::test]
async fn a_redirect_keeps_method_body_and_token() {
    let landed = |headers: Headers, body: String| async move {
        let authorised = headers.get("authorization").is_some_and(|v| v == "Bearer s3cret");
        assert!(authorised && body == "offer");
        (Status::CREATED, [("location", "resource/1")], "answer")
    };
    let router = Router::new()
        .route("/whep", post(|| async { (Status::TEMPORARY_REDIRECT, [("location", "/b")]) }))
        .route("/b", post(|| async { (Status::PERMANENT_REDIRECT, [("location", "/c/d")]) }))
        .route("/c/d", post(landed));
    let url = serve(router).await;
    let mut resource = None;
    let reply = endpoint(&url).post("offer".into(), &mut resource).await.unwrap();
    assert!(matches!(reply, Reply::Answer(answer) if answer == "answer"));
    assert_eq!(resource.unwrap().url.path(), "/c/resource/1", "relative to where the request ended up");
}

/// Says whether it was shown the token.
fn guarded(shown: &Arc<AtomicUsize>) -> impl Fn(Headers) -> std::future::Ready<Answer> + Clone + Send + Sync + use<> {
    let shown = Arc::clone(shown);
    move |headers| {
        shown.fetch_add(usize::from(headers.contains_key("authorization")), Ordering::Relaxed);
        std::future::ready((Status::CREATED, [("location", "/resource/1")], "no answer").into_response())
    }
}

#[tokio::test]
async fn the_token_is_not_shown_to_another_origin_by_a_redirect_nor_by_a_location() {
    let (shown, asked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&asked);
    let elsewhere = Router::new().route("/whep", any(guarded(&shown))).route("/resource/{id}", any(guarded(&shown)));
    let elsewhere = elsewhere.layer(axum::middleware::map_request(move |request: axum::extract::Request| {
        counted.fetch_add(1, Ordering::Relaxed);
        std::future::ready(request)
    }));
    let there = serve(elsewhere).await;
    let to = there.clone();
    let moved = move || async move { (Status::TEMPORARY_REDIRECT, [("location", to)]) };
    let here = serve(Router::new().route("/whep", post(moved))).await;
    let mut whep = endpoint(&here);
    assert!(!whep.stay(&mut stay()).await.unwrap_err().to_string().contains("s3cret"));
    assert_eq!((asked.load(Ordering::Relaxed), shown.load(Ordering::Relaxed)), (2, 0), "POST and DELETE");

    let to = there.replace("/whep", "/resource/9");
    let named = move || async move { (Status::CREATED, [("location", to)], "no answer") };
    let here = serve(Router::new().route("/whep", post(named))).await;
    let _ = endpoint(&here).stay(&mut stay()).await.unwrap_err();
    assert_eq!((asked.load(Ordering::Relaxed), shown.load(Ordering::Relaxed)), (2, 0), "not even DELETE");
}

#[tokio::test]
async fn a_session_of_another_origin_is_not_spoken_to() {
    let at = |text: &str| Url::parse(text).unwrap();
    let resolved = |named: &'static str| resolve(&at("https://relay.example/whep"), &HeaderValue::from_static(named));
    assert_eq!(resolved("session/1"), Some(at("https://relay.example/session/1")));
    assert_eq!(resolved("https://relay.example:443/session/1"), Some(at("https://relay.example/session/1")));
    let others = [
        "//other.example/1",
        "http://relay.example/1",
        "https://relay.example:8443/1",
        "https://10.0.0.5/1",
        "file:///etc/1",
    ];
    for other in others {
        assert_eq!(resolved(other), None, "{other}");
    }
}

/// Counts who calls, at `address` in this host's own network.
async fn door(address: &str) -> (u16, Arc<AtomicUsize>) {
    let called = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&called);
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    (port, called)
}

/// What becomes of an offer to an endpoint at 127.0.0.2, the only address that is allowed, which sends it on.
async fn sent_on(to: String) -> ConnectError {
    let listener = TcpListener::bind(("127.0.0.2", 0)).await.unwrap();
    let url = format!("http://{}/whep", listener.local_addr().unwrap());
    let moved = move || async move { (Status::TEMPORARY_REDIRECT, [("location", to)]) };
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/whep", post(moved))).await.unwrap() });
    let egress = Policy::new(&["127.0.0.2/32".parse().unwrap()]);
    let whep = Whep::new(&url, None, &[], Settings { egress, ..Settings::default() }).unwrap();
    whep.post("offer".into(), &mut None).await.err().unwrap()
}

#[tokio::test]
async fn a_redirect_leads_nowhere_that_this_edge_does_not_go() {
    let (port, called) = door("127.0.0.1").await;
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1"] {
        let error = sent_on(format!("http://{host}:{port}/latest/meta-data")).await;
        assert!(matches!(error, ConnectError::Denied(_)), "{host}: {error}");
    }
    let error = sent_on("http://169.254.169.254/latest/meta-data".into()).await;
    assert!(error.to_string().contains("a link-local address"), "{error}");
    assert_eq!(called.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_source_inside_is_not_gone_to() {
    let (port, called) = door("127.0.0.1").await;
    for host in ["127.0.0.1", "localhost", "[::ffff:7f00:1]", "0177.1"] {
        let whep = Whep::new(&format!("http://{host}:{port}/whep"), None, &[], Settings::default()).unwrap();
        let error = whep.post("offer".into(), &mut None).await.err().unwrap();
        assert!(matches!(error, ConnectError::Denied(_)) && !error.is_transient(), "{host}: {error}");
    }
    assert_eq!(called.load(Ordering::Relaxed), 0);
}

/// Somebody who listens and does not leave.
fn stay() -> Stay {
    let (events, told) = mpsc::channel(64);
    std::mem::forget(told);
    Stay::new(events, CancellationToken::new())
}

#[tokio::test]
async fn an_answer_to_the_relays_offer_names_the_state_it_answers() {
    let seen = Arc::new(std::sync::Mutex::new(None));
    let kept = Arc::clone(&seen);
    let offer = || async {
        let body = crate::connect::sdp::tests::offer();
        let headers = [("content-type", "application/sdp"), ("location", "/resource/1"), ("etag", "\"v1\"")];
        (Status::NOT_ACCEPTABLE, headers, body).into_response()
    };
    let patched = move |headers: Headers| async move {
        *kept.lock().unwrap() = headers.get("if-match").cloned();
        Status::PRECONDITION_FAILED
    };
    let router = Router::new()
        .route("/whep", post(offer))
        .route("/resource/{id}", axum::routing::patch(patched).delete(|| async {}));
    let error = endpoint(&serve(router).await).stay(&mut stay()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { status: 412, request: "our answer", .. }), "{error}");
    assert_eq!(seen.lock().unwrap().as_ref().unwrap(), "\"v1\"");
}

#[tokio::test]
async fn who_leaves_while_the_relay_is_answering_deletes_what_it_made() {
    let (asked, left) = (Arc::new(tokio::sync::Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (posted, counted) = (Arc::clone(&asked), Arc::clone(&left));
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let slow = move || async move {
        posted.notify_one();
        stopped.cancelled().await;
        (Status::CREATED, [("location", "/resource/1")], "junk")
    };
    let deleted = move || async move {
        counted.fetch_add(1, Ordering::Relaxed);
    };
    let router = Router::new().route("/whep", post(slow)).route("/resource/{id}", axum::routing::delete(deleted));
    let connector = Box::new(endpoint(&serve(router).await));
    let (events, _told) = mpsc::channel(16);
    let running = tokio::spawn(connector.run(events, stop.clone()));
    asked.notified().await;
    stop.cancel();
    running.await.unwrap().unwrap();
    assert_eq!(left.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_circle_of_redirects_ends() {
    let error = error_of((Status::TEMPORARY_REDIRECT, [("location", "/whep")])).await;
    assert!(matches!(error, ConnectError::Refused { status: 307, .. }), "{error}");
}

#[tokio::test]
async fn a_busy_relay_is_asked_again_when_it_says() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let handler = move || async move {
        match counted.fetch_add(1, Ordering::Relaxed) {
            0 => (Status::SERVICE_UNAVAILABLE, [("retry-after", "0")]).into_response(),
            _ => (Status::CREATED, "answer").into_response(),
        }
    };
    post_to(Router::new().route("/whep", post(handler))).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_relay_that_is_busy_for_longer_than_we_wait_is_refused_at_once_and_may_be_tried_again() {
    let error = error_of((Status::SERVICE_UNAVAILABLE, [("retry-after", "3600")])).await;
    assert!(matches!(error, ConnectError::Refused { status: 503, .. }) && error.is_transient(), "{error}");
}

#[tokio::test]
async fn a_body_without_end_is_cut_off() {
    let error = error_of((Status::CREATED, "x".repeat(MAX_BODY + 1))).await;
    assert!(matches!(error, ConnectError::BadMessage { what: "HTTP body", .. }), "{error}");
}

#[tokio::test]
async fn a_relay_that_is_not_there_is_named_so_without_its_url() {
    let error = endpoint("http://127.0.0.1:9/p?key=s3cret").post("offer".into(), &mut None).await.err().unwrap();
    assert!(
        matches!(error, ConnectError::Unreachable { cause: Cause::ConnectionRefused, .. })
            && !error.to_string().contains("s3cret"),
        "{error}"
    );
}

/// Runs the connector against an endpoint whose answer to the offer is `answer`; counts its `DELETE`s.
async fn run_against(answer: impl Fn() -> Answer + Clone + Send + Sync + 'static) -> (ConnectError, usize) {
    let left = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&left);
    let resource = move |Path(_): Path<String>| async move {
        counted.fetch_add(1, Ordering::Relaxed);
    };
    let router =
        Router::new().route("/whep", post(move || async move { answer() })).route("/resource/{id}", any(resource));
    let connector = Box::new(endpoint(&serve(router).await));
    let (events, mut told) = mpsc::channel(16);
    let error = connector.run(events, CancellationToken::new()).await.unwrap_err();
    let mut last = None;
    while let Some(event) = told.recv().await {
        last = Some(event);
    }
    assert!(matches!(last, Some(Event::State { state: EdgeState::Failed(_), detail: Some(_) })), "{last:?}");
    (error, left.load(Ordering::Relaxed))
}

#[tokio::test]
async fn junk_for_an_answer_fails_the_meeting_with_its_cause_and_frees_the_resource() {
    let junk = || (Status::CREATED, [("location", "/resource/1")], "<html>hello</html>").into_response();
    let (error, left) = run_against(junk).await;
    assert!(matches!(error, ConnectError::BadMessage { what: "SDP answer", .. }), "{error}");
    assert_eq!(left, 1);
}

#[tokio::test]
async fn a_relay_of_another_codec_is_named_so_and_the_resource_is_freed() {
    let pcmu = || {
        let body = crate::connect::sdp::tests::offer().replace("opus/48000/2", "PCMU/8000");
        (Status::NOT_ACCEPTABLE, [("content-type", "application/sdp"), ("location", "/resource/1")], body)
            .into_response()
    };
    let (error, left) = run_against(pcmu).await;
    assert_eq!((error.cause(), left), (Cause::CodecUnsupported, 1), "{error}");
    assert!(error.to_string().contains("it is PCMU, and only Opus is"), "{error}");
}

#[tokio::test]
async fn an_offer_without_a_place_to_answer_to_is_an_error() {
    let offer = || {
        let body = crate::connect::sdp::tests::offer();
        (Status::NOT_ACCEPTABLE, [("content-type", "application/sdp")], body).into_response()
    };
    let (error, left) = run_against(offer).await;
    assert!(matches!(error, ConnectError::BadMessage { what: "406 answer", .. }), "{error}");
    assert_eq!(left, 0);
}

/// Headers of a relay that puts us off until `at`.
fn until(at: &str) -> HeaderMap {
    HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_str(at).unwrap())])
}

#[test]
fn a_pause_is_named_in_seconds_or_as_a_date_and_is_else_our_own() {
    let now = httpdate::parse_http_date("Thu, 26 Nov 2026 03:00:00 GMT").unwrap();
    let pause = |text: &str| retry_after(&until(text), now);
    assert_eq!(pause(" 7"), Duration::from_secs(7));
    assert_eq!(pause("Thu, 26 Nov 2026 03:00:09 GMT"), Duration::from_secs(9));
    assert_eq!(pause("Thursday, 26-Nov-26 03:00:09 GMT"), Duration::from_secs(9), "as it once was written");
    assert_eq!(pause("Thu, 26 Nov 2026 02:00:00 GMT"), Duration::ZERO, "it is past");
    for other in ["", "soon", "-1", "1e9", "99999999999999999999"] {
        assert_eq!(pause(other), BUSY_PAUSE, "{other}");
    }
    assert_eq!(pause(&u64::MAX.to_string()), Duration::from_secs(u64::MAX), "and is not waited for");
}

#[test]
fn servers_are_named_in_one_header_or_in_several_and_at_most_four_are_taken() {
    let link = |n: usize| format!("<turn:t{n}.example>; rel=\"ice-server\"; username=\"u\"; credential=\"p\"");
    let headers: HeaderMap = (0..3)
        .map(|n| (LINK, HeaderValue::from_str(&format!("{}, {}", link(2 * n), link(2 * n + 1))).unwrap()))
        .collect::<Vec<_>>()
        .into_iter()
        .fold(HeaderMap::new(), |mut all, (name, value)| {
            all.append(name, value);
            all
        });
    let urls: Vec<String> = servers(&headers).into_iter().map(|server| server.url).collect();
    assert_eq!(urls, ["turn:t0.example", "turn:t1.example", "turn:t2.example", "turn:t3.example"]);
}

/// An endpoint that answers our offer, connects, and falls silent for good or until it is asked for another path.
#[derive(Clone)]
struct Silent {
    posted: Arc<AtomicUsize>,
    patched: Arc<std::sync::Mutex<Vec<(Headers, String)>>>,
    orders: Arc<std::sync::Mutex<Option<mpsc::Sender<Order>>>>,
    /// What it says to being asked.
    restarts: Status,
}

impl Silent {
    async fn open(restarts: Status) -> (Self, String) {
        let this = Self { posted: Arc::default(), patched: Arc::default(), orders: Arc::default(), restarts };
        let router = Router::new()
            .route("/whep", post(Self::offered))
            .route("/resource/{id}", axum::routing::patch(Self::changed).delete(|| async {}))
            .with_state(this.clone());
        (this, serve(router).await)
    }

    async fn offered(State(this): State<Self>, offer: String) -> Answer {
        this.posted.fetch_add(1, Ordering::Relaxed);
        let (far, (orders, taken)) = (Far::new().await, mpsc::channel(4));
        let answer = far.answer("voice", 1);
        let packet = |n: u32| vec![Plain { ssrc: 1, sequence: n as u16, payload: vec![8, 1], ..Plain::default() }];
        let script = Box::new(move |n| Some(packet(n)));
        tokio::spawn(async move { far.serve(&offer, Side::Offer, script, taken).await });
        *this.orders.lock().unwrap() = Some(orders);
        let headers = [("location", "/resource/1"), ("etag", "\"one\""), ("content-type", "application/sdp")];
        (Status::CREATED, headers, answer).into_response()
    }

    async fn changed(State(this): State<Self>, headers: Headers, body: String) -> Answer {
        this.patched.lock().unwrap().push((headers, body.clone()));
        if this.restarts != Status::OK {
            return this.restarts.into_response();
        }
        let (reply, fragment) = oneshot::channel();
        let orders = this.orders.lock().unwrap().clone().unwrap();
        orders.send(Order::Restart(body, reply)).await.ok().unwrap();
        (Status::OK, [("etag", "\"two\"")], fragment.await.unwrap()).into_response()
    }
}

/// Waits for what is told until `wanted`.
async fn told(events: &mut mpsc::Receiver<Event>, wanted: impl Fn(&Event) -> bool) {
    let until = async { while !wanted(&events.recv().await.expect("it goes on")) {} };
    timeout(Duration::from_secs(30), until).await.unwrap();
}

fn is_state(wanted: EdgeState) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::State { state, .. } if *state == wanted)
}

/// Joins it, has it fall silent, and waits until packets come again.
async fn silence(relay: &Silent, url: &str) {
    let (events, mut seen) = mpsc::channel(1024);
    let stop = CancellationToken::new();
    let running = tokio::spawn(Box::new(endpoint(url)).run(events, stop.clone()));
    told(&mut seen, |event| matches!(event, Event::Packet(_))).await;
    let orders = relay.orders.lock().unwrap().clone().unwrap();
    orders.send(Order::Mute).await.ok().unwrap();
    // It falls silent, checks and all, at most a second after the last answer to one.
    let is_lost = |event: &Event| match event {
        Event::State { state: EdgeState::Reconnecting { silent_ms }, .. } => *silent_ms >= 4000,
        _ => false,
    };
    told(&mut seen, is_lost).await;
    told(&mut seen, is_state(EdgeState::Live)).await;
    told(&mut seen, |event| matches!(event, Event::Packet(_))).await;
    stop.cancel();
    while seen.recv().await.is_some() {}
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_silent_relay_is_asked_for_another_path_in_the_same_session() {
    let (relay, url) = Silent::open(Status::OK).await;
    silence(&relay, &url).await;
    assert_eq!(relay.posted.load(Ordering::Relaxed), 1, "the session is the same");
    let patched = relay.patched.lock().unwrap();
    let [(headers, body)] = &patched[..] else { panic!("{patched:?}") };
    assert!(headers["if-match"] == "*" && headers["content-type"] == "application/trickle-ice-sdpfrag", "{headers:?}");
    assert_eq!(headers["authorization"], "Bearer s3cret");
    assert!(body.contains("a=ice-ufrag:") && body.contains("a=mid:0") && body.contains("a=candidate:"), "{body}");
}

#[tokio::test]
async fn a_relay_that_knows_no_restart_is_entered_anew_at_once() {
    for status in [Status::METHOD_NOT_ALLOWED, Status::PRECONDITION_FAILED, Status::UNPROCESSABLE_ENTITY] {
        let (relay, url) = Silent::open(status).await;
        silence(&relay, &url).await;
        assert_eq!(relay.posted.load(Ordering::Relaxed), 2, "{status}");
    }
}

#[tokio::test]
async fn a_relay_that_names_an_absurd_pause_is_not_waited_for() {
    let error = error_of((Status::SERVICE_UNAVAILABLE, [("retry-after", "18446744073709551615")])).await;
    assert!(matches!(error, ConnectError::Refused { status: 503, .. }), "{error}");
}

#[tokio::test]
async fn nobody_is_there_while_a_session_lives_on_without_a_stream() {
    let pause = 10..60;
    let relay = Router::new().route("/whep", post(move |offer: String| paused(offer, pause.clone())));
    let url = serve(relay.route("/resource/{id}", any(|| async {}))).await;
    let settings = Settings { nobody_after: Duration::from_millis(300), ..Settings::on_loopback() };
    let connector = Box::new(Whep::new(&url, None, &[], settings).unwrap());
    let (events, mut seen) = mpsc::channel(1024);
    let stop = CancellationToken::new();
    let running = tokio::spawn(connector.run(events, stop.clone()));
    let joined = |event: &Event| matches!(event, Event::Joined { .. });
    told(&mut seen, joined).await;
    told(&mut seen, |event| matches!(event, Event::Packet(_))).await;
    told(&mut seen, |event| matches!(event, Event::Left { .. })).await;
    // The relay is there all the while.
    let again = |event: &Event| {
        assert!(!matches!(event, Event::State { state: EdgeState::Reconnecting { .. }, .. }), "{event:?}");
        joined(event)
    };
    told(&mut seen, again).await;
    stop.cancel();
    while seen.recv().await.is_some() {}
    running.await.unwrap().unwrap();
}

/// Answers an offer, and sends nothing during those ticks of 20 ms.
async fn paused(offer: String, pause: std::ops::Range<u32>) -> Answer {
    let (far, (_orders, taken)) = (Far::new().await, mpsc::channel(4));
    let answer = far.answer("voice", 1);
    let packet = |n: u32| Plain { ssrc: 1, sequence: n as u16, payload: vec![8, 1], ..Plain::default() };
    let script = Box::new(move |n| Some(if pause.contains(&n) { vec![] } else { vec![packet(n)] }));
    tokio::spawn(async move { far.serve(&offer, Side::Offer, script, taken).await });
    (Status::CREATED, [("location", "/resource/1"), ("content-type", "application/sdp")], answer).into_response()
}
