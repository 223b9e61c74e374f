//! Which of the speech that was said no core holds.

use std::{collections::BTreeMap, time::Duration};

use mesh::clock::Micros;
use serde::Deserialize;

use crate::{relay::Sent, speech::Script};

/// Length of every packet of the relay.
const PACKET: Duration = Duration::from_millis(20);
/// Relay and edge share a clock, but a packet may wait in a queue.
const TOLERANCE: Duration = Duration::from_millis(40);

/// A talk spurt, as a core lists it.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
pub(super) struct Spurt {
    /// The platform's id of who spoke.
    pub(super) participant: String,
    /// Under which ownership.
    pub(super) epoch: u64,
    /// Capture time of its first packet.
    pub(super) captured: Micros,
    /// Packets, and places without one, that the core has or had.
    pub(super) durable: u32,
    /// Packets among them.
    pub(super) frames: u64,
    /// Whether its words are out.
    pub(super) done: bool,
}

impl Spurt {
    /// Capture time of its end.
    pub(super) fn end(&self) -> Micros {
        self.captured.plus(PACKET * self.durable)
    }

    fn holds(&self, participant: &str, at: Micros) -> bool {
        self.participant == participant && self.captured <= at.plus(TOLERANCE) && at <= self.end().plus(TOLERANCE)
    }
}

/// Packets with speech of a script line, by the relay's own VAD, and when each was due.
pub(super) fn speech<'a>(
    script: &'a Script,
    said: &'a BTreeMap<String, Vec<Sent>>,
    id: impl Fn(usize) -> String + 'a,
) -> impl Iterator<Item = (&'a str, Micros)> {
    let in_a_line = move |who: &str, index: u32| {
        let at = PACKET * index;
        script.lines.iter().any(|line| id(line.participant) == who && line.start <= at && at < line.end())
    };
    said.iter().flat_map(move |(who, packets)| {
        let voiced: Vec<_> = packets.iter().filter(|p| p.voice && in_a_line(who, p.index)).collect();
        voiced.into_iter().map(move |packet| (who.as_str(), packet.at))
    })
}

/// From when to when the core holds speech of a participant that its edge encoded anew, in packets of other lengths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recoded {
    pub(super) participant: String,
    pub(super) from: Micros,
    pub(super) to: Micros,
}

impl Recoded {
    fn holds(&self, participant: &str, at: Micros) -> bool {
        self.participant == participant && self.from <= at.plus(TOLERANCE) && at <= self.to.plus(TOLERANCE)
    }
}

/// When each of those packets was due that no spurt holds, in order.
pub(super) fn lost<'a>(
    speech: impl Iterator<Item = (&'a str, Micros)>,
    spurts: &[Spurt],
    recoded: &[Recoded],
) -> Vec<Micros> {
    let held = |who: &str, at| {
        spurts.iter().any(|spurt| spurt.holds(who, at)) || recoded.iter().any(|recoded| recoded.holds(who, at))
    };
    let mut lost: Vec<Micros> = speech.filter(|(who, at)| !held(who, *at)).map(|(_, at)| at).collect();
    lost.sort();
    lost
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spurt(participant: &str, from_ms: u64, packets: u32) -> Spurt {
        let captured = Micros(from_ms * 1000);
        Spurt {
            participant: participant.into(),
            epoch: 1,
            captured,
            durable: packets,
            frames: u64::from(packets),
            done: true,
        }
    }

    #[test]
    fn speech_outside_of_every_spurt_of_its_speaker_is_lost() {
        let spurts = [spurt("a", 1000, 50), spurt("b", 3000, 10)];
        let at = |ms: u64| Micros(ms * 1000);
        let speech = [("a", at(1000)), ("a", at(2000)), ("a", at(2100)), ("b", at(1500)), ("b", at(3100))];
        assert_eq!(lost(speech.into_iter(), &spurts, &[]), [at(1500), at(2100)]);
        let recoded = Recoded { participant: "a".into(), from: at(2050), to: at(2300) };
        assert_eq!(lost(speech.into_iter(), &spurts, &[recoded]), [at(1500)]);
    }

    #[test]
    fn only_voice_within_lines_counts_as_speech() {
        let line = crate::speech::Line {
            participant: 0,
            start: Duration::from_secs(1),
            prompt: "p".into(),
            text: "a b c d".into(),
            samples: vec![1; 16_000].into(),
        };
        let script = Script::of(vec![line], Duration::from_secs(3));
        let packet = |index, voice| Sent { index, at: Micros(u64::from(index)), voice };
        let said = BTreeMap::from([("p0".to_owned(), vec![packet(10, true), packet(60, true), packet(70, false)])]);
        let found: Vec<_> = speech(&script, &said, |n| format!("p{n}")).collect();
        assert_eq!(found, [("p0", Micros(60))]);
    }
}
