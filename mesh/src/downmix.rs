//! Two channels become one, though they may cancel out.
//!
//! A microphone that is wired in reverse on one side gives two channels of opposite phase, whose mean is silence. There the
//! louder of the two is heard instead.

/// Of the channels' power, on the average, their mean has all where they are alike, and half where they have nothing in common or
/// one is silent. Below the first share one channel is heard, from the second on both again.
const CANCELLED: f32 = 0.1;
const MIXED: f32 = 0.2;
/// What a packet before counts for against this one: the last tenth of a second or so decides.
const MEMORY: f32 = 0.8;
/// Mean power of samples, full scale being 1, of which nothing can be told.
const NOTHING: f32 = 1e-9;

/// What is to be heard of two channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Channel {
    /// Their mean.
    #[default]
    Both,
    /// The first.
    Left,
    /// The second.
    Right,
}

/// One stream's mix.
#[derive(Debug, Clone, Copy, Default)]
pub struct Downmix {
    left: f32,
    right: f32,
    both: f32,
    channel: Channel,
}

impl Downmix {
    /// What is to be heard of these samples, the two channels' in turn, full scale being 1.
    pub fn channel(&mut self, stereo: impl Iterator<Item = (f32, f32)>) -> Channel {
        let (mut left, mut right, mut both, mut count) = (0.0, 0.0, 0.0, 0.0);
        for (l, r) in stereo {
            left += l * l;
            right += r * r;
            both += (l + r) * (l + r) / 4.0;
            count += 1.0f32;
        }
        if left + right < NOTHING * count.max(1.0) {
            return self.channel;
        }
        self.left = self.left * MEMORY + left;
        self.right = self.right * MEMORY + right;
        self.both = self.both * MEMORY + both;
        let share = self.both * 2.0 / (self.left + self.right);
        let least = if self.channel == Channel::Both { CANCELLED } else { MIXED };
        if share >= least {
            self.channel = Channel::Both;
        } else if self.channel == Channel::Both {
            // Once, and not to and fro between two that are alike.
            self.channel = if self.left >= self.right { Channel::Left } else { Channel::Right };
        }
        self.channel
    }
}

impl Channel {
    /// Of one pair of samples.
    pub fn of(self, left: f32, right: f32) -> f32 {
        match self {
            Self::Both => (left + right) / 2.0,
            Self::Left => left,
            Self::Right => right,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tone, and what is made of it on the other side.
    fn chosen(packets: usize, other: impl Fn(usize, f32) -> (f32, f32)) -> Vec<Channel> {
        let mut mix = Downmix::default();
        let tone = |n: usize| other(n / 320, (n as f32 * 0.1).sin() * 0.2);
        (0..packets).map(|p| mix.channel((p * 320..(p + 1) * 320).map(tone))).collect()
    }

    #[test]
    fn channels_that_cancel_are_heard_one_by_one_and_others_together() {
        assert_eq!(chosen(3, |_, s| (s, -s)), [Channel::Left; 3]);
        assert_eq!(chosen(3, |_, s| (s * 0.8, -s)), [Channel::Right; 3]);
        assert_eq!(chosen(3, |_, s| (s, s)), [Channel::Both; 3]);
        assert_eq!(chosen(3, |_, s| (s, 0.0)), [Channel::Both; 3]);
        assert_eq!(chosen(3, |_, _| (0.0, 0.0)), [Channel::Both; 3]);
    }

    #[test]
    fn it_follows_a_change_and_does_not_waver() {
        let turned = chosen(40, |packet, s| if packet < 20 { (s, s) } else { (s, -s) });
        assert_eq!((turned[19], turned[39]), (Channel::Both, Channel::Left));
        let changes = |channels: &[Channel]| channels.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert_eq!(changes(&turned), 1);
        let alike = chosen(40, |packet, s| if packet % 2 == 0 { (s, -s * 0.99) } else { (s * 0.99, -s) });
        assert_eq!(changes(&alike), 0);
    }
}
