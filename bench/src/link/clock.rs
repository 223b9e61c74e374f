//! When each frame was sent and when it came.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Stamps of every frame of every track, in microseconds since the start; 0 is never.
#[derive(Debug)]
pub(super) struct Clock {
    start: Instant,
    pub(super) tracks: u32,
    warm_up: u32,
    /// Frames of each track, the warm-up included.
    pub(super) frames: u32,
    sent: Vec<AtomicU64>,
    came: Vec<AtomicU64>,
}

/// What the stamps come to; the warm-up does not count.
#[derive(Debug, Clone, Copy)]
pub(super) struct Figures {
    pub(super) delivered: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
}

impl Clock {
    pub(super) fn new(tracks: u32, warm_up: u32, frames: u32) -> Self {
        let frames = warm_up + frames;
        let stamps = || (0..tracks * frames).map(|_| AtomicU64::new(0)).collect();
        Self { start: Instant::now(), tracks, warm_up, frames, sent: stamps(), came: stamps() }
    }

    /// Whether this frame is the first that counts.
    pub(super) fn begins(&self, track: u32, seq: u32) -> bool {
        (track, seq) == (0, self.warm_up)
    }

    pub(super) fn note_sent(&self, track: u32, seq: u32) {
        self.sent[self.at(track, seq)].store(self.now(), Relaxed);
    }

    /// The first time counts. What names no frame is ignored.
    pub(super) fn note_came(&self, frame: &[u8]) {
        if let Some((track, seq)) = name(frame).filter(|(track, seq)| *track < self.tracks && *seq < self.frames) {
            let _ = self.came[self.at(track, seq)].compare_exchange(0, self.now(), Relaxed, Relaxed);
        }
    }

    /// Whether every frame has come.
    pub(super) fn is_complete(&self) -> bool {
        self.came.iter().all(|stamp| stamp.load(Relaxed) > 0)
    }

    pub(super) fn figures(&self, delay: Duration) -> Figures {
        let delay = delay.as_secs_f64() * 1e3;
        let counted = (0..self.tracks).flat_map(|track| (self.warm_up..self.frames).map(move |seq| (track, seq)));
        let stamp = |stamps: &[AtomicU64], at: usize| stamps[at].load(Relaxed);
        let late = counted.map(|(track, seq)| {
            let at = self.at(track, seq);
            let came = stamp(&self.came, at);
            (came > 0).then(|| came.saturating_sub(stamp(&self.sent, at)) as f64 / 1e3 - delay)
        });
        let all: Vec<Option<f64>> = late.collect();
        let mut late: Vec<f64> = all.iter().flatten().copied().collect();
        late.sort_by(f64::total_cmp);
        let quantile = |q: f64| late.get((late.len().saturating_sub(1) as f64 * q) as usize).copied().unwrap_or(0.0);
        Figures {
            delivered: late.len() as f64 / all.len().max(1) as f64,
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
            max_ms: quantile(1.0),
        }
    }

    fn at(&self, track: u32, seq: u32) -> usize {
        (track * self.frames + seq) as usize
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_micros() as u64 + 1
    }
}

/// A frame of this length that knows its track and number; it begins like a 20 ms packet of Opus.
pub(super) fn frame(track: u32, seq: u32, bytes: usize) -> Vec<u8> {
    let mut frame = vec![0x48, track as u8];
    frame.extend_from_slice(&seq.to_be_bytes());
    frame.resize(bytes, 0xa5);
    frame
}

fn name(frame: &[u8]) -> Option<(u32, u32)> {
    let (head, seq) = (frame.get(..2)?, frame.get(2..6)?);
    Some((head[1].into(), u32::from_be_bytes(seq.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_came_counts_and_the_warm_up_does_not() {
        let clock = Clock::new(2, 1, 2);
        for (track, seq) in [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2)] {
            clock.note_sent(track, seq);
        }
        for (track, seq) in [(0, 1), (0, 2), (1, 1), (9, 9)] {
            clock.note_came(&frame(track, seq, 80));
        }
        assert_eq!(clock.figures(Duration::ZERO).delivered, 0.75);
        assert!(!clock.is_complete() && clock.begins(0, 1) && !clock.begins(1, 1));
    }
}
