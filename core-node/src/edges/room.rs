//! What spurts that are not read to their end may hold in memory, in bytes: of one connection, and of one node.
//!
//! A stream is read once it has its [`SHARE`], and never more at a time than that: between two reads it holds what came, at most one
//! item that is not whole and what is on its way to the disk. Where there is room, and more has come than its share, it borrows as
//! much as [`READ_BYTES`] until it has caught up. Streams for which there is no room wait unread; QUIC's flow control holds the
//! sender back, and nothing is lost.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use mesh::identity::NodeId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::streams::READ_BYTES;
use crate::lock;

/// What every stream has, in bytes: more than the longest item and its numbers.
pub(super) const SHARE: usize = 2048;
/// Of one connection: all the streams it may have open at a time, and as much again to borrow.
const PER_CONNECTION: usize = 16 << 20;
/// Of all connections of one node.
const PER_NODE: usize = 32 << 20;

/// The rooms of all nodes that have connections.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    nodes: Mutex<BTreeMap<NodeId, Arc<Semaphore>>>,
}

/// The room of one connection.
#[derive(Debug, Clone)]
pub(super) struct Room {
    connection: Arc<Semaphore>,
    node: Arc<Semaphore>,
}

/// One stream's part of it, given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    room: Room,
    _held: [OwnedSemaphorePermit; 2],
    borrowed: Option<[OwnedSemaphorePermit; 2]>,
}

impl Rooms {
    pub(super) fn nodes(&self) -> usize {
        lock(&self.nodes).len()
    }

    /// Of a new connection of `node`.
    pub(super) fn room(&self, node: &NodeId) -> Room {
        let mut nodes = lock(&self.nodes);
        nodes.retain(|_, room| Arc::strong_count(room) > 1);
        let node = nodes.entry(node.clone()).or_insert_with(|| Arc::new(Semaphore::new(PER_NODE))).clone();
        Room { connection: Arc::new(Semaphore::new(PER_CONNECTION)), node }
    }
}

impl Room {
    /// Waits until there is room for one more stream.
    pub(super) async fn share(&self) -> Share {
        if self.connection.available_permits() < SHARE || self.node.available_permits() < SHARE {
            metrics::counter!("nearfield_core_spurt_streams_delayed_total").increment(1);
        }
        let held = [held(&self.connection, SHARE).await, held(&self.node, SHARE).await];
        Share { room: self.clone(), _held: held, borrowed: None }
    }
}

impl Share {
    /// The most bytes to read at a time.
    pub(super) fn bytes(&self) -> usize {
        if self.borrowed.is_some() { READ_BYTES } else { SHARE }
    }

    /// More has come than was read: borrows, if there is room. Whether it has more than its share now.
    pub(super) fn borrow(&mut self) -> bool {
        let more = |room: &Arc<Semaphore>| room.clone().try_acquire_many_owned((READ_BYTES - SHARE) as u32).ok();
        if self.borrowed.is_none() {
            self.borrowed = more(&self.room.connection).zip(more(&self.room.node)).map(|(a, b)| [a, b]);
        }
        self.borrowed.is_some()
    }

    /// It has caught up. Whether anything was borrowed.
    pub(super) fn give_back(&mut self) -> bool {
        self.borrowed.take().is_some()
    }
}

async fn held(room: &Arc<Semaphore>, bytes: usize) -> OwnedSemaphorePermit {
    let permit = room.clone().acquire_many_owned(bytes as u32).await;
    permit.expect("nobody closes it")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures_util::FutureExt;

    use super::*;

    fn node(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    #[test]
    fn the_streams_of_one_node_hold_so_many_bytes_and_others_wait_without_harm_to_other_nodes() {
        let rooms = Rooms::default();
        let mut held = vec![];
        for _ in 0..8 {
            let room = rooms.room(&node("evil"));
            held.extend((0..4096).map_while(|_| room.share().now_or_never()));
        }
        assert_eq!(held.len() * SHARE, PER_NODE, "eight connections of 4,096 streams would be twice as much");
        assert!(!held.iter_mut().any(Share::borrow), "there is nothing to borrow");

        let mut honest = rooms.room(&node("edge-1")).share().now_or_never().unwrap();
        assert!(honest.borrow() && honest.bytes() == READ_BYTES);
        held.truncate(100);
        let again = rooms.room(&node("evil"));
        assert!(again.share().now_or_never().is_some(), "what has ended makes room");
    }

    #[test]
    fn every_stream_of_an_honest_connection_is_read_and_some_may_borrow() {
        let room = Rooms::default().room(&node("edge-1"));
        let mut all: Vec<Share> = (0..4096).map_while(|_| room.share().now_or_never()).collect();
        assert_eq!(all.len(), 4096);
        let borrowing = all.iter_mut().filter_map(|share| share.borrow().then_some(())).count();
        assert!((500..700).contains(&borrowing), "{borrowing}");
        assert!(all.iter_mut().filter_map(|share| share.give_back().then_some(())).count() == borrowing);
        assert_eq!(room.connection.available_permits(), PER_CONNECTION - 4096 * SHARE);
    }

    #[test]
    fn nodes_that_have_gone_are_forgotten() {
        let rooms = Rooms::default();
        (0..100).for_each(|n| drop(rooms.room(&node(&format!("edge-{n}")))));
        let _kept = rooms.room(&node("edge-7"));
        assert_eq!(lock(&rooms.nodes).len(), 1);
    }
}
