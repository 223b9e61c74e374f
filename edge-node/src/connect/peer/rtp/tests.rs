#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "any instant will do to count from")]
use bytes::Bytes;
use proptest::prelude::*;
use rtc::crypto::default_provider;

use super::*;
use crate::media::ParticipantId;

/// Written by another implementation; see its first lines.
const LIBSRTP: &str = include_str!("libsrtp.txt");
const SSRC: u32 = 0x1234;

struct Case {
    name: String,
    keys: Keys,
    /// Number, protected, plain.
    packets: Vec<(u16, Vec<u8>, Vec<u8>)>,
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = vec![];
    for line in LIBSRTP.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        if words[0] == "profile" {
            cases.push(Case { name: words[1].into(), keys: keys(words[1], &hex(words[2])), packets: vec![] });
        } else {
            let packet = (words[0].parse().unwrap(), hex(words[1]), hex(words[2]));
            cases.last_mut().unwrap().packets.push(packet);
        }
    }
    cases
}

fn keys(name: &str, secret: &[u8]) -> Keys {
    let (profile, length) = match name {
        "aead_aes_128_gcm" => (ProtectionProfile::AeadAes128Gcm, 16),
        "aead_aes_256_gcm" => (ProtectionProfile::AeadAes256Gcm, 32),
        "aes128_cm_sha1_80" => (ProtectionProfile::Aes128CmHmacSha1_80, 16),
        _ => (ProtectionProfile::Aes128CmHmacSha1_32, 16),
    };
    let (key, salt) = secret.split_at(length);
    let session =
        SessionKeys { remote_master_key: key.into(), remote_master_salt: salt.into(), ..SessionKeys::default() };
    Keys { session: Arc::new(session), profile, provider: default_provider().unwrap() }
}

fn section(mid: &str, ssrcs: &[u32]) -> Section {
    let voice = Voice {
        participant: ParticipantId::new(format!("voice of {mid}")).unwrap(),
        level: Some(1),
        takes_unnamed: true,
    };
    Section {
        mid: mid.into(),
        voice: Some(voice),
        payload_type: 111,
        red: Some(63),
        ssrcs: ssrcs.into(),
        mid_id: Some(4),
        nack: true,
    }
}

fn streams(keys: &Keys, sections: Vec<Section>) -> Streams {
    let mut streams = Streams::default();
    streams.describe(sections);
    streams.unlock(keys.clone(), Instant::now());
    streams
}

fn handle(streams: &mut Streams, packet: &[u8]) -> Result<RtpPacket, Fault> {
    streams.handle(packet, Instant::now(), Micros(1))
}

#[test]
fn what_another_implementation_protects_is_opened_over_two_rounds_of_numbers_once() {
    for Case { name, keys, packets } in cases() {
        let mut streams = streams(&keys, vec![section("a", &[SSRC])]);
        for (sequence, protected, plain) in &packets {
            let opened = handle(&mut streams, protected).unwrap_or_else(|e| panic!("{name} {sequence}: {e:?}"));
            let length = Header::parse(plain).unwrap().length;
            assert_eq!((opened.sequence, &opened.payload[..]), (*sequence, &plain[length..]), "{name}");
            assert_eq!(handle(&mut streams, protected), Err(Fault::Forged), "{name}: {sequence} again");
        }
        for (sequence, protected, _) in &packets {
            assert_eq!(handle(&mut streams, protected), Err(Fault::Forged), "{name}: {sequence} much later");
        }
    }
}

#[test]
fn a_forged_packet_changes_nothing() {
    for Case { name, keys, packets } in cases() {
        let mut streams = streams(&keys, vec![section("a", &[SSRC])]);
        // One from far ahead, before there is a stream: it must not move what counts as new.
        let mut ahead = packets[0].1.clone();
        ahead[2] ^= 0x40;
        assert_eq!(handle(&mut streams, &ahead), Err(Fault::Forged), "{name}");
        assert!(!streams.knows(SSRC));
        for (sequence, protected, _) in &packets {
            for at in [3, protected.len() - 1, protected.len() / 2] {
                let mut forged = protected.clone();
                forged[at] ^= 1;
                assert!(handle(&mut streams, &forged).is_err(), "{name} {sequence}");
            }
            assert!(handle(&mut streams, protected).is_ok(), "{name} {sequence}");
        }
    }
}

#[test]
fn a_source_that_pauses_over_a_renegotiation_is_opened_after_it() {
    let Case { keys, packets, .. } = cases().remove(0);
    let mut streams = streams(&keys, vec![section("a", &[SSRC])]);
    for (_, protected, _) in &packets[..5] {
        handle(&mut streams, protected).unwrap();
    }
    streams.describe(vec![]);
    assert_eq!(handle(&mut streams, &packets[5].1), Err(Fault::Unknown));
    streams.describe(vec![section("a", &[]), section("b", &[SSRC])]);
    let opened = handle(&mut streams, &packets[5].1).unwrap();
    assert_eq!(opened.participant.as_str(), "voice of b");
}

#[test]
fn a_source_that_no_section_names_is_nobodys_where_there_are_several() {
    let Case { keys, packets, .. } = cases().remove(0);
    let mut several = streams(&keys, vec![section("a", &[1]), section("b", &[2])]);
    assert_eq!(handle(&mut several, &packets[0].1), Err(Fault::Unknown));
    let mut alone = streams(&keys, vec![section("a", &[])]);
    assert!(handle(&mut alone, &packets[0].1).is_ok());
    let mut silent = streams(&keys, vec![Section { voice: None, ..section("a", &[SSRC]) }]);
    assert_eq!(handle(&mut silent, &packets[0].1), Err(Fault::Unknown));
    let mut other = streams(&keys, vec![Section { payload_type: 96, ..section("a", &[SSRC]) }]);
    assert_eq!(handle(&mut other, &packets[0].1), Err(Fault::Codec));
}

/// Of type 111, as the relay would protect it.
fn protect(context: &mut Context, header: rtp::Header, payload: &[u8]) -> BytesMut {
    let header = rtp::Header { version: 2, ..header };
    let mut plain = rtc::shared::marshal::Marshal::marshal(&header).unwrap();
    plain.extend_from_slice(payload);
    context.encrypt_rtp_with_header(&plain, &header).unwrap()
}

fn header(sequence: u16, ssrc: u32, payload_type: u8) -> rtp::Header {
    rtp::Header { payload_type, sequence_number: sequence, ssrc, ..rtp::Header::default() }
}

/// A packet that says which section it is of.
fn named(context: &mut Context, sequence: u16, ssrc: u32, mid: &'static str) -> BytesMut {
    let mut header = header(sequence, ssrc, 111);
    header.set_extension(4, Bytes::from_static(mid.as_bytes())).unwrap();
    protect(context, header, b"opus")
}

#[test]
fn the_packet_itself_may_say_whose_it_is() {
    let Case { keys, .. } = cases().remove(0);
    let mut relay = keys.open().unwrap();
    let mut streams = streams(&keys, vec![section("a", &[1]), section("b", &[2])]);
    let mut heard =
        |sequence, ssrc, mid| handle(&mut streams, &named(&mut relay, sequence, ssrc, mid)).map(|p| p.participant);
    assert_eq!(heard(1, 9, "b").unwrap().as_str(), "voice of b", "a source of no section's");
    assert_eq!(heard(1, 1, "a").unwrap().as_str(), "voice of a");
    assert_eq!(heard(2, 1, "b").unwrap().as_str(), "voice of b", "moved");
    assert_eq!(heard(3, 1, "x").unwrap().as_str(), "voice of a", "the publisher's own name for it says nothing");
    assert_eq!(heard(1, 2, "x").unwrap().as_str(), "voice of b", "nor in the first packet");
    assert_eq!(heard(1, 8, "x"), Err(Fault::Unknown), "but a source that nothing else names is nobody's");
}

#[test]
fn a_source_that_nothing_names_is_of_the_only_section_with_its_payload_type() {
    let Case { keys, .. } = cases().remove(0);
    let mut relay = keys.open().unwrap();
    let mut heard = |sections: Vec<Section>, ssrc, pt| {
        let packet = protect(&mut relay, header(1, ssrc, pt), b"opus");
        handle(&mut streams(&keys, sections), &packet).map(|p| p.participant.to_string())
    };
    assert_eq!(heard(vec![section("a", &[1])], 7, 111).unwrap(), "voice of a", "whatever the description announced");
    let other = || Section { payload_type: 96, red: None, ..section("b", &[2]) };
    assert_eq!(heard(vec![section("a", &[1]), other()], 8, 96).unwrap(), "voice of b");
    assert_eq!(heard(vec![section("a", &[1]), other()], 9, 111).unwrap(), "voice of a");
    assert_eq!(heard(vec![section("a", &[1]), other()], 10, 97), Err(Fault::Unknown));
    assert_eq!(heard(vec![section("a", &[1]), section("b", &[2])], 11, 111), Err(Fault::Unknown), "never a guess");
}

#[test]
fn in_a_room_where_others_may_speak_next_a_source_that_nothing_names_is_nobodys() {
    let Case { keys, .. } = cases().remove(0);
    let mut relay = keys.open().unwrap();
    let of_a_room = |ssrcs: &[u32]| {
        let section = section("a", ssrcs);
        let voice = section.voice.clone().map(|voice| Voice { takes_unnamed: false, ..voice });
        Section { voice, ..section }
    };
    let mut heard = |sections: Vec<Section>, ssrc| {
        let packet = protect(&mut relay, header(1, ssrc, 111), b"opus");
        handle(&mut streams(&keys, sections), &packet).map(|p| p.participant.to_string())
    };
    assert_eq!(heard(vec![of_a_room(&[1])], 7), Err(Fault::Unknown), "the next to speak is not the one before");
    assert_eq!(heard(vec![of_a_room(&[1])], 1).unwrap(), "voice of a");
    assert_eq!(heard(vec![of_a_room(&[])], 8).unwrap(), "voice of a", "whose sources are not told at all");
}

#[test]
fn sections_may_have_different_numbers_for_their_names() {
    let Case { keys, .. } = cases().remove(0);
    let mut relay = keys.open().unwrap();
    let mut streams = streams(&keys, vec![Section { mid_id: Some(9), ..section("a", &[]) }, section("b", &[])]);
    for sequence in 1..3 {
        let packet = named(&mut relay, sequence, 5, "b");
        assert_eq!(handle(&mut streams, &packet).unwrap().participant.as_str(), "voice of b");
    }
}

#[test]
fn what_has_no_sound_in_it_still_has_its_number_and_redundant_packets_are_unpacked() {
    let Case { keys, .. } = cases().remove(0);
    let mut relay = keys.open().unwrap();
    let mut streams = streams(&keys, vec![section("a", &[1])]);
    let mut heard = |header: rtp::Header, payload: &[u8]| {
        handle(&mut streams, &protect(&mut relay, header, payload)).map(|p| (p.sequence, p.payload.to_vec()))
    };
    assert_eq!(heard(header(1, 1, 111), b"opus"), Ok((1, b"opus".to_vec())));
    assert_eq!(heard(header(2, 1, 111), b""), Ok((2, vec![])));
    assert_eq!(heard(rtp::Header { padding: true, ..header(3, 1, 111) }, &[0, 0, 3]), Ok((3, vec![])));
    assert_eq!(heard(rtp::Header { padding: true, ..header(4, 1, 111) }, &[0, 0, 4]), Err(Fault::Malformed));
    assert_eq!(heard(header(5, 1, 13), b"noise"), Ok((5, vec![])), "of another codec");
    let red = [&[0x80 | 111, 0, 0, 3, 111][..], b"oldnew"].concat();
    assert_eq!(heard(header(6, 1, 63), &red), Ok((6, b"new".to_vec())));
    assert_eq!(heard(header(7, 1, 63), b""), Ok((7, vec![])));
    assert_eq!(heard(header(1, 2, 13), b"noise"), Err(Fault::Unknown), "it makes no source");
}

#[test]
fn so_many_sources_and_no_more() {
    let Case { keys, .. } = cases().remove(0);
    let mut relay = keys.open().unwrap();
    let mut streams = streams(&keys, vec![section("a", &[]), section("b", &[])]);
    for ssrc in 0..MAX_STREAMS as u32 {
        handle(&mut streams, &named(&mut relay, 1, ssrc, "a")).unwrap();
    }
    let another = named(&mut relay, 1, 99_999, "a");
    assert_eq!(handle(&mut streams, &another), Err(Fault::Full));
    let later = Instant::now() + FORGET;
    for ssrc in 1..MAX_STREAMS as u32 {
        streams.handle(&named(&mut relay, 2, ssrc, "a"), later, Micros(1)).unwrap();
    }
    assert!(streams.handle(&another, later, Micros(1)).is_ok(), "one that is silent for long makes room");
    assert!(!streams.knows(0) && streams.by_ssrc.len() == MAX_STREAMS);
}

proptest! {
    #[test]
    fn any_datagram_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let Case { keys, .. } = cases().remove(0);
        let mut streams = streams(&keys, vec![section("a", &[])]);
        prop_assert!(handle(&mut streams, &bytes).is_err());
        let mut rtp = vec![0x90, 111];
        rtp.extend(bytes);
        prop_assert!(handle(&mut streams, &rtp).is_err());
    }
}
