//! What many ended meetings cost: `cargo test -p core-node --release -- --ignored --nocapture many_ended_meetings`.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "a measurement for people")]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use mesh::{clock::Micros, wire::Epoch};
use serde_json::json;

use super::*;
use crate::{
    store::{
        Op,
        record::{Owner, turns::CoreTurn},
    },
    tests::fakes::{self, Core},
};

const MEETINGS: u128 = 20_000;
const BATCH: u128 = 500;

/// One of them, as a meeting of one edge and two cores leaves it.
fn ended(n: u128) -> [Op; 5] {
    let id = MeetingId::from_u128(0x0192_4000_0000_7000_8000_0000_0000_0000 + n);
    let mut record = MeetingRecord { id, status: Status::Done, ended_at: Some(Micros(9)), ..fakes::record() };
    record.sub_code = Some("requested".into());
    record.spec.metadata = [("customer".to_owned(), json!({"id": n as u64, "tags": ["a", "b"]}))].into_iter().collect();
    record.owners.rows.insert(1, Owner::new("edge-eu-central-1".parse().unwrap(), "eu-central".parse().unwrap()));
    record.owners.totals.insert(1, Default::default());
    for name in ["core-eu-central-1", "core-eu-west-1"] {
        let mut turn: CoreTurn = serde_json::from_value(json!({
            "core": name, "region": "eu-central", "role": "serving", "term": 1, "from": 1_700_000_000_000_000u64,
            "to": null, "software": "nearfield-core/0.2.0",
        }))
        .unwrap();
        turn.to = Some(Micros(1_700_000_100_000_000));
        record.cores.push(turn);
    }
    let row = |node: &str| {
        json!({
            "node": node, "region": "eu-central", "verdict": {"ranked": {"place": 2}}, "score_ms": 12.25, "rtt_relay_ms": 3.5,
            "rtt_relay_source": "measured", "rtt_relay_age_ms": 12, "rtt_core_ms": 1.25, "rtt_core_source": "measured",
            "stress": 0.125, "pending": 0, "why": "second: 12.3 ms behind edge-eu-central-1, which is nearer to the relay",
        })
    };
    let rows: Vec<_> = ["a", "b", "c", "d", "e", "f"].map(|e| row(&format!("edge-eu-central-{e}"))).into();
    let participant = Participant {
        id: "p-1".into(),
        name: Some("Alice".into()),
        joined_at: String::new(),
        left_at: None,
        unheard: None,
    };
    // As long as a signed receipt with two certificates, and as hard to pack.
    let noise = |i: u128| (b'A' + ((n * 7919 + i * 104_729) >> 3) as u8 % 57) as char;
    let receipt: String = (0..5200).map(noise).collect();
    [
        Op::Placement(id, Epoch(1), json!({"at": 1_700_000_000, "asked": "edge-eu-central-1", "rows": rows})),
        Op::Participant(id, participant, None),
        Op::Sequence(id, 1024),
        Op::Receipt(id, receipt),
        Op::Meeting(Box::new(record)),
    ]
}

fn fill(store: &Store) {
    for first in (0..MEETINGS).step_by(BATCH as usize) {
        let ops: Vec<Op> = (first..first + BATCH).flat_map(ended).collect();
        store.write(&ops).unwrap();
    }
}

/// Memory of this process, in MiB.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096 / (1 << 20)
}

fn megabytes(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().len() >> 20
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement of a minute"]
async fn many_ended_meetings() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("core.redb");
    let store = Store::open(&file).unwrap();
    fill(&store);
    println!(
        "{MEETINGS} ended meetings: file of {} MiB, {} kB each in use",
        megabytes(&file),
        store.used() / 1024 / MEETINGS as u64
    );
    drop(store);
    let (before, begun) = (resident(), Instant::now());
    let core = Core::start(&file, false);
    println!("start: {:?}, {} MiB before, {} MiB after", begun.elapsed(), before, resident());
    for (what, status) in [("limit=1", None), ("limit=1&status=done", Some(Status::Done))] {
        let mut asked = tokio::task::JoinSet::new();
        let begun = Instant::now();
        for _ in 0..16 {
            let meetings = core.meetings.clone();
            asked.spawn(async move {
                let begun = Instant::now();
                let page = Page { status, before: None, limit: 1 };
                assert_eq!(meetings.page(page).await.unwrap().len(), 1);
                begun.elapsed()
            });
        }
        let slowest = asked.join_all().await.into_iter().max().unwrap_or(Duration::ZERO);
        println!("16 at once, {what}: all in {:?}, the slowest in {slowest:?}", begun.elapsed());
    }
    let begun = Instant::now();
    let page = Page { status: None, before: None, limit: 500 };
    core.meetings.page(page).await.unwrap();
    println!("limit=500: {:?}", begun.elapsed());
    let begun = Instant::now();
    let mut all = vec![];
    core.meetings
        .store()
        .newest(None, |_, read| {
            all.extend(read()?);
            Ok(true)
        })
        .unwrap();
    all.sort_by_key(|r| std::cmp::Reverse((r.created_at, r.id)));
    println!("as before, every record: {:?}, {} MiB", begun.elapsed(), resident());
}
