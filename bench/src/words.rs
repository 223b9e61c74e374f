//! `bench words`: what the edge's gate costs in words, and what it saves in bytes.

mod bytes;
mod monologue;
mod onsets;
pub(crate) mod peer;
mod rate;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use comfy_table::Table;
use serde::Serialize;

use self::{bytes::Bytes, monologue::Monologue, onsets::Onsets, peer::Peer, rate::Rates};
use crate::{engine, speech, vad::Sounds};

/// Bits per second of every participant's packets.
const BITRATE: i32 = 24_000;

/// Options of `bench words`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// A folder with a folder of recorded sentences (G.722) for each language, `en` among them with their text, and
    /// one called `music`: `./dev voices`.
    #[arg(long, default_value = ".cache/speech")]
    pub voices: PathBuf,
    /// The speech model: a ggml file is Whisper's, a folder is Moonshine's.
    #[arg(long, env = "NEARFIELD_MODEL", default_value = ".cache/models/ggml-tiny.en-q8_0.bin")]
    pub model: PathBuf,
    /// Onsets after silences of 1 to 60 s; 0 leaves them out.
    #[arg(long, default_value_t = 500)]
    pub onsets: usize,
    /// Sentences to transcribe, each with the gate and without (seconds of CPU each); 0 leaves them out.
    #[arg(long, default_value_t = 100)]
    pub sentences: usize,
    /// How far the noise under every second sentence is below speech, in dB.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u8).range(0..=60))]
    pub snr: u8,
    /// Transcribes a third time, with the noise taken out, as a core does that is set so.
    #[arg(long)]
    pub noise_suppression: bool,
    /// Minutes of the meeting whose bytes are counted, 1 to 600.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub minutes: u64,
    /// Minutes of monologues with pauses of 0.12 s, 1 to 600, instead of all of this: do finals keep their words?
    #[arg(long, value_name = "MINUTES", value_parser = clap::value_parser!(u64).range(1..=600))]
    pub monologue: Option<u64>,
    /// A Python with faster-whisper, that hears the same monologues: `./dev words --monologue` makes one.
    #[arg(long, value_name = "PROGRAM", requires = "peer_model")]
    pub peer: Option<PathBuf>,
    /// The same model for it: a wheel or folder with CTranslate2's files.
    #[arg(long, value_name = "PATH")]
    pub peer_model: Option<PathBuf>,
    /// Everything follows from it.
    #[arg(long, default_value_t = 11)]
    pub seed: u64,
    /// Writes the figures there as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What was measured.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Figures {
    /// Word errors per word said, where the engine is given what the edge forwards.
    pub wer_with_gate: f64,
    /// The same with the noise taken out; only where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wer_suppressed: Option<f64>,
    /// The same where it is given the whole recording.
    pub wer_without_gate: f64,
    /// Words said in these.
    pub words: usize,
    /// Times somebody began to speak after a silence.
    pub onsets: usize,
    /// Of which something of the first word was not forwarded.
    pub onsets_lost: usize,
    /// The share of packets decoded meanwhile.
    pub onsets_decoded: f64,
    /// Bytes of a meeting of six as the edge sends it, with what it adds to each frame and spurt.
    pub uplink_bytes: u64,
    /// As sockets of 16-bit samples at 16 kHz, one for each participant.
    pub pcm16_bytes: u64,
    /// As all Opus packets of all participants.
    pub opus_bytes: u64,
    /// The share of that meeting in which nobody speaks.
    pub nobody: f64,
    /// The share in which two or more do.
    pub several: f64,
}

/// Runs the subcommand.
///
/// # Errors
/// There is no speech or no model, the engine fails, or the figures cannot be written.
pub async fn run(args: Args) -> Result<()> {
    if let Some(minutes) = args.monologue {
        return monologue(&args, minutes).await;
    }
    let sounds = Sounds::load(&args.voices)?;
    let prompts = speech::load(&args.voices.join("en"))?;
    // Before anything that takes minutes.
    let engine = (args.sentences > 0).then(|| engine::load(&args.model, 2)).transpose()?;
    let bytes = bytes::meeting(Duration::from_secs(args.minutes * 60), &prompts, args.seed)?;
    let onsets = onsets::onsets(args.onsets, &sounds, args.seed)?;
    let mut rates = Rates::default();
    if let Some(engine) = engine {
        let (count, snr, suppress, seed) = (args.sentences, args.snr, args.noise_suppression, args.seed);
        rates = rate::rates(&*engine, &prompts, rate::Conditions { count, snr, suppress, seed }).await?;
    }
    let figures = Figures::of(rates, onsets, bytes);
    println!("{}", figures.table());
    write(args.json.as_deref(), &figures)
}

async fn monologue(args: &Args, minutes: u64) -> Result<()> {
    let prompts = speech::load(&args.voices.join("en"))?;
    // One thread, as the peer: what they cost is compared.
    let engine = engine::load(&args.model, 1)?;
    let peer = args.peer.as_ref().zip(args.peer_model.as_ref());
    let peer = peer.map(|(python, model)| Peer::new(python, model)).transpose()?;
    let found: Monologue = monologue::monologues(engine, &prompts, minutes, peer.as_ref(), args.seed).await?;
    println!("{}", found.table());
    write(args.json.as_deref(), &found)
}

fn write(path: Option<&Path>, figures: &impl Serialize) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let json = serde_json::to_vec_pretty(figures)?;
    std::fs::write(path, json).with_context(|| format!("--json {}", path.display()))
}

impl Figures {
    fn of(rates: Rates, onsets: Onsets, bytes: Bytes) -> Self {
        Self {
            wer_with_gate: rates.with_gate.rate(),
            wer_suppressed: (rates.suppressed.words > 0).then(|| rates.suppressed.rate()),
            wer_without_gate: rates.without.rate(),
            words: rates.without.words,
            onsets: onsets.onsets,
            onsets_lost: onsets.lost,
            onsets_decoded: onsets.decoded as f64 / onsets.packets.max(1) as f64,
            uplink_bytes: bytes.uplink,
            pcm16_bytes: bytes.pcm16,
            opus_bytes: bytes.opus,
            nobody: bytes.nobody,
            several: bytes.several,
        }
    }

    fn table(&self) -> Table {
        let percent = |share: f64| format!("{:.2} %", share * 100.0);
        let ratio = |of: u64| format!("1/{:.1}", of as f64 / self.uplink_bytes.max(1) as f64);
        let rows = [
            (
                format!("word error rate with the gate, {} words", self.words),
                percent(self.wer_with_gate),
                format!("at most {}", percent(self.wer_without_gate + 0.002)),
            ),
            ("the same without it".to_owned(), percent(self.wer_without_gate), String::new()),
            (format!("first words lost in {} onsets", self.onsets), self.onsets_lost.to_string(), "0".to_owned()),
            ("packets decoded meanwhile".to_owned(), percent(self.onsets_decoded), String::new()),
            ("uplink, of PCM16 sockets".to_owned(), ratio(self.pcm16_bytes), "at most 1/60".to_owned()),
            ("uplink, of all Opus".to_owned(), ratio(self.opus_bytes), "at most 1/4".to_owned()),
            (
                format!("while nobody talks {} of the time, several {}", percent(self.nobody), percent(self.several)),
                String::new(),
                String::new(),
            ),
        ];
        let suppressed = self.wer_suppressed.map(|rate| ("word error rate with noise suppression", percent(rate), ""));
        let mut table = Table::new();
        table.set_header(["what", "measured", "goal"]);
        suppressed.into_iter().for_each(|(what, value, goal)| {
            table.add_row([what, &value, goal]);
        });
        rows.into_iter().for_each(|(what, value, goal)| {
            table.add_row([what, value, goal]);
        });
        table
    }
}
