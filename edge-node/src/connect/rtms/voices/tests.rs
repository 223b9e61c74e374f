#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "any instant will do to count from")]
use super::{super::message::User, *};

const WALL: u64 = 1_700_000_000_000_000;
const MS: Duration = Duration::from_millis(1);
/// 20 ms of it.
const OPUS: &[u8] = &[0x78, 1, 2, 3];

fn voices(format: Format) -> (Voices, Instant) {
    let now = Instant::now() + 3_600_000 * MS;
    let mut voices = Voices::new(now, Micros(WALL));
    voices.handle_format(format);
    (voices, now)
}

fn audio(id: &str, time: u64, data: &[u8]) -> Audio {
    Audio { user: User { id: id.into(), name: None }, time, data: Bytes::copy_from_slice(data) }
}

fn wall_ms() -> u64 {
    WALL / 1000
}

/// Takes what there is until then; when, and what.
fn play(voices: &mut Voices, now: &mut Instant, until: Instant) -> Vec<(Instant, RtpPacket)> {
    let mut out = vec![];
    loop {
        while let Some(packet) = voices.poll_packet(*now) {
            out.push((*now, packet));
        }
        match voices.poll_timeout() {
            Some(at) if at <= until => *now = at.max(*now + Duration::from_nanos(1)),
            _ => return out,
        }
    }
}

#[test]
fn what_was_kept_comes_in_order_with_its_own_times_and_no_faster_than_the_meeting_allows() {
    let (mut voices, begun) = voices(Format::OPUS);
    let (mut now, mut out, mut told) = (begun, vec![], 0);
    // A minute of two people, all of it at once, read as it is taken.
    while told < 3000 || !voices.waiting.is_empty() {
        while told < 3000 && !voices.is_full() {
            for who in ["1", "2"] {
                voices.handle_audio(audio(who, wall_ms() - 60_000 + told * 20, OPUS), now);
            }
            told += 1;
        }
        assert!(voices.waiting.len() <= FULL + 2);
        let until = now + 20 * MS;
        out.extend(play(&mut voices, &mut now, until));
        now = until;
    }
    assert_eq!(out.len(), 6000);
    for (n, (_, packet)) in out.iter().filter(|(_, packet)| packet.participant.as_str() == "1").enumerate() {
        let n = n as u32;
        assert_eq!(begun - packet.arrived, (60_000 - 20 * n) * MS);
        assert_eq!(u32::from(packet.sequence), (n + 1) & 0xFFFF);
        assert_eq!(packet.timestamp.wrapping_sub(out[0].1.timestamp), n * 960);
    }
    let took = now - begun;
    assert!((5 * 1000 * MS..8 * 1000 * MS).contains(&took), "{took:?}");
}

#[test]
fn a_mute_is_a_step_in_time_and_rounding_is_none() {
    let (mut voices, mut now) = voices(Format::OPUS);
    for time in [0, 21, 39, 60, 5000, 5020] {
        now += 1000 * MS;
        voices.handle_audio(audio("1", wall_ms() + time - 30_000, OPUS), now);
    }
    let until = now + 1000 * MS;
    let out = play(&mut voices, &mut now, until);
    let stamps: Vec<u32> =
        out.iter().map(|(_, packet)| packet.timestamp.wrapping_sub(out[0].1.timestamp) / 48).collect();
    assert_eq!(stamps, [0, 20, 40, 60, 5000, 5020]);
    assert!(out.windows(2).all(|two| two[1].1.sequence == two[0].1.sequence + 1 && two[1].1.source == two[0].1.source));
}

#[test]
fn what_comes_twice_after_a_reconnect_is_heard_once() {
    let (mut voices, mut now) = voices(Format::OPUS);
    for n in (0..50).chain(20..60) {
        voices.handle_audio(audio("1", wall_ms() - 10_000 + n * 20, OPUS), now);
    }
    let until = now + 1000 * MS;
    assert_eq!(play(&mut voices, &mut now, until).len(), 60);
}

#[test]
fn linear_samples_become_packets_of_20_ms_whatever_their_pieces() {
    let (mut voices, mut now) = voices(Format::L16);
    // 300 samples at a time, 18.75 ms; the times are whole milliseconds.
    let piece: Vec<u8> = (0..300u16).flat_map(|n| (n.wrapping_mul(37)).to_le_bytes()).collect();
    for n in 0..64u64 {
        voices.handle_audio(audio("1", wall_ms() - 5000 + n * 1875 / 100, &piece), now);
    }
    let until = now + 1000 * MS;
    let out = play(&mut voices, &mut now, until);
    assert_eq!(out.len(), 60);
    assert!(out.iter().all(|(_, packet)| packet_duration(&packet.payload) == Some(20 * MS)));
    assert!(out.windows(2).all(|two| two[1].1.timestamp - two[0].1.timestamp == 960), "they follow each other");
}

#[test]
fn any_number_of_people_is_a_bounded_number_of_voices() {
    let (mut voices, mut now) = voices(Format::L16);
    for n in 0..2000 {
        voices.handle_audio(audio(&n.to_string(), wall_ms(), &[0; 640]), now);
        let until = now + 2 * MS;
        play(&mut voices, &mut now, until);
        now = until;
    }
    assert_eq!(voices.voices.len(), MAX_VOICES);
    let coders = voices.voices.values().filter(|voice| voice.coder.is_some()).count();
    assert!(coders <= MAX_CODERS + 1, "{coders}");
}
