//! `bench`: the demo, the stand-in relay, and what Nearfield measures of itself.

use std::process::ExitCode;

use anyhow::Result;
use bench::{
    capacity, demo, failover, failover::adversary, gossip, latency, link, placement, relay, soak, transcribe, vad,
    words,
};
use clap::{Parser, Subcommand};

/// The edge's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(version, about = "Nearfield's demo and measuring bench")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A mesh at work with one malicious node of each role, what each of its attacks reached, and what it cost the others.
    Adversary(adversary::Args),
    /// How many meetings an edge carries on this machine, what each packet costs it, stage by stage, and what ends it.
    Capacity(capacity::Args),
    /// A mesh of two regions, a meeting with known speech, its transcript as it is made, and the figures.
    Demo(demo::Args),
    /// Breaks a mesh at work in every way that is promised to be survived, and prints what was lost.
    Failover(failover::Args),
    /// How soon a mesh of many nodes notices, how often it errs and what it costs, in virtual time.
    Gossip(gossip::Args),
    /// How far everything is from here: DNS, nodes, and the stages of a meeting's words.
    Latency(latency::Args),
    /// How late speech comes over a bad path, by the way it is sent: ours, datagrams, one stream, WebSockets.
    Link(link::Args),
    /// How far the edges we choose are from the best ones, and the nearest by distance, on a matrix of round trips.
    Placement(placement::Args),
    /// The stand-in meeting relay (WebRTC, WHEP) of a plan made by the demo.
    Relay(relay::Args),
    /// Thousands of short meetings on a small mesh: what each node holds by name, before and after.
    Soak(soak::Args),
    /// Speech engines side by side, on the same recordings: errors, cost, time, and what they invent.
    Transcribe(transcribe::Args),
    /// Voice detectors on the same labelled recordings, and the edge's cascade of gate and detector.
    Vad(vad::Args),
    /// What the edge's gate costs in words, and what it saves in bytes.
    Words(words::Args),
}

/// An error is told in a line: it is for whoever typed the command, and a backtrace is not.
fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Capacity(args) => runtime()?.block_on(capacity::run(args)),
        Command::Adversary(args) => {
            let world = adversary::enter(&args)?;
            runtime()?.block_on(adversary::run(world, args))
        }
        // A world is entered before there is a second thread.
        Command::Demo(args) => {
            let world = demo::enter(&args)?;
            runtime()?.block_on(demo::run(world, args))
        }
        Command::Failover(args) => {
            let world = failover::enter(&args)?;
            runtime()?.block_on(failover::run(world, args))
        }
        Command::Link(args) => {
            let world = link::enter(&args)?;
            runtime()?.block_on(link::run(world, args))
        }
        Command::Soak(args) => {
            let world = soak::enter(&args)?;
            runtime()?.block_on(soak::run(world, args))
        }
        Command::Gossip(args) => gossip::run(&args),
        Command::Placement(args) => placement::run(&args),
        Command::Transcribe(args) => runtime()?.block_on(transcribe::run(args)),
        Command::Vad(args) => vad::run(&args),
        Command::Words(args) => runtime()?.block_on(words::run(args)),
        Command::Latency(args) => runtime()?.block_on(latency::run(args)),
        Command::Relay(args) => runtime()?.block_on(relay::run(args)),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}
