//! The task that keeps one meeting's standby: chooses it, ships to it, tells the edge of it.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::{
    collections::BTreeSet,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use geo::RegionId;
use mesh::{
    identity::{Identity, NodeId, Role},
    node::Member,
    tasks::{blocking, once},
    wire::{
        Version,
        request::{Replica, Request, Response},
    },
};
use tokio::{
    sync::watch,
    time::{sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::Meetings;
use crate::{
    meeting::{Meeting, link::ToLink, wall, wishes::Wish},
    replicate::{
        choose::{Avoided, fit, ranked},
        sender::{Event, Replicator, Send},
        snapshot::snapshot,
    },
    store::{
        Op,
        log::LogClosed,
        record::{CoreRole, MeetingRecord},
    },
};

/// Seconds between two goodbyes to a standby that does not answer.
const FAREWELLS: [u64; 6] = [1, 2, 4, 8, 16, 32];

/// What was written down, by its number; `None` if it is another core's to do.
type Persisting = Pin<Box<dyn Future<Output = Result<Option<u64>, LogClosed>> + std::marker::Send>>;
type Answer = Pin<Box<dyn Future<Output = Option<Response>> + std::marker::Send>>;

pub(super) struct Pairing {
    meetings: Arc<Meetings>,
    meeting: Arc<Meeting>,
    regions: Option<BTreeSet<RegionId>>,
    members: watch::Receiver<Arc<Vec<Member>>>,
    avoided: Avoided,
    /// What the last core said that would not be the standby.
    refusal: Option<String>,
    answer: Option<Answer>,
    persisting: Option<Persisting>,
}

impl Pairing {
    pub(super) fn new(meetings: Arc<Meetings>, meeting: Arc<Meeting>, regions: Option<BTreeSet<RegionId>>) -> Self {
        let members = meetings.placer.mesh.members();
        Self {
            meetings,
            meeting,
            regions,
            members,
            avoided: Avoided::default(),
            refusal: None,
            answer: None,
            persisting: None,
        }
    }

    /// Runs until `stop` fires, the meeting has ended or moved, or the store fails.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            // An error is noticed elsewhere, and ends the node.
            _ = self.ship() => {}
        }
    }

    async fn ship(&mut self) -> Result<(), LogClosed> {
        let mut changes = self.meeting.replication.changes();
        loop {
            changes.borrow_and_update();
            self.meeting.settle_witnesses();
            self.choose().await;
            while let Some(event) = self.next_event() {
                if !self.handle(event).await? {
                    return Ok(());
                }
            }
            if let Some(send) = self.meeting.replication.see_mut(|m| m.poll_send(Instant::now())) {
                self.answer = Some(Box::pin(ask(self.meetings.clone(), self.meeting.clone(), send)));
            }
            let timeout = self.meeting.replication.see(Replicator::poll_timeout);
            tokio::select! {
                Ok(()) = changes.changed() => {}
                written = finished(&mut self.persisting) => {
                    self.persisting = None;
                    if let Some(number) = written? {
                        self.meeting.replication.with(|m, _| m.handle_persisted(number));
                    }
                }
                answer = finished(&mut self.answer) => {
                    self.answer = None;
                    if let Some(Response::Refused { reason }) = &answer {
                        self.refusal = Some(reason.clone());
                    }
                    self.meeting.replication.with(|m, now| m.handle_answer(answer, now));
                }
                () = sleep_until(timeout.unwrap_or_else(Instant::now).into()), if timeout.is_some() => {
                    self.meeting.replication.with(Replicator::handle_timeout);
                }
                Ok(()) = self.members.changed() => self.handle_members(),
                () = self.avoided.wait(), if self.meeting.replication.see(Replicator::wants_standby) => {}
            }
        }
    }

    /// What comes after something that is being written down waits for it, unless another core serves the meeting.
    fn next_event(&mut self) -> Option<Event> {
        if self.persisting.is_some() && !self.meeting.replication.see(Replicator::is_superseded) {
            return None;
        }
        self.meeting.replication.see_mut(Replicator::poll_event)
    }

    /// Chooses a standby if there is none. The order of their merit is asked of those that speak version 2.
    async fn choose(&mut self) {
        let wanted = self.meetings.settings.failover.standby && !self.meeting.record().status.ended();
        if !wanted || self.meeting.replication.see(|m| m.binding().is_some()) {
            self.meeting.wishes.handle_met(Wish::Standby);
        }
        if !wanted || !self.meeting.replication.see(Replicator::wants_standby) {
            return;
        }
        let members = self.members.borrow_and_update().clone();
        let placer = self.meetings.placer.clone();
        let me = placer.mesh.identity();
        let rtt = |other: &mesh::identity::Identity| {
            placer.mesh.rtt(&other.node).or_else(|| placer.model.estimate(&me.region, &other.region).map(|l| l.rtt))
        };
        let cores = ranked(&members, me, self.regions.as_ref(), rtt);
        let why = match &self.refusal {
            _ if cores.is_empty() => "no other core that may hold it is there".to_owned(),
            Some(refusal) => format!("the others are passed over for a while; the last said: {refusal}"),
            None => "the others did not answer in time".to_owned(),
        };
        for core in cores {
            if self.avoided.contains(&core, Instant::now()) {
                continue;
            }
            if placer.mesh.wire(&core).await >= Version::V2 {
                tracing::info!(standby = %core, "standby chosen");
                // Noted before it is sent anything: it has part in the meeting from now on. An error ends this task later.
                let _ = note_standby(&self.meeting, &members, &core).await;
                return self.meeting.replication.with(|m, now| m.handle_chosen(core, now));
            }
            self.avoided.add(core, Instant::now());
        }
        self.meeting.wishes.handle_unmet(Wish::Standby, why, wall());
    }

    /// False when nothing more is to be done.
    async fn handle(&mut self, event: Event) -> Result<bool, LogClosed> {
        match event {
            Event::Load => self.load().await?,
            Event::Avoid(core, stream) => {
                self.say_farewell(core.clone(), stream);
                tracing::warn!(standby = %core, "the standby is no good");
                metrics::counter!("nearfield_core_standbys_dropped_total").increment(1);
                self.meeting.update_here(|record| record.end_turn(&core, CoreRole::Standby, wall())).await?;
                // What is not fit is passed over anyway, and may be chosen as soon as it is.
                if self.is_fit(&core) {
                    self.avoided.add(core, Instant::now());
                }
            }
            Event::Persist(number, core) => {
                tracing::info!(standby = ?core.as_ref().map(NodeId::as_str), "standby");
                self.persisting = Some(Box::pin(persist(self.meeting.clone(), number, core)));
            }
            Event::Announce(number, core) => self.announce(number, core).await,
            Event::Begin(term) => self.meetings.begin_isolated(&self.meeting, term).await?,
            Event::Superseded(core, term) => {
                self.meeting.handle_superseded(core, term);
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn announce(&mut self, number: u64, core: Option<NodeId>) {
        let (witnesses, meeting) = (self.meeting.captures(|captures| captures.witnesses()), self.meeting.id);
        if witnesses.is_empty() {
            return self.meeting.tally();
        }
        if core.is_some() {
            self.meeting.replication.see_mut(Replicator::handle_told);
        }
        for (_, link) in witnesses {
            // An error means that the link has gone; the edge will open the meeting again and be told.
            let _ = link.send(ToLink::Standby { meeting, core: core.clone(), number }).await;
        }
    }

    async fn load(&mut self) -> Result<(), LogClosed> {
        // What was queued before is on disk before it is read.
        self.meetings.log.write(Op::Barrier).await?;
        let (store, id) = (self.meeting.store.clone(), self.meeting.id);
        let read = blocking("snapshot", move || snapshot(&store, id)).await;
        let entries = match read {
            Ok(Ok(entries)) => entries,
            Ok(Err(error)) => {
                tracing::error!(%error, "no snapshot for the standby");
                None
            }
            Err(_) => None,
        };
        self.meeting.replication.with(|m, now| m.handle_snapshot(entries, now));
        Ok(())
    }

    /// Whoever is dropped may not have heard of it when the meeting goes on without it: it would keep the meeting's secrets, and a place
    /// for it.
    fn say_farewell(&self, core: NodeId, stream: u64) {
        let (meetings, meeting) = (self.meetings.clone(), self.meeting.clone());
        once("farewell", async move {
            for wait in FAREWELLS {
                let send = Send::farewell(core.clone(), stream);
                if ask(meetings.clone(), meeting.clone(), send).await.is_some() {
                    return;
                }
                tokio::select! {
                    () = sleep(Duration::from_secs(wait)) => {}
                    () = meetings.stop.cancelled() => return,
                }
            }
        });
    }

    fn is_fit(&self, core: &NodeId) -> bool {
        let members = self.members.borrow();
        members.iter().any(|m| m.identity.node == *core && fit(m, self.regions.as_ref()))
    }

    fn handle_members(&mut self) {
        let members = self.members.borrow_and_update().clone();
        self.avoided.forget_absent(&members);
        let Some(core) = self.meeting.replication.see(|m| m.other().cloned()) else { return };
        if !self.is_fit(&core) {
            self.meeting.replication.with(Replicator::handle_unfit);
        }
    }
}

/// Sends it; the answer, if there is one.
async fn ask(meetings: Arc<Meetings>, meeting: Arc<Meeting>, send: Send) -> Option<Response> {
    let (term, record) = (meeting.replication.see(Replicator::term), meeting.record());
    // Who answers is whom the connection was made with: a core of that name.
    let mesh = meetings.placer.mesh.clone();
    let asked = Identity { node: send.core.clone(), role: Role::Core, region: mesh.identity().region.clone() };
    let proof = meetings.prove_serving(&record, &send.core, term);
    let replica = Replica {
        meeting: record.id,
        term,
        stream: send.stream,
        first: send.first,
        entries: send.pieces,
        resumed: None,
        proof,
    };
    match mesh.request(&send.core, &Request::Replicate(replica)).await {
        Ok(answer) => Some(meetings.believed(&asked, &record, answer)),
        Err(error) => {
            tracing::debug!(meeting = %record.id, standby = %send.core, error, "the standby did not answer");
            None
        }
    }
}

/// `core` has part in the meeting from now on.
async fn note_standby(meeting: &Meeting, members: &[Member], core: &NodeId) -> Result<(), LogClosed> {
    let Some(member) = members.iter().find(|m| m.identity.node == *core) else { return Ok(()) };
    let software = member.report.as_ref().map_or("", |r| &r.software);
    let term = meeting.replication.see(Replicator::term);
    let begin = |record: &mut MeetingRecord| {
        record.begin_turn(&member.identity, CoreRole::Standby, term, software, wall());
    };
    meeting.update_here(begin).await.map(|_| ())
}

/// Writes down who the standby is. After a crash no standby is without its mark here that the authority lets take over: such a
/// core would go on as if there were none.
async fn persist(meeting: Arc<Meeting>, number: u64, core: Option<NodeId>) -> Result<Option<u64>, LogClosed> {
    if core.is_none() && meeting.claim_standby(None).await.is_err() {
        return Ok(None);
    }
    meeting.update_here(|record| record.serving.standby = core.clone()).await?;
    if core.is_some() && meeting.claim_standby(core.as_ref()).await.is_err() {
        return Ok(None);
    }
    Ok(Some(number))
}

/// What is awaited; never, when there is nothing.
async fn finished<T>(work: &mut Option<Pin<Box<dyn Future<Output = T> + std::marker::Send>>>) -> T {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}
