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
//! | `Serve` | [`Beats::handle_opened`] | only of the epoch's own edge: `core-node::meeting::role` |
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
//! not for the transcript: the old edge's frames carry the old epoch, and what is captured after its end is refused
//! (`core-node::meeting::role`).
//!
//! A core that starts again, or begins a term after a takeover, cannot know what was renewed before: [`Grantor::resumed`]
//! assumes a lease that began this instant. The owner it knows of may renew at once; anybody else waits it out.
//!
//! # Which core
//!
//! Two cores and one edge hold a meeting: the primary, its standby and the owning edge, the witness. Two of the three
//! must agree on every change of the core, so whoever is cut off from the other two can change nothing:
//! `core-node::replicate::sender` (the primary), `core-node::meeting::role` (any core) and `edge-node::failover` (the
//! witness) state the rules. [`called`](crate::wire::Term::called) is the term of a core that the witness calls.
//!
//! A core that was cut off from the other two for longer than any partition that is to be sat out goes on alone, in a
//! term that no other core has: [`isolated`](crate::wire::Term::isolated). Then, until the partition heals, two cores may serve, in different terms and
//! epochs; after it the later term stands. A term that was agreed upon is later than any that was begun alone meanwhile.

mod beats;
mod grantor;
mod holder;
mod terms;

use std::time::Duration;

pub use beats::{Beats, MAX_IN_FLIGHT, Renewal};
pub use grantor::{Grantor, Lapsed, NotYet, Owner, Refusal};
pub use holder::{Holder, Loss, Tenure};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_longer_at_the_core_by_what_two_clocks_may_differ() {
        let lease = lease_for(Duration::from_millis(100));
        assert_eq!(lease, Duration::from_millis(2100));
        assert!(lease.mul_f64(1.05 / 0.95) < lease + margin(lease));
        assert_eq!(lease_for(Duration::MAX), LEASE_MAX);
    }
}
