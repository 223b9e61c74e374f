//! By what right this edge is in a meeting.
//!
//! ```text
//!            an answered beat          unrenewed, and nobody reached the core          an answered beat
//! Waiting ───────────────────▶ Held ──────────────────────────────────────▶ Orphaned ──────────────────▶ Held
//!                               │ unrenewed while this process stood still,    │ too long, stood still,
//!                               │ or refused                                   │ or refused
//!                               ▼                                              ▼
//!                              Lost (for good) ◀───────────────────────────────┘
//! ```
//!
//! A core that speaks version 1 grants no leases: *Free*.
//!
//! An orphan's core is dead or cut off from everybody whom this edge can reach. Dead, it gives the meeting to nobody, and
//! to leave the relay would lose what is said until it is back; so the orphan goes on listening for a while and sends
//! nothing. Had the core been cut off with other edges on its side, two may listen in that time; when it is reached again,
//! it takes of the orphan's speech only what was captured before another was granted the meeting.

use std::time::{Duration, Instant};

use mesh::{
    lease::{Holder, Loss, Renewal, Tenure},
    wire::Epoch,
};

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Right {
    /// No lease is needed.
    Free,
    /// Offered: not to be joined yet.
    Waiting,
    /// This edge owns the meeting.
    Held,
    /// Nobody else can, as far as this edge sees.
    Orphaned,
    /// Another may own it by now.
    Lost(Loss),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Ownership {
    epoch: Epoch,
    holder: Option<Holder>,
    orphan_for: Duration,
    orphan: Option<Instant>,
}

impl Ownership {
    /// Of an epoch that was offered with a lease, or without one.
    pub(crate) fn new(epoch: Epoch, leased: bool, orphan_for: Duration) -> Self {
        Self { epoch, holder: leased.then(|| Holder::new(epoch)), orphan_for, orphan: None }
    }

    /// Where it stands, as of the last call that had a time.
    pub(crate) fn right(&self) -> Right {
        match self.holder.as_ref().map(Holder::tenure) {
            None => Right::Free,
            Some(_) if self.orphan.is_some() => Right::Orphaned,
            Some(Tenure::Waiting) => Right::Waiting,
            Some(Tenure::Held(_)) => Right::Held,
            Some(Tenure::Lost(loss)) => Right::Lost(loss),
        }
    }

    /// The meeting was opened at a core that grants no leases.
    pub(crate) fn handle_unleased(&mut self) {
        (self.holder, self.orphan) = (None, None);
    }

    /// A core renewed it.
    pub(crate) fn handle_renewal(&mut self, renewal: Renewal, now: Instant) {
        if self.orphan.is_some() && now < renewal.sent + renewal.lease {
            (self.holder, self.orphan) = (None, None);
        }
        self.holder.get_or_insert_with(|| Holder::new(self.epoch)).handle_renewal(renewal, now);
    }

    /// A core says that this edge does not own it.
    pub(crate) fn handle_refused(&mut self) {
        self.orphan = None;
        self.holder.get_or_insert_with(|| Holder::new(self.epoch)).handle_refused();
    }

    /// Time has passed; `away` if this process stood still in it.
    pub(crate) fn handle_timeout(&mut self, away: bool, now: Instant) {
        if self.orphan.take_if(|until| away || *until <= now).is_some() {
            return;
        }
        let Some(holder) = &mut self.holder else { return };
        let held = matches!(holder.tenure(), Tenure::Held(_));
        holder.handle_timeout(now);
        if let Tenure::Lost(Loss::RanOut(at)) = holder.tenure()
            && held
            && !away
        {
            self.orphan = Some(at + self.orphan_for).filter(|until| now < *until);
        }
    }

    /// When [`Ownership::handle_timeout`] is next needed.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.orphan.or_else(|| self.holder.as_ref()?.poll_timeout())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use super::*;

    const ORPHAN: Duration = Duration::from_secs(30);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn held() -> (Ownership, Instant) {
        let t0 = Instant::now();
        let mut own = Ownership::new(Epoch(1), true, ORPHAN);
        assert_eq!(own.right(), Right::Waiting);
        own.handle_renewal(Renewal::new(t0, 1500), t0 + ms(20));
        assert_eq!((own.right(), own.poll_timeout()), (Right::Held, Some(t0 + ms(1500))));
        (own, t0)
    }

    #[test]
    fn a_lease_that_runs_out_during_a_stall_is_lost_whatever_answer_is_found_after_it() {
        let (mut own, t0) = held();
        let woken = t0 + ms(8000);
        own.handle_timeout(true, woken);
        assert_eq!(own.right(), Right::Lost(Loss::RanOut(t0 + ms(1500))));
        own.handle_renewal(Renewal::new(woken, 1500), woken);
        assert!(matches!(own.right(), Right::Lost(_)));
    }

    #[test]
    fn an_edge_that_cannot_renew_because_the_core_is_dead_goes_on_listening_and_is_taken_back() {
        let (mut own, t0) = held();
        own.handle_timeout(false, t0 + ms(1501));
        assert_eq!((own.right(), own.poll_timeout()), (Right::Orphaned, Some(t0 + ms(1500) + ORPHAN)));
        own.handle_renewal(Renewal::new(t0 + ms(100), 1500), t0 + ms(2000));
        assert_eq!(own.right(), Right::Orphaned, "that answer is too old to renew anything");
        own.handle_renewal(Renewal::new(t0 + ms(4900), 1500), t0 + ms(5000));
        assert_eq!((own.right(), own.poll_timeout()), (Right::Held, Some(t0 + ms(6400))));
    }

    #[test]
    fn an_orphan_leaves_when_it_waited_too_long_stood_still_or_is_refused() {
        let orphan = || {
            let (mut own, t0) = held();
            own.handle_timeout(false, t0 + ms(1501));
            (own, t0)
        };
        let (mut own, t0) = orphan();
        own.handle_timeout(false, t0 + ms(1500) + ORPHAN);
        assert!(matches!(own.right(), Right::Lost(Loss::RanOut(_))));
        let (mut own, t0) = orphan();
        own.handle_timeout(true, t0 + ms(5000));
        assert!(matches!(own.right(), Right::Lost(Loss::RanOut(_))));
        let (mut own, _) = orphan();
        own.handle_refused();
        assert!(matches!(own.right(), Right::Lost(_)));
    }

    #[test]
    fn strictly_leased_there_are_no_orphans() {
        let t0 = Instant::now();
        let mut own = Ownership::new(Epoch(1), true, Duration::ZERO);
        own.handle_renewal(Renewal::new(t0, 1500), t0);
        own.handle_timeout(false, t0 + ms(1500));
        assert_eq!(own.right(), Right::Lost(Loss::RanOut(t0 + ms(1500))));
    }

    #[test]
    fn leases_come_and_go_with_the_version_that_the_core_speaks() {
        let t0 = Instant::now();
        let mut own = Ownership::new(Epoch(1), false, ORPHAN);
        assert_eq!(own.right(), Right::Free);
        own.handle_renewal(Renewal::new(t0, 1500), t0);
        assert_eq!(own.right(), Right::Held, "the core was upgraded");
        own.handle_unleased();
        assert_eq!((own.right(), own.poll_timeout()), (Right::Free, None), "and downgraded");
    }
}
