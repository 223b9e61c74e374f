//! What tests that raise meshes share.
#![allow(dead_code, reason = "no test needs all of it")]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

use serde::de::DeserializeOwned;

/// Two meshes at once would be too much for two cores.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The cores' model.
pub(crate) fn model() -> PathBuf {
    cached("NEARFIELD_MODEL", ".cache/models/ggml-tiny.en-q8_0.bin")
}

/// Recorded prompts.
pub(crate) fn speech() -> PathBuf {
    cached("NEARFIELD_SPEECH", ".cache/speech/en")
}

fn cached(variable: &str, default: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let path = std::env::var_os(variable).map_or_else(|| root.join(default), PathBuf::from);
    assert!(path.exists(), "{} is not there: ./dev test fetches it", path.display());
    path
}

/// Runs a subcommand of `bench` that raises a mesh, and that must succeed; what it printed, and its `--json`.
pub(crate) fn bench<T: DeserializeOwned>(arguments: &[&str]) -> (String, T) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("figures.json");
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(arguments)
        .arg("--model")
        .arg(model())
        .arg("--speech")
        .arg(speech())
        .arg("--json")
        .arg(&json)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "bench {} failed", arguments.join(" "));
    (text, serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap())
}
