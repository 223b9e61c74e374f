//! The edge's own WHEP connector and the stand-in relay, on two hosts of the emulated Internet.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use bench::{
    relay::{Reply, Settings, Start, Timeline, serve, voice::Encoding},
    world::{Host, World, connecting, path::Quality, respawn_unless_root},
};
use edge_node::connect::{self, Event};
use geo::RegionId;
use mesh::wire::request::Source;
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

/// The script and the quiet after it, in packets.
const PACKETS: usize = 250;

struct Heard {
    names: BTreeMap<String, Option<String>>,
    packets: BTreeMap<String, Vec<connect::RtpPacket>>,
}

/// A relay and an edge 40 ms apart.
fn world() -> (World, Host, Host) {
    respawn_unless_root().unwrap_or_else(|error| panic!("{error}"));
    let world = World::enter(7).unwrap_or_else(|error| panic!("{error}"));
    let (eu, jp): (RegionId, RegionId) = ("eu-central".parse().unwrap(), "ap-northeast".parse().unwrap());
    let jitter = Duration::from_millis(3);
    world.set_paths(&eu, &jp, Quality { jitter, ..Quality::round_trip(Duration::from_millis(40)) });
    let relay = world.host("relay", &eu, Ipv4Addr::new(10, 77, 0, 1)).unwrap();
    let edge = world.host("edge", &jp, Ipv4Addr::new(10, 77, 1, 1)).unwrap();
    (world, relay, edge)
}

async fn open(host: &Host, reply: Reply, ids: &[&str]) -> SocketAddr {
    let settings = Settings {
        meeting: "standup".into(),
        reply,
        start: Start::FirstSubscriber,
        settle: Duration::from_millis(500),
        encoding: Encoding::wideband(24_000, false),
        janus: None,
    };
    let tone: Vec<i16> = (0..48_000).map(|n| ((f64::from(n) * 0.17).sin() * 8000.0) as i16).collect();
    let timeline = |id: &&str| Timeline { id: (*id).into(), name: id.to_uppercase(), samples: tone.clone() };
    let timelines = ids.iter().map(timeline).collect();
    let (opened, at) = tokio::sync::oneshot::channel();
    let (host, ip): (Host, IpAddr) = (host.clone(), host.ip());
    tokio::spawn(async move {
        let work = move || async move {
            let relay = serve(TcpListener::bind((ip, 8080)).await.unwrap(), settings, timelines).await.unwrap();
            opened.send(relay.address()).unwrap();
            std::future::pending::<()>().await
        };
        host.run(work).await
    });
    at.await.unwrap()
}

/// Stays in the meeting until a participant has sent everything.
async fn listen(host: &Host, relay: SocketAddr, names: Vec<(String, String)>) -> Heard {
    let url = format!("http://{relay}/whep/standup");
    let work = move || async move {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let source = Source::Whep { url, token: None, participants: names };
        let connector = connect::connector(&source, &connecting()).unwrap();
        let (events, mut inbox) = mpsc::channel(1024);
        let stop = CancellationToken::new();
        let stay = tokio::spawn(connector.run(events, stop.clone()));
        let mut heard = Heard { names: BTreeMap::new(), packets: BTreeMap::new() };
        let everyone = |heard: &Heard| {
            let whole = heard.packets.values().filter(|packets| packets.len() == PACKETS).count();
            whole > 0 && whole == heard.names.len()
        };
        while !everyone(&heard) {
            match timeout(Duration::from_secs(20), inbox.recv()).await.expect("the meeting goes on") {
                Some(Event::Joined { id, name, .. }) => drop(heard.names.insert(id.as_str().into(), name)),
                Some(Event::Packet(packet)) => {
                    heard.packets.entry(packet.participant.as_str().into()).or_default().push(packet);
                }
                Some(_) => {}
                None => break,
            }
        }
        stop.cancel();
        while inbox.recv().await.is_some() {}
        stay.await.unwrap().unwrap();
        heard
    };
    host.run(work).await.unwrap()
}

fn check(packets: &[connect::RtpPacket]) {
    assert_eq!(packets.len(), PACKETS);
    let mut decoder = opus::Decoder::new(16_000, opus::Channels::Mono).unwrap();
    let mut pcm = [0; 1920];
    for (n, packet) in packets.iter().enumerate() {
        assert_eq!(packet.timestamp, packets[0].timestamp.wrapping_add(960 * n as u32));
        assert_eq!(packet.level.expect("a level").dbov < 20, n < 150, "packet {n}");
        assert_eq!(decoder.decode(&packet.payload, &mut pcm, false).unwrap(), 320);
    }
    let took = packets[PACKETS - 1].arrived - packets[0].arrived;
    assert!(took.abs_diff(Duration::from_millis(20 * (PACKETS as u64 - 1))) < Duration::from_millis(200), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edge_hears_everyone_by_name_where_the_relay_offers() {
    let (world, relay, edge) = world();
    let at = open(&relay, Reply::Offer, &["ada", "bob", "eve"]).await;
    let names = vec![("ada".into(), "Ada Lovelace".into()), ("bob".into(), "Bob".into())];
    let heard = listen(&edge, at, names).await;
    let name = |id: &str| heard.names[id].as_deref();
    assert_eq!((name("ada"), name("bob"), name("eve")), (Some("Ada Lovelace"), Some("Bob"), None));
    heard.packets.values().for_each(|packets| check(packets));
    let sent: u64 = world.report().0.iter().map(|path| path.counters.delivered).sum();
    assert!(sent >= 3 * PACKETS as u64, "it all crossed the emulated Internet: {sent} packets");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edge_hears_the_one_voice_where_the_relay_answers() {
    let (_world, relay, edge) = world();
    let at = open(&relay, Reply::Answer, &["ada"]).await;
    let heard = listen(&edge, at, vec![]).await;
    assert_eq!(heard.packets.keys().collect::<Vec<_>>(), heard.names.keys().collect::<Vec<_>>());
    heard.packets.values().for_each(|packets| check(packets));
}
