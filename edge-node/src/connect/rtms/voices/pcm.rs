//! Linear samples to Opus: 16 bits, the low byte first, one channel.

use std::collections::VecDeque;

use bytes::Bytes;
use opus::{Application, Bitrate, Channels, Encoder};

/// Enough for any voice: what is heard of it is what was sent.
const BITRATE: i32 = 32_000;
/// Effort of the encoder, 0 to 10: above it, it costs more and sounds the same at this rate.
const COMPLEXITY: i32 = 5;
/// More bytes than a packet of 20 ms has at this rate.
const MAX_PACKET: usize = 640;

/// One participant's.
pub(super) struct Coder {
    encoder: Option<Encoder>,
    rate: u32,
    /// Less than a packet's worth.
    rest: Vec<i16>,
    packets: VecDeque<Bytes>,
}

impl std::fmt::Debug for Coder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Coder").field("rate", &self.rate).finish_non_exhaustive()
    }
}

impl Coder {
    /// `rate` is one of Opus's own.
    pub(super) fn new(rate: u32) -> Self {
        let encoder = Encoder::new(rate, Channels::Mono, Application::Voip).ok().and_then(|mut encoder| {
            encoder.set_bitrate(Bitrate::Bits(BITRATE)).ok()?;
            encoder.set_complexity(COMPLEXITY).ok()?;
            Some(encoder)
        });
        Self { encoder, rate, rest: vec![], packets: VecDeque::new() }
    }

    /// Takes samples that were made from `time` on: when the first packet begins that is made of them, and how long they
    /// play, in microseconds. Half a sample at the end falls.
    pub(super) fn push(&mut self, time: u64, samples: &[u8]) -> (u64, u64) {
        let begins = time.saturating_sub(self.micros(self.rest.len()));
        self.rest.extend(samples.as_chunks().0.iter().map(|pair| i16::from_le_bytes(*pair)));
        let frame = self.rate as usize / 50;
        let whole = self.rest.len() / frame * frame;
        if let Some(encoder) = &mut self.encoder {
            for frame in self.rest[..whole].chunks_exact(frame) {
                let mut packet = vec![0; MAX_PACKET];
                if let Ok(length) = encoder.encode(frame, &mut packet) {
                    packet.truncate(length);
                    self.packets.push_back(packet.into());
                }
            }
        }
        self.rest.drain(..whole);
        (begins, self.micros(samples.len() / 2))
    }

    /// The next packet, of 20 ms.
    pub(super) fn poll(&mut self) -> Option<Bytes> {
        self.packets.pop_front()
    }

    fn micros(&self, samples: usize) -> u64 {
        samples as u64 * 1_000_000 / u64::from(self.rate)
    }
}
