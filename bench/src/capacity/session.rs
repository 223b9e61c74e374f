//! One meeting of the generator: an ICE-lite, DTLS-SRTP sender with a stream for each participant.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow};
use bytes::{BufMut, BytesMut};
use rtc::{
    crypto::{HashAlgorithm, RTCCryptoProvider, default_provider},
    dtls::{
        config::{ClientAuthType, ConfigBuilder, ExtendedMasterSecretType, HandshakeConfig},
        crypto::Certificate,
        endpoint::{Endpoint, EndpointEvent},
        extension::extension_use_srtp::SrtpProtectionProfile,
    },
    rtp,
    shared::{TransportProtocol, marshal::Unmarshal},
    srtp::{
        config::{Config, LABEL_EXTRACTOR_DTLS_SRTP},
        context::Context,
        protection_profile::ProtectionProfile,
    },
    stun::{
        attributes::ATTR_USERNAME,
        fingerprint::FINGERPRINT,
        integrity::MessageIntegrity,
        message::{BINDING_REQUEST, BINDING_SUCCESS, Message},
        xoraddr::XorMappedAddress,
    },
};

use super::{
    timing::TICK_SAMPLES,
    voices::{Packet, Voices},
};

/// The id of the audio-level extension in our offers.
const LEVEL_ID: u8 = 1;
/// Bytes of an RTP header with that extension.
const HEADER: usize = 20;

/// What all sessions share.
pub(super) struct Identity {
    provider: Arc<dyn RTCCryptoProvider>,
    handshake: Arc<HandshakeConfig>,
    fingerprint: String,
}

/// A meeting as the generator sees it.
pub(super) struct Session {
    meeting: usize,
    dtls: Endpoint,
    /// Where the edge receives, once it has checked the path.
    pub(super) remote: Option<SocketAddr>,
    srtp: Option<Context>,
    headers: Vec<rtp::Header>,
    scratch: BytesMut,
}

impl Identity {
    pub(super) fn new() -> Result<Self> {
        let provider = default_provider().map_err(|e| anyhow!("{e}"))?;
        let certificate = Certificate::generate_self_signed(vec!["generator".to_owned()], provider.crypto())?;
        let der = certificate.certificate.first().context("a certificate")?;
        let hash = provider.crypto().hash(HashAlgorithm::Sha256, der).map_err(|e| anyhow!("{e}"))?;
        let fingerprint = hash.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":");
        let handshake = ConfigBuilder::default()
            .with_crypto_provider(provider.clone())
            .with_certificates(vec![certificate])
            .with_srtp_protection_profiles(vec![SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm])
            .with_client_auth(ClientAuthType::RequireAnyClientCert)
            .with_insecure_skip_verify(true)
            .with_extended_master_secret(ExtendedMasterSecretType::Require)
            .build(false, None)?;
        Ok(Self { provider, handshake: Arc::new(handshake), fingerprint })
    }

    /// The offer of a meeting whose media come from this address.
    pub(super) fn offer(&self, meeting: usize, people: usize, at: SocketAddr) -> String {
        let mids: Vec<String> = (0..people).map(|who| who.to_string()).collect();
        let (ip, port, fingerprint) = (at.ip(), at.port(), &self.fingerprint);
        let (ufrag, pwd) = (ufrag(meeting), password(meeting));
        let mut sdp = format!(
            "v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nt=0 0\r\na=ice-lite\r\na=group:BUNDLE {}\r\n",
            mids.join(" ")
        );
        for who in 0..people {
            sdp += &format!(
                "m=audio {port} UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 {ip}\r\na=mid:{who}\r\na=sendonly\r\na=rtcp-mux\r\n\
                 a=ice-ufrag:{ufrag}\r\na=ice-pwd:{pwd}\r\na=fingerprint:sha-256 {fingerprint}\r\na=setup:passive\r\n\
                 a=rtpmap:111 opus/48000/2\r\na=fmtp:111 minptime=10;useinbandfec=1\r\n\
                 a=extmap:{LEVEL_ID} urn:ietf:params:rtp-hdrext:ssrc-audio-level\r\na=msid:{id} audio\r\n\
                 a=ssrc:{ssrc} cname:generator\r\na=candidate:1 1 udp 2130706431 {ip} {port} typ host\r\n\
                 a=end-of-candidates\r\n",
                id = participant(meeting, who),
                ssrc = ssrc(meeting, who),
            );
        }
        sdp
    }
}

/// The id of a participant, which is its media stream's.
pub(super) fn participant(meeting: usize, who: usize) -> String {
    format!("{meeting}-{who}")
}

/// The address that a meeting's media come from: as from a relay that has a transport for each subscriber.
pub(super) fn address(meeting: usize) -> Ipv4Addr {
    let n = meeting as u32;
    Ipv4Addr::new(127, 64 + (n / 62_500) as u8, (n / 250 % 250) as u8, (n % 250 + 1) as u8)
}

fn ufrag(meeting: usize) -> String {
    format!("gen{meeting:06}")
}

/// Guards nothing: both ends are ours.
fn password(meeting: usize) -> String {
    format!("generator-password-{meeting:08}")
}

fn ssrc(meeting: usize, who: usize) -> u32 {
    (meeting as u32 + 1) * 1000 + who as u32
}

impl Session {
    pub(super) fn new(meeting: usize, people: usize, at: SocketAddr, identity: &Identity) -> Result<Self> {
        let header = |who| -> Result<rtp::Header> {
            let mut bytes = BytesMut::new();
            put_header(&mut bytes, 0, 0, ssrc(meeting, who), 0);
            Ok(rtp::Header::unmarshal(&mut bytes)?)
        };
        Ok(Self {
            meeting,
            dtls: Endpoint::new(at, TransportProtocol::UDP, Some(identity.handshake.clone())),
            remote: None,
            srtp: None,
            headers: (0..people).map(header).collect::<Result<_>>()?,
            scratch: BytesMut::with_capacity(1500),
        })
    }

    /// Takes a datagram from the edge; what is to be sent back is passed to `send`.
    pub(super) fn handle(
        &mut self,
        identity: &Identity,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
        mut send: impl FnMut(&[u8]),
    ) -> Result<()> {
        match datagram.first() {
            Some(0..=3) => {
                if let Some(reply) = self.check(identity, from, datagram)? {
                    send(&reply);
                }
            }
            Some(20..=63) => {
                let events = self.dtls.read(now, from, None, BytesMut::from(datagram))?;
                if events.iter().any(|event| matches!(event, EndpointEvent::HandshakeComplete)) {
                    self.srtp = Some(self.keys(identity, from)?);
                }
                self.flush(send);
            }
            // What the edge reports of our packets.
            _ => {}
        }
        Ok(())
    }

    /// Lets time pass for the handshake.
    pub(super) fn handle_timeout(&mut self, now: Instant, send: impl FnMut(&[u8])) {
        if let (Some(remote), None) = (self.remote, &self.srtp) {
            let _ = self.dtls.handle_timeout(remote, now);
            self.flush(send);
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.srtp.is_some()
    }

    /// The protected packet of `tick`.
    pub(super) fn packet(&mut self, voices: &Voices, who: usize, tick: u64) -> Result<BytesMut> {
        let Packet { level, payload } = voices.packet(self.meeting, who, tick);
        let (sequence, timestamp) = (tick as u16, (tick * TICK_SAMPLES) as u32);
        self.scratch.clear();
        put_header(&mut self.scratch, sequence, timestamp, ssrc(self.meeting, who), *level);
        self.scratch.extend_from_slice(payload);
        let header = &mut self.headers[who];
        (header.sequence_number, header.timestamp) = (sequence, timestamp);
        let srtp = self.srtp.as_mut().context("not connected")?;
        Ok(srtp.encrypt_rtp_with_header(&self.scratch, header)?)
    }

    /// The answer to a connectivity check.
    fn check(&mut self, identity: &Identity, from: SocketAddr, datagram: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut request = Message { raw: datagram.to_vec(), ..Message::default() };
        request.decode()?;
        if request.typ != BINDING_REQUEST || !request.get(ATTR_USERNAME)?.starts_with(ufrag(self.meeting).as_bytes()) {
            return Ok(None);
        }
        self.remote = Some(from);
        let integrity = MessageIntegrity::new_short_term_integrity_with_provider(
            password(self.meeting),
            identity.provider.crypto(),
        );
        let mut reply = Message::new();
        reply.build(&[
            Box::new(request.transaction_id),
            Box::new(BINDING_SUCCESS),
            Box::new(XorMappedAddress { ip: from.ip(), port: from.port() }),
            Box::new(integrity),
            Box::new(FINGERPRINT),
        ])?;
        Ok(Some(reply.raw))
    }

    fn keys(&self, identity: &Identity, remote: SocketAddr) -> Result<Context> {
        let state = self.dtls.get_connection_state(remote).context("no DTLS state")?;
        let mut config = Config { profile: ProtectionProfile::AeadAes128Gcm, ..Config::default() };
        let material = state.export_keying_material(LABEL_EXTRACTOR_DTLS_SRTP, &[], config.keying_material_len())?;
        config.set_session_keys_from_keying_material(material.as_ref(), state.is_client())?;
        let keys = &config.keys;
        let crypto = identity.provider.crypto();
        Ok(Context::new(&keys.local_master_key, &keys.local_master_salt, config.profile, None, None, crypto)?)
    }

    fn flush(&mut self, mut send: impl FnMut(&[u8])) {
        while let Some(transmit) = self.dtls.poll_transmit() {
            send(&transmit.message);
        }
    }
}

fn put_header(out: &mut BytesMut, sequence: u16, timestamp: u32, ssrc: u32, level: u8) {
    out.reserve(HEADER);
    out.put_u8(0x90);
    out.put_u8(111);
    out.put_u16(sequence);
    out.put_u32(timestamp);
    out.put_u32(ssrc);
    out.put_u16(0xBEDE);
    out.put_u16(1);
    out.put_slice(&[LEVEL_ID << 4, level, 0, 0]);
}

/// Which meeting has this address; see [`address`].
pub(super) fn meeting_at(ip: IpAddr) -> Option<usize> {
    let IpAddr::V4(ip) = ip else { return None };
    let [_, b, c, d] = ip.octets();
    Some(usize::from(b.checked_sub(64)?) * 62_500 + usize::from(c) * 250 + usize::from(d.checked_sub(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_meeting_has_an_address_of_its_own() {
        for meeting in [0, 1, 249, 250, 1000, 62_499, 62_500, 100_000] {
            assert_eq!(meeting_at(address(meeting).into()), Some(meeting));
        }
    }
}
