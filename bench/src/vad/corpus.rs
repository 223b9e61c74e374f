//! Recordings of which it is known when somebody speaks.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::noise::{Noise, level, pink, rms};
use crate::speech::{self, SAMPLE_RATE};

/// Samples of a label: 10 ms.
pub const FRAME: usize = SAMPLE_RATE / 100;
/// Where the music lies, beside the languages.
const MUSIC: &str = "music";
/// Speech is what is at most so many decibels below the loud parts of a clean prompt ...
const DYNAMICS_DB: f32 = 35.0;
/// ... gaps of fewer frames belong to it, and sounds of fewer do not.
const SHORT_GAP: usize = 20;
const SHORT_SOUND: usize = 4;
/// Noise of the quiet room under everything, -70 dB below full scale.
const ROOM: f32 = 3.16e-4;
/// Prompts that are no sentences.
const NO_SPEECH: [&str; 6] = ["beep", "tone", "silence", "confbridge-join", "confbridge-leave", "monkey"];

/// Clean speech by language, and music.
#[derive(Debug, Clone, Default)]
pub struct Sounds {
    /// Sentences of each language, 16 kHz mono.
    pub languages: Vec<(String, Vec<Vec<i16>>)>,
    /// Pieces of music, 16 kHz mono.
    pub music: Vec<Vec<i16>>,
}

/// A recording and its labels.
#[derive(Debug, Clone)]
pub struct Recording {
    /// Its language, or the file's name.
    pub language: String,
    /// What is heard besides speech; `None` for a quiet room.
    pub noise: Option<Noise>,
    /// By how many decibels speech is above it.
    pub snr: u8,
    /// 16 kHz mono.
    pub pcm: Vec<i16>,
    /// Whether somebody speaks, for each [`FRAME`].
    pub speech: Arc<[bool]>,
}

impl Sounds {
    /// The `.g722` files of each folder in `root`; that called `music` is music.
    ///
    /// # Errors
    /// There are fewer than two languages (babble is in another one), or no music.
    pub fn load(root: &Path) -> Result<Self> {
        let mut sounds = Self::default();
        for folder in sorted(root).context("no voices: run ./dev voices, or name their folder with --voices")? {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !folder.is_dir() {
                continue;
            }
            let spoken =
                |path: &PathBuf| name == MUSIC || !NO_SPEECH.iter().any(|no| path.to_string_lossy().contains(no));
            let files =
                sorted(&folder)?.into_iter().filter(|p| p.extension().is_some_and(|e| e == "g722")).filter(spoken);
            let decoded: Vec<Vec<i16>> =
                files.map(|path| Ok(speech::decode(&fs::read(path)?).to_vec())).collect::<Result<_>>()?;
            if name == MUSIC {
                sounds.music = decoded;
            } else {
                let sentences: Vec<_> =
                    decoded.into_iter().filter(|s| (1.2..9.0).contains(&seconds(s.len()))).collect();
                if !sentences.is_empty() {
                    sounds.languages.push((name, sentences));
                }
            }
        }
        let (languages, music) = (sounds.languages.len(), sounds.music.len());
        ensure!(
            languages > 1 && music > 0,
            "{}: {languages} languages and {music} pieces of music: run ./dev voices",
            root.display()
        );
        Ok(sounds)
    }

    /// `seconds` of each language in a quiet room, and the same behind each noise at 20, 10 and 5 dB.
    pub fn recordings(&self, seconds: usize, seed: u64) -> Vec<Recording> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut all = vec![];
        for (language, sentences) in &self.languages {
            let (clean, speech) = conversation(sentences, seconds * 100, &mut rng);
            let loud = loudness(&clean, &speech);
            let mix = |noise: &[f32], gain: f32| clean.iter().zip(noise).map(|(s, n)| to_i16(s + n * gain)).collect();
            let recording =
                |noise, snr, pcm| Recording { language: language.clone(), noise, snr, pcm, speech: speech.clone() };
            all.push(recording(None, 99, mix(&vec![0.0; clean.len()], 0.0)));
            for noise in Noise::ALL {
                let sound = noise.make(clean.len(), language, self, &mut rng);
                all.extend([20u8, 10, 5].map(|snr| {
                    let gain = loud * 10f32.powf(-f32::from(snr) / 20.0);
                    recording(Some(noise), snr, mix(&sound, gain))
                }));
            }
        }
        all
    }
}

/// Sentences at -26 dB below full scale, three more or less, with pauses of 0.3 to 3 s, over the room's noise.
fn conversation(sentences: &[Vec<i16>], frames: usize, rng: &mut StdRng) -> (Vec<f32>, Arc<[bool]>) {
    let mut deck: Vec<&Vec<i16>> = vec![];
    let (mut sound, mut labels): (Vec<f32>, Vec<bool>) = (vec![], vec![]);
    while labels.len() < frames {
        let pause = rng.random_range(30..300);
        labels.extend(std::iter::repeat_n(false, pause));
        sound.extend(std::iter::repeat_n(0.0, pause * FRAME));
        if deck.is_empty() {
            deck = sentences.iter().collect();
            deck.shuffle(rng);
        }
        let Some(sentence) = deck.pop() else { break };
        let (mut voice, speech) = labelled(sentence);
        let gain = 10f32.powf((-26.0 + rng.random_range(-3.0..3.0)) / 20.0) / loudness(&voice, &speech);
        voice.iter_mut().for_each(|x| *x *= gain);
        sound.extend(voice);
        labels.extend(speech);
    }
    sound.truncate(frames * FRAME);
    labels.truncate(frames);
    let mut room = pink(sound.len(), rng);
    level(&mut room, ROOM);
    sound.iter_mut().zip(&room).for_each(|(s, r)| *s += r);
    (sound, labels.into())
}

/// A clean sentence in whole frames, and where in it somebody speaks, by its energy.
pub fn labelled(sentence: &[i16]) -> (Vec<f32>, Vec<bool>) {
    let whole = sentence.len() / FRAME * FRAME;
    let voice: Vec<f32> = sentence[..whole].iter().map(|s| f32::from(*s) / 32768.0).collect();
    let level: Vec<f32> = voice.chunks(FRAME).map(|frame| 20.0 * (rms(frame) + 1e-6).log10()).collect();
    let mut sorted = level.clone();
    sorted.sort_by(f32::total_cmp);
    let loud = sorted.get(sorted.len() * 95 / 100).copied().unwrap_or(0.0);
    let mut speech: Vec<bool> = level.iter().map(|l| *l > loud - DYNAMICS_DB).collect();
    turn_short_runs(&mut speech, false, SHORT_GAP);
    turn_short_runs(&mut speech, true, SHORT_SOUND);
    (voice, speech)
}

/// Turns runs of `value` shorter than `length` into what is around them; gaps at either end are none.
fn turn_short_runs(labels: &mut [bool], value: bool, length: usize) {
    let mut at = 0;
    while at < labels.len() {
        let run = labels[at..].iter().take_while(|l| **l == labels[at]).count();
        let inside = value || (at > 0 && at + run < labels.len());
        if labels[at] == value && run < length && inside {
            labels[at..at + run].fill(!value);
        }
        at += run;
    }
}

fn loudness(sound: &[f32], speech: &[bool]) -> f32 {
    let spoken: Vec<f32> = sound
        .chunks_exact(FRAME)
        .zip(speech)
        .filter(|(_, s)| **s)
        .flat_map(|(frame, _)| frame.iter().copied())
        .collect();
    rms(&spoken).max(1e-6)
}

/// Recordings of one's own: each `NAME.wav` (16 kHz, mono, 16 bits) with `NAME.txt` beside it, an Audacity label
/// track: a line for each stretch of speech, its start and end in seconds, and whatever else.
///
/// # Errors
/// The folder has none, or a file is not of that kind; the error names it and the line.
pub fn files(folder: &Path) -> Result<Vec<Recording>> {
    let wavs: Vec<_> = sorted(folder)?.into_iter().filter(|p| p.extension().is_some_and(|e| e == "wav")).collect();
    ensure!(!wavs.is_empty(), "{}: no .wav files", folder.display());
    wavs.iter().map(|path| file(path).with_context(|| path.display().to_string())).collect()
}

fn file(path: &Path) -> Result<Recording> {
    let mut reader = hound::WavReader::open(path)?;
    let spec = reader.spec();
    let right = spec.channels == 1 && spec.sample_rate == SAMPLE_RATE as u32 && spec.bits_per_sample == 16;
    ensure!(
        right,
        "{} Hz, {} channels, {} bits: 16000 Hz, mono, 16 bits are needed",
        spec.sample_rate,
        spec.channels,
        spec.bits_per_sample
    );
    let pcm = reader.samples::<i16>().collect::<Result<Vec<_>, _>>()?;
    let beside = path.with_extension("txt");
    let list = fs::read_to_string(&beside).with_context(|| beside.display().to_string())?;
    let speech = labels(&list, pcm.len() / FRAME)?.into();
    let language = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Recording { language, noise: None, snr: 99, pcm, speech })
}

fn labels(list: &str, frames: usize) -> Result<Vec<bool>> {
    let mut labels = vec![false; frames];
    for (n, line) in list.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let mut times = line.split_whitespace().map(str::parse::<f64>);
        match (times.next(), times.next()) {
            (Some(Ok(start)), Some(Ok(end))) if 0.0 <= start && start <= end && end.is_finite() => {
                let at = |time: f64| ((time * 100.0).round() as usize).min(frames);
                labels[at(start)..at(end)].fill(true);
            }
            _ => bail!("label line {}: start and end in seconds are wanted, not `{line}`", n + 1),
        }
    }
    Ok(labels)
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// A sample of -1 to 1, cut to that.
pub fn to_i16(sample: f32) -> i16 {
    (sample * 32767.0).clamp(-32768.0, 32767.0) as i16
}

fn seconds(samples: usize) -> f64 {
    samples as f64 / SAMPLE_RATE as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_label_track_is_read_and_a_wrong_line_is_named() {
        assert_eq!(labels("0.02 0.04 speech\n\n0.05\t9", 7).unwrap(), [false, false, true, true, false, true, true]);
        for wrong in ["0.1 0.2\nhello", "0.1 0.2\n0.3", "0.1 0.2\n2 1", "0.1 0.2\n0 inf"] {
            let error = labels(wrong, 100).unwrap_err().to_string();
            assert!(error.contains("line 2"), "{error}");
        }
    }

    #[test]
    fn a_pause_within_a_word_is_speech_and_a_click_is_none() {
        let part = |amplitude: i16, frames: usize| {
            (0..frames * FRAME).map(move |n| if n % 8 < 4 { amplitude } else { -amplitude })
        };
        let sentence: Vec<i16> = part(1, 30)
            .chain(part(9000, 50))
            .chain(part(1, 10))
            .chain(part(9000, 50))
            .chain(part(1, 30))
            .chain(part(9000, 2))
            .chain(part(1, 5))
            .collect();
        let (_, speech) = labelled(&sentence);
        assert_eq!(speech.iter().position(|s| *s), Some(30));
        assert_eq!(speech.iter().filter(|s| **s).count(), 110);
    }
}
