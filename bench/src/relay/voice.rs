//! A participant's voice as the relay will send it: encoded once, each packet with its audio level.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use earshot::Detector;
use opus::{Application, Bitrate, Channels, Encoder};
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Samples per second of every timeline.
pub const SAMPLE_RATE: u32 = 16_000;

/// Samples of one packet: 20 ms.
pub const PACKET_SAMPLES: usize = 320;

/// Ticks of the RTP clock per packet: 48 kHz whatever the encoder's rate (RFC 7587 section 4.1).
const PACKET_TICKS: u32 = 960;

/// Numbers begin near their ends, so that every meeting of some length crosses the wrap: sequence
/// numbers after 5 s, timestamps after 10 s.
const FIRST_SEQUENCE: u16 = u16::MAX - 250;
const FIRST_TIMESTAMP: u32 = u32::MAX - 480_000;

/// The longest Opus packet (RFC 6716 section 3.4).
const MAX_PACKET: usize = 1275;

/// Samples of one frame of the reference VAD: 16 ms.
const VAD_FRAME: usize = 256;

/// Scores from here on are speech, as the detector's authors say.
const VAD_THRESHOLD: f32 = 0.5;

/// Peak of the noise behind a voice's last word, in i16 steps: about -80 dBov.
const NOISE_PEAK: i16 = 4;

/// How a voice is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoding {
    /// Bits per second.
    pub bitrate: u32,
    /// Whether the encoder may stop sending in silence (RFC 7587 section 3.1.3).
    pub dtx: bool,
    /// Samples per second that the encoder is given: 16 000 or 48 000.
    pub rate: u32,
    /// The loss that it expects, in percent: with none libopus leaves its redundancy out.
    pub loss: u8,
}

impl Encoding {
    /// Of 16 kHz, so packets of SILK alone, with redundancy.
    pub const fn wideband(bitrate: u32, dtx: bool) -> Self {
        Self { bitrate, dtx, rate: SAMPLE_RATE, loss: 5 }
    }

    /// As Chromium 156 sends a microphone over a good network: hybrid packets of 20 ms, on average 29 kb/s.
    pub const BROWSER: Self = Self { bitrate: 32_000, dtx: false, rate: 48_000, loss: 0 };

    fn encoder(self) -> Result<Encoder, opus::Error> {
        let mut encoder = Encoder::new(self.rate, Channels::Mono, Application::Voip)?;
        encoder.set_bitrate(Bitrate::Bits(self.bitrate as i32))?;
        encoder.set_inband_fec(true)?;
        encoder.set_packet_loss_perc(self.loss.into())?;
        encoder.set_dtx(self.dtx)?;
        Ok(encoder)
    }

    /// The samples at the encoder's rate, straight lines between those given.
    fn resample(self, samples: Vec<i16>) -> Vec<i16> {
        let times = (self.rate / SAMPLE_RATE) as i32;
        let next = samples.iter().skip(1).chain(samples.last());
        let between = |(&from, &to): (&i16, &i16)| {
            (0..times).map(move |n| (i32::from(from) + (i32::from(to) - i32::from(from)) * n / times) as i16)
        };
        samples.iter().zip(next).flat_map(between).collect()
    }
}

/// One 20 ms of a voice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// RTP sequence number.
    pub sequence: u16,
    /// RTP timestamp, 48 kHz.
    pub timestamp: u32,
    /// First after a pause in sending.
    pub marker: bool,
    /// Level below overload, in dB: 0 loud, 127 silent (RFC 6464).
    pub level: u8,
    /// Whether the reference VAD hears speech in the clean signal, without any hangover.
    pub voice: bool,
    /// The Opus packet.
    pub payload: Bytes,
}

/// A participant's packets, one place for each 20 ms; empty places are what DTX does not send.
#[derive(Debug, Clone)]
pub struct Voice {
    /// The platform's id of the participant.
    pub id: Arc<str>,
    /// What the platform shows.
    pub name: Arc<str>,
    /// The packets, by 20 ms of the timeline.
    pub packets: Vec<Option<Packet>>,
}

impl Voice {
    /// Encodes a timeline of 16 kHz samples, continued with faint noise up to `packets`.
    ///
    /// # Errors
    /// libopus refuses the settings.
    pub fn encode(
        id: &str,
        name: &str,
        mut samples: Vec<i16>,
        packets: usize,
        encoding: Encoding,
    ) -> Result<Self, opus::Error> {
        add_noise(&mut samples, packets * PACKET_SAMPLES);
        let speech = speech(&samples);
        let mut encoder = encoding.encoder()?;
        let levels: Vec<u8> = samples.chunks_exact(PACKET_SAMPLES).map(level).collect();
        let samples = encoding.resample(samples);
        let mut voice = Self { id: id.into(), name: name.into(), packets: Vec::with_capacity(packets) };
        let mut sequence = FIRST_SEQUENCE;
        for (n, chunk) in samples.chunks_exact(encoding.rate as usize / 50).enumerate() {
            let payload = encoder.encode_vec(chunk, MAX_PACKET)?;
            // libopus: a packet of two bytes or less need not be sent.
            if encoding.dtx && payload.len() <= 2 {
                voice.packets.push(None);
                continue;
            }
            voice.packets.push(Some(Packet {
                sequence,
                timestamp: FIRST_TIMESTAMP.wrapping_add(PACKET_TICKS.wrapping_mul(n as u32)),
                marker: !matches!(voice.packets.last(), Some(Some(_))),
                level: levels[n],
                voice: heard(&speech, n),
                payload: payload.into(),
            }));
            sequence = sequence.wrapping_add(1);
        }
        Ok(voice)
    }
}

/// How many packets a timeline of so many samples fills.
pub fn packets(samples: usize) -> usize {
    samples.div_ceil(PACKET_SAMPLES)
}

fn add_noise(samples: &mut Vec<i16>, length: usize) {
    let mut rng = StdRng::seed_from_u64(samples.len() as u64);
    let missing = length.saturating_sub(samples.len());
    samples.extend((0..missing).map(|_| rng.random_range(-NOISE_PEAK..=NOISE_PEAK)));
}

/// What the reference VAD says of each of its frames.
fn speech(samples: &[i16]) -> Vec<bool> {
    let mut detector = Detector::default();
    samples.chunks_exact(VAD_FRAME).map(|frame| detector.predict_i16(frame) >= VAD_THRESHOLD).collect()
}

/// A packet holds speech if a VAD frame does whose middle lies in it; each has one or two.
fn heard(speech: &[bool], packet: usize) -> bool {
    let samples = packet * PACKET_SAMPLES..(packet + 1) * PACKET_SAMPLES;
    let middle_from = |sample: usize| sample.saturating_sub(VAD_FRAME / 2).div_ceil(VAD_FRAME);
    let frames: Range<usize> = middle_from(samples.start)..middle_from(samples.end);
    speech.get(frames.start..frames.end.min(speech.len())).is_some_and(|frames| frames.contains(&true))
}

/// RFC 6464 section 3: the level of the packet's root mean square, in -dBov.
fn level(samples: &[i16]) -> u8 {
    let energy: f64 = samples.iter().map(|&sample| f64::from(sample).powi(2)).sum();
    let rms = (energy / samples.len() as f64).sqrt() / 32768.0;
    (-20.0 * rms.log10()).round().clamp(0.0, 127.0) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Encoding = Encoding::wideband(24_000, false);

    fn tone(samples: usize, peak: f64) -> Vec<i16> {
        (0..samples).map(|n| ((n as f64 * 0.17).sin() * peak) as i16).collect()
    }

    fn encode(samples: Vec<i16>, packets: usize, encoding: Encoding) -> Voice {
        Voice::encode("ada", "Ada", samples, packets, encoding).expect("libopus takes it")
    }

    #[test]
    fn a_timeline_becomes_contiguous_packets_that_decode_to_its_length() {
        let voice = encode(tone(SAMPLE_RATE as usize, 8000.0), 60, PLAIN);
        let packets: Vec<&Packet> = voice.packets.iter().flatten().collect();
        assert_eq!(packets.len(), 60);
        let follows = |pair: &[&Packet]| {
            pair[1].sequence == pair[0].sequence.wrapping_add(1)
                && pair[1].timestamp == pair[0].timestamp.wrapping_add(960)
        };
        assert!(packets.windows(2).all(follows));
        assert!(packets[0].marker && packets[1..].iter().all(|packet| !packet.marker));
        let mut decoder = opus::Decoder::new(SAMPLE_RATE, Channels::Mono).expect("libopus");
        let mut pcm = [0; 5760];
        let lengths = packets.iter().map(|packet| decoder.decode(&packet.payload, &mut pcm, false).expect("valid"));
        assert_eq!(lengths.sum::<usize>(), 60 * PACKET_SAMPLES);
    }

    #[test]
    fn a_browser_s_packets_are_hybrid_and_as_long() {
        // A tone for longer is music to libopus.
        let voice = encode(tone(15 * PACKET_SAMPLES, 8000.0), 15, Encoding::BROWSER);
        let configurations: Vec<u8> = voice.packets.iter().flatten().map(|packet| packet.payload[0] >> 3).collect();
        // RFC 6716 table 2: hybrid, 20 ms.
        assert!(configurations.iter().all(|config| [13, 15].contains(config)), "{configurations:?}");
        assert_eq!(configurations.len(), 15);
    }

    #[test]
    fn levels_are_decibels_below_overload() {
        assert_eq!(level(&[0; 320]), 127);
        assert_eq!(level(&[i16::MIN; 320]), 0);
        assert_eq!(level(&tone(3200, 3276.8)), 23, "a sine 20 dB below full scale");
        let voice = encode(tone(3200, 8000.0), 20, PLAIN);
        let levels: Vec<u8> = voice.packets.iter().flatten().map(|packet| packet.level).collect();
        assert!(
            levels[..10].iter().all(|level| *level < 20) && levels[10..].iter().all(|level| *level > 75),
            "{levels:?}"
        );
    }

    #[test]
    fn silence_is_not_sent_with_dtx_and_leaves_gaps_in_time_only() {
        let mut samples = tone(6400, 8000.0);
        samples.extend([0; 32_000]);
        samples.extend(tone(6400, 8000.0));
        let voice = encode(samples, 140, Encoding::wideband(24_000, true));
        let sent: Vec<&Packet> = voice.packets.iter().flatten().collect();
        assert!(sent.len() < 100, "{} of 140 sent", sent.len());
        assert!(sent.windows(2).all(|pair| pair[1].sequence == pair[0].sequence.wrapping_add(1)));
        assert!(sent.windows(2).any(|pair| pair[1].timestamp.wrapping_sub(pair[0].timestamp) > 960 && pair[1].marker));
    }

    #[test]
    fn each_vad_frame_counts_for_the_packet_that_holds_its_middle() {
        let frames = 20;
        for frame in 0..frames {
            let mut speech = vec![false; frames];
            speech[frame] = true;
            let holder = (frame * VAD_FRAME + VAD_FRAME / 2) / PACKET_SAMPLES;
            let heard: Vec<usize> = (0..16).filter(|packet| heard(&speech, *packet)).collect();
            assert_eq!(heard, [holder], "frame {frame}");
        }
    }
}
