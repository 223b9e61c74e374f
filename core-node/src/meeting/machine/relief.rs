//! An edge that reaches this core by way of other nodes only keeps its lease, but its speech has no way here: a secondary is sought,
//! and the meeting moves to it.
//!
//! What the first has captured by then it *owes*. That is on its owner's row (`Owner::owes`), so that a restart and a takeover know of
//! it; it is waited for at the end of the meeting, as long as the edge lives and anything is; what never comes is a gap.

use std::time::Instant;

use mesh::{
    clock::Micros,
    wire::{Epoch, control::CloseReason},
};

use super::{Action, Machine};
use crate::{
    meeting::{captures::Now, wishes::Wish},
    store::record::{Gap, GapReason},
};

impl<L: Clone> Machine<L> {
    /// When it will have lasted for too long.
    pub(super) fn relief_due(&self) -> Option<Instant> {
        let (_, since, _) = self.detoured()?;
        Some(since + self.path_timeout).filter(|_| !self.secondary.relieves())
    }

    /// The first edge, if it is heard by way of others only: since when, and when it was last heard itself.
    fn detoured(&self) -> Option<(Epoch, Instant, Micros)> {
        let first = self.lifecycle.capturing().filter(|_| self.lifecycle.leaving().is_none())?;
        let (since, heard) = self.captures.relayed_since(first)?;
        Some((first, since, heard))
    }

    /// Has the meeting move, or stay if the edge is heard itself again.
    pub(super) fn relieve_detoured(&mut self, now: Now) {
        if self.lifecycle.capturing().is_none() || self.lifecycle.leaving().is_some() {
            return;
        }
        let overdue = self.detoured().filter(|(_, since, _)| *since + self.path_timeout <= now.at);
        let Some((first, _, heard)) = overdue else { return self.end_relief(now) };
        if self.secondary.relieve(true) {
            tracing::warn!(
                epoch = first.0,
                "the edge is heard by way of others only, and its speech is not: another is sought"
            );
            metrics::counter!("nearfield_core_edges_detoured_total").increment(1);
            self.unmet(Wish::Path, "its edge is heard by way of other nodes only, and its speech does not come");
        }
        if self.secondary.live().is_some_and(|epoch| self.captures.relayed_since(epoch).is_none()) {
            self.note_owed(first, Some(heard));
            self.promote(first, now);
            self.tell_to_leave(first);
            // Nobody is to relieve the one that has just come.
            self.secondary.relieve(false);
            self.tell_owed();
        }
    }

    fn end_relief(&mut self, now: Now) {
        if self.secondary.relieve(false) {
            self.tell_owed();
        }
        // It may have been on its way. After a restart it is the first that was: until that is live, this one captures.
        let is_heard = self.lifecycle.capturing().is_some_and(|first| self.live.contains(&first));
        if let Some(secondary) = self.secondary.epoch()
            && is_heard
            && !self.secondary.is_wanted()
            && !self.is_finishing()
        {
            self.relieve_secondary(secondary, now);
        }
    }

    fn note_owed(&mut self, epoch: Epoch, since: Option<Micros>) {
        self.captures.note_owed(epoch, since);
        self.actions.push_back(Action::Write);
    }

    /// Says on the meeting why words are late, as long as they are.
    fn tell_owed(&mut self) {
        let owing = self.captures.owners().owing().next().map(|(_, owner)| owner.edge.clone());
        match owing {
            None => self.actions.push_back(Action::Met(Wish::Path)),
            Some(edge) => self.unmet(
                Wish::Path,
                format!(
                    "{edge} was heard by way of other nodes only: another edge took its place, and what it captured until then comes \
                     when its own way is open",
                ),
            ),
        }
    }

    /// Whether the edge of `epoch` was relieved, and has speech that did not come.
    pub(super) fn is_owing(&self, epoch: Epoch) -> bool {
        self.captures.owners().owing().any(|(of, _)| of == epoch)
    }

    /// Whether an edge that was relieved, and lives, has speech that did not come.
    pub(super) fn owes(&self) -> bool {
        self.captures.owners().owing().any(|(_, owner)| self.is_member(owner))
    }

    /// At the end of a meeting: what a relieved edge has may still come, when the meeting's edge has left.
    pub(super) fn waits_for_owed(&mut self, epoch: Epoch, reason: CloseReason) -> bool {
        let waits = epoch == self.lifecycle.epoch() && self.is_finishing() && self.owes();
        if waits {
            self.closed.get_or_insert((epoch, reason));
        }
        waits
    }

    /// The edge of `epoch` has brought all that it had.
    pub(super) fn handle_paid(&mut self, epoch: Epoch, now: Now) {
        if !self.is_owing(epoch) {
            return;
        }
        self.note_owed(epoch, None);
        if !self.secondary.relieves() {
            self.tell_owed();
        }
        self.close_if_last(now);
    }

    /// At the end of the meeting: what never came is a gap. It is owed until that is written, so that a core that stops before names it
    /// when it goes on.
    pub(super) fn name_owed(&mut self, now: Now) {
        let owing = self.captures.owners().owing().filter_map(|(epoch, owner)| {
            let to = Some(owner.until.unwrap_or(now.wall));
            let gap = Gap { seq: 0, from: owner.owes?, to, reason: GapReason::GivenUp, segment: None };
            Some(Action::Owed(epoch, gap))
        });
        self.actions.extend(owing);
    }

    /// What the secondary edge is sought for.
    pub(super) fn secondary_wish(&self) -> Wish {
        if self.secondary.is_wanted() { Wish::Redundancy } else { Wish::Path }
    }
}
