//! Our side of the descriptions: what is needed of the relay's, and what we say ourselves (RFC 8829, RFC 8839, RFC 8842).

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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::SocketAddr;

    use super::*;

    fn local() -> Local {
        let credentials = Credentials { ufrag: "ours".into(), password: "p".repeat(24) };
        let candidates = vec!["1 1 udp 2130706431 127.0.0.1 5000 typ host".into()];
        Local { id: 1, version: 2, credentials, fingerprint: "AA:BB".into(), candidates, trickles: false, data: false }
    }

    fn remote(text: &str) -> Remote {
        let clean = sdp::read(text, sdp::Side::Offer).unwrap().clean;
        Remote::read(&clean).unwrap()
    }

    #[test]
    fn our_own_answer_is_a_description() {
        let answer = remote(&sdp::tests::offer()).answer(&local());
        let read = sdp::read(&answer, sdp::Side::Answer).unwrap();
        assert!(read.audio.iter().all(|audio| audio.level == Some(3)), "{answer}");
        assert!(answer.contains("a=group:BUNDLE a b\r\n") && answer.contains("a=setup:active\r\n"), "{answer}");
        assert_eq!(answer.matches("a=candidate:").count(), 1);
    }

    #[test]
    fn a_data_channel_is_taken_where_it_is_offered_ahead_of_audio() {
        let text = sdp::tests::offer();
        let head = &text[..text.find("m=").unwrap()];
        let data = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=setup:actpass\r\n\
                    a=sctp-port:5000\r\n";
        let ahead = format!("{head}{data}");
        assert_eq!(sdp::read(&ahead, sdp::Side::Offer), Err(sdp::SdpError::NoAudio));
        let taken = |text: &str, data: bool| {
            let clean = sdp::read(text, sdp::Side::OfferAhead).unwrap().clean;
            Remote::read(&clean).unwrap().answer(&Local { data, ..local() })
        };
        let answer = taken(&ahead, true);
        assert!(
            answer.contains("a=group:BUNDLE 0\r\n") && answer.contains("m=application 9 UDP/DTLS/SCTP"),
            "{answer}"
        );
        assert!(answer.contains("a=ice-ufrag:ours") && answer.contains("a=setup:active"), "{answer}");
        assert_eq!(answer.matches("a=candidate:").count(), 1);
        let both = taken(&text.replacen("m=audio", &format!("{data}m=audio"), 1), true);
        assert!(both.contains("a=group:BUNDLE 0 a b\r\n"), "{both}");
        assert_eq!((both.matches("a=candidate:").count(), both.matches("m=audio 9").count()), (1, 2));
        assert!(taken(&ahead, false).contains("m=application 0 "));
    }

    #[test]
    fn a_section_that_sends_nothing_stays_and_yields_nothing() {
        let text = sdp::tests::offer().replacen("a=sendonly", "a=inactive", 1);
        let remote = remote(&text);
        let answer = remote.answer(&local());
        assert!(answer.contains("a=mid:a\r\na=inactive\r\n"), "{answer}");
        assert_eq!(remote.sections(&Voices::new()).len(), 1);
    }

    #[test]
    fn what_has_no_mid_is_answered_without_one_on_its_own_transport() {
        let bare = |text: &str| {
            let bare = |line: &&str| !line.starts_with("a=mid:") && !line.starts_with("a=group:");
            text.lines().filter(bare).map(|line| format!("{line}\r\n")).collect::<String>()
        };
        let video =
            "m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=ice-ufrag:video\r\na=ice-pwd:video\r\na=rtpmap:96 VP8/90000\r\n";
        let offer = bare(&sdp::tests::offer());
        let audio = offer.find("m=audio").unwrap()..offer.rfind("m=audio").unwrap();
        let remote = remote(&(offer[..audio.start].to_owned() + video + &offer[audio]));
        assert_eq!((remote.credentials.ufrag.as_str(), remote.sections(&Voices::new()).len()), ("abcd", 1));
        let answer = remote.answer(&local());
        assert!(!answer.contains("a=mid") && !answer.contains("a=group") && !answer.contains(sdp::UNNAMED), "{answer}");
        assert!(answer.contains("m=video 0 ") && answer.contains("m=audio 9 "), "{answer}");
    }

    #[test]
    fn redundant_opus_is_taken_but_not_asked_for() {
        let text = sdp::tests::offer()
            .replace("SAVPF 111", "SAVPF 63 111")
            .replace("a=rtpmap:111", "a=rtpmap:63 red/48000/2\r\na=rtpmap:111");
        let remote = remote(&text);
        let sections = remote.sections(&Voices::new());
        assert_eq!((sections[0].payload_type, sections[0].red), (111, Some(63)));
        assert!(!remote.answer(&local()).contains("red/"));
    }

    #[test]
    fn a_section_without_opus_is_refused() {
        let text = sdp::tests::offer().replacen("opus/48000/2", "G722/8000", 1);
        assert_eq!(remote(&text).answer(&local()).matches("m=audio 0 ").count(), 1);
    }

    #[test]
    fn a_fragment_is_read_as_it_is_written() {
        let Local { credentials, candidates, .. } = local();
        let text = fragment(&credentials, "0", &candidates);
        let (read, found) = read_fragment(&text).unwrap();
        assert_eq!((read, found.len()), (credentials, 1));
        assert!(read_fragment("a=ice-ufrag:x\r\n").is_none() && read_fragment("").is_none());
        let many = text + &"a=candidate:1 1 udp 1 10.0.0.1 9 typ host\r\n".repeat(1000);
        assert_eq!(read_fragment(&many).unwrap().1.len(), MAX_CANDIDATES);
    }

    #[test]
    fn candidates_that_lead_nowhere_are_passed_over() {
        for bad in [
            "",
            "1 1 udp",
            "1 1 tcp 1 10.0.0.1 9 typ host tcptype active",
            "1 1 udp 1 a.local 9 typ host",
            "1 1 udp 1 10.0.0.1 0 typ host",
        ] {
            assert!(candidate(bad).is_none(), "{bad}");
        }
        let good = candidate("candidate:1 1 UDP 2122194687 10.0.0.1 5000 typ host generation 0").unwrap();
        assert_eq!(good.addr(), SocketAddr::from(([10, 0, 0, 1], 5000)));
    }

    #[test]
    fn a_candidate_that_names_a_host_is_one_where_that_is() {
        let named = Named::read("candidate:1 1 UDP 2122194687 sfu.example 5000 typ host generation 0").unwrap();
        assert_eq!((named.host.as_str(), named.port), ("sfu.example", 5000));
        let at = named.at([10, 0, 0, 7].into()).unwrap();
        assert_eq!(at.addr(), SocketAddr::from(([10, 0, 0, 7], 5000)));
        for bad in [
            "",
            "1 1 udp 1 5b3f29cc-0a1c-4d2c-a2a9-6b5d25d6b2de.Local. 9 typ host",
            "1 1 tcp 1 a.example 9 typ host",
            "1 1 udp 1 10.0.0.1 9 typ host",
            "1 1 udp 1 a.example 0 typ host",
        ] {
            assert_eq!(Named::read(bad), None, "{bad}");
        }
        let line = "a=candidate:1 1 udp 1 a.example 9 typ host\r\n";
        let text = sdp::tests::offer().replacen("a=ice-ufrag", &(line.repeat(50) + "a=ice-ufrag"), 1);
        assert_eq!(remote(&text).named.len(), MAX_NAMED);
    }
}
