//! A stay in a LiveKit room as a listener sees it, without any I/O.
//!
//! ```text
//! join ------> subscribe to all audio; offer a section for each -> answer
//!              more of it: subscribe -> the server wants sections -> offer -> answer
//! lost ------> media go on -> reconnect, the whole roster -> what was under way once more
//! ```
//!
//! Where the server is asked for one connection (`/rtc/v1`) we offer, and where not (`/rtc`) it does.
//! <https://docs.livekit.io/reference/internals/client-protocol/>.
//!
//! The caller feeds messages, our descriptions and the time, and then polls until there is no more: it sends every
//! [`Action::Send`], and does what the others say.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use mesh::wire::{cause::Cause, request::Secret};
use prost::Message;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::{
    super::{ConnectError, IceServer, Meaning, ice_server::MAX_SERVERS},
    message::{self, Ask, Description, Join, Leave, Moved, Reason, Said, SignalRequest, Target, Update},
    people::{Change, MAX_TRACKS, People, Whose},
};

/// From the open socket to the server's first word.
const JOIN_DEADLINE: Duration = Duration::from_secs(10);

/// For the answer to an offer of ours.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// What a server may ask for, in seconds: pings each so often, and for an answer so long.
const PINGS: std::ops::RangeInclusive<u64> = 1..=120;

/// Offers, either side's, in [`OFFER_WINDOW`]; one that goes on for ever is left. A full room that breaks up makes some 500.
const MAX_OFFERS: u32 = 600;

/// See [`MAX_OFFERS`].
const OFFER_WINDOW: Duration = Duration::from_secs(60);

/// Late candidates of the server's between two descriptions; more are passed over.
const MAX_CANDIDATES: usize = 32;

/// The longest token a server may give us, in bytes.
const MAX_TOKEN: usize = 8192;

/// Who offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offers {
    /// We, with as many sections as the server wants to send on.
    Ours,
    /// The server.
    Theirs,
}

/// What the caller has to do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    /// Send this message.
    Send(Vec<u8>),
    /// We are in the room.
    Entered,
    /// TURN servers to go through.
    Servers(Vec<IceServer>),
    /// Somebody is new, or not there any more.
    Person(Change),
    /// Make an offer with so many sections, where `restart` for a new path, and give it to [`Room::handle_offer`].
    Offer { sections: usize, restart: bool },
    /// This is the answer.
    Accept { answer: String, whose: Whose },
    /// Answer this offer, and give the answer to [`Room::handle_answer`].
    Answer { offer: String, whose: Whose },
    /// Late candidate of the server's, as in `a=candidate`.
    Candidate(String),
    /// Come back with this token.
    Token(Secret),
    /// Join there instead.
    Elsewhere(String),
    /// Open the signalling anew and go on.
    Resume,
    /// The room is no more, or we are not wanted in it.
    Ended,
}

/// Where signalling stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The first word of the server's is awaited, until then.
    Joining(Instant),
    /// All goes its way.
    In,
    /// Signalling is lost, and media may go on.
    Lost,
    /// It is there again, and the server's word on whether we go on is awaited, until then.
    Resuming(Instant),
}

/// The state of one stay.
#[derive(Debug)]
pub(super) struct Room {
    offers: Offers,
    stage: Stage,
    people: People,
    /// Tracks that were asked for.
    held: BTreeSet<String>,
    /// The next roster is the whole of it.
    whole: bool,
    /// Sections that our last offer had, and those that are wanted besides.
    sections: usize,
    more: usize,
    /// An offer of ours is wanted, for a new path where `restart`; it waits for the one under way, and that for its answer.
    wanted: bool,
    restart: bool,
    awaited: Option<Instant>,
    number: u32,
    /// Offers in the window that began then.
    counted: (u32, Instant),
    /// Late candidates since the last description.
    candidates: usize,
    /// Descriptions last exchanged.
    offer: Option<Description>,
    answer: Option<Description>,
    pings: Option<Pings>,
    begun: Instant,
    actions: VecDeque<Action>,
}

/// Whether the server is there, by its answers.
#[derive(Debug)]
struct Pings {
    interval: Duration,
    timeout: Duration,
    next: Instant,
    /// An answer is awaited, until then.
    answer_by: Option<Instant>,
    /// In milliseconds.
    rtt: i64,
}

/// A candidate as browsers write it.
#[derive(Deserialize)]
struct CandidateInit {
    candidate: String,
}

impl Room {
    /// Begins a stay: the socket is open.
    pub(super) fn new(offers: Offers, now: Instant) -> Self {
        Self {
            offers,
            stage: Stage::Joining(now + JOIN_DEADLINE),
            people: People::default(),
            held: BTreeSet::new(),
            whole: false,
            sections: 0,
            more: 0,
            wanted: false,
            restart: false,
            awaited: None,
            number: 0,
            counted: (0, now),
            candidates: 0,
            offer: None,
            answer: None,
            pings: None,
            begun: now,
            actions: VecDeque::new(),
        }
    }

    /// Takes a message of the server's.
    ///
    /// # Errors
    /// It makes no sense, or the server does not go on with us.
    pub(super) fn handle_message(&mut self, bytes: &[u8], now: Instant) -> Result<(), ConnectError> {
        let response = message::read(bytes).map_err(|why| bad("LiveKit message", why.into()))?;
        if let Some(said) = response.message {
            self.handle_said(said, now)?;
        }
        self.reconcile(now)
    }

    /// Takes our offer, which was asked for.
    pub(super) fn handle_offer(&mut self, sdp: String) {
        self.number += 1;
        let offer = Description { kind: "offer".into(), sdp, id: self.number, ..Description::default() };
        self.offer = Some(offer.clone());
        self.send(Ask::Offer(offer));
    }

    /// Takes our answer to the server's offer last polled.
    pub(super) fn handle_answer(&mut self, sdp: String) {
        let id = self.offer.as_ref().map_or(0, |offer| offer.id);
        let answer = Description { kind: "answer".into(), sdp, id, ..Description::default() };
        self.answer = Some(answer.clone());
        self.send(Ask::Answer(answer));
    }

    /// Tells a candidate of ours that no description has, as in `a=candidate`.
    pub(super) fn handle_candidate(&mut self, candidate: &str) {
        // All is on the first section's transport (RFC 8843).
        let init = json!({ "candidate": format!("candidate:{candidate}"), "sdpMid": "0", "sdpMLineIndex": 0 });
        let trickle = message::Trickle { candidate: init.to_string(), target: self.target() as i32 };
        self.send(Ask::Trickle(trickle));
    }

    /// The server is silent on the media path: another path is wanted. Where the server offers it is its to offer one.
    ///
    /// # Errors
    /// As [`Room::handle_message`].
    pub(super) fn handle_silence(&mut self, now: Instant) -> Result<(), ConnectError> {
        if self.offers == Offers::Ours {
            (self.wanted, self.restart) = (true, true);
        }
        self.reconcile(now)
    }

    /// Signalling is lost.
    pub(super) fn handle_lost(&mut self) {
        self.stage = Stage::Lost;
        self.pings = None;
        // Whether it was taken nobody knows; to offer the same twice does no harm.
        self.wanted |= self.awaited.take().is_some();
        self.actions.retain(|action| !matches!(action, Action::Send(_)));
    }

    /// It is there again.
    pub(super) fn handle_back(&mut self, now: Instant) {
        self.stage = Stage::Resuming(now + JOIN_DEADLINE);
    }

    /// Does what is due.
    ///
    /// # Errors
    /// The server has not said in time what it was to.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Result<(), ConnectError> {
        let late = |what, after| Err(ConnectError::Timeout { what, after });
        if let Stage::Joining(by) | Stage::Resuming(by) = self.stage
            && by <= now
        {
            return late("the room to be entered", JOIN_DEADLINE);
        }
        if self.awaited.is_some_and(|by| by <= now) {
            return late("an answer to our offer", ANSWER_DEADLINE);
        }
        let clock = self.clock(now);
        if let Some(pings) = &mut self.pings {
            if pings.answer_by.is_some_and(|by| by <= now) {
                return late("an answer to a ping", pings.timeout);
            }
            if pings.next <= now {
                pings.next = now + pings.interval;
                pings.answer_by.get_or_insert(now + pings.timeout);
                let rtt = pings.rtt;
                self.send(Ask::Ping(message::Ping { timestamp: clock, rtt }));
            }
        }
        self.reconcile(now)
    }

    /// When to call [`Room::handle_timeout`] at the latest.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let stage = match self.stage {
            Stage::Joining(by) | Stage::Resuming(by) => Some(by),
            Stage::In | Stage::Lost => None,
        };
        let pings = self.pings.as_ref().map(|pings| pings.answer_by.map_or(pings.next, |by| by.min(pings.next)));
        [stage, self.awaited, pings].into_iter().flatten().min()
    }

    /// What to do next.
    pub(super) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Whether, as far as the server says, nobody publishes anything that we could hear.
    pub(super) fn is_silent(&self) -> bool {
        self.people.are_silent()
    }

    /// What we are called in this stay: to come back, it must be named.
    pub(super) fn sid(&self) -> &str {
        self.people.us()
    }

    /// Says that we leave; true if the server knows us.
    pub(super) fn leave(&mut self) -> bool {
        self.actions.clear();
        let known = self.stage == Stage::In;
        if known {
            let reason = Reason::ClientInitiated as i32;
            self.send(Ask::Leave(Leave { reason, ..Leave::default() }));
        }
        known
    }

    fn handle_said(&mut self, said: Said, now: Instant) -> Result<(), ConnectError> {
        match said {
            Said::Join(join) if matches!(self.stage, Stage::Joining(_)) => self.handle_join(join, now),
            Said::Join(_) => return Err(bad("LiveKit message", "it lets us in a second time".into())),
            Said::Reconnect(back) if matches!(self.stage, Stage::Resuming(_)) => {
                (self.stage, self.whole) = (Stage::In, true);
                self.servers(back.ice_servers);
                self.sync();
            }
            Said::Leave(leave) => return self.handle_leave(leave),
            _ if self.stage != Stage::In => {}
            Said::Answer(answer) => self.handle_their_answer(answer),
            Said::Offer(offer) => return self.handle_their_offer(offer, now),
            Said::Trickle(trickle) => self.handle_trickle(&trickle),
            Said::Update(update) => self.handle_update(update),
            Said::Moved(moved) => self.handle_moved(moved),
            Said::Token(token) => self.handle_token(token),
            // Said only of what it does not send us; 0 is a cause that has no number.
            Said::Unsubscribed(response) => {
                self.held.remove(&response.track);
                let change = self.people.refuse(&response.track);
                self.actions.extend(change.map(Action::Person));
            }
            Said::Sections(sections) => {
                self.more = self.more.saturating_add(sections.audios as usize);
                self.wanted = true;
            }
            Said::Pong(pong) => {
                let clock = self.clock(now);
                if let Some(pings) = &mut self.pings {
                    pings.answer_by = None;
                    pings.rtt = clock.saturating_sub(pong.last_ping).max(0);
                }
            }
            Said::Reconnect(_) => {}
        }
        Ok(())
    }

    fn handle_join(&mut self, join: Join, now: Instant) {
        if !join.alternative_url.is_empty() {
            self.actions.push_back(Action::Elsewhere(join.alternative_url));
            return;
        }
        self.stage = Stage::In;
        self.people.set_us(join.us.map(|us| us.sid).unwrap_or_default());
        let seconds = |n: i32| u64::try_from(n).ok().filter(|n| *n > 0).map(|n| n.clamp(*PINGS.start(), *PINGS.end()));
        self.pings = seconds(join.ping_interval).zip(seconds(join.ping_timeout)).map(|(interval, timeout)| Pings {
            interval: Duration::from_secs(interval),
            timeout: Duration::from_secs(timeout),
            next: now + Duration::from_secs(interval),
            answer_by: None,
            rtt: 0,
        });
        self.servers(join.ice_servers);
        self.actions.push_back(Action::Entered);
        let changes = self.people.replace(join.others);
        self.actions.extend(changes.into_iter().map(Action::Person));
        self.wanted = self.offers == Offers::Ours;
        self.more = self.people.voices().len().max(1);
    }

    fn handle_update(&mut self, update: Update) {
        let changes = match std::mem::take(&mut self.whole) {
            true => self.people.replace(update.participants),
            false => update.participants.into_iter().filter_map(|info| self.people.handle(info)).collect(),
        };
        self.actions.extend(changes.into_iter().map(Action::Person));
    }

    /// We are in another room from now on.
    fn handle_moved(&mut self, moved: Moved) {
        self.people.set_us(moved.us.map(|us| us.sid).unwrap_or_default());
        self.held.clear();
        self.handle_token(moved.token);
        let changes = self.people.replace(moved.others);
        self.actions.extend(changes.into_iter().map(Action::Person));
    }

    fn handle_token(&mut self, token: String) {
        if (1..=MAX_TOKEN).contains(&token.len()) {
            self.actions.push_back(Action::Token(Secret(token)));
        }
    }

    fn handle_leave(&mut self, leave: Leave) -> Result<(), ConnectError> {
        let reason = leave.reason();
        match leave.action() {
            message::Action::Resume => self.actions.push_back(Action::Resume),
            message::Action::Reconnect => return Err(out(reason, true)),
            message::Action::Disconnect if leave.can_reconnect => return Err(out(reason, true)),
            message::Action::Disconnect => match reason {
                Reason::RoomDeleted | Reason::RoomClosed | Reason::ParticipantRemoved => {
                    self.actions.push_back(Action::Ended);
                }
                _ => return Err(out(reason, reason != Reason::DuplicateIdentity)),
            },
        }
        Ok(())
    }

    fn handle_their_answer(&mut self, answer: Description) {
        // One to an offer before the last is of no use: that will have an answer too.
        let ours = answer.id == 0 || answer.id == self.number;
        if self.offers == Offers::Theirs || !ours || self.awaited.take().is_none() {
            return;
        }
        self.candidates = 0;
        let whose = self.people.whose(&answer.tracks_by_mid);
        self.answer = Some(answer.clone());
        self.actions.push_back(Action::Accept { answer: answer.sdp, whose });
    }

    fn handle_their_offer(&mut self, offer: Description, now: Instant) -> Result<(), ConnectError> {
        if self.offers == Offers::Ours {
            return Ok(());
        }
        self.count_offer(now)?;
        self.candidates = 0;
        let whose = self.people.whose(&offer.tracks_by_mid);
        self.offer = Some(offer.clone());
        self.actions.push_back(Action::Answer { offer: offer.sdp, whose });
        Ok(())
    }

    fn handle_trickle(&mut self, trickle: &message::Trickle) {
        if trickle.target() == self.target()
            && self.candidates < MAX_CANDIDATES
            && let Ok(CandidateInit { candidate }) = serde_json::from_str(&trickle.candidate)
        {
            self.candidates += 1;
            self.actions.push_back(Action::Candidate(candidate));
        }
    }

    fn target(&self) -> Target {
        match self.offers {
            Offers::Ours => Target::Publisher,
            Offers::Theirs => Target::Subscriber,
        }
    }

    fn servers(&mut self, servers: Vec<message::IceServer>) {
        let each = servers.into_iter().flat_map(|server| {
            let message::IceServer { urls, username, credential } = server;
            let of = move |url| IceServer { url, username: username.clone(), credential: Secret(credential.clone()) };
            urls.into_iter().take(MAX_SERVERS).map(of)
        });
        let usable: Vec<IceServer> = each.filter(|server| server.parse().is_ok()).take(MAX_SERVERS).collect();
        if !usable.is_empty() {
            self.actions.push_back(Action::Servers(usable));
        }
    }

    /// What the server needs where it is another than before.
    fn sync(&mut self) {
        let subscription = message::Subscription { tracks: self.held.iter().cloned().collect(), subscribe: true };
        let (answer, offer) = (self.answer.clone(), self.offer.clone());
        self.send(Ask::Sync(message::Sync { answer, subscription: Some(subscription), offer }));
    }

    /// Brings what is subscribed to, and what is offered, to what there is; one exchange at a time.
    fn reconcile(&mut self, now: Instant) -> Result<(), ConnectError> {
        if self.stage != Stage::In {
            return Ok(());
        }
        let voices: BTreeSet<String> = self.people.voices().into_iter().map(str::to_owned).collect();
        let missing: Vec<String> = voices.difference(&self.held).cloned().collect();
        // Of what is not there any more the server forgets by itself that we had it.
        self.held = voices;
        if !missing.is_empty() {
            self.send(Ask::Subscription(message::Subscription { tracks: missing, subscribe: true }));
        }
        if !self.wanted || self.awaited.is_some() {
            return Ok(());
        }
        self.count_offer(now)?;
        self.wanted = false;
        self.sections = self.sections.saturating_add(std::mem::take(&mut self.more)).min(MAX_TRACKS);
        self.awaited = Some(now + ANSWER_DEADLINE);
        let restart = std::mem::take(&mut self.restart);
        self.actions.push_back(Action::Offer { sections: self.sections, restart });
        Ok(())
    }

    fn count_offer(&mut self, now: Instant) -> Result<(), ConnectError> {
        let (count, since) = self.counted;
        let (count, since) = if now - since >= OFFER_WINDOW { (0, now) } else { (count, since) };
        self.counted = (count + 1, since);
        if self.counted.0 <= MAX_OFFERS {
            return Ok(());
        }
        Err(bad("number of offers", format!("over {MAX_OFFERS} within {OFFER_WINDOW:?}")))
    }

    fn clock(&self, now: Instant) -> i64 {
        i64::try_from((now - self.begun).as_millis()).unwrap_or(i64::MAX)
    }

    fn send(&mut self, ask: Ask) {
        let bytes = SignalRequest { message: Some(ask) }.encode_to_vec();
        self.actions.push_back(Action::Send(bytes));
    }
}

fn bad(what: &'static str, why: String) -> ConnectError {
    ConnectError::BadMessage { what, why }
}

/// The server has us out of the room, for good or to come back.
fn out(reason: Reason, is_transient: bool) -> ConnectError {
    let cause = if is_transient { Cause::RelayUnreachable } else { Cause::RelayRefused };
    let meaning = Meaning { words: "", cause, is_transient };
    let (code, reason) = (i64::from(reason as i32), words(reason).into());
    ConnectError::Signalling { relay: "LiveKit", request: "our stay", code, meaning, reason }
}

/// Why we are out, for whoever asked for the meeting.
fn words(reason: Reason) -> &'static str {
    match reason {
        Reason::DuplicateIdentity => "another has joined under our identity",
        Reason::ServerShutdown => "the server goes down",
        Reason::ParticipantRemoved => "we were removed",
        Reason::RoomDeleted | Reason::RoomClosed => "the room is closed",
        Reason::StateMismatch => "the server knows nothing of our stay",
        Reason::JoinFailure => "no connection for us came about, or the room is full",
        Reason::Migration => "another server is to be joined",
        Reason::ConnectionTimeout => "our connection was lost to the server",
        Reason::SignalClose => "the server has lost its signalling",
        _ => "it gives no reason",
    }
}

#[cfg(test)]
mod tests;
