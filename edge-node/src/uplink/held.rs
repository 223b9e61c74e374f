//! One spurt that is not *done* yet.

use std::time::{Duration, Instant};

use mesh::{
    clock::Micros,
    identity::NodeId,
    wire::spurt::{Item, SpurtEnd},
};

use super::{SpurtKey, Transmit, lag::Marks, spilling::OnDisk};
use crate::toc::packet_duration;

/// What an item is counted as beyond its bytes, and a spurt beyond its items: the memory they take here.
pub(super) const OVERHEAD: usize = 64;

/// How long an item is taken to last before there was a packet.
pub(super) const SLOT: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Debug)]
pub(super) struct Spurt {
    pub(super) order: u64,
    pub(super) since: Instant,
    pub(super) captured: Micros,
    /// All of them, or none if they are on disk only.
    pub(super) items: Vec<Item>,
    /// How many it has.
    pub(super) count: u32,
    /// And how long they last.
    pub(super) spoken: Duration,
    /// How long the last of them lasts.
    pub(super) slot: Duration,
    pub(super) end: Option<SpurtEnd>,
    pub(super) bytes: usize,
    pub(super) on_disk: OnDisk,
    /// What this core holds of it.
    pub(super) durable: Option<(NodeId, u32)>,
    /// Where its stream on this connection stands.
    pub(super) stream: Stream,
    /// When its last item was handed to a stream.
    pub(super) sent_at: Micros,
    /// When what was said that the core does not hold.
    pub(super) marks: Marks,
    /// It is sent when it is over.
    pub(super) whole: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    /// To be opened, if there is a connection, from the durable mark.
    None,
    /// Open; so many items of the spurt are written or were durable before.
    At(u32),
    /// Finished.
    Ended,
}

impl Spurt {
    pub(super) fn is_ready(&self) -> bool {
        self.has_more() && !self.is_held_back()
    }

    /// The core has it, to its end: its words come, whatever becomes of it here.
    pub(super) fn is_safe(&self) -> bool {
        self.end.is_some() && self.durable.as_ref().is_some_and(|(_, upto)| *upto == self.count)
    }

    /// The same of one in which nothing may have been said.
    pub(super) fn is_home(&self) -> bool {
        self.end.is_some() && (self.count == 0 || self.is_safe())
    }

    pub(super) fn is_held_back(&self) -> bool {
        self.whole && self.end.is_none()
    }

    pub(super) fn has_more(&self) -> bool {
        match self.stream {
            Stream::None => true,
            Stream::At(items) => items < self.count || self.end.is_some(),
            Stream::Ended => false,
        }
    }

    pub(super) fn transmit(&mut self, key: SpurtKey, wall: Micros) -> Option<Transmit> {
        match self.stream {
            Stream::None => {
                let offset = self.durable.as_ref().map_or(0, |(_, upto)| *upto);
                self.stream = Stream::At(offset);
                Some(Transmit::Open { key, offset, captured: self.captured })
            }
            Stream::At(next) => match self.items.get(next as usize) {
                Some(item) => {
                    self.stream = Stream::At(next + 1);
                    self.sent_at = wall;
                    Some(Transmit::Item { key, item: item.clone() })
                }
                None => {
                    let mut end = self.end?;
                    self.stream = Stream::Ended;
                    end.stages.sent = self.sent_at;
                    Some(Transmit::End { key, end })
                }
            },
            Stream::Ended => None,
        }
    }
}

/// How long items last; a gap as long as the frame before it.
pub(super) fn length(items: &[Item]) -> Duration {
    let mut slot = SLOT;
    let lengths = items.iter().map(|item| {
        if let Item::Frame(packet) = item {
            slot = packet_duration(packet).unwrap_or(slot);
        }
        slot
    });
    lengths.sum()
}

pub(super) fn cost(item: &Item) -> usize {
    OVERHEAD + if let Item::Frame(packet) = item { packet.len() } else { 0 }
}

pub(super) fn packets(item: &Item) -> u64 {
    u64::from(matches!(item, Item::Frame(_)))
}
