//! `edge-node --config edge.toml`: load, build, run, drain.
#![warn(clippy::print_stderr)]

use std::{os::fd::AsFd, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::Parser;
use edge_node::{
    assignments::{self, Assignments},
    config::{Config, ENV_PREFIX, Isolation},
    isolate::{self, child},
    measures::METRICS,
};
use mesh::{
    config::{Source, sections::node_settings},
    health, http,
    identity::Role,
    node::Node,
    signals,
    tasks::Tasks,
    telemetry,
};
use tokio::{
    net::unix::pipe,
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Packets are allocated on one thread and freed on another, for which this takes a tenth less time than glibc's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Joins meetings near their relay and sends their speech to a core.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// The configuration file; see edge.example.toml.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Overrides one setting: KEY=VALUE, such as capacity.meetings=50. May be given many times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Only checks the configuration, the certificate, and what would be opened.
    #[arg(long)]
    check: bool,
    /// `process`: each meeting's relay connection and media path run in a process of their own; as `isolation.mode`.
    #[arg(long, value_name = "MODE", value_parser = ["task", "process"])]
    isolate: Option<String>,
    /// At SIGUSR1 every task that is started again when it breaks does so, one a second: a drill.
    #[arg(long, hide = true)]
    drill: bool,
    /// Serves one meeting for the process that started this one.
    #[arg(long, hide = true)]
    meeting_process: bool,
}

fn main() -> ExitCode {
    telemetry::exit(start(Cli::parse()))
}

fn start(cli: Cli) -> Result<()> {
    let runtime = match cli.meeting_process {
        true => tokio::runtime::Builder::new_current_thread().enable_all().build()?,
        false => tokio::runtime::Builder::new_multi_thread().enable_all().build()?,
    };
    signals::heed_hangup(&runtime)?;
    let isolate = cli.isolate.iter().map(|mode| format!("isolation.mode={mode}"));
    let sets: Vec<String> = cli.sets.iter().cloned().chain(isolate).collect();
    let source = Source::read(cli.config.as_deref(), ENV_PREFIX, &sets)?;
    let config: Config = source.parse()?;
    config.check(&source)?;
    if cli.meeting_process {
        return serve_parent(&runtime, config);
    }
    let Config { node, mesh, tls, .. } = &config;
    let settings = node_settings(&source, Role::Edge, node, mesh, tls, env!("CARGO_PKG_VERSION"))?;
    let limits = config.http.limits(&source)?;
    for stray in source.strays::<Config>() {
        telemetry::warn_early(&stray.to_string());
    }
    if cli.check {
        return Ok(config.try_all(&source)?);
    }
    // The process default, for HTTPS in connectors; the mesh names its provider itself.
    let _ = rustls::crypto::ring::default_provider().install_default();
    runtime.block_on(async {
        if cli.drill {
            settings.tasks.drill();
        }
        run(config, settings, limits).await
    })
}

/// A meeting's own process; see [`edge_node::isolate`].
fn serve_parent(runtime: &Runtime, config: Config) -> Result<()> {
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

async fn run(config: Config, settings: mesh::node::Settings, limits: http::Limits) -> Result<()> {
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

    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let failed = tokio::select! {
        _ = term.recv() => None,
        _ = int.recv() => None,
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
