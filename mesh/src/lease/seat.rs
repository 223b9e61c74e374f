use super::{Owner, witness::may_call};
use crate::{
    identity::NodeId,
    wire::{Epoch, Term},
};

/// Terms between one that a core began alone and the next such: see [`Seat::take_over_alone`].
const ALONE: u32 = 1 << 16;

/// What one core is to one meeting. Every change is stored before it is acted on.
///
/// ```text
///           replica                      the witness calls: term + 1
///   Idle ─────────────▶ Standby(t) ─────────────────────────────────▶ Serving(t + 1)
///     ▲    resign          │ ▲ replica of a newer term                     │
///     └────────────────────┘ └─────────────────────────────────────────────┘
/// ```
///
/// Terms only rise. A core that hears of a newer term than its own stops serving at once ([`Seat::handle_term`]).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seat {
    term: Term,
    role: Role,
}

/// In which part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Role {
    /// None, though another may serve it.
    #[default]
    Idle,
    /// It serves.
    Serving,
    /// It holds a copy for `serving`, and may be called by `witness`.
    Standby {
        /// Who serves.
        serving: NodeId,
        /// The owner of the first slot, once an entry has named it.
        witness: Option<Owner>,
    },
}

/// Why a call is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotCalled {
    /// This core is no standby of that meeting.
    #[error("not the standby")]
    NotStandby,
    /// The caller does not own the meeting, by what was copied here.
    #[error("the caller is not the meeting's owner")]
    NotWitness,
    /// The term is not the one after that of the copy.
    #[error("not the next term")]
    Term,
}

impl Seat {
    /// A core that serves a new meeting, or took one up again from its store.
    pub fn serving(term: Term) -> Self {
        Self { term, role: Role::Serving }
    }

    /// The newest term it knows of.
    pub fn term(&self) -> Term {
        self.term
    }

    /// In which part.
    pub fn role(&self) -> &Role {
        &self.role
    }

    /// Whether it serves.
    pub fn is_serving(&self) -> bool {
        self.role == Role::Serving
    }

    /// `from`, serving in `term`, sends what is to be copied. Whether it is taken; if not, `from` is of the past, and is told
    /// this seat's term.
    pub fn handle_replica(&mut self, from: &NodeId, term: Term) -> bool {
        match &self.role {
            _ if term < self.term => return false,
            Role::Serving if term == self.term => return false,
            Role::Standby { serving, .. } if term == self.term => return serving == from,
            _ => {}
        }
        self.term = term;
        self.role = Role::Standby { serving: from.clone(), witness: None };
        true
    }

    /// An entry names the owner of the first slot.
    pub fn handle_witness(&mut self, owner: Owner) {
        if let Role::Standby { witness, .. } = &mut self.role {
            *witness = Some(owner);
        }
    }

    /// The serving core drops its standby. True when this core is none (any more), and will answer no call.
    pub fn handle_resign(&mut self, term: Term) -> bool {
        match self.role {
            Role::Standby { .. } if self.term == term => self.role = Role::Idle,
            Role::Standby { .. } => return self.term > term,
            Role::Serving => return false,
            Role::Idle => {}
        }
        true
    }

    /// The edge that owns `epoch` calls: this core is to serve in `term`.
    ///
    /// # Errors
    /// It may not; the call is void.
    pub fn handle_call(&mut self, edge: &NodeId, epoch: Epoch, term: Term) -> Result<(), NotCalled> {
        let Role::Standby { witness, .. } = &self.role else { return Err(NotCalled::NotStandby) };
        if !may_call(epoch, witness.as_ref(), edge) {
            return Err(NotCalled::NotWitness);
        }
        if term.0 != self.term.0.saturating_add(1) {
            return Err(NotCalled::Term);
        }
        *self = Self::serving(term);
        Ok(())
    }

    /// Somebody serves in `term`. Whether this core has to stop serving.
    pub fn handle_term(&mut self, term: Term) -> bool {
        let over = term > self.term && self.role == Role::Serving;
        if term > self.term {
            *self = Self { term, role: Role::Idle };
        }
        over
    }

    /// The serving core and the witness have both been down for longer than any partition that is to be borne: this
    /// standby, `me`, serves unasked. Its term is one that no called core and no other lone one can have, so that they can be told
    /// apart should the assumption have been wrong: the next multiple of 2^16, and a hash of its name.
    pub fn take_over_alone(&mut self, me: &NodeId) -> Option<Term> {
        if !matches!(self.role, Role::Standby { .. }) {
            return None;
        }
        // FNV-1a, folded to 16 bits.
        let hash = me.as_str().bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
        let term = Term((self.term.0 / ALONE).checked_add(1)?.checked_mul(ALONE)? | ((hash >> 16) ^ (hash & 0xffff)));
        *self = Self::serving(term);
        Some(term)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn node(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    fn standby() -> Seat {
        let mut seat = Seat::default();
        assert!(seat.handle_replica(&node("c1"), Term(1)));
        seat.handle_witness(Owner { edge: node("a"), epoch: Epoch(4) });
        seat
    }

    #[test]
    fn only_the_owner_calls_and_only_for_the_next_term() {
        let mut seat = standby();
        assert_eq!(seat.handle_call(&node("b"), Epoch(4), Term(2)), Err(NotCalled::NotWitness));
        assert_eq!(seat.handle_call(&node("a"), Epoch(3), Term(2)), Err(NotCalled::NotWitness));
        assert_eq!(seat.handle_call(&node("a"), Epoch(4), Term(3)), Err(NotCalled::Term));
        assert_eq!(seat.handle_call(&node("a"), Epoch(4), Term(2)), Ok(()));
        assert!(seat.is_serving() && !seat.handle_replica(&node("c1"), Term(1)), "the old core learns of it");
    }

    #[test]
    fn a_core_that_resigned_or_serves_is_not_called() {
        let mut seat = standby();
        assert!(seat.handle_resign(Term(1)));
        assert_eq!(seat.handle_call(&node("a"), Epoch(4), Term(2)), Err(NotCalled::NotStandby));
        assert!(!Seat::serving(Term(2)).handle_resign(Term(1)));
    }

    #[test]
    fn an_old_core_steps_down_and_may_become_the_standby() {
        let mut seat = Seat::serving(Term(1));
        assert!(!seat.handle_term(Term(1)) && seat.handle_term(Term(2)) && !seat.is_serving());
        assert!(seat.handle_replica(&node("c2"), Term(2)));
        assert!(!seat.handle_replica(&node("c3"), Term(2)), "one core for each term");
    }

    #[test]
    fn two_cores_left_alone_take_different_terms() {
        let (mut a, mut b) = (standby(), standby());
        let (a, b) = (a.take_over_alone(&node("c2")).unwrap(), b.take_over_alone(&node("c3")).unwrap());
        assert!(a != b && a > Term(1 << 16) && b > Term(1 << 16));
        assert_eq!(Seat::serving(Term(1)).take_over_alone(&node("c2")), None);
    }
}
