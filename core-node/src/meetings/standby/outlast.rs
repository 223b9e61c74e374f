//! A replica that is fuller than what the core that serves has: that core was started with an older copy of its store.

use std::sync::Arc;

use mesh::{
    identity::Identity,
    tasks::once,
    wire::{
        Term,
        request::{Replica, Response},
    },
};

use crate::{
    meeting::{
        role::{self, NotHere},
        wall,
    },
    meetings::{Meetings, claim::Cause, takeover::tell_former},
    replicate::entry::Entry,
    store::{
        Op,
        record::{MeetingRecord, Serving},
    },
};

impl Meetings {
    /// Whether what begins with `entries` would make this core's replica poorer.
    pub(super) fn outlasts(&self, known: &MeetingRecord, from: &Identity, term: Term, entries: &[Entry]) -> bool {
        let Some(Entry::Begin { held: Some(held), .. }) = entries.first() else { return false };
        let newest = self.store.taken(known.id, &from.node, term).unwrap_or(0);
        role::outlasts(known, newest, &from.node, term, *held)
    }

    /// The same of a core that has started, and says so by `word`.
    pub(super) fn outlasts_word(&self, known: &MeetingRecord, from: &Identity, word: &Replica) -> bool {
        let Some(resumed) = word.resumed.filter(|_| word.is_word()) else { return false };
        let newest = self.store.taken(known.id, &from.node, word.term).unwrap_or(0);
        role::outlasts_start(known, newest, &from.node, word.term, &resumed)
    }

    /// The meeting is over, and `from` holds it in a later term: whoever asks is sent there. `hands` is held.
    pub(in crate::meetings) async fn cede(&self, from: &Identity, mut record: MeetingRecord, term: Term) -> Response {
        tracing::warn!(meeting = %record.id, core = %from.node, "that core holds the meeting, which is over, in a later term");
        record.serving = Serving::moved(from.node.clone(), term, 0);
        let answer = self.serving_answer(from, &record, from.node.clone(), term);
        match self.log.write(Op::Meeting(Box::new(record))).await {
            Ok(_) => answer,
            Err(closed) => Response::Refused { reason: closed.to_string() },
        }
    }

    /// The meeting is over, whatever `from` says, and this core has all of it: it serves it from now on. `hands` is held.
    pub(super) async fn outlast_ended(self: &Arc<Self>, from: &Identity, known: &MeetingRecord) -> Response {
        let term = self.next_term(known.serving.term);
        tracing::warn!(meeting = %known.id, core = %from.node, "that core has an older copy of a meeting that is over: ours stands");
        metrics::counter!("nearfield_core_replicas_outlasted_total").increment(1);
        let record = MeetingRecord { serving: Serving::here(term), ..known.clone() };
        if let Err(closed) = self.log.write(Op::Meeting(Box::new(record.clone()))).await {
            return Response::Refused { reason: closed.to_string() };
        }
        self.standbys.let_go(known.id);
        // This answer may be lost, and the meeting end there as well: one of the two holds it then.
        once("former core", tell_former(Arc::downgrade(self), known.id, from.node.clone(), term));
        self.serving_answer(from, &record, self.me().clone(), term)
    }

    /// The meeting goes on, and this core has more of it: it takes it over.
    pub(super) async fn outlast(self: &Arc<Self>, from: &Identity, known: MeetingRecord) -> Response {
        let term = self.next_term(known.serving.term);
        self.standbys.forget(known.id);
        tracing::warn!(meeting = %known.id, core = %from.node, "that core has an older copy of the meeting: taking it over");
        metrics::counter!("nearfield_core_replicas_outlasted_total").increment(1);
        match self.claim(known.id, term, Cause::Outlasting(known.serving.clone())).await {
            Ok(_) => self.serving_answer(from, &known, self.me().clone(), term),
            Err(NotHere::Moved(core, term)) => self.serving_answer(from, &known, core, term),
            Err(NotHere::Refused(_)) => {
                Response::Refused { reason: "this core has more of the meeting than you".into() }
            }
        }
    }

    fn next_term(&self, term: Term) -> Term {
        term.called().unwrap_or_else(|| term.isolated(self.me(), wall().0))
    }
}
