//! A core that starts goes on with what its store says, which may be an older copy of it: meetings may be over, or elsewhere. So it says
//! to every other core that it meets what it serves, and believes who knows better: while it serves already, or, of a store that is known
//! to be a copy, before it does ([`Meetings::consult`]).

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use mesh::{
    identity::{Identity, NodeId, Role},
    wire::{
        MeetingId, Term,
        request::{Held, Replica, Request, Response, Resumed},
    },
};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Meetings;
use crate::{
    lock,
    meeting::role,
    replicate::sender::Replicator,
    store::{
        Op, StoreError,
        record::{CoreRole, MeetingRecord, Serving},
    },
};

/// So soon after the start most others are there, and are looked for often.
const SOON: Duration = Duration::from_secs(60);
/// Between two looks at who is there.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The same later on: a core may be back after hours.
const LOOK_EVERY_LATER: Duration = Duration::from_secs(5);
/// Told at a time.
const AT_A_TIME: usize = 16;
/// A core that is told answers within this, or is told again.
const TELL_WAIT: Duration = Duration::from_secs(2);
/// A copy of a store is not served for so long, whoever does not answer. Edges keep what is said meanwhile.
const CONSULT_WAIT: Duration = Duration::from_secs(10);
/// So long after the last core was met nobody else is waited for.
const ALL_MET: Duration = Duration::from_secs(2);

/// Who has heard of which meeting.
type Told = BTreeSet<(NodeId, MeetingId)>;

/// Tells the others which meetings this core goes on with that are older than its start, for as long as it does.
pub(super) async fn tell(meetings: Weak<Meetings>, stop: CancellationToken) {
    let soon = Instant::now() + SOON;
    let (mut told, mut resumed) = (Told::new(), BTreeSet::new());
    loop {
        let Some(this) = meetings.upgrade() else { return };
        let is_soon = Instant::now() < soon;
        if is_soon {
            // Also those that it takes over by what its store says. What ends meanwhile is told of once more.
            resumed.extend(this.older_than_start());
        } else {
            resumed.retain(|id| this.live(*id).is_some());
        }
        let cores = this.other_cores();
        let telling = this.tell_all(&cores, &resumed, &told, None);
        let Some(heard) = stop.run_until_cancelled(telling).await else { return };
        told.extend(heard);
        drop(this);
        let pause = if is_soon { LOOK_EVERY } else { LOOK_EVERY_LATER };
        if stop.run_until_cancelled(sleep(pause)).await.is_none() {
            return;
        }
    }
}

impl Meetings {
    /// Of a store that is a copy: asks the other cores what has become of the meetings under way, and leaves to them what they serve, or
    /// hold more of. Call before [`Meetings::resume`]. Ends when every core that was met, and each that has part in one of them as far as
    /// the copy knows, has answered; some 10 s later at most.
    ///
    /// # Errors
    /// The store could not be read or written.
    pub async fn consult(self: &Arc<Self>) -> Result<(), StoreError> {
        if !self.store.is_unchecked_copy()? {
            return Ok(());
        }
        tracing::info!(
            "the store is a copy: the other cores are asked what they know of its meetings before any is served"
        );
        let (begun, mut told, mut met) = (Instant::now(), Told::new(), BTreeSet::new());
        let (mut met_last, until) = (begun, begun + CONSULT_WAIT);
        loop {
            let mut under_way = self.store.under_way()?;
            under_way.retain(|record| record.serving.role == CoreRole::Serving);
            let serving: BTreeSet<MeetingId> = under_way.iter().map(|record| record.id).collect();
            let named = under_way.iter().flat_map(|record| record.other_cores(self.me()));
            let cores = self.other_cores();
            if cores.iter().any(|core| met.insert(core.node.clone())) {
                met_last = Instant::now();
            }
            let named_are_met = named.collect::<BTreeSet<_>>().is_subset(&met);
            told.extend(self.tell_all(&cores, &serving, &told, Some(until)).await);
            let heard = cores.iter().all(|core| serving.iter().all(|id| told.contains(&(core.node.clone(), *id))));
            let all_met = named_are_met && self.has_company() && met_last.elapsed() >= ALL_MET;
            if serving.is_empty() || heard && all_met || Instant::now() >= until {
                tracing::info!(
                    cores = met.len(),
                    served = serving.len(),
                    "the meetings of the copy that this core goes on with"
                );
                return self.store.copy_is_checked();
            }
            sleep(LOOK_EVERY).await;
        }
    }

    fn older_than_start(&self) -> Vec<MeetingId> {
        let live = lock(&self.live);
        live.values().filter(|meeting| meeting.record().created_at < self.started).map(|meeting| meeting.id).collect()
    }

    fn other_cores(&self) -> Vec<Identity> {
        let members = self.placer.mesh.members().borrow().clone();
        let cores = members.iter().map(|m| &m.identity).filter(|i| i.role == Role::Core && i.node != *self.me());
        cores.cloned().collect()
    }

    /// Whether this core has found any other node.
    fn has_company(&self) -> bool {
        self.placer.mesh.members().borrow().iter().any(|m| m.identity.node != *self.me())
    }

    /// Tells each of `cores` of each of `meetings` that it was not `told` of; nobody after `until`. Returns who has heard of which.
    async fn tell_all(
        self: &Arc<Self>,
        cores: &[Identity],
        meetings: &BTreeSet<MeetingId>,
        told: &Told,
        until: Option<Instant>,
    ) -> Told {
        // Core by core within each meeting: one that does not answer is left for the next round, and holds nobody up.
        let pairs = meetings.iter().flat_map(|id| cores.iter().map(move |core| (core.clone(), *id)));
        let due: Vec<_> = pairs.filter(|(core, id)| !told.contains(&(core.node.clone(), *id))).collect();
        let silent = Mutex::new(BTreeSet::new());
        let telling = stream::iter(due).map(|(core, id)| {
            let (this, silent) = (self.clone(), &silent);
            async move {
                if lock(silent).contains(&core.node) || until.is_some_and(|until| Instant::now() >= until) {
                    return None;
                }
                if !this.tell_one(&core, id).await {
                    lock(silent).insert(core.node);
                    return None;
                }
                Some((core.node, id))
            }
        });
        telling.buffer_unordered(AT_A_TIME).filter_map(std::future::ready).collect().await
    }

    /// Whether `core` has heard that this one serves a meeting, or need not.
    async fn tell_one(self: &Arc<Self>, core: &Identity, id: MeetingId) -> bool {
        let record = self.record(id).ok().flatten().filter(|record| record.serving.role == CoreRole::Serving);
        let Some(record) = record else { return true };
        let term = self.live(id).map_or(record.serving.term, |meeting| meeting.replication.see(Replicator::term));
        let held = Held { ended: record.status.ended(), newest: self.store.newest_final(id).unwrap_or(0) };
        let resumed = Resumed { held, since: self.started.0 };
        let proof = self.prove_serving(&record, &core.node, term);
        let word = Request::Replicate(Replica::word(id, term, Some(resumed), proof));
        let Ok(Ok(answer)) = timeout(TELL_WAIT, self.placer.mesh.request(&core.node, &word)).await else {
            return false;
        };
        let Response::Serving { core: by, term, .. } = self.believed(core, &record, answer) else { return true };
        if let Some(meeting) = self.live(id) {
            meeting.replication.with(|m, _| m.handle_other(&by, term));
            return true;
        }
        let _hands = self.hands.lock().await;
        let Some(record) = self.store.meeting(id).ok().flatten() else { return true };
        if by == core.node && role::cedes(&record, term) {
            self.cede(core, record, term).await;
        } else if !record.status.ended() && self.live(id).is_none() && role::yields(&record, self.me(), &by, term) {
            self.yield_to(by, record, term).await;
        }
        true
    }

    /// `core` goes on with a meeting that was not taken up here. `hands` is held.
    async fn yield_to(&self, core: NodeId, mut record: MeetingRecord, term: Term) {
        tracing::warn!(meeting = %record.id, %core, term = term.0, "another core goes on with this meeting of the copy");
        record.serving = Serving::moved(core, term, 0);
        record.erase_secrets();
        let forget = Op::Forget(record.id);
        // Errors: the store has ended, and the node ends with it.
        let _ = self.log.write(Op::Meeting(Box::new(record))).await;
        let _ = self.log.write(forget).await;
    }
}
