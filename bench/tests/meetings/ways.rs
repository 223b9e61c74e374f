//! Ways into a meeting that are not straight: a Janus that dies and comes back, ids that are texts, closed doors, TURN, IPv6.

use std::net::{IpAddr, Ipv6Addr};

use bench::world::{Host, connecting};
use edge_node::connect::{ConnectError, Event, IceServer, Settings, connector};
use mesh::wire::{
    control::EdgeState,
    request::{Secret, Source},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    odd::USUAL,
    peers::Manner,
    silent_picture::{Said, tap, text},
    *,
};

/// Packets of a participant that prove that it is heard.
const HEARD: usize = 50;
/// For a connector to hear that, or to give up.
const PATIENCE: Duration = Duration::from_secs(90);

/// What became of a stay.
struct Stayed {
    /// Who was named, by signalling.
    names: Vec<String>,
    packets: usize,
    live: bool,
    ended: Result<(), ConnectError>,
}

/// Where signalling passes through a [`tap`]: its own address, the relay's, and what was said.
type Tapped = (IpAddr, SocketAddr, Arc<Said>);

/// Joins from `host`, and stays until there were so many packets, or, for none, until the room was entered.
async fn stay(host: &Host, source: Source, settings: Settings, packets: usize) -> Stayed {
    attend(host, move || async { source }, settings, packets).await
}

/// The same with a source that is made of where the tap listens.
async fn stay_tapped(
    host: &Host,
    (at, relay, said): Tapped,
    source: fn(SocketAddr) -> Source,
    settings: Settings,
) -> Stayed {
    attend(host, move || async move { source(tap(at, relay, said).await) }, settings, HEARD).await
}

async fn attend<F: Future<Output = Source>>(
    host: &Host,
    source: impl FnOnce() -> F + Send + 'static,
    settings: Settings,
    packets: usize,
) -> Stayed {
    let work = move || async move {
        let source = source().await;
        let connector = connector(&source, &settings).unwrap();
        let (events, mut told) = mpsc::channel(1024);
        let stop = CancellationToken::new();
        let running = tokio::spawn(connector.run(events, stop.clone()));
        let mut stayed = Stayed { names: vec![], packets: 0, live: false, ended: Ok(()) };
        while let Some(event) = told.recv().await {
            match event {
                Event::Packet(_) => stayed.packets += 1,
                Event::Joined { name, .. } => stayed.names.extend(name),
                Event::State { state, detail } => {
                    println!("{state:?} {detail:?}");
                    stayed.live |= state == EdgeState::Live;
                }
                _ => {}
            }
            if stayed.packets >= packets && stayed.live {
                stop.cancel();
            }
        }
        stayed.ended = running.await.unwrap();
        stayed
    };
    timeout(PATIENCE, host.run(work)).await.expect("it goes on for ever").unwrap()
}

fn room(url: String) -> Source {
    let (pin, token, api_secret) = (None, None, None);
    Source::Janus { url, room: 1234, pin, token, api_secret, display: "ears".into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_janus_that_was_killed_is_joined_again_when_it_is_back_and_the_time_between_is_a_gap() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (world, dir) = (world(), tempfile::tempdir().unwrap());
    let mut bed = mesh(&world, dir.path()).await;
    let core = bed.node(Role::Core, "eu-central");
    let user = User { host: peers::host(&world, "user", 9), api: core.api };
    let mut janus = peers::janus(&world, dir.path()).await;
    let said = sentences();
    let source = json!({"kind": "janus", "url": janus.url(), "room": 1234});
    let id = user.post(json!({"source": source, "transcription": {"language": "en"}})).await;
    let _browser = peers::Browser::publish(&world, dir.path(), &janus, "Ada&rejoin=1", &said);
    let segments = user.hears(&id, &said).await;
    let last = segments.iter().filter_map(|segment| segment["seq"].as_u64()).max().unwrap();

    janus.restart().await.unwrap();
    let transcript = user.hears_after(&id, &said, last).await;
    check(transcript["segments"].as_array().unwrap(), "Ada");
    let gaps = transcript["gaps"].as_array().unwrap();
    assert!(gaps.iter().any(|gap| gap["reason"] == "relay_lost"), "{gaps:?}");
    let participants = user.get(format!("/v1/meetings/{id}/participants")).await;
    let all = participants["participants"].as_array().unwrap();
    assert!(all.len() == 2 && all.iter().all(|one| one["name"] == "Ada"), "a feed of each Janus: {participants}");

    // Where it stays away the meeting ends, and says why.
    janus.stop().await.unwrap();
    let meeting = user.ends(&id, "failed").await;
    println!("{meeting}");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_called_by_texts_are_entered_and_closed_doors_say_why() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (world, dir) = (world(), tempfile::tempdir().unwrap());
    let manner = Manner { string_ids: true, ..Manner::default() };
    let mut janus = peers::Janus::start(peers::host(&world, "janus", 1), dir.path(), manner).await.unwrap();
    let ears = peers::host(&world, "ears", 9);
    let _browser = peers::Browser::publish(&world, dir.path(), &janus, "Ada&text=1", &sentences());
    let url = janus.url();
    let named = |room: &str, pin: Option<&str>, api_secret: Option<&str>| Source::JanusNamed {
        url: url.clone(),
        room: room.into(),
        pin: pin.map(|pin| Secret(pin.into())),
        token: None,
        api_secret: api_secret.map(|secret| Secret(secret.into())),
        display: "ears".into(),
    };
    let heard = stay(&ears, named("1234", None, None), connecting(), HEARD).await;
    assert_eq!((heard.names, heard.ended), (vec!["Ada".to_owned()], Ok(())));
    let entered = stay(&ears, named("77", Some("1234"), None), connecting(), 0).await;
    assert_eq!((entered.live, entered.ended), (true, Ok(())));
    for (source, code, words) in [
        (named("78", None, None), 426, "there is no such room"),
        (named("77", Some("4321"), None), 433, "the room's PIN or the token is wrong"),
        (named("77", None, None), 429, "something is missing that the room wants"),
        (room(url.clone()), 430, "a number where it wants a text"),
    ] {
        refused(&ears, source, code, words).await;
    }
    janus.stop().await.unwrap();
    drop(janus);

    let manner = Manner { string_ids: true, api_secret: Some("s3cret"), ..Manner::default() };
    let host = peers::host(&world, "guarded", 4);
    let janus = peers::Janus::start(host, dir.path(), manner).await.unwrap();
    let url = janus.url();
    let guarded = |secret: &str| {
        let (pin, token, api_secret) = (None, None, Some(Secret(secret.into())));
        Source::JanusNamed { url: url.clone(), room: "1234".into(), pin, token, api_secret, display: "ears".into() }
    };
    let entered = stay(&ears, guarded("s3cret"), connecting(), 0).await;
    assert_eq!((entered.live, entered.ended), (true, Ok(())));
    refused(&ears, guarded("guess"), 403, "the API secret or the token is wrong").await;
}

/// Not even tried again.
async fn refused(ears: &Host, source: Source, code: i64, words: &str) {
    let begun = Instant::now();
    let ended = stay(ears, source, connecting(), 0).await.ended;
    let Err(error @ ConnectError::Signalling { code: found, .. }) = &ended else { panic!("{code}: {ended:?}") };
    assert!(*found == code && error.to_string().contains(words), "{code}: {error}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{code}");
}

#[tokio::test(flavor = "multi_thread")]
async fn media_that_is_reached_through_turn_only_is_heard_over_udp_over_tcp_and_where_a_whep_endpoint_names_the_server()
{
    let _alone = ONE_AT_A_TIME.lock().await;
    let (world, dir) = (world(), tempfile::tempdir().unwrap());
    let janus = peers::janus(&world, dir.path()).await;
    let turn = peers::Turn::start(&world, dir.path()).await;
    let (ears, said) = (peers::host(&world, "ears", 9), Arc::new(sentences()));
    let _browser = peers::Browser::publish(&world, dir.path(), &janus, "Ada", &said);
    let through = |ice_servers| Settings { bind: vec![ears.ip()], ice_servers, relay_only: true, ..connecting() };
    for transport in ["udp", "tcp"] {
        let server =
            IceServer { url: turn.url(transport), username: "ears".into(), credential: Secret("s3cret".into()) };
        let heard = stay(&ears, room(janus.url()), through(vec![server]), HEARD).await;
        assert_eq!(heard.ended, Ok(()), "{transport}");
    }

    let whep = peers::WhepServer::start_with(&janus, dir.path(), None, Some(&turn.url("udp"))).await;
    let speaker = tokio::spawn(peers::speak_rtp(peers::host(&world, "speaker", 8), janus.rtp(), said));
    let at: SocketAddr = whep.endpoint("mp").split('/').nth(2).unwrap().parse().unwrap();
    let passed = Arc::new(Said::default());
    let endpoint =
        |at| Source::Whep { url: format!("http://{at}/whep/endpoint/mp"), token: None, participants: vec![] };
    let heard = stay_tapped(&ears, (ears.ip(), at, Arc::clone(&passed)), endpoint, through(vec![])).await;
    speaker.abort();
    assert_eq!(heard.ended, Ok(()));
    let ours = text(&passed.ours);
    assert!(text(&passed.theirs).contains("rel=\"ice-server\""));
    assert!(ours.contains("PATCH /whep/resource/") && ours.contains("application/trickle-ice-sdpfrag"), "{ours}");
    assert!(ours.contains(" typ relay") && !ours.contains(" typ host"), "{ours}");
}

/// A minute of packets, one each 20 ms: longer than a place lasts that is not renewed.
const MINUTE: usize = 3000;

#[tokio::test(flavor = "multi_thread")]
async fn media_go_on_through_a_turn_server_whose_nonces_last_for_five_seconds_and_its_places_for_forty() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (world, dir) = (world(), tempfile::tempdir().unwrap());
    let janus = peers::janus(&world, dir.path()).await;
    let flags = ["--stale-nonce=5", "--max-allocate-lifetime=40", "--verbose"];
    let turn = peers::Turn::start_with(&world, dir.path(), &flags).await;
    let (ears, speaker) = (peers::host(&world, "ears", 9), peers::host(&world, "speaker", 8));
    let to = USUAL.enter(&speaker, &janus, 1234, "Ada").await;
    let speaking = tokio::spawn(USUAL.speak(speaker, to, Arc::new(sentences())));
    let server = IceServer { url: turn.url("udp"), username: "ears".into(), credential: Secret("s3cret".into()) };
    let through = Settings { bind: vec![ears.ip()], ice_servers: vec![server], relay_only: true, ..connecting() };
    let heard = stay(&ears, room(janus.url()), through, MINUTE).await;
    speaking.abort();
    assert_eq!(heard.ended, Ok(()));
    let log = std::fs::read_to_string(dir.path().join("turn.log")).unwrap();
    let (stale, renewed) = (log.matches("438").count(), log.matches("refreshed").count());
    println!("{stale} times a nonce was stale, {renewed} renewals");
    assert!(stale > 0 && renewed > 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_meeting_is_heard_over_ipv6() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (world, dir) = (world(), tempfile::tempdir().unwrap());
    let ip6: Ipv6Addr = "fd77::1".parse().unwrap();
    let host = peers::host(&world, "janus", 1);
    peers::add_address(&host, ip6);
    let manner = Manner { ip6: Some(ip6), ..Manner::default() };
    let janus = peers::Janus::start(host, dir.path(), manner).await.unwrap();
    let _browser = peers::Browser::publish(&world, dir.path(), &janus, "Ada", &sentences());
    // Debian's Janus serves its WebSocket on one address.
    let signalling: SocketAddr = janus.url().strip_prefix("ws://").unwrap().parse().unwrap();
    let said = Arc::new(Said::default());
    let tapped = (IpAddr::V6(ip6), signalling, Arc::clone(&said));
    let heard = stay_tapped(janus.host(), tapped, |at| room(format!("ws://{at}")), connecting()).await;
    assert_eq!((heard.names, heard.ended), (vec!["Ada".to_owned()], Ok(())));
    let answers = silent_picture::texts(&said.ours.lock().unwrap()).concat();
    let candidate = format!(" {ip6} ");
    assert!(answers.contains(&candidate) && !answers.contains(" 10.77."), "IPv6 alone: {answers}");
}
