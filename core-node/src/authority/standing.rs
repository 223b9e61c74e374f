//! One meeting's claim, as the core that serves it holds it.

use mesh::{
    identity::NodeId,
    wire::{MeetingId, Term},
};
use tokio::sync::Mutex;

use super::{AuthorityError, Claim, Claims, ROUNDS, Stands};

/// Why the primary's claim is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// Another core serves the meeting, in a later term.
    #[error("{0} serves the meeting")]
    Superseded(NodeId, Term),
    /// This core itself had begun a later term, before it was started again.
    #[error("this core has begun a later term")]
    Later(Term),
    /// Nothing stands, and it is not known why.
    #[error("nobody claims the meeting")]
    Gone,
    /// There was no answer that could be read. What was asked may be heeded yet.
    #[error("{0}")]
    Unknown(String),
}

impl Lost {
    /// Whether it may be otherwise soon.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Gone | Self::Unknown(_))
    }
}

/// See the module. One change at a time.
pub struct Standing {
    claims: Claims,
    meeting: MeetingId,
    me: NodeId,
    known: Mutex<Option<Stands>>,
}

impl Standing {
    /// The claim of `meeting`, which `me` serves; `known` if it was just made.
    pub fn new(claims: Claims, meeting: MeetingId, me: NodeId, known: Option<Stands>) -> Self {
        Self { claims, meeting, me, known: Mutex::new(known) }
    }

    /// The core that holds it.
    pub fn me(&self) -> &NodeId {
        &self.me
    }

    /// Whether all cores see it.
    pub fn is_shared(&self) -> bool {
        self.claims.is_shared()
    }

    /// Whether it is known, and nobody is about to change it.
    pub fn is_known(&self) -> bool {
        self.known.try_lock().is_ok_and(|known| known.is_some())
    }

    /// Claims a meeting that is just being made.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub async fn make(&self, claim: Claim) -> Result<(), AuthorityError> {
        let mut known = self.known.lock().await;
        *known = Some(self.claims.replace(self.meeting, None, claim).await?);
        Ok(())
    }

    /// Changes the claim of this core's `term`. Where none stands `seed` is made, if there is one, and changed.
    ///
    /// # Errors
    /// See [`Lost`].
    pub async fn amend(&self, term: Term, seed: Option<Claim>, change: impl Fn(&mut Claim) + Send) -> Result<(), Lost> {
        let mut known = self.known.lock().await;
        for _ in 0..ROUNDS {
            let stands = match known.take() {
                Some(stands) => Some(stands),
                None => self.claims.read(self.meeting).await.map_err(unknown)?,
            };
            if let Some(lost) = stands.as_ref().and_then(|s| self.lost(&s.claim, term)) {
                return Err(lost);
            }
            let Some(mut claim) = stands.as_ref().map(|s| s.claim.clone()).or(seed.clone()) else {
                return Err(Lost::Gone);
            };
            claim.term = claim.term.max(term);
            change(&mut claim);
            if let Some(stands) = stands.as_ref().filter(|s| s.claim == claim) {
                *known = Some(stands.clone());
                return Ok(());
            }
            match self.claims.replace(self.meeting, stands.as_ref(), claim).await {
                Ok(stands) => {
                    *known = Some(stands);
                    return Ok(());
                }
                // An answer was lost, or another core has it now: the next round tells.
                Err(AuthorityError::Conflict(_)) => {}
                Err(error) => return Err(unknown(error)),
            }
        }
        Err(Lost::Unknown("others change it all the time".into()))
    }

    /// Goes on in the later term `next`, without a standby.
    ///
    /// # Errors
    /// See [`Lost`].
    pub async fn begin(&self, term: Term, next: Term) -> Result<(), Lost> {
        let begin = |claim: &mut Claim| (claim.term, claim.standby) = (next, None);
        match self.amend(term, None, begin).await {
            // It had been heeded before.
            Err(Lost::Later(later)) if later == next => Ok(()),
            // Alone, nobody else can know better.
            Err(Lost::Gone) if !self.claims.is_shared() => Ok(()),
            done => done,
        }
    }

    /// Looks at what stands, whatever was known.
    ///
    /// # Errors
    /// See [`Lost`].
    pub async fn look(&self, term: Term, seed: Option<Claim>) -> Result<(), Lost> {
        *self.known.lock().await = None;
        self.amend(term, seed, |_| {}).await
    }

    /// The meeting is over, or this core has stepped down: what it claimed here, if it still stands, is removed.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub async fn release(&self) -> Result<(), AuthorityError> {
        let mut known = self.known.lock().await;
        for _ in 0..ROUNDS {
            let stands = match known.take() {
                Some(stands) => Some(stands),
                None => self.claims.read(self.meeting).await?,
            };
            let Some(stands) = stands.filter(|s| s.claim.core == self.me) else { return Ok(()) };
            match self.claims.remove(self.meeting, stands.revision).await {
                // An answer was lost, or it is somebody else's by now.
                Err(AuthorityError::Conflict(_)) => {}
                done => return done,
            }
        }
        Ok(())
    }

    fn lost(&self, claim: &Claim, term: Term) -> Option<Lost> {
        match () {
            () if claim.core != self.me => Some(Lost::Superseded(claim.core.clone(), claim.term)),
            () if claim.term == term => None,
            () if claim.term > term => Some(Lost::Later(claim.term)),
            // Its own of an earlier term, in a store that no other core writes to.
            () => None,
        }
    }
}

fn unknown(error: AuthorityError) -> Lost {
    Lost::Unknown(error.to_string())
}
