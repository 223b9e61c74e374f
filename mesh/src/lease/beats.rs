use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::LEASE_MAX;
use crate::wire::MeetingAlias;

/// Beats of one stream that may be unanswered at a time: 16 s of them, longer than any lease. The oldest is forgotten first;
/// its answer would come too late to extend anything.
pub const MAX_IN_FLIGHT: usize = 64;

/// An answered beat: a lease of length `lease` that began when the beat was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    /// When the question was sent, on the edge's own clock.
    pub sent: Instant,
    /// How long the lease runs from then.
    pub lease: Duration,
}

impl Renewal {
    /// As a core answered; a lease is never taken to be longer than [`LEASE_MAX`].
    pub fn new(sent: Instant, lease_ms: u32) -> Self {
        Self { sent, lease: Duration::from_millis(lease_ms.into()).min(LEASE_MAX) }
    }
}

/// The beats of one control stream, and which meetings each of them renews. A new stream starts with a new one.
///
/// A beat renews the meetings that were opened before it *on the same stream*: the core read their `Serve` first, and had
/// it refused one, that refusal would arrive before the answer. Time could not tell that; the order of writing does.
#[derive(Debug, Default)]
pub struct Beats {
    next: u64,
    in_flight: VecDeque<(u64, Instant)>,
    /// The first beat written after each meeting's `Serve`.
    opened: BTreeMap<MeetingAlias, u64>,
    heard: Option<Instant>,
}

impl Beats {
    /// A beat is about to be written; its number.
    pub fn handle_sent(&mut self, now: Instant) -> u64 {
        let seq = self.next;
        self.next += 1;
        if self.in_flight.len() == MAX_IN_FLIGHT {
            self.in_flight.pop_front();
        }
        self.in_flight.push_back((seq, now));
        seq
    }

    /// `Serve` for `alias` has been written. The caller bounds how many there are.
    pub fn handle_opened(&mut self, alias: MeetingAlias) {
        self.opened.insert(alias, self.next);
    }

    /// The meeting is closed, refused or moved.
    pub fn handle_closed(&mut self, alias: MeetingAlias) {
        self.opened.remove(&alias);
    }

    /// The core answered beat `seq`: what it renews, and for which meetings. Nothing, if that beat was never sent, was
    /// answered before or is forgotten.
    pub fn handle_answer(&mut self, seq: u64, lease_ms: u32, now: Instant) -> Option<(Renewal, Vec<MeetingAlias>)> {
        let at = self.in_flight.iter().position(|(sent, _)| *sent == seq)?;
        // The stream keeps order: the beats before it will not be answered any more.
        let (_, sent) = self.in_flight.drain(..=at).next_back()?;
        self.heard = Some(now);
        let renewed = self.opened.iter().filter(|(_, first)| **first <= seq).map(|(alias, _)| *alias).collect();
        Some((Renewal::new(sent, lease_ms), renewed))
    }

    /// Since when the core owes an answer; `None` if it owes none.
    pub fn unanswered_since(&self) -> Option<Instant> {
        self.in_flight.front().map(|(_, sent)| *sent)
    }

    /// When the core last answered.
    pub fn heard(&self) -> Option<Instant> {
        self.heard
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]

    use super::*;

    const A: MeetingAlias = MeetingAlias(1);
    const B: MeetingAlias = MeetingAlias(2);

    #[test]
    fn a_beat_renews_only_what_was_opened_before_it() {
        let (mut beats, t0) = (Beats::default(), Instant::now());
        beats.handle_opened(A);
        let first = beats.handle_sent(t0);
        beats.handle_opened(B);
        let second = beats.handle_sent(t0 + Duration::from_millis(250));
        let (renewal, who) = beats.handle_answer(first, 1500, t0 + Duration::from_millis(300)).unwrap();
        assert_eq!((renewal.sent, renewal.lease, who), (t0, Duration::from_millis(1500), vec![A]));
        let (_, who) = beats.handle_answer(second, 1500, t0 + Duration::from_millis(400)).unwrap();
        assert_eq!(who, [A, B]);
        beats.handle_closed(A);
        let third = beats.handle_sent(t0);
        assert_eq!(beats.handle_answer(third, 1500, t0).unwrap().1, [B]);
    }

    #[test]
    fn answers_to_what_was_not_asked_renew_nothing() {
        let (mut beats, t0) = (Beats::default(), Instant::now());
        beats.handle_opened(A);
        assert_eq!(beats.handle_answer(0, 1500, t0), None, "never sent");
        let seqs: Vec<u64> = (0..3).map(|_| beats.handle_sent(t0)).collect();
        assert!(beats.handle_answer(seqs[1], 1500, t0).is_some());
        assert_eq!(beats.handle_answer(seqs[1], 1500, t0), None, "answered already");
        assert_eq!(beats.handle_answer(seqs[0], 1500, t0), None, "out of order");
        assert_eq!(beats.handle_answer(u64::MAX, 1500, t0), None);
        assert_eq!(beats.unanswered_since(), Some(t0));
    }

    #[test]
    fn a_core_that_never_answers_costs_a_bounded_table() {
        let (mut beats, t0) = (Beats::default(), Instant::now());
        for i in 0..1000 {
            beats.handle_sent(t0 + Duration::from_millis(i));
        }
        assert_eq!(beats.in_flight.len(), MAX_IN_FLIGHT);
        assert_eq!(beats.handle_answer(10, 1500, t0), None, "forgotten");
        assert!(beats.handle_answer(999, u32::MAX, t0).is_some_and(|(r, _)| r.lease == LEASE_MAX));
    }
}
