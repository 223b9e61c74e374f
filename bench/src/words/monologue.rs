//! Does a final keep all words of somebody who talks without a pause? Beside faster-whisper, on the same clips.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use comfy_table::Table;
use core_node::{
    key::SpurtKey,
    speech::{
        merge::Merger,
        utterance::{Decoded, Fresh, Slot, Utterance, duration_of},
    },
    transcribe::{Clip, Text, Transcriber, pool::Pool},
};
use edge_node::pipeline::Settings;
use mesh::{
    clock::Micros,
    wire::{
        Epoch, SpurtNo,
        request::VadSettings,
        spurt::{Item, SpurtEnd},
    },
};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::peer::{Mode, Peer};
use crate::{
    oracle::words::{Errors, compare, normalise},
    speech::{Manner, Prompt, Script},
    vad::{PACKET, encode, forward},
};

/// One monologue.
const LENGTH: Duration = Duration::from_secs(240);
/// Between two prompts: less than the edge's detector takes for an end.
const PAUSE: Duration = Duration::from_millis(120);
/// What deletions may be above faster-whisper's: 0.2 points.
const ALLOWED: f64 = 0.002;
/// Partials are made of an utterance each time it has grown by so much.
const PARTIAL_STEP: Duration = Duration::from_secs(5);

/// What was measured.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Monologue {
    /// Words said, in this many clips.
    words: usize,
    clips: usize,
    /// Finals as a core makes them.
    ours: Row,
    /// The same engine, asked once.
    once: Row,
    /// faster-whisper as it comes: beam of five, time stamps, other temperatures where it is unsure.
    peer: Option<Row>,
    /// faster-whisper as this engine was run once: greedy, without time stamps.
    peer_without: Option<Row>,
    /// Speech that finals say they have no words of, in milliseconds.
    not_transcribed_ms: u64,
    /// Finals of fewer words than their last partial had though all of their speech is covered, and the most words so.
    fewer: usize,
    fewer_most: usize,
}

/// Word errors per word said, and what they cost.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Row {
    deletions: f64,
    word_error_rate: f64,
    /// CPU seconds.
    cpu_s: f64,
}

/// What one way to hear made of all clips.
#[derive(Default)]
struct Heard {
    errors: Errors,
    cpu: Duration,
}

/// Hears `minutes` of monologues.
pub(super) async fn monologues(
    engine: Arc<dyn Transcriber>,
    prompts: &[Prompt],
    minutes: u64,
    peer: Option<&Peer>,
    seed: u64,
) -> Result<Monologue> {
    let count = (minutes * 60).div_ceil(LENGTH.as_secs());
    let pool = Pool::new(engine.clone(), 1, 1);
    let mut found = Monologue::default();
    let (mut ours, mut once) = (Heard::default(), Heard::default());
    let mut theirs = [Heard::default(), Heard::default()];
    for n in 0..count {
        let manner = Manner { overlap: 0.0, pause: PAUSE..PAUSE + Duration::from_millis(1), ..Manner::default() };
        let manner = Manner { breath: Duration::ZERO, ..manner };
        let script = Script::generate(seed.wrapping_add(n), 1, LENGTH, prompts, &manner);
        let said: Vec<String> = script.lines.iter().flat_map(|line| normalise(&line.text)).collect();
        let clips = utterances(&script.track(0))?;
        let (mut finals, mut alone) = (vec![], vec![]);
        for samples in &clips {
            let clip = Clip { samples: samples.clone(), language: Some("en".into()) };
            let shown = last_partial(&*engine, &clip).await?;
            let text = once.time(engine.transcribe(clip.clone())).await?;
            alone.extend(normalise(&text.text));
            let text = ours.time(pool.transcribe_final(clip, shown.clone())).await?;
            found.note(&text, shown.as_ref());
            finals.extend(normalise(&text.text));
        }
        ours.errors += compare(&said, &finals);
        once.errors += compare(&said, &alone);
        if let Some(peer) = peer {
            for (mode, heard) in [Mode::Default, Mode::WithoutTimes].into_iter().zip(&mut theirs) {
                let (texts, cpu) = peer.hear(&clips, mode)?;
                heard.cpu += cpu;
                heard.errors += compare(&said, &normalise(&texts.join(" ")));
            }
        }
        found.clips += clips.len();
        found.words = ours.errors.words;
        eprintln!(
            "monologue {} of {count}: {} words, {} deleted, {} where asked once, {:?} by faster-whisper, with and without times",
            n + 1,
            found.words,
            ours.errors.deletions,
            once.errors.deletions,
            theirs.each_ref().map(|heard| heard.errors.deletions)
        );
    }
    let [default, without] = theirs.map(|heard| peer.map(|_| heard.row()));
    Ok(Monologue { ours: ours.row(), once: once.row(), peer: default, peer_without: without, ..found })
}

impl Monologue {
    fn note(&mut self, text: &Text, shown: Option<&Text>) {
        self.not_transcribed_ms += text.missing.iter().map(|span| u64::from(span.length_ms())).sum::<u64>();
        let before = shown.map_or(0, |shown| shown.words.len());
        let fewer = before.saturating_sub(text.words.len());
        if fewer > 0 && text.missing.is_empty() && !text.repeated {
            self.fewer += 1;
            self.fewer_most = self.fewer_most.max(fewer);
        }
    }

    pub(super) fn table(&self) -> Table {
        let percent = |share: f64| format!("{:.2} %", share * 100.0);
        let row = |name: &str, row: &Row, goal: String| {
            let cost = format!("{:.1} s, {:.2}", row.cpu_s, row.cpu_s / self.once.cpu_s.max(1e-9));
            [name.to_owned(), percent(row.deletions), goal, percent(row.word_error_rate), cost]
        };
        let goal = self.peer.map(|peer| format!("at most {}", percent(peer.deletions + ALLOWED))).unwrap_or_default();
        let mut table = Table::new();
        let first = format!("monologues, {} words in {} clips", self.words, self.clips);
        table.set_header([first.as_str(), "deleted", "goal", "word error rate", "CPU, of asked once"]);
        table.add_row(row("finals", &self.ours, goal));
        table.add_row(row("the engine, asked once", &self.once, String::new()));
        let theirs = [("faster-whisper", &self.peer), ("the same, greedy, without time stamps", &self.peer_without)];
        for (name, found) in theirs {
            found.iter().for_each(|found| {
                table.add_row(row(name, found, String::new()));
            });
        }
        let told = format!("{} ms", self.not_transcribed_ms);
        table.add_row(["told as not transcribed", &told, "", "", ""]);
        let fewer = format!("{}, by {} at most", self.fewer, self.fewer_most);
        table.add_row(["covered finals of fewer words than their partial", &fewer, "", "", ""]);
        table
    }
}

impl Heard {
    async fn time<T>(&mut self, work: impl Future<Output = T>) -> T {
        let before = process_cpu();
        let result = work.await;
        self.cpu += process_cpu().saturating_sub(before);
        result
    }

    fn row(self) -> Row {
        let words = self.errors.words.max(1) as f64;
        Row {
            deletions: self.errors.deletions as f64 / words,
            word_error_rate: self.errors.rate(),
            cpu_s: self.cpu.as_secs_f64(),
        }
    }
}

/// What all threads of this process have cost so far.
fn process_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// The words of the last partial before the final.
async fn last_partial(engine: &dyn Transcriber, clip: &Clip) -> Result<Option<Text>> {
    let steps = (clip.duration().as_millis().saturating_sub(1) / PARTIAL_STEP.as_millis()) as usize;
    if steps == 0 {
        return Ok(None);
    }
    let length = steps * PARTIAL_STEP.as_secs() as usize * crate::speech::SAMPLE_RATE;
    let samples = clip.samples[..length.min(clip.samples.len())].into();
    Ok(Some(engine.transcribe(Clip { samples, language: clip.language.clone() }).await?))
}

/// The sound of each utterance that a core makes of what the edge forwards, in virtual time.
fn utterances(track: &[i16]) -> Result<Vec<Arc<[f32]>>> {
    let forwarded = forward(&encode(track, super::BITRATE)?, VadSettings::default(), Settings::default())?;
    let key = |n: usize| SpurtKey { epoch: Epoch(1), participant: "speaker".into(), spurt: SpurtNo(n as u32) };
    #[allow(clippy::disallowed_methods, reason = "where virtual time begins is of no matter")]
    let begin = Instant::now();
    let mut merger = Merger::default();
    merger.handle_capturing([Epoch(1)].into(), begin);
    for (n, (first, items)) in forwarded.spurts.iter().enumerate() {
        let at = |packet: usize| Duration::from_millis(packet as u64 * 20);
        let captured = Micros(1_700_000_000_000_000).plus(at(*first));
        let fresh = Fresh { captured, first: 0, slots: slots(items) };
        merger.handle_fresh(&key(n), &fresh, begin + at(first + 1));
        let end = SpurtEnd { continues: forwarded.continues[n], ..SpurtEnd::of(items.len() as u32) };
        merger.handle_whole(&key(n), Some(end), begin + at(first + items.len()));
    }
    merger.handle_timeout(begin + at_the_end(track));
    let mut clips = vec![];
    while let Some(utterance) = merger.poll_ready() {
        clips.push(sound(&utterance, &forwarded.spurts)?);
    }
    Ok(clips)
}

/// When nothing is waited for any more.
fn at_the_end(track: &[i16]) -> Duration {
    Duration::from_millis((track.len() / PACKET) as u64 * 20) + Duration::from_secs(60)
}

fn slots(items: &[Item]) -> Vec<Slot> {
    let micros = |item: &Item| if let Item::Frame(opus) = item { duration_of(opus) } else { duration_of(&[]) };
    items.iter().map(|item| Slot::of(item, micros(item).as_micros() as u32)).collect()
}

fn sound(utterance: &Utterance, spurts: &[(usize, Vec<Item>)]) -> Result<Arc<[f32]>> {
    let mut decoded = Decoded::new()?;
    for piece in &utterance.pieces {
        let items = spurts.get(piece.key.spurt.0 as usize).map_or(&[][..], |(_, items)| items);
        items
            .iter()
            .take(piece.items.end as usize)
            .skip(piece.items.start as usize)
            .for_each(|item| decoded.push(item));
    }
    Ok(decoded.finish())
}
