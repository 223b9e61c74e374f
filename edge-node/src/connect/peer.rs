//! One WebRTC connection that only receives, and only audio.
//!
//! Everything is negotiated non-trickling: our candidates are all in our description, for the relay is
//! a server with an address of its own.
#![allow(clippy::disallowed_methods, reason = "I/O shell: stamps packets as they arrive")]

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use mesh::clock::Micros;
use rtc::{
    ice::mdns::MulticastDnsMode,
    interceptor::{NackGeneratorBuilder, ReceiverReportBuilder, Slot},
    rtp_transceiver::{
        RTCRtpTransceiverDirection, RTCRtpTransceiverInit,
        rtp_sender::{RTCPFeedback, RTCRtpCodec, RTCRtpCodecParameters, RTCRtpHeaderExtensionCapability, RtpCodecKind},
    },
};
use tokio::{
    net::UdpSocket,
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use webrtc::{
    media_stream::track_remote::{TrackRemote, TrackRemoteEvent},
    peer_connection::{
        MediaEngine, PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCConfigurationBuilder,
        RTCIceCandidateInit, RTCIceGatheringState, RTCPeerConnectionState, RTCSessionDescription, Registry,
        SettingEngine, SettingEngineBuilder,
    },
};

use super::{
    ConnectError, Event, cut,
    sdp::{self, Description},
};
use crate::media::{AudioLevel, ParticipantId, RtpPacket};

/// To gather our candidates: host candidates only, so this is local work.
const GATHER_DEADLINE: Duration = Duration::from_secs(5);

/// From the exchange of descriptions to DTLS done.
const CONNECT_DEADLINE: Duration = Duration::from_secs(15);

/// Nothing from the relay, not even answers to connectivity checks: doubtful after this long,
const ICE_DISCONNECTED: Duration = Duration::from_secs(5);

/// lost for good after this much longer.
const ICE_FAILED: Duration = Duration::from_secs(10);

/// How often the path is checked while nothing else is sent on it.
const ICE_KEEPALIVE: Duration = Duration::from_secs(1);

/// Whose voice a section carries, by mid.
pub(super) type Voices = BTreeMap<String, Voice>;

/// What a packet of one section is to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Voice {
    /// Who speaks.
    pub(super) participant: ParticipantId,
    /// Id of the audio-level extension.
    pub(super) level: Option<u8>,
}

/// A change of the connection that does not end it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// Media can flow.
    Up,
    /// The relay is silent; it may come back.
    Silent,
}

/// The connection. Dropped, it is closed, though without waiting.
pub(super) struct Peer {
    pc: Arc<dyn PeerConnection>,
    voices: watch::Sender<Arc<Voices>>,
    state: watch::Receiver<RTCPeerConnectionState>,
    gathered: watch::Receiver<bool>,
    connect_by: Option<tokio::time::Instant>,
    closed: bool,
    _tracks: DropGuard,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The stack's own drop leaves its driver, and with it the socket, running for ever.
        if let (false, Ok(runtime)) = (self.closed, tokio::runtime::Handle::try_current()) {
            runtime.spawn(close(Arc::clone(&self.pc)));
        }
    }
}

async fn close(pc: Arc<dyn PeerConnection>) {
    if let Err(error) = pc.close().await {
        tracing::debug!(%error, "closing a media connection");
    }
}

impl Peer {
    /// A connection on these addresses that yields packets into `events`.
    pub(super) async fn new(bind: &[IpAddr], events: mpsc::Sender<Event>) -> Result<Self, ConnectError> {
        let (voices, voices_seen) = watch::channel(Arc::default());
        let (state, state_seen) = watch::channel(RTCPeerConnectionState::New);
        let (gathered, gathered_seen) = watch::channel(false);
        let tracks = CancellationToken::new();
        let handler = Handler { voices: voices_seen, events, state, gathered, tracks: tracks.clone() };
        let pc = PeerConnectionBuilder::new()
            .with_configuration(RTCConfigurationBuilder::new().build())
            .with_media_engine(media_engine().map_err(media)?)
            .with_interceptor_registry(interceptors())
            .with_setting_engine(settings(bind))
            .with_handler(Arc::new(handler))
            .with_udp_addrs(bind.iter().map(|ip| SocketAddr::new(*ip, 0)).collect())
            .build()
            .await
            .map_err(media)?;
        Ok(Self {
            pc: Arc::new(pc),
            voices,
            state: state_seen,
            gathered: gathered_seen,
            connect_by: None,
            closed: false,
            _tracks: tracks.drop_guard(),
        })
    }

    /// Our offer: one audio section to receive on.
    pub(super) async fn offer(&mut self) -> Result<String, ConnectError> {
        let init = RTCRtpTransceiverInit { direction: RTCRtpTransceiverDirection::Recvonly, ..Default::default() };
        self.pc.add_transceiver_from_kind(RtpCodecKind::Audio, Some(init)).await.map_err(media)?;
        let offer = self.pc.create_offer(None).await.map_err(media)?;
        self.describe(offer).await
    }

    /// Takes the relay's answer to our offer.
    pub(super) async fn accept(&mut self, answer: &Description, voices: Voices) -> Result<(), ConnectError> {
        self.voices.send_replace(Arc::new(voices));
        let answer = RTCSessionDescription::answer(answer.clean.clone()).map_err(|e| bad("SDP answer", e))?;
        self.pc.set_remote_description(answer).await.map_err(|e| bad("SDP answer", e))?;
        self.negotiated();
        Ok(())
    }

    /// Our answer to an offer of the relay's, the first or a later one.
    pub(super) async fn answer(&mut self, offer: &Description, voices: Voices) -> Result<String, ConnectError> {
        self.voices.send_replace(Arc::new(voices));
        let offer = RTCSessionDescription::offer(offer.clean.clone()).map_err(|e| bad("SDP offer", e))?;
        self.pc.set_remote_description(offer).await.map_err(|e| bad("SDP offer", e))?;
        let answer = self.pc.create_answer(None).await.map_err(|e| bad("SDP offer", e))?;
        let answer = self.describe(answer).await?;
        self.negotiated();
        Ok(answer)
    }

    /// Takes a candidate of the relay's that came after its description.
    pub(super) async fn add_candidate(&self, candidate: RTCIceCandidateInit) -> Result<(), ConnectError> {
        self.pc.add_ice_candidate(candidate).await.map_err(|e| bad("ICE candidate", e))
    }

    /// Waits for the connection to come up, or to be in doubt. Cancel safe.
    ///
    /// # Errors
    /// It did not come up in time, or is lost.
    pub(super) async fn changed(&mut self) -> Result<Link, ConnectError> {
        loop {
            let overdue = async {
                match self.connect_by {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.state.changed() => changed.map_err(|_| ConnectError::MediaLost("closed".into()))?,
                () = overdue => {
                    return Err(ConnectError::Timeout { what: "ICE and DTLS to connect", after: CONNECT_DEADLINE });
                }
            }
            let state = *self.state.borrow_and_update();
            match state {
                RTCPeerConnectionState::Connected => {
                    self.connect_by = None;
                    return Ok(Link::Up);
                }
                RTCPeerConnectionState::Disconnected => return Ok(Link::Silent),
                RTCPeerConnectionState::Failed | RTCPeerConnectionState::Closed => {
                    return Err(ConnectError::MediaLost(state.to_string()));
                }
                _ => {}
            }
        }
    }

    /// Closes the connection.
    pub(super) async fn close(mut self) {
        self.closed = true;
        close(Arc::clone(&self.pc)).await;
    }

    /// Makes `local` ours and returns it with our candidates.
    async fn describe(&mut self, local: RTCSessionDescription) -> Result<String, ConnectError> {
        self.pc.set_local_description(local).await.map_err(media)?;
        match timeout(GATHER_DEADLINE, self.gathered.wait_for(|done| *done)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Err(ConnectError::Media("closed while gathering candidates".into())),
            Err(_) => return Err(ConnectError::Media(format!("no candidates gathered in {GATHER_DEADLINE:?}"))),
        }
        let local = self.pc.local_description().await;
        Ok(local.ok_or_else(|| ConnectError::Media("no local description".into()))?.sdp)
    }

    fn negotiated(&mut self) {
        if *self.state.borrow() != RTCPeerConnectionState::Connected && self.connect_by.is_none() {
            self.connect_by = Some(tokio::time::Instant::now() + CONNECT_DEADLINE);
        }
    }
}

/// The addresses to receive media on: `bind`, or the one this host reaches the relay from.
///
/// The stack's own wildcard would leave out loopback, where relays under test live.
pub(super) async fn local_addresses(bind: &[IpAddr], relay: &reqwest::Url) -> Result<Vec<IpAddr>, ConnectError> {
    if !bind.is_empty() {
        return Ok(bind.to_vec());
    }
    let host = relay.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let port = relay.port_or_known_default().unwrap_or(443);
    let unreachable = |e: std::io::Error| ConnectError::Unreachable(format!("{host}: {e}"));
    let mut found = tokio::net::lookup_host((host, port)).await.map_err(unreachable)?;
    let to = found.next().ok_or_else(|| ConnectError::Unreachable(format!("{host} has no address")))?;
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.map_err(unreachable)?;
    // Sends nothing: the kernel only picks the route, and with it our address.
    socket.connect(to).await.map_err(unreachable)?;
    Ok(vec![socket.local_addr().map_err(unreachable)?.ip()])
}

/// Opus and nothing else: any other codec, and all video, is refused in the answer.
fn media_engine() -> Result<MediaEngine, webrtc::error::Error> {
    let mut engine = MediaEngine::default();
    let opus = RTCRtpCodec {
        mime_type: "audio/opus".into(),
        clock_rate: 48_000,
        channels: 2,
        sdp_fmtp_line: "minptime=10;useinbandfec=1".into(),
        rtcp_feedback: vec![],
    };
    let opus = RTCRtpCodecParameters { rtp_codec: opus, payload_type: 111 };
    engine.register_codec(opus, RtpCodecKind::Audio)?;
    for uri in [sdp::AUDIO_LEVEL_URI, sdp::MID_URI] {
        let extension = RTCRtpHeaderExtensionCapability { uri: uri.into() };
        engine.register_header_extension(extension, RtpCodecKind::Audio, None)?;
    }
    // The stack registers NACK for video only; a lost packet of speech is worth asking for as well.
    engine.register_feedback(RTCPFeedback { typ: "nack".into(), parameter: String::new() }, RtpCodecKind::Audio);
    Ok(engine)
}

fn interceptors() -> Registry {
    Registry::new()
        .with(Slot::NackGenerator, NackGeneratorBuilder::new().build())
        .with(Slot::ReceiverReport, ReceiverReportBuilder::new().build())
}

fn settings(bind: &[IpAddr]) -> SettingEngine {
    SettingEngineBuilder::new()
        .with_include_loopback_candidate(bind.iter().any(IpAddr::is_loopback))
        .with_multicast_dns_mode(MulticastDnsMode::Disabled)
        .with_ice_timeouts(Some(ICE_DISCONNECTED), Some(ICE_FAILED), Some(ICE_KEEPALIVE))
        .build()
}

fn media(error: webrtc::error::Error) -> ConnectError {
    ConnectError::Media(cut(&error.to_string(), 200))
}

fn bad(what: &'static str, error: webrtc::error::Error) -> ConnectError {
    ConnectError::BadMessage { what, why: cut(&error.to_string(), 200) }
}

/// Called on the stack's own loop: must not wait.
struct Handler {
    voices: watch::Receiver<Arc<Voices>>,
    events: mpsc::Sender<Event>,
    state: watch::Sender<RTCPeerConnectionState>,
    gathered: watch::Sender<bool>,
    tracks: CancellationToken,
}

#[async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            self.gathered.send_replace(true);
        }
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        tracing::debug!(%state, "media connection");
        self.state.send_replace(state);
    }

    async fn on_track(&self, track: Arc<dyn TrackRemote>) {
        let (voices, events) = (self.voices.clone(), self.events.clone());
        let forward = async move {
            // `sdp::read` made every track's id its section's mid.
            let mid = track.track_id().await;
            tracing::debug!(mid, "first packet of a section");
            forward(track, &mid, voices, events).await;
        };
        tokio::spawn(self.tracks.clone().run_until_cancelled_owned(forward));
    }
}

/// Hands on one section's packets. The section outlives its speaker: the relay may give it to another.
async fn forward(
    track: Arc<dyn TrackRemote>,
    mid: &str,
    mut voices: watch::Receiver<Arc<Voices>>,
    events: mpsc::Sender<Event>,
) {
    let mut voice = voices.borrow_and_update().get(mid).cloned();
    while let Some(event) = track.poll().await {
        let TrackRemoteEvent::OnRtpPacket(packet) = event else { continue };
        if voices.has_changed().unwrap_or(false) {
            voice = voices.borrow_and_update().get(mid).cloned();
        }
        let Some(voice) = voice.as_ref().filter(|_| !packet.payload.is_empty()) else { continue };
        let packet = received(voice, packet);
        tracing::trace!(mid, sequence = packet.sequence, bytes = packet.payload.len(), "packet");
        if events.try_send(Event::Packet(packet)).is_err() {
            metrics::counter!("nearfield_edge_connect_dropped_total").increment(1);
        }
    }
}

fn received(voice: &Voice, packet: rtc::rtp::Packet) -> RtpPacket {
    let level = voice.level.and_then(|id| packet.header.get_extension(id));
    RtpPacket {
        participant: voice.participant.clone(),
        sequence: packet.header.sequence_number,
        timestamp: packet.header.timestamp,
        level: level.and_then(|data| data.first().copied()).map(AudioLevel::from_byte),
        payload: packet.payload,
        arrived: Instant::now(),
        arrived_at: Micros::from_system(SystemTime::now()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;
    use rtc::rtp::{Header, Packet};

    use super::*;

    fn voice(level: Option<u8>) -> Voice {
        Voice { participant: ParticipantId::new("p").unwrap(), level }
    }

    #[test]
    fn the_level_is_read_under_the_negotiated_id_only() {
        let mut header = Header { sequence_number: 7, timestamp: 960, ..Default::default() };
        header.set_extension(4, Bytes::from_static(&[0x80 | 30])).unwrap();
        let packet = Packet { header, payload: Bytes::from_static(b"opus") };
        assert_eq!(received(&voice(Some(4)), packet.clone()).level, Some(AudioLevel { dbov: 30, voice: true }));
        assert_eq!(received(&voice(Some(5)), packet.clone()).level, None);
        assert_eq!(received(&voice(None), packet).level, None);
    }

    #[test]
    fn an_empty_level_is_no_level() {
        let mut header = Header::default();
        let _ = header.set_extension(4, Bytes::new());
        let packet = Packet { header, payload: Bytes::from_static(b"opus") };
        assert_eq!(received(&voice(Some(4)), packet).level, None);
    }

    #[tokio::test]
    async fn media_is_received_where_the_relay_is_reached_from() {
        let url = |text: &str| reqwest::Url::parse(text).unwrap();
        let local = local_addresses(&[], &url("ws://127.0.0.1:8188/")).await.unwrap();
        assert_eq!(local, [IpAddr::from(Ipv4Addr::LOCALHOST)]);
        let given = [IpAddr::from([10, 0, 0, 1])];
        assert_eq!(local_addresses(&given, &url("ws://127.0.0.1:1/")).await.unwrap(), given);
    }

    #[tokio::test]
    async fn our_offer_is_one_opus_section_to_receive_on() {
        let (events, _seen) = mpsc::channel(8);
        let mut peer = Peer::new(&[Ipv4Addr::LOCALHOST.into()], events).await.unwrap();
        let offer = peer.offer().await.unwrap();
        assert_eq!(offer.matches("m=").count(), 1, "{offer}");
        for line in ["m=audio", "a=recvonly", "opus/48000/2", "useinbandfec=1", "a=rtcp-fb:111 nack", "127.0.0.1"] {
            assert!(offer.contains(line), "{line} in {offer}");
        }
        assert!(offer.contains(sdp::AUDIO_LEVEL_URI) && offer.contains(sdp::MID_URI), "{offer}");
        peer.close().await;
    }

    #[tokio::test]
    async fn video_and_other_codecs_in_an_offer_are_refused() {
        let (events, _seen) = mpsc::channel(8);
        let mut peer = Peer::new(&[Ipv4Addr::LOCALHOST.into()], events).await.unwrap();
        let offer = sdp::read(&sdp::tests::offer(), sdp::Side::Offer).unwrap();
        let answer = peer.answer(&offer, Voices::new()).await.unwrap();
        assert_eq!(answer.matches("m=audio 9").count(), 2, "{answer}");
        assert!(answer.contains("m=video 0"), "{answer}");
        peer.close().await;
    }
}
