//! Publishers that do things their own way, whose speech is heard all the same: real Opus packets through the media paths of
//! one participant.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod signals;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use bytes::Bytes;
use edge_node::{
    media::{AudioLevel, ParticipantId, RtpPacket},
    paths::{MAX_PATHS, Paths},
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

const WALL: u64 = 1_700_000_000_000_000;

/// A packet on its way; times in microseconds.
#[derive(Debug, Clone)]
struct Sent {
    at: u64,
    source: u32,
    sequence: u16,
    timestamp: u32,
    level: Option<AudioLevel>,
    payload: Bytes,
}

/// One participant's speech as it comes out.
struct Ears {
    paths: Paths,
    start: Instant,
    spurts: BTreeMap<u32, Spurt>,
}

#[derive(Debug)]
struct Spurt {
    captured: u64,
    items: Vec<Item>,
    end: Option<SpurtEnd>,
}

impl Spurt {
    /// Its packets, and when each was spoken, in microseconds.
    fn frames(&self, each: u64) -> impl Iterator<Item = (u64, &Bytes)> {
        self.items.iter().enumerate().filter_map(move |(n, item)| match item {
            Item::Frame(payload) => Some((self.captured + n as u64 * each, payload)),
            _ => None,
        })
    }

    fn gaps(&self) -> usize {
        self.items.iter().filter(|item| matches!(item, Item::Gap)).count()
    }
}

impl Ears {
    fn new() -> Self {
        let pipeline = Pipeline::new(VadSettings::default(), Settings::default());
        Self { paths: Paths::new(pipeline), start: Instant::now(), spurts: BTreeMap::new() }
    }

    /// Hears all of it, and three seconds of nothing.
    fn hear(mut sent: Vec<Sent>) -> Self {
        sent.sort_by_key(|sent| sent.at);
        let mut this = Self::new();
        let end = sent.last().unwrap().at + 3_000_000;
        for sent in sent {
            this.advance(sent.at);
            let arrived = this.start + Duration::from_micros(sent.at);
            let packet = RtpPacket {
                participant: ParticipantId::new("p").unwrap(),
                source: sent.source,
                sequence: sent.sequence,
                timestamp: sent.timestamp,
                level: sent.level,
                payload: sent.payload,
                arrived,
                arrived_at: Micros(WALL + sent.at),
            };
            this.paths.handle_packet(packet, arrived);
            this.collect();
        }
        this.advance(end);
        assert!(this.spurts.values().all(|spurt| spurt.end.is_some()), "every spurt has ended");
        this
    }

    fn advance(&mut self, to: u64) {
        while let Some(due) = self.paths.poll_timeout().filter(|due| *due <= self.start + Duration::from_micros(to)) {
            let at = due.duration_since(self.start).as_micros() as u64;
            self.paths.handle_timeout(due, Micros(WALL + at));
            self.collect();
        }
    }

    fn collect(&mut self) {
        while let Some(output) = self.paths.poll_output() {
            match output {
                Output::Start { spurt, captured } => {
                    assert!(!self.spurts.contains_key(&spurt.0), "no number is used twice");
                    let captured = captured.0.saturating_sub(WALL);
                    self.spurts.insert(spurt.0, Spurt { captured, items: vec![], end: None });
                }
                Output::Item { spurt, offset, item, .. } => {
                    let spurt = self.spurts.get_mut(&spurt.0).unwrap();
                    assert!(spurt.end.is_none() && spurt.items.len() == offset as usize);
                    spurt.items.push(item);
                }
                Output::End { spurt, end } => {
                    let spurt = self.spurts.get_mut(&spurt.0).unwrap();
                    assert_eq!(spurt.items.len(), end.items as usize);
                    spurt.end = Some(end);
                }
            }
        }
        let open = self.spurts.values().filter(|spurt| spurt.end.is_none()).count();
        assert!(open <= MAX_PATHS);
    }

    fn payloads(&self) -> BTreeSet<&Bytes> {
        self.spurts.values().flat_map(|spurt| spurt.frames(0)).map(|(_, payload)| payload).collect()
    }

    /// Of these packets, the share that came out.
    fn share(&self, said: &[Sent]) -> f64 {
        let payloads = self.payloads();
        said.iter().filter(|sent| payloads.contains(&sent.payload)).count() as f64 / said.len() as f64
    }
}

/// How a publisher encodes.
#[derive(Clone, Copy)]
struct Coding {
    application: Application,
    channels: Channels,
    bitrate: i32,
    /// Packets all of one size.
    constant: bool,
    /// In microseconds.
    frame: u64,
}

const VOICE: Coding = Coding {
    application: Application::Voip,
    channels: Channels::Mono,
    bitrate: 24_000,
    constant: false,
    frame: 20_000,
};
/// As music is: nothing of the speech coder's.
const MUSIC: Coding = Coding { application: Application::LowDelay, channels: Channels::Mono, bitrate: 64_000, ..VOICE };

/// 16 kHz samples of the left and right ear as packets of source 1, from `begin` on, at 48 kHz as browsers do.
fn encode(left: &[i16], right: &[i16], coding: Coding, begin: u64) -> Vec<Sent> {
    let Coding { application, channels, bitrate, constant, frame } = coding;
    let mut encoder = Encoder::new(48_000, channels, application).unwrap();
    encoder.set_bitrate(Bitrate::Bits(bitrate)).unwrap();
    encoder.set_vbr(!constant).unwrap();
    let both = left.iter().zip(right).flat_map(|(l, r)| [[*l, *r]; 3]);
    let pcm: Vec<i16> =
        both.flat_map(|both| if channels == Channels::Mono { vec![both[0]] } else { both.to_vec() }).collect();
    let samples = frame as usize * 48 / 1000;
    let chunk = samples * if channels == Channels::Mono { 1 } else { 2 };
    let packet = |(n, chunk): (usize, &[i16])| Sent {
        at: begin + n as u64 * frame,
        source: 1,
        sequence: (n as u16).wrapping_add(65_500),
        timestamp: (begin * 48 / 1000) as u32 + (n * samples) as u32,
        level: None,
        payload: encoder.encode_vec(chunk, 4000).unwrap().into(),
    };
    pcm.chunks_exact(chunk).enumerate().map(packet).collect()
}

fn mono(pcm: &[i16], coding: Coding) -> Vec<Sent> {
    encode(pcm, pcm, coding, 0)
}

fn from(source: u32, sent: Vec<Sent>) -> Vec<Sent> {
    sent.into_iter().map(|sent| Sent { source, ..sent }).collect()
}

/// Silence, talk, silence, of a room that is never quite still.
fn talk(before: usize, ms: usize, after: usize) -> Vec<i16> {
    let talk = [signals::silence(before), signals::talk(ms, 8000.0), signals::silence(after)].concat();
    let room = signals::noise(before + ms + after, 8.0, 5);
    talk.iter().zip(room).map(|(s, n)| s.saturating_add(n)).collect()
}

fn between(sent: &[Sent], from_ms: u64, to_ms: u64) -> Vec<Sent> {
    sent.iter().filter(|sent| (from_ms * 1000..to_ms * 1000).contains(&sent.at)).cloned().collect()
}

#[test]
fn two_sources_of_one_participant_are_both_heard_and_may_speak_at_once() {
    // A screen that is shared without sound first, as it comes from browsers.
    let silent = from(7, mono(&talk(0, 0, 9000), VOICE));
    let mine = from(9, mono(&talk(2000, 3000, 2000), VOICE));
    let ears = Ears::hear([silent, mine.clone()].concat());
    assert_eq!(ears.share(&between(&mine, 1900, 5000)), 1.0);
    let captured = ears.spurts[&0].captured;
    assert!((1_400_000..2_000_000).contains(&captured), "{captured}");

    let other = from(7, mono(&talk(3000, 2000, 4000), Coding { bitrate: 20_000, ..VOICE }));
    let ears = Ears::hear([other.clone(), mine.clone()].concat());
    assert_eq!((ears.share(&between(&mine, 1900, 5000)), ears.share(&between(&other, 2900, 5000))), (1.0, 1.0));
    assert!(ears.spurts.len() >= 2);
    for spurt in ears.spurts.values() {
        let of = |sent: &[Sent]| {
            let payloads: BTreeSet<&Bytes> = sent.iter().map(|sent| &sent.payload).collect();
            spurt.frames(0).filter(|(_, payload)| payloads.contains(payload)).count()
        };
        let (mine, other) = (of(&mine), of(&other));
        assert!(
            mine.min(other) * 10 < mine.max(other),
            "a spurt is of one source: {mine} of one, {other} of the other"
        );
    }
}

#[test]
fn one_who_is_given_a_new_source_again_and_again_is_heard_all_along() {
    let speech = mono(&talk(500, 30_000, 500), VOICE);
    let renewed = |sent: &Sent| {
        let turn = (sent.at / 700_000) as u32;
        let sequence = sent.sequence.wrapping_add((turn as u16).wrapping_mul(7777));
        Sent { source: 100 + turn, sequence, timestamp: sent.timestamp.wrapping_add(turn << 20), ..sent.clone() }
    };
    let sent: Vec<Sent> = speech.iter().map(renewed).collect();
    let ears = Ears::hear(sent.clone());
    let share = ears.share(&between(&sent, 500, 30_500));
    // Its first packets may be taken for what goes before a voice; little more than 20 ms of each turn.
    assert!(share > 0.95, "{share}");
}

#[test]
fn packets_of_every_length_are_heard() {
    for frame in [2500, 5000, 10_000, 20_000, 40_000, 60_000, 120_000] {
        for coding in [Coding { frame, ..VOICE }, Coding { frame, ..MUSIC }] {
            let speech = mono(&talk(2000, 3000, 2000), coding);
            let ears = Ears::hear(speech.clone());
            let share = ears.share(&between(&speech, 1900, 5000));
            assert!(share > 0.999, "{share} in packets of {frame} us at {}", coding.bitrate);
        }
    }
}

/// As [`encode`] has it, by a clock that steps so far for each packet of 20 ms.
fn clocked(speech: &[Sent], step: u32) -> Vec<Sent> {
    let clocked = |(n, sent): (usize, &Sent)| Sent { timestamp: (n as u32).wrapping_mul(step), ..sent.clone() };
    speech.iter().enumerate().map(clocked).collect()
}

/// That all of the speech between two and five seconds came out in its place and without holes, but for lost packets.
fn all_is_in_its_place(ears: &Ears, speech: &[Sent], lost: usize, why: &str) {
    let spoken = between(speech, 1900, 5000);
    assert_eq!(ears.share(&spoken), 1.0, "{why}");
    let mut times: BTreeMap<&Bytes, Option<u64>> = BTreeMap::new();
    for sent in speech {
        // What is there twice is no sign of when.
        times.entry(&sent.payload).and_modify(|at| *at = None).or_insert(Some(sent.at));
    }
    let mut gaps = 0;
    for spurt in ears.spurts.values() {
        gaps += spurt.gaps();
        for (at, payload) in spurt.frames(20_000) {
            if let Some(spoken) = times[payload] {
                assert!(at.abs_diff(spoken) < 100_000, "{why}: {spoken} placed at {at}");
            }
        }
    }
    assert!(gaps <= lost, "{why}: {gaps} gaps");
}

#[test]
fn a_clock_of_another_rate_than_the_packets_costs_no_word() {
    let speech = mono(&talk(2000, 3000, 2000), VOICE);
    for step in [160, 320, 480, 882, 960, 1800, 1920, 0, 1, 0x9E37_79B9] {
        let sent = clocked(&speech, step);
        all_is_in_its_place(&Ears::hear(sent.clone()), &speech, 0, &format!("{step} a packet"));
        // Some are lost, and some overtaken.
        let kept = |(n, sent): (usize, &Sent)| {
            let late = if n % 11 == 3 { 30_000 } else { n as u64 * 7919 % 9000 };
            (n == 0 || n % 29 != 7).then(|| Sent { at: sent.at + late, ..sent.clone() })
        };
        let bad: Vec<Sent> = sent.iter().enumerate().filter_map(kept).collect();
        let ears = Ears::hear(bad.clone());
        let heard = between(&bad, 1930, 4990);
        assert_eq!(ears.share(&heard), 1.0, "{step} a packet on a bad network");
        let gaps: usize = ears.spurts.values().map(Spurt::gaps).sum();
        assert!(gaps <= 12, "{step} a packet on a bad network: {gaps} gaps");
    }
}

#[test]
fn a_clock_that_begins_anew_between_two_packets_costs_no_word() {
    let speech = mono(&talk(2000, 3000, 2000), VOICE);
    for jump in [0x4000_0000, 0xC000_0000, 90 * 48_000, 0u32.wrapping_sub(90 * 48_000)] {
        let jumps = |sent: &Sent| {
            let by = if sent.at >= 3_500_000 { jump } else { 0 };
            Sent { timestamp: sent.timestamp.wrapping_add(by), ..sent.clone() }
        };
        let sent: Vec<Sent> = speech.iter().map(jumps).collect();
        all_is_in_its_place(&Ears::hear(sent), &speech, 0, &format!("by {jump}"));
    }
}

#[test]
fn pauses_of_a_sender_that_sends_no_silence_are_pauses_whatever_its_clock() {
    let speech = mono(&talk(2000, 3000, 2000), VOICE);
    for step in [160, 960, 1920] {
        let mut sequence = 0;
        let mut sent = clocked(&speech, step);
        // Of silence only one packet in twenty goes out (RFC 7587 section 3.1.3).
        sent.retain(|sent| (1_000_000..5_500_000).contains(&sent.at) || sent.at % 400_000 == 0);
        for sent in &mut sent {
            sequence += 1;
            sent.sequence = sequence;
        }
        all_is_in_its_place(&Ears::hear(sent), &speech, 0, &format!("{step} a packet"));
    }
}

#[test]
fn a_level_that_always_says_silence_costs_no_word() {
    let (voice, room) = (talk(2000, 3000, 3000), talk(0, 0, 12_000));
    let constant = |coding| Coding { constant: true, ..coding };
    for coding in [VOICE, MUSIC, constant(VOICE), constant(MUSIC), constant(Coding { bitrate: 16_000, ..MUSIC })] {
        for pcm in [voice.clone(), [room.clone(), voice.clone()].concat()] {
            let begin = (pcm.len() - voice.len()) as u64 / 16;
            for byte in [127, 120, 127 | 0x80, 0x80] {
                let level = Some(AudioLevel::from_byte(byte));
                let sent: Vec<Sent> = mono(&pcm, coding).into_iter().map(|sent| Sent { level, ..sent }).collect();
                let share = Ears::hear(sent.clone()).share(&between(&sent, begin + 1950, begin + 5000));
                assert!(share == 1.0, "{share} of what is said to be of level {byte} at {}", coding.bitrate);
            }
        }
    }
}

#[test]
fn two_channels_of_opposite_phase_are_heard() {
    let left = talk(2000, 3000, 2000);
    let stereo = |coding| Coding { channels: Channels::Stereo, ..coding };
    for coding in
        [stereo(VOICE), stereo(Coding { bitrate: 48_000, ..VOICE }), stereo(Coding { bitrate: 96_000, ..MUSIC })]
    {
        for gain in [-1.0, -0.9, -0.7, 0.0, 1.0] {
            let right: Vec<i16> = left.iter().map(|s| (f64::from(*s) * gain) as i16).collect();
            let sent = encode(&left, &right, coding, 0);
            let share = Ears::hear(sent.clone()).share(&between(&sent, 1900, 5000));
            assert!(share == 1.0, "{share} with {gain} of it on the other side at {}", coding.bitrate);
        }
    }
}
