//! What we read of a packet's first bytes against libopus itself.
#![allow(clippy::unwrap_used, missing_docs, unsafe_code)]

mod signals;

use edge_node::toc::OpusPacket;
use opus::{Application, Bitrate, Channels, Encoder};
use opusic_sys::{opus_packet_has_lbrr, opus_packet_parse};
use proptest::prelude::*;

/// Frames of one packet, at most (RFC 6716 section 3.2.5).
const MAX_FRAMES: usize = 48;

/// Lengths of the frames that libopus finds in a packet, if it finds any.
fn frames(packet: &[u8]) -> Option<Vec<i16>> {
    let (mut starts, mut sizes) = ([std::ptr::null(); MAX_FRAMES], [0; MAX_FRAMES]);
    // SAFETY: the arrays have room for as many frames as there can be, and what is null is not written.
    let count = unsafe {
        opus_packet_parse(
            packet.as_ptr(),
            packet.len() as i32,
            std::ptr::null_mut(),
            starts.as_mut_ptr(),
            sizes.as_mut_ptr(),
            std::ptr::null_mut(),
        )
    };
    (count > 0).then(|| sizes[..count as usize].to_vec())
}

fn has_lbrr(packet: &[u8]) -> bool {
    // SAFETY: it reads the packet only.
    unsafe { opus_packet_has_lbrr(packet.as_ptr(), packet.len() as i32) == 1 }
}

/// Any bytes behind any first byte.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    (any::<u8>(), prop::collection::vec(any::<u8>(), 0..80)).prop_map(|(toc, rest)| [&[toc], &rest[..]].concat())
}

/// Talk, noise and silence in turn, at any level, in tenths of a second.
fn sound() -> impl Strategy<Value = Vec<i16>> {
    let part = prop_oneof![
        (1..15usize, 100.0..12_000.0).prop_map(|(tenths, peak)| signals::talk(tenths * 100, peak)),
        (1..15usize).prop_map(|tenths| signals::silence(tenths * 100)),
        (1..15usize, 10.0..2000.0, any::<u64>()).prop_map(|(tenths, peak, seed)| signals::noise(
            tenths * 100,
            peak,
            seed
        )),
    ];
    prop::collection::vec(part, 1..5).prop_map(|parts| parts.concat())
}

fn encoder(stereo: bool, bitrate: i32) -> Encoder {
    let channels = if stereo { Channels::Stereo } else { Channels::Mono };
    let mut encoder = Encoder::new(16_000, channels, Application::Voip).unwrap();
    encoder.set_bitrate(Bitrate::Bits(bitrate)).unwrap();
    encoder
}

fn frames_of(pcm: &[i16], ms: usize, stereo: bool) -> Vec<Vec<i16>> {
    let times = if stereo { 2 } else { 1 };
    pcm.chunks_exact(16 * ms).map(|frame| frame.iter().flat_map(|s| vec![*s; times]).collect()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn what_libopus_takes_for_a_packet_we_do_and_nothing_else(packet in bytes()) {
        let theirs = frames(&packet);
        prop_assert_eq!(OpusPacket::parse(&packet).is_some(), theirs.is_some());
        // A frame of one byte is one not sent; libopus reads flags even of that.
        if theirs.is_some_and(|sizes| sizes[0] > 1) {
            prop_assert_eq!(OpusPacket::parse(&packet).unwrap().has_lbrr(), has_lbrr(&packet));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn second_copies_are_seen_where_libopus_put_them(
        pcm in sound(),
        ms in prop::sample::select(vec![20usize, 40, 60]),
        stereo: bool,
    ) {
        let mut encoder = encoder(stereo, 32_000);
        encoder.set_inband_fec(true).unwrap();
        encoder.set_packet_loss_perc(20).unwrap();
        for frame in frames_of(&pcm, ms, stereo) {
            let packet = encoder.encode_vec(&frame, 1275).unwrap();
            if packet.len() > 2 {
                prop_assert_eq!(OpusPacket::parse(&packet).unwrap().has_lbrr(), has_lbrr(&packet));
            }
        }
    }

    #[test]
    fn a_voice_is_never_read_where_the_encoder_says_that_there_is_none(pcm in sound(), stereo: bool) {
        let mut encoder = encoder(stereo, 24_000);
        encoder.set_dtx(true).unwrap();
        for frame in frames_of(&pcm, 20, stereo) {
            let packet = encoder.encode_vec(&frame, 1275).unwrap();
            let voice = OpusPacket::parse(&packet).unwrap().voice();
            prop_assert!(!(voice == Some(true) && encoder.get_in_dtx().unwrap()), "{:?}", packet);
        }
    }
}

#[test]
fn the_encoders_verdict_changes_with_the_talk_and_ours_with_it() {
    let mut encoder = encoder(false, 24_000);
    encoder.set_dtx(true).unwrap();
    let pcm = [signals::talk(2000, 8000.0), signals::silence(2000), signals::talk(2000, 8000.0)].concat();
    let verdicts: Vec<(bool, bool)> = frames_of(&pcm, 20, false)
        .iter()
        .map(|frame| {
            let packet = encoder.encode_vec(frame, 1275).unwrap();
            (OpusPacket::parse(&packet).unwrap().voice() == Some(true), encoder.get_in_dtx().unwrap())
        })
        .collect();
    let voiced = |part: &[(bool, bool)]| part.iter().filter(|(voice, _)| *voice).count();
    let resting = |part: &[(bool, bool)]| part.iter().filter(|(_, dtx)| *dtx).count();
    assert!(voiced(&verdicts[..100]) > 80 && resting(&verdicts[..100]) == 0);
    assert!(voiced(&verdicts[130..200]) == 0 && resting(&verdicts[130..200]) > 50);
    assert!(voiced(&verdicts[200..]) > 80 && resting(&verdicts[210..]) == 0);
}
