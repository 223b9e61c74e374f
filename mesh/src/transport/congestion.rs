//! Cubic with a floor under its window, and an eye on the path.
//!
//! Speech needs little and needs it now. On a lossy path cubic's window falls below what a few
//! speakers offer, and their frames queue behind it: at 2 % loss in bursts the p99 delay is 342 ms
//! with plain cubic and 106 ms with a floor of 64 KiB, which at 200 ms of round trip lets 2.6 Mbit/s
//! pass. Where many speak, the floor is twice what live speech offers in a round trip. Above the floor
//! cubic rules as ever, so a replay of minutes still backs off. Where a queue stands before a narrow link,
//! neither: see `queue_limit`.

use std::{
    any::Any,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use quinn::{
    Connection,
    congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig},
};
use quinn_proto::RttEstimator;

use super::queue_limit::QueueLimit;
use crate::redundancy::{Plan, meter::Meter};

/// No floor is above this, in bytes: 100 Mbit/s at 300 ms.
const MAX_FLOOR: u64 = 4 * 1024 * 1024;
/// For so long what was seen of a path is held to be so.
const SEEN: Duration = Duration::from_secs(2);
/// Loss events per packet from which on a path lets too little pass.
const TOO_LOSSY: f64 = 0.1;
/// Over this time the rate of live speech is measured.
const OFFER_MEMORY: Duration = Duration::from_secs(2);

/// Makes a cubic with a floored window for each connection.
#[derive(Debug, Clone)]
pub struct FlooredCubic {
    /// The least window, in bytes, however little is said.
    pub floor: u64,
}

struct Floored {
    inner: Box<dyn Controller>,
    path: Path,
    queue_limit: QueueLimit,
    mtu: u64,
    last_packet: u64,
}

/// What a connection knows of its path. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Path {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// In bytes.
    floor: AtomicU64,
    least: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    meter: Meter,
    rtt: Duration,
    /// When more was to be sent than the path let pass.
    short: Option<Instant>,
    /// Live speech: since when, how much, and the rate before that, in bytes per second.
    since: Option<Instant>,
    offered: u64,
    rate: f64,
}

impl Path {
    fn new(least: u64) -> Self {
        Self { shared: Arc::new(Shared { floor: AtomicU64::new(least), least, state: Mutex::default() }) }
    }

    /// Of this connection; `None` if its controller is not ours.
    pub fn of(connection: &Connection) -> Option<Self> {
        let controller = connection.congestion_state().into_any().downcast::<Floored>().ok()?;
        Some(controller.path.clone())
    }

    /// So many bytes of live speech, copies included, were handed to the connection.
    pub fn offered(&self, bytes: u64, now: Instant) {
        let mut state = self.state();
        state.offered += bytes;
        let since = *state.since.get_or_insert(now);
        let span = now.saturating_duration_since(since);
        if span >= OFFER_MEMORY {
            state.rate = state.offered as f64 / span.as_secs_f64();
            (state.offered, state.since) = (0, Some(now));
            let in_a_round_trip = (state.rate * state.rtt.as_secs_f64()) as u64;
            let floor = (2 * in_a_round_trip).clamp(self.shared.least, MAX_FLOOR.max(self.shared.least));
            self.shared.floor.store(floor, Ordering::Relaxed);
        }
    }

    /// What is to be said again on it.
    pub fn plan(&self, now: Instant) -> Plan {
        self.state().meter.plan(now)
    }

    /// Whether more was to be sent of late than the path lets pass: what is to be sent waits for acknowledgements, a queue
    /// stands before a link on the way, or a tenth of the packets are lost. Else, if speech comes late all the same, it is
    /// not for want of bandwidth.
    pub fn is_short(&self, now: Instant) -> bool {
        self.state().short.is_some_and(|seen| now.saturating_duration_since(seen) < SEEN)
    }

    /// The least window, in bytes.
    pub fn floor(&self) -> u64 {
        self.shared.floor.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ControllerFactory for FlooredCubic {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let inner = Arc::new(CubicConfig::default()).build(now, current_mtu);
        let (path, mtu) = (Path::new(self.floor), u64::from(current_mtu));
        Box::new(Floored { inner, path, queue_limit: QueueLimit::default(), mtu, last_packet: 0 })
    }
}

impl Controller for Floored {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.inner.on_sent(now, bytes, last_packet_number);
        let packets = last_packet_number.saturating_sub(self.last_packet).max(1);
        self.last_packet = last_packet_number;
        self.path.state().meter.handle_sent(packets, bytes, now);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
        let enough = self.inner.window().max(self.path.floor());
        self.queue_limit.handle_ack(bytes, rtt.get(), self.mtu, enough, now);
        let mut state = self.path.state();
        state.rtt = rtt.get();
        state.meter.handle_rtt(rtt.get());
        if !app_limited || self.queue_limit.has_queue() || state.meter.loss(now) > TOO_LOSSY {
            state.short = Some(now);
        }
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest_acked: Option<u64>) {
        self.inner.on_end_acks(now, in_flight, app_limited, largest_acked);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost_bytes: u64) {
        self.inner.on_congestion_event(now, sent, persistent, lost_bytes);
        // None are lost where routers only marked packets (ECN).
        if lost_bytes > 0 {
            self.path.state().meter.handle_lost(lost_bytes, now);
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
        self.mtu = new_mtu.into();
    }

    fn window(&self) -> u64 {
        let window = self.inner.window().max(self.path.floor());
        self.queue_limit.cap().map_or(window, |cap| window.min(cap))
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.inner.metrics();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        let Self { inner, path, mtu, last_packet, .. } = self;
        let (inner, path, queue_limit) = (inner.clone_box(), path.clone(), QueueLimit::default());
        Box::new(Self { inner, path, queue_limit, mtu: *mtu, last_packet: *last_packet })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window().max(self.path.floor())
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "virtual time begins at some instant")]

    use super::*;

    #[test]
    fn no_amount_of_loss_takes_the_window_below_the_floor() {
        let start = Instant::now();
        let mut controller = Arc::new(FlooredCubic { floor: 64 * 1024 }).build(start, 1200);
        for second in 1..100 {
            let now = start + Duration::from_secs(second);
            controller.on_congestion_event(now, now - Duration::from_millis(100), second % 10 == 0, 50_000);
            assert!(controller.window() >= 64 * 1024);
        }
        assert_eq!(controller.metrics().congestion_window, controller.window());
        assert_eq!(controller.clone_box().window(), controller.window());
    }

    #[test]
    fn above_the_floor_cubic_rules() {
        let now = Instant::now();
        let floored = Arc::new(FlooredCubic { floor: 1 }).build(now, 1200);
        let plain = Arc::new(CubicConfig::default()).build(now, 1200);
        assert_eq!((floored.window(), floored.initial_window()), (plain.window(), plain.initial_window()));
    }

    #[test]
    fn the_floor_follows_what_live_speech_offers_in_two_round_trips() {
        let (start, path) = (Instant::now(), Path::new(64 * 1024));
        path.state().rtt = Duration::from_millis(200);
        let offer = |seconds: std::ops::Range<u64>, rate: u64| {
            for ms in seconds.flat_map(|s| s * 1000..(s + 1) * 1000) {
                path.offered(rate / 1000, start + Duration::from_millis(ms));
            }
            path.floor()
        };
        assert_eq!(offer(0..5, 10_000), 64 * 1024, "little is said");
        let floor = offer(5..10, 1_000_000);
        assert!((380_000..=420_000).contains(&floor), "{floor}");
        assert_eq!(offer(10..20, 500_000_000), MAX_FLOOR);
        assert_eq!(offer(20..25, 10_000), 64 * 1024, "less is said again");
    }
}
