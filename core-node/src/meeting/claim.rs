//! What the primary claims of a meeting: noted at the authority before anybody acts on it.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use mesh::{
    identity::NodeId,
    wire::{Epoch, Term},
};
use tokio::time::timeout;

use super::Meeting;
use crate::{
    authority::{Claim, standing::Lost},
    replicate::sender::{Replicator, Settled},
};

/// How long a new owner waits for an authority that is gone; then the placement has failed, and another is tried.
const OUTAGE: Duration = Duration::from_secs(600);
/// The longest pause between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(1);

impl Meeting {
    /// Claims `epoch`, so that this core may grant it. Waits while the authority is gone, ten minutes at most.
    ///
    /// # Errors
    /// Another core serves the meeting, and this one steps down; or the wait is over.
    pub async fn claim_epoch(&self, epoch: Epoch) -> Result<(), Lost> {
        let claim = || self.amend_claim(false, move |claim| claim.epoch = claim.epoch.max(epoch));
        timeout(OUTAGE, claim.retry(pauses()).when(Lost::may_pass)).await.unwrap_or_else(|_| Err(late()))
    }

    /// Claims that `standby`, and no other core, may take the meeting over. Tries until it is so: words wait for it, or nobody
    /// knows of that standby yet.
    ///
    /// # Errors
    /// Another core serves the meeting, and this one steps down.
    pub async fn claim_standby(&self, standby: Option<&NodeId>) -> Result<(), Lost> {
        // Without one, the edges or it itself have said that it does not take over.
        let claim = || self.amend_claim(standby.is_none(), |claim| claim.standby = standby.cloned());
        claim.retry(pauses()).when(Lost::may_pass).await
    }

    /// Claims `term`, to go on alone in it. False if the authority could not be asked, and knows nothing of it.
    ///
    /// # Errors
    /// Another core serves the meeting, and this one steps down.
    pub async fn claim_term(&self, term: Term) -> Result<bool, Lost> {
        let now = self.replication.see(Replicator::term);
        match self.standing.look(now, None).await {
            Err(Lost::Unknown(_)) => return Ok(false),
            // It was heeded before, or nothing stands: `begin` says what that means.
            Ok(()) | Err(Lost::Later(_) | Lost::Gone) => {}
            lost => return self.heed(lost).map(|()| true),
        }
        // From here on it may have been heeded, whatever is answered.
        let begin = || self.standing.begin(now, term);
        self.heed(begin.retry(pauses()).when(Lost::may_pass).await).map(|()| true)
    }

    /// Looks whether this core's claim stands.
    ///
    /// # Errors
    /// It does not, or that could not be found out.
    pub async fn look_at_claim(&self) -> Result<(), Lost> {
        let (term, seed) = self.seed(false);
        self.heed(self.standing.look(term, seed).await)
    }

    async fn amend_claim(&self, certain: bool, change: impl Fn(&mut Claim) + Send) -> Result<(), Lost> {
        let (term, seed) = self.seed(certain);
        self.heed(self.standing.amend(term, seed, change).await)
    }

    /// The claim to make where none stands: of a meeting that was made without an authority. With a standby that may have taken it over,
    /// and ended it, that must be `certain`.
    fn seed(&self, certain: bool) -> (Term, Option<Claim>) {
        let (term, settled) = self.replication.see(|m| (m.term(), m.settled(1) == Settled::Yes));
        let record = self.record();
        let (core, standby) = (self.standing.me().clone(), record.serving.standby);
        let seed = Claim { core, term, epoch: record.owners.epoch, standby };
        (term, (certain || settled || !self.standing.is_shared()).then_some(seed))
    }

    /// Does what follows from a claim that does not stand.
    fn heed(&self, done: Result<(), Lost>) -> Result<(), Lost> {
        match &done {
            Err(Lost::Superseded(core, term)) => {
                self.replication.with(|m, _| m.handle_other(core, *term));
            }
            Err(Lost::Later(term)) => self.replication.with(|m, _| m.handle_later(*term)),
            _ => {}
        }
        done
    }
}

fn pauses() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(MAX_PAUSE)
        .without_max_times()
        .with_jitter()
}

fn late() -> Lost {
    Lost::Unknown(format!("the authority was gone for {OUTAGE:?}"))
}
