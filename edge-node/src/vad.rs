//! Speech begins, continues, ends: Silero's probability of each 32 ms with hysteresis and hangover.

use std::time::Duration;

use silero::{BLOCK, Ear};

/// The time that one probability is about.
const BLOCK_TIME: Duration = Duration::from_millis(32);

/// What Silero's probabilities, 0 to 1, mean. Tuned on missing nothing: a false alarm costs bandwidth, a miss a word.
/// `bench vad` and `bench words` measure what these lose and let through.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Probability at or above which a block counts towards an onset.
    pub onset: f32,
    /// So many such blocks in a row are speech; each more is 32 ms of delay and pre-roll.
    pub onset_blocks: u32,
    /// Probability below which a block of running speech counts as quiet; less than `onset`, so that weak endings
    /// stay in.
    pub offset: f32,
    /// Quiet that ends speech.
    pub hangover: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { onset: 0.4, onset_blocks: 1, offset: 0.3, hangover: Duration::from_millis(600) }
    }
}

impl Settings {
    /// How much of the speech has gone by when an onset is recognised: the blocks themselves, the one in which it
    /// began, and a packet.
    pub fn onset_delay(&self) -> Duration {
        BLOCK_TIME * (self.onset_blocks + 1) + Duration::from_millis(20)
    }
}

/// Where the speaker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Not speaking.
    Silence,
    /// Speaking.
    Speech,
    /// Quiet for so long, but not for the whole hangover yet.
    Pause(Duration),
}

/// The detector of one participant. About 2.5 KiB.
#[derive(Debug)]
pub struct Vad {
    settings: Settings,
    ear: Ear,
    block: [i16; BLOCK],
    filled: usize,
    run: u32,
    activity: Activity,
}

impl Vad {
    /// A detector that has heard nothing. Whether anybody speaks it judges as if there had been silence before.
    pub fn new(settings: Settings) -> Self {
        Self { settings, ear: Ear::rested(), block: [0; BLOCK], filled: 0, run: 0, activity: Activity::Silence }
    }

    /// Listens to 16 kHz `pcm`.
    pub fn push(&mut self, mut pcm: &[i16]) {
        while !pcm.is_empty() {
            let take = pcm.len().min(BLOCK - self.filled);
            self.block[self.filled..self.filled + take].copy_from_slice(&pcm[..take]);
            self.filled += take;
            pcm = &pcm[take..];
            if self.filled == BLOCK {
                self.filled = 0;
                let probability = probability(&mut self.ear, &self.block);
                self.judge(probability);
            }
        }
    }

    /// Lets time pass in which there is nothing to hear.
    pub fn skip(&mut self, time: Duration) {
        self.run = 0;
        self.filled = 0;
        self.quiet(time);
    }

    /// Goes on after sound that it has not heard. What it remembers of the speaker, and where the speaker is, stays.
    pub fn resume(&mut self) {
        self.filled = 0;
        self.run = 0;
    }

    /// Where the speaker is now.
    pub fn activity(&self) -> Activity {
        self.activity
    }

    /// Whether a spurt is under way, pauses included.
    pub fn speaking(&self) -> bool {
        self.activity != Activity::Silence
    }

    fn judge(&mut self, probability: f32) {
        self.run = if probability >= self.settings.onset { self.run + 1 } else { 0 };
        match self.activity {
            _ if self.run >= self.settings.onset_blocks => self.activity = Activity::Speech,
            Activity::Speech if probability >= self.settings.offset => {}
            Activity::Pause(_) if self.run > 0 => self.activity = Activity::Speech,
            _ => self.quiet(BLOCK_TIME),
        }
    }

    fn quiet(&mut self, time: Duration) {
        let pause = match self.activity {
            Activity::Silence => return,
            Activity::Speech => time,
            Activity::Pause(before) => before + time,
        };
        self.activity = if pause < self.settings.hangover { Activity::Pause(pause) } else { Activity::Silence };
    }
}

/// Of speech in a block. To the fuzzer, which cannot know a voice and would wait for it most of the time, what is loud is one.
#[allow(unexpected_cfgs, reason = "set for the fuzz targets alone, by fuzz/rustc")]
fn probability(ear: &mut Ear, block: &[i16; BLOCK]) -> f32 {
    if cfg!(fuzzing) {
        return f32::from(u8::from(block.iter().any(|sample| sample.unsigned_abs() > 1000)));
    }
    ear.hear(block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals;

    /// What the detector thought after each 20 ms.
    fn listen(pcm: &[i16]) -> Vec<Activity> {
        let mut vad = Vad::new(Settings::default());
        let hear = |chunk: &[i16]| {
            vad.push(chunk);
            vad.activity()
        };
        pcm.chunks(320).map(hear).collect()
    }

    #[test]
    fn a_voice_is_speech_and_what_is_none_is_not() {
        let share = |pcm: &[i16]| {
            let heard = listen(pcm);
            heard.iter().filter(|a| **a != Activity::Silence).count() as f64 / heard.len() as f64
        };
        assert!(share(&signals::talk(3000, 8000.0)) > 0.8);
        assert!(share(&signals::talk(3000, 800.0)) > 0.8);
        assert_eq!(share(&signals::silence(3000)), 0.0);
        // A noise that begins may be anything at first.
        assert!(listen(&signals::noise(3000, 300.0, 1))[50..].iter().all(|a| *a == Activity::Silence));
    }

    #[test]
    fn speech_ends_after_the_hangover() {
        let heard = listen(&[signals::talk(1000, 8000.0), signals::silence(1500)].concat());
        let end = heard.iter().rposition(|a| *a != Activity::Silence).map_or(0, |n| n + 1) as u64 * 20;
        assert!((1500..=1800).contains(&end), "ended at {end} ms");
        assert!(heard.iter().any(|a| matches!(a, Activity::Pause(p) if *p > Duration::from_millis(500))));
    }

    #[test]
    fn time_without_sound_counts_as_quiet() {
        let mut vad = Vad::new(Settings::default());
        vad.push(&signals::talk(1000, 8000.0));
        vad.skip(Duration::from_millis(400));
        assert!(vad.speaking());
        vad.skip(Duration::from_millis(250));
        assert!(!vad.speaking());
    }
}
