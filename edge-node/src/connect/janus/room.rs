//! A VideoRoom as a listener sees it, without any I/O.
//!
//! Two handles in one session: on the *roster* handle we join as a publisher that never publishes and
//! so hear who comes and goes; the *media* handle subscribes to their audio, all of it on one
//! WebRTC connection. Both are attached at once: the first voice is not to wait for another round trip.
//!
//! ```text
//! create -> attach -> join ---------------> in the room
//!       `-> attach    first voice: subscribe -> offer -> start
//!                     roster changed, and no exchange under way: update -> offer -> start
//! ```
//!
//! The caller feeds messages, our answers and the time, and then polls until there is no more: it
//! sends every [`Action::Send`] and answers every [`Action::Answer`].

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use mesh::wire::{cause::Cause, request::Secret};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    super::{ConnectError, error::cut, flood::Flood, sdp::codec_name},
    access::Access,
    message::{Candidate, Id, Incoming, Publisher, Room as RoomEvent},
    refusal::{self, NO_SUCH_FEED},
    requests::{Purpose, Requests},
};

/// Janus forgets a session after 60 s of silence.
const KEEPALIVE: Duration = Duration::from_secs(25);

/// Feeds subscribed to on one connection.
const MAX_FEEDS: usize = 500;

/// Publishers of one room; more are not taken in, and counted.
const MAX_PRESENT: usize = 1000;

/// The most that Janus's own words take in an error, in characters.
const MAX_REASON: usize = 200;

/// Before a failed subscription is tried again: the roster will know more by then.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Failed subscriptions in a row before the session is begun anew.
const MAX_RETRIES: u32 = 5;

/// What the caller has to do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    /// Send this text.
    Send(String),
    /// We are in the room.
    Entered,
    /// A participant sends, or has a new name.
    Joined {
        feed: Id,
        name: Option<String>,
        /// What they send, if none of it can be heard.
        unheard: Option<String>,
    },
    /// A participant sends no more.
    Left { feed: Id },
    /// Answer this offer: its sections carry these feeds. Then call [`Room::handle_answer`].
    Answer { offer: String, feeds: BTreeMap<String, Id> },
    /// A late candidate of the relay's.
    Candidate(Candidate),
    /// The room is no more, or we are not wanted in it.
    Ended,
}

/// Where the media handle stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Media {
    /// Not attached yet.
    None,
    /// Attached; the first subscription is yet to be made.
    Fresh(u64),
    /// Subscribed, whether to anything or not.
    Subscribed(u64),
}

/// One audio stream of one publisher.
type Feed = (Id, String);

/// The state of one session with one room.
#[derive(Debug)]
pub(super) struct Room {
    room: Id,
    display: String,
    requests: Requests,
    /// What Janus calls us towards ourselves only.
    private_id: Option<u64>,
    roster: Option<u64>,
    media: Media,
    /// Who publishes, and what of theirs cannot be heard, if nothing can.
    present: BTreeMap<Id, Option<String>>,
    wanted: BTreeSet<Feed>,
    held: BTreeSet<Feed>,
    /// Whose voice each section of our subscription carries.
    sections: BTreeMap<String, Id>,
    /// The media path is in doubt: another is wanted.
    restart: bool,
    /// A subscription or an offer is under way; the next waits for it.
    exchanging: bool,
    offers: Flood,
    retry_at: Option<Instant>,
    retries: u32,
    keepalive_at: Option<Instant>,
    actions: VecDeque<Action>,
}

impl Room {
    /// Begins a session.
    pub(super) fn new(room: Id, display: String, access: Access, now: Instant) -> Self {
        let mut this = Self {
            room,
            display,
            requests: Requests::new(access),
            private_id: None,
            roster: None,
            media: Media::None,
            present: BTreeMap::new(),
            wanted: BTreeSet::new(),
            held: BTreeSet::new(),
            sections: BTreeMap::new(),
            restart: false,
            exchanging: false,
            offers: Flood::new(now),
            retry_at: None,
            retries: 0,
            keepalive_at: None,
            actions: VecDeque::new(),
        };
        this.request(Purpose::Create, json!({ "janus": "create" }), now);
        this
    }

    /// Takes a text from Janus.
    ///
    /// # Errors
    /// Janus refuses what we need, has lost our session, or makes no sense.
    pub(super) fn handle_text(&mut self, text: &str, now: Instant) -> Result<(), ConnectError> {
        let message: Incoming = serde_json::from_str(text).map_err(|error| {
            tracing::debug!(%error, "Janus");
            // What it says instead is not repeated: what answered may be no Janus.
            let why = format!("it is not what Janus writes, at line {} column {}", error.line(), error.column());
            ConnectError::BadMessage { what: "Janus message", why }
        })?;
        self.handle_message(message, now)?;
        self.reconcile(now)
    }

    /// Takes our answer to the offer last polled.
    pub(super) fn handle_answer(&mut self, sdp: &str, now: Instant) {
        if let Media::Subscribed(handle) = self.media {
            let jsep = json!({ "type": "answer", "sdp": sdp });
            self.message(Purpose::Start, handle, json!({ "request": "start" }), Some(jsep), now);
        }
    }

    /// Tells a candidate of ours that no answer has, as in `a=candidate`.
    pub(super) fn handle_candidate(&mut self, candidate: &str, now: Instant) {
        if let Media::Subscribed(handle) = self.media {
            // All is on the first section's transport (RFC 8843).
            let candidate = json!({ "candidate": format!("candidate:{candidate}"), "sdpMLineIndex": 0 });
            self.request(
                Purpose::Trickle,
                json!({ "janus": "trickle", "handle_id": handle, "candidate": candidate }),
                now,
            );
        }
    }

    /// The relay is silent on the media path: asks for an ICE restart (RFC 8445 section 9), after the exchange under way.
    ///
    /// # Errors
    /// As [`Room::handle_timeout`].
    pub(super) fn handle_silence(&mut self, now: Instant) -> Result<(), ConnectError> {
        self.restart = matches!(self.media, Media::Subscribed(_));
        self.reconcile(now)
    }

    /// Does what is due.
    ///
    /// # Errors
    /// Janus has not answered a request in time.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Result<(), ConnectError> {
        self.requests.handle_timeout(now)?;
        if self.keepalive_at.is_some_and(|at| at <= now) {
            self.keepalive_at = Some(now + KEEPALIVE);
            self.request(Purpose::Keepalive, json!({ "janus": "keepalive" }), now);
        }
        self.reconcile(now)
    }

    /// Whether, as far as Janus says, nobody publishes anything that we could hear.
    pub(super) fn is_silent(&self) -> bool {
        self.wanted.is_empty()
    }

    /// When to call [`Room::handle_timeout`] at the latest.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [self.requests.poll_timeout(), self.keepalive_at, self.retry_at].into_iter().flatten().min()
    }

    /// What to do next.
    pub(super) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Asks Janus to forget us; true if it knows us.
    pub(super) fn leave(&mut self, now: Instant) -> bool {
        self.actions.clear();
        if self.requests.is_open() {
            self.request(Purpose::Destroy, json!({ "janus": "destroy" }), now);
        }
        self.requests.is_open()
    }

    /// Whether Janus has answered [`Room::leave`].
    pub(super) fn has_left(&self) -> bool {
        !self.requests.has(Purpose::Destroy)
    }

    fn handle_message(&mut self, message: Incoming, now: Instant) -> Result<(), ConnectError> {
        let purpose = self.requests.settle(&message);
        if let Some(error) = message.refusal() {
            return self.handle_refusal(purpose, error, now);
        }
        match message.janus.as_str() {
            "success" => self.handle_success(purpose, message.data.map(|data| data.id), now),
            "event" => return self.handle_event(message, now),
            "trickle" => self.actions.extend(message.candidate.map(Action::Candidate)),
            "timeout" => {
                let why = "Janus has dropped the session".into();
                return Err(ConnectError::Unreachable { cause: Cause::RelayUnreachable, why });
            }
            "hangup" | "detached" => return self.handle_hangup(message),
            // `ack`, `webrtcup`, `media`, `slowlink`: nothing to do.
            _ => {}
        }
        Ok(())
    }

    fn handle_refusal(
        &mut self,
        purpose: Option<Purpose>,
        (code, reason): (i64, String),
        now: Instant,
    ) -> Result<(), ConnectError> {
        match purpose {
            // It sees where our checks come from without being told.
            Some(Purpose::Destroy | Purpose::Trickle) => Ok(()),
            // It may come back by itself; if not, the connection fails and the session is begun anew.
            Some(Purpose::Restart) => {
                self.exchanging = false;
                Ok(())
            }
            Some(Purpose::Subscribe) if code == NO_SUCH_FEED && self.retries < MAX_RETRIES => {
                self.retries += 1;
                self.retry_at = Some(now + RETRY_PAUSE);
                self.exchanging = false;
                Ok(())
            }
            other => {
                let request = other.map_or("a message", Purpose::name);
                Err(refusal::refused(request, code, self.requests.access().mask(cut(&reason, MAX_REASON))))
            }
        }
    }

    fn handle_success(&mut self, purpose: Option<Purpose>, id: Option<u64>, now: Instant) {
        match (purpose, id) {
            (Some(Purpose::Create), Some(id)) => {
                self.requests.open(id);
                self.keepalive_at = Some(now + KEEPALIVE);
                self.attach(Purpose::AttachRoster, now);
                self.attach(Purpose::AttachMedia, now);
            }
            (Some(Purpose::AttachRoster), Some(id)) => {
                self.roster = Some(id);
                let mut body =
                    json!({ "request": "join", "ptype": "publisher", "room": self.room, "display": self.display });
                self.add_pin(&mut body);
                self.message(Purpose::Join, id, body, None, now);
            }
            (Some(Purpose::AttachMedia), Some(id)) => self.media = Media::Fresh(id),
            _ => {}
        }
    }

    fn handle_event(&mut self, message: Incoming, now: Instant) -> Result<(), ConnectError> {
        let Some(plugin) = message.plugindata else { return Ok(()) };
        let on_media = matches!(self.media, Media::Fresh(h) | Media::Subscribed(h) if message.sender == Some(h));
        if on_media {
            let offer = message.jsep.filter(|jsep| jsep.kind == "offer").map(|jsep| jsep.sdp);
            if offer.is_some() {
                self.offers.count(now)?;
            }
            self.handle_media(plugin.data, offer);
        } else {
            self.handle_roster(plugin.data)?;
        }
        Ok(())
    }

    fn handle_roster(&mut self, event: RoomEvent) -> Result<(), ConnectError> {
        self.private_id = event.private_id.or(self.private_id);
        if event.videoroom.as_deref() == Some("joined") {
            self.actions.push_back(Action::Entered);
        }
        // Of somebody who publishes nothing there is nothing to say.
        if let (Some(feed), Some(name)) = (event.id, event.display)
            && let Some(unheard) = self.present.get(&feed).cloned()
        {
            self.actions.push_back(Action::Joined { feed, name: Some(name), unheard });
        }
        for publisher in event.publishers.into_iter().flatten().filter(|publisher| !publisher.dummy) {
            if publisher.streams.is_empty() && publisher.audio_codec.is_some() {
                let why = "it has no `streams`: Janus 1.0 or later is needed".into();
                return Err(ConnectError::BadMessage { what: "list of publishers", why });
            }
            self.publishes(publisher);
        }
        // We leave by ending the session: if it is us who are `leaving`, we were kicked.
        let kicked = matches!(&event.leaving, Some(who) if self.is_us(who));
        if kicked || event.videoroom.as_deref() == Some("destroyed") {
            self.actions.push_back(Action::Ended);
        }
        for feed in [event.unpublished, event.leaving, event.kicked].into_iter().flatten() {
            self.is_gone(feed);
        }
        Ok(())
    }

    /// Janus calls us `ok`; so may somebody else be called where ids are texts.
    fn is_us(&self, who: &Id) -> bool {
        matches!(who, Id::Text(text) if text == "ok") && !self.present.contains_key(who)
    }

    fn publishes(&mut self, publisher: Publisher) {
        let feed = publisher.id;
        if self.present.len() >= MAX_PRESENT && !self.present.contains_key(&feed) {
            metrics::counter!("nearfield_edge_connect_participants_refused_total").increment(1);
            return;
        }
        self.wanted.retain(|(id, _)| *id != feed);
        let (mut voices, mut others) = (0, BTreeSet::new());
        for stream in publisher.streams.into_iter().filter(|stream| stream.kind == "audio" && !stream.disabled) {
            let Some(mid) = stream.mid else { continue };
            if let Some(codec) = stream.codec.filter(|codec| codec != "opus") {
                others.extend(codec_name(&codec));
                continue;
            }
            voices += 1;
            if self.wanted.len() >= MAX_FEEDS {
                metrics::counter!("nearfield_edge_connect_feeds_refused_total").increment(1);
                continue;
            }
            self.wanted.insert((feed.clone(), mid));
        }
        let unheard =
            (voices == 0 && !others.is_empty()).then(|| others.into_iter().take(4).collect::<Vec<_>>().join(", "));
        self.present.insert(feed.clone(), unheard.clone());
        self.actions.push_back(Action::Joined { feed, name: publisher.display, unheard });
    }

    fn is_gone(&mut self, feed: Id) {
        self.wanted.retain(|(id, _)| *id != feed);
        if self.present.remove(&feed).is_some() {
            self.actions.push_back(Action::Left { feed });
        }
    }

    fn handle_media(&mut self, event: RoomEvent, offer: Option<String>) {
        if let (Some("attached"), Media::Fresh(handle)) = (event.videoroom.as_deref(), self.media) {
            self.media = Media::Subscribed(handle);
        }
        if let Some(streams) = event.streams {
            self.held.clear();
            self.sections.clear();
            for stream in streams.into_iter().filter(|stream| stream.active) {
                let (Some(id), Some(feed_mid)) = (stream.feed_id, stream.feed_mid) else { continue };
                self.held.insert((id.clone(), feed_mid));
                self.sections.insert(stream.mid, id);
            }
        }
        match (event.videoroom.as_deref(), offer) {
            (_, Some(offer)) => {
                self.exchanging = true;
                self.actions.push_back(Action::Answer { offer, feeds: self.sections.clone() });
            }
            // Asked for what was there already: no offer will follow.
            (Some("updated"), None) => self.settled(),
            _ if event.started.is_some() => self.settled(),
            _ => {}
        }
    }

    fn settled(&mut self) {
        self.exchanging = false;
        self.retries = 0;
        self.retry_at = None;
    }

    fn handle_hangup(&mut self, message: Incoming) -> Result<(), ConnectError> {
        let ours = match self.media {
            Media::Fresh(handle) | Media::Subscribed(handle) => message.sender == Some(handle),
            Media::None => false,
        };
        if ours || (message.janus == "detached" && message.sender.is_some() && message.sender == self.roster) {
            let reason = message.reason.unwrap_or_else(|| message.janus.clone());
            return Err(ConnectError::MediaLost(format!("Janus hung up: {}", cut(&reason, 200))));
        }
        Ok(())
    }

    /// Brings the subscription to what the roster says, one exchange at a time.
    fn reconcile(&mut self, now: Instant) -> Result<(), ConnectError> {
        if self.retry_at.is_some_and(|at| now < at) || self.exchanging {
            return Ok(());
        }
        self.retry_at = None;
        self.requests.check_room()?;
        let missing: Vec<_> = self.wanted.difference(&self.held).cloned().collect();
        let surplus: Vec<_> = self.held.difference(&self.wanted).cloned().collect();
        match self.media {
            Media::Fresh(handle) if !missing.is_empty() => {
                let mut body = json!({
                    "request": "join", "ptype": "subscriber", "room": self.room, "use_msid": true,
                    "streams": list(&missing),
                });
                if let Some(id) = self.private_id {
                    body["private_id"] = json!(id);
                }
                self.add_pin(&mut body);
                self.exchanging = true;
                self.message(Purpose::Subscribe, handle, body, None, now);
            }
            Media::Subscribed(handle) if !missing.is_empty() || !surplus.is_empty() => {
                let mut body = json!({ "request": "update" });
                for (key, feeds) in [("subscribe", missing), ("unsubscribe", surplus)] {
                    if !feeds.is_empty() {
                        body[key] = list(&feeds);
                    }
                }
                self.exchanging = true;
                self.message(Purpose::Subscribe, handle, body, None, now);
            }
            Media::Subscribed(handle) if std::mem::take(&mut self.restart) => {
                self.exchanging = true;
                let body = json!({ "request": "configure", "restart": true });
                self.message(Purpose::Restart, handle, body, None, now);
            }
            _ => {}
        }
        Ok(())
    }

    fn attach(&mut self, purpose: Purpose, now: Instant) {
        self.request(purpose, json!({ "janus": "attach", "plugin": "janus.plugin.videoroom" }), now);
    }

    fn add_pin(&self, body: &mut Value) {
        if let Some(Secret(pin)) = &self.requests.access().pin {
            body["pin"] = json!(pin);
        }
    }

    fn message(&mut self, purpose: Purpose, handle: u64, body: Value, jsep: Option<Value>, now: Instant) {
        let mut message = json!({ "janus": "message", "handle_id": handle, "body": body });
        if let Some(jsep) = jsep {
            message["jsep"] = jsep;
        }
        self.request(purpose, message, now);
    }

    fn request(&mut self, purpose: Purpose, message: Value, now: Instant) {
        let text = self.requests.begin(purpose, message, now);
        self.actions.push_back(Action::Send(text));
    }
}

fn list(feeds: &[Feed]) -> Value {
    feeds.iter().map(|(feed, mid)| json!({ "feed": feed, "mid": mid })).collect()
}

#[cfg(test)]
mod tests;
