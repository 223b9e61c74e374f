//! Does anybody's first word go missing? Sentences after long silences, in rooms of several kinds.

use anyhow::Result;
use edge_node::pipeline::Settings;
use mesh::wire::request::VadSettings;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::{
    speech::SAMPLE_RATE,
    vad::{Noise, PACKET, Sounds, encode, forward, labelled, level, pink, to_i16},
};

/// Rooms, and by how many decibels speech is above their noise.
const ROOMS: [Option<(Noise, u8)>; 4] =
    [None, Some((Noise::Pink, 20)), Some((Noise::Hum, 20)), Some((Noise::Keyboard, 20))];
/// RMS of speech: -26 dB below full scale; each sentence is up to so many decibels louder or softer.
const LOUDNESS: f32 = 0.05;
const LOUDER_DB: f32 = 6.0;
/// A first word's length at most, in frames of 10 ms.
const WORD: usize = 40;
/// Samples of such a frame.
const FRAME: usize = SAMPLE_RATE / 100;
/// Silences before an onset, in seconds.
const SILENCE: (f64, f64) = (1.0, 60.0);
/// RMS of a quiet room.
const ROOM: f32 = 3.16e-4;

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Onsets {
    pub(super) onsets: usize,
    /// Of which something of the first word did not go through.
    pub(super) lost: usize,
    /// Packets sent and decoded.
    pub(super) packets: u64,
    pub(super) decoded: u64,
}

/// Lets somebody begin to speak `count` times; silences are spread evenly over 1 to 60 s.
pub(super) fn onsets(count: usize, sounds: &Sounds, seed: u64) -> Result<Onsets> {
    let mut found = Onsets::default();
    for (n, room) in ROOMS.iter().enumerate() {
        let here = count / ROOMS.len() + usize::from(n < count % ROOMS.len());
        let lost = found.lost;
        // Each room for itself: what changes in one changes nothing in the others.
        let mut rng = StdRng::seed_from_u64(seed.wrapping_add(n as u64));
        found.onset_room(here, *room, sounds, &mut rng)?;
        let name = room.map_or("quiet".into(), |(noise, snr)| format!("{} {snr} dB", noise.name()));
        eprintln!("onsets in {name}: {} of {here} lost", found.lost - lost);
    }
    Ok(found)
}

impl Onsets {
    fn onset_room(&mut self, count: usize, room: Option<(Noise, u8)>, sounds: &Sounds, rng: &mut StdRng) -> Result<()> {
        let (mut sound, mut words) = (vec![], vec![]);
        let mut order: Vec<usize> = (0..count).collect();
        rand::seq::SliceRandom::shuffle(&mut order[..], rng);
        for n in order {
            let silence = SILENCE.0 + (SILENCE.1 - SILENCE.0) * n as f64 / (count.max(2) - 1) as f64;
            sound.resize(sound.len() + (silence * 100.0) as usize * FRAME, 0.0);
            let Some((_, sentences)) = sounds.languages.choose(rng) else { break };
            let Some(sentence) = sentences.choose(rng) else { break };
            let (voice, speech) = labelled(sentence);
            let first = sound.len() / FRAME + speech.iter().position(|s| *s).unwrap_or(0);
            let word = speech.iter().skip_while(|s| !**s).take(WORD).take_while(|s| **s).count();
            words.push(first..first + word);
            sound.extend(at_loudness(voice, &speech, rng));
        }
        // The last sentence has an end.
        sound.resize(sound.len() + SAMPLE_RATE, 0.0);
        add_room(&mut sound, room, sounds, rng);
        let pcm: Vec<i16> = sound.into_iter().map(to_i16).collect();
        let sent = encode(&pcm, super::BITRATE)?;
        let forwarded = forward(&sent, VadSettings::default(), Settings::default())?;
        // What is heard at a time is in that time's packet or, as the encoder is late, in the next.
        let passed = |sample: usize| forwarded.packets.get(sample / PACKET).copied().unwrap_or(true);
        let whole = |frame: usize| passed(frame * FRAME) && passed((frame + 1) * FRAME - 1 + sent.delay);
        self.lost += words.iter().filter(|word| !(*word).clone().all(whole)).count();
        self.onsets += words.len();
        self.packets += sent.packets.len() as u64;
        self.decoded += forwarded.decoded;
        Ok(())
    }
}

fn at_loudness(mut voice: Vec<f32>, speech: &[bool], rng: &mut StdRng) -> Vec<f32> {
    let spoken: Vec<f32> =
        voice.chunks(FRAME).zip(speech).filter(|(_, s)| **s).flat_map(|(frame, _)| frame.iter().copied()).collect();
    let target = LOUDNESS * 10f32.powf(rng.random_range(-LOUDER_DB..LOUDER_DB) / 20.0);
    let gain = target / crate::vad::rms(&spoken).max(1e-6);
    voice.iter_mut().for_each(|x| *x *= gain);
    voice
}

fn add_room(sound: &mut [f32], room: Option<(Noise, u8)>, sounds: &Sounds, rng: &mut StdRng) {
    let mut floor = pink(sound.len(), rng);
    level(&mut floor, ROOM);
    sound.iter_mut().zip(&floor).for_each(|(s, n)| *s += n);
    if let Some((noise, snr)) = room {
        let made = noise.make(sound.len(), "", sounds, rng);
        let gain = LOUDNESS * 10f32.powf(-f32::from(snr) / 20.0);
        sound.iter_mut().zip(&made).for_each(|(s, n)| *s += n * gain);
    }
}
