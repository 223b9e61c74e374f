//! Opus items to 16 kHz mono, losses concealed. Two channels are decoded as two, since their mean may be silence.

use std::{sync::Arc, time::Duration};

use mesh::{downmix::Downmix, wire::spurt::Item};
use opus::Channels;

/// Samples per second of what comes out.
pub const RATE: u32 = 16_000;

/// The longest Opus packet, 120 ms (RFC 6716 section 2.1.4), in samples.
const MAX_SAMPLES: usize = RATE as usize * 120 / 1000;

/// The usual packet, 20 ms, in samples: how long a gap is that nothing precedes.
const DEFAULT_SLOT: usize = RATE as usize / 50;

/// How long an Opus packet plays (RFC 6716 section 3.1), or 20 ms for bytes that are none.
pub fn duration_of(packet: &[u8]) -> Duration {
    let samples = opus::packet::get_nb_samples(packet, 48_000).unwrap_or(960);
    Duration::from_micros(samples as u64 * 1_000_000 / 48_000)
}

/// An utterance's sound.
///
/// A gap waits for the frame behind it, which may hold a low-rate copy of what was lost (in-band
/// FEC, RFC 6716 section 2.1.7); without one, libopus conceals it.
pub struct Decoded {
    decoder: opus::Decoder,
    /// From the first packet of two channels on.
    mix: Option<Downmix>,
    samples: Vec<f32>,
    slot: usize,
    gaps: usize,
    bad: u64,
}

impl Decoded {
    /// Nothing yet.
    ///
    /// # Errors
    /// libopus has no memory for a decoder.
    pub fn new() -> Result<Self, opus::Error> {
        let decoder = opus::Decoder::new(RATE, Channels::Mono)?;
        Ok(Self { decoder, mix: None, samples: vec![], slot: DEFAULT_SLOT, gaps: 0, bad: 0 })
    }

    /// Takes the next item; trailers are no sound.
    pub fn push(&mut self, item: &Item) {
        match item {
            Item::Gap => self.gaps += 1,
            Item::Frame(packet) => self.frame(packet),
            Item::End(_) => {}
        }
    }

    /// The sound, once no more will come: closing gaps are concealed.
    pub fn finish(mut self) -> Arc<[f32]> {
        self.conceal_all();
        self.samples.into()
    }

    /// Packets libopus could not read; each was concealed.
    pub fn bad_packets(&self) -> u64 {
        self.bad
    }

    fn frame(&mut self, packet: &[u8]) {
        self.turn(packet);
        if self.gaps > 0 {
            while self.gaps > 1 {
                self.conceal(&[]);
            }
            self.conceal(packet);
        }
        // An empty packet would ask libopus to conceal, and a wrong one must not shift what follows.
        match Some(packet).filter(|p| !p.is_empty()).and_then(|p| self.decode(p, MAX_SAMPLES, false)) {
            Some(count) => self.slot = count,
            None => {
                self.bad += 1;
                self.gaps += 1;
                self.conceal(&[]);
            }
        }
    }

    fn conceal_all(&mut self) {
        while self.gaps > 0 {
            self.conceal(&[]);
        }
    }

    /// Fills one gap, from the FEC in `next` where there is any.
    fn conceal(&mut self, next: &[u8]) {
        if self.decode(next, self.slot, !next.is_empty()).is_none() {
            self.samples.extend(std::iter::repeat_n(0.0, self.slot));
        }
        self.gaps -= 1;
    }

    /// A decoder of two channels decodes one as well, so it stays.
    fn turn(&mut self, packet: &[u8]) {
        const STEREO: u8 = 4;
        let stereo = packet.first().is_some_and(|toc| toc & STEREO != 0);
        if stereo
            && self.mix.is_none()
            && let Ok(decoder) = opus::Decoder::new(RATE, Channels::Stereo)
        {
            (self.decoder, self.mix) = (decoder, Some(Downmix::default()));
        }
    }

    /// Appends what `packet` plays, `most` samples at most, and returns how many that was.
    fn decode(&mut self, packet: &[u8], most: usize, fec: bool) -> Option<usize> {
        let mut out = [0.0; 2 * MAX_SAMPLES];
        let channels = if self.mix.is_some() { 2 } else { 1 };
        let count = self.decoder.decode_float(packet, &mut out[..most * channels], fec).ok()?;
        let out = &out[..count * channels];
        match &mut self.mix {
            None => self.samples.extend_from_slice(out),
            Some(mix) => {
                let pairs = || out.chunks_exact(2).map(|both| (both[0], both[1]));
                let channel = mix.channel(pairs());
                self.samples.extend(pairs().map(|(left, right)| channel.of(left, right)));
            }
        }
        Some(count)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn tone(packets: usize) -> Vec<Item> {
        let mut encoder = opus::Encoder::new(48_000, opus::Channels::Mono, opus::Application::Voip).unwrap();
        let wave: Vec<f32> = (0..960 * packets).map(|i| (i as f32 * 0.05).sin() * 0.3).collect();
        wave.chunks(960).map(|c| Item::Frame(encoder.encode_vec_float(c, 1500).unwrap().into())).collect()
    }

    fn decode(items: &[Item]) -> Arc<[f32]> {
        let mut decoded = Decoded::new().unwrap();
        items.iter().for_each(|item| decoded.push(item));
        decoded.finish()
    }

    #[test]
    fn every_slot_takes_its_time_whether_it_was_lost_or_not() {
        let mut items = tone(50);
        for lost in [0, 10, 11, 30, 49] {
            items[lost] = Item::Gap;
        }
        let sound = decode(&items);
        assert_eq!(sound.len(), 50 * 320);
        let loudest = sound.iter().fold(0.0f32, |a, s| a.max(s.abs()));
        assert!((0.1..=1.0).contains(&loudest), "{loudest}");
    }

    #[test]
    fn channels_of_opposite_phase_are_heard_and_mono_before_them_too() {
        for application in [opus::Application::Voip, opus::Application::LowDelay] {
            let mut encoder = opus::Encoder::new(48_000, Channels::Stereo, application).unwrap();
            encoder.set_bitrate(opus::Bitrate::Bits(48_000)).unwrap();
            let wave: Vec<f32> = (0..960 * 50).map(|i| (i as f32 * 0.05).sin() * 0.3).collect();
            let pairs: Vec<f32> = wave.iter().flat_map(|s| [*s, -*s]).collect();
            let packets = pairs.chunks(1920).map(|c| Item::Frame(encoder.encode_vec_float(c, 1500).unwrap().into()));
            let mut items = [tone(20), packets.collect()].concat();
            items[40] = Item::Gap;
            let sound = decode(&items);
            assert_eq!(sound.len(), 70 * 320);
            for part in [&sound[10 * 320..20 * 320], &sound[30 * 320..39 * 320], &sound[50 * 320..]] {
                let power = part.iter().map(|s| s * s).sum::<f32>() / part.len() as f32;
                assert!((0.01..0.2).contains(&power), "{power}");
            }
        }
    }

    #[test]
    fn a_packet_says_how_long_it_plays() {
        let Item::Frame(packet) = &tone(1)[0] else { panic!("tone makes frames") };
        assert_eq!(duration_of(packet), Duration::from_millis(20));
        assert_eq!(duration_of(&[]), Duration::from_millis(20));
    }

    proptest! {
        #[test]
        fn arbitrary_packets_are_concealed(packets in proptest::collection::vec(
            proptest::option::of(proptest::collection::vec(any::<u8>(), 0..80)), 0..20)) {
            let items: Vec<Item> = packets.into_iter().map(|p| p.map_or(Item::Gap, |p| Item::Frame(p.into()))).collect();
            let sound = decode(&items);
            prop_assert!(sound.iter().all(|s| s.is_finite()));
            prop_assert!(sound.len() <= items.len() * MAX_SAMPLES);
        }
    }
}
