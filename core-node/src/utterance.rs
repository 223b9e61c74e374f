//! Talk spurts become utterances: what is worth transcribing as one piece.
//!
//! An edge cuts a long spurt and says that the next one *continues* it; [`Joiner`] puts the pieces
//! together again, up to [`MAX_UTTERANCE`], and says when an utterance is ready. [`decode`] turns its
//! items into 16 kHz samples.

pub mod decode;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use mesh::{
    clock::Micros,
    wire::{Epoch, SpurtNo},
};

pub use self::decode::{Decoded, duration_of};
use crate::key::{ParticipantId, SpurtKey};

/// The longest utterance: what Whisper's 30 s window holds with room to spare.
pub const MAX_UTTERANCE: Duration = Duration::from_secs(28);

/// How long a spurt that is to be continued waits for the first sign of the next one.
pub const CONTINUATION_WAIT: Duration = Duration::from_secs(3);

/// Spurts of one speaker that make one utterance, in order; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Utterance {
    /// The spurts.
    pub spurts: Vec<SpurtKey>,
}

impl Utterance {
    /// The spurt that names it: its first.
    pub fn key(&self) -> &SpurtKey {
        self.spurts.first().expect("an utterance is made around its first spurt")
    }
}

/// What intake tells about a spurt whose words are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// It is under way.
    Progress {
        /// Which.
        key: SpurtKey,
        /// How much of it is on disk.
        media: Duration,
        /// Since when.
        durable: Option<Micros>,
    },
    /// It is whole and on disk.
    Whole {
        /// Which.
        key: SpurtKey,
        /// The next spurt continues it.
        continues: bool,
        /// Its length.
        media: Duration,
    },
}

/// Joins the spurts of one meeting, speaker by speaker.
#[derive(Debug, Default)]
pub struct Joiner {
    speakers: BTreeMap<(Epoch, ParticipantId), Speaker>,
    ready: VecDeque<Utterance>,
}

#[derive(Debug, Default)]
struct Speaker {
    open: BTreeMap<SpurtNo, Duration>,
    whole: BTreeMap<SpurtNo, Whole>,
}

#[derive(Debug, Clone, Copy)]
struct Whole {
    continues: bool,
    media: Duration,
    since: Instant,
}

/// How a run of spurts stands.
enum Run {
    /// It is complete.
    Ready,
    /// The next piece is on its way.
    Growing,
    /// Nothing of the next piece has come; give up at this time.
    Waiting(Instant),
}

impl Joiner {
    /// A spurt is under way, with `media` of it here.
    pub fn handle_progress(&mut self, key: &SpurtKey, media: Duration, now: Instant) {
        let speaker = self.speakers.entry((key.epoch, key.participant.clone())).or_default();
        if !speaker.whole.contains_key(&key.spurt) {
            speaker.open.insert(key.spurt, media);
            self.settle(key, now);
        }
    }

    /// A spurt is whole.
    pub fn handle_whole(&mut self, key: &SpurtKey, continues: bool, media: Duration, now: Instant) {
        let speaker = self.speakers.entry((key.epoch, key.participant.clone())).or_default();
        speaker.open.remove(&key.spurt);
        speaker.whole.insert(key.spurt, Whole { continues, media, since: now });
        self.settle(key, now);
    }

    /// Gives up on continuations that never came.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due: Vec<SpurtKey> = self.waits().filter(|(_, at)| *at <= now).map(|(key, _)| key).collect();
        for key in due {
            self.settle(&key, now);
        }
    }

    /// When [`Joiner::handle_timeout`] is next needed.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.waits().map(|(_, at)| at).min()
    }

    /// The next utterance that is ready.
    pub fn poll_ready(&mut self) -> Option<Utterance> {
        self.ready.pop_front()
    }

    /// Utterances that are still growing, as far as they are here: for partials.
    pub fn growing(&self) -> Vec<Utterance> {
        let runs = self.speakers.iter().filter_map(|((epoch, participant), speaker)| {
            let spurts = speaker.growing();
            let key = |spurt: &SpurtNo| SpurtKey { epoch: *epoch, participant: participant.clone(), spurt: *spurt };
            (!spurts.is_empty()).then(|| Utterance { spurts: spurts.iter().map(key).collect() })
        });
        runs.collect()
    }

    fn settle(&mut self, key: &SpurtKey, now: Instant) {
        let id = (key.epoch, key.participant.clone());
        let Some(speaker) = self.speakers.get_mut(&id) else { return };
        while let Some(run) = speaker.next_ready(now) {
            let spurts = run.into_iter().map(|spurt| key.with_spurt(spurt)).collect();
            self.ready.push_back(Utterance { spurts });
        }
        if speaker.open.is_empty() && speaker.whole.is_empty() {
            self.speakers.remove(&id);
        }
    }

    fn waits(&self) -> impl Iterator<Item = (SpurtKey, Instant)> {
        self.speakers.iter().flat_map(|((epoch, participant), speaker)| {
            speaker.starts().into_iter().filter_map(move |start| match speaker.run(start).1 {
                Run::Waiting(at) => {
                    Some((SpurtKey { epoch: *epoch, participant: participant.clone(), spurt: start }, at))
                }
                Run::Ready | Run::Growing => None,
            })
        })
    }
}

impl Speaker {
    /// Whole spurts that no spurt still open could turn out to lead into.
    fn starts(&self) -> Vec<SpurtNo> {
        let mut starts = vec![];
        let mut taken = BTreeSet::new();
        for &spurt in self.whole.keys() {
            let led_into = spurt.0.checked_sub(1).is_some_and(|n| self.open.contains_key(&SpurtNo(n)));
            if !led_into && !taken.contains(&spurt) {
                starts.push(spurt);
                taken.extend(self.run(spurt).0);
            }
        }
        starts
    }

    fn next_ready(&mut self, now: Instant) -> Option<Vec<SpurtNo>> {
        let ready = self.starts().into_iter().find_map(|start| match self.run(start) {
            (run, Run::Ready) => Some(run),
            (run, Run::Waiting(at)) if at <= now => Some(run),
            _ => None,
        })?;
        for spurt in &ready {
            self.whole.remove(spurt);
        }
        Some(ready)
    }

    /// The whole spurts from `start` on that belong together.
    fn run(&self, start: SpurtNo) -> (Vec<SpurtNo>, Run) {
        let mut run = vec![];
        let mut media = Duration::ZERO;
        let mut at = start;
        while let Some(spurt) = self.whole.get(&at) {
            if !run.is_empty() && media + spurt.media > MAX_UTTERANCE {
                return (run, Run::Ready);
            }
            run.push(at);
            media += spurt.media;
            let Some(next) = at.0.checked_add(1).filter(|_| spurt.continues) else { return (run, Run::Ready) };
            at = SpurtNo(next);
            match self.open.get(&at) {
                Some(more) if media + *more > MAX_UTTERANCE => return (run, Run::Ready),
                Some(_) => return (run, Run::Growing),
                None if !self.whole.contains_key(&at) => return (run, Run::Waiting(spurt.since + CONTINUATION_WAIT)),
                None => {}
            }
        }
        (run, Run::Ready)
    }

    /// The newest run with a piece still open, or the newest open spurt.
    fn growing(&self) -> Vec<SpurtNo> {
        let Some((&last, _)) = self.open.last_key_value() else { return vec![] };
        let leads_here = self
            .starts()
            .into_iter()
            .map(|s| self.run(s))
            .find(|(run, state)| matches!(state, Run::Growing) && run.last().is_some_and(|l| l.0 + 1 == last.0));
        let mut spurts = leads_here.map(|(run, _)| run).unwrap_or_default();
        spurts.push(last);
        spurts
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]

    use super::*;

    fn key(n: u32) -> SpurtKey {
        SpurtKey { epoch: Epoch(1), participant: "a".into(), spurt: SpurtNo(n) }
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn ready(joiner: &mut Joiner) -> Vec<Vec<u32>> {
        std::iter::from_fn(|| joiner.poll_ready()).map(|u| u.spurts.iter().map(|k| k.spurt.0).collect()).collect()
    }

    #[test]
    fn a_spurt_that_is_not_continued_is_ready_at_once() {
        let mut joiner = Joiner::default();
        joiner.handle_progress(&key(0), secs(1), Instant::now());
        assert_eq!(joiner.growing()[0].spurts, [key(0)]);
        joiner.handle_whole(&key(0), false, secs(2), Instant::now());
        assert_eq!(ready(&mut joiner), [[0]]);
        assert!(joiner.growing().is_empty() && joiner.speakers.is_empty());
    }

    #[test]
    fn continued_spurts_join_in_whatever_order_they_end() {
        let now = Instant::now();
        let mut joiner = Joiner::default();
        joiner.handle_progress(&key(0), secs(1), now);
        joiner.handle_whole(&key(1), false, secs(5), now);
        assert_eq!(ready(&mut joiner), Vec::<Vec<u32>>::new(), "spurt 0 may lead into it");
        joiner.handle_whole(&key(0), true, secs(10), now);
        assert_eq!(ready(&mut joiner), [[0, 1]]);
    }

    #[test]
    fn joining_stops_before_the_engine_s_window_is_full() {
        let now = Instant::now();
        let mut joiner = Joiner::default();
        joiner.handle_whole(&key(0), true, secs(20), now);
        joiner.handle_progress(&key(1), secs(7), now);
        assert!(ready(&mut joiner).is_empty());
        assert_eq!(joiner.growing()[0].spurts, [key(0), key(1)]);
        joiner.handle_progress(&key(1), secs(9), now);
        assert_eq!(ready(&mut joiner), [[0]]);
        joiner.handle_whole(&key(1), false, secs(12), now);
        assert_eq!(ready(&mut joiner), [[1]]);
    }

    #[test]
    fn a_continuation_that_never_comes_is_given_up_at_its_deadline() {
        let now = Instant::now();
        let mut joiner = Joiner::default();
        joiner.handle_whole(&key(4), true, secs(20), now);
        assert_eq!(joiner.poll_timeout(), Some(now + CONTINUATION_WAIT));
        joiner.handle_timeout(now + secs(1));
        assert!(ready(&mut joiner).is_empty());
        joiner.handle_timeout(now + CONTINUATION_WAIT);
        assert_eq!(ready(&mut joiner), [[4]]);
        assert_eq!(joiner.poll_timeout(), None);
    }
}
