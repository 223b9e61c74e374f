//! What is missing for a measurement is told in a line that says what to run.
#![allow(clippy::unwrap_used)]

use std::{path::Path, process::Command};

/// What `bench` says to these arguments, which it must refuse.
fn told(args: &[&str]) -> String {
    let mut bench = Command::new(env!("CARGO_BIN_EXE_bench"));
    bench.args(args).env_remove("NEARFIELD_MODEL").env("RUST_BACKTRACE", "1");
    let output = bench.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn voices() -> String {
    let voices = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/speech");
    assert!(voices.exists(), "{} is missing: run ./dev voices", voices.display());
    voices.display().to_string()
}

#[test]
fn what_to_run_is_said_in_one_line_without_a_backtrace() {
    for (args, what) in [
        (&["vad", "--voices", "/nowhere"][..], "./dev voices"),
        (&["words", "--voices", "/nowhere"], "./dev voices"),
        (&["words", "--monologue", "4", "--voices", "/nowhere"], "./dev speech"),
        (&["words", "--monologue", "4", "--model", "/nowhere.bin", "--voices", &voices()], "./dev model"),
        (&["failover", "--model", "/nowhere.bin"], "./dev model"),
    ] {
        let told = told(args);
        assert!(told.starts_with("error: ") && told.contains(what) && told.contains("/nowhere"), "{args:?}: {told}");
        assert_eq!(told.trim_end().lines().count(), 1, "{told}");
    }
}

#[test]
fn a_peer_that_is_not_there_is_told_before_anything_is_heard() {
    let voices = voices();
    let model = format!("{voices}/../models/ggml-tiny.en-q8_0.bin");
    let args = ["words", "--monologue", "4", "--voices", &voices, "--model", &model, "--peer-model", &model, "--peer"];
    let told = told(&[&args[..], &["/nowhere/python"]].concat());
    assert!(told.contains("./dev words --monologue") && told.contains("/nowhere/python"), "{told}");
}
