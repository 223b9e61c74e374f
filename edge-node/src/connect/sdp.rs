//! What we read of a relay's SDP (RFC 8866), and what we change in it before the WebRTC stack sees it.

use std::{collections::BTreeSet, io::Cursor};

use rtc::sdp::{MediaDescription, SessionDescription, description::common::Attribute};

/// The longest description taken from a relay, in bytes.
pub(super) const MAX_SDP: usize = 1 << 20;

/// Most media sections of one description.
const MAX_MEDIA: usize = 512;

/// RFC 6464.
pub(super) const AUDIO_LEVEL_URI: &str = "urn:ietf:params:rtp-hdrext:ssrc-audio-level";

/// RFC 8843 section 15.
pub(super) const MID_URI: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";

/// Marks a section in the clean copy that the relay gave no mid: see [`read`].
pub(super) const UNNAMED: &str = "x-unnamed";

/// Which side of an offer/answer exchange a description is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The relay offers; we answer.
    Offer,
    /// It may offer a data channel only, before there is any audio.
    OfferAhead,
    /// The relay answers our offer.
    Answer,
}

/// A relay's description, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Description {
    /// The audio the relay sends, in its order.
    pub(super) audio: Vec<Audio>,
    /// The description for the WebRTC stack: see [`read`].
    pub(super) clean: String,
}

/// One audio section the relay sends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Audio {
    /// Its media identification (RFC 8843), unique in the description.
    pub(super) mid: String,
    /// The media stream id (RFC 8830), unless it has none.
    pub(super) stream: Option<String>,
    /// The id of the audio-level header extension, if negotiated.
    pub(super) level: Option<u8>,
    /// What it is in, unless it may be in Opus.
    pub(super) unheard: Option<String>,
}

/// Why a description cannot be used; always the relay's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SdpError {
    /// Over [`MAX_SDP`].
    #[error("it has {0} bytes; at most {MAX_SDP} are read")]
    TooLong(usize),
    /// It does not parse. What it says instead is not repeated: what answered may be no relay.
    #[error("it cannot be read as SDP")]
    Malformed,
    /// More sections than [`MAX_MEDIA`].
    #[error("it has {0} media sections; at most {MAX_MEDIA} are taken")]
    TooManyMedia(usize),
    /// A section with an empty mid, or with that of another.
    #[error("media section {0} has no mid of its own")]
    Mid(usize),
    /// Our offer of Opus is refused.
    #[error("it refuses audio in Opus")]
    AudioRefused,
    /// Nothing to listen to, nor anything that could become so.
    #[error("it has no audio section")]
    NoAudio,
    /// Packets of several sections could not be told apart.
    #[error("audio section {0:?} is one of several and names no ssrc")]
    NoSsrc(String),
    /// The stack receives everything on one transport (RFC 8843) and would refuse the section in silence.
    #[error("audio section {0:?} is not in its BUNDLE group")]
    NotBundled(String),
    /// The key exchange is another than DTLS-SRTP (RFC 5763), or incomplete.
    #[error("it has no {0}")]
    Missing(&'static str),
}

/// Reads a relay's description.
///
/// The `clean` copy differs from the original in this, so that the stack below cannot mistake one
/// voice for another: every audio section's stream and track id are its mid (track ids of a relay need
/// not be unique, and the stack tells tracks apart by them alone), simulcast is gone,
/// `a=setup:actpass` in an answer, which some relays write, reads `active`, and a section without a mid, as those write that do
/// not bundle, has its place for one and is marked as [`UNNAMED`].
pub(super) fn read(text: &str, side: Side) -> Result<Description, SdpError> {
    if text.len() > MAX_SDP {
        return Err(SdpError::TooLong(text.len()));
    }
    let mut session = SessionDescription::unmarshal(&mut Cursor::new(normalised(text))).map_err(|error| {
        tracing::debug!(%error, "SDP");
        SdpError::Malformed
    })?;
    // Of a section that is refused the rest may be missing.
    let audio = || session.media_descriptions.iter().filter(|m| is_audio(m));
    if side == Side::Answer && audio().next().is_some() && audio().all(|m| m.media_name.port.value == 0) {
        return Err(SdpError::AudioRefused);
    }
    name_sections(&mut session);
    check(&session, side)?;
    if side != Side::Answer {
        check_bundle(&session)?;
    }
    let mut audio = vec![];
    for media in &mut session.media_descriptions {
        if side == Side::Answer {
            settle_setup(media);
        }
        if !is_audio(media) {
            continue;
        }
        let mid = value(media, "mid").unwrap_or_default().to_owned();
        if is_sending(media) {
            audio.push(Audio {
                stream: stream_id(media),
                level: extension(media, AUDIO_LEVEL_URI),
                unheard: unheard(media),
                mid: mid.clone(),
            });
        }
        rename_tracks(media, &mid);
    }
    Ok(Description { audio, clean: session.marshal() })
}

/// Lines end in CRLF (RFC 8866 section 5); bodies that passed a text editor or a template do not.
fn normalised(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    for line in text.lines().filter(|line| !line.is_empty()) {
        out.push_str(line);
        out.push_str("\r\n");
    }
    out
}

fn name_sections(session: &mut SessionDescription) {
    let known: BTreeSet<String> =
        session.media_descriptions.iter().filter_map(|m| value(m, "mid").map(str::to_owned)).collect();
    for (index, section) in session.media_descriptions.iter_mut().enumerate() {
        section.attributes.retain(|a| a.key != UNNAMED);
        if !section.has_attribute("mid") {
            let taken = |mid: &String| known.contains(mid);
            let mid = Some(index.to_string()).filter(|mid| !taken(mid)).unwrap_or_else(|| format!("unnamed-{index}"));
            section.attributes.push(Attribute::new("mid".into(), Some(mid)));
            section.attributes.push(Attribute::new(UNNAMED.into(), None));
        }
    }
}

fn check(session: &SessionDescription, side: Side) -> Result<(), SdpError> {
    let media = &session.media_descriptions;
    if media.len() > MAX_MEDIA {
        return Err(SdpError::TooManyMedia(media.len()));
    }
    let mut mids = BTreeSet::new();
    for (index, section) in media.iter().enumerate() {
        match value(section, "mid") {
            Some(mid) if !mid.is_empty() && mids.insert(mid) => {}
            _ => return Err(SdpError::Mid(index)),
        }
    }
    let ahead = side == Side::OfferAhead && media.iter().any(is_data);
    if !ahead && !media.iter().any(is_audio) {
        return Err(SdpError::NoAudio);
    }
    for attribute in ["ice-ufrag", "ice-pwd", "fingerprint"] {
        if session.attribute(attribute).is_none() && !media.iter().any(|m| value(m, attribute).is_some()) {
            return Err(SdpError::Missing(attribute));
        }
    }
    let sending: Vec<_> = media.iter().filter(|m| is_audio(m) && is_sending(m)).collect();
    match sending.iter().find(|m| !is_told_apart(m, &sending)) {
        Some(section) => Err(SdpError::NoSsrc(value(section, "mid").unwrap_or_default().to_owned())),
        None => Ok(()),
    }
}

/// Whether packets say that they are this section's: by ssrc, by mid, or by a payload type that no other has (RFC 8843 section
/// 9.2).
fn is_told_apart(media: &MediaDescription, all: &[&MediaDescription]) -> bool {
    let formats = |m: &MediaDescription| m.media_name.formats.iter().cloned().collect::<BTreeSet<_>>();
    let others = || all.iter().filter(|other| !std::ptr::eq(**other, media));
    value(media, "ssrc").is_some()
        || extension(media, MID_URI).is_some()
        || others().all(|other| formats(other).is_disjoint(&formats(media)))
}

/// The mids of the BUNDLE group (RFC 8843).
pub(super) fn bundled(session: &SessionDescription) -> BTreeSet<&str> {
    let groups = session.attributes.iter().filter(|a| a.key == "group").filter_map(|a| a.value.as_deref());
    groups.filter_map(|group| group.strip_prefix("BUNDLE")).flat_map(|g| g.split_ascii_whitespace()).collect()
}

/// One voice alone may have a transport of its own.
fn check_bundle(session: &SessionDescription) -> Result<(), SdpError> {
    let bundled = bundled(session);
    let sending: Vec<_> = session.media_descriptions.iter().filter(|m| is_audio(m) && is_sending(m)).collect();
    let outside = sending.iter().filter_map(|m| value(m, "mid")).find(|mid| !bundled.contains(mid));
    match outside {
        Some(mid) if sending.len() > 1 => Err(SdpError::NotBundled(mid.to_owned())),
        _ => Ok(()),
    }
}

fn is_audio(media: &MediaDescription) -> bool {
    media.media_name.media == "audio"
}

/// A data channel (RFC 8841).
fn is_data(media: &MediaDescription) -> bool {
    media.media_name.media == "application" && media.media_name.protos.iter().any(|proto| proto == "SCTP")
}

/// Port 0 is a section refused or ended (RFC 8829 section 5.3.1).
fn is_sending(media: &MediaDescription) -> bool {
    media.media_name.port.value != 0 && !media.has_attribute("inactive") && !media.has_attribute("recvonly")
}

/// What a section is in that cannot be in Opus: the names of its codecs, as far as they are names.
fn unheard(media: &MediaDescription) -> Option<String> {
    let maps: Vec<(&str, &str)> = media
        .attributes
        .iter()
        .filter(|a| a.key == "rtpmap")
        .filter_map(|a| a.value.as_deref()?.trim().split_once(' '))
        .collect();
    let mut codecs = BTreeSet::new();
    for format in &media.media_name.formats {
        let mapped = maps.iter().find(|(number, _)| number == format).map(|(_, codec)| codec.trim());
        // Those that need no map (RFC 3551 section 6).
        let fixed =
            || [("0", "PCMU/8000"), ("8", "PCMA/8000"), ("9", "G722/8000")].into_iter().find(|(n, _)| n == format);
        let codec = mapped.or_else(|| fixed().map(|(_, codec)| codec)).unwrap_or_default().to_ascii_uppercase();
        if codec.starts_with("OPUS/48000") {
            return None;
        }
        let name = codec.split('/').next().unwrap_or_default();
        codecs.extend(codec_name(name).filter(|name| !["CN", "TELEPHONE-EVENT", "RED"].contains(&name.as_str())));
    }
    let names: Vec<String> = codecs.into_iter().take(4).collect();
    Some(if names.is_empty() { "of no known codec".into() } else { names.join(", ") })
}

/// In capitals, if it is the name of one (RFC 6838 section 4.2), and not a long one.
pub(super) fn codec_name(name: &str) -> Option<String> {
    let is_name =
        (1..=16).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    is_name.then(|| name.to_ascii_uppercase())
}

fn value<'a>(media: &'a MediaDescription, key: &str) -> Option<&'a str> {
    media.attribute(key).flatten()
}

/// `a=msid:<stream> <track>`, or the same inside `a=ssrc` as it was once written; `-` is no stream.
fn stream_id(media: &MediaDescription) -> Option<String> {
    let of_ssrc = || {
        let lines = media.attributes.iter().filter(|a| a.key == "ssrc");
        lines.filter_map(|a| a.value.as_deref()?.split_once(" msid:")).map(|(_, msid)| msid).next()
    };
    let stream = value(media, "msid").or_else(of_ssrc)?.split(' ').next()?;
    (!matches!(stream, "" | "-")).then(|| stream.to_owned())
}

/// `a=extmap:<id>[/direction] <uri> ...` (RFC 8285 section 5).
pub(super) fn extension(media: &MediaDescription, uri: &str) -> Option<u8> {
    let lines = media.attributes.iter().filter(|a| a.key == "extmap");
    lines.filter_map(|a| a.value.as_deref()).find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let id = words.next()?.split('/').next()?.parse().ok()?;
        (words.next()? == uri).then_some(id)
    })
}

fn settle_setup(media: &mut MediaDescription) {
    for attribute in media.attributes.iter_mut().filter(|a| a.key == "setup") {
        if attribute.value.as_deref() == Some("actpass") {
            attribute.value = Some("active".into());
        }
    }
}

/// Gives the section's one track its mid for a name.
fn rename_tracks(media: &mut MediaDescription, mid: &str) {
    let name = format!("{mid} {mid}");
    media.attributes.retain(|a| !matches!(a.key.as_str(), "msid" | "rid" | "simulcast"));
    for value in media.attributes.iter_mut().filter(|a| a.key == "ssrc").filter_map(|a| a.value.as_mut()) {
        if let Some((ssrc, _)) = value.split_once(" msid:") {
            *value = format!("{ssrc} msid:{name}");
        }
    }
    // Before the ssrc lines: the stack gives an ssrc the msid it has read by then.
    let at = media.attributes.iter().position(|a| a.key == "ssrc").unwrap_or(media.attributes.len());
    media.attributes.insert(at, Attribute::new("msid".into(), Some(name)));
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const HEAD: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 a b v\r\na=ice-ufrag:abcd\r\n\
        a=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=fingerprint:sha-256 00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:\
        00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF\r\n";

    fn section(kind: &str, mid: &str, rest: &str) -> String {
        format!(
            "m={kind} 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:{mid}\r\na=sendonly\r\n\
             a=setup:actpass\r\na=rtpmap:111 opus/48000/2\r\na=extmap:3/sendonly {AUDIO_LEVEL_URI}\r\n{rest}"
        )
    }

    /// An offer of two voices and a camera.
    pub(crate) fn offer() -> String {
        let one = section("audio", "a", "a=msid:alice track\r\na=ssrc:1 cname:x\r\na=ssrc:1 msid:alice track\r\n");
        let two = section("audio", "b", "a=msid:- track\r\na=ssrc:2 cname:x\r\n");
        format!("{HEAD}{one}{two}{}", section("video", "v", ""))
    }

    #[test]
    fn what_cannot_be_heard_is_named_by_its_codecs() {
        let heard = |line: &str, rest: &str| {
            let text = format!(
                "{HEAD}m=audio 9 UDP/TLS/RTP/SAVPF {line}\r\na=mid:0\r\na=sendonly\r\na=ssrc:1 cname:x\r\n{rest}"
            );
            read(&text, Side::Offer).unwrap().audio[0].unheard.clone()
        };
        assert_eq!(heard("0 8 13", "").as_deref(), Some("PCMA, PCMU"));
        assert_eq!(
            heard("96 101", "a=rtpmap:96 g722/8000\r\na=rtpmap:101 telephone-event/8000\r\n").as_deref(),
            Some("G722")
        );
        assert_eq!(heard("0 111", "a=rtpmap:111 OPUS/48000/2\r\n"), None);
        assert_eq!(heard("99", "a=rtpmap:99 <script>/8000\r\n").as_deref(), Some("of no known codec"));
        let refused =
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=audio 0 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\n";
        assert_eq!(read(refused, Side::Answer), Err(SdpError::AudioRefused));
    }

    #[test]
    fn voices_are_told_apart_whatever_the_relay_called_their_tracks() {
        let read = read(&offer(), Side::Offer).unwrap();
        let audio = |mid: &str, stream: Option<&str>| Audio {
            mid: mid.into(),
            stream: stream.map(Into::into),
            level: Some(3),
            unheard: None,
        };
        assert_eq!(read.audio, [audio("a", Some("alice")), audio("b", None)]);
        assert!(read.clean.contains("a=msid:a a\r\n") && read.clean.contains("a=msid:b b\r\n"), "{}", read.clean);
        assert!(!read.clean.contains("alice"), "{}", read.clean);
        assert!(read.clean.contains("a=setup:actpass"));
    }

    #[test]
    fn actpass_in_an_answer_is_read_as_active() {
        let read = read(&offer(), Side::Answer).unwrap();
        assert!(read.clean.contains("a=setup:active") && !read.clean.contains("actpass"));
    }

    #[test]
    fn a_stream_id_in_the_old_place_is_found() {
        let text = format!("{HEAD}{}", section("audio", "0", "a=ssrc:1 cname:x\r\na=ssrc:1 msid:bob t\r\n"));
        assert_eq!(read(&text, Side::Offer).unwrap().audio[0].stream.as_deref(), Some("bob"));
    }

    #[test]
    fn a_section_whose_only_ssrc_line_names_its_stream_keeps_its_ssrc() {
        let text = format!("{HEAD}{}", section("audio", "0", "a=ssrc:1 msid:bob t\r\n"));
        assert!(read(&text, Side::Offer).unwrap().clean.contains("a=ssrc:1 msid:0 0\r\n"));
    }

    #[test]
    fn sections_that_send_nothing_are_no_voices() {
        let text = offer().replacen("a=sendonly", "a=inactive", 1);
        assert_eq!(read(&text, Side::Offer).unwrap().audio.len(), 1);
    }

    #[test]
    fn a_section_without_a_mid_has_its_place_for_one() {
        let text = format!("{HEAD}{}{}", section("audio", "1", "a=ssrc:1 c:x\r\n"), section("audio", "b", ""));
        let text = text.replace("a=mid:b\r\n", "").replace("BUNDLE 0", "BUNDLE 0 1");
        let mids = |text: &str, side| Some(read(text, side).ok()?.audio.into_iter().map(|a| a.mid).collect::<Vec<_>>());
        assert_eq!(mids(&text, Side::Answer), None, "packets of the second would be nobody's");
        let text = text.replace(
            "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=sendonly",
            "m=audio 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=sendonly",
        );
        assert_eq!(mids(&text, Side::Answer).unwrap(), ["1", "unnamed-1"], "unless by their type");
        let alone =
            format!("{HEAD}{}", section("audio", "0", "")).replace("a=mid:0\r\n", "").replace("a=group", "a=other");
        for side in [Side::Offer, Side::Answer] {
            assert_eq!(mids(&alone, side).unwrap(), ["0"]);
        }
        let clean = read(&alone, Side::Offer).unwrap().clean;
        assert_eq!(read(&clean, Side::Offer).unwrap().clean.matches("a=mid:0").count(), 1);
    }

    #[test]
    fn a_voice_without_a_source_is_taken_where_packets_name_their_section() {
        let mid = format!("a=extmap:4 {MID_URI}\r\n");
        let text = offer().replace("a=ssrc:2 cname:x\r\n", &mid);
        assert_eq!(read(&text, Side::Offer).unwrap().audio.len(), 2);
    }

    #[test]
    fn bare_newlines_are_taken() {
        assert_eq!(read(&offer().replace("\r\n", "\n"), Side::Offer), read(&offer(), Side::Offer));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |text: &str| read(text, Side::Offer).unwrap_err();
        assert_eq!(error(HEAD), SdpError::NoAudio);
        assert_eq!(error(&offer().replace("a=mid:b", "a=mid:a")), SdpError::Mid(1));
        assert_eq!(error(&offer().replace("a=ice-pwd", "a=other")), SdpError::Missing("ice-pwd"));
        assert_eq!(error(&offer().replace(" a b v", " b v")), SdpError::NotBundled("a".into()));
        assert_eq!(error(&offer().replace("a=ssrc:2", "a=other")), SdpError::NoSsrc("b".into()));
        assert_eq!(error(&offer().replace("a=mid:b", "a=mid:")), SdpError::Mid(1));
        assert_eq!(error(&"v=0\r\n".repeat(MAX_SDP)), SdpError::TooLong(5 * MAX_SDP));
        assert!(matches!(error("<html>502 Bad Gateway</html>"), SdpError::Malformed));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,400}") {
            let _ = read(&text, Side::Offer);
        }

        #[test]
        fn a_damaged_offer_is_read_or_refused(at in 0usize..1000, len in 0usize..40, with in "[ -~\r\n]{0,20}") {
            let mut text = offer();
            let at = at % text.len();
            let end = (at + len).min(text.len());
            text.replace_range(at..end, &with);
            if let Ok(description) = read(&text, Side::Answer) {
                let again = read(&description.clean, Side::Answer);
                prop_assert!(again.is_ok(), "what we write, we read: {again:?}");
            }
        }
    }
}
