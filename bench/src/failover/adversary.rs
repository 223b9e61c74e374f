//! `bench adversary`: a mesh at work, one malicious node of each role in it, and what each of their attacks came to.
//!
//! *Follow one attack:* [`attack`] names it; `traitor`, a node with a valid certificate of another region than the meetings', tries
//! it (`lies` makes its gossip); `ears` counts what comes to it; `watch` sees what all others know, answer and cost before and
//! after it, in meetings that go on beside it; `bait` makes another one meanwhile.
#![allow(clippy::disallowed_methods, reason = "a shell: it measures by the wall clock")]

pub mod attack;
mod bait;
mod ears;
mod lies;
mod traitor;
mod watch;

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use comfy_table::{CellAlignment, Table};
use mesh::{
    identity::{Identity, Role, certs::Credentials},
    wire::Epoch,
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::signal::unix::{SignalKind, signal};

use self::{
    attack::Attack,
    ears::Heard,
    traitor::{Ground, Pass, Traitor},
    watch::Watch,
};
use super::{
    GATHERED, script,
    stage::{AWAY, FAR, HOME, Stage, Wanted, request},
};
use crate::{bed::TRUST_DOMAIN, certs, demo::stage::RelayProcess, speech, world::World};

/// After an attack, until what came of it is looked at.
const SETTLES: Duration = Duration::from_secs(1);
/// How long the traitors may take to be seen by all.
const ARRIVED: Duration = Duration::from_secs(20);
/// Memory that one attack may cost the core that is attacked, in MB.
const MAX_GROWN_MB: u64 = 100;
/// What the meetings' relay asks for, and only their edges may know.
const TOKEN: &str = "adversary-token";

/// Options of `bench adversary`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Only these; all if absent. May be given many times.
    #[arg(long, value_enum)]
    pub attack: Vec<Attack>,
    /// Writes the figures there as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Tries less of what is many, for tests.
    #[arg(long)]
    pub short: bool,
    /// Allows so many times the time: for a machine that is slow, or busy with other things. Beats and words that are late are then
    /// told, and not judged.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub patience: u32,
    /// Decides who says what when, and every chance of the emulated Internet.
    #[arg(long, default_value_t = 5)]
    pub seed: u64,
    /// Keeps configuration, stores and logs there.
    #[arg(long)]
    pub keep_logs: Option<PathBuf>,
    /// The Whisper model of the cores (ggml).
    #[arg(long, env = "NEARFIELD_MODEL", default_value = ".cache/models/ggml-tiny.en-q8_0.bin")]
    pub model: PathBuf,
    /// Folder of recorded prompts (*.g722) and core-sounds-en.txt.
    #[arg(long, env = "NEARFIELD_SPEECH", default_value = ".cache/speech/en")]
    pub speech: PathBuf,
    /// The nodes' log filter.
    #[arg(long, default_value = "info")]
    pub log: String,
}

/// The world. Call it before any thread is started.
///
/// # Errors
/// Namespaces are not allowed here.
pub fn enter(args: &Args) -> Result<World> {
    World::enter(args.seed).context("adversary needs the emulated Internet")
}

/// Tries the attacks, prints the table, writes the JSON. `Ctrl-C` ends it and leaves no process behind.
///
/// # Errors
/// An attack reached something or cost somebody something, or could not be tried.
pub async fn run(world: World, args: Args) -> Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        result = play(world, &args) => result,
        _ = int.recv() => bail!("interrupted"),
        _ = term.recv() => bail!("terminated"),
    }
}

/// What one attack came to.
#[derive(Debug, Clone, Serialize)]
struct Outcome {
    /// Its name.
    attack: String,
    /// Whose certificate it took.
    role: &'static str,
    /// What reached the traitor or was granted to it, nodes that were put out or named falsely: all together.
    reached: u64,
    /// Whether the mesh held: nothing was reached, and nobody else paid for it.
    held: bool,
    /// Beats of the honest edges that were not answered before the next.
    beats_missed: u64,
    /// Words that came to the reader late.
    words_late: u64,
    /// Each thing that was reached, and what speaks against the rest.
    complaints: Vec<String>,
    /// How often it was tried.
    tries: usize,
    /// How often those that it went to counted it; 0 would mean that it never came there.
    turned_away: u64,
    /// How much longer the core that was attacked has become in memory.
    grown_mb: u64,
    detail: Map<String, Value>,
}

async fn play(world: World, args: &Args) -> Result<()> {
    let begun = Instant::now();
    let say = |what: &str| println!("[{:5.1} s] {what}", begun.elapsed().as_secs_f64());
    let temporary = tempfile::tempdir()?;
    let dir = args.keep_logs.clone().unwrap_or_else(|| temporary.path().to_owned());
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let mut stage = Stage::raise(world, wanted(args, &dir)?).await?;
    ensure!(stage.gathered(GATHERED).await.is_some(), "not all nodes see all: {:?}", stage.views().await);
    say("the mesh is up: three regions, two cores, four edges, geo-dns");
    let attacks = match args.attack.is_empty() {
        true => Attack::value_variants().to_vec(),
        false => args.attack.clone(),
    };
    open(&mut stage, args, attacks.len()).await?;
    let ground = ground(&stage, args).await?;
    say(&format!("two meetings are under way: {} captures, {} serves", ground.edges[0], ground.cores[0]));
    let traitors = join(&stage, &dir)?;
    let watch = Watch::new(&stage, &traitors, args.patience);
    watch.arrived(&stage, ARRIVED).await?;
    say("three traitors have joined, an edge, a core and a name server, with certificates of us-east");
    let mut outcomes = vec![];
    for attack in attacks {
        let outcome = attempt(attack, &stage, &watch, &traitors, &ground, args).await?;
        say(&format!("{} {}", if outcome.held { "held" } else { "FAIL" }, outcome.attack));
        outcome.complaints.iter().for_each(|complaint| println!("          {complaint}"));
        outcomes.push(outcome);
        // One that ends early must not take what was found with it.
        if let Some(path) = &args.json {
            let text = serde_json::to_vec_pretty(&outcomes)?;
            fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    let ended = watch.meetings(&stage).await;
    println!("\n{}", table(&outcomes));
    let failed = outcomes.iter().filter(|outcome| !outcome.held).count();
    ensure!(failed == 0, "{failed} of {} attacks were not held", outcomes.len());
    ensure!(ended.is_empty(), "{}", ended.join("; "));
    Ok(())
}

/// A meeting at home and one away, both within Europe, which go on for longer than the attacks take.
async fn open(stage: &mut Stage, args: &Args, attacks: usize) -> Result<()> {
    let prompts = speech::load(&args.speech)?;
    let long = Duration::from_secs(30 + 8 * attacks as u64) * args.patience.min(2);
    stage.open_as(HOME, script::dense(args.seed, long, &prompts), body).await?;
    stage.open_as(AWAY, script::sparse(args.seed + 1, long, &prompts), body).await
}

fn body(relay: &RelayProcess) -> Value {
    let mut body = request(relay, 1);
    body["placement"] = json!({"residency": ["eu"]});
    body["source"]["token"] = TOKEN.into();
    body
}

async fn ground(stage: &Stage, args: &Args) -> Result<Ground> {
    let view = stage.meeting().view().await?;
    let (core, edge) = stage.serving().await?;
    let other = |role: Role, node: &mesh::identity::NodeId| {
        let of = |home: &str| {
            stage
                .bed
                .nodes
                .iter()
                .find(|n| n.identity.role == role && n.identity.node != *node && n.identity.region.as_str() == home)
        };
        of(HOME).or_else(|| of(AWAY)).map(|node| node.identity.node.clone()).context("there is no other")
    };
    let cores = [core.clone(), other(Role::Core, &core)?];
    let edges = [edge.clone(), other(Role::Edge, &edge)?];
    let epoch = Epoch(view["owner"]["epoch"].as_u64().context("the meeting has no epoch")?);
    let meeting = view["id"].as_str().context("the meeting has no id")?.parse()?;
    let relay = stage.meeting().relay.address.to_string();
    let half_open = if args.short { (7, 512) } else { (7, 4096) };
    Ok(Ground { meeting, epoch, cores, edges, relay, half_open })
}

/// One traitor of each role, far from the meetings.
fn join(stage: &Stage, dir: &Path) -> Result<BTreeMap<Role, Traitor>> {
    let seed = stage.bed.node(Role::Core, HOME).mesh;
    let region: geo::RegionId = FAR.parse()?;
    let identities = [Role::Edge, Role::Core, Role::Dns].map(|role| -> Result<Identity> {
        Ok(Identity { node: format!("evil-{}", role.as_str()).parse()?, role, region: region.clone() })
    });
    let identities: Vec<Identity> = identities.into_iter().collect::<Result<_>>()?;
    let folder = dir.join("certs");
    certs::issue(&folder, TRUST_DOMAIN, Duration::from_secs(24 * 3600), &identities)?;
    let read = |name: String| fs::read_to_string(folder.join(&name)).context(name);
    let mut traitors = BTreeMap::new();
    for (n, identity) in identities.into_iter().enumerate() {
        let host = stage.world.host(identity.node.as_str(), &region, Ipv4Addr::new(10, 77, 4, n as u8 + 1))?;
        let (cert, key) = (read(format!("{}.pem", identity.node))?, read(format!("{}.key", identity.node))?);
        let credentials = Credentials::from_pem(&read("ca.pem".into())?, &cert, &key, TRUST_DOMAIN)?;
        traitors.insert(identity.role, Traitor::join(&host, Pass { credentials, seed }));
    }
    Ok(traitors)
}

async fn attempt(
    attack: Attack,
    stage: &Stage,
    watch: &Watch,
    traitors: &BTreeMap<Role, Traitor>,
    ground: &Ground,
    args: &Args,
) -> Result<Outcome> {
    let heard = || traitors.values().fold(Heard::default(), |sum, traitor| sum.and(traitor.ears.heard()));
    let (ears, before) = (heard(), watch.look(stage, attack.counted()).await);
    let traitor = traitors.get(&attack.role()).context("there is no such traitor")?;
    let bait = async {
        match attack.is_for_others_to_come() {
            true => bait::set(stage, watch, body(&stage.meeting().relay), args.patience).await,
            false => Ok(vec![]),
        }
    };
    let (tried, caught) = tokio::join!(traitor.attack(attack, ground), bait);
    let (tried, caught) = (tried?, caught.unwrap_or_else(|error| vec![format!("the bait: {error:#}")]));
    let during = watch.memory_mb(stage, &ground.cores[0]);
    tokio::time::sleep(SETTLES * args.patience.min(4)).await;
    let after = watch.look(stage, attack.counted()).await;
    let heard = heard().since(ears);

    let mut reached: Vec<String> = heard.told();
    reached.extend(tried.granted);
    reached.extend(caught);
    reached.extend(after.wrong.iter().cloned());
    let (beats_missed, words_late) = (after.beats_missed - before.beats_missed, after.words_late - before.words_late);
    let grown_mb = during.max(after.memory_mb).saturating_sub(before.memory_mb);
    let mut complaints = reached.clone();
    let counted = |name: &&str| after.turned_away[*name].saturating_sub(before.turned_away[*name]);
    let turned_away =
        if attack.counted().is_empty() { after.lured } else { attack.counted().iter().map(counted).sum() };
    if turned_away == 0 {
        complaints.push("it did not come to those that it was meant for: nothing of it was counted".into());
    }
    if grown_mb > MAX_GROWN_MB {
        complaints.push(format!("the core has grown by {grown_mb} MB"));
    }
    if after.turned > before.turned {
        complaints.push(format!("{} links or leases were lost", after.turned - before.turned));
    }
    if args.patience == 1 {
        complaints.extend((beats_missed > 0).then(|| format!("{beats_missed} beats missed")));
        complaints.extend((words_late > 0).then(|| format!("{words_late} words late")));
    }
    let mut detail = Map::new();
    detail.insert("heard".into(), serde_json::to_value(heard)?);
    Ok(Outcome {
        attack: attack.name(),
        role: attack.role().as_str(),
        reached: heard.all() + (reached.len() - heard.told().len()) as u64,
        held: complaints.is_empty(),
        beats_missed,
        words_late,
        complaints,
        tries: tried.tries,
        turned_away,
        grown_mb,
        detail,
    })
}

fn table(outcomes: &[Outcome]) -> Table {
    let mut table = Table::new();
    table.set_header([
        "attack",
        "certificate",
        "tries",
        "turned away",
        "reached",
        "beats missed",
        "words late",
        "core grew MB",
        "",
    ]);
    for outcome in outcomes {
        table.add_row([
            outcome.attack.clone(),
            outcome.role.to_owned(),
            outcome.tries.to_string(),
            outcome.turned_away.to_string(),
            outcome.reached.to_string(),
            outcome.beats_missed.to_string(),
            outcome.words_late.to_string(),
            outcome.grown_mb.to_string(),
            if outcome.held { "held" } else { "FAIL" }.to_owned(),
        ]);
    }
    for column in table.column_iter_mut().skip(2).take(6) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn wanted(args: &Args, dir: &Path) -> Result<Wanted> {
    let no_model = || format!("{}: no such model; ./dev model fetches it", args.model.display());
    Ok(Wanted {
        binaries: std::env::current_exe()?.parent().context("no folder of binaries")?.to_owned(),
        model: args.model.canonicalize().with_context(no_model)?,
        manners: BTreeMap::new(),
        nats: false,
        regions: super::stage::WIDE,
        dir: dir.canonicalize()?,
        log: args.log.clone(),
    })
}
