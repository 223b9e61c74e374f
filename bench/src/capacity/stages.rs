//! What the stages behind the socket cost, one at a time: the same packets again, in one thread, to as many streams.
//!
//! Streams take turns, packet by packet, as in a live edge, so that none finds its state in the nearest cache because
//! it has just been there.
#![allow(clippy::disallowed_methods, reason = "measures by the clock")]

use std::time::{Duration, Instant};

use edge_node::{
    connect::Event,
    decode::{Decoder, SAMPLE_RATE},
    media::{AudioLevel, ParticipantId, RtpPacket},
    pipeline::{Pipeline, Settings},
    vad::Vad,
};
use mesh::wire::request::{Source, VadSettings};
use nix::time::{ClockId, clock_gettime};
use opus::Channels;

use super::{
    generator::wall,
    session::participant,
    sink::Sink,
    timing::{TICK, TICK_SAMPLES},
    voices::Voices,
};

/// Streams are this many at most: more show nothing new and take long.
const STREAMS: usize = 600;
/// Ticks measured, after as many to get going.
const TICKS: u64 = 250;

/// CPU time per packet.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Costs {
    /// Order, gate, spurts: what every packet passes.
    pub(super) gate: Duration,
    /// Of the packets that were decoded, shared out over all.
    pub(super) decode: Duration,
    /// The same of the VAD.
    pub(super) vad: Duration,
    /// The ring, framing and acknowledgements; not QUIC's own.
    pub(super) uplink: Duration,
    /// libopus decoding every packet to 16 kHz, and nothing else.
    pub(super) reference: Duration,
}

impl Costs {
    /// All stages behind the socket.
    pub(super) fn behind(&self) -> Duration {
        self.gate + self.decode + self.vad + self.uplink
    }
}

/// Which stream's which packet.
type Place = (usize, u64);

struct Bench<'a> {
    voices: &'a Voices,
    people: usize,
    streams: usize,
    start: Instant,
    ids: Vec<ParticipantId>,
}

/// Measures with as many streams as so many meetings of so many people have.
pub(super) fn measure(voices: &Voices, meetings: usize, people: usize) -> Costs {
    let streams = (meetings * people).min(STREAMS).next_multiple_of(people);
    let id = |n| ParticipantId::new(participant(n / people, n % people)).expect("a short id");
    let bench = Bench { voices, people, streams, start: Instant::now(), ids: (0..streams).map(id).collect() };
    let packets = bench.streams as u32 * TICKS as u32;
    let (pipeline, heard) = bench.pipelines();
    let decode = bench.decode(&heard);
    let listen = bench.listen(&heard);
    let meetings = bench.meetings();
    let all: Vec<Place> = (0..TICKS).flat_map(|tick| (0..streams).map(move |n| (n, tick))).collect();
    let reference = bench.libopus(&all);
    Costs {
        gate: pipeline.saturating_sub(listen) / packets,
        decode: decode / packets,
        vad: listen.saturating_sub(decode) / packets,
        uplink: meetings.saturating_sub(pipeline) / packets,
        reference: reference / packets,
    }
}

impl Bench<'_> {
    fn packet(&self, (stream, tick): Place) -> RtpPacket {
        let packet = self.voices.packet(stream / self.people, stream % self.people, tick);
        let arrived = self.start + TICK * tick as u32;
        RtpPacket {
            participant: self.ids[stream].clone(),
            source: 1,
            sequence: tick as u16,
            timestamp: (tick * TICK_SAMPLES) as u32,
            level: Some(AudioLevel::from_byte(packet.level)),
            payload: packet.payload.clone(),
            arrived,
            arrived_at: wall(),
        }
    }

    /// Runs `work` for each packet, a tick of all streams at a time, and counts the second half of it.
    fn each(&self, mut work: impl FnMut(Place, RtpPacket)) -> Duration {
        let mut spent = Duration::ZERO;
        for tick in 0..2 * TICKS {
            let packets: Vec<_> = (0..self.streams).map(|n| self.packet((n, tick))).collect();
            let begun = thread_cpu();
            for (n, packet) in packets.into_iter().enumerate() {
                work((n, tick), packet);
            }
            if tick >= TICKS {
                spent += thread_cpu().saturating_sub(begun);
            }
        }
        spent
    }

    /// The whole media path, and which packets it decoded, as often as it did.
    fn pipelines(&self) -> (Duration, Vec<Place>) {
        let new = |_| Pipeline::new(VadSettings::default(), Settings::default());
        let mut pipelines: Vec<Pipeline> = (0..self.streams).map(new).collect();
        let mut heard = vec![];
        let spent = self.each(|(n, tick), packet| {
            let pipeline = &mut pipelines[n];
            let before = pipeline.totals().packets_decoded;
            let now = packet.arrived;
            pipeline.handle_packet(packet, now);
            while pipeline.poll_output().is_some() {}
            let times = pipeline.totals().packets_decoded - before;
            if tick >= TICKS {
                heard.extend((0..times).map(|_| (n, tick)));
            }
        });
        (spent, heard)
    }

    fn decode(&self, places: &[Place]) -> Duration {
        let mut decoders: Vec<Decoder> = (0..self.streams).map(|_| Decoder::new()).collect();
        let begun = thread_cpu();
        for place in places {
            decoders[place.0].decode(&self.payload(*place));
        }
        thread_cpu().saturating_sub(begun)
    }

    /// libopus' own decoder, of all that is in a packet.
    fn libopus(&self, places: &[Place]) -> Duration {
        let new = |_| opus::Decoder::new(SAMPLE_RATE, Channels::Mono).expect("libopus decodes to 16 kHz mono");
        let mut decoders: Vec<opus::Decoder> = (0..self.streams).map(new).collect();
        let mut pcm = [0; 1920];
        let begun = thread_cpu();
        for place in places {
            decoders[place.0].decode(&self.payload(*place), &mut pcm, false).expect("it is libopus' own packet");
        }
        thread_cpu().saturating_sub(begun)
    }

    fn listen(&self, places: &[Place]) -> Duration {
        let new = |_| (Decoder::new(), Vad::new(Settings::default().vad));
        let mut ears: Vec<(Decoder, Vad)> = (0..self.streams).map(new).collect();
        let begun = thread_cpu();
        for place in places {
            let (decoder, vad) = &mut ears[place.0];
            vad.push(decoder.decode(&self.payload(*place)));
        }
        thread_cpu().saturating_sub(begun)
    }

    fn payload(&self, (stream, tick): Place) -> bytes::Bytes {
        self.voices.packet(stream / self.people, stream % self.people, tick).payload.clone()
    }

    /// Whole meetings, with a core each.
    fn meetings(&self) -> Duration {
        let source = || Source::Whep { url: String::new(), token: None, participants: vec![] };
        let new = |n| Sink::new(n, source(), self.start);
        let mut sinks: Vec<Sink> = (0..self.streams / self.people).map(new).collect();
        self.each(|(n, _), packet| {
            let (now, at) = (packet.arrived, packet.arrived_at);
            let sink = &mut sinks[n / self.people];
            sink.handle_timeout(now, at);
            sink.handle(Event::Packet(packet), now);
            sink.flush(now, at);
        })
    }
}

fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}
