//! No video is ever negotiated, whatever is on offer: what is said on the wire between our connectors and peers that
//! publish it; and a name that changes meanwhile.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Mutex,
};

use bench::world::{Host, connecting};
use edge_node::connect::{self, Event, Settings, connector};
use mesh::wire::request::Source;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp},
    sync::mpsc,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::*;

/// Packets of a participant that prove that it is heard.
const HEARD: usize = 50;
/// Opus configurations of hybrid packets (RFC 6716 section 3.1): SILK below 8 kHz, CELT above.
const HYBRID: std::ops::RangeInclusive<u8> = 12..=15;

/// What passed through a [`tap`], in both directions.
#[derive(Default)]
pub(super) struct Said {
    pub(super) ours: Mutex<Vec<u8>>,
    pub(super) theirs: Mutex<Vec<u8>>,
}

/// Passes connections on from `at` to `relay` and keeps what is said; its own address.
pub(super) async fn tap(at: IpAddr, relay: SocketAddr, said: Arc<Said>) -> SocketAddr {
    let listener = TcpListener::bind((at, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(relay).await.unwrap();
            let ((from, to), (back, onward)) = (client.into_split(), server.into_split());
            let (said, also) = (Arc::clone(&said), Arc::clone(&said));
            tokio::spawn(async move { pass(from, onward, &said.ours).await });
            tokio::spawn(async move { pass(back, to, &also.theirs).await });
        }
    });
    at
}

async fn pass(mut from: tcp::OwnedReadHalf, mut to: tcp::OwnedWriteHalf, kept: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        kept.lock().unwrap().extend_from_slice(&buffer[..length]);
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// The texts in a client's side of a WebSocket (RFC 6455 section 5.2), after its request.
pub(super) fn texts(stream: &[u8]) -> Vec<String> {
    let begin = stream.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let (mut rest, mut texts) = (&stream[begin..], vec![]);
    while let [first, second, tail @ ..] = rest {
        let (length, tail) = match second & 0x7F {
            126 => (usize::from(u16::from_be_bytes([tail[0], tail[1]])), &tail[2..]),
            127 => (u64::from_be_bytes(tail[..8].try_into().unwrap()) as usize, &tail[8..]),
            short => (usize::from(short), tail),
        };
        let (mask, body) = tail.split_at(4);
        if first & 0x0F == 1 {
            let plain = body[..length].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
            texts.push(String::from_utf8(plain).unwrap());
        }
        rest = &body[length..];
    }
    texts
}

/// `m=` lines of video that were not refused.
fn pictures(sdp: &str) -> Vec<&str> {
    let video = sdp.lines().filter(|line| line.starts_with("m=video "));
    video.filter(|line| !line.starts_with("m=video 0 ")).collect()
}

/// Joins as `source` says from `host` and stays until somebody was heard and, if `name` is given, is called so.
async fn listen(
    host: &Host,
    relay: SocketAddr,
    source: fn(SocketAddr) -> Source,
    name: Option<&'static str>,
) -> Arc<Said> {
    let ip = host.ip();
    let work = move || async move {
        let said = Arc::new(Said::default());
        let source = source(tap(Ipv4Addr::LOCALHOST.into(), relay, Arc::clone(&said)).await);
        let connector = connector(&source, &Settings { bind: vec![ip], ..connecting() }).unwrap();
        let (events, mut told) = mpsc::channel(1024);
        let stop = CancellationToken::new();
        let running = tokio::spawn(connect::Connector::run(connector, events, stop.clone()));
        let (mut packets, mut hybrid, mut named) = (0, 0, name.is_none());
        let heard = async {
            while packets < HEARD || !named {
                match told.recv().await.expect("the connector goes on") {
                    Event::Packet(packet) => {
                        packets += 1;
                        hybrid += usize::from(packet.payload.first().is_some_and(|toc| HYBRID.contains(&(toc >> 3))));
                    }
                    Event::Joined { name: now, .. } => named |= now.as_deref() == name,
                    other => println!("{other:?}"),
                }
            }
        };
        timeout(Duration::from_secs(60), heard).await.unwrap_or_else(|_| panic!("{packets} packets, named: {named}"));
        // What the decoder for the VAD and `bench capacity` reckon with.
        assert!(hybrid * 10 >= packets * 9, "a browser sent {hybrid} hybrid packets of {packets}");
        stop.cancel();
        while told.recv().await.is_some() {}
        running.await.unwrap().unwrap();
        said
    };
    host.run(work).await.unwrap()
}

pub(super) fn text(bytes: &Mutex<Vec<u8>>) -> String {
    String::from_utf8_lossy(&bytes.lock().unwrap()).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_video_is_negotiated_with_a_publisher_of_audio_and_video_and_its_new_name_is_heard_of() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (world, dir) = (world(), tempfile::tempdir().unwrap());
    let janus = peers::janus(&world, dir.path()).await;
    let ears = peers::host(&world, "ears", 9);
    let _browser = peers::Browser::publish(&world, dir.path(), &janus, "Ada&video=1&rename=Ada%20L.", &sentences());
    let signalling: SocketAddr = janus.url().strip_prefix("ws://").unwrap().parse().unwrap();

    let room = |at| Source::Janus {
        url: format!("ws://{at}"),
        room: 1234,
        pin: None,
        token: None,
        api_secret: None,
        display: "ears".into(),
    };
    let said = listen(&ears, signalling, room, Some("Ada L.")).await;
    let theirs = text(&said.theirs);
    assert!(theirs.contains(r#""vp8""#), "no video was on offer: {theirs}");
    let messages: Vec<Value> =
        texts(&said.ours.lock().unwrap()).iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    let answers: Vec<&str> = messages.iter().filter_map(|message| message["jsep"]["sdp"].as_str()).collect();
    assert!(!answers.is_empty(), "{messages:?}");
    assert!(answers.iter().all(|answer| answer.contains("m=audio ") && pictures(answer).is_empty()), "{answers:?}");
    assert!(!theirs.contains("m=video 9"), "video was asked for");

    through_whep(&ears, &janus, dir.path(), &theirs).await;
}

/// The same publisher through the WHEP server, which offers all it has.
async fn through_whep(ears: &Host, janus: &peers::Janus, dir: &Path, roster: &str) {
    // Whoever joins before anybody publishes is told of nobody first.
    let mut lists = roster.split(r#""publishers":"#).skip(1).filter(|list| !list.trim_start().starts_with("[]"));
    let first = lists.find_map(|list| list.split(r#""id":"#).nth(1)).unwrap();
    let feed: String = first.trim_start().chars().take_while(char::is_ascii_digit).collect();
    let whep = peers::WhepServer::start(janus, dir, Some(&feed)).await;
    let at: SocketAddr = whep.endpoint("room").split('/').nth(2).unwrap().parse().unwrap();
    let endpoint =
        |at| Source::Whep { url: format!("http://{at}/whep/endpoint/room"), token: None, participants: vec![] };
    let said = listen(ears, at, endpoint, None).await;
    let (ours, theirs) = (text(&said.ours), text(&said.theirs));
    assert!(!pictures(&theirs).is_empty(), "no video was on offer: {theirs}");
    assert!(ours.contains("m=video 0 ") && pictures(&ours).is_empty(), "{ours}");
    let etag = theirs.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("etag: ").map(str::to_owned));
    let matched = ours.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("if-match: ").map(str::to_owned));
    assert!(etag.is_some() && matched == etag, "{etag:?} {matched:?}");
    assert!(ours.contains("\nDELETE ") || ours.contains("DELETE /whep/resource"), "left behind: {ours}");
}
