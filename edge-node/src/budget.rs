//! What one meeting, or one participant, may ask of this edge: packets and bytes a second.
//!
//! ```text
//!            room left                       no room                          so for `patience`
//! Within ◀──────────────── any packet ────────────────▶ Dropped, counted ────────────────────▶ Flooded
//! ```

use std::time::{Duration, Instant};

/// The rates that are allowed; a burst may take a second's worth at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Packets a second. 500 participants who all speak at once in 20 ms frames send 25,000.
    pub packets_per_second: u32,
    /// Bytes of payload a second. Those 500 at 64 kb/s send 4 MB.
    pub bytes_per_second: u32,
    /// How long packets may have to be dropped, with no pause of [`CALM`], before it is a flood.
    pub patience: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { packets_per_second: 30_000, bytes_per_second: 6_000_000, patience: Duration::from_secs(10) }
    }
}

impl Settings {
    /// Of one participant: more than twice what the shortest frames of Opus (2.5 ms) need. It is never a reason to end a
    /// meeting.
    pub fn of_participant() -> Self {
        Self { packets_per_second: 1000, bytes_per_second: 512_000, patience: Duration::MAX }
    }
}

/// Nothing dropped for so long, and what was before is forgiven.
pub const CALM: Duration = Duration::from_secs(2);

/// What is to be done with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Take it.
    Within,
    /// Let it fall.
    Dropped,
    /// Let it fall, and end whatever sends so much.
    Flooded,
}

/// One budget.
#[derive(Debug)]
pub struct Budget {
    settings: Settings,
    /// Packets and bytes there is room for now.
    packets: f64,
    bytes: f64,
    filled: Instant,
    /// First and last packet dropped since it was last calm.
    over: Option<(Instant, Instant)>,
}

impl Budget {
    /// A budget that nothing was taken from yet.
    pub fn new(settings: Settings, now: Instant) -> Self {
        let (packets, bytes) = (f64::from(settings.packets_per_second), f64::from(settings.bytes_per_second));
        Self { settings, packets, bytes, filled: now, over: None }
    }

    /// A packet of `length` bytes came.
    pub fn handle_packet(&mut self, length: usize, now: Instant) -> Verdict {
        self.fill(now);
        if self.packets >= 1.0 && self.bytes >= length as f64 {
            self.packets -= 1.0;
            self.bytes -= length as f64;
            return Verdict::Within;
        }
        let calm = |(_, last): &(Instant, Instant)| now.saturating_duration_since(*last) >= CALM;
        let (first, _) = self.over.take_if(|over| !calm(over)).unwrap_or((now, now));
        self.over = Some((first, now));
        let lasts = now.saturating_duration_since(first);
        if lasts >= self.settings.patience { Verdict::Flooded } else { Verdict::Dropped }
    }

    fn fill(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.filled).as_secs_f64();
        let (most_packets, most_bytes) =
            (f64::from(self.settings.packets_per_second), f64::from(self.settings.bytes_per_second));
        self.packets = (self.packets + seconds * most_packets).min(most_packets);
        self.bytes = (self.bytes + seconds * most_bytes).min(most_bytes);
        self.filled = self.filled.max(now);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn budget(now: Instant) -> Budget {
        let patience = Duration::from_secs(5);
        Budget::new(Settings { packets_per_second: 100, bytes_per_second: 10_000, patience }, now)
    }

    /// How many of `count` packets of `length` bytes, `every` apart, are taken; and the last verdict.
    fn send(budget: &mut Budget, at: &mut Instant, count: u32, length: usize, every: Duration) -> (u32, Verdict) {
        let (mut taken, mut last) = (0, Verdict::Within);
        for _ in 0..count {
            *at += every;
            last = budget.handle_packet(length, *at);
            taken += u32::from(last == Verdict::Within);
        }
        (taken, last)
    }

    #[test]
    fn what_is_within_the_rate_is_taken_bursts_of_a_second_included() {
        let mut now = Instant::now();
        let mut budget = budget(now);
        assert_eq!(send(&mut budget, &mut now, 100, 100, Duration::ZERO), (100, Verdict::Within));
        now += Duration::from_secs(1);
        assert_eq!(send(&mut budget, &mut now, 3000, 100, 10 * MS), (3000, Verdict::Within));
    }

    #[test]
    fn a_flood_is_cut_to_the_rate_and_ends_after_its_patience() {
        let mut now = Instant::now();
        let mut budget = budget(now);
        let (taken, last) = send(&mut budget, &mut now, 4000, 10, MS);
        assert!((480..=510).contains(&taken), "{taken}");
        assert_eq!(last, Verdict::Dropped, "4 s are within its patience");
        assert_eq!(send(&mut budget, &mut now, 3000, 10, MS).1, Verdict::Flooded);
    }

    #[test]
    fn bytes_count_as_well_as_packets() {
        let mut now = Instant::now();
        let mut budget = budget(now);
        let (taken, last) = send(&mut budget, &mut now, 50, 1000, MS);
        assert!((10..=11).contains(&taken), "{taken}");
        assert_eq!(last, Verdict::Dropped);
    }

    #[test]
    fn peaks_with_pauses_between_them_are_no_flood_however_many() {
        let mut now = Instant::now();
        let mut budget = budget(now);
        for _ in 0..20 {
            assert_eq!(send(&mut budget, &mut now, 500, 10, MS).1, Verdict::Dropped);
            now += CALM + Duration::from_secs(1);
        }
    }
}
