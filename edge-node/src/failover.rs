//! Which core serves one meeting, as its edge sees it: when to turn to the standby, and when back.
//!
//! ```text
//!             silent, lost or draining, and the standby answers
//!   Serving ───────────────────────────────────────────────────▶ Serving, unproven ──it answers──▶ Serving
//!      ▲ ▲ ▲                                                          │   │  (another core, next term)
//!      │ │ └───────────────── it refuses ─────────────────────────────┘   │
//!      │ └── it is silent while the former answers: *called* ◀────────────┘
//!      └── Moved: the core itself names the one that serves by now
//! ```
//!
//! The edge is the witness of the pair (see [`mesh::lease`]): it turns to the core that it last confirmed, and to no other.
//! A core that was *called* may be serving although no answer came. Until it has refused, or the former core has been released by it
//! (it has another standby by then), the edge calls no other, and does not confirm to the former that there is none.
//! Beats decide, never gossip: a core is *silent* when it has owed an answer for `max(`[`Settings::floor`]`, 4 RTT +
//! `[`Settings::slack`]`)`. A silence that this process slept through itself counts for nothing, and nobody turns to a core
//! that does not answer either, or has not since. Turns in quick succession wait longer and longer.
//!
//! Calling contract: after each `handle_*`, [`Failover::poll_action`] until it has no more; then wait for the next input
//! or [`Failover::poll_timeout`].

mod heard;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use mesh::{
    identity::NodeId,
    lease::BEAT_EVERY,
    wire::{Term, control::RefusedReason},
};

use self::heard::Core;

/// A round trip longer than the present one fades by this part with each beat: to a half in a second and a half.
const REMEMBERED: u32 = 8;

/// What the times are.
#[derive(Debug, Clone)]
pub struct Settings {
    /// No silence shorter than this is one: three beats.
    pub floor: Duration,
    /// The same while the core's connection acknowledges what it is sent: it lives, and on a full link a beat waits behind what
    /// is under way, or is lost and sent again.
    pub alive_floor: Duration,
    /// A connection that was seen to do so more than once is held to live for so long: while a queue that has built up on a link
    /// drains nothing is sent, and nothing acknowledged.
    pub alive_memory: Duration,
    /// Silence allowed beyond four round trips: one beat, and the scheduling of a busy machine.
    pub slack: Duration,
    /// A machine this late at looking at its clock was itself away.
    pub stall: Duration,
    /// Wait after a turn before the next; doubles with each turn within [`Settings::calm`].
    pub hold: Duration,
    /// The longest such wait.
    pub hold_max: Duration,
    /// After so long without a turn the waits begin anew.
    pub calm: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            floor: Duration::from_millis(750),
            alive_floor: Duration::from_secs(6),
            alive_memory: Duration::from_millis(2500),
            slack: Duration::from_millis(350),
            stall: Duration::from_millis(500),
            hold: Duration::from_secs(1),
            hold_max: Duration::from_secs(30),
            calm: Duration::from_secs(60),
        }
    }
}

/// What the shell is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Keep a control stream to this core from now on.
    Watch(NodeId),
    /// It is of no interest any more.
    Unwatch(NodeId),
    /// Open the meeting at this core, which is watched, in this term; replay what is not done.
    Turn {
        /// To whom.
        core: NodeId,
        /// In which turn it serves.
        term: Term,
        /// Why, for the log and the metric.
        why: Why,
    },
    /// Tell the primary, in answer to that announcement, which standby this edge would turn to or has called.
    Confirm(u64, Option<NodeId>),
    /// No core takes the meeting.
    GiveUp(RefusedReason),
}

/// Why an edge turns to another core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Beats were not answered, or the stream was lost and did not come back.
    Silent,
    /// It is going away.
    Draining,
    /// It says that another serves.
    Moved,
    /// It does not take the meeting.
    Refused,
}

impl Why {
    /// A label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Draining => "draining",
            Self::Moved => "moved",
            Self::Refused => "refused",
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Failover {
    settings: Settings,
    serving: Core,
    standby: Option<Core>,
    /// Where the meeting came from, until the primary has answered for it; in a later term than `term`: the core that was
    /// called.
    former: Option<(Core, Term)>,
    term: Term,
    /// The primary's newest announcement.
    asked: Option<(u64, Option<NodeId>)>,
    /// A turn that is due as soon as turns are allowed.
    due: Option<(NodeId, Term, Why)>,
    draining: bool,
    /// This edge owns the meeting no more: it calls nobody.
    late: bool,
    last_turn: Option<Instant>,
    hold: Duration,
    /// When this machine last looked.
    looked: Instant,
    actions: VecDeque<Action>,
}

impl Failover {
    /// `core` serves in `term`; `beats` if the assignment was of version 2.
    pub fn new(
        settings: Settings,
        core: NodeId,
        term: Term,
        standby: Option<NodeId>,
        beats: bool,
        now: Instant,
    ) -> Self {
        let hold = settings.hold;
        let serving = Core { beats, ..Core::new(core.clone(), now) };
        let mut this = Self {
            settings,
            serving,
            standby: None,
            former: None,
            term,
            asked: None,
            due: None,
            draining: false,
            late: false,
            last_turn: None,
            hold,
            looked: now,
            actions: VecDeque::from([Action::Watch(core)]),
        };
        this.replace_standby(standby, now);
        this
    }

    /// Who serves.
    pub fn serving(&self) -> &NodeId {
        &self.serving.id
    }

    /// In which term, as far as this edge knows.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Whether a lease that `core` renews counts: the primary's does; and the former one's until the primary has
    /// answered for the meeting, for it may never have heard that it was turned to.
    pub fn is_lessor(&self, core: &NodeId) -> bool {
        let former = self.former.as_ref().filter(|(_, term)| *term <= self.term);
        *core == self.serving.id || former.is_some_and(|(former, _)| former.id == *core)
    }

    /// A control stream to `core` is up.
    pub fn handle_up(&mut self, core: &NodeId, beats: bool, now: Instant) {
        self.look(now);
        if let Some(core) = self.core(core) {
            (core.up, core.beats, core.heard) = (true, beats, now);
        }
        self.decide(now);
    }

    /// It is gone.
    pub fn handle_down(&mut self, core: &NodeId, now: Instant) {
        self.look(now);
        if let Some(core) = self.core(core) {
            core.up = false;
        }
        self.decide(now);
    }

    /// `core` answered a beat; `opened` if that was sent after the meeting was opened there.
    pub fn handle_beat(&mut self, core: &NodeId, rtt: Duration, opened: bool, now: Instant) {
        self.look(now);
        if let Some(core) = self.core(core) {
            // A queue that has just drained may be there again with the next talk spurt.
            (core.heard, core.rtt) = (now, rtt.max(core.rtt - core.rtt / REMEMBERED));
            core.seen_alive = 0;
        }
        if opened && *core == self.serving.id {
            self.prove();
        }
        self.decide(now);
    }

    /// The primary names its standby, in announcement `number`.
    pub fn handle_standby(&mut self, from: &NodeId, standby: Option<NodeId>, number: u64, now: Instant) {
        self.look(now);
        if *from != self.serving.id {
            return;
        }
        self.prove();
        let standby = standby.filter(|core| core != from);
        if standby.is_some() && self.called() != standby.as_ref() {
            // It has a new one, so that which was called has let it go.
            self.drop_former();
        }
        self.asked = Some((number, standby));
        self.confirm(now);
        self.decide(now);
    }

    /// `from` says that `core` serves the meeting in `term`.
    pub fn handle_moved(&mut self, from: &NodeId, core: NodeId, term: Term, now: Instant) {
        self.look(now);
        let news = if core == *from { term > self.term } else { term >= self.term };
        let took_nothing = self.former.as_ref().is_some_and(|(former, before)| former.id == core && *before == term);
        if *from == self.serving.id && took_nothing && !news {
            self.turn_back(now);
        } else if *from == self.serving.id && news {
            self.due = Some((core, term, Why::Moved));
        }
        self.decide(now);
    }

    /// `from` is going away.
    pub fn handle_drain(&mut self, from: &NodeId, now: Instant) {
        self.look(now);
        self.draining |= *from == self.serving.id;
        self.decide(now);
    }

    /// `from` does not take the meeting.
    pub fn handle_refused(&mut self, from: &NodeId, reason: RefusedReason, now: Instant) {
        self.look(now);
        if *from != self.serving.id {
            if self.called() == Some(from) {
                self.drop_former();
                self.confirm(now);
            }
            return;
        }
        let elsewhere = !matches!(reason, RefusedReason::StaleEpoch | RefusedReason::Ended);
        if self.former.is_some() {
            self.turn_back(now);
        } else if let Some(term) = self.term.called().filter(|_| elsewhere)
            && let Some(standby) = self.standby.take()
        {
            self.turn(standby, term, Why::Refused, now);
            self.drop_former();
        } else {
            self.actions.push_back(Action::GiveUp(reason));
        }
    }

    /// The meeting is this edge's no more: what it has still goes to the core that serves it, or that this one names, and it calls
    /// no other.
    pub fn handle_late(&mut self, now: Instant) {
        self.late = true;
        self.replace_standby(None, now);
    }

    /// `core` does not answer, but something came from it all the same.
    pub fn handle_alive(&mut self, core: &NodeId, now: Instant) {
        self.look(now);
        if let Some(core) = self.core(core) {
            core.alive = Some(now);
            core.seen_alive += 1;
        }
        self.decide(now);
    }

    /// `core` does not answer, but then the path to it is short of bandwidth: what it is sent waits behind speech, perhaps
    /// behind a single packet of it for half a second.
    pub fn handle_short(&mut self, core: &NodeId, now: Instant) {
        self.look(now);
        if let Some(core) = self.core(core) {
            core.alive = Some(now);
        }
        self.decide(now);
    }

    /// A deadline has passed, or may have.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.look(now);
        self.decide(now);
    }

    /// When [`Failover::handle_timeout`] is next wanted: often enough to know when this process was away.
    pub fn poll_timeout(&self) -> Instant {
        self.looked + BEAT_EVERY
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Whether this process was away until `now`: it must not judge others by what it did not hear.
    pub fn was_away(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.looked) > BEAT_EVERY + self.settings.stall
    }

    fn look(&mut self, now: Instant) {
        if self.was_away(now) {
            let former = self.former.as_mut().map(|(core, _)| core);
            [Some(&mut self.serving), self.standby.as_mut(), former]
                .into_iter()
                .flatten()
                .for_each(|core| core.heard = now);
        }
        self.looked = self.looked.max(now);
    }

    fn decide(&mut self, now: Instant) {
        if self.last_turn.is_some_and(|last| now < last + self.hold) {
            return;
        }
        if let Some((core, term, why)) = self.due.take() {
            let here = Some(&self.serving).filter(|serving| serving.id == core).cloned();
            let core = here.or_else(|| self.known(&core)).unwrap_or_else(|| {
                self.actions.push_back(Action::Watch(core.clone()));
                Core { beats: true, ..Core::new(core, now) }
            });
            self.turn(core, term, why, now);
            // Whoever said so has given the meeting up.
            self.drop_former();
            return;
        }
        let silent = self.serving.beats && self.serving.is_silent(&self.settings, now);
        // The primary wants to go on without the core that was called: only that one can say.
        let disputed = self.called().is_some() && matches!(self.asked, Some((_, None)));
        if !silent && !self.draining && !disputed {
            return;
        }
        let why = if silent || disputed { Why::Silent } else { Why::Draining };
        let back = silent || self.called().is_some();
        if let Some((former, term)) = self.former.take_if(|(core, _)| back && core.answers(&self.settings, now)) {
            self.turn(former, term, why, now);
        } else if self.called().is_none()
            && let Some(term) = self.term.called()
            && let Some(standby) = self
                .standby
                .take_if(|core| core.answers(&self.settings, now) && (!silent || core.outlives(&self.serving)))
        {
            self.turn(standby, term, why, now);
        }
    }

    /// The core that was turned to took nothing over, so the former one goes on as if nothing had been.
    fn turn_back(&mut self, now: Instant) {
        if let Some((former, term)) = self.former.take() {
            self.turn(former, term, Why::Refused, now);
            self.drop_former();
        }
    }

    fn turn(&mut self, to: Core, term: Term, why: Why, now: Instant) {
        if self.last_turn.is_none_or(|last| now.saturating_duration_since(last) >= self.settings.calm) {
            self.hold = self.settings.hold;
        } else {
            self.hold = (self.hold * 2).min(self.settings.hold_max);
        }
        self.last_turn = Some(now);
        let left = [self.former.take().map(|(core, _)| core), self.standby.take()];
        for core in left.into_iter().flatten().filter(|core| core.id != to.id) {
            self.actions.push_back(Action::Unwatch(core.id));
        }
        let action = Action::Turn { core: to.id.clone(), term, why };
        // It has as long to answer as anybody.
        let from = std::mem::replace(&mut self.serving, Core { heard: now, ..to });
        self.former = Some((from, self.term));
        self.term = term;
        (self.due, self.draining, self.asked) = (None, false, None);
        self.actions.push_back(action);
    }

    /// The primary has taken the meeting: there is no way back but by its own word.
    fn prove(&mut self) {
        if self.called().is_none() {
            self.drop_former();
        }
    }

    /// The core that may serve in a later term, and has not said so.
    fn called(&self) -> Option<&NodeId> {
        self.former.as_ref().filter(|(_, term)| *term > self.term).map(|(core, _)| &core.id)
    }

    fn confirm(&mut self, now: Instant) {
        let Some((number, standby)) = self.asked.clone() else { return };
        let called = self.called().cloned();
        if called.is_none() {
            self.replace_standby(standby.clone(), now);
        }
        self.actions.push_back(Action::Confirm(number, called.or(standby)));
    }

    fn drop_former(&mut self) {
        if let Some((former, _)) = self.former.take()
            && former.id != self.serving.id
            && self.standby.as_ref().is_none_or(|standby| standby.id != former.id)
        {
            self.actions.push_back(Action::Unwatch(former.id));
        }
    }

    fn replace_standby(&mut self, standby: Option<NodeId>, now: Instant) {
        let standby = standby.filter(|_| !self.late);
        if self.standby.as_ref().map(|core| &core.id) == standby.as_ref() {
            return;
        }
        if let Some(old) = self.standby.take() {
            self.actions.push_back(Action::Unwatch(old.id));
        }
        if let Some(new) = standby {
            self.actions.push_back(Action::Watch(new.clone()));
            self.standby = Some(Core { beats: true, ..Core::new(new, now) });
        }
    }

    fn known(&self, id: &NodeId) -> Option<Core> {
        self.standby.iter().chain(self.former.iter().map(|(core, _)| core)).find(|core| core.id == *id).cloned()
    }

    fn core(&mut self, id: &NodeId) -> Option<&mut Core> {
        let former = self.former.as_mut().map(|(core, _)| core);
        [Some(&mut self.serving), self.standby.as_mut(), former].into_iter().flatten().find(|core| core.id == *id)
    }
}

#[cfg(test)]
mod tests;
