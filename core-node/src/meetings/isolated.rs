//! A core that was cut off from a meeting's edge and standby for long is isolated: it goes on alone until it finds the others
//! again. Then the later term stands, and what was said in the other is not in its transcript. Under an authority that all cores
//! share it does so only if none of the others has, or can.

use std::{sync::Arc, time::Duration};

use mesh::{
    identity::{NodeId, Role},
    tasks::once,
    wire::{
        MeetingId, Term,
        request::{Request, Response},
    },
};
use tokio::time::timeout;

use super::{Meetings, takeover::tell_former};
use crate::{
    lock,
    meeting::{Meeting, link::ToLink},
    replicate::sender::{Replicator, Settled},
    store::{
        log::LogClosed,
        record::{MeetingRecord, Serving},
    },
};

/// A core that is asked who serves a meeting answers within this, or is passed over.
const ASK_DEADLINE: Duration = Duration::from_millis(800);

/// What a core says of who serves a meeting.
pub(super) struct Told {
    pub(super) by: NodeId,
    pub(super) core: NodeId,
    pub(super) term: Term,
}

impl Meetings {
    /// This core goes on with `meeting` in a term of its own.
    ///
    /// # Errors
    /// The store takes no more writes.
    pub(super) async fn begin_isolated(&self, meeting: &Meeting, term: Term) -> Result<(), LogClosed> {
        match meeting.claim_term(term).await {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(meeting = %meeting.id, "not going on alone: the authority cannot be reached");
                meeting.replication.with(|m, now| m.handle_not_begun(term, now));
                return Ok(());
            }
            // It steps down.
            Err(_) => return Ok(()),
        }
        let _hands = self.hands.lock().await;
        if meeting.replication.see(|m| m.settled(0)) == Settled::Never {
            return Ok(());
        }
        tracing::error!(meeting = %meeting.id, term = term.0, "neither edge nor standby for long: going on alone");
        metrics::counter!("nearfield_core_islands_total").increment(1);
        let begin = |record: &mut MeetingRecord| {
            record.serving = Serving::here(term);
            self.note_turn(record, None, term);
        };
        meeting.update_here(begin).await?;
        meeting.captures(|captures| captures.handle_term(term));
        meeting.replication.with(|m, _| m.handle_begun(term));
        let core = self.me().clone();
        meeting.tell_all(|| ToLink::Moved { meeting: meeting.id, core: core.clone(), term }).await;
        Ok(())
    }

    /// Looks whether another core serves what this one serves alone. The one in the earlier term steps down.
    pub(super) async fn reunite(self: &Arc<Self>) {
        let alone: Vec<Arc<Meeting>> = lock(&self.live).values().cloned().collect();
        for meeting in alone {
            let mine = meeting.replication.see(Replicator::term);
            if !mine.is_isolated() {
                continue;
            }
            for Told { by, core, term } in self.ask(meeting.id, Some(&meeting.record())).await {
                let superseded = meeting.replication.with(|m, _| m.handle_other(&core, term));
                if !superseded && by == core && core != *self.me() {
                    once("former core", tell_former(Arc::downgrade(self), meeting.id, core, mine));
                }
            }
        }
    }

    /// What the other cores say of who serves a meeting: of one that is `known` here only those that prove that they have part in it.
    pub(super) async fn ask(&self, meeting: MeetingId, known: Option<&MeetingRecord>) -> Vec<Told> {
        let members = self.placer.mesh.members().borrow().clone();
        let cores = members.iter().filter(|m| m.identity.role == Role::Core).map(|m| m.identity.clone());
        let mut asked = tokio::task::JoinSet::new();
        for by in cores.filter(|core| core.node != *self.me()) {
            let mesh = self.placer.mesh.clone();
            asked.spawn(async move {
                match timeout(ASK_DEADLINE, mesh.request(&by.node, &Request::Serving { meeting })).await {
                    Ok(Ok(answer)) => Some((by, answer)),
                    _ => None,
                }
            });
        }
        let answers = asked.join_all().await.into_iter().flatten();
        let believed = answers.map(|(by, answer)| match known {
            Some(record) => (self.believed(&by, record, answer), by),
            None => (answer, by),
        });
        let told = believed.filter_map(|(answer, by)| match answer {
            Response::Serving { core, term, .. } => Some(Told { by: by.node, core, term }),
            _ => None,
        });
        told.collect()
    }
}
