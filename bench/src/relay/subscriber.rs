//! One subscriber: a WebRTC connection that only sends, one audio section for each voice.

use std::{net::IpAddr, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use rtc::{
    ice::mdns::MulticastDnsMode,
    interceptor::{NackResponderBuilder, SenderReportBuilder, Slot},
    media_stream::MediaStreamTrack,
    rtp::{Packet as RtpPacket, header::Header},
    rtp_transceiver::{
        RTCRtpTransceiverDirection, RTCRtpTransceiverInit,
        rtp_sender::{
            RTCPFeedback, RTCRtpCodec, RTCRtpCodecParameters, RTCRtpCodingParameters, RTCRtpEncodingParameters,
            RTCRtpHeaderExtensionCapability, RtpCodecKind,
        },
    },
};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use webrtc::{
    error::Error,
    media_stream::track_local::{TrackLocal, static_rtp::TrackLocalStaticRTP},
    peer_connection::{
        MediaEngine, PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCConfigurationBuilder,
        RTCIceGatheringState, RTCPeerConnectionState, RTCSessionDescription, Registry, SettingEngineBuilder,
    },
    rtp_transceiver::RtpSender,
};

use super::voice::{Packet, Voice};

/// To gather host candidates: local work.
const GATHER_DEADLINE: Duration = Duration::from_secs(5);

/// From the answer to DTLS done, the client's next attempt included.
const CONNECT_DEADLINE: Duration = Duration::from_secs(20);

/// 20 ms steps that may wait for a slow connection; then the newest is dropped and counted.
const QUEUE: usize = 100;

const OPUS: u8 = 111;
const AUDIO_LEVEL_URI: &str = "urn:ietf:params:rtp-hdrext:ssrc-audio-level";
const MID_URI: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";

/// A subscriber, connected or about to be. Cheap to clone.
#[derive(Clone)]
pub(super) struct Subscriber {
    pc: Arc<dyn PeerConnection>,
    queue: mpsc::Sender<u32>,
    state: watch::Receiver<RTCPeerConnectionState>,
    gathered: watch::Receiver<bool>,
}

/// What turns steps of the clock into packets of one connection.
pub(super) struct Feed {
    lines: Vec<Line>,
    queue: mpsc::Receiver<u32>,
    state: watch::Receiver<RTCPeerConnectionState>,
}

/// One audio section.
struct Line {
    voice: Arc<Voice>,
    track: Arc<TrackLocalStaticRTP>,
    sender: Arc<dyn RtpSender>,
    ssrc: u32,
}

impl Subscriber {
    /// A connection on this address that will send these voices.
    pub(super) async fn new(bind: IpAddr, voices: &[Arc<Voice>]) -> Result<(Self, Feed), Error> {
        let (state, state_seen) = watch::channel(RTCPeerConnectionState::New);
        let (gathered, gathered_seen) = watch::channel(false);
        let (queue, steps) = mpsc::channel(QUEUE);
        let settings = SettingEngineBuilder::new()
            .with_include_loopback_candidate(bind.is_loopback())
            .with_multicast_dns_mode(MulticastDnsMode::Disabled)
            .build();
        let pc = PeerConnectionBuilder::new()
            .with_configuration(RTCConfigurationBuilder::new().build())
            .with_media_engine(media_engine()?)
            .with_interceptor_registry(interceptors())
            .with_setting_engine(settings)
            .with_handler(Arc::new(Handler { state, gathered }))
            .with_udp_addrs(vec![SocketAddr::new(bind, 0)])
            .build()
            .await?;
        let mut lines = Vec::with_capacity(voices.len());
        for voice in voices {
            lines.push(Line::new(&pc, voice.clone()).await?);
        }
        let subscriber = Self { pc: Arc::new(pc), queue, state: state_seen.clone(), gathered: gathered_seen };
        Ok((subscriber, Feed { lines, queue: steps, state: state_seen }))
    }

    /// Our offer, with our candidates.
    pub(super) async fn offer(&mut self) -> Result<String, Error> {
        let offer = self.pc.create_offer(None).await?;
        self.describe(offer).await
    }

    /// Takes the client's answer to our offer.
    pub(super) async fn accept(&self, answer: String) -> Result<(), Error> {
        self.pc.set_remote_description(RTCSessionDescription::answer(answer)?).await
    }

    /// Our answer to the client's offer.
    pub(super) async fn answer(&mut self, offer: String) -> Result<String, Error> {
        self.pc.set_remote_description(RTCSessionDescription::offer(offer)?).await?;
        let answer = self.pc.create_answer(None).await?;
        self.describe(answer).await
    }

    async fn describe(&mut self, local: RTCSessionDescription) -> Result<String, Error> {
        self.pc.set_local_description(local).await?;
        let gathered = timeout(GATHER_DEADLINE, self.gathered.wait_for(|done| *done)).await;
        gathered.map_err(|_| Error::Other(format!("no candidates gathered in {GATHER_DEADLINE:?}")))?.ok();
        let local = self.pc.local_description().await;
        Ok(local.ok_or_else(|| Error::Other("no local description".into()))?.sdp)
    }

    /// Hands over a step of the clock: whether there was room, or nothing where nobody is connected.
    pub(super) fn offer_step(&self, index: u32) -> Option<bool> {
        self.is_connected().then(|| self.queue.try_send(index).is_ok())
    }

    pub(super) fn is_connected(&self) -> bool {
        *self.state.borrow() == RTCPeerConnectionState::Connected
    }

    pub(super) async fn close(&self) {
        if let Err(error) = self.pc.close().await {
            tracing::debug!(%error, "closing a subscriber's connection");
        }
    }
}

impl Feed {
    /// Waits until the subscriber is connected.
    ///
    /// # Errors
    /// It did not connect in time, or failed.
    pub(super) async fn connected(&mut self) -> Result<(), String> {
        let settled = |state: &RTCPeerConnectionState| {
            use RTCPeerConnectionState::{Closed, Connected, Failed};
            matches!(state, Connected | Closed | Failed)
        };
        match timeout(CONNECT_DEADLINE, self.state.wait_for(settled)).await {
            Ok(Ok(state)) if *state == RTCPeerConnectionState::Connected => Ok(()),
            Ok(Ok(state)) => Err(format!("connection {}", *state)),
            Ok(Err(_)) => Err("connection dropped".into()),
            Err(_) => Err(format!("not connected within {CONNECT_DEADLINE:?}")),
        }
    }

    /// Sends until the connection ends.
    pub(super) async fn run(mut self) {
        let mut targets = Vec::with_capacity(self.lines.len());
        for line in &self.lines {
            targets.push(line.negotiated().await);
        }
        loop {
            let index = tokio::select! {
                step = self.queue.recv() => step,
                () = ended(&mut self.state) => None,
            };
            let Some(index) = index else { return };
            for (line, target) in self.lines.iter().zip(&targets) {
                let packet = line.voice.packets.get(index as usize).and_then(Option::as_ref);
                let Some(packet) = packet else { continue };
                if let Err(error) = line.track.write_rtp(rtp(packet, line.ssrc, target)).await {
                    return tracing::debug!(%error, "a subscriber can be sent nothing more");
                }
            }
        }
    }
}

async fn ended(state: &mut watch::Receiver<RTCPeerConnectionState>) {
    let over = |state: &RTCPeerConnectionState| {
        matches!(state, RTCPeerConnectionState::Closed | RTCPeerConnectionState::Failed)
    };
    // A dropped connection has ended as well.
    let _ = state.wait_for(over).await;
}

/// What was negotiated for one section.
struct Target {
    payload_type: u8,
    level_id: Option<u8>,
}

impl Line {
    async fn new(pc: &impl PeerConnection, voice: Arc<Voice>) -> Result<Self, Error> {
        let ssrc = rand::random();
        let coding = RTCRtpEncodingParameters {
            rtp_coding_parameters: RTCRtpCodingParameters { ssrc: Some(ssrc), ..Default::default() },
            codec: opus_codec(),
            ..Default::default()
        };
        // The stream id is how a WHEP client tells speakers apart (RFC 8830).
        let (stream, id) = (voice.id.to_string(), format!("{}-audio", voice.id));
        let track = MediaStreamTrack::new(stream, id, voice.name.to_string(), RtpCodecKind::Audio, vec![coding]);
        let track = Arc::new(TrackLocalStaticRTP::new(track));
        let init = RTCRtpTransceiverInit { direction: RTCRtpTransceiverDirection::Sendonly, ..Default::default() };
        let transceiver = pc.add_transceiver_from_track(track.clone(), Some(init)).await?;
        let sender = transceiver.sender().await?.ok_or_else(|| Error::Other("a track without a sender".into()))?;
        Ok(Self { voice, track, sender, ssrc })
    }

    async fn negotiated(&self) -> Target {
        let parameters = match self.sender.get_parameters().await {
            Ok(parameters) => parameters.rtp_parameters,
            Err(_) => return Target { payload_type: OPUS, level_id: None },
        };
        let level = parameters.header_extensions.iter().find(|extension| extension.uri == AUDIO_LEVEL_URI);
        Target {
            payload_type: parameters.codecs.first().map_or(OPUS, |codec| codec.payload_type),
            level_id: level.and_then(|extension| u8::try_from(extension.id).ok()),
        }
    }
}

fn rtp(packet: &Packet, ssrc: u32, target: &Target) -> RtpPacket {
    let mut header = Header {
        version: 2,
        marker: packet.marker,
        payload_type: target.payload_type,
        sequence_number: packet.sequence,
        timestamp: packet.timestamp,
        ssrc,
        ..Default::default()
    };
    if let Some(id) = target.level_id {
        let level = u8::from(packet.voice) << 7 | packet.level;
        // Fails only for ids and lengths that were not negotiated.
        let _ = header.set_extension(id, Bytes::copy_from_slice(&[level]));
    }
    RtpPacket { header, payload: packet.payload.clone() }
}

fn opus_codec() -> RTCRtpCodec {
    RTCRtpCodec {
        mime_type: "audio/opus".into(),
        clock_rate: 48_000,
        channels: 2,
        sdp_fmtp_line: "minptime=10;useinbandfec=1".into(),
        rtcp_feedback: vec![],
    }
}

fn media_engine() -> Result<MediaEngine, Error> {
    let mut engine = MediaEngine::default();
    let opus = RTCRtpCodecParameters { rtp_codec: opus_codec(), payload_type: OPUS };
    engine.register_codec(opus, RtpCodecKind::Audio)?;
    for uri in [AUDIO_LEVEL_URI, MID_URI] {
        let extension = RTCRtpHeaderExtensionCapability { uri: uri.into() };
        engine.register_header_extension(extension, RtpCodecKind::Audio, None)?;
    }
    engine.register_feedback(RTCPFeedback { typ: "nack".into(), parameter: String::new() }, RtpCodecKind::Audio);
    Ok(engine)
}

fn interceptors() -> Registry {
    Registry::new()
        .with(Slot::NackResponder, NackResponderBuilder::new().build())
        .with(Slot::SenderReport, SenderReportBuilder::new().build())
}

/// Called on the stack's own loop: must not wait.
struct Handler {
    state: watch::Sender<RTCPeerConnectionState>,
    gathered: watch::Sender<bool>,
}

#[async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            self.gathered.send_replace(true);
        }
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        tracing::debug!(%state, "a subscriber's connection");
        self.state.send_replace(state);
    }
}
