//! RTP off the socket: whose it is, opened, and told to the sender (RFC 3550, RFC 3711, RFC 8843 section 9.2).
//!
//! Only what authenticates leaves a trace: a forged packet makes no stream and moves no counter of one.

pub(super) mod header;
mod reception;

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

/// Streams of one connection over its life; a relay that makes more is not followed.
const MAX_STREAMS: usize = 1024;
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
            None => self.adopt(&header, datagram)?,
        };
        self.count(&header, section, now);
        let Section { voice, .. } = &self.sections[section];
        let voice = voice.as_ref().ok_or(Fault::Unknown)?;
        let payload = header.payload(plain).ok_or(Fault::Malformed)?;
        let level = voice.level.and_then(|id| header.extension(datagram, id)?.first().copied());
        Ok(RtpPacket {
            participant: voice.participant.clone(),
            sequence: header.sequence,
            timestamp: header.timestamp,
            level: level.map(AudioLevel::from_byte),
            payload: payload.freeze(),
            arrived: now,
            arrived_at: wall,
        })
    }

    /// Takes in a source not heard before, if the packet proves it.
    fn adopt(&mut self, header: &Header, datagram: &[u8]) -> Result<(usize, BytesMut), Fault> {
        let keys = self.keys.as_ref().ok_or(Fault::TooEarly)?;
        let section = section_of(header, datagram, &self.sections).ok_or(Fault::Unknown)?;
        if self.by_ssrc.len() >= MAX_STREAMS {
            return Err(Fault::Full);
        }
        let Section { mid, payload_type, .. } = &self.sections[section];
        if header.payload_type != *payload_type {
            return Err(Fault::Codec);
        }
        let mut stream = Stream {
            mid: mid.clone(),
            section: Some(section),
            context: keys.open().ok_or(Fault::TooEarly)?,
            header: rtp::Header { version: 2, ssrc: header.ssrc, ..rtp::Header::default() },
            reception: Reception::new(header.sequence),
        };
        let plain = stream.open(header, datagram)?;
        tracing::debug!(mid, "first packet of a source");
        self.by_ssrc.insert(header.ssrc, stream);
        Ok((section, plain))
    }

    fn count(&mut self, header: &Header, section: usize, now: Instant) {
        if let Some(stream) = self.by_ssrc.get_mut(&header.ssrc) {
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

impl Stream {
    /// The section of this packet of a known source: the packet may name another (RFC 8843 section 9.2).
    fn follow(&mut self, header: &Header, datagram: &[u8], sections: &[Section]) -> Result<usize, Fault> {
        let mut section = self.section;
        if let Some(id) = sections.first().and_then(|section| section.mid_id)
            && let Some(named) = header.extension(datagram, id)
            && named != self.mid.as_bytes()
        {
            section = sections.iter().position(|section| section.mid.as_bytes() == named);
        }
        let section = section.ok_or(Fault::Unknown)?;
        if header.payload_type == sections[section].payload_type { Ok(section) } else { Err(Fault::Codec) }
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

/// The section of an unknown source: by the description, by what the packet says, or because there is no other.
fn section_of(header: &Header, datagram: &[u8], sections: &[Section]) -> Option<usize> {
    if let Some(found) = sections.iter().position(|section| section.ssrcs.contains(&header.ssrc)) {
        return Some(found);
    }
    let named = sections.first().and_then(|section| section.mid_id).and_then(|id| header.extension(datagram, id));
    if let Some(named) = named {
        return sections.iter().position(|section| section.mid.as_bytes() == named);
    }
    match sections {
        [only] if only.ssrcs.is_empty() => Some(0),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
