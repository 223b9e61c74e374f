//! `bench transcribe`: speech engines side by side, on the same recordings in the same run.

mod invented;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use comfy_table::Table;
use core_node::transcribe::{Clip, Transcriber, pool::Pool};
use hdrhistogram::Histogram;
use nix::time::{ClockId, clock_gettime};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde::{Deserialize, Serialize};

use self::invented::Sound;
use crate::{
    engine,
    oracle::words::{Errors, compare, normalise},
    speech::{self, Prompt, SAMPLE_RATE},
    vad::{level, pink},
    words::peer::{Mode, Peer},
};

/// RMS of the noise under everything: a quiet room.
const ROOM: f32 = 3.16e-4;
/// What is around a sentence: as an edge's pre-roll and hangover leave it.
const BEFORE: Duration = Duration::from_millis(300);
const AFTER: Duration = Duration::from_millis(600);
/// What takes longer counts as this: ten minutes.
const LONGEST_MICROS: u64 = 600_000_000;

/// Options of `bench transcribe`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Engines: a ggml file is Whisper's, a folder is Moonshine's. May be given more than once.
    #[arg(long = "model", value_name = "PATH", default_values = [
        ".cache/models/ggml-tiny.en-q8_0.bin", ".cache/models/moonshine-tiny-en",
    ])]
    pub models: Vec<PathBuf>,
    /// A folder with `en`, recorded sentences (G.722) and their text, and `music`: `./dev voices`.
    #[arg(long, default_value = ".cache/speech")]
    pub voices: PathBuf,
    /// Sentences, 1 to 10000.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub sentences: u64,
    /// Minutes of each sound in which nobody speaks, 0 to 60.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..=60))]
    pub noise_minutes: u64,
    /// A Python with faster-whisper, that hears the same: `./dev transcribe` makes one.
    #[arg(long, value_name = "PROGRAM", requires = "peer_model")]
    pub peer: Option<PathBuf>,
    /// The model for it: a wheel or folder with CTranslate2's files.
    #[arg(long, value_name = "PATH")]
    pub peer_model: Option<PathBuf>,
    /// Everything follows from it.
    #[arg(long, default_value_t = 17)]
    pub seed: u64,
    /// Writes the figures there as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What was measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Figures {
    /// One row each, in the order given; then faster-whisper.
    pub engines: Vec<Row>,
    /// Words said.
    pub words: usize,
    /// Seconds of sound with them.
    pub sound_s: f64,
}

/// One engine.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Word errors per word said.
    pub wer: f64,
    /// CPU seconds for a sentence.
    pub cpu_s: f64,
    /// CPU seconds per second of sound.
    pub rtf: f64,
    /// Seconds from a whole clip to its words, one at a time on one thread. Absent where they were not timed one by one.
    pub decode_p50_s: Option<f64>,
    /// The same for the slowest of twenty.
    pub decode_p95_s: Option<f64>,
    /// Words made of sounds in which nobody speaks.
    pub invented_words: Option<usize>,
    /// Megabytes of the whole process at the end, the recordings among them.
    pub memory_mb: Option<f64>,
}

/// Runs the subcommand.
///
/// # Errors
/// There is no speech or no model, an engine fails, or the figures cannot be written.
pub async fn run(args: Args) -> Result<()> {
    let prompts = speech::load(&args.voices.join("en"))?;
    let peer = args.peer.as_ref().zip(args.peer_model.as_ref());
    let peer = peer.map(|(python, model)| Peer::new(python, model)).transpose()?;
    let sentences = sentences(&prompts, args.sentences as usize, args.seed);
    let sounds = invented::sounds(&args.voices, args.noise_minutes, args.seed)?;
    let seconds: f64 = sentences.iter().map(|sentence| sentence.clip.duration().as_secs_f64()).sum();
    let mut figures = Figures { sound_s: seconds, ..Figures::default() };
    for model in &args.models {
        let row = match &args.models[..] {
            [_] => hear(model, &sentences, &sounds, seconds).await?,
            _ => apart(&args, model)?,
        };
        figures.engines.push(row);
    }
    figures.words = sentences.iter().map(|sentence| sentence.said.len()).sum();
    if let Some(peer) = peer {
        figures.engines.push(theirs(&peer, &sentences, seconds)?);
    }
    println!("{}", figures.table());
    let Some(path) = &args.json else { return Ok(()) };
    std::fs::write(path, serde_json::to_vec_pretty(&figures)?).with_context(|| format!("--json {}", path.display()))
}

/// A sentence and what it says.
struct Sentence {
    clip: Clip,
    said: Vec<String>,
}

fn sentences(prompts: &[Prompt], count: usize, seed: u64) -> Vec<Sentence> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut deck: Vec<&Prompt> = prompts.iter().collect();
    deck.shuffle(&mut rng);
    let silence = |length: Duration| vec![0.0f32; length.as_millis() as usize * SAMPLE_RATE / 1000];
    let deck = deck.into_iter().cycle().take(count);
    deck.map(|prompt| {
        let mut samples = silence(BEFORE);
        samples.extend(prompt.samples.iter().map(|sample| f32::from(*sample) / 32_768.0));
        samples.extend(silence(AFTER));
        let mut noise = pink(samples.len(), &mut rng);
        level(&mut noise, ROOM);
        samples.iter_mut().zip(&noise).for_each(|(sample, noise)| *sample += noise);
        let clip = Clip { samples: samples.into(), language: Some("en".into()) };
        Sentence { clip, said: normalise(&prompt.text) }
    })
    .collect()
}

/// The same for one engine in a process of its own: what each takes is its own.
fn apart(args: &Args, model: &Path) -> Result<Row> {
    let folder = tempfile::tempdir()?;
    let json = folder.path().join("figures.json");
    let [sentences, minutes, seed] = [args.sentences, args.noise_minutes, args.seed].map(|n| n.to_string());
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["transcribe", "--sentences", &sentences, "--noise-minutes", &minutes, "--seed", &seed]);
    command.arg("--model").arg(model).arg("--voices").arg(&args.voices).arg("--json").arg(&json);
    // Its table is of one row; how it goes it may tell.
    let output = command.stderr(std::process::Stdio::inherit()).output()?;
    ensure!(output.status.success(), "{}: no figures", model.display());
    let mut found: Figures = serde_json::from_slice(&std::fs::read(&json)?)?;
    found.engines.pop().context("no figures of an engine")
}

async fn hear(model: &Path, sentences: &[Sentence], sounds: &[Sound], seconds: f64) -> Result<Row> {
    ensure!(model.exists(), "{}: no such model: ./dev model, ./dev model moonshine", model.display());
    let engine: Arc<dyn Transcriber> = engine::load(model, 1)?;
    let pool = Pool::new(engine.clone(), 1, 1);
    // The first clip finds memory and caches cold.
    let warm = sentences.first().map(|sentence| sentence.clip.clone());
    if let Some(clip) = warm {
        pool.transcribe_final(clip, None).await?;
    }
    let (mut errors, mut took) = (Errors::default(), Histogram::<u64>::new_with_bounds(1, LONGEST_MICROS, 3)?);
    let before = process_cpu();
    for sentence in sentences {
        #[allow(clippy::disallowed_methods, reason = "it measures by the wall clock")]
        let begun = Instant::now();
        let text = pool.transcribe_final(sentence.clip.clone(), None).await?;
        took.saturating_record(begun.elapsed().as_micros() as u64);
        errors += compare(&sentence.said, &normalise(&text.text));
    }
    let cpu = process_cpu().saturating_sub(before).as_secs_f64();
    let mut invented = 0;
    for Sound { kind, samples } in sounds {
        let clip = Clip { samples: samples.clone(), language: Some("en".into()) };
        let words = normalise(&pool.transcribe_final(clip, None).await?.text);
        if !words.is_empty() {
            eprintln!("{}: invented of {kind}: {}", engine.name(), words.join(" "));
        }
        invented += words.len();
    }
    let quantile = |q| Some(took.value_at_quantile(q) as f64 / 1e6);
    Ok(Row {
        name: engine.name().to_owned(),
        wer: errors.rate(),
        cpu_s: cpu / sentences.len().max(1) as f64,
        rtf: cpu / seconds,
        decode_p50_s: quantile(0.5),
        decode_p95_s: quantile(0.95),
        invented_words: (!sounds.is_empty()).then_some(invented),
        memory_mb: resident_mb(),
    })
}

fn theirs(peer: &Peer, sentences: &[Sentence], seconds: f64) -> Result<Row> {
    let clips: Vec<Arc<[f32]>> = sentences.iter().map(|sentence| sentence.clip.samples.clone()).collect();
    let (texts, cpu) = peer.hear(&clips, Mode::Default)?;
    let mut errors = Errors::default();
    for (sentence, text) in sentences.iter().zip(&texts) {
        errors += compare(&sentence.said, &normalise(text));
    }
    Ok(Row {
        name: "faster-whisper".into(),
        wer: errors.rate(),
        cpu_s: cpu.as_secs_f64() / sentences.len().max(1) as f64,
        rtf: cpu.as_secs_f64() / seconds,
        ..Row::default()
    })
}

/// What all threads of this process have cost so far.
fn process_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Memory of this process, in megabytes.
fn resident_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok().map(|kilobytes: f64| kilobytes / 1024.0)
}

impl Figures {
    fn table(&self) -> Table {
        let or = |value: Option<String>| value.unwrap_or_default();
        let mut table = Table::new();
        let first = format!("{} words in {:.0} s of sound", self.words, self.sound_s);
        table.set_header([
            &first,
            "word error rate",
            "CPU of a sentence",
            "CPU of a second",
            "decoding p50",
            "p95",
            "words invented",
            "memory",
        ]);
        for row in &self.engines {
            table.add_row([
                row.name.clone(),
                format!("{:.2} %", row.wer * 100.0),
                format!("{:.3} s", row.cpu_s),
                format!("{:.4} s", row.rtf),
                or(row.decode_p50_s.map(|s| format!("{s:.3} s"))),
                or(row.decode_p95_s.map(|s| format!("{s:.3} s"))),
                or(row.invented_words.map(|words| words.to_string())),
                or(row.memory_mb.map(|mb| format!("{mb:.0} MB"))),
            ]);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_deals_the_same_sentences_in_the_same_noise() {
        let prompt = |name: &str| Prompt { name: name.into(), text: name.into(), samples: vec![900; 16_000].into() };
        let prompts = ["one", "two", "three"].map(prompt);
        let deal = |seed| sentences(&prompts, 5, seed);
        let said = |deck: &[Sentence]| deck.iter().map(|s| s.said.clone()).collect::<Vec<_>>();
        let (first, again) = (deal(1), deal(1));
        assert_eq!(said(&first), said(&again));
        assert!(first.iter().zip(&again).all(|(a, b)| a.clip.samples == b.clip.samples));
        assert_eq!(first[0].clip.samples.len(), 16_000 + 14_400);
        assert_eq!(first[0].said, first[3].said, "the deck is dealt again");
        assert!((2..40).any(|seed| said(&deal(seed)) != said(&first)));
    }
}
