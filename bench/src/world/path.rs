//! One direction of a path through the emulated Internet, in virtual time.
//!
//! A packet waits for the bottleneck (rate and drop-tail queue), may be lost on the way, and arrives
//! after delay and jitter. Time and chance are inputs: the same seed and the same packets give the
//! same fates.

use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

/// What a path does to the packets that take it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Quality {
    /// One-way delay of every packet.
    pub delay: Duration,
    /// The most that is added to the delay, evenly spread over 0 to this.
    pub jitter: Duration,
    /// Whether jitter may let a packet overtake an earlier one. Most real paths keep order.
    pub reorder: bool,
    /// Share of packets lost independently of each other, 0 to 1.
    pub loss: f64,
    /// Loss that comes in bursts.
    pub bursts: Option<Bursts>,
    /// The bottleneck; unlimited when absent.
    pub bottleneck: Option<Bottleneck>,
    /// A firewall lets no UDP pass.
    pub no_udp: bool,
}

/// A Gilbert-Elliott model whose two states last for exponentially distributed *times*, so that a
/// burst hurts as long whether few or many packets meet it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bursts {
    /// Mean time between bursts; above zero.
    pub apart: Duration,
    /// Mean length of a burst; above zero.
    pub length: Duration,
    /// Share of packets lost during a burst, 0 to 1.
    pub loss: f64,
}

/// A link of limited rate behind a drop-tail queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bottleneck {
    /// Bits per second; above zero.
    pub rate: u64,
    /// Bytes that may wait. A packet that finds more ahead of it is dropped.
    pub queue: usize,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It arrives.
    Deliver {
        /// When it reaches the far end.
        at: Instant,
    },
    /// It does not.
    Drop(Reason),
}

/// Why a packet was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Random loss.
    Loss,
    /// Lost in a burst.
    Burst,
    /// The bottleneck's queue was full.
    QueueFull,
    /// The path is cut.
    Partition,
}

/// Packets a path has seen, by fate, since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Packets carried to the far end.
    pub delivered: u64,
    /// Bytes carried to the far end, IP headers included.
    pub delivered_bytes: u64,
    /// Dropped at random.
    pub lost: u64,
    /// Dropped in bursts.
    pub lost_in_bursts: u64,
    /// Dropped by a full queue.
    pub queue_full: u64,
    /// Dropped because the path was cut.
    pub cut: u64,
}

/// One direction of a path: its quality, and what earlier packets left behind.
#[derive(Debug)]
pub struct Path {
    quality: Quality,
    rng: StdRng,
    burst: Option<BurstState>,
    /// When the bottleneck has sent all that was queued.
    busy_until: Option<Instant>,
    last_arrival: Option<Instant>,
    counters: Counters,
}

#[derive(Debug, Clone, Copy)]
struct BurstState {
    bad: bool,
    until: Instant,
}

impl Quality {
    /// A clean path with this one-way delay.
    pub fn delayed(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }

    /// One direction of a clean path with this round trip, the same both ways.
    pub fn round_trip(rtt: Duration) -> Self {
        Self::delayed(rtt / 2)
    }
}

impl Path {
    /// A path of this quality whose chances follow from `seed`.
    pub fn new(quality: Quality, seed: u64) -> Self {
        Self {
            quality,
            rng: StdRng::seed_from_u64(seed),
            burst: None,
            busy_until: None,
            last_arrival: None,
            counters: Counters::default(),
        }
    }

    /// Changes the quality for packets from now on; those on their way keep their fate.
    pub fn set_quality(&mut self, quality: Quality) {
        self.quality = quality;
        self.burst = None;
    }

    /// The path's quality now.
    pub fn quality(&self) -> &Quality {
        &self.quality
    }

    /// What the path has done so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Decides the fate of a packet of `bytes` that sets out at `now`; `cut` is whether the path is
    /// partitioned. `now` must not go backwards between calls.
    pub fn transit(&mut self, now: Instant, bytes: usize, cut: bool) -> Verdict {
        match self.arrival(now, bytes, cut) {
            Ok(at) => {
                self.counters.delivered += 1;
                self.counters.delivered_bytes += bytes as u64;
                Verdict::Deliver { at }
            }
            Err(reason) => {
                self.counters.count(reason);
                Verdict::Drop(reason)
            }
        }
    }

    fn arrival(&mut self, now: Instant, bytes: usize, cut: bool) -> Result<Instant, Reason> {
        if cut {
            return Err(Reason::Partition);
        }
        // What is lost on the way has still taken its share of the bottleneck.
        let departs = self.queue(now, bytes)?;
        if self.lost_in_burst(now) {
            return Err(Reason::Burst);
        }
        if self.chance(self.quality.loss) {
            return Err(Reason::Loss);
        }
        let jitter = self.quality.jitter.mul_f64(self.rng.random::<f64>());
        let at = departs + self.quality.delay + jitter;
        let in_order = self.last_arrival.map_or(at, |last| at.max(last));
        self.last_arrival = Some(in_order);
        Ok(if self.quality.reorder { at } else { in_order })
    }

    /// When the packet's last bit has left the bottleneck.
    fn queue(&mut self, now: Instant, bytes: usize) -> Result<Instant, Reason> {
        let Some(link) = &self.quality.bottleneck else { return Ok(now) };
        let seconds_per_byte = 8.0 / link.rate as f64;
        let starts = self.busy_until.map_or(now, |busy| busy.max(now));
        let waiting = starts.duration_since(now).as_secs_f64() / seconds_per_byte;
        if waiting > link.queue as f64 {
            return Err(Reason::QueueFull);
        }
        let departs = starts + Duration::from_secs_f64(bytes as f64 * seconds_per_byte);
        self.busy_until = Some(departs);
        Ok(departs)
    }

    fn lost_in_burst(&mut self, now: Instant) -> bool {
        let Some(bursts) = self.quality.bursts.clone() else { return false };
        self.advance(&bursts, now).bad && self.chance(bursts.loss)
    }

    /// The burst state at `now`, drawn forward from where it was last looked at.
    fn advance(&mut self, bursts: &Bursts, now: Instant) -> BurstState {
        let cycle = bursts.apart + bursts.length;
        let known = self.burst.filter(|state| now.saturating_duration_since(state.until) < cycle * 64);
        // After a long silence the past no longer matters: draw from the long-run shares.
        let mut state = known.unwrap_or_else(|| {
            let bad = self.chance(bursts.length.as_secs_f64() / cycle.as_secs_f64());
            BurstState { bad, until: now + self.stay(bursts, bad) }
        });
        while state.until <= now {
            state.bad = !state.bad;
            state.until += self.stay(bursts, state.bad);
        }
        self.burst = Some(state);
        state
    }

    /// How long the next stay in a state is: exponential, by inversion.
    fn stay(&mut self, bursts: &Bursts, bad: bool) -> Duration {
        let mean = if bad { bursts.length } else { bursts.apart };
        let uniform = 1.0 - self.rng.random::<f64>();
        mean.mul_f64(-uniform.ln()).max(Duration::from_micros(1))
    }

    fn chance(&mut self, share: f64) -> bool {
        share > 0.0 && self.rng.random::<f64>() < share
    }
}

impl Counters {
    /// All that was dropped, for whatever reason.
    pub fn dropped(&self) -> u64 {
        self.lost + self.lost_in_bursts + self.queue_full + self.cut
    }

    fn count(&mut self, reason: Reason) {
        match reason {
            Reason::Loss => self.lost += 1,
            Reason::Burst => self.lost_in_bursts += 1,
            Reason::QueueFull => self.queue_full += 1,
            Reason::Partition => self.cut += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "virtual time begins at some instant")]

    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn arrivals(path: &mut Path, packets: u32, every: Duration, bytes: usize) -> Vec<Option<Duration>> {
        let start = Instant::now();
        (0..packets)
            .map(|n| match path.transit(start + every * n, bytes, false) {
                Verdict::Deliver { at } => Some(at - start),
                Verdict::Drop(_) => None,
            })
            .collect()
    }

    #[test]
    fn a_clean_path_adds_its_delay_and_nothing_else() {
        let mut path = Path::new(Quality::round_trip(MS * 50), 1);
        assert_eq!(arrivals(&mut path, 3, MS, 100), [Some(MS * 25), Some(MS * 26), Some(MS * 27)]);
    }

    #[test]
    fn a_cut_path_carries_nothing_and_counts_it() {
        let mut path = Path::new(Quality::default(), 1);
        assert_eq!(path.transit(Instant::now(), 100, true), Verdict::Drop(Reason::Partition));
        assert_eq!(path.counters(), Counters { cut: 1, ..Counters::default() });
    }

    #[test]
    fn random_loss_takes_its_share() {
        let mut path = Path::new(Quality { loss: 0.05, ..Quality::default() }, 7);
        let lost = arrivals(&mut path, 20_000, MS, 100).iter().filter(|at| at.is_none()).count();
        assert!((900..1100).contains(&lost), "{lost} of 20000 lost");
        assert_eq!((path.counters().lost, path.counters().dropped()), (lost as u64, lost as u64));
    }

    #[test]
    fn bursts_have_their_length_in_time_whatever_the_packet_rate() {
        for every in [MS, MS * 5, MS * 20] {
            let bursts = Bursts { apart: MS * 940, length: MS * 60, loss: 1.0 };
            let mut path = Path::new(Quality { bursts: Some(bursts), ..Quality::default() }, 3);
            let packets = (Duration::from_secs(2000).as_millis() / every.as_millis()) as u32;
            let lost = arrivals(&mut path, packets, every, 100).iter().filter(|at| at.is_none()).count();
            let share = lost as f64 / f64::from(packets);
            assert!((0.05..0.07).contains(&share), "{share} lost at one packet per {every:?}");
        }
    }

    #[test]
    fn a_long_silence_does_not_cost_a_long_computation() {
        let bursts = Bursts { apart: MS, length: MS, loss: 1.0 };
        let mut path = Path::new(Quality { bursts: Some(bursts), ..Quality::default() }, 3);
        let start = Instant::now();
        path.transit(start, 1, false);
        path.transit(start + Duration::from_secs(86_400 * 365), 1, false);
        assert_eq!(path.counters().dropped() + path.counters().delivered, 2);
    }

    #[test]
    fn a_bottleneck_spaces_packets_and_drops_the_tail() {
        let bottleneck = Some(Bottleneck { rate: 8_000_000, queue: 3000 });
        let mut path = Path::new(Quality { bottleneck, ..Quality::default() }, 1);
        // 1000 bytes take 1 ms; one in transmission and three waiting fit.
        let fates = arrivals(&mut path, 6, Duration::ZERO, 1000);
        assert_eq!(fates, [Some(MS), Some(MS * 2), Some(MS * 3), Some(MS * 4), None, None]);
        assert_eq!(path.counters().queue_full, 2);
    }

    proptest! {
        #[test]
        fn packets_keep_their_order_and_arrive_within_delay_and_jitter(
            seed: u64, delay in 0u32..200, jitter in 0u32..200, gaps in prop::collection::vec(0u32..40, 1..200),
        ) {
            let quality = Quality { delay: MS * delay, jitter: MS * jitter, ..Quality::default() };
            let mut path = Path::new(quality, seed);
            let (mut now, mut last, mut latest) = (Instant::now(), None, None);
            for gap in gaps {
                now += MS * gap;
                let Verdict::Deliver { at } = path.transit(now, 100, false) else { panic!("nothing drops here") };
                prop_assert!(at >= now + MS * delay);
                prop_assert!(Some(at) >= last, "overtaken");
                // Waiting for an earlier packet never costs more than that packet's own jitter.
                prop_assert!(at <= (now + MS * (delay + jitter)).max(latest.unwrap_or(now)));
                (last, latest) = (Some(at), Some(at));
            }
        }

        #[test]
        fn the_same_seed_gives_the_same_fates(seed: u64) {
            let quality = Quality {
                jitter: MS * 30, reorder: true, loss: 0.1,
                bursts: Some(Bursts { apart: MS * 200, length: MS * 50, loss: 0.5 }), ..Quality::default()
            };
            let fates = |()| arrivals(&mut Path::new(quality.clone(), seed), 500, MS * 20, 100);
            prop_assert_eq!(fates(()), fates(()));
        }
    }
}
