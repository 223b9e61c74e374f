//! Scratch: joins a meeting and counts. join whep URL | join janus URL ROOM ; SECS last
#![allow(clippy::unwrap_used, clippy::print_stdout)]
use std::{collections::BTreeMap, time::{Duration, Instant}};
use edge_node::connect::{Event, Settings, connector};
use mesh::wire::request::Source;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

#[derive(Default)]
struct Count { packets: u64, lost: i64, levels: u64, voiced: u64, bytes: u64, last: Option<u16>, first: Option<Instant> }

#[tokio::main]
async fn main() {
    let a: Vec<String> = std::env::args().collect();
    let secs: u64 = a.last().unwrap().parse().unwrap();
    let source = match a[1].as_str() {
        "whep" => Source::Whep { url: a[2].clone(), token: std::env::var("TOKEN").ok().map(mesh::wire::request::Secret), participants: vec![("janus".into(), "Named".into()), ("whep".into(), "Only".into())] },
        _ => Source::Janus { url: a[2].clone(), room: a[3].parse().unwrap(), pin: None, token: None, api_secret: None, display: "nearfield".into() },
    };
    let c = connector(&source, &Settings::default()).unwrap();
    let (tx, mut rx) = mpsc::channel(4096);
    let stop = CancellationToken::new();
    let s2 = stop.clone();
    tokio::spawn(async move { tokio::time::sleep(Duration::from_secs(secs)).await; s2.cancel(); });
    let t0 = Instant::now();
    let run = tokio::spawn(c.run(tx, stop));
    let mut counts: BTreeMap<String, Count> = BTreeMap::new();
    while let Some(e) = rx.recv().await {
        match e {
            Event::Packet(p) => {
                let c = counts.entry(p.participant.to_string()).or_default();
                if c.first.is_none() { c.first = Some(Instant::now()); println!("[{:?}] first packet of {} ts {} {:?}", t0.elapsed(), p.participant, p.timestamp, p.level); }
                c.packets += 1; c.bytes += p.payload.len() as u64; c.levels += u64::from(p.level.is_some()); c.voiced += u64::from(p.level.is_some_and(|l| l.voice));
                if let Some(l) = c.last { c.lost += i64::from(p.sequence.wrapping_sub(l) as i16) - 1; }
                c.last = Some(p.sequence);
            }
            e => println!("[{:?}] {e:?}", t0.elapsed()),
        }
    }
    println!("[{:?}] run: {:?}", t0.elapsed(), run.await.unwrap());
    for (id, c) in counts { println!("{id}: packets {} seq gaps {} levels {} voiced {} bytes {} over {:?}", c.packets, c.lost, c.levels, c.voiced, c.bytes, c.first.unwrap().elapsed()); }
}
