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
    assert!(answer.contains("a=group:BUNDLE 0\r\n") && answer.contains("m=application 9 UDP/DTLS/SCTP"), "{answer}");
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
    let video = "m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=ice-ufrag:video\r\na=ice-pwd:video\r\na=rtpmap:96 VP8/90000\r\n";
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
