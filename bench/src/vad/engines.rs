//! Voice detectors, each given the same sound: a score for each 10 ms, and what it cost.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use webrtc_vad::{SampleRate, VadMode};

use super::{corpus::FRAME, judge::fill};

/// What an engine made of a recording.
#[derive(Debug, Clone)]
pub struct Scores {
    /// For each frame, higher where speech is likelier.
    pub scores: Vec<f32>,
    /// CPU time of the detector alone.
    pub cpu: Duration,
}

/// Detectors that hear all of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Decibels above the quietest of late: the least that anything else must beat.
    Energy,
    /// WebRTC's, as the crate `webrtc-vad` brings it: how many of its four modes say speech. The cost is one mode's.
    WebRtc,
    /// The crate `earshot`.
    Earshot,
    /// Silero v6, this project's port.
    Silero,
}

impl Engine {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Energy, Self::WebRtc, Self::Earshot, Self::Silero];

    /// As printed, and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Energy => "energy",
            Self::WebRtc => "webrtc-vad",
            Self::Earshot => "earshot",
            Self::Silero => "silero",
        }
    }

    /// Listens to 16 kHz `pcm`.
    pub fn listen(self, pcm: &[i16]) -> Scores {
        match self {
            Self::Energy => energy(pcm),
            Self::WebRtc => web_rtc(pcm),
            Self::Earshot => {
                let mut detector = Box::<earshot::Detector>::default();
                blocks::<256>(pcm, |block| detector.predict_i16(block))
            }
            Self::Silero => {
                let mut ear = silero::Ear::new();
                blocks::<{ silero::BLOCK }>(pcm, |block| ear.hear(block))
            }
        }
    }
}

/// What this thread has cost so far.
pub fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

fn blocks<const N: usize>(pcm: &[i16], mut score: impl FnMut(&[i16; N]) -> f32) -> Scores {
    let start = cpu();
    let found: Vec<f32> = pcm.as_chunks().0.iter().map(&mut score).collect();
    let cpu = cpu() - start;
    let mut scores = vec![0.0; pcm.len() / FRAME];
    for (n, found) in found.iter().enumerate() {
        fill(&mut scores, n * N, N, *found);
    }
    Scores { scores, cpu }
}

fn energy(pcm: &[i16]) -> Scores {
    let mut floor = f32::NAN;
    blocks::<FRAME>(pcm, |block| {
        let power = block.iter().map(|s| f32::from(*s).powi(2)).sum::<f32>() / FRAME as f32;
        let level = 10.0 * (power + 0.1).log10();
        floor = if floor.is_nan() || level < floor { level } else { floor + 0.01 };
        level - floor
    })
}

fn web_rtc(pcm: &[i16]) -> Scores {
    const MODES: [VadMode; 4] = [VadMode::Quality, VadMode::LowBitrate, VadMode::Aggressive, VadMode::VeryAggressive];
    let mut sum = Scores { scores: vec![0.0; pcm.len() / FRAME], cpu: Duration::ZERO };
    for mode in MODES {
        let mut vad = webrtc_vad::Vad::new_with_rate_and_mode(SampleRate::Rate16kHz, mode);
        let one = blocks::<320>(pcm, |block| f32::from(u8::from(vad.is_voice_segment(block) == Ok(true))));
        sum.scores.iter_mut().zip(&one.scores).for_each(|(sum, one)| *sum += one);
        sum.cpu += one.cpu / MODES.len() as u32;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_engine_scores_every_frame() {
        let pcm: Vec<i16> = (0..16_000).map(|n| if n % 97 < 40 && n > 8000 { 9000 } else { 0 }).collect();
        for engine in Engine::ALL {
            let heard = engine.listen(&pcm);
            assert_eq!(heard.scores.len(), 100, "{engine:?}");
            assert!(heard.scores.iter().all(|s| s.is_finite()), "{engine:?}");
        }
    }
}
