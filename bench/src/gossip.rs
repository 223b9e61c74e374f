//! `bench gossip`: how soon a mesh of many nodes notices, how often it errs and what it costs, in virtual time.
#![allow(clippy::disallowed_methods, reason = "a shell: it measures signatures by the wall clock")]

use std::{
    hint::black_box,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use comfy_table::Table;
use mesh::{
    identity::{
        Identity, Role,
        certs::{Authority, Credentials},
    },
    membership::Settings,
    sim::measure::{Figures, Plan, measure},
};

/// What to simulate.
#[derive(Debug, Parser)]
pub struct Args {
    /// Nodes in the mesh, spread over ten regions: 2 to 2000.
    #[arg(long, default_value_t = 100)]
    nodes: usize,
    /// Share of packets lost, 0 to 0.5.
    #[arg(long, default_value_t = 0.05)]
    loss: f64,
    /// Virtual hours of steady running, half of them idle and half loaded.
    #[arg(long, default_value_t = 0.2)]
    hours: f64,
    /// Crashes, goodbyes and joins measured: 1 to 1000. A mesh of 1000 takes minutes for each.
    #[arg(long, default_value_t = 20)]
    events: usize,
    /// Everything follows from it: equal seeds give equal figures.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Also write the figures there, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Simulates, prints a table and writes the figures.
///
/// # Errors
/// An argument is out of its range, or the file cannot be written.
pub fn run(args: &Args) -> Result<()> {
    ensure!((2..=2000).contains(&args.nodes), "--nodes {}: 2 to 2000", args.nodes);
    ensure!((0.0..=0.5).contains(&args.loss), "--loss {}: 0 to 0.5", args.loss);
    ensure!(args.hours > 0.0 && args.hours <= 1000.0, "--hours {}: above 0, at most 1000", args.hours);
    ensure!((1..=1000).contains(&args.events), "--events {}: 1 to 1000", args.events);
    let settings = Settings::default();
    let Args { nodes, loss, hours, events, seed, .. } = *args;
    let plan = Plan { nodes, loss, hours, events, seed, settings };
    println!("{} nodes, {} % loss, {} h, seed {}", plan.nodes, plan.loss * 100.0, plan.hours, plan.seed);
    let figures = measure(&plan, |stage| eprintln!("{stage} ..."));
    println!("{}", table(&figures));
    let cost = signature_cost()?;
    let share = cost.as_secs_f64() * figures.loaded_verified_per_s * 100.0;
    println!("One signature is verified in {cost:.1?} here, so a loaded node spends {share:.2} % of a core on it.");
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&figures)?;
        std::fs::write(path, json).with_context(|| format!("--json {}", path.display()))?;
    }
    Ok(())
}

/// The figures beside the goals, which are for 100 nodes at 5 % loss.
fn table(figures: &Figures) -> Table {
    let f = figures;
    let rows = [
        ("first detection, mean", f.first_detection_ms.mean, "ms", "6000"),
        ("first detection, p99", f.first_detection_ms.p99, "ms", ""),
        ("detection by a node, p99", f.last_node_ms.p99, "ms", "8000"),
        ("detection by the last node", f.last_node_ms.max, "ms", "15000"),
        ("false downs", f.false_downs as f64, "", "0"),
        ("over node-hours", f.node_hours, "", ""),
        ("rejoins per node and hour", f.rejoins_per_node_hour, "", "0.01"),
        ("sent by a node, idle", f.idle_bytes_per_s, "B/s", "1000"),
        ("sent by a node, loaded", f.loaded_bytes_per_s, "B/s", "6400"),
        ("signatures verified by a node, idle", f.idle_verified_per_s, "1/s", ""),
        ("signatures verified by a node, loaded", f.loaded_verified_per_s, "1/s", ""),
        ("join known to a node, p99", f.join_ms_p99, "ms", "1000"),
        ("goodbye known to a node, p99", f.leave_ms_p99, "ms", "1000"),
        ("report known to a node, p99", f.report_ms_p99, "ms", ""),
        ("partition of 120 s healed", f.heal_ms, "ms", "30000"),
        ("stall of 8 s forgotten", f.stall_heal_ms, "ms", ""),
        ("others held down for a stall", f.stall_false_downs as f64, "", "0"),
    ];
    let mut table = Table::new();
    table.set_header(["what", "measured", "unit", "goal at most"]);
    for (what, value, unit, goal) in rows {
        table.add_row([what.to_owned(), value.to_string(), unit.to_owned(), goal.to_owned()]);
    }
    table
}

/// What verifying one report costs on this machine, with a certificate as `nearfield certs` issues it.
fn signature_cost() -> Result<Duration> {
    const ROUNDS: u32 = 1000;
    let identity = Identity { node: "edge-1".parse()?, role: Role::Edge, region: "eu-central".parse()? };
    let authority = Authority::create("nearfield.test", Duration::from_secs(3600))?;
    let (cert, key) = authority.issue(&identity, Duration::from_secs(3600))?;
    let credentials = Credentials::from_pem(authority.ca_pem(), &cert, &key, "nearfield.test")?;
    let accepted = credentials.accept(credentials.chain(), SystemTime::now())?;
    let message = [7; 200];
    let signature = credentials.sign(&message)?;
    let begun = Instant::now();
    let right = (0..ROUNDS).all(|_| accepted.verify(black_box(&message), black_box(&signature)));
    ensure!(right, "our own signature was refused");
    Ok(begun.elapsed() / ROUNDS)
}
