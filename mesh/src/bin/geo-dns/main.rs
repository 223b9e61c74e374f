//! `geo-dns --config dns.toml`: joins the mesh and answers DNS from what gossip says.
#![warn(clippy::print_stderr)]

mod config;
mod directory;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::{Context, Result};
use clap::Parser;
use geo::server::Server;
use mesh::{
    config::{Source, sections::node_settings},
    health, http,
    identity::Role,
    node::{Inbound, Node, Settings},
    signals, telemetry,
    wire::request::Response,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Mutex, mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::{
    config::{Config, ENV_PREFIX},
    directory::Known,
};

/// Joins the mesh and answers DNS from what gossip says.
#[derive(Debug, Parser)]
#[command(name = "geo-dns", version)]
struct Cli {
    /// The configuration file; see dns.example.toml.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Overrides one setting: KEY=VALUE, such as dns.listen=0.0.0.0:53. May be given many times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Only checks the configuration, the certificate, and what would be opened.
    #[arg(long)]
    check: bool,
    /// At SIGUSR1 every task that is started again when it breaks does so, one a second: a drill.
    #[arg(long, hide = true)]
    drill: bool,
}

fn main() -> ExitCode {
    telemetry::exit(start(Cli::parse()))
}

fn start(cli: Cli) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    signals::heed_hangup(&runtime)?;
    let source = Source::read(cli.config.as_deref(), ENV_PREFIX, &cli.sets)?;
    let config: Config = source.parse()?;
    let dns = config.dns_settings(&source)?;
    let Config { node, mesh, tls, .. } = &config;
    let settings = node_settings(&source, Role::Dns, node, mesh, tls, env!("CARGO_PKG_VERSION"))?;
    let limits = config.http.limits(&source)?;
    for stray in source.strays::<Config>() {
        telemetry::warn_early(&stray.to_string());
    }
    if cli.check {
        return Ok(config.try_all(&source)?);
    }
    runtime.block_on(async {
        if cli.drill {
            settings.tasks.drill();
        }
        run(&config, dns, settings, limits).await
    })
}

async fn run(config: &Config, mut dns: geo::server::Settings, settings: Settings, limits: http::Limits) -> Result<()> {
    let (tasks, seeds) = (settings.tasks.clone(), settings.seeds.names_any());
    let (metrics, _last_lines) = telemetry::init(&config.log, config::METRICS, &tasks)?;
    let fit = (http::descriptors() / 8).max(1);
    if fit < dns.tcp_connections {
        warn!(connections = fit, "fewer DNS connections over TCP than configured: the process may open too few files");
        dns.tcp_connections = fit;
    }
    let (node, inbound) = Node::start(settings).await?;
    let inbound = Arc::new(Mutex::new(inbound));
    tasks.keep("inbound", move || decline(inbound.clone()));

    let known = Known::new(seeds, dns.zone.name_servers.len(), Instant::now());
    let (directory_in, directory) = watch::channel(Arc::new(known.directory(directory::own(&node), Instant::now())));
    let (followed, known) = (node.clone(), Arc::new(Mutex::new(known)));
    tasks.keep("directory", move || directory::follow(followed.clone(), known.clone(), directory_in.clone()));
    let told = directory.clone();
    let unready = move || told.borrow().cut_off.then_some(directory::CUT_OFF);
    let server = Server::bind(dns, directory).await.context("dns.listen")?;
    let dns_addr: SocketAddr = server.local_addr();
    http::serve(config.http.listen, health::router(metrics, tasks.clone(), unready), limits, &tasks)
        .await
        .context("http.listen")?;
    info!(node = %config.node.id, mesh = %node.address(), dns = %dns_addr, "geo-dns up");

    let stop = CancellationToken::new();
    let serving = tasks.need("dns", serve(server, stop.clone()));
    let failed = tokio::select! {
        signal = wait_for_signal() => signal.map(|()| None)?,
        reason = tasks.failed() => Some(reason),
    };
    node.publish(|report| report.draining = true);
    stop.cancel();
    serving.await.context("the DNS task was stopped")?;
    node.shutdown().await;
    info!("geo-dns down");
    failed.map_or(Ok(()), |reason| Err(anyhow::anyhow!(reason)))
}

async fn serve(server: Server, stop: CancellationToken) -> Result<(), String> {
    server.run(stop.clone().cancelled_owned()).await.map_err(|e| e.to_string())?;
    if stop.is_cancelled() { Ok(()) } else { Err("the DNS sockets have closed".into()) }
}

async fn wait_for_signal() -> Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}

/// No peer has anything to ask of a DNS server over the mesh; who does is told so.
async fn decline(inbound: Arc<Mutex<mpsc::Receiver<Inbound>>>) {
    let mut inbound = inbound.lock().await;
    while let Some(inbound) = inbound.recv().await {
        if let Inbound::Request { reply, .. } = inbound {
            // The asker may be gone.
            let _ = reply.send(Response::Refused { reason: "this node serves DNS only".into() }).await;
        }
    }
}
