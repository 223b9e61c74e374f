//! `bench link` measures every way on every path, and ours loses nothing.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::process::{Command, Stdio};

use bench::link::Row;

#[test]
fn every_way_is_measured_on_the_same_paths_and_ours_delivers_everything() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("link.json");
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["link", "--quick", "--json"])
        .arg(&json)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "bench link failed");
    let rows: Vec<Row> = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let ways = ["ours", "datagrams", "datagram+copy", "one stream", "websocket"];
    for (loss, burst_ms) in [(0.01, 0), (0.02, 60)] {
        let of: Vec<&Row> = rows.iter().filter(|r| r.loss == loss && r.burst_ms == burst_ms).collect();
        assert_eq!(of.iter().map(|r| r.way.as_str()).collect::<Vec<_>>(), ways);
        for row in of {
            assert!(row.rtt_ms == 100 && row.bytes > 0, "{row:?}");
            assert!(row.p50_ms <= row.p99_ms && row.p99_ms <= row.max_ms, "{row:?}");
            assert!((0.0..=1.0).contains(&row.delivered), "{row:?}");
        }
    }
    assert!(rows.iter().filter(|r| r.way == "ours").all(|r| r.delivered == 1.0), "{rows:?}");
}
