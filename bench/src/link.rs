//! `bench link`: how late speech comes over a bad path, by the way it is sent.
//!
//! Every way runs at the same time over one emulated path, so all of them meet the same bursts: `ways::ours` as
//! the product sends and takes it, plain datagrams, datagrams with the frame before, one stream for all, and what is
//! common today, a WebSocket for each participant with 16-bit samples over the kernel's TCP. What is measured runs from a
//! frame's being handed over to its being taken *in its turn* where the way keeps order, less the path's one-way delay.
#![allow(clippy::disallowed_methods, reason = "a shell: it measures by the clock")]

mod clock;
mod table;
mod ways;

use std::{net::Ipv4Addr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use geo::RegionId;
use serde::{Deserialize, Serialize};

use self::{
    clock::{Clock, Figures},
    ways::Way,
};
use crate::world::{
    Host, World,
    path::{Bursts, Quality},
};

/// Speakers.
const TRACKS: u32 = 10;
/// The length of a frame.
const FRAME: Duration = Duration::from_millis(20);
/// Sent before anything counts: handshakes, slow start, and learning how lossy the path is.
const WARM_UP: Duration = Duration::from_secs(5);
/// How long what is still missing is waited for.
const DRAIN: Duration = Duration::from_secs(10);
/// The burst's mean length, and the share of time that is in bursts.
const BURST: (Duration, f64) = (Duration::from_millis(60), 0.02);

/// Options of `bench link`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Seconds of speech for each path, 2 to 600.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(2..=600))]
    pub seconds: u64,
    /// Only two paths (100 ms: 1 % loss, and bursts) of 3 s each: whether it works, not how well.
    #[arg(long)]
    pub quick: bool,
    /// Round trips to measure, in milliseconds.
    #[arg(long, value_delimiter = ',', default_values_t = [25, 100, 200], value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub rtt: Vec<u32>,
    /// Decides every chance of the emulated path.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Writes the figures there as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// What one way came to on one path.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// The way: `ours`, `datagrams`, `datagram+copy`, `one stream`, `websocket`.
    pub way: String,
    /// The path's round trip.
    pub rtt_ms: u32,
    /// The share of packets lost, 0 to 1, each direction.
    pub loss: f64,
    /// The mean length of the bursts they are lost in; 0 if they are lost singly.
    pub burst_ms: u64,
    /// The share of frames that arrived, 0 to 1.
    pub delivered: f64,
    /// Latency beyond the one-way delay, of those that arrived: half of them at most this.
    pub p50_ms: f64,
    /// 99 in a hundred at most this.
    pub p99_ms: f64,
    /// The latest.
    pub max_ms: f64,
    /// What crossed the sender's link in both directions, IP headers included.
    pub bytes: u64,
}

/// A path to measure on.
#[derive(Debug, Clone, Copy)]
struct Cell {
    rtt_ms: u32,
    loss: f64,
    bursts: bool,
}

/// The world to measure in. Call it before any thread is started.
///
/// # Errors
/// Namespaces or TUN devices are not allowed here; without distances there is nothing to measure.
pub fn enter(args: &Args) -> Result<World> {
    World::enter(args.seed).context("`bench link` needs the emulated Internet")
}

/// Runs the subcommand.
///
/// # Errors
/// A way could not be set up.
pub async fn run(world: World, args: Args) -> Result<()> {
    let speech = Duration::from_secs(if args.quick { 3 } else { args.seconds });
    let pairs = hosts(&world)?;
    let mut rows = vec![];
    for cell in cells(&args) {
        world.set_paths(&"eu-central".parse::<RegionId>()?, &"us-east".parse::<RegionId>()?, cell.quality());
        let measured = measure(&pairs, cell, speech).await?;
        println!("{}", table::table(&measured));
        rows.extend(measured);
    }
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_vec_pretty(&rows)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn cells(args: &Args) -> Vec<Cell> {
    let single = |rtt_ms, loss| Cell { rtt_ms, loss, bursts: false };
    let bursts = |rtt_ms| Cell { rtt_ms, loss: BURST.1, bursts: true };
    if args.quick {
        return vec![single(100, 0.01), bursts(100)];
    }
    let of = |&rtt: &u32| [single(rtt, 0.0), single(rtt, 0.01), single(rtt, 0.05), bursts(rtt)];
    args.rtt.iter().flat_map(of).collect()
}

/// For each way two hosts of its own; all pairs take the same path.
fn hosts(world: &World) -> Result<Vec<(Way, Host, Host)>> {
    let (near, far) = ("eu-central".parse()?, "us-east".parse()?);
    let pair = |(n, way): (usize, Way)| {
        let sender = world.host(&format!("from-{n}"), &near, Ipv4Addr::new(10, 77, 1, n as u8 + 1))?;
        let receiver = world.host(&format!("to-{n}"), &far, Ipv4Addr::new(10, 77, 2, n as u8 + 1))?;
        Ok((way, sender, receiver))
    };
    Way::ALL.into_iter().enumerate().map(pair).collect()
}

async fn measure(pairs: &[(Way, Host, Host)], cell: Cell, speech: Duration) -> Result<Vec<Row>> {
    let frames = |time: Duration| (time.as_millis() / FRAME.as_millis()) as u32;
    let runs = pairs.iter().map(|(way, sender, receiver)| async move {
        let clock = Arc::new(Clock::new(TRACKS, frames(WARM_UP), frames(speech)));
        let bytes = ways::run(*way, sender, receiver, clock.clone()).await.with_context(|| format!("way `{way}`"))?;
        anyhow::Ok(cell.row(*way, clock.figures(Duration::from_millis(cell.rtt_ms.into()) / 2), bytes))
    });
    futures_util::future::try_join_all(runs).await
}

impl Cell {
    fn quality(self) -> Quality {
        let clean = Quality::round_trip(Duration::from_millis(self.rtt_ms.into()));
        if self.bursts {
            let apart = BURST.0.mul_f64((1.0 - self.loss) / self.loss);
            return Quality { bursts: Some(Bursts { apart, length: BURST.0, loss: 1.0 }), ..clean };
        }
        Quality { loss: self.loss, ..clean }
    }

    fn row(self, way: Way, figures: Figures, bytes: u64) -> Row {
        Row {
            way: way.to_string(),
            rtt_ms: self.rtt_ms,
            loss: self.loss,
            burst_ms: if self.bursts { BURST.0.as_millis() as u64 } else { 0 },
            delivered: figures.delivered,
            p50_ms: figures.p50_ms,
            p99_ms: figures.p99_ms,
            max_ms: figures.max_ms,
            bytes,
        }
    }
}
