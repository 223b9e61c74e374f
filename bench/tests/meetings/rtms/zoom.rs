//! A simulator of Zoom's RTMS servers: version 1 of the protocol, in JSON, as Zoom documents it. Zoom's own client is served by it as
//! well as ours is (`zooms_own_client_is_served_by_the_simulator`).

mod line;
mod voice;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use bench::world::Host;
use ring::hmac;
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinHandle, time::interval};

use self::voice::Voice;
pub(super) use self::{line::Which, voice::Says};

/// Of the signalling, and of media.
pub(super) const SIGNALLING: u16 = 9443;
pub(super) const MEDIA: u16 = 9444;

/// What Zoom keeps of the time before it is ready to send it on.
const KEPT: Duration = Duration::from_secs(60);
/// A client answers each.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// So many that are not answered are too many.
const UNANSWERED: u32 = 3;

/// The stream, and whose it is.
pub(super) const MEETING: &str = "4nYtdqLVTVqGJ+QB62ED7Q==";
pub(super) const STREAM: &str = "03db704592624398931a588dd78200cb";
pub(super) const CLIENT: &str = "client-of-a-test";
pub(super) const SECRET: &str = "a secret of a test";

/// One stream of one meeting; dropped, it is gone.
pub(super) struct Zoom {
    at: SocketAddr,
    state: Arc<Mutex<State>>,
    tasks: Vec<JoinHandle<()>>,
}

/// What the servers know.
pub(super) struct State {
    host: std::net::IpAddr,
    /// Each connection that is there, newest last.
    lines: Vec<Line>,
    voices: Vec<Voice>,
    /// What was said and could not be sent yet.
    kept: VecDeque<voice::Piece>,
    /// The signalling has said that its media connection is ready.
    ready: bool,
    /// It has once: from then on nothing is kept.
    was_ready: bool,
    opus: bool,
    takes_opus: bool,
    buffers: bool,
    ended: bool,
    next: u64,
    /// What a client did that it may not.
    wrongs: Vec<String>,
    /// How often a line was opened and its handshake was right.
    handshakes: [u32; 2],
    answered: [u32; 2],
}

/// A connection of a client's.
struct Line {
    id: u64,
    which: Which,
    say: mpsc::UnboundedSender<Option<String>>,
    /// Its handshake was right.
    shaken: bool,
    unanswered: u32,
}

impl Zoom {
    pub(super) async fn start(host: &Host) -> Self {
        let state = State {
            host: host.ip(),
            lines: vec![],
            voices: vec![],
            kept: VecDeque::new(),
            ready: false,
            was_ready: false,
            opus: true,
            takes_opus: true,
            buffers: true,
            ended: false,
            next: 0,
            wrongs: vec![],
            handshakes: [0; 2],
            answered: [0; 2],
        };
        let state = Arc::new(Mutex::new(state));
        let mut tasks = vec![];
        for (which, port) in [(Which::Signalling, SIGNALLING), (Which::Media, MEDIA)] {
            let (host, state) = (host.clone(), Arc::clone(&state));
            tasks.push(tokio::spawn(async move { drop(host.run(move || line::serve(which, port, state)).await) }));
        }
        let clock = Arc::clone(&state);
        tasks.push(tokio::spawn(async move {
            let (mut frames, mut alive) = (interval(voice::FRAME), interval(KEEP_ALIVE));
            loop {
                tokio::select! {
                    _ = frames.tick() => clock.lock().unwrap().speak(),
                    _ = alive.tick() => clock.lock().unwrap().keep_alive(),
                }
            }
        }));
        let at = SocketAddr::new(host.ip(), SIGNALLING);
        let zoom = Self { at, state, tasks };
        super::super::peers::wait_for(host, at, std::path::Path::new("/")).await;
        zoom
    }

    pub(super) fn url(&self) -> String {
        format!("ws://{}", self.at)
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap())
    }

    /// Opus is refused from now on.
    pub(super) fn refuse_opus(&self) {
        self.with(|state| state.takes_opus = false);
    }

    /// Somebody is there, and says something over and over.
    pub(super) fn joins(&self, says: Says) {
        self.with(|state| {
            let user = json!({"user_id": says.user, "user_name": says.name});
            state.voices.push(Voice::new(says));
            state.event(3, json!({"participants": [user]}));
        });
    }

    pub(super) fn leaves(&self, user: u32) {
        self.with(|state| {
            state.voices.retain(|voice| voice.says.user != user);
            state.event(4, json!({"participants": [{"user_id": user}]}));
        });
    }

    /// Hangs up without a word; what is said meanwhile is lost, as it is with Zoom.
    pub(super) fn drops(&self, which: Which) {
        self.with(|state| {
            if which == Which::Signalling {
                state.hang_up(|_| true);
            } else {
                state.hang_up(|line| line.which == Which::Media);
                state.event(7, json!({}));
            }
        });
    }

    /// The stream is over, by Zoom's number of the reason.
    pub(super) fn stops(&self, reason: u32) {
        self.with(|state| {
            state.ended = true;
            state.say(Which::Signalling, &json!({"msg_type": 8, "state": 4, "reason": reason, "timestamp": now()}));
        });
    }

    /// Whether the connections that are there are one of each kind, ready.
    pub(super) fn is_ready(&self) -> bool {
        self.with(|state| state.ready && state.lines.len() == 2)
    }

    /// What a client did that it may not.
    pub(super) fn wrongs(&self) -> Vec<String> {
        self.with(|state| state.wrongs.clone())
    }

    /// How often each connection was opened.
    pub(super) fn handshakes(&self) -> [u32; 2] {
        self.with(|state| state.handshakes)
    }

    /// Keep-alives that were answered.
    pub(super) fn answered(&self) -> [u32; 2] {
        self.with(|state| state.answered)
    }
}

impl Drop for Zoom {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl State {
    /// A message on the newest connection of its kind that is agreed on.
    fn say(&mut self, which: Which, message: &Value) {
        let line = self.lines.iter().rev().find(|line| line.which == which && line.shaken);
        if let Some(line) = line {
            let _ = line.say.send(Some(message.to_string()));
        }
    }

    fn event(&mut self, kind: u8, mut more: Value) {
        more["event_type"] = kind.into();
        more["timestamp"] = now().into();
        self.say(Which::Signalling, &json!({"msg_type": 6, "event": more}));
    }

    fn wrong(&mut self, what: impl Into<String>) {
        self.wrongs.push(what.into());
    }

    fn hang_up(&mut self, which: impl Fn(&Line) -> bool) {
        for line in self.lines.extract_if(.., |line| which(line)) {
            let _ = line.say.send(None);
        }
        self.ready = false;
    }

    fn opened(&mut self, which: Which, say: mpsc::UnboundedSender<Option<String>>) -> u64 {
        self.next += 1;
        self.lines.push(Line { id: self.next, which, say, shaken: false, unanswered: 0 });
        self.next
    }

    fn closed(&mut self, id: u64) {
        let gone = self.lines.extract_if(.., |line| line.id == id).any(|line| line.shaken);
        self.ready &= !gone;
    }

    fn heard(&mut self, id: u64, message: &Value) {
        let Some(line) = self.lines.iter_mut().find(|line| line.id == id) else { return };
        match (line.which, message["msg_type"].as_u64()) {
            (Which::Signalling, Some(1)) => self.shake_signalling(id, message),
            (Which::Media, Some(3)) => self.shake_media(id, message),
            (Which::Signalling, Some(5)) => self.subscribed(message),
            (Which::Signalling, Some(7)) => {
                if message["rtms_stream_id"] != STREAM {
                    self.wrong("ready for another stream");
                } else if !self.lines.iter().any(|line| line.which == Which::Media && line.shaken) {
                    self.wrong("ready without media");
                } else {
                    (self.ready, self.was_ready) = (true, true);
                }
            }
            (which, Some(13)) => {
                line.unanswered = 0;
                self.answered[which as usize] += 1;
            }
            (_, Some(10 | 19 | 21)) => {}
            (which, kind) => self.wrong(format!("on {which:?}: {kind:?}")),
        }
    }

    /// What is wrong with a handshake: Zoom's number.
    fn refusal(&mut self, message: &Value) -> u64 {
        let signed = format!("{CLIENT},{MEETING},{STREAM}");
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
        let hex: String = hmac::sign(&key, signed.as_bytes()).as_ref().iter().map(|b| format!("{b:02x}")).collect();
        if message["protocol_version"] != 1 {
            return 4;
        }
        if self.ended || message["meeting_uuid"] != MEETING || message["rtms_stream_id"] != STREAM {
            return 2;
        }
        if message["signature"] == hex { 0 } else { 3 }
    }

    fn shake_signalling(&mut self, id: u64, message: &Value) {
        let status = self.refusal(message);
        self.buffers = message["buffer_data"] != false;
        let url = format!("ws://{}", SocketAddr::new(self.host, MEDIA));
        let mut answer =
            json!({"msg_type": 2, "protocol_version": 1, "sequence": 0, "status_code": status, "reason": ""});
        if status == 0 {
            answer["media_server"] = json!({"server_urls": {"audio": url, "all": url}});
        }
        self.answer(id, status == 0, &answer);
        if status == 0 {
            self.event(1, json!({}));
        }
    }

    fn shake_media(&mut self, id: u64, message: &Value) {
        let mut status = self.refusal(message);
        let audio = message["media_params"]["audio"].clone();
        if status == 0 && message["media_type"] != 1 {
            status = 7;
        }
        if status == 0 && !self.lines.iter().any(|line| line.which == Which::Signalling && line.shaken) {
            self.wrong("media without signalling");
            status = 2;
        }
        self.opus = audio["codec"] == 4;
        let is_right = match audio["codec"].as_u64() {
            Some(1) => audio["sample_rate"] == 1 && audio["channel"] == 1,
            Some(4) => self.takes_opus && audio["sample_rate"] == 3,
            _ => false,
        };
        if status == 0
            && !(is_right && audio["data_opt"] == 2 && audio["send_rate"] == 20 && audio["content_type"] == 2)
        {
            status = 22;
        }
        let answer = json!({
            "msg_type": 4, "protocol_version": 1, "sequence": 0, "status_code": status, "reason": "",
            "payload_encrypted": false, "media_params": {"audio": audio},
        });
        self.answer(id, status == 0, &answer);
    }

    /// A handshake is answered; after a refusal Zoom hangs up.
    fn answer(&mut self, id: u64, is_right: bool, answer: &Value) {
        let Some(line) = self.lines.iter_mut().find(|line| line.id == id) else { return };
        let _ = line.say.send(Some(answer.to_string()));
        if !is_right {
            let _ = line.say.send(None);
            return;
        }
        line.shaken = true;
        let which = line.which;
        self.handshakes[which as usize] += 1;
        // A second one takes the place of the first.
        let is_older = |line: &Line| line.id != id && line.which == which && line.shaken;
        if self.lines.iter().any(is_older) {
            self.wrong(format!("a second connection: {which:?}"));
            self.hang_up(is_older);
        }
    }

    /// Whoever asks for events is told who is there.
    fn subscribed(&mut self, message: &Value) {
        for asked in message["events"].as_array().into_iter().flatten() {
            match asked["event_type"].as_u64() {
                Some(3) => {
                    let user = |voice: &Voice| json!({"user_id": voice.says.user, "user_name": voice.says.name});
                    let users: Vec<Value> = self.voices.iter().map(user).collect();
                    if !users.is_empty() {
                        self.event(3, json!({"participants": users}));
                    }
                }
                Some(2 | 4 | 5 | 6) => {}
                other => self.wrong(format!("asked for events of kind {other:?}")),
            }
        }
    }

    /// The next 20 ms of everybody.
    fn speak(&mut self) {
        let pieces: Vec<_> = self.voices.iter_mut().filter_map(|voice| voice.next(now())).collect();
        self.kept.extend(pieces);
        if self.ready {
            while let Some(piece) = self.kept.pop_front() {
                let message = voice::message(&piece, self.opus, &mut self.voices);
                self.say(Which::Media, &message);
            }
        } else if self.was_ready || !self.buffers {
            self.kept.clear();
        } else {
            let oldest = now() - KEPT.as_millis() as u64;
            self.kept.retain(|piece| piece.time >= oldest);
        }
    }

    fn keep_alive(&mut self) {
        let mut wrongs = vec![];
        for line in self.lines.iter_mut().filter(|line| line.shaken) {
            line.unanswered += 1;
            if line.unanswered > UNANSWERED {
                wrongs.push(format!("{:?}: keep-alives are not answered", line.which));
            }
            // The documents know no `sequence` here; without one Zoom's own client does not answer.
            let _ = line.say.send(Some(json!({"msg_type": 12, "sequence": 0, "timestamp": now()}).to_string()));
        }
        self.wrongs.extend(wrongs);
    }
}

/// In milliseconds of Unix time.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64
}
