//! What a run came to: percentiles, a table for people, JSON for programs.

use std::{fmt, time::Duration};

use comfy_table::{CellAlignment, Table};
use hdrhistogram::Histogram;
use mesh::clock::Micros;
use serde::{Deserialize, Serialize};

/// The longest duration told apart from longer ones: an hour.
const LONGEST: Duration = Duration::from_secs(3600);
/// Significant figures kept of every duration.
const FIGURES: u8 = 3;

/// Durations, counted in a histogram of three significant figures.
#[derive(Debug, Clone)]
pub struct Durations(Histogram<u64>);

/// Percentiles of durations, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Percentiles {
    /// How many durations.
    pub count: u64,
    /// Half are at most this.
    pub p50: f64,
    /// 95 in a hundred are at most this.
    pub p95: f64,
    /// 99 in a hundred are at most this.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

/// One stage of a segment's way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// From what to what, such as `captured to decoded`.
    pub name: String,
    /// How long it took.
    pub ms: Percentiles,
}

/// Opus packets of all participants on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Packets {
    /// Came from the relay.
    pub received: u64,
    /// Never came, by RTP sequence number.
    pub lost: u64,
    /// Went through the decoder.
    pub decoded: u64,
    /// Went to the core.
    pub forwarded: u64,
}

/// CPU time, as a share of one core over the meeting.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Cpu {
    /// The edge's media path alone.
    pub edge_media: f64,
    /// The whole edge process.
    pub edge_process: f64,
    /// The whole core process, speech engine and all.
    pub core_process: f64,
}

/// The whole run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Words said.
    pub words: u64,
    /// Word errors per word said.
    pub wer: f64,
    /// The same for the engine alone, given the same recordings.
    pub wer_reference: f64,
    /// The share of words heard that were credited to who said them.
    pub speaker_accuracy: f64,
    /// Speech frames the edge sent on.
    pub frames_forwarded: u64,
    /// Speech frames on the core's disk.
    pub frames_durable: u64,
    /// Speech frames the relay sent that the core lacks.
    pub frames_missing: u64,
    /// What the edge sent to the core.
    pub uplink_bytes: u64,
    /// What 16-bit 16 kHz samples of everybody would have taken.
    pub pcm16_bytes: u64,
    /// What all Opus packets of everybody would have taken.
    pub opus_bytes: u64,
    /// From a word's having been said to its delivery in a final segment.
    pub word_delay_ms: Percentiles,
    /// The same to its first delivery, in a partial or a final.
    pub first_word_delay_ms: Percentiles,
    /// The edge that served the meeting.
    pub edge_chosen: String,
    /// The edge with the lowest round trip to the relay, by the emulated distances.
    pub edge_nearest: String,
    /// Processes still there after the end.
    pub leftover_processes: u64,
    /// Where the time of final segments went, stage by stage.
    pub stages: Vec<Stage>,
    /// Packets at the edge.
    pub packets: Packets,
    /// CPU of this one meeting.
    pub cpu: Cpu,
}

/// Durations of the stages between a row of named stamps.
#[derive(Debug, Clone)]
pub struct Budget {
    stamps: Vec<&'static str>,
    stages: Vec<Durations>,
}

impl Default for Durations {
    fn default() -> Self {
        let histogram = Histogram::new_with_max(LONGEST.as_micros() as u64, FIGURES);
        Self(histogram.expect("an hour of microseconds and three figures are allowed bounds"))
    }
}

impl Durations {
    /// Counts one; over an hour counts as an hour.
    pub fn record(&mut self, duration: Duration) {
        self.0.saturating_record(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    /// As far as counted; all zero for none.
    pub fn percentiles(&self) -> Percentiles {
        let ms = |micros: u64| micros as f64 / 1000.0;
        let at = |quantile| ms(self.0.value_at_quantile(quantile));
        Percentiles { count: self.0.len(), p50: at(0.5), p95: at(0.95), p99: at(0.99), max: ms(self.0.max()) }
    }
}

impl FromIterator<Duration> for Durations {
    fn from_iter<I: IntoIterator<Item = Duration>>(durations: I) -> Self {
        let mut all = Self::default();
        durations.into_iter().for_each(|duration| all.record(duration));
        all
    }
}

impl Budget {
    /// One stage from each of `stamps` to the next.
    pub fn new(stamps: &[&'static str]) -> Self {
        let stages = vec![Durations::default(); stamps.len().saturating_sub(1)];
        Self { stamps: stamps.to_vec(), stages }
    }

    /// Counts one segment's stamps; a stage whose stamp is missing (zero) is left out.
    pub fn record(&mut self, stamps: &[Micros]) {
        for (stage, two) in self.stages.iter_mut().zip(stamps.windows(2)) {
            if two[0].0 > 0 && two[1].0 > 0 {
                stage.record(two[1].since(two[0]));
            }
        }
    }

    /// The stages in order.
    pub fn stages(&self) -> Vec<Stage> {
        let names = self.stamps.windows(2).map(|two| format!("{} to {}", two[0], two[1]));
        names.zip(&self.stages).map(|(name, stage)| Stage { name, ms: stage.percentiles() }).collect()
    }
}

impl Summary {
    /// The file that `--json` writes.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and texts are JSON")
    }

    fn facts(&self) -> Vec<[String; 2]> {
        let share = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
        let p = &self.packets;
        let row = |name: &str, value: String| [name.to_owned(), value];
        vec![
            row("words said", self.words.to_string()),
            row("word error rate", format!("{:.3} (engine alone {:.3})", self.wer, self.wer_reference)),
            row("right speaker", format!("{:.1} %", 100.0 * self.speaker_accuracy)),
            row(
                "speech frames",
                format!(
                    "{} forwarded, {} durable, {} missing",
                    self.frames_forwarded, self.frames_durable, self.frames_missing
                ),
            ),
            row(
                "packets at the edge",
                format!("{} in, {} lost, {} decoded, {} forwarded", p.received, p.lost, p.decoded, p.forwarded),
            ),
            row(
                "uplink",
                format!(
                    "{} kB: {:.1} % of PCM16, {:.1} % of all Opus",
                    self.uplink_bytes / 1000,
                    share(self.uplink_bytes, self.pcm16_bytes),
                    share(self.uplink_bytes, self.opus_bytes)
                ),
            ),
            row(
                "CPU, share of a core",
                format!(
                    "edge media {:.1} %, edge {:.1} %, core {:.1} %",
                    100.0 * self.cpu.edge_media,
                    100.0 * self.cpu.edge_process,
                    100.0 * self.cpu.core_process
                ),
            ),
            row("edge", format!("{} (nearest is {})", self.edge_chosen, self.edge_nearest)),
            row("processes left over", self.leftover_processes.to_string()),
        ]
    }

    fn delays(&self) -> Table {
        let mut table = Table::new();
        table.set_header(["delay in ms", "p50", "p95", "p99", "max"]);
        let first = [("word to first text", self.first_word_delay_ms), ("word to final text", self.word_delay_ms)];
        let stages = self.stages.iter().map(|stage| (stage.name.as_str(), stage.ms));
        for (name, p) in first.into_iter().chain(stages) {
            let numbers =
                [p.p50, p.p95, p.p99, p.max].map(|ms| if ms < 10.0 { format!("{ms:.2}") } else { format!("{ms:.0}") });
            table.add_row([name.to_owned()].into_iter().chain(numbers));
        }
        table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        table
    }
}

/// Two tables: the facts, then the delays.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut facts = Table::new();
        facts.add_rows(self.facts());
        writeln!(f, "{facts}\n{}", self.delays())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn summary() -> Summary {
        let mut budget = Budget::new(&["captured", "decoded", "VAD"]);
        budget.record(&[Micros(1_000_000), Micros(1_000_400), Micros(1_030_000)]);
        budget.record(&[Micros(2_000_000), Micros(0), Micros(2_000_000)]);
        let delays: Durations = (1..=100).map(|i| Duration::from_millis(i * 10)).collect();
        Summary {
            words: 120,
            wer: 0.05,
            uplink_bytes: 30_000,
            pcm16_bytes: 1_000_000,
            word_delay_ms: delays.percentiles(),
            edge_chosen: "edge-eu-1".into(),
            edge_nearest: "edge-eu-1".into(),
            stages: budget.stages(),
            ..Summary::default()
        }
    }

    #[test]
    fn the_json_has_the_names_others_rely_on_and_reads_back() {
        let json: serde_json::Value = serde_json::from_str(&summary().to_json()).unwrap();
        for name in [
            "words",
            "wer",
            "wer_reference",
            "speaker_accuracy",
            "frames_forwarded",
            "frames_durable",
            "frames_missing",
            "uplink_bytes",
            "pcm16_bytes",
            "opus_bytes",
            "edge_chosen",
            "edge_nearest",
            "leftover_processes",
            "stages",
            "cpu",
            "packets",
        ] {
            assert!(json.get(name).is_some(), "{name}");
        }
        assert!(["p50", "p95", "p99"].iter().all(|p| json["word_delay_ms"][p].is_number()));
        assert_eq!(serde_json::from_value::<Summary>(json).unwrap(), summary());
    }

    #[test]
    fn the_table_shows_what_matters() {
        let table = summary().to_string();
        for part in
            ["0.050 (engine alone 0.000)", "3.0 % of PCM16", "captured to decoded", "word to final", "edge-eu-1"]
        {
            assert!(table.contains(part), "{part} in\n{table}");
        }
    }

    #[test]
    fn a_stage_without_its_stamp_is_not_counted() {
        let stages = summary().stages;
        assert_eq!(stages.iter().map(|s| s.ms.count).collect::<Vec<_>>(), [1, 1]);
        assert_eq!((stages[0].ms.p50 * 10.0).round() / 10.0, 0.4);
    }

    #[test]
    fn nothing_counted_is_all_zero() {
        assert_eq!(Durations::default().percentiles(), Percentiles::default());
    }

    proptest! {
        #[test]
        fn percentiles_rise_and_stay_within_a_thousandth(mut ms in proptest::collection::vec(1u64..3_000_000, 1..200)) {
            let p = ms.iter().map(|ms| Duration::from_millis(*ms)).collect::<Durations>().percentiles();
            prop_assert!(p.p50 <= p.p95 && p.p95 <= p.p99 && p.p99 <= p.max);
            ms.sort_unstable();
            let longest = ms[ms.len() - 1] as f64;
            prop_assert!((p.max - longest).abs() <= longest / 500.0);
            prop_assert_eq!(p.count, ms.len() as u64);
        }
    }
}
