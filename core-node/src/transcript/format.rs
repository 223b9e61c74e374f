//! A transcript as a file: WebVTT, SubRip, plain text.

use std::fmt::Write;

use super::Segment;

/// Stands for speech of which there are no words.
const NOT_TRANSCRIBED: &str = "[not transcribed]";

/// WebVTT (W3C, <https://www.w3.org/TR/webvtt1/>), each speaker in a voice span.
pub fn vtt(segments: &[Segment]) -> String {
    let mut out = String::from("WEBVTT\n");
    for segment in segments {
        let text = escape_vtt(&told(segment));
        let voice = speaker(segment).map(|name| format!("<v {}>", escape_vtt(&name))).unwrap_or_default();
        let (start, end) = (clock(segment.start_ms, '.'), clock(segment.end_ms, '.'));
        put(&mut out, format_args!("\n{}\n{start} --> {end}\n{voice}{text}\n", segment.id));
    }
    out
}

/// SubRip, the speaker before the words.
pub fn srt(segments: &[Segment]) -> String {
    let mut out = String::new();
    for (n, segment) in segments.iter().enumerate() {
        let text = without_tags(&without_arrows(&said(segment)));
        let (start, end) = (clock(segment.start_ms, ','), clock(segment.end_ms, ','));
        put(&mut out, format_args!("{}\n{start} --> {end}\n{text}\n\n", n + 1));
    }
    out
}

/// One line for each segment.
pub fn txt(segments: &[Segment]) -> String {
    let mut out = String::new();
    for segment in segments {
        put(&mut out, format_args!("[{}] {}\n", seconds(segment.start_ms), said(segment)));
    }
    out
}

fn put(out: &mut String, what: std::fmt::Arguments<'_>) {
    out.write_fmt(what).expect("writing to a String cannot fail");
}

fn said(segment: &Segment) -> String {
    let text = told(segment);
    speaker(segment).map_or(text.clone(), |name| format!("{name}: {text}"))
}

/// The words, and where some are missing a mark in their place.
fn told(segment: &Segment) -> String {
    if segment.not_transcribed.is_empty() {
        return one_line(&segment.text);
    }
    let mut gaps = segment.not_transcribed.iter().peekable();
    let mut parts = vec![];
    for word in &segment.words {
        parts.extend(std::iter::from_fn(|| gaps.next_if(|gap| gap.start_ms < word.end_ms)).map(|_| NOT_TRANSCRIBED));
        parts.push(&word.text);
    }
    parts.extend(gaps.map(|_| NOT_TRANSCRIBED));
    one_line(&parts.join(" "))
}

/// The name, else the platform's id; nobody where neither shows.
fn speaker(segment: &Segment) -> Option<String> {
    let speaker = segment.participant.as_ref()?;
    let names = [speaker.name.as_deref(), Some(speaker.id.as_str())].into_iter().flatten();
    names.map(one_line).find(|name| name.chars().any(|c| !is_invisible(c) && c != ' '))
}

fn escape_vtt(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// SubRip has no escapes: an arrow would make a cue's text another cue's times.
fn without_arrows(text: &str) -> String {
    let mut text = text.to_owned();
    // What is left of a longer arrow may be one again.
    while text.contains("-->") {
        text = text.replace("-->", "->");
    }
    text
}

/// Players take `<b>` for bold and `{\an8}` for a place on the screen.
fn without_tags(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let next = rest.peek().copied().unwrap_or(' ');
        out.push(match c {
            '<' if next == '/' || next.is_ascii_alphabetic() => '\u{2039}',
            '{' if next == '\\' => '(',
            _ => c,
        });
    }
    out
}

/// Line breaks would end a cue; controls of writing direction would turn round what follows, times included.
fn one_line(text: &str) -> String {
    let plain = text.chars().filter(|c| !turns_text(*c));
    let plain: String = plain.map(|c| if c.is_control() { ' ' } else { c }).collect();
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Embeddings, overrides and isolates of UAX #9; its marks (LRM, RLM, ALM) turn nothing but their neighbours.
fn turns_text(c: char) -> bool {
    matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// Format characters that leave no trace by themselves.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{00AD}' | '\u{061C}' | '\u{180E}' | '\u{200B}'..='\u{200F}' | '\u{2060}'..='\u{2064}' | '\u{FEFF}')
}

fn clock(ms: u64, point: char) -> String {
    format!("{}{point}{:03}", seconds(ms), ms % 1000)
}

fn seconds(ms: u64) -> String {
    let (h, m, s) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{h:02}:{m:02}:{s:02}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use uuid::Uuid;

    use super::*;
    use crate::transcript::{Speaker, Stretch, TimedWord, Timing};

    fn segment(n: u128, name: Option<&str>, text: &str, start_ms: u64) -> Segment {
        Segment {
            id: Uuid::from_u128(n),
            seq: 1,
            meeting_id: Uuid::nil(),
            participant: name.map(|name| Speaker { id: "p1".into(), name: (!name.is_empty()).then(|| name.into()) }),
            text: text.into(),
            language: None,
            is_final: true,
            revision: 1,
            start_ms,
            end_ms: start_ms + 1500,
            start_at: jiff::Timestamp::UNIX_EPOCH,
            end_at: jiff::Timestamp::UNIX_EPOCH,
            confidence: None,
            words: vec![],
            not_transcribed: vec![],
            fewer_words: None,
            edge: None,
            region: None,
            uplink: None,
            timing: Timing { captured: 0, decoded: None, vad: None, sent: None, received: 0, durable: 0, words: 0 },
        }
    }

    fn three() -> Vec<Segment> {
        vec![
            segment(1, Some("Ann <b> & Co\n"), "a < b --> c", 0),
            segment(2, Some(""), "second\n\nline", 3_723_004),
            segment(3, None, "nobody said", 3_800_000),
        ]
    }

    #[test]
    fn webvtt_escapes_what_would_be_markup() {
        let want = "WEBVTT\n\n00000000-0000-0000-0000-000000000001\n00:00:00.000 --> 00:00:01.500\n\
            <v Ann &lt;b&gt; &amp; Co>a &lt; b --&gt; c\n\n00000000-0000-0000-0000-000000000002\n\
            01:02:03.004 --> 01:02:04.504\n<v p1>second line\n\n00000000-0000-0000-0000-000000000003\n\
            01:03:20.000 --> 01:03:21.500\nnobody said\n";
        assert_eq!(vtt(&three()), want);
    }

    #[test]
    fn subrip_numbers_its_cues() {
        let want = "1\n00:00:00,000 --> 00:00:01,500\nAnn \u{2039}b> & Co: a < b -> c\n\n\
            2\n01:02:03,004 --> 01:02:04,504\np1: second line\n\n\
            3\n01:03:20,000 --> 01:03:21,500\nnobody said\n\n";
        assert_eq!(srt(&three()), want);
    }

    #[test]
    fn text_has_a_line_for_each_segment() {
        let want = "[00:00:00] Ann <b> & Co: a < b --> c\n[01:02:03] p1: second line\n[01:03:20] nobody said\n";
        assert_eq!(txt(&three()), want);
    }

    #[test]
    fn an_arrow_of_any_length_is_none_in_subrip() {
        let named = segment(1, Some("a ---> b"), "c ------> d", 0);
        assert_eq!(srt(&[named]), "1\n00:00:00,000 --> 00:00:01,500\na -> b: c -> d\n\n");
    }

    #[test]
    fn markup_of_players_is_text_in_subrip() {
        let shouting = segment(1, Some("</v> <font size=99>"), "{\\an8}1 < 2 {x}", 0);
        assert!(srt(&[shouting]).contains("\n\u{2039}/v> \u{2039}font size=99>: (\\an8}1 < 2 {x}\n"));
    }

    #[test]
    fn more_than_99_hours_are_written_in_full() {
        let late = [segment(1, None, "late", 360_000_000 * 10 + 61_001)];
        assert_eq!(txt(&late), "[1000:01:01] late\n");
        assert!(vtt(&late).contains("\n1000:01:01.001 --> 1000:01:02.501\n"));
        assert!(srt(&late).contains("\n1000:01:01,001 --> 1000:01:02,501\n"));
    }

    #[test]
    fn names_turn_no_text_round_and_break_no_line() {
        let name = "\u{202E}Eve\u{2066}\u{2028}\u{85}x\u{0}y";
        let [vtt, srt, txt] = [vtt, srt, txt].map(|format| format(&[segment(1, Some(name), "a\u{2029}b\u{202E}", 0)]));
        assert!(vtt.ends_with("\n<v Eve x y>a b\n"), "{vtt}");
        assert!(srt.ends_with("\nEve x y: a b\n\n") && txt == "[00:00:00] Eve x y: a b\n", "{srt}{txt}");
    }

    #[test]
    fn a_name_that_does_not_show_is_none() {
        assert_eq!(txt(&[segment(1, Some("\u{200B} \u{FEFF}"), "hi", 0)]), "[00:00:00] p1: hi\n");
        let mut nobody = segment(1, Some("\u{202E}"), "hi", 0);
        nobody.participant.as_mut().unwrap().id = " ".into();
        assert!(vtt(std::slice::from_ref(&nobody)).ends_with("\nhi\n") && txt(&[nobody]) == "[00:00:00] hi\n");
    }

    #[test]
    fn what_is_not_transcribed_is_told_in_its_place() {
        let word =
            |text: &str, start_ms| TimedWord { text: text.into(), start_ms, end_ms: start_ms + 300, confidence: 1.0 };
        let mut holed = segment(1, None, "one four", 0);
        holed.words = vec![word("one", 0), word("four", 1000)];
        holed.not_transcribed =
            [(400, 900), (1300, 1500)].map(|(start_ms, end_ms)| Stretch { start_ms, end_ms }).into();
        assert_eq!(txt(&[holed.clone()]), "[00:00:00] one [not transcribed] four [not transcribed]\n");
        holed.words.clear();
        holed.text.clear();
        assert!(vtt(&[holed]).ends_with("\n[not transcribed] [not transcribed]\n"));
    }
}
