//! The edges that may call the standby: each slot's newest owner. The primary goes on without its standby when all of them have
//! said, since it let the standby go, that they will not call it.
//!
//! | input | effect |
//! |---|---|
//! | granted, the standby having it on disk | it is the slot's witness; the one before is refused by the standby |
//! | declined | it was none |
//! | retired | it is none any more as soon as the standby knows: until then that may obey it |
//! | answers | the newest of each counts |

use mesh::{identity::NodeId, wire::Epoch};

use crate::store::record::{MeetingRecord, SLOTS};

/// What all of them together have said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tally {
    /// There is none.
    Nobody,
    /// Not all have answered.
    Open,
    /// All have answered at least to this announcement: they turn to nobody, or one of them to that core.
    Said(u64, Option<NodeId>),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Witnesses {
    slots: [Option<Witness>; SLOTS],
}

#[derive(Debug)]
struct Witness {
    epoch: Epoch,
    /// The number of the change that ends it.
    retired: Option<u64>,
    /// What it answered last: to which announcement, and what.
    answer: Option<(u64, Option<NodeId>)>,
}

impl Witness {
    fn new(epoch: Epoch) -> Self {
        Self { epoch, retired: None, answer: None }
    }
}

impl Witnesses {
    /// As they may be where a meeting is taken up: whoever was retired may have been so after the standby was last told.
    pub fn of(record: &MeetingRecord) -> Self {
        let newest = |slot: usize| {
            let (epoch, owner) = record.owners.newest_in(slot as u8)?;
            let retired = owner.until.map(|_| 1);
            owner.leased.then(|| Witness { retired, ..Witness::new(epoch) })
        };
        Self { slots: std::array::from_fn(newest) }
    }

    /// The newest owner of `slot`; `None` if that is an edge that knows no standbys.
    pub fn handle_granted(&mut self, slot: u8, epoch: Option<Epoch>) {
        if let Some(witness) = self.slots.get_mut(usize::from(slot)) {
            *witness = epoch.map(Witness::new);
        }
    }

    /// It does not want what it was granted.
    pub fn handle_declined(&mut self, epoch: Epoch) {
        self.slots
            .iter_mut()
            .filter(|slot| slot.as_ref().is_some_and(|w| w.epoch == epoch))
            .for_each(|slot| *slot = None);
    }

    /// Its epoch is over by the change of that number.
    pub fn handle_retired(&mut self, epoch: Epoch, number: u64) {
        if let Some(witness) = self.find(epoch) {
            witness.retired.get_or_insert(number);
        }
    }

    /// Forgets those of whose end the standby knows; whether there were any.
    pub fn handle_settled(&mut self, settled: impl Fn(u64) -> bool) -> bool {
        let over = |witness: &mut Witness| witness.retired.is_some_and(&settled);
        self.slots.iter_mut().filter_map(|slot| slot.take_if(|witness| over(witness))).count() > 0
    }

    /// The owner of `epoch` answers announcement `number`: it would turn to `core`, or may have called it.
    pub fn handle_answer(&mut self, epoch: Epoch, number: u64, core: Option<NodeId>) {
        if let Some(witness) = self.find(epoch)
            && witness.answer.as_ref().is_none_or(|(last, _)| *last <= number)
        {
            witness.answer = Some((number, core));
        }
    }

    /// What all of them together have said.
    pub fn tally(&self) -> Tally {
        if self.is_empty() {
            return Tally::Nobody;
        }
        self.agreed().map_or(Tally::Open, |(number, core)| Tally::Said(number, core))
    }

    /// What all of them have answered at least to this announcement: nothing, or a core to which one of them would turn.
    fn agreed(&self) -> Option<(u64, Option<NodeId>)> {
        let all: Option<Vec<_>> = self.slots.iter().flatten().map(|witness| witness.answer.clone()).collect();
        let all = all?;
        let oldest = all.iter().map(|(number, _)| *number).min()?;
        Some((oldest, all.into_iter().find_map(|(_, core)| core)))
    }

    fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Whether the owner of `epoch` is one.
    pub fn contains(&self, epoch: Epoch) -> bool {
        self.iter().any(|other| other == epoch)
    }

    /// Their epochs.
    pub fn iter(&self) -> impl Iterator<Item = Epoch> {
        self.slots.iter().flatten().map(|witness| witness.epoch)
    }

    fn find(&mut self, epoch: Epoch) -> Option<&mut Witness> {
        self.slots.iter_mut().flatten().find(|witness| witness.epoch == epoch)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn core() -> Option<NodeId> {
        Some("core-2".parse().unwrap())
    }

    fn two() -> Witnesses {
        let mut witnesses = Witnesses::default();
        witnesses.handle_granted(0, Some(Epoch(1)));
        witnesses.handle_granted(1, Some(Epoch(2)));
        witnesses
    }

    #[test]
    fn all_of_them_must_agree_and_the_oldest_answer_counts() {
        let mut witnesses = two();
        witnesses.handle_answer(Epoch(1), 7, None);
        assert_eq!(witnesses.agreed(), None);
        witnesses.handle_answer(Epoch(2), 5, None);
        assert_eq!(witnesses.agreed(), Some((5, None)));
        witnesses.handle_answer(Epoch(2), 8, core());
        assert_eq!(witnesses.agreed(), Some((7, core())), "one of them may have called it");
        witnesses.handle_answer(Epoch(2), 6, None);
        assert_eq!(witnesses.agreed(), Some((7, core())), "an answer that was overtaken");
    }

    #[test]
    fn the_next_owner_of_a_slot_has_answered_nothing_and_one_that_declines_is_not_waited_for() {
        let mut witnesses = two();
        witnesses.handle_answer(Epoch(1), 7, None);
        witnesses.handle_answer(Epoch(2), 7, None);
        witnesses.handle_granted(1, Some(Epoch(3)));
        witnesses.handle_answer(Epoch(2), 8, None);
        assert_eq!(witnesses.agreed(), None);
        witnesses.handle_declined(Epoch(3));
        assert_eq!(witnesses.agreed(), Some((7, None)));
        witnesses.handle_granted(0, None);
        assert_eq!(witnesses.tally(), Tally::Nobody);
    }

    #[test]
    fn one_that_is_retired_may_be_obeyed_until_the_standby_knows() {
        let mut witnesses = two();
        witnesses.handle_answer(Epoch(1), 7, None);
        witnesses.handle_retired(Epoch(2), 40);
        assert!(!witnesses.handle_settled(|number| number < 40));
        assert_eq!(witnesses.agreed(), None);
        assert!(witnesses.handle_settled(|number| number <= 40));
        assert_eq!(witnesses.agreed(), Some((7, None)));
    }
}
