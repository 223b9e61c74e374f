//! Opus to what the VAD listens to: 16 kHz mono. The audio itself travels on undecoded.
//!
//! Of a packet only the part below 8 kHz is wanted, which is SILK's alone where SILK has a part in it (`silk`); CELT's are
//! decoded whole. Two channels are decoded as two, since their mean may be silence ([`Downmix`]).

mod silk;

use std::{cell::RefCell, time::Duration};

use mesh::downmix::Downmix;
use opus::Channels;

use self::silk::Silk;
pub use crate::toc::packet_duration;
use crate::toc::{Mode, OpusPacket};

/// Samples per second of what is decoded.
pub const SAMPLE_RATE: u32 = 16_000;
/// A packet's length in samples until one has come: 20 ms.
const SLOT: usize = 320;
/// The longest packet, 120 ms, in samples.
const MAX_SAMPLES: usize = 1920;
/// The same of two channels.
const MAX_STEREO: usize = 2 * MAX_SAMPLES;
/// Concealment fades to nothing within about this long; more of it would only cost time.
const MAX_CONCEALED: Duration = Duration::from_millis(100);

/// Decoders kept for the next participant who speaks, of each thread: to make one asks the processor what it can do,
/// which a virtual machine takes tens of microseconds to answer.
const SPARE: usize = 64;

thread_local! {
    static SPARES: RefCell<Vec<Inner>> = const { RefCell::new(vec![]) };
}

/// One participant's decoder. About 12 KiB of state from the first packet on, and 18 KiB more from the first of CELT.
#[derive(Debug, Default)]
pub struct Decoder {
    inner: Option<Inner>,
}

#[derive(Debug)]
struct Inner {
    silk: Option<Silk>,
    whole: Option<opus::Decoder>,
    /// Made where there is a packet of two channels.
    pair: Option<Box<Pair>>,
    /// Who decoded last.
    by: By,
    pcm: Box<[i16; MAX_SAMPLES]>,
    /// Length of the last packet in samples: that of one lost after it.
    slot: usize,
}

/// What two channels take besides.
#[derive(Debug)]
struct Pair {
    whole: opus::Decoder,
    pcm: [i16; MAX_STEREO],
    mix: Downmix,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Silk,
    Whole,
    /// Whole, and of two channels.
    Pair,
}

impl Inner {
    /// One that has heard nothing.
    fn take() -> Self {
        let mut inner = SPARES.with_borrow_mut(Vec::pop).unwrap_or_else(Self::make);
        inner.turn_to(inner.by);
        inner.slot = SLOT;
        if let Some(pair) = &mut inner.pair {
            pair.mix = Downmix::default();
        }
        inner
    }

    fn make() -> Self {
        let silk = Silk::new();
        let by = if silk.is_some() { By::Silk } else { By::Whole };
        Self { silk, whole: None, pair: None, by, pcm: Box::new([0; MAX_SAMPLES]), slot: SLOT }
    }

    /// What the other decoder, or this one before another's packets, has heard says nothing of what comes.
    fn turn_to(&mut self, by: By) {
        self.by = by;
        match (by, &mut self.silk, &mut self.whole, &mut self.pair) {
            (By::Silk, Some(silk), ..) => silk.reset(),
            // They have no other error than an invalid handle.
            (By::Whole, _, Some(whole), _) => drop(whole.reset_state()),
            (By::Pair, _, _, Some(pair)) => drop(pair.whole.reset_state()),
            _ => {}
        }
    }

    /// Who is to decode `packet`. What two channels were decoded by decodes one as well.
    fn choose(&mut self, packet: Option<&OpusPacket<'_>>) {
        let by = match packet {
            Some(packet) if packet.mode != Mode::Celt && self.silk.is_some() => By::Silk,
            Some(packet) if packet.stereo => By::Pair,
            _ if self.by == By::Pair => By::Pair,
            _ => By::Whole,
        };
        if by != self.by {
            self.turn_to(by);
        }
    }

    fn decode(&mut self, packet: &[u8]) -> Option<usize> {
        let parsed = OpusPacket::parse(packet);
        self.choose(parsed.as_ref());
        match (self.by, &mut self.silk, parsed) {
            (By::Silk, Some(silk), Some(parsed)) if parsed.stereo => {
                let pair = pair(&mut self.pair);
                let samples = silk.decode(&parsed, &mut pair.pcm)?;
                Some(pair.mix(samples, &mut self.pcm[..]))
            }
            (By::Silk, Some(silk), Some(parsed)) => silk.decode(&parsed, &mut self.pcm[..]),
            (By::Pair, ..) => pair(&mut self.pair).decode(packet, &mut self.pcm[..], false),
            _ => whole(&mut self.whole).decode(packet, &mut self.pcm[..], false).ok(),
        }
    }

    /// One slot from the copy of it that `next` carries.
    fn recover(&mut self, next: &[u8], parsed: &OpusPacket<'_>) -> Option<usize> {
        self.choose(Some(parsed));
        let slot = self.slot;
        let pcm = &mut self.pcm[..slot];
        match (self.by, &mut self.silk) {
            (By::Silk, Some(silk)) if parsed.stereo => {
                let pair = pair(&mut self.pair);
                silk.recover(parsed, &mut pair.pcm[..2 * slot])?;
                Some(pair.mix(slot, pcm))
            }
            (By::Silk, Some(silk)) => silk.recover(parsed, pcm).map(|()| slot),
            (By::Pair, _) => pair(&mut self.pair).decode(next, pcm, true),
            _ => whole(&mut self.whole).decode(next, pcm, true).ok(),
        }
    }

    /// One slot made up from what was before.
    fn guess(&mut self) -> &[i16] {
        let slot = self.slot;
        let pcm = &mut self.pcm[..slot];
        let samples = match (self.by, &mut self.silk, &mut self.pair) {
            (By::Silk, Some(silk), Some(pair)) if silk.is_stereo() => {
                silk.conceal(&mut pair.pcm[..2 * slot]).map(|()| pair.mix(slot, pcm))
            }
            (By::Silk, Some(silk), _) => silk.conceal(pcm).map(|()| slot),
            (By::Pair, _, Some(pair)) => pair.decode(&[], pcm, false),
            _ => whole(&mut self.whole).decode(&[], pcm, false).ok(),
        };
        &self.pcm[..samples.unwrap_or(0)]
    }
}

impl Pair {
    fn decode(&mut self, packet: &[u8], to: &mut [i16], fec: bool) -> Option<usize> {
        let samples = self.whole.decode(packet, &mut self.pcm[..2 * to.len()], fec).ok()?;
        Some(self.mix(samples, to))
    }

    /// The first `samples` of either channel as one.
    fn mix(&mut self, samples: usize, to: &mut [i16]) -> usize {
        const SCALE: f32 = 32_768.0;
        let pairs = || self.pcm[..2 * samples].chunks_exact(2).map(|both| (f32::from(both[0]), f32::from(both[1])));
        let channel = self.mix.channel(pairs().map(|(left, right)| (left / SCALE, right / SCALE)));
        for (to, (left, right)) in to.iter_mut().zip(pairs()) {
            *to = channel.of(left, right) as i16;
        }
        samples
    }
}

fn pair(made: &mut Option<Box<Pair>>) -> &mut Pair {
    let make = || {
        let whole = opus::Decoder::new(SAMPLE_RATE, Channels::Stereo).expect("libopus decodes to 16 kHz stereo");
        Box::new(Pair { whole, pcm: [0; MAX_STEREO], mix: Downmix::default() })
    };
    made.get_or_insert_with(make)
}

/// Made when it is first needed.
fn whole(made: &mut Option<opus::Decoder>) -> &mut opus::Decoder {
    let make = || opus::Decoder::new(SAMPLE_RATE, Channels::Mono).expect("libopus decodes to 16 kHz mono");
    made.get_or_insert_with(make)
}

impl Decoder {
    /// A decoder that has heard nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The sound of `packet`; concealed where libopus finds it corrupt.
    pub fn decode(&mut self, packet: &[u8]) -> &[i16] {
        let inner = self.inner();
        match inner.decode(packet) {
            Some(samples) => {
                inner.slot = samples;
                &inner.pcm[..samples]
            }
            None => inner.guess(),
        }
    }

    /// The sound of the `nth` of `count` packets lost just before `next`, from its in-band copy of the last of them
    /// (LBRR) or else a guess (RFC 6716 section 4.4); nothing once guessing has become pointless.
    pub fn conceal(&mut self, nth: u32, count: u32, next: &[u8]) -> &[i16] {
        let inner = self.inner();
        let last = nth + 1 == count;
        if last
            && let Some(parsed) = OpusPacket::parse(next).filter(OpusPacket::has_lbrr)
            && let Some(samples) = inner.recover(next, &parsed)
        {
            return &inner.pcm[..samples];
        }
        let concealed = Duration::from_micros(inner.slot as u64 * 1_000_000 / u64::from(SAMPLE_RATE)) * nth;
        if concealed < MAX_CONCEALED { inner.guess() } else { &[] }
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

    /// What libopus' own decoder, and ours, make of the same packets, each `lost`th of which never comes.
    fn both(packets: &[Vec<u8>], lost: usize) -> (Vec<i16>, Vec<i16>) {
        let mut theirs = opus::Decoder::new(SAMPLE_RATE, Channels::Mono).unwrap();
        let mut ours = Decoder::new();
        let (mut whole, mut part, mut pcm) = (vec![], vec![], [0; MAX_SAMPLES]);
        for pair in packets.windows(2).enumerate().filter(|(n, _)| n % lost != lost - 1) {
            let (n, [packet, next]) = (pair.0, pair.1) else { continue };
            let samples = theirs.decode(packet, &mut pcm, false).unwrap();
            whole.extend_from_slice(&pcm[..samples]);
            part.extend_from_slice(ours.decode(packet));
            if n % lost == lost - 2 {
                let fec = OpusPacket::parse(next).unwrap().has_lbrr();
                let from = if fec { next.as_slice() } else { &[] };
                let samples = theirs.decode(from, &mut pcm[..samples], fec).unwrap();
                whole.extend_from_slice(&pcm[..samples]);
                part.extend_from_slice(ours.conceal(0, 1, next));
            }
        }
        (whole, part)
    }

    /// Speech with something above 8 kHz.
    fn wide(channels: Channels) -> Vec<i16> {
        let channels = if channels == Channels::Stereo { 2 } else { 1 };
        signals::talk(2000, 8000.0).iter().flat_map(|s| std::iter::repeat_n(*s, 3 * channels)).collect()
    }

    proptest! {
        #[test]
        fn of_silk_s_packets_the_same_is_heard_as_libopus_hears(
            bitrate in 8_000i32..64_000,
            frame in prop_oneof![Just(10usize), Just(20), Just(40), Just(60)],
            channels in prop_oneof![Just(Channels::Mono), Just(Channels::Stereo)],
            fec: bool,
            lost in 3usize..30,
        ) {
            let mut encoder = Encoder::new(48_000, channels, Application::Voip).unwrap();
            encoder.set_bitrate(opus::Bitrate::Bits(bitrate)).unwrap();
            encoder.set_inband_fec(fec).unwrap();
            encoder.set_packet_loss_perc(if fec { 20 } else { 0 }).unwrap();
            let samples = frame * 48 * if channels == Channels::Stereo { 2 } else { 1 };
            let pcm = wide(channels);
            let packets: Vec<_> = pcm.chunks_exact(samples).map(|c| encoder.encode_vec(c, 4000).unwrap()).collect();
            // A change of coder or bandwidth has some CELT of its own, which nobody hears here.
            prop_assume!(packets.iter().all(|p| p[0] >> 3 == packets[0][0] >> 3 && p[0] >> 3 < 16));
            let (theirs, ours) = both(&packets, lost);
            prop_assert_eq!(theirs.len(), ours.len());
            let error: Vec<i16> = theirs.iter().zip(&ours).map(|(a, b)| a.saturating_sub(*b)).collect();
            prop_assert!(energy(&error) * 1000.0 < energy(&theirs), "{} of {}", energy(&error), energy(&theirs));
        }
    }

    #[test]
    fn a_browser_s_packets_are_hybrid_and_the_coders_may_change() {
        let mut encoder = Encoder::new(48_000, Channels::Mono, Application::Voip).unwrap();
        let mut mode_at = |bits| {
            encoder.set_bitrate(opus::Bitrate::Bits(bits)).unwrap();
            let encode = |chunk: &[i16]| encoder.encode_vec(chunk, 4000).unwrap();
            wide(Channels::Mono).chunks_exact(960).map(encode).collect::<Vec<_>>()
        };
        let (hybrid, celt) = (mode_at(32_000), mode_at(256_000));
        let mode = |packet: &[u8]| OpusPacket::parse(packet).unwrap().mode;
        assert_eq!((mode(&hybrid[20]), mode(&celt[20])), (Mode::Hybrid, Mode::Celt));
        let mut decoder = Decoder::new();
        for packets in [&hybrid, &celt, &hybrid] {
            let heard: Vec<i16> = packets.iter().flat_map(|p| decoder.decode(p).to_vec()).collect();
            assert_eq!(heard.len(), 2000 * 16);
            assert!(energy(&heard) * 2.0 > energy(&signals::talk(2000, 8000.0)));
        }
    }

    #[test]
    fn channels_of_opposite_phase_are_heard() {
        for (application, bitrate) in
            [(Application::Voip, 24_000), (Application::Voip, 48_000), (Application::LowDelay, 96_000)]
        {
            let mut encoder = Encoder::new(48_000, Channels::Stereo, application).unwrap();
            encoder.set_bitrate(opus::Bitrate::Bits(bitrate)).unwrap();
            encoder.set_inband_fec(true).unwrap();
            encoder.set_packet_loss_perc(20).unwrap();
            let pcm: Vec<i16> = wide(Channels::Mono).iter().flat_map(|s| [*s, -*s]).collect();
            let packets: Vec<_> = pcm.chunks_exact(1920).map(|c| encoder.encode_vec(c, 4000).unwrap()).collect();
            assert!(OpusPacket::parse(&packets[50]).unwrap().stereo, "at {bitrate}");
            let mut decoder = Decoder::new();
            let mut heard: Vec<i16> = vec![];
            for (n, packet) in packets.iter().enumerate() {
                match n % 10 {
                    9 => heard.extend(decoder.conceal(0, 1, packets.get(n + 1).unwrap_or(packet))),
                    _ => heard.extend(decoder.decode(packet)),
                }
            }
            assert_eq!(heard.len(), 2000 * 16);
            // At this rate two channels are not coded as well as one.
            assert!(energy(&heard) * 4.0 > energy(&signals::talk(2000, 8000.0)), "{} at {bitrate}", energy(&heard));
        }
    }

    #[test]
    fn a_sender_that_turns_from_one_channel_to_two_and_back_is_heard_all_along() {
        for (application, bitrate) in [(Application::Voip, 32_000), (Application::LowDelay, 96_000)] {
            let encode = |channels: Channels| {
                let mut encoder = Encoder::new(48_000, channels, application).unwrap();
                encoder.set_bitrate(opus::Bitrate::Bits(bitrate)).unwrap();
                let samples = if channels == Channels::Stereo { 1920 } else { 960 };
                let pcm = wide(channels);
                pcm.chunks_exact(samples).map(|c| encoder.encode_vec(c, 4000).unwrap()).collect::<Vec<_>>()
            };
            let (mono, stereo) = (encode(Channels::Mono), encode(Channels::Stereo));
            let mut decoder = Decoder::new();
            for packets in [&mono, &stereo, &mono, &stereo] {
                let heard: Vec<i16> = packets.iter().flat_map(|p| decoder.decode(p).to_vec()).collect();
                assert_eq!(heard.len(), 2000 * 16);
                assert!(energy(&heard) * 2.0 > energy(&signals::talk(2000, 8000.0)));
            }
        }
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
