//! `bench failover`: breaks a mesh at work, and prints what was lost, doubled and delayed.
//!
//! *Follow one scenario:* [`scenario`](Scenario) says what must be shown; `stage` raises the mesh and opens the meetings that
//! `script` wrote; `reader` follows their words like a user, from core to core; `faults` breaks something and proves
//! that it did; `findings` lays what was said (the relay knows) over what is held, stored and read (`coverage`,
//! `doubled`); the scenario's row judges, `report` prints.
#![allow(clippy::disallowed_methods, reason = "a shell: it measures by the wall clock")]

pub mod adversary;
mod cores;
mod coverage;
mod doubled;
mod faults;
mod findings;
mod nats;
mod options;
mod reader;
mod report;
mod scenario;
mod script;
mod stage;

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde_json::Value;

use self::{
    faults::Broken,
    findings::{Evidence, Findings},
    report::Outcome,
    stage::{AWAY, HOME, Meeting, Stage, Wanted},
};
pub use self::{options::Options, scenario::Scenario};
use crate::{
    bed::Manner,
    janus, relay,
    speech::{self, Prompt},
    world::World,
};

/// Of a disk that is full soon, in bytes.
const SMALL_DISK: u64 = 64 << 10;

/// A meeting that is to be over soon.
const BRIEF: Duration = Duration::from_secs(12);

/// Options of `bench failover`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Only these; all if absent. May be given many times.
    #[arg(long, value_enum)]
    pub scenario: Vec<Scenario>,
    /// The rest.
    #[command(flatten)]
    pub options: Options,
}

/// The world of the first scenario. Call it before any thread is started.
///
/// # Errors
/// The model or a program that a scenario needs is missing, or namespaces are not allowed here: without them there is nothing to cut.
pub fn enter(args: &Args) -> Result<World> {
    args.options.model()?;
    has_programs(&wanted_scenarios(args), nats::program().as_deref(), janus::is_installed())?;
    World::enter(args.options.seed).context("failover needs the emulated Internet")
}

fn has_programs(wanted: &[Scenario], nats: Option<&Path>, janus: bool) -> Result<()> {
    let lacks = |scenario: &&Scenario| {
        let nats = (scenario.has_nats() && nats.is_none()).then_some(("nats-server", nats::HOW));
        nats.or((scenario.has_janus() && !janus).then_some(("Janus", janus::HOW)))
    };
    match wanted.iter().find_map(|scenario| Some((scenario, lacks(&scenario)?))) {
        None => Ok(()),
        Some((scenario, (what, how))) => {
            bail!("{} needs {what}: {how}, or choose other scenarios with --scenario", scenario.name())
        }
    }
}

/// Runs the scenarios, prints the table, writes the JSON. `Ctrl-C` ends it and leaves no process behind.
///
/// # Errors
/// A scenario failed, or could not be played.
pub async fn run(world: World, args: Args) -> Result<()> {
    // It was entered for leave to make others; each scenario has its own.
    drop(world);
    options::unless_stopped(play_all(&args)).await
}

fn wanted_scenarios(args: &Args) -> Vec<Scenario> {
    if args.scenario.is_empty() { Scenario::value_variants().to_vec() } else { args.scenario.clone() }
}

async fn play_all(args: &Args) -> Result<()> {
    let prompts = speech::load(&args.options.speech)?;
    let wanted = wanted_scenarios(args);
    let promises: Vec<&str> = wanted.iter().map(|scenario| scenario.row(args.options.short).promise).collect();
    let mut outcomes = vec![];
    for scenario in wanted {
        println!("\n{}: {}", scenario.name(), scenario.row(args.options.short).promise);
        let outcome = play(scenario, args, &prompts).await.unwrap_or_else(|error| Outcome::broken(scenario, &error));
        println!("{outcome}");
        outcomes.push(outcome);
        args.options.keep(&outcomes)?;
    }
    println!("\n{}", report::table(&outcomes, &promises));
    let failed = outcomes.iter().filter(|outcome| !outcome.pass).count();
    ensure!(failed == 0, "{failed} of {} scenarios failed", outcomes.len());
    Ok(())
}

async fn play(scenario: Scenario, args: &Args, prompts: &[Prompt]) -> Result<Outcome> {
    let begun = Instant::now();
    let say = |what: &str| println!("[{:5.1} s] {what}", begun.elapsed().as_secs_f64());
    let temporary = tempfile::tempdir()?;
    let dir = args.options.keep_logs.as_ref().map_or(temporary.path().to_owned(), |dir| dir.join(scenario.name()));
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let mut stage = Stage::raise(World::enter(args.options.seed)?, wanted(scenario, args, &dir)?).await?;
    say(&format!("the mesh is up: {}", stage.census()));
    let times = scenario.times(args.options.short);
    if scenario.has_janus() {
        stage.open_at_janus(HOME, script::dense(args.options.seed + 2, times.meeting, prompts)).await?;
    }
    stage.open(HOME, script::dense(args.options.seed, times.meeting, prompts), scenario.redundancy()).await?;
    if scenario.has_short_company() {
        stage.open(HOME, script::sparse(args.options.seed + 1, BRIEF, prompts), 1).await?;
    }
    if scenario.has_company() {
        let apart =
            script::sparse(args.options.seed + 1, times.meeting.saturating_sub(Duration::from_secs(4)), prompts);
        stage.open(AWAY, apart, 1).await?;
    }
    let (core, edge) = stage.serving().await?;
    say(&format!("a meeting is under way: {edge} captures, {core} serves"));
    let broken = faults::cause(scenario, &mut stage, times, &say).await?;
    ensure!(stage.has_authority(), "the nats-server ended by itself");
    say("the meeting goes on to its end");
    let mut all = vec![];
    for meeting in &stage.meetings {
        all.push(findings::find(&evidence(meeting, args.options.patience).await?, broken.moment)?);
    }
    say("it has ended");
    judge(scenario, args, &stage, broken, all).await
}

async fn judge(scenario: Scenario, args: &Args, stage: &Stage, broken: Broken, all: Vec<Findings>) -> Result<Outcome> {
    let row = scenario.row(args.options.short).patient(args.options.patience);
    let mut complaints = broken.complaints;
    for (n, found) in all.iter().enumerate() {
        let of = if n == 0 { "" } else { "the other meeting: " };
        complaints.extend(row.complaints(found, n == 0).into_iter().map(|what| format!("{of}{what}")));
    }
    for meeting in &stage.meetings {
        let serving = meeting.cores.serving(&meeting.path).await;
        if serving.len() > 1 {
            complaints.push(format!("several cores say that they serve the meeting: {serving:?}"));
        }
    }
    Ok(Outcome::new(scenario, args.options.seed, &all, complaints, broken.detail))
}

/// All there is to know of a meeting, once it has ended.
async fn evidence(meeting: &Meeting, patience: u32) -> Result<Evidence> {
    let ended = meeting.ends(patience).await?;
    let get = async |what: &str| meeting.cores.get(&format!("{}/{what}", meeting.path)).await;
    // What a core does not say any more is missing, and judged as such.
    let (spurts, transcript) = (get("spurts").await, get("transcript?format=json").await);
    // The reader may be an event behind.
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(Evidence {
        script: meeting.script.clone(),
        started: meeting.started,
        said: meeting.relay.ask::<BTreeMap<String, Vec<relay::Sent>>>("/said").await?,
        meeting: ended,
        spurts: spurts.unwrap_or(Value::Null),
        transcript: transcript.unwrap_or(Value::Null),
        seen: meeting.reader.seen(),
        relay: meeting.relay.ask("/state").await?,
    })
}

fn wanted(scenario: Scenario, args: &Args, dir: &Path) -> Result<Wanted> {
    let wanted = args.options.wanted(dir)?;
    let manners = manners(scenario, &wanted.dir);
    Ok(Wanted { manners, nats: scenario.has_nats(), regions: scenario.regions(), ..wanted })
}

/// What is otherwise for some nodes: edges may spill to disk, and one scenario has a list of revoked certificates.
fn manners(scenario: Scenario, dir: &Path) -> BTreeMap<String, Manner> {
    let mut manners = BTreeMap::<String, Manner>::new();
    for node in stage::NODES {
        let manner = manners.entry(node.to_owned()).or_default();
        if node.starts_with("edge") {
            let spill = dir.join(format!("{node}.spill"));
            manner.sets.push(format!("uplink.spill_dir={}", spill.display()));
            manner.disk = (scenario == Scenario::SpillFull).then_some((spill, SMALL_DISK));
        }
        if scenario == Scenario::Burst {
            let rooms = [("core", "limits.meetings=600"), ("edge", "capacity.meetings=400")];
            manner
                .sets
                .extend(rooms.iter().filter(|(role, _)| node.starts_with(role)).map(|(_, set)| (*set).to_owned()));
        }
        if scenario == Scenario::LogFull {
            manner.log = Some("/dev/full".into());
        }
        if scenario == Scenario::TaskPanics {
            manner.args.push("--drill".into());
        }
        if node.starts_with("core") && scenario.has_nats() {
            nats::under(manner);
        }
        if scenario == Scenario::CertificateRotation {
            manner.sets.push(format!("tls.crl={}", dir.join("certs/crl.pem").display()));
        }
    }
    manners
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_scenario_needs_is_asked_for_before_anything_starts() {
        let nats = Some(Path::new("/usr/sbin/nats-server"));
        let told = |nats, janus| has_programs(Scenario::value_variants(), nats, janus).map_err(|e| e.to_string());
        assert!(told(None, true).is_err_and(|e| e.starts_with("core-killed-nats needs nats-server: install it")));
        assert!(told(nats, false).is_err_and(|e| e.starts_with("hand-over-talking needs Janus: ./dev test")));
        assert!(told(nats, true).is_ok() && has_programs(&[Scenario::CoreKilled], None, false).is_ok());
    }
}
