//! When which packet is due: the generator sends by it, the judge counts delays from it.

use std::time::Duration;

use mesh::clock::Micros;

/// Time between packets of one stream.
pub(super) const TICK: Duration = Duration::from_millis(20);
/// Streams are spread evenly over so many parts of a tick.
pub(super) const SLOTS: u64 = 20;
/// Samples of RTP time in a tick.
pub(super) const TICK_SAMPLES: u64 = 960;

/// The clock of all streams.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    /// When tick 0 began.
    pub(super) epoch: Micros,
}

impl Timing {
    /// The slot in which a participant's packets are due.
    pub(super) fn slot(meeting: usize, who: usize) -> u64 {
        (meeting as u64 * 7 + who as u64 * 11) % SLOTS
    }

    /// The meetings of whose participant `who` packets are due in this slot.
    pub(super) fn meetings(slot: u64, who: usize) -> impl Iterator<Item = usize> {
        let first = (0..SLOTS as usize).find(|meeting| Self::slot(*meeting, who) == slot);
        first.into_iter().flat_map(|first| (first..).step_by(SLOTS as usize))
    }

    /// When the packet with this RTP timestamp was due.
    pub(super) fn due(self, meeting: usize, who: usize, timestamp: u32) -> Micros {
        let slots = u64::from(timestamp) / TICK_SAMPLES * SLOTS + Self::slot(meeting, who);
        self.epoch.plus(slot_time(slots))
    }
}

/// How long so many slots take.
pub(super) fn slot_time(slots: u64) -> Duration {
    Duration::from_micros(slots * TICK.as_micros() as u64 / SLOTS)
}
