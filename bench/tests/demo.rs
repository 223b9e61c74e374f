//! `bench demo` does what the README says it does.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

use serde_json::Value;

/// The engine may mishear this much more at the end of the whole way than on the recordings themselves,
const WER_LOST: f64 = 0.02;
/// or these many words: a meeting of a minute has so few that two make more than that.
const WORDS_LOST: f64 = 2.0;

fn cached(variable: &str, default: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let path = std::env::var_os(variable).map_or_else(|| root.join(default), PathBuf::from);
    assert!(path.exists(), "{} is not there: ./dev test fetches it", path.display());
    path
}

/// Two meshes at once would be too much for two cores.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn demo(arguments: &[&str]) -> (String, Value) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("demo.json");
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .arg("demo")
        .arg("--model")
        .arg(cached("NEARFIELD_MODEL", ".cache/models/ggml-tiny.en-q8_0.bin"))
        .arg("--speech")
        .arg(cached("NEARFIELD_SPEECH", ".cache/speech/en"))
        .arg("--json")
        .arg(&json)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "the demo failed");
    (text, serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap())
}

fn number(summary: &Value, key: &str) -> f64 {
    summary[key].as_f64().unwrap_or_else(|| panic!("{key} is no number: {summary}"))
}

/// What must be true with and without distances.
fn check(summary: &Value) {
    assert!(number(summary, "words") >= 30.0, "{summary}");
    let lost = number(summary, "wer") - number(summary, "wer_reference");
    assert!(lost <= WER_LOST.max(WORDS_LOST / number(summary, "words")) + 1e-9, "{summary}");
    assert_eq!(number(summary, "speaker_accuracy"), 1.0, "{summary}");
    assert_eq!(number(summary, "frames_missing"), 0.0, "{summary}");
    assert_eq!(summary["frames_durable"], summary["frames_forwarded"], "{summary}");
    assert!(number(summary, "uplink_bytes") < 0.4 * number(summary, "opus_bytes"), "{summary}");
    assert_eq!(number(summary, "leftover_processes"), 0.0, "{summary}");
    for quantile in ["p50", "p95", "p99"] {
        assert!(summary["word_delay_ms"][quantile].as_f64().unwrap() > 0.0, "{summary}");
    }
}

#[test]
fn every_word_comes_out_once_under_the_right_name_by_way_of_the_nearest_edge() {
    let (text, summary) = demo(&[]);
    assert!(!text.contains("Distances: none"), "the emulated Internet is not allowed here");
    check(&summary);
    assert_eq!(summary["edge_chosen"], summary["edge_nearest"], "{summary}");
}

#[test]
fn without_namespaces_it_runs_on_loopback_and_says_so() {
    let (text, summary) = demo(&["--loopback", "--seconds", "20", "--seed", "3"]);
    assert!(text.contains("Distances: none"), "{text}");
    check(&summary);
}
