//! `bench capacity`: how many meetings an edge carries, and what each packet costs it on the way.
//!
//! *Follow one packet:* `voices` encodes it before anything is measured; the generator, a process of its own, protects
//! and sends it when it is due (`generator`, `session`, `timing`); the edge's own connector and meeting take it in, in
//! this process (`edge`); a core that takes everything (`sink`) acknowledges what comes of it. `stages` then runs the
//! same packets through one stage after the other, so that what is left is the cost of receiving.
#![allow(clippy::disallowed_methods, reason = "I/O shell: measures by the clock")]

mod edge;
mod generator;
mod plot;
mod session;
mod sink;
mod stages;
mod timing;
mod voices;

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use comfy_table::Table;
use mesh::clock::Micros;
use nix::sys::resource::{UsageWho, getrusage};
use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::sleep,
};

pub use self::voices::Talking;
use self::{edge::Edge, generator::Stats, stages::Costs, timing::Timing, voices::Voices};

/// Packets later than this, at the 99th percentile, end the climb.
const LATEST: Duration = Duration::from_millis(20);
/// After meetings were added, before anything is counted.
const SETTLE: Duration = Duration::from_secs(3);

/// Options of `bench capacity`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// People in each meeting, 1 to 30
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=30))]
    pub people: u16,
    /// Who talks; all others send a quiet room, without DTX. Left out: both are measured, one after the other
    #[arg(long)]
    pub talking: Option<Talking>,
    /// Meetings, one step after the other; it ends at the first step that drops a packet or is too late
    #[arg(long, value_delimiter = ',', default_value = "50,100,200,300,400,500,600,700,800,900,1000,1200,1500,2000")]
    pub meetings: Vec<usize>,
    /// Seconds measured at each step
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// The folder of recorded sentences: `./dev voices`
    #[arg(long, default_value = ".cache/speech")]
    pub voices: PathBuf,
    /// Writes the figures there as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draws the curves over the number of meetings there
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
    /// Be the generator: when its first tick begins, in microseconds
    #[arg(long, hide = true)]
    pub generate: Option<u64>,
}

/// What one number of meetings came to.
#[derive(Debug, Clone, Copy, Default)]
struct Step {
    meetings: usize,
    /// Of the edge.
    us_per_packet: f64,
    cores: f64,
    generator_cores: f64,
    /// The latest packet of the generator's, after it was due.
    generator_late_ms: f64,
    delay_p50_ms: f64,
    delay_p99_ms: f64,
    packets: u64,
    lost: u64,
    decoded: f64,
    kib_per_stream: f64,
    broken: usize,
    refused: u64,
}

/// How far it went with one way of talking.
struct Climb {
    talking: Talking,
    /// The last step that held, if one did, else the first.
    step: Step,
    steps: Vec<Step>,
    stopped_by: String,
    costs: Costs,
}

/// What is written as JSON.
#[derive(Debug, Serialize)]
struct Figures {
    /// CPU of the edge for each packet, of what libopus takes to decode it; one talks.
    ratio_one_talking: Option<f64>,
    /// The same; all talk.
    ratio_all_talking: Option<f64>,
    /// Memory of the edge for each stream.
    kib_per_stream: f64,
    /// Most meetings with no packet dropped and none too late.
    meetings: usize,
    /// What ended the climb.
    stopped_by: String,
    /// CPU by stage.
    us_per_packet: Stages,
}

#[derive(Debug, Serialize)]
struct Stages {
    receive: f64,
    gate: f64,
    decode: f64,
    vad: f64,
    uplink: f64,
}

/// Runs the subcommand.
///
/// # Errors
/// There is no speech, the generator or a meeting cannot be started, or a file cannot be written.
pub async fn run(args: Args) -> Result<()> {
    ensure!(args.meetings.is_sorted() && args.meetings.first() > Some(&0), "--meetings: rising numbers, from 1");
    if let Some(epoch) = args.generate {
        let voices = Voices::encode(&args.voices, args.people.into(), args.talking.unwrap_or(Talking::One))?;
        return generator::run(voices, args.people.into(), Timing { epoch: Micros(epoch) }).await;
    }
    // The process default, which the HTTP client asks for even where it only speaks plain HTTP.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let both = [Talking::One, Talking::All];
    let mut climbs = vec![];
    for talking in both.into_iter().filter(|t| args.talking.is_none_or(|only| only == *t)) {
        let climb = climb(&args, talking).await?;
        println!("{}\n{}\n", climb.steps_table(), climb.stages_table());
        climbs.push(climb);
    }
    let Some(first) = climbs.first() else { return Ok(()) };
    if let Some(path) = &args.json {
        let json = serde_json::to_vec_pretty(&Figures::of(first, &climbs))?;
        std::fs::write(path, json).with_context(|| format!("--json {}", path.display()))?;
    }
    if let Some(path) = &args.plot {
        std::fs::write(path, plot::svg(&first.steps)).with_context(|| format!("--plot {}", path.display()))?;
    }
    Ok(())
}

async fn climb(args: &Args, talking: Talking) -> Result<Climb> {
    let people = usize::from(args.people);
    let timing = Timing { epoch: generator::epoch() };
    let (_generator, relay) = start_generator(args, talking, timing).await?;
    let voices = Voices::encode(&args.voices, people, talking)?;
    let before = resident();
    let mut edge = Edge::new(relay, people, timing);
    let mut steps: Vec<Step> = vec![];
    let mut stopped_by = "the last of --meetings".to_owned();
    for &meetings in &args.meetings {
        if let Err(error) = edge.grow(meetings).await {
            stopped_by = format!("{error:#}");
            break;
        }
        sleep(SETTLE).await;
        let step = measure(&edge, relay, meetings, people, args.seconds, before).await?;
        eprintln!("{}", step.line());
        steps.push(step);
        if let Some(why) = step.complaint() {
            stopped_by = format!("{why} at {meetings} meetings");
            break;
        }
    }
    edge.leave().await;
    let held = steps.iter().rfind(|step| step.complaint().is_none());
    let step = held.or(steps.first()).copied().context("no meeting could be joined")?;
    let costs = tokio::task::spawn_blocking(move || stages::measure(&voices, step.meetings, people)).await?;
    Ok(Climb { talking, step, steps, stopped_by, costs })
}

async fn start_generator(args: &Args, talking: Talking, timing: Timing) -> Result<(Child, SocketAddr)> {
    let talking = if talking == Talking::One { "one" } else { "all" };
    let mut child = Command::new(std::env::current_exe()?)
        .args(["capacity", "--people", &args.people.to_string(), "--talking", talking])
        .args(["--generate", &timing.epoch.0.to_string(), "--voices"])
        .arg(&args.voices)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("the generator cannot be started")?;
    let out = child.stdout.take().context("the generator has no output")?;
    let line = BufReader::new(out).lines().next_line().await?;
    let relay = line.context("the generator ended")?.parse().context("the generator's address")?;
    Ok((child, relay))
}

async fn measure(
    edge: &Edge,
    relay: SocketAddr,
    meetings: usize,
    people: usize,
    seconds: u64,
    before: u64,
) -> Result<Step> {
    let stats =
        || async move { anyhow::Ok(reqwest::get(format!("http://{relay}/stats")).await?.json::<Stats>().await?) };
    let from = stats().await?;
    let (begun, spent) = (Instant::now(), cpu());
    edge.tally.take();
    sleep(Duration::from_secs(seconds)).await;
    let counted = edge.tally.take();
    let (wall, used) = (begun.elapsed(), cpu() - spent);
    let to = stats().await?;
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    let packets = counted.packets.max(1);
    Ok(Step {
        meetings,
        us_per_packet: used.as_secs_f64() * 1e6 / packets as f64,
        cores: used.as_secs_f64() / wall.as_secs_f64(),
        generator_cores: (to.cpu_us - from.cpu_us) as f64 / 1e6 / wall.as_secs_f64(),
        generator_late_ms: to.latest_us as f64 / 1e3,
        delay_p50_ms: ms(counted.delay_p50),
        delay_p99_ms: ms(counted.delay_p99),
        packets,
        lost: counted.lost + missing(to.sent - from.sent, counted.packets, meetings * people),
        decoded: counted.decoded as f64 / packets as f64,
        kib_per_stream: resident().saturating_sub(before) as f64 / 1024.0 / (meetings * people) as f64,
        broken: counted.broken,
        refused: to.refused - from.refused,
    })
}

/// Packets of streams that yield nothing at all any more, which no gap shows: of those sent, but for the ticks under way
/// at either end and a hundredth.
fn missing(sent: u64, arrived: u64, streams: usize) -> u64 {
    (sent * 99 / 100).saturating_sub(arrived + 2 * streams as u64)
}

impl Step {
    /// Why it does not hold.
    fn complaint(&self) -> Option<String> {
        let late = self.delay_p99_ms > LATEST.as_secs_f64() * 1e3;
        match self {
            Self { broken: 1.., .. } => Some(format!("{} lost connections", self.broken)),
            Self { refused: 1.., .. } => Some(format!("{} packets that the generator could not send", self.refused)),
            Self { lost: 1.., .. } => Some(format!("{} packets dropped", self.lost)),
            Self { delay_p99_ms, .. } if late => Some(format!(
                "an added delay of {delay_p99_ms:.1} ms (the generator itself was late by up to {:.1} ms)",
                self.generator_late_ms
            )),
            _ => None,
        }
    }

    fn line(&self) -> String {
        format!(
            "{} meetings: {:.1} us per packet, {:.2} cores (generator {:.2}, late by up to {:.1} ms), delay {:.1} ms, lost {}",
            self.meetings,
            self.us_per_packet,
            self.cores,
            self.generator_cores,
            self.generator_late_ms,
            self.delay_p99_ms,
            self.lost
        )
    }
}

impl Climb {
    fn ratio(&self) -> f64 {
        self.step.us_per_packet / us(self.costs.reference).max(0.001)
    }

    fn stages(&self) -> Stages {
        let Costs { gate, decode, vad, uplink, .. } = self.costs;
        Stages {
            receive: (self.step.us_per_packet - us(self.costs.behind())).max(0.0),
            gate: us(gate),
            decode: us(decode),
            vad: us(vad),
            uplink: us(uplink),
        }
    }

    fn steps_table(&self) -> Table {
        let mut table = Table::new();
        table.set_header([
            "meetings",
            "us per packet",
            "edge's cores",
            "generator's",
            "its latest, ms",
            "delay p50, ms",
            "p99, ms",
            "packets",
            "dropped",
            "decoded",
            "KiB per stream",
        ]);
        for s in &self.steps {
            table.add_row([
                s.meetings.to_string(),
                format!("{:.1}", s.us_per_packet),
                format!("{:.2}", s.cores),
                format!("{:.2}", s.generator_cores),
                format!("{:.1}", s.generator_late_ms),
                format!("{:.1}", s.delay_p50_ms),
                format!("{:.1}", s.delay_p99_ms),
                s.packets.to_string(),
                s.lost.to_string(),
                format!("{:.0} %", s.decoded * 100.0),
                format!("{:.0}", s.kib_per_stream),
            ]);
        }
        table
    }

    fn stages_table(&self) -> Table {
        let Stages { receive, gate, decode, vad, uplink } = self.stages();
        let who = if self.talking == Talking::One { "one talking" } else { "all talking" };
        let rows = [
            ("meetings that held", self.step.meetings.to_string()),
            ("stopped by", self.stopped_by.clone()),
            ("meetings per core", format!("{:.0}", self.step.meetings as f64 / self.step.cores.max(0.001))),
            ("of libopus decoding all", format!("{:.2}", self.ratio())),
            ("libopus, us per packet", format!("{:.1}", us(self.costs.reference))),
            ("receive, us per packet", format!("{receive:.1}")),
            ("gate", format!("{gate:.1}")),
            ("decode", format!("{decode:.1}")),
            ("vad", format!("{vad:.1}")),
            ("uplink", format!("{uplink:.1}")),
        ];
        let mut table = Table::new();
        table.set_header([who, "measured"]);
        rows.into_iter().for_each(|(what, value)| {
            table.add_row([what.to_owned(), value]);
        });
        table
    }
}

impl Figures {
    fn of(first: &Climb, climbs: &[Climb]) -> Self {
        let ratio = |who| climbs.iter().find(|climb| climb.talking == who).map(Climb::ratio);
        let held = first.step.complaint().is_none();
        Self {
            ratio_one_talking: ratio(Talking::One),
            ratio_all_talking: ratio(Talking::All),
            kib_per_stream: first.step.kib_per_stream,
            meetings: if held { first.step.meetings } else { 0 },
            stopped_by: first.stopped_by.clone(),
            us_per_packet: first.stages(),
        }
    }
}

fn us(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// CPU time of this process so far.
fn cpu() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Duration::ZERO };
    let time = |t: nix::sys::time::TimeVal| Duration::from_micros(t.tv_sec() as u64 * 1_000_000 + t.tv_usec() as u64);
    time(usage.user_time()) + time(usage.system_time())
}

/// Bytes of memory this process has.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    pages * 4096
}
