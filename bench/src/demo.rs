//! `bench demo`: a mesh of two regions, a meeting with known speech, its words as they are made, the figures.
#![allow(clippy::disallowed_methods, reason = "a shell: it measures by the wall clock")]

pub(crate) mod judge;
mod keep;
pub(crate) mod stage;
pub mod watch;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use geo::RegionId;
use mesh::identity::Role;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use self::{judge::Evidence, stage::RelayProcess, watch::Delivery};
use crate::{
    bed::{Bed, Plan, Running},
    client::Client,
    engine, relay,
    report::Summary,
    speech::{self, Manner, Script},
    world::{Host, World},
};

/// Where the relay and its nearest edges are.
const RELAY_REGION: &str = "eu-central";
/// Where the user and the core that is asked are.
const USER_REGION: &str = "ap-northeast";
/// The participants' names, in order.
const NAMES: [&str; 6] = ["Ada", "Boris", "Chiara", "Deniz", "Emeka", "Freya"];
/// What Chromium gives a voice in Opus unless told otherwise, in bits per second.
const BITRATE: u32 = 32_000;
/// Deadline for the choice of an edge.
const PLACED: Duration = Duration::from_secs(15);
/// Deadline for the words after the relay's last packet.
const LAST_WORDS: Duration = Duration::from_secs(40);

/// Options of `bench demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The model of the cores: a ggml file is Whisper's, a folder is Moonshine's.
    #[arg(long, default_value = ".cache/models/ggml-tiny.en-q8_0.bin")]
    pub model: PathBuf,
    /// Folder of recorded prompts (*.g722) and core-sounds-en.txt.
    #[arg(long, default_value = ".cache/speech/en")]
    pub speech: PathBuf,
    /// Writes the figures there as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Leaves the mesh running until Ctrl-C and prints its URLs.
    #[arg(long)]
    pub keep: bool,
    /// No namespaces and no distances: everything on 127.0.0.1.
    #[arg(long)]
    pub loopback: bool,
    /// Seconds of meeting, 10 to 600.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(10..=600))]
    pub seconds: u64,
    /// Participants, 3 to 6.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(3..=6))]
    pub participants: u64,
    /// Decides who says what when, and every chance of the emulated Internet.
    #[arg(long, default_value_t = 16)]
    pub seed: u64,
    /// Folder for configuration, certificates, stores and logs; a temporary one if absent.
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// The nodes' log filter.
    #[arg(long, default_value = "info")]
    pub log: String,
}

/// The world the demo plays in. Call it before any thread is started.
///
/// # Errors
/// None that stop the demo: where namespaces are not allowed it says so and goes on without distances.
pub fn enter(args: &Args) -> Result<World> {
    if args.loopback {
        println!("Distances: none (--loopback): every node is on 127.0.0.1.");
        return Ok(World::loopback());
    }
    match World::enter(args.seed) {
        Ok(world) => Ok(world),
        Err(why) => {
            println!(
                "Distances: none, since the emulated Internet is not allowed here: {why}\n           Going on with --loopback."
            );
            Ok(World::loopback())
        }
    }
}

/// Runs the demo; `Ctrl-C` ends it at any moment and leaves no process behind.
///
/// # Errors
/// Anything that keeps the meeting from its end, in words.
pub async fn run(world: World, args: Args) -> Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let result = tokio::select! {
        result = play(&world, &args) => result,
        // With --keep that is how it is meant to end.
        _ = int.recv() => if args.keep { Ok(()) } else { Err(anyhow::anyhow!("interrupted")) },
        _ = term.recv() => Err(anyhow::anyhow!("terminated")),
    };
    world.kill_processes();
    result
}

async fn play(world: &World, args: &Args) -> Result<()> {
    let begun = Instant::now();
    let step = |what: &str| println!("[{:5.1} s] {what}", begun.elapsed().as_secs_f64());
    let temporary = tempfile::tempdir()?;
    let dir = args.dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&dir)?;
    let dir = dir.canonicalize()?;
    let script = write_script(args)?;
    let regions: [RegionId; 2] = [RELAY_REGION.parse()?, USER_REGION.parse()?];

    step("raising a mesh of two regions: geo-dns, two cores, four edges");
    stage::lay_distances(world, &regions)?;
    let mut bed = Bed::raise(world, plan(args, &regions, &dir)?).await?;
    show_mesh(&bed);

    step(&format!("a meeting relay opens beside {RELAY_REGION}"));
    let edges: Vec<&Running> = bed.nodes.iter().filter(|node| node.identity.role == Role::Edge).collect();
    let (relay, nearest) =
        stage::open_relay(world, (&regions[0], 1), &relay_plan(&script, &dir)?, &edges, &dir).await?;
    let user = world.host("user", &regions[1], Ipv4Addr::new(10, 77, 3, 1))?;
    let api = bed.node(Role::Core, USER_REGION).api;

    step(&format!("POST /v1/meetings to the core in {USER_REGION}"));
    let meeting = ask(&user, api, request(&relay, &script)).await?;
    let id = meeting["id"].as_str().context("the meeting has no id")?.to_owned();
    show_placement(&placement(&user, api, &id).await?);

    step("the meeting, as its words come:");
    let cpu_before: Vec<f64> = bed.nodes.iter().map(Bed::cpu_seconds).collect();
    let deliveries = attend(&user, api, &id, &relay).await?;
    let spent = |(node, before): (&Running, f64)| (node.identity.node.to_string(), Bed::cpu_seconds(node) - before);
    let cpu = bed.nodes.iter().zip(cpu_before).map(spent).collect();

    step("the same recordings, given to the same engine directly");
    let reference = judge::reference(&script, engine::load(&args.model, 2)?).await?;
    let mut summary = judge::summary(&Evidence {
        script,
        reference,
        deliveries,
        relay: relay.ask("/state").await?,
        sent: relay.ask("/sent").await?,
        meeting: get(&user, api, format!("/v1/meetings/{id}")).await?,
        spurts: get(&user, api, format!("/v1/meetings/{id}/spurts")).await?,
        edge_nearest: nearest,
        cpu,
    })?;
    if args.keep {
        tell(&summary, args)?;
        return keep::for_ever(&bed, &relay, api, &id).await;
    }
    step("SIGTERM to every node: they drain");
    drop(relay);
    for unclean in bed.stop().await {
        println!("           {unclean}");
    }
    world.kill_processes();
    summary.leftover_processes = world.processes().len() as u64;
    tell(&summary, args)?;
    step("done");
    Ok(())
}

fn plan(args: &Args, regions: &[RegionId], dir: &Path) -> Result<Plan> {
    let no_model = || format!("{}: no such model; ./dev model fetches it", args.model.display());
    Ok(Plan {
        regions: regions.iter().map(|region| (region.clone(), 2, 1)).collect(),
        binaries: std::env::current_exe()?.parent().context("no folder of binaries")?.to_owned(),
        model: args.model.canonicalize().with_context(no_model)?,
        dir: dir.to_owned(),
        log: args.log.clone(),
        workers: 2,
        manners: BTreeMap::new(),
    })
}

fn tell(summary: &Summary, args: &Args) -> Result<()> {
    println!("\n{summary}");
    match &args.json {
        Some(path) => {
            std::fs::write(path, summary.to_json()).with_context(|| format!("cannot write {}", path.display()))
        }
        None => Ok(()),
    }
}

fn write_script(args: &Args) -> Result<Script> {
    let prompts = speech::load(&args.speech)?;
    let script = Script::generate(
        args.seed,
        args.participants as usize,
        Duration::from_secs(args.seconds),
        &prompts,
        &Manner::default(),
    );
    println!(
        "Speech:    {} sentences of {} participants in {} s (seed {}); Debian's asterisk-core-sounds-en, CC BY-SA 3.0",
        script.lines.len(),
        script.participants,
        args.seconds,
        args.seed
    );
    Ok(script)
}

fn relay_plan(script: &Script, dir: &Path) -> Result<relay::Plan> {
    let participants = (0..script.participants).map(|n| {
        let pcm = dir.join(format!("voice-{n}.pcm"));
        relay::write_pcm(&pcm, &script.track(n)).with_context(|| format!("cannot write {}", pcm.display()))?;
        Ok(relay::Participant { id: participant_id(n), name: NAMES[n].into(), pcm })
    });
    Ok(relay::Plan {
        listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7000),
        meeting: "demo".into(),
        reply: relay::Reply::Offer,
        start: relay::Start::FirstSubscriber,
        settle_ms: 1000,
        bitrate: BITRATE,
        dtx: false,
        janus: None,
        participants: participants.collect::<Result<_>>()?,
    })
}

/// What the relay calls participant `n`.
pub(crate) fn participant_id(n: usize) -> String {
    format!("p{n}")
}

fn request(relay: &RelayProcess, script: &Script) -> Value {
    let names: serde_json::Map<String, Value> =
        (0..script.participants).map(|n| (participant_id(n), NAMES[n].into())).collect();
    json!({
        "source": {"kind": "whep", "url": format!("http://{}/whep/demo", relay.address), "participants": names},
        "transcription": {"language": "en", "interim": true},
    })
}

async fn ask(user: &Host, api: SocketAddr, body: Value) -> Result<Value> {
    user.run(move || async move { Client::new(api)?.post("/v1/meetings", &body).await }).await?
}

async fn get(user: &Host, api: SocketAddr, path: String) -> Result<Value> {
    user.run(move || async move { Client::new(api)?.get(&path).await }).await?
}

/// Why the edge was chosen, as soon as it is.
async fn placement(user: &Host, api: SocketAddr, id: &str) -> Result<Value> {
    let begun = Instant::now();
    loop {
        let placed = get(user, api, format!("/v1/meetings/{id}/placement")).await?;
        if let Some(last) = placed["placements"].as_array().and_then(|all| all.last()) {
            return Ok(last.clone());
        }
        anyhow::ensure!(begun.elapsed() < PLACED, "the meeting was not placed within {PLACED:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Follows the transcript to its end: when the relay has finished, the meeting is told to leave.
async fn attend(user: &Host, api: SocketAddr, id: &str, relay: &RelayProcess) -> Result<Vec<Delivery>> {
    let follow = {
        let id = id.to_owned();
        user.run(move || watch::follow(api, id))
    };
    let leave = async {
        while !relay.ask::<relay::State>("/state").await?.finished {
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        let path = format!("/v1/meetings/{id}");
        user.run(move || async move { Client::new(api)?.delete(&path).await }).await??;
        tokio::time::sleep(LAST_WORDS).await;
        anyhow::bail!("the meeting was not done {LAST_WORDS:?} after it was told to leave")
    };
    tokio::select! {
        deliveries = follow => deliveries?,
        failed = leave => failed,
    }
}

fn show_mesh(bed: &Bed) {
    for node in &bed.nodes {
        println!(
            "           {:<22} {:<5} {:<13} {}",
            node.identity.node.as_str(),
            node.identity.role.as_str(),
            node.identity.region.as_str(),
            node.mesh
        );
    }
}

fn show_placement(placement: &Value) {
    for row in placement["rows"].as_array().into_iter().flatten() {
        println!("           {:<22} {}", row["node"].as_str().unwrap_or("?"), row["why"].as_str().unwrap_or("?"));
    }
}
