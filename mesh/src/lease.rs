//! Who owns a meeting: leases with fencing epochs.
//!
//! SWIM says who is alive, never who owns. A core serves a meeting in a *term*, and grants it to one edge per capture
//! slot under an *epoch*, for as long as that edge keeps renewing.
//!
//! ```text
//!  core: Grantor, one for each meeting and slot            edge: Holder, one for each meeting
//!
//!   Vacant ──grant──▶ Offered ──renew──▶ Leased ─┐          Waiting ──answer──▶ Held ─┐ answer:
//!     ▲                │  │               │ ▲    │ renew:      │                │ ▲   │ later end
//!     │                │  └──grant next──▶│ └────┘ later end   │                │ └───┘
//!     │                └──release──┐      │                    │ refused        │ the lease runs out,
//!     └────── release, or lapsed ◀─┴──────┘                    ▼                ▼ refused
//!                                                             Lost ◀────────────┘  (for good)
//! ```
//!
//! | message | at the edge | at the core |
//! |---|---|---|
//! | `Join`, `Assign` | a [`Holder`] that *waits*: the offer is no lease yet | [`Grantor::grant`], after its authority has stored the epoch |
//! | `Serve` | [`Beats::handle_opened`] | fenced by [`Grantor::fence`] |
//! | `Beat`, `Renew` | [`Beats::handle_sent`] | [`Grantor::renew`] for every meeting opened on that stream |
//! | its answer | [`Beats::handle_answer`], then [`Holder::handle_renewal`] | |
//! | `Close` | the holder is dropped | [`Grantor::release`] |
//!
//! # Whose clock
//!
//! No clock is ever compared with another: each node measures only spans, on its own monotonic clock (`Instant`). Wall clocks,
//! and what NTP does to them, have no part in it.
//!
//! * The **edge** counts the lease from when it *sent* the beat that was answered: [`Holder`].
//! * The **core** counts it from when that beat *arrived*, which is later, and makes it longer by [`margin`]: [`Grantor`].
//!
//! So the edge's end comes first in real time, whatever the network delayed or repeated, as long as the two clocks'
//! rates are each within 5 % of true (1.05 / 0.95 < 1 + 1/8; quartz is within 0.01 %).
//! A clock that stands still while its machine is suspended breaks that for the relay (two edges may listen for a while) but
//! not for the transcript: the old edge's frames carry the old epoch, and [`Grantor::fence`] refuses them.
//!
//! A core that starts again, or begins a term after a takeover, cannot know what was renewed before: [`Grantor::resumed`]
//! assumes a lease that began this instant. The owner it knows of may renew at once; anybody else waits it out.
//!
//! # Which core
//!
//! Two cores and one edge hold a meeting: the serving core ([`Pair`]), its standby ([`Seat`]) and the owning edge, the
//! witness ([`Witness`]). Two of the three must agree on every change, so whoever is cut off from the other two can change nothing.
//! Each type states its rules.

mod beats;
mod grantor;
mod holder;
mod pair;
mod seat;
mod witness;

use std::time::Duration;

pub use beats::{Beats, MAX_IN_FLIGHT, Renewal};
pub use grantor::{Fence, Grantor, Lapsed, NotYet, Owner, Refusal};
pub use holder::{Holder, Loss, Tenure};
pub use pair::Pair;
pub use seat::{NotCalled, Role, Seat};
pub use witness::Witness;

use crate::wire::{Epoch, Term};

/// How often an edge beats: six times in the shortest lease, so that five losses in a row are borne.
pub const BEAT_EVERY: Duration = Duration::from_millis(250);

/// The lease on a link without delay.
pub const LEASE_BASE: Duration = Duration::from_millis(1500);

/// No lease is longer, whatever a round trip was measured to be or a peer says.
pub const LEASE_MAX: Duration = Duration::from_secs(6);

/// The lease to grant to an edge whose round trip is `rtt`: [`LEASE_BASE`] + 6 RTT, at most [`LEASE_MAX`].
///
/// Long enough that a beat, its answer and a few retransmissions of either fit between two ends of it; short, because
/// the next owner of a dead edge's meeting waits for its end.
pub fn lease_for(rtt: Duration) -> Duration {
    LEASE_BASE.saturating_add(rtt.saturating_mul(6)).min(LEASE_MAX)
}

/// How much longer than the edge the core takes a lease to be: an eighth, for two clocks of which one runs 5 % fast and
/// the other 5 % slow.
pub fn margin(lease: Duration) -> Duration {
    lease / 8
}

impl Epoch {
    /// Epoch `n` of `term`: two terms have none in common, so two cores cannot grant the same.
    pub fn of(term: Term, n: u32) -> Self {
        Self((u64::from(term.0.saturating_sub(1)) << 32) | u64::from(n))
    }

    /// The term in which it was granted.
    pub fn term(self) -> Term {
        Term(u32::try_from(self.0 >> 32).unwrap_or(u32::MAX).saturating_add(1))
    }

    /// The first epoch after it that `term` may grant; `None` if that term has none left or is over.
    pub fn next_in(self, term: Term) -> Option<Self> {
        let next = self.0.checked_add(1)?.max(Self::of(term, 1).0);
        Some(Self(next)).filter(|next| next.term() == term)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn epochs_of_two_terms_have_none_in_common() {
        assert_eq!(Epoch::of(Term(1), 7), Epoch(7), "the epochs of the version before terms");
        assert_eq!(Epoch(0).next_in(Term(1)), Some(Epoch(1)));
        assert_eq!(Epoch(7).next_in(Term(3)), Some(Epoch::of(Term(3), 1)));
        assert_eq!(Epoch::of(Term(3), 9).next_in(Term(3)), Some(Epoch::of(Term(3), 10)));
        assert_eq!(Epoch::of(Term(3), 9).next_in(Term(2)), None, "an older term grants nothing");
        assert_eq!(Epoch::of(Term(3), u32::MAX).next_in(Term(3)), None);
        assert_eq!(Epoch::of(Term(3), 9).term(), Term(3));
        assert_eq!(Epoch(u64::MAX).next_in(Term(u32::MAX)), None);
    }

    #[test]
    fn a_lease_is_longer_at_the_core_by_what_two_clocks_may_differ() {
        let lease = lease_for(Duration::from_millis(100));
        assert_eq!(lease, Duration::from_millis(2100));
        assert!(lease.mul_f64(1.05 / 0.95) < lease + margin(lease));
        assert_eq!(lease_for(Duration::MAX), LEASE_MAX);
    }
}
