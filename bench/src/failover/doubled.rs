//! Words that came out twice.

use std::{collections::BTreeMap, time::Duration};

use crate::{demo::watch::Segment, oracle::normalise, speech::Script};

/// What two segments of one speaker may share: two edges' clocks and packet times.
const SAME_MOMENT: Duration = Duration::from_millis(100);
/// A row of so many words that comes more often than it was said was said again.
const RUN: usize = 4;

/// Words of `finals` that are there twice, by any of three signs: two segments of a speaker cover one
/// moment, one segment came twice, or a row of words comes more often than the script has it.
pub(super) fn words(script: &Script, finals: &[Segment], id: impl Fn(usize) -> String) -> usize {
    let by_speaker = |who: &str| -> Vec<&Segment> {
        let of = |segment: &&Segment| segment.participant.as_ref().is_some_and(|speaker| speaker.id == who);
        let mut own: Vec<&Segment> = finals.iter().filter(of).collect();
        own.sort_by_key(|segment| (segment.start_ms, segment.end_ms));
        own
    };
    let count = |n| {
        let own = by_speaker(&id(n));
        let said: Vec<String> =
            script.lines.iter().filter(|line| line.participant == n).flat_map(|line| normalise(&line.text)).collect();
        let heard: Vec<String> = own.iter().flat_map(|segment| normalise(&segment.text)).collect();
        same_moment(&own).max(said_again(&said, &heard))
    };
    (0..script.participants).map(count).sum::<usize>()
}

/// Words of segments that an earlier one of the same speaker covers as well.
fn same_moment(own: &[&Segment]) -> usize {
    let shared = |one: &Segment, other: &Segment| {
        let ms = one.end_ms.min(other.end_ms).saturating_sub(one.start_ms.max(other.start_ms));
        Duration::from_millis(ms) > SAME_MOMENT
    };
    let doubled = |n: usize| own[..n].iter().any(|one| shared(one, own[n]) || one.id == own[n].id);
    (0..own.len()).filter(|n| doubled(*n)).map(|n| normalise(&own[n].text).len()).sum()
}

/// Words that rows of [`RUN`] words have more often than they were said (at least once is allowed: a
/// misheard row was never said).
fn said_again(said: &[String], heard: &[String]) -> usize {
    fn rows(words: &[String]) -> BTreeMap<&[String], usize> {
        let mut rows = BTreeMap::new();
        words.windows(RUN).for_each(|row| *rows.entry(row).or_default() += 1);
        rows
    }
    let said = rows(said);
    let more = |(row, times): (&[String], usize)| times.saturating_sub(said.get(row).copied().unwrap_or(0).max(1));
    match rows(heard).into_iter().map(more).sum::<usize>() {
        0 => 0,
        extra => extra + RUN - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speech::Line;

    fn script(texts: &[&str]) -> Script {
        let line = |(n, text): (usize, &&str)| Line {
            participant: 0,
            start: Duration::from_secs(n as u64 * 5),
            prompt: "p".into(),
            text: (*text).into(),
            samples: vec![1; 16_000].into(),
        };
        Script::of(texts.iter().enumerate().map(line).collect(), Duration::from_secs(60))
    }

    fn segment(id: &str, ms: (u64, u64), text: &str) -> Segment {
        let at = "2026-01-01T00:00:00Z";
        let value = serde_json::json!({
            "id": id, "participant": {"id": "p0", "name": null}, "text": text, "final": true, "start_ms": ms.0,
            "end_ms": ms.1, "start_at": at, "end_at": at,
            "timing": {"captured": 0, "decoded": 0, "vad": 0, "sent": 0, "received": 0, "durable": 0, "words": 0},
        });
        serde_json::from_value(value).expect("a segment")
    }

    fn count(said: &[&str], finals: &[Segment]) -> usize {
        words(&script(said), finals, |n| format!("p{n}"))
    }

    const SAID: &str = "the person at extension is on the phone";

    #[test]
    fn what_was_said_once_or_twice_and_came_as_often_is_not_doubled() {
        assert_eq!(count(&[SAID], &[segment("a", (0, 2000), SAID)]), 0);
        let twice = [segment("a", (0, 2000), SAID), segment("b", (5000, 7000), SAID)];
        assert_eq!(count(&[SAID, SAID], &twice), 0);
        let misheard = [segment("a", (0, 2000), "a parson at the tension is on a phone")];
        assert_eq!(count(&[SAID], &misheard), 0);
    }

    #[test]
    fn one_sentence_that_comes_twice_is_doubled_whenever_it_is_said_to_have_been() {
        assert_eq!(count(&[SAID], &[segment("a", (0, 2000), SAID), segment("b", (2100, 4000), SAID)]), 8);
        assert_eq!(count(&[SAID], &[segment("a", (0, 2000), SAID), segment("a", (0, 2000), SAID)]), 8);
    }

    #[test]
    fn two_segments_of_one_moment_are_doubled_whatever_they_say() {
        let finals = [segment("a", (0, 2000), SAID), segment("b", (1500, 2500), "something else")];
        assert_eq!(count(&[SAID], &finals), 2);
        let touching = [segment("a", (0, 2000), SAID), segment("b", (1950, 2500), "something else")];
        assert_eq!(count(&[SAID], &touching), 0);
    }
}
