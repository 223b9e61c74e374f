//! Logs and metrics, set up once at a program's start.

mod lines;
#[doc(hidden)]
pub mod lint;
pub mod metric;
pub mod ours;

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, filter::ParseError, util::TryInitError};

pub use self::lines::LastLines;
use self::metric::Metric;
use crate::{
    config::sections::{LogFormat, LogSection},
    tasks::{self, Tasks},
};

/// Libraries that report every lost packet or remote fault as their own error, some with the packet's
/// bytes. A filter that names one of them overrides this.
const NOISY: &str = "webrtc=error,webrtc::peer_connection::driver=off,rtc=error,hickory_proto=warn,hickory_resolver=warn,hickory_server=warn,hickory_net=warn,quinn=warn,quinn_proto=warn,foca=warn,whisper_rs=warn";

/// Upper bounds, in seconds, of the buckets of every histogram named `..._seconds`: from a frame's
/// processing to the longest wait for words.
const SECONDS: [f64; 14] = [0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// How often recorded values are folded into their histograms; without it they pile up until a scrape.
const UPKEEP: Duration = Duration::from_secs(5);

/// The metrics of this process.
#[derive(Debug, Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

/// Why logs or metrics cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is malformed.
    #[error("log.filter: {0}")]
    Filter(#[from] ParseError),
    /// There is a subscriber already.
    #[error("logging: {0}")]
    Log(#[from] TryInitError),
    /// The system has no thread for the log.
    #[error("logging: {0}")]
    Thread(#[from] io::Error),
    /// There is a recorder already.
    #[error("metrics: {0}")]
    Metrics(#[from] BuildError),
}

impl Metrics {
    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        self.handle.render()
    }
}

/// Sends the log to standard error and collects metrics, of this crate and those `described`. Call once, within a tokio runtime,
/// and drop the [`LastLines`] last.
///
/// # Errors
/// The filter is malformed, or it was called before.
pub fn init(log: &LogSection, described: &[Metric], tasks: &Tasks) -> Result<(Metrics, LastLines), TelemetryError> {
    let last_lines = init_log(log)?;
    std::panic::set_hook(Box::new(tasks::tell_panic));
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .install_recorder()?;
    ours::METRICS.iter().chain(described).for_each(Metric::describe);
    let upkeep = handle.clone();
    tasks.keep("metrics", move || {
        let upkeep = upkeep.clone();
        async move {
            let mut ticks = tokio::time::interval(UPKEEP);
            loop {
                ticks.tick().await;
                upkeep.run_upkeep();
            }
        }
    });
    Ok((Metrics { handle }, last_lines))
}

fn init_log(log: &LogSection) -> Result<LastLines, TelemetryError> {
    use tracing_subscriber::util::SubscriberInitExt;

    let (lines, last_lines) = lines::start(io::stderr())?;

    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(&log.filter)?)
        .with_ansi(io::stderr().is_terminal())
        // It would tell of them on standard error, and panic where that fails.
        .log_internal_errors(false)
        .with_writer(lines);
    match log.format {
        LogFormat::Human => builder.finish().try_init()?,
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init()?,
    }
    Ok(last_lines)
}

/// Whether `log.filter` can be used.
///
/// # Errors
/// It is malformed.
pub fn check_filter(asked: &str) -> Result<(), ParseError> {
    filter(asked).map(drop)
}

fn filter(asked: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().parse(format!("{NOISY},{asked}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn noisy_libraries_are_quiet_unless_named() {
        let quiet = filter("debug").unwrap().to_string();
        assert!(quiet.contains("webrtc=error") && quiet.contains("debug"), "{quiet}");
        let loud = filter("info,webrtc=debug").unwrap().to_string();
        assert!(loud.contains("webrtc=debug") && !loud.contains("webrtc=error"), "{loud}");
    }

    #[test]
    fn every_metric_is_described_and_named_as_prometheus_wants() {
        let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        let of_programs = ["nearfield_geo_dns_"];
        let faults = lint::sources(sources.as_ref(), ours::METRICS).unwrap();
        let faults: Vec<_> = faults.iter().filter(|f| !of_programs.iter().any(|p| f.starts_with(p))).collect();
        assert!(faults.is_empty(), "{faults:#?}");
        assert_eq!(lint::promtool(ours::METRICS).expect("promtool, of Debian's package prometheus"), "");
    }

    #[test]
    fn a_malformed_filter_is_refused() {
        assert!(filter("mesh=loud").is_err());
    }
}
