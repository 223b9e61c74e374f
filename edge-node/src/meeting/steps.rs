//! How a meeting's speech is sent: see [`crate::uplink::ladder`].

use std::time::{Duration, Instant};

use mesh::wire::spurt::Step;

use super::Meeting;

/// How often it is looked whether the link still lets enough pass, at most: with each beat, which needs no timer.
const EVERY: Duration = Duration::from_millis(200);

impl Meeting {
    /// Where speech is sent thinner than it came: nothing else is to go out that can wait.
    pub fn is_thin(&self) -> bool {
        self.ladder.step() != Step::PassThrough
    }

    /// Looks at how late speech comes to the core.
    pub(super) fn step(&mut self, now: Instant) {
        if !self.settings.ladder || now < self.next_step {
            return;
        }
        self.next_step = now + EVERY;
        if !self.may_transmit() || self.late {
            return;
        }
        if let Some(step) = self.ladder.handle_age(self.uplink.age(now), now) {
            tracing::info!(step = step.name(), "speech is sent on another step of the uplink's ladder");
            metrics::counter!("nearfield_edge_uplink_steps_total", "to" => step.name()).increment(1);
            self.uplink.send_whole_only(step == Step::FinalOnly);
        }
    }
}
