//! The bench: a world on one machine, a meeting in it, and the judgement of what came out.

pub mod relay;
pub mod world;
pub mod bed;
pub mod certs;
pub mod client;
pub mod demo;
pub mod latency;
pub mod oracle;
pub mod report;
pub mod speech;
