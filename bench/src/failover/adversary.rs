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
    collections::{BTreeMap, BTreeSet},
    fs,
    net::Ipv4Addr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use cli::certs;
use comfy_table::{CellAlignment, Table};
use mesh::{
    identity::{Identity, NodeId, Role, certs::Credentials},
    wire::Epoch,
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use self::{
    attack::Attack,
    ears::Heard,
    traitor::{Ground, Pass, Traitor},
    watch::{Look, Watch},
};
use super::{
    Options, options, script,
    stage::{AWAY, FAR, HOME, Stage, request},
};
use crate::{bed::TRUST_DOMAIN, demo::stage::RelayProcess, speech, world::World};

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
    /// The rest.
    #[command(flatten)]
    pub options: Options,
}

/// The world. Call it before any thread is started.
///
/// # Errors
/// The model is missing, or namespaces are not allowed here.
pub fn enter(args: &Args) -> Result<World> {
    args.options.model()?;
    World::enter(args.options.seed).context("adversary needs the emulated Internet")
}

/// Tries the attacks, prints the table, writes the JSON. `Ctrl-C` ends it and leaves no process behind.
///
/// # Errors
/// An attack reached something or cost somebody something, or could not be tried.
pub async fn run(world: World, args: Args) -> Result<()> {
    options::unless_stopped(play(world, &args)).await
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
    /// So many of them.
    counted_by: usize,
    /// How much longer the core that was attacked has become in memory.
    grown_mb: u64,
    detail: Map<String, Value>,
}

async fn play(world: World, args: &Args) -> Result<()> {
    let begun = Instant::now();
    let say = |what: &str| println!("[{:5.1} s] {what}", begun.elapsed().as_secs_f64());
    let temporary = tempfile::tempdir()?;
    let dir = args.options.keep_logs.clone().unwrap_or_else(|| temporary.path().to_owned());
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let mut stage = Stage::raise(world, args.options.wanted(&dir)?).await?;
    say("the mesh is up: three regions, two cores, four edges, geo-dns");
    let attacks = match args.attack.is_empty() {
        true => Attack::value_variants().to_vec(),
        false => args.attack.clone(),
    };
    open(&mut stage, args, attacks.len()).await?;
    let ground = ground(&stage, args).await?;
    say(&format!("two meetings are under way: {} captures, {} serves", ground.edges[0], ground.cores[0]));
    let traitors = join(&stage, &dir)?;
    let watch = Watch::new(&stage, &traitors, args.options.patience);
    watch.arrived(&stage, ARRIVED).await?;
    say("three traitors have joined, an edge, a core and a name server, with certificates of us-east");
    let mut outcomes = vec![];
    for attack in attacks {
        let outcome = attempt(attack, &stage, &watch, &traitors, &ground, args).await?;
        say(&format!("{} {}", if outcome.held { "held" } else { "FAIL" }, outcome.attack));
        outcome.complaints.iter().for_each(|complaint| println!("          {complaint}"));
        outcomes.push(outcome);
        args.options.keep(&outcomes)?;
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
    let prompts = speech::load(&args.options.speech)?;
    let long = Duration::from_secs(30 + 12 * attacks as u64) * args.options.patience.min(2);
    stage.open_as(HOME, script::dense(args.options.seed, long, &prompts), body).await?;
    stage.open_as(AWAY, script::sparse(args.options.seed + 1, long, &prompts), body).await
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
    let other = |role: Role, node: &NodeId| {
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
    let half_open = if args.options.short { (7, 512) } else { (7, 4096) };
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
            true => bait::set(stage, watch, body(&stage.meeting().relay), args.options.patience).await,
            false => Ok(vec![]),
        }
    };
    let (tried, caught) = tokio::join!(traitor.attack(attack, ground), bait);
    let (tried, caught) = (tried?, caught.unwrap_or_else(|error| vec![format!("the bait: {error:#}")]));
    let during = watch.memory_mb(stage, &ground.cores[0]);
    tokio::time::sleep(SETTLES * args.options.patience.min(4)).await;
    let after = watch.look(stage, attack.counted()).await;
    let heard = heard().since(ears);

    let mut reached: Vec<String> = heard.told();
    reached.extend(tried.granted);
    reached.extend(caught);
    reached.extend(after.wrong.iter().cloned());
    let (beats_missed, words_late) = (after.beats_missed - before.beats_missed, after.words_late - before.words_late);
    let grown_mb = during.max(after.memory_mb).saturating_sub(before.memory_mb);
    let mut complaints = reached.clone();
    let all = stage.bed.nodes.iter().map(|node| node.identity.node.to_string()).collect();
    // Whom a lie is about may have better things to do than to count it.
    let victims = [ground.cores[0].clone(), ground.edges[1].clone()];
    let counted = Counted::of(attack, (&before, &after), &all, &victims);
    complaints.extend((tried.tries == 0).then(|| "it was never tried".into()));
    complaints.extend(counted.missing);
    if grown_mb > MAX_GROWN_MB {
        complaints.push(format!("the core has grown by {grown_mb} MB"));
    }
    if after.turned > before.turned {
        complaints.push(format!("{} links or leases were lost", after.turned - before.turned));
    }
    if args.options.patience == 1 {
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
        turned_away: counted.times,
        counted_by: counted.by.len(),
        grown_mb,
        detail,
    })
}

/// What those that it went to have counted of it.
#[derive(Debug, Default)]
struct Counted {
    /// How often, all together.
    times: u64,
    /// Those who have.
    by: BTreeSet<String>,
    /// What did not come to whom.
    missing: Vec<String>,
}

impl Counted {
    fn of(attack: Attack, (before, after): (&Look, &Look), all: &BTreeSet<String>, victims: &[NodeId]) -> Self {
        if attack.counted().is_empty() {
            let missing = (after.lured == 0).then(|| "no core saw it".into()).into_iter().collect();
            return Self { times: after.lured, missing, ..Self::default() };
        }
        let mut counted = Self::default();
        for name in attack.counted() {
            let since = |(node, count): (&String, &u64)| {
                let before = before.turned_away.get(name).and_then(|counts| counts.get(node)).copied().unwrap_or(0);
                (node.clone(), count.saturating_sub(before))
            };
            let new: BTreeMap<String, u64> = after.turned_away.get(name).into_iter().flatten().map(since).collect();
            let times: u64 = new.values().sum();
            if times == 0 {
                counted.missing.push(format!("it did not come to those that it was meant for: {name} is as it was"));
            }
            counted.times += times;
            counted.by.extend(new.into_iter().filter(|(_, count)| *count > 0).map(|(node, _)| node));
        }
        let is_victim = |node: &String| victims.iter().any(|victim| victim.as_str() == node);
        if attack.is_told_to_all() {
            let deaf = all.iter().filter(|node| !counted.by.contains(*node) && !is_victim(node));
            counted.missing.extend(deaf.map(|node| format!("{node} was not told, or did not count it")));
        }
        counted
    }
}

fn table(outcomes: &[Outcome]) -> Table {
    let mut table = Table::new();
    table.set_header([
        "attack",
        "certificate",
        "tries",
        "turned away",
        "by nodes",
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
            outcome.counted_by.to_string(),
            outcome.reached.to_string(),
            outcome.beats_missed.to_string(),
            outcome.words_late.to_string(),
            outcome.grown_mb.to_string(),
            if outcome.held { "held" } else { "FAIL" }.to_owned(),
        ]);
    }
    for column in table.column_iter_mut().skip(2).take(7) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
