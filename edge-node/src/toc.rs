//! An Opus packet taken apart as far as that needs no decoder (RFC 6716 sections 3 and 4.2.3).

use std::time::Duration;

use mesh::wire::spurt::MAX_OPUS;
use smallvec::{SmallVec, smallvec};

/// The most frames a packet holds: 120 ms of 2.5 ms (RFC 6716 section 3.2.5).
const MAX_FRAMES: usize = 48;
/// The longest packet, in samples at 48 kHz.
const MAX_SAMPLES: u32 = 5760;
/// The longest frame, in bytes (RFC 6716 section 3.2.1).
const MAX_FRAME: usize = 1275;

/// Which of Opus's coders made a packet (RFC 6716 table 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Speech coder alone.
    Silk,
    /// Speech coder below 8 kHz, transform coder above.
    Hybrid,
    /// Transform coder alone.
    Celt,
}

/// A packet whose framing is sound; what is in the frames may still be anything.
#[derive(Debug, Clone)]
pub struct OpusPacket<'a> {
    /// The coder.
    pub mode: Mode,
    /// Two channels.
    pub stereo: bool,
    silk_rate: Option<u32>,
    frame_samples: u32,
    /// One in most packets.
    frames: SmallVec<[&'a [u8]; 3]>,
}

/// How long the packet plays: 2.5 to 120 ms; `None` if it is no Opus packet.
pub fn packet_duration(packet: &[u8]) -> Option<Duration> {
    // Of one frame, as nearly all are.
    if let [toc, frame @ ..] = packet
        && toc & 3 == 0
    {
        let (_, samples) = configuration(toc >> 3);
        return (frame.len() <= MAX_FRAME).then(|| samples_to_duration(samples.into()));
    }
    OpusPacket::parse(packet).map(|p| p.duration())
}

impl<'a> OpusPacket<'a> {
    /// Reads the framing; `None` where RFC 6716 section 3.4 calls the packet malformed.
    pub fn parse(packet: &'a [u8]) -> Option<Self> {
        let (&toc, rest) = packet.split_first()?;
        if packet.len() > MAX_OPUS {
            return None;
        }
        let (mode, frame_samples) = configuration(toc >> 3);
        let mut this =
            Self { mode, stereo: toc & 4 != 0, silk_rate: silk_rate(toc >> 3), frame_samples, frames: smallvec![] };
        match toc & 3 {
            0 => this.push(rest)?,
            1 => this.push_equal(rest, 2)?,
            2 => {
                let (first, rest) = take_frame(rest)?;
                this.push(first)?;
                this.push(rest)?;
            }
            _ => this.push_counted(rest)?,
        }
        Some(this)
    }

    /// How long it plays: at most 120 ms.
    pub fn duration(&self) -> Duration {
        samples_to_duration(u64::from(self.frame_samples) * self.frames.len() as u64)
    }

    /// How long each of its frames plays: 2.5 to 60 ms.
    pub fn frame_duration(&self) -> Duration {
        samples_to_duration(self.frame_samples.into())
    }

    /// Samples per second within SILK: 8, 12 or 16 thousand; `None` for CELT.
    pub fn silk_rate(&self) -> Option<u32> {
        self.silk_rate
    }

    /// Holds no audio: every frame is empty or a single byte, which decoders read as "not sent".
    pub fn is_dtx(&self) -> bool {
        self.frames().all(|f| f.len() <= 1)
    }

    /// Whether the encoder's own detector heard a voice in any 20 ms of it; `None` for CELT, which has no such flag.
    pub fn voice(&self) -> Option<bool> {
        (self.mode != Mode::Celt).then(|| self.frames().any(|f| self.silk_flags(f).0))
    }

    /// Whether its first frame carries a second, coarser copy of the audio before it (LBRR, RFC 6716 section 4.2.4).
    pub fn has_lbrr(&self) -> bool {
        self.mode != Mode::Celt && self.frames().next().is_some_and(|f| self.silk_flags(f).1)
    }

    /// The frames, in their order; an empty one was not sent.
    pub fn frames(&self) -> impl Iterator<Item = &'a [u8]> + '_ {
        self.frames.iter().copied()
    }

    /// (voice, LBRR) from the header bits of one frame, section 4.2.3: per channel a VAD bit for each 20 ms and
    /// an LBRR bit. They are the first symbols of the range coder and have probability one half, so they stand in
    /// the first byte as plain bits.
    fn silk_flags(&self, frame: &[u8]) -> (bool, bool) {
        let [head, _, ..] = frame else { return (false, false) };
        let per_channel = (self.frame_samples / 960).max(1) as u8 + 1;
        let channels = if self.stereo { 2 } else { 1 };
        let (mut voice, mut lbrr) = (false, false);
        for bit in 0..per_channel * channels {
            let set = head & (0x80 >> bit) != 0;
            if (bit + 1) % per_channel == 0 { lbrr |= set } else { voice |= set }
        }
        (voice, lbrr)
    }

    fn push(&mut self, frame: &'a [u8]) -> Option<()> {
        if frame.len() > MAX_FRAME || self.frame_samples * (self.frames.len() as u32 + 1) > MAX_SAMPLES {
            return None;
        }
        self.frames.push(frame);
        Some(())
    }

    fn push_equal(&mut self, rest: &'a [u8], count: usize) -> Option<()> {
        if !rest.len().is_multiple_of(count) {
            return None;
        }
        let each = rest.len() / count;
        (0..count).try_for_each(|i| self.push(&rest[i * each..(i + 1) * each]))
    }

    /// Code 3: a count byte, perhaps padding, and frames of equal or of given lengths.
    fn push_counted(&mut self, rest: &'a [u8]) -> Option<()> {
        let (&head, mut rest) = rest.split_first()?;
        let count = usize::from(head & 0x3f);
        if count == 0 {
            return None;
        }
        if head & 0x40 != 0 {
            rest = strip_padding(rest)?;
        }
        if head & 0x80 == 0 {
            return self.push_equal(rest, count);
        }
        let mut lengths = [0; MAX_FRAMES];
        let lengths = lengths.get_mut(..count - 1)?;
        for length in lengths.iter_mut() {
            (*length, rest) = take_length(rest)?;
        }
        for &length in lengths.iter() {
            let (frame, after) = rest.split_at_checked(length)?;
            self.push(frame)?;
            rest = after;
        }
        self.push(rest)
    }
}

/// Samples at 48 kHz as time.
pub(crate) fn samples_to_duration(samples: u64) -> Duration {
    Duration::from_nanos(samples.saturating_mul(62_500) / 3)
}

/// Mode and frame length in samples at 48 kHz (RFC 6716 table 2).
fn configuration(config: u8) -> (Mode, u32) {
    match config {
        0..12 => (Mode::Silk, [480, 960, 1920, 2880][usize::from(config & 3)]),
        12..16 => (Mode::Hybrid, [480, 960][usize::from(config & 1)]),
        _ => (Mode::Celt, 120 << (config & 3)),
    }
}

/// Narrowband, mediumband, and wideband, alone or with CELT above it (RFC 6716 table 2).
fn silk_rate(config: u8) -> Option<u32> {
    match config {
        0..4 => Some(8_000),
        4..8 => Some(12_000),
        8..16 => Some(16_000),
        _ => None,
    }
}

/// A frame length of one or two bytes (RFC 6716 section 3.2.1).
fn take_length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    match bytes {
        [first @ 0..252, rest @ ..] => Some((usize::from(*first), rest)),
        [first, second, rest @ ..] => Some((usize::from(*second) * 4 + usize::from(*first), rest)),
        _ => None,
    }
}

fn take_frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = take_length(bytes)?;
    rest.split_at_checked(length)
}

/// Cuts the padding that the bytes in front announce (RFC 6716 section 3.2.5).
fn strip_padding(mut bytes: &[u8]) -> Option<&[u8]> {
    let mut padding = 0;
    loop {
        let (&byte, rest) = bytes.split_first()?;
        bytes = rest;
        padding += usize::from(byte.min(254));
        if byte != 255 {
            return bytes.get(..bytes.len().checked_sub(padding)?);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn framing_agrees_with_libopus_on_arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 1..400)) {
            let theirs = opus::packet::get_nb_samples(&bytes, 48000).ok();
            let theirs = theirs.filter(|_| opus::packet::parse(&bytes).is_ok());
            let ours = packet_duration(&bytes).map(|d| (d.as_nanos() * 3 / 62_500) as usize);
            prop_assert_eq!(ours, theirs);
        }

        #[test]
        fn no_bytes_are_too_strange_to_look_at(bytes in proptest::collection::vec(any::<u8>(), 0..5000)) {
            if let Some(packet) = OpusPacket::parse(&bytes) {
                packet.voice();
                packet.has_lbrr();
                prop_assert!(packet.duration() <= Duration::from_millis(120));
            }
        }
    }

    #[test]
    fn flags_stand_in_the_first_byte_of_each_frame() {
        let silk20 = 1 << 3;
        let voice = |packet: &[u8]| OpusPacket::parse(packet).unwrap().voice();
        assert_eq!(voice(&[silk20, 0x80, 0]), Some(true));
        assert_eq!(voice(&[silk20, 0x40, 0]), Some(false), "the second bit is LBRR");
        assert!(OpusPacket::parse(&[silk20, 0x40, 0]).unwrap().has_lbrr());
        assert_eq!(voice(&[silk20 | 4, 0x20, 0]), Some(true), "side channel");
        assert_eq!(voice(&[3 << 3, 0x20, 0]), Some(true), "third 20 ms of a 60 ms frame");
        assert_eq!(voice(&[silk20 | 1, 0, 0, 0x80, 0]), Some(true), "second of two frames");
        assert_eq!(voice(&[31 << 3, 0x80, 0]), None, "CELT has no flag");
    }

    #[test]
    fn a_packet_of_empty_frames_is_dtx() {
        assert!(OpusPacket::parse(&[1 << 3]).unwrap().is_dtx());
        assert!(!OpusPacket::parse(&[1 << 3, 1, 2]).unwrap().is_dtx());
        assert!(OpusPacket::parse(&[]).is_none());
    }
}
