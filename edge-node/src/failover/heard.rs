//! A core as it is heard.

use std::time::{Duration, Instant};

use mesh::{identity::NodeId, lease::BEAT_EVERY};

use super::Settings;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Core {
    pub(super) id: NodeId,
    /// There is a control stream.
    pub(super) up: bool,
    /// It answers beats: it speaks version 2.
    pub(super) beats: bool,
    pub(super) heard: Instant,
    pub(super) rtt: Duration,
    /// When something else than an answer came of it, or none could be expected.
    pub(super) alive: Option<Instant>,
    /// How often the former was seen since its last answer.
    pub(super) seen_alive: u32,
}

impl Core {
    pub(super) fn new(id: NodeId, now: Instant) -> Self {
        Self { id, up: false, beats: false, heard: now, rtt: Duration::ZERO, alive: None, seen_alive: 0 }
    }

    /// It has not answered within its time.
    pub(super) fn is_silent(&self, settings: &Settings, now: Instant) -> bool {
        // What a core sent just before it died is seen once.
        let memory = if self.seen_alive > 1 { settings.alive_memory } else { settings.floor };
        let alive = self.alive.is_some_and(|at| now.saturating_duration_since(at) < memory);
        let floor = if alive { settings.alive_floor } else { settings.floor };
        let allowed = floor.max(self.rtt * 4 + settings.slack);
        now.saturating_duration_since(self.heard) >= allowed
    }

    /// Fit to be turned to.
    pub(super) fn answers(&self, settings: &Settings, now: Instant) -> bool {
        self.up && self.beats && !self.is_silent(settings, now)
    }

    /// Whether it has answered a beat that was sent after the other's last answer: what cuts an edge off from both is no reason
    /// to turn to either.
    pub(super) fn outlives(&self, other: &Self) -> bool {
        self.heard >= other.heard + BEAT_EVERY + BEAT_EVERY / 2 + self.rtt / 2
    }
}
