//! Keys under which a meeting is being made, here or at another core: at most one is. Pure.
//!
//! Whoever makes a meeting reserves its keys here before anything is waited for, and asks the other cores then. Each of those
//! promises to make nothing else under them for [`PROMISE`]. So of two cores that begin at once each finds the other, or one finds
//! its key promised; where each finds the other, the meeting with the smaller id is made.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use mesh::{
    identity::NodeId,
    share::Shares,
    wire::{MeetingId, keys::KeyDigest},
};

/// How long another core's keys are kept free: longer than it takes to make a meeting.
pub(super) const PROMISE: Duration = Duration::from_secs(5);

/// The most keys that are promised to others at a time; of the core that has the most the one that runs out first gives way.
const MAX_PROMISES: usize = 4096;

/// Keys that are taken for the moment.
#[derive(Debug, Default)]
pub(super) struct Reservations {
    /// For meetings that are being made here.
    own: BTreeMap<KeyDigest, MeetingId>,
    /// For those that others make.
    promised: BTreeMap<KeyDigest, Promise>,
}

#[derive(Debug)]
struct Promise {
    meeting: MeetingId,
    to: NodeId,
    until: Instant,
}

impl Reservations {
    /// Takes all the keys for a meeting to be made here.
    ///
    /// # Errors
    /// One is taken: none was.
    pub(super) fn reserve(&mut self, keys: &[KeyDigest], meeting: MeetingId, now: Instant) -> Result<(), MeetingId> {
        if let Some(other) = keys.iter().find_map(|key| self.taken(key, now)) {
            return Err(other);
        }
        self.own.extend(keys.iter().map(|key| (*key, meeting)));
        Ok(())
    }

    /// The meeting has been made, or is not made.
    pub(super) fn release(&mut self, keys: &[KeyDigest], meeting: MeetingId) {
        for key in keys {
            if self.own.get(key) == Some(&meeting) {
                self.own.remove(key);
            }
        }
    }

    /// The core `to` is about to make a meeting under `key`, unless one is being made already.
    ///
    /// # Errors
    /// That one.
    pub(super) fn promise(
        &mut self,
        key: KeyDigest,
        meeting: MeetingId,
        to: &NodeId,
        now: Instant,
    ) -> Result<(), MeetingId> {
        if let Some(other) = self.taken(&key, now).filter(|other| *other != meeting) {
            return Err(other);
        }
        if self.promised.len() >= MAX_PROMISES && !self.promised.contains_key(&key) {
            self.give_way();
        }
        self.promised.insert(key, Promise { meeting, to: to.clone(), until: now + PROMISE });
        Ok(())
    }

    fn give_way(&mut self) {
        let shares: Shares<&NodeId> = self.promised.values().map(|promise| &promise.to).collect();
        let most = |promise: &&Promise| std::cmp::Reverse(shares.of(&&promise.to));
        let first = self.promised.iter().min_by_key(|(_, promise)| (most(promise), promise.until));
        if let Some(key) = first.map(|(key, _)| *key) {
            self.promised.remove(&key);
        }
    }

    /// The other core has made it, or does not: nothing is to be kept free for it.
    pub(super) fn forget(&mut self, key: &KeyDigest, meeting: MeetingId) {
        if self.promised.get(key).is_some_and(|promise| promise.meeting == meeting) {
            self.promised.remove(key);
        }
    }

    /// How many keys are taken.
    pub(super) fn rows(&self) -> usize {
        self.own.len() + self.promised.len()
    }

    /// The meeting that is being made under it here.
    pub(super) fn own(&self, key: &KeyDigest) -> Option<MeetingId> {
        self.own.get(key).copied()
    }

    /// The meeting that is being made under it.
    fn taken(&mut self, key: &KeyDigest, now: Instant) -> Option<MeetingId> {
        self.promised.retain(|_, promise| promise.until > now);
        self.own.get(key).copied().or_else(|| self.promised.get(key).map(|promise| promise.meeting))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]

    use super::*;

    fn id(n: u128) -> MeetingId {
        MeetingId::from_u128(n)
    }

    fn core(n: u8) -> NodeId {
        format!("core-{n}").parse().unwrap()
    }

    #[test]
    fn a_key_is_taken_by_one_until_it_is_released() {
        let (mut table, now) = (Reservations::default(), Instant::now());
        let (one, two) = (KeyDigest::of_request("a"), KeyDigest::of_meeting("a"));
        assert_ne!(one, two, "an idempotency key is no deduplication key");
        table.reserve(&[one, two], id(1), now).unwrap();
        assert_eq!(table.reserve(&[two], id(2), now), Err(id(1)));
        assert_eq!(table.promise(one, id(3), &core(1), now), Err(id(1)));
        table.release(&[one, two], id(9));
        assert_eq!(table.taken(&one, now), Some(id(1)), "another's release is none");
        table.release(&[one, two], id(1));
        table.reserve(&[two], id(2), now).unwrap();
    }

    #[test]
    fn what_was_promised_is_kept_for_a_while_and_by_one() {
        let (mut table, now) = (Reservations::default(), Instant::now());
        let key = KeyDigest::of_request("a");
        table.promise(key, id(1), &core(1), now).unwrap();
        table.promise(key, id(1), &core(1), now).unwrap();
        assert_eq!(table.promise(key, id(2), &core(2), now), Err(id(1)));
        assert_eq!(table.reserve(&[key], id(3), now), Err(id(1)));
        table.reserve(&[key], id(3), now + PROMISE).unwrap();
    }

    #[test]
    fn promises_are_bounded_and_one_core_s_do_not_cost_another_its_own() {
        let (mut table, now) = (Reservations::default(), Instant::now());
        let key = |n: u64| KeyDigest::of_request(&n.to_string());
        table.promise(key(0), id(1), &core(1), now).unwrap();
        for n in 1..MAX_PROMISES as u64 + 50 {
            table.promise(key(n), id(2), &core(2), now + Duration::from_micros(n)).unwrap();
        }
        assert_eq!(table.promised.len(), MAX_PROMISES);
        assert_eq!(table.taken(&key(0), now), Some(id(1)));
        assert_eq!((table.taken(&key(1), now), table.taken(&key(2), now)), (None, None), "its own gave way");
    }
}
