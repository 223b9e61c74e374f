//! A live meeting is looked at now and then: how far its own edge and the next best are from its relay. So a successor is
//! known at once when the edge is lost, and a meeting does not stay for ever where it is far worse off.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mesh::placement::{Hysteresis, Move, Watch};
use tokio_util::sync::CancellationToken;

use super::{Placer, Wanted};
use crate::{
    meeting::{Meeting, Notice},
    store::record::{Owner, Status},
};

/// The first look, and then from one to the next: less than measurements stay fresh. Shortened by up to a fifth by chance,
/// so that meetings that began together are not looked at together.
const FIRST: Duration = Duration::from_secs(5);
const EVERY: Duration = Duration::from_secs(45);

/// Looks at one meeting.
pub(crate) struct Rebalance {
    meeting: Arc<Meeting>,
    placer: Arc<Placer>,
    wanted: Wanted,
    watch: Watch,
}

impl Rebalance {
    pub(crate) fn new(meeting: Arc<Meeting>, placer: Arc<Placer>, wanted: Wanted) -> Self {
        Self { meeting, placer, wanted, watch: Watch::new(Hysteresis::default()) }
    }

    /// Runs until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let looks = async {
            let mut wait = FIRST;
            loop {
                let chance = rand::random_range(0.8..1.0);
                tokio::time::sleep(wait.mul_f64(chance)).await;
                self.look().await;
                wait = EVERY;
            }
        };
        stop.run_until_cancelled(looks).await;
    }

    async fn look(&mut self) {
        let Some(owner) = self.owner() else { return };
        let Some(decision) = self.placer.rank_live(&self.wanted, &owner.edge).await else { return };
        if self.owner().as_ref() != Some(&owner) {
            return; // it was moved meanwhile
        }
        match self.watch.handle_ranking(&owner.edge, &decision, Instant::now()) {
            Move::Go { why } => self.hand_over(&owner, &why).await,
            Move::Watch => tracing::debug!(edge = %owner.edge, best = ?decision.chosen, "another edge is much better"),
            Move::Stay => {}
        }
    }

    /// The edge in the meeting, while it is there and nobody else is to be.
    fn owner(&self) -> Option<Owner> {
        let record = self.meeting.record();
        record.owners.owner().filter(|owner| record.status == Status::Active && !owner.leaving).cloned()
    }

    /// Asks for a successor, as the edge itself does when it drains.
    async fn hand_over(&self, owner: &Owner, why: &str) {
        tracing::info!(edge = %owner.edge, why, "the meeting is better served elsewhere");
        metrics::counter!("nearfield_core_moves_wanted_total").increment(1);
        let epoch = self.meeting.record().owners.epoch;
        self.meeting.notify(Notice::HandOver(epoch)).await;
    }
}
