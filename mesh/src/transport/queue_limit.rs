//! Keeps the queue before a narrow link short.
//!
//! The floor under the window ([`super::congestion`]) is for paths that lose packets at random. On a link that lets less
//! pass than is sent it would fill whatever queue there is: every beat and every newer frame would wait behind seconds of
//! older ones, and a lease would run out. A round trip that has grown by more than [`QUEUE`] shows such a queue; then no more is
//! under way than the link delivers in the shortest round trip and that time. What waits, waits here, where control goes
//! first and the newest speech after it.

use std::time::{Duration, Instant};

/// A queue so long is borne: it keeps the link busy.
const QUEUE: Duration = Duration::from_millis(200);
/// Over this time, or the shortest round trip, the rate of delivery is measured.
const SPAN: Duration = Duration::from_millis(500);
/// For how long, and as long again, the shortest round trip is believed: the path may have become longer.
const MEMORY: Duration = Duration::from_secs(15);
/// Then, where a queue stands, the window is drained for so long, to measure the base round trip anew (BBR's ProbeRTT).
const PROBE_RTT: Duration = Duration::from_secs(1);
/// A link that carries so many bytes per second is not narrow: it empties the floor's window in two seconds, and a queue
/// before it may be others', which to give way to would only starve speech.
const WIDE: f64 = 32_000.0;
/// Without a queue, so much more may be under way than has shown to pass, by this part.
const MORE: f64 = 1.25;

/// One connection's.
#[derive(Debug, Default)]
pub(super) struct QueueLimit {
    span: Option<Instant>,
    /// Bytes acknowledged in it.
    acked: u64,
    shortest: Shortest,
    cap: Option<u64>,
    probing: Option<Instant>,
    queued: bool,
}

/// The shortest round trip of late.
#[derive(Debug, Default)]
struct Shortest {
    since: Option<Instant>,
    now: Option<Duration>,
    before: Option<Duration>,
}

impl QueueLimit {
    /// `bytes` were acknowledged; the round trip is `rtt`, as smoothed. `mtu` is a whole datagram's length, and no window
    /// above `enough` is of interest.
    pub(super) fn handle_ack(&mut self, bytes: u64, rtt: Duration, mtu: u64, enough: u64, now: Instant) {
        let (shortest, forgot) = self.shortest.learn(rtt, now);
        if forgot && self.cap.is_some() {
            (self.cap, self.probing) = (Some(2 * mtu), Some(now + PROBE_RTT));
        }
        self.queued = rtt > shortest + QUEUE.max(shortest / 2);
        self.acked += bytes;
        let since = *self.span.get_or_insert(now);
        let passed = now.saturating_duration_since(since);
        if passed < SPAN.max(shortest) {
            return;
        }
        let rate = self.acked as f64 / passed.as_secs_f64();
        (self.span, self.acked) = (Some(now), 0);
        if self.probing.is_some_and(|until| now < until) {
            return;
        }
        let under_way = rate * (shortest + QUEUE).as_secs_f64();
        // A datagram's length of any window stays unused.
        let cap = |under_way: f64| mtu + (under_way as u64).max(mtu);
        if rate >= WIDE {
            self.cap = None;
        } else if self.queued {
            self.cap = Some(cap(under_way));
        } else {
            // While little is sent nothing is known of what would pass.
            self.cap = self.cap.map(|before| before.max(cap(under_way * MORE))).filter(|cap| *cap < enough);
        }
    }

    /// Whether a queue stands before the link, narrow or wide, or would if more were under way.
    pub(super) fn has_queue(&self) -> bool {
        self.queued || self.cap.is_some()
    }

    /// The most that may be under way, in bytes; `None` where no queue stands.
    pub(super) fn cap(&self) -> Option<u64> {
        self.cap
    }
}

impl Shortest {
    /// The shortest, and whether an older one is forgotten.
    fn learn(&mut self, rtt: Duration, now: Instant) -> (Duration, bool) {
        let since = *self.since.get_or_insert(now);
        let forgets = now.saturating_duration_since(since) >= MEMORY;
        if forgets {
            (self.since, self.before, self.now) = (Some(now), self.now, None);
        }
        let shortest = self.now.map_or(rtt, |shortest| shortest.min(rtt));
        self.now = Some(shortest);
        (self.before.map_or(shortest, |before| before.min(shortest)), forgets)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "virtual time begins at some instant")]

    use super::*;

    const MTU: u64 = 1200;
    const ENOUGH: u64 = 64 * 1024;

    /// A link of `rate` bytes per second and a round trip of 30 ms, on which `offered` are to be sent; the longest round
    /// trip of the last second, and what was delivered.
    fn run(queue_limit: &mut QueueLimit, start: Instant, rate: f64, offered: f64, seconds: u32) -> (Duration, f64) {
        let (step, mut queue, mut smoothed) = (Duration::from_millis(10), 0.0f64, 0.03);
        let mut on_the_way = [0.0; 3];
        let (mut worst, mut delivered) = (Duration::ZERO, 0.0);
        for n in 1..=seconds * 100 {
            let now = start + step * n;
            let window = queue_limit.cap().unwrap_or(ENOUGH).saturating_sub(MTU) as f64;
            let room = (window - queue - on_the_way.iter().sum::<f64>()).max(0.0);
            queue += (offered * 0.01).min(room);
            let out = queue.min(rate * 0.01);
            queue -= out;
            delivered += out;
            let acked = std::mem::replace(&mut on_the_way[n as usize % 3], out);
            smoothed += (0.03 + queue / rate - smoothed) / 8.0;
            let rtt = Duration::from_secs_f64(smoothed);
            if acked > 0.0 {
                queue_limit.handle_ack(acked as u64, rtt, MTU, ENOUGH, now);
            }
            if n > (seconds - 1) * 100 {
                worst = worst.max(rtt);
            }
        }
        (worst, delivered / f64::from(seconds))
    }

    #[test]
    fn a_narrow_link_s_queue_stays_short_and_the_link_busy() {
        for (rate, most) in [(3000.0, 800), (8000.0, 600), (24_000.0, 600)] {
            let mut queue_limit = QueueLimit::default();
            let (rtt, delivered) = run(&mut queue_limit, Instant::now(), rate, rate * 1.5, 600);
            assert!(rtt < Duration::from_millis(most), "{rtt:?} at {rate} B/s");
            assert!(delivered > rate * 0.9, "{delivered} of {rate} B/s");
        }
    }

    #[test]
    fn a_wide_link_is_left_alone_and_one_that_is_wide_again_set_free() {
        let start = Instant::now();
        let mut queue_limit = QueueLimit::default();
        run(&mut queue_limit, start, 200_000.0, 10_000.0, 20);
        assert_eq!((queue_limit.cap(), queue_limit.has_queue()), (None, false));
        run(&mut queue_limit, start + Duration::from_secs(20), 3000.0, 10_000.0, 20);
        assert!(queue_limit.cap().is_some() && queue_limit.has_queue());
        let (rtt, delivered) = run(&mut queue_limit, start + Duration::from_secs(40), 200_000.0, 10_000.0, 20);
        assert!(delivered > 9_000.0 && rtt < Duration::from_millis(50), "{delivered} B/s, {rtt:?}");
        run(&mut queue_limit, start + Duration::from_secs(60), 2_000_000.0, 1_000_000.0, 20);
        assert_eq!((queue_limit.cap(), queue_limit.has_queue()), (None, false));
    }

    #[test]
    fn where_much_passes_others_queues_are_borne() {
        let start = Instant::now();
        let mut queue_limit = QueueLimit::default();
        for n in 0..6000u32 {
            let rtt = Duration::from_millis(if n < 1000 { 20 } else { 500 });
            queue_limit.handle_ack(400, rtt, MTU, ENOUGH, start + Duration::from_millis(10) * n);
            assert_eq!(queue_limit.cap(), None);
        }
    }

    #[test]
    fn a_way_that_has_become_longer_is_no_queue_for_long() {
        let start = Instant::now();
        let mut queue_limit = QueueLimit::default();
        for n in 0..12_000u32 {
            let rtt = Duration::from_millis(if n < 2000 { 20 } else { 400 });
            queue_limit.handle_ack(100, rtt, MTU, ENOUGH, start + Duration::from_millis(10) * n);
        }
        // All of it may be under way.
        let under_way = queue_limit.cap().map_or(ENOUGH, |cap| cap - MTU);
        assert!(under_way > 10_000 * 400 / 1000, "{under_way}");
    }
}
