//! RTP off the socket: whose it is, opened, and told to the sender (RFC 3550, RFC 3711, RFC 8843 section 9.2).
//!
//! Only what authenticates leaves a trace: a forged packet makes no stream and moves no counter of one.

pub(super) mod header;
mod reception;
mod red;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use mesh::clock::Micros;
use rtc::{
    crypto::RTCCryptoProvider,
    rtp,
    srtp::{
        config::SessionKeys, context::Context, option::srtp_replay_protection, protection_profile::ProtectionProfile,
    },
};

pub(super) use self::header::Header;
use self::reception::Reception;
use super::Voice;
use crate::media::{AudioLevel, RtpPacket};

/// Streams of one connection.
const MAX_STREAMS: usize = 1024;
/// Of these the one silent for longest makes room for another, if it has been for so long.
const FORGET: Duration = Duration::from_secs(60);
/// Packets by which a packet may be late and still be told from a replay: more than are ever waited for.
const REPLAY_WINDOW: usize = 128;
/// How often the relay is told what arrived.
const REPORT_EVERY: Duration = Duration::from_secs(3);
/// Blocks in one report (RFC 3550 section 6.4.2).
const MAX_BLOCKS: usize = 31;

/// One section's share of the description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    /// Its media identification.
    pub(super) mid: String,
    /// Whose voice it carries; nobody's: its packets fall.
    pub(super) voice: Option<Voice>,
    /// What Opus is called in it.
    pub(super) payload_type: u8,
    /// What Opus with copies of what was before is called in it (RFC 2198): not asked for, but some relays forward it.
    pub(super) red: Option<u8>,
    /// The sources it names.
    pub(super) ssrcs: Vec<u32>,
    /// The id of the extension that names the section.
    pub(super) mid_id: Option<u8>,
    /// Whether the relay sends again what is asked for.
    pub(super) nack: bool,
}

/// Why a packet fell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is no RTP packet, or has no payload.
    Malformed,
    /// There are no keys yet.
    TooEarly,
    /// No section's.
    Unknown,
    /// Of another codec.
    Codec,
    /// Not from who has the key, or a replay.
    Forged,
    /// There are [`MAX_STREAMS`].
    Full,
}

impl Fault {
    /// As a label of a metric.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooEarly => "early",
            Self::Unknown => "unknown_source",
            Self::Codec => "codec",
            Self::Forged => "forged",
            Self::Full => "streams",
        }
    }
}

/// What opens the relay's packets.
#[derive(Clone)]
pub(super) struct Keys {
    pub(super) session: Arc<SessionKeys>,
    pub(super) profile: ProtectionProfile,
    pub(super) provider: Arc<dyn RTCCryptoProvider>,
}

impl Keys {
    /// A context for one stream of the relay's: what is forged in one leaves the others alone.
    fn open(&self) -> Option<Context> {
        let SessionKeys { remote_master_key, remote_master_salt, .. } = &*self.session;
        let replay = Some(srtp_replay_protection(REPLAY_WINDOW));
        let crypto = self.provider.crypto();
        Context::new(remote_master_key, remote_master_salt, self.profile, replay, None, crypto).ok()
    }
}

/// All streams of one connection.
#[derive(Default)]
pub(super) struct Streams {
    sections: Vec<Section>,
    by_ssrc: BTreeMap<u32, Stream>,
    keys: Option<Keys>,
    report_at: Option<Instant>,
    /// Retransmissions are wanted, or reports, sooner than was said before.
    pub(super) hurried: bool,
}

/// One source. It lives as long as the connection: its counters go on where it pauses.
struct Stream {
    mid: String,
    /// Where its section is; nowhere while the description has none such.
    section: Option<usize>,
    context: Context,
    /// Stands in for the packet's own: of its length, source and number, which is all that is asked of it.
    header: rtp::Header,
    reception: Reception,
    heard: Instant,
}

impl Streams {
    /// Follows a description. What streams there were keep their counters.
    pub(super) fn describe(&mut self, sections: Vec<Section>) {
        for (ssrc, stream) in &mut self.by_ssrc {
            if let Some(section) = sections.iter().find(|section| section.ssrcs.contains(ssrc)) {
                stream.mid.clone_from(&section.mid);
            }
            stream.section = sections.iter().position(|section| section.mid == stream.mid);
        }
        self.sections = sections;
    }

    /// There are keys from now on.
    pub(super) fn unlock(&mut self, keys: Keys, now: Instant) {
        self.keys = Some(keys);
        self.report_at = Some(now + REPORT_EVERY);
    }

    /// Opens a packet.
    pub(super) fn handle(&mut self, datagram: &[u8], now: Instant, wall: Micros) -> Result<RtpPacket, Fault> {
        let header = Header::parse(datagram).ok_or(Fault::Malformed)?;
        let (section, plain) = match self.by_ssrc.get_mut(&header.ssrc) {
            Some(stream) => {
                let section = stream.follow(&header, datagram, &self.sections)?;
                (section, stream.open(&header, datagram)?)
            }
            None => self.adopt(&header, datagram, now)?,
        };
        self.count(&header, section, now);
        let section = &self.sections[section];
        let voice = section.voice.as_ref().ok_or(Fault::Unknown)?;
        let payload = section.opus(&header, header.payload(plain).ok_or(Fault::Malformed)?)?;
        let level = voice.level.and_then(|id| header.extension(datagram, id)?.first().copied());
        Ok(RtpPacket {
            participant: voice.participant.clone(),
            source: header.ssrc,
            sequence: header.sequence,
            timestamp: header.timestamp,
            level: level.map(AudioLevel::from_byte),
            payload: payload.freeze(),
            arrived: now,
            arrived_at: wall,
        })
    }

    /// Takes in a source not heard before, if the packet proves it.
    fn adopt(&mut self, header: &Header, datagram: &[u8], now: Instant) -> Result<(usize, BytesMut), Fault> {
        let keys = self.keys.as_ref().ok_or(Fault::TooEarly)?;
        let section = section_of(header, datagram, &self.sections).ok_or(Fault::Unknown)?;
        let Section { mid, .. } = &self.sections[section];
        if !self.sections[section].carries(header.payload_type) {
            return Err(Fault::Codec);
        }
        let oldest = self.oldest(now)?;
        let mut stream = Stream {
            mid: mid.clone(),
            section: Some(section),
            context: keys.open().ok_or(Fault::TooEarly)?,
            header: rtp::Header { version: 2, ssrc: header.ssrc, ..rtp::Header::default() },
            reception: Reception::new(header.sequence),
            heard: now,
        };
        let plain = stream.open(header, datagram)?;
        tracing::debug!(mid, "first packet of a source");
        if let Some(ssrc) = oldest {
            self.by_ssrc.remove(&ssrc);
        }
        self.by_ssrc.insert(header.ssrc, stream);
        Ok((section, plain))
    }

    /// The stream that has to go before another comes.
    fn oldest(&self, now: Instant) -> Result<Option<u32>, Fault> {
        if self.by_ssrc.len() < MAX_STREAMS {
            return Ok(None);
        }
        let oldest = self.by_ssrc.iter().min_by_key(|(_, stream)| stream.heard);
        let oldest = oldest.filter(|(_, stream)| stream.heard + FORGET <= now);
        oldest.map(|(ssrc, _)| Some(*ssrc)).ok_or(Fault::Full)
    }

    fn count(&mut self, header: &Header, section: usize, now: Instant) {
        if let Some(stream) = self.by_ssrc.get_mut(&header.ssrc) {
            stream.heard = now;
            let nack = self.sections[section].nack;
            self.hurried |= stream.reception.handle(header.sequence, header.timestamp, now, nack);
        }
    }

    /// Takes note of a sender's report, whose middle bits of NTP time it wants back.
    pub(super) fn handle_sender_report(&mut self, ssrc: u32, time: u32, now: Instant) {
        if let Some(stream) = self.by_ssrc.get_mut(&ssrc) {
            stream.reception.handle_sender_report(time, now);
        }
    }

    /// Whether a source is known.
    pub(super) fn knows(&self, ssrc: u32) -> bool {
        self.by_ssrc.contains_key(&ssrc)
    }

    /// When [`Streams::poll_reports`] is next wanted.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let missing = self.by_ssrc.values().filter_map(|stream| stream.reception.poll_timeout()).min();
        self.report_at.into_iter().chain(missing).min()
    }

    /// The compound packet that is due, if one is, from `sender`.
    pub(super) fn poll_reports(&mut self, sender: u32, now: Instant) -> Option<BytesMut> {
        let due = self.report_at.is_some_and(|at| at <= now);
        let mut out = BytesMut::new();
        let mut asked: Vec<(u32, Vec<u16>)> = vec![];
        for (ssrc, stream) in &mut self.by_ssrc {
            let missing = stream.reception.poll_missing(now);
            if !missing.is_empty() {
                asked.push((*ssrc, missing));
            }
        }
        if due {
            self.report_at = Some(now + REPORT_EVERY);
        }
        if !due && asked.is_empty() {
            return None;
        }
        let blocks: Vec<_> = if due {
            self.by_ssrc.iter_mut().map(|(ssrc, stream)| stream.reception.report(*ssrc, now)).collect()
        } else {
            vec![]
        };
        // A compound packet begins with a report, be it empty (RFC 3550 section 6.1).
        reception::put_reports(&mut out, sender, blocks.chunks(MAX_BLOCKS));
        for (ssrc, missing) in asked {
            reception::put_nack(&mut out, sender, ssrc, &missing);
        }
        Some(out)
    }
}

impl Section {
    /// Whether there is Opus in packets of this type.
    fn carries(&self, payload_type: u8) -> bool {
        payload_type == self.payload_type || Some(payload_type) == self.red
    }

    /// Whether it is told whose its sources are, where nothing names them.
    fn takes_unnamed(&self) -> bool {
        self.ssrcs.is_empty() || self.voice.as_ref().is_none_or(|voice| voice.takes_unnamed)
    }

    /// The Opus packet in a payload; nothing where it is of another codec (comfort noise, tones), so that its number is not missing.
    fn opus(&self, header: &Header, payload: BytesMut) -> Result<BytesMut, Fault> {
        match header.payload_type {
            opus if opus == self.payload_type => Ok(payload),
            _ if payload.is_empty() => Ok(payload),
            red if Some(red) == self.red => red::primary(payload, self.payload_type).ok_or(Fault::Malformed),
            _ => Ok(BytesMut::new()),
        }
    }

    fn is_named(&self, header: &Header, datagram: &[u8]) -> bool {
        self.mid_id.is_some_and(|id| header.extension(datagram, id) == Some(self.mid.as_bytes()))
    }
}

impl Stream {
    /// The section of this packet of a known source: the packet may name another (RFC 8843 section 9.2). A name that no
    /// section has, as the publisher's own that some relays forward, says nothing.
    fn follow(&self, header: &Header, datagram: &[u8], sections: &[Section]) -> Result<usize, Fault> {
        let id = self.section.and_then(|own| sections[own].mid_id).or(sections.first().and_then(|s| s.mid_id));
        let named = id.and_then(|id| header.extension(datagram, id)).filter(|named| *named != self.mid.as_bytes());
        let other = named.and_then(|_| sections.iter().position(|section| section.is_named(header, datagram)));
        other.or(self.section).ok_or(Fault::Unknown)
    }

    fn open(&mut self, header: &Header, datagram: &[u8]) -> Result<BytesMut, Fault> {
        self.header.sequence_number = header.sequence;
        let words = (header.length - header::FIXED) / 4;
        if self.header.csrc.len() != words {
            self.header.csrc.resize(words, 0);
        }
        self.context.decrypt_rtp_with_header(datagram, &self.header).map_err(|_| Fault::Forged)
    }
}

/// The section of an unknown source (RFC 8843 section 9.2): by the description, by what the packet says, or because no other
/// has packets of this type.
fn section_of(header: &Header, datagram: &[u8], sections: &[Section]) -> Option<usize> {
    if let Some(found) = sections.iter().position(|section| section.ssrcs.contains(&header.ssrc)) {
        return Some(found);
    }
    if let Some(found) = sections.iter().position(|section| section.is_named(header, datagram)) {
        return Some(found);
    }
    let says_more = sections.iter().filter_map(|s| s.mid_id).any(|id| header.extension(datagram, id).is_some());
    let mut fitting = sections.iter().enumerate().filter(|(_, section)| section.carries(header.payload_type));
    match (fitting.next(), fitting.next()) {
        (Some((only, section)), None) if !says_more && section.takes_unnamed() => Some(only),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
