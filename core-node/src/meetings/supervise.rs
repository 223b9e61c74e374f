//! The one task that moves a meeting on: it turns what happens into [`Lifecycle`]'s inputs and does what
//! that says.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

mod avoided;
mod gaps;
mod placing;
mod relief;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh::{
    clock::Micros,
    node::Member,
    tasks::{Broken, once, told},
    wire::{
        Epoch,
        control::{CloseReason, EdgeState},
        request::Request,
    },
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::sleep_until,
};
use tokio_util::sync::CancellationToken;

use self::avoided::Avoided;
use super::{
    leave::{Leave, REQUESTED},
    lifecycle::{Action, Lifecycle, Unplaced, may_be_its_own},
    place::{Placer, Wanted},
    second::Second,
};
use crate::{
    link::ToLink,
    log::LogClosed,
    meeting::{Meeting, Notice, wall, wishes::Wish},
    record::{Gap, GapReason, Owner, Status},
};

/// How long an edge that lost its lease has to bring the rest of what it was sending, before that ends where it is. What
/// comes later makes an utterance of its own.
const LATE_GRACE: Duration = Duration::from_secs(2);

/// How long an edge that was given up and renews its lease again is watched before it is believed that it has captured all the
/// while: one that stood still finds out at once that it must leave, and its beats may be faster.
const SURE: Duration = Duration::from_secs(2);

/// Which of a meeting's edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    First,
    Second,
}

type Placing = Pin<Box<dyn Future<Output = Result<Epoch, (Epoch, Unplaced)>> + Send>>;

pub(super) struct Supervisor {
    meeting: Arc<Meeting>,
    lifecycle: Lifecycle,
    second: Second,
    leave: Leave,
    /// The epochs whose edges capture, among them one that is not known yet to have taken the meeting.
    live: BTreeSet<Epoch>,
    /// This edge wants to be relieved, which waits until it is known and captures.
    leaves: Option<Epoch>,
    placer: Arc<Placer>,
    wanted: Wanted,
    /// One at a time: epochs are counted on from the newest.
    placing: Option<(Which, Placing)>,
    /// The newest epoch that was tried.
    tried: Epoch,
    /// The first edge is to be placed as soon as the second is.
    place_next: bool,
    /// How often in a row the edge was said to come back.
    awaited: u32,
    avoided: Avoided,
    /// The first edge has left; the second has not yet.
    closed: Option<(Epoch, CloseReason)>,
    members: watch::Receiver<Arc<Vec<Member>>>,
    /// Nobody captures it, since when and why.
    gap: Option<Gap>,
    /// Since when somebody has captured it without a gap, as far as that is known.
    whole_from: Micros,
    /// This edge has the meeting again, and is believed from then on to have captured all the while.
    back: Option<(Epoch, Instant)>,
    /// The owner has been seen alive since it became the owner.
    owner_seen: bool,
    /// What former owners left open is ended by these.
    ending: JoinSet<()>,
    told: Option<Status>,
}

impl Supervisor {
    pub(super) fn new(
        meeting: Arc<Meeting>,
        lifecycle: Lifecycle,
        second: Second,
        placer: Arc<Placer>,
        wanted: Wanted,
    ) -> Self {
        let members = placer.mesh.members();
        let record = meeting.record();
        let leave = Leave::new(&record.spec.leave, wall(), Instant::now());
        let whole_from = record.gaps.iter().filter_map(|gap| gap.to).max().unwrap_or_default();
        let gap = record.gaps.into_iter().find(|g| g.to.is_none());
        Self {
            meeting,
            lifecycle,
            second,
            leave,
            live: BTreeSet::new(),
            leaves: None,
            placer,
            wanted,
            placing: None,
            tried: record.owners.epoch,
            place_next: false,
            awaited: 0,
            avoided: Avoided::default(),
            closed: None,
            members,
            gap,
            whole_from,
            back: None,
            owner_seen: false,
            ending: JoinSet::new(),
            told: None,
        }
    }

    /// Runs until the meeting has ended, `stop` fires or the store fails.
    pub(super) async fn run(mut self, mut notices: mpsc::Receiver<Notice>, stop: CancellationToken) {
        loop {
            let (undone, open) = self.meeting.backlog();
            self.lifecycle.handle_backlog(undone, open, Instant::now());
            self.leave_if_due(Instant::now());
            if self.act().await.is_err() {
                return;
            }
            if self.lifecycle.status().ended() {
                return self.withdraw().await;
            }
            let back = self.back.map(|(_, sure)| sure);
            let timeouts = [self.lifecycle.poll_timeout(), self.second.poll_timeout(), self.leave_timeout()];
            let timeout = timeouts.into_iter().chain([back, self.relief_due()]).flatten().min();
            tokio::select! {
                () = stop.cancelled() => return,
                Some(notice) = notices.recv() => {
                    self.note_gap(&notice);
                    if self.handle_notice(notice).await.is_err() {
                        return;
                    }
                }
                () = sleep_until(timeout.unwrap_or_else(Instant::now).into()), if timeout.is_some() => {
                    if self.handle_timeout(Instant::now()).await.is_err() {
                        return;
                    }
                }
                () = lease_end(&self.meeting) => {
                    if self.handle_lease().await.is_err() {
                        return;
                    }
                }
                Ok(()) = self.members.changed() => self.handle_members().await,
                () = self.meeting.progressed() => {}
                Some(ended) = self.ending.join_next() => as_here(ended.map_err(Broken::from)),
                (which, placed) = placed(&mut self.placing) => {
                    if self.handle_placed(which, placed).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn handle_notice(&mut self, notice: Notice) -> Result<(), LogClosed> {
        let now = Instant::now();
        match notice {
            Notice::Opened(epoch) => self.lifecycle.handle_opened(epoch),
            Notice::State(epoch, EdgeState::Live, detail) => {
                self.second.handle_live(epoch);
                self.lifecycle.handle_edge_state(epoch, EdgeState::Live, detail, now);
            }
            Notice::State(epoch, state @ EdgeState::Failed(cause), detail) => {
                if may_be_its_own(cause) {
                    self.avoid(epoch, now);
                }
                if !self.is_spare(epoch, now).await? {
                    self.lifecycle.handle_edge_state(epoch, state, detail, now);
                }
            }
            Notice::State(epoch, state, detail) => self.lifecycle.handle_edge_state(epoch, state, detail, now),
            Notice::Closed(epoch, reason) => self.handle_closed(epoch, reason, now).await?,
            Notice::Late(_) if self.is_finishing() => {}
            // What it owes is on its way.
            Notice::Late(epoch) if self.is_owing(epoch) => {}
            Notice::Late(epoch) => self.handle_closed(epoch, CloseReason::LeaseOver, now).await?,
            // `act` relieves it.
            Notice::HandOver(epoch) => self.leaves = self.leaves.max(Some(epoch)),
            Notice::Stop => self.leave_for(REQUESTED, now),
        }
        Ok(())
    }

    fn leave_for(&mut self, why: &'static str, now: Instant) {
        self.second.stop();
        self.lifecycle.handle_leave(why, now);
    }

    /// Leaves a meeting that nobody is in any more, or whose time is up.
    fn leave_if_due(&mut self, now: Instant) {
        let known = self.lifecycle.status() == Status::Active && self.gap.is_none();
        self.leave.handle_present(known.then(|| self.meeting.present()), now);
        if let Some(why) = self.leave.poll_due(now).filter(|_| self.may_leave()) {
            tracing::info!(why, "the meeting is left");
            metrics::counter!("nearfield_core_meetings_left_total", "why" => why).increment(1);
            self.leave_for(why, now);
        }
    }

    fn leave_timeout(&self) -> Option<Instant> {
        self.leave.poll_timeout().filter(|_| self.may_leave())
    }

    fn may_leave(&self) -> bool {
        matches!(self.lifecycle.status(), Status::Placing | Status::Connecting | Status::Active)
    }

    async fn handle_closed(&mut self, epoch: Epoch, reason: CloseReason, now: Instant) -> Result<(), LogClosed> {
        self.handle_paid(epoch, now).await?;
        if self.is_spare(epoch, now).await? {
            return Ok(());
        }
        if matches!(reason, CloseReason::Drain | CloseReason::LeaseOver | CloseReason::Failed) {
            self.meeting.retire(epoch).await?;
        }
        if !self.waits_for_second(epoch, reason) && !self.waits_for_owed(epoch, reason) {
            self.lifecycle.handle_closed(epoch, reason, now);
        }
        // One that was on its way comes too late.
        if let Some(second) = self.second.epoch().filter(|_| self.is_finishing() && self.closed.is_none()) {
            self.leave(second).await;
        }
        Ok(())
    }

    /// At the end of a meeting: what the second edge has is still on its way when the first has left.
    fn waits_for_second(&mut self, epoch: Epoch, reason: CloseReason) -> bool {
        let waits = epoch == self.lifecycle.epoch() && self.second.epoch().is_some() && self.is_finishing();
        if waits {
            self.closed.get_or_insert((epoch, reason));
        }
        waits
    }

    /// The first edge has left, and nobody is waited for any more: neither the second edge nor one that owes.
    fn close_if_last(&mut self, now: Instant) {
        let last = self.second.epoch().is_none() && !self.owes();
        if let Some((first, reason)) = self.closed.take_if(|_| last) {
            self.lifecycle.handle_closed(first, reason, now);
        }
    }

    fn is_finishing(&self) -> bool {
        self.lifecycle.status() == Status::Finishing
    }

    /// The edge of `epoch` captures no more. True if the meeting goes on without it: it was the second, or the second
    /// takes its place.
    async fn is_spare(&mut self, epoch: Epoch, now: Instant) -> Result<bool, LogClosed> {
        if self.asked(epoch) == Some(Which::Second) {
            self.second.handle_lost(epoch, now);
            return Ok(true);
        }
        if self.second.epoch() == Some(epoch) {
            self.second.handle_lost(epoch, now);
            self.give_up(epoch).await?;
            self.close_if_last(now);
            return Ok(true);
        }
        let ours = epoch == self.lifecycle.epoch() && !self.is_finishing() && !self.lifecycle.status().ended();
        Ok(ours && self.promote(epoch).await?)
    }

    /// The second edge is the first from now on, if it captures.
    async fn promote(&mut self, former: Epoch) -> Result<bool, LogClosed> {
        let slot = 1 - self.second.slot().min(1);
        let Some(epoch) = self.second.promote(slot) else { return Ok(false) };
        tracing::warn!(former = former.0, epoch = epoch.0, "one of two edges is lost or unheard; the other goes on");
        metrics::counter!("nearfield_core_captures_taken_on_total").increment(1);
        self.lifecycle.handle_promoted(epoch);
        self.place_next = false;
        self.give_up(former).await?;
        Ok(true)
    }

    /// Nothing that the edge of `epoch` captures from now on is wanted; what it has left open ends, after a while.
    async fn give_up(&mut self, epoch: Epoch) -> Result<(), LogClosed> {
        self.live.remove(&epoch);
        if self.is_finishing() {
            return Ok(());
        }
        self.meeting.retire(epoch).await?;
        self.end_before(Epoch(epoch.0 + 1), false).await;
        Ok(())
    }

    /// The second edge is going away: as long as the first captures it can go at once.
    async fn relieve_second(&mut self, epoch: Epoch, now: Instant) -> Result<(), LogClosed> {
        self.leave(epoch).await;
        self.second.handle_lost(epoch, now);
        self.give_up(epoch).await
    }

    async fn handle_timeout(&mut self, now: Instant) -> Result<(), LogClosed> {
        if let Some(epoch) = self.second.handle_timeout(now) {
            tracing::warn!(epoch = epoch.0, "the second edge did not get in");
            self.avoid(epoch, now);
            self.meeting.wishes.handle_unmet(self.second_wish(), "the second edge did not get in", wall());
            self.leave(epoch).await;
            self.give_up(epoch).await?;
        }
        if let Some((epoch, _)) = self.back.take_if(|(_, sure)| *sure <= now) {
            self.note_back(epoch);
        }
        if self.lifecycle.poll_timeout().is_some_and(|at| at <= now) {
            let awaited = self.closed.is_none() || self.second.epoch().is_some();
            if self.owes() || (awaited && self.lives(self.lifecycle.epoch())) {
                self.lifecycle.handle_edge_alive(now);
            }
            if let Some(unopened) = self.lifecycle.unopened(now) {
                self.avoid(unopened, now);
            }
            self.lifecycle.handle_timeout(now);
        }
        Ok(())
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
        let _ = self.meeting.hand_over(epoch).await;
        self.lifecycle.handle_hand_over(epoch, now);
    }

    /// A silent edge is replaced as soon as it can own the meeting no more, whatever membership thinks of it.
    async fn handle_lease(&mut self) -> Result<(), LogClosed> {
        let now = Instant::now();
        let Some(lapsed) = self.meeting.lapsed(now) else { return Ok(()) };
        let leased = self.meeting.owner(lapsed.epoch).is_some_and(|o| o.leased);
        if !leased || !self.is_ours(lapsed.epoch) {
            return Ok(());
        }
        tracing::warn!(edge = %lapsed.edge, epoch = lapsed.epoch.0, "the edge's lease has run out");
        metrics::counter!("nearfield_core_leases_lapsed_total").increment(1);
        self.placer.handle_silent(&lapsed.edge);
        self.note_lost(lapsed.epoch, GapReason::EdgeLost, self.meeting.heard_at());
        let spare = self.is_spare(lapsed.epoch, now).await?;
        // At the end of a meeting no other is sought: what it has may still come.
        let awaited = self.is_finishing() && self.lives(lapsed.epoch);
        let waits = |this: &mut Self, reason| {
            this.waits_for_second(lapsed.epoch, reason) || this.waits_for_owed(lapsed.epoch, reason)
        };
        if !spare && !awaited && !waits(self, CloseReason::LeaseOver) {
            self.lifecycle.handle_edge_down(lapsed.epoch, now);
        }
        Ok(())
    }

    async fn handle_members(&mut self) {
        let Some(owner) = self.meeting.owner(self.lifecycle.epoch()) else { return };
        if self.is_draining(&owner) {
            self.hand_over(self.lifecycle.epoch(), Instant::now()).await;
        }
        if owner.leased && self.is_leased(owner.slot) {
            return;
        }
        self.members.borrow_and_update();
        if self.is_member(&owner) {
            self.owner_seen = true;
        } else if std::mem::take(&mut self.owner_seen) {
            tracing::warn!(edge = %owner.edge, "the edge is down");
            self.note_lost(self.lifecycle.epoch(), GapReason::EdgeLost, wall());
            // An error ends the node.
            let epoch = self.lifecycle.epoch();
            let goes_on = self.promote(epoch).await.unwrap_or(true);
            if !goes_on && !self.waits_for_owed(epoch, CloseReason::LeaseOver) {
                self.lifecycle.handle_edge_down(epoch, Instant::now());
            }
        }
    }

    /// Whether the mesh holds the edge of `epoch` to be alive.
    fn lives(&self, epoch: Epoch) -> bool {
        self.meeting.owner(epoch).is_some_and(|owner| self.is_member(&owner))
    }

    fn is_leased(&self, slot: u8) -> bool {
        self.meeting.captures(|captures| captures.is_leased(slot, Instant::now()))
    }

    fn is_member(&self, owner: &Owner) -> bool {
        self.members.borrow().iter().any(|m| m.identity.node == owner.edge)
    }

    /// By gossip, where it does not say so itself: it is of version 1, or its link is down.
    fn is_draining(&self, owner: &Owner) -> bool {
        let members = self.members.borrow();
        let member = members.iter().find(|m| m.identity.node == owner.edge);
        member.and_then(|m| m.report.as_ref()).is_some_and(|report| report.draining)
    }

    /// What the owners before `epoch` left open ends: after a while of one that may come back with the rest, or that is
    /// `there` still and has its last packets on their way.
    async fn end_before(&mut self, epoch: Epoch, there: bool) {
        let before = |rows: &BTreeMap<u64, Owner>| rows.range(..epoch.0).next_back().is_some_and(|(_, o)| o.leased);
        let leased = self.meeting.captures(|captures| before(&captures.owners().rows));
        if !leased && !there {
            return self.meeting.seal_former(epoch).await;
        }
        let meeting = self.meeting.clone();
        let ending = async move {
            tokio::time::sleep(LATE_GRACE).await;
            match leased {
                true => meeting.end_open(epoch, &meeting.capturing()).await,
                false => meeting.seal_former(epoch).await,
            }
        };
        self.ending.spawn(told("late speech", ending));
    }

    /// Does what the lifecycle asks, and tells the world where the meeting stands.
    async fn act(&mut self) -> Result<(), LogClosed> {
        self.catch_up().await?;
        while let Some(action) = self.lifecycle.poll_action() {
            match action {
                Action::Place => self.place_next = true,
                Action::Leave => {
                    self.leave(self.lifecycle.epoch()).await;
                    if let Some(second) = self.second.epoch() {
                        self.leave(second).await;
                    }
                }
                Action::Dismiss(former) => self.dismiss(former).await?,
                Action::Seal => {
                    let newest = self.lifecycle.epoch().max(self.meeting.captures(|captures| captures.owners().epoch));
                    self.meeting.seal_below(Epoch(newest.0 + 1)).await;
                }
            }
        }
        self.place_due().await?;
        let (undone, open) = self.meeting.backlog();
        self.lifecycle.handle_backlog(undone, open, Instant::now());
        if self.lifecycle.edge_gone() && undone == 0 {
            self.meeting.replication.with(|m, _| m.handle_no_witness());
        }
        self.tell().await
    }

    /// What was said before it could be acted upon is, as soon as it can.
    async fn catch_up(&mut self) -> Result<(), LogClosed> {
        self.take_back(Instant::now());
        let capturing = self.meeting.capturing();
        self.live.retain(|epoch| capturing.contains(epoch));
        if self.is_captured() {
            self.end_gap().await?;
        }
        if self.second.live().is_some() || self.is_finishing() {
            self.meeting.wishes.handle_met(Wish::Redundancy);
        }
        let now = Instant::now();
        self.relieve_detoured(now).await?;
        let alone = |epoch| !self.live.iter().any(|other| *other != epoch);
        match self.leaves {
            Some(epoch) if self.second.epoch() == Some(epoch) && alone(epoch) => return Ok(()),
            Some(epoch) if self.second.epoch() == Some(epoch) => self.relieve_second(epoch, now).await?,
            Some(epoch) if self.lifecycle.capturing() == Some(epoch) => self.hand_over(epoch, now).await,
            Some(epoch) if capturing.contains(&epoch) => return Ok(()),
            _ => {}
        }
        self.leaves = None;
        Ok(())
    }

    /// The second edge takes the first's place, if nobody captures in that and the second does; whether it did.
    async fn is_promoted(&mut self) -> Result<bool, LogClosed> {
        Ok(self.lifecycle.status() == Status::Placing && self.promote(self.lifecycle.epoch()).await?)
    }

    /// A successor is live: what the edge captures from now on is not wanted.
    async fn dismiss(&mut self, former: Epoch) -> Result<(), LogClosed> {
        self.live.remove(&former);
        self.meeting.retire(former).await?;
        self.leave(former).await;
        self.end_before(self.lifecycle.epoch(), true).await;
        Ok(())
    }

    /// Tells the edge twice: in order with its speech, and, should that link be down, by request.
    async fn leave(&mut self, epoch: Epoch) {
        let meeting = self.meeting.id;
        self.meeting.tell_edge(epoch, ToLink::Leave { meeting }).await;
        let Some(owner) = self.meeting.owner(epoch) else { return };
        let (mesh, key) = (self.placer.mesh.clone(), self.meeting.key().for_edge(&owner.edge));
        once("release", async move {
            if let Err(error) = mesh.request(&owner.edge, &Request::Release { meeting, key }).await {
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
            self.name_owed().await?;
        }
        let failure = self.lifecycle.failure().filter(|_| status == Status::Failed).cloned();
        let left = || {
            let leaves = matches!(status, Status::Finishing | Status::Done);
            // A restart while words were being made has forgotten why; the record has not.
            let why = || self.lifecycle.left().map(Into::into).or_else(|| self.meeting.record().sub_code);
            leaves.then(why).flatten()
        };
        let (sub_code, detail) = failure.map_or_else(|| (left(), None), |(code, detail)| (Some(code), detail));
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

/// What broke in a task of the supervisor's breaks the supervisor.
fn as_here(ended: Result<(), Broken>) {
    if let Err(Broken::Panicked(panic)) = ended {
        panic.go_on();
    }
}

/// Returns at the end of the edge's lease.
async fn lease_end(meeting: &Meeting) {
    match meeting.lease_end() {
        Some(end) => sleep_until(end.into()).await,
        None => std::future::pending().await,
    }
}

/// The placement under way; never, when there is none.
async fn placed(placing: &mut Option<(Which, Placing)>) -> (Which, Result<Epoch, (Epoch, Unplaced)>) {
    match placing {
        Some((which, placing)) => (*which, placing.await),
        None => std::future::pending().await,
    }
}
