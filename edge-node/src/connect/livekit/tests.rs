//! The connector against LiveKits that mean harm, beside one that does not.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]
use futures_util::{SinkExt, StreamExt};
use prost::Message as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
        http::StatusCode,
    },
};

use super::{
    message::{Ask, Description, Join, Leave, Reason, Said, Sections, SignalRequest, SignalResponse},
    people::tests::{person, track},
    *,
};
use crate::connect::{hostile::Relay, peer::far::Far};

/// What a LiveKit does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// A room in which nobody is, and media could flow.
    Good,
    /// It does not speak LiveKit's protocol.
    Junk,
    /// What it says is longer than is taken.
    GiantMessage,
    /// Its answer is too long.
    GiantSdp,
    /// It wants sections for ever.
    Sections,
    /// It refuses the token.
    Closed,
    /// It knows neither way in.
    Nothing,
    /// Another joins under our name.
    Twin,
    /// The room is deleted.
    Deleted,
    /// It says that somebody publishes, and no media come.
    NoMedia,
    /// Signalling is lost once, it does not go on with us then, and lets us in anew.
    Forgets,
}

/// Serves one such; its URL.
async fn relay(manner: Manner) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        for n in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            tokio::spawn(serve(stream, manner, n));
        }
    });
    url
}

/// Serves the `n`th connection.
async fn serve(stream: TcpStream, manner: Manner, n: u32) {
    #[allow(clippy::result_large_err, reason = "the library's type")]
    let door = |_: &Request, response: Response| {
        let refused = |status| {
            let mut refused = ErrorResponse::new(None);
            *refused.status_mut() = status;
            Err(refused)
        };
        match manner {
            Manner::Forgets if n == 1 => refused(StatusCode::UNAUTHORIZED),
            Manner::Closed => refused(StatusCode::UNAUTHORIZED),
            Manner::Nothing => refused(StatusCode::NOT_FOUND),
            _ => Ok(response),
        }
    };
    let Ok(mut socket) = accept_hdr_async(stream, door).await else { return };
    let manner_now = if manner == Manner::Forgets && n > 1 { Manner::Deleted } else { manner };
    for said in welcome(manner_now) {
        if socket.send(Message::binary(said)).await.is_err() {
            return;
        }
    }
    while let Some(Ok(Message::Binary(bytes))) = socket.next().await {
        let request = SignalRequest::decode(&bytes[..]).unwrap();
        let Some(Ask::Offer(Description { id, sdp, .. })) = request.message else { continue };
        if manner == Manner::Forgets {
            return;
        }
        for said in answers(manner, id, sdp).await {
            if socket.send(Message::binary(encoded(said))).await.is_err() {
                return;
            }
        }
    }
}

fn encoded(said: Said) -> Vec<u8> {
    SignalResponse { message: Some(said) }.encode_to_vec()
}

fn welcome(manner: Manner) -> Vec<Vec<u8>> {
    let others =
        if manner == Manner::NoMedia { vec![person("PA_1", "ada", "Ada", &[track("TR_1", "")])] } else { vec![] };
    let join = Said::Join(Join { us: Some(person("PA_us", "us", "", &[])), others, ..Join::default() });
    let leave = |reason: Reason| encoded(Said::Leave(Leave { reason: reason as i32, ..Leave::default() }));
    match manner {
        Manner::Junk => vec![b"<html>502 Bad Gateway</html>".to_vec()],
        Manner::GiantMessage => vec![vec![0; line::MAX_MESSAGE + 1]],
        Manner::Twin => vec![encoded(join), leave(Reason::DuplicateIdentity)],
        Manner::Deleted => vec![encoded(join), leave(Reason::RoomDeleted)],
        _ => vec![encoded(join)],
    }
}

async fn answers(manner: Manner, id: u32, offer: String) -> Vec<Said> {
    let answer = |sdp| Said::Answer(Description { kind: "answer".into(), sdp, id, ..Description::default() });
    let sdp = sdp::tests::offer();
    match manner {
        Manner::Good => {
            let (far, (_none, orders)) = (Far::new().await, mpsc::channel(1));
            let sdp = far.answer("PA_1|x", 1);
            tokio::spawn(async move { far.serve(&offer, Side::Offer, Box::new(|_| None), orders).await });
            vec![answer(sdp)]
        }
        Manner::GiantSdp => vec![answer(sdp + &"a=x:y\r\n".repeat(sdp::MAX_SDP / 7))],
        Manner::Sections => vec![answer(sdp), Said::Sections(Sections { audios: 1 })],
        _ => vec![],
    }
}

fn room(url: &str, settings: Settings) -> Box<LiveKit> {
    let (key, secret) = (Secret("devkey".into()), Secret("hush".into()));
    let access = LiveKitAccess::Key { key, secret, room: "standup".into() };
    Box::new(LiveKit::new(url, Some(access), settings).unwrap())
}

/// Joins the room of `url`; how that ended, and the states that were told.
async fn stay(url: String, settings: Settings, stop: CancellationToken) -> (Result<(), ConnectError>, Vec<EdgeState>) {
    stay_telling(url, settings, stop, CancellationToken::new()).await
}

/// The same; `live` is told when it is.
async fn stay_telling(
    url: String,
    settings: Settings,
    stop: CancellationToken,
    live: CancellationToken,
) -> (Result<(), ConnectError>, Vec<EdgeState>) {
    let (events, mut told) = mpsc::channel(64);
    let running = tokio::spawn(room(&url, settings).run(events, stop));
    let mut states = vec![];
    while let Some(event) = told.recv().await {
        if let Event::State { state, .. } = event {
            states.push(state);
            if state == EdgeState::Live {
                live.cancel();
            }
        }
    }
    (running.await.unwrap(), states)
}

#[tokio::test]
async fn a_livekit_inside_is_not_gone_to() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let (ended, states) = stay(format!("ws://{host}:{port}"), Settings::default(), CancellationToken::new()).await;
        assert!(matches!(ended, Err(ConnectError::Denied(_))), "{host}: {ended:?}");
        assert_eq!(states.last(), Some(&EdgeState::Failed(Cause::AddressDenied)), "{host}");
    }
    assert!(futures_util::FutureExt::now_or_never(listener.accept()).is_none(), "nobody has called");
}

#[tokio::test]
async fn a_room_where_somebody_publishes_is_live_when_media_can_flow_and_not_before() {
    let ((events, mut told), stop) = (mpsc::channel(64), CancellationToken::new());
    let url = relay(Manner::NoMedia).await;
    let running = tokio::spawn(room(&url, Settings::on_loopback()).run(events, stop.clone()));
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
async fn what_a_livekit_says_against_us_has_a_word_and_is_not_tried_again() {
    for (manner, cause) in [
        (Manner::Closed, Some(Cause::AccessDenied)),
        (Manner::Nothing, Some(Cause::NoSuchRoom)),
        (Manner::Twin, Some(Cause::RelayRefused)),
        (Manner::Deleted, None),
    ] {
        let (ended, states) = stay(relay(manner).await, Settings::on_loopback(), CancellationToken::new()).await;
        assert_eq!(ended.as_ref().err().map(ConnectError::cause), cause, "{manner:?}: {ended:?}");
        let reconnecting = |state: &&EdgeState| matches!(state, EdgeState::Reconnecting { .. });
        assert_eq!(states.iter().find(reconnecting), None, "{manner:?}");
        assert!(!states.contains(&EdgeState::Live), "{manner:?}: in a quiet room media have to be able to flow too");
        assert!(!format!("{ended:?}").contains("hush"), "{ended:?}");
    }
}

#[tokio::test]
async fn a_hostile_livekit_costs_its_own_meeting_and_says_why_while_others_lose_no_packet() {
    let (stop, settings, relay) = (CancellationToken::new(), Settings::on_loopback(), Relay::open().await);
    let (url, live) = (self::relay(Manner::Good).await, CancellationToken::new());
    let mut good = tokio::spawn(stay_telling(url, settings.clone(), stop.clone(), live.clone()));
    let beside = relay.healthy(0, &settings).await;
    for (manner, what, why) in [
        (Manner::Junk, "LiveKit message", "not what LiveKit writes"),
        (Manner::GiantMessage, "WebSocket message", "longer than 33554432 bytes"),
        (Manner::GiantSdp, "SDP answer", "at most"),
        (Manner::Sections, "number of offers", "over 600"),
    ] {
        let url = self::relay(manner).await;
        let (ended, states) = stay(url, settings.clone(), CancellationToken::new()).await;
        let Err(ConnectError::BadMessage { what: found, why: words }) = ended else { panic!("{manner:?}: {ended:?}") };
        assert!(found == what && words.contains(why), "{manner:?}: {found}: {words}");
        assert_eq!(states.last(), Some(&EdgeState::Failed(Cause::RelayProtocol)), "{manner:?}");
    }
    beside.loses_nothing().await;
    tokio::select! {
        () = live.cancelled() => stop.cancel(),
        ended = &mut good => panic!("{ended:?}"),
    }
    let (ended, states) = good.await.unwrap();
    assert_eq!((ended, states), (Ok(()), vec![EdgeState::Connecting, EdgeState::Live]));
}

#[tokio::test]
async fn a_room_that_does_not_go_on_with_us_is_joined_anew() {
    let url = relay(Manner::Forgets).await;
    let (ended, states) = stay(url, Settings::on_loopback(), CancellationToken::new()).await;
    assert_eq!(ended, Ok(()), "{states:?}");
    assert!(matches!(states[..], [EdgeState::Connecting, EdgeState::Reconnecting { .. }]), "{states:?}");
}

#[test]
fn another_server_is_gone_to_as_it_is_written_and_never_in_the_clear_from_one_that_is_not() {
    let at = |here: &str, url: &str| another(&here.parse().unwrap(), url).map(String::from);
    assert_eq!(at("wss://a", "https://eu.http.example").as_deref(), Ok("wss://eu.http.example/"));
    assert_eq!(at("wss://a", "wss://http.example").as_deref(), Ok("wss://http.example/"));
    assert_eq!(at("ws://a", "http://b").as_deref(), Ok("ws://b/"));
    assert!(at("wss://a", "http://b").is_err() && at("wss://a", "ws://b").is_err() && at("wss://a", "b").is_err());
}

#[test]
fn whoever_was_moved_comes_back_to_the_room_they_were_moved_to() {
    let mut livekit = room("ws://livekit.example", Settings::default());
    let (url, claims) = (livekit.url.clone(), |door: Door| {
        let part = door.token.0.split('.').nth(1).unwrap().to_owned();
        let bytes = base64::Engine::decode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, part).unwrap();
        serde_json::from_slice::<serde_json::Value>(&bytes).unwrap()["video"]["room"].clone()
    });
    assert_eq!(claims(livekit.door(url.clone(), false)), "standup");
    livekit.given = Some(Secret("the server's".into()));
    assert_eq!(livekit.door(url.clone(), true).token.0, "the server's");
    assert_eq!(claims(livekit.door(url.clone(), false)), "standup");
    livekit.moved = true;
    assert_eq!(livekit.door(url.clone(), false).token.0, "the server's");
    livekit.given = None;
    assert_eq!(claims(livekit.door(url, false)), "standup", "none of our making lets us into a room that it names");
}
