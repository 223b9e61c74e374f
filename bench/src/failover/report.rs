//! What the scenarios came to: a table for people, JSON for programs.

use std::fmt;

use comfy_table::{CellAlignment, Table};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{findings::Findings, scenario::Scenario};

/// What one scenario came to.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Outcome {
    /// Its name.
    fault: String,
    /// Whether it showed all that it must.
    pub(super) pass: bool,
    /// What it did not.
    complaints: Vec<String>,
    /// 20 ms frames with speech, over all meetings, that no core holds in the end; none if it could not be played.
    frames_lost: Option<usize>,
    /// Words, over all meetings.
    words_doubled: Option<usize>,
    /// From the fault until words came again; see `findings`.
    resume_ms: Option<u64>,
    /// Time that the meeting itself says nobody captured.
    gap_ms: u64,
    /// Meetings that ended badly or not at all.
    meetings_dropped: usize,
    seed: u64,
    detail: Map<String, Value>,
    /// By meeting.
    meetings: Vec<Findings>,
}

impl Outcome {
    pub(super) fn new(
        scenario: Scenario,
        seed: u64,
        all: &[Findings],
        complaints: Vec<String>,
        detail: Map<String, Value>,
    ) -> Self {
        Self {
            fault: scenario.name(),
            pass: complaints.is_empty(),
            complaints,
            frames_lost: Some(all.iter().map(|found| found.frames_lost).sum()),
            words_doubled: Some(all.iter().map(|found| found.words_doubled).sum()),
            resume_ms: all.first().and_then(|found| found.resume_ms),
            gap_ms: all.first().map_or(0, |found| found.gap_ms),
            meetings_dropped: all.iter().filter(|found| found.dropped).count(),
            seed,
            detail,
            meetings: all.to_vec(),
        }
    }

    /// One that could not be played to its end.
    pub(super) fn broken(scenario: Scenario, error: &anyhow::Error) -> Self {
        let dropped = Findings { dropped: true, ..Findings::default() };
        // Nothing was counted, and that is not none.
        let outcome = Self::new(scenario, 0, &[dropped], vec![format!("{error:#}")], Map::new());
        Self { frames_lost: None, words_doubled: None, ..outcome }
    }

    fn verdict(&self) -> &'static str {
        if self.pass { "PASS" } else { "FAIL" }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verdict(), self.fault)?;
        self.complaints.iter().try_for_each(|complaint| write!(f, "\n     {complaint}"))
    }
}

fn counted(count: Option<usize>) -> String {
    count.map_or_else(|| "unknown".into(), |count| count.to_string())
}

/// All of them, with what each had to show.
pub(super) fn table(outcomes: &[Outcome], rows: &[&str]) -> Table {
    let mut table = Table::new();
    table.set_header([
        "fault",
        "must show",
        "frames lost",
        "words doubled",
        "resume ms",
        "gap ms",
        "meetings dropped",
        "",
    ]);
    for (outcome, promise) in outcomes.iter().zip(rows) {
        let resume = outcome.resume_ms.map_or_else(|| "never".into(), |ms| ms.to_string());
        table.add_row([
            outcome.fault.clone(),
            (*promise).to_owned(),
            counted(outcome.frames_lost),
            counted(outcome.words_doubled),
            resume,
            outcome.gap_ms.to_string(),
            outcome.meetings_dropped.to_string(),
            outcome.verdict().to_owned(),
        ]);
    }
    for column in table.column_iter_mut().skip(2).take(5) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
