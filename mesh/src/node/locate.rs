//! Where this node is in the space of round trips, learnt from those of its own connections.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Shared, lock};
use crate::{
    coordinate::{Coordinate, Refused, Settings, Vivaldi},
    identity::NodeId,
};

/// Between two looks at the connections.
const LOOK: Duration = Duration::from_secs(5);

/// A node that has come up looks more often, and tells what it has learnt at once.
const LOOK_AT_FIRST: Duration = Duration::from_secs(1);

/// For so long; by then a coordinate has settled.
const AT_FIRST: Duration = Duration::from_secs(120);

/// Less than this, in milliseconds, is not worth a report of its own.
const TOLD_MS: f64 = 1.0;

/// And less than this in the error.
const TOLD_ERROR: f32 = 0.1;

/// What one connection shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    /// Which connection.
    pub(super) connection: usize,
    /// Acknowledgements that have come over it: as many as before, and the round trip is an old one.
    pub(super) acks: u64,
    /// Smoothed.
    pub(super) rtt: Duration,
}

/// Runs until the node stops.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut locator = Locator::new(rand::random(), Instant::now());
    loop {
        let wait = locator.pause(Instant::now()).mul_f64(rand::random_range(0.8..1.2));
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(wait) => look(&shared, &mut locator),
        }
    }
}

fn look(shared: &Shared, locator: &mut Locator) {
    let (now, members) = (Instant::now(), shared.members.borrow().clone());
    let mut samples = shared.pool.samples();
    for member in members.iter() {
        let there = member.report.as_ref().and_then(|report| report.coordinate());
        if let (Some(there), Some(sample)) = (there, samples.remove(&member.identity.node)) {
            note(locator.handle_sample(&member.identity.node, sample, &there, now));
        }
    }
    locator.retain(|node| members.iter().any(|member| member.identity.node == *node));
    let here = locator.coordinate();
    metrics::gauge!("nearfield_mesh_coordinate_error_ratio").set(f64::from(here.error));
    *lock(&shared.coordinate) = here;
    if locator.poll_report(now) {
        shared.report_changed.notify_one();
    }
}

fn note(outcome: Option<Result<(), Refused>>) {
    let outcome = match outcome {
        None => return,
        Some(Ok(())) => "used",
        Some(Err(Refused::Rtt)) => "bad_rtt",
        Some(Err(Refused::Coordinate)) => "bad_coordinate",
        Some(Err(Refused::TooSoon)) => "too_soon",
    };
    metrics::counter!("nearfield_mesh_coordinate_samples_total", "outcome" => outcome).increment(1);
}

/// What decides about samples and reports.
struct Locator {
    vivaldi: Vivaldi,
    seen: BTreeMap<NodeId, (usize, u64)>,
    since: Instant,
    told: Coordinate,
}

impl Locator {
    fn new(seed: u64, now: Instant) -> Self {
        let vivaldi = Vivaldi::new(Settings::default(), seed);
        let told = vivaldi.coordinate();
        Self { vivaldi, seen: BTreeMap::new(), since: now, told }
    }

    fn coordinate(&self) -> Coordinate {
        self.vivaldi.coordinate()
    }

    fn pause(&self, now: Instant) -> Duration {
        if self.is_new(now) { LOOK_AT_FIRST } else { LOOK }
    }

    fn is_new(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < AT_FIRST
    }

    /// What a connection to `node`, which says that it is at `there`, shows now; `None` if that is what it showed before.
    fn handle_sample(
        &mut self,
        node: &NodeId,
        sample: Sample,
        there: &Coordinate,
        now: Instant,
    ) -> Option<Result<(), Refused>> {
        let state = (sample.connection, sample.acks);
        if self.seen.insert(node.clone(), state) == Some(state) {
            return None;
        }
        Some(self.vivaldi.handle_rtt(node, sample.rtt, there, now))
    }

    fn retain(&mut self, keep: impl Fn(&NodeId) -> bool) {
        self.seen.retain(|node, _| keep(node));
        self.vivaldi.retain(keep);
    }

    /// Whether what the others know is worth correcting before the next report is due.
    fn poll_report(&mut self, now: Instant) -> bool {
        let here = self.coordinate();
        let moved = self.told.moved_ms(&here) > TOLD_MS || (self.told.error - here.error).abs() > TOLD_ERROR;
        let due = moved && self.is_new(now);
        if due {
            self.told = here;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sample(acks: u64, ms: u64) -> Sample {
        Sample { connection: 1, acks, rtt: Duration::from_millis(ms) }
    }

    #[test]
    fn a_connection_that_carried_nothing_since_teaches_nothing() {
        let (start, peer) = (Instant::now(), "a".parse().unwrap());
        let at = |secs| start + Duration::from_secs(secs);
        let there = Coordinate::new([10.0, 0.0, 0.0], 1.0, 0.2).unwrap();
        let mut locator = Locator::new(1, start);
        assert_eq!(locator.handle_sample(&peer, sample(5, 40), &there, at(1)), Some(Ok(())));
        let here = locator.coordinate();
        assert_eq!(locator.handle_sample(&peer, sample(5, 400), &there, at(2)), None);
        assert_eq!(locator.coordinate(), here);
        assert_eq!(locator.handle_sample(&peer, sample(6, 40), &there, at(3)), Some(Ok(())));
        assert_ne!(locator.coordinate(), here);
        let renewed = Sample { connection: 2, ..sample(6, 40) };
        assert_eq!(locator.handle_sample(&peer, renewed, &there, at(4)), Some(Ok(())));
        locator.retain(|_| false);
        assert!(locator.seen.is_empty());
    }

    #[test]
    fn what_is_learnt_at_first_is_told_at_once_and_later_with_the_next_report() {
        let (start, peer) = (Instant::now(), "a".parse().unwrap());
        let there = Coordinate::new([80.0, 0.0, 0.0], 1.0, 0.2).unwrap();
        let mut locator = Locator::new(1, start);
        assert!(!locator.poll_report(start));
        locator.handle_sample(&peer, sample(1, 200), &there, start);
        assert!(locator.poll_report(start));
        assert!(!locator.poll_report(start), "it is told by now");
        let later = start + AT_FIRST;
        assert_eq!((locator.pause(start), locator.pause(later)), (LOOK_AT_FIRST, LOOK));
        locator.handle_sample(&peer, sample(2, 20), &there, later);
        assert!(!locator.poll_report(later));
    }
}
