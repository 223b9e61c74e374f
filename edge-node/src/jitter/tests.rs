#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use proptest::prelude::*;

use super::*;
use crate::media::ParticipantId;

/// A 20 ms SILK packet that names its place.
fn payload(n: u16) -> Bytes {
    Bytes::from(vec![1 << 3, (n >> 8) as u8, n as u8])
}

struct Source {
    start: Instant,
    first: u16,
}

impl Source {
    fn new(first: u16) -> Self {
        Self { start: Instant::now(), first }
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    /// Packet `n` of the source, arriving at `ms`.
    fn packet(&self, n: u16, ms: u64) -> RtpPacket {
        RtpPacket {
            participant: ParticipantId::new("p").unwrap(),
            source: 1,
            sequence: self.first.wrapping_add(n),
            timestamp: 0,
            level: None,
            payload: payload(n),
            arrived: self.at(ms),
            arrived_at: Micros(1_000_000_000_000 + ms * 1000),
        }
        .stamped(u32::from(n) * 960)
    }

    fn feed(&self, buffer: &mut JitterBuffer, n: u16, ms: u64) {
        buffer.handle_packet(self.packet(n, ms), self.at(ms));
    }
}

impl RtpPacket {
    fn stamped(mut self, samples: u32) -> Self {
        self.timestamp = (u32::MAX - 5000).wrapping_add(samples);
        self
    }
}

/// What came out: the packet's number, or in words what else it was.
fn drain(buffer: &mut JitterBuffer) -> Vec<String> {
    std::iter::from_fn(|| buffer.poll())
        .map(|emit| match emit {
            Emit::Packet(p) => u16::from_be_bytes([p.payload[1], p.payload[2]]).to_string(),
            Emit::Lost(n) => format!("lost {n}"),
            Emit::Pause(d) => format!("pause {}", d.as_millis()),
            Emit::Restart => "restart".into(),
        })
        .collect()
}

fn buffer() -> JitterBuffer {
    JitterBuffer::new(Settings::default())
}

#[test]
fn what_comes_in_order_passes_at_once() {
    let (source, mut buffer) = (Source::new(65_534), buffer());
    for n in 0..4 {
        source.feed(&mut buffer, n, u64::from(n) * 20);
        assert_eq!(drain(&mut buffer), [n.to_string()]);
        assert_eq!(buffer.poll_timeout(), None);
    }
}

#[test]
fn a_reordered_packet_is_waited_for() {
    let (source, mut buffer) = (Source::new(65_534), buffer());
    for (n, ms) in [(0, 0), (2, 40), (3, 60), (1, 65), (1, 66), (2, 67)] {
        source.feed(&mut buffer, n, ms);
    }
    assert_eq!(drain(&mut buffer), ["0", "1", "2", "3"]);
    assert_eq!(buffer.counters(), Counters { late: 2, ..Counters::default() });
}

#[test]
fn a_missing_packet_is_lost_after_the_wait_and_late_after_that() {
    let (source, mut buffer) = (Source::new(7), buffer());
    source.feed(&mut buffer, 0, 0);
    source.feed(&mut buffer, 3, 60);
    assert_eq!(drain(&mut buffer), ["0"]);
    assert_eq!(buffer.poll_timeout(), Some(source.at(120)));
    buffer.handle_timeout(source.at(119));
    assert!(drain(&mut buffer).is_empty());
    buffer.handle_timeout(source.at(120));
    assert_eq!(drain(&mut buffer), ["lost 2", "3"]);
    source.feed(&mut buffer, 1, 125);
    assert!(drain(&mut buffer).is_empty());
    assert_eq!(buffer.counters(), Counters { lost: 2, late: 1, ..Counters::default() });
}

#[test]
fn a_packet_without_sound_is_neither_sound_nor_missing() {
    let (source, mut buffer) = (Source::new(65_534), buffer());
    let filler = |n, ms| RtpPacket { payload: Bytes::new(), ..source.packet(n, ms).stamped(0) };
    buffer.handle_packet(filler(9, 0), source.at(0));
    source.feed(&mut buffer, 0, 0);
    for n in [1, 2, 3, 4] {
        buffer.handle_packet(filler(n, 20), source.at(20));
    }
    // Overtaken by one without sound, which came twice.
    buffer.handle_packet(filler(6, 40), source.at(40));
    buffer.handle_packet(filler(6, 40), source.at(40));
    buffer.handle_packet(source.packet(5, 41).stamped(960), source.at(41));
    buffer.handle_packet(source.packet(7, 60).stamped(1920), source.at(60));
    assert_eq!(drain(&mut buffer), ["0", "5", "7"]);
    assert_eq!((buffer.counters().lost, buffer.counters().restarts), (0, 0));
}

#[test]
fn a_jump_of_the_timestamp_alone_is_a_pause() {
    let (source, mut buffer) = (Source::new(7), buffer());
    source.feed(&mut buffer, 0, 0);
    buffer.handle_packet(source.packet(1, 420).stamped(21 * 960), source.at(420));
    assert_eq!(drain(&mut buffer), ["0", "pause 400", "1"]);
}

#[test]
fn captured_time_is_the_first_arrival_plus_media_time() {
    let (source, mut buffer) = (Source::new(7), buffer());
    for (n, ms) in [(0, 0), (1, 95), (2, 96), (3, 97)] {
        source.feed(&mut buffer, n, ms);
    }
    let captured: Vec<u64> = std::iter::from_fn(|| buffer.poll())
        .filter_map(|e| if let Emit::Packet(p) = e { Some(p.captured.0 - 1_000_000_000_000) } else { None })
        .collect();
    assert_eq!(captured, [0, 20_000, 40_000, 60_000]);
}

#[test]
fn two_packets_of_another_source_take_over_and_one_does_not() {
    let (source, mut buffer) = (Source::new(7), buffer());
    source.feed(&mut buffer, 0, 0);
    buffer.handle_packet(source.packet(30_000, 20), source.at(20));
    source.feed(&mut buffer, 1, 20);
    assert_eq!(drain(&mut buffer), ["0", "1"]);

    let other = |n: u16, ms| source.packet(30_000 + n, ms).stamped(0x7000_0000 + u32::from(n) * 960);
    for (n, ms) in [(0, 1040), (1, 1060), (2, 1080)] {
        buffer.handle_packet(other(n, ms), source.at(ms));
    }
    let out: Vec<Emit> = std::iter::from_fn(|| buffer.poll()).collect();
    assert_eq!(out[0], Emit::Restart);
    let Emit::Packet(first) = &out[1] else { panic!("{out:?}") };
    assert_eq!(first.captured, Micros(1_000_000_000_000 + 1_040_000), "no packet of it is lost, and time goes on");
    assert_eq!(out.len(), 4);
}

#[test]
fn a_timestamp_that_stood_still_while_muted_catches_up() {
    let (source, mut buffer) = (Source::new(7), buffer());
    (0..10).for_each(|n| source.feed(&mut buffer, n, u64::from(n) * 20));
    (10..40).for_each(|n| source.feed(&mut buffer, n, 60_000 + u64::from(n) * 20));
    let last = std::iter::from_fn(|| buffer.poll()).last();
    let Some(Emit::Packet(last)) = last else { panic!("{last:?}") };
    assert_eq!(last.captured.0 - 1_000_000_000_000, 60_780_000);
}

#[test]
fn a_backlog_after_a_stall_keeps_its_time() {
    let (source, mut buffer) = (Source::new(7), buffer());
    (0..10).for_each(|n| source.feed(&mut buffer, n, u64::from(n) * 20));
    (10..200).for_each(|n| source.feed(&mut buffer, n, 4000 + u64::from(n) / 10));
    let last = std::iter::from_fn(|| buffer.poll()).last();
    let Some(Emit::Packet(last)) = last else { panic!("{last:?}") };
    assert_eq!(last.captured.0 - 1_000_000_000_000, 199 * 20_000);
}

#[test]
fn what_is_no_opus_is_lost_and_counted() {
    let (source, mut buffer) = (Source::new(7), buffer());
    source.feed(&mut buffer, 0, 0);
    let mut bad = source.packet(1, 20);
    bad.payload = Bytes::from_static(&[3]);
    buffer.handle_packet(bad, source.at(20));
    source.feed(&mut buffer, 2, 40);
    assert_eq!(drain(&mut buffer), ["0", "lost 1", "2"]);
    assert_eq!(buffer.counters(), Counters { lost: 1, malformed: 1, ..Counters::default() });
}

proptest! {
    #[test]
    fn any_reordering_within_the_wait_is_undone(delays in proptest::collection::vec(0u64..60, 2..300), first: u16) {
        let (source, mut buffer) = (Source::new(first), buffer());
        let mut arrivals: Vec<(u64, u16)> = delays.iter().zip(0u16..).map(|(d, n)| (u64::from(n) * 20 + d, n)).collect();
        arrivals[0].0 = 0;
        arrivals.sort();
        for (ms, n) in arrivals {
            source.feed(&mut buffer, n, ms);
        }
        let want: Vec<String> = (0..delays.len()).map(|n| n.to_string()).collect();
        prop_assert_eq!(drain(&mut buffer), want);
        prop_assert_eq!(buffer.counters(), Counters::default());
    }

    #[test]
    fn arbitrary_packets_neither_panic_nor_pile_up(
        packets in proptest::collection::vec((any::<u16>(), any::<u32>(), 0u64..100, proptest::collection::vec(any::<u8>(), 0..8)), 0..300),
        close: bool,
    ) {
        let (source, mut buffer) = (Source::new(0), buffer());
        let (mut ms, mut last) = (0, MediaTime(0));
        for (sequence, timestamp, step, bytes) in packets {
            ms += step;
            let mut packet = source.packet(0, ms);
            packet.sequence = if close { sequence % 200 } else { sequence };
            packet.timestamp = if close { timestamp % 200_000 } else { timestamp };
            packet.payload = bytes.into();
            buffer.handle_packet(packet, source.at(ms));
            while let Some(emit) = buffer.poll() {
                if let Emit::Packet(p) = emit {
                    prop_assert!(p.media >= last, "{:?} after {:?}", p.media, last);
                    last = p.media;
                }
            }
            prop_assert!(buffer.held.len() <= 64);
        }
    }
}
