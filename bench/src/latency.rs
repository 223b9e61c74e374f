//! `bench latency`: how far everything is from here, and where a meeting's words spend their time.
#![allow(clippy::disallowed_methods, reason = "a shell: it measures by the wall clock")]

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use comfy_table::Table;
use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolverConfig, ResolverOpts},
    net::runtime::TokioRuntimeProvider,
    proto::rr::RecordType,
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    client::{Api, Client},
    demo::{judge::STAGES, watch::Segment},
    report::{Budget, Durations, Percentiles, Stage},
};

/// Deadline of one probe.
const PROBE: Duration = Duration::from_secs(3);

/// Options of `bench latency`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// A core's API: `host:port`, or its URL.
    #[arg(long)]
    pub api: Api,
    /// Its bearer token, if it wants one.
    #[arg(long, env = "NEARFIELD_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// A geo-dns server, to be timed too.
    #[arg(long, requires = "domain")]
    pub dns: Option<SocketAddr>,
    /// Its zone.
    #[arg(long)]
    pub domain: Option<String>,
    /// A meeting, for the stages of its words.
    #[arg(long)]
    pub meeting: Option<String>,
    /// Probes of each kind, 1 to 1000.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub samples: u32,
    /// Writes the figures there as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// What was measured; milliseconds throughout.
#[derive(Debug, Default, Serialize)]
pub struct Latency {
    /// Asking geo-dns for the nearest edges.
    pub dns_ms: Option<Percentiles>,
    /// TCP connect to the core's API.
    pub api_connect_ms: Option<Percentiles>,
    /// Each node as the core sees it: id, region, QUIC round trip.
    pub nodes: Vec<(String, String, Option<f64>)>,
    /// From the request for the meeting to its first captured frame.
    pub join_ms: Option<f64>,
    /// Between consecutive stages of the meeting's final segments.
    pub stages_ms: Vec<Stage>,
}

/// Runs the subcommand.
///
/// # Errors
/// The core does not answer, or the meeting is not known to it.
pub async fn run(args: Args) -> Result<()> {
    let client = Client::with_token(&args.api, args.token.as_deref())?;
    let mut found = Latency { api_connect_ms: connects(&args.api, args.samples).await?, ..Latency::default() };
    if let (Some(server), Some(domain)) = (args.dns, &args.domain) {
        found.dns_ms = questions(server, domain, args.samples).await?;
    }
    found.nodes = nodes(&client.get("/v1/nodes").await?);
    if let Some(id) = &args.meeting {
        let meeting = client.get(&format!("/v1/meetings/{id}")).await?;
        found.join_ms = between(&meeting["created_at"], &meeting["first_frame_at"]);
        let transcript = client.get(&format!("/v1/meetings/{id}/transcript?format=json")).await?;
        let segments: Vec<Segment> = serde_json::from_value(transcript["segments"].clone()).context("no transcript")?;
        found.stages_ms = stages(&segments);
    }
    println!("{}", table(&found));
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_vec_pretty(&found)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

async fn connects(to: &Api, samples: u32) -> Result<Option<Percentiles>> {
    let (host, port) = to.host_and_port();
    // Looked up once: what is timed is the connection.
    let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), port))
        .await
        .with_context(|| format!("no address of {host}"))?
        .collect();
    let mut times = Durations::default();
    for _ in 0..samples {
        let begun = Instant::now();
        if let Ok(Ok(_)) = tokio::time::timeout(PROBE, tokio::net::TcpStream::connect(&found[..])).await {
            times.record(begun.elapsed());
        }
    }
    Ok(answered(&times))
}

/// `None` if no probe was answered.
fn answered(times: &Durations) -> Option<Percentiles> {
    Some(times.percentiles()).filter(|p| p.count > 0)
}

async fn questions(server: SocketAddr, domain: &str, samples: u32) -> Result<Option<Percentiles>> {
    let mut name_server = NameServerConfig::udp_and_tcp(server.ip());
    name_server.connections.iter_mut().for_each(|connection| connection.port = server.port());
    let mut options = ResolverOpts::default();
    options.cache_size = 0;
    let config = ResolverConfig::from_parts(None, vec![], vec![name_server]);
    let resolver =
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options).build()?;
    let mut times = Durations::default();
    for _ in 0..samples {
        let begun = Instant::now();
        if let Ok(Ok(_)) = tokio::time::timeout(PROBE, resolver.lookup(format!("edge.{domain}."), RecordType::A)).await
        {
            times.record(begun.elapsed());
        }
    }
    Ok(answered(&times))
}

fn nodes(list: &Value) -> Vec<(String, String, Option<f64>)> {
    let text = |node: &Value, key: &str| node[key].as_str().unwrap_or_default().to_owned();
    let node = |node: &Value| (text(node, "id"), text(node, "region"), node["rtt_ms"].as_f64());
    list["nodes"].as_array().into_iter().flatten().map(node).collect()
}

fn between(from: &Value, to: &Value) -> Option<f64> {
    let stamp = |value: &Value| value.as_str()?.parse::<jiff::Timestamp>().ok();
    (stamp(to)? - stamp(from)?).total(jiff::Unit::Millisecond).ok()
}

fn stages(segments: &[Segment]) -> Vec<Stage> {
    // The last stage, delivery, is the reader's own.
    let mut budget = Budget::new(&STAGES[..7]);
    for t in segments.iter().map(|segment| &segment.timing) {
        budget.record(&[t.captured, t.decoded, t.vad, t.sent, t.received, t.durable, t.words]);
    }
    budget.stages()
}

fn table(found: &Latency) -> Table {
    let mut table = Table::new();
    table.set_header(["from here", "p50 ms", "p95 ms", "p99 ms"]);
    let mut row = |name: String, q: &Percentiles| {
        table.add_row([name, format!("{:.1}", q.p50), format!("{:.1}", q.p95), format!("{:.1}", q.p99)]);
    };
    if let Some(q) = &found.dns_ms {
        row("DNS: nearest edges".into(), q);
    }
    if let Some(q) = &found.api_connect_ms {
        row("core API: TCP connect".into(), q);
    }
    for stage in &found.stages_ms {
        row(format!("words: {}", stage.name), &stage.ms);
    }
    for (id, region, rtt) in &found.nodes {
        let rtt = rtt.map_or("-".into(), |ms| format!("{ms:.1}"));
        table.add_row([format!("core to {id} ({region})"), rtt, String::new(), String::new()]);
    }
    if let Some(ms) = found.join_ms {
        table.add_row(["request to first speech frame".into(), format!("{ms:.0}"), String::new(), String::new()]);
    }
    table
}
