//! A transcript as a file: WebVTT, SubRip, plain text.

use std::fmt::Write;

use super::Segment;

/// WebVTT (W3C, <https://www.w3.org/TR/webvtt1/>), each speaker in a voice span.
pub fn vtt(segments: &[Segment]) -> String {
    let mut out = String::from("WEBVTT\n");
    for segment in segments {
        let text = escape_vtt(&segment.text);
        let voice = speaker(segment).map(|name| format!("<v {}>", escape_vtt(name))).unwrap_or_default();
        let (start, end) = (clock(segment.start_ms, '.'), clock(segment.end_ms, '.'));
        put(&mut out, format_args!("\n{}\n{start} --> {end}\n{voice}{text}\n", segment.id));
    }
    out
}

/// SubRip, the speaker before the words.
pub fn srt(segments: &[Segment]) -> String {
    let mut out = String::new();
    for (n, segment) in segments.iter().enumerate() {
        let (start, end) = (clock(segment.start_ms, ','), clock(segment.end_ms, ','));
        // SubRip has no escapes: an arrow in the words would read as another cue's times.
        let line = said(segment).replace("-->", "->");
        put(&mut out, format_args!("{}\n{start} --> {end}\n{line}\n\n", n + 1));
    }
    out
}

/// One line for each segment.
pub fn txt(segments: &[Segment]) -> String {
    let mut out = String::new();
    for segment in segments {
        put(&mut out, format_args!("[{}] {}\n", &clock(segment.start_ms, '.')[..8], said(segment)));
    }
    out
}

fn put(out: &mut String, what: std::fmt::Arguments<'_>) {
    out.write_fmt(what).expect("writing to a String cannot fail");
}

fn said(segment: &Segment) -> String {
    let text = one_line(&segment.text);
    speaker(segment).map_or(text.clone(), |name| format!("{}: {text}", one_line(name)))
}

/// The name, else the platform's id; nobody where the platform did not say.
fn speaker(segment: &Segment) -> Option<&str> {
    let speaker = segment.participant.as_ref()?;
    Some(speaker.name.as_deref().filter(|n| !n.trim().is_empty()).unwrap_or(&speaker.id))
}

fn escape_vtt(text: &str) -> String {
    one_line(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Line breaks would end a cue.
fn one_line(text: &str) -> String {
    text.split(|c: char| c.is_control() || c.is_whitespace()).filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ")
}

fn clock(ms: u64, point: char) -> String {
    let (h, m, s) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{h:02}:{m:02}:{s:02}{point}{:03}", ms % 1000)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::transcript::{Speaker, Timing};

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
        let want = "1\n00:00:00,000 --> 00:00:01,500\nAnn <b> & Co: a < b -> c\n\n\
            2\n01:02:03,004 --> 01:02:04,504\np1: second line\n\n\
            3\n01:03:20,000 --> 01:03:21,500\nnobody said\n\n";
        assert_eq!(srt(&three()), want);
    }

    #[test]
    fn text_has_a_line_for_each_segment() {
        let want = "[00:00:00] Ann <b> & Co: a < b --> c\n[01:02:03] p1: second line\n[01:03:20] nobody said\n";
        assert_eq!(txt(&three()), want);
    }
}
