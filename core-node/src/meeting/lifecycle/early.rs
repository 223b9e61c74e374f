//! What an edge says while the answer to its placement is on its way: the two come by ways of their own.

use mesh::wire::{
    Epoch,
    control::{CloseReason, EdgeState},
};

/// Sayings kept at most; of more the newest. An edge that has this much to say within the two seconds that an answer may take
/// repeats itself.
const MAX_EARLY: usize = 32;

/// What is said of the edge of one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// It has opened the meeting.
    Opened,
    /// Where it stands.
    State(EdgeState, Option<String>),
    /// It is going away.
    HandsOver,
    /// It is held to be dead.
    Down,
    /// It has left.
    Closed(CloseReason),
}

/// What was said of edges that are not known to have taken the meeting, in its order.
#[derive(Debug, Default)]
pub(super) struct Early(Vec<(Epoch, Said)>);

impl Early {
    pub(super) fn keep(&mut self, epoch: Epoch, said: Said) {
        if self.0.len() >= MAX_EARLY {
            self.0.remove(0);
        }
        self.0.push((epoch, said));
    }

    /// What was said of the edge of `epoch`, which has taken it; the others have not.
    pub(super) fn take(&mut self, epoch: Epoch) -> Vec<Said> {
        let all = std::mem::take(&mut self.0).into_iter();
        all.filter(|(of, _)| *of == epoch).map(|(_, said)| said).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_edge_that_took_it_said_is_heeded_and_no_edge_fills_the_table() {
        let mut early = Early::default();
        early.keep(Epoch(1), Said::Opened);
        (0..100).for_each(|_| early.keep(Epoch(2), Said::State(EdgeState::Reconnecting { silent_ms: 0 }, None)));
        early.keep(Epoch(2), Said::Closed(CloseReason::Drain));
        let said = early.take(Epoch(2));
        assert_eq!((said.len(), said.last()), (MAX_EARLY, Some(&Said::Closed(CloseReason::Drain))));
        assert_eq!(early.take(Epoch(1)), []);
    }
}
