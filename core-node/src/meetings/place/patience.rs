//! How long a round of questions waits for its last answers.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use mesh::identity::NodeId;

/// An answer later than this is none. Above what an edge takes at most over a relay that does not answer, so that only
/// an edge that is dead or stalled is given up here.
pub(crate) const PROBE_DEADLINE: Duration = Duration::from_millis(2500);

/// Once half have answered, the others have as long again and this.
const GRACE: Duration = Duration::from_millis(300);

/// One round. An answer that comes after it is taken all the same; it is only not waited for.
#[derive(Debug)]
pub(crate) struct Patience {
    begun: Instant,
    asked: usize,
    waiting: BTreeSet<NodeId>,
    half: Option<Duration>,
}

impl Patience {
    /// For answers of `asked`.
    pub(crate) fn new(asked: BTreeSet<NodeId>, now: Instant) -> Self {
        Self { begun: now, asked: asked.len(), waiting: asked, half: None }
    }

    /// `node` has answered, whatever it said.
    pub(crate) fn handle_answer(&mut self, node: &NodeId, now: Instant) {
        if self.waiting.remove(node) && self.waiting.len() * 2 <= self.asked {
            self.half.get_or_insert(now.saturating_duration_since(self.begun));
        }
    }

    /// Until when the round lasts; `None` once everybody has answered.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let wait = self.half.map_or(PROBE_DEADLINE, |half| (half * 2 + GRACE).min(PROBE_DEADLINE));
        (!self.waiting.is_empty()).then(|| self.begun + wait)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]
    use super::*;

    #[test]
    fn a_round_ends_with_its_last_answer_or_some_time_after_half_of_them() {
        let names = ["a", "b", "c"].map(|name| name.parse::<NodeId>().unwrap());
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut round = Patience::new(names.iter().cloned().collect(), start);
        round.handle_answer(&names[0], at(10));
        assert_eq!(round.poll_timeout(), Some(start + PROBE_DEADLINE));
        round.handle_answer(&names[0], at(15));
        round.handle_answer(&"stranger".parse().unwrap(), at(15));
        assert_eq!(round.poll_timeout(), Some(start + PROBE_DEADLINE), "an answer counts once");
        round.handle_answer(&names[1], at(20));
        assert_eq!(round.poll_timeout(), Some(at(340)));
        round.handle_answer(&names[2], at(300));
        assert_eq!(round.poll_timeout(), None);
        let mut slow = Patience::new(names[..1].iter().cloned().collect(), start);
        assert_eq!(slow.poll_timeout(), Some(start + PROBE_DEADLINE));
        slow.handle_answer(&names[0], at(2400));
        assert_eq!(slow.poll_timeout(), None);
    }
}
