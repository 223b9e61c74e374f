use std::time::Instant;

use super::Holder;
use crate::{
    identity::NodeId,
    wire::{Epoch, Term},
};

/// The owning edge's side of the pair: which core serves the meeting, and which one may be called next.
///
/// | input | effect |
/// |---|---|
/// | `Standby` of the serving core | taken, unless a call is unanswered; the answer says what holds |
/// | [`Witness::call`] | the standby is called for the next term |
/// | the called core answers | it serves; the next standby is for it to say |
/// | the called core refuses | the call is void |
/// | `Moved` to a newer term | that core serves |
///
/// **Rules.** It calls only while it holds the lease, on its own clock: an edge that lost the meeting does not choose its core.
/// While a call is unanswered the called core may be serving already, so the edge does not confirm that it is dropped,
/// whatever becomes of the connection. It may meanwhile go on with the old core: nothing counts there without
/// the called core's acknowledgement. Frames go to whichever answers; both know what is done.
#[derive(Debug)]
pub struct Witness {
    core: NodeId,
    term: Term,
    standby: Option<NodeId>,
    called: Option<NodeId>,
}

impl Witness {
    /// As a `Join` says.
    pub fn new(core: NodeId, term: Term, standby: Option<NodeId>) -> Self {
        Self { core, term, standby, called: None }
    }

    /// Who serves, in which term, as far as the edge knows.
    pub fn serving(&self) -> (&NodeId, Term) {
        (&self.core, self.term)
    }

    /// The core to keep a warm connection to.
    pub fn standby(&self) -> Option<&NodeId> {
        self.called.as_ref().or(self.standby.as_ref())
    }

    /// The core that was called and has not answered.
    pub fn called(&self) -> Option<&NodeId> {
        self.called.as_ref()
    }

    /// `from` says who its standby is. What to confirm: the core that the edge would turn to. Nothing, to a core that does
    /// not serve.
    pub fn handle_standby(&mut self, from: &NodeId, standby: Option<NodeId>) -> Option<Option<NodeId>> {
        if *from != self.core {
            return None;
        }
        if self.called.is_none() {
            self.standby = standby;
        }
        Some(self.standby().cloned())
    }

    /// The serving core is silent: whom to open the meeting at, in which term. The same again until it is answered.
    pub fn call(&mut self, holder: &Holder, now: Instant) -> Option<(NodeId, Term)> {
        if !holder.is_held(now) {
            return None;
        }
        self.called = self.called.take().or_else(|| self.standby.take());
        self.called.clone().map(|core| (core, Term(self.term.0.saturating_add(1))))
    }

    /// `core` serves the meeting in `term`: it answered a call (a beat after its `Serve`), or was named by `Moved`. Whether the edge
    /// did not know.
    pub fn handle_serving(&mut self, core: &NodeId, term: Term) -> bool {
        let news = term > self.term;
        if news {
            *self = Self::new(core.clone(), term, None);
        }
        news
    }

    /// `core` refuses to take the meeting over.
    pub fn handle_refused(&mut self, core: &NodeId) {
        if self.called.as_ref() == Some(core) {
            self.standby = self.called.take();
        }
    }
}

/// Which epochs a call may name; for [`super::Seat`].
pub(super) fn may_call(epoch: Epoch, witness: Option<&super::Owner>, edge: &NodeId) -> bool {
    witness.is_some_and(|w| w.epoch == epoch && w.edge == *edge)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]

    use std::time::Duration;

    use super::*;
    use crate::lease::Renewal;

    fn node(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    fn held(now: Instant) -> Holder {
        let mut holder = Holder::new(Epoch(1));
        holder.handle_renewal(Renewal::new(now, 1500), now);
        holder
    }

    #[test]
    fn an_edge_calls_its_standby_only_while_it_holds_the_lease() {
        let t0 = Instant::now();
        let holder = held(t0);
        let mut witness = Witness::new(node("c1"), Term(1), Some(node("c2")));
        assert_eq!(witness.call(&holder, t0 + Duration::from_millis(1500)), None);
        assert_eq!(witness.call(&holder, t0), Some((node("c2"), Term(2))));
        assert!(witness.handle_serving(&node("c2"), Term(2)));
        assert_eq!((witness.serving(), witness.standby()), ((&node("c2"), Term(2)), None));
        assert_eq!(witness.call(&holder, t0), None, "the new core has named no standby yet");
    }

    #[test]
    fn while_a_call_is_unanswered_nothing_else_is_confirmed() {
        let t0 = Instant::now();
        let mut witness = Witness::new(node("c1"), Term(1), Some(node("c2")));
        witness.call(&held(t0), t0).unwrap();
        assert_eq!(witness.handle_standby(&node("c1"), None), Some(Some(node("c2"))));
        witness.handle_refused(&node("c2"));
        assert_eq!(witness.handle_standby(&node("c1"), None), Some(None));
        assert_eq!(witness.handle_standby(&node("c3"), None), None, "not the serving core");
    }

    #[test]
    fn news_of_an_older_term_is_no_news() {
        let mut witness = Witness::new(node("c2"), Term(2), None);
        assert!(!witness.handle_serving(&node("c1"), Term(1)));
        assert!(witness.handle_serving(&node("c3"), Term(3)));
    }
}
