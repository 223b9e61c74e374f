//! The way to one standby: what it lacks, and what it has acknowledged.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use mesh::identity::NodeId;

/// An idle standby is asked so often whether it is still there.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// One snapshot and what came after it.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) core: NodeId,
    pub(super) base: u64,
    /// Pieces not acknowledged; with an entry's last, the number of its change, else 0.
    pub(super) pieces: VecDeque<(Vec<u8>, u64)>,
    /// Changes made while the snapshot is read.
    pub(super) tail: Vec<(Vec<u8>, u64)>,
    /// The last change that the snapshot holds.
    pub(super) covered: u64,
    pub(super) bytes: usize,
    pub(super) acknowledged: u64,
    pub(super) in_flight: Option<u64>,
    pub(super) next_try: Instant,
    pub(super) progress: Instant,
}

impl Stream {
    /// To `core`, which is to be sent a snapshot that holds the change `covered`.
    pub(super) fn new(core: NodeId, covered: u64, now: Instant) -> Self {
        Self {
            core,
            base: 0,
            pieces: VecDeque::new(),
            tail: vec![],
            covered,
            bytes: 0,
            acknowledged: 0,
            in_flight: None,
            next_try: now,
            progress: now,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.pieces.is_empty() && self.tail.is_empty()
    }

    pub(super) fn due(&self, dropping: bool) -> Instant {
        if dropping || !self.pieces.is_empty() { self.next_try } else { self.progress + HEARTBEAT }
    }

    pub(super) fn acknowledge(&mut self, next: u64, now: Instant) {
        let count = (next - self.base) as usize;
        for (piece, number) in self.pieces.drain(..count.min(self.pieces.len())) {
            self.bytes -= piece.len();
            self.acknowledged = self.acknowledged.max(number);
        }
        self.base = next;
        self.progress = now;
        self.next_try = now;
    }
}

/// The pieces, the last of them with the change's number.
pub(super) fn numbered(pieces: Vec<Vec<u8>>, number: u64) -> impl Iterator<Item = (Vec<u8>, u64)> {
    let last = pieces.len().saturating_sub(1);
    pieces.into_iter().enumerate().map(move |(at, piece)| (piece, if at == last { number } else { 0 }))
}
