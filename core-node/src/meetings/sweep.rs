//! Claims at a shared authority that nobody goes on with, and that no new meeting's key asks for: they would stay for ever. Their core
//! could not take them back while the authority was away, or is gone for good.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use mesh::wire::MeetingId;

use super::Meetings;
use crate::{
    authority::{AuthorityError, Claim},
    lock,
};

/// How often each core looks.
pub(super) const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// A claim that was made or changed since may be of a meeting that is just being made, or taken over.
const UNCHANGED: Duration = Duration::from_secs(3600);

/// A core that gave no sign of life for so long does not come back. If it does, it claims anew what it goes on with (`Standing::look`).
const GONE: Duration = Duration::from_secs(6 * 3600);

/// Claims that are looked at in one sweep, the oldest first: ids rise with time.
const MAX_SWEPT: usize = 10_000;

impl Meetings {
    /// Removes the claims that nobody goes on with.
    ///
    /// # Errors
    /// See [`AuthorityError`]; the next sweep goes on.
    pub(crate) async fn sweep_claims(&self, now: Instant) -> Result<(), AuthorityError> {
        let mut claims = BTreeMap::new();
        let claimed = self.claims.claimed().await?.into_iter();
        for meeting in claimed.filter(|meeting| self.live(*meeting).is_none()).take(MAX_SWEPT) {
            match self.claims.read(meeting).await {
                Ok(stands) => claims.extend(stands.map(|stands| (meeting, stands))),
                // Somebody must look.
                Err(AuthorityError::Unreadable(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let revisions = claims.iter().map(|(meeting, stands)| (*meeting, stands.revision)).collect();
        let old = lock(&self.unchanged).handle(&revisions, UNCHANGED, now);
        for (meeting, stands) in old.into_iter().filter_map(|meeting| claims.remove_entry(&meeting)) {
            if !self.is_left(meeting, &stands.claim, now).await? {
                continue;
            }
            match self.claims.remove(meeting, stands.revision).await {
                Ok(()) => {
                    metrics::counter!("nearfield_core_claims_swept_total").increment(1);
                    tracing::info!(%meeting, core = %stands.claim.core, "a claim that nobody goes on with is removed");
                }
                // Somebody does.
                Err(AuthorityError::Conflict(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn is_left(&self, meeting: MeetingId, claim: &Claim, now: Instant) -> Result<bool, AuthorityError> {
        if self.goes_on_here(meeting) {
            return Ok(false);
        }
        // Whose it was knows best.
        if claim.core == *self.me() && self.is_over_here(meeting) {
            return Ok(true);
        }
        for core in [Some(&claim.core), claim.standby.as_ref()].into_iter().flatten().filter(|core| *core != self.me())
        {
            let life = self.claims.life(core).await?;
            if lock(&self.lives).handle(core, life, now) < GONE {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_over_here(&self, meeting: MeetingId) -> bool {
        self.store.meeting(meeting).is_ok_and(|record| record.is_some_and(|record| record.status.ended()))
    }
}
