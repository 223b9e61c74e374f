//! Relays that mean harm, with meetings beside them on the same sockets that must lose nothing.

#![allow(clippy::disallowed_methods)]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    response::IntoResponse,
    routing::post,
};
use mesh::{
    clock::Micros,
    trace::TraceContext,
    wire::{
        Epoch, MeetingAlias, MeetingId,
        control::{EdgeState, ToCore},
        request::{Assignment, Source, VadSettings},
    },
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Event, Settings, connector,
    peer::far::{Far, Plain, Script},
};
use crate::{
    budget,
    meeting::{Meeting, Offer, Settings as MeetingSettings},
};

/// Source of a voice that behaves.
const VOICE: u32 = 1;
/// What it says: packets of 20 ms.
const PACKETS: u32 = 300;
/// For all of that to come.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A frame of SILK of no content.
const OPUS: [u8; 4] = [0x08, 1, 2, 3];

/// Ends of connections by meeting, each until it is answered, and what they then send.
type Waiting = Arc<Mutex<BTreeMap<u32, (Far, Script)>>>;

/// WHEP endpoints `/whep/N` that offer.
pub(super) struct Relay {
    waiting: Waiting,
    url: String,
}

impl Relay {
    pub(super) async fn open() -> Self {
        let waiting = Waiting::default();
        let router = Router::new().route("/whep/{n}", post(offered).patch(answered).delete(|| async {}));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = router.with_state(Arc::clone(&waiting));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { waiting, url }
    }

    /// A meeting that is sent `script`, under way.
    async fn meeting(&self, n: u32, script: Script, settings: &Settings) -> Listener {
        let far = Far::new().await;
        self.waiting.lock().unwrap().insert(n, (far, script));
        let source = Source::Whep { url: format!("{}/whep/{n}", self.url), token: None, participants: vec![] };
        Listener::new(source, settings)
    }

    /// One whose voice says [`PACKETS`], and says them right.
    pub(super) async fn healthy(&self, n: u32, settings: &Settings) -> Listener {
        self.meeting(n, Box::new(|n| (n < PACKETS).then(|| vec![spoken(n)])), settings).await
    }
}

async fn offered(State(waiting): State<Waiting>, Path(n): Path<u32>) -> impl IntoResponse {
    let offer = waiting.lock().unwrap()[&n].0.offer("voice", VOICE);
    (StatusCode::NOT_ACCEPTABLE, [("content-type", "application/sdp"), ("location", &format!("/whep/{n}"))], offer)
        .into_response()
}

async fn answered(State(waiting): State<Waiting>, Path(n): Path<u32>, answer: String) -> StatusCode {
    let (far, script) = waiting.lock().unwrap().remove(&n).unwrap();
    tokio::spawn(async move { far.run(&answer, script).await });
    StatusCode::NO_CONTENT
}

fn spoken(n: u32) -> Plain {
    Plain { ssrc: VOICE, sequence: n as u16, timestamp: n * 960, mid: None, payload: OPUS.into() }
}

/// A connector and the meeting it feeds.
pub(super) struct Listener {
    running: JoinHandle<Heard>,
    stop: CancellationToken,
    /// Packets so far.
    count: watch::Receiver<usize>,
}

/// What a meeting came to.
#[derive(Debug)]
struct Heard {
    /// Numbers of the packets, as they came.
    numbers: Vec<u16>,
    /// Why the meeting is over, if it ended by itself.
    failed: Option<String>,
    /// Spurts it had for its core.
    spoke: usize,
}

impl Listener {
    fn new(source: Source, settings: &Settings) -> Self {
        let connector = connector(&source, settings).unwrap();
        let (events, told) = mpsc::channel(1024);
        let stop = CancellationToken::new();
        tokio::spawn(connector.run(events, stop.clone()));
        let (counted, count) = watch::channel(0);
        Self { running: tokio::spawn(hear(source, told, counted)), stop, count }
    }

    /// How it ended by itself.
    async fn ended(self) -> Heard {
        self.running.await.unwrap()
    }

    /// Has it leave when that many packets have come.
    async fn hears(mut self, packets: usize) -> Heard {
        let heard = self.count.wait_for(|count| *count >= packets);
        timeout(TIMEOUT, heard).await.expect("packets are missing").unwrap();
        self.leave().await
    }

    /// Of a healthy one: all that was said has come, in order.
    pub(super) async fn loses_nothing(self) {
        let heard = self.hears(PACKETS as usize).await;
        assert_eq!((heard.numbers, heard.failed), ((0..PACKETS as u16).collect(), None));
    }

    /// Has it leave.
    async fn leave(self) -> Heard {
        self.stop.cancel();
        self.running.await.unwrap()
    }
}

/// Feeds a meeting until it has left or nothing more comes.
async fn hear(source: Source, mut told: mpsc::Receiver<Event>, count: watch::Sender<usize>) -> Heard {
    let now = || Instant::now().into_std();
    let mut meeting = Meeting::new(offer(source), settings(), now());
    meeting.handle_up(&"core-1".parse().unwrap(), false, now());
    meeting.handle_opening(MeetingAlias(1), false, now());
    let mut heard = Heard { numbers: vec![], failed: None, spoke: 0 };
    while let Some(event) = told.recv().await {
        match &event {
            Event::Packet(packet) => {
                heard.numbers.push(packet.sequence);
                count.send_replace(heard.numbers.len());
            }
            Event::State { state: EdgeState::Failed(_), detail } => heard.failed.clone_from(detail),
            _ => {}
        }
        meeting.handle_event(event, now());
        while meeting.poll_transmit(Micros(1)).is_some() {
            heard.spoke += 1;
        }
        while let Some(message) = meeting.poll_control() {
            if let ToCore::State { state: EdgeState::Failed(_), detail, .. } = message {
                heard.failed = detail;
            }
        }
        if meeting.has_left() {
            break;
        }
    }
    heard
}

fn offer(source: Source) -> Offer {
    let (core, trace) = ("core-1".parse().unwrap(), TraceContext::new(1));
    let (meeting, vad) = (MeetingId::from_u128(7), VadSettings::default());
    Offer::assigned(Assignment { meeting, epoch: Epoch(1), core, source, vad, trace })
}

/// A budget that a test can exceed.
fn settings() -> MeetingSettings {
    let budget =
        budget::Settings { packets_per_second: 500, bytes_per_second: 100_000, patience: Duration::from_secs(2) };
    MeetingSettings { budget, ..MeetingSettings::default() }
}

/// `n` is the number of a tick of 20 ms, of which there are 250.
fn for_five_seconds(mut packets: impl FnMut(u32) -> Vec<Plain> + Send + 'static) -> Script {
    Box::new(move |n| (n < 250).then(|| packets(n)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_relays_media_costs_one_meeting_its_life_and_the_others_no_packet() {
    let (relay, settings) = (Relay::open().await, Settings::on_loopback());
    let mut beside = vec![];
    for n in 0..4 {
        beside.push(relay.healthy(n, &settings).await);
    }
    let flood = for_five_seconds(|n| (0..40).map(|k| spoken(n * 40 + k)).collect());
    let flood = relay.meeting(10, flood, &settings).await;
    let sources = |n: u32| {
        let source = move |k| Plain { ssrc: 1000 + n * 8 + k, mid: Some("0"), ..spoken(n) };
        (0..8).map(source).collect()
    };
    let sources = relay.meeting(11, for_five_seconds(sources), &settings).await;
    let clock = |n: u32| vec![Plain { timestamp: n.wrapping_mul(0x9E37_79B9), ..spoken(n.wrapping_mul(7919)) }];
    let clock = relay.meeting(12, for_five_seconds(clock), &settings).await;
    let junk = |n: u32| vec![Plain { payload: vec![0xFF, 0x85, n as u8, 3], ..spoken(n) }];
    let junk = relay.meeting(13, for_five_seconds(junk), &settings).await;

    let flooded = flood.ended().await;
    assert_eq!(flooded.failed.as_deref(), Some("a flood: over 500 packets or 100000 bytes a second for 2s"));
    for listener in beside {
        listener.loses_nothing().await;
    }
    for (name, listener) in [("sources", sources), ("clock", clock), ("junk", junk)] {
        let heard = listener.leave().await;
        assert!(!heard.numbers.is_empty() && heard.numbers.len() <= 2000, "{name}: {}", heard.numbers.len());
        assert_eq!(heard.spoke, 0, "{name}");
    }
}
