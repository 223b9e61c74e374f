//! A core that hears neither edge nor standby goes on in a term of its own.

use std::time::{Duration, Instant};

use mesh::wire::Term;

use super::{Event, Phase, Replicator};

/// How long after a term of its own could not be begun it is tried again.
const BEGIN_AGAIN: Duration = Duration::from_secs(5);

impl Replicator {
    /// The term of its own is on disk.
    pub fn handle_begun(&mut self, term: Term) {
        if self.phase == Phase::Beginning(term) {
            self.term = term;
            (self.binding, self.told, self.known, self.bound) = (false, false, false, None);
            (self.stream, self.phase, self.unbound) = (None, Phase::Alone, None);
        }
    }

    /// The authority could not be asked whether the term of its own may be begun: things are as before, and it is tried again soon.
    pub fn handle_not_begun(&mut self, term: Term, now: Instant) {
        if self.phase == Phase::Beginning(term) {
            let waited = self.settings.isolated_after.saturating_sub(BEGIN_AGAIN);
            self.announce(None);
            let since = now.checked_sub(waited).unwrap_or(now);
            self.phase = Phase::Dropping { since, number: self.announced };
        }
    }

    /// This core itself had begun a later term, before it was started again: it goes on in that one.
    pub fn handle_later(&mut self, term: Term) {
        if term > self.term && !matches!(self.phase, Phase::Beginning(_) | Phase::Superseded) {
            self.phase = Phase::Beginning(term);
            self.events.push_back(Event::Begin(term));
        }
    }

    pub(super) fn begin(&mut self) {
        let term = self.term.isolated(&self.me, self.next_stream);
        self.phase = Phase::Beginning(term);
        self.events.push_back(Event::Begin(term));
    }
}
