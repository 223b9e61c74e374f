//! How terms and epochs are numbered: so that no two cores have one in common, whoever is cut off from whom.

use std::cmp::Ordering;

use crate::{
    identity::NodeId,
    wire::{Epoch, Term},
};

/// Changes of the core that one meeting may see: the low bits of a term.
const TURN_BITS: u32 = 14;
/// Above them the *isolation* of a term that was begun alone; 0 of one that was agreed upon.
const ISOLATION_BITS: u32 = 32 - TURN_BITS;
/// Epochs that may be granted in one term: the low bits of an epoch, so that one up to the term 2^15 is exact in a JSON number.
const EPOCH_BITS: u32 = 20;

const TURNS: u32 = (1 << TURN_BITS) - 1;
const ISOLATIONS: u32 = (1 << ISOLATION_BITS) - 1;
const EPOCHS: u64 = (1 << EPOCH_BITS) - 1;

impl Term {
    fn turn(self) -> u32 {
        self.0 & TURNS
    }

    fn isolation(self) -> u32 {
        self.0 >> TURN_BITS
    }

    /// The term of the core that is called by the witness next; `None` if there have been too many.
    pub fn called(self) -> Option<Self> {
        (self.turn() < TURNS).then_some(Self(self.0 + 1))
    }

    /// The term that `me` begins without being called: after this one, and before any that is agreed upon next. `chance` is a
    /// number that `me` has not used for this meeting before, such as the time: with the name it makes the isolation,
    /// which two cores that go on alone from the same term have in common once in 2^18.
    pub fn isolated(self, me: &NodeId, chance: u64) -> Self {
        // FNV-1a, folded.
        let bytes = me.as_str().bytes().chain(chance.to_le_bytes());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        let folded = (hash ^ (hash >> ISOLATION_BITS) ^ (hash >> (2 * ISOLATION_BITS))) as u32 & ISOLATIONS;
        // Later than its own, also if that was begun alone as well.
        let (turn, isolation) =
            if folded > self.isolation() { (self.turn(), folded) } else { (self.turn() + 1, folded.max(1)) };
        if turn > TURNS { Self(u32::MAX) } else { Self((isolation << TURN_BITS) | turn) }
    }

    /// Whether it was begun by a core alone, or follows upon such a term.
    pub fn is_isolated(self) -> bool {
        self.isolation() != 0
    }
}

/// Later is what had more changes of the core that were agreed upon.
impl Ord for Term {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.turn(), self.isolation()).cmp(&(other.turn(), other.isolation()))
    }
}

impl PartialOrd for Term {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Epoch {
    /// Epoch `n` of `term`, of which the low 20 bits count: two terms have none in common, and a later term's are greater.
    pub fn of(term: Term, n: u32) -> Self {
        let turn = u64::from(term.turn().saturating_sub(1));
        let term = (turn << ISOLATION_BITS) | u64::from(term.isolation());
        Self((term << EPOCH_BITS) | (u64::from(n) & EPOCHS))
    }

    /// The term in which it was granted.
    pub fn term(self) -> Term {
        let term = self.0 >> EPOCH_BITS;
        let turn = (term >> ISOLATION_BITS).saturating_add(1).min(TURNS.into()) as u32;
        Term(((term as u32 & ISOLATIONS) << TURN_BITS) | turn)
    }

    /// The first epoch after it that `term` may grant; `None` if that term has none left or is over.
    pub fn next_in(self, term: Term) -> Option<Self> {
        let next = self.0.checked_add(1)?.max(Self::of(term, 1).0);
        Some(Self(next)).filter(|next| next.term() == term)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn node(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    #[test]
    fn epochs_of_two_terms_have_none_in_common() {
        assert_eq!(Epoch::of(Term(1), 7), Epoch(7), "the epochs of the version before terms");
        assert_eq!(Epoch(0).next_in(Term(1)), Some(Epoch(1)));
        assert_eq!(Epoch(7).next_in(Term(3)), Some(Epoch::of(Term(3), 1)));
        assert_eq!(Epoch::of(Term(3), 9).next_in(Term(3)), Some(Epoch::of(Term(3), 10)));
        assert_eq!(Epoch::of(Term(3), 9).next_in(Term(2)), None, "an older term grants nothing");
        assert_eq!(Epoch(EPOCHS).next_in(Term(1)), None, "no epochs left");
        assert_eq!(Epoch::of(Term(3), 9).term(), Term(3));
        assert_eq!(Epoch(u64::MAX).next_in(Term(u32::MAX)), None);
    }

    #[test]
    fn what_is_begun_alone_comes_between_the_terms_that_are_agreed_upon() {
        let (a, b) = (Term(1).isolated(&node("c1"), 1), Term(1).isolated(&node("c2"), 1));
        assert!(a.is_isolated() && a != b && a != Term(1).isolated(&node("c1"), 2));
        assert!(Term(1) < a && a < Term(2) && Term(2) < a.called().unwrap(), "an isolated one goes on like any other");
        assert_eq!(Term(TURNS).called(), None);
    }

    proptest! {
        #[test]
        fn numbers_rise_with_terms_and_keep_them(turn in 1..TURNS, isolation in 0..ISOLATIONS, n in 1..EPOCHS as u32, chance: u64) {
            let term = Term((isolation << TURN_BITS) | turn);
            prop_assert_eq!(Epoch::of(term, n).term(), term);
            for later in [term.isolated(&node("c1"), chance), term.called().unwrap()] {
                prop_assert!(later > term && Epoch::of(later, 1) > Epoch::of(term, n));
                prop_assert_eq!(Epoch::of(term, n).next_in(later), Some(Epoch::of(later, 1)));
            }
        }

        #[test]
        fn no_number_is_too_odd(term: u32, epoch: u64, chance: u64) {
            let (term, epoch) = (Term(term), Epoch(epoch));
            let alone = term.isolated(&node("c1"), chance);
            prop_assert!(alone >= term || term.called().is_none());
            if let Some(next) = epoch.next_in(term) {
                prop_assert!(next > epoch && next.term() == term);
            }
        }
    }
}
