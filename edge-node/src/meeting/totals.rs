//! What a meeting has cost and carried so far.

use std::time::{Duration, Instant};

use mesh::wire::control::EdgeTotals;

/// How often changed totals are reported.
const EVERY: Duration = Duration::from_secs(1);

/// Running totals of one meeting.
#[derive(Debug)]
pub(super) struct Totals {
    media_cpu_us: u64,
    uplink_bytes: u64,
    pub(super) refused: u64,
    /// Of those who are forgotten.
    before: EdgeTotals,
    reported: EdgeTotals,
    next: Instant,
}

impl Totals {
    pub(super) fn new(now: Instant) -> Self {
        let reported = EdgeTotals::default();
        Self { media_cpu_us: 0, uplink_bytes: 0, refused: 0, before: reported, reported, next: now + EVERY }
    }

    pub(super) fn account(&mut self, media_cpu: Duration, uplink_bytes: u64) {
        self.media_cpu_us += media_cpu.as_micros() as u64;
        self.uplink_bytes += uplink_bytes;
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        self.next
    }

    /// Whether it is time to report.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        let due = now >= self.next;
        if due {
            self.next = now + EVERY;
        }
        due
    }

    /// The sum of `pipelines`, with what is counted here and what the ring gave up. Forwarded is what those had who are
    /// forgotten: of the others it is not their pipelines' affair.
    pub(super) fn sum(&self, pipelines: impl Iterator<Item = EdgeTotals>, packets_overflowed: u64) -> EdgeTotals {
        let (uplink_bytes, media_cpu_us) = (self.uplink_bytes, self.media_cpu_us);
        let start = EdgeTotals { uplink_bytes, media_cpu_us, packets_overflowed, ..EdgeTotals::default() };
        let sum = pipelines.chain([self.before]).fold(start, add);
        EdgeTotals { packets_forwarded: self.before.packets_forwarded, ..sum }
    }

    /// What somebody who is forgotten has had, `forwarded` frames of it sent.
    pub(super) fn keep(&mut self, totals: impl Iterator<Item = EdgeTotals>, forwarded: u64) {
        self.before = totals.fold(self.before, add);
        self.before.packets_forwarded += forwarded;
    }

    /// `totals` to be reported, if they differ from what was.
    pub(super) fn report(&mut self, totals: EdgeTotals) -> Option<EdgeTotals> {
        (totals != self.reported).then(|| {
            self.reported = totals;
            totals
        })
    }
}

/// What a meeting's own process says is a number like any other.
fn add(sum: EdgeTotals, totals: EdgeTotals) -> EdgeTotals {
    let EdgeTotals { packets_forwarded, uplink_bytes, packets_overflowed, .. } = sum;
    EdgeTotals { packets_forwarded, uplink_bytes, packets_overflowed, ..sum.plus(totals) }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;

    #[test]
    fn a_meeting_s_own_process_may_say_any_totals() {
        let (all, mut totals) = (u64::MAX, Totals::new(Instant::now()));
        let said = EdgeTotals {
            packets_in: all,
            opus_bytes_in: all,
            media_ms_in: all,
            packets_decoded: all,
            packets_forwarded: all,
            packets_lost: all,
            uplink_bytes: all,
            media_cpu_us: all,
            packets_overflowed: all,
        };
        totals.account(Duration::from_micros(7), 5);
        totals.keep([said, said].into_iter(), 3);
        let sum = EdgeTotals { packets_forwarded: 3, uplink_bytes: 5, packets_overflowed: 1, ..said };
        assert_eq!(totals.sum([said].into_iter(), 1), sum);
    }
}
