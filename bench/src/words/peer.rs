//! faster-whisper as a child process.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

const SCRIPT: &str = include_str!("../../scripts/faster-whisper.py");

/// How it is run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mode {
    /// As it comes.
    Default,
    /// Greedy, without time stamps and fall-back.
    WithoutTimes,
}

/// A Python with faster-whisper, and a model for it.
#[derive(Debug)]
pub(crate) struct Peer {
    python: PathBuf,
    model: PathBuf,
    folder: tempfile::TempDir,
}

/// What it prints.
#[derive(Deserialize)]
struct Answer {
    texts: Vec<String>,
    cpu_s: f64,
}

impl Peer {
    /// One that answers.
    ///
    /// # Errors
    /// There is no such program, no model, or no faster-whisper in it.
    pub(crate) fn new(python: &Path, model: &Path) -> Result<Self> {
        let how = "run `./dev words --monologue MINUTES`, which fetches it";
        ensure!(model.exists(), "--peer-model {}: no such file: {how}", model.display());
        let works = Command::new(python).args(["-c", "import faster_whisper"]).output();
        let works = works.with_context(|| format!("--peer {}: {how}", python.display()))?;
        ensure!(works.status.success(), "--peer {}: it has no faster-whisper: {how}", python.display());
        Ok(Self { python: python.into(), model: model.into(), folder: tempfile::tempdir()? })
    }

    /// The text of each clip, and the CPU time of all of them.
    ///
    /// # Errors
    /// It fails, with what it said.
    pub(crate) fn hear(&self, clips: &[Arc<[f32]>], mode: Mode) -> Result<(Vec<String>, Duration)> {
        let mut files = vec![];
        for (n, samples) in clips.iter().enumerate() {
            let path = self.folder.path().join(format!("{n}.f32"));
            std::fs::write(&path, samples.iter().flat_map(|sample| sample.to_le_bytes()).collect::<Vec<_>>())?;
            files.push(path);
        }
        let mode = match mode {
            Mode::Default => "default",
            Mode::WithoutTimes => "without-times",
        };
        let mut command = Command::new(&self.python);
        command.args(["-c", SCRIPT, mode]).arg(&self.model).arg(self.folder.path()).args(files);
        let output = command.output().context("faster-whisper")?;
        ensure!(output.status.success(), "faster-whisper: {}", String::from_utf8_lossy(&output.stderr).trim());
        let answer: Answer = serde_json::from_slice(&output.stdout).context("faster-whisper's answer")?;
        ensure!(answer.texts.len() == clips.len(), "faster-whisper left clips out");
        Ok((answer.texts, Duration::from_secs_f64(answer.cpu_s.max(0.0))))
    }
}
