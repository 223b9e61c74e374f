//! The meetings this core serves.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

pub mod admit;
mod answer;
mod claim;
mod doubt;
mod end;
mod guard;
mod isolated;
pub mod keep;
mod keys;
mod leftover;
pub mod list;
pub mod receipts;
mod removal;
mod replication;
mod reserve;
mod standby;
mod supervise;
mod sweep;
mod tables;
pub mod takeover;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use geo::RegionId;
use mesh::{
    authorize::Denials,
    clock::Micros,
    mandate::MeetingKey,
    tasks::{Tasks, told},
    trace::TraceContext,
    wire::{Epoch, MeetingId, Term},
};
use tokio::{
    sync::mpsc,
    time::{timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

use self::{reserve::Reservations, standby::Standbys};
use crate::{
    authority::{AuthorityError, Claim, Claims, Stands, lives::Lives, standing::Standing, unchanged::Unchanged},
    lock,
    meeting::{Link, Meeting, Notice, Parts, machine::Machine, now, transcription, wall},
    placement::{Placer, Wanted, policy, rebalance::Rebalance},
    publish::Publisher,
    replicate::{
        handle::Replication,
        sender::{self, Replicator},
    },
    residency::{UnknownPlace, allowed, core_within},
    speech::{
        ingest::{Ingest, Limits},
        order::Turns,
        utterance::{Cover, IntakeEvent},
    },
    store::{
        Op, Store, StoreError,
        log::{Log, LogClosed},
        reads::Reads,
        record::{CoreRole, MeetingRecord, Participant, Spec, removal::Removal},
    },
    transcribe::pool::Pool,
    transcript::Transcript,
};

/// What was heard and waits for the transcription task; when full, spurt streams wait.
const HEARD_QUEUE: usize = 1024;
/// What edges and the API say and waits for the supervisor; when full, they wait.
const NOTICE_QUEUE: usize = 64;
/// Whoever ends a meeting is told how it stands then; its supervisor may have other things to do first.
const STOP_WAIT: Duration = Duration::from_secs(2);

/// Bounds and ways of working.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Meetings at a time.
    pub meetings: usize,
    /// What one meeting may hold.
    pub intake: Limits,
    /// No new meeting when the store's file is longer than this, in bytes.
    pub max_store_bytes: u64,
    /// How often partials are made, for meetings that want them; `None` for never.
    pub interim: Option<Duration>,
    /// Spoken language where a meeting does not say; `None` to detect it.
    pub language: Option<String>,
    /// Whether noise is taken out of what the engine hears, where a meeting does not say.
    pub noise_suppression: bool,
    /// Finals of one meeting under way at a time.
    pub parallel: usize,
    /// How meetings survive this core.
    pub failover: Failover,
}

/// How meetings survive a core.
#[derive(Debug, Clone)]
pub struct Failover {
    /// Whether meetings served here have a standby.
    pub standby: bool,
    /// Deadlines of a pair of cores.
    pub pair: sender::Settings,
    /// How long a core must be down before its standby takes a meeting over that no edge asked it to. Longer than the
    /// partitions that are to be sat out.
    pub takeover: Duration,
}

impl Default for Failover {
    fn default() -> Self {
        Self { standby: true, pair: sender::Settings::default(), takeover: Duration::from_secs(300) }
    }
}

/// Why a meeting was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The policy names a place that is not.
    #[error(transparent)]
    Place(#[from] UnknownPlace),
    /// It is to be near a region that is not.
    #[error("`{0}` is no region of this mesh")]
    Prefer(RegionId),
    /// The engine does not know the language.
    #[error("`{language}` is no language that this core's engine, {engine}, knows")]
    Language {
        /// What was asked for.
        language: String,
        /// The engine.
        engine: String,
    },
    /// This core may not serve it; that one may.
    #[error("this core is outside the allowed residency")]
    Elsewhere {
        /// Where the other core's API is.
        api: String,
    },
    /// No live core may serve it.
    #[error("no live core is within the allowed residency")]
    Residency,
    /// A live meeting has the same deduplication key.
    #[error("meeting {0} is live with this deduplication key")]
    Duplicate(MeetingId),
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// Another core serves the meeting that the same request has made.
    #[error("meeting {meeting} was made by this request, and another core serves it")]
    Made {
        /// The meeting.
        meeting: MeetingId,
        /// Where that core's API is.
        api: String,
    },
    /// That core is not there.
    #[error("meeting {0} was made by this request; the core that serves it cannot be reached")]
    Unreachable(MeetingId),
    /// A request with the same key is not answered yet.
    #[error("another request with this key is being served")]
    KeyBusy,
    /// Others read the store.
    #[error("too many requests read the store: try again")]
    Busy,
    /// As many meetings as it can hold.
    #[error("{0} meetings are live, which is all this core takes")]
    Full(usize),
    /// The store has reached its limit, or its disk is nearly full.
    #[error("the store has reached its limit, or its disk is nearly full")]
    StoreFull,
    /// The node is stopping.
    #[error("this core is draining")]
    Draining,
    /// Nobody can say that it is this core's.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The store failed.
    #[error(transparent)]
    Log(#[from] LogClosed),
    /// A fault of this core's; nothing was made.
    #[error("this core could not make the meeting: an internal error, which its log tells")]
    Broken,
}

/// A meeting that was asked for.
pub struct Created {
    /// How it stands.
    pub record: MeetingRecord,
    /// Whether it was there before: the same idempotency key with the same request.
    pub existing: bool,
}

/// All meetings.
pub struct Meetings {
    settings: Settings,
    store: Arc<Store>,
    reads: Reads,
    log: Log,
    pool: Pool,
    placer: Arc<Placer>,
    claims: Claims,
    /// Of these it is not known whether this core has claimed them: the answer was lost, or it was started again.
    unsettled: Mutex<BTreeSet<MeetingId>>,
    live: Live,
    reservations: Mutex<Reservations>,
    /// Meetings that were removed.
    removals: Mutex<BTreeMap<MeetingId, Removal>>,
    /// Signs of other cores at a shared authority.
    lives: Mutex<Lives>,
    /// Claims there that may have been left behind.
    unchanged: Mutex<Unchanged>,
    /// When this core was started: what it sends of meetings is numbered from here on.
    started: Micros,
    /// Streams of meetings begun since.
    streams: AtomicU64,
    standbys: Standbys,
    /// Held while a meeting changes hands here, so that it does so once.
    hands: tokio::sync::Mutex<()>,
    /// Held while a receipt is made.
    signing: tokio::sync::Mutex<()>,
    draining: AtomicBool,
    /// What other nodes tried that they may not.
    pub(crate) denials: Denials,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Meetings {
    /// The meetings in `store`. None of them is live before [`Meetings::resume`].
    ///
    /// # Errors
    /// The store could not be read.
    pub fn new(
        settings: Settings,
        store: Arc<Store>,
        log: Log,
        pool: Pool,
        placer: Placer,
        claims: Claims,
    ) -> Result<Arc<Self>, StoreError> {
        let started = store.begin_life(wall())?;
        Ok(Arc::new(Self {
            settings,
            reads: Reads::new(store.clone()),
            removals: Mutex::new(store.removals()?),
            store,
            log,
            pool,
            placer: Arc::new(placer),
            claims: claims.clone(),
            unsettled: Mutex::default(),
            live: Mutex::default(),
            reservations: Mutex::default(),
            lives: Mutex::default(),
            unchanged: Mutex::default(),
            started,
            streams: AtomicU64::new(0),
            standbys: Standbys::default(),
            hands: tokio::sync::Mutex::default(),
            signing: tokio::sync::Mutex::default(),
            draining: AtomicBool::new(false),
            denials: Denials::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }))
    }

    /// Takes up the meetings under way. Once; call within a tokio runtime.
    ///
    /// # Errors
    /// The store could not be read.
    pub fn resume(self: &Arc<Self>, tasks: &Tasks) -> Result<(), StoreError> {
        for record in self.store.under_way()? {
            if self.is_unsettled(&record) {
                lock(&self.unsettled).insert(record.id);
            }
            match record.serving.role {
                CoreRole::Serving => self.take_up(record, None)?,
                CoreRole::Standby => self.standbys.hold(record.id, record.serving.by.as_ref().unwrap_or(self.me())),
                CoreRole::Moved => {}
            }
        }
        self.begin(tasks);
        Ok(())
    }

    /// Starts what goes on beside the meetings.
    fn begin(self: &Arc<Self>, tasks: &Tasks) {
        let of = || (Arc::downgrade(self), self.stop.clone());
        let (this, stop) = of();
        let doubting = tasks.keep("doubts", move || doubt::tell(this.clone(), stop.clone()));
        let (this, stop) = of();
        let removing = tasks.keep("removals", move || removal::tell(this.clone(), stop.clone()));
        let (store, stop) = (Arc::downgrade(&self.store), self.stop.clone());
        let settling = tasks.keep("settling", move || keep::settle(store.clone(), stop.clone()));
        let (this, stop) = of();
        let scrubbing = tasks.keep("scrubbing", move || keep::scrub(this.clone(), stop.clone()));
        let (this, stop) = of();
        let watching = tasks.keep("takeovers", move || takeover::watch(this.clone(), stop.clone()));
        let (claims, me, stop) = (self.claims.clone(), self.me().clone(), self.stop.clone());
        let claiming = tasks.keep("claims", move || {
            let watch = stop.clone().run_until_cancelled_owned(claims.clone().watch(me.clone()));
            async move { _ = watch.await }
        });
        // The end waits for them.
        for task in [doubting, removing, settling, scrubbing, watching, claiming] {
            self.tasks.spawn(task);
        }
    }

    /// Makes a meeting, or finds the one that the same request made before. It is made whole even if this is dropped.
    ///
    /// # Errors
    /// See [`CreateError`].
    pub async fn create(
        self: &Arc<Self>,
        spec: Spec,
        trace: TraceContext,
        idempotency: Option<(String, String)>,
    ) -> Result<Created, CreateError> {
        let this = self.clone();
        let made = self.whole(async move { this.make(spec, trace, idempotency).await }).await;
        made.unwrap_or(Err(CreateError::Broken))
    }

    /// Does `work` to its end, whether or not whoever waits for it stays; `None` if it panics.
    async fn whole<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
        self.tasks.spawn(work.in_current_span()).await.ok()
    }

    async fn make(
        self: &Arc<Self>,
        spec: Spec,
        trace: TraceContext,
        idempotency: Option<(String, String)>,
    ) -> Result<Created, CreateError> {
        let wanted = keys::Wanted::of(&spec, &idempotency);
        let mut record = new_record(spec, trace, idempotency);
        let _reserved = match self.reserve(&wanted, &record.spec, record.id).await? {
            Ok(reserved) => reserved,
            Err(made) => return Ok(made),
        };
        let (me, at) = (self.placer.mesh.identity(), record.created_at);
        record.begin_turn(me, CoreRole::Serving, Term(1), crate::SOFTWARE, at);
        let intake = (Ingest::new(self.settings.intake), Turns::default());
        let mut rest = record.clone();
        let machine = Machine::new(&mut rest, now());
        let (meeting, start) = self.assemble(rest, machine, vec![], intake, (vec![], 1, None), None);
        let place = self.insert(&meeting, &record)?;
        self.write_down(&meeting, &record).await?;
        place.keep();
        metrics::counter!("nearfield_core_meetings_created_total").increment(1);
        self.launch(meeting, start);
        Ok(Created { record, existing: false })
    }

    /// A new meeting is claimed, and on disk.
    async fn write_down(&self, meeting: &Arc<Meeting>, record: &MeetingRecord) -> Result<(), CreateError> {
        let core = self.placer.mesh.identity().node.clone();
        let claim = Claim { core, term: Term(1), epoch: Epoch(0), standby: None };
        if let Err(error) = meeting.standing.make(claim).await {
            // It may have been heeded.
            self.release(meeting.clone());
            return Err(error.into());
        }
        if let Err(error) = self.hold_keys(record).await {
            // It is not made: nothing is to stand for it.
            self.release(meeting.clone());
            return Err(error);
        }
        self.log.write(Op::Meeting(Box::new(record.clone()))).await?;
        Ok(())
    }

    /// A live meeting.
    pub fn live(&self, id: MeetingId) -> Option<Arc<Meeting>> {
        lock(&self.live).get(&id).cloned()
    }

    /// How many are live.
    pub fn live_count(&self) -> usize {
        lock(&self.live).len()
    }

    /// How a meeting stands, live or ended.
    ///
    /// # Errors
    /// The store could not be read.
    pub fn record(&self, id: MeetingId) -> Result<Option<MeetingRecord>, StoreError> {
        match self.live(id) {
            Some(meeting) => Ok(Some(meeting.record())),
            None => self.store.meeting(id),
        }
    }

    /// Who is known in a meeting.
    ///
    /// # Errors
    /// The store could not be read.
    pub fn participants(&self, id: MeetingId) -> Result<Vec<Participant>, StoreError> {
        self.live(id).map_or_else(|| self.store.participants(id), |meeting| Ok(meeting.participants()))
    }

    /// The disk, for reading.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Reads of the disk that somebody waits for who is not to hold up speech.
    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    /// The other nodes and what is known of distances.
    pub fn placer(&self) -> &Placer {
        &self.placer
    }

    /// Ends a live meeting: the edge leaves, the words still on their way come out. Returns when its status says so, two
    /// seconds later at most; it ends even if this is dropped.
    pub async fn stop(&self, id: MeetingId) {
        let Some(meeting) = self.live(id) else { return };
        let ending = async move {
            meeting.notify(Notice::Stop).await;
            _ = timeout(STOP_WAIT, meeting.leaves()).await;
        };
        self.whole(ending).await;
    }

    /// Takes no new meetings from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether new meetings are refused.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Spurts whose words are not out, over all meetings.
    pub fn undone(&self) -> usize {
        lock(&self.live).values().map(|m| m.backlog().0).sum()
    }

    /// Waits until all words are out, `deadline` at most, and ends every task. Live meetings stay live in
    /// the store: a restart takes them up again.
    pub async fn finish(&self, deadline: Instant) {
        while self.undone() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.stop.cancel();
        self.tasks.close();
        let ended = timeout_at((deadline + Duration::from_secs(1)).into(), self.tasks.wait()).await;
        if ended.is_err() {
            tracing::warn!(undone = self.undone(), "words were still being made; a restart goes on with them");
        }
    }

    fn check(&self, spec: &Spec) -> Result<(), CreateError> {
        if self.store_failure().is_some() {
            return Err(LogClosed.into());
        }
        if self.draining() {
            return Err(CreateError::Draining);
        }
        let map = self.placer.model.map();
        if let Some(unknown) = spec.prefer.iter().find(|region| map.region(region).is_none()) {
            return Err(CreateError::Prefer(unknown.clone()));
        }
        if let Some(language) = spec.language.as_ref().filter(|language| !self.pool.knows(language)) {
            return Err(CreateError::Language { language: language.clone(), engine: self.pool.engine().into() });
        }
        let here = self.placer.mesh.identity().region.clone();
        if let Some(regions) = allowed(map, &spec.residency)?
            && !regions.contains(&here)
        {
            let members = self.placer.mesh.members().borrow().clone();
            let api = core_within(&members, &regions, &here, &self.placer.model).ok_or(CreateError::Residency)?;
            return Err(CreateError::Elsewhere { api: api.to_owned() });
        }
        if self.store_shortage().is_some() {
            return Err(CreateError::StoreFull);
        }
        Ok(())
    }

    /// Takes the meeting's place among the live ones, if there is one.
    fn insert(&self, meeting: &Arc<Meeting>, record: &MeetingRecord) -> Result<Place<'_>, CreateError> {
        let mut live = lock(&self.live);
        if let Some(key) = &record.spec.deduplication_key {
            let same = live.values().find(|m| m.record().spec.deduplication_key.as_ref() == Some(key));
            if let Some(same) = same {
                return Err(CreateError::Duplicate(same.id));
            }
        }
        if live.len() >= self.settings.meetings {
            return Err(CreateError::Full(live.len()));
        }
        live.insert(record.id, meeting.clone());
        metrics::gauge!("nearfield_core_meetings_live_meetings").set(live.len() as f64);
        Ok(Place { live: &self.live, meeting: Some(record.id) })
    }

    /// Whether the authority can be reached: without it no meeting is made or changes hands.
    pub fn has_authority(&self) -> bool {
        self.claims.is_up()
    }

    fn take_up(self: &Arc<Self>, mut record: MeetingRecord, stands: Option<Stands>) -> Result<(), StoreError> {
        let mut ingest = Ingest::new(self.settings.intake);
        let mut turns = Turns::default();
        for (captured, spurt) in self.store.held(record.id)? {
            if !spurt.done {
                turns.begin(&spurt.key, captured);
            }
            ingest.restore(spurt);
        }
        let undone = ingest.undone();
        let participants = self.store.participants(record.id)?;
        let segments = self.store.segments(record.id, 0)?;
        let newest = segments.last().map(|s| s.seq);
        let finals = segments.into_iter().map(|s| s.id).collect();
        let next_seq = self.store.sequence(record.id)?;
        let machine = Machine::resumed(&mut record, undone, now());
        tracing::info!(meeting = %record.id, status = record.status.as_str(), undone, "meeting taken up again");
        let covers = Some(self.store.covers(record.id)?);
        let said = (finals, next_seq, newest);
        let (meeting, start) = self.assemble(record, machine, participants, (ingest, turns), said, stands);
        lock(&self.live).insert(meeting.id, meeting.clone());
        self.launch(meeting, Ends { covers, ..start });
        Ok(())
    }

    fn assemble(
        &self,
        record: MeetingRecord,
        machine: Machine<Link>,
        participants: Vec<Participant>,
        (ingest, turns): (Ingest, Turns),
        (finals, next_seq, newest): (Vec<uuid::Uuid>, u64, Option<u64>),
        stands: Option<Stands>,
    ) -> (Arc<Meeting>, Ends) {
        let (heard, heard_end) = mpsc::channel(HEARD_QUEUE);
        let (notices, notices_end) = mpsc::channel(NOTICE_QUEUE);
        let transcript = Transcript::new(record.id, record.origin, next_seq, finals);
        let replication = Arc::new(Replication::new(self.replicator(&record)));
        let (store, log, stop) = (self.store.clone(), self.log.clone(), self.stop.child_token());
        let (feed, shipped) = (store.clone(), replication.clone());
        let publisher = Publisher::new(record.id, transcript, (&record.gaps, newest), feed, log.clone(), shipped);
        let me = self.placer.mesh.identity().node.clone();
        let parts = Parts {
            standing: Standing::new(self.claims.clone(), record.id, me, stands),
            record,
            machine,
            participants,
            ingest,
            turns,
            replication,
            stop,
            publisher,
            store,
            log,
            heard,
            notices,
        };
        let meeting = Meeting::new(parts);
        (Arc::new(meeting), Ends { covers: None, heard: heard_end, notices: notices_end })
    }

    fn replicator(&self, record: &MeetingRecord) -> Replicator {
        let serving = &record.serving;
        let me = self.placer.mesh.identity().node.clone();
        Replicator::new(
            self.settings.failover.pair,
            me,
            serving.term,
            serving.standby.clone(),
            self.started.0 + self.streams.fetch_add(1, Ordering::Relaxed),
            Instant::now(),
        )
    }

    /// Starts the meeting's tasks.
    fn launch(self: &Arc<Self>, meeting: Arc<Meeting>, ends: Ends) {
        let record = meeting.record();
        let span = tracing::info_span!("meeting", id = %meeting.id, trace = %record.trace);
        let stop = meeting.stop.clone();
        let settings = transcription::Settings {
            parallel: self.settings.parallel,
            interim: self.settings.interim.filter(|_| record.spec.interim),
            language: record.spec.language.clone().or_else(|| self.settings.language.clone()),
            noise_suppression: record.spec.noise_suppression.unwrap_or(self.settings.noise_suppression),
        };
        let task =
            transcription::run(meeting.clone(), self.pool.clone(), settings, ends.covers, ends.heard, stop.clone());
        let guarded = self.clone().guarded(meeting.clone(), "the transcription", task);
        self.tasks.spawn(guarded.instrument(span.clone()));
        let wanted = self.wanted(&record.spec);
        let pairing = replication::Pairing::new(self.clone(), meeting.clone(), wanted.policy.residency.clone());
        let guarded = self.clone().guarded(meeting.clone(), "replication", pairing.run(stop.clone()));
        self.tasks.spawn(guarded.instrument(span.clone()));
        let rebalance = Rebalance::new(meeting.clone(), self.placer.clone(), wanted.clone());
        let guarded =
            self.clone().guarded(meeting.clone(), "the search for a better edge", rebalance.run(stop.clone()));
        self.tasks.spawn(guarded.instrument(span.clone()));
        let supervisor = supervise::Supervisor::new(self.clone(), meeting, wanted);
        self.tasks.spawn(told("the supervisor", supervisor.run(ends.notices)).instrument(span));
    }

    fn wanted(&self, spec: &Spec) -> Wanted {
        // A place that this node's map has lost since allows nothing, rather than everything.
        let residency = allowed(self.placer.model.map(), &spec.residency).unwrap_or_else(|_| Some(Default::default()));
        let policy = policy(residency, &spec.prefer, spec.max_rtt_ms);
        Wanted { source: spec.source.clone(), stun: spec.stun.clone(), policy }
    }
}

type Live = Mutex<BTreeMap<MeetingId, Arc<Meeting>>>;

/// The place of a meeting that is being made: given back unless it is kept.
struct Place<'a> {
    live: &'a Live,
    meeting: Option<MeetingId>,
}

impl Place<'_> {
    /// The meeting is made, and gives it back at its end.
    fn keep(mut self) {
        self.meeting = None;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(meeting) = self.meeting {
            forget_live(self.live, meeting);
        }
    }
}

fn forget_live(live: &Live, id: MeetingId) {
    let mut live = lock(live);
    live.remove(&id);
    metrics::gauge!("nearfield_core_meetings_live_meetings").set(live.len() as f64);
}

/// The receiving ends of a meeting's queues.
struct Ends {
    /// What is out already of what several edges captured.
    covers: Option<Vec<Cover>>,
    heard: mpsc::Receiver<IntakeEvent>,
    notices: mpsc::Receiver<Notice>,
}

pub(crate) fn new_record(spec: Spec, trace: TraceContext, idempotency: Option<(String, String)>) -> MeetingRecord {
    let (trace, key) = (trace.to_string(), MeetingKey::random());
    MeetingRecord { idempotency, trace, key, ..MeetingRecord::new(MeetingId::now_v7(), spec, wall()) }
}
