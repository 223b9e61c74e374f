//! A core with a pretended mesh and engine, for tests.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::{
    path::Path,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use geo::{latency::LatencyModel, map::RegionMap};
use mesh::{
    clock::Micros,
    identity::{
        Identity, Role,
        certs::{Authority, Credentials},
    },
    node::Member,
    tasks::Tasks,
    trace::TraceContext,
    wire::{
        Epoch, MeetingAlias, MeetingId, ParticipantAlias, SpurtNo, Term, Version,
        control::{EdgeState, ToCore, ToEdge},
        report::Report,
        request::{Assignment, Request, Response, Source, VadSettings},
        spurt::{EdgeStages, Item, SpurtEnd, SpurtHeader, Step},
    },
};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use crate::{
    api::{App, router, streams::Streams},
    authority::Claims,
    edges::{Acceptor, ControlSink, Link, aliases::Caps},
    meeting::Bounds,
    meetings::{Meetings, Settings},
    peers::Mesh,
    placement::Placer,
    speech::ingest::Limits,
    store::{
        Store,
        log::Log,
        record::{MeetingRecord, Spec},
    },
    transcribe::{Clip, Text, TranscribeError, Transcriber, Word, pool::Pool},
};

/// Long enough for anything here; only a failing test waits for it.
const TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) const ALIAS: MeetingAlias = MeetingAlias(1);
pub(crate) const ALICE: ParticipantAlias = ParticipantAlias(1);

const DOMAIN: &str = "nearfield.test";

/// Who vouches for all of them.
pub(crate) fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| Authority::create(DOMAIN, Duration::from_secs(3600)).unwrap())
}

pub(crate) fn identity(node: &str, role: Role, region: &str) -> Identity {
    Identity { node: node.parse().unwrap(), role, region: region.parse().unwrap() }
}

pub(crate) fn member(identity: Identity, api: Option<&str>) -> Member {
    let report = Report {
        node: identity.node.clone(),
        at: Micros::from_system(SystemTime::now()),
        stress_permille: 100,
        meetings: 0,
        capacity: 10,
        draining: false,
        api: api.map(Into::into),
        software: "test".into(),
        rtts: vec![],
        extension: None,
    };
    Member { identity, addr: "127.0.0.1:1".parse().unwrap(), report: Some(report.into()), heard: Some(Instant::now()) }
}

/// A mesh whose edges answer every probe and take every meeting, unless they are told not to.
pub(crate) struct FakeMesh {
    me: Identity,
    credentials: Credentials,
    pub(crate) members: watch::Sender<Arc<Vec<Member>>>,
    pub(crate) refuse: Mutex<Vec<String>>,
    /// Edges that never answer.
    pub(crate) mute: Mutex<Vec<String>>,
    /// Edges that were asked to probe, in order.
    pub(crate) probed: Mutex<Vec<String>>,
    /// Where the relay is; `None`: wherever the alphabet begins.
    pub(crate) relay: Mutex<Option<geo::RegionId>>,
    /// The round trip to every edge.
    pub(crate) rtt: Mutex<Option<Duration>>,
    /// Every edge that was asked for anything.
    pub(crate) asked: Mutex<Vec<String>>,
    /// Edges that speak version 2.
    pub(crate) leasing: Mutex<Vec<String>>,
    /// Whether the answers of edges that take a meeting arrive, or are on their way for now.
    pub(crate) answers: watch::Sender<bool>,
    /// What edges say they capture.
    pub(crate) captures: Mutex<Option<Epoch>>,
    /// How often they were asked.
    pub(crate) questions: AtomicUsize,
    /// Other cores that can be reached.
    pub(crate) cores: Mutex<Vec<(Identity, std::sync::Weak<Meetings>)>>,
    assigned: mpsc::UnboundedSender<(String, Assignment)>,
}

#[async_trait]
impl Mesh for FakeMesh {
    fn identity(&self) -> &Identity {
        &self.me
    }

    fn credentials(&self) -> Credentials {
        self.credentials.clone()
    }

    fn members(&self) -> watch::Receiver<Arc<Vec<Member>>> {
        self.members.subscribe()
    }

    fn rtt(&self, _: &mesh::identity::NodeId) -> Option<Duration> {
        *self.rtt.lock().unwrap()
    }

    async fn wire(&self, node: &mesh::identity::NodeId) -> Version {
        let core = self.cores.lock().unwrap().iter().any(|(core, _)| core.node == *node);
        let leasing = self.leasing.lock().unwrap().contains(&node.to_string());
        if core || leasing { Version::V2 } else { Version::V1 }
    }

    async fn request(&self, node: &mesh::identity::NodeId, request: &Request) -> Result<Response, String> {
        let core = self.cores.lock().unwrap().iter().find(|(core, _)| core.node == *node).cloned();
        if let Some((_, core)) = core {
            let core = core.upgrade().ok_or("gone")?;
            return Ok(core.answer(&self.me, request.clone()).await);
        }
        if matches!(request, Request::Probe { .. }) {
            self.probed.lock().unwrap().push(node.to_string());
        }
        if self.mute.lock().unwrap().contains(&node.to_string()) {
            std::future::pending::<()>().await;
        }
        self.asked.lock().unwrap().push(node.to_string());
        match request {
            Request::Probe { .. } => Ok(Response::Probed { rtt_us: self.to_relay(node), answered: 3 }),
            Request::Assign(_) | Request::Join(_) if self.refuse.lock().unwrap().contains(&node.to_string()) => {
                Ok(Response::Refused { reason: "full".into() })
            }
            Request::Assign(assignment) => self.take(node, assignment).await,
            Request::Join(join) => self.take(node, &join.assignment).await,
            Request::Release { .. } => Ok(Response::Released),
            Request::Captures { .. } => {
                self.questions.fetch_add(1, Ordering::Relaxed);
                Ok(Response::Captures(*self.captures.lock().unwrap()))
            }
            _ => Err("not in this stand-in".into()),
        }
    }
}

impl FakeMesh {
    async fn take(&self, node: &mesh::identity::NodeId, assignment: &Assignment) -> Result<Response, String> {
        self.assigned.send((node.to_string(), assignment.clone())).map_err(|e| e.to_string())?;
        self.answers.subscribe().wait_for(|arrive| *arrive).await.map_err(|e| e.to_string())?;
        Ok(Response::Accepted)
    }

    /// In microseconds.
    fn to_relay(&self, node: &mesh::identity::NodeId) -> u64 {
        let Some(relay) = self.relay.lock().unwrap().clone() else {
            // The farther down the alphabet, the farther away.
            return u64::from(node.as_str().bytes().last().unwrap_or(0)) * 10_000;
        };
        let members = self.members.borrow().clone();
        let member = members.iter().find(|m| m.identity.node == *node).unwrap();
        let model = LatencyModel::new(RegionMap::built_in());
        model.estimate(&member.identity.region, &relay).unwrap().rtt.as_micros() as u64
    }

    /// Changes what every edge says of itself.
    pub(crate) fn edges(&self, members: Vec<Member>) {
        self.members.send_replace(Arc::new(members));
    }
}

/// Says how long the clip was, in one word; or nothing at all, ever.
pub(crate) struct FakeEngine {
    pub(crate) stuck: bool,
    /// How loud the second half of each clip was, root mean square.
    pub(crate) heard: Arc<Mutex<Vec<f32>>>,
    /// It answers, but has no words.
    pub(crate) mute: Arc<AtomicBool>,
    /// It refuses every clip.
    pub(crate) refuses: Arc<AtomicBool>,
}

#[async_trait]
impl Transcriber for FakeEngine {
    fn name(&self) -> &str {
        "fake"
    }

    fn knows(&self, language: &str) -> bool {
        language != "xx"
    }

    async fn transcribe(&self, clip: Clip) -> Result<Text, TranscribeError> {
        if self.stuck {
            std::future::pending::<()>().await;
        }
        if self.refuses.load(Ordering::Relaxed) {
            let cause = "the key is wrong".into();
            return Err(TranscribeError::Status { engine: "fake", status: 401, cause });
        }
        let half = &clip.samples[clip.samples.len() / 2..];
        let power = half.iter().map(|s| s * s).sum::<f32>() / half.len().max(1) as f32;
        self.heard.lock().unwrap().push(power.sqrt());
        if self.mute.load(Ordering::Relaxed) {
            return Ok(Text::default());
        }
        let ms = clip.duration().as_millis() as u32;
        let word = Word { text: format!("{ms}ms"), start_ms: 0, end_ms: ms, confidence: 0.9 };
        Ok(Text {
            text: word.text.clone(),
            language: Some("en".into()),
            confidence: Some(0.9),
            words: vec![word],
            ..Text::default()
        })
    }
}

pub(crate) struct Core {
    pub(crate) meetings: Arc<Meetings>,
    pub(crate) acceptor: Arc<Acceptor>,
    pub(crate) mesh: Arc<FakeMesh>,
    pub(crate) app: App,
    pub(crate) heard: Arc<Mutex<Vec<f32>>>,
    pub(crate) mute: Arc<AtomicBool>,
    pub(crate) refuses: Arc<AtomicBool>,
    assigned: mpsc::UnboundedReceiver<(String, Assignment)>,
}

/// An edge's end of a link.
pub(crate) struct Edge {
    pub(crate) link: Arc<Link>,
    from_core: mpsc::UnboundedReceiver<ToEdge>,
}

struct Sink(mpsc::UnboundedSender<ToEdge>);

#[async_trait]
impl ControlSink for Sink {
    async fn send(&mut self, message: &ToEdge) -> bool {
        self.0.send(message.clone()).is_ok()
    }
}

impl Core {
    /// A core in `eu-central` over the store in `file`, with edges a to c near it.
    pub(crate) fn start(file: &Path, stuck: bool) -> Self {
        Self::with(file, stuck, |_| {})
    }

    pub(crate) fn with(file: &Path, stuck: bool, change: impl FnOnce(&mut Settings)) -> Self {
        Self::named("core-1", file, stuck, change)
    }

    /// A core of this name in `eu-central`.
    pub(crate) fn start_as(name: &str, file: &Path) -> Self {
        Self::named(name, file, false, |_| {})
    }

    /// The two can reach each other, and each is a member to the other.
    pub(crate) fn introduce(&self, other: &Self) {
        for (one, two) in [(self, other), (other, self)] {
            let peer = (two.mesh.me.clone(), Arc::downgrade(&two.meetings));
            one.mesh.cores.lock().unwrap().push(peer);
            let row = member(two.mesh.me.clone(), Some(&format!("{}:80", two.mesh.me.node)));
            one.mesh.members.send_modify(|m| *m = Arc::new([&m[..], &[row]].concat()));
        }
    }

    /// Nobody reaches it any more, and it reaches nobody.
    pub(crate) fn cut_off(&self, other: &Self) {
        self.mesh.cores.lock().unwrap().clear();
        other.mesh.cores.lock().unwrap().clear();
    }

    pub(crate) fn named(name: &str, file: &Path, stuck: bool, change: impl FnOnce(&mut Settings)) -> Self {
        Self::placed(name, "eu-central", file, stuck, change)
    }

    pub(crate) fn placed(
        name: &str,
        region: &str,
        file: &Path,
        stuck: bool,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        Self::under(None, (name, region), file, stuck, change)
    }

    /// With claims that other cores see as well.
    pub(crate) fn under(
        claims: Option<Claims>,
        at: (&str, &str),
        file: &Path,
        stuck: bool,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let core = Self::opened(claims, at, file, stuck, change);
        core.meetings.resume(&core.app.tasks).unwrap();
        core
    }

    /// Of which no meeting is live yet.
    pub(crate) fn opened(
        claims: Option<Claims>,
        (name, region): (&str, &str),
        file: &Path,
        stuck: bool,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let (assigned_in, assigned) = mpsc::unbounded_channel();
        let edges = ["edge-a", "edge-b", "edge-c"].map(|e| member(identity(e, Role::Edge, "eu-central"), None));
        let me = identity(name, Role::Core, region);
        let (cert, key) = authority().issue(&me, Duration::from_secs(3600)).unwrap();
        let mesh = Arc::new(FakeMesh {
            credentials: Credentials::from_pem(authority().ca_pem(), &cert, &key, DOMAIN).unwrap(),
            me,
            members: watch::channel(Arc::new(edges.to_vec())).0,
            refuse: Mutex::default(),
            mute: Mutex::default(),
            probed: Mutex::default(),
            relay: Mutex::default(),
            rtt: Mutex::default(),
            asked: Mutex::default(),
            leasing: Mutex::default(),
            answers: watch::channel(true).0,
            captures: Mutex::default(),
            questions: AtomicUsize::new(0),
            cores: Mutex::default(),
            assigned: assigned_in,
        });
        let mut settings = Settings {
            meetings: 4,
            intake: Limits::default(),
            max_store_bytes: u64::MAX,
            interim: Some(Duration::from_millis(20)),
            language: None,
            noise_suppression: false,
            parallel: 2,
            failover: Default::default(),
            bounds: Bounds {
                people: 20,
                notice_timeout: Duration::from_millis(200),
                path_timeout: Duration::from_millis(300),
            },
        };
        change(&mut settings);
        let store = Arc::new(Store::open(file).unwrap());
        let log = Log::start(store.clone()).unwrap();
        let heard = Arc::<Mutex<Vec<f32>>>::default();
        let (mute, refuses) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let engine = FakeEngine { stuck, heard: heard.clone(), mute: mute.clone(), refuses: refuses.clone() };
        let pool = Pool::new(Arc::new(engine), 2, 4);
        let placer = Placer::new(mesh.clone(), LatencyModel::new(RegionMap::built_in()));
        let claims = claims.unwrap_or_else(|| Claims::embedded(store.clone()));
        let tasks = Tasks::default();
        let meetings = Meetings::new(settings, store, log, pool, placer, claims).unwrap();
        let caps = Caps { meetings: 10, participants: 10, row_wait: Duration::from_millis(200) };
        let acceptor = Acceptor::new(meetings.clone(), "test", caps);
        let report = member(mesh.me.clone(), Some("127.0.0.1:80")).report.unwrap();
        let app = App {
            meetings: meetings.clone(),
            mesh: mesh.clone(),
            report: Arc::new(move || (*report).clone()),
            metrics: Arc::new(String::new),
            tasks,
            token: None,
            streams: Streams::new(Default::default()),
            zoom: None,
        };
        Self { meetings, acceptor, mesh, app, heard, mute, refuses, assigned }
    }

    pub(crate) fn router(&self) -> axum::Router {
        router(self.app.clone())
    }

    pub(crate) async fn create(&self) -> MeetingId {
        self.create_for(1).await
    }

    /// A meeting that so many edges capture.
    pub(crate) async fn create_for(&self, redundancy: u8) -> MeetingId {
        let spec = Spec { redundancy, ..spec() };
        self.meetings.create(spec, TraceContext::new(7), None).await.map_err(|e| e.to_string()).unwrap().record.id
    }

    /// The next assignment an edge took.
    pub(crate) async fn assigned(&mut self) -> (String, Assignment) {
        timeout(TIMEOUT, self.assigned.recv()).await.expect("an assignment").unwrap()
    }

    /// The next assignment, if an edge has taken one.
    pub(crate) fn next_assigned(&mut self) -> Option<Epoch> {
        self.assigned.try_recv().ok().map(|(_, assignment)| assignment.epoch)
    }

    /// An edge that has connected and said hello.
    pub(crate) async fn connect(&self, edge: &str) -> Edge {
        self.connect_from(edge, "eu-central").await
    }

    /// As [`Core::connect`], by an edge whose certificate names `region`.
    pub(crate) async fn connect_from(&self, edge: &str, region: &str) -> Edge {
        let (sink, from_core) = mpsc::unbounded_channel();
        let (link, writer) = self.acceptor.link(identity(edge, Role::Edge, region), Sink(sink));
        tokio::spawn(writer);
        let mut edge = Edge { link, from_core };
        self.say(&edge, ToCore::Hello { software: "test".into() }).await;
        assert_eq!(edge.next().await, ToEdge::Hello { software: "test".into() });
        edge
    }

    /// The edge opens the meeting, is live in it, and knows Alice.
    pub(crate) async fn open(&self, edge: &Edge, meeting: MeetingId, epoch: Epoch) {
        self.say(edge, ToCore::Open { alias: ALIAS, meeting, epoch, trace: TraceContext::new(7) }).await;
        self.say(edge, ToCore::State { alias: ALIAS, state: EdgeState::Live, detail: None }).await;
        let (id, name) = ("p-alice".into(), Some("Alice".into()));
        self.say(edge, ToCore::Participant { alias: ALIAS, participant: ALICE, id, name, unheard: None }).await;
    }

    /// As [`Core::open`], by an edge of version 2.
    pub(crate) async fn serve(&self, edge: &Edge, meeting: MeetingId, epoch: Epoch, term: Term) {
        self.say(edge, ToCore::Serve { alias: ALIAS, meeting, epoch, term, trace: TraceContext::new(7) }).await;
        self.say(edge, ToCore::State { alias: ALIAS, state: EdgeState::Live, detail: None }).await;
        let (id, name) = ("p-alice".into(), Some("Alice".into()));
        self.say(edge, ToCore::Participant { alias: ALIAS, participant: ALICE, id, name, unheard: None }).await;
    }

    /// The edge beats from now on, until it is dropped.
    pub(crate) fn beats(&self, edge: &Edge) {
        let (acceptor, link) = (self.acceptor.clone(), Arc::downgrade(&edge.link));
        tokio::spawn(async move {
            while let Some(link) = link.upgrade() {
                acceptor.handle(&link, ToCore::Beat { seq: 0 }).await.unwrap();
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        });
    }

    pub(crate) async fn say(&self, edge: &Edge, message: ToCore) {
        self.acceptor.handle(&edge.link, message).await.unwrap();
    }

    /// A spurt of Alice's from `offset` on, whole.
    pub(crate) async fn spurt(&self, edge: &Edge, spurt: u32, frames: u32, offset: u32, continues: bool) {
        let bytes = spurt_bytes(spurt, frames, offset, continues);
        self.acceptor.read_spurt(&edge.link, &bytes[..]).await.unwrap();
    }

    /// Returns when `holds` does.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let wait = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(TIMEOUT, wait).await.unwrap_or_else(|_| panic!("never happened: {what}"));
    }
}

impl Edge {
    /// The next message, but for answers to [`Core::beats`].
    pub(crate) async fn next(&mut self) -> ToEdge {
        loop {
            let message = timeout(TIMEOUT, self.from_core.recv()).await.expect("a message from the core").unwrap();
            if !matches!(message, ToEdge::Beat { seq: 0, .. }) {
                return message;
            }
        }
    }

    /// The next message that is no *durable*.
    pub(crate) async fn next_but_durable(&mut self) -> ToEdge {
        loop {
            let message = self.next().await;
            if !matches!(message, ToEdge::Durable { .. }) {
                return message;
            }
        }
    }
}

/// The next message that is neither *durable* nor of the standby.
pub(crate) async fn next(edge: &mut Edge) -> ToEdge {
    loop {
        let message = edge.next_but_durable().await;
        if !matches!(message, ToEdge::Standby { .. }) {
            return message;
        }
    }
}

pub(crate) fn spec() -> Spec {
    Spec {
        source: Source::Whep { url: "http://relay.example:8889/room/whep".into(), token: None, participants: vec![] },
        meeting_url: None,
        residency: vec![],
        prefer: vec![],
        max_rtt_ms: None,
        stun: None,
        language: None,
        interim: true,
        noise_suppression: None,
        vad: VadSettings::default(),
        metadata: serde_json::Map::new(),
        deduplication_key: None,
        redundancy: 1,
        leave: crate::store::record::LeaveRules::default(),
    }
}

/// A meeting that was just asked for.
pub(crate) fn record() -> MeetingRecord {
    crate::meetings::create::new_record(spec(), TraceContext::new(7), None)
}

/// The stream of one spurt of 20 ms frames, type byte left out.
pub(crate) fn spurt_bytes(spurt: u32, frames: u32, offset: u32, continues: bool) -> bytes::BytesMut {
    spurt_bytes_on(Step::PassThrough, spurt, frames, offset, continues)
}

/// The same, sent on some step of the uplink's ladder.
pub(crate) fn spurt_bytes_on(step: Step, spurt: u32, frames: u32, offset: u32, continues: bool) -> bytes::BytesMut {
    let tone = |n: u32| (n as f32 * 0.03).sin() * 0.3;
    spurt_bytes_of(tone, step, spurt, frames, offset, continues)
}

/// The same of other sound than a tone: its samples at 48 kHz.
pub(crate) fn spurt_bytes_of(
    mut sound: impl FnMut(u32) -> f32,
    step: Step,
    spurt: u32,
    frames: u32,
    offset: u32,
    continues: bool,
) -> bytes::BytesMut {
    let mut encoder = opus::Encoder::new(48_000, opus::Channels::Mono, opus::Application::Voip).unwrap();
    let header = SpurtHeader {
        meeting: ALIAS,
        participant: ALICE,
        spurt: SpurtNo(spurt),
        offset,
        captured: Micros(1_700_000_000_000_000 + u64::from(spurt) * 10_000_000),
        trace: TraceContext::new(7),
    };
    let mut bytes = bytes::BytesMut::new();
    header.encode(&mut bytes);
    for n in 0..frames {
        let wave: Vec<f32> = (0..960).map(|i| sound(n * 960 + i)).collect();
        let frame = Item::Frame(encoder.encode_vec_float(&wave, 1500).unwrap().into());
        if n >= offset {
            frame.encode(&mut bytes);
        }
    }
    let at = |us: u64| Micros(1_700_000_001_000_000 + us);
    let stages = EdgeStages { captured: at(0), decoded: at(1), vad: at(2), sent: at(3) };
    Item::End(SpurtEnd { items: frames, continues, step, stages }).encode(&mut bytes);
    bytes.split_off(1)
}
