use std::time::{Duration, Instant};

use super::{LEASE_MAX, margin};
use crate::{
    identity::NodeId,
    wire::{Epoch, Term},
};

/// The primary's side of the leases of one meeting and capture slot.
///
/// | state | `revoke` | `grant` | `renew` by its owner | `release` by its owner | its end comes |
/// |---|---|---|---|---|---|
/// | vacant | | offered | | | |
/// | offered: not heard yet, so no lease | vacant | offered to the next | leased | vacant | |
/// | leased | refused: [`NotYet`] | refused: [`NotYet`] | later end | vacant | lapsed |
/// | lapsed | vacant | offered to the next | leased | vacant | |
///
/// Once it was [closed](Grantor::close) its owner renews in vain, so that its end comes.
///
/// All instants are of the core's own monotonic clock. Two duties are the caller's:
///
/// 1. **Store first.** [`Grantor::next_epoch`] is written through the authority, and acknowledged by the standby where there is
///    one, before [`Grantor::grant`] and before the edge hears of it. Then no epoch is granted twice, whoever dies.
/// 2. **Answer in order.** A refused renewal is told to the edge before the answer to the beat that brought it.
#[derive(Debug)]
pub struct Grantor {
    term: Term,
    newest: Epoch,
    /// Leases of epochs up to this are renewed no more.
    closed: Option<Epoch>,
    /// Its owner has not been heard since this core began to serve.
    assumed: bool,
    state: State,
}

/// Who was granted which epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The edge.
    pub edge: NodeId,
    /// Its epoch.
    pub epoch: Epoch,
}

#[derive(Debug)]
enum State {
    Vacant,
    Offered(Owner),
    Leased { owner: Owner, until: Instant, told: bool },
}

/// The lease that ran out.
pub type Lapsed = Owner;

/// Why an epoch cannot be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotYet {
    /// The lease granted before it may still be held, until then on the core's clock.
    #[error("the lease before it may still be held")]
    Leased(Instant),
    /// It is not newer than every epoch before it, or not of this term.
    #[error("not a new epoch of this term")]
    Stale,
}

/// Why a lease is not renewed: the edge must leave the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another epoch has been granted since, or none to this edge.
    #[error("another edge owns it by now")]
    NotOwner,
    /// The edge had released it, or another is being sought.
    #[error("it was released")]
    Released,
}

impl Grantor {
    /// For a new meeting, in its first term.
    pub fn new(term: Term) -> Self {
        Self { term, newest: Epoch(0), closed: None, assumed: false, state: State::Vacant }
    }

    /// For a meeting whose leases another process may have renewed until this very instant: after this core's restart, or as
    /// the core that takes it over in `term`. `owner` is whom the store or the replica names; `lease` the longest
    /// that may be outstanding ([`LEASE_MAX`] if that is not known).
    pub fn resumed(term: Term, owner: Option<Owner>, lease: Duration, now: Instant) -> Self {
        let mut this = Self::new(term);
        if let Some(owner) = owner {
            (this.newest, this.assumed) = (owner.epoch, true);
            this.state = State::Leased { owner, until: end(lease, now), told: false };
        }
        this
    }

    /// The core serves in a later term from here on. What was granted stays.
    pub fn handle_term(&mut self, term: Term) {
        self.term = self.term.max(term);
    }

    /// The epoch to store, and then to grant; `None` if this term has none left.
    pub fn next_epoch(&self) -> Option<Epoch> {
        self.newest.next_in(self.term)
    }

    /// The newest epoch granted.
    pub fn newest(&self) -> Epoch {
        self.newest
    }

    /// Whether the next epoch may be granted now.
    ///
    /// # Errors
    /// The lease before it may still be held, and until when.
    pub fn may_grant(&self, now: Instant) -> Result<(), NotYet> {
        match &self.state {
            State::Leased { until, .. } if now < *until => Err(NotYet::Leased(*until)),
            _ => Ok(()),
        }
    }

    /// Another owner is to be found: what was granted so far is renewed no more, and ends by itself if it has not ended.
    pub fn close(&mut self) {
        self.closed = Some(self.newest);
    }

    /// Whose lease runs or has lapsed, and may be renewed.
    pub fn renewable(&self) -> Option<&Owner> {
        match &self.state {
            State::Leased { owner, .. } if !self.is_closed(owner.epoch) => Some(owner),
            _ => None,
        }
    }

    /// Whose lease runs at `now` and may be renewed; nobody's, while it is only assumed that it runs.
    pub fn held(&self, now: Instant) -> Option<Epoch> {
        match &self.state {
            State::Leased { owner, until, .. } if now < *until && !self.is_closed(owner.epoch) && !self.assumed => {
                Some(owner.epoch)
            }
            _ => None,
        }
    }

    /// Whether the owner of `epoch` would be renewed, as far as it is the owner.
    pub fn is_open(&self, epoch: Epoch) -> bool {
        !self.is_closed(epoch)
    }

    fn is_closed(&self, epoch: Epoch) -> bool {
        self.closed.is_some_and(|closed| epoch <= closed)
    }

    /// Ends for good what may not be held any more: from here on its owner renews in vain, so that the next epoch can be stored
    /// and then granted.
    ///
    /// # Errors
    /// The lease may still be held, and until when.
    pub fn revoke(&mut self, now: Instant) -> Result<(), NotYet> {
        self.may_grant(now)?;
        self.state = State::Vacant;
        Ok(())
    }

    /// Grants `epoch` to `edge`, which holds nothing until it opens the meeting.
    ///
    /// # Errors
    /// [`Grantor::may_grant`] says no, or the epoch is not a new one of this term.
    pub fn grant(&mut self, edge: NodeId, epoch: Epoch, now: Instant) -> Result<(), NotYet> {
        self.may_grant(now)?;
        if epoch <= self.newest || epoch.term() != self.term {
            return Err(NotYet::Stale);
        }
        self.newest = epoch;
        self.state = State::Offered(Owner { edge, epoch });
        Ok(())
    }

    /// `edge` opened the meeting, or a beat or a `Renew` of it arrived. What it is answered promises `lease` at most.
    ///
    /// # Errors
    /// `edge` does not own `epoch`, or no more.
    pub fn renew(&mut self, edge: &NodeId, epoch: Epoch, lease: Duration, now: Instant) -> Result<(), Refusal> {
        let owner = match &self.state {
            State::Offered(owner) | State::Leased { owner, .. }
                if self.is_closed(epoch) && owner.epoch == epoch && owner.edge == *edge =>
            {
                return Err(Refusal::Released);
            }
            State::Offered(owner) | State::Leased { owner, .. } if owner.epoch == epoch && owner.edge == *edge => {
                owner.clone()
            }
            State::Vacant if epoch == self.newest => return Err(Refusal::Released),
            _ => return Err(Refusal::NotOwner),
        };
        let until = end(lease, now).max(self.poll_timeout().unwrap_or(now));
        self.state = State::Leased { owner, until, told: false };
        self.assumed = false;
        Ok(())
    }

    /// `edge` has left the relay and renews no more; whether it was the owner.
    pub fn release(&mut self, edge: &NodeId, epoch: Epoch) -> bool {
        let owned = self.owner().is_some_and(|owner| owner.epoch == epoch && owner.edge == *edge);
        if owned {
            self.state = State::Vacant;
        }
        owned
    }

    /// Says once, when its end has come, whose lease ran out.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Lapsed> {
        match &mut self.state {
            State::Leased { owner, until, told } if *until <= now && !*told => {
                *told = true;
                Some(owner.clone())
            }
            _ => None,
        }
    }

    /// When [`Grantor::handle_timeout`] is next needed, and [`Grantor::may_grant`] says yes.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Leased { until, told: false, .. } => Some(*until),
            _ => None,
        }
    }

    /// Whom it is granted to, whether or not the lease still runs.
    pub fn owner(&self) -> Option<&Owner> {
        match &self.state {
            State::Offered(owner) | State::Leased { owner, .. } => Some(owner),
            State::Vacant => None,
        }
    }

    /// Whether a lease may be held now.
    pub fn is_leased(&self, now: Instant) -> bool {
        self.may_grant(now).is_err()
    }
}

/// The end of a lease that begins now at the latest, on the core's clock.
fn end(lease: Duration, now: Instant) -> Instant {
    let lease = lease.min(LEASE_MAX);
    now + lease + margin(lease)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]

    use super::*;

    const LEASE: Duration = Duration::from_millis(1600);

    fn edge(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn leased(now: Instant) -> Grantor {
        let mut grantor = Grantor::new(Term(1));
        grantor.grant(edge("a"), Epoch(1), now).unwrap();
        grantor.renew(&edge("a"), Epoch(1), LEASE, now).unwrap();
        grantor
    }

    #[test]
    fn the_next_epoch_waits_for_the_end_of_the_lease_and_its_margin() {
        let t0 = Instant::now();
        let mut grantor = leased(t0);
        let end = t0 + ms(1800);
        assert_eq!(grantor.grant(edge("b"), Epoch(2), end - ms(1)), Err(NotYet::Leased(end)));
        assert_eq!(grantor.handle_timeout(end - ms(1)), None);
        assert_eq!(grantor.handle_timeout(end).map(|l| l.epoch), Some(Epoch(1)));
        assert_eq!(grantor.handle_timeout(end), None, "said once");
        grantor.grant(edge("b"), grantor.next_epoch().unwrap(), end).unwrap();
        assert_eq!(grantor.renew(&edge("a"), Epoch(1), LEASE, end), Err(Refusal::NotOwner));
        assert_eq!(grantor.newest(), Epoch(2));
    }

    #[test]
    fn an_offer_that_was_never_taken_up_holds_nobody_back() {
        let t0 = Instant::now();
        let mut grantor = Grantor::new(Term(1));
        grantor.grant(edge("a"), Epoch(1), t0).unwrap();
        grantor.grant(edge("b"), Epoch(2), t0).unwrap();
        assert_eq!(grantor.renew(&edge("a"), Epoch(1), LEASE, t0), Err(Refusal::NotOwner));
        assert_eq!(grantor.renew(&edge("a"), Epoch(2), LEASE, t0), Err(Refusal::NotOwner), "somebody else's epoch");
        grantor.renew(&edge("b"), Epoch(2), LEASE, t0).unwrap();
    }

    #[test]
    fn a_released_lease_is_free_at_once_and_cannot_be_renewed() {
        let t0 = Instant::now();
        let mut grantor = leased(t0);
        assert!(!grantor.release(&edge("b"), Epoch(1)) && grantor.is_leased(t0));
        assert!(grantor.release(&edge("a"), Epoch(1)));
        assert_eq!(grantor.renew(&edge("a"), Epoch(1), LEASE, t0), Err(Refusal::Released), "a beat that was under way");
        grantor.grant(edge("b"), Epoch(2), t0).unwrap();
    }

    #[test]
    fn a_lease_that_was_revoked_for_the_next_is_not_renewed_while_that_is_stored() {
        let t0 = Instant::now();
        let mut grantor = leased(t0);
        assert_eq!(grantor.revoke(t0), Err(NotYet::Leased(t0 + ms(1800))));
        let late = t0 + ms(1800);
        grantor.revoke(late).unwrap();
        assert_eq!(grantor.renew(&edge("a"), Epoch(1), LEASE, late), Err(Refusal::Released));
        grantor.grant(edge("b"), Epoch(2), late).unwrap();
    }

    #[test]
    fn a_lease_that_lapsed_but_was_not_given_away_can_be_renewed() {
        let t0 = Instant::now();
        let mut grantor = leased(t0);
        let late = t0 + ms(5000);
        grantor.handle_timeout(late);
        grantor.renew(&edge("a"), Epoch(1), LEASE, late).unwrap();
        assert_eq!(grantor.poll_timeout(), Some(late + ms(1800)));
    }

    #[test]
    fn a_lease_that_was_closed_for_the_next_runs_out_however_its_owner_renews() {
        let t0 = Instant::now();
        let mut grantor = leased(t0);
        assert_eq!(grantor.held(t0), Some(Epoch(1)));
        grantor.close();
        assert_eq!((grantor.held(t0), grantor.is_leased(t0)), (None, true), "what was promised is kept");
        assert_eq!(grantor.renew(&edge("a"), Epoch(1), LEASE, t0 + ms(500)), Err(Refusal::Released));
        assert_eq!(grantor.revoke(t0 + ms(1799)), Err(NotYet::Leased(t0 + ms(1800))));
        grantor.revoke(t0 + ms(1800)).unwrap();
        grantor.grant(edge("b"), Epoch(2), t0 + ms(1800)).unwrap();
        grantor.renew(&edge("b"), Epoch(2), LEASE, t0 + ms(1800)).unwrap();
        assert_eq!(grantor.held(t0 + ms(1800)), Some(Epoch(2)), "the next is another");
    }

    #[test]
    fn a_shorter_lease_does_not_take_back_what_was_promised() {
        let t0 = Instant::now();
        let mut grantor = leased(t0);
        grantor.renew(&edge("a"), Epoch(1), ms(80), t0 + ms(10)).unwrap();
        assert_eq!(grantor.poll_timeout(), Some(t0 + ms(1800)));
    }

    #[test]
    fn a_core_that_starts_again_or_takes_over_waits_out_what_may_be_held() {
        let t0 = Instant::now();
        let owner = Owner { edge: edge("a"), epoch: Epoch(7) };
        let mut grantor = Grantor::resumed(Term(2), Some(owner), LEASE, t0);
        assert_eq!(grantor.next_epoch(), Some(Epoch::of(Term(2), 1)));
        assert_eq!(grantor.may_grant(t0), Err(NotYet::Leased(t0 + ms(1800))));
        assert_eq!(grantor.held(t0), None, "it may be, but was not heard of");
        grantor.renew(&edge("a"), Epoch(7), LEASE, t0 + ms(100)).unwrap();
        assert_eq!(grantor.grant(edge("b"), Epoch(8), t0 + ms(5000)), Err(NotYet::Stale), "an epoch of the old term");
        grantor.grant(edge("b"), Epoch::of(Term(2), 1), t0 + ms(5000)).unwrap();
        grantor.handle_term(Term(2).isolated(&edge("c"), 1));
        assert!(grantor.next_epoch() > Some(Epoch::of(Term(2), 2)), "a later term goes on after it");
    }
}
