//! The one task that moves a meeting on: feeds its [`Machine`] what happens, and does what that asks.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::{
    collections::BTreeSet,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh::{
    node::Member,
    placement::Decision,
    tasks::{Broken, once, told},
    wire::{Epoch, request::Request},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::sleep_until,
};
use tokio_util::sync::CancellationToken;

use crate::{
    meeting::{
        Link, Meeting, Notice,
        captures::Now,
        link::ToLink,
        machine::{
            Action, Machine, StatusChange,
            seek::{Declined, Found, Step},
        },
        now, wall,
    },
    placement::{Placer, Wanted, assign::reach},
    store::{
        log::LogClosed,
        record::{Gap, Status},
    },
};

/// How long an edge that lost its lease has to bring the rest of what it was sending, before that ends where it is. What
/// comes later makes an utterance of its own.
const LATE_GRACE: Duration = Duration::from_secs(2);

/// What is being done to find an edge; of a ranking also why it is so.
type Seeking = Pin<Box<dyn Future<Output = (Found, Option<Decision>)> + Send>>;

pub(super) struct Supervisor {
    meeting: Arc<Meeting>,
    placer: Arc<Placer>,
    wanted: Wanted,
    seeking: Option<Seeking>,
    decision: Arc<Option<Decision>>,
    members: watch::Receiver<Arc<Vec<Member>>>,
    /// What former owners left open is ended by these.
    ending: JoinSet<()>,
}

impl Supervisor {
    pub(super) fn new(meeting: Arc<Meeting>, placer: Arc<Placer>, wanted: Wanted) -> Self {
        let members = placer.mesh.members();
        let (seeking, decision) = (None, Arc::default());
        Self { meeting, placer, wanted, seeking, decision, members, ending: JoinSet::new() }
    }

    /// Runs until the meeting has ended, `stop` fires or the store fails.
    pub(super) async fn run(mut self, mut notices: mpsc::Receiver<Notice>, stop: CancellationToken) {
        loop {
            // An error ends the node.
            if self.settle().await.is_err() {
                return;
            }
            if self.meeting.machine(|m| m.status()).ended() {
                self.meeting.machine(|m| m.withdraw());
                let _ = self.act().await;
                return;
            }
            let timeout = self.meeting.machine(|m| m.poll_timeout()).map(|(at, _)| at);
            tokio::select! {
                () = stop.cancelled() => return,
                Some(notice) = notices.recv() => self.input(|m, now| m.handle_notice(notice, now)),
                () = sleep_until(timeout.unwrap_or_else(Instant::now).into()), if timeout.is_some() => {
                    self.input(Machine::handle_timeout);
                }
                Ok(()) = self.members.changed() => self.input(Machine::handle_members),
                () = self.meeting.progressed() => {}
                Some(ended) = self.ending.join_next() => as_here(ended.map_err(Broken::from)),
                (found, decision) = sought(&mut self.seeking) => {
                    self.seeking = None;
                    if decision.is_some() {
                        self.decision = Arc::new(decision);
                    }
                    self.input(|m, now| m.handle_found(found, now));
                }
            }
        }
    }

    /// Hands in what happened, with who is there by now.
    fn input(&self, input: impl FnOnce(&mut Machine<Link>, Now)) {
        let members = self.members.borrow().clone();
        self.meeting.machine(|m| {
            m.know(members);
            input(m, now());
        });
    }

    /// Has everything decided that follows from what has come in, and done.
    async fn settle(&mut self) -> Result<(), LogClosed> {
        let ((undone, open), present) = (self.meeting.backlog(), self.meeting.present());
        self.input(|m, now| m.advance(undone, open, present, now));
        self.act().await?;
        let (undone, open) = self.meeting.backlog();
        self.input(|m, now| m.conclude(undone, open, now));
        self.act().await
    }

    async fn act(&mut self) -> Result<(), LogClosed> {
        while let Some(action) = self.meeting.machine(|m| m.poll_action()) {
            match action {
                Action::Seek(step) => self.seeking = Some(self.seek(step)),
                Action::DropSeek => self.seeking = None,
                Action::Declined(by) => self.placer.handle_declined(&by),
                Action::Tally => self.meeting.tally(),
                Action::Leave(epoch) => self.tell_to_leave(epoch).await,
                Action::Write => _ = self.meeting.update_here(|_| {}).await?,
                Action::Stopped(epoch) => self.meeting.handle_stopped(epoch).await?,
                Action::Capturing => self.meeting.tell_capturing().await,
                Action::End { below, fence, wait } => self.end(below, fence, wait).await,
                Action::Fence(below) => self.meeting.fence(below, BTreeSet::new()).await,
                Action::Gap(gap) => publish_gap(&self.meeting, gap, None).await?,
                Action::NoGap => self.meeting.update(|record| record.gaps.retain(|g| g.to.is_some())).await?,
                Action::Owed(epoch, gap) => publish_gap(&self.meeting, gap, Some(epoch)).await?,
                Action::Tell(change) => tell(&self.meeting, change).await?,
                Action::NoWitness => self.meeting.replication.with(|m, _| m.handle_no_witness()),
                Action::Silent(edge) => self.placer.handle_silent(&edge),
                Action::Unmet(wish, why) => self.meeting.wishes.handle_unmet(wish, why, wall()),
                Action::Met(wish) => self.meeting.wishes.handle_met(wish),
            }
        }
        Ok(())
    }

    fn seek(&self, step: Step) -> Seeking {
        let (placer, meeting, decision) = (self.placer.clone(), self.meeting.clone(), self.decision.clone());
        let wanted = self.wanted.clone();
        Box::pin(async move {
            let found = match step {
                Step::Rank(order) => return placer.rank_for(&meeting, wanted, order).await,
                Step::Reach { edge, former } => Found::Done(reach(&*placer.mesh, &meeting, &edge, former).await),
                Step::Begin { edge, epoch } => Found::Begun(placer.begin(&meeting, &edge, epoch, &decision).await),
                Step::Claim(epoch) => Found::Done(meeting.claim_epoch(epoch).await.map_err(Declined::from)),
                Step::Store => Found::Done(meeting.update(|_| {}).await.map_err(Declined::from)),
                Step::Join(epoch) => Found::Answered(placer.join(&meeting, wanted, epoch).await),
            };
            (found, None)
        })
    }

    async fn end(&mut self, below: Epoch, fence: bool, wait: bool) {
        let meeting = self.meeting.clone();
        let end = async move {
            match fence {
                true => meeting.fence(below, meeting.capturing()).await,
                false => meeting.end_open(below, &meeting.capturing()).await,
            }
        };
        if !wait {
            return end.await;
        }
        let ending = async move {
            tokio::time::sleep(LATE_GRACE).await;
            end.await;
        };
        self.ending.spawn(told("late speech", ending));
    }

    /// Tells the edge twice: in order with its speech, and, should that link be down, by request.
    async fn tell_to_leave(&mut self, epoch: Epoch) {
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
}

/// `owed`: by the edge of this epoch, which owes nothing more from that write on.
async fn publish_gap(meeting: &Meeting, gap: Gap, owed: Option<Epoch>) -> Result<(), LogClosed> {
    let keep = |gap: Gap| {
        meeting.update(move |record| {
            owed.into_iter().for_each(|epoch| meeting.captures(|captures| captures.note_owed(epoch, None)));
            record.gaps.retain(|g| g.to.is_some());
            record.add_gap(gap);
        })
    };
    meeting.publisher.gap(gap, keep).await
}

/// Tells the world where the meeting stands.
async fn tell(meeting: &Meeting, StatusChange { status, failure, left, gap }: StatusChange) -> Result<(), LogClosed> {
    let left = || {
        let leaves = matches!(status, Status::Finishing | Status::Done);
        // A restart while words were being made has forgotten why; the record has not.
        let why = || left.map(Into::into).or_else(|| meeting.record().sub_code);
        leaves.then(why).flatten()
    };
    let (sub_code, detail) = failure.map_or_else(|| (left(), None), |(code, detail)| (Some(code), detail));
    let code = sub_code.clone();
    meeting
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
    let seq = meeting.publisher.status(status, sub_code).await?;
    if status.ended() {
        meeting.update(|record| record.last_seq = seq).await?;
    }
    Ok(())
}

/// What broke in a task of the supervisor's breaks the supervisor.
fn as_here(ended: Result<(), Broken>) {
    if let Err(Broken::Panicked(panic)) = ended {
        panic.go_on();
    }
}

/// What was found, when something is sought.
async fn sought(seeking: &mut Option<Seeking>) -> (Found, Option<Decision>) {
    match seeking {
        Some(seeking) => seeking.await,
        None => std::future::pending().await,
    }
}
