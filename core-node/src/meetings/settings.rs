//! A core's bounds and ways of working.

use std::time::Duration;

use crate::{meeting::Bounds, replicate::sender, speech::ingest::Limits};

/// Bounds and ways of working.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Meetings at a time.
    pub meetings: usize,
    /// What one meeting may hold.
    pub intake: Limits,
    /// No new meeting when the store's file is longer than this, in bytes.
    pub max_store_bytes: u64,
    /// How often partials are made, for meetings that want them; `None` for never.
    pub interim: Option<Duration>,
    /// Spoken language where a meeting does not say; `None` to detect it.
    pub language: Option<String>,
    /// Whether noise is taken out of what the engine hears, where a meeting does not say.
    pub noise_suppression: bool,
    /// Finals of one meeting under way at a time.
    pub parallel: usize,
    /// How meetings survive this core.
    pub failover: Failover,
    /// What else bounds one meeting.
    pub bounds: Bounds,
}

/// How meetings survive a core.
#[derive(Debug, Clone)]
pub struct Failover {
    /// Whether meetings served here have a standby.
    pub standby: bool,
    /// Deadlines of a pair of cores.
    pub pair: sender::Settings,
    /// How long a core must be down before its standby takes a meeting over that no edge asked it to. Longer than the
    /// partitions that are to be sat out.
    pub takeover: Duration,
}

impl Default for Failover {
    fn default() -> Self {
        Self { standby: true, pair: sender::Settings::default(), takeover: Duration::from_secs(300) }
    }
}
