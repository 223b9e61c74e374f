//! The one task that moves a meeting on: it turns what happens into [`Lifecycle`]'s inputs and does what
//! that says.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh::{
    clock::Micros,
    node::Member,
    wire::{
        Epoch,
        control::{CloseReason, EdgeState},
        request::Request,
    },
};
use tokio::{
    sync::{mpsc, watch},
    time::sleep_until,
};
use tokio_util::sync::CancellationToken;

use super::{
    lifecycle::{Action, Lifecycle, Unplaced},
    place::{Placer, Wanted},
};
use crate::{
    link::ToLink,
    lock,
    log::LogClosed,
    meeting::{Meeting, Notice, wall},
    record::{Gap, GapReason, MAX_GAPS, MeetingRecord, Owner, Status},
    replicate::sender::Replicator,
};

/// How long an edge that lost its lease has to bring the rest of what it was sending, before that ends where it is. What
/// comes later makes an utterance of its own.
const LATE_GRACE: Duration = Duration::from_secs(2);

type Placing = Pin<Box<dyn Future<Output = Result<Epoch, (Epoch, Unplaced)>> + Send>>;

pub(super) struct Supervisor {
    meeting: Arc<Meeting>,
    lifecycle: Lifecycle,
    placer: Arc<Placer>,
    wanted: Wanted,
    placing: Option<Placing>,
    members: watch::Receiver<Arc<Vec<Member>>>,
    /// Nobody captures it, since when and why.
    gap: Option<Gap>,
    /// The owner has been seen alive since it became the owner.
    owner_seen: bool,
    told: Option<Status>,
}

impl Supervisor {
    pub(super) fn new(meeting: Arc<Meeting>, lifecycle: Lifecycle, placer: Arc<Placer>, wanted: Wanted) -> Self {
        let members = placer.mesh.members();
        let gap = meeting.record().gaps.into_iter().find(|g| g.to.is_none());
        Self { meeting, lifecycle, placer, wanted, placing: None, members, gap, owner_seen: false, told: None }
    }

    /// Runs until the meeting has ended, `stop` fires or the store fails.
    pub(super) async fn run(mut self, mut notices: mpsc::Receiver<Notice>, stop: CancellationToken) {
        loop {
            let (undone, open) = self.meeting.backlog();
            self.lifecycle.handle_backlog(undone, open, Instant::now());
            if self.act().await.is_err() || self.lifecycle.status().ended() {
                return;
            }
            let timeout = self.lifecycle.poll_timeout();
            tokio::select! {
                () = stop.cancelled() => return,
                Some(notice) = notices.recv() => {
                    if self.note_gap(&notice).await.is_err() {
                        return;
                    }
                    self.handle_notice(notice).await;
                }
                () = sleep_until(timeout.unwrap_or_else(Instant::now).into()), if timeout.is_some() => {
                    self.lifecycle.handle_timeout(Instant::now());
                }
                () = lease_end(&self.meeting) => self.handle_lease(),
                Ok(()) = self.members.changed() => self.handle_members().await,
                () = self.meeting.progressed() => {}
                placed = placed(&mut self.placing) => self.handle_placed(placed).await,
            }
        }
    }

    /// Gaps begin when the edge that captures or its relay is lost, and end when an edge is live again.
    async fn note_gap(&mut self, notice: &Notice) -> Result<(), LogClosed> {
        let captures = |epoch: &Epoch| self.lifecycle.capturing() == Some(*epoch);
        match notice {
            Notice::State(epoch, EdgeState::Live, _) if *epoch == self.lifecycle.epoch() => self.end_gap().await?,
            Notice::State(epoch, EdgeState::Reconnecting, _) if captures(epoch) => {
                self.begin_gap(GapReason::RelayLost, wall());
            }
            Notice::Closed(epoch, CloseReason::Drain) if captures(epoch) => {
                self.begin_gap(GapReason::EdgeLeft, wall());
            }
            Notice::Closed(epoch, CloseReason::LeaseOver) if captures(epoch) => {
                self.begin_gap(GapReason::EdgeLost, self.meeting.heard_at());
            }
            _ => {}
        }
        Ok(())
    }

    fn begin_gap(&mut self, reason: GapReason, from: Micros) {
        self.gap.get_or_insert(Gap { seq: 0, from, to: None, reason });
    }

    async fn end_gap(&mut self) -> Result<(), LogClosed> {
        let Some(gap) = self.gap.take() else { return Ok(()) };
        let gap = Gap { to: Some(wall()), ..gap };
        metrics::histogram!("nearfield_core_gap_seconds").record(wall().since(gap.from).as_secs_f64());
        let meeting = self.meeting.clone();
        let keep = |gap: Gap| async move {
            meeting
                .update(|record| {
                    record.gaps.retain(|g| g.to.is_some());
                    record.gaps.push(gap);
                    let excess = record.gaps.len().saturating_sub(MAX_GAPS);
                    record.gaps.drain(..excess);
                })
                .await
        };
        self.meeting.publisher.gap(gap, keep).await
    }

    async fn handle_notice(&mut self, notice: Notice) {
        let now = Instant::now();
        match notice {
            Notice::Opened(epoch) => self.lifecycle.handle_opened(epoch),
            Notice::State(epoch, state, detail) => self.lifecycle.handle_edge_state(epoch, state, detail, now),
            Notice::Closed(epoch, reason) => self.lifecycle.handle_closed(epoch, reason, now),
            Notice::HandOver(epoch) => self.hand_over(epoch, now).await,
            Notice::Stop => self.lifecycle.handle_stop(now),
        }
    }

    /// The edge captures on while its successor is sought. Its lease ends here, so that another may be granted.
    async fn hand_over(&mut self, epoch: Epoch, now: Instant) {
        if self.lifecycle.capturing() != Some(epoch) || self.lifecycle.leaving().is_some() {
            return;
        }
        let Some(owner) = self.meeting.owner(epoch) else { return };
        tracing::info!(edge = %owner.edge, epoch = epoch.0, "the edge is going away: a successor is sought");
        metrics::counter!("nearfield_core_hand_overs_total").increment(1);
        // An error ends the node.
        let _ = self.meeting.hand_over(&owner.edge, epoch).await;
        self.lifecycle.handle_hand_over(epoch, now);
    }

    /// A silent edge is replaced as soon as it can own the meeting no more, whatever membership thinks of it.
    fn handle_lease(&mut self) {
        let now = Instant::now();
        let Some(lapsed) = lock(&self.meeting.grantor).handle_timeout(now) else { return };
        let leased = self.meeting.owner(lapsed.epoch).is_some_and(|o| o.leased);
        if leased && lapsed.epoch == self.lifecycle.epoch() {
            tracing::warn!(edge = %lapsed.edge, epoch = lapsed.epoch.0, "the edge's lease has run out");
            metrics::counter!("nearfield_core_leases_lapsed_total").increment(1);
            if self.lifecycle.status() == Status::Active {
                self.begin_gap(GapReason::EdgeLost, self.meeting.heard_at());
            }
            self.placer.handle_silent(&lapsed.edge);
            self.lifecycle.handle_edge_down(now);
        }
    }

    async fn handle_members(&mut self) {
        let Some(owner) = self.meeting.owner(self.lifecycle.epoch()) else { return };
        if self.is_draining(&owner) {
            self.hand_over(self.lifecycle.epoch(), Instant::now()).await;
        }
        if owner.leased && lock(&self.meeting.grantor).is_leased(Instant::now()) {
            return;
        }
        let alive = self.members.borrow_and_update().iter().any(|m| m.identity.node == owner.edge);
        if alive {
            self.owner_seen = true;
        } else if std::mem::take(&mut self.owner_seen) {
            tracing::warn!(edge = %owner.edge, "the edge is down");
            if self.lifecycle.status() == Status::Active {
                self.begin_gap(GapReason::EdgeLost, wall());
            }
            self.lifecycle.handle_edge_down(Instant::now());
        }
    }

    /// By gossip, where it does not say so itself: it is of version 1, or its link is down.
    fn is_draining(&self, owner: &Owner) -> bool {
        let members = self.members.borrow();
        let member = members.iter().find(|m| m.identity.node == owner.edge);
        member.and_then(|m| m.report.as_ref()).is_some_and(|report| report.draining)
    }

    async fn handle_placed(&mut self, placed: Result<Epoch, (Epoch, Unplaced)>) {
        self.placing = None;
        let now = Instant::now();
        match placed {
            Ok(epoch) => {
                self.lifecycle.handle_assigned(epoch, now);
                if self.lifecycle.leaving().is_none() {
                    self.end_before(epoch).await;
                }
                self.owner_seen = false;
                self.handle_members().await;
            }
            Err((epoch, why)) => {
                tracing::warn!(code = why.code, detail = why.detail, "not placed");
                self.lifecycle.handle_unplaced(epoch, why, now);
            }
        }
    }

    /// What the owners before `epoch` left open ends: of one that may come back with the rest, after a while.
    async fn end_before(&mut self, epoch: Epoch) {
        let record = self.meeting.record();
        if !record.owners.range(..epoch.0).next_back().is_some_and(|(_, o)| o.leased) {
            return self.meeting.seal_below(epoch).await;
        }
        let (meeting, stop) = (self.meeting.clone(), self.meeting.stop.clone());
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            tokio::time::sleep(LATE_GRACE).await;
            meeting.end_open_below(epoch).await;
        }));
    }

    /// Does what the lifecycle asks, and tells the world where the meeting stands.
    async fn act(&mut self) -> Result<(), LogClosed> {
        while let Some(action) = self.lifecycle.poll_action() {
            match action {
                Action::Place => {
                    let (placer, meeting, mut wanted) =
                        (self.placer.clone(), self.meeting.clone(), self.wanted.clone());
                    let leaving = self.lifecycle.leaving().and_then(|epoch| meeting.owner(epoch));
                    wanted.policy.without.extend(leaving.map(|owner| owner.edge));
                    // The record may know of a later try than the lifecycle.
                    let term = meeting.replication.see(Replicator::term);
                    let after = self.lifecycle.epoch().max(meeting.record().epoch).max(Epoch::of(term, 0));
                    self.placing = Some(Box::pin(async move { placer.place(&meeting, wanted, after).await }));
                }
                Action::Leave => self.leave(self.lifecycle.epoch()).await,
                Action::Dismiss(former) => self.dismiss(former).await?,
                Action::Seal => self.meeting.seal_below(Epoch(self.lifecycle.epoch().0 + 1)).await,
            }
        }
        let (undone, open) = self.meeting.backlog();
        self.lifecycle.handle_backlog(undone, open, Instant::now());
        if self.lifecycle.edge_gone() && undone == 0 {
            self.meeting.replication.with(|m, _| m.handle_no_witness());
        }
        self.tell().await
    }

    /// A successor is live: what the edge captures from now on is not wanted.
    async fn dismiss(&mut self, former: Epoch) -> Result<(), LogClosed> {
        let now = wall();
        let end = |record: &mut MeetingRecord| {
            if let Some(owner) = record.owners.get_mut(&former.0) {
                owner.until.get_or_insert(now);
            }
        };
        self.meeting.update_here(end).await?;
        self.leave(former).await;
        self.end_before(self.lifecycle.epoch()).await;
        Ok(())
    }

    /// Tells the edge twice: in order with its speech, and, should that link be down, by request.
    async fn leave(&mut self, epoch: Epoch) {
        let meeting = self.meeting.id;
        self.meeting.tell_edge(epoch, ToLink::Leave { meeting }).await;
        let Some(owner) = self.meeting.owner(epoch) else { return };
        let mesh = self.placer.mesh.clone();
        tokio::spawn(async move {
            if let Err(error) = mesh.request(&owner.edge, &Request::Release { meeting }).await {
                tracing::debug!(edge = %owner.edge, error, "release not answered");
            }
        });
    }

    async fn tell(&mut self) -> Result<(), LogClosed> {
        let status = self.lifecycle.status();
        if self.told == Some(status) {
            return Ok(());
        }
        if status.ended() {
            self.end_gap().await?;
        }
        let failure = self.lifecycle.failure().filter(|_| status == Status::Failed).cloned();
        let (sub_code, detail) = failure.map_or((None, None), |(code, detail)| (Some(code), detail));
        let (code, gap) = (sub_code.clone(), self.gap.clone());
        self.meeting
            .update(|record| {
                record.status = status;
                record.gaps.retain(|g| g.to.is_some());
                record.gaps.extend(gap);
                record.sub_code = code;
                record.detail = detail;
                record.ended_at = status.ended().then(wall);
            })
            .await?;
        tracing::info!(status = status.as_str(), sub_code, "meeting status");
        let seq = self.meeting.publisher.status(status, sub_code).await?;
        if status.ended() {
            self.meeting.update(|record| record.last_seq = seq).await?;
        }
        self.told = Some(status);
        Ok(())
    }
}

/// Returns at the end of the edge's lease.
async fn lease_end(meeting: &Meeting) {
    let end = lock(&meeting.grantor).poll_timeout();
    match end {
        Some(end) => sleep_until(end.into()).await,
        None => std::future::pending().await,
    }
}

/// The placement under way; never, when there is none.
async fn placed(placing: &mut Option<Placing>) -> Result<Epoch, (Epoch, Unplaced)> {
    match placing {
        Some(placing) => placing.await,
        None => std::future::pending().await,
    }
}
