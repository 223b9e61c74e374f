//! Claims of meetings as a whole core sees them: what it takes over, what it finds out, what it leaves.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::{sync::Arc, time::Duration};

use backon::{ExponentialBuilder, Retryable};
use mesh::{
    identity::NodeId,
    wire::{MeetingId, Term, control::RefusedReason},
};
use tokio::time::timeout;

use super::{
    Meetings,
    seat::{self, NotHere},
};
use crate::{
    authority::claim::NotTaken,
    lock,
    meeting::Meeting,
    record::{CoreRole, MeetingRecord, Serving},
    replicate::sender::Replicator,
    store::Op,
};

/// How long an edge that calls waits for a shared authority's word. It has other meetings on the same stream.
const CALL_WAIT: Duration = Duration::from_millis(500);
/// How long one takeover waits for what else is done of the meeting.
const TURN_WAIT: Duration = Duration::from_secs(5);
/// How long the end of a meeting waits to be noted; after that its claim stays for good.
const RELEASE_WAIT: Duration = Duration::from_secs(600);

impl Meetings {
    /// [`Meetings::claim`] for an edge that waits.
    pub(super) async fn claim_for_edge(
        self: &Arc<Self>,
        record: MeetingRecord,
        term: Term,
    ) -> Result<Arc<Meeting>, NotHere> {
        let this = self.clone();
        let claiming = tokio::spawn(async move { this.claim(record, term).await });
        let ended = match self.claims.is_shared() {
            // It goes on: the edge asks again.
            true => timeout(CALL_WAIT, claiming).await.map_err(|_| NotHere::from(RefusedReason::Full))?,
            false => claiming.await,
        };
        ended.unwrap_or_else(|_| Err(RefusedReason::Full.into()))
    }

    /// Takes a meeting over of which this core is the standby by `record`, if it gets the claim. Replicas of it wait meanwhile.
    pub(super) async fn claim(self: &Arc<Self>, record: MeetingRecord, term: Term) -> Result<Arc<Meeting>, NotHere> {
        let (id, me) = (record.id, self.me().clone());
        let receiver = self.standbys.receiver(id, usize::MAX).ok_or(RefusedReason::Full)?;
        let _turn = timeout(TURN_WAIT, receiver.lock()).await.map_err(|_| RefusedReason::Full)?;
        if let Some(meeting) = self.live(id) {
            return seat::opened(&me, meeting.replication.see(Replicator::term), term).map(|()| meeting);
        }
        let former = (record.serving.by.as_ref(), record.serving.term);
        let stands = match self.claims.take(id, &me, former, (term, record.epoch)).await {
            Ok(stands) => stands,
            Err(why) => return Err(self.not_taken(id, term, why)),
        };
        let _hands = self.hands.lock().await;
        let mut held = self.store.meeting(id).map_err(|_| RefusedReason::Full)?;
        match held.take_if(|r| r.serving.role == CoreRole::Standby && !r.status.ended()) {
            Some(record) => self.take_over(record, term, stands).await,
            // It has ended meanwhile: nobody needs the claim.
            None => {
                let _ = self.claims.remove(id, stands.revision).await;
                Err(RefusedReason::Ended.into())
            }
        }
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

    /// Another core has it, or nobody will: this one is not its standby any more.
    pub(super) async fn give_up(&self, record: &MeetingRecord, to: Option<NodeId>) {
        let by = to.or_else(|| record.serving.by.clone());
        let serving = Serving { role: CoreRole::Moved, by, ..record.serving.clone() };
        let _ = self.log.write(Op::Meeting(Box::new(MeetingRecord { serving, ..record.clone() }))).await;
        self.standbys.let_go(record.id);
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
            let held = self.store.meeting(id).ok().flatten().filter(|r| r.serving.role == CoreRole::Standby);
            let mine = stands.map(|s| s.claim).filter(|c| c.core == *self.me());
            if let (Some(record), Some(claim)) = (held, mine)
                && !record.status.ended()
                && claim.term > record.serving.term
            {
                tracing::warn!(meeting = %id, term = claim.term.0, "taking over what was claimed before");
                let _ = self.claim(record, claim.term).await;
            }
        }
    }

    /// The meeting is over: its claim goes.
    pub(super) fn release(&self, meeting: Arc<Meeting>) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let pauses = ExponentialBuilder::default()
                .with_min_delay(Duration::from_millis(500))
                .with_max_delay(Duration::from_secs(30))
                .without_max_times();
            let release = || {
                let meeting = meeting.clone();
                async move { meeting.standing.release().await }
            };
            let release = release.retry(pauses);
            let released = stop.run_until_cancelled(timeout(RELEASE_WAIT, release)).await;
            if !matches!(released, Some(Ok(Ok(())))) {
                metrics::counter!("nearfield_core_claims_left_total").increment(1);
            }
        });
    }
}
