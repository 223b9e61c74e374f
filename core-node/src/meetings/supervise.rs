//! The one task that moves a meeting on: feeds its [`Machine`] what happens, and does what that asks, to the end.
//!
//! A meeting that is cut short does not wait for what is under way: that is dropped, and what is left to do has a deadline for each step.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh::{
    node::Member,
    placement::Decision,
    tasks::{contained, once},
    wire::{Epoch, request::Request},
};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep_until, timeout},
};

use super::Meetings;
use crate::{
    meeting::{
        Link, Meeting, Notice,
        captures::Now,
        link::ToLink,
        machine::{
            Action, Ending, Machine, StatusChange,
            seek::{Declined, Found, Step},
        },
        now, wall,
    },
    placement::{Placer, Wanted, assign::reach},
    store::{
        log::LogClosed,
        record::{Gap, MeetingRecord, Status},
    },
};

/// How long a step to the end of a meeting that was cut short may take: what it needs may be broken, or held.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// What is being done to find an edge; of a ranking also why it is so.
type Seeking = Pin<Box<dyn Future<Output = (Found, Option<Decision>)> + Send>>;

/// Why the driver stops.
enum Halt {
    /// The meeting ends here.
    Ended(Ending),
    /// The node does, or its store has failed.
    Left,
}

impl From<LogClosed> for Halt {
    fn from(_: LogClosed) -> Self {
        Self::Left
    }
}

pub(super) struct Supervisor {
    meetings: Arc<Meetings>,
    meeting: Arc<Meeting>,
    placer: Arc<Placer>,
    wanted: Wanted,
    seeking: Option<Seeking>,
    decision: Arc<Option<Decision>>,
    members: watch::Receiver<Arc<Vec<Member>>>,
}

impl Supervisor {
    pub(super) fn new(meetings: Arc<Meetings>, meeting: Arc<Meeting>, wanted: Wanted) -> Self {
        let placer = meetings.placer.clone();
        let members = placer.mesh.members();
        Self { meetings, meeting, placer, wanted, seeking: None, decision: Arc::default(), members }
    }

    /// Runs until the meeting has ended here, the node stops or the store fails.
    pub(super) async fn run(mut self, mut notices: mpsc::Receiver<Notice>) {
        let _gone = self.meeting.gone_with_this();
        if let Halt::Ended(how) = self.drive(&mut notices).await {
            self.meetings.end(&self.meeting, how).await;
        }
    }

    async fn drive(&mut self, notices: &mut mpsc::Receiver<Notice>) -> Halt {
        let meeting = self.meeting.clone();
        tokio::select! {
            biased;
            () = meeting.cut_short() => {}
            halt = contained("the supervisor", self.go_on(notices)) => match halt {
                Ok(halt) => return halt,
                Err(panic) => meeting.handle_broken(format!("the supervisor broke: {panic}")),
            },
        }
        self.run_out().await
    }

    /// Does what is left to do. What breaks again, fails or is held is passed over.
    async fn run_out(&mut self) -> Halt {
        while let Some(action) = self.meeting.machine(|m| m.poll_action()) {
            let done = timeout(END_TIMEOUT, contained("the end of a meeting", self.perform(action)));
            if let Ok(Ok(Err(Halt::Ended(how)))) = done.await {
                return Halt::Ended(how);
            }
        }
        // Not reached: the last action is the end.
        Halt::Left
    }

    async fn go_on(&mut self, notices: &mut mpsc::Receiver<Notice>) -> Halt {
        self.meeting.drain(None).await;
        let stop = self.meeting.stop.clone();
        loop {
            match self.settle().await {
                Ok(()) => {}
                Err(Halt::Left) => {
                    // The store has failed, and the node ends. Or another core serves the meeting: that will be said.
                    notices.close();
                    stop.cancelled().await;
                    return Halt::Left;
                }
                Err(ended) => return ended,
            }
            let timeout = self.meeting.machine(|m| m.poll_timeout()).map(|(at, _)| at);
            tokio::select! {
                () = stop.cancelled() => return Halt::Left,
                Some(notice) = notices.recv() => self.input(|m, now| m.handle_notice(notice, now)),
                () = sleep_until(timeout.unwrap_or_else(Instant::now).into()), if timeout.is_some() => {
                    self.input(Machine::handle_timeout);
                }
                Ok(()) = self.members.changed() => self.input(Machine::handle_members),
                () = self.meeting.progressed() => {}
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
    async fn settle(&mut self) -> Result<(), Halt> {
        let ((undone, open), present) = (self.meeting.backlog(), self.meeting.present());
        self.input(|m, now| m.advance(undone, open, present, now));
        self.act().await?;
        let (undone, open) = self.meeting.backlog();
        self.input(|m, now| m.conclude(undone, open, now));
        self.act().await
    }

    async fn act(&mut self) -> Result<(), Halt> {
        while let Some(action) = self.meeting.machine(|m| m.poll_action()) {
            self.perform(action).await?;
        }
        Ok(())
    }

    async fn perform(&mut self, action: Action) -> Result<(), Halt> {
        let meeting = self.meeting.clone();
        match action {
            Action::Seek(step) => self.seeking = Some(self.seek(step)),
            Action::DropSeek => self.seeking = None,
            Action::Declined(by) => self.placer.handle_declined(&by),
            Action::Tally => meeting.tally(),
            Action::Leave(epoch) => self.tell_to_leave(epoch).await,
            Action::Write => _ = meeting.update_here(|_| {}).await?,
            Action::Stopped(epoch) => meeting.handle_stopped(epoch).await?,
            Action::Capturing => meeting.tell_capturing().await,
            Action::EndOpen { below, but } => meeting.end_open(below, &but).await,
            Action::Fence { below, but } => meeting.fence(below, but).await,
            Action::Gap(gap) => publish_gap(&meeting, gap, None).await?,
            Action::NoGap => meeting.update(|record| record.gaps.retain(|g| g.to.is_some())).await?,
            Action::Owed(epoch, gap) => publish_gap(&meeting, gap, Some(epoch)).await?,
            Action::Tell(change) => tell(&meeting, change).await?,
            Action::Publish(status) => publish(&meeting, status).await?,
            Action::NoWitness => meeting.replication.with(|m, _| m.handle_no_witness()),
            Action::Silent(edge) => self.placer.handle_silent(&edge),
            Action::Unmet(wish, why) => meeting.wishes.handle_unmet(wish, why, wall()),
            Action::Met(wish) => meeting.wishes.handle_met(wish),
            Action::End(how) => return Err(Halt::Ended(how)),
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

/// Writes where the meeting stands.
async fn tell(meeting: &Meeting, StatusChange { status, failure, left, gap }: StatusChange) -> Result<(), LogClosed> {
    let left = || {
        let leaves = matches!(status, Status::Finishing | Status::Done);
        // A restart while words were being made has forgotten why; the record has not.
        let why = || left.map(Into::into).or_else(|| meeting.record().sub_code);
        leaves.then(why).flatten()
    };
    let (sub_code, detail) = failure.map_or_else(|| (left(), None), |(code, detail)| (Some(code), detail));
    tracing::info!(status = status.as_str(), sub_code, "meeting status");
    let change = |record: &mut MeetingRecord| {
        record.status = status;
        record.gaps.retain(|g| g.to.is_some());
        record.gaps.extend(gap);
        (record.sub_code, record.detail) = (sub_code, detail);
        record.ended_at = status.ended().then(wall);
    };
    meeting.update(change).await
}

/// Tells the world where the meeting stands, as it is written.
async fn publish(meeting: &Meeting, status: Status) -> Result<(), LogClosed> {
    let seq = meeting.publisher.status(status, meeting.record().sub_code).await?;
    if status.ended() {
        meeting.update(|record| record.last_seq = seq).await?;
    }
    Ok(())
}

/// What was found, when something is sought.
async fn sought(seeking: &mut Option<Seeking>) -> (Found, Option<Decision>) {
    match seeking {
        Some(seeking) => seeking.await,
        None => std::future::pending().await,
    }
}
