//! Whether the level that a sender gives is one (RFC 6464).
//!
//! ```text
//!          what was heard is as loud as was said            louder than was said
//! Unproven ─────────────────────────────────────▶ Proven ─────────────────────────▶ Unproven, and to be proven for longer
//! ```
//!
//! Some senders always say silence, or always the same. So a level decides only once it was seen to fit what was heard, and is
//! looked at again now and then; until then the packets' size has to agree with it. A voice bit that is up where nobody speaks
//! says nothing.

use std::time::Duration;

use crate::media::AudioLevel;

/// Decibels by which what is heard may differ from what was said: delay and the band above 8 kHz make some.
const NEAR_DB: u8 = 12;
/// Said to be quieter than it is by so many decibels, it is wrong.
const WRONG_DB: u8 = 20;
/// Quieter than this in -dBov nothing is heard that could prove anything.
const NOTHING: u8 = 95;
/// Sound that fits before the level is proven; doubled with each time that it was wrong.
const PROOF: Duration = Duration::from_millis(160);
/// Sound that does not, before it is not believed any more: more than an end of speech is out of step.
const DISPROOF: Duration = Duration::from_millis(160);
/// How often that is doubled at most.
const MAX_LIES: u32 = 10;
/// Of packets that are quiet by their level alone, so much passes before some are listened to.
const UNCHECKED: Duration = Duration::from_secs(20);
/// Silence in which the voice bit was up, after which it says nothing.
const FALSE_VOICE: Duration = Duration::from_secs(2);

/// What is known of one sender's levels.
#[derive(Debug, Default)]
pub(super) struct Claim {
    proven: bool,
    fits: Duration,
    wrong: Duration,
    lies: u32,
    unchecked: Duration,
    false_voice: Duration,
}

impl Claim {
    /// What of `level` may be relied upon; `small`: the packet is as small as those of silence are.
    pub(super) fn usable(&self, level: Option<AudioLevel>, small: bool) -> Option<AudioLevel> {
        let AudioLevel { dbov, voice } = level.filter(|_| self.proven || small)?;
        Some(AudioLevel { dbov, voice: voice && self.false_voice < FALSE_VOICE })
    }

    /// Notes that a packet would pass as quiet for its level, small as it is not. Whether it is to be heard all the same.
    pub(super) fn is_to_be_checked(&mut self, duration: Duration) -> bool {
        self.unchecked += duration;
        self.unchecked >= UNCHECKED
    }

    /// What was said of a packet, and how loud it was when it was heard, in -dBov; `silent`: nobody speaks.
    pub(super) fn heard(&mut self, level: AudioLevel, dbov: u8, silent: bool, duration: Duration) {
        self.unchecked = Duration::ZERO;
        if silent {
            self.false_voice = if level.voice { self.false_voice + duration } else { Duration::ZERO };
        }
        if level.dbov >= dbov.saturating_add(WRONG_DB) {
            self.wrong += duration;
            self.fits = Duration::ZERO;
        } else if dbov < NOTHING && level.dbov.abs_diff(dbov) <= NEAR_DB {
            self.wrong = self.wrong.saturating_sub(duration);
            self.fits += duration;
        }
        if self.wrong >= DISPROOF && self.proven {
            tracing::debug!("a sender's audio level is not what is heard");
            (self.proven, self.lies) = (false, (self.lies + 1).min(MAX_LIES));
        }
        self.proven |= self.wrong.is_zero() && self.fits >= PROOF * (1 << self.lies);
    }
}

/// How loud this is in -dBov: 0 loud, 127 silent.
pub fn loudness(pcm: &[i16]) -> u8 {
    let power: u64 = pcm.iter().map(|sample| u64::from(sample.unsigned_abs()).pow(2)).sum();
    if power == 0 {
        return 127;
    }
    let mean = power as f32 / pcm.len() as f32 / (32_768.0 * 32_768.0);
    (-10.0 * mean.log10()).clamp(0.0, 127.0).round() as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals;

    const PACKET: Duration = Duration::from_millis(20);

    fn said(dbov: u8) -> AudioLevel {
        AudioLevel { dbov, voice: false }
    }

    fn believes(claim: &Claim) -> bool {
        claim.usable(Some(said(127)), false).is_some()
    }

    #[test]
    fn loudness_is_as_the_extension_has_it() {
        for pcm in [signals::talk(500, 8000.0), signals::noise(500, 30.0, 1), signals::silence(20)] {
            assert!(loudness(&pcm).abs_diff(signals::dbov(&pcm)) <= 1);
        }
        assert_eq!(loudness(&[i16::MIN; 320]), 0);
    }

    #[test]
    fn a_level_is_believed_once_it_was_right_of_something() {
        let mut claim = Claim::default();
        (0..500).for_each(|_| claim.heard(said(127), 127, true, PACKET));
        assert!(!believes(&claim), "silence proves nothing");
        assert!(claim.usable(Some(said(127)), true).is_some(), "unless the packet's size says so, too");
        (0..10).for_each(|_| claim.heard(said(60), 66, true, PACKET));
        assert!(believes(&claim));
    }

    #[test]
    fn one_that_was_wrong_must_be_right_for_longer() {
        let mut claim = Claim::default();
        (0..10).for_each(|_| claim.heard(said(60), 60, true, PACKET));
        // Speech ends a packet before it is heard to.
        (0..50).for_each(|n| claim.heard(said(if n % 5 == 0 { 127 } else { 30 }), 30, false, PACKET));
        assert!(believes(&claim));
        (0..8).for_each(|_| claim.heard(said(127), 30, false, PACKET));
        assert!(!believes(&claim));
        (0..15).for_each(|_| claim.heard(said(30), 30, false, PACKET));
        assert!(!believes(&claim));
        (0..15).for_each(|_| claim.heard(said(30), 30, false, PACKET));
        assert!(believes(&claim));
    }

    #[test]
    fn a_voice_bit_that_is_up_in_silence_says_nothing_until_it_goes_down() {
        let mut claim = Claim::default();
        let voice = AudioLevel { dbov: 60, voice: true };
        let up = |claim: &Claim| claim.usable(Some(voice), true).is_some_and(|level| level.voice);
        (0..99).for_each(|_| claim.heard(voice, 60, true, PACKET));
        assert!(up(&claim));
        claim.heard(voice, 60, true, PACKET);
        assert!(!up(&claim));
        claim.heard(said(60), 60, true, PACKET);
        assert!(up(&claim));
    }
}
