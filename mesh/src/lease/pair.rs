use super::Owner;
use crate::identity::NodeId;

/// The serving core's side of the pair: whose acknowledgement a final and a grant must wait for.
///
/// ```text
///           choose                caught up                 the witness confirms
///   Alone ─────────▶ Filling(C) ────────────▶ Telling(C) ─────────────────────────▶ Paired(C)
///     ▲ ▲   give up      │                        │             give up                 │
///     │ └────────────────┘                        └──────────────▶ ◀────────────────────┘
///     │        the witness confirms, or C resigns             Dropping(C)
///     └────────────────────────────────────────────────────────────┘
/// ```
///
/// | state | [`Pair::must_ack`] | [`Pair::poll_tell`] |
/// |---|---|---|
/// | `Alone`, `Filling` | nobody | |
/// | `Telling(C)` | C | C, once for each stream |
/// | `Paired(C)` | C | C, on a new stream |
/// | `Dropping(C)` | C | nobody, once for each stream |
///
/// **Why it is safe.** The witness calls C only after it was told of C, and C's acknowledgements count from before that. It
/// stops being able to call before they cease to count: because it confirms so, or because C itself will not answer a
/// call. A lease that ran out proves nothing here: the witness may have called C, and renew there. So a core that
/// reaches neither its witness nor its standby publishes and grants nothing until it reaches one of them, or until both
/// have been down for longer than any partition that is to be borne ([`Pair::handle_both_gone`]).
///
/// **Duties of the caller.** Store every change before it is acted on ([`Pair::resumed`] after a restart). Number the witness's
/// control streams, and hand in confirmations of the newest only. Call [`Pair::handle_witness`] when a grant of the witness's
/// slot is acknowledged by whom [`Pair::must_ack`] names, never before.
#[derive(Debug)]
pub struct Pair {
    witness: Option<Owner>,
    state: State,
    /// The newest stream of the witness, and how many tellings on it are unanswered.
    stream: Option<u64>,
    unanswered: u32,
    told: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Alone,
    Filling(NodeId),
    Telling(NodeId),
    Paired(NodeId),
    Dropping(NodeId),
}

impl Pair {
    /// No standby yet. `witness` is the owner of the first slot, if there is one.
    pub fn new(witness: Option<Owner>) -> Self {
        Self { witness, state: State::Alone, stream: None, unanswered: 0, told: false }
    }

    /// After a restart: the standby that was stored, if any, may have been called meanwhile.
    pub fn resumed(witness: Option<Owner>, standby: Option<NodeId>) -> Self {
        Self { state: standby.map_or(State::Alone, State::Telling), ..Self::new(witness) }
    }

    /// Makes `core` the next standby, if there is none: it is to be sent everything. Whether it was taken.
    pub fn choose(&mut self, core: NodeId) -> bool {
        let free = self.state == State::Alone;
        if free {
            self.state = State::Filling(core);
        }
        free
    }

    /// `core` has stored everything there is. From here on its acknowledgement is needed: store that, then tell the witness.
    pub fn handle_caught_up(&mut self, core: &NodeId) {
        if matches!(&self.state, State::Filling(c) if c == core) {
            self.set(State::Telling(core.clone()));
        }
    }

    /// The standby is of no more use (gone, draining, too far).
    pub fn give_up(&mut self) {
        match &self.state {
            State::Filling(_) => self.set(State::Alone),
            State::Telling(_) | State::Paired(_) if self.witness.is_none() => self.set(State::Alone),
            State::Telling(core) | State::Paired(core) => self.set(State::Dropping(core.clone())),
            State::Alone | State::Dropping(_) => {}
        }
    }

    /// The witness opened the meeting on a new control stream.
    pub fn handle_stream(&mut self, stream: u64) {
        (self.stream, self.unanswered, self.told) = (Some(stream), 0, false);
    }

    /// What to tell the witness now: `Some(None)` that there is no standby. Ask again after each input, at most once a beat.
    pub fn poll_tell(&mut self) -> Option<Option<NodeId>> {
        if self.told || self.stream.is_none() {
            return None;
        }
        let what = match &self.state {
            State::Alone | State::Filling(_) => None,
            State::Telling(core) | State::Paired(core) => Some(core.clone()),
            State::Dropping(_) => None,
        };
        self.told = true;
        self.unanswered += 1;
        Some(what)
    }

    /// The witness answered on `stream`: `core` is what it would turn to. Each telling has one answer, in order.
    pub fn handle_confirmed(&mut self, stream: u64, core: Option<&NodeId>) {
        if self.stream != Some(stream) || self.unanswered == 0 {
            return;
        }
        self.unanswered -= 1;
        if self.unanswered > 0 {
            return;
        }
        match (&self.state, core) {
            (State::Telling(want), Some(got)) if want == got => self.state = State::Paired(got.clone()),
            (State::Paired(want), Some(got)) if want == got => {}
            (State::Dropping(_), None) => self.state = State::Alone,
            (State::Alone | State::Filling(_), None) => {}
            // It has called its standby and waits for the answer: ask again.
            _ => self.told = false,
        }
    }

    /// `core` has stored that it is no standby any more.
    pub fn handle_resigned(&mut self, core: &NodeId) {
        if matches!(&self.state, State::Dropping(c) if c == core) {
            self.set(State::Alone);
        }
    }

    /// Standby and witness have both been down for longer than any partition that is to be borne, or a lease on the term
    /// held elsewhere proves that nobody else serves.
    pub fn handle_both_gone(&mut self) {
        self.set(State::Alone);
    }

    /// Another edge owns the first slot from here on.
    pub fn handle_witness(&mut self, witness: Owner) {
        self.witness = Some(witness);
        (self.stream, self.unanswered, self.told) = (None, 0, false);
    }

    /// The core whose acknowledgement a final, and a grant, must wait for.
    pub fn must_ack(&self) -> Option<&NodeId> {
        match &self.state {
            State::Alone | State::Filling(_) => None,
            State::Telling(core) | State::Paired(core) | State::Dropping(core) => Some(core),
        }
    }

    /// The core to send entries to.
    pub fn replicates_to(&self) -> Option<&NodeId> {
        match &self.state {
            State::Filling(core) => Some(core),
            _ => self.must_ack(),
        }
    }

    /// The standby to name in a `Join`.
    pub fn standby(&self) -> Option<&NodeId> {
        match &self.state {
            State::Telling(core) | State::Paired(core) => Some(core),
            _ => None,
        }
    }

    /// Whether the standby is being dropped: it is to be asked to resign.
    pub fn is_dropping(&self) -> bool {
        matches!(self.state, State::Dropping(_))
    }

    /// Whose confirmation counts.
    pub fn witness(&self) -> Option<&Owner> {
        self.witness.as_ref()
    }

    fn set(&mut self, state: State) {
        self.state = state;
        self.told = false;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::wire::Epoch;

    fn node(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    fn paired() -> Pair {
        let mut pair = Pair::new(Some(Owner { edge: node("a"), epoch: Epoch(1) }));
        pair.handle_stream(1);
        assert_eq!(pair.poll_tell(), Some(None));
        pair.handle_confirmed(1, None);
        assert!(pair.choose(node("c2")) && !pair.choose(node("c3")));
        assert_eq!(pair.must_ack(), None);
        pair.handle_caught_up(&node("c2"));
        assert_eq!(pair.must_ack(), Some(&node("c2")), "before the edge can know");
        assert_eq!(pair.poll_tell(), Some(Some(node("c2"))));
        pair.handle_confirmed(1, Some(&node("c2")));
        pair
    }

    #[test]
    fn a_standby_is_dropped_only_when_the_witness_has_said_so_or_it_resigned() {
        let mut pair = paired();
        pair.give_up();
        assert_eq!((pair.must_ack(), pair.standby()), (Some(&node("c2")), None));
        assert_eq!(pair.poll_tell(), Some(None));
        pair.handle_confirmed(1, None);
        assert_eq!(pair.must_ack(), None);
        let mut other = paired();
        other.give_up();
        other.handle_resigned(&node("c3"));
        assert!(other.is_dropping(), "somebody else's resignation");
        other.handle_resigned(&node("c2"));
        assert_eq!(other.must_ack(), None);
    }

    #[test]
    fn an_answer_to_an_earlier_telling_or_on_an_old_stream_counts_for_nothing() {
        let mut pair = paired();
        pair.give_up();
        pair.poll_tell();
        pair.handle_resigned(&node("c2"));
        pair.choose(node("c2"));
        pair.handle_caught_up(&node("c2"));
        pair.poll_tell();
        pair.give_up();
        pair.poll_tell();
        pair.handle_confirmed(1, None);
        assert!(pair.is_dropping(), "that was the answer to the first dropping");
        pair.handle_stream(2);
        pair.handle_confirmed(1, None);
        assert!(pair.is_dropping(), "an old stream");
        assert_eq!(pair.poll_tell(), Some(None));
        pair.handle_confirmed(2, None);
        assert!(!pair.is_dropping());
    }

    #[test]
    fn a_witness_that_has_called_its_standby_is_asked_again() {
        let mut pair = paired();
        pair.give_up();
        pair.poll_tell();
        pair.handle_confirmed(1, Some(&node("c2")));
        assert!(pair.is_dropping());
        assert_eq!(pair.poll_tell(), Some(None));
    }

    #[test]
    fn after_a_restart_the_stored_standby_still_counts() {
        let pair = Pair::resumed(None, Some(node("c2")));
        assert_eq!(pair.must_ack(), Some(&node("c2")));
    }
}
