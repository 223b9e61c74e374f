//! `bench demo` does what the README says it does.
#![allow(clippy::unwrap_used)]

mod rig;

use serde_json::Value;

/// The engine may mishear this much more at the end of the whole way than on the recordings themselves,
const WER_LOST: f64 = 0.02;
/// or these many words: a meeting of a minute has so few that two make more than that.
const WORDS_LOST: f64 = 2.0;

fn demo(arguments: &[&str]) -> (String, Value) {
    rig::bench(&[&["demo"], arguments].concat())
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
