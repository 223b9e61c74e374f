//! The connections there are, and which of them makes room.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tokio::time::Instant;

use super::{
    Limits, lock,
    progress::{Over, Progress},
};
use crate::share::{Address, Shares};

/// What becomes of a newcomer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission<T> {
    /// It has a place.
    Free(u64),
    /// It has the place of another, which is to be closed.
    InsteadOf(u64, T),
    /// No connection waits for its client that could be closed for it.
    Full,
}

/// All connections of a listener; `T` is what ends one.
#[derive(Debug)]
pub(super) struct Table<T> {
    limits: Limits,
    rows: BTreeMap<u64, Row<T>>,
    shares: Shares,
    next: u64,
}

#[derive(Debug)]
struct Row<T> {
    address: Address,
    progress: Arc<Mutex<Progress>>,
    ends: T,
}

impl<T: Clone> Table<T> {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, rows: BTreeMap::new(), shares: Shares::default(), next: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// A connection from `address` asks for a place. Where there is none, the address with the most connections gives one
    /// up, of those that wait for their client the one that has waited longest; an address at its own limit gives up its own.
    pub(super) fn admit(&mut self, address: Address, progress: Arc<Mutex<Progress>>, ends: T) -> Admission<T> {
        let crowded = self.shares.of(&address) >= self.limits.per_address;
        let mut former = None;
        if crowded || self.rows.len() >= self.limits.connections {
            let Some(id) = self.gives_way(address, |row| !crowded || row.address == address) else {
                return Admission::Full;
            };
            former = self.leave(id);
        }
        let id = self.next;
        self.next += 1;
        self.shares.take(address);
        self.rows.insert(id, Row { address, progress, ends });
        former.map_or(Admission::Free(id), |former| Admission::InsteadOf(id, former))
    }

    /// One connection fewer, if any waits for its client: the one that has waited longest of the address that has the most.
    pub(super) fn give_up(&mut self) -> Option<T> {
        let places = self.waiting(|_| true);
        // Whoever comes holds none: anybody gives way to it.
        let nobody = Address::of(std::net::Ipv6Addr::UNSPECIFIED.into());
        let id = self.shares.gives_way(&nobody, 0, places.into_iter())?;
        self.leave(id)
    }

    /// It is gone, or to be closed.
    pub(super) fn leave(&mut self, id: u64) -> Option<T> {
        let row = self.rows.remove(&id)?;
        self.shares.give_back(&row.address);
        Some(row.ends)
    }

    /// Those whose deadline is over at `now`. What is to be closed is no longer in the table.
    pub(super) fn over(&mut self, now: Instant) -> Vec<(T, Over)> {
        let over = |(id, row): (&u64, &Row<T>)| Some((*id, row.ends.clone(), lock(&row.progress).over(now)?));
        let over: Vec<_> = self.rows.iter().filter_map(over).collect();
        for (id, _, what) in &over {
            if matches!(what, Over::Closed(_)) {
                self.leave(*id);
            }
        }
        over.into_iter().map(|(_, ends, what)| (ends, what)).collect()
    }

    fn gives_way(&self, address: Address, among: impl Fn(&Row<T>) -> bool) -> Option<u64> {
        self.shares.gives_way(&address, 0, self.waiting(among).into_iter())
    }

    fn waiting(&self, among: impl Fn(&Row<T>) -> bool) -> Vec<(u64, Address, Instant)> {
        let waiting = |(id, row): (&u64, &Row<T>)| {
            Some((*id, row.address, lock(&row.progress).waiting().filter(|_| among(row))?))
        };
        self.rows.iter().filter_map(waiting).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    struct World {
        table: Table<u64>,
        start: Instant,
    }

    impl World {
        fn new(connections: usize, per_address: usize) -> Self {
            Self { table: Table::new(Limits { connections, per_address }), start: Instant::now() }
        }

        /// Connection `name` from 192.0.2.`host`, `at` seconds from the start.
        fn come(&mut self, name: u64, host: u8, at: u64) -> (Arc<Mutex<Progress>>, Admission<u64>) {
            let progress = Arc::new(Mutex::new(Progress::new(self.start + Duration::from_secs(at))));
            let address = Address::of([192, 0, 2, host].into());
            (progress.clone(), self.table.admit(address, progress, name))
        }
    }

    #[test]
    fn the_one_that_has_waited_longest_makes_room() {
        let mut world = World::new(3, 3);
        let (first, _) = world.come(10, 1, 0);
        world.come(11, 1, 1);
        world.come(12, 1, 2);
        lock(&first).handle_request(false, world.start);
        lock(&first).handle_answered(world.start + 5 * SECOND);
        assert_eq!(world.come(13, 1, 6).1, Admission::InsteadOf(3, 11));
        assert_eq!(world.come(14, 1, 7).1, Admission::InsteadOf(4, 12));
        assert_eq!(world.come(15, 1, 8).1, Admission::InsteadOf(5, 10));
        assert_eq!(world.table.len(), 3);
    }

    #[test]
    fn whoever_is_being_answered_keeps_its_place_unless_it_does_not_read() {
        let mut world = World::new(2, 2);
        let held: Vec<_> = (0..2).map(|n| world.come(n, 1, 0).0).collect();
        held.iter().for_each(|progress| lock(progress).handle_request(false, world.start));
        assert_eq!(world.come(2, 1, 1).1, Admission::Full);
        lock(&held[1]).handle_blocked(world.start + SECOND);
        assert_eq!(world.come(3, 1, 2).1, Admission::InsteadOf(2, 1));
    }

    #[test]
    fn a_newcomer_gets_in_whatever_another_address_does() {
        let mut world = World::new(100, 60);
        for n in 0..500 {
            world.come(n, 1, 0);
        }
        assert_eq!(world.table.len(), 60, "an address has its limit");
        for n in 500..1000 {
            world.come(n, 2, 0);
        }
        assert_eq!(world.table.len(), 100);
        for n in 1000..1020 {
            let (progress, admission) = world.come(n, 3, 1);
            lock(&progress).handle_request(false, world.start);
            assert!(matches!(admission, Admission::InsteadOf(_, former) if former < 1000), "{admission:?}");
        }
    }

    #[test]
    fn a_place_is_given_back_once() {
        let mut world = World::new(2, 2);
        let (_, admission) = world.come(0, 1, 0);
        assert_eq!(admission, Admission::Free(0));
        assert_eq!(world.table.leave(0), Some(0));
        assert_eq!(world.table.leave(0), None);
        assert_eq!(world.table.shares.of(&Address::of([192, 0, 2, 1].into())), 0);
    }

    #[test]
    fn what_is_over_is_told_and_what_is_closed_is_out() {
        let mut world = World::new(5, 5);
        world.come(0, 1, 0);
        let (busy, _) = world.come(1, 1, 0);
        lock(&busy).handle_request(false, world.start);
        lock(&busy).handle_blocked(world.start);
        assert_eq!(world.table.over(world.start + 10 * SECOND), [(0, Over::Closed("head"))]);
        assert_eq!(world.table.over(world.start + 30 * SECOND), [(1, Over::Stalled)]);
        assert_eq!(world.table.len(), 1);
        assert_eq!(world.table.over(world.start + 35 * SECOND), [(1, Over::Closed("stalled"))]);
        assert_eq!(world.table.len(), 0);
    }

    #[test]
    fn short_of_descriptors_anybody_who_waits_makes_room() {
        let mut world = World::new(5, 5);
        let (busy, _) = world.come(0, 1, 0);
        lock(&busy).handle_request(false, world.start);
        assert_eq!(world.table.give_up(), None);
        world.come(1, 2, 0);
        assert_eq!(world.table.give_up(), Some(1));
    }
}
