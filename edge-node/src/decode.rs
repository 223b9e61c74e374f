//! Opus to what the VAD listens to: 16 kHz mono. The audio itself travels on undecoded.

use std::{cell::RefCell, time::Duration};

use opus::Channels;

use crate::toc::OpusPacket;
pub use crate::toc::packet_duration;

/// Samples per second of what is decoded.
pub const SAMPLE_RATE: u32 = 16_000;
/// A packet's length in samples until one has come: 20 ms.
const SLOT: usize = 320;
/// The longest packet, 120 ms, in samples.
const MAX_SAMPLES: usize = 1920;
/// Concealment fades to nothing within about this long; more of it would only cost time.
const MAX_CONCEALED: Duration = Duration::from_millis(100);

/// Decoders kept for the next participant who speaks, of each thread: to make one asks the processor what it can do,
/// which a virtual machine takes tens of microseconds to answer.
const SPARE: usize = 64;

thread_local! {
    static SPARES: RefCell<Vec<Inner>> = const { RefCell::new(vec![]) };
}

/// One participant's decoder. About 18 KiB of state, from the first packet on.
#[derive(Debug, Default)]
pub struct Decoder {
    inner: Option<Inner>,
}

#[derive(Debug)]
struct Inner {
    opus: opus::Decoder,
    pcm: Box<[i16; MAX_SAMPLES]>,
    /// Length of the last packet in samples: that of one lost after it.
    slot: usize,
}

impl Inner {
    /// One that has heard nothing.
    fn take() -> Self {
        let spare = SPARES.with_borrow_mut(Vec::pop);
        let reset = spare.and_then(|mut inner| inner.opus.reset_state().is_ok().then_some(inner));
        let Some(mut inner) = reset else { return Self::make() };
        inner.slot = SLOT;
        inner
    }

    fn make() -> Self {
        let opus = opus::Decoder::new(SAMPLE_RATE, Channels::Mono).expect("libopus decodes to 16 kHz mono");
        Self { opus, pcm: Box::new([0; MAX_SAMPLES]), slot: SLOT }
    }

    /// One slot made up from `from` or from nothing.
    fn fill(&mut self, from: &[u8], fec: bool) -> &[i16] {
        let pcm = &mut self.pcm[..self.slot];
        match self.opus.decode(from, pcm, fec) {
            Ok(samples) => &self.pcm[..samples],
            Err(_) => &[],
        }
    }
}

impl Decoder {
    /// A decoder that has heard nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The sound of `packet`; concealed where libopus finds it corrupt.
    pub fn decode(&mut self, packet: &[u8]) -> &[i16] {
        let inner = self.inner();
        match inner.opus.decode(packet, &mut inner.pcm[..], false) {
            Ok(samples) => {
                inner.slot = samples;
                &inner.pcm[..samples]
            }
            Err(_) => inner.fill(&[], false),
        }
    }

    /// The sound of the `nth` of `count` packets lost just before `next`, from its in-band copy of the last of them
    /// (LBRR) or else a guess (RFC 6716 section 4.4); nothing once guessing has become pointless.
    pub fn conceal(&mut self, nth: u32, count: u32, next: &[u8]) -> &[i16] {
        let inner = self.inner();
        let last = nth + 1 == count;
        if last && OpusPacket::parse(next).is_some_and(|p| p.has_lbrr()) {
            return inner.fill(next, true);
        }
        let concealed = Duration::from_micros(inner.slot as u64 * 1_000_000 / u64::from(SAMPLE_RATE)) * nth;
        if concealed < MAX_CONCEALED { inner.fill(&[], false) } else { &[] }
    }

    fn inner(&mut self) -> &mut Inner {
        self.inner.get_or_insert_with(Inner::take)
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else { return };
        // At the end of a thread there is nobody to keep it for.
        let _ = SPARES.try_with(|spares| {
            let mut spares = spares.borrow_mut();
            if spares.len() < SPARE {
                spares.push(inner);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use opus::{Application, Encoder};
    use proptest::prelude::*;

    use super::*;
    use crate::signals;

    fn energy(pcm: &[i16]) -> f64 {
        pcm.iter().map(|s| f64::from(*s).powi(2)).sum()
    }

    fn encode(fec: bool) -> Vec<Vec<u8>> {
        let mut encoder = Encoder::new(SAMPLE_RATE, Channels::Mono, Application::Voip).unwrap();
        encoder.set_bitrate(opus::Bitrate::Bits(24_000)).unwrap();
        encoder.set_inband_fec(fec).unwrap();
        encoder.set_packet_loss_perc(if fec { 20 } else { 0 }).unwrap();
        signals::talk(2000, 8000.0).chunks_exact(320).map(|c| encoder.encode_vec(c, 1275).unwrap()).collect()
    }

    #[test]
    fn a_decoder_that_was_another_s_hears_as_a_new_one_does() {
        let packets = encode(false);
        let hear = |decoder: &mut Decoder| packets.iter().flat_map(|p| decoder.decode(p).to_vec()).collect::<Vec<_>>();
        let fresh = std::thread::scope(|scope| scope.spawn(|| hear(&mut Decoder::new())).join().unwrap());
        let mut used = Decoder::new();
        used.decode(&packets[50]);
        used.decode(&[3 << 3]);
        used.conceal(0, 1, &packets[7]);
        drop(used);
        assert_eq!(hear(&mut Decoder::new()), fresh);
    }

    #[test]
    fn a_single_loss_is_restored_from_the_next_packet() {
        let packets = encode(true);
        let (mut whole, mut lossy) = (Decoder::new(), Decoder::new());
        let at = (20..packets.len() - 1).find(|n| OpusPacket::parse(&packets[n + 1]).unwrap().has_lbrr()).unwrap();
        for packet in &packets[..at] {
            whole.decode(packet);
            lossy.decode(packet);
        }
        let truth = whole.decode(&packets[at]).to_vec();
        let restored = lossy.conceal(0, 1, &packets[at + 1]).to_vec();
        let error: Vec<i16> = truth.iter().zip(&restored).map(|(a, b)| a.saturating_sub(*b)).collect();
        assert_eq!(restored.len(), 320);
        assert!(energy(&error) < energy(&truth), "{} against {}", energy(&error), energy(&truth));
    }

    #[test]
    fn concealment_ends() {
        let packets = encode(false);
        let mut decoder = Decoder::new();
        for packet in &packets[..30] {
            decoder.decode(packet);
        }
        let lengths: Vec<usize> = (0..8).map(|nth| decoder.conceal(nth, 9, &packets[39]).len()).collect();
        assert_eq!(lengths, [320, 320, 320, 320, 320, 0, 0, 0]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_decoded_to_something_short(packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 1..20)) {
            let mut decoder = Decoder::new();
            for packet in packets {
                prop_assert!(decoder.conceal(0, 1, &packet).len() <= MAX_SAMPLES);
                prop_assert!(decoder.decode(&packet).len() <= MAX_SAMPLES);
            }
        }
    }
}
