//! Running speech need not be listened to all the time: the sender's encoder hears it, too.
//!
//! ```text
//!             confirmed by the VAD, the flag can be relied upon
//! Listening ─────────────────────────────────────────────────────▶ Believing: everything is speech, nothing is decoded
//!     ▲                                                                │
//!     └──── no flag for longer than a word's own pauses; or long ──────┘
//!           enough: the VAD is asked again
//! ```
//!
//! In music, babble and at a keyboard the flag says voice where there is none. So it is relied upon only of a sender in
//! whose silence it was seen to stay down, and whose voice is far above that silence. It can cost no speech: what passes
//! unheard is sent, and every end is found by listening.

use std::time::Duration;

use crate::{media::AudioLevel, vad::Activity};

/// How far the encoder's flag is relied upon.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The largest share of a sender's silence, 0 to 1, that may have been flagged as a voice.
    pub wrong: f32,
    /// Silence, and voice, from which they are known.
    pub known_after: Duration,
    /// How far the voice must be above that silence, in decibels.
    pub contrast_db: f32,
    /// Speech that the VAD must have heard in a row.
    pub confirmed: Duration,
    /// How long speech is believed before the VAD is asked again; zero: never believed.
    pub longest: Duration,
    /// How long the flag may be down meanwhile.
    pub dip: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            wrong: 0.05,
            known_after: ms(500),
            contrast_db: 20.0,
            confirmed: ms(160),
            longest: ms(4000),
            dip: ms(100),
        }
    }
}

/// What becomes of a pause at once is the VAD's own doubt about it; later it counts as silence.
const SETTLED: Duration = Duration::from_millis(100);
/// Averages are over about so much silence or voice.
const MEMORY: Duration = Duration::from_secs(2);

/// The flag of one participant, and how far speech is believed because of it.
#[derive(Debug)]
pub(super) struct EncoderVad {
    settings: Settings,
    /// The share of silence that is flagged, 0 to 1.
    wrong: Average,
    /// Levels in -dBov.
    silence: Average,
    voice: Average,
    /// Speech heard in a row.
    heard: Duration,
    /// Speech believed since.
    believed: Duration,
    /// For how long the flag has been down.
    down: Duration,
}

impl EncoderVad {
    pub(super) fn new(settings: Settings) -> Self {
        let (none, new) = (Duration::ZERO, Average::default());
        Self { settings, wrong: new, silence: new, voice: new, heard: none, believed: none, down: none }
    }

    /// Whether a packet of running speech is speech without being heard.
    pub(super) fn believes(&mut self, flag: bool, duration: Duration) -> bool {
        self.down = if flag { Duration::ZERO } else { self.down + duration };
        self.believed += duration;
        let reliable = [self.silence, self.voice].iter().all(|level| level.over >= self.settings.known_after)
            && self.wrong.value <= self.settings.wrong
            && self.silence.value - self.voice.value >= self.settings.contrast_db;
        reliable
            && self.heard >= self.settings.confirmed
            && self.believed <= self.settings.longest
            && self.down <= self.settings.dip
    }

    /// What the VAD made of a packet that it heard.
    pub(super) fn heard(&mut self, flag: bool, level: Option<AudioLevel>, duration: Duration, activity: Activity) {
        (self.believed, self.down) = (Duration::ZERO, Duration::ZERO);
        match activity {
            Activity::Speech => {
                self.heard += duration;
                if let Some(level) = level.filter(|_| flag) {
                    self.voice.take(f32::from(level.dbov), duration);
                }
            }
            Activity::Pause(quiet) if quiet < SETTLED => self.heard = Duration::ZERO,
            Activity::Pause(_) | Activity::Silence => self.silent(flag, level, duration),
        }
    }

    /// A packet in which nobody speaks.
    pub(super) fn silent(&mut self, flag: bool, level: Option<AudioLevel>, duration: Duration) {
        self.heard = Duration::ZERO;
        self.wrong.take(f32::from(u8::from(flag)), duration);
        if let Some(level) = level {
            self.silence.take(f32::from(level.dbov), duration);
        }
    }
}

/// A moving average over [`MEMORY`], or over what there was so far.
#[derive(Debug, Clone, Copy, Default)]
struct Average {
    value: f32,
    over: Duration,
}

impl Average {
    fn take(&mut self, value: f32, duration: Duration) {
        self.over = (self.over + duration).min(MEMORY);
        let weight = duration.as_secs_f32() / self.over.as_secs_f32().max(f32::MIN_POSITIVE);
        self.value += (value - self.value) * weight.min(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: Duration = Duration::from_millis(20);

    fn level(dbov: u8) -> Option<AudioLevel> {
        Some(AudioLevel { dbov, voice: false })
    }

    /// Two seconds of a room, in which every `flagged`th packet has the flag, and `spoken` packets of a voice.
    fn after(room: u8, flagged: usize, voice: u8, spoken: usize) -> EncoderVad {
        let mut encoder_vad = EncoderVad::new(Settings::default());
        for n in 1..=100 {
            encoder_vad.silent(n % flagged == 0, level(room), PACKET);
        }
        for _ in 0..spoken {
            assert!(!encoder_vad.believes(true, PACKET), "not confirmed yet");
            encoder_vad.heard(true, level(voice), PACKET, Activity::Speech);
        }
        encoder_vad
    }

    #[test]
    fn confirmed_speech_in_a_quiet_room_is_believed_for_a_while() {
        let mut encoder_vad = after(70, 1000, 26, 25);
        let believed =
            |encoder_vad: &mut EncoderVad| (0..1000).take_while(|_| encoder_vad.believes(true, PACKET)).count();
        assert_eq!(believed(&mut encoder_vad), 200, "four seconds");
        encoder_vad.heard(true, level(26), PACKET, Activity::Speech);
        assert!(encoder_vad.believes(true, PACKET), "the VAD still hears it");
        encoder_vad.heard(true, level(26), PACKET, Activity::Pause(Duration::ZERO));
        assert!(!encoder_vad.believes(true, PACKET), "it does not any more");
    }

    #[test]
    fn a_word_may_pause_but_not_for_long() {
        let mut encoder_vad = after(70, 1000, 26, 25);
        let pause = |encoder_vad: &mut EncoderVad| (0..10).take_while(|_| encoder_vad.believes(false, PACKET)).count();
        assert_eq!(pause(&mut encoder_vad), 5);
        let mut encoder_vad = after(70, 1000, 26, 25);
        for n in 0..90 {
            assert!(encoder_vad.believes(n % 3 == 0, PACKET), "packet {n}");
        }
    }

    #[test]
    fn a_flag_that_was_wrong_in_silence_or_a_voice_hardly_above_it_is_listened_to() {
        let mut wrong = after(70, 10, 26, 25);
        assert!(!wrong.believes(true, PACKET));
        let mut near = after(44, 1000, 26, 25);
        assert!(!near.believes(true, PACKET));
        let mut unknown = after(70, 1000, 26, 24);
        assert!(!unknown.believes(true, PACKET));
    }

    #[test]
    fn without_levels_everything_is_listened_to() {
        let mut encoder_vad = EncoderVad::new(Settings::default());
        (0..100).for_each(|_| encoder_vad.silent(false, None, PACKET));
        (0..100).for_each(|_| encoder_vad.heard(true, None, PACKET, Activity::Speech));
        assert!(!encoder_vad.believes(true, PACKET));
    }
}
