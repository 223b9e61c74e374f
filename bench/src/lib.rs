//! The bench: a world on one machine, a meeting in it, and the judgement of what came out.
#![allow(clippy::print_stdout, reason = "what it finds is for whoever started it")]

pub mod bed;
pub mod capacity;
pub mod client;
pub mod demo;
pub mod engine;
pub mod failover;
pub mod gossip;
pub mod janus;
pub mod latency;
pub mod link;
pub mod oracle;
pub mod placement;
pub mod relay;
pub mod report;
pub mod soak;
pub mod speech;
pub mod transcribe;
pub mod vad;
pub mod words;
pub mod world;
