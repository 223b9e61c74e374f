//! How far this node trusts its own judgement of others.
//!
//! Lifeguard (Dadgar, Phillips, Currey, "Lifeguard: Local Health Awareness for More Accurate Failure Detection",
//! DSN 2018): most false alarms come from nodes that are themselves slow. Such a node waits longer for answers.

use std::time::Duration;

/// The worst score (Lifeguard, section 4.1: 8).
const WORST: u8 = 8;

/// A wake-up this much after its time says that the process did not run: it has heard nobody meanwhile.
pub(super) const LATE: Duration = Duration::from_millis(500);

/// A score from 0, healthy, to [`WORST`].
#[derive(Debug, Default)]
pub(super) struct Health(u8);

impl Health {
    /// A probe was answered in time.
    pub(super) fn answered(&mut self) {
        self.0 = self.0.saturating_sub(1);
    }

    /// A probe was not answered, and nobody else was heard while it waited.
    pub(super) fn deaf(&mut self) {
        self.worsen(1);
    }

    /// Somebody suspected this node: its answers are late.
    pub(super) fn suspected(&mut self) {
        self.worsen(1);
    }

    /// The process woke `late`.
    pub(super) fn slept(&mut self, late: Duration) {
        self.worsen(late.as_secs().clamp(1, WORST.into()) as u8);
    }

    fn worsen(&mut self, by: u8) {
        self.0 = self.0.saturating_add(by).min(WORST);
    }

    pub(super) fn score(&self) -> u8 {
        self.0
    }

    /// How long a probe waits, and how long it is until the next one: one time more for each point.
    pub(super) fn probe(&self, usual: Duration) -> Duration {
        usual * (1 + u32::from(self.0))
    }

    /// How long a suspect has: up to three times as long.
    pub(super) fn suspicion(&self, usual: Duration) -> Duration {
        usual + usual * u32::from(self.0) / 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_slept_waits_longer_until_probes_succeed_again() {
        let (mut health, second) = (Health::default(), Duration::from_secs(1));
        assert_eq!((health.probe(second), health.suspicion(second)), (second, second));
        health.slept(Duration::from_secs(3));
        health.suspected();
        assert_eq!((health.probe(second), health.suspicion(second)), (5 * second, 2 * second));
        health.slept(Duration::from_secs(3600));
        assert_eq!(health.suspicion(second), 3 * second);
        (0..WORST).for_each(|_| health.answered());
        assert_eq!(health.probe(second), second);
    }
}
