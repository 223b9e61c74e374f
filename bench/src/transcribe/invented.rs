//! Sounds in which nobody speaks.

use std::{path::Path, sync::Arc};

use anyhow::Result;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    speech::SAMPLE_RATE,
    vad::{Sounds, level, pink},
};

/// What an engine is given at a time.
const CLIP: usize = 15 * SAMPLE_RATE;

/// One clip of it.
pub(super) struct Sound {
    pub(super) kind: &'static str,
    pub(super) samples: Arc<[f32]>,
}

/// Clips of so many minutes each of silence, pink noise of a loud room, keys that are struck, hands that clap, and music.
pub(super) fn sounds(voices: &Path, minutes: u64, seed: u64) -> Result<Vec<Sound>> {
    if minutes == 0 {
        return Ok(vec![]);
    }
    let length = minutes as usize * 60 * SAMPLE_RATE;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut noise = pink(length, &mut rng);
    level(&mut noise, 0.02);
    let music = Sounds::load(voices)?.music;
    let music = music.iter().flatten().cycle().take(length).map(|sample| f32::from(*sample) / 32_768.0).collect();
    let kinds: [(&'static str, Vec<f32>); 5] = [
        ("silence", vec![0.0; length]),
        ("pink noise", noise),
        ("keys", strokes(length, 4.0, &mut rng)),
        ("applause", strokes(length, 60.0, &mut rng)),
        ("music", music),
    ];
    let clips = |(kind, sound): &(&'static str, Vec<f32>)| -> Vec<Sound> {
        sound.chunks(CLIP).map(|samples| Sound { kind, samples: samples.into() }).collect()
    };
    Ok(kinds.iter().flat_map(clips).collect())
}

/// So many short strokes a second, at random: few are keys, many are applause.
fn strokes(length: usize, per_second: f64, rng: &mut StdRng) -> Vec<f32> {
    let mut sound = vec![0.0f32; length];
    let count = (length as f64 / SAMPLE_RATE as f64 * per_second) as usize;
    for _ in 0..count {
        let (at, loud) = (rng.random_range(0..length), rng.random_range(0.02..0.2f32));
        // 30 ms of noise that fades.
        for (n, sample) in sound[at..].iter_mut().take(SAMPLE_RATE * 3 / 100).enumerate() {
            *sample += loud * (-(n as f32) / 120.0).exp() * rng.random_range(-1.0..1.0);
        }
    }
    sound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strokes_are_as_many_and_as_loud_as_they_should_be() {
        let mut rng = StdRng::seed_from_u64(3);
        let sound = strokes(SAMPLE_RATE * 10, 4.0, &mut rng);
        let loud = sound.iter().filter(|sample| sample.abs() > 0.005).count();
        assert!((500..20_000).contains(&loud), "{loud}");
        assert!(sound.iter().all(|sample| sample.abs() < 1.0));
    }
}
