//! How a meeting is run.

use std::time::Duration;

use crate::{budget, failover, pipeline, uplink};

/// How a meeting is run; see `edge.example.toml`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Of each participant's media path.
    pub pipeline: pipeline::Settings,
    /// Of the ring of what is not yet done.
    pub uplink: uplink::Settings,
    /// Whether speech is encoded anew where the link lets too little pass.
    pub ladder: bool,
    /// Of the choice of the core.
    pub failover: failover::Settings,
    /// How long to go on listening after a lease that ran out because nobody reached the core. Zero: not at all.
    pub orphan: Duration,
    /// How long to keep capturing, on the way out, for another edge to take the meeting.
    pub hand_over: Duration,
    /// What it may ask of this edge.
    pub budget: budget::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            pipeline: pipeline::Settings::default(),
            uplink: uplink::Settings::default(),
            ladder: true,
            failover: failover::Settings::default(),
            orphan: Duration::from_secs(30),
            hand_over: Duration::from_secs(8),
            budget: budget::Settings::default(),
        }
    }
}
