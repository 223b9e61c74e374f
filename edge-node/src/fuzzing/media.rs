//! What participants send: Opus, and when it comes.

use std::time::{Duration, Instant};

use bytes::Bytes;
use mesh::{
    clock::Micros,
    wire::{request::VadSettings, spurt::Item},
};

use crate::{
    decode::{Decoder, packet_duration},
    media::{AudioLevel, ParticipantId, RtpPacket},
    pipeline::{Output, Pipeline, Settings},
    toc::OpusPacket,
};

/// The longest packet, in samples at 16 kHz.
const MAX_SAMPLES: usize = 1920;

/// Opus packets of one participant, each behind two bytes of length, whose highest bit says that so many were lost before it
/// as its next byte says. Whatever they are, what is heard of each is no longer than a packet can be.
///
/// # Panics
/// This crate is wrong.
pub fn opus(mut data: &[u8]) {
    let mut decoder = Decoder::new();
    while let Some((head, rest)) = data.split_first_chunk::<2>() {
        let head = u16::from_be_bytes(*head);
        let (packet, rest) = rest.split_at(usize::from(head & 0x7FFF).min(rest.len()));
        data = rest;
        let parsed = OpusPacket::parse(packet);
        assert_eq!(parsed.as_ref().map(OpusPacket::duration), packet_duration(packet));
        if let Some(parsed) = parsed {
            assert!(parsed.duration() <= Duration::from_millis(120) && parsed.frames().count() <= 48);
            let _ = (parsed.is_dtx(), parsed.voice(), parsed.has_lbrr());
        }
        if head & 0x8000 != 0 {
            let count = u32::from(*rest.first().unwrap_or(&1) % 10);
            (0..count).for_each(|nth| assert!(decoder.conceal(nth, count, packet).len() <= MAX_SAMPLES));
        }
        assert!(decoder.decode(packet).len() <= MAX_SAMPLES);
    }
}

/// Steps of one participant's packets: milliseconds since the one before, how far number and time go on (in packets of
/// 20 ms), level, how much is to be jumped, length, packet. Spurts come out whole, one after the other, and no deadline is
/// met again and again.
///
/// # Panics
/// This crate is wrong.
#[allow(clippy::disallowed_methods, reason = "for tests: a beginning for virtual time")]
pub fn pipeline(mut data: &[u8]) {
    let (begin, mut now) = (Instant::now(), Instant::now());
    let wall = |now: Instant| Micros(1_700_000_000_000_000).plus(now - begin);
    let mut pipeline = Pipeline::new(VadSettings::default(), Settings::default());
    let (mut spurts, mut sequence, mut timestamp) = (Spurts::default(), 0u16, 0u32);
    while let Some(([step, on, time, level, jump, length], rest)) = data.split_first_chunk::<6>() {
        let (payload, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        data = rest;
        now = wait(&mut pipeline, &mut spurts, now, Duration::from_millis(u64::from(*step)), wall);
        sequence = sequence.wrapping_add(u16::from(*on)).wrapping_add(u16::from(jump & 7) << 10);
        timestamp = timestamp.wrapping_add(u32::from(*time) * 960).wrapping_add(u32::from(jump >> 3) << 27);
        let packet = RtpPacket {
            participant: ParticipantId::new("p").expect("a valid id"),
            source: 1,
            sequence,
            timestamp,
            level: (*level != 0).then(|| AudioLevel::from_byte(*level)),
            payload: Bytes::copy_from_slice(payload),
            arrived: now,
            arrived_at: wall(now),
        };
        pipeline.handle_packet(packet, now);
        spurts.take(&mut pipeline);
    }
    now = wait(&mut pipeline, &mut spurts, now, Duration::from_secs(30), wall);
    assert!(pipeline.poll_timeout().is_none(), "it waits for what does not come");
    pipeline.finish(now, wall(now));
    spurts.take(&mut pipeline);
    assert!(pipeline.is_idle() && spurts.open.is_none());
}

/// Lets time pass.
fn wait(
    pipeline: &mut Pipeline,
    spurts: &mut Spurts,
    now: Instant,
    time: Duration,
    wall: impl Fn(Instant) -> Micros,
) -> Instant {
    let (until, mut now, mut met) = (now + time, now, 0);
    while let Some(at) = pipeline.poll_timeout().filter(|at| *at <= until) {
        met = if at > now { 0 } else { met + 1 };
        assert!(met < 100, "a deadline is met again and again");
        now = now.max(at);
        pipeline.handle_timeout(now, wall(now));
        spurts.take(pipeline);
    }
    until
}

/// The spurts of one participant so far.
#[derive(Default)]
struct Spurts {
    begun: u32,
    /// Items of the one that is open.
    open: Option<u32>,
}

impl Spurts {
    fn take(&mut self, pipeline: &mut Pipeline) {
        while let Some(output) = pipeline.poll_output() {
            match output {
                Output::Start { spurt, .. } => {
                    assert!(spurt.0 == self.begun && self.open.replace(0).is_none());
                    self.begun += 1;
                }
                Output::Item { spurt, offset, item, .. } => {
                    assert_eq!((spurt.0 + 1, Some(offset)), (self.begun, self.open));
                    assert!(offset > 0 || matches!(item, Item::Frame(_)), "a spurt begins with a gap");
                    self.open = Some(offset + 1);
                }
                Output::End { spurt, end } => {
                    assert_eq!((spurt.0 + 1, self.open.take()), (self.begun, Some(end.items)));
                }
            }
        }
    }
}
