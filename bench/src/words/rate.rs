//! Word errors with the gate and without, on the same recordings.

use anyhow::Result;
use core_node::{
    speech::utterance::denoise,
    transcribe::{Clip, Transcriber},
};
use edge_node::{decode::Decoder, pipeline::Settings};
use mesh::wire::{request::VadSettings, spurt::Item};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

use crate::{
    oracle::words::{Errors, compare, normalise},
    speech::{Prompt, SAMPLE_RATE},
    vad::{Sent, decode, encode, forward, level, pink, to_i16},
};

/// RMS of a quiet room, and of speech.
const QUIET: f32 = 3.16e-4;
const SPEECH: f32 = 0.05;
/// Silence before and after a sentence, in seconds.
const BEFORE: (f64, f64) = (1.5, 6.0);
const AFTER: f64 = 1.5;

/// Word errors.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rates {
    /// The engine was given what the edge forwards, spurt by spurt.
    pub(super) with_gate: Errors,
    /// The same, with the noise taken out of it, if that was asked for.
    pub(super) suppressed: Errors,
    /// It was given the whole recording.
    pub(super) without: Errors,
}

/// What is transcribed, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conditions {
    /// Sentences.
    pub(super) count: usize,
    /// How far the noise of every second one is below speech, in dB.
    pub(super) snr: u8,
    /// Whether to try it without the noise, too.
    pub(super) suppress: bool,
    pub(super) seed: u64,
}

/// Transcribes some of `prompts`, every second one in a noisier room.
pub(super) async fn rates(engine: &dyn Transcriber, prompts: &[Prompt], conditions: Conditions) -> Result<Rates> {
    let Conditions { count, snr, suppress, seed } = conditions;
    let rooms = [QUIET, SPEECH / 10f32.powf(f32::from(snr) / 20.0)];
    let mut rng = StdRng::seed_from_u64(seed);
    let mut deck: Vec<&Prompt> = prompts.iter().collect();
    deck.shuffle(&mut rng);
    let mut rates = Rates::default();
    for (n, prompt) in deck.into_iter().cycle().take(count).enumerate() {
        let sent = encode(&recording(prompt, rooms[n % rooms.len()], &mut rng), super::BITRATE)?;
        let said = normalise(&prompt.text);
        let whole = heard(engine, decode(&sent)).await?;
        let (mut parts, mut clean) = (vec![], vec![]);
        for spurt in spurts(&sent)? {
            if suppress {
                clean.extend(said_in(engine, denoise::suppress(&floats(&spurt))).await?);
            }
            parts.extend(heard(engine, spurt).await?);
        }
        if suppress {
            rates.suppressed += compare(&said, &clean);
        }
        rates.without += compare(&said, &whole);
        rates.with_gate += compare(&said, &parts);
        eprint!(
            "\rsentence {} of {count}: {} words, {} errors with the gate, {} without ",
            n + 1,
            rates.without.words,
            rates.with_gate.total(),
            rates.without.total()
        );
    }
    eprintln!();
    Ok(rates)
}

fn recording(prompt: &Prompt, room: f32, rng: &mut StdRng) -> Vec<i16> {
    let silence = |seconds: f64| vec![0.0f32; (seconds * SAMPLE_RATE as f64) as usize];
    let mut sound = silence(rng.random_range(BEFORE.0..BEFORE.1));
    sound.extend(prompt.samples.iter().map(|s| f32::from(*s) / 32768.0));
    sound.extend(silence(AFTER));
    let mut noise = pink(sound.len(), rng);
    level(&mut noise, room);
    sound.iter().zip(&noise).map(|(s, n)| to_i16(s + n)).collect()
}

/// The sound of each talk spurt that the edge makes of it.
fn spurts(sent: &Sent) -> Result<Vec<Vec<i16>>> {
    let forwarded = forward(sent, VadSettings::default(), Settings::default())?;
    let sound = |items: Vec<Item>| {
        let mut decoder = Decoder::new();
        let frames = items.iter().filter_map(|item| if let Item::Frame(opus) = item { Some(opus) } else { None });
        frames.flat_map(|opus| decoder.decode(opus).to_vec()).collect()
    };
    Ok(forwarded.spurts.into_iter().map(|(_, items)| sound(items)).collect())
}

async fn heard(engine: &dyn Transcriber, pcm: Vec<i16>) -> Result<Vec<String>> {
    said_in(engine, floats(&pcm)).await
}

async fn said_in(engine: &dyn Transcriber, samples: Vec<f32>) -> Result<Vec<String>> {
    let clip = Clip { samples: samples.into(), language: Some("en".into()) };
    Ok(normalise(&engine.transcribe(clip).await?.text))
}

fn floats(pcm: &[i16]) -> Vec<f32> {
    pcm.iter().map(|s| f32::from(*s) / 32768.0).collect()
}
