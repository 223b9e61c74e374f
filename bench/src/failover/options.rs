//! Options that `bench failover` and `bench adversary` share.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::stage::{self, Wanted};

/// Those options.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Writes the figures there as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Shortens what takes long, and tries less of what is many: for tests.
    #[arg(long)]
    pub short: bool,
    /// Allows so many times the time: for a machine that is slow, or busy with other things. What is then late is told, and not
    /// judged.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub patience: u32,
    /// Decides who says what when, and every chance of the emulated Internet.
    #[arg(long, default_value_t = 5)]
    pub seed: u64,
    /// Keeps configuration, stores and logs there.
    #[arg(long)]
    pub keep_logs: Option<PathBuf>,
    /// The model of the cores: a ggml file is Whisper's, a folder is Moonshine's.
    #[arg(long, env = "NEARFIELD_MODEL", default_value = ".cache/models/ggml-tiny.en-q8_0.bin")]
    pub model: PathBuf,
    /// Folder of recorded prompts (*.g722) and core-sounds-en.txt.
    #[arg(long, env = "NEARFIELD_SPEECH", default_value = ".cache/speech/en")]
    pub speech: PathBuf,
    /// The nodes' log filter.
    #[arg(long, default_value = "info")]
    pub log: String,
}

impl Options {
    /// The model, if it is there.
    ///
    /// # Errors
    /// It is not.
    pub(super) fn model(&self) -> Result<PathBuf> {
        let no_model = || format!("{}: no such model; ./dev model fetches it", self.model.display());
        self.model.canonicalize().with_context(no_model)
    }

    /// A mesh as these options want it, with its files in `dir`.
    ///
    /// # Errors
    /// The model or `dir` is not there.
    pub(super) fn wanted(&self, dir: &Path) -> Result<Wanted> {
        Ok(Wanted {
            binaries: std::env::current_exe()?.parent().context("no folder of binaries")?.to_owned(),
            model: self.model()?,
            manners: BTreeMap::new(),
            nats: false,
            regions: stage::WIDE,
            dir: dir.canonicalize()?,
            log: self.log.clone(),
        })
    }

    /// Writes what was found so far: what ends early must not take it with it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn keep(&self, outcomes: &[impl Serialize]) -> Result<()> {
        let Some(path) = &self.json else { return Ok(()) };
        let text = serde_json::to_vec_pretty(outcomes)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Plays to the end, or until `Ctrl-C` or SIGTERM.
///
/// # Errors
/// What was played failed, or was ended so.
pub(super) async fn unless_stopped(play: impl Future<Output = Result<()>>) -> Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        result = play => result,
        _ = int.recv() => bail!("interrupted"),
        _ = term.recv() => bail!("terminated"),
    }
}
