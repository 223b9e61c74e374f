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
pub(crate) struct ProbeRound {
    begun: Instant,
    asked: usize,
    waiting: BTreeSet<NodeId>,
    /// Until half have answered.
    limit: Duration,
    half: Option<Duration>,
}

impl ProbeRound {
    /// For answers of `asked`, after the round `before`: the one was answered, and so the other need not take much longer,
    /// or an edge that is dead would hold up every meeting near it.
    pub(crate) fn new(asked: BTreeSet<NodeId>, before: Option<&Self>, now: Instant) -> Self {
        let limit = before.map_or(PROBE_DEADLINE, Self::wait);
        Self { begun: now, asked: asked.len(), waiting: asked, limit, half: None }
    }

    /// `node` has answered, whatever it said.
    pub(crate) fn handle_answer(&mut self, node: &NodeId, now: Instant) {
        if self.waiting.remove(node) && self.waiting.len() * 2 <= self.asked {
            self.half.get_or_insert(now.saturating_duration_since(self.begun));
        }
    }

    /// Until when the round lasts; `None` once everybody has answered.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        (!self.waiting.is_empty()).then(|| self.begun + self.wait())
    }

    fn wait(&self) -> Duration {
        self.half.map_or(self.limit, |half| (half * 2 + GRACE).min(PROBE_DEADLINE))
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
        let mut round = ProbeRound::new(names.iter().cloned().collect(), None, start);
        round.handle_answer(&names[0], at(10));
        assert_eq!(round.poll_timeout(), Some(start + PROBE_DEADLINE));
        round.handle_answer(&names[0], at(15));
        round.handle_answer(&"stranger".parse().unwrap(), at(15));
        assert_eq!(round.poll_timeout(), Some(start + PROBE_DEADLINE), "an answer counts once");
        round.handle_answer(&names[1], at(20));
        assert_eq!(round.poll_timeout(), Some(at(340)));
        round.handle_answer(&names[2], at(300));
        assert_eq!(round.poll_timeout(), None);
        let mut slow = ProbeRound::new(names[..1].iter().cloned().collect(), None, start);
        assert_eq!(slow.poll_timeout(), Some(start + PROBE_DEADLINE));
        slow.handle_answer(&names[0], at(2400));
        assert_eq!(slow.poll_timeout(), None);
        let next = ProbeRound::new(names.iter().cloned().collect(), Some(&round), at(1000));
        assert_eq!(next.poll_timeout(), Some(at(1340)), "those before were that quick");
        let after = ProbeRound::new(names.iter().cloned().collect(), Some(&next), at(2000));
        assert_eq!(after.poll_timeout(), Some(at(2340)));
    }
}
