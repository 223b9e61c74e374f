#![allow(clippy::unwrap_used)]
use mesh::wire::request::Secret;
use serde_json::{Value, json};

use super::*;
use crate::media::ParticipantId;

const S: Duration = Duration::from_secs(1);
const URL: &str = "wss://signalling.example";
const MEDIA: &str = "wss://media.example";

fn key() -> Key {
    Key {
        meeting_uuid: "uuid==".into(),
        stream_id: "stream".into(),
        client_id: "client".into(),
        client_secret: Secret("hush".into()),
    }
}

fn says(session: &mut Session, line: Line, message: Value, now: Instant) -> Result<(), ConnectError> {
    session.handle_message(line, message.to_string().as_bytes(), now)
}

fn drain(session: &mut Session) -> Vec<Action> {
    std::iter::from_fn(|| session.poll_action()).collect()
}

/// What was sent, by kind.
fn sent(actions: &[Action]) -> Vec<(Line, Value)> {
    let sent = actions.iter().filter_map(|action| match action {
        Action::Send(line, text) => Some((*line, serde_json::from_str(text).unwrap())),
        _ => None,
    });
    sent.collect()
}

fn signalled() -> Value {
    json!({"msg_type": 2, "status_code": 0, "media_server": {"server_urls": {"audio": MEDIA}}})
}

fn granted(codec: u8) -> Value {
    json!({"msg_type": 4, "status_code": 0, "media_params": {"audio": {"codec": codec, "sample_rate": 1, "channel": 1}}})
}

fn stopped(reason: u64) -> Value {
    json!({"msg_type": 8, "state": 4, "reason": reason})
}

fn lost() -> ConnectError {
    ConnectError::MediaLost("test".into())
}

/// Both handshakes are done.
fn shake(session: &mut Session, now: Instant) -> Vec<Action> {
    session.handle_opened(Line::Signalling, now);
    says(session, Line::Signalling, signalled(), now).unwrap();
    session.handle_opened(Line::Media, now);
    says(session, Line::Media, granted(4), now).unwrap();
    drain(session)
}

fn live(now: Instant) -> Session {
    let mut session = Session::new(key(), URL.into(), 0.0, now);
    shake(&mut session, now);
    session
}

/// Keep-alives on both, every ten seconds until then.
fn keep_alive(session: &mut Session, from: Instant, until: Instant) {
    let mut now = from;
    while now < until {
        now = (now + 10 * S).min(until);
        for line in [Line::Signalling, Line::Media] {
            says(session, line, json!({"msg_type": 12, "timestamp": 5}), now).unwrap();
        }
    }
    drain(session);
}

fn opened(actions: &[Action]) -> Vec<Line> {
    actions.iter().filter_map(|action| if let Action::Open(line, _) = action { Some(*line) } else { None }).collect()
}

fn closed(actions: &[Action]) -> Vec<Line> {
    actions.iter().filter_map(|action| if let Action::Close(line) = action { Some(*line) } else { None }).collect()
}

/// What happens when the next deadline is met, and how long after `now` that is.
fn due(session: &mut Session, now: &mut Instant) -> (Duration, Vec<Action>) {
    let at = session.poll_timeout().unwrap();
    let after = at - *now;
    *now = at;
    session.handle_timeout(at).unwrap();
    (after, drain(session))
}

#[test]
fn both_handshakes_are_signed_and_audio_of_each_is_asked_for_and_what_was_kept() {
    let now = Instant::now();
    let mut session = Session::new(key(), URL.into(), 0.0, now);
    assert_eq!(drain(&mut session), [Action::Open(Line::Signalling, URL.into())]);
    session.handle_opened(Line::Signalling, now);
    let first = sent(&drain(&mut session)).remove(0);
    let signature = key().signature();
    assert_eq!(
        first.1,
        json!({"msg_type": 1, "protocol_version": 1, "sequence": 0, "meeting_uuid": "uuid==", "rtms_stream_id": "stream",
            "signature": signature, "buffer_data": true})
    );
    says(&mut session, Line::Signalling, signalled(), now).unwrap();
    let actions = drain(&mut session);
    assert_eq!(sent(&actions)[0].1["events"].as_array().unwrap().len(), 3);
    assert_eq!(actions[1], Action::Open(Line::Media, MEDIA.into()));
    session.handle_opened(Line::Media, now);
    let (line, asked) = sent(&drain(&mut session)).remove(0);
    let audio = json!({"content_type": 2, "sample_rate": 3, "channel": 2, "codec": 4, "data_opt": 2, "send_rate": 20});
    assert_eq!((line, &asked["media_params"]["audio"], &asked["signature"]), (Line::Media, &audio, &signature.into()));
    says(&mut session, Line::Media, granted(4), now).unwrap();
    let actions = drain(&mut session);
    assert_eq!(sent(&actions), [(Line::Signalling, json!({"msg_type": 7, "rtms_stream_id": "stream"}))]);
    assert!(matches!(actions[1], Action::Live(Format { codec: 4, .. })));
}

#[test]
fn where_opus_is_refused_linear_samples_are_asked_for_at_once_and_once() {
    let now = Instant::now();
    let mut session = Session::new(key(), URL.into(), 0.0, now);
    session.handle_opened(Line::Signalling, now);
    says(&mut session, Line::Signalling, signalled(), now).unwrap();
    session.handle_opened(Line::Media, now);
    drain(&mut session);
    let refused = json!({"msg_type": 4, "status_code": 22, "reason": "codec"});
    says(&mut session, Line::Media, refused.clone(), now).unwrap();
    assert_eq!(opened(&drain(&mut session)), [Line::Media]);
    session.handle_opened(Line::Media, now);
    assert_eq!(sent(&drain(&mut session))[0].1["media_params"]["audio"]["codec"], 1);
    let error = says(&mut session, Line::Media, refused, now).unwrap_err();
    assert_eq!(error.cause(), Cause::CodecUnsupported);
}

#[test]
fn what_is_granted_and_cannot_be_heard_is_told() {
    for codec in [2, 3, 9] {
        let now = Instant::now();
        let mut session = Session::new(key(), URL.into(), 0.0, now);
        session.handle_opened(Line::Signalling, now);
        says(&mut session, Line::Signalling, signalled(), now).unwrap();
        session.handle_opened(Line::Media, now);
        let error = says(&mut session, Line::Media, granted(codec), now).unwrap_err();
        assert!(matches!(error, ConnectError::Codec { .. }), "{error}");
    }
}

#[test]
fn a_keep_alive_is_answered_on_its_own_connection_with_its_own_time() {
    let now = Instant::now();
    let mut session = live(now);
    for line in [Line::Signalling, Line::Media] {
        says(&mut session, line, json!({"msg_type": 12, "timestamp": 1_727_384_349_123u64}), now).unwrap();
        let actions = drain(&mut session);
        assert_eq!(actions[0], Action::Time(1_727_384_349_123));
        assert_eq!(sent(&actions), [(line, json!({"msg_type": 13, "timestamp": 1_727_384_349_123u64}))]);
    }
}

#[test]
fn the_media_connection_comes_back_on_the_same_signalling_after_3_6_and_12_seconds_and_then_both() {
    let mut now = Instant::now();
    let mut session = live(now);
    keep_alive(&mut session, now, now + 60 * S);
    now += 60 * S;
    for delay in [3, 6, 12] {
        session.handle_lost(Line::Media, lost(), now).unwrap();
        let actions = drain(&mut session);
        assert!(matches!(actions[0], Action::Lost(_)), "{actions:?}");
        assert!(!closed(&actions).contains(&Line::Signalling));
        says(&mut session, Line::Signalling, json!({"msg_type": 12, "timestamp": 5}), now).unwrap();
        drain(&mut session);
        let (after, actions) = due(&mut session, &mut now);
        assert_eq!((after, opened(&actions)), (delay * S, vec![Line::Media]));
    }
    session.handle_lost(Line::Media, lost(), now).unwrap();
    assert_eq!(closed(&drain(&mut session)), [Line::Media, Line::Signalling]);
    let (after, actions) = due(&mut session, &mut now);
    assert_eq!((after, opened(&actions)), (24 * S, vec![Line::Signalling]));
    let actions = shake(&mut session, now);
    assert!(actions.iter().any(|action| matches!(action, Action::Live(_))));
}

#[test]
fn with_the_signalling_both_are_given_up_before_one_is_opened() {
    let mut now = Instant::now();
    let mut session = live(now);
    session.handle_lost(Line::Signalling, lost(), now).unwrap();
    let actions = drain(&mut session);
    assert_eq!((closed(&actions), opened(&actions)), (vec![Line::Media, Line::Signalling], vec![]));
    session.handle_lost(Line::Media, lost(), now).unwrap();
    assert_eq!(drain(&mut session), [], "it was closed by us");
    let (after, actions) = due(&mut session, &mut now);
    assert_eq!((after, opened(&actions)), (3 * S, vec![Line::Signalling]));
}

#[test]
fn zoom_s_word_that_it_has_lost_the_media_connection_counts_once() {
    let now = Instant::now();
    let mut session = live(now);
    let interrupted = json!({"msg_type": 6, "event": {"event_type": 7, "timestamp": 5}});
    says(&mut session, Line::Signalling, interrupted.clone(), now).unwrap();
    assert_eq!(closed(&drain(&mut session)), [Line::Media]);
    says(&mut session, Line::Signalling, interrupted, now).unwrap();
    assert_eq!(drain(&mut session), []);
}

#[test]
fn thirty_seconds_without_a_word_are_a_loss() {
    for (quiet, lost) in [(Line::Media, vec![Line::Media]), (Line::Signalling, vec![Line::Media, Line::Signalling])] {
        let mut now = Instant::now();
        let mut session = live(now);
        let talking = if quiet == Line::Media { Line::Signalling } else { Line::Media };
        for _ in 0..2 {
            now += 10 * S;
            says(&mut session, talking, json!({"msg_type": 12, "timestamp": 5}), now).unwrap();
        }
        drain(&mut session);
        let (after, actions) = due(&mut session, &mut now);
        assert_eq!((after, closed(&actions)), (10 * S, lost));
    }
}

#[test]
fn a_server_that_lets_us_in_and_drops_us_is_given_up_after_two_minutes() {
    let begun = Instant::now();
    let (mut now, mut session) = (begun, live(begun));
    let error = loop {
        if let Err(error) = session.handle_lost(Line::Signalling, lost(), now) {
            break error;
        }
        drain(&mut session);
        due(&mut session, &mut now);
        shake(&mut session, now);
    };
    assert!(matches!(&error, ConnectError::Lost { last, .. } if **last == lost()), "{error}");
    assert!(now - begun > 60 * S && now - begun <= GIVE_UP, "{:?}", now - begun);
}

#[test]
fn losses_an_hour_apart_are_each_the_first() {
    let mut now = Instant::now();
    let mut session = live(now);
    for _ in 0..20 {
        keep_alive(&mut session, now, now + 3600 * S);
        now += 3600 * S;
        session.handle_lost(Line::Media, lost(), now).unwrap();
        drain(&mut session);
        let (after, _) = due(&mut session, &mut now);
        assert_eq!(after, 3 * S);
        session.handle_opened(Line::Media, now);
        says(&mut session, Line::Media, granted(4), now).unwrap();
    }
}

#[test]
fn a_stream_that_people_stop_is_over_and_one_that_a_fault_stops_is_begun_anew() {
    for reason in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 20, 23, 26] {
        let mut session = live(Instant::now());
        says(&mut session, Line::Signalling, stopped(reason), Instant::now()).unwrap();
        let actions = drain(&mut session);
        assert_eq!((closed(&actions).len(), actions.last()), (2, Some(&Action::Ended)), "{reason}");
    }
    for reason in (10..=19).chain([24]) {
        let mut now = Instant::now();
        let mut session = live(now);
        says(&mut session, Line::Signalling, stopped(reason), now).unwrap();
        assert_eq!(closed(&drain(&mut session)).len(), 2, "{reason}");
        assert_eq!(opened(&due(&mut session, &mut now).1), [Line::Signalling]);
        // It has the stream no more.
        session.handle_opened(Line::Signalling, now);
        let gone = json!({"msg_type": 2, "status_code": 2, "reason": "no stream"});
        let error = says(&mut session, Line::Signalling, gone, now).unwrap_err();
        assert_eq!(error.cause(), Cause::MediaLost);
    }
}

#[test]
fn a_stream_that_was_ended_while_we_were_away_is_over() {
    let mut now = Instant::now();
    let mut session = live(now);
    session.handle_lost(Line::Signalling, lost(), now).unwrap();
    drain(&mut session);
    due(&mut session, &mut now);
    session.handle_opened(Line::Signalling, now);
    let gone = json!({"msg_type": 2, "status_code": 2, "reason": "no stream"});
    says(&mut session, Line::Signalling, gone, now).unwrap();
    assert_eq!(drain(&mut session).last(), Some(&Action::Ended));
}

#[test]
fn refusals_say_what_is_wrong_and_only_another_receiver_is_waited_for() {
    for (status, cause, waits) in [
        (2, Cause::NoSuchRoom, false),
        (3, Cause::AccessDenied, false),
        (8, Cause::RelayRefused, true),
        (40, Cause::NoSuchRoom, false),
        (5, Cause::RelayRefused, false),
    ] {
        let now = Instant::now();
        let mut session = Session::new(key(), URL.into(), 0.0, now);
        session.handle_opened(Line::Signalling, now);
        drain(&mut session);
        let reason = "with hush".repeat(100);
        let refused = json!({"msg_type": 2, "status_code": status, "reason": reason});
        match says(&mut session, Line::Signalling, refused, now) {
            Ok(()) => assert!(waits && !format!("{:?}", drain(&mut session)).contains("hush"), "{status}"),
            Err(error) => {
                assert!(!waits && error.cause() == cause, "{status}: {error}");
                assert!(!error.to_string().contains("hush"), "{error}");
            }
        }
    }
}

#[test]
fn people_are_told_by_events_and_by_their_voices() {
    let now = Instant::now();
    let mut session = live(now);
    let id = |id| ParticipantId::new(id).unwrap();
    let joined = |who, name: &str| Action::Person(Change::Joined { id: id(who), name: Some(name.into()) });
    let participants = json!([{"user_id": 1, "user_name": "Ada"}, {"user_id": 2, "user_name": "Bob"}]);
    let come = json!({"msg_type": 6, "event": {"event_type": 3, "timestamp": 5, "participants": participants}});
    says(&mut session, Line::Signalling, come, now).unwrap();
    assert_eq!(drain(&mut session), [joined("1", "Ada"), joined("2", "Bob")]);
    let content = json!({"user_id": 3, "user_name": "Eve", "data": "CAAA", "timestamp": 5});
    says(&mut session, Line::Media, json!({"msg_type": 14, "content": content}), now).unwrap();
    let actions = drain(&mut session);
    assert!(actions[0] == joined("3", "Eve") && matches!(actions[1], Action::Audio(_)), "{actions:?}");
    let gone = json!({"msg_type": 6, "event": {"event_type": 4, "timestamp": 9, "participants": [{"user_id": 2}]}});
    says(&mut session, Line::Signalling, gone, now).unwrap();
    assert_eq!(drain(&mut session), [Action::Person(Change::Left { id: id("2") })]);
}

#[test]
fn a_flood_of_messages_ends_the_stay_and_audio_is_none() {
    let now = Instant::now();
    let mut session = live(now);
    let content = json!({"user_id": 3, "data": "CAAA", "timestamp": 5});
    let audio = json!({"msg_type": 14, "content": content}).to_string();
    for _ in 0..9000 {
        session.handle_message(Line::Media, audio.as_bytes(), now).unwrap();
        drain(&mut session);
    }
    let other = json!({"msg_type": 9}).to_string();
    let flood = (0..=MAX_MESSAGES).find_map(|_| session.handle_message(Line::Signalling, other.as_bytes(), now).err());
    assert_eq!(flood.unwrap().cause(), Cause::RelayProtocol);
}
