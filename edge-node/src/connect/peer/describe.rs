//! Our side of the descriptions: what is needed of the relay's, and what we say ourselves (RFC 8829, RFC 8839, RFC 8842).

#[cfg(test)]
mod tests;

use std::{fmt::Write, io::Cursor};

use rtc::{
    ice::candidate::{Candidate, unmarshal_candidate},
    sdp::{MediaDescription, SessionDescription},
};

use super::{super::sdp, Voices, fingerprint::Fingerprint, rtp::Section};

/// Candidates of the relay's that are tried; more are passed over.
pub(super) const MAX_CANDIDATES: usize = 16;
/// Candidates of its that name a host; more are passed over.
pub(super) const MAX_NAMED: usize = 4;
/// What Opus is called in our offer.
const OPUS: u8 = 111;
/// Ids of the extensions in our offer.
const LEVEL_ID: u8 = 1;
const MID_ID: u8 = 2;

/// Credentials of one side (RFC 8445 section 5.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) ufrag: String,
    pub(super) password: String,
}

/// Who begins the DTLS handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setup {
    Active,
    Passive,
    ActPass,
}

/// What a connection needs of the relay's description.
#[derive(Debug, Clone)]
pub(super) struct Remote {
    pub(super) credentials: Credentials,
    /// Of the certificates it may show.
    pub(super) fingerprints: Vec<Fingerprint>,
    pub(super) setup: Setup,
    /// It only answers connectivity checks.
    pub(super) lite: bool,
    pub(super) candidates: Vec<Candidate>,
    /// Those of which it gives the name of a host.
    pub(super) named: Vec<Named>,
    media: Vec<Media>,
}

/// One section.
#[derive(Debug, Clone)]
struct Media {
    kind: String,
    protocols: String,
    formats: String,
    mid: String,
    opus: Option<u8>,
    red: Option<u8>,
    /// Its mid is the relay's own word.
    named: bool,
    ended: bool,
    sending: bool,
    ssrcs: Vec<u32>,
    level_id: Option<u8>,
    mid_id: Option<u8>,
    nack: bool,
}

/// Our end of a connection, as told to the relay.
#[derive(Debug, Clone)]
pub(super) struct Local {
    /// Unchanged over the connection's life.
    pub(super) id: u64,
    /// How often it was described before.
    pub(super) version: u64,
    pub(super) credentials: Credentials,
    pub(super) fingerprint: String,
    /// As in `a=candidate:`.
    pub(super) candidates: Vec<String>,
    /// There may be more of them later (RFC 8840).
    pub(super) trickles: bool,
    /// We take a data channel's section, on which nothing is ever said: there are relays that offer it before any audio.
    pub(super) data: bool,
}

/// A description that [`sdp::read`] has passed and we still cannot use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    #[error("it cannot be read as SDP")]
    Malformed,
    #[error("it has no ICE credentials")]
    Credentials,
    #[error("it has no SHA-256, SHA-384 or SHA-512 fingerprint")]
    Fingerprint,
}

impl Remote {
    /// Reads what [`sdp::read`] has checked.
    pub(super) fn read(clean: &str) -> Result<Self, Unusable> {
        let session = SessionDescription::unmarshal(&mut Cursor::new(clean)).map_err(|_| Unusable::Malformed)?;
        let media: Vec<Media> = session.media_descriptions.iter().map(Media::read).collect();
        let first = transport(&session);
        let find = |key: &str| {
            let own = first.and_then(|m| m.attribute(key).flatten());
            own.or_else(|| session.attribute(key).map(String::as_str)).map(str::to_owned)
        };
        let (Some(ufrag), Some(password)) = (find("ice-ufrag"), find("ice-pwd")) else {
            return Err(Unusable::Credentials);
        };
        let everywhere = session.attributes.iter().chain(first.into_iter().flat_map(|m| &m.attributes));
        let values =
            |key: &'static str| everywhere.clone().filter(move |a| a.key == key).filter_map(|a| a.value.as_deref());
        let fingerprints = Fingerprint::strongest(values("fingerprint").filter_map(Fingerprint::read).collect());
        if fingerprints.is_empty() {
            return Err(Unusable::Fingerprint);
        }
        let setup = match find("setup").as_deref() {
            Some("active") => Setup::Active,
            Some("passive") => Setup::Passive,
            _ => Setup::ActPass,
        };
        let all = session.media_descriptions.iter().flat_map(|m| &m.attributes).chain(&session.attributes);
        let told: Vec<&str> = all.filter(|a| a.key == "candidate").filter_map(|a| a.value.as_deref()).collect();
        Ok(Self {
            credentials: Credentials { ufrag, password },
            fingerprints,
            setup,
            lite: session.attributes.iter().any(|a| a.key == "ice-lite"),
            candidates: told.iter().filter_map(|text| candidate(text)).take(MAX_CANDIDATES).collect(),
            named: told.iter().filter_map(|text| Named::read(text)).take(MAX_NAMED).collect(),
            media,
        })
    }

    /// With what a fragment says of the relay.
    pub(super) fn restarted(mut self, credentials: Credentials, candidates: Vec<Candidate>) -> Self {
        self.named.clear();
        // Where it says nothing of them it is where it was.
        if !candidates.is_empty() {
            self.candidates = candidates;
        }
        self.credentials = credentials;
        self
    }

    /// The section whose transport all are received on.
    pub(super) fn mid(&self) -> &str {
        self.media.iter().find(|media| media.is_taken()).map_or("0", |media| &media.mid)
    }

    /// What is received on which section.
    pub(super) fn sections(&self, voices: &Voices) -> Vec<Section> {
        let section = |media: &Media| {
            Some(Section {
                mid: media.mid.clone(),
                voice: voices.get(&media.mid).cloned(),
                payload_type: media.opus?,
                red: media.red,
                ssrcs: media.ssrcs.clone(),
                mid_id: media.mid_id,
                nack: media.nack,
            })
        };
        self.media.iter().filter(|media| media.is_taken() && media.sending).filter_map(section).collect()
    }

    /// Our answer.
    pub(super) fn answer(&self, local: &Local) -> String {
        let is_data = |media: &Media| local.data && media.is_data();
        let taken = self.media.iter().filter(|m| (m.is_taken() || is_data(m)) && m.named);
        let taken: Vec<&str> = taken.map(|m| m.mid.as_str()).collect();
        let mut out = local.head(&taken);
        let setup = if self.setup == Setup::Active { "passive" } else { "active" };
        let mut first = true;
        for media in &self.media {
            match media.opus.filter(|_| media.is_taken()) {
                Some(opus) => {
                    media.put_taken(&mut out, opus, setup, local, first);
                    first = false;
                }
                None if is_data(media) => {
                    media.put_data(&mut out, setup, local, first);
                    first = false;
                }
                None => media.put_refused(&mut out),
            }
        }
        out
    }
}

/// What is new of one side, between descriptions (RFC 8840 section 9): its credentials and candidates.
pub(super) fn fragment(credentials: &Credentials, mid: &str, candidates: &[String]) -> String {
    let Credentials { ufrag, password } = credentials;
    let mut out =
        format!("a=ice-ufrag:{ufrag}\r\na=ice-pwd:{password}\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:{mid}\r\n");
    for candidate in candidates {
        let _ = write!(out, "a=candidate:{candidate}\r\n");
    }
    out
}

/// The relay's, should it have credentials.
pub(super) fn read_fragment(text: &str) -> Option<(Credentials, Vec<Candidate>)> {
    let values = |key: &'static str| text.lines().filter_map(move |line| line.trim().strip_prefix(key));
    let first = |key| values(key).next().map(str::to_owned).filter(|value| !value.is_empty() && value.len() <= 256);
    let credentials = Credentials { ufrag: first("a=ice-ufrag:")?, password: first("a=ice-pwd:")? };
    Some((credentials, values("a=candidate:").filter_map(candidate).take(MAX_CANDIDATES).collect()))
}

/// Those of a fragment's candidates that name a host.
pub(super) fn read_named(text: &str) -> Vec<Named> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("a=candidate:"));
    lines.filter_map(Named::read).take(MAX_NAMED).collect()
}

/// Our offer: so many sections of audio to receive, called by their numbers.
pub(super) fn offer(local: &Local, sections: usize) -> String {
    let mids: Vec<String> = (0..sections).map(|n| n.to_string()).collect();
    let mut out = local.head(&mids.iter().map(String::as_str).collect::<Vec<_>>());
    for (n, mid) in mids.iter().enumerate() {
        offered(mid).put_taken(&mut out, OPUS, "actpass", local, n == 0);
    }
    out
}

fn offered(mid: &str) -> Media {
    Media {
        kind: "audio".into(),
        protocols: "UDP/TLS/RTP/SAVPF".into(),
        formats: OPUS.to_string(),
        mid: mid.into(),
        opus: Some(OPUS),
        red: None,
        named: true,
        ended: false,
        sending: true,
        ssrcs: vec![],
        level_id: Some(LEVEL_ID),
        mid_id: Some(MID_ID),
        nack: true,
    }
}

/// A candidate we can use: UDP, with an address.
pub(super) fn candidate(text: &str) -> Option<Candidate> {
    let text = text.trim().strip_prefix("candidate:").unwrap_or(text.trim());
    let mut words = text.split_ascii_whitespace().skip(2);
    let udp = words.next()?.eq_ignore_ascii_case("udp");
    let address = words.nth(1)?;
    if !udp || address.parse::<std::net::IpAddr>().is_err() {
        return None;
    }
    unmarshal_candidate(text).ok().filter(|candidate| candidate.port() != 0)
}

/// A candidate that names a host instead of an address: of a relay whose address changes. Names under `.local`, by which browsers
/// hide their addresses, are none: only multicast DNS knows them (RFC 6762 section 3), and to wait for it would hold up the answer.
/// Where a name leads nowhere, the relay's checks still show where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) host: String,
    pub(super) port: u16,
    words: Vec<String>,
}

impl Named {
    /// What [`candidate`] cannot use for want of an address.
    pub(super) fn read(text: &str) -> Option<Self> {
        let text = text.trim().strip_prefix("candidate:").unwrap_or(text.trim());
        let words: Vec<String> = text.split_ascii_whitespace().map(str::to_owned).collect();
        let [_, _, transport, _, host, port, ..] = &words[..] else { return None };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        let is_name = host.len() <= 253
            && !host.to_ascii_lowercase().trim_end_matches('.').ends_with(".local")
            && host.chars().all(plain)
            && host.parse::<std::net::IpAddr>().is_err();
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let named = Self { host: host.clone(), port, words: words.clone() };
        (transport.eq_ignore_ascii_case("udp") && is_name).then_some(named)
    }

    /// The candidate, its host being there.
    pub(super) fn at(&self, ip: std::net::IpAddr) -> Option<Candidate> {
        let mut words = self.words.clone();
        words[4] = ip.to_string();
        candidate(&words.join(" "))
    }
}

impl Local {
    fn head(&self, bundled: &[&str]) -> String {
        let Self { id, version, .. } = self;
        let mut out = format!("v=0\r\no=- {id} {version} IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n");
        if !bundled.is_empty() {
            let _ = write!(out, "a=group:BUNDLE {}\r\n", bundled.join(" "));
        }
        out + "a=msid-semantic: WMS\r\n"
    }

    fn put_transport(&self, out: &mut String, setup: &str) {
        let Credentials { ufrag, password } = &self.credentials;
        let _ = write!(out, "a=ice-ufrag:{ufrag}\r\na=ice-pwd:{password}\r\n");
        let _ = write!(out, "a=fingerprint:sha-256 {}\r\na=setup:{setup}\r\n", self.fingerprint);
    }

    fn put_candidates(&self, out: &mut String) {
        for candidate in &self.candidates {
            let _ = write!(out, "a=candidate:{candidate}\r\n");
        }
        out.push_str(if self.trickles { "a=ice-options:trickle\r\n" } else { "a=end-of-candidates\r\n" });
    }
}

impl Media {
    fn read(media: &MediaDescription) -> Self {
        let name = &media.media_name;
        let values = |key: &'static str| {
            media.attributes.iter().filter(move |a| a.key == key).filter_map(|a| a.value.as_deref())
        };
        let format = |wanted: &str| {
            values("rtpmap").find_map(|line| {
                let (number, codec) = line.split_once(' ')?;
                let offered = name.formats.iter().any(|format| format == number);
                let number =
                    number.parse().ok().filter(|_| offered && codec.trim().to_ascii_lowercase().starts_with(wanted));
                number.filter(|number: &u8| *number < 128)
            })
        };
        let (opus, red) = (format("opus/48000"), format("red/48000"));
        let nack = |opus: u8| {
            values("rtcp-fb").any(|line| {
                let mut words = line.split_ascii_whitespace();
                words.next().is_some_and(|pt| pt == "*" || pt == opus.to_string()) && words.eq(["nack"])
            })
        };
        let mut ssrcs: Vec<u32> = values("ssrc").filter_map(|line| line.split(' ').next()?.parse().ok()).collect();
        ssrcs.dedup();
        Self {
            kind: name.media.clone(),
            protocols: name.protos.join("/"),
            formats: name.formats.join(" "),
            mid: media.attribute("mid").flatten().unwrap_or_default().to_owned(),
            opus,
            red,
            named: !media.has_attribute(sdp::UNNAMED),
            ended: name.port.value == 0 && !media.has_attribute("bundle-only"),
            sending: !media.has_attribute("inactive") && !media.has_attribute("recvonly"),
            ssrcs,
            level_id: sdp::extension(media, sdp::AUDIO_LEVEL_URI),
            mid_id: sdp::extension(media, sdp::MID_URI),
            nack: opus.is_some_and(nack),
        }
    }

    /// Whether we receive on it, now or later.
    fn is_taken(&self) -> bool {
        self.kind == "audio" && self.opus.is_some() && !self.ended
    }

    fn is_data(&self) -> bool {
        self.kind == "application" && self.protocols.ends_with("/SCTP") && !self.ended
    }

    /// As RFC 8841 has it; port 5000 of SCTP, where nobody listens.
    fn put_data(&self, out: &mut String, setup: &str, local: &Local, first: bool) {
        let Self { protocols, formats, .. } = self;
        let _ = write!(out, "m=application 9 {protocols} {formats}\r\nc=IN IP4 0.0.0.0\r\n{}", self.mid_line());
        local.put_transport(out, setup);
        out.push_str("a=sctp-port:5000\r\na=max-message-size:65536\r\n");
        if first {
            local.put_candidates(out);
        }
    }

    fn put_taken(&self, out: &mut String, opus: u8, setup: &str, local: &Local, first: bool) {
        let direction = if self.sending { "recvonly" } else { "inactive" };
        let Self { kind, protocols, .. } = self;
        let _ = write!(out, "m={kind} 9 {protocols} {opus}\r\nc=IN IP4 0.0.0.0\r\n{}", self.mid_line());
        let _ = write!(out, "a={direction}\r\na=rtcp-mux\r\n");
        local.put_transport(out, setup);
        let _ = write!(out, "a=rtpmap:{opus} opus/48000/2\r\na=fmtp:{opus} minptime=10;useinbandfec=1\r\n");
        if self.nack {
            let _ = write!(out, "a=rtcp-fb:{opus} nack\r\n");
        }
        for (id, uri) in [(self.level_id, sdp::AUDIO_LEVEL_URI), (self.mid_id, sdp::MID_URI)] {
            if let Some(id) = id {
                let _ = write!(out, "a=extmap:{id} {uri}\r\n");
            }
        }
        if first {
            local.put_candidates(out);
        }
    }

    fn put_refused(&self, out: &mut String) {
        let (Self { kind, protocols, formats, .. }, mid) = (self, self.mid_line());
        let _ = write!(out, "m={kind} 0 {protocols} {formats}\r\nc=IN IP4 0.0.0.0\r\n{mid}a=inactive\r\n");
    }

    /// What was not named is not named in the answer either (RFC 5888 section 9.1).
    fn mid_line(&self) -> String {
        if self.named { format!("a=mid:{}\r\n", self.mid) } else { String::new() }
    }
}

/// The section whose transport all are received on: of those bundled the first that is not refused (RFC 8843 section 7.2), else
/// that of the first audio; before there is any, of what is bundled.
fn transport(session: &SessionDescription) -> Option<&MediaDescription> {
    let bundled = sdp::bundled(session);
    let in_bundle = |m: &&MediaDescription| m.attribute("mid").flatten().is_some_and(|mid| bundled.contains(mid));
    let is_audio = |m: &&MediaDescription| m.media_name.media == "audio";
    let mut live =
        session.media_descriptions.iter().filter(|m| m.media_name.port.value != 0 || m.has_attribute("bundle-only"));
    let audio = live.clone().find(is_audio);
    if audio.is_none() || live.clone().any(|m| is_audio(&m) && in_bundle(&m)) { live.find(in_bundle) } else { audio }
}
