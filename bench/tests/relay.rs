//! The stand-in relay with a real WebRTC receiver, on the loopback device.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bench::relay::{Relay, Reply, Sent, Settings, Start, State, Timeline, serve, voice::Encoding};
use reqwest::{Client, Method, StatusCode, header::CONTENT_TYPE};
use rtc::{
    rtp::Packet,
    rtp_transceiver::{
        RTCRtpTransceiverDirection, RTCRtpTransceiverInit,
        rtp_sender::{RTCRtpCodec, RTCRtpCodecParameters, RTCRtpHeaderExtensionCapability, RtpCodecKind},
    },
};
use tokio::{net::TcpListener, sync::watch};
use webrtc::{
    media_stream::track_remote::{TrackRemote, TrackRemoteEvent},
    peer_connection::{
        MediaEngine, PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCConfigurationBuilder,
        RTCIceGatheringState, RTCSessionDescription, Registry, SettingEngineBuilder,
    },
};

const LEVEL_URI: &str = "urn:ietf:params:rtp-hdrext:ssrc-audio-level";

/// Packets by media stream id.
type Heard = Arc<Mutex<BTreeMap<String, Vec<Packet>>>>;

struct Receiver {
    pc: Arc<dyn PeerConnection>,
    heard: Heard,
    gathered: watch::Receiver<bool>,
}

struct Handler {
    heard: Heard,
    gathered: watch::Sender<bool>,
}

#[async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        self.gathered.send_replace(state == RTCIceGatheringState::Complete);
    }

    async fn on_track(&self, track: Arc<dyn TrackRemote>) {
        let heard = self.heard.clone();
        tokio::spawn(async move {
            let stream = track.stream_id().await;
            while let Some(event) = track.poll().await {
                if let TrackRemoteEvent::OnRtpPacket(packet) = event {
                    heard.lock().unwrap().entry(stream.clone()).or_default().push(packet);
                }
            }
        });
    }
}

impl Receiver {
    async fn new() -> Self {
        let mut engine = MediaEngine::default();
        let opus = RTCRtpCodec {
            mime_type: "audio/opus".into(),
            clock_rate: 48_000,
            channels: 2,
            sdp_fmtp_line: "minptime=10;useinbandfec=1".into(),
            rtcp_feedback: vec![],
        };
        // Another number than the relay's own, so that it must take what was negotiated.
        let opus = RTCRtpCodecParameters { rtp_codec: opus, payload_type: 96 };
        engine.register_codec(opus, RtpCodecKind::Audio).unwrap();
        let level = RTCRtpHeaderExtensionCapability { uri: LEVEL_URI.into() };
        engine.register_header_extension(level, RtpCodecKind::Audio, None).unwrap();
        let heard = Heard::default();
        let (gathered, gathered_seen) = watch::channel(false);
        let pc = PeerConnectionBuilder::new()
            .with_configuration(RTCConfigurationBuilder::new().build())
            .with_media_engine(engine)
            .with_interceptor_registry(Registry::new())
            .with_setting_engine(SettingEngineBuilder::new().with_include_loopback_candidate(true).build())
            .with_handler(Arc::new(Handler { heard: heard.clone(), gathered }))
            .with_udp_addrs(vec!["127.0.0.1:0"])
            .build()
            .await
            .unwrap();
        Self { pc: Arc::new(pc), heard, gathered: gathered_seen }
    }

    async fn offer(&mut self) -> String {
        let init = RTCRtpTransceiverInit { direction: RTCRtpTransceiverDirection::Recvonly, ..Default::default() };
        self.pc.add_transceiver_from_kind(RtpCodecKind::Audio, Some(init)).await.unwrap();
        let offer = self.pc.create_offer(None).await.unwrap();
        self.describe(offer).await
    }

    async fn accept(&self, answer: String) {
        self.pc.set_remote_description(RTCSessionDescription::answer(answer).unwrap()).await.unwrap();
    }

    async fn answer(&mut self, offer: String) -> String {
        self.pc.set_remote_description(RTCSessionDescription::offer(offer).unwrap()).await.unwrap();
        let answer = self.pc.create_answer(None).await.unwrap();
        self.describe(answer).await
    }

    async fn describe(&mut self, local: RTCSessionDescription) -> String {
        self.pc.set_local_description(local).await.unwrap();
        self.gathered.wait_for(|done| *done).await.unwrap();
        self.pc.local_description().await.unwrap().sdp
    }

    fn heard(&self) -> BTreeMap<String, Vec<Packet>> {
        self.heard.lock().unwrap().clone()
    }
}

/// Seconds of a tone, of quiet, and of the tone again.
fn timeline(id: &str, seconds: usize) -> Timeline {
    let tone = |n: usize| if (n / 8000).is_multiple_of(2) { ((n as f64 * 0.17).sin() * 8000.0) as i16 } else { 0 };
    Timeline { id: id.into(), name: id.to_uppercase(), samples: (0..seconds * 16_000).map(tone).collect() }
}

async fn open(reply: Reply, ids: &[&str]) -> (Relay, SocketAddr) {
    let settings = Settings {
        meeting: "standup".into(),
        reply,
        start: Start::FirstSubscriber,
        settle: Duration::from_millis(300),
        encoding: Encoding::wideband(24_000, false),
        janus: None,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = serve(listener, settings, ids.iter().map(|id| timeline(id, 1)).collect()).await.unwrap();
    let at = relay.address();
    (relay, at)
}

async fn send(method: Method, at: SocketAddr, path: &str, sdp: String) -> (StatusCode, Option<String>, String) {
    let request = client().request(method, format!("http://{at}{path}")).header(CONTENT_TYPE, "application/sdp");
    let response = request.body(sdp).send().await.unwrap();
    let location = response.headers().get("location").map(|value| value.to_str().unwrap().to_owned());
    (response.status(), location, response.text().await.unwrap())
}

fn client() -> Client {
    // Fails when another test was first, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::new()
}

async fn finished(at: SocketAddr) -> State {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let text = client().get(format!("http://{at}/state")).send().await.unwrap().text().await.unwrap();
        let state: State = serde_json::from_str(&text).unwrap();
        if state.finished {
            return state;
        }
        assert!(Instant::now() < until, "{state:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The level extension's id in the receiver's description.
fn level_id(sdp: &str) -> u8 {
    let line = sdp.lines().find(|line| line.ends_with(LEVEL_URI)).expect("levels are negotiated");
    let id: String = line.trim_start_matches("a=extmap:").chars().take_while(char::is_ascii_digit).collect();
    id.parse().unwrap()
}

fn check_voice(packets: &[Packet], level_id: u8) {
    assert_eq!(packets.len(), 150, "1 s and the 2 s after it");
    for pair in packets.windows(2) {
        assert_eq!(pair[1].header.sequence_number, pair[0].header.sequence_number.wrapping_add(1));
        assert_eq!(pair[1].header.timestamp, pair[0].header.timestamp.wrapping_add(960));
    }
    let level = |packet: &Packet| packet.header.get_extension(level_id).expect("a level")[0] & 0x7f;
    assert!(packets[..24].iter().all(|packet| level(packet) < 20));
    assert!(packets[26..49].iter().all(|packet| level(packet) == 127));
    let mut decoder = opus::Decoder::new(16_000, opus::Channels::Mono).unwrap();
    let mut pcm = [0; 1920];
    assert!(packets.iter().all(|packet| decoder.decode(&packet.payload, &mut pcm, false).unwrap() == 320));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_meeting_of_three_offers_a_section_for_each_and_sends_every_packet() {
    let (_relay, at) = open(Reply::Offer, &["ada", "bob", "eve"]).await;
    let mut client = Receiver::new().await;
    let refused = client.offer().await;
    let (status, session, offer) = send(Method::POST, at, "/whep/standup", refused).await;
    assert_eq!(status, StatusCode::NOT_ACCEPTABLE);
    assert_eq!(offer.lines().filter(|line| line.starts_with("m=")).count(), 3);
    assert_eq!(offer.lines().filter(|line| *line == "a=sendonly").count(), 3, "{offer}");
    for id in ["ada", "bob", "eve"] {
        assert!(offer.contains(&format!("a=msid:{id} {id}-audio")), "{offer}");
    }

    let mut client = Receiver::new().await;
    let answer = client.answer(offer).await;
    let id = level_id(&answer);
    let session = session.unwrap();
    assert_eq!(send(Method::PATCH, at, &session, answer).await.0, StatusCode::NO_CONTENT);
    let state = finished(at).await;
    assert_eq!((state.subscribers, state.overflow), (1, 0));
    assert!(state.participants.iter().all(|participant| participant.sent_packets == 150), "{state:?}");

    let heard = client.heard();
    assert_eq!(heard.keys().collect::<Vec<_>>(), ["ada", "bob", "eve"]);
    heard.values().for_each(|packets| check_voice(packets, id));

    let text = self::client().get(format!("http://{at}/sent")).send().await.unwrap().text().await.unwrap();
    let sent: BTreeMap<String, Vec<Sent>> = serde_json::from_str(&text).unwrap();
    let ada = &sent["ada"];
    let took = ada[149].at.since(ada[0].at);
    assert!(took.abs_diff(Duration::from_millis(149 * 20)) < Duration::from_millis(200), "real time: {took:?}");
    assert!(ada[0].at.since(state.started_at.unwrap()) < Duration::from_millis(200));
    let flagged = |packet: &&Packet| packet.header.get_extension(id).unwrap()[0] & 0x80 != 0;
    let voiced = heard["ada"].iter().filter(flagged).count();
    assert_eq!(ada.iter().filter(|packet| packet.voice).count(), voiced, "the V bit is the reference VAD's");

    assert_eq!(send(Method::DELETE, at, &session, String::new()).await.0, StatusCode::OK);
    assert_eq!(send(Method::DELETE, at, &session, String::new()).await.0, StatusCode::NOT_FOUND);
    assert_eq!(finished(at).await.subscribers, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_meeting_of_one_is_answered() {
    let (_relay, at) = open(Reply::Answer, &["ada"]).await;
    let mut client = Receiver::new().await;
    let offer = client.offer().await;
    let id = level_id(&offer);
    let (status, session, answer) = send(Method::POST, at, "/whep/standup", offer).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    assert!(session.is_some() && answer.contains("a=sendonly") && answer.contains("a=msid:ada "), "{answer}");
    client.accept(answer).await;
    finished(at).await;
    let heard = client.heard();
    assert_eq!(heard.len(), 1);
    let packets = heard.values().next().unwrap();
    check_voice(packets, id);
    assert!(packets.iter().all(|packet| packet.header.payload_type == 96));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_participant_of_many_can_be_had_alone() {
    let (_relay, at) = open(Reply::Answer, &["ada", "bob"]).await;
    let mut client = Receiver::new().await;
    let offer = client.offer().await;
    let (status, _, problem) = send(Method::POST, at, "/whep/standup", offer.clone()).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(problem.contains("2 voices"), "{problem}");
    let (status, _, answer) = send(Method::POST, at, "/whep/standup/bob", offer).await;
    assert_eq!(status, StatusCode::CREATED);
    client.accept(answer).await;
    finished(at).await;
    assert_eq!(client.heard().into_values().map(|packets| packets.len()).collect::<Vec<_>>(), [150]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_with_the_reason() {
    let (_relay, at) = open(Reply::Answer, &["ada"]).await;
    let refused = async |path: &str, offer: &str| {
        let (status, _, problem) = send(Method::POST, at, path, offer.into()).await;
        (status.as_u16(), serde_json::from_str::<serde_json::Value>(&problem).unwrap()["detail"].to_string())
    };
    let audio = "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\n";
    assert_eq!(refused("/whep/other", audio).await.0, 404);
    assert_eq!(refused("/whep/standup/zoe", audio).await.0, 404);
    assert_eq!(refused("/whep/standup", "not a description").await.0, 400);
    assert_eq!(refused("/whep/standup", audio).await.0, 400);
    let (status, why) = refused("/whep/standup", &format!("{audio}m=video 9 UDP/TLS/RTP/SAVPF 96\r\n")).await;
    assert!(status == 422 && why.contains("2 media sections"), "{status} {why}");
    let unknown = "/session/00000000-0000-4000-8000-000000000000";
    assert_eq!(send(Method::PATCH, at, unknown, audio.into()).await.0, StatusCode::NOT_FOUND);
    let plain = client().post(format!("http://{at}/whep/standup")).body("x").send().await.unwrap();
    assert_eq!(plain.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
}
