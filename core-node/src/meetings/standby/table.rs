//! Which meetings come in from other cores, and which of them this core is the standby of. Pure.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh::wire::MeetingId;
use tokio::sync::Mutex;

use crate::replicate::receiver::Receiver;

/// What more comes of a meeting that is over for this core comes within this; later, it would ask for all of it again.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// A stream that has brought no record yet is given up after so long without a word; its sender has long done so.
const IDLE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its record has not come yet.
    Coming,
    /// This core is its standby.
    Held,
    /// It has ended, or goes on without this core.
    Over,
}

#[derive(Debug)]
struct Row {
    /// How far its stream has come; none before a stream has begun since this core started.
    receiver: Option<Arc<Mutex<Receiver>>>,
    state: State,
    used: Instant,
}

impl Row {
    fn new(now: Instant) -> Self {
        Self { receiver: None, state: State::Coming, used: now }
    }

    fn is_idle(&self) -> bool {
        self.receiver.as_ref().is_none_or(|receiver| Arc::strong_count(receiver) == 1)
    }

    fn is_due(&self, now: Instant) -> bool {
        let kept = match self.state {
            State::Held => return false,
            State::Coming => IDLE,
            State::Over => LAST_WORDS,
        };
        self.is_idle() && now.saturating_duration_since(self.used) >= kept
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(in crate::meetings) struct Table(BTreeMap<MeetingId, Row>);

impl Table {
    /// The stream of `meeting`, a new one if there are fewer than `room`. One of a meeting that is over makes room.
    pub(super) fn receiver(&mut self, meeting: MeetingId, room: usize, now: Instant) -> Option<Arc<Mutex<Receiver>>> {
        self.sweep(now);
        let known = self.0.get(&meeting).is_some_and(|row| row.receiver.is_some());
        if !known && self.streams() >= room && !self.make_room() {
            return None;
        }
        let row = self.0.entry(meeting).or_insert_with(|| Row::new(now));
        row.used = now;
        Some(row.receiver.get_or_insert_default().clone())
    }

    /// This core is the standby of `meeting`.
    pub(super) fn hold(&mut self, meeting: MeetingId, now: Instant) {
        let row = self.0.entry(meeting).or_insert_with(|| Row::new(now));
        (row.state, row.used) = (State::Held, now);
    }

    /// It is not, or the meeting has ended.
    pub(super) fn let_go(&mut self, meeting: MeetingId, now: Instant) {
        if let Some(row) = self.0.get_mut(&meeting) {
            (row.state, row.used) = (State::Over, now);
        }
    }

    pub(super) fn forget(&mut self, meeting: MeetingId) {
        self.0.remove(&meeting);
    }

    /// The meetings of which this core is the standby.
    pub(super) fn held(&self) -> Vec<MeetingId> {
        self.0.iter().filter(|(_, row)| row.state == State::Held).map(|(meeting, _)| *meeting).collect()
    }

    /// Forgets what nothing more is to come of.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.0.retain(|_, row| !row.is_due(now));
    }

    /// Streams that come in, those just ended among them.
    pub(super) fn streams(&self) -> usize {
        self.0.values().filter(|row| row.receiver.is_some()).count()
    }

    fn make_room(&mut self) -> bool {
        let over = self.0.iter().filter(|(_, row)| row.state == State::Over && row.receiver.is_some() && row.is_idle());
        let oldest = over.min_by_key(|(_, row)| row.used).map(|(meeting, _)| *meeting);
        oldest.is_some_and(|meeting| self.0.remove(&meeting).is_some())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]

    use super::*;

    fn id(n: u128) -> MeetingId {
        MeetingId::from_u128(n)
    }

    #[test]
    fn meetings_that_ended_make_room_for_as_many_as_come() {
        let (mut table, now) = (Table::default(), Instant::now());
        for n in 0..1000 {
            assert!(table.receiver(id(n), 4, now).is_some(), "meeting {n}");
            table.hold(id(n), now);
            table.let_go(id(n), now);
        }
        assert_eq!((table.streams(), table.held()), (4, vec![]));
        table.sweep(now + LAST_WORDS);
        assert_eq!(table.streams(), 0);
    }

    #[test]
    fn what_is_held_or_just_being_taken_makes_no_room() {
        let (mut table, now) = (Table::default(), Instant::now());
        table.receiver(id(1), 2, now).unwrap();
        table.hold(id(1), now);
        let taking = table.receiver(id(2), 2, now).unwrap();
        table.let_go(id(2), now);
        assert!(table.receiver(id(3), 2, now + 2 * IDLE).is_none());
        assert!(table.receiver(id(1), 2, now + 2 * IDLE).is_some(), "it is there already");
        drop(taking);
        assert!(table.receiver(id(3), 2, now + 2 * IDLE).is_some());
        assert_eq!(table.held(), [id(1)]);
    }

    #[test]
    fn a_stream_that_never_brings_its_meeting_is_given_up() {
        let (mut table, now) = (Table::default(), Instant::now());
        table.receiver(id(1), 1, now).unwrap();
        assert!(table.receiver(id(2), 1, now + LAST_WORDS).is_none());
        assert!(table.receiver(id(2), 1, now + IDLE).is_some());
    }

    #[test]
    fn what_was_held_before_a_restart_has_no_stream_and_takes_no_room() {
        let (mut table, now) = (Table::default(), Instant::now());
        (0..9).for_each(|n| table.hold(id(n), now));
        assert!(table.receiver(id(9), 1, now).is_some());
        assert_eq!((table.held().len(), table.streams()), (9, 1));
    }
}
