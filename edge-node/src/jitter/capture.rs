//! Media time over the wall clock.

use std::time::{Duration, Instant};

use mesh::clock::Micros;

use crate::toc::samples_to_duration;

/// A participant's own clock: samples at 48 kHz since its first packet, the RTP timestamp unwrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MediaTime(pub u64);

impl MediaTime {
    /// How long after `earlier` this is; zero if it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        samples_to_duration(self.0.saturating_sub(earlier.0))
    }

    pub(super) fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(duration_to_samples(by)))
    }

    pub(super) fn before(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(duration_to_samples(by)))
    }

    fn micros(self) -> i64 {
        (self.0 / 6 * 125 + self.0 % 6 * 125 / 6) as i64
    }
}

/// Rounded to the nearest, since a sample is no whole number of nanoseconds.
fn duration_to_samples(duration: Duration) -> u64 {
    ((duration.as_nanos() * 3 + 31_250) / 62_500) as u64
}

/// How long each of the two windows is in which the least delay is looked for.
const WINDOW_US: i64 = 10_000_000;
/// The estimate is followed at 5 ms per second, far more than any two clocks drift apart (100 ppm is 0.1 ms per
/// second), or by a fifth of the error per second, whichever is more: never so fast that captured time runs back.
const SLEW_PER_MILLE: i64 = 5;
const SLEW_US: i64 = 5_000_000;
/// An estimate further off than this is followed at once: the anchor was wrong, not the clock.
const STEP_US: i64 = 500_000;

/// Lays media time over the wall clock so that network jitter does not move it.
///
/// The first packet anchors it. Each packet's delay is what its arrival lags behind that anchor; the least delay of
/// the last 10 to 20 s is the path without its queues, and the offset follows it slowly: that corrects a first
/// packet that came late, and the skew between the sender's clock and ours. Monotonic time measures, so a step of
/// the wall clock does not show.
#[derive(Debug)]
pub(crate) struct CaptureClock {
    origin: Instant,
    origin_wall: Micros,
    offset: i64,
    least: [i64; 2],
    window_start: i64,
    slewed_to: i64,
}

impl CaptureClock {
    /// Anchors [`MediaTime`] zero at a first packet's arrival.
    pub(crate) fn new(arrived: Instant, arrived_at: Micros) -> Self {
        let least = [i64::MAX, 0];
        Self { origin: arrived, origin_wall: arrived_at, offset: 0, least, window_start: 0, slewed_to: 0 }
    }

    /// Begins anew with this packet: what media time was before says nothing.
    pub(crate) fn anchor(&mut self, media: MediaTime, arrived: Instant) {
        let at = media.micros();
        self.offset = self.delay(media, arrived);
        (self.least, self.window_start, self.slewed_to) = ([i64::MAX; 2], at, at);
    }

    /// Takes note of when a packet arrived.
    pub(crate) fn observe(&mut self, media: MediaTime, arrived: Instant) {
        let (at, delay) = (media.micros(), self.delay(media, arrived));
        if at - self.window_start >= WINDOW_US {
            // After a long pause (DTX, or muted) the clocks are elsewhere: what was least before it says nothing.
            let stale = at - self.window_start >= 2 * WINDOW_US;
            self.least = [i64::MAX, if stale { i64::MAX } else { self.least[0] }];
            self.window_start = at;
        }
        self.least[0] = self.least[0].min(delay);
        let error = self.least[0].min(self.least[1]) - self.offset;
        let time = (at - self.slewed_to).clamp(0, SLEW_US);
        let most = (time * SLEW_PER_MILLE / 1000).max(error.abs().min(STEP_US) * time / SLEW_US);
        self.offset += if error.abs() > STEP_US { error } else { error.clamp(-most, most) };
        self.slewed_to = self.slewed_to.max(at);
    }

    /// When `media` was captured, by our wall clock.
    pub(crate) fn captured(&self, media: MediaTime) -> Micros {
        Micros(self.origin_wall.0.saturating_add_signed(media.micros() + self.offset))
    }

    /// By how much a packet is later than the least delay expected.
    pub(crate) fn lateness(&self, media: MediaTime, arrived: Instant) -> Duration {
        Duration::from_micros((self.delay(media, arrived) - self.offset).max(0) as u64)
    }

    /// The media time of a packet that has just come with no delay beyond the least.
    pub(crate) fn media_at(&self, arrived: Instant) -> MediaTime {
        let micros = arrived.saturating_duration_since(self.origin).as_micros() as i64 - self.offset;
        MediaTime(micros.max(0) as u64 * 48 / 1000)
    }

    fn delay(&self, media: MediaTime, arrived: Instant) -> i64 {
        arrived.saturating_duration_since(self.origin).as_micros() as i64 - media.micros()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "any instant will do to count from")]
    use super::*;

    const WALL: Micros = Micros(1_700_000_000_000_000);

    /// Packets every 20 ms of a clock that runs `ppm` fast, each delayed by what `jitter` says, in ms.
    fn run(seconds: u64, ppm: i64, jitter: impl Fn(u64) -> u64) -> (CaptureClock, i64) {
        let start = Instant::now();
        let mut clock =
            CaptureClock::new(start + Duration::from_millis(jitter(0)), WALL.plus(Duration::from_millis(jitter(0))));
        let mut worst = 0;
        for n in 1..seconds * 50 {
            let media = MediaTime(n * 960);
            let truth = n as i64 * 20_000 * 1_000_000 / (1_000_000 + ppm);
            clock.observe(media, start + Duration::from_micros(truth as u64) + Duration::from_millis(jitter(n)));
            if n > seconds * 25 {
                worst = worst.max((clock.captured(media).0 as i64 - WALL.0 as i64 - truth).abs());
            }
        }
        (clock, worst)
    }

    #[test]
    fn jitter_does_not_move_captured_time() {
        let (_, worst) = run(60, 0, |n| if n % 7 == 0 { 0 } else { n * 31 % 80 });
        assert!(worst < 1000, "{worst} us");
    }

    #[test]
    fn a_late_first_packet_is_forgotten() {
        assert!(run(60, 0, |n| if n == 0 { 90 } else { 0 }).1 < 1000);
        assert!(run(60, 0, |n| if n == 0 { 3000 } else { 0 }).1 < 1000);
    }

    /// Hours of talk and silence, in which nothing is sent or one packet in 400 ms; the worst error of a packet's captured time
    /// against when it was captured, from half a minute on, in us. The least delay is zero.
    fn worst_of_hours(seed: u64, hours: u64, ppm: i64, comfort: bool) -> i64 {
        let mut dice = seed;
        let mut below = |n: u64| {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            dice % n
        };
        let start = Instant::now();
        let mut clock = CaptureClock::new(start, WALL);
        let (mut n, mut worst, mut before) = (1, 0, WALL);
        while n < hours * 3600 * 50 {
            for (packets, every) in [(100 + below(900), 1), (below(30_000), if comfort { 20 } else { 0 })] {
                for _ in 0..packets.checked_div(every).unwrap_or(0) {
                    n += every;
                    let truth = n as i64 * 20_000 * 1_000_000 / (1_000_000 + ppm);
                    let delay = if below(8) == 0 { below(40_000) } else { below(5000) };
                    clock.observe(MediaTime(n * 960), start + Duration::from_micros(truth as u64 + delay));
                    let captured = clock.captured(MediaTime(n * 960));
                    assert!(captured >= before, "seed {seed}: captured time runs back at packet {n}");
                    before = captured;
                    if n > 1500 {
                        worst = worst.max((captured.0 as i64 - WALL.0 as i64 - truth).abs());
                    }
                }
                n += if every == 0 { packets } else { 0 };
            }
        }
        worst
    }

    #[test]
    fn talk_stays_in_time_over_hours_of_skew_and_silences_of_minutes() {
        for (seed, ppm) in [(1, 0), (2, 100), (3, -100), (4, 500), (5, -500)] {
            for comfort in [false, true] {
                let worst = worst_of_hours(seed, 8, ppm, comfort);
                // A first packet after a long pause may itself have waited in a queue, and there is no other to compare it with.
                let most = if comfort { 20_000 } else { 45_000 };
                assert!(worst <= most, "seed {seed}, {ppm} ppm, comfort {comfort}: {worst} us");
            }
        }
    }

    #[test]
    fn clock_skew_is_followed() {
        for ppm in [-200, 200] {
            let (_, worst) = run(600, ppm, |n| n * 17 % 40);
            assert!(worst < 8000, "{worst} us at {ppm} ppm");
        }
    }
}
