//! Who serves a meeting, written down where every core that may serve it looks: its region's authority.
//!
//! A [`Claim`] names the core, its term, the newest epoch it granted, and the one core that may take the meeting over from it.
//! It changes by compare-and-set after a known revision only, so of two cores that would change it one does, and the other is told what
//! [`Stands`].
//!
//! | who | asks before | finds another claim |
//! |---|---|---|
//! | a core that makes a meeting | it is made | – |
//! | the primary | an edge hears of a new epoch; a standby may be called; words go out without a standby that was; it goes on alone | it steps down |
//! | a standby | it takes over | it does not |
//! | a core that starts again | within a second | it steps down, or takes over what it had claimed |
//!
//! Two authorities: [`embedded`], in this core's own store, which no other core sees: between two cores the meeting's edge decides
//! then (`mesh::lease`). And [`nats`], a bucket that all cores of a region share: then a core that cannot reach it takes nothing over,
//! goes nowhere alone, and lets no words out that a standby lacks, so that no two ever serve.
//! There a request's keys stand as well while its meeting lives, so that of two cores that make one under the same key one does.
//! A claim or key that nobody goes on with gives way to a new meeting under the same key (`meetings::leftover`): each core says there every few
//! seconds that it lives, and is asked itself if it can be. What no key asks for is swept, hours later (`meetings::sweep`); it does not expire
//! at the authority, where a core that was only slow would lose what it serves.
//! A question whose answer was lost may have been heeded all the same; so whoever asks again looks first.

pub mod claim;
pub mod embedded;
pub mod lives;
pub mod nats;
pub mod standing;
#[cfg(test)]
pub(crate) mod tests;
pub mod unchanged;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use backon::{ExponentialBuilder, Retryable};
use mesh::{
    identity::NodeId,
    wire::{Epoch, MeetingId, Term, keys::KeyDigest},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

pub use self::claim::Claim;
use self::{
    claim::{NotTaken, Unreadable, take},
    embedded::Embedded,
};
use crate::store::Store;

/// The first pause after a question that was not answered; the next are longer, ...
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// ... up to this.
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// How often claims that change under a core's hand are looked at anew before it gives up.
const ROUNDS: usize = 4;

/// How often a core says at a shared authority that it lives.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// The same while it is not.
const PROBE_AGAIN: Duration = Duration::from_secs(1);

/// Which of a meeting's claims, or of several meetings': rises with each change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision(pub u64);

/// A claim as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stands {
    /// What it says.
    pub claim: Claim,
    /// Which it is.
    pub revision: Revision,
}

/// Why a claim was not read or made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Another stands, or none: not the one that was to be replaced. Nothing was changed.
    #[error("another claim stands")]
    Conflict(Option<Box<Stands>>),
    /// The claim would take back a term or an epoch. The caller's fault; nothing was changed.
    #[error("the claim is older than the one it would replace")]
    Backwards,
    /// What stands is no claim. Nothing was changed; somebody must look.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// No answer. What was asked may be heeded yet.
    #[error("the authority cannot be reached: {0}")]
    Unavailable(String),
}

/// Where claims are kept. Each call ends within a bounded time, and is tried once.
#[async_trait]
pub trait Authority: Send + Sync {
    /// Whether all cores that may serve the same meetings see the same claims.
    fn is_shared(&self) -> bool;

    /// What stands for `meeting`; `None` if nothing does, or no more. Never older than what this core was last told.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    async fn read(&self, meeting: MeetingId) -> Result<Option<Stands>, AuthorityError>;

    /// Replaces the claim of revision `after`, or the want of one, by `claim`. Returns the new revision, once it is where it survives.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    async fn replace(
        &self,
        meeting: MeetingId,
        after: Option<Revision>,
        claim: &Claim,
    ) -> Result<Revision, AuthorityError>;

    /// Removes the claim, if it is the one of that revision still.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    async fn remove(&self, meeting: MeetingId, revision: Revision) -> Result<(), AuthorityError>;

    /// Has `key` stand for `meeting` instead of for `after`, or for nothing. Returns the meeting that it stands for if that is
    /// another. Where no other core sees it there is nothing to do.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    async fn hold(
        &self,
        _key: &KeyDigest,
        _after: Option<MeetingId>,
        _meeting: MeetingId,
    ) -> Result<Option<MeetingId>, AuthorityError> {
        Ok(None)
    }

    /// Has `key` stand for nothing, if it stands for `meeting`.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    async fn let_go(&self, _key: &KeyDigest, _meeting: MeetingId) -> Result<(), AuthorityError> {
        Ok(())
    }

    /// The meetings of which a claim stands, in the order of their ids. None where no other core sees them: there none are left behind.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    async fn claimed(&self) -> Result<Vec<MeetingId>, AuthorityError> {
        Ok(vec![])
    }

    /// Says that the core `me` lives. Where no other core sees it there is nothing to do.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    async fn live(&self, _me: &NodeId) -> Result<(), AuthorityError> {
        Ok(())
    }

    /// The newest sign of `core`'s life; `None` if it never gave one.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    async fn life(&self, _core: &NodeId) -> Result<Option<Revision>, AuthorityError> {
        Ok(None)
    }
}

/// An authority with patience: asks again until it is answered or the time is up, and knows whether it is there. Cheap to clone.
#[derive(Clone)]
pub struct Claims {
    authority: Arc<dyn Authority>,
    patience: Duration,
    up: Arc<watch::Sender<bool>>,
}

impl Claims {
    /// Asks `authority` for at most `patience`.
    pub fn new(authority: Arc<dyn Authority>, patience: Duration) -> Self {
        metrics::gauge!("nearfield_core_authority_up_ratio").set(1.0);
        Self { authority, patience, up: Arc::new(watch::channel(true).0) }
    }

    /// Claims in this core's own `store`.
    pub fn embedded(store: Arc<Store>) -> Self {
        Self::new(Arc::new(Embedded::new(store)), Duration::from_secs(10))
    }

    /// Whether all cores see them.
    pub fn is_shared(&self) -> bool {
        self.authority.is_shared()
    }

    /// Whether the authority answered when it was last asked.
    pub fn is_up(&self) -> bool {
        *self.up.borrow()
    }

    /// Says now and then that the core `me` lives, so that the others know, and that [`Claims::is_up`] is of now; asks this core's own
    /// authority only when it was not there. Runs until it is dropped.
    pub async fn watch(self, me: NodeId) {
        let mut news = self.up.subscribe();
        loop {
            if self.is_shared() {
                let _ = self.ask("live", || self.authority.live(&me)).await;
            } else {
                // The sender is here.
                let _ = news.wait_for(|up| !up).await;
                // No meeting's: nothing stands there.
                let _ = self.read(MeetingId::from_u128(0)).await;
            }
            let wait = if self.is_up() { PROBE_EVERY } else { PROBE_AGAIN };
            sleep(wait.mul_f64(rand::random_range(0.75..1.25))).await;
        }
    }

    /// What stands for `meeting`.
    ///
    /// # Errors
    /// See [`AuthorityError`]; no conflict.
    pub async fn read(&self, meeting: MeetingId) -> Result<Option<Stands>, AuthorityError> {
        self.ask("read", || self.authority.read(meeting)).await
    }

    /// Replaces what `after` says stands by `claim`. An answer that was lost on the way counts if the claim stands.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub async fn replace(
        &self,
        meeting: MeetingId,
        after: Option<&Stands>,
        claim: Claim,
    ) -> Result<Stands, AuthorityError> {
        if after.is_some_and(|stands| !claim.follows(&stands.claim)) {
            return Err(AuthorityError::Backwards);
        }
        let revision = after.map(|stands| stands.revision);
        match self.ask("replace", || self.authority.replace(meeting, revision, &claim)).await {
            Ok(revision) => Ok(Stands { claim, revision }),
            Err(AuthorityError::Conflict(Some(stands))) if stands.claim == claim => Ok(*stands),
            Err(error) => Err(error),
        }
    }

    /// Removes what stands.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub async fn remove(&self, meeting: MeetingId, revision: Revision) -> Result<(), AuthorityError> {
        self.ask("remove", || self.authority.remove(meeting, revision)).await
    }

    /// Has all the keys stand for `meeting`, which is claimed already. Returns the meeting that one stands for instead: one that is
    /// claimed as well, so that it lives or is being made.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub async fn hold(&self, keys: &[KeyDigest], meeting: MeetingId) -> Result<Option<MeetingId>, AuthorityError> {
        for key in keys {
            let mut after = None;
            for _ in 0..ROUNDS {
                match self.ask("hold", || self.authority.hold(key, after, meeting)).await? {
                    None => break,
                    // What a core that is gone for good has left behind gives way.
                    Some(other) if self.read(other).await?.is_none() => after = Some(other),
                    other => return Ok(other),
                }
            }
        }
        Ok(None)
    }

    /// Has none of the keys stand for `meeting` any more.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub async fn let_go(&self, keys: &[KeyDigest], meeting: MeetingId) -> Result<(), AuthorityError> {
        for key in keys {
            self.ask("let_go", || self.authority.let_go(key, meeting)).await?;
        }
        Ok(())
    }

    /// The meetings of which a claim stands, in the order of their ids.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub async fn claimed(&self) -> Result<Vec<MeetingId>, AuthorityError> {
        // Of many claims that takes a while, and says nothing of whether the authority is there.
        self.authority.claimed().await
    }

    /// The newest sign of `core`'s life.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub async fn life(&self, core: &NodeId) -> Result<Option<Revision>, AuthorityError> {
        self.ask("life", || self.authority.life(core)).await
    }

    /// Takes a meeting over for `me` in `term`, from the core that served it as far as `me` knows.
    ///
    /// # Errors
    /// It is not for `me` to take, or it is not known by now who has it: [`NotTaken`].
    pub async fn take(
        &self,
        meeting: MeetingId,
        me: &NodeId,
        former: (Option<&NodeId>, Term),
        (term, epoch): (Term, Epoch),
    ) -> Result<Stands, NotTaken> {
        for _ in 0..ROUNDS {
            let stands = self.read(meeting).await?;
            let claim = take(stands.as_ref().map(|s| &s.claim), self.is_shared(), me, former, (term, epoch))?;
            match self.replace(meeting, stands.as_ref(), claim).await {
                // The former core granted an epoch, or chose another standby, meanwhile.
                Err(AuthorityError::Conflict(_)) => {}
                done => return Ok(done?),
            }
        }
        Err(NotTaken::Unknown("others change it all the time".into()))
    }

    async fn ask<T, F>(&self, what: &'static str, question: impl FnMut() -> F) -> Result<T, AuthorityError>
    where
        F: Future<Output = Result<T, AuthorityError>>,
    {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(FIRST_PAUSE)
            .with_max_delay(MAX_PAUSE)
            .without_max_times()
            .with_jitter();
        let begun = Instant::now();
        let mut last = None;
        let asked = question.retry(pauses).when(|e| matches!(e, AuthorityError::Unavailable(_))).notify(|error, _| {
            metrics::counter!("nearfield_core_authority_retries_total", "what" => what).increment(1);
            last = Some(match error {
                AuthorityError::Unavailable(why) => why.clone(),
                error => error.to_string(),
            });
        });
        let answer = timeout(self.patience, asked).await;
        let answer = answer.unwrap_or_else(|_| {
            let last = last.take().unwrap_or_else(|| format!("no answer within {:?}", self.patience));
            Err(AuthorityError::Unavailable(last))
        });
        metrics::histogram!("nearfield_core_authority_seconds", "what" => what).record(begun.elapsed().as_secs_f64());
        self.note(&answer);
        answer
    }

    fn note<T>(&self, answer: &Result<T, AuthorityError>) {
        let missing = match answer {
            Err(AuthorityError::Unavailable(why)) => Some(why),
            _ => None,
        };
        if let Err(AuthorityError::Unreadable(error)) = answer {
            metrics::counter!("nearfield_core_authority_unreadable_total").increment(1);
            tracing::error!(%error, "a claim at the authority cannot be read");
        }
        let changed = self.up.send_if_modified(|up| std::mem::replace(up, missing.is_none()) != missing.is_none());
        if changed {
            metrics::gauge!("nearfield_core_authority_up_ratio").set(f64::from(u8::from(missing.is_none())));
            match missing {
                Some(why) => tracing::warn!(why, "the authority is gone: no meeting changes hands until it is back"),
                None => tracing::info!("the authority is back"),
            }
        }
    }
}
