//! Claims in this core's own store: what one core, or each of several, needs no other program for.

use std::sync::Arc;

use async_trait::async_trait;
use mesh::{
    tasks::{Broken, blocking},
    wire::MeetingId,
};

use super::{Authority, AuthorityError, Claim, Revision, Stands};
use crate::store::{Replaced, Store, StoreError};

/// See the module. A revision is a number that the store has given to no other change.
pub struct Embedded {
    store: Arc<Store>,
}

impl Embedded {
    /// Claims in `store`.
    pub fn new(store: Arc<Store>) -> Self {
        Self { store }
    }

    async fn with<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, AuthorityError> {
        let store = self.store.clone();
        let done = blocking("claims", move || act(&store)).await;
        done.map_err(|e| AuthorityError::Unavailable(Broken::from(e).to_string()))?
            .map_err(|e| AuthorityError::Unavailable(e.to_string()))
    }

    async fn change(
        &self,
        meeting: MeetingId,
        after: Option<Revision>,
        claim: Option<Vec<u8>>,
    ) -> Result<Revision, AuthorityError> {
        let after = after.map(|revision| revision.0);
        match self.with(move |store| store.replace_claim(meeting, after, claim.as_deref())).await? {
            Replaced::By(revision) => Ok(Revision(revision)),
            Replaced::Not(found) => Err(AuthorityError::Conflict(stands(found)?.map(Box::new))),
        }
    }
}

#[async_trait]
impl Authority for Embedded {
    fn is_shared(&self) -> bool {
        false
    }

    async fn read(&self, meeting: MeetingId) -> Result<Option<Stands>, AuthorityError> {
        stands(self.with(move |store| store.claim(meeting)).await?)
    }

    async fn replace(
        &self,
        meeting: MeetingId,
        after: Option<Revision>,
        claim: &Claim,
    ) -> Result<Revision, AuthorityError> {
        self.change(meeting, after, Some(claim.encode()?)).await
    }

    async fn remove(&self, meeting: MeetingId, revision: Revision) -> Result<(), AuthorityError> {
        self.change(meeting, Some(revision), None).await.map(|_| ())
    }
}

fn stands(row: Option<(u64, Vec<u8>)>) -> Result<Option<Stands>, AuthorityError> {
    let Some((revision, bytes)) = row else { return Ok(None) };
    Ok(Some(Stands { claim: Claim::decode(&bytes)?, revision: Revision(revision) }))
}
