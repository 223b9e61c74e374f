//! What foca has noted becomes events.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::{Event, Membership, outbox::Note};

/// How many members are asked whom they know after joining, beside the first.
const ASK_AFTER_JOIN: u8 = 10;

/// A change of the list is passed on at once, but not more often than this.
const SPREAD_GAP: Duration = Duration::from_millis(50);

impl Membership {
    pub(super) fn settle_notes(&mut self, now: Instant) {
        let mut moved = BTreeSet::new();
        for note in std::mem::take(&mut self.outbox.notes) {
            match note {
                Note::Up(peer) => {
                    tracing::debug!(node = %peer.node, addr = %peer.addr, "up");
                    moved.remove(&peer.node);
                    self.events.push_back(Event::Up(self.view(&peer)));
                    self.spread(now);
                }
                Note::Down(peer) => {
                    tracing::debug!(node = %peer.node, "down");
                    self.hints.clear(&peer.node);
                    self.accusers.clear(&peer.node);
                    moved.remove(&peer.node);
                    self.events.push_back(Event::Down(peer.node));
                    self.spread(now);
                }
                // A node that only renewed itself is the same node: no event.
                Note::Renamed { before, after } => {
                    self.sync.changed(now);
                    if before.moved(&after) {
                        moved.insert(after.node);
                    }
                }
                Note::Rejoined => {
                    self.rejoins += 1;
                    self.note_joined(false, now);
                }
                Note::Joined(joined) => self.note_joined(joined, now),
            }
        }
        moved.extend(self.reports.take_changed());
        for node in moved {
            if self.active(&node).is_some() {
                self.events.push_back(Event::Changed(node));
            }
        }
    }

    /// Passes a change of the list on at once rather than with the next gossip.
    pub(super) fn spread(&mut self, now: Instant) {
        self.sync.changed(now);
        if self.spread_at.is_some_and(|at| at + SPREAD_GAP > now) {
            return;
        }
        self.spread_at = Some(now);
        if let Err(error) = self.foca.gossip(&mut self.outbox) {
            tracing::debug!(%error, "change not passed on");
        }
    }

    pub(super) fn note_joined(&mut self, joined: bool, now: Instant) {
        self.joined = joined;
        if !joined {
            self.doubtful_until = Some(now + self.settings.repair_period);
        }
        self.sync.changed(now);
        self.join_tries = 0;
        self.to_ask = if joined { ASK_AFTER_JOIN } else { 0 };
    }
}
