//! Is a packet worth decoding? Most packets of a quiet participant are not.
//!
//! The cheap signs: DTX; the audio level and its voice bit in the RTP header (RFC 6464); the encoder's own voice flag
//! at the front of SILK and hybrid packets (RFC 6716 section 4.2.3); the packet's size. The gate is tuned on missing
//! nothing: it says [`Verdict::Quiet`] only when two signs agree and nothing has spoken against it for a while, and
//! never by itself for a packet loud enough to be speech. What is left in doubt is for the VAD to judge; once that has
//! listened to a steady noise for some seconds and heard no voice, the same noise needs no further decoding. Nor does
//! speech that goes on ([`encoder_vad`]). The level counts once it was seen to be right (`claim`).

mod claim;
pub mod encoder_vad;

use std::time::Duration;

pub use self::claim::loudness;
use self::{claim::Claim, encoder_vad::EncoderVad};
use crate::{media::AudioLevel, toc::OpusPacket, vad::Activity};

/// Where quiet ends.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A packet without the encoder's voice flag is quiet at this level in -dBov or below (a larger number). Speech
    /// at a normal level is around 26, twenty decibels less around 46; 127 would never let a level decide.
    pub quiet_dbov: u8,
    /// The same where the coder has no voice flag (CELT): the level and the sender's voice bit decide.
    pub silent_dbov: u8,
    /// Where the sender gives no level: bytes per 20 ms up to which a packet without the voice flag is quiet. A
    /// variable-rate encoder spends less than this on room noise; at a constant rate all packets are larger.
    pub small: usize,
    /// How long the VAD must have heard no voice in a noise before its level counts as the room's.
    pub learn: Duration,
    /// By how many decibels a packet may exceed the room's level and still be the room: 20 ms of pink noise vary by
    /// about four.
    pub margin_db: f32,
    /// No room is as loud as this, in -dBov: louder packets are always doubtful.
    pub loudest_room_dbov: u8,
    /// How long a doubt lasts: everything is decoded for as long after it.
    pub hold: Duration,
    /// What of running speech is not listened to.
    pub encoder_vad: encoder_vad::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            quiet_dbov: 55,
            silent_dbov: 70,
            small: 24,
            learn: Duration::from_secs(2),
            margin_db: 5.0,
            loudest_room_dbov: 40,
            hold: Duration::from_millis(300),
            encoder_vad: encoder_vad::Settings::default(),
        }
    }
}

/// So long is listened to what is quiet by its level, now and then.
const CHECK: Duration = Duration::from_millis(180);

/// What the cheap signs say.
enum Sign {
    Quiet,
    /// Quiet, if the level is right.
    Unsure,
    Loud,
}

/// What the gate thinks of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// No speech in it.
    Quiet,
    /// Decode it and ask the VAD.
    Doubtful,
    /// Speech that goes on: send it.
    Speech,
}

/// The gate of one participant.
#[derive(Debug)]
pub struct Gate {
    settings: Settings,
    held: Duration,
    room: Room,
    encoder_vad: EncoderVad,
    claim: Claim,
    /// The encoder's voice flag in the packet judged last.
    flag: bool,
}

/// The noise around the participant: its level as an average in -dBov, and how long the VAD has heard only it.
#[derive(Debug, Default)]
struct Room {
    dbov: f32,
    heard: Duration,
}

impl Gate {
    /// A closed gate.
    pub fn new(settings: Settings) -> Self {
        let encoder_vad = EncoderVad::new(settings.encoder_vad.clone());
        let (room, claim) = (Room::default(), Claim::default());
        Self { settings, held: Duration::ZERO, room, encoder_vad, claim, flag: false }
    }

    /// Judges the next packet in order. `activity` is where the speaker was before it: a spurt is heard to its end.
    pub fn judge(&mut self, packet: &[u8], level: Option<AudioLevel>, activity: Activity) -> Verdict {
        let parsed = OpusPacket::parse(packet);
        let duration = parsed.as_ref().map_or(Duration::ZERO, OpusPacket::duration);
        self.flag = parsed.as_ref().and_then(OpusPacket::voice) == Some(true);
        if activity == Activity::Speech && self.encoder_vad.believes(self.flag, duration) {
            return Verdict::Speech;
        }
        match parsed.map_or(Sign::Quiet, |p| self.sign(&p, packet.len(), level)) {
            Sign::Quiet => {}
            Sign::Unsure => self.held = self.held.max(CHECK),
            Sign::Loud => {
                self.held = self.settings.hold;
                return Verdict::Doubtful;
            }
        }
        let open = activity != Activity::Silence || !self.held.is_zero();
        self.held = self.held.saturating_sub(duration);
        if open {
            return Verdict::Doubtful;
        }
        self.encoder_vad.silent(self.flag, level, duration);
        Verdict::Quiet
    }

    /// What the VAD made of the packet judged last, which had to be decoded, and how loud it was, in -dBov.
    pub fn learn(&mut self, duration: Duration, level: Option<AudioLevel>, dbov: u8, activity: Activity) {
        if let Some(level) = level {
            self.claim.heard(level, dbov, activity == Activity::Silence, duration);
        }
        self.encoder_vad.heard(self.flag, level, duration, activity);
        let Some(level) = level.filter(|_| activity == Activity::Silence) else {
            self.room = Room::default();
            return;
        };
        let weight = if self.room.heard.is_zero() { 1.0 } else { 0.05 };
        self.room.dbov += (f32::from(level.dbov) - self.room.dbov) * weight;
        self.room.heard += duration;
    }

    fn is_room(&self, dbov: u8) -> bool {
        self.room.heard >= self.settings.learn
            && dbov >= self.settings.loudest_room_dbov
            && f32::from(dbov) >= self.room.dbov - self.settings.margin_db
    }

    fn sign(&mut self, packet: &OpusPacket<'_>, bytes: usize, level: Option<AudioLevel>) -> Sign {
        if packet.is_dtx() {
            return Sign::Quiet;
        }
        let small = bytes as u128 * 20 <= self.settings.small as u128 * packet.duration().as_millis().max(1);
        if !self.looks_quiet(packet, small, self.claim.usable(level, small)) {
            return Sign::Loud;
        }
        let unsure = !small && self.claim.is_to_be_checked(packet.duration());
        if unsure { Sign::Unsure } else { Sign::Quiet }
    }

    fn looks_quiet(&self, packet: &OpusPacket<'_>, small: bool, level: Option<AudioLevel>) -> bool {
        match (packet.voice(), level) {
            (Some(true), _) | (_, Some(AudioLevel { voice: true, .. })) => false,
            (Some(false), Some(level)) => level.dbov >= self.settings.quiet_dbov || self.is_room(level.dbov),
            (None, Some(level)) => level.dbov >= self.settings.silent_dbov,
            (Some(false), None) => small,
            (None, None) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use opus::{Application, Bitrate, Channels, Encoder};
    use proptest::prelude::*;

    use super::*;
    use crate::signals;

    fn encode(pcm: &[i16], bitrate: i32, channels: Channels, ms: usize) -> Vec<Vec<u8>> {
        let mut encoder = Encoder::new(16_000, channels, Application::Voip).unwrap();
        encoder.set_bitrate(Bitrate::Bits(bitrate)).unwrap();
        let pcm: Vec<i16> = pcm.iter().flat_map(|s| vec![*s; channels as usize]).collect();
        pcm.chunks_exact(16 * ms * channels as usize).map(|c| encoder.encode_vec(c, 1275).unwrap()).collect()
    }

    fn share_of_voice(packets: &[Vec<u8>]) -> f64 {
        let voiced = packets.iter().filter(|p| OpusPacket::parse(p).unwrap().voice() == Some(true)).count();
        voiced as f64 / packets.len() as f64
    }

    fn level(dbov: u8) -> Option<AudioLevel> {
        Some(AudioLevel { dbov, voice: false })
    }

    #[test]
    fn the_encoders_flag_is_read_as_the_encoder_meant_it() {
        for (channels, bitrate) in [(Channels::Mono, 24_000), (Channels::Mono, 12_000), (Channels::Stereo, 32_000)] {
            for ms in [10, 20, 40, 60] {
                let voice = share_of_voice(&encode(&signals::talk(3000, 8000.0), bitrate, channels, ms));
                let silence = share_of_voice(&encode(&signals::silence(3000), bitrate, channels, ms)[1..]);
                assert!(voice > 0.8, "{voice} of speech at {bitrate} in {ms} ms {channels:?}");
                assert!(silence < 0.05, "{silence} of silence at {bitrate} in {ms} ms {channels:?}");
            }
        }
    }

    #[test]
    fn silence_closes_the_gate_and_speech_opens_it_at_once() {
        let mut gate = Gate::new(Settings::default());
        for packet in encode(&signals::silence(500), 24_000, Channels::Mono, 20).split_off(5) {
            assert_eq!(gate.judge(&packet, level(127), Activity::Silence), Verdict::Quiet);
        }
        let packets = encode(&signals::talk(500, 8000.0), 24_000, Channels::Mono, 20);
        let first = packets.iter().position(|p| gate.judge(p, None, Activity::Silence) == Verdict::Doubtful);
        assert!(first.unwrap() < 4, "{first:?}");
    }

    #[test]
    fn what_is_loud_enough_to_be_speech_is_never_quiet() {
        let unvoiced = [1 << 3, 0, 0, 0];
        assert_eq!(Gate::new(Settings::default()).judge(&unvoiced, level(40), Activity::Silence), Verdict::Doubtful);
        assert_eq!(Gate::new(Settings::default()).judge(&unvoiced, level(80), Activity::Silence), Verdict::Quiet);
        let celt = [31 << 3, 0, 0, 0];
        assert_eq!(Gate::new(Settings::default()).judge(&celt, level(60), Activity::Silence), Verdict::Doubtful);
        assert_eq!(Gate::new(Settings::default()).judge(&celt, None, Activity::Silence), Verdict::Doubtful);
    }

    #[test]
    fn a_steady_noise_that_the_vad_knows_is_quiet_until_something_rises_above_it() {
        let mut gate = Gate::new(Settings::default());
        let unvoiced = [1 << 3, 0, 0, 0];
        for _ in 0..100 {
            assert_eq!(gate.judge(&unvoiced, level(48), Activity::Silence), Verdict::Doubtful);
            gate.learn(Duration::from_millis(20), level(48), 48, Activity::Silence);
        }
        let quiet = |gate: &mut Gate, dbov| {
            (0..16).map(|_| gate.judge(&unvoiced, level(dbov), Activity::Silence)).last().unwrap()
        };
        assert_eq!(quiet(&mut gate, 46), Verdict::Quiet);
        assert_eq!(quiet(&mut gate, 42), Verdict::Doubtful);
        assert_eq!(quiet(&mut gate, 48), Verdict::Quiet);
        gate.learn(Duration::from_millis(20), level(48), 48, Activity::Speech);
        assert_eq!(quiet(&mut gate, 48), Verdict::Doubtful, "somebody spoke: listen again");
    }

    #[test]
    fn a_doubt_lasts_and_a_spurt_keeps_the_gate_open() {
        let mut gate = Gate::new(Settings::default());
        let (voiced, unvoiced) = ([1 << 3, 0x80, 0], [1 << 3, 0, 0]);
        gate.judge(&voiced, level(60), Activity::Silence);
        for _ in 0..15 {
            assert_eq!(gate.judge(&unvoiced, level(80), Activity::Silence), Verdict::Doubtful);
        }
        assert_eq!(gate.judge(&unvoiced, level(80), Activity::Silence), Verdict::Quiet);
        assert_eq!(gate.judge(&unvoiced, level(80), Activity::Pause(Duration::ZERO)), Verdict::Doubtful);
    }

    #[test]
    fn a_level_that_was_never_right_decides_nothing_and_one_that_was_is_checked_now_and_then() {
        let (celt, ms20) = ([31 << 3; 100], Duration::from_millis(20));
        let mut gate = Gate::new(Settings::default());
        for _ in 0..1000 {
            assert_eq!(gate.judge(&celt, level(127), Activity::Silence), Verdict::Doubtful);
            gate.learn(ms20, level(127), 127, Activity::Silence);
        }
        for _ in 0..50 {
            gate.judge(&celt, level(60), Activity::Silence);
            gate.learn(ms20, level(60), 62, Activity::Silence);
        }
        let quiet = (0..3000).filter(|_| match gate.judge(&celt, level(127), Activity::Silence) {
            Verdict::Quiet => true,
            _ => {
                gate.learn(ms20, level(127), 127, Activity::Silence);
                false
            }
        });
        let quiet = quiet.count();
        assert!((2920..2985).contains(&quiet), "{quiet}");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_judged(packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..20), dbov in 0u8..128, voice: bool, known: bool) {
            let mut gate = Gate::new(Settings::default());
            for packet in packets {
                gate.judge(&packet, known.then_some(AudioLevel { dbov, voice }), Activity::Silence);
            }
        }
    }
}
