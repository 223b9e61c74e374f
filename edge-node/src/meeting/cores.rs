//! What a meeting hears from cores, and which of them it turns to.

use std::time::{Duration, Instant};

use mesh::{
    authorize::{self, Message as Kind, Relation, Residency},
    clock::Micros,
    identity::{NodeId, Role},
    lease::Renewal,
    wire::{
        MeetingAlias, Term,
        control::{CloseReason, RefusedReason, ToCore, ToEdge},
        request::Assignment,
    },
};

use super::{Action, Meeting, Phase, ownership::Right, people::row};
use crate::failover;

/// An answered beat.
#[derive(Debug, Clone, Copy)]
pub struct Beat {
    /// The round trip of the connection.
    pub rtt: Duration,
    /// More is to be sent on it than the path lets pass.
    pub short: bool,
    /// What the beat renews, if the meeting was opened before it was sent.
    pub renewal: Option<Renewal>,
}

impl Meeting {
    /// A link is up to a core that is watched; `beats` if it speaks version 2.
    pub fn handle_up(&mut self, core: &NodeId, beats: bool, now: Instant) {
        self.failover.handle_up(core, beats, now);
        self.follow(now);
    }

    /// The link to `core` is gone.
    pub fn handle_down(&mut self, core: &NodeId, now: Instant) {
        if core == self.failover.serving() {
            self.close(now);
        }
        self.failover.handle_down(core, now);
        self.follow(now);
    }

    /// The primary's link is up, where it is called `alias`: say everything from the start.
    pub fn handle_opening(&mut self, alias: MeetingAlias, beats: bool, now: Instant) {
        (self.opened, self.beats) = (Some(alias), beats);
        self.progressed = now;
        self.control.clear();
        if !beats && !self.late {
            self.ownership.handle_unleased();
        }
        self.control.push_back(self.opening(alias));
        for (id, participant) in &self.participants {
            self.control.push_back(row(alias, id, participant));
            if !participant.present {
                self.control.push_back(ToCore::Left { alias, participant: participant.alias });
            }
        }
        self.say_state(now);
        self.say_hand_over();
        self.say_given_up(true);
        if let Phase::Flushing { said, .. } = &mut self.phase {
            *said = false;
        }
        let core = self.failover.serving().clone();
        self.uplink.handle_connected(&core, now);
        self.ladder.handle_connected(now);
    }

    /// `core` answered a beat.
    pub fn handle_beat(&mut self, core: &NodeId, Beat { rtt, short, renewal }: Beat, now: Instant) {
        if self.failover.is_lessor(core)
            && let Some(renewal) = renewal
        {
            self.ownership.handle_renewal(renewal, now);
        }
        if core == self.failover.serving() {
            self.ladder.handle_path(rtt, short);
            self.step(now);
        }
        self.failover.handle_beat(core, rtt, renewal.is_some(), now);
        self.follow(now);
    }

    /// `core` has not answered the last beat yet. `alive`: datagrams have come from it since; `short`: more is to be sent to it
    /// than the path lets pass.
    pub fn handle_unanswered(&mut self, core: &NodeId, alive: bool, short: bool, now: Instant) {
        if core == self.failover.serving() {
            self.ladder.handle_short(short);
            self.step(now);
        }
        if short {
            self.failover.handle_short(core, now);
        }
        if alive {
            self.failover.handle_alive(core, now);
        }
        self.follow(now);
    }

    /// `core` renewed the lease by way of another node.
    pub fn handle_renewed(&mut self, core: &NodeId, renewal: Renewal, now: Instant) {
        if self.failover.is_lessor(core) {
            self.ownership.handle_renewal(renewal, now);
        }
    }

    /// `core` says by way of another node that this edge does not own the meeting.
    pub fn handle_lost(&mut self, core: &NodeId, now: Instant, wall: Micros) {
        if core == self.failover.serving() {
            self.ownership.handle_refused();
            self.obey_ownership(now, wall);
        }
    }

    /// Another than `from` serves the meeting by now.
    pub fn handle_moved(&mut self, from: &NodeId, core: NodeId, term: Term, now: Instant) {
        self.failover.handle_moved(from, core, term, now);
        self.follow(now);
    }

    /// `core` spoke of this meeting.
    pub fn handle_message(&mut self, core: &NodeId, message: ToEdge, now: Instant, wall: Micros) {
        let serving = core == self.failover.serving();
        let who = match message {
            ToEdge::Drain => Relation::Itself,
            _ if serving => Relation::Core,
            _ => Relation::Standby,
        };
        // A core that served before may still acknowledge what it took then: that is passed over without a word.
        if authorize::check(Kind::of_core(&message), Role::Edge, Role::Core, who, Residency::Inside).is_err() {
            return;
        }
        match message {
            ToEdge::Durable { participant, spurt, upto, .. } => {
                self.progressed = now;
                self.uplink.handle_durable(participant, spurt, upto);
            }
            ToEdge::Done { participant, spurt, .. } => {
                self.progressed = now;
                self.uplink.handle_done(participant, spurt);
            }
            ToEdge::DoneTo { participant, spurt, items, .. } => {
                self.progressed = now;
                self.uplink.handle_done_to(participant, spurt, items, now);
            }
            ToEdge::Leave { .. } => {
                let reason = if self.hand_over.is_some() { CloseReason::Drain } else { CloseReason::Asked };
                self.dismissed = true;
                self.leave(reason, now, wall);
            }
            ToEdge::Refused { reason: RefusedReason::StaleEpoch, .. } if serving && self.beats && !self.late => {
                // Somebody else owns it, but what was said before that is still wanted.
                self.ownership.handle_refused();
                self.obey_ownership(now, wall);
            }
            ToEdge::Refused { reason, .. } => self.failover.handle_refused(core, reason, now),
            ToEdge::Standby { core: standby, number, .. } => self.failover.handle_standby(core, standby, number, now),
            ToEdge::Moved { core: to, term, .. } => self.failover.handle_moved(core, to, term, now),
            ToEdge::Drain => self.failover.handle_drain(core, now),
            // Of the link.
            _ => {}
        }
        self.follow(now);
    }

    /// Leaves when the lease is over.
    pub(super) fn obey_ownership(&mut self, now: Instant, wall: Micros) {
        let Right::Lost(loss) = self.ownership.right() else { return };
        if self.late {
            return;
        }
        tracing::warn!(?loss, "the lease is over: leaving the meeting");
        metrics::counter!("nearfield_edge_leases_lost_total").increment(1);
        self.leave(CloseReason::LeaseOver, now, wall);
        self.late = true;
        self.failover.handle_late(now);
        self.follow(now);
        self.actions.push_back(Action::Release);
        if let Some(alias) = self.opened {
            // Spurts and table stay as they are; only what they are changes.
            self.control.push_back(self.opening(alias));
        }
    }

    /// Does what the choice of the core asks.
    pub(super) fn follow(&mut self, now: Instant) {
        while let Some(action) = self.failover.poll_action() {
            match action {
                failover::Action::Watch(core) => self.actions.push_back(Action::Watch(core)),
                failover::Action::Unwatch(core) => self.actions.push_back(Action::Unwatch(core)),
                failover::Action::Turn { core, term, why } => {
                    tracing::warn!(%core, term = term.0, why = why.as_str(), "turning to another core");
                    metrics::counter!("nearfield_edge_turns_total", "why" => why.as_str()).increment(1);
                    self.close(now);
                    self.actions.push_back(Action::Turn(core));
                }
                failover::Action::Confirm(number, core) => {
                    // An earlier process may have called a core that this one knows nothing of.
                    if let Some(alias) = self.opened.filter(|_| !self.recovered) {
                        self.say(ToCore::Standby { alias, core, number });
                    }
                }
                failover::Action::GiveUp(reason) => {
                    tracing::info!(?reason, undone = !self.uplink.is_empty(), "the core refuses this meeting");
                    self.refused = true;
                    self.phase = Phase::Over;
                }
            }
        }
    }

    fn opening(&self, alias: MeetingAlias) -> ToCore {
        let Assignment { meeting, epoch, trace, .. } = self.assignment;
        match (self.beats, self.late) {
            (true, true) => ToCore::Late { alias, meeting, epoch, trace },
            (true, false) => ToCore::Serve { alias, meeting, epoch, term: self.failover.term(), trace },
            (false, _) => ToCore::Open { alias, meeting, epoch, trace },
        }
    }

    fn close(&mut self, now: Instant) {
        self.opened = None;
        self.control.clear();
        self.uplink.handle_disconnected(now);
    }
}
