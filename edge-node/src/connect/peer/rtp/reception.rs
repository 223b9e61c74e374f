//! What arrived of one source, as its sender is told: reports (RFC 3550 section 6.4) and wishes (RFC 4585 section 6.2.1).

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::{BufMut, BytesMut};

/// Packets of one source that are waited for at a time.
const MAX_MISSING: usize = 64;
/// A packet that is only overtaken comes within this.
const OVERTAKEN_TIMEOUT: Duration = Duration::from_millis(10);
/// After which it is asked for once more, while the jitter buffer may still wait for it.
const AGAIN: Duration = Duration::from_millis(30);
/// How often a packet is asked for.
const TRIES: u8 = 2;
/// A step beyond this is no loss but another beginning.
const MAX_STEP: u16 = 3000;
/// Samples of the RTP clock in a second.
const CLOCK: f64 = 48_000.0;

const RECEIVER_REPORT: u8 = 201;
const TRANSPORT_FEEDBACK: u8 = 205;
const GENERIC_NACK: u8 = 1;

/// Counters of one source.
#[derive(Debug)]
pub(super) struct Reception {
    /// Numbers are unwrapped by counting cycles.
    first: u32,
    highest: u32,
    received: u32,
    expected_before: u32,
    received_before: u32,
    /// In samples.
    jitter: f64,
    previous: Option<(u32, Instant)>,
    sender_report: Option<(u32, Instant)>,
    missing: VecDeque<Missing>,
}

#[derive(Debug)]
struct Missing {
    sequence: u16,
    due: Instant,
    tries: u8,
}

/// One block of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    ssrc: u32,
    fraction: u8,
    lost: u32,
    highest: u32,
    jitter: u32,
    sender_report: u32,
    delay: u32,
}

impl Reception {
    pub(super) fn new(first: u16) -> Self {
        let first = u32::from(first);
        Self {
            first,
            highest: first.wrapping_sub(1),
            received: 0,
            expected_before: 0,
            received_before: 0,
            jitter: 0.0,
            previous: None,
            sender_report: None,
            missing: VecDeque::new(),
        }
    }

    /// Takes note of a packet; true if there is now something to ask for.
    pub(super) fn handle(&mut self, sequence: u16, timestamp: u32, now: Instant, nack: bool) -> bool {
        self.received = self.received.wrapping_add(1);
        self.note_jitter(timestamp, now);
        let step = sequence.wrapping_sub(self.highest as u16);
        match step {
            1 => self.highest = self.highest.wrapping_add(1),
            2..MAX_STEP => {
                let first = self.highest.wrapping_add(1) as u16;
                self.highest = self.highest.wrapping_add(step.into());
                return nack && self.miss(first, step - 1, now);
            }
            // A new beginning in the same source.
            MAX_STEP..0x8000 => {
                self.first = u32::from(sequence);
                self.highest = self.first;
                (self.received, self.expected_before, self.received_before) = (1, 0, 0);
                self.missing.clear();
            }
            _ => self.missing.retain(|missing| missing.sequence != sequence),
        }
        false
    }

    fn miss(&mut self, first: u16, count: u16, now: Instant) -> bool {
        for n in 0..count.min(MAX_MISSING as u16) {
            if self.missing.len() >= MAX_MISSING {
                self.missing.pop_front();
            }
            let sequence = first.wrapping_add(count - 1 - n);
            self.missing.push_back(Missing { sequence, due: now + OVERTAKEN_TIMEOUT, tries: 0 });
        }
        true
    }

    /// RFC 3550 appendix A.8.
    fn note_jitter(&mut self, timestamp: u32, now: Instant) {
        if let Some((stamp, at)) = self.previous {
            let sent = f64::from(timestamp.wrapping_sub(stamp) as i32);
            let difference = (now.saturating_duration_since(at).as_secs_f64() * CLOCK - sent).abs();
            // A jump is a pause or a new beginning.
            if difference < CLOCK {
                self.jitter += (difference - self.jitter) / 16.0;
            }
        }
        self.previous = Some((timestamp, now));
    }

    pub(super) fn handle_sender_report(&mut self, time: u32, now: Instant) {
        self.sender_report = Some((time, now));
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.missing.iter().map(|missing| missing.due).min()
    }

    /// The packets to ask for now, rising.
    pub(super) fn poll_missing(&mut self, now: Instant) -> Vec<u16> {
        let mut asked = vec![];
        for missing in self.missing.iter_mut().filter(|missing| missing.due <= now) {
            missing.tries += 1;
            missing.due = now + AGAIN;
            asked.push(missing.sequence);
        }
        self.missing.retain(|missing| missing.tries < TRIES || missing.due > now + AGAIN);
        let highest = self.highest as u16;
        asked.sort_by_key(|sequence| std::cmp::Reverse(highest.wrapping_sub(*sequence)));
        asked
    }

    /// What came since the last report (RFC 3550 appendix A.3).
    pub(super) fn report(&mut self, ssrc: u32, now: Instant) -> Block {
        let expected = self.highest.wrapping_sub(self.first).wrapping_add(1);
        let expected_now = expected.wrapping_sub(self.expected_before);
        let received_now = self.received.wrapping_sub(self.received_before);
        (self.expected_before, self.received_before) = (expected, self.received);
        let lost_now = expected_now.saturating_sub(received_now);
        let (sender_report, delay) = match self.sender_report {
            Some((time, at)) => (time, (now.saturating_duration_since(at).as_secs_f64() * 65_536.0) as u32),
            None => (0, 0),
        };
        Block {
            ssrc,
            fraction: (u64::from(lost_now) * 256 / u64::from(expected_now.max(1))).min(255) as u8,
            lost: expected.saturating_sub(self.received).min(0x7F_FFFF),
            highest: self.highest,
            jitter: self.jitter as u32,
            sender_report,
            delay,
        }
    }
}

/// Appends reports with these blocks; one without any if there are none.
pub(super) fn put_reports<'a>(out: &mut BytesMut, sender: u32, blocks: impl Iterator<Item = &'a [Block]>) {
    let mut any = false;
    for blocks in blocks {
        any = true;
        put_report(out, sender, blocks);
    }
    if !any {
        put_report(out, sender, &[]);
    }
}

fn put_report(out: &mut BytesMut, sender: u32, blocks: &[Block]) {
    put_head(out, blocks.len() as u8, RECEIVER_REPORT, 1 + blocks.len() * 6, sender);
    for block in blocks {
        out.put_u32(block.ssrc);
        out.put_u32(u32::from(block.fraction) << 24 | block.lost);
        out.put_u32(block.highest);
        out.put_u32(block.jitter);
        out.put_u32(block.sender_report);
        out.put_u32(block.delay);
    }
}

/// Appends a wish for these packets, which rise.
pub(super) fn put_nack(out: &mut BytesMut, sender: u32, ssrc: u32, missing: &[u16]) {
    let mut pairs: Vec<(u16, u16)> = vec![];
    for &sequence in missing {
        match pairs.last_mut() {
            Some((first, bits)) if (1..=16).contains(&sequence.wrapping_sub(*first)) => {
                *bits |= 1 << (sequence.wrapping_sub(*first) - 1);
            }
            _ => pairs.push((sequence, 0)),
        }
    }
    put_head(out, GENERIC_NACK, TRANSPORT_FEEDBACK, 2 + pairs.len(), sender);
    out.put_u32(ssrc);
    for (first, bits) in pairs {
        out.put_u16(first);
        out.put_u16(bits);
    }
}

/// The common beginning; `words` of 32 bits follow its first.
fn put_head(out: &mut BytesMut, count: u8, kind: u8, words: usize, sender: u32) {
    out.put_u8(0x80 | count);
    out.put_u8(kind);
    out.put_u16(words as u16);
    out.put_u32(sender);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "any instant will do to count from")]
    use rtc::rtcp::{
        packet::unmarshal, receiver_report::ReceiverReport,
        transport_feedbacks::transport_layer_nack::TransportLayerNack,
    };

    use super::*;

    #[test]
    fn lost_packets_are_asked_for_twice_and_those_overtaken_never() {
        let (mut reception, start) = (Reception::new(65_530), Instant::now());
        for sequence in [65_530u16, 65_531, 65_535, 0, 65_533, 4] {
            reception.handle(sequence, 0, start, true);
        }
        assert!(reception.poll_missing(start).is_empty());
        let wanted = [65_532, 65_534, 1, 2, 3];
        assert_eq!(reception.poll_missing(start + OVERTAKEN_TIMEOUT), wanted);
        assert_eq!(reception.poll_missing(start + OVERTAKEN_TIMEOUT + AGAIN), wanted);
        assert!(reception.poll_missing(start + Duration::from_secs(1)).is_empty());
        assert_eq!(reception.poll_timeout(), None);
    }

    #[test]
    fn another_implementation_reads_our_reports_and_wishes() {
        let (mut reception, start) = (Reception::new(100), Instant::now());
        for n in (0..100u16).filter(|n| n % 4 != 3) {
            reception.handle(100 + n, u32::from(n) * 960, start + Duration::from_millis(20) * n.into(), true);
        }
        reception.handle_sender_report(0xABCD, start);
        let mut out = BytesMut::new();
        let block = reception.report(7, start + Duration::from_secs(2));
        put_reports(&mut out, 1, [&[block][..]].into_iter());
        put_nack(&mut out, 1, 7, &[103, 107, 200]);
        let packets = unmarshal(&mut out.freeze()).unwrap();
        let report = packets[0].as_any().downcast_ref::<ReceiverReport>().unwrap();
        let block = &report.reports[0];
        assert_eq!((block.ssrc, block.last_sequence_number, block.total_lost), (7, 198, 24));
        assert!((60..=66).contains(&block.fraction_lost), "{}", block.fraction_lost);
        assert_eq!((block.last_sender_report, block.delay), (0xABCD, 2 * 65_536));
        let nack = packets[1].as_any().downcast_ref::<TransportLayerNack>().unwrap();
        let asked: Vec<u16> = nack.nacks.iter().flat_map(|pair| pair.packet_list()).collect();
        assert_eq!(asked, [103, 107, 200]);
    }

    #[test]
    fn a_long_loss_asks_for_the_newest_only() {
        let (mut reception, start) = (Reception::new(0), Instant::now());
        reception.handle(0, 0, start, true);
        reception.handle(2000, 0, start, true);
        let asked = reception.poll_missing(start + OVERTAKEN_TIMEOUT);
        assert_eq!((asked.len(), asked[0], asked[63]), (64, 1936, 1999));
    }
}
