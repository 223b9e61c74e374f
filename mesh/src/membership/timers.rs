//! foca's timers, in the order in which they fall due.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use foca::{Member, Timer, TimerToken};

use super::peer::Peer;

/// A heap by deadline; timers set for the same instant fire in the order they were set.
///
/// Bounded: foca keeps one of each periodic timer and a suspicion for each probe that failed within
/// the suspicion timeout, and what belongs to an earlier connection is thrown out with it.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<Entry>>,
    set: u64,
    token: TimerToken,
}

#[derive(Debug)]
struct Entry {
    at: Instant,
    number: u64,
    timer: Timer<Peer>,
}

impl Timers {
    /// Sets `timer` for `after` from `now`.
    pub(super) fn set(&mut self, timer: Timer<Peer>, after: Duration, now: Instant) {
        if let Some(token) = token(&timer).filter(|t| *t != self.token) {
            self.token = token;
            self.heap.retain(|Reverse(entry)| self::token(&entry.timer) == Some(token));
        }
        self.set += 1;
        self.heap.push(Reverse(Entry { at: now + after, number: self.set, timer }));
    }

    /// foca's mark on the timers it now heeds.
    pub(super) fn token(&self) -> TimerToken {
        self.token
    }

    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse(entry)| entry.at)
    }

    /// Puts every timer off: the process did not run meanwhile, so no time has passed for what they wait for.
    pub(super) fn postpone(&mut self, by: Duration) {
        let later = |Reverse(entry): Reverse<Entry>| Reverse(Entry { at: entry.at + by, ..entry });
        self.heap = std::mem::take(&mut self.heap).into_iter().map(later).collect();
    }

    /// Whom this node will hold down if they do not answer.
    pub(super) fn all_suspects(&self) -> Vec<Peer> {
        let suspect = |Reverse(entry): &Reverse<Entry>| match &entry.timer {
            Timer::ChangeSuspectToDown { member_id, .. } => Some(member_id.clone()),
            _ => None,
        };
        self.heap.iter().filter_map(suspect).collect()
    }

    /// Whether `member`, as it is now, is one of them: a probe of our own was not answered.
    pub(super) fn suspects(&self, member: &Member<Peer>) -> bool {
        self.heap.iter().any(|Reverse(entry)| match &entry.timer {
            Timer::ChangeSuspectToDown { member_id, incarnation, .. } => {
                (member_id, *incarnation) == (member.id(), member.incarnation())
            }
            _ => false,
        })
    }

    /// The next one that is due at `now`.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Timer<Peer>> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry.timer)
    }
}

fn token(timer: &Timer<Peer>) -> Option<TimerToken> {
    match timer {
        Timer::ProbeRandomMember(token)
        | Timer::SendIndirectProbe { token, .. }
        | Timer::ChangeSuspectToDown { token, .. }
        | Timer::PeriodicAnnounce(token)
        | Timer::PeriodicAnnounceDown(token)
        | Timer::PeriodicGossip(token) => Some(*token),
        Timer::RemoveDown(_) => None,
    }
}

impl Entry {
    fn key(&self) -> (Instant, u64) {
        (self.at, self.number)
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Entry {}

#[cfg(test)]
mod tests {
    // An `Instant` can only come from the clock: it is the base of virtual time, nothing waits on it.
    #![allow(clippy::disallowed_methods)]
    use super::*;

    #[test]
    fn timers_fire_by_deadline_then_by_age() {
        let (mut timers, start) = (Timers::default(), Instant::now());
        timers.set(Timer::PeriodicGossip(0), Duration::from_secs(2), start);
        timers.set(Timer::PeriodicAnnounce(0), Duration::from_secs(1), start);
        timers.set(Timer::ProbeRandomMember(0), Duration::from_secs(1), start);
        assert_eq!(timers.pop(start), None);
        let due = start + Duration::from_secs(1);
        assert_eq!(timers.pop(due), Some(Timer::PeriodicAnnounce(0)));
        assert_eq!(timers.pop(due), Some(Timer::ProbeRandomMember(0)));
        assert_eq!((timers.pop(due), timers.next()), (None, Some(start + Duration::from_secs(2))));
    }

    #[test]
    fn timers_of_an_earlier_connection_are_thrown_out() {
        let (mut timers, start) = (Timers::default(), Instant::now());
        for token in 0..100 {
            timers.set(Timer::ProbeRandomMember(token), Duration::from_secs(1), start);
            timers.set(Timer::PeriodicGossip(token), Duration::from_secs(1), start);
        }
        assert_eq!(timers.heap.len(), 2);
    }
}
