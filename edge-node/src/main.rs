//! `edge-node --config edge.toml`: load, build, run, drain.
#![warn(clippy::print_stderr)]

use std::{os::fd::AsFd, process::ExitCode};

use anyhow::{Context, Result};
use clap::Parser;
use edge_node::{
    assignments::{self, Assignments},
    config::{Config, Isolation},
    isolate::{self, child},
    measures::METRICS,
};
use mesh::{
    health, http,
    node::Node,
    program::{self, Loaded, Options},
    signals::Stop,
    tasks::Tasks,
    telemetry,
};
use tokio::{net::unix::pipe, runtime::Builder};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Packets are allocated on one thread and freed on another, for which this takes a tenth less time than glibc's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Joins meetings near their relay and sends their speech to a core. edge.example.toml explains its configuration.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    options: Options,
    /// `process`: each meeting's relay connection and media path run in a process of their own; as `isolation.mode`.
    #[arg(long, value_name = "MODE", value_parser = ["task", "process"])]
    isolate: Option<String>,
    /// Serves one meeting for the process that started this one.
    #[arg(long, hide = true)]
    meeting_process: bool,
}

fn main() -> ExitCode {
    let Cli { mut options, isolate, meeting_process } = Cli::parse();
    options.sets.extend(isolate.map(|mode| format!("isolation.mode={mode}")));
    program::exit(if meeting_process { serve_parent(&options) } else { program::start(&options, run) })
}

/// A meeting's own process; see [`edge_node::isolate`].
fn serve_parent(options: &Options) -> Result<()> {
    let runtime = program::runtime(Builder::new_current_thread())?;
    let config: Config = program::values(&options.source::<Config>()?)?;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let assignments::Settings { meeting, connect, .. } = config.serving();
    runtime.block_on(async {
        let (_metrics, _last_lines) = telemetry::init(&config.log, METRICS, &Tasks::default())?;
        let input = pipe::Receiver::from_owned_fd(std::io::stdin().as_fd().try_clone_to_owned()?)?;
        let output = pipe::Sender::from_owned_fd(std::io::stdout().as_fd().try_clone_to_owned()?)?;
        let ended = child::run(input, output, (meeting, connect).into()).await;
        ended.context("a meeting's process, which edge-node starts by itself")
    })
}

async fn run(loaded: Loaded<Config>) -> Result<()> {
    let Loaded { config, node: settings, limits, .. } = loaded;
    let tasks = settings.tasks.clone();
    let (metrics, _last_lines) = telemetry::init(&config.log, METRICS, &tasks)?;
    let (node, inbound) = Node::start(settings).await?;
    let stop = CancellationToken::new();
    let mut serving = config.serving();
    if config.isolation.mode == Isolation::Process {
        let memory = config.isolation.process_megabytes << 20;
        let isolate = isolate::Settings::of_this_program(memory);
        serving.isolate = Some(isolate.context("isolation.mode")?);
    }
    let assignments = Assignments::new(node.clone(), serving);
    let members = node.members();
    let unready = move || members.borrow().is_empty().then_some("no other node is known");
    let health = health::router(metrics, tasks.clone(), unready);
    http::serve(config.http.listen, health, limits, &tasks).await.context("http.listen")?;
    let serving = tasks.need("meetings", assignments.serve(inbound, stop.clone()));
    info!(node = %config.node.id, region = %config.node.region, mesh = %config.mesh.listen, "edge up");

    let mut asked = Stop::listen()?;
    let failed = tokio::select! {
        () = asked.asked() => None,
        reason = tasks.failed() => Some(reason),
    };
    match failed {
        // Another edge takes the meetings, as after a crash.
        Some(_) => serving.abort(),
        None => {
            stop.cancel();
            serving.await.context("the serving task was stopped")?;
        }
    }
    node.shutdown().await;
    info!("edge down");
    failed.map_or(Ok(()), |reason| Err(anyhow::anyhow!(reason)))
}
