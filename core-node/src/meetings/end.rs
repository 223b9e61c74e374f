//! What an [`Ending`] of a meeting comes to here: its tasks stop, and nobody finds it live any more.

use std::sync::Arc;

use mesh::{
    identity::NodeId,
    wire::{MeetingId, Term},
};

use super::{Meetings, forget_live};
use crate::{
    meeting::{Meeting, link::ToLink, machine::Ending},
    publish::Moved,
    store::{Op, record::Serving},
};

impl Meetings {
    pub(super) async fn end(&self, meeting: &Arc<Meeting>, how: Ending) {
        match how {
            Ending::Over => self.close(meeting).await,
            Ending::Moved { core, term } => self.leave_to(meeting, core, term).await,
        }
    }

    /// What is stored of it stays; its claim goes.
    async fn close(&self, meeting: &Arc<Meeting>) {
        meeting.stop.cancel();
        forget_live(&self.live, meeting.id);
        self.release(meeting.clone());
        self.sign_receipt(meeting.id).await;
    }

    /// `core` serves the meeting, in a later term: nothing of it is live here any more.
    async fn leave_to(&self, meeting: &Meeting, core: NodeId, term: Term) {
        let _hands = self.hands.lock().await;
        let id = meeting.id;
        tracing::warn!(meeting = %id, %core, term = term.0, "another core serves the meeting");
        metrics::counter!("nearfield_core_step_downs_total").increment(1);
        meeting.stop.cancel();
        let serving = Serving::moved(core.clone(), term, 0);
        // Errors: the store has ended, and the node ends with it.
        let _ = meeting.update_here(|record| record.serving = serving).await;
        forget_live(&self.live, id);
        let _ = self.log.write(Op::Forget(id)).await;
        if !self.claims.is_shared() {
            // Nobody else knows of it.
            let _ = meeting.standing.release().await;
        }
        let api = self.api_of(&core);
        let location = api.map(|api| format!("{api}/v1/meetings/{id}/transcript/stream"));
        meeting.publisher.moved(Moved { meeting_id: id, core: core.to_string(), location });
        meeting.tell_all(|| ToLink::Moved { meeting: id, core: core.clone(), term }).await;
    }

    /// `core` serves the meeting, in a later term. Returns when nothing of it is live here any more; it ends even if this is dropped.
    pub(super) async fn step_down(&self, id: MeetingId, core: NodeId, term: Term) {
        let Some(meeting) = self.live(id) else { return };
        meeting.replication.with(|m, _| m.handle_other(&core, term));
        meeting.handle_superseded(core, term);
        meeting.gone().await;
    }
}
