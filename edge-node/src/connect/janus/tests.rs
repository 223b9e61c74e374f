//! The connector against Januses that mean harm, beside one that does not.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]
use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::handshake::server::{Request, Response},
};

use super::*;
use crate::connect::hostile::Relay;

/// What a Janus does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// A room in which nobody is.
    Good,
    /// It does not speak JSON.
    Junk,
    /// Its offer is too long.
    GiantSdp,
    /// Its offer has more sections than are taken.
    ManySections,
    /// It offers anew for ever.
    Offers,
    /// It is offered a path, and never takes one.
    NoMedia,
}

/// Serves one such; its URL.
async fn relay(manner: Manner) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Two messages in a row are not to wait for each other: the rate of offers is what counts here.
            stream.set_nodelay(true).unwrap();
            tokio::spawn(serve(stream, manner));
        }
    });
    url
}

async fn serve(stream: TcpStream, manner: Manner) {
    #[allow(clippy::result_large_err, reason = "the library's type")]
    let protocol = |_: &Request, mut response: Response| {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("janus-protocol"));
        Ok(response)
    };
    let mut socket = accept_hdr_async(stream, protocol).await.unwrap();
    let mut handles = 1;
    while let Some(Ok(Message::Text(text))) = socket.next().await {
        let request: Value = serde_json::from_str(&text).unwrap();
        for mut answer in answers(&request, &mut handles, manner) {
            answer["transaction"] = request["transaction"].clone();
            let text = if manner == Manner::Junk { "<html>".into() } else { answer.to_string() };
            if socket.send(Message::text(text)).await.is_err() {
                return;
            }
        }
    }
}

fn answers(request: &Value, handles: &mut u64, manner: Manner) -> Vec<Value> {
    let event =
        |data: Value| json!({ "janus": "event", "sender": request["handle_id"], "plugindata": { "data": data } });
    let publishers = match manner {
        Manner::Good => json!([]),
        _ => json!([{ "id": 7, "display": "Ada", "streams": [{ "type": "audio", "mid": "0", "codec": "opus" }] }]),
    };
    let offered = |kind: &str| {
        let mut offered =
            event(json!({ "videoroom": kind, "streams": [{ "mid": "a", "feed_id": 7, "feed_mid": "0" }] }));
        offered["jsep"] = json!({ "type": "offer", "sdp": offer(manner) });
        offered
    };
    match (request["janus"].as_str(), request["body"]["ptype"].as_str()) {
        (Some("create" | "attach"), _) => {
            *handles += 1;
            vec![json!({ "janus": "success", "data": { "id": *handles } })]
        }
        (Some("message"), Some("publisher")) => {
            vec![event(json!({ "videoroom": "joined", "id": 9, "publishers": publishers }))]
        }
        (Some("message"), Some("subscriber")) => vec![offered("attached")],
        (Some("message"), _) if manner == Manner::NoMedia => {
            vec![event(json!({ "videoroom": "event", "started": "ok" }))]
        }
        (Some("message"), _) => vec![event(json!({ "videoroom": "event", "started": "ok" })), offered("updated")],
        _ => vec![json!({ "janus": "success" })],
    }
}

fn offer(manner: Manner) -> String {
    let offer = sdp::tests::offer();
    match manner {
        Manner::GiantSdp => offer + &"a=x:y\r\n".repeat(sdp::MAX_SDP / 7),
        Manner::ManySections => {
            let section = |n| format!("m=audio 0 RTP/AVP 0\r\nc=IN IP4 0.0.0.0\r\na=mid:x{n}\r\na=inactive\r\n");
            offer + &(0..600).map(section).collect::<String>()
        }
        _ => offer,
    }
}

#[tokio::test]
async fn a_janus_inside_is_not_gone_to() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let (ended, states) = stay(format!("ws://{host}:{port}"), Settings::default(), CancellationToken::new()).await;
        assert!(matches!(ended, Err(ConnectError::Denied(_))), "{host}: {ended:?}");
        assert_eq!(states.last(), Some(&EdgeState::Failed(Cause::AddressDenied)), "{host}");
    }
    assert!(futures_util::FutureExt::now_or_never(listener.accept()).is_none(), "nobody has called");
}

/// Joins the room of `url`; how that ended, and the states that were told.
async fn stay(url: String, settings: Settings, stop: CancellationToken) -> (Result<(), ConnectError>, Vec<EdgeState>) {
    let janus = Janus::new(&url, 1.into(), Access::default(), "ears".into(), settings).unwrap();
    let (events, mut told) = mpsc::channel(64);
    let running = tokio::spawn(Box::new(janus).run(events, stop));
    let mut states = vec![];
    while let Some(event) = told.recv().await {
        if let Event::State { state, .. } = event {
            states.push(state);
        }
    }
    (running.await.unwrap(), states)
}

#[tokio::test]
async fn a_room_where_somebody_publishes_is_live_when_media_can_flow_and_not_before() {
    let url = relay(Manner::NoMedia).await;
    let janus = Janus::new(&url, 1.into(), Access::default(), "ears".into(), Settings::on_loopback()).unwrap();
    let ((events, mut told), stop) = (mpsc::channel(64), CancellationToken::new());
    let running = tokio::spawn(Box::new(janus).run(events, stop.clone()));
    let mut states = vec![];
    while let Some(event) = told.recv().await {
        match event {
            Event::State { state, .. } => states.push(state),
            Event::Joined { .. } => stop.cancel(),
            _ => {}
        }
    }
    running.await.unwrap().unwrap();
    assert_eq!(states, [EdgeState::Connecting]);
}

#[tokio::test]
async fn a_hostile_janus_costs_its_own_meeting_and_says_why_while_others_lose_no_packet() {
    let (stop, settings, relay) = (CancellationToken::new(), Settings::on_loopback(), Relay::open().await);
    let good = tokio::spawn(stay(self::relay(Manner::Good).await, settings.clone(), stop.clone()));
    let beside = relay.healthy(0, &settings).await;
    for (manner, what, why) in [
        (Manner::Junk, "Janus message", "not what Janus writes, at line 1 column 1"),
        (Manner::GiantSdp, "SDP offer", "at most"),
        (Manner::ManySections, "SDP offer", "media sections"),
        (Manner::Offers, "number of offers", "over 600"),
    ] {
        let url = self::relay(manner).await;
        let (ended, states) = stay(url, settings.clone(), CancellationToken::new()).await;
        let Err(ConnectError::BadMessage { what: found, why: words }) = ended else { panic!("{manner:?}: {ended:?}") };
        assert!(found == what && words.contains(why), "{manner:?}: {found}: {words}");
        assert_eq!(states.last(), Some(&EdgeState::Failed(Cause::RelayProtocol)), "{manner:?}");
    }
    beside.loses_nothing().await;
    stop.cancel();
    let (ended, states) = good.await.unwrap();
    assert_eq!((ended, states), (Ok(()), vec![EdgeState::Connecting, EdgeState::Live]));
}
