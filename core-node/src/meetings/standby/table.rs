//! Which meetings come in from other cores, and which of them this core is the standby of. Pure.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh::{identity::NodeId, share::Shares, wire::MeetingId};
use tokio::sync::Mutex;

use crate::replicate::receiver::Receiver;

/// What more comes of a meeting that is over for this core comes within this; later, it would ask for all of it again.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Whoever ships a meeting is heard every 5 s: a stream that was silent for so long was given up without a word.
const SILENT: Duration = Duration::from_secs(30);
/// How many more streams a core must have than a newcomer's, for one of its to give way: then both have as many.
const MORE: usize = 2;
/// Rows in all, for each place of a stream, while streams give way.
const STREAMLESS: usize = 4;
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
    /// Which core has sent it last, or is known to serve it.
    by: NodeId,
    /// How far its stream has come; none before a stream has begun since this core started.
    receiver: Option<Arc<Mutex<Receiver>>>,
    state: State,
    begun: Instant,
    used: Instant,
}

impl Row {
    fn new(by: NodeId, now: Instant) -> Self {
        Self { by, receiver: None, state: State::Coming, begun: now, used: now }
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
    /// The stream of `meeting` that `by` sends, a new one if there are fewer than `room`. One of a meeting that is over
    /// makes room, or one that nothing is heard of; else the newest of the core that has the most, unless `by` has about as many.
    pub(super) fn receiver(
        &mut self,
        meeting: MeetingId,
        by: &NodeId,
        room: usize,
        now: Instant,
    ) -> Option<Arc<Mutex<Receiver>>> {
        self.sweep(now);
        let known = self.0.get(&meeting).is_some_and(|row| row.receiver.is_some());
        if !known && self.streams() >= room && !self.make_room(by, room, now) {
            return None;
        }
        let row = self.0.entry(meeting).or_insert_with(|| Row::new(by.clone(), now));
        (row.by, row.used) = (by.clone(), now);
        Some(row.receiver.get_or_insert_default().clone())
    }

    /// This core is the standby of `meeting`, which `by` serves.
    pub(super) fn hold(&mut self, meeting: MeetingId, by: &NodeId, now: Instant) {
        let row = self.0.entry(meeting).or_insert_with(|| Row::new(by.clone(), now));
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

    /// Whether there is a place more for `by` now.
    fn make_room(&mut self, by: &NodeId, room: usize, now: Instant) -> bool {
        let idle = || self.0.iter().filter(|(_, row)| row.receiver.is_some() && row.is_idle());
        let oldest = |of: &dyn Fn(&Row) -> bool| {
            let oldest = idle().filter(|(_, row)| of(row)).min_by_key(|(_, row)| row.used);
            oldest.map(|(meeting, _)| *meeting)
        };
        if let Some(meeting) = oldest(&|row| row.state == State::Over) {
            return self.0.remove(&meeting).is_some();
        }
        if let Some(meeting) = oldest(&|row| now.saturating_duration_since(row.used) >= SILENT) {
            return self.end_stream(meeting, room);
        }
        let streams = self.0.values().filter(|row| row.receiver.is_some());
        let shares: Shares<&NodeId> = streams.map(|row| &row.by).collect();
        let places = idle().map(|(meeting, row)| (*meeting, &row.by, Reverse(row.begun)));
        let gives_way = shares.gives_way(&by, MORE, places);
        gives_way.is_some_and(|meeting| self.end_stream(meeting, room))
    }

    /// The core that sends it hears so when it sends more; until then the meeting may be orphaned, as before.
    fn end_stream(&mut self, meeting: MeetingId, room: usize) -> bool {
        let keep = self.0.len() <= room.saturating_mul(STREAMLESS);
        match self.0.get_mut(&meeting) {
            Some(row) if keep && row.state == State::Held => row.receiver.take().is_some(),
            _ => self.0.remove(&meeting).is_some(),
        }
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
    fn meetings_that_ended_make_room_for_as_many_as_come() {
        let (mut table, now) = (Table::default(), Instant::now());
        for n in 0..1000 {
            assert!(table.receiver(id(n), &core(1), 4, now).is_some(), "meeting {n}");
            table.hold(id(n), &core(1), now);
            table.let_go(id(n), now);
        }
        assert_eq!((table.streams(), table.held()), (4, vec![]));
        table.sweep(now + LAST_WORDS);
        assert_eq!(table.streams(), 0);
    }

    #[test]
    fn what_is_held_or_just_being_taken_makes_no_room() {
        let (mut table, now) = (Table::default(), Instant::now());
        table.receiver(id(1), &core(1), 2, now).unwrap();
        table.hold(id(1), &core(1), now);
        let taking = table.receiver(id(2), &core(1), 2, now).unwrap();
        table.let_go(id(2), now);
        assert!(table.receiver(id(3), &core(1), 2, now + LAST_WORDS).is_none());
        assert!(table.receiver(id(1), &core(1), 2, now + LAST_WORDS).is_some(), "it is there already");
        drop(taking);
        assert!(table.receiver(id(3), &core(1), 2, now + LAST_WORDS).is_some());
        assert_eq!(table.held(), [id(1)]);
    }

    #[test]
    fn a_stream_that_never_brings_its_meeting_is_given_up() {
        let (mut table, now) = (Table::default(), Instant::now());
        table.receiver(id(1), &core(1), 1, now).unwrap();
        assert!(table.receiver(id(2), &core(1), 1, now + LAST_WORDS).is_none());
        assert!(table.receiver(id(2), &core(1), 1, now + IDLE).is_some());
    }

    #[test]
    fn what_was_held_before_a_restart_has_no_stream_and_takes_no_room() {
        let (mut table, now) = (Table::default(), Instant::now());
        (0..9).for_each(|n| table.hold(id(n), &core(1), now));
        assert!(table.receiver(id(9), &core(1), 1, now).is_some());
        assert_eq!((table.held().len(), table.streams()), (9, 1));
    }

    #[test]
    fn a_stream_that_was_given_up_without_a_word_makes_room_and_may_be_orphaned_all_the_same() {
        let (mut table, now) = (Table::default(), Instant::now());
        for n in 0..2 {
            table.receiver(id(n), &core(1), 2, now).unwrap();
            table.hold(id(n), &core(1), now);
        }
        table.receiver(id(1), &core(1), 2, now + SILENT / 2).unwrap();
        assert!(table.receiver(id(2), &core(1), 2, now + SILENT / 2).is_none());
        assert!(table.receiver(id(2), &core(1), 2, now + SILENT).is_some());
        assert_eq!((table.streams(), table.held()), (2, vec![id(0), id(1)]));
    }

    #[test]
    fn one_core_does_not_keep_others_out_and_equal_shares_stay() {
        let (mut table, now) = (Table::default(), Instant::now());
        let mut take = |by: u8, n: u128| {
            let at = now + Duration::from_millis(n as u64);
            let taken = table.receiver(id(n), &core(by), 8, at).is_some();
            if taken {
                table.hold(id(n), &core(by), at);
            }
            let of = |by: u8| table.0.values().filter(|row| row.receiver.is_some() && row.by == core(by)).count();
            (taken, of(1), of(2), of(3))
        };
        (0..8).for_each(|n| assert!(take(1, n).0));
        assert_eq!(take(1, 8), (false, 8, 0, 0), "not at its own cost");
        for (n, left) in [(10, 7), (11, 6), (12, 5), (13, 4)] {
            assert_eq!(take(2, n), (true, left, 8 - left, 0));
        }
        assert_eq!(take(2, 14), (false, 4, 4, 0));
        assert_eq!((take(3, 20).0, take(3, 21).0, take(3, 22).0), (true, true, false));
        let has_stream = |n| table.0[&id(n)].receiver.is_some();
        assert!(has_stream(0) && !has_stream(7), "what came first stays");
        assert_eq!((table.streams(), table.held().len()), (8, 14), "until it is said otherwise they may be orphaned");
        (0..1000).for_each(|n| drop(table.receiver(id(100 + n), &core(4 + n as u8 % 100), 8, now)));
        assert!(table.0.len() <= 8 * STREAMLESS + 1, "{}", table.0.len());
    }
}
