//! Claims of meetings as a whole core sees them: what it takes over, what it finds out, what it leaves.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::{sync::Arc, time::Duration};

use backon::{ExponentialBuilder, Retryable};
use mesh::{
    authorize::Message,
    identity::{Identity, NodeId},
    tasks::once,
    wire::{Epoch, MeetingId, Term, control::RefusedReason},
};
use tokio::time::timeout;

use super::{Meetings, keys::Wanted as Keys};
use crate::{
    authority::claim::NotTaken,
    lock,
    meeting::{
        Meeting,
        role::{self, NotHere},
    },
    replicate::sender::Replicator,
    store::{
        Op,
        record::{CoreRole, MeetingRecord, Serving},
    },
};

/// Why a standby takes a meeting over.
pub(super) enum Cause {
    /// This edge, which owns it under that epoch, turns to it.
    Called(Identity, Epoch),
    /// The core that served it, as far as was known, has been gone for long.
    Orphaned(Serving),
    /// It had claimed it before.
    Claimed,
    /// The core that serves it, as it says itself, has less of it.
    Outlasting(Serving),
}

/// How long an edge that calls waits for a shared authority's word. It has other meetings on the same stream.
const CALL_WAIT: Duration = Duration::from_millis(500);
/// How long one takeover waits for what else is done of the meeting.
const TURN_WAIT: Duration = Duration::from_secs(5);
/// How long the end of a meeting waits to be noted; after that its claim stays until another meeting wants its key, or
/// it is swept.
const RELEASE_WAIT: Duration = Duration::from_secs(600);

impl Meetings {
    /// [`Meetings::claim`] for an edge that waits.
    pub(super) async fn claim_for_edge(
        self: &Arc<Self>,
        id: MeetingId,
        term: Term,
        edge: &Identity,
        epoch: Epoch,
    ) -> Result<Arc<Meeting>, NotHere> {
        let (this, cause) = (self.clone(), Cause::Called(edge.clone(), epoch));
        let claiming = once("claim", async move { this.claim(id, term, cause).await });
        let ended = match self.claims.is_shared() {
            // It goes on: the edge asks again.
            true => timeout(CALL_WAIT, claiming).await.map_err(|_| NotHere::from(RefusedReason::Full))?,
            false => claiming.await,
        };
        ended.unwrap_or_else(|_| Err(RefusedReason::Full.into()))
    }

    /// Takes a meeting over of which this core is the standby, if it gets the claim. Replicas of it wait meanwhile.
    pub(super) async fn claim(
        self: &Arc<Self>,
        id: MeetingId,
        term: Term,
        cause: Cause,
    ) -> Result<Arc<Meeting>, NotHere> {
        let me = self.me().clone();
        let receiver = self.standbys.receiver(id, &me, usize::MAX).ok_or(RefusedReason::Full)?;
        let _turn = timeout(TURN_WAIT, receiver.lock()).await.map_err(|_| RefusedReason::Full)?;
        if let Some(meeting) = self.live(id) {
            return role::opened(&me, meeting.replication.see(Replicator::term), term).map(|()| meeting);
        }
        let record = self.stored(id)?;
        self.may_claim(&record, term, &cause)?;
        let former = (record.serving.by.as_ref(), record.serving.term);
        let stands = match self.claims.take(id, &me, former, (term, record.owners.epoch)).await {
            Ok(stands) => stands,
            Err(why) => return Err(self.not_taken(id, term, why)),
        };
        let _hands = self.hands.lock().await;
        let record = self.stored(id)?;
        // What all cores see stands, whatever was heard meanwhile.
        let moved = !self.claims.is_shared() && record.serving.role != CoreRole::Standby;
        if moved || record.status.ended() {
            let _ = self.claims.remove(id, stands.revision).await;
            return Err(RefusedReason::Ended.into());
        }
        self.take_over(record, term, stands).await
    }

    fn stored(&self, id: MeetingId) -> Result<MeetingRecord, RefusedReason> {
        self.store.meeting(id).map_err(|_| RefusedReason::Full)?.ok_or(RefusedReason::UnknownMeeting)
    }

    fn may_claim(&self, record: &MeetingRecord, term: Term, cause: &Cause) -> Result<(), NotHere> {
        let holds = match cause {
            Cause::Called(edge, epoch) => {
                role::called(record, self.me(), edge, *epoch, term)?;
                return Ok(self.check_owner(Message::Serve, edge, record, *epoch)?);
            }
            Cause::Orphaned(known) | Cause::Outlasting(known) => record.serving == *known && self.may_hold(record),
            // Also if it has been dropped since: who served lets no words out after that, for want of the claim.
            Cause::Claimed => record.serving.role != CoreRole::Serving && term > record.serving.term,
        };
        if holds && !record.status.ended() { Ok(()) } else { Err(RefusedReason::Full.into()) }
    }

    fn not_taken(&self, id: MeetingId, term: Term, why: NotTaken) -> NotHere {
        metrics::counter!("nearfield_core_takeovers_refused_total").increment(1);
        match why {
            NotTaken::Held(core, of) if of >= term => NotHere::Moved(core, of),
            // Who serves has given this standby up.
            NotTaken::Held(..) => RefusedReason::UnknownMeeting.into(),
            NotTaken::Ended => RefusedReason::Ended.into(),
            NotTaken::Unknown(why) => {
                tracing::warn!(meeting = %id, why, "not taken over: the authority has not said that it may be");
                lock(&self.unsettled).insert(id);
                RefusedReason::Full.into()
            }
        }
    }

    /// Another core has it, or nobody will: this one is not its standby any more, unless it has heard of it anew.
    pub(super) async fn give_up(&self, known: &MeetingRecord, to: Option<NodeId>) {
        let Some(mut record) = self.stored(known.id).ok().filter(|r| r.serving == known.serving) else { return };
        record.serving.role = CoreRole::Moved;
        record.serving.by = to.or(record.serving.by);
        record.serving.standby = self.perhaps_mine(known.id);
        if record.serving.standby.is_none() {
            record.erase_secrets();
        }
        let _ = self.log.write(Op::Meeting(Box::new(record))).await;
        self.standbys.let_go(known.id);
    }

    /// What [`Serving::standby`] is to say of a meeting that is another's: this core, while it does not know whether it has claimed it.
    pub(super) fn perhaps_mine(&self, id: MeetingId) -> Option<NodeId> {
        lock(&self.unsettled).contains(&id).then(|| self.me().clone())
    }

    /// Whether this core may have claimed a meeting that it did not serve when it stopped.
    pub(super) fn is_unsettled(&self, record: &MeetingRecord) -> bool {
        let may = match record.serving.role {
            CoreRole::Standby => true,
            CoreRole::Moved => record.serving.standby.as_ref() == Some(self.me()),
            CoreRole::Serving => false,
        };
        may && self.claims.is_shared() && !record.status.ended()
    }

    /// Whether a meeting is under way as far as this core knows, and it has, or may have, a part in it.
    pub(super) fn may_take_up(&self, record: &MeetingRecord) -> bool {
        let part = record.serving.role != CoreRole::Moved || self.is_unsettled(record);
        part && !record.status.ended()
    }

    /// Looks at the claims that this core may be wrong about: of what it served when it stopped, of what it tried to take over, and
    /// of what the others may have gone on with.
    pub(super) async fn look_at_claims(self: &Arc<Self>) {
        let live: Vec<Arc<Meeting>> = lock(&self.live).values().cloned().collect();
        let shared = self.claims.is_shared();
        for meeting in live {
            let doubtful = shared && meeting.replication.see(Replicator::is_in_doubt);
            if (doubtful || !meeting.standing.is_known())
                && meeting.look_at_claim().await.is_err()
                && !self.claims.is_up()
            {
                return;
            }
        }
        let unsettled: Vec<MeetingId> = lock(&self.unsettled).iter().copied().collect();
        for id in unsettled {
            let Ok(stands) = self.claims.read(id).await else { return };
            lock(&self.unsettled).remove(&id);
            let mine = stands.map(|s| s.claim).filter(|c| c.core == *self.me() && self.live(id).is_none());
            if let Some(claim) = mine
                && self.claim(id, claim.term, Cause::Claimed).await.is_ok()
            {
                tracing::warn!(meeting = %id, term = claim.term.0, "took over what was claimed before");
            }
        }
    }

    /// The meeting is over: its claim goes.
    pub(super) fn release(&self, meeting: Arc<Meeting>) {
        let (stop, claims) = (self.stop.clone(), self.claims.clone());
        let (keys, id) = (Keys::of_record(&meeting.record()).all(), meeting.id);
        self.tasks.spawn(async move {
            let pauses = ExponentialBuilder::default()
                .with_min_delay(Duration::from_millis(500))
                .with_max_delay(Duration::from_secs(30))
                .with_jitter()
                .without_max_times();
            let release = || {
                let (meeting, claims, keys) = (meeting.clone(), claims.clone(), keys.clone());
                async move {
                    // The keys first: one without a claim behind it gives way.
                    claims.let_go(&keys, id).await?;
                    meeting.standing.release().await
                }
            };
            let release = release.retry(pauses);
            let released = stop.run_until_cancelled(timeout(RELEASE_WAIT, release)).await;
            if !matches!(released, Some(Ok(Ok(())))) {
                metrics::counter!("nearfield_core_claims_left_total").increment(1);
            }
        });
    }
}
