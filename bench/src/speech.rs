//! What is said in the meeting: recorded prompts with known words, and a script that deals them out.
//!
//! The prompts are Debian's `asterisk-core-sounds-en-g722` (CC-BY-SA 3.0): one speaker in a studio,
//! so word error rates on them are better than a real meeting's.

use std::{
    collections::BTreeMap,
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ezk_g722::libg722::{Bitrate, decoder::Decoder};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

/// Samples per second of all speech here.
pub const SAMPLE_RATE: usize = 16_000;
/// The file with the words of each prompt, beside the prompts.
pub const TEXTS: &str = "core-sounds-en.txt";
/// Shorter prompts say too little, longer ones are monologues.
const LENGTH: Range<Duration> = Duration::from_millis(1200)..Duration::from_secs(9);
/// Prompts of fewer words are cries.
const MIN_WORDS: usize = 4;
/// RMS of the noise under everything: -65 dB below full scale, a quiet room and a good microphone.
const NOISE_RMS: f64 = 18.4;

/// One recorded sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Its file's name without the ending.
    pub name: String,
    /// What is said.
    pub text: String,
    /// 16 kHz mono.
    pub samples: Arc<[i16]>,
}

/// How a meeting goes.
#[derive(Debug, Clone)]
pub struct Manner {
    /// The share of turns that begin before the turn before has ended, 0 to 1.
    pub overlap: f64,
    /// How long such a turn talks over the other.
    pub over: Range<Duration>,
    /// The pause before any other turn.
    pub pause: Range<Duration>,
    /// How long a participant at least says nothing between two turns.
    pub breath: Duration,
}

/// Who says what, when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// How many take part.
    pub participants: usize,
    /// How long the meeting is; every line ends before.
    pub duration: Duration,
    /// In order of their start.
    pub lines: Vec<Line>,
    seed: u64,
}

/// One turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Who speaks, counted from 0.
    pub participant: usize,
    /// When the recording begins, from the meeting's start.
    pub start: Duration,
    /// The prompt's name.
    pub prompt: String,
    /// What is said.
    pub text: String,
    /// 16 kHz mono.
    pub samples: Arc<[i16]>,
}

/// Why there are no prompts.
#[derive(Debug, thiserror::Error)]
pub enum SpeechError {
    /// A file is missing or cannot be read.
    #[error("{path}: {cause}: run ./dev speech")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// Nothing in the folder can be used.
    #[error("{0}: no prompt of 1.2 to 9 s with a text of at least four words: run ./dev speech")]
    None(PathBuf),
}

/// The prompts of `folder` that are fit for a meeting, by name.
///
/// # Errors
/// The folder or its [`TEXTS`] cannot be read, or holds no such prompt.
pub fn load(folder: &Path) -> Result<Vec<Prompt>, SpeechError> {
    let texts = read(&folder.join(TEXTS))?;
    let mut prompts = vec![];
    for (name, text) in texts_of(&String::from_utf8_lossy(&texts)) {
        let path = folder.join(format!("{name}.g722"));
        if path.exists() {
            let samples = decode(&read(&path)?);
            if LENGTH.contains(&length(&samples)) {
                prompts.push(Prompt { name, text, samples });
            }
        }
    }
    if prompts.is_empty() { Err(SpeechError::None(folder.to_owned())) } else { Ok(prompts) }
}

/// The sentences of a sound list: `name: sentence` lines without stage directions.
pub fn texts_of(list: &str) -> BTreeMap<String, String> {
    let sentence = |line: &str| {
        let (name, text) = line.split_once(": ")?;
        let (name, text) = (name.trim(), text.trim());
        let spoken = !name.starts_with(';')
            && !name.contains(['/', '.'])
            && !text.contains(['[', '(', '<'])
            && text.split_whitespace().count() >= MIN_WORDS;
        spoken.then(|| (name.to_owned(), text.to_owned()))
    };
    list.lines().filter_map(sentence).collect()
}

/// G.722 at 64 kb/s as 16 kHz samples.
pub fn decode(g722: &[u8]) -> Arc<[i16]> {
    Decoder::new(Bitrate::Mode1_64000, false, false).decode(g722).into()
}

/// How long `samples` play.
pub fn length(samples: &[i16]) -> Duration {
    Duration::from_micros(samples.len() as u64 * 1_000_000 / SAMPLE_RATE as u64)
}

impl Default for Manner {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self { overlap: 0.13, over: ms(300)..ms(1000), pause: ms(500)..ms(1800), breath: ms(1200) }
    }
}

impl Script {
    /// A meeting of `participants` who say `prompts` for up to `duration`; the same `seed` gives the same.
    ///
    /// # Panics
    /// No participants, no prompts, or an empty range in `manner`.
    pub fn generate(seed: u64, participants: usize, duration: Duration, prompts: &[Prompt], manner: &Manner) -> Self {
        assert!(participants > 0 && !prompts.is_empty(), "a meeting needs people and something to say");
        let mut rng = StdRng::seed_from_u64(seed);
        let mut deck: Vec<&Prompt> = vec![];
        let mut free = vec![Duration::ZERO; participants];
        let (mut lines, mut end): (Vec<Line>, _) = (vec![], Duration::ZERO);
        loop {
            if deck.is_empty() {
                deck = prompts.iter().collect();
                deck.shuffle(&mut rng);
            }
            let Some(prompt) = deck.pop() else { break };
            let participant = next_speaker(&mut rng, participants, lines.last());
            let start = if !lines.is_empty() && rng.random_bool(manner.overlap) {
                end.saturating_sub(between(&mut rng, &manner.over))
            } else {
                end + between(&mut rng, &manner.pause)
            };
            // Also keeps a long-winded speaker from being talked over by a turn that began before.
            let start = start.max(free[participant]).max(lines.last().map_or(Duration::ZERO, |line| line.start));
            let stop = start + length(&prompt.samples);
            if stop + manner.pause.start > duration {
                break;
            }
            free[participant] = stop + manner.breath;
            end = end.max(stop);
            lines.push(Line {
                participant,
                start,
                prompt: prompt.name.clone(),
                text: prompt.text.clone(),
                samples: prompt.samples.clone(),
            });
        }
        Self { participants, duration, lines, seed }
    }

    /// A meeting of these lines, in order of their start.
    pub fn of(lines: Vec<Line>, duration: Duration) -> Self {
        let participants = lines.iter().map(|line| line.participant + 1).max().unwrap_or(0);
        Self { participants, duration, lines, seed: 0 }
    }

    /// All that `participant`'s microphone hears: their lines and a floor of noise, 16 kHz mono.
    pub fn track(&self, participant: usize) -> Vec<i16> {
        let mut rng = StdRng::seed_from_u64(self.seed ^ (participant as u64 + 1).rotate_left(32));
        let mut track: Vec<i16> = (0..at(self.duration)).map(|_| noise(&mut rng)).collect();
        for line in self.lines.iter().filter(|line| line.participant == participant) {
            for (out, sample) in track.iter_mut().skip(at(line.start)).zip(line.samples.iter()) {
                *out = out.saturating_add(*sample);
            }
        }
        track
    }
}

impl Line {
    /// When the recording ends.
    pub fn end(&self) -> Duration {
        self.start + length(&self.samples)
    }
}

/// Nobody follows themselves, unless they are alone.
fn next_speaker(rng: &mut StdRng, participants: usize, last: Option<&Line>) -> usize {
    match last {
        Some(last) if participants > 1 => {
            let other = rng.random_range(0..participants - 1);
            if other < last.participant { other } else { other + 1 }
        }
        _ => rng.random_range(0..participants),
    }
}

fn between(rng: &mut StdRng, range: &Range<Duration>) -> Duration {
    Duration::from_millis(rng.random_range(range.start.as_millis() as u64..range.end.as_millis() as u64))
}

/// Uniform noise: its RMS is its peak over the square root of three.
fn noise(rng: &mut impl Rng) -> i16 {
    let peak = NOISE_RMS * 3f64.sqrt();
    rng.random_range(-peak..=peak).round() as i16
}

fn at(time: Duration) -> usize {
    (time.as_micros() * SAMPLE_RATE as u128 / 1_000_000) as usize
}

fn read(path: &Path) -> Result<Vec<u8>, SpeechError> {
    fs::read(path).map_err(|cause| SpeechError::File { path: path.to_owned(), cause })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn real() -> Vec<Prompt> {
        load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/speech/en")).unwrap()
    }

    fn short(count: usize) -> Vec<Prompt> {
        let prompt = |i: usize| Prompt {
            name: format!("p{i}"),
            text: format!("this is prompt {i}"),
            samples: vec![1000; SAMPLE_RATE * (2 + i % 4)].into(),
        };
        (0..count).map(prompt).collect()
    }

    #[test]
    fn only_whole_sentences_are_taken() {
        let list = "; Core: a comment of many words\n\nvm-sorry: I'm sorry I did not understand.\n\
                    beep: [this is a simple beep]\nhi: (in a low voice) hello to you\nshort: Too short.\n\
                    x/y: a folder is not there\nno colon here at all";
        let texts: Vec<_> = texts_of(list).into_iter().collect();
        assert_eq!(texts, [("vm-sorry".to_owned(), "I'm sorry I did not understand.".to_owned())]);
    }

    #[test]
    fn the_real_prompts_are_speech_with_words() {
        let prompts = real();
        assert!(prompts.len() > 150, "{}", prompts.len());
        for prompt in &prompts {
            let loudest = prompt.samples.iter().map(|s| s.unsigned_abs()).max().unwrap();
            assert!((3000..=32_768).contains(&loudest), "{}: {loudest}", prompt.name);
        }
    }

    #[test]
    fn a_missing_folder_says_what_to_do() {
        assert!(load(Path::new("/nowhere")).unwrap_err().to_string().contains("./dev speech"));
    }

    #[test]
    fn a_track_is_quiet_noise_but_for_its_lines() {
        let script = Script::generate(7, 2, Duration::from_secs(30), &short(3), &Manner::default());
        let (first, track) = (&script.lines[0], script.track(script.lines[0].participant));
        assert_eq!(track.len(), 30 * SAMPLE_RATE);
        let rms = |part: &[i16]| (part.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>() / part.len() as f64).sqrt();
        let quiet = rms(&track[..at(first.start)]);
        assert!((17.0..20.0).contains(&quiet), "{quiet}");
        assert!(rms(&track[at(first.start)..at(first.end())]) > 900.0);
    }

    #[test]
    fn about_one_turn_in_eight_talks_over_another() {
        let script = Script::generate(1, 4, Duration::from_secs(3600), &short(50), &Manner::default());
        let over = script.lines.windows(2).filter(|two| two[1].start < two[0].end()).count();
        let share = over as f64 / script.lines.len() as f64;
        assert!((0.09..0.17).contains(&share), "{share}");
    }

    proptest! {
        #[test]
        fn a_script_is_a_meeting(seed: u64, participants in 1usize..6, seconds in 0u64..200, count in 1usize..9) {
            let duration = Duration::from_secs(seconds);
            let manner = Manner::default();
            let script = Script::generate(seed, participants, duration, &short(count), &manner);
            prop_assert_eq!(&script, &Script::generate(seed, participants, duration, &short(count), &manner));
            prop_assert!(script.lines.is_sorted_by_key(|line| line.start));
            prop_assert!(seconds < 10 || !script.lines.is_empty());
            for who in 0..participants {
                let own: Vec<&Line> = script.lines.iter().filter(|line| line.participant == who).collect();
                prop_assert!(own.windows(2).all(|two| two[1].start >= two[0].end() + manner.breath));
            }
            prop_assert!(script.lines.iter().all(|line| line.end() < duration && line.participant < participants));
        }

        #[test]
        fn any_list_is_read(list in "[a-z:;\\[(\n .]{0,200}") {
            texts_of(&list);
        }
    }
}
