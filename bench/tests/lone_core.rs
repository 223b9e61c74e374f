//! A lone core that dies in the middle of a sentence comes back with every word of it, once. With a standby: `failover.rs`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod rig;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bench::{
    bed::{Bed, Plan},
    client::Client,
    oracle::{self, Heard},
    relay,
    speech::{self, Manner, Script},
    world::{Host, World, respawn_unless_root},
};
use mesh::{clock::Micros, identity::Role};
use serde_json::{Value, json};

/// Decides who says what when; printed with every failure.
const SEED: u64 = 5;
/// How long the meeting is.
const MEETING: Duration = Duration::from_secs(24);
/// When the core is killed: somebody is speaking.
const KILLED: Duration = Duration::from_secs(8);
/// How long it stays dead.
const DEAD: Duration = Duration::from_secs(2);
/// Milliseconds that two segments of a participant may share: two edges' clocks and packet times.
const SAME_MOMENT: u64 = 100;
/// Deadline for everything that is waited for.
const DEADLINE: Duration = Duration::from_secs(120);

async fn get(host: &Host, api: SocketAddr, path: String) -> Option<Value> {
    host.run(move || async move { Client::new(api)?.get(&path).await }).await.unwrap().ok()
}

/// Asks again until `good`.
async fn until(host: &Host, api: SocketAddr, path: &str, good: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    let mut last = None;
    loop {
        if let Some(answer) = get(host, api, path.to_owned()).await {
            if good(&answer) {
                return answer;
            }
            last = Some(answer);
        }
        assert!(begun.elapsed() < DEADLINE, "{path} did not come to be as wanted: {last:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn relay_plan(script: &Script, dir: &Path, at: SocketAddr) -> PathBuf {
    let participants = (0..script.participants).map(|n| {
        let pcm = dir.join(format!("voice-{n}.pcm"));
        relay::write_pcm(&pcm, &script.track(n)).unwrap();
        json!({"id": format!("p{n}"), "name": format!("Speaker {n}"), "pcm": pcm})
    });
    let plan = json!({"listen": at, "meeting": "m", "participants": participants.collect::<Vec<_>>()});
    let file = dir.join("relay.json");
    std::fs::write(&file, plan.to_string()).unwrap();
    file
}

fn heard(segments: &[Value], started: u64) -> Vec<Heard> {
    let time = |value: &Value| {
        let stamp: jiff::Timestamp = value.as_str().unwrap().parse().unwrap();
        Micros(stamp.as_microsecond() as u64).since(Micros(started))
    };
    let hear = |segment: &Value| Heard {
        id: segment["id"].as_str().unwrap().to_owned(),
        participant: segment["participant"]["id"].as_str().and_then(|id| id[1..].parse().ok()),
        start: time(&segment["start_at"]),
        end: time(&segment["end_at"]),
        text: segment["text"].as_str().unwrap().to_owned(),
        is_final: true,
        delivered: time(&segment["end_at"]),
    };
    segments.iter().map(hear).collect()
}

/// Nobody's sentence was said again: no two segments of a participant are of the same moment.
fn nothing_is_doubled(segments: &[Value]) {
    for (n, one) in segments.iter().enumerate() {
        for other in segments[n + 1..].iter().filter(|other| other["participant"]["id"] == one["participant"]["id"]) {
            let time = |segment: &Value, key: &str| segment[key].as_u64().unwrap();
            let shared = time(one, "end_ms")
                .min(time(other, "end_ms"))
                .saturating_sub(time(one, "start_ms").max(time(other, "start_ms")));
            assert!(shared <= SAME_MOMENT, "{shared} ms are in two segments: {one:#} {other:#}");
        }
    }
}

/// A mesh of one region with a meeting under way in it.
struct Stage {
    bed: Bed,
    relay: Host,
    relay_at: SocketAddr,
    _relay_process: tokio::process::Child,
    script: Script,
    /// The meeting's path in the core's API.
    meeting: String,
    // Last, since dropping the world kills what is left in it.
    _world: World,
    _dir: tempfile::TempDir,
}

impl Stage {
    async fn set() -> Self {
        respawn_unless_root().unwrap();
        println!("seed {SEED}");
        let (world, dir) = (World::enter(SEED).unwrap(), tempfile::tempdir().unwrap());
        let region: geo::RegionId = "eu-central".parse().unwrap();
        let plan = Plan {
            regions: vec![(region.clone(), 1, 1)],
            binaries: Path::new(env!("CARGO_BIN_EXE_bench")).parent().unwrap().to_owned(),
            model: rig::model(),
            dir: dir.path().to_owned(),
            log: "info".into(),
            workers: 2,
            manners: std::collections::BTreeMap::new(),
        };
        let bed = Bed::raise(&world, plan).await.unwrap();
        let prompts = speech::load(&rig::speech()).unwrap();
        let script = Script::generate(SEED, 3, MEETING, &prompts, &Manner::default());
        let relay = world.host("relay", &region, Ipv4Addr::new(10, 77, 2, 1)).unwrap();
        let relay_at = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 77, 2, 1)), 7000);
        let mut command = tokio::process::Command::from(relay.command(env!("CARGO_BIN_EXE_bench")));
        command.args(["relay", "--plan"]).arg(relay_plan(&script, dir.path(), relay_at)).kill_on_drop(true);
        let relay_process = command.spawn().unwrap();
        until(&relay, relay_at, "/state", |_| true).await;
        let body = json!({
            "source": {"kind": "whep", "url": format!("http://{relay_at}/whep/m")},
            "transcription": {"language": "en"},
        });
        let core = bed.node(Role::Core, "eu-central");
        let api = core.api;
        let created = core.host.run(move || async move { Client::new(api)?.post("/v1/meetings", &body).await });
        let meeting = format!("/v1/meetings/{}", created.await.unwrap().unwrap()["id"].as_str().unwrap());
        until(&relay, relay_at, "/state", |state| !state["started_at"].is_null()).await;
        Self { bed, relay, relay_at, _relay_process: relay_process, script, meeting, _world: world, _dir: dir }
    }

    /// The meeting to its end: when its script began, the meeting, its segments.
    async fn ends(&self) -> (u64, Value, Vec<Value>) {
        let state = until(&self.relay, self.relay_at, "/state", |state| state["finished"] == true).await;
        let core = self.bed.node(Role::Core, "eu-central");
        let (api, path) = (core.api, self.meeting.clone());
        core.host.run(move || async move { Client::new(api)?.delete(&path).await }).await.unwrap().unwrap();
        let meeting = until(&core.host, api, &self.meeting, |meeting| meeting["status"] == "done").await;
        println!("{meeting:#}");
        let transcript = until(&core.host, api, &format!("{}/transcript?format=json", self.meeting), |_| true).await;
        (state["started_at"].as_u64().unwrap(), meeting, transcript["segments"].as_array().unwrap().clone())
    }
}

/// `kill -9` of the core in the middle of a sentence; it comes back two seconds later.
#[tokio::test(flavor = "multi_thread")]
async fn a_core_killed_mid_sentence_comes_back_with_every_word_once() {
    let mut stage = Stage::set().await;
    let core = stage.bed.node(Role::Core, "eu-central").identity.node.clone();
    tokio::time::sleep(KILLED).await;
    stage.bed.kill(&core).await.unwrap();
    tokio::time::sleep(DEAD).await;
    stage.bed.restart(&core).unwrap();

    let (started, meeting, segments) = stage.ends().await;
    let verdict = oracle::judge(&stage.script, &heard(&segments, started));
    assert_eq!(meeting["frames_durable"], meeting["totals"]["packets_forwarded"], "speech is missing");
    assert_eq!(meeting["totals"]["packets_overflowed"], 0);
    nothing_is_doubled(&segments);
    // The engine may mishear a word; a sentence lost is at least four.
    assert!(verdict.errors.deletions < 4, "words are missing: {verdict:?}");
    assert!(verdict.errors.rate() < 0.2, "that is not what was said: {verdict:?}");
    assert_eq!(verdict.speaker_accuracy(), 1.0);
    assert_eq!(stage.bed.stop().await, Vec::<String>::new(), "every node drains and exits 0");
}
