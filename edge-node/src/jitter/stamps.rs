//! Timestamps that do not fit their packets.
//!
//! The RTP clock of Opus counts 48,000 a second, whatever is sampled (RFC 7587 section 4.1). Senders are known that count 8,000,
//! 16,000, 24,000 or 96,000, or not at all, or begin anew in mid-stream. A packet says itself how long it plays, and
//! consecutive ones come about as fast as they play. So where several steps in a row are wrong by one factor, timestamps are
//! brought to 48 kHz by that; and where one cannot be, its packet is placed by its number, by the length of the one before, and by
//! its arrival.

use std::time::{Duration, Instant};

use super::{MAX_AHEAD, MAX_BACK, MAX_DROPOUT, MAX_MISORDER};
use crate::{
    media::RtpPacket,
    toc::{packet_duration, samples_to_duration},
};

/// So many steps in a row show another clock.
const STEPS: u32 = 6;
/// A step that is off by no more samples is right.
const NEAR: u32 = 48;
/// One that is more than so many packets long is a pause.
const MOST: u32 = 4;
/// What arrives later than this after where it is placed follows a pause.
const PAUSE: Duration = Duration::from_millis(250);
/// Samples of a packet that is none.
const USUAL: u32 = 960;

/// One source's clock.
#[derive(Debug, Default)]
pub(super) struct Stamps {
    last: Option<Last>,
    factor: Factor,
    odd: Odd,
    /// The factor is another from this packet on.
    renewed: bool,
}

/// The packet furthest along.
#[derive(Debug, Clone, Copy)]
struct Last {
    sequence: u16,
    /// As it came, and as it was told.
    raw: u32,
    told: u32,
    /// What it plays.
    samples: u32,
    arrived: Instant,
}

/// So far the clock steps for so many samples.
#[derive(Debug, Clone, Copy)]
struct Factor {
    step: u32,
    samples: u32,
}

/// Steps in a row that the factor does not explain, but another does.
#[derive(Debug, Clone, Copy, Default)]
struct Odd {
    factor: Factor,
    steps: u32,
    told: Duration,
    plays: Duration,
    elapsed: Duration,
}

impl Default for Factor {
    fn default() -> Self {
        Self { step: 1, samples: 1 }
    }
}

impl Factor {
    fn apply(self, raw: i32) -> i64 {
        i64::from(raw) * i64::from(self.samples) / i64::from(self.step)
    }

    /// Whether a packet of so many samples is followed by this step.
    fn explains(self, step: i32, samples: u32) -> bool {
        self.apply(step).abs_diff(samples.into()) <= u64::from(NEAR.min(samples / 4))
    }
}

impl Stamps {
    /// Brings the packet's timestamp to 48 kHz. True if it has turned out just now that the clock was another.
    pub(super) fn correct(&mut self, packet: &mut RtpPacket) -> bool {
        packet.timestamp = self.told(packet);
        std::mem::take(&mut self.renewed)
    }

    fn told(&mut self, packet: &RtpPacket) -> u32 {
        let samples = packet_duration(&packet.payload).map(|d| (d.as_micros() * 48 / 1000) as u32);
        let samples = samples.or(self.last.map(|last| last.samples)).unwrap_or(USUAL);
        let RtpPacket { sequence, timestamp: raw, arrived, .. } = *packet;
        let Some(last) = self.last else {
            self.last = Some(Last { sequence, raw, told: raw, samples, arrived });
            return raw;
        };
        let (steps, step) = (sequence.wrapping_sub(last.sequence) as i16, raw.wrapping_sub(last.raw) as i32);
        let elapsed = arrived.saturating_duration_since(last.arrived);
        if steps == 1 {
            self.watch(step, last.samples, elapsed);
        }
        let told = last.told.wrapping_add(self.place(steps, step, samples, last.samples, elapsed) as u32);
        if steps > 0 || steps <= -MAX_MISORDER {
            self.last = Some(Last { sequence, raw, told, samples, arrived });
        }
        told
    }

    /// How far it lies behind the last one, in samples.
    fn place(&self, steps: i16, step: i32, samples: u32, before: u32, elapsed: Duration) -> i64 {
        let told = self.factor.apply(step);
        match steps {
            0 => 0,
            1..MAX_DROPOUT => {
                let ahead = samples_to_duration(told.max(0) as u64);
                if told > 0 && ahead <= elapsed + MAX_AHEAD {
                    return told;
                }
                let played = i64::from(before) * i64::from(steps);
                let pause = elapsed.saturating_sub(samples_to_duration(played as u64));
                if pause < PAUSE { played } else { played + (pause.as_micros() * 48 / 1000) as i64 }
            }
            _ if steps > -MAX_MISORDER && (told >= 0 || told <= i64::from(-MAX_BACK)) => {
                i64::from(samples) * i64::from(steps)
            }
            _ => told,
        }
    }

    /// Looks at a step between consecutive packets.
    fn watch(&mut self, step: i32, samples: u32, elapsed: Duration) {
        let likely = u32::try_from(step).ok().filter(|step| (1..=samples * MOST).contains(step));
        let Some(likely) = likely.filter(|_| !self.factor.explains(step, samples)) else {
            self.odd = Odd::default();
            return;
        };
        if self.odd.steps == 0 || !self.odd.factor.explains(step, samples) {
            self.odd = Odd { factor: Factor { step: likely, samples }, ..Odd::default() };
        }
        self.odd.steps += 1;
        self.odd.told += samples_to_duration(self.factor.apply(step).max(0) as u64);
        self.odd.plays += samples_to_duration(samples.into());
        self.odd.elapsed += elapsed;
        if self.odd.steps < STEPS {
            return;
        }
        let Odd { factor, told, plays, elapsed, .. } = std::mem::take(&mut self.odd);
        // No clock goes less far than the packets play; one that goes further may tell of pauses, which show in arrival.
        if told < plays || elapsed.abs_diff(plays) * 2 < elapsed.abs_diff(told) {
            let own = Factor::default().explains(factor.step as i32, factor.samples);
            self.factor = if own { Factor::default() } else { factor };
            self.renewed = true;
            tracing::debug!(
                step = factor.step,
                samples = factor.samples,
                "a source's clock is of another rate than its packets"
            );
        }
    }
}
