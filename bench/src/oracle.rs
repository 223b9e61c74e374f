//! The judge: what was said against what was heard.

pub mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use core_node::transcribe::align::align;

pub use self::words::{Errors, normalise};
use self::words::{Step, steps};
use crate::speech::{Line, Script};

/// A segment may seem to begin or end this much beside the line it is of.
const SLACK: Duration = Duration::from_millis(700);

/// A segment event, in the order of delivery; all times from the script's start.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard {
    /// The same for all revisions of a segment.
    pub id: String,
    /// Whom it is credited to, if that is anybody of the script.
    pub participant: Option<usize>,
    /// When its speech began.
    pub start: Duration,
    /// When its speech ended.
    pub end: Duration,
    /// The words.
    pub text: String,
    /// Whether it will not change any more.
    pub is_final: bool,
    /// When it reached the listener.
    pub delivered: Duration,
}

/// What became of one script line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LineVerdict {
    /// Its errors; words heard that nobody said count for the line said last.
    pub errors: Errors,
    /// Normalised words of it that were not heard, or as another word.
    pub missing: Vec<String>,
}

/// How long one word took from having been said to having been delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WordDelay {
    /// In the final segment.
    pub settled: Duration,
    /// In the first event of that segment that held the word, a partial or the final.
    pub first: Duration,
}

/// The judge's findings.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Verdict {
    /// Over all lines.
    pub errors: Errors,
    /// By line, as in the script.
    pub lines: Vec<LineVerdict>,
    /// Words in final segments.
    pub words_heard: usize,
    /// Those among them that were credited to who said them.
    pub words_credited: usize,
    /// One for each word that was heard as it was said.
    pub delays: Vec<WordDelay>,
}

/// A word of the script.
struct Said {
    line: usize,
    word: String,
    /// When its last sound was made.
    at: Duration,
}

/// A word of a final segment.
struct HeardWord<'a> {
    segment: &'a Heard,
    /// Its place among the segment's words.
    place: usize,
    word: String,
}

impl Verdict {
    /// The share of words heard that were credited to who said them; 1 if nothing was heard.
    pub fn speaker_accuracy(&self) -> f64 {
        if self.words_heard == 0 { 1.0 } else { self.words_credited as f64 / self.words_heard as f64 }
    }
}

/// Judges everything that was `heard` of `script`.
///
/// Finals are first laid to the participant whose lines at that time they resemble most, whoever
/// they are credited to: so the errors say what was heard, and the credit says of whom.
pub fn judge(script: &Script, heard: &[Heard]) -> Verdict {
    let said: Vec<Said> = script.lines.iter().enumerate().flat_map(|(number, line)| said_in(number, line)).collect();
    let mut verdict = Verdict { lines: vec![LineVerdict::default(); script.lines.len()], ..Verdict::default() };
    let mut by_speaker: BTreeMap<usize, Vec<&Heard>> = BTreeMap::new();
    for segment in heard.iter().filter(|segment| segment.is_final) {
        let words = normalise(&segment.text).len();
        let speaker = speaker_of(script, segment);
        verdict.words_heard += words;
        if speaker.is_some() && speaker == segment.participant {
            verdict.words_credited += words;
        }
        match speaker {
            Some(speaker) => by_speaker.entry(speaker).or_default().push(segment),
            None => verdict.errors.insertions += words,
        }
    }
    for participant in 0..script.participants {
        let said: Vec<&Said> = said.iter().filter(|s| script.lines[s.line].participant == participant).collect();
        verdict.compare(&said, by_speaker.remove(&participant).unwrap_or_default(), heard);
    }
    for line in &verdict.lines {
        verdict.errors.add(line.errors);
    }
    verdict
}

/// The word errors of an engine that was given each line by itself.
pub fn reference(pairs: impl IntoIterator<Item = (String, String)>) -> Errors {
    let mut errors = Errors::default();
    for (said, heard) in pairs {
        errors.add(words::compare(&normalise(&said), &normalise(&heard)));
    }
    errors
}

impl Verdict {
    /// One participant's words, all of them in order.
    fn compare(&mut self, said: &[&Said], mut segments: Vec<&Heard>, events: &[Heard]) {
        segments.sort_by_key(|segment| segment.start);
        let heard: Vec<HeardWord<'_>> = segments.into_iter().flat_map(words_of).collect();
        let left: Vec<&str> = said.iter().map(|s| s.word.as_str()).collect();
        let right: Vec<&str> = heard.iter().map(|h| h.word.as_str()).collect();
        let mut first = FirstSeen::new(events);
        let mut last_line = said.first().map(|s| s.line);
        for s in said {
            self.lines[s.line].errors.words += 1;
        }
        for step in steps(&left, &right) {
            match step {
                Step::Same(i, j) => {
                    let (said, heard) = (said[i], &heard[j]);
                    let settled = heard.segment.delivered.saturating_sub(said.at);
                    let first = first.delivered(heard).saturating_sub(said.at);
                    self.delays.push(WordDelay { settled, first });
                    last_line = Some(said.line);
                }
                Step::Other(i, _) | Step::Missing(i) => {
                    let line = &mut self.lines[said[i].line];
                    line.missing.push(said[i].word.clone());
                    match step {
                        Step::Missing(_) => line.errors.deletions += 1,
                        _ => line.errors.substitutions += 1,
                    }
                    last_line = Some(said[i].line);
                }
                Step::Extra(_) => match last_line {
                    Some(line) => self.lines[line].errors.insertions += 1,
                    None => self.errors.insertions += 1,
                },
            }
        }
    }
}

/// When each word of a segment was first delivered, in whichever revision.
struct FirstSeen<'a> {
    events: &'a [Heard],
    known: BTreeMap<&'a str, Vec<Duration>>,
}

impl<'a> FirstSeen<'a> {
    fn new(events: &'a [Heard]) -> Self {
        Self { events, known: BTreeMap::new() }
    }

    fn delivered(&mut self, word: &HeardWord<'a>) -> Duration {
        let events = self.events;
        let times = self.known.entry(&word.segment.id).or_insert_with(|| first_times(word.segment, events));
        times.get(word.place).copied().unwrap_or(word.segment.delivered)
    }
}

fn first_times(segment: &Heard, events: &[Heard]) -> Vec<Duration> {
    let last = normalise(&segment.text);
    let last: Vec<&str> = last.iter().map(String::as_str).collect();
    let mut times = vec![segment.delivered; last.len()];
    for event in events.iter().filter(|event| event.id == segment.id && !event.is_final) {
        let words = normalise(&event.text);
        for step in steps(&last, &words.iter().map(String::as_str).collect::<Vec<_>>()) {
            if let Step::Same(i, _) = step {
                times[i] = times[i].min(event.delivered);
            }
        }
    }
    times
}

/// The words of a line, normalised, each with the times from which and until which it is said, from the
/// script's start: by letters within the voiced part.
pub fn word_times(line: &Line) -> Vec<(String, Duration, Duration)> {
    let samples: Vec<f32> = line.samples.iter().map(|s| f32::from(*s) / 32_768.0).collect();
    let words = normalise(&line.text);
    let times = align(&samples, &words.iter().map(String::as_str).collect::<Vec<_>>());
    let at = |ms: u32| line.start + Duration::from_millis(u64::from(ms));
    words.into_iter().zip(times).map(|(word, (from, to))| (word, at(from), at(to))).collect()
}

fn said_in(number: usize, line: &Line) -> Vec<Said> {
    word_times(line).into_iter().map(|(word, _, at)| Said { line: number, word, at }).collect()
}

fn words_of(segment: &Heard) -> impl Iterator<Item = HeardWord<'_>> {
    normalise(&segment.text).into_iter().enumerate().map(move |(place, word)| HeardWord { segment, place, word })
}

/// Who of those speaking at the segment's time most likely said it; on a tie who it is credited to.
fn speaker_of(script: &Script, segment: &Heard) -> Option<usize> {
    let near = |line: &&Line| line.start < segment.end + SLACK && segment.start < line.end() + SLACK;
    let lines: Vec<&Line> = script.lines.iter().filter(near).collect();
    let heard = normalise(&segment.text);
    let speakers: BTreeSet<usize> = lines.iter().map(|line| line.participant).collect();
    speakers.into_iter().min_by_key(|speaker| {
        let own = lines.iter().filter(|line| line.participant == *speaker);
        let said: Vec<String> = own.flat_map(|line| normalise(&line.text)).collect();
        // A segment may be half of a line: what it lacks of that speaks for nobody else.
        let errors = words::compare(&said, &heard);
        (errors.substitutions + errors.insertions, Some(*speaker) != segment.participant)
    })
}

#[cfg(test)]
mod tests;
