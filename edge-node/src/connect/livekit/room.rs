//! A stay in a LiveKit room as a listener sees it, without any I/O.
//!
//! ```text
//! join ------> subscribe to all audio; offer a section for each -> answer
//!              more of it: subscribe -> the server wants sections -> offer -> answer
//! lost ------> media go on -> reconnect -> a roll call; an offer for another path -> answer
//! ```
//!
//! Where the server is asked for one connection (`/rtc/v1`) we offer, and where not (`/rtc`) it does.
//! <https://docs.livekit.io/reference/internals/client-protocol/>.
//!
//! The caller feeds messages, our descriptions and the time, and then polls until there is no more: it sends every
//! [`Action::Send`], and does what the others say.

mod leaving;
mod pings;

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use mesh::wire::request::Secret;
use prost::Message;
use tokio::time::Instant;

use super::{
    super::{ConnectError, IceServer, flood::Flood, ice_server::MAX_SERVERS},
    message::{self, Ask, Description, Join, Leave, Moved, Participant, Reason, Said, SignalRequest, Target, Update},
    people::{Change, MAX_TRACKS, People, Whose},
};
use leaving::{deaf, out};
use pings::Pings;

/// From the open socket to the server's first word.
const JOIN_DEADLINE: Duration = Duration::from_secs(10);

/// For the answer to an offer of ours, and for the first offer where the server makes it.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// From the server's word that we go on until whoever it has not named is gone: it names all at once, but may be telling changes
/// before that.
const ROLL_CALL: Duration = Duration::from_secs(5);

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
    /// We are in another room from now on.
    Moved,
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
    /// Tracks that were asked for, and how many that were in all.
    held: BTreeSet<String>,
    asked: usize,
    /// Whoever was here before signalling was lost is named until then, or gone.
    roll_by: Option<Instant>,
    /// Sections that our last offer had, and those that are wanted besides.
    sections: usize,
    more: usize,
    /// An offer of ours is wanted, for a new path where `restart`; it waits for the one under way, and that for its answer.
    wanted: bool,
    restart: bool,
    awaited: Option<Instant>,
    number: u32,
    flood: Flood,
    /// Late candidates since the last description.
    candidates: usize,
    /// Descriptions last exchanged.
    offer: Option<Description>,
    answer: Option<Description>,
    pings: Option<Pings>,
    begun: Instant,
    actions: VecDeque<Action>,
}

impl Room {
    /// Begins a stay: the socket is open.
    pub(super) fn new(offers: Offers, now: Instant) -> Self {
        Self {
            offers,
            stage: Stage::Joining(now + JOIN_DEADLINE),
            people: People::default(),
            held: BTreeSet::new(),
            asked: 0,
            roll_by: None,
            sections: 0,
            more: 0,
            wanted: false,
            restart: false,
            awaited: None,
            number: 0,
            flood: Flood::new(now),
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
        let trickle = message::Trickle::new(candidate, self.target());
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
        self.pings.iter_mut().for_each(Pings::pause);
        (self.awaited, self.roll_by) = (None, None);
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
            let what = if self.offers == Offers::Ours { "an answer to our offer" } else { "an offer of LiveKit's" };
            return late(what, ANSWER_DEADLINE);
        }
        if self.roll_by.take_if(|by| *by <= now).is_some() {
            let gone = self.people.end_roll();
            self.actions.extend(gone.into_iter().map(Action::Person));
        }
        let clock = self.clock(now);
        match self.pings.as_mut().map(|pings| pings.handle_timeout(now, clock)) {
            Some(Ok(Some(ping))) => self.send(Ask::Ping(ping)),
            Some(Err(after)) => return late("an answer to a ping", after),
            Some(Ok(None)) | None => {}
        }
        self.reconcile(now)
    }

    /// When to call [`Room::handle_timeout`] at the latest.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let stage = match self.stage {
            Stage::Joining(by) | Stage::Resuming(by) => Some(by),
            Stage::In | Stage::Lost => None,
        };
        let pings = self.pings.as_ref().and_then(Pings::poll_timeout);
        [stage, self.awaited, self.roll_by, pings].into_iter().flatten().min()
    }

    /// What to do next.
    pub(super) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
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
            Said::Join(join) if matches!(self.stage, Stage::Joining(_)) => return self.handle_join(join, now),
            Said::Join(_) if matches!(self.stage, Stage::Resuming(_)) => return Err(out(Reason::StateMismatch, true)),
            Said::Join(_) => return Err(bad("LiveKit message", "it lets us in a second time".into())),
            Said::Reconnect(back) if matches!(self.stage, Stage::Resuming(_)) => {
                self.servers(back.ice_servers);
                self.go_on(now);
            }
            Said::Leave(leave) => return self.handle_leave(leave),
            _ if self.stage != Stage::In => {}
            Said::Answer(answer) => self.handle_their_answer(answer),
            Said::Offer(offer) => return self.handle_their_offer(offer, now),
            Said::Trickle(trickle) => self.handle_trickle(&trickle),
            Said::Update(update) => return self.handle_update(update),
            Said::Moved(moved) => return self.handle_moved(moved),
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
                self.pings.iter_mut().for_each(|pings| pings.handle_pong(pong.last_ping, clock));
            }
            Said::Reconnect(_) => {}
        }
        Ok(())
    }

    fn handle_join(&mut self, join: Join, now: Instant) -> Result<(), ConnectError> {
        if !join.alternative_url.is_empty() {
            self.actions.push_back(Action::Elsewhere(join.alternative_url));
            return Ok(());
        }
        if join.us.as_ref().is_some_and(Participant::is_deaf) {
            return Err(deaf());
        }
        self.stage = Stage::In;
        self.pings = Pings::read(&join, now);
        self.people.set_us(join.us.map(|us| us.sid).unwrap_or_default());
        self.servers(join.ice_servers);
        self.actions.push_back(Action::Entered);
        let changes = self.people.replace(join.others);
        self.actions.extend(changes.into_iter().map(Action::Person));
        match self.offers {
            Offers::Ours => self.wanted = true,
            // It comes at once, with or without somebody to hear.
            Offers::Theirs => self.awaited = Some(now + ANSWER_DEADLINE),
        }
        self.more = self.people.voices().len().max(1);
        Ok(())
    }

    /// The server goes on with us.
    fn go_on(&mut self, now: Instant) {
        self.stage = Stage::In;
        self.pings.iter_mut().for_each(|pings| pings.resume(now));
        self.people.begin_roll();
        self.roll_by = Some(now + ROLL_CALL);
        self.sync();
        if self.offers == Offers::Ours {
            // An offer, its answer, or the wish for one may be lost: to this one the server says what it still wants. The
            // path may be another than before too, as LiveKit's own clients take it to be.
            (self.wanted, self.restart) = (true, true);
            self.more = self.more.max(self.people.voices().len().saturating_sub(self.sections));
        }
    }

    fn handle_update(&mut self, update: Update) -> Result<(), ConnectError> {
        let ours = update.participants.iter().find(|info| info.sid == self.people.us());
        if ours.is_some_and(Participant::is_deaf) {
            return Err(deaf());
        }
        let changes = update.participants.into_iter().filter_map(|info| self.people.handle(info));
        self.actions.extend(changes.map(Action::Person));
        Ok(())
    }

    /// We are in another room from now on.
    fn handle_moved(&mut self, moved: Moved) -> Result<(), ConnectError> {
        if moved.us.as_ref().is_some_and(Participant::is_deaf) {
            return Err(deaf());
        }
        self.people.set_us(moved.us.map(|us| us.sid).unwrap_or_default());
        self.held.clear();
        self.roll_by = None;
        self.actions.push_back(Action::Moved);
        self.handle_token(moved.token);
        let changes = self.people.replace(moved.others);
        self.actions.extend(changes.into_iter().map(Action::Person));
        Ok(())
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
        self.flood.count(now)?;
        (self.awaited, self.candidates) = (None, 0);
        let whose = self.people.whose(&offer.tracks_by_mid);
        self.offer = Some(offer.clone());
        self.actions.push_back(Action::Answer { offer: offer.sdp, whose });
        Ok(())
    }

    fn handle_trickle(&mut self, trickle: &message::Trickle) {
        if trickle.target() == self.target()
            && self.candidates < MAX_CANDIDATES
            && let Some(candidate) = trickle.read()
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
            self.asked = self.asked.saturating_add(missing.len());
            self.send(Ask::Subscription(message::Subscription { tracks: missing, subscribe: true }));
        }
        if !self.wanted || self.awaited.is_some() {
            return Ok(());
        }
        self.flood.count(now)?;
        self.check_sections()?;
        self.wanted = false;
        self.sections = self.sections.saturating_add(std::mem::take(&mut self.more)).min(MAX_TRACKS);
        self.awaited = Some(now + ANSWER_DEADLINE);
        let restart = std::mem::take(&mut self.restart);
        self.actions.push_back(Action::Offer { sections: self.sections, restart });
        Ok(())
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

#[cfg(test)]
mod tests;
