//! What cores ask of this edge: probe a relay, take a meeting, leave one.
#![allow(clippy::disallowed_methods, reason = "I/O shell")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mesh::{
    identity::Role,
    node::{Inbound, Node, Reply},
    wire::{
        Epoch, MeetingId,
        request::{Assignment, Request, Response},
    },
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info, info_span};

use crate::{connect, driver, link::Links, meeting, probe};

/// Probes under way at once; more are refused.
const PROBES: usize = 64;

/// How this edge serves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Meetings at once.
    pub capacity: u32,
    /// Of each meeting.
    pub meeting: meeting::Settings,
    /// Of the ways in.
    pub connect: connect::Settings,
    /// How long meetings may take to flush when the node is told to stop.
    pub drain: Duration,
}

/// The meetings of this edge. Cheap to clone.
#[derive(Clone)]
pub struct Assignments {
    node: Node,
    links: Links,
    settings: Arc<Settings>,
    live: Arc<Mutex<BTreeMap<MeetingId, Live>>>,
    probes: Arc<tokio::sync::Semaphore>,
}

struct Live {
    epoch: Epoch,
    stop: CancellationToken,
}

impl Assignments {
    /// No meetings yet.
    pub fn new(node: Node, settings: Settings) -> Self {
        let links = Links::new(node.clone(), env!("CARGO_PKG_VERSION").into());
        let probes = Arc::new(tokio::sync::Semaphore::new(PROBES));
        let this = Self { node, links, settings: Arc::new(settings), live: Arc::default(), probes };
        this.report();
        this
    }

    /// Serves `inbound` until `stop`, then leaves every meeting and waits for their last words.
    pub async fn serve(self, mut inbound: mpsc::Receiver<Inbound>, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(done) = tasks.join_next(), if !tasks.is_empty() => log_panic(done),
                next = inbound.recv() => match next {
                    None => break,
                    Some(Inbound::Request { peer, request, reply }) => {
                        tasks.spawn(self.clone().answer(peer.identity.role, request, reply));
                    }
                    Some(Inbound::Copies { .. }) => {
                        metrics::counter!("nearfield_edge_streams_refused_total").increment(1);
                    }
                    Some(Inbound::Control { peer, .. } | Inbound::Spurt { peer, .. }) => {
                        info!(peer = %peer.identity.node, "a stream that only cores take");
                        metrics::counter!("nearfield_edge_streams_refused_total").increment(1);
                    }
                },
            }
        }
        self.drain(tasks).await;
    }

    /// Meetings served now.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    async fn drain(&self, mut tasks: JoinSet<()>) {
        self.node.publish(|report| report.draining = true);
        self.lock().values().for_each(|live| live.stop.cancel());
        info!(meetings = self.count(), "draining");
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(self.settings.drain, all).await.is_err() {
            error!(meetings = self.count(), "not every meeting was brought home before the drain deadline");
        }
    }

    async fn answer(self, role: Role, request: Request, reply: Reply) {
        let mut admitted = None;
        let response = match request {
            _ if role != Role::Core => refused("only a core may ask this"),
            Request::Probe { relay, stun } => self.probe(&relay, stun).await,
            Request::Release { meeting } => {
                if let Some(live) = self.lock().get(&meeting) {
                    live.stop.cancel();
                }
                Response::Released
            }
            Request::Join(_) | Request::Renew { .. } | Request::Replicate(_) | Request::Serving { .. } => {
                refused("this edge does not take that")
            }
            Request::Assign(assignment) => match self.admit(&assignment) {
                Ok((connector, stop)) => {
                    admitted = Some((assignment, connector, stop));
                    Response::Accepted
                }
                Err(why) => refused(why),
            },
        };
        if let Err(error) = reply.send(response).await {
            // The asker will see a deadline; what it asked for is done all the same.
            debug!(%error, "an answer did not get through");
        }
        if let Some((assignment, connector, stop)) = admitted {
            self.run(assignment, connector, stop).await;
        }
    }

    async fn probe(&self, relay: &str, stun: bool) -> Response {
        let Ok(_slot) = self.probes.try_acquire() else { return refused("too many probes at once") };
        match probe::probe(relay, stun).await {
            Ok(measured) => Response::Probed { rtt_us: measured.rtt.as_micros() as u64, answered: measured.answered },
            Err(error) => refused(error.to_string()),
        }
    }

    fn admit(&self, assignment: &Assignment) -> Result<(Box<dyn connect::Connector>, CancellationToken), String> {
        let connector = connect::connector(&assignment.source, &self.settings.connect).map_err(|e| e.to_string())?;
        let mut live = self.lock();
        if let Some(held) = live.get(&assignment.meeting)
            && held.epoch >= assignment.epoch
        {
            return Err(format!("already here, with epoch {}", held.epoch.0));
        }
        if live.len() >= self.settings.capacity as usize {
            return Err(format!("full: {} meetings", live.len()));
        }
        let stop = CancellationToken::new();
        if let Some(former) = live.insert(assignment.meeting, Live { epoch: assignment.epoch, stop: stop.clone() }) {
            former.stop.cancel();
        }
        drop(live);
        self.report();
        Ok((connector, stop))
    }

    async fn run(&self, assignment: Assignment, connector: Box<dyn connect::Connector>, stop: CancellationToken) {
        let (meeting, epoch) = (assignment.meeting, assignment.epoch);
        let _slot = Slot { of: self, meeting, epoch };
        let span = info_span!("meeting", %meeting, epoch = epoch.0, trace = %assignment.trace);
        driver::run(assignment, connector, self.links.clone(), self.settings.meeting.clone(), stop)
            .instrument(span)
            .await;
    }

    fn report(&self) {
        let (meetings, capacity) = (self.count() as u32, self.settings.capacity);
        metrics::gauge!("nearfield_edge_meetings").set(f64::from(meetings));
        self.node.publish(|report| {
            report.meetings = meetings;
            report.capacity = capacity;
            report.stress_permille = (u64::from(meetings) * 1000 / u64::from(capacity.max(1))).min(1000) as u16;
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<MeetingId, Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A meeting's place in the table, given back however its task ends.
struct Slot<'a> {
    of: &'a Assignments,
    meeting: MeetingId,
    epoch: Epoch,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut live = self.of.lock();
        if live.get(&self.meeting).is_some_and(|held| held.epoch == self.epoch) {
            live.remove(&self.meeting);
        }
        drop(live);
        self.of.report();
    }
}

fn refused(why: impl Into<String>) -> Response {
    Response::Refused { reason: why.into() }
}

fn log_panic(done: Result<(), tokio::task::JoinError>) {
    if let Err(e) = done {
        metrics::counter!("nearfield_edge_meeting_panics_total").increment(1);
        error!(error = %e, "a meeting's task broke; the others go on");
    }
}
