//! A stay in a Zoom meeting by its two connections, without any I/O.
//!
//! ```text
//! signalling:  open -> handshake -> where media are; events are asked for
//! media:                             open -> handshake -> ready (said on the signalling) -> audio
//!
//! media lost, interrupted, or silent      -> media anew
//! signalling lost, or silent              -> both anew
//! stream stopped by a fault               -> both anew
//! stream stopped by people                -> the end
//! ```
//!
//! <https://developers.zoom.us/docs/rtms/meetings/work-with-streams/#failover-and-reconnection>. Zoom takes one connection of each
//! kind: there is never a second one of ours, and a lost one is closed before another is opened.
//!
//! The caller says what became of the connections, hands on what comes on them and the time, and does what [`Action`]s say, until
//! there is none.

use std::{collections::VecDeque, time::Duration};

use mesh::wire::cause::Cause;
use tokio::time::Instant;

use super::{
    super::{
        ConnectError,
        error::{Meaning, cut},
        retries::GIVE_UP,
        stay::STEADY,
    },
    key::Key,
    message::{self, Audio, Event, Format, Said},
    people::{Change, People},
};

/// From an open connection to the answer to our handshake.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// Zoom asks every 10 s whether we are there, and recommends to begin anew after three that did not come.
const SILENCE: Duration = Duration::from_secs(30);

/// What Zoom recommends: 3 s, twice as long each time, up to 30 s.
const FIRST_DELAY: Duration = Duration::from_secs(3);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// Tries in a row to have the media connection back on the same signalling. Zoom ends a stream that has been without for 30 s.
const MEDIA_TRIES: u32 = 3;

/// Messages that are not audio, in [`WINDOW`].
const MAX_MESSAGES: u32 = 3000;

/// See [`MAX_MESSAGES`].
const WINDOW: Duration = Duration::from_secs(10);

/// One of the two connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    Signalling,
    Media,
}

/// What the caller has to do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    /// Open this connection, having closed what was open of it.
    Open(Line, String),
    /// Close it.
    Close(Line),
    /// Send this on it.
    Send(Line, String),
    /// Media come like this from now on.
    Live(Format),
    /// They do not, and why.
    Lost(String),
    /// Somebody is new, or gone.
    Person(Change),
    /// Somebody's voice.
    Audio(Audio),
    /// So late it is there now, in milliseconds of Unix time.
    Time(u64),
    /// Zoom has ended the stream.
    Ended,
}

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Closed,
    /// To be opened then.
    Waiting(Instant),
    Opening,
    /// Our handshake is to be answered by then.
    Shaking(Instant),
    /// Since then, and when something was last heard.
    Up {
        since: Instant,
        heard: Instant,
    },
}

/// The state of one stay.
#[derive(Debug)]
pub(super) struct Session {
    key: Key,
    url: String,
    /// Where media are, as the signalling last said.
    media_url: Option<String>,
    format: Format,
    signalling: Stage,
    media: Stage,
    people: People,
    /// Tries since media last came for long, and since when they do not.
    tries: u32,
    lost_since: Instant,
    /// Media could come before.
    was_live: bool,
    /// A fault stopped the stream: by its number.
    stopped: Option<u64>,
    sequence: u32,
    /// From 0 to 1: so much longer than told are delays, by a fifth at most.
    spread: f64,
    /// Of what is not audio: messages in the window that began then.
    counted: (u32, Instant),
    actions: VecDeque<Action>,
}

impl Session {
    /// A stay that begins now. `spread`, from 0 to 1, decides what is left to chance.
    pub(super) fn new(key: Key, url: String, spread: f64, now: Instant) -> Self {
        let actions = VecDeque::from([Action::Open(Line::Signalling, url.clone())]);
        Self {
            key,
            url,
            media_url: None,
            format: Format::OPUS,
            signalling: Stage::Opening,
            media: Stage::Closed,
            people: People::default(),
            tries: 0,
            lost_since: now,
            was_live: false,
            stopped: None,
            sequence: 0,
            spread,
            counted: (0, now),
            actions,
        }
    }

    /// What is to be done.
    pub(super) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Session::handle_timeout`] is next wanted.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let due = |stage| match stage {
            Stage::Closed | Stage::Opening => None,
            Stage::Waiting(at) | Stage::Shaking(at) => Some(at),
            Stage::Up { heard, .. } => Some(heard + SILENCE),
        };
        [self.signalling, self.media].into_iter().filter_map(due).min()
    }

    /// A connection is open.
    pub(super) fn handle_opened(&mut self, line: Line, now: Instant) {
        let handshake = match line {
            Line::Signalling => message::signalling_handshake(&self.key, self.sequence),
            Line::Media => message::media_handshake(&self.key, self.sequence, self.format),
        };
        self.sequence = self.sequence.wrapping_add(1);
        *self.stage(line) = Stage::Shaking(now + HANDSHAKE_DEADLINE);
        self.actions.push_back(Action::Send(line, handshake));
    }

    /// A connection is lost, or could not be opened.
    ///
    /// # Errors
    /// It is not worth another try: what it was lost by.
    pub(super) fn handle_lost(&mut self, line: Line, error: ConnectError, now: Instant) -> Result<(), ConnectError> {
        match *self.stage(line) {
            Stage::Closed | Stage::Waiting(_) => Ok(()),
            _ => self.lose(line, error, now),
        }
    }

    /// A message has come.
    ///
    /// # Errors
    /// It is none, there are too many, or it says that there is nothing for us.
    pub(super) fn handle_message(&mut self, line: Line, text: &[u8], now: Instant) -> Result<(), ConnectError> {
        let said = message::read(text)?;
        let is_up = if let Stage::Up { heard, .. } = self.stage(line) {
            *heard = now;
            true
        } else {
            false
        };
        match (line, said) {
            (Line::Media, Said::Audio(audio)) if is_up => {
                let change = self.people.handle_heard(&audio.user, audio.time);
                self.actions.extend(change.map(Action::Person));
                self.actions.push_back(Action::Audio(audio));
                Ok(())
            }
            (_, said) => {
                self.count(now)?;
                self.handle_said(line, said, now)
            }
        }
    }

    fn handle_said(&mut self, line: Line, said: Said, now: Instant) -> Result<(), ConnectError> {
        match (line, said) {
            (_, Said::KeepAlive { time }) => {
                self.actions.push_back(Action::Time(time));
                self.actions.push_back(Action::Send(line, message::alive(time)));
            }
            (Line::Signalling, Said::Signalling { status, reason, media }) if is_shaking(self.signalling) => {
                return self.handle_signalling(status, &reason, media, now);
            }
            (Line::Media, Said::Media { status, reason, audio }) if is_shaking(self.media) => {
                return self.handle_media(status, &reason, audio, now);
            }
            (Line::Signalling, Said::Stream { state, reason }) => return self.handle_stream(state, reason, now),
            (Line::Signalling, Said::Event(event)) => return self.handle_event(event, now),
            _ => {}
        }
        Ok(())
    }

    /// A deadline has passed, or may have.
    ///
    /// # Errors
    /// As of [`Session::handle_lost`].
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Result<(), ConnectError> {
        for line in [Line::Signalling, Line::Media] {
            match *self.stage(line) {
                Stage::Waiting(at) if at <= now => self.open(line),
                Stage::Shaking(by) if by <= now => {
                    let error = ConnectError::Timeout { what: "its handshake", after: HANDSHAKE_DEADLINE };
                    self.lose(line, error, now)?;
                }
                Stage::Up { heard, .. } if heard + SILENCE <= now => {
                    self.lose(line, ConnectError::Timeout { what: "its keep-alive", after: SILENCE }, now)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn handle_signalling(
        &mut self,
        status: u64,
        reason: &str,
        media: Option<String>,
        now: Instant,
    ) -> Result<(), ConnectError> {
        if status != 0 {
            return self.refused("our joining", signalling_meaning(status), status, reason, now);
        }
        let bad = || ConnectError::BadMessage { what: "handshake", why: "it names no server for audio".into() };
        self.media_url = Some(media.ok_or_else(bad)?);
        self.signalling = Stage::Up { since: now, heard: now };
        self.actions.push_back(Action::Send(Line::Signalling, message::subscription()));
        self.open(Line::Media);
        Ok(())
    }

    fn handle_media(
        &mut self,
        status: u64,
        reason: &str,
        audio: Option<Format>,
        now: Instant,
    ) -> Result<(), ConnectError> {
        // What is wrong is told by many numbers, all of them about parameters.
        if (17..=24).contains(&status) && self.format == Format::OPUS {
            self.format = Format::L16;
            self.open(Line::Media);
            return Ok(());
        }
        if status != 0 {
            return self.refused("our asking for audio", media_meaning(status), status, reason, now);
        }
        let granted = audio.unwrap_or(self.format);
        check(granted)?;
        self.media = Stage::Up { since: now, heard: now };
        self.was_live = true;
        self.stopped = None;
        self.actions.push_back(Action::Send(Line::Signalling, message::ready(&self.key)));
        self.actions.push_back(Action::Live(granted));
        Ok(())
    }

    /// Zoom said no in a handshake.
    fn refused(
        &mut self,
        request: &'static str,
        meaning: Meaning,
        code: u64,
        reason: &str,
        now: Instant,
    ) -> Result<(), ConnectError> {
        let gone = meaning.cause == Cause::NoSuchRoom && self.was_live;
        if let (true, Some(stopped)) = (gone, self.stopped) {
            return Err(ConnectError::MediaLost(format!("Zoom stopped the stream ({stopped}) and has it no more")));
        }
        if gone {
            // It was ended while we were away.
            self.end();
            return Ok(());
        }
        let reason = cut(&reason.replace(&self.key.client_secret.0, "<secret>"), 200);
        let code = i64::try_from(code).unwrap_or(i64::MAX);
        let error = ConnectError::Signalling { relay: "Zoom", request, code, meaning, reason };
        self.lose(if request == "our joining" { Line::Signalling } else { Line::Media }, error, now)
    }

    fn handle_stream(&mut self, state: u64, reason: u64, now: Instant) -> Result<(), ConnectError> {
        const TERMINATING: u64 = 3;
        const TERMINATED: u64 = 4;
        if !matches!(state, TERMINATING | TERMINATED) {
            return Ok(());
        }
        if !is_fault(reason) {
            self.end();
            return Ok(());
        }
        if let Stage::Up { .. } = self.signalling {
            self.stopped = Some(reason);
            let error = ConnectError::MediaLost(format!("Zoom has stopped the stream ({reason})"));
            return self.lose(Line::Signalling, error, now);
        }
        Ok(())
    }

    fn handle_event(&mut self, event: Event, now: Instant) -> Result<(), ConnectError> {
        match event {
            Event::Here(users) => {
                let changes = users.into_iter().filter_map(|user| self.people.handle_here(user));
                self.actions.extend(changes.map(Action::Person));
            }
            Event::Gone { users, time } => {
                let changes = users.iter().filter_map(|user| self.people.handle_gone(user, time));
                self.actions.extend(changes.map(Action::Person));
            }
            Event::Interrupted => {
                let error = ConnectError::MediaLost("Zoom has lost it".into());
                return self.handle_lost(Line::Media, error, now);
            }
            Event::Other => {}
        }
        Ok(())
    }

    /// Tries again later.
    fn lose(&mut self, line: Line, error: ConnectError, now: Instant) -> Result<(), ConnectError> {
        if !error.is_transient() {
            return Err(error);
        }
        if let Stage::Up { since, .. } = self.media {
            if now - since >= STEADY {
                self.tries = 0;
            }
            if self.tries == 0 {
                self.lost_since = now;
            }
        }
        let doubled = FIRST_DELAY * 2u32.saturating_pow(self.tries.min(8));
        let delay = doubled.min(LONGEST_DELAY).mul_f64(1.0 + self.spread / 5.0);
        self.tries += 1;
        if now + delay > self.lost_since + GIVE_UP {
            return Err(ConnectError::Lost { tries: self.tries as usize, last: Box::new(error) });
        }
        self.actions.push_back(Action::Lost(error.to_string()));
        self.close(Line::Media);
        let again = Stage::Waiting(now + delay);
        if line == Line::Media && matches!(self.signalling, Stage::Up { .. }) && self.tries <= MEDIA_TRIES {
            self.media = again;
        } else {
            self.close(Line::Signalling);
            self.signalling = again;
        }
        Ok(())
    }

    fn open(&mut self, line: Line) {
        let url = match line {
            Line::Signalling => self.url.clone(),
            Line::Media => self.media_url.clone().unwrap_or_default(),
        };
        *self.stage(line) = Stage::Opening;
        self.actions.push_back(Action::Open(line, url));
    }

    fn close(&mut self, line: Line) {
        if !matches!(self.stage(line), Stage::Closed | Stage::Waiting(_)) {
            self.actions.push_back(Action::Close(line));
        }
        *self.stage(line) = Stage::Closed;
    }

    fn end(&mut self) {
        self.close(Line::Media);
        self.close(Line::Signalling);
        self.actions.push_back(Action::Ended);
    }

    /// One more message that is not audio.
    fn count(&mut self, now: Instant) -> Result<(), ConnectError> {
        let (count, since) = &mut self.counted;
        if now - *since >= WINDOW {
            (*count, *since) = (0, now);
        }
        *count += 1;
        if *count <= MAX_MESSAGES {
            return Ok(());
        }
        let why = format!("over {MAX_MESSAGES} within {WINDOW:?}");
        Err(ConnectError::BadMessage { what: "number of messages", why })
    }

    fn stage(&mut self, line: Line) -> &mut Stage {
        match line {
            Line::Signalling => &mut self.signalling,
            Line::Media => &mut self.media,
        }
    }
}

fn is_shaking(stage: Stage) -> bool {
    matches!(stage, Stage::Shaking(_))
}

/// Whether Zoom would have us come back: a connection was lost, or it had a fault of its own.
fn is_fault(reason: u64) -> bool {
    matches!(reason, 10..=19 | 24)
}

/// Whether it can be heard.
fn check(granted: Format) -> Result<(), ConnectError> {
    let codecs = match (granted.codec, granted.sample_rate, granted.channel) {
        (message::OPUS, ..) | (message::L16, 0 | 1 | 3, 1) => return Ok(()),
        (message::L16, _, 1) => "L16 of 32 kHz".into(),
        (message::L16, ..) => "L16 of two channels".into(),
        (2, ..) => "G.711".into(),
        (3, ..) => "G.722".into(),
        (other, ..) => format!("Zoom's codec {other}"),
    };
    Err(ConnectError::Codec { codecs })
}

/// <https://developers.zoom.us/docs/rtms/data-types/#rtms_status_code>
fn signalling_meaning(status: u64) -> Meaning {
    let (words, cause, is_transient) = match status {
        2 | 40 => ("there is no such stream: ", Cause::NoSuchRoom, false),
        3 => ("client id and secret are not this stream's: ", Cause::AccessDenied, false),
        8 => ("somebody else receives the stream: ", Cause::RelayRefused, true),
        _ => ("", Cause::RelayRefused, false),
    };
    Meaning { words, cause, is_transient }
}

/// The same to the media handshake.
fn media_meaning(status: u64) -> Meaning {
    match status {
        9 => Meaning { words: "the app may not have audio: ", cause: Cause::AccessDenied, is_transient: false },
        15 | 16 => Meaning { words: "somebody else receives it: ", cause: Cause::RelayRefused, is_transient: true },
        17..=24 => {
            Meaning { words: "in no form that can be heard: ", cause: Cause::CodecUnsupported, is_transient: false }
        }
        other => signalling_meaning(other),
    }
}

#[cfg(test)]
mod tests;
