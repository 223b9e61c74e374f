//! How long each step of a way into a meeting takes, from the one before.

use std::time::Instant;

/// The steps of one attempt, each counted once, in `nearfield_edge_join_seconds`, apart for each kind of relay:
///
/// | step | from the step before until |
/// |---|---|
/// | `socket` | Janus' WebSocket is open; Zoom's signalling is agreed on |
/// | `room` | its room is entered; Zoom's media are agreed on |
/// | `offer` | the relay's description is there, and, for WHEP, our answer to it is taken |
/// | `path` | ICE has a path, from the description |
/// | `keys` | DTLS is done |
/// | `media` | the first packet is here |
#[derive(Debug)]
pub(super) struct Steps {
    via: &'static str,
    last: Instant,
    done: Vec<&'static str>,
}

impl Steps {
    /// Begins, in a meeting at `via`.
    pub(super) fn new(via: &'static str, now: Instant) -> Self {
        Self { via, last: now, done: vec![] }
    }

    /// The same in another part of it.
    pub(super) fn anew(&self, now: Instant) -> Self {
        Self::new(self.via, now)
    }

    /// `step` is done; a second time it counts for nothing.
    pub(super) fn reach(&mut self, step: &'static str, now: Instant) {
        if self.done.contains(&step) {
            return;
        }
        self.done.push(step);
        let took = now.saturating_duration_since(self.last);
        self.last = now;
        metrics::histogram!("nearfield_edge_join_seconds", "via" => self.via, "step" => step)
            .record(took.as_secs_f64());
        tracing::debug!(step, ?took, "on the way into the meeting");
    }
}
