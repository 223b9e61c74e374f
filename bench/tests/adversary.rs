//! `bench adversary` on this machine, with what is many made less.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

fn cached(variable: &str, default: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let path = std::env::var_os(variable).map_or_else(|| root.join(default), PathBuf::from);
    assert!(path.exists(), "{} is not there: ./dev test fetches it", path.display());
    path
}

/// The others tell lies in gossip as it was before it was signed: nobody reads those any more (`mesh/tests/cluster/traitor.rs`).
const ATTACKS: [&str; 9] =
    ["edge-as-core", "renew", "steal", "half-open", "garbage", "usurp", "dismiss", "dns-as-core", "lure"];

#[test]
fn a_malicious_node_of_each_role_reaches_nothing_and_costs_the_others_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("adversary.json");
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        // A test is no measurement: it must not fail because other things run on the machine.
        .args(["adversary", "--short", "--patience", "4"])
        .args(ATTACKS.iter().flat_map(|attack| ["--attack", attack]))
        .arg("--model")
        .arg(cached("NEARFIELD_MODEL", ".cache/models/ggml-tiny.en-q8_0.bin"))
        .arg("--speech")
        .arg(cached("NEARFIELD_SPEECH", ".cache/speech/en"))
        .arg("--json")
        .arg(&json)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "an attack was not held");
    let outcomes: Vec<Value> = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!(outcomes.len(), ATTACKS.len());
    for role in ["edge", "core", "dns"] {
        assert!(outcomes.iter().any(|outcome| outcome["role"] == role), "{role}");
    }
    for outcome in &outcomes {
        assert_eq!((&outcome["reached"], &outcome["held"]), (&0.into(), &true.into()), "{outcome}");
        assert!(outcome["tries"].as_u64().unwrap() > 0 && outcome["turned_away"].as_u64().unwrap() > 0, "{outcome}");
        assert!(outcome["beats_missed"].is_u64() && outcome["words_late"].is_u64());
    }
}
