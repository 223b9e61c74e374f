//! What a microphone hears besides its owner: each as long as asked for, with an RMS of 1.

use std::f64::consts::TAU;

use rand::{Rng, RngExt, rngs::StdRng, seq::IndexedRandom};

use super::corpus::Sounds;
use crate::speech::SAMPLE_RATE;

/// Voices in a babble.
const TALKERS: usize = 8;

/// Kinds of noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Noise {
    /// A room's own, or a fan: as much power in each octave.
    Pink,
    /// Mains hum at 50 Hz and its harmonics.
    Hum,
    /// Somebody types.
    Keyboard,
    /// Music.
    Music,
    /// Eight people talk in another language: the nearest to speech that is none.
    Babble,
}

impl Noise {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Pink, Self::Hum, Self::Keyboard, Self::Music, Self::Babble];

    /// As printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pink => "pink",
            Self::Hum => "hum",
            Self::Keyboard => "keyboard",
            Self::Music => "music",
            Self::Babble => "babble",
        }
    }

    /// `samples` of it, behind a speaker of `language`.
    pub fn make(self, samples: usize, language: &str, sounds: &Sounds, rng: &mut StdRng) -> Vec<f32> {
        let mut noise = match self {
            Self::Pink => pink(samples, rng),
            Self::Hum => hum(samples, rng),
            Self::Keyboard => keyboard(samples, rng),
            Self::Music => music(samples, sounds, rng),
            Self::Babble => babble(samples, language, sounds, rng),
        };
        level(&mut noise, 1.0);
        noise
    }
}

/// Brings `sound` to that RMS; silence stays what it is.
pub fn level(sound: &mut [f32], rms: f32) {
    let found = self::rms(sound);
    if found > 0.0 {
        sound.iter_mut().for_each(|x| *x *= rms / found);
    }
}

/// Root of the mean square.
pub fn rms(sound: &[f32]) -> f32 {
    (sound.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / sound.len().max(1) as f64).sqrt() as f32
}

/// White noise through Paul Kellet's filter: pink within 0.05 dB.
pub fn pink(samples: usize, rng: &mut impl Rng) -> Vec<f32> {
    const POLES: [(f32, f32); 6] = [
        (0.99886, 0.0555179),
        (0.99332, 0.0750759),
        (0.96900, 0.153852),
        (0.86650, 0.3104856),
        (0.55000, 0.5329522),
        (-0.7616, -0.0168980),
    ];
    let (mut state, mut last) = ([0f32; 6], 0.0);
    let step = |_| {
        let white: f32 = rng.random_range(-1.0..=1.0);
        for (s, (pole, gain)) in state.iter_mut().zip(POLES) {
            *s = pole * *s + gain * white;
        }
        let out = state.iter().sum::<f32>() + last + white * 0.5362;
        last = white * 0.115926;
        out
    };
    (0..samples).map(step).collect()
}

fn hum(samples: usize, rng: &mut impl Rng) -> Vec<f32> {
    const HARMONICS: [(f64, f64); 7] = [(1., 1.), (2., 0.7), (3., 0.5), (4., 0.25), (5., 0.3), (7., 0.2), (9., 0.1)];
    let mut hiss = pink(samples, rng);
    level(&mut hiss, 0.05);
    let tone = |t: f64| HARMONICS.iter().map(|(h, gain)| gain * (TAU * 50.0 * h * t + h).sin()).sum::<f64>();
    let swell = |t: f64| 1.0 + 0.1 * (TAU * 0.3 * t).sin();
    let at = |n: usize| n as f64 / SAMPLE_RATE as f64;
    hiss.iter().enumerate().map(|(n, hiss)| (tone(at(n)) * swell(at(n))) as f32 + hiss).collect()
}

/// Keys go down and up again; now and then the typist thinks.
fn keyboard(samples: usize, rng: &mut impl Rng) -> Vec<f32> {
    let mut out = vec![0.0; samples];
    let mut at = 0;
    let seconds = |s: f64| (s * SAMPLE_RATE as f64) as usize;
    while at < samples {
        click(&mut out, at, 1.0, rng);
        click(&mut out, at + seconds(rng.random_range(0.05..0.11)), 0.5, rng);
        at += 800 + seconds(-0.13 * rng.random_range(1e-6f64..1.0).ln());
        if rng.random_bool(0.05) {
            at += seconds(rng.random_range(0.5..2.0));
        }
    }
    out
}

fn click(out: &mut [f32], at: usize, gain: f32, rng: &mut impl Rng) {
    let length = rng.random_range(128..400);
    let (gain, pitch) = (gain * rng.random_range(0.4..1.0), rng.random_range(900.0f32..2500.0));
    let mut last = 0.0;
    for (n, out) in out.iter_mut().skip(at).take(length).enumerate() {
        let fade = |part: f32| (-part * n as f32 / length as f32).exp();
        let white: f32 = rng.random_range(-1.7..1.7);
        let ring = (std::f32::consts::TAU * pitch * n as f32 / SAMPLE_RATE as f32).sin();
        *out += gain * ((white - 0.7 * last) * fade(4.0) + 0.6 * ring * fade(5.0));
        last = white;
    }
}

fn music(samples: usize, sounds: &Sounds, rng: &mut impl Rng) -> Vec<f32> {
    let Some(piece) = sounds.music.choose(rng) else { return vec![0.0; samples] };
    let from = rng.random_range(10..30) * SAMPLE_RATE;
    piece.iter().cycle().skip(from).take(samples).map(|s| f32::from(*s)).collect()
}

fn babble(samples: usize, language: &str, sounds: &Sounds, rng: &mut impl Rng) -> Vec<f32> {
    let others: Vec<_> =
        sounds.languages.iter().filter(|(name, _)| name != language).map(|(_, prompts)| prompts).collect();
    let mut out = vec![0.0; samples];
    for prompts in others.iter().cycle().take(TALKERS) {
        let mut voice: Vec<f32> = vec![];
        while voice.len() < samples {
            let Some(prompt) = prompts.choose(rng) else { break };
            voice.extend(prompt.iter().map(|s| f32::from(*s)));
        }
        voice.truncate(samples);
        level(&mut voice, 1.0);
        out.iter_mut().zip(&voice).for_each(|(out, voice)| *out += voice);
    }
    out
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn every_noise_is_as_long_and_as_loud_as_asked_for() {
        let voice: Vec<i16> = (0..40_000).map(|n| ((n * 37 % 200) as i16 - 100) * 50).collect();
        let languages = vec![("en".to_owned(), vec![voice.clone()]), ("fr".to_owned(), vec![voice.clone()])];
        let sounds = Sounds { languages, music: vec![voice] };
        for noise in Noise::ALL {
            let made = noise.make(50_000, "en", &sounds, &mut StdRng::seed_from_u64(1));
            assert_eq!(made.len(), 50_000, "{noise:?}");
            assert!((rms(&made) - 1.0).abs() < 1e-3, "{noise:?}: {}", rms(&made));
        }
    }

    #[test]
    fn pink_noise_loses_three_decibels_an_octave() {
        let made = pink(200_000, &mut StdRng::seed_from_u64(1));
        // The mean of two neighbours passes the low half of the spectrum, their difference the high half.
        let (low, high): (Vec<f32>, Vec<f32>) =
            made.windows(2).map(|w| ((w[0] + w[1]) / 2.0, (w[0] - w[1]) / 2.0)).unzip();
        assert!(rms(&low) > 2.0 * rms(&high), "{} {}", rms(&low), rms(&high));
    }
}
