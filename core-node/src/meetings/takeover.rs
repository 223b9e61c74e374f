//! Meetings that change hands: an edge turns to the standby, a standby takes over by itself, the former core
//! steps down, and whoever asks is told who serves.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use mesh::{
    authorize::{Message, Relation, Residency},
    identity::{Identity, NodeId},
    tasks::once,
    wire::{
        Epoch, MeetingId, Term,
        control::RefusedReason,
        request::{Replica, Request},
    },
};
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{Meetings, admit, claim::Cause, sweep::SWEEP_EVERY};
use crate::{
    authority::Stands,
    meeting::{
        Meeting,
        role::{self, NotHere},
        wall,
    },
    store::{
        Op,
        record::{CoreRole, MeetingRecord, Serving},
    },
};

/// How often a standby looks whether the cores it stands by for are there.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// How often a core that went on alone looks for the others.
const REUNITE_EVERY: Duration = Duration::from_secs(5);

impl Meetings {
    pub(super) fn me(&self) -> &NodeId {
        &self.placer.mesh.identity().node
    }

    /// An edge of version 1 says that it owns a meeting.
    ///
    /// # Errors
    /// It does not, or the meeting is over or elsewhere.
    pub fn open(&self, edge: &Identity, id: MeetingId, epoch: Epoch) -> Result<Arc<Meeting>, RefusedReason> {
        let Some(meeting) = self.live(id) else {
            return Err(match self.store.meeting(id) {
                Ok(Some(record)) if record.serving.role == CoreRole::Serving => RefusedReason::Ended,
                Ok(_) => RefusedReason::UnknownMeeting,
                Err(_) => RefusedReason::Full,
            });
        };
        self.check_owner(Message::Open, edge, &meeting.record(), epoch)?;
        Ok(meeting)
    }

    /// An edge says that it owns a meeting which this core serves, or is to serve from now on, in `term`.
    ///
    /// # Errors
    /// See [`NotHere`].
    pub async fn serve(
        self: &Arc<Self>,
        edge: &Identity,
        id: MeetingId,
        epoch: Epoch,
        term: Term,
    ) -> Result<Arc<Meeting>, NotHere> {
        if let Some(meeting) = self.live(id) {
            self.check_owner(Message::Serve, edge, &meeting.record(), epoch)?;
            return role::opened(self.me(), meeting.replication.see(|m| m.term()), term).map(|()| meeting);
        }
        let record = {
            let _hands = self.hands.lock().await;
            if let Some(meeting) = self.live(id) {
                // Another stream of the same edge was faster.
                return role::opened(self.me(), meeting.replication.see(|m| m.term()), term).map(|()| meeting);
            }
            self.store.meeting(id).map_err(|_| RefusedReason::Full)?.ok_or(RefusedReason::UnknownMeeting)?
        };
        role::called(&record, self.me(), edge, epoch, term)?;
        self.check_owner(Message::Serve, edge, &record, epoch)?;
        tracing::warn!(meeting = %id, edge = %edge.node, term = term.0, "an edge turns to this core");
        self.claim_for_edge(id, term, edge, epoch).await
    }

    /// An edge has speech of an epoch that is over for it.
    ///
    /// # Errors
    /// See [`NotHere`].
    pub fn open_late(&self, edge: &Identity, id: MeetingId, epoch: Epoch) -> Result<Arc<Meeting>, NotHere> {
        let Some(meeting) = self.live(id) else {
            return Err(match self.store.meeting(id) {
                Ok(Some(MeetingRecord { serving: Serving { by: Some(core), term, .. }, .. })) => {
                    NotHere::Moved(core, term)
                }
                Ok(Some(_)) => RefusedReason::Ended.into(),
                Ok(None) => RefusedReason::UnknownMeeting.into(),
                Err(_) => RefusedReason::Full.into(),
            });
        };
        let record = meeting.record();
        if !self.may_hold(&record) {
            return Err(RefusedReason::Residency.into());
        }
        let (who, at) = (admit::relation(record.owners.get(epoch), edge), self.residency(&record, &edge.region));
        match self.admit(Message::Late, edge, who, at) {
            Ok(()) => Ok(meeting),
            Err(_) => Err(RefusedReason::NotAllowed.into()),
        }
    }

    pub(super) fn check_owner(
        &self,
        message: Message,
        edge: &Identity,
        record: &MeetingRecord,
        epoch: Epoch,
    ) -> Result<(), RefusedReason> {
        let owns = role::owns(record, edge, epoch);
        // That its time is over is no offence: it may not know yet.
        let who = if owns == Err(RefusedReason::NotAllowed) { Relation::Nobody } else { Relation::Owner };
        let at = self.residency(record, &edge.region);
        if !self.may_hold(record) && at == Residency::Inside {
            return Err(RefusedReason::Residency);
        }
        self.admit(message, edge, who, at).map_err(|_| RefusedReason::NotAllowed)?;
        owns
    }

    /// Makes a meeting of which this core is the standby live, as it has claimed. `hands` is held.
    pub(super) async fn take_over(
        self: &Arc<Self>,
        mut record: MeetingRecord,
        term: Term,
        stands: Stands,
    ) -> Result<Arc<Meeting>, NotHere> {
        let (id, former) = (record.id, record.serving.by.take());
        let begun = Instant::now();
        record.serving = Serving::here(term);
        self.note_turn(&mut record, former.as_ref(), term);
        let written = self.log.write(Op::Meeting(Box::new(record.clone()))).await;
        if written.is_err() || self.take_up(record, Some(stands)).is_err() {
            return Err(RefusedReason::Full.into());
        }
        self.standbys.forget(id);
        metrics::counter!("nearfield_core_takeovers_total").increment(1);
        metrics::histogram!("nearfield_core_takeover_seconds").record(begun.elapsed().as_secs_f64());
        if let Some(former) = former {
            once("former core", tell_former(Arc::downgrade(self), id, former, term));
        }
        self.live(id).ok_or_else(|| RefusedReason::Ended.into())
    }

    /// This core's turn begins, and that of the one before has ended.
    pub(super) fn note_turn(&self, record: &mut MeetingRecord, former: Option<&NodeId>, term: Term) {
        let (me, at) = (self.placer.mesh.identity(), wall());
        if let Some(former) = former {
            record.end_turn(former, CoreRole::Serving, at);
        }
        record.end_turn(&me.node, CoreRole::Standby, at);
        record.begin_turn(me, CoreRole::Serving, term, crate::SOFTWARE, at);
    }

    /// What this core knows of who serves a meeting.
    ///
    /// # Errors
    /// The store could not be read.
    pub fn serving(&self, id: MeetingId) -> Result<Option<(NodeId, Term)>, crate::store::StoreError> {
        let Some(record) = self.record(id)? else { return Ok(None) };
        Ok(record.serving.core(self.me()).map(|core| (core, record.serving.term)))
    }

    /// The core that serves a meeting which this one does not: the newest that any other core names, itself asked last.
    pub async fn find(&self, id: MeetingId) -> Option<NodeId> {
        let known = self.record(id).ok().flatten();
        let told = self.ask(id, known.as_ref()).await.into_iter().map(|told| (told.term, told.core));
        if known.is_none() {
            return most_told(told).filter(|core| core != self.me());
        }
        let newest = told.chain(self.serving(id).ok().flatten().map(|(core, term)| (term, core))).max();
        newest.map(|(_, core)| core).filter(|core| core != self.me())
    }

    /// Where a core's API is, as a URL; `None` if it is not there.
    pub fn api_of(&self, core: &NodeId) -> Option<String> {
        let members = self.placer.mesh.members().borrow().clone();
        let member = members.iter().find(|m| m.identity.node == *core)?;
        let api = member.report.as_ref()?.api.clone()?;
        Some(if api.contains("://") { api.trim_end_matches('/').into() } else { format!("http://{api}") })
    }
}

/// The core that most name, of a meeting of which nothing is known here: nobody can prove anything then, and the primary and its
/// standby are two against one that lies. Among as many the newest term.
fn most_told(told: impl Iterator<Item = (Term, NodeId)>) -> Option<NodeId> {
    let mut cores: BTreeMap<NodeId, (usize, Term)> = BTreeMap::new();
    for (term, core) in told {
        let (count, newest) = cores.entry(core).or_insert((0, term));
        (*count, *newest) = (*count + 1, term.max(*newest));
    }
    cores.into_iter().max_by_key(|(_, told)| *told).map(|(core, _)| core)
}

/// Tells the core that served before, until it has heard or is gone: it must say nothing more.
pub(super) async fn tell_former(meetings: Weak<Meetings>, id: MeetingId, former: NodeId, term: Term) {
    let mut pauses = [100, 300, 1000, 3000, 10_000].into_iter().map(Duration::from_millis);
    loop {
        let Some(this) = meetings.upgrade() else { return };
        let Ok(Some(record)) = this.record(id) else { return };
        let proof = this.prove_serving(&record, &former, term);
        let word = Request::Replicate(Replica::word(id, term, None, proof));
        if this.placer.mesh.request(&former, &word).await.is_ok() {
            return;
        }
        drop(this);
        let Some(pause) = pauses.next() else { return };
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.75..1.25))).await;
    }
}

/// Takes meetings over that no edge asked for, when their core has been down for long enough and no other core
/// serves them.
pub(super) async fn watch(meetings: Weak<Meetings>, stop: CancellationToken) {
    let mut ticks = interval(WATCH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut absent: BTreeMap<NodeId, Instant> = BTreeMap::new();
    let mut looked = Instant::now();
    let mut claims: Option<JoinHandle<()>> = None;
    let mut swept = Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let Some(this) = meetings.upgrade() else { return };
        this.note_tables();
        if claims.as_ref().is_none_or(JoinHandle::is_finished) {
            let this = this.clone();
            claims = Some(once("claims in doubt", async move { this.look_at_claims().await }));
        }
        if swept.elapsed() >= SWEEP_EVERY {
            let (this, now) = (this.clone(), Instant::now());
            swept = now;
            // It takes less than until the next. An error is told where the authority is asked.
            once("sweep", async move { this.sweep_claims(now).await });
        }
        for record in this.orphans(&mut absent) {
            this.adopt(record).await;
        }
        if looked.elapsed() >= REUNITE_EVERY {
            this.reunite().await;
            looked = Instant::now();
        }
    }
}

impl Meetings {
    fn orphans(&self, absent: &mut BTreeMap<NodeId, Instant>) -> Vec<MeetingRecord> {
        let records = self.held();
        let (members, now) = (self.placer.mesh.members().borrow().clone(), Instant::now());
        let cores: Vec<NodeId> = records.iter().filter_map(|r| r.serving.by.clone()).collect();
        absent.retain(|core, _| cores.contains(core));
        for core in cores {
            if members.iter().any(|m| m.identity.node == core) {
                absent.remove(&core);
            } else {
                absent.entry(core).or_insert(now);
            }
        }
        let gone = |core: &NodeId| {
            absent.get(core).is_some_and(|since| now.duration_since(*since) >= self.settings.failover.takeover)
        };
        records.into_iter().filter(|r| r.serving.by.as_ref().is_some_and(gone)).collect()
    }

    /// The meetings under way of which this core is the standby.
    fn held(&self) -> Vec<MeetingRecord> {
        let mut held = vec![];
        for id in self.standbys.held() {
            // A record may be on its way to the disk.
            let Some(record) = self.store.meeting(id).ok().flatten() else { continue };
            if record.serving.role == CoreRole::Standby && !record.status.ended() {
                held.push(record);
            } else {
                self.standbys.let_go(id);
            }
        }
        held
    }

    async fn adopt(self: &Arc<Self>, record: MeetingRecord) {
        // In a term of its own: should the other two be alive after all, theirs is another.
        let (id, term) = (record.id, record.serving.term.isolated(self.me(), wall().0));
        if self.draining() || !self.claims.is_up() || self.served_elsewhere(&record).await {
            return;
        }
        // It may have been taken while we asked.
        let still = self.store.meeting(id).ok().flatten().filter(|r| r.serving == record.serving);
        let Some(record) = still.filter(|r| self.live(r.id).is_none() && self.may_hold(r)) else { return };
        tracing::warn!(meeting = %id, term = term.0, "its core has been gone for long: taking the meeting over");
        match self.claim(id, term, Cause::Orphaned(record.serving.clone())).await {
            Ok(_) => {}
            Err(NotHere::Moved(core, _)) if core != *self.me() => self.give_up(&record, Some(core)).await,
            Err(NotHere::Refused(RefusedReason::Ended | RefusedReason::UnknownMeeting)) => {
                self.give_up(&record, None).await;
            }
            Err(why) => tracing::warn!(meeting = %id, ?why, "not taken over"),
        }
    }

    /// Whether another live core serves it in a later term; then this one is not its standby any more.
    async fn served_elsewhere(&self, record: &MeetingRecord) -> bool {
        let found = self.find(record.id).await.filter(|core| Some(core) != record.serving.by.as_ref());
        let Some(core) = found else { return false };
        self.give_up(record, Some(core)).await;
        true
    }
}
