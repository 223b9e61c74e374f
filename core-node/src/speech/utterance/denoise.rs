//! Noise taken out of what a speech engine is to hear, by RNNoise (Valin, "A Hybrid DSP/Deep Learning Approach to Real-Time
//! Full-Band Speech Enhancement", 2018), which wants 48 kHz.
//!
//! What is stored stays as it came: this is a matter of the engine's, and another may be better without.

use nnnoiseless::DenoiseState;
use rubato::{Fft, FixedSync, Resampler, audioadapter_buffers::direct::InterleavedSlice};

use super::decode::RATE;

/// Samples per second that RNNoise wants.
const FULL_RATE: usize = 48_000;
/// Samples in a frame of its, 10 ms; what comes out is a frame late.
const FRAME: usize = DenoiseState::FRAME_SIZE;
/// It wants samples as large as those of 16 bits.
const SCALE: f32 = 32_768.0;
/// Resampled at a time.
const CHUNK: usize = 480;

/// The same sound, as long and at the same times, with less noise.
pub fn suppress(samples: &[f32]) -> Vec<f32> {
    let wide = resample(samples, RATE as usize, FULL_RATE);
    let mut clean = vec![];
    let mut state = DenoiseState::new();
    let (mut frame, mut out) = ([0.0; FRAME], [0.0; FRAME]);
    // One frame more brings the last one out.
    for chunk in wide.chunks(FRAME).chain([&[][..]]) {
        frame.fill(0.0);
        frame.iter_mut().zip(chunk).for_each(|(to, from)| *to = from * SCALE);
        state.process_frame(&mut out, &frame);
        clean.extend(out.iter().map(|sample| sample / SCALE));
    }
    let clean = clean.get(FRAME..).unwrap_or_default();
    let mut narrow = resample(&clean[..clean.len().min(wide.len())], FULL_RATE, RATE as usize);
    narrow.resize(samples.len(), 0.0);
    narrow
}

fn resample(samples: &[f32], from: usize, to: usize) -> Vec<f32> {
    let mut resampler = Fft::<f32>::new(from, to, CHUNK, 1, FixedSync::Both).expect("the rates are sound");
    let input = InterleavedSlice::new(samples, 1, samples.len()).expect("one channel");
    let output = resampler.process_all(&input, samples.len(), None).expect("it allocates what it needs");
    output.take_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Syllables: a buzz of 150 Hz and its harmonics, five times a second.
    fn voice(seconds: f32) -> Vec<f32> {
        let at = |n: usize| n as f32 / RATE as f32;
        let tau = std::f32::consts::TAU;
        let buzz = |t: f32| (1..20).map(|h| (tau * 150.0 * h as f32 * t).sin() / h as f32).sum::<f32>();
        (0..(seconds * RATE as f32) as usize).map(at).map(|t| 0.1 * buzz(t) * (tau * 2.5 * t).sin().powi(2)).collect()
    }

    fn noise(count: usize, peak: f32) -> Vec<f32> {
        let mut state = 1u64;
        let mut step = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..count).map(|_| step() * peak).collect()
    }

    fn energy(sound: &[f32]) -> f32 {
        sound.iter().map(|s| s * s).sum()
    }

    #[test]
    fn a_room_s_noise_is_less_and_every_length_is_kept() {
        for count in [0, 1, 160, 479, 16_000, 33_333] {
            assert_eq!(suppress(&noise(count, 0.01)).len(), count);
        }
        let room = noise(3 * RATE as usize, 0.01);
        let after = suppress(&room);
        assert!(energy(&after[16_000..]) * 10.0 < energy(&room[16_000..]), "{}", energy(&after) / energy(&room));
    }

    #[test]
    fn what_is_said_stays_in_its_place() {
        let said = voice(3.0);
        let noisy: Vec<f32> = said.iter().zip(noise(said.len(), 0.01)).map(|(s, n)| s + n).collect();
        let heard = suppress(&noisy);
        let alike = |shift: i32| -> f32 {
            let shifted = |n: usize| usize::try_from(n as i32 + shift).ok().and_then(|n| heard.get(n)).unwrap_or(&0.0);
            (0..said.len()).map(|n| said[n] * shifted(n)).sum()
        };
        let best = (-400..=400).max_by(|a, b| alike(*a).total_cmp(&alike(*b))).unwrap_or_default();
        assert!(best.abs() <= 8, "half a millisecond at most: {best} samples");
        assert!(alike(best) > 0.5 * energy(&said));
    }
}
