//! Pings: whether the server is there, by its answers. It drops whoever sends none.

use std::time::Duration;

use tokio::time::Instant;

use super::super::message::{Join, Ping};

/// What a server may ask for, in seconds: pings each so often, and for an answer so long.
const SECONDS: std::ops::RangeInclusive<u64> = 1..=120;

/// The pings of one stay, through all losses of signalling.
#[derive(Debug)]
pub(super) struct Pings {
    interval: Duration,
    timeout: Duration,
    /// The next is due then; none is while signalling is lost.
    next: Option<Instant>,
    /// An answer is awaited, until then.
    answer_by: Option<Instant>,
    /// In milliseconds.
    rtt: i64,
}

impl Pings {
    /// Those that the server asks for, if it does.
    pub(super) fn read(join: &Join, now: Instant) -> Option<Self> {
        let seconds = |n: i32| {
            let n = u64::try_from(n).ok().filter(|n| *n > 0)?;
            Some(Duration::from_secs(n.clamp(*SECONDS.start(), *SECONDS.end())))
        };
        let (interval, timeout) = seconds(join.ping_interval).zip(seconds(join.ping_timeout))?;
        Some(Self { interval, timeout, next: Some(now + interval), answer_by: None, rtt: 0 })
    }

    /// Signalling is lost.
    pub(super) fn pause(&mut self) {
        (self.next, self.answer_by) = (None, None);
    }

    /// It is there again.
    pub(super) fn resume(&mut self, now: Instant) {
        self.next = Some(now + self.interval);
    }

    /// An answer to the ping of then; both in milliseconds.
    pub(super) fn handle_pong(&mut self, last_ping: i64, clock: i64) {
        self.answer_by = None;
        self.rtt = clock.saturating_sub(last_ping).max(0);
    }

    /// The ping that is due, if one is.
    ///
    /// # Errors
    /// An answer has not come for so long.
    pub(super) fn handle_timeout(&mut self, now: Instant, clock: i64) -> Result<Option<Ping>, Duration> {
        if self.answer_by.is_some_and(|by| by <= now) {
            return Err(self.timeout);
        }
        if self.next.is_none_or(|next| next > now) {
            return Ok(None);
        }
        self.next = Some(now + self.interval);
        self.answer_by.get_or_insert(now + self.timeout);
        Ok(Some(Ping { timestamp: clock, rtt: self.rtt }))
    }

    /// When [`Pings::handle_timeout`] is wanted at the latest.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.next.into_iter().chain(self.answer_by).min()
    }
}
