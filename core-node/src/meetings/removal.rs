//! Meetings of which nothing is to be kept: removed here, and at every other core that had a part in them, as soon as it can be reached.
//!
//! What is over may still be under way in an older copy of a store. So that it is gone is remembered ([`Removal`]) for
//! [`REMEMBERED`]: no core's replica of it is taken again, and a core that offers one is told.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
    time::Duration,
};

use mesh::{
    authorize::{Message, Relation, Residency},
    identity::{Identity, NodeId, Role},
    mandate::{Proof, Statement},
    wire::{
        MeetingId, Term,
        request::{Request, Response},
    },
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Meetings, keep::NotRemoved};
use crate::{
    lock,
    meeting::wall,
    replicate::sender::Replicator,
    store::{
        Op,
        log::LogClosed,
        record::{
            MeetingRecord,
            removal::{Removal, giving_way},
        },
    },
};

/// How long another core is waited for that is to forget a meeting.
const REMOVE_WAIT: Duration = Duration::from_secs(2);

/// How often cores that have not heard are looked for.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// For so long it is remembered that a meeting was removed: older backups than that are hardly put back.
const REMEMBERED: Duration = Duration::from_secs(90 * 24 * 3600);

/// So many are remembered, some 300 bytes each.
const MAX_REMEMBERED: usize = 10_000;

impl Meetings {
    /// Removes a meeting that is over, with its transcript and receipt, here and at every core that has a copy: at those that
    /// cannot be reached when they are back.
    ///
    /// # Errors
    /// See [`NotRemoved`].
    pub async fn remove(self: &Arc<Self>, id: MeetingId) -> Result<(), NotRemoved> {
        let record = self.look(id).await?.ok_or(NotRemoved::Unknown)?;
        if !record.status.ended() || self.live(id).is_some() {
            return Err(NotRemoved::NotEnded(record.status));
        }
        let removal = Removal::new(&record, self.me(), wall());
        self.forget_all(id, removal.clone()).await?;
        metrics::counter!("nearfield_core_meetings_removed_total").increment(1);
        let members = self.placer.mesh.members().borrow().clone();
        let cores = members.iter().filter(|m| m.identity.role == Role::Core).map(|m| m.identity.node.clone());
        self.tell_removed(id, &removal, cores.filter(|core| core != self.me()).collect()).await?;
        Ok(())
    }

    /// Removes what is kept of a meeting here.
    async fn forget_all(&self, id: MeetingId, removal: Removal) -> Result<(), LogClosed> {
        // Its receipt may be under way: what is written after the removal would stay.
        let _signing = self.signing.lock().await;
        self.standbys.forget(id);
        self.log.write(Op::Remove(id, removal.clone())).await?;
        let given_way = {
            let mut removals = lock(&self.removals);
            removals.insert(id, removal);
            let given_way = giving_way(&removals, id, MAX_REMEMBERED).map(|(id, _)| id);
            given_way.and_then(|id| removals.remove_entry(&id))
        };
        if let Some((former, removal)) = given_way {
            if !removal.owed.is_empty() {
                tracing::warn!(meeting = %former, owed = ?removal.owed, "more removals than are remembered: these cores never heard of one");
                metrics::counter!("nearfield_core_removals_unheard_total").increment(1);
            }
            self.log.write(Op::Removal(former, None)).await?;
        }
        Ok(())
    }

    /// Tells `cores` that nothing is to be kept of a meeting, and notes which of them have heard.
    async fn tell_removed(&self, id: MeetingId, removal: &Removal, cores: BTreeSet<NodeId>) -> Result<(), LogClosed> {
        let mut asked = JoinSet::new();
        for core in cores {
            let said = Statement::Removed { meeting: id, term: removal.term, from: self.me(), to: &core };
            let request = Request::Remove { meeting: id, term: removal.term, proof: removal.key.prove(&said) };
            let mesh = self.placer.mesh.clone();
            asked.spawn(async move {
                let answer = timeout(REMOVE_WAIT, mesh.request(&core, &request)).await;
                matches!(answer, Ok(Ok(Response::Unknown))).then_some(core)
            });
        }
        let heard: Vec<NodeId> = asked.join_all().await.into_iter().flatten().collect();
        let left = {
            let mut removals = lock(&self.removals);
            let Some(removal) = removals.get_mut(&id) else { return Ok(()) };
            let before = removal.owed.len();
            removal.owed.retain(|core| !heard.contains(core));
            (removal.owed.len() < before).then(|| removal.clone())
        };
        if let Some(removal) = left {
            self.log.write(Op::Removal(id, Some(removal))).await?;
        }
        Ok(())
    }

    /// Whether a meeting that `from` has was removed here; then `from` is told.
    pub(super) fn was_removed(&self, id: MeetingId, from: &Identity) -> bool {
        // In memory only: whoever goes on with it says so again.
        let mut removals = lock(&self.removals);
        removals.get_mut(&id).map(|removal| removal.owed.insert(from.node.clone())).is_some()
    }

    /// `from`, which knows that the meeting is over, says that nothing is to be kept of it. What is under way here is an older copy, and
    /// ends with it.
    pub(super) async fn handle_remove(
        self: &Arc<Self>,
        from: &Identity,
        id: MeetingId,
        term: Term,
        proof: &Proof,
    ) -> Response {
        let refused = |reason: &str| Response::Refused { reason: reason.into() };
        let record = match self.look(id).await {
            Ok(Some(record)) => record,
            Ok(None) => return Response::Unknown,
            Err(error) => return refused(&error.to_string()),
        };
        if let Err(denied) =
            self.admit(Message::Remove, from, self.shown(from, &record, term, proof), Residency::Inside)
        {
            return refused(&denied.to_string());
        }
        if let Some(live) = self.live(id) {
            if live.replication.see(Replicator::term) > term {
                return refused("it is served here, in a later term");
            }
            // Its edges leave, and nobody goes on with it.
            self.stop(id).await;
            self.step_down(id, from.node.clone(), term).await;
        }
        match self.forget_all(id, Removal::told(&record, wall())).await {
            Ok(()) => Response::Unknown,
            Err(error) => refused(&error.to_string()),
        }
    }

    fn shown(&self, from: &Identity, record: &MeetingRecord, term: Term, proof: &Proof) -> Relation {
        let said = Statement::Removed { meeting: record.id, term, from: &from.node, to: self.me() };
        if record.key.proves(&said, proof) { Relation::Core } else { Relation::Nobody }
    }

    /// The cores that are here and owed, by meeting.
    fn owed(&self) -> Vec<(MeetingId, Removal, BTreeSet<NodeId>)> {
        let members = self.placer.mesh.members().borrow().clone();
        let here: BTreeSet<&NodeId> = members.iter().map(|member| &member.identity.node).collect();
        let removals = lock(&self.removals);
        let owed = removals.iter().map(|(id, removal)| {
            let cores: BTreeSet<NodeId> = removal.owed.iter().filter(|core| here.contains(core)).cloned().collect();
            (!cores.is_empty()).then(|| (*id, removal.clone(), cores))
        });
        owed.flatten().collect()
    }

    async fn forget_removals(&self) -> Result<(), LogClosed> {
        let now = wall();
        let over: Vec<MeetingId> = {
            let mut removals = lock(&self.removals);
            let over = removals.extract_if(.., |_, removal| removal.at.plus(REMEMBERED) < now);
            over.map(|(id, _)| id).collect()
        };
        for id in over {
            self.log.write(Op::Removal(id, None)).await?;
        }
        Ok(())
    }
}

/// Tells cores that are back what was removed without them.
pub(super) async fn tell(meetings: Weak<Meetings>, stop: CancellationToken) {
    loop {
        let Some(this) = meetings.upgrade() else { return };
        let round = async {
            for (id, removal, cores) in this.owed() {
                this.tell_removed(id, &removal, cores).await?;
            }
            this.forget_removals().await
        };
        // An error ends the node elsewhere.
        if !matches!(stop.run_until_cancelled(round).await, Some(Ok(()))) {
            return;
        }
        drop(this);
        if stop.run_until_cancelled(sleep(TELL_EVERY)).await.is_none() {
            return;
        }
    }
}
