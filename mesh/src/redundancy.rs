//! Frames said again before anyone can know that they were lost.
//!
//! A spurt's stream delivers everything, but what the path loses comes a round trip late, and what follows
//! waits for it. So on a lossy path the sender repeats items in datagrams ([`crate::wire::copies`]) that race
//! the stream, and the receiver takes whichever comes first:
//!
//! * [`meter`] learns from QUIC's own loss detection how lossy the path is, and in what manner, and makes a
//!   [`Plan`]. On a clean path, or one so short that a retransmission is as quick, nothing is repeated.
//! * [`repeater`] keeps the last items of each live spurt and says which of them are due for repetition.
//! * [`ahead`] keeps at the receiver what came before its turn.
//!
//! **Why these lags.** A lost packet that is alone is made good by one copy in the next packet, 20 ms later. In
//! a burst the copy is likely lost too (for exponential bursts of mean 60 ms: in 7 of 10), so it has to come
//! later; but if all copies come late, everything behind a lost frame waits as long. Copies at 60, 120 and
//! 180 ms interleave: the first three packets after a burst hold *every* frame of the last 180 ms between them, so
//! any burst that short is made good within 40 ms of its end, for three times the frames' bytes. Carrying
//! the last nine frames in each packet gains 40 ms and costs nine times.

pub mod ahead;
pub mod meter;
pub mod repeater;

use std::time::Duration;

/// The lag of the first copy where losses are single: one packet of speech.
const NEXT: Duration = Duration::from_millis(20);
/// The lag between copies where losses come in bursts.
const STRIDE: Duration = Duration::from_millis(60);
/// The most copies that are made for bursts.
const MAX_STRIDES: u8 = 4;

/// When items are repeated, counted from when they were first sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Plan {
    next: bool,
    strides: u8,
}

impl Plan {
    /// Nothing is repeated.
    pub const NONE: Self = Self { next: false, strides: 0 };
    /// Against single losses: once, with the next packet.
    pub const LIGHT: Self = Self { next: true, strides: 0 };
    /// Against many single losses: with the next packet, and with the third.
    pub const FIRM: Self = Self { next: true, strides: 1 };

    /// Against bursts of up to `length`; longer than 240 ms counts as that. `singles` says that packets
    /// are lost outside of bursts as well.
    pub fn bursts(length: Duration, singles: bool) -> Self {
        let strides = length.as_millis().div_ceil(STRIDE.as_millis()).clamp(2, u128::from(MAX_STRIDES));
        Self { next: singles, strides: strides as u8 }
    }

    /// Whether anything is repeated.
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }

    /// How many times each item is repeated.
    pub fn times(self) -> u32 {
        u32::from(self.next) + u32::from(self.strides)
    }

    /// The first lag above `lag`.
    pub fn after(self, lag: Duration) -> Option<Duration> {
        self.lags().find(|l| *l > lag)
    }

    /// The last lag that has come when an item is this old.
    pub fn passed(self, age: Duration) -> Option<Duration> {
        self.lags().take_while(|l| *l <= age).last()
    }

    /// The longest lag.
    pub fn last(self) -> Option<Duration> {
        self.lags().last()
    }

    fn lags(self) -> impl Iterator<Item = Duration> {
        let strides = (1..=u32::from(self.strides)).map(|n| STRIDE * n);
        self.next.then_some(NEXT).into_iter().chain(strides)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn lags_rise_and_end() {
        let plan = Plan::bursts(MS * 150, true);
        assert_eq!(plan.times(), 4);
        let lags = std::iter::successors(plan.after(Duration::ZERO), |lag| plan.after(*lag));
        assert_eq!(lags.collect::<Vec<_>>(), [MS * 20, MS * 60, MS * 120, MS * 180]);
        assert_eq!(plan.passed(MS * 19), None);
        assert_eq!(plan.passed(MS * 119), Some(MS * 60));
        assert_eq!(Plan::NONE.after(Duration::ZERO), None);
    }

    #[test]
    fn the_interleaved_copies_of_three_packets_hold_every_frame_of_the_window() {
        // Packets every 20 ms; the burst took those at -9 to -1, the first to arrive is at 0.
        let plan = Plan::bursts(MS * 180, false);
        for lost in 1..=9u32 {
            let came = (0..3).find(|packet| plan.passed(MS * 20 * (lost + packet)) == Some(MS * 20 * (lost + packet)));
            assert!(came.is_some(), "the frame {lost} before the end came in no packet of the first three");
        }
    }
}
