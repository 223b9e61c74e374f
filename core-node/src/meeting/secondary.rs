//! The secondary edge of a meeting of redundancy 2: when it is sought, and what becomes of it.
//!
//! ```text
//! Absent ──the first is placed──▶ Placing ──assigned──▶ Joining ──live──▶ Live ──the first is lost──▶ it is the first now
//!   ▲                               │ nobody              │ too late        │ lost
//!   └────────── after a pause ──────┴─────────────────────┴─────────────────┘
//! ```
//!
//! One is sought, too, to *relieve* a first whose speech has no way here; then it takes the first's place as soon as it is live.
//!
//! The meeting's status follows the first edge alone ([`super::lifecycle`]); with two that capture, losing either is no gap.

use std::time::{Duration, Instant};

use mesh::wire::Epoch;

/// How long an edge that was assigned has to be live.
const JOIN: Duration = Duration::from_secs(15);
/// After a secondary edge that did not come or did not last the next is sought so much later, doubled each time, ...
const PAUSE: Duration = Duration::from_secs(1);
/// ... up to this.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub struct Secondary {
    wanted: bool,
    /// One is sought in any case: the first is to be relieved.
    relief: bool,
    slot: u8,
    state: State,
    failures: u32,
    /// The newest edge that was live, or lost, before its placement was known to have come off.
    early: Option<Early>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Early {
    epoch: Epoch,
    live: bool,
    lost: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Absent { until: Option<Instant> },
    Placing,
    Joining { epoch: Epoch, until: Instant },
    Live(Epoch),
}

impl Secondary {
    /// None yet; never one if it is not `wanted`.
    pub fn new(wanted: bool) -> Self {
        Self { wanted, relief: false, slot: 1, state: State::Absent { until: None }, failures: 0, early: None }
    }

    /// As it was before this core started: the edge of `epoch`, in `slot`, is expected back.
    pub fn resumed(wanted: bool, slot: u8, epoch: Option<Epoch>, now: Instant) -> Self {
        let state = match epoch {
            Some(epoch) => State::Joining { epoch, until: now + JOIN },
            None => State::Absent { until: Some(now + PAUSE) },
        };
        Self { state, slot, ..Self::new(wanted) }
    }

    /// In which slot it captures.
    pub fn slot(&self) -> u8 {
        self.slot
    }

    /// Under which epoch it captures or is to capture.
    pub fn epoch(&self) -> Option<Epoch> {
        match self.state {
            State::Joining { epoch, .. } | State::Live(epoch) => Some(epoch),
            State::Absent { .. } | State::Placing => None,
        }
    }

    /// Under which epoch it captures.
    pub fn live(&self) -> Option<Epoch> {
        if let State::Live(epoch) = self.state { Some(epoch) } else { None }
    }

    /// Whether an edge is to be sought now. The answer is awaited then.
    pub fn poll_place(&mut self, now: Instant) -> bool {
        let State::Absent { until } = self.state else { return false };
        let due = self.is_sought() && until.is_none_or(|until| until <= now);
        if due {
            self.state = State::Placing;
        }
        due
    }

    /// An edge has taken the slot, and may be live or lost since.
    pub fn handle_assigned(&mut self, epoch: Epoch, now: Instant) {
        self.state = State::Joining { epoch, until: now + JOIN };
        let Some(early) = self.early.take().filter(|early| early.epoch == epoch) else { return };
        if early.live {
            self.handle_live(epoch);
        }
        if early.lost {
            self.handle_lost(epoch, now);
        }
    }

    /// None did.
    pub fn handle_unplaced(&mut self, now: Instant) {
        self.pause(now);
    }

    /// The edge of `epoch` captures.
    pub fn handle_live(&mut self, epoch: Epoch) {
        if self.epoch() == Some(epoch) {
            self.state = State::Live(epoch);
            self.failures = 0;
        } else {
            self.note_early(Early { epoch, live: true, lost: false });
        }
    }

    /// The edge of `epoch` captures no more.
    pub fn handle_lost(&mut self, epoch: Epoch, now: Instant) {
        if self.live() == Some(epoch) {
            self.state = State::Absent { until: None };
        } else if self.epoch() == Some(epoch) {
            self.pause(now);
        } else {
            self.note_early(Early { epoch, live: false, lost: true });
        }
    }

    /// A wait has ended; returns the epoch that is given up with it.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Epoch> {
        let State::Joining { epoch, until } = self.state else { return None };
        (until <= now).then(|| {
            self.pause(now);
            epoch
        })
    }

    /// When [`Secondary::handle_timeout`] or [`Secondary::poll_place`] is next needed.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Joining { until, .. } => Some(until),
            State::Absent { until } if self.is_sought() => until,
            _ => None,
        }
    }

    /// It is the first from now on; the slot that the first has left is to be filled.
    pub fn promote(&mut self, left: u8) -> Option<Epoch> {
        let epoch = self.live()?;
        (self.slot, self.state) = (left, State::Absent { until: None });
        Some(epoch)
    }

    /// The first is to be relieved, or not any more; whether that is new.
    pub fn relieve(&mut self, relief: bool) -> bool {
        std::mem::replace(&mut self.relief, relief) != relief
    }

    /// Whether the first is to be relieved.
    pub fn relieves(&self) -> bool {
        self.relief
    }

    /// Whether the meeting is to have one at all times.
    pub fn is_wanted(&self) -> bool {
        self.wanted
    }

    fn is_sought(&self) -> bool {
        self.wanted || self.relief
    }

    /// The meeting ends: no other is sought.
    pub fn stop(&mut self) {
        (self.wanted, self.relief) = (false, false);
    }

    fn note_early(&mut self, said: Early) {
        self.early = match self.early {
            Some(newest) if newest.epoch > said.epoch => Some(newest),
            Some(same) if same.epoch == said.epoch => {
                Some(Early { live: same.live || said.live, lost: same.lost || said.lost, ..said })
            }
            _ => Some(said),
        };
    }

    fn pause(&mut self, now: Instant) {
        let pause = PAUSE.saturating_mul(1 << self.failures.min(6)).min(MAX_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.state = State::Absent { until: Some(now + pause) };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use super::*;

    #[test]
    fn one_is_sought_to_relieve_the_first_and_none_after_that() {
        let now = Instant::now();
        let mut secondary = Secondary::new(false);
        assert!(secondary.relieve(true) && !secondary.relieve(true));
        assert!(secondary.poll_place(now));
        secondary.handle_assigned(Epoch(2), now);
        secondary.handle_live(Epoch(2));
        assert_eq!(secondary.promote(0), Some(Epoch(2)));
        assert!(secondary.relieve(false) && !secondary.poll_place(now));
    }

    #[test]
    fn one_is_sought_only_where_two_are_wanted() {
        let now = Instant::now();
        assert!(!Secondary::new(false).poll_place(now));
        let mut secondary = Secondary::new(true);
        assert!(secondary.poll_place(now) && !secondary.poll_place(now), "and once");
    }

    #[test]
    fn one_that_is_lost_is_replaced_at_once_and_one_that_never_came_after_longer_and_longer_pauses() {
        let now = Instant::now();
        let mut secondary = Secondary::new(true);
        secondary.poll_place(now);
        secondary.handle_assigned(Epoch(2), now);
        assert_eq!((secondary.epoch(), secondary.live()), (Some(Epoch(2)), None));
        secondary.handle_live(Epoch(1));
        secondary.handle_lost(Epoch(1), now);
        assert_eq!(secondary.epoch(), Some(Epoch(2)), "that was another");
        secondary.handle_live(Epoch(2));
        secondary.handle_lost(Epoch(2), now);
        assert!(secondary.poll_place(now));
        let mut at = now;
        for pause in [1, 2, 4] {
            secondary.handle_unplaced(at);
            assert_eq!(secondary.poll_timeout(), Some(at + Duration::from_secs(pause)));
            assert!(!secondary.poll_place(at));
            at += Duration::from_secs(pause);
            assert!(secondary.poll_place(at));
        }
        secondary.handle_assigned(Epoch(7), at);
        assert_eq!(secondary.handle_timeout(at), None);
        assert_eq!(secondary.handle_timeout(at + JOIN), Some(Epoch(7)));
    }

    #[test]
    fn one_that_is_live_or_lost_before_its_placement_is_known_is_so_after_it() {
        let now = Instant::now();
        let placing = || {
            let mut secondary = Secondary::new(true);
            assert!(secondary.poll_place(now));
            secondary
        };
        let mut live = placing();
        live.handle_live(Epoch(2));
        live.handle_assigned(Epoch(2), now);
        assert_eq!((live.live(), live.poll_timeout()), (Some(Epoch(2)), None));
        let mut lost = placing();
        lost.handle_live(Epoch(2));
        lost.handle_lost(Epoch(2), now);
        lost.handle_assigned(Epoch(2), now);
        assert!(lost.epoch().is_none() && lost.poll_place(now), "the next is sought at once");
        let mut another = placing();
        another.handle_lost(Epoch(2), now);
        another.handle_live(Epoch(1));
        another.handle_assigned(Epoch(3), now);
        assert_eq!(another.epoch(), Some(Epoch(3)));
    }

    #[test]
    fn only_one_that_captures_takes_the_first_one_s_place_and_the_slot_it_leaves_is_filled() {
        let now = Instant::now();
        let mut secondary = Secondary::resumed(true, 1, Some(Epoch(3)), now);
        assert_eq!(secondary.promote(0), None);
        secondary.handle_live(Epoch(3));
        assert_eq!((secondary.promote(0), secondary.slot()), (Some(Epoch(3)), 0));
        assert!(secondary.poll_place(now));
        secondary.handle_unplaced(now);
        secondary.stop();
        assert_eq!((secondary.poll_timeout(), secondary.poll_place(now + MAX_PAUSE)), (None, false));
    }
}
