use std::time::Instant;

use super::Renewal;
use crate::wire::Epoch;

/// An edge's side of one meeting's lease.
///
/// | state | renewal | its end comes | refused |
/// |---|---|---|---|
/// | `Waiting` | `Held`, if it has not ended already | | `Lost` |
/// | `Held` | later end | `Lost` | `Lost` |
/// | `Lost` | ignored | | |
///
/// All instants are of the edge's own monotonic clock. Renewals may come from several streams and relays at once and in
/// any order: the latest end counts, since each of them was promised.
///
/// **After a stall** (the process was stopped, the machine was suspended) the caller asks [`Holder::is_held`] with a fresh
/// `now` before anything else it does for the meeting, answers that have arrived meanwhile included: by then another edge
/// may own it. What is lost stays lost in this epoch; the caller leaves the relay at once and says `Close`.
#[derive(Debug)]
pub struct Holder {
    epoch: Epoch,
    tenure: Tenure,
}

/// Where a [`Holder`] stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tenure {
    /// Offered, nothing renewed yet: it must not join.
    Waiting,
    /// It owns the meeting's slot until then.
    Held(Instant),
    /// It owns it no more.
    Lost(Loss),
}

/// Why a lease was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// It ran out at that instant, unrenewed.
    RanOut(Instant),
    /// The core says that another owns the meeting, or that it has ended.
    Refused,
}

impl Holder {
    /// An epoch was offered.
    pub fn new(epoch: Epoch) -> Self {
        Self { epoch, tenure: Tenure::Waiting }
    }

    /// The epoch offered.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// A beat, or a renewal by way of another node, was answered for this meeting.
    pub fn handle_renewal(&mut self, renewal: Renewal, now: Instant) {
        self.handle_timeout(now);
        let end = renewal.sent + renewal.lease;
        match self.tenure {
            Tenure::Waiting if now < end => self.tenure = Tenure::Held(end),
            Tenure::Held(until) => self.tenure = Tenure::Held(until.max(end)),
            Tenure::Waiting | Tenure::Lost(_) => {}
        }
    }

    /// The core refused the epoch, or listed the meeting as lost.
    pub fn handle_refused(&mut self) {
        if !matches!(self.tenure, Tenure::Lost(_)) {
            self.tenure = Tenure::Lost(Loss::Refused);
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Tenure::Held(until) = self.tenure
            && until <= now
        {
            self.tenure = Tenure::Lost(Loss::RanOut(until));
        }
    }

    /// When [`Holder::handle_timeout`] is next needed: the end of the lease.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.tenure {
            Tenure::Held(until) => Some(until),
            Tenure::Waiting | Tenure::Lost(_) => None,
        }
    }

    /// Whether the edge owns the meeting at this very instant.
    pub fn is_held(&self, now: Instant) -> bool {
        matches!(self.tenure, Tenure::Held(until) if now < until)
    }

    /// Where it stood when it last heard of anything.
    pub fn tenure(&self) -> Tenure {
        self.tenure
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use std::time::Duration;

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn an_offer_is_no_lease_until_a_beat_is_answered() {
        let t0 = Instant::now();
        let mut holder = Holder::new(Epoch(1));
        assert!(!holder.is_held(t0));
        holder.handle_renewal(Renewal::new(t0, 1500), t0 + ms(1500));
        assert_eq!(holder.tenure(), Tenure::Waiting, "answered too late");
        holder.handle_renewal(Renewal::new(t0 + ms(1400), 1500), t0 + ms(1600));
        assert_eq!(holder.poll_timeout(), Some(t0 + ms(2900)), "counted from when it was sent");
        assert!(holder.is_held(t0 + ms(2899)) && !holder.is_held(t0 + ms(2900)));
    }

    #[test]
    fn renewals_by_several_ways_count_by_their_latest_end() {
        let t0 = Instant::now();
        let mut holder = Holder::new(Epoch(1));
        holder.handle_renewal(Renewal::new(t0 + ms(500), 1500), t0 + ms(600));
        holder.handle_renewal(Renewal::new(t0, 1500), t0 + ms(700));
        assert_eq!(holder.tenure(), Tenure::Held(t0 + ms(2000)));
    }

    #[test]
    fn an_answer_found_after_a_stall_does_not_bring_the_lease_back() {
        let t0 = Instant::now();
        let mut holder = Holder::new(Epoch(1));
        holder.handle_renewal(Renewal::new(t0, 1500), t0 + ms(10));
        let woken = t0 + ms(8000);
        assert!(!holder.is_held(woken));
        holder.handle_renewal(Renewal::new(woken - ms(10), 1500), woken);
        assert_eq!(holder.tenure(), Tenure::Lost(Loss::RanOut(t0 + ms(1500))));
    }

    #[test]
    fn what_the_core_refuses_is_lost_at_once() {
        let t0 = Instant::now();
        let mut holder = Holder::new(Epoch(1));
        holder.handle_renewal(Renewal::new(t0, 1500), t0);
        holder.handle_refused();
        assert!(!holder.is_held(t0));
        assert_eq!((holder.tenure(), holder.poll_timeout()), (Tenure::Lost(Loss::Refused), None));
    }
}
