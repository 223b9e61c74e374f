//! `edge-node --config edge.toml`: load, build, run, drain.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use edge_node::{
    assignments::Assignments,
    config::{Config, ENV_PREFIX},
};
use mesh::{
    config::{Source, sections::node_settings},
    health,
    identity::Role,
    node::Node,
    telemetry,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

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
    /// Only checks the configuration and the certificate.
    #[arg(long)]
    check: bool,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let source = Source::read(cli.config.as_deref(), ENV_PREFIX, &cli.sets)?;
    let config: Config = source.parse()?;
    config.check(&source)?;
    let Config { node, mesh, tls, .. } = &config;
    let settings = node_settings(&source, Role::Edge, node, mesh, tls, env!("CARGO_PKG_VERSION"))?;
    if cli.check {
        return Ok(());
    }
    // The process default, for HTTPS in connectors; the mesh names its provider itself.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(config, settings))
}

async fn run(config: Config, settings: mesh::node::Settings) -> Result<()> {
    let metrics = telemetry::init(&config.log)?;
    let (node, inbound) = Node::start(settings).await?;
    let stop = CancellationToken::new();
    let assignments = Assignments::new(node.clone(), config.serving());
    let members = node.members();
    let ready = move || !members.borrow().is_empty();
    health::serve(config.http.listen, health::router(metrics, ready)).await.context("http.listen")?;
    let serving = tokio::spawn(assignments.serve(inbound, stop.clone()));
    info!(node = %config.node.id, region = %config.node.region, mesh = %config.mesh.listen, "edge up");

    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    stop.cancel();
    serving.await.context("the serving task broke")?;
    node.shutdown().await;
    info!("edge down");
    Ok(())
}
