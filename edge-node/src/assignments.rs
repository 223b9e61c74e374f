//! What cores ask of this edge: probe a relay, take a meeting, leave one.
#![allow(clippy::disallowed_methods, reason = "I/O shell")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mesh::{
    authorize::{self, Denied, Message, Relation, Residency},
    identity::{Identity, NodeId, Role},
    mandate::EdgeKey,
    node::{Inbound, Node, Reply},
    tasks::{Broken, blocking, told},
    wire::{
        Epoch, MeetingId,
        request::{MAX_RENEWED, Request, Response},
    },
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info, info_span};

use crate::{
    connect,
    driver::{self, Order, Tools},
    guard::{self, Pulse},
    isolate::{self, parent::Isolated},
    link::Links,
    meeting::{self, Offer},
    probe,
    uplink::spill::{self, recover},
};

/// Probes under way at once; more are refused.
const PROBES: usize = 64;
/// Renewals of other edges' leases being passed on at once; more are refused.
const PASSES: usize = 64;
/// Meetings of an earlier process whose speech is uploaded at once; the others wait for them.
const LATE_UPLOADS: usize = 32;

/// How this edge serves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Meetings at once.
    pub capacity: u32,
    /// Of each meeting.
    pub meeting: meeting::Settings,
    /// Where speech is spilled to; `None`: nowhere.
    pub spill: Option<spill::Settings>,
    /// Of the ways in.
    pub connect: connect::Settings,
    /// Whether each meeting has a process of its own; `None`: none has.
    pub isolate: Option<isolate::Settings>,
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
    passes: Arc<tokio::sync::Semaphore>,
}

/// A meeting that is to be run.
struct Admitted {
    offer: Offer,
    connector: Box<dyn connect::Connector>,
    orders: watch::Receiver<Order>,
    pulse: Pulse,
}

struct Live {
    epoch: Epoch,
    core: NodeId,
    key: EdgeKey,
    orders: watch::Sender<Order>,
    pulse: Pulse,
}

impl Live {
    /// What a core that shows this key is to it. One that was assigned as version 1 does has none, and its core alone speaks for it.
    fn relation(&self, core: &Identity, key: &EdgeKey) -> Relation {
        let alone = self.key == EdgeKey::default() && self.core == core.node;
        if alone || self.key.is(key) { Relation::Core } else { Relation::Nobody }
    }

    /// An order is never taken back.
    fn order(&self, order: Order) {
        self.orders.send_if_modified(|now| {
            let newer = order > *now;
            *now = order.max(*now);
            newer
        });
    }
}

impl Assignments {
    /// No meetings yet.
    pub fn new(node: Node, settings: Settings) -> Self {
        let links = Links::new(node.clone(), env!("CARGO_PKG_VERSION").into());
        let probes = Arc::new(tokio::sync::Semaphore::new(PROBES));
        let passes = Arc::new(tokio::sync::Semaphore::new(PASSES));
        let this = Self { node, links, settings: Arc::new(settings), live: Arc::default(), probes, passes };
        this.report();
        this
    }

    /// Serves `inbound` until `stop`, then leaves every meeting and waits for their last words.
    ///
    /// # Errors
    /// `inbound` has ended before.
    pub async fn serve(self, mut inbound: mpsc::Receiver<Inbound>, stop: CancellationToken) -> Result<(), String> {
        let mut tasks = JoinSet::new();
        // Not among `tasks`: a stop need not wait for it.
        let this = self.clone();
        let uploading = self.node.tasks().keep("spilled speech", move || this.clone().upload_late());
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(done) = tasks.join_next(), if !tasks.is_empty() => note_broken(done.map_err(Broken::from)),
                next = inbound.recv() => match next {
                    None => return Err("the node has ended".into()),
                    Some(Inbound::Request { peer, request, reply }) => {
                        tasks.spawn(told("request", self.clone().answer(peer.identity, *request, reply)));
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
        uploading.abort();
        Ok(())
    }

    /// Meetings served now.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    async fn drain(&self, mut tasks: JoinSet<()>) {
        self.node.publish(|report| report.draining = true);
        self.lock().values().for_each(|live| live.order(Order::HandOver));
        info!(meetings = self.count(), "draining");
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(self.settings.drain, all).await.is_err() {
            error!(meetings = self.count(), "not all speech of every meeting was uploaded before the drain deadline");
        }
    }

    async fn answer(self, from: Identity, request: Request, reply: Reply) {
        let mut admitted = None;
        let response = match request {
            Request::Renew { core, edge, sent_ms, leases } => {
                let request = Request::Renew { core: core.clone(), edge: edge.clone(), sent_ms, leases };
                self.pass_on(&from, core, &edge, request).await
            }
            // By cores only: `mesh::authorize`.
            Request::Probe { relay, stun } => self.probe(&relay, stun).await,
            Request::Release { meeting, key } => self.release(&from, meeting, &key),
            Request::Captures { meeting, key } => self.captures(&from, meeting, &key),
            Request::Replicate(_) | Request::Serving { .. } | Request::Keys(_) | Request::Remove { .. } => {
                refused("an edge serves no meeting's words")
            }
            Request::Assign(assignment) => {
                self.take(&from, Message::Assign, Offer::assigned(assignment), &mut admitted)
            }
            Request::Join(join) => self.take(&from, Message::Join, Offer::joined(join), &mut admitted),
        };
        if let Err(error) = reply.send(response).await {
            // The asker will see a deadline; what it asked for is done all the same.
            debug!(%error, "an answer did not get through");
        }
        if let Some(admitted) = admitted {
            self.run(admitted).await;
        }
    }

    async fn probe(&self, relay: &str, stun: bool) -> Response {
        let Ok(_slot) = self.probes.try_acquire() else { return refused("too many probes at once") };
        match probe::probe(relay, stun, &self.settings.connect.egress).await {
            Ok(measured) => Response::Probed { rtt_us: measured.rtt.as_micros() as u64, answered: measured.answered },
            Err(error) => refused(error.to_string()),
        }
    }

    /// A core tells this edge to leave.
    fn release(&self, from: &Identity, meeting: MeetingId, key: &EdgeKey) -> Response {
        let live = self.lock();
        let Some(held) = live.get(&meeting) else { return Response::Released };
        let who = held.relation(from, key);
        match self.door(Message::Release, from, who, Residency::Inside) {
            Ok(()) => {
                held.order(Order::Leave);
                Response::Released
            }
            Err(denied) => refused(denied.to_string()),
        }
    }

    /// A core that seeks an edge for a meeting asks whether this one, which it has not heard for a lease, captures it all the same.
    fn captures(&self, from: &Identity, meeting: MeetingId, key: &EdgeKey) -> Response {
        let live = self.lock();
        let held = live.get(&meeting);
        let who = held.map_or(Relation::New, |held| held.relation(from, key));
        match self.door(Message::Captures, from, who, Residency::Inside) {
            Ok(()) => Response::Captures(held.filter(|held| held.pulse.captures()).map(|held| held.epoch)),
            Err(denied) => refused(denied.to_string()),
        }
    }

    /// Whether `message` is taken from a node that is `who` to the meeting.
    fn door(&self, message: Message, from: &Identity, who: Relation, at: Residency) -> Result<(), Denied> {
        let admitted = authorize::check(message, Role::Edge, from.role, who, at);
        admitted.inspect_err(|denied| self.node.denials().note(from, denied))
    }

    /// What a core is to the meeting that it offers: it must serve it itself, and have the key if the meeting is here.
    fn offers(&self, from: &Identity, Offer { assignment, key, .. }: &Offer) -> Relation {
        match self.lock().get(&assignment.meeting) {
            _ if assignment.core != from.node => Relation::Nobody,
            None => Relation::New,
            Some(held) => held.relation(from, key),
        }
    }

    fn take(&self, from: &Identity, message: Message, offer: Offer, admitted: &mut Option<Admitted>) -> Response {
        let may = |region| offer.regions.is_empty() || offer.regions.contains(region);
        let at = Residency::of(may(&from.region) && may(&self.node.identity().region));
        if let Err(denied) = self.door(message, from, self.offers(from, &offer), at) {
            return refused(denied.to_string());
        }
        match self.admit(offer) {
            Ok(taken) => {
                *admitted = Some(taken);
                Response::Accepted
            }
            Err(why) => refused(why),
        }
    }

    fn admit(&self, offer: Offer) -> Result<Admitted, String> {
        let (assignment, pulse) = (&offer.assignment, Pulse::default());
        let mut connector =
            connect::connector(&assignment.source, &self.settings.connect).map_err(|e| e.to_string())?;
        if let Some(isolate) = self.settings.isolate.clone() {
            connector = Box::new(Isolated::new(isolate, assignment.source.clone(), assignment.vad));
        }
        let mut live = self.lock();
        if let Some(held) = live.get(&assignment.meeting)
            && held.epoch >= assignment.epoch
        {
            return Err(format!("already here, with epoch {}", held.epoch.0));
        }
        // One that is here already takes no more room under a new epoch.
        if live.len() >= self.settings.capacity as usize && !live.contains_key(&assignment.meeting) {
            return Err(format!("full: {} meetings", live.len()));
        }
        let (orders, ordered) = watch::channel(Order::Stay);
        let (epoch, core) = (assignment.epoch, assignment.core.clone());
        let taken = Live { epoch, core, key: offer.key, orders, pulse: pulse.clone() };
        if let Some(former) = live.insert(assignment.meeting, taken) {
            former.order(Order::Leave);
        }
        drop(live);
        self.report();
        Ok(Admitted { offer, connector, orders: ordered, pulse })
    }

    async fn run(&self, Admitted { offer, connector, orders, pulse }: Admitted) {
        let (meeting, epoch) = (offer.assignment.meeting, offer.assignment.epoch);
        let _slot = Slot { of: self, meeting, epoch };
        let span = info_span!("meeting", %meeting, epoch = epoch.0, trace = %offer.assignment.trace);
        let work = driver::run(offer.clone(), connector, self.tools(), orders.clone(), pulse.clone());
        if let Err(broken) = guard::watch(work.instrument(span.clone()), pulse.clone()).await {
            pulse.beat(false);
            metrics::counter!("nearfield_edge_meetings_broken_total").increment(1);
            error!(%meeting, %broken, "a meeting is given up; the others go on");
            let why = format!("the edge gave the meeting up: {broken}");
            driver::give_up(offer, why, self.tools(), orders).instrument(span).await;
        }
    }

    fn tools(&self) -> Tools {
        let Settings { meeting, spill, .. } = &*self.settings;
        Tools { links: self.links.clone(), settings: meeting.clone(), spill: spill.clone() }
    }

    /// Uploads what an earlier process has left on disk.
    async fn upload_late(self) {
        let Some(spill) = self.settings.spill.clone() else { return };
        let Ok(found) = blocking("spilled speech", move || recover(&spill)).await else { return };
        let mut tasks = JoinSet::new();
        for found in found {
            while tasks.len() >= LATE_UPLOADS {
                tasks.join_next().await;
            }
            let span = info_span!("late", meeting = %found.origin.meeting, epoch = found.origin.epoch.0);
            let (orders, ordered) = watch::channel(Order::Stay);
            let work = driver::upload_late(found, self.tools(), ordered).instrument(span);
            tasks.spawn(async move {
                // Never ordered: it ends by itself, or is cut off with its folder left for the next start.
                let _orders = orders;
                work.await;
            });
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Another edge cannot reach its core: passes its wish on, once, for that edge only and only if the core is another node.
    async fn pass_on(&self, from: &Identity, core: NodeId, edge: &NodeId, request: Request) -> Response {
        let message = Message::of_request(&request, &self.node.identity().node);
        let who = if from.node == *edge { Relation::Itself } else { Relation::Nobody };
        if let Err(denied) = self.door(message, from, who, Residency::Inside) {
            return refused(denied.to_string());
        }
        if matches!(&request, Request::Renew { leases, .. } if leases.len() > MAX_RENEWED) {
            return refused(format!("at most {MAX_RENEWED} leases at a time"));
        }
        let Ok(_permit) = self.passes.try_acquire() else { return refused("too many renewals under way") };
        metrics::counter!("nearfield_edge_renewals_passed_on_total").increment(1);
        match self.node.request(&core, &request).await {
            Ok(response) => response,
            Err(error) => refused(error.to_string()),
        }
    }

    fn report(&self) {
        let (meetings, capacity) = (self.count() as u32, self.settings.capacity);
        metrics::gauge!("nearfield_edge_meetings").set(f64::from(meetings));
        let connections = self.settings.connect.sockets.tables();
        for (table, rows) in connections.into_iter().chain([("meetings", meetings as usize)]) {
            metrics::gauge!("nearfield_edge_table_rows", "table" => table).set(rows as f64);
        }
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

fn note_broken(done: Result<(), Broken>) {
    if let Err(why) = done {
        metrics::counter!("nearfield_edge_meeting_panics_total").increment(1);
        error!(%why, "a meeting's task broke; the others go on");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use mesh::mandate::MeetingKey;

    use super::*;

    fn core(name: &str) -> Identity {
        Identity { node: name.parse().unwrap(), role: Role::Core, region: "eu-central".parse().unwrap() }
    }

    fn live(key: EdgeKey) -> Live {
        let (orders, pulse) = (watch::channel(Order::Stay).0, Pulse::default());
        Live { epoch: Epoch(1), core: core("core-1").node, key, orders, pulse }
    }

    #[test]
    fn a_core_speaks_for_a_meeting_that_is_here_by_its_key_whichever_core_it_is() {
        let edge = "edge-1".parse().unwrap();
        let (key, other) = (MeetingKey::random().for_edge(&edge), MeetingKey::random().for_edge(&edge));
        let held = live(key);
        assert_eq!(held.relation(&core("core-2"), &key), Relation::Core, "its successor");
        for wrong in [other, EdgeKey::default()] {
            assert_eq!(held.relation(&core("core-1"), &wrong), Relation::Nobody, "nor the same core without it");
        }
        // As version 1 assigns, there is none.
        let held = live(EdgeKey::default());
        assert_eq!(held.relation(&core("core-1"), &key), Relation::Core);
        assert_eq!(held.relation(&core("core-2"), &EdgeKey::default()), Relation::Nobody);
    }
}
