//! What is done to the mesh, scenario by scenario; and the proof that it was done.

mod burst;
mod hand_over;
mod links;
mod nodes;
mod restarts;
mod restore;
mod trust;

use anyhow::Result;
use mesh::clock::Micros;
use serde_json::{Map, Value};

use super::{
    findings::{Moment, Resumes},
    scenario::{Scenario, Times},
    script::MidWord,
    stage::{Stage, now},
};

/// What was done, and what was seen while it was.
pub(super) struct Broken {
    /// When, and what counts as resumed.
    pub(super) moment: Moment,
    /// What does not hold: that the fault was real, and what only its scenario asks for.
    pub(super) complaints: Vec<String>,
    /// Further figures.
    pub(super) detail: Map<String, Value>,
}

impl Broken {
    fn new(at: Micros, resumes: Resumes) -> Self {
        Self { moment: Moment { at, resumes }, complaints: vec![], detail: Map::new() }
    }

    /// As a fault in the middle of `word` of the meeting that began at `started`.
    fn in_word(at: Micros, resumes: Resumes, started: Micros, word: &MidWord) -> Self {
        let mut broken = Self::new(at, resumes);
        let since = at.since(started);
        broken.must(word.from <= since && since <= word.to, || {
            format!("the fault missed the word `{}`: it came at {since:?}", word.word)
        });
        broken.note("word", word.word.clone());
        broken.note("word_ms", vec![word.from.as_millis() as u64, word.to.as_millis() as u64]);
        broken.note("fault_ms", since.as_millis() as u64);
        broken
    }

    fn must(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.complaints.push(what());
        }
    }

    fn note(&mut self, key: &str, value: impl Into<Value>) {
        self.detail.insert(key.into(), value.into());
    }
}

/// Does what the scenario is about, in its own time, and returns when the mesh is whole again.
///
/// # Errors
/// It could not be done.
pub(super) async fn cause(scenario: Scenario, stage: &mut Stage, times: Times, say: &dyn Fn(&str)) -> Result<Broken> {
    match scenario {
        Scenario::CoreKilled | Scenario::CoreKilledNats => nodes::kill_core(stage, times, say).await,
        Scenario::EdgeKilled => nodes::kill_edge(stage, times, say).await,
        Scenario::EdgeKilledRedundant => nodes::kill_one_of_two_edges(stage, times, say).await,
        Scenario::Stall => nodes::stall(stage, times, say).await,
        Scenario::LinkCut => links::cut(stage, times, say).await,
        Scenario::CutSixSeconds => links::cut_pair(stage, times, say).await,
        Scenario::PartialPartition => links::part(stage, times, say).await,
        Scenario::SpillFull => links::fill_disk(stage, times, say).await,
        Scenario::Burst => burst::make(stage, times, say).await,
        Scenario::LogFull => nodes::kill_edge_without_logs(stage, times, say).await,
        Scenario::TaskPanics => nodes::break_tasks(stage, times, say).await,
        Scenario::EndedInCut => links::end_in_cut(stage, times, say).await,
        Scenario::RegionIsolated => links::isolate(stage, times, say).await,
        Scenario::BurstyLoss => links::lose_in_bursts(stage, times, say).await,
        Scenario::ThinUplink => links::narrow(stage, times, say).await,
        Scenario::RollingRestart => restarts::restart_all(stage, times, say).await,
        Scenario::CertificateRotation => trust::rotate(stage, times, say).await,
        Scenario::RestoreOldBackup => restore::put_back(stage, times, say).await,
        Scenario::HandOverTalking => hand_over::each_in_turn(stage, times, say).await,
    }
}
