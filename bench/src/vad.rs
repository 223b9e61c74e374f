//! `bench vad`: voice detectors on the same labelled recordings, and the edge's cascade of gate and detector.

pub mod cascade;
pub mod corpus;
pub mod engines;
pub mod judge;
pub mod noise;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use comfy_table::Table;
use edge_node::pipeline::Settings;
use mesh::wire::request::VadSettings;
use serde::Serialize;

use self::{
    cascade::cascade,
    corpus::Recording,
    engines::Engine,
    judge::{Gated, Heard, count, gated, quality, shift},
};
pub(crate) use self::{
    cascade::{Forwarded, PACKET, Sent, decode, encode, forward},
    corpus::{Sounds, labelled, to_i16},
    noise::{Noise, level, pink, rms},
};

/// The edge's way in tables and JSON.
const CASCADE: &str = "cascade";
/// Engines may be late by so many frames, found on clean speech and allowed for.
const MOST_LATE: usize = 8;
/// Bits per second of the packets.
const BITRATE: i32 = 24_000;

/// Options of `bench vad`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// A folder with a folder of recorded sentences (G.722) for each language, and one called `music`: `./dev voices`.
    #[arg(long, default_value = ".cache/speech")]
    pub voices: PathBuf,
    /// Other recordings instead: each NAME.wav (16 kHz, mono, 16 bits) with NAME.txt beside it, a line for each
    /// stretch of speech: its start and end in seconds (an Audacity label track).
    #[arg(long, value_name = "DIR")]
    pub files: Option<PathBuf>,
    /// Seconds of each language and condition, 10 to 3600.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(10..=3600))]
    pub seconds: u32,
    /// Everything follows from it: equal seeds give equal recordings.
    #[arg(long, default_value_t = 7)]
    pub seed: u64,
    /// Writes the figures there as JSON, by engine.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What an engine is worth.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Area under the curve of hits over false alarms, over all conditions.
    pub auc: f64,
    /// The share of speech missed where 5 % of silence is taken for speech.
    pub miss_at_5_fa: f64,
    /// Behind 200 ms of pre-roll and 300 ms of hangover, with the threshold that forwards least of those that lose at
    /// most 1 %: the share of speech lost.
    pub speech_lost: f64,
    /// The share of silence that is then forwarded.
    pub silence_forwarded: f64,
    /// CPU of the detector (and gate) for 20 ms of sound, in microseconds; decoding is not in it.
    pub us_per_20ms: f64,
    /// The share of packets that must be decoded.
    pub decoded: f64,
    /// `miss_at_5_fa` by condition.
    pub conditions: BTreeMap<String, f64>,
    /// The edge's whole media path as it is set: speech lost and silence forwarded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<(f64, f64)>,
}

/// One recording as one engine heard it.
struct Row {
    engine: &'static str,
    recording: usize,
    opus: bool,
    scores: Vec<f32>,
    cpu: Duration,
    decoded: u64,
}

/// Everything that was heard.
struct Heap {
    recordings: Vec<Recording>,
    rows: Vec<Row>,
    forwarded: Vec<Vec<bool>>,
}

/// Runs the subcommand.
///
/// # Errors
/// There are no recordings, one cannot be used, or the figures cannot be written.
pub fn run(args: &Args) -> Result<()> {
    let recordings = match &args.files {
        Some(folder) => corpus::files(folder)?,
        None => Sounds::load(&args.voices)?.recordings(args.seconds as usize, args.seed),
    };
    let labels = || recordings.iter().flat_map(|r| r.speech.iter());
    let (all, spoken) = (labels().count(), labels().filter(|s| **s).count());
    ensure!(spoken > 0 && spoken < all, "all is labelled alike: there is nothing to tell apart");
    println!(
        "{} recordings, {:.0} s, {:.0} % speech, each before and after Opus at {BITRATE} bit/s",
        recordings.len(),
        judge::seconds(all),
        100.0 * spoken as f64 / all as f64
    );
    let figures = listen(recordings)?.figures();
    println!("{}\n\nspeech missed at 5 % false alarms:\n{}", table(&figures), conditions(&figures));
    write(args.json.as_deref(), &figures)
}

fn write(path: Option<&Path>, figures: &BTreeMap<&str, Figures>) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    std::fs::write(path, serde_json::to_vec_pretty(figures)?).with_context(|| format!("--json {}", path.display()))
}

fn listen(recordings: Vec<Recording>) -> Result<Heap> {
    let (mut rows, mut forwarded) = (vec![], vec![]);
    let settings = Settings::default();
    for (recording, Recording { pcm, .. }) in recordings.iter().enumerate() {
        let sent = encode(pcm, BITRATE)?;
        for (opus, pcm) in [(false, pcm), (true, &decode(&sent))] {
            for engine in Engine::ALL {
                let heard = engine.listen(pcm);
                let decoded = sent.packets.len() as u64;
                rows.push(Row {
                    engine: engine.name(),
                    recording,
                    opus,
                    scores: heard.scores,
                    cpu: heard.cpu,
                    decoded,
                });
                // Where there are no packets there is no gate: the cascade is its detector.
                if !opus && engine == Engine::Silero {
                    let last = rows.len() - 1;
                    let Row { scores, cpu, .. } = &rows[last];
                    rows.push(Row { engine: CASCADE, recording, opus, scores: scores.clone(), cpu: *cpu, decoded });
                }
            }
        }
        let heard = cascade(&sent, &settings);
        let (scores, cpu) = (heard.scores.scores, heard.scores.cpu);
        rows.push(Row { engine: CASCADE, recording, opus: true, scores, cpu, decoded: heard.decoded });
        forwarded.push(forward(&sent, VadSettings::default(), settings.clone())?.frames());
        eprint!("\r{} of {} ", recording + 1, recordings.len());
    }
    eprintln!();
    Ok(Heap { recordings, rows, forwarded })
}

impl Heap {
    fn figures(mut self) -> BTreeMap<&'static str, Figures> {
        let names: Vec<&'static str> = Engine::ALL.iter().map(|e| e.name()).chain([CASCADE]).collect();
        names.into_iter().map(|name| (name, self.figures_of(name))).collect()
    }

    fn figures_of(&mut self, name: &'static str) -> Figures {
        let late = self.lateness(name);
        self.rows.iter_mut().filter(|r| r.engine == name).for_each(|r| r.scores = shift(&r.scores, late));
        let rows: Vec<&Row> = self.rows.iter().filter(|r| r.engine == name).collect();
        let heard: Vec<Heard<'_>> = rows.iter().map(|r| self.heard(r)).collect();
        let (overall, gate) = (quality(heard.iter().copied()), gated(&heard));
        let frames: usize = heard.iter().map(|h| h.speech.len()).sum();
        // A gate can only be where there are packets.
        let packets: f64 = rows.iter().filter(|r| r.opus).map(|r| (r.scores.len() / 2) as f64).sum();
        Figures {
            auc: overall.auc,
            miss_at_5_fa: overall.miss,
            speech_lost: gate.lost,
            silence_forwarded: gate.forwarded,
            us_per_20ms: rows.iter().map(|r| r.cpu).sum::<Duration>().as_secs_f64() * 1e6 / (frames as f64 / 2.0),
            decoded: rows.iter().filter(|r| r.opus).map(|r| r.decoded as f64).sum::<f64>() / packets,
            conditions: self.conditions(&rows),
            pipeline: (name == CASCADE).then(|| self.pipeline()).map(|g| (g.lost, g.forwarded)),
        }
    }

    fn heard<'a>(&'a self, row: &'a Row) -> Heard<'a> {
        let speech = &self.recordings[row.recording].speech;
        let frames = row.scores.len().min(speech.len());
        Heard { scores: &row.scores[..frames], speech: &speech[..frames] }
    }

    /// By how many frames it is late on clean speech.
    fn lateness(&self, name: &str) -> usize {
        let clean = |r: &&Row| r.engine == name && !r.opus && self.recordings[r.recording].noise.is_none();
        let rows: Vec<&Row> = self.rows.iter().filter(clean).collect();
        let auc = |late: usize| {
            let shifted: Vec<Vec<f32>> = rows.iter().map(|r| shift(&r.scores, late)).collect();
            let heard = rows.iter().zip(&shifted).map(|(r, scores)| {
                let whole = self.heard(r);
                Heard { scores: &scores[..whole.speech.len()], ..whole }
            });
            quality(heard).auc
        };
        let mut best = (0, 0.0);
        for late in 0..=MOST_LATE {
            let found = auc(late);
            if found > best.1 + 1e-4 {
                best = (late, found);
            }
        }
        best.0
    }

    fn conditions(&self, rows: &[&Row]) -> BTreeMap<String, f64> {
        let mut parts: BTreeMap<String, Vec<Heard<'_>>> = BTreeMap::new();
        for row in rows {
            let recording = &self.recordings[row.recording];
            let mut put = |name: &str| parts.entry(name.to_owned()).or_default().push(self.heard(row));
            put(if row.opus { "after Opus" } else { "before Opus" });
            put(&recording.language);
            match recording.noise {
                None => put("clean"),
                Some(noise) => {
                    put(noise.name());
                    put(&format!("{} dB", recording.snr));
                }
            }
            if recording.noise != Some(Noise::Babble) {
                put("all but babble");
            }
        }
        parts.into_iter().map(|(name, heard)| (name, quality(heard).miss)).collect()
    }

    fn pipeline(&self) -> Gated {
        count(self.forwarded.iter().zip(&self.recordings).map(|(passed, r)| (passed.clone(), &*r.speech)))
    }
}

fn table(figures: &BTreeMap<&str, Figures>) -> Table {
    let mut table = Table::new();
    table.set_header([
        "engine",
        "AUC",
        "missed at 5 % false alarms",
        "speech lost",
        "silence forwarded",
        "us per 20 ms",
        "decoded",
    ]);
    let percent = |share: f64| format!("{:.2} %", share * 100.0);
    for (name, f) in figures {
        let (auc, us) = (format!("{:.4}", f.auc), format!("{:.1}", f.us_per_20ms));
        table.add_row([
            (*name).to_owned(),
            auc,
            percent(f.miss_at_5_fa),
            percent(f.speech_lost),
            percent(f.silence_forwarded),
            us,
            percent(f.decoded),
        ]);
        if let Some((lost, forwarded)) = f.pipeline {
            table.add_row([
                "the edge as it is set".into(),
                String::new(),
                String::new(),
                percent(lost),
                percent(forwarded),
                String::new(),
                percent(f.decoded),
            ]);
        }
    }
    table
}

fn conditions(figures: &BTreeMap<&str, Figures>) -> Table {
    let mut table = Table::new();
    table.set_header(std::iter::once("condition").chain(figures.keys().copied()));
    let names = figures.values().next().into_iter().flat_map(|f| f.conditions.keys());
    for name in names {
        let miss = |f: &Figures| f.conditions.get(name).map_or(String::new(), |miss| format!("{:.2} %", miss * 100.0));
        table.add_row(std::iter::once(name.clone()).chain(figures.values().map(miss)));
    }
    table
}
