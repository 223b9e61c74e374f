//! `bench soak`: thousands of short meetings on a small mesh, and what grows.
//!
//! *Follow one meeting:* a user asks one of two cores for it (`meeting`), hears a few seconds of a relay's endless talk, ends
//! it and counts its words. Beside it `gauges` reads each node's memory, files, threads and tables, by name; `report` lays
//! the end beside the beginning.
#![allow(clippy::disallowed_methods, reason = "a shell: it measures by the wall clock")]

mod gauges;
mod meeting;
mod report;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use geo::RegionId;
use mesh::identity::Role;
use tokio::task::JoinSet;

use self::{
    gauges::Gauges,
    meeting::{Ended, Talk},
    report::Soak,
};
use crate::{
    bed::{Bed, Manner as NodeManner, Plan, Running},
    demo::stage,
    relay,
    speech::{self, Manner, Prompt, Script},
    world::{Host, World},
};

/// Where everything is: distances are not what is measured.
const REGION: &str = "eu-central";
/// How long one relay talks before the next one takes its place, at least.
const TALK: Duration = Duration::from_secs(300);
/// No more relays than this, one after the other: each has an address of its own.
const MAX_RELAYS: u8 = 200;
/// A meeting begins this long before a talk ends, beside the time that it is heard.
const LAST: Duration = Duration::from_secs(10);
/// Meetings that each core may have at once: few, so that what is never given back is missed soon.
const PER_CORE: usize = 12;
/// Each core's cache of its store, in bytes: small, so that it is full soon and what grows is something else.
const CACHE: usize = 8 << 20;
/// From the first meeting until tables and memory are taken for warm, as a share of the whole.
const WARM: f64 = 0.2;
/// After the last meeting, for what is kept a while after a meeting.
const COOL: Duration = Duration::from_secs(12);
/// Voices of the talk.
const VOICES: usize = 3;

/// Options of `bench soak`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How long meetings are begun, up to 1440.
    #[arg(long, default_value_t = 10.0, value_parser = minutes)]
    pub minutes: f64,
    /// Meetings at once, 1 to 20.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=20))]
    pub at_once: u64,
    /// Seconds that each is heard, 3 to 60.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(3..=60))]
    pub seconds: u64,
    /// The model of the cores: a ggml file is Whisper's, a folder is Moonshine's.
    #[arg(long, env = "NEARFIELD_MODEL", default_value = ".cache/models/ggml-tiny.en-q8_0.bin")]
    pub model: PathBuf,
    /// Folder of recorded prompts (*.g722) and core-sounds-en.txt.
    #[arg(long, env = "NEARFIELD_SPEECH", default_value = ".cache/speech/en")]
    pub speech: PathBuf,
    /// Writes the figures there as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Allows so many times the time: for a machine that is slow, or busy with other things.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub patience: u32,
    /// Keeps configuration, stores and logs there.
    #[arg(long)]
    pub keep_logs: Option<PathBuf>,
    /// Decides who says what when.
    #[arg(long, default_value_t = 16)]
    pub seed: u64,
}

fn minutes(text: &str) -> Result<f64, String> {
    let minutes: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.1..=1440.0).contains(&minutes) { Ok(minutes) } else { Err("must be 0.1 to 1440".into()) }
}

/// The world it takes place in. Call it before any thread is started.
///
/// # Errors
/// Namespaces are not allowed here.
pub fn enter(args: &Args) -> Result<World> {
    World::enter(args.seed).context("a soak needs network namespaces: user namespaces, or root")
}

/// Runs the subcommand.
///
/// # Errors
/// The mesh does not come up, or a table or the memory of a node has grown, or a meeting was not as it should be.
pub async fn run(world: World, args: Args) -> Result<()> {
    let result = tokio::select! {
        result = soak(&world, &args) => result,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    world.kill_processes();
    let soak = result?;
    println!("{soak}");
    if let Some(path) = &args.json {
        let json = serde_json::to_vec_pretty(&soak)?;
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let faults = soak.faults();
    anyhow::ensure!(faults.is_empty(), "not as it should be:\n  {}", faults.join("\n  "));
    Ok(())
}

/// A soak under way.
struct Run<'a> {
    world: &'a World,
    args: &'a Args,
    region: RegionId,
    dir: &'a Path,
    prompts: Vec<Prompt>,
    bed: &'a Bed,
    user: Host,
    begun: Instant,
    /// How long meetings are begun.
    whole: Duration,
}

/// What it has come to so far.
#[derive(Default)]
struct Tally {
    begun: usize,
    ended: Vec<Ended>,
    warm: Option<Gauges>,
}

async fn soak(world: &World, args: &Args) -> Result<Soak> {
    let temporary = tempfile::tempdir()?;
    let dir = args.keep_logs.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let dir = dir.canonicalize()?;
    let region: RegionId = REGION.parse()?;
    let prompts = speech::load(&args.speech)?;
    let mut bed = Bed::raise(world, plan(args, &region, &dir)?).await?;
    let user = world.host("user", &region, Ipv4Addr::new(10, 77, 3, 1))?;
    let (begun, whole) = (Instant::now(), Duration::from_secs_f64(args.minutes * 60.0));
    let run = Run { world, args, region, dir: &dir, prompts, bed: &bed, user, begun, whole };
    let mut tally = Tally::default();
    for round in 0.. {
        if begun.elapsed() >= whole {
            break;
        }
        let talk = run.talk(round).await?;
        run.hold(Arc::new(talk), &mut tally).await?;
    }
    tokio::time::sleep(COOL.min(whole / 4)).await;
    let last = Gauges::of_all(&run.user, &bed).await?;
    let unclean = bed.stop().await;
    let warm = tally.warm.unwrap_or_else(|| last.clone());
    Ok(Soak::of(begun.elapsed(), &tally.ended, warm, last, unclean))
}

impl Run<'_> {
    /// How long one relay talks.
    fn length(&self) -> Duration {
        TALK.max(self.whole / u32::from(MAX_RELAYS))
    }

    /// A relay that talks from now on. The one before it has gone.
    async fn talk(&self, round: u8) -> Result<Talk> {
        let seed = self.args.seed + u64::from(round);
        let script = Script::generate(seed, VOICES, self.length(), &self.prompts, &Manner::default());
        let edges: Vec<&Running> = self.bed.nodes.iter().filter(|n| n.identity.role == Role::Edge).collect();
        let spoken = relay_plan(&script, self.dir)?;
        let place = (&self.region, round + 1);
        let (relay, _) = stage::open_relay(self.world, place, &spoken, &edges, self.dir).await?;
        Talk::begin(&self.user, relay, script).await
    }

    /// Holds meetings until the talk, or the soak, is over.
    async fn hold(&self, talk: Arc<Talk>, tally: &mut Tally) -> Result<()> {
        let cores: Vec<_> = self.bed.nodes.iter().filter(|n| n.identity.role == Role::Core).map(|n| n.api).collect();
        let seconds = Duration::from_secs(self.args.seconds);
        let manner = meeting::Manner { seconds, patience: self.args.patience };
        let until = Instant::now() + self.length().saturating_sub(seconds + LAST);
        let mut under_way = JoinSet::new();
        while Instant::now() < until && self.begun.elapsed() < self.whole {
            while under_way.len() < self.args.at_once as usize {
                let core = cores[tally.begun % cores.len()];
                under_way.spawn(meeting::attend(self.user.clone(), core, talk.clone(), manner));
                tally.begun += 1;
            }
            tally.ended.extend(under_way.join_next().await.transpose()?);
            if tally.warm.is_none() && self.begun.elapsed() >= self.whole.mul_f64(WARM) {
                tally.warm = Some(Gauges::of_all(&self.user, self.bed).await?);
            }
            if tally.ended.len().is_multiple_of(100) {
                println!("[{:6.0} s] {} meetings", self.begun.elapsed().as_secs_f64(), tally.ended.len());
            }
        }
        tally.ended.extend(under_way.join_all().await);
        Ok(())
    }
}

fn plan(args: &Args, region: &RegionId, dir: &Path) -> Result<Plan> {
    let no_model = || format!("{}: no such model; ./dev model fetches it", args.model.display());
    let sets = vec![format!("limits.meetings={PER_CORE}"), format!("store.cache_bytes={CACHE}")];
    let few = NodeManner { sets, ..NodeManner::default() };
    let cores = (1..=2).map(|n| (format!("core-{region}-{n}"), few.clone()));
    Ok(Plan {
        regions: vec![(region.clone(), 2, 2)],
        binaries: std::env::current_exe()?.parent().context("no folder of binaries")?.to_owned(),
        model: args.model.canonicalize().with_context(no_model)?,
        dir: dir.to_owned(),
        log: "warn".into(),
        workers: 2,
        manners: cores.collect::<BTreeMap<_, _>>(),
    })
}

fn relay_plan(script: &Script, dir: &Path) -> Result<relay::Plan> {
    let participants = (0..script.participants).map(|n| {
        let pcm = dir.join(format!("voice-{n}.pcm"));
        relay::write_pcm(&pcm, &script.track(n)).with_context(|| format!("cannot write {}", pcm.display()))?;
        Ok(relay::Participant { id: format!("p{n}"), name: format!("Speaker {n}"), pcm })
    });
    Ok(relay::Plan {
        listen: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 7000),
        meeting: "soak".into(),
        reply: relay::Reply::Offer,
        start: relay::Start::Trigger,
        settle_ms: 0,
        bitrate: 32_000,
        dtx: false,
        janus: None,
        participants: participants.collect::<Result<_>>()?,
    })
}

/// The meetings of which something was not as it should be, by what.
fn count(ended: &[Ended], wrong: impl Fn(&Ended) -> bool) -> usize {
    ended.iter().filter(|one| wrong(one)).count()
}
