//! `geo-dns --config dns.toml`: joins the mesh and answers DNS from what gossip says.
#![warn(clippy::print_stderr)]

mod directory;

use std::{net::SocketAddr, process::ExitCode, sync::Arc};

use anyhow::{Context, Result};
use clap::Parser;
use geo::server::Server;
use mesh::{
    geo_dns::{Config, METRICS},
    health, http,
    node::{Inbound, Node},
    program::{self, Loaded, Options},
    signals::Stop,
    telemetry,
    wire::request::Response,
};
use tokio::{
    sync::{Mutex, mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::directory::Known;

/// Joins the mesh and answers DNS from what gossip says. dns.example.toml explains its configuration.
#[derive(Debug, Parser)]
#[command(name = "geo-dns", version)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    program::exit(program::start(&Cli::parse().options, run))
}

async fn run(loaded: Loaded<Config>) -> Result<()> {
    let Loaded { config, parts: mut dns, node: settings, limits } = loaded;
    let (tasks, seeds) = (settings.tasks.clone(), settings.seeds.names_any());
    let (metrics, _last_lines) = telemetry::init(&config.log, METRICS, &tasks)?;
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

    let (stop, mut asked) = (CancellationToken::new(), Stop::listen()?);
    let serving = tasks.need("dns", serve(server, stop.clone()));
    let failed = tokio::select! {
        () = asked.asked() => None,
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
