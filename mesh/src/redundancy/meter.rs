//! How lossy a path is, and in what manner: from what was sent on it and what QUIC found to be lost.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::Plan;

/// Over this time the rate of sending is measured.
const RATE_MEMORY: Duration = Duration::from_secs(1);
/// Over this time the share of lost packets is measured.
const LOSS_MEMORY: Duration = Duration::from_secs(20);
/// Losses found within this time of each other are one event: QUIC finds a burst's losses with the first
/// acknowledgements after it.
const EVENT: Duration = Duration::from_millis(10);
/// An event at least this long, by what was sent in it, is a burst.
const BURST: Duration = Duration::from_millis(40);
/// An event longer than this is an outage: no copy bridges it.
const OUTAGE: Duration = Duration::from_secs(1);
/// How long a single burst is remembered; each further one adds as much.
const BURST_MEMORY: Duration = Duration::from_secs(20);
/// Bursts remembered.
const BURSTS: usize = 8;
/// Loss events per packet from which on items are repeated, and below which no more. A clean wide-area path is under the second.
const LIGHT: (f64, f64) = (0.001, 0.000_5);
/// The same for a second copy.
const FIRM: (f64, f64) = (0.03, 0.02);
/// On a shorter round trip a retransmission is as quick as a copy.
const MIN_RTT: Duration = Duration::from_millis(40);
/// On a shorter round trip a retransmission is as quick as copies against bursts.
const MIN_RTT_BURSTS: Duration = Duration::from_millis(60);

/// One direction of a path. The shell reports what QUIC sends and loses.
#[derive(Debug, Default)]
pub struct Meter {
    rtt: Duration,
    bytes: Fading,
    packets: Fading,
    events: Fading,
    under_way: Option<Event>,
    bursts: VecDeque<(Instant, Duration)>,
    singles: Level,
}

#[derive(Debug)]
struct Event {
    last: Instant,
    bytes: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Level {
    #[default]
    None,
    Light,
    Firm,
}

/// A sum whose terms fade exponentially.
#[derive(Debug, Default)]
struct Fading {
    sum: f64,
    at: Option<Instant>,
}

impl Meter {
    /// QUIC sent `packets` of `bytes` in all.
    pub fn handle_sent(&mut self, packets: u64, bytes: u64, now: Instant) {
        self.bytes.add(bytes as f64, RATE_MEMORY, now);
        self.packets.add(packets as f64, LOSS_MEMORY, now);
    }

    /// QUIC found `bytes` to be lost.
    pub fn handle_lost(&mut self, bytes: u64, now: Instant) {
        self.close_event(now);
        let event = self.under_way.get_or_insert(Event { last: now, bytes: 0 });
        event.last = now;
        event.bytes += bytes;
    }

    /// The smoothed round trip.
    pub fn handle_rtt(&mut self, rtt: Duration) {
        self.rtt = rtt;
    }

    /// What to do about it.
    pub fn plan(&mut self, now: Instant) -> Plan {
        self.close_event(now);
        self.singles = self.singles.next(self.loss(now));
        let bursts = self.burst(now).filter(|_| self.rtt >= MIN_RTT_BURSTS);
        match (bursts, self.singles) {
            _ if self.rtt < MIN_RTT => Plan::NONE,
            (Some(length), singles) => Plan::bursts(length, singles != Level::None),
            (None, Level::None) => Plan::NONE,
            (None, Level::Light) => Plan::LIGHT,
            (None, Level::Firm) => Plan::FIRM,
        }
    }

    /// Loss events per packet, lately.
    pub fn loss(&self, now: Instant) -> f64 {
        self.events.get(LOSS_MEMORY, now) / self.packets.get(LOSS_MEMORY, now).max(1.0)
    }

    /// The longest burst remembered.
    fn burst(&mut self, now: Instant) -> Option<Duration> {
        let (last, _) = self.bursts.back()?;
        if now.saturating_duration_since(*last) > BURST_MEMORY * self.bursts.len() as u32 {
            self.bursts.clear();
        }
        self.bursts.iter().map(|(_, length)| *length).max()
    }

    fn close_event(&mut self, now: Instant) {
        let over = |e: &mut Event| now.saturating_duration_since(e.last) >= EVENT;
        let Some(event) = self.under_way.take_if(over) else { return };
        self.events.add(1.0, LOSS_MEMORY, event.last);
        let rate = self.bytes.get(RATE_MEMORY, event.last) / RATE_MEMORY.as_secs_f64();
        let length = Duration::try_from_secs_f64(event.bytes as f64 / rate.max(1.0)).unwrap_or(OUTAGE);
        if (BURST..OUTAGE).contains(&length) {
            self.bursts.push_back((event.last, length));
            if self.bursts.len() > BURSTS {
                self.bursts.pop_front();
            }
        }
    }
}

impl Level {
    fn next(self, loss: f64) -> Self {
        let above = |(on, off): (f64, f64), was: bool| loss >= if was { off } else { on };
        if above(FIRM, self == Self::Firm) {
            Self::Firm
        } else if above(LIGHT, self != Self::None) {
            Self::Light
        } else {
            Self::None
        }
    }
}

impl Fading {
    fn add(&mut self, term: f64, memory: Duration, now: Instant) {
        self.sum = self.get(memory, now) + term;
        self.at = Some(now);
    }

    fn get(&self, memory: Duration, now: Instant) -> f64 {
        let age = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.sum * (-age.as_secs_f64() / memory.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "virtual time begins at some instant")]

    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SEED: u64 = 11;

    /// `seconds` of a packet of 150 bytes each `every`; `lost` says which are lost. The acknowledgement of the first
    /// packet after them, a round trip later, gives them away.
    fn drive(meter: &mut Meter, start: Instant, seconds: u32, every: Duration, mut lost: impl FnMut(Duration) -> bool) {
        let packets = (Duration::from_secs(seconds.into()).as_micros() / every.as_micros()) as u32;
        let (mut missing, mut found) = (0, VecDeque::new());
        for at in (0..packets).map(|n| every * n) {
            while let Some((_, bytes)) = found.pop_front_if(|(due, _)| *due <= at) {
                meter.handle_lost(bytes, start + at);
            }
            meter.handle_sent(1, 150, start + at);
            if lost(at) {
                missing += 150;
            } else if missing > 0 {
                found.push_back((at + MS * 100, std::mem::take(&mut missing)));
            }
        }
    }

    fn meter() -> (Meter, Instant) {
        let mut meter = Meter::default();
        meter.handle_rtt(MS * 100);
        (meter, Instant::now())
    }

    #[test]
    fn a_clean_path_and_one_with_a_loss_in_ten_thousand_repeat_nothing() {
        let (mut meter, start) = meter();
        drive(&mut meter, start, 60, MS * 2, |at| at.as_millis().is_multiple_of(20_000));
        assert_eq!(meter.plan(start + MS * 60_000), Plan::NONE);
    }

    #[test]
    fn single_losses_are_answered_by_their_share_and_forgotten() {
        for (share, plan) in [(0.01, Plan::LIGHT), (0.05, Plan::FIRM)] {
            let (mut meter, start) = meter();
            let mut rng = StdRng::seed_from_u64(SEED);
            drive(&mut meter, start, 30, MS * 2, |_| rng.random::<f64>() < share);
            assert_eq!(meter.plan(start + MS * 30_000), plan, "{share}, seed {SEED}");
            let later = start + MS * 31_000;
            drive(&mut meter, later, 120, MS * 2, |_| false);
            assert_eq!(meter.plan(later + MS * 120_000), Plan::NONE, "{share}, seed {SEED}");
        }
    }

    #[test]
    fn bursts_are_told_from_single_losses_at_any_packet_rate() {
        for every in [MS * 2, MS * 20] {
            let (mut meter, start) = meter();
            drive(&mut meter, start, 30, every, |at| at.as_millis() % 3000 < 100);
            let plan = meter.plan(start + MS * 30_000);
            assert!(plan.times() >= 2 && plan.after(MS * 20) == Some(MS * 60), "{plan:?} at {every:?}");
            let later = start + MS * 30_000;
            drive(&mut meter, later, 200, every, |_| false);
            assert_eq!(meter.plan(later + MS * 200_000), Plan::NONE);
        }
    }

    #[test]
    fn on_a_short_path_nothing_is_repeated() {
        let (mut meter, start) = meter();
        meter.handle_rtt(MS * 25);
        drive(&mut meter, start, 10, MS * 2, |at| at.as_millis().is_multiple_of(20));
        assert_eq!(meter.plan(start + MS * 10_000), Plan::NONE);
    }
}
