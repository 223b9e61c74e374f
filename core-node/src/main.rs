//! `core-node --config core.toml`: load, build, run, drain.

#![warn(clippy::print_stderr)]
#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use core_node::{
    SOFTWARE,
    api::{self, App, streams::Streams},
    authority::{Claims, nats::Nats},
    config::{Chosen, Config},
    edges::Acceptor,
    measures::METRICS,
    meetings::Meetings,
    placement::Placer,
    store::{Opening, Store, backup, log::Log},
    transcribe::{Transcriber, openai::OpenAi, pool::Pool, sherpa::Sherpa, whisper::Whisper},
};
use geo::latency::LatencyModel;
use mesh::{
    http,
    node::Node,
    program::{self, Loaded, Options},
    signals::Stop,
    tasks::{Broken, blocking},
    telemetry,
};
use tokio::sync::Mutex;
use tracing::info;

/// As at the edge: what is allocated on one thread is freed on another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Makes words of the speech that edges send, and serves the API. core.example.toml explains its configuration.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    options: Options,
    /// Gives the disk back what removed meetings have left free in the store, and ends. Not while the core runs.
    #[arg(long)]
    compact: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Writes all that the store holds to FILE, as of one moment, whether or not the core runs. It holds words and secrets.
    Backup {
        /// A new file.
        file: PathBuf,
    },
    /// Puts a backup in the store's place, and sets what is there aside. Not while the core runs.
    Restore {
        /// What `backup` has written.
        file: PathBuf,
    },
    /// Keeps what can be read of a store that the core refuses as damaged, and sets the damaged file aside. Not while the core runs.
    Repair,
}

/// How often the node says how busy it is, if that has changed.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Spurts waiting for one worker that count as full stress: about half a minute of work.
const FULL_BACKLOG: usize = 16;

fn main() -> ExitCode {
    let cli = Cli::parse();
    program::exit(program::start(&cli.options, |loaded| work(&cli, loaded)))
}

async fn work(cli: &Cli, loaded: Loaded<Config>) -> Result<()> {
    match &cli.command {
        Some(command) => keep(command, &loaded.config),
        None if cli.compact => compact(&loaded.config),
        None => run(loaded).await,
    }
}

async fn run(loaded: Loaded<Config>) -> Result<()> {
    let Loaded { config, parts: map, node: settings, limits } = loaded;
    let mut stop = Stop::listen()?;
    let tasks = settings.tasks.clone();
    let (metrics, _last_lines) = telemetry::init(&config.log, METRICS, &tasks)?;
    let pool = Pool::new(engine(&config)?, config.transcribe.workers, config.transcribe.queue);
    let (path, opening) = (config.store_file(), config.opening());
    let opened = blocking("store", move || Store::open_as(&path, opening));
    let store = tokio::select! {
        opened = opened => {
            let store = opened.map_err(Broken::from)??;
            store.belong_to(&config.node.id)?;
            Arc::new(store)
        }
        // It may be waiting for another process.
        () = stop.asked() => std::process::exit(0),
    };
    let log = Log::start(store.clone())?;
    let (node, inbound) = Node::start(settings).await?;
    let mesh = Arc::new(node.clone());
    let placer = Placer::new(mesh.clone(), LatencyModel::new(map));
    let claims = claims(&config, &store).await?;
    let meetings = Meetings::new(config.meetings(), store.clone(), log.clone(), pool, placer, claims)?;
    // Before any edge is let in: one that finds its core silent turns to the standby, which knows better than an older copy.
    let consulted = tokio::select! {
        consulted = meetings.consult() => Some(consulted?),
        () = stop.asked() => None,
    };
    if consulted.is_none() {
        node.shutdown().await;
        return Ok(());
    }
    meetings.resume(&tasks)?;
    let acceptor = Acceptor::new(meetings.clone(), SOFTWARE, config.link_caps());
    let (inbound, accepting) = (Arc::new(Mutex::new(inbound)), acceptor.clone());
    tasks.keep("acceptor", move || accepting.clone().run(inbound.clone()));
    let reporting = node.clone();
    let app = App {
        meetings: meetings.clone(),
        mesh,
        report: Arc::new(move || reporting.report()),
        metrics: Arc::new(move || metrics.render()),
        tasks: tasks.clone(),
        token: config.api.token.clone(),
        streams: Streams::new(limits),
        zoom: config.hooks.zoom(),
    };
    let api = http::serve(config.http.listen, api::router(app), limits, &tasks).await.context("http.listen")?;
    let told = (node.clone(), meetings.clone(), config.clone(), config.api_address(api));
    tasks.keep("report", move || {
        let (node, meetings, config, api) = told.clone();
        report(node, meetings, config, api)
    });
    info!(node = %config.node.id, region = %config.node.region, mesh = %config.mesh.listen, %api, "core up");

    let failed = tokio::select! {
        () = stop.asked() => None,
        reason = log.failed() => Some(format!("the store failed: {reason}")),
        reason = tasks.failed() => Some(reason),
    };
    meetings.drain();
    node.publish(|report| report.draining = true);
    acceptor.drain().await;
    let patience = if failed.is_some() { 0 } else { config.limits.drain_seconds };
    meetings.finish(Instant::now() + Duration::from_secs(patience)).await;
    node.shutdown().await;
    if failed.is_none() {
        // So that the next start is a quick one; without it that is as after a crash.
        let _ = blocking("store", move || store.settle()).await;
    }
    info!("core down");
    failed.map_or(Ok(()), |reason| Err(anyhow::anyhow!(reason)))
}

/// Copies the store, or puts a copy in its place.
#[allow(clippy::print_stdout, reason = "a command for people")]
fn keep(command: &Command, config: &Config) -> Result<()> {
    let told = match command {
        Command::Backup { file } => backup::backup(&config.kept(), file)?,
        Command::Restore { file } => backup::restore(&config.kept(), file)?,
        Command::Repair => {
            // Of damaged pages the database says in its own way that it cannot read them.
            std::panic::set_hook(Box::new(|_| {}));
            backup::repair(&config.kept())?
        }
    };
    println!("{told}");
    Ok(())
}

#[allow(clippy::print_stdout, reason = "a command for people")]
fn compact(config: &Config) -> Result<()> {
    let path = config.store_file();
    let (before, after) = Store::compact(&path, Opening { lock_wait: Duration::ZERO, ..config.opening() })?;
    println!("{}: {before} bytes before, {after} after", path.display());
    Ok(())
}

fn engine(config: &Config) -> Result<Arc<dyn Transcriber>> {
    Ok(match config.transcribe.chosen().context("transcribe.engine has no settings")? {
        Chosen::Whisper(settings) => Arc::new(Whisper::load(&settings).context("transcribe.model")?),
        Chosen::Sherpa(settings) => Arc::new(Sherpa::load(&settings).context("transcribe.sherpa")?),
        Chosen::OpenAi(settings) => Arc::new(OpenAi::new(settings).context("transcribe.openai")?),
    })
}

async fn claims(config: &Config, store: &Arc<Store>) -> Result<Claims> {
    Ok(match config.nats() {
        Some(settings) => Claims::new(Arc::new(Nats::connect(settings).await?), config.authority.timeout()),
        None => Claims::embedded(store.clone()),
    })
}

/// Tells the mesh how busy this core is.
async fn report(node: Node, meetings: Arc<Meetings>, config: Config, api: String) {
    let capacity = config.limits.meetings;
    let mut ticks = tokio::time::interval(REPORT_EVERY);
    loop {
        ticks.tick().await;
        let live = meetings.live_count();
        let behind = meetings.undone() * 1000 / (FULL_BACKLOG * config.transcribe.workers);
        let stress = (live * 1000 / capacity).max(behind).min(1000);
        metrics::gauge!("nearfield_core_stress_ratio").set(stress as f64 / 1e3);
        node.publish(|report| {
            report.stress_permille = stress as u16;
            report.meetings = live as u32;
            // What takes nothing more says so: it is then no standby either.
            report.capacity = if meetings.store_shortage().is_some() { 0 } else { capacity as u32 };
            report.draining = meetings.draining();
            report.api = Some(api.clone());
        });
    }
}
