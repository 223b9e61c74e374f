use mesh::wire::{Epoch, SpurtNo};
use proptest::prelude::*;

use super::*;
use crate::transcribe::Word;

fn draft(spurt: u32, text: &str) -> Draft {
    let word = Word { text: text.into(), start_ms: 100, end_ms: 300, confidence: 0.5 };
    Draft {
        key: SpurtKey { epoch: Epoch(1), participant: "a".into(), spurt: SpurtNo(spurt) },
        item: 0,
        participant: None,
        text: Text { text: text.into(), words: vec![word], ..Text::default() },
        captured: Micros(1_000_000 + u64::from(spurt) * 2_000_000),
        length: Duration::from_millis(1500),
        stages: None,
        step: None,
        received: Micros(0),
        durable: Micros(0),
        words: Micros(0),
        edge: None,
    }
}

fn transcript() -> Transcript {
    Transcript::new(Uuid::from_u128(5), None, 1, [])
}

#[test]
fn what_is_no_confidence_is_not_read() {
    let text = serde_json::to_string(&crate::fuzzing::segment()).unwrap();
    let read = |confidence: &str| serde_json::from_str::<Segment>(&text.replace("0.9", confidence));
    assert!(read("1").is_ok() && read("0.25").is_ok());
    for bad in ["1e39", "-0.1", "1.5", "null"] {
        assert!(read(bad).is_err(), "{bad}");
    }
    let of_words = text.replacen("\"confidence\":0.9,\"words\"", "\"confidence\":null,\"words\"", 1);
    assert_eq!(serde_json::from_str::<Segment>(&of_words).unwrap().confidence, None);
}

#[test]
fn words_and_segments_get_times_from_the_meeting_s_first_frame() {
    let mut transcript = transcript();
    transcript.set_origin(Micros(500_000));
    let segment = transcript.handle_partial(draft(1, " hi ")).expect("has words");
    assert_eq!((segment.start_ms, segment.end_ms, segment.text.as_str()), (2500, 4000, "hi"));
    assert_eq!((segment.words[0].start_ms, segment.words[0].end_ms), (2600, 2800));
    assert_eq!(segment.start_at.to_string(), "1970-01-01T00:00:03Z");
}

#[test]
fn silence_is_no_segment_unless_partials_had_promised_one() {
    let mut transcript = transcript();
    assert_eq!(transcript.handle_partial(draft(0, " ")), None);
    assert_eq!(transcript.handle_final(draft(0, "")), Finality::Silence);
    assert!(transcript.handle_partial(draft(1, "mm")).is_some());
    let Finality::Segment(segment) = transcript.handle_final(draft(1, "")) else { panic!("takes the partial back") };
    assert_eq!((segment.text.as_str(), segment.is_final, segment.revision), ("", true, 2));
}

#[test]
fn text_without_a_letter_or_a_digit_is_no_segment() {
    let mut transcript = transcript();
    for (n, text) in ["...", " - ", "♪♪", "?!", "\u{200B}"].into_iter().enumerate() {
        assert_eq!(transcript.handle_partial(draft(n as u32, text)), None, "{text}");
        assert_eq!(transcript.handle_final(draft(n as u32, text)), Finality::Silence, "{text}");
    }
    for (n, text) in ["7", "é", "好", "ة"].into_iter().enumerate() {
        assert!(transcript.handle_partial(draft(10 + n as u32, text)).is_some(), "{text}");
    }
    let Finality::Segment(taken_back) = transcript.handle_final(draft(10, "...")) else { panic!("had a partial") };
    assert_eq!((taken_back.text.as_str(), taken_back.words.len()), ("", 0));
    assert_eq!(in_spoken_order(vec![*taken_back]), []);
}

#[test]
fn speech_without_words_is_a_segment_that_says_so() {
    let mut transcript = transcript();
    let mut mute = draft(1, "");
    mute.text.missing = vec![crate::transcribe::Span { start_ms: 200, end_ms: 1400 }];
    let Finality::Segment(segment) = transcript.handle_final(mute) else { panic!("is told") };
    assert_eq!(segment.not_transcribed, [Stretch { start_ms: 200, end_ms: 1400 }]);
    assert_eq!(in_spoken_order(vec![*segment.clone()]), [*segment]);
}

#[test]
fn a_final_of_fewer_words_than_its_partial_says_why() {
    let of = |words: usize, change: fn(&mut Draft)| {
        let mut draft = draft(1, "some words");
        let word = draft.text.words[0].clone();
        draft.text.words = vec![word; words];
        change(&mut draft);
        draft
    };
    let why = |last: Draft| {
        let mut transcript = transcript();
        transcript.handle_partial(of(4, |_| {}));
        let Finality::Segment(segment) = transcript.handle_final(last) else { panic!("has words") };
        segment.fewer_words
    };
    assert_eq!(why(of(4, |_| {})), None);
    assert_eq!(why(of(3, |_| {})), Some(FewerWords::HeardOtherwise));
    assert_eq!(why(of(0, |draft| draft.text.text.clear())), Some(FewerWords::HeardOtherwise));
    assert_eq!(why(of(3, |draft| draft.text.repeated = true)), Some(FewerWords::Repetition));
    assert_eq!(why(of(3, |draft| draft.length -= Duration::from_millis(500))), Some(FewerWords::OtherSegment));
    let missing = |draft: &mut Draft| draft.text.missing = vec![crate::transcribe::Span { start_ms: 0, end_ms: 900 }];
    assert_eq!(why(of(3, missing)), Some(FewerWords::NotTranscribed));
    assert_eq!(why(of(4, missing)), None, "it has no fewer");
}

#[test]
fn what_was_final_before_a_restart_is_not_made_again() {
    let id = segment_id(Uuid::from_u128(5), &draft(3, "").key, 0);
    let mut transcript = Transcript::new(Uuid::from_u128(5), None, 77, [id]);
    assert_eq!(transcript.handle_final(draft(3, "again")), Finality::Repeated);
    assert_eq!(transcript.take_seq(), 77);
}

proptest! {
    #[test]
    fn a_final_never_changes_and_numbers_always_rise(steps in proptest::collection::vec((0u32..5, any::<bool>(), "[a-c ]{0,3}"), 0..80)) {
        let mut transcript = transcript();
        let mut last_seq = 0;
        let mut revisions: BTreeMap<Uuid, (u32, bool)> = BTreeMap::new();
        for (spurt, is_final, text) in steps {
            let segment = if is_final {
                match transcript.handle_final(draft(spurt, &text)) {
                    Finality::Segment(segment) => Some(*segment),
                    Finality::Silence | Finality::Repeated => None,
                }
            } else {
                transcript.handle_partial(draft(spurt, &text))
            };
            let Some(segment) = segment else { continue };
            prop_assert!(segment.seq > last_seq);
            last_seq = segment.seq;
            let before = revisions.insert(segment.id, (segment.revision, segment.is_final));
            let (revision, was_final) = before.unwrap_or_default();
            prop_assert!(!was_final);
            prop_assert_eq!(segment.revision, revision + 1);
        }
    }

    #[test]
    fn segments_come_in_the_order_they_were_spoken(spurts in proptest::collection::vec(0u32..100, 0..20)) {
        let mut transcript = transcript();
        transcript.set_origin(Micros(0));
        let segments: Vec<Segment> = spurts.into_iter().filter_map(|s| transcript.handle_partial(draft(s, "x"))).collect();
        let sorted = in_spoken_order(segments.clone());
        prop_assert_eq!(sorted.len(), segments.len());
        prop_assert!(sorted.is_sorted_by_key(|s| s.start_ms));
    }
}
