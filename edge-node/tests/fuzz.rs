//! The fuzz targets over their seeds, and over what becomes of these when they are damaged.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../../fuzz/seeds.rs"]
mod seeds;
mod signals;

use edge_node::{
    fuzzing,
    isolate::{FromChild, ToChild},
};
use mesh::{
    clock::Micros,
    codec,
    wire::{
        SpurtNo,
        control::{EdgeState, EdgeTotals},
        request::{Source, VadSettings},
        spurt::{EdgeStages, SpurtEnd},
    },
};
use opus::{Application, Bitrate, Channels, Encoder};
use proptest::prelude::*;

#[test]
fn spilled_files_take_damage() {
    seeds::take_damage("spill", fuzzing::spill);
}

#[test]
fn the_media_path_takes_damage() {
    seeds::take_damage("pipeline", fuzzing::pipeline);
}

#[test]
fn opus_packets_take_damage() {
    seeds::take_damage("opus", fuzzing::opus);
}

#[test]
fn janus_may_say_anything() {
    seeds::take_damage("janus", fuzzing::janus);
}

#[test]
fn livekit_may_say_anything() {
    seeds::take_damage("livekit", fuzzing::livekit);
}

#[test]
fn zoom_may_say_anything() {
    seeds::take_damage("rtms", fuzzing::rtms);
}

#[test]
fn whep_endpoints_may_answer_anything() {
    seeds::take_damage("whep", fuzzing::whep);
}

#[test]
fn offers_take_damage() {
    seeds::take_damage("sdp", fuzzing::sdp);
}

#[test]
fn rtp_takes_damage() {
    seeds::take_damage("rtp", fuzzing::rtp);
}

#[test]
fn children_may_say_anything() {
    seeds::take_damage("child", fuzzing::child);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn sound_files_take_any_edits(edits in prop::collection::vec(any::<u8>(), 0..33)) {
        fuzzing::spill(&[&[1], &edits[..]].concat());
    }
}

/// Writes the seeds anew: `cargo test -p edge-node --test fuzz -- --ignored`.
#[test]
#[ignore = "writes the seeds; to be run when messages have changed"]
fn write_seeds() {
    let sound = [&[0], &fuzzing::spilled().2[..]].concat();
    let spill = vec![sound.clone(), sound[..sound.len() * 2 / 3].to_vec(), vec![1, 0, 90, 4, 0, 0, 200, 255, 0]];
    let odd = [
        [&[0x78], &[0x55; 40][..]].concat(),
        vec![0x08],
        [&[0x4b, 0x42, 3], &[7; 30][..], &[0; 3][..]].concat(),
        [&[0xff, 0x85, 2, 3], &[9; 40][..]].concat(),
    ];
    let framed = |lost: u16, packet: &[u8]| [&(packet.len() as u16 | lost).to_be_bytes()[..], packet].concat();
    let mut opus: Vec<Vec<u8>> = odd.iter().map(|packet| framed(0, packet)).collect();
    for (rate, channels) in [(16_000, Channels::Mono), (48_000, Channels::Stereo)] {
        let spoken = spoken(rate, channels, 10);
        opus.push(spoken.iter().enumerate().flat_map(|(n, p)| framed(if n == 5 { 0x8000 } else { 0 }, p)).collect());
    }
    let sent = |packet: &Vec<u8>| [&[20, 1, 1, 0, 0, packet.len() as u8][..], packet].concat();
    let talk = spoken(16_000, Channels::Mono, 12);
    let silent: Vec<u8> = (0..6).flat_map(|_| [&[20, 1, 1, 127, 0, 3][..], &[0x48, 0, 0]].concat()).collect();
    let talk: Vec<u8> = talk.iter().flat_map(sent).collect();
    let pipeline = vec![[&silent[..], &talk, &silent].concat(), [&talk[..], &[255, 9, 9, 5, 9, 1, 0x48]].concat()];
    let whep = vec![
        [&[0][..], b"Location: /resource/1\nETag: \"v1\"\nContent-Type: application/sdp\n\n", OFFER.as_bytes()]
            .concat(),
        [&[1][..], b"Retry-After: 3\nLocation: ../x?y\n\n", OFFER.as_bytes()].concat(),
    ];
    let sdp = vec![OFFER.into(), OFFER.replace("a=sendonly", "a=inactive").into_bytes()];
    let rtp = vec![
        [&[0x80, 111, 0, 7, 0, 0, 3, 192, 0, 0, 0, 1][..], &[0x78; 40]].concat(),
        [
            &[0xB0, 111, 0, 7, 0, 0, 3, 192, 0, 0, 0, 1][..],
            &[0xBE, 0xDE, 0, 1, 0x30, 0x9E, 0x40, b'0'],
            &[8; 20],
            &[0, 2],
        ]
        .concat(),
        [&[0x91, 111, 0, 7, 0, 0, 3, 192, 0, 0, 0, 1, 0, 0, 0, 2][..], &[0x10, 0, 0, 1, 3, 1, 0x9E, 0], &[8; 20]]
            .concat(),
    ];
    for (target, seeds) in [
        ("spill", spill),
        ("opus", opus),
        ("pipeline", pipeline),
        ("child", vec![one_child(), two_children()]),
        ("janus", vec![janus_session()]),
        ("livekit", vec![fuzzing::livekit_session(true), fuzzing::livekit_session(false)]),
        ("rtms", vec![fuzzing::rtms_session(true), fuzzing::rtms_session(false)]),
        ("whep", whep),
        ("sdp", sdp),
        ("rtp", rtp),
    ] {
        seeds::write(target, &seeds);
    }
}

/// Speech in packets of 20 ms.
fn spoken(rate: u32, channels: Channels, count: usize) -> Vec<Vec<u8>> {
    let mut encoder = Encoder::new(rate, channels, Application::Voip).unwrap();
    encoder.set_bitrate(Bitrate::Bits(16_000)).unwrap();
    encoder.set_inband_fec(true).unwrap();
    encoder.set_packet_loss_perc(20).unwrap();
    let times = rate as usize / 16_000 * if channels == Channels::Stereo { 2 } else { 1 };
    let pcm = signals::talk(20 * count, 8000.0);
    let pcm: Vec<i16> = pcm.iter().flat_map(|sample| std::iter::repeat_n(*sample, times)).collect();
    pcm.chunks_exact(320 * times).map(|c| encoder.encode_vec(c, 255).unwrap()).collect()
}

fn said(open: bool) -> Vec<FromChild> {
    let (id, spurt, stages) = ("p".to_owned(), SpurtNo(0), EdgeStages::default());
    let item = |offset| {
        let packet = (offset != 1).then(|| vec![0x78; 30]);
        FromChild::Item { id: id.clone(), spurt, offset, packet, stages }
    };
    let mut said = vec![
        FromChild::State { state: EdgeState::Live, detail: None },
        FromChild::Joined { id: id.clone(), name: Some("N".into()), unheard: Some("PCMU".into()) },
        FromChild::Start { id: id.clone(), spurt, captured: Micros(5) },
    ];
    said.extend((0..3).map(item));
    if !open {
        said.push(FromChild::End { id: id.clone(), spurt, end: SpurtEnd { stages, ..SpurtEnd::of(3) } });
    }
    said.extend([FromChild::Tally { id: id.clone(), totals: EdgeTotals::default() }, FromChild::Left { id }]);
    said
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_le_bytes()[..], message].concat()
}

fn one_child() -> Vec<u8> {
    let source = Source::Whep { url: "http://relay/whep".into(), token: None, participants: vec![] };
    let begin = ToChild::Begin { source, vad: VadSettings::default(), memory: 1 << 29, clock: Micros(7) };
    let mut bytes = framed(&codec::encode(&begin).unwrap());
    said(false).iter().for_each(|m| bytes.extend(framed(&codec::encode(m).unwrap())));
    bytes
}

fn two_children() -> Vec<u8> {
    let mut bytes = vec![];
    said(true).iter().for_each(|m| bytes.extend(framed(&codec::encode(m).unwrap())));
    bytes.extend(framed(&[]));
    said(false).iter().for_each(|m| bytes.extend(framed(&codec::encode(m).unwrap())));
    bytes
}

/// Two voices and a camera.
const OFFER: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE a b v\r\na=ice-ufrag:abcd\r\n\
    a=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=fingerprint:sha-256 00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:\
    00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF\r\n\
    m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:a\r\na=sendonly\r\na=setup:actpass\r\n\
    a=rtpmap:111 opus/48000/2\r\na=rtcp-fb:111 nack\r\na=extmap:3/sendonly urn:ietf:params:rtp-hdrext:ssrc-audio-level\r\n\
    a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\na=msid:alice t\r\na=ssrc:1 cname:x\r\na=ssrc:1 msid:alice t\r\n\
    a=candidate:1 1 udp 2015363327 127.0.0.1 5000 typ host\r\n\
    m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:b\r\na=sendonly\r\na=setup:actpass\r\n\
    a=rtpmap:111 opus/48000/2\r\na=msid:- t\r\na=ssrc:2 cname:x\r\n\
    m=video 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=mid:v\r\na=sendonly\r\na=rtpmap:96 VP8/90000\r\n";

/// Ada is there, is subscribed to, is joined by Bob, renamed, and leaves.
fn janus_session() -> Vec<u8> {
    let streams = r#""streams":[{"type":"audio","mid":"0","codec":"opus"},{"type":"video","mid":"1","codec":"vp8"}]"#;
    let room = |sender: u32, rest: &str| {
        format!(r#"{{"janus":"event","sender":{sender},"plugindata":{{"plugin":"p","data":{{{rest}}}}}"#)
    };
    let attached = r#""videoroom":"attached","streams":[{"mid":"0","feed_id":7,"feed_mid":"0","type":"audio"}]"#;
    let texts = [
        r#"{"janus":"success","transaction":"0","data":{"id":1}}"#.into(),
        r#"{"janus":"success","transaction":"1","data":{"id":2}}"#.into(),
        room(2, &format!(r#""videoroom":"joined","id":9,"publishers":[{{"id":7,"display":"Ada",{streams}}}]"#))
            + r#","transaction":"2"}"#,
        r#"{"janus":"success","transaction":"3","data":{"id":3}}"#.into(),
        room(3, attached) + r#","transaction":"4","jsep":{"type":"offer","sdp":"v=0"}}"#,
        room(3, r#""videoroom":"event","started":"ok""#) + r#","transaction":"5"}"#,
        room(2, &format!(r#""videoroom":"event","publishers":[{{"id":8,"display":"Bob",{streams}}}]"#)) + "}",
        room(2, r#""videoroom":"event","id":7,"display":"Ada L.""#) + "}",
        room(2, r#""videoroom":"event","unpublished":7"#) + "}",
        room(2, r#""videoroom":"event","leaving":8"#) + "}",
        r#"{"janus":"hangup","sender":3,"reason":"ICE failed"}"#.into(),
    ];
    texts.iter().flat_map(|text| framed(text.as_bytes())).collect()
}
