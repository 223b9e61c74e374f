//! The media path of one participant, from packets off a bad network to spurts.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod signals;

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use bytes::Bytes;
use edge_node::{
    media::{AudioLevel, ParticipantId, RtpPacket},
    pipeline::{Output, Pipeline, Settings},
};
use mesh::{
    clock::Micros,
    wire::{
        request::VadSettings,
        spurt::{Item, SpurtEnd},
    },
};
use opus::{Application, Bitrate, Channels, Encoder};
use proptest::prelude::*;

const WALL: u64 = 1_700_000_000_000_000;

/// A small deterministic source of chance (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % n
    }

    fn percent(&mut self, n: u64) -> bool {
        self.below(100) < n
    }
}

/// What is sent, and when somebody speaks in it.
struct Scene {
    packets: Vec<Sent>,
    speech: Vec<Range<u64>>,
    ms: u64,
}

#[derive(Clone)]
struct Sent {
    at: u64,
    sequence: u16,
    level: Option<AudioLevel>,
    payload: Bytes,
}

#[derive(Clone, Copy)]
struct Sender {
    frame_ms: usize,
    dtx: bool,
    level: bool,
    fec: bool,
    peak: f64,
    /// As a browser encodes: from 48 kHz, so hybrid packets.
    browser: bool,
}

const PLAIN: Sender = Sender { frame_ms: 20, dtx: false, level: true, fec: false, peak: 8000.0, browser: false };

/// Bursts of talk of 1 to 3 s between silences of 1.5 to 6 s, in a quiet room.
fn scene(dice: &mut Dice, sender: Sender, bursts: usize) -> Scene {
    let (mut pcm, mut speech) = (signals::silence(3000), vec![]);
    for _ in 0..bursts {
        let start = pcm.len() as u64 / 16;
        pcm.extend(signals::talk(1000 + dice.below(2000) as usize, sender.peak));
        speech.push(start..pcm.len() as u64 / 16);
        pcm.extend(signals::silence(1500 + dice.below(4500) as usize));
    }
    let room = signals::noise(pcm.len() / 16, 8.0, dice.below(1000));
    pcm.iter_mut().zip(room).for_each(|(s, n)| *s = s.saturating_add(n));
    let ms = pcm.len() as u64 / 16;
    Scene { packets: encode(&pcm, sender, dice.below(65_536) as u16), speech, ms }
}

fn encode(pcm: &[i16], sender: Sender, mut sequence: u16) -> Vec<Sent> {
    let (times, bitrate) = if sender.browser { (3, 32_000) } else { (1, 24_000) };
    let mut encoder = Encoder::new(16_000 * times as u32, Channels::Mono, Application::Voip).unwrap();
    encoder.set_bitrate(Bitrate::Bits(bitrate)).unwrap();
    encoder.set_dtx(sender.dtx).unwrap();
    encoder.set_inband_fec(sender.fec).unwrap();
    encoder.set_packet_loss_perc(if sender.fec { 10 } else { 0 }).unwrap();
    let mut sent = vec![];
    for (n, chunk) in pcm.chunks_exact(16 * sender.frame_ms).enumerate() {
        let repeated: Vec<i16> = chunk.iter().flat_map(|s| std::iter::repeat_n(*s, times)).collect();
        let payload = Bytes::from(encoder.encode_vec(&repeated, 1275).unwrap());
        // What DTX leaves of a packet is not sent (RFC 7587 section 3.1.3).
        if payload.len() > 2 {
            let level = sender.level.then(|| AudioLevel { dbov: signals::dbov(chunk), voice: false });
            sent.push(Sent { at: (n * sender.frame_ms) as u64, sequence, level, payload });
            sequence = sequence.wrapping_add(1);
        }
    }
    sent
}

/// What a network does: up to `jitter` ms of delay, so much loss and duplication in percent.
#[derive(Clone, Copy)]
struct Network {
    jitter: u64,
    loss: u64,
    duplicates: u64,
}

const GOOD: Network = Network { jitter: 1, loss: 0, duplicates: 0 };

struct Run {
    pipeline: Pipeline,
    start: Instant,
    outputs: Vec<(u64, Output)>,
}

impl Run {
    fn new(vad: VadSettings) -> Self {
        Self { pipeline: Pipeline::new(vad, Settings::default()), start: Instant::now(), outputs: vec![] }
    }

    fn at(&self, ms: u64) -> (Instant, Micros) {
        (self.start + Duration::from_millis(ms), Micros(WALL + ms * 1000))
    }

    /// Lets time pass up to `ms`, as a driver would.
    fn advance(&mut self, ms: u64) {
        while let Some(due) =
            self.pipeline.poll_timeout().map(|t| t.duration_since(self.start).as_micros().div_ceil(1000) as u64)
            && due <= ms
        {
            let (now, wall) = self.at(due);
            self.pipeline.handle_timeout(now, wall);
            self.collect(due);
        }
    }

    fn deliver(&mut self, sent: &Sent, ms: u64) {
        self.advance(ms);
        let (arrived, arrived_at) = self.at(ms);
        let packet = RtpPacket {
            participant: ParticipantId::new("p").unwrap(),
            source: 1,
            sequence: sent.sequence,
            timestamp: (sent.at as u32).wrapping_mul(48).wrapping_add(u32::MAX - 100_000),
            level: sent.level,
            payload: sent.payload.clone(),
            arrived,
            arrived_at,
        };
        self.pipeline.handle_packet(packet, arrived);
        self.collect(ms);
    }

    fn collect(&mut self, ms: u64) {
        while let Some(output) = self.pipeline.poll_output() {
            self.outputs.push((ms, output));
        }
    }

    /// All of a scene over a network; the packets that were lost on it.
    fn play(&mut self, scene: &Scene, network: Network, dice: &mut Dice) -> Vec<u16> {
        let (mut arrivals, mut lost) = (vec![], vec![]);
        for (n, sent) in scene.packets.iter().enumerate() {
            // Of a first or last packet nobody could know.
            if n > 0 && n + 1 < scene.packets.len() && dice.percent(network.loss) {
                lost.push(sent.sequence);
                continue;
            }
            arrivals.push((sent.at + if n > 0 { dice.below(network.jitter) } else { 0 }, n));
            if dice.percent(network.duplicates) {
                arrivals.push((sent.at + dice.below(network.jitter), n));
            }
        }
        arrivals.sort();
        for (ms, n) in arrivals {
            self.deliver(&scene.packets[n], ms);
        }
        self.advance(scene.ms + 2000);
        lost
    }

    /// Every frame that came out with the time at which it is placed; checks numbering on the way.
    fn frames(&self, frame_ms: u64) -> Vec<(u64, Bytes)> {
        let (mut frames, mut open, mut next) = (vec![], None, 0);
        for (_, output) in &self.outputs {
            match output {
                Output::Start { spurt, captured } => {
                    assert!(open.is_none() && spurt.0 == next, "{spurt:?} after {next}");
                    // A sender's clock may place its speech before the first arrival.
                    (open, next) = (Some((captured.0.saturating_sub(WALL), 0)), next + 1);
                }
                Output::Item { offset, item, stages, .. } => {
                    let (captured, items) = open.as_mut().unwrap();
                    assert_eq!(offset, items);
                    assert!(stages.captured <= stages.decoded && stages.decoded <= stages.vad, "{stages:?}");
                    *items += 1;
                    match item {
                        Item::Frame(bytes) => {
                            frames.push((*captured / 1000 + u64::from(*offset) * frame_ms, bytes.clone()))
                        }
                        Item::Gap => assert!(*offset > 0, "a spurt begins with a frame"),
                        Item::End(_) => panic!("the trailer is an output of its own"),
                    }
                }
                Output::End { end, .. } => assert_eq!(open.take().unwrap().1, end.items),
            }
        }
        assert!(open.is_none(), "every spurt has ended");
        frames
    }

    fn ends(&self) -> Vec<(u64, SpurtEnd)> {
        let end =
            |(ms, output): &(u64, Output)| if let Output::End { end, .. } = output { Some((*ms, *end)) } else { None };
        self.outputs.iter().filter_map(end).collect()
    }
}

/// Every packet of speech and of the 200 ms before it that was not lost has come out, once, in order, in its place.
fn nothing_is_missing(seed: u64, sender: Sender, network: Network) {
    let mut dice = Dice(seed);
    let scene = scene(&mut dice, sender, 5);
    let mut run = Run::new(VadSettings::default());
    let lost = run.play(&scene, network, &mut dice);
    let frames = run.frames(sender.frame_ms as u64);
    let mut out = frames.iter();
    for range in &scene.speech {
        let wanted = |s: &&Sent| range.start - 200 <= s.at && s.at < range.end && !lost.contains(&s.sequence);
        for sent in scene.packets.iter().filter(wanted) {
            let Some((placed, _)) = out.find(|(_, bytes)| *bytes == sent.payload) else {
                let came: Vec<u64> = frames.iter().map(|f| f.0).collect();
                panic!("seed {seed}: the packet of {} ms is missing from speech at {range:?}: {came:?}", sent.at)
            };
            assert!(placed.abs_diff(sent.at) <= 2, "seed {seed}: {} ms placed at {placed}", sent.at);
        }
    }
    let totals = run.pipeline.totals();
    assert_eq!(totals.packets_lost, lost.len() as u64, "seed {seed}");
    assert_eq!(totals.packets_forwarded, frames.len() as u64, "seed {seed}");
    assert!(totals.packets_decoded <= totals.packets_in, "seed {seed}: {totals:?}");
}

#[test]
fn no_speech_is_missing_on_a_good_network() {
    for seed in 1..4 {
        nothing_is_missing(seed, PLAIN, GOOD);
        nothing_is_missing(seed, Sender { level: false, ..PLAIN }, GOOD);
        nothing_is_missing(seed, Sender { frame_ms: 60, ..PLAIN }, GOOD);
        nothing_is_missing(seed, Sender { dtx: true, ..PLAIN }, GOOD);
        nothing_is_missing(seed, Sender { peak: 800.0, ..PLAIN }, GOOD);
        nothing_is_missing(seed, Sender { browser: true, ..PLAIN }, GOOD);
    }
}

#[test]
fn no_speech_is_missing_under_reordering_duplication_and_loss() {
    let bad = Network { jitter: 50, loss: 5, duplicates: 5 };
    for seed in 1..8 {
        nothing_is_missing(seed, PLAIN, bad);
        nothing_is_missing(seed, Sender { level: false, ..PLAIN }, bad);
        nothing_is_missing(seed, Sender { fec: true, peak: 800.0, ..PLAIN }, bad);
        nothing_is_missing(seed, Sender { browser: true, fec: true, ..PLAIN }, bad);
    }
}

#[test]
fn silence_is_neither_decoded_nor_forwarded() {
    let room = signals::noise(60_000, 8.0, 3);
    let nothing = signals::silence(60_000);
    // Without a level nothing tells room noise from a voice too soft for the encoder's flag: it is decoded.
    for (sender, pcm) in
        [(PLAIN, &room), (Sender { dtx: true, ..PLAIN }, &room), (Sender { level: false, ..PLAIN }, &nothing)]
    {
        let scene = Scene { packets: encode(pcm, sender, 5), speech: vec![], ms: 60_000 };
        let mut run = Run::new(VadSettings::default());
        run.play(&scene, GOOD, &mut Dice(1));
        let totals = run.pipeline.totals();
        assert!(run.outputs.is_empty());
        // Until it is seen that the level is one, and to see that it still is.
        assert!(totals.packets_decoded < 75, "{totals:?}");
        assert_eq!(totals.packets_in, scene.packets.len() as u64);
    }
}

#[test]
fn a_spurt_ends_after_its_hangover_even_if_nothing_comes_any_more() {
    let pcm = signals::talk(2000, 8000.0);
    let scene = Scene { packets: encode(&pcm, PLAIN, 5), speech: vec![], ms: 2000 };
    let mut run = Run::new(VadSettings { hangover_ms: 500, ..VadSettings::default() });
    run.play(&scene, GOOD, &mut Dice(1));
    let ends = run.ends();
    assert_eq!(ends.len(), 1);
    assert!((2300..2700).contains(&ends[0].0), "{ends:?}");
    assert!(!ends[0].1.continues);
}

#[test]
fn finishing_ends_the_spurt_under_way_and_lets_out_what_waited() {
    let packets = encode(&signals::talk(2000, 8000.0), PLAIN, 5);
    let mut run = Run::new(VadSettings::default());
    packets.iter().filter(|p| p.sequence != 103).for_each(|p| run.deliver(p, p.at));
    let (now, wall) = run.at(1990);
    run.pipeline.finish(now, wall);
    run.collect(1990);
    assert_eq!(run.ends().len(), 1);
    assert_eq!(run.frames(20).last().unwrap().1, packets.last().unwrap().payload);
    assert_eq!(run.pipeline.poll_timeout(), None);
}

#[test]
fn a_monologue_is_cut_and_goes_on() {
    // A voice that never draws breath, or says the same for ever, is none for long.
    let voice = signals::talk(60_000, 8000.0);
    let sentences = voice.chunks(16 * 2100).enumerate().flat_map(|(n, words)| {
        let loud = 3 + n as i16 * 7 % 5;
        let words = words.iter().map(move |s| s / 8 * loud);
        words.chain(signals::silence(200 + n * 137 % 300))
    });
    let pcm: Vec<i16> = sentences.zip(signals::noise(70_000, 40.0, 7)).map(|(s, n)| s + n).collect();
    let packets = encode(&pcm, PLAIN, 5);
    let mut run = Run::new(VadSettings { hangover_ms: 2000, ..VadSettings::default() });
    packets.iter().for_each(|p| run.deliver(p, p.at));
    run.advance(75_000);
    let ends = run.ends();
    assert!(ends.iter().all(|(_, end)| end.items <= 1400), "{ends:?}");
    assert!(ends.iter().any(|(_, end)| end.continues), "{ends:?}");
    assert!(ends.last().is_some_and(|(_, end)| !end.continues), "{ends:?}");
    // The next spurt begins where a cut one ends.
    let outputs = run.outputs.iter().map(|(_, output)| output);
    for (end, start) in outputs.clone().zip(outputs.skip(1)) {
        if let Output::End { end, .. } = end
            && end.continues
        {
            let Output::Start { captured, .. } = start else { panic!("{start:?} after a spurt that goes on") };
            assert_eq!(captured.0, end.stages.captured.0 + 20_000);
        }
    }
}

#[test]
fn a_source_that_restarts_begins_a_new_spurt() {
    let first = encode(&signals::talk(2000, 8000.0), PLAIN, 5);
    let second = encode(&signals::talk(2000, 8000.0), PLAIN, 40_000);
    let mut run = Run::new(VadSettings::default());
    first.iter().for_each(|p| run.deliver(p, p.at));
    second.iter().for_each(|p| run.deliver(p, 2000 + p.at));
    run.advance(6000);
    assert_eq!(run.ends().len(), 2);
    assert!(run.frames(20).len() >= 190);
}

proptest! {
    #[test]
    fn arbitrary_packets_make_whole_spurts(
        packets in proptest::collection::vec((0u16..400, 0u64..3000, 0u64..120, proptest::collection::vec(any::<u8>(), 0..60)), 0..150),
    ) {
        let mut run = Run::new(VadSettings { preroll_ms: u16::MAX, hangover_ms: u16::MAX });
        let mut ms = 0;
        for (sequence, at, step, bytes) in packets {
            ms += step;
            run.deliver(&Sent { at: at + ms, sequence, level: None, payload: bytes.into() }, ms);
        }
        let (now, wall) = run.at(ms);
        run.pipeline.finish(now, wall);
        run.collect(ms);
        run.frames(20);
    }
}
