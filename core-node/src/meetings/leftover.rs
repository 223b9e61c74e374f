//! Claims that stand in the way of a new meeting with the same key, though nobody goes on with theirs: their core ended while the
//! authority was away, or is gone for good. They give way.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::time::{Duration, Instant};

use mesh::{
    identity::NodeId,
    wire::{
        MeetingId,
        keys::{Found, KeyDigest, Keys},
        request::{Request, Response},
    },
};
use tokio::time::timeout;

use super::Meetings;
use crate::{
    authority::{AuthorityError, Claim},
    lock,
};

/// A core that is asked what it knows of a meeting answers within this, or is looked for at the authority.
const ASK_WAIT: Duration = Duration::from_millis(800);

/// A core says that it lives every few seconds: one that was silent for less than this may be there.
const LIFE: Duration = Duration::from_secs(30);

/// Meetings that may give way for one request: each of its keys may be another's, and be taken anew meanwhile.
const ROUNDS: usize = 4;

impl Meetings {
    /// Has the keys stand for `meeting`, where all cores see them. Returns the meeting that one stands for instead, and that lives.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub(super) async fn hold_all(
        &self,
        keys: &[KeyDigest],
        meeting: MeetingId,
    ) -> Result<Option<MeetingId>, AuthorityError> {
        let mut other = self.claims.hold(keys, meeting).await?;
        for _ in 0..ROUNDS {
            match other {
                Some(left) if self.gives_way(left, keys).await? => other = self.claims.hold(keys, meeting).await?,
                other => return Ok(other),
            }
        }
        Ok(other)
    }

    /// Removes the claim of a meeting with which nobody goes on. False if somebody does, or may.
    async fn gives_way(&self, meeting: MeetingId, keys: &[KeyDigest]) -> Result<bool, AuthorityError> {
        let Some(stands) = self.claims.read(meeting).await? else { return Ok(true) };
        let Claim { core, standby, .. } = &stands.claim;
        for core in [Some(core), standby.as_ref()].into_iter().flatten() {
            if self.may_go_on(core, meeting, keys).await? {
                return Ok(false);
            }
        }
        match self.claims.remove(meeting, stands.revision).await {
            Ok(()) => {}
            // It has just been taken over.
            Err(AuthorityError::Conflict(_)) => return Ok(false),
            Err(error) => return Err(error),
        }
        metrics::counter!("nearfield_core_claims_given_way_total").increment(1);
        tracing::warn!(%meeting, core = %stands.claim.core, "a claim that nobody goes on with gives way to a new meeting");
        Ok(true)
    }

    async fn may_go_on(&self, core: &NodeId, meeting: MeetingId, keys: &[KeyDigest]) -> Result<bool, AuthorityError> {
        if core == self.me() {
            return Ok(self.goes_on_here(meeting));
        }
        if let Some(found) = self.ask_one(core, keys).await {
            return Ok(found.iter().any(|found| match found {
                Found::Made { meeting: of, .. } | Found::Making { meeting: of, .. } => *of == meeting,
                Found::Nothing => false,
            }));
        }
        let life = self.claims.life(core).await?;
        let silent = lock(&self.lives).handle(core, life, Instant::now());
        Ok(silent < self.settings.failover.takeover.max(LIFE))
    }

    /// Whether this core serves a meeting, or may: also while it does not know whether it has claimed it.
    pub(super) fn goes_on_here(&self, meeting: MeetingId) -> bool {
        if self.live(meeting).is_some() || lock(&self.unsettled).contains(&meeting) {
            return true;
        }
        match self.store.meeting(meeting) {
            Ok(record) => record.is_some_and(|record| self.may_take_up(&record)),
            Err(_) => true,
        }
    }

    async fn ask_one(&self, core: &NodeId, keys: &[KeyDigest]) -> Option<Vec<Found>> {
        let asked = Request::Keys(Keys { making: None, keys: keys.to_vec() });
        match timeout(ASK_WAIT, self.placer.mesh.request(core, &asked)).await {
            Ok(Ok(Response::Keys(found))) if found.len() == keys.len() => Some(found),
            _ => None,
        }
    }
}
