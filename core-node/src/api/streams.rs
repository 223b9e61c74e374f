//! Transcript streams at a time: who may hold one, and who makes room.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use mesh::{
    http,
    share::{Address, Shares},
    wire::MeetingId,
};
use tokio_util::sync::CancellationToken;

use crate::lock;

/// Streams of one meeting.
const PER_MEETING: usize = 256;

/// How many more streams an address must hold than a newcomer's, to give one up: then both hold as many, and it goes no further.
const MORE: usize = 2;

/// Why there is no stream for another listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooManyStreams {
    /// Of the meeting.
    #[error("the meeting has {0} listeners already")]
    OfMeeting(usize),
    /// Of the core.
    #[error("this core has {0} listeners already")]
    OfCore(usize),
    /// Of one address.
    #[error("there are {0} listeners from this address already")]
    OfAddress(usize),
}

/// How many streams there may be.
#[derive(Debug, Clone, Copy)]
struct Limits {
    all: usize,
    per_meeting: usize,
    per_address: usize,
}

/// All streams of this core.
#[derive(Debug, Clone)]
pub struct Streams {
    table: Arc<Mutex<Table>>,
}

impl Streams {
    /// Half of the connections there may be, of all and of an address: the rest is for what does not last.
    pub fn new(connections: http::Limits) -> Self {
        let half = |n: usize| (n / 2).max(1);
        let (all, per_address) = (half(connections.connections), half(connections.per_address));
        Self { table: Arc::new(Mutex::new(Table::new(Limits { all, per_address, per_meeting: PER_MEETING }))) }
    }

    /// A place for a listener of `meeting` at `ip`. Where there is none, the oldest stream of the address that has the most
    /// gives way, if that has two more than this one.
    ///
    /// # Errors
    /// Nobody has to give way.
    pub(super) fn admit(&self, meeting: MeetingId, ip: IpAddr) -> Result<Seat, TooManyStreams> {
        let replaced = CancellationToken::new();
        let id = lock(&self.table).admit(meeting, Address::of(ip), replaced.clone())?;
        Ok(Seat { table: self.table.clone(), id, replaced })
    }
}

/// A stream's place; given back when this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    table: Arc<Mutex<Table>>,
    id: u64,
    replaced: CancellationToken,
}

impl Seat {
    /// Waits until the place is another's.
    pub(super) async fn replaced(&self) {
        self.replaced.cancelled().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        lock(&self.table).leave(self.id);
    }
}

#[derive(Debug)]
struct Table {
    limits: Limits,
    /// In the order in which they came.
    rows: BTreeMap<u64, Row>,
    shares: Shares,
    next: u64,
}

#[derive(Debug)]
struct Row {
    meeting: MeetingId,
    address: Address,
    replaced: CancellationToken,
}

impl Table {
    fn new(limits: Limits) -> Self {
        Self { limits, rows: BTreeMap::new(), shares: Shares::default(), next: 0 }
    }

    fn admit(
        &mut self,
        meeting: MeetingId,
        address: Address,
        replaced: CancellationToken,
    ) -> Result<u64, TooManyStreams> {
        let Limits { all, per_meeting, per_address } = self.limits;
        if self.shares.of(&address) >= per_address {
            return Err(TooManyStreams::OfAddress(per_address));
        }
        let of_meeting = || self.rows.iter().filter(|(_, row)| row.meeting == meeting);
        let former = if of_meeting().count() >= per_meeting {
            let shares: Shares = of_meeting().map(|(_, row)| row.address).collect();
            let places = of_meeting().map(|(id, row)| (*id, row.address, *id));
            Some(shares.gives_way(&address, MORE, places).ok_or(TooManyStreams::OfMeeting(per_meeting))?)
        } else if self.rows.len() >= all {
            let places = self.rows.iter().map(|(id, row)| (*id, row.address, *id));
            Some(self.shares.gives_way(&address, MORE, places).ok_or(TooManyStreams::OfCore(all))?)
        } else {
            None
        };
        if let Some(former) = former.and_then(|id| self.leave(id)) {
            former.replaced.cancel();
        }
        let id = self.next;
        self.next += 1;
        self.shares.take(address);
        self.rows.insert(id, Row { meeting, address, replaced });
        metrics::gauge!("nearfield_core_streams").set(self.rows.len() as f64);
        Ok(id)
    }

    fn leave(&mut self, id: u64) -> Option<Row> {
        let row = self.rows.remove(&id)?;
        self.shares.give_back(&row.address);
        metrics::gauge!("nearfield_core_streams").set(self.rows.len() as f64);
        Some(row)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn streams(all: usize, per_meeting: usize, per_address: usize) -> Streams {
        Streams { table: Arc::new(Mutex::new(Table::new(Limits { all, per_meeting, per_address }))) }
    }

    fn host(n: u8) -> IpAddr {
        [192, 0, 2, n].into()
    }

    #[test]
    fn one_address_does_not_lock_others_out_of_a_meeting() {
        let streams = streams(100, 8, 50);
        let meeting = MeetingId::from_u128(1);
        let greedy: Vec<_> = (0..8).map(|_| streams.admit(meeting, host(1)).unwrap()).collect();
        assert_eq!(streams.admit(meeting, host(1)).unwrap_err(), TooManyStreams::OfMeeting(8), "not at its own cost");
        let others: Vec<_> = (0..4).map(|_| streams.admit(meeting, host(2)).unwrap()).collect();
        assert_eq!(streams.admit(meeting, host(2)).unwrap_err(), TooManyStreams::OfMeeting(8), "equal shares stay");
        let replaced: Vec<bool> = greedy.iter().map(|seat| seat.replaced.is_cancelled()).collect();
        assert_eq!(replaced, [true, true, true, true, false, false, false, false], "the oldest first");
        assert!(others.iter().all(|seat| !seat.replaced.is_cancelled()));
    }

    #[test]
    fn one_address_does_not_lock_others_out_of_the_core() {
        let streams = streams(6, 100, 5);
        let of_its_own = |n: u128| MeetingId::from_u128(n);
        let greedy: Vec<_> = (0..5).map(|n| streams.admit(of_its_own(n), host(1)).unwrap()).collect();
        assert_eq!(streams.admit(of_its_own(9), host(1)).unwrap_err(), TooManyStreams::OfAddress(5));
        let _second = streams.admit(of_its_own(9), host(2)).unwrap();
        let _third = streams.admit(of_its_own(9), host(3)).unwrap();
        assert!(greedy[0].replaced.is_cancelled() && !greedy[1].replaced.is_cancelled());
    }

    #[test]
    fn a_place_is_given_back_by_whoever_still_has_it() {
        let streams = streams(2, 2, 2);
        let meeting = MeetingId::from_u128(1);
        let first = streams.admit(meeting, host(1)).unwrap();
        let second = streams.admit(meeting, host(1)).unwrap();
        let _other = streams.admit(meeting, host(2)).unwrap();
        drop(first);
        assert_eq!(lock(&streams.table).rows.len(), 2, "what was replaced gives nothing back twice");
        drop(second);
        assert_eq!(lock(&streams.table).rows.len(), 1);
    }
}
