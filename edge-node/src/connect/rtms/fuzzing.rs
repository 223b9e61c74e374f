//! What Zoom's servers may say: see `crate::fuzzing`.
#![allow(clippy::disallowed_methods, reason = "for tests: a beginning for virtual time")]

use std::{collections::BTreeSet, time::Duration};

use mesh::{clock::Micros, wire::request::Secret};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    super::ConnectError,
    key::Key,
    people::Change,
    session::{Action, Line, Session},
    voices::Voices,
};

/// Our wall clock at the beginning.
const WALL: Micros = Micros(1_738_392_033_000_000);

/// Messages behind two bytes of length: of those with the longest bit set they come on the media connection, and of those of no
/// length a connection is lost. Ten milliseconds go by with each, with the next bit set ten seconds. No participant leaves who has
/// not joined; a connection is never open twice; and no sound is of the future, or of before a connection could keep it.
pub(crate) fn messages(mut data: &[u8]) {
    let key = Key {
        meeting_uuid: "m".into(),
        stream_id: "s".into(),
        client_id: "c".into(),
        client_secret: Secret("hush".into()),
    };
    let begun = Instant::now() + Duration::from_secs(86_400);
    let mut now = begun;
    let mut world = World {
        session: Session::new(key, "wss://zoom.example".into(), 0.5, now),
        voices: Voices::new(now.into_std(), WALL),
        here: BTreeSet::new(),
        open: BTreeSet::new(),
    };
    if world.act(now).is_err() {
        return;
    }
    while let Some((length, rest)) = data.split_first_chunk::<2>() {
        let length = u16::from_le_bytes(*length);
        let (message, rest) = rest.split_at(usize::from(length & 0x3FFF).min(rest.len()));
        data = rest;
        now += Duration::from_millis(if length & 0x4000 == 0 { 10 } else { 10_000 });
        let line = if length & 0x8000 == 0 { Line::Signalling } else { Line::Media };
        if world.step(line, message, now).is_err() {
            break;
        }
    }
}

struct World {
    session: Session,
    voices: Voices,
    here: BTreeSet<String>,
    open: BTreeSet<bool>,
}

impl World {
    fn step(&mut self, line: Line, message: &[u8], now: Instant) -> Result<(), ConnectError> {
        let media = line == Line::Media;
        if message.is_empty() {
            if self.open.remove(&media) {
                let error = ConnectError::MediaLost("fuzz".into());
                self.session.handle_lost(line, error, now)?;
            }
        } else if self.open.contains(&media) {
            self.session.handle_message(line, message, now)?;
        }
        self.act(now)?;
        self.session.handle_timeout(now)?;
        self.act(now)?;
        if let Some(at) = self.session.poll_timeout() {
            assert!(at > now, "a deadline is met again and again");
        }
        while let Some(packet) = self.voices.poll_packet(now.into_std()) {
            assert!(packet.arrived <= now.into_std(), "it is of the future");
            assert!(now.into_std() - packet.arrived <= Duration::from_secs(700));
        }
        Ok(())
    }

    fn act(&mut self, now: Instant) -> Result<(), ConnectError> {
        while let Some(action) = self.session.poll_action() {
            match action {
                Action::Open(line, _) => {
                    // It closes what was there.
                    self.open.insert(line == Line::Media);
                    self.session.handle_opened(line, now);
                }
                Action::Close(line) => drop(self.open.remove(&(line == Line::Media))),
                Action::Send(line, text) => {
                    assert!(self.open.contains(&(line == Line::Media)), "sent to nobody");
                    assert!(!text.contains("hush"));
                }
                Action::Live(format) => self.voices.handle_format(format),
                Action::Person(Change::Joined { id, .. }) => drop(self.here.insert(id.to_string())),
                Action::Person(Change::Left { id }) => assert!(self.here.remove(id.as_str()), "{id} had not joined"),
                Action::Audio(audio) => self.voices.handle_audio(audio, now.into_std()),
                Action::Time(time) => self.voices.handle_time(time, now.into_std()),
                Action::Lost(_) => {}
                Action::Ended => return Err(ConnectError::Closed),
            }
        }
        assert!(self.here.len() <= 1000);
        Ok(())
    }
}

/// What Zoom says in a usual meeting, as [`messages`] takes it: with sound in Opus, or in linear samples.
pub(crate) fn session(opus: bool) -> Vec<u8> {
    const TIME: u64 = 1_738_392_033_000;
    let urls = json!({"audio": "wss://media.example", "all": "wss://all.example"});
    let codec = if opus { json!({"codec": 4, "sample_rate": 3, "channel": 2}) } else { json!({"codec": 1}) };
    let event = |kind: u8, more: Value| {
        let mut event = json!({"event_type": kind, "timestamp": TIME});
        event.as_object_mut().into_iter().for_each(|event| event.extend(more.as_object().cloned().unwrap_or_default()));
        (0, json!({"msg_type": 6, "event": event}))
    };
    let audio = |user: u64, n: u64| {
        let data = if opus { "CAAA".into() } else { "AAAA".repeat(160) };
        let content = json!({"user_id": user, "user_name": "Ada", "data": data, "timestamp": TIME - 1000 + n * 20});
        (MEDIA, json!({"msg_type": 14, "content": content}))
    };
    let mut said = vec![
        (0, json!({"msg_type": 2, "status_code": 0, "reason": "", "media_server": {"server_urls": urls}})),
        event(1, json!({})),
        event(3, json!({"participants": [{"user_id": 16778240, "user_name": "Ada"}, {"user_id": "7"}]})),
    ];
    if !opus {
        said.push((MEDIA, json!({"msg_type": 4, "status_code": 22, "reason": "codec"})));
    }
    said.push((MEDIA, json!({"msg_type": 4, "status_code": 0, "media_params": {"audio": codec}})));
    said.extend((0..4).map(|n| audio(16_778_240, n)));
    said.push((0, json!({"msg_type": 12, "timestamp": TIME + 100})));
    said.push((MEDIA, json!({"msg_type": 12, "timestamp": TIME + 110})));
    said.push(event(2, json!({"user_id": 7, "user_name": "Bob"})));
    said.push(audio(7, 50));
    said.push(event(7, json!({})));
    said.push((LATER, json!({"msg_type": 9, "state": 3, "timestamp": TIME})));
    said.push((MEDIA, json!({"msg_type": 4, "status_code": 0, "media_params": {"audio": codec}})));
    said.push(audio(7, 700));
    said.push(event(4, json!({"participants": [{"user_id": 7}]})));
    said.push((0, Value::Null));
    said.push((LATER, json!({"msg_type": 2, "status_code": 8, "reason": "duplicate"})));
    said.push((0, json!({"msg_type": 8, "state": 4, "reason": 6})));
    let framed = said.into_iter().flat_map(|(flags, message)| {
        let message = if message.is_null() { String::new() } else { message.to_string() };
        [&(message.len() as u16 | flags).to_le_bytes()[..], message.as_bytes()].concat()
    });
    framed.collect()
}

const MEDIA: u16 = 0x8000;
const LATER: u16 = 0x4000;
