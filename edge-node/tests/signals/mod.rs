//! Sounds at 16 kHz made from nothing: what a voice detector must hear as a voice, and what it must not.
#![allow(dead_code, unreachable_pub, reason = "shared by unit and integration tests")]

use std::f64::consts::TAU;

/// Samples per millisecond.
const RATE: usize = 16;

/// Formants in Hz of the vowels that [`talk`] goes through (Peterson and Barney 1952, men).
const VOWELS: [[f64; 3]; 5] =
    [[730., 1090., 2440.], [270., 2290., 3010.], [530., 1840., 2480.], [570., 840., 2410.], [300., 870., 2240.]];

/// A voice: glottal pulses around 200 Hz through resonances that glide from vowel to vowel, loud and soft five times a
/// second as syllables are. `peak` is the largest sample.
pub fn talk(ms: usize, peak: f64) -> Vec<i16> {
    let mut resonators = [Resonator::default(); 3];
    let (mut phase, mut glottis) = (0.0, 0.0);
    let mut voice: Vec<f64> = vec![];
    for n in 0..ms * RATE {
        let t = n as f64 / 16_000.0;
        phase += 200.0 * (1.0 + 0.12 * (TAU * 0.7 * t).sin() + 0.04 * (TAU * 5.0 * t).sin()) / 16_000.0;
        glottis = 0.95 * glottis + if phase >= 1.0 { 0.05 } else { 0.0 };
        phase %= 1.0;
        let sound: f64 = (0..3).map(|i| [1.0, 0.6, 0.3][i] * resonators[i].step(glottis, formant(t * 6.0, i))).sum();
        voice.push(sound * (0.01 + 0.99 * (TAU * 2.5 * t).sin().powi(2)));
    }
    scale(&voice, peak)
}

/// The `i`th formant at a point on the way through the vowels.
fn formant(way: f64, i: usize) -> f64 {
    let (from, to) = (VOWELS[way as usize % VOWELS.len()], VOWELS[(way as usize + 1) % VOWELS.len()]);
    from[i] + (to[i] - from[i]) * way.fract()
}

/// Nothing at all.
pub fn silence(ms: usize) -> Vec<i16> {
    vec![0; ms * RATE]
}

/// White noise up to `peak`.
pub fn noise(ms: usize, peak: f64, seed: u64) -> Vec<i16> {
    let mut state = seed | 1;
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64 * 2.0 - 1.0
    };
    (0..ms * RATE).map(|_| (step() * peak) as i16).collect()
}

/// Level in -dBov as RFC 6464 has it: 0 loud, 127 silent.
pub fn dbov(pcm: &[i16]) -> u8 {
    let power = pcm.iter().map(|s| (f64::from(*s) / 32768.0).powi(2)).sum::<f64>() / pcm.len().max(1) as f64;
    (-10.0 * power.log10()).clamp(0.0, 127.0).round() as u8
}

/// Two poles: one formant of 80 Hz bandwidth.
#[derive(Clone, Copy, Default)]
struct Resonator([f64; 2]);

impl Resonator {
    fn step(&mut self, input: f64, hertz: f64) -> f64 {
        let radius = (-TAU / 2.0 * 80.0 / 16_000.0).exp();
        let out = input + 2.0 * radius * (TAU * hertz / 16_000.0).cos() * self.0[0] - radius * radius * self.0[1];
        self.0 = [out, self.0[0]];
        out
    }
}

fn scale(signal: &[f64], peak: f64) -> Vec<i16> {
    let most = signal.iter().fold(1e-9, |m: f64, s| m.max(s.abs()));
    signal.iter().map(|s| (s / most * peak) as i16).collect()
}
