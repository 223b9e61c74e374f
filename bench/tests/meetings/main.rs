//! Real meetings, end to end: Debian's Janus, a headless Chromium, a WHEP server and a LiveKit nobody here wrote; and
//! a simulator of Zoom's servers, which Zoom's own client takes for them.
//!
//! Each test raises a whole mesh in an emulated world; one at a time, since they share two cores.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod livekit;
mod odd;
mod peers;
#[path = "../rig/mod.rs"]
mod rig;
mod rtms;
mod silent_picture;
mod ways;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bench::{
    bed::{self, Bed, Plan},
    client::Client,
    oracle::words::{compare, normalise},
    speech::{self, Prompt},
    world::{Host, World, respawn_unless_root},
};
use mesh::identity::Role;
use serde_json::{Value, json};

static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Chance of the emulated Internet; printed with every failure.
const SEED: u64 = 11;
/// Deadline for all of a meeting's expected words.
const WORDS: Duration = Duration::from_secs(150);
/// A segment is a prompt if at most this share of its words is wrong.
const SAME: f64 = 0.2;

fn world() -> World {
    respawn_unless_root().unwrap();
    println!("seed {SEED}");
    World::enter(SEED).unwrap()
}

/// A mesh of one region in `world`.
async fn mesh(world: &World, dir: &Path) -> Bed {
    mesh_of(world, dir, BTreeMap::new()).await
}

/// The same where some nodes run otherwise.
async fn mesh_of(world: &World, dir: &Path, manners: BTreeMap<String, bed::Manner>) -> Bed {
    let binaries = Path::new(env!("CARGO_BIN_EXE_bench")).parent().unwrap().to_owned();
    for program in ["edge-node", "core-node", "geo-dns"] {
        assert!(binaries.join(program).exists(), "{program} is not built: cargo build --workspace --bins");
    }
    let regions = vec![("eu-central".parse().unwrap(), 1, 1)];
    let model = rig::model();
    let plan = Plan { regions, binaries, model, dir: dir.to_owned(), log: "info".into(), workers: 2, manners };
    Bed::raise(world, plan).await.unwrap()
}

/// Two sentences that are easy to tell apart.
fn sentences() -> Vec<Prompt> {
    prompts(["agent-pass", "conf-waitforleader"]).into()
}

fn prompts<const N: usize>(names: [&str; N]) -> [Prompt; N] {
    let all = speech::load(&rig::speech()).unwrap();
    names.map(|name| {
        let found = all.iter().find(|prompt| prompt.name == name);
        found.unwrap_or_else(|| panic!("the prompt {name} is not among those fetched")).clone()
    })
}

struct User {
    host: Host,
    api: SocketAddr,
}

impl User {
    async fn post(&self, body: Value) -> String {
        let api = self.api;
        let created = self.host.run(move || async move { Client::new(api)?.post("/v1/meetings", &body).await }).await;
        created.unwrap().unwrap()["id"].as_str().unwrap().to_owned()
    }

    async fn get(&self, path: String) -> Value {
        let api = self.api;
        self.host.run(move || async move { Client::new(api)?.get(&path).await }).await.unwrap().unwrap()
    }

    async fn delete(&self, id: &str) {
        let (api, path) = (self.api, format!("/v1/meetings/{id}"));
        self.host.run(move || async move { Client::new(api)?.delete(&path).await }).await.unwrap().unwrap();
    }

    /// Waits until every one of `said` has been heard whole in the meeting; the segments.
    async fn hears(&self, id: &str, said: &[Prompt]) -> Vec<Value> {
        let begun = Instant::now();
        loop {
            let transcript = self.get(format!("/v1/meetings/{id}/transcript?format=json")).await;
            let segments = transcript["segments"].as_array().unwrap().clone();
            if said.iter().all(|prompt| segments.iter().any(|segment| is(segment, prompt))) {
                return segments;
            }
            if begun.elapsed() > WORDS {
                let texts: Vec<&Value> = segments.iter().map(|segment| &segment["text"]).collect();
                panic!(
                    "not heard within {WORDS:?}: {:?}; heard {texts:?}; {}",
                    texts_of(said),
                    self.get(format!("/v1/meetings/{id}")).await
                );
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// The newest segment's event.
    async fn newest(&self, id: &str) -> u64 {
        let transcript = self.get(format!("/v1/meetings/{id}/transcript?format=json")).await;
        transcript["segments"].as_array().unwrap().iter().filter_map(|segment| segment["seq"].as_u64()).max().unwrap()
    }

    /// Waits until every one of `said` has been heard whole after the event `seq`; the transcript.
    async fn hears_after(&self, id: &str, said: &[Prompt], seq: u64) -> Value {
        let begun = Instant::now();
        loop {
            let transcript = self.get(format!("/v1/meetings/{id}/transcript?format=json")).await;
            let segments = transcript["segments"].as_array().unwrap();
            let new = || segments.iter().filter(|segment| segment["seq"].as_u64() > Some(seq));
            if said.iter().all(|prompt| new().any(|segment| is(segment, prompt))) {
                return transcript;
            }
            assert!(begun.elapsed() < WORDS, "not heard again: {transcript}");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn ends(&self, id: &str, status: &str) -> Value {
        let begun = Instant::now();
        loop {
            let meeting = self.get(format!("/v1/meetings/{id}")).await;
            if meeting["status"] == status {
                return meeting;
            }
            assert!(begun.elapsed() < WORDS, "the meeting did not come to {status}: {meeting}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

fn texts_of(prompts: &[Prompt]) -> Vec<&str> {
    prompts.iter().map(|prompt| prompt.text.as_str()).collect()
}

fn is(segment: &Value, prompt: &Prompt) -> bool {
    let heard = normalise(segment["text"].as_str().unwrap_or_default());
    compare(&normalise(&prompt.text), &heard).rate() <= SAME
}

fn check(segments: &[Value], name: &str) {
    for segment in segments {
        assert_eq!(segment["participant"]["name"], name, "{segment}");
        assert_eq!(segment["final"], true, "{segment}");
        let timing = &segment["timing"];
        let stages = ["captured", "decoded", "vad", "sent", "received", "durable", "words"];
        let stamps: Vec<u64> = stages.iter().map(|stage| timing[stage].as_u64().unwrap()).collect();
        assert!(stamps.is_sorted(), "stages are out of order: {timing}");
    }
}

/// The browser's microphone path -> Janus -> edge -> core -> the expected words under the right name; and
/// the same publisher through a WHEP server, which answers 406 with an offer of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_in_a_janus_room_is_heard_by_name_directly_and_through_whep() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (world, dir) = (world(), tempfile::tempdir().unwrap());
    let mut bed = mesh(&world, dir.path()).await;
    let core = bed.node(Role::Core, "eu-central");
    let user = User { host: peers::host(&world, "user", 9), api: core.api };
    let janus = peers::janus(&world, dir.path()).await;
    let said = sentences();

    let room =
        json!({"source": {"kind": "janus", "url": janus.url(), "room": 1234}, "transcription": {"language": "en"}});
    let direct = user.post(room).await;
    let _browser = peers::Browser::publish(&world, dir.path(), &janus, "Ada", &said);
    let segments = user.hears(&direct, &said).await;
    check(&segments, "Ada");

    let participants = user.get(format!("/v1/meetings/{direct}/participants")).await;
    let feed = participants["participants"][0]["id"].as_str().unwrap().to_owned();
    let whep = peers::WhepServer::start(&janus, dir.path(), Some(&feed)).await;
    let names = json!({"janus": "Ada"});
    let source = json!({"kind": "whep", "url": whep.endpoint("room"), "participants": names});
    let through = user.post(json!({"source": source, "transcription": {"language": "en"}})).await;
    check(&user.hears(&through, &said).await, "Ada");

    for id in [&direct, &through] {
        user.delete(id).await;
        let meeting = user.ends(id, "done").await;
        assert_eq!(meeting["frames_durable"], meeting["totals"]["packets_forwarded"], "{meeting}");
        assert_eq!(meeting["spurts_done"], meeting["spurts"], "{meeting}");
    }
    assert_eq!(bed.stop().await, Vec::<String>::new(), "every node drains and exits 0");
}

/// A Janus mountpoint behind the WHEP server, which answers 201.
#[tokio::test(flavor = "multi_thread")]
async fn a_single_stream_is_heard_through_a_whep_server_that_answers_201() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (world, dir) = (world(), tempfile::tempdir().unwrap());
    let mut bed = mesh(&world, dir.path()).await;
    let core = bed.node(Role::Core, "eu-central");
    let user = User { host: peers::host(&world, "user", 9), api: core.api };
    let janus = peers::janus(&world, dir.path()).await;
    let whep = peers::WhepServer::start(&janus, dir.path(), None).await;
    let said = sentences();

    let source = json!({"kind": "whep", "url": whep.endpoint("mp")});
    let id = user.post(json!({"source": source, "transcription": {"language": "en"}})).await;
    let speaker =
        tokio::spawn(peers::speak_rtp(peers::host(&world, "speaker", 8), janus.rtp(), Arc::new(said.clone())));
    user.hears(&id, &said).await;
    speaker.abort();

    user.delete(&id).await;
    user.ends(&id, "done").await;
    assert_eq!(bed.stop().await, Vec::<String>::new(), "every node drains and exits 0");
}
