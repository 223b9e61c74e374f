//! The meetings this core serves.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

pub mod admit;
mod answer;
mod claim;
pub(crate) mod create;
mod doubt;
mod end;
mod guard;
mod isolated;
pub mod keep;
mod keys;
mod launch;
mod leftover;
pub mod list;
pub mod receipts;
mod removal;
mod replication;
mod reserve;
mod settings;
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

use mesh::{authorize::Denials, clock::Micros, tasks::Tasks, wire::MeetingId};
use tokio::time::{timeout, timeout_at};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

pub use self::{
    create::{CreateError, Created},
    settings::{Failover, Settings},
};
use self::{reserve::Reservations, standby::Standbys};
use crate::{
    authority::{Claims, lives::Lives, unchanged::Unchanged},
    lock,
    meeting::{Meeting, Notice, wall},
    placement::Placer,
    store::{
        Store, StoreError,
        log::Log,
        reads::Reads,
        record::{CoreRole, MeetingRecord, Participant, removal::Removal},
    },
    transcribe::pool::Pool,
};

/// Whoever ends a meeting is told how it stands then; its supervisor may have other things to do first.
const STOP_WAIT: Duration = Duration::from_secs(2);

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

    /// Does `work` to its end, whether or not whoever waits for it stays; `None` if it panics.
    async fn whole<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
        self.tasks.spawn(work.in_current_span()).await.ok()
    }

    /// A live meeting.
    pub fn live(&self, id: MeetingId) -> Option<Arc<Meeting>> {
        lock(&self.live).get(&id).cloned()
    }

    /// The live meeting with this deduplication key, if it is served here.
    pub fn live_under(&self, key: &str) -> Option<MeetingId> {
        let has_it = |meeting: &&Arc<Meeting>| meeting.record().spec.deduplication_key.as_deref() == Some(key);
        lock(&self.live).values().find(has_it).map(|meeting| meeting.id)
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

    /// Whether the authority can be reached: without it no meeting is made or changes hands.
    pub fn has_authority(&self) -> bool {
        self.claims.is_up()
    }
}

type Live = Mutex<BTreeMap<MeetingId, Arc<Meeting>>>;

fn forget_live(live: &Live, id: MeetingId) {
    let mut live = lock(live);
    live.remove(&id);
    metrics::gauge!("nearfield_core_meetings_live_meetings").set(live.len() as f64);
}
