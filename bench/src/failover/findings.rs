//! What a meeting lost, doubled and delayed, by what was said, held, stored and read.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use mesh::clock::Micros;
use serde::Serialize;
use serde_json::Value;

use super::{
    coverage::{self, Recoded, Spurt},
    doubled,
    reader::{Seen, Text},
};
use crate::{
    demo::{participant_id, watch::Segment},
    oracle::{self, Heard, normalise},
    relay::{self, Sent},
    speech::{Line, Script},
};

/// What a gap may miss at either end: a packet's place on two clocks.
const GAP_TOLERANCE: Duration = Duration::from_millis(100);
/// A fault takes a moment: speech that ends so soon after it may have been out before.
const MOMENT: Duration = Duration::from_millis(300);
/// A line of which so many words are missing was lost; fewer the engine may have misheard.
const LINE_LOST: usize = 3;

/// Everything there is to judge one meeting by.
pub(super) struct Evidence {
    pub(super) script: Script,
    /// When the script began.
    pub(super) started: Micros,
    /// Every packet that was due, by participant.
    pub(super) said: BTreeMap<String, Vec<Sent>>,
    /// How the meeting stood in the end; nothing if it did not end.
    pub(super) meeting: Option<Value>,
    /// `GET …/spurts` of the core that served it then.
    pub(super) spurts: Value,
    /// `GET …/transcript` likewise.
    pub(super) transcript: Value,
    pub(super) seen: Seen,
    pub(super) relay: relay::State,
}

/// When the thing happened, and what is called *resumed* after it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// The fault.
    pub(super) at: Micros,
    /// What ends the silence.
    pub(super) resumes: Resumes,
}

/// From what on words have resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resumes {
    /// The first new text on a connection made after the fault: for a core that dies.
    WithNewText,
    /// The first text of speech uttered after the fault: for an edge or a link.
    WithNewSpeech,
    /// There is no one moment: the longest time between two texts after the fault began.
    LongestPause,
}

/// A time in which nobody captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) from: Micros,
    pub(super) to: Micros,
}

/// What became of one meeting.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Findings {
    /// 20 ms frames with speech of a line in them.
    pub(super) frames_said: usize,
    /// Of those, held by no core.
    pub(super) frames_lost: usize,
    /// Of those lost, outside of every gap that the meeting names.
    pub(super) frames_lost_outside_gaps: usize,
    /// Frames that edges say they sent.
    pub(super) frames_forwarded: u64,
    /// Frames that the core that serves in the end says it took in.
    pub(super) frames_durable: u64,
    /// Frames of the spurts that it lists.
    pub(super) frames_listed: u64,
    /// Segments of speech that an edge encoded anew.
    pub(super) segments_recoded: usize,
    /// Frames that edges dropped because their ring or disk was full.
    pub(super) frames_overflowed: u64,
    pub(super) words_said: usize,
    pub(super) words_doubled: usize,
    /// Words of lines that are missing in whole or for the most part.
    pub(super) words_missing: usize,
    /// Those lines: when they were said, in milliseconds from the script's start, by whom, and how.
    pub(super) lines_missing: Vec<(u64, usize, String)>,
    /// From when to when lost frames were due, likewise; a second apart or more.
    pub(super) lost_ms: Vec<(u64, u64)>,
    pub(super) wer: f64,
    /// Finals stored that the reader was not shown, or shown otherwise.
    pub(super) unread: usize,
    /// Finals of one speaker that came before what that speaker had said earlier.
    pub(super) out_of_order: usize,
    /// Spurts that go on under one epoch after the next has begun: two owners, where one slot captures.
    pub(super) spurts_of_two_owners: usize,
    pub(super) resume_ms: Option<u64>,
    /// From the fault to the first text of speech uttered after it.
    pub(super) new_speech_ms: Option<u64>,
    /// From the fault until somebody had joined the relay.
    pub(super) rejoin_ms: Option<u64>,
    pub(super) gap_ms: u64,
    /// Gaps on the meeting, in the transcript and as events.
    pub(super) gaps_told: [usize; 3],
    /// The longest that speech took from the edge's socket to the core's disk, as the segments say.
    pub(super) delay_ms: u64,
    pub(super) dropped: bool,
}

/// Judges one meeting.
///
/// # Errors
/// The API's answers lack what is needed.
pub(super) fn find(evidence: &Evidence, moment: Moment) -> Result<Findings> {
    let Evidence { script, meeting, seen, .. } = evidence;
    let nothing = Value::Null;
    let view = meeting.as_ref().unwrap_or(&nothing);
    let stored: Vec<Segment> = match &evidence.transcript["segments"] {
        Value::Null => vec![],
        segments => serde_json::from_value(segments.clone()).context("no list of segments")?,
    };
    let spurts: Vec<Spurt> = match &evidence.spurts["spurts"] {
        Value::Null => vec![],
        spurts => serde_json::from_value(spurts.clone()).context("no list of spurts")?,
    };
    let speech: Vec<(&str, Micros)> = coverage::speech(script, &evidence.said, participant_id).collect();
    let recoded: Vec<Recoded> =
        stored.iter().filter_map(|segment| recoded(segment).transpose()).collect::<Result<_>>()?;
    let lost = coverage::lost(speech.iter().copied(), &spurts, &recoded);
    let gaps = gaps(view)?;
    let in_gap = |at: Micros| gaps.iter().any(|g| g.from <= at.plus(GAP_TOLERANCE) && at <= g.to.plus(GAP_TOLERANCE));
    let heard: Vec<Heard> = seen.texts.iter().map(|text| heard(text, evidence.started)).collect::<Result<_>>()?;
    let verdict = oracle::judge(script, &heard);
    let finals: Vec<Segment> = seen.finals().map(|text| text.segment.clone()).collect();
    let texts = Texts { seen, at: moment.at };
    let told = |list: &Value| list.as_array().map_or(0, |list| list.iter().filter(|gap| is_uncaptured(gap)).count());
    Ok(Findings {
        frames_said: speech.len(),
        frames_lost: lost.len(),
        frames_lost_outside_gaps: lost.iter().filter(|at| !in_gap(**at)).count(),
        frames_forwarded: view["totals"]["packets_forwarded"].as_u64().unwrap_or(0),
        frames_durable: view["frames_durable"].as_u64().unwrap_or(0),
        frames_listed: spurts.iter().map(|spurt| spurt.frames).sum(),
        segments_recoded: recoded.len(),
        frames_overflowed: view["totals"]["packets_overflowed"].as_u64().unwrap_or(0),
        words_said: verdict.errors.words,
        words_doubled: doubled::words(script, &finals, participant_id).max(doubled::words(
            script,
            &stored,
            participant_id,
        )),
        words_missing: missing(script, &verdict).map(|(_, missing)| missing).sum(),
        lines_missing: missing(script, &verdict)
            .map(|(line, _)| (ms(line.start), line.participant, line.text.clone()))
            .collect(),
        lost_ms: stretches(lost.iter().map(|at| ms(at.since(evidence.started)))),
        wer: verdict.errors.rate(),
        unread: stored.iter().filter(|one| !finals.iter().any(|f| f.id == one.id && f.text == one.text)).count(),
        out_of_order: out_of_order(&finals),
        spurts_of_two_owners: stale(&spurts),
        resume_ms: texts.resumed(moment.resumes),
        new_speech_ms: texts.resumed(Resumes::WithNewSpeech),
        rejoin_ms: evidence.relay.joined.iter().find(|at| **at > moment.at).map(|at| ms(at.since(moment.at))),
        gap_ms: gaps.iter().map(|gap| ms(gap.to.since(gap.from))).sum(),
        gaps_told: [
            gaps.len(),
            told(&evidence.transcript["gaps"]),
            seen.gaps.iter().filter(|gap| is_uncaptured(gap)).count(),
        ],
        delay_ms: finals.iter().map(|f| ms(f.timing.durable.since(f.timing.captured))).max().unwrap_or(0),
        dropped: view["status"] != "done",
    })
}

/// What of a segment's speech its edge encoded anew, or may have: all of it.
fn recoded(segment: &Segment) -> Result<Option<Recoded>> {
    let Some(speaker) = segment.participant.as_ref() else { return Ok(None) };
    if segment.uplink.as_deref() == Some("pass_through") {
        return Ok(None);
    }
    let (from, to) = (micros(&segment.start_at)?, micros(&segment.end_at)?);
    Ok(Some(Recoded { participant: speaker.id.clone(), from, to }))
}

/// The gaps that a meeting names.
///
/// # Errors
/// One of them has no times.
pub(super) fn gaps(meeting: &Value) -> Result<Vec<Gap>> {
    let list = [&meeting["capture_gaps"], &meeting["gaps"]].into_iter().find_map(Value::as_array);
    let time = |value: &Value| match value {
        Value::Number(micros) => micros.as_u64().map(Micros),
        Value::String(text) => micros(text).ok(),
        _ => None,
    };
    let gap = |gap: &Value| Some(Gap { from: time(&gap["from"])?, to: time(&gap["to"])? });
    // One that is still open has no end yet, and none is left open by a meeting that has ended.
    let ended = list.into_iter().flatten().filter(|gap| !gap["to"].is_null() && is_uncaptured(gap));
    ended.map(|value| gap(value).with_context(|| format!("a gap without times: {value}"))).collect()
}

/// Whether nobody captured in it; there are others, of which there are no words.
fn is_uncaptured(gap: &Value) -> bool {
    gap["reason"] != "not_transcribed"
}

/// What the reader was shown around the fault.
struct Texts<'a> {
    seen: &'a Seen,
    at: Micros,
}

impl Texts<'_> {
    fn resumed(&self, how: Resumes) -> Option<u64> {
        let after = self.seen.texts.iter().filter(|text| text.at > self.at);
        let first = |mut texts: Box<dyn Iterator<Item = &Text> + '_>| texts.next().map(|t| ms(t.at.since(self.at)));
        match how {
            Resumes::WithNewText => {
                let later = |text: &&Text| self.seen.connections[text.connection].0 > self.at && self.is_new(text);
                first(Box::new(after.filter(later)))
            }
            Resumes::WithNewSpeech => {
                let later = |text: &&Text| micros(&text.segment.end_at).is_ok_and(|end| end > self.at.plus(MOMENT));
                first(Box::new(after.filter(later)))
            }
            Resumes::LongestPause => {
                let times: Vec<Micros> = std::iter::once(self.at).chain(after.map(|text| text.at)).collect();
                times.windows(2).map(|two| ms(two[1].since(two[0]))).max()
            }
        }
    }

    /// Whether it says more than the reader had been shown of that segment.
    fn is_new(&self, text: &Text) -> bool {
        let same = |other: &&Text| other.at < text.at && other.segment.id == text.segment.id;
        !self.seen.texts.iter().filter(same).any(|other| other.segment.text == text.segment.text)
    }
}

/// Lines that are missing in whole or for the most part, and how many of their words.
fn missing<'a>(script: &'a Script, verdict: &'a oracle::Verdict) -> impl Iterator<Item = (&'a Line, usize)> {
    let lines = script.lines.iter().zip(&verdict.lines);
    let lost = lines.filter(|(line, verdict)| {
        verdict.errors.deletions >= LINE_LOST.min(normalise(&line.text).len()).max(verdict.errors.words / 3)
    });
    lost.map(|(line, verdict)| (line, verdict.errors.deletions))
}

/// Times, in order, as stretches with a second or more between them.
fn stretches(times: impl Iterator<Item = u64>) -> Vec<(u64, u64)> {
    let mut stretches: Vec<(u64, u64)> = vec![];
    for at in times {
        match stretches.last_mut() {
            Some((_, to)) if at < *to + 1000 => *to = at,
            _ => stretches.push((at, at)),
        }
    }
    stretches
}

fn out_of_order(finals: &[Segment]) -> usize {
    let speaker = |segment: &Segment| segment.participant.as_ref().map(|speaker| speaker.id.clone());
    let mut latest: BTreeMap<Option<String>, u64> = BTreeMap::new();
    let mut late = 0;
    for segment in finals {
        let newest = latest.entry(speaker(segment)).or_default();
        late += usize::from(segment.start_ms < *newest);
        *newest = (*newest).max(segment.start_ms);
    }
    late
}

fn heard(text: &Text, started: Micros) -> Result<Heard> {
    let Text { at, segment, .. } = text;
    Ok(Heard {
        id: segment.id.clone(),
        participant: segment.participant.as_ref().and_then(|speaker| speaker.id.strip_prefix('p')?.parse().ok()),
        start: micros(&segment.start_at)?.since(started),
        end: micros(&segment.end_at)?.since(started),
        text: segment.text.clone(),
        is_final: segment.is_final,
        delivered: at.since(started),
    })
}

fn micros(text: &str) -> Result<Micros> {
    let stamp: jiff::Timestamp = text.parse().with_context(|| format!("{text} is no RFC 3339 time"))?;
    Ok(Micros(stamp.as_microsecond() as u64))
}

fn ms(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

/// Spurts that were captured under an epoch after the next one's first.
fn stale(spurts: &[Spurt]) -> usize {
    let mut begun: BTreeMap<u64, Micros> = BTreeMap::new();
    for spurt in spurts {
        let first = begun.entry(spurt.epoch).or_insert(spurt.captured);
        *first = (*first).min(spurt.captured);
    }
    let overtaken = |spurt: &&Spurt| {
        let next = begun.range(spurt.epoch + 1..).next();
        next.is_some_and(|(_, begins)| spurt.end() > begins.plus(GAP_TOLERANCE))
    };
    spurts.iter().filter(overtaken).count()
}
