//! What a claim says, how it is written, and who may replace it: without I/O.

use mesh::{
    codec,
    identity::NodeId,
    wire::{Epoch, Term},
};
use serde::{Deserialize, Serialize};

use super::AuthorityError;

/// The longest claim, in bytes: two names of 63 and three numbers, with room to spare.
pub const MAX_CLAIM: usize = 256;

/// Who serves a meeting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The core.
    pub core: NodeId,
    /// In which term.
    pub term: Term,
    /// The newest epoch that was or is about to be granted.
    pub epoch: Epoch,
    /// The core that may take it over, and no other may.
    pub standby: Option<NodeId>,
}

/// Bytes that are no claim.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a claim that this version reads: {0}")]
pub struct Unreadable(String);

/// How claims are written; a later version of this program may write another.
#[derive(Serialize, Deserialize)]
enum Written {
    V1(Claim),
}

impl Claim {
    /// Whether it may replace `other`: terms and epochs only grow.
    pub fn follows(&self, other: &Self) -> bool {
        self.term >= other.term && self.epoch >= other.epoch
    }

    /// As it is kept.
    ///
    /// # Errors
    /// Longer than [`MAX_CLAIM`], which no valid name makes it.
    pub fn encode(&self) -> Result<Vec<u8>, Unreadable> {
        let bytes = codec::encode(&Written::V1(self.clone())).map_err(|e| Unreadable(e.to_string()))?;
        if bytes.len() > MAX_CLAIM { Err(too_long(bytes.len())) } else { Ok(bytes) }
    }

    /// What was kept.
    ///
    /// # Errors
    /// Any bytes but those that [`Claim::encode`] makes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        if bytes.len() > MAX_CLAIM {
            return Err(too_long(bytes.len()));
        }
        let Written::V1(claim) = codec::decode(bytes).map_err(|e| Unreadable(e.to_string()))?;
        Ok(claim)
    }
}

fn too_long(length: usize) -> Unreadable {
    Unreadable(format!("{length} bytes, at most {MAX_CLAIM} are allowed"))
}

/// Why a core does not take a meeting over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// This core serves it, or will: it is not for the one that asked.
    #[error("{0} has it")]
    Held(NodeId, Term),
    /// Nobody serves it any more.
    #[error("nobody claims it: it has ended")]
    Ended,
    /// It is not known whether it was taken: look again.
    #[error("{0}")]
    Unknown(String),
}

impl From<AuthorityError> for NotTaken {
    fn from(error: AuthorityError) -> Self {
        Self::Unknown(error.to_string())
    }
}

/// The claim with which `me` takes a meeting over in `term`, where `stands` is claimed and `former` served it as far as `me` knows.
///
/// A shared authority must name `me` as the standby of just that term. What this core alone has written down says nothing of
/// the others: there a later term than its own last one will do, since an edge or a long silence has called it.
///
/// # Errors
/// It is another's, or over.
pub fn take(
    stands: Option<&Claim>,
    shared: bool,
    me: &NodeId,
    former: (Option<&NodeId>, Term),
    (term, epoch): (Term, Epoch),
) -> Result<Claim, NotTaken> {
    let epoch = stands.map_or(epoch, |claim| claim.epoch.max(epoch));
    let mine = Claim { core: me.clone(), term, epoch, standby: None };
    let Some(claim) = stands else {
        return if shared { Err(NotTaken::Ended) } else { Ok(mine) };
    };
    let called = (Some(&claim.core), claim.term) == former && claim.standby.as_ref() == Some(me);
    let again = claim.core == *me && claim.term == term;
    if again || (term > claim.term && (called || !shared)) {
        Ok(mine)
    } else {
        Err(NotTaken::Held(claim.core.clone(), claim.term))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn node(n: u8) -> NodeId {
        format!("core-{n}").parse().unwrap()
    }

    fn any_claim() -> impl Strategy<Value = Claim> {
        (0u8..4, 0u32..6, 0u64..9, proptest::option::of(0u8..4)).prop_map(|(core, term, epoch, standby)| Claim {
            core: node(core),
            term: Term(term),
            epoch: Epoch(epoch),
            standby: standby.map(node),
        })
    }

    #[test]
    fn the_longest_names_fit_and_what_is_longer_or_later_is_refused() {
        let long: NodeId = "c".repeat(63).parse().unwrap();
        let claim =
            Claim { core: long.clone(), term: Term(u32::MAX), epoch: Epoch(u64::MAX), standby: Some(long.clone()) };
        let mut bytes = claim.encode().unwrap();
        assert_eq!(Claim::decode(&bytes), Ok(claim));
        bytes[1] = 1;
        assert!(Claim::decode(&bytes).is_err(), "version 2 is not known yet");
        let said = Claim::decode(&[1; MAX_CLAIM + 1]).unwrap_err().to_string();
        assert!(said.contains("257 bytes, at most 256"), "{said}");
        assert!(Claim::decode(b"").is_err() && Claim::decode(b"core-1").is_err());
    }

    proptest! {
        #[test]
        fn a_claim_is_read_as_it_was_written_and_any_bytes_are_one_or_an_error(
            claim in any_claim(),
            noise in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            prop_assert_eq!(Claim::decode(&claim.encode().unwrap()), Ok(claim));
            if let Ok(read) = Claim::decode(&noise) {
                prop_assert_eq!(Claim::decode(&read.encode().unwrap()), Ok(read));
            }
        }

        #[test]
        fn of_a_shared_claim_only_the_named_standby_takes_the_next_term(
            stands in any_claim(),
            me in 0u8..4,
            former in (0u8..4, 0u32..6),
            term in 0u32..6,
        ) {
            let former = (Some(node(former.0)), Term(former.1));
            let next = (Term(term), Epoch(3));
            let taken = take(Some(&stands), true, &node(me), (former.0.as_ref(), former.1), next);
            let called = stands.standby == Some(node(me)) && Some(&stands.core) == former.0.as_ref()
                && stands.term == former.1 && Term(term) > stands.term;
            let again = stands.core == node(me) && stands.term == Term(term);
            prop_assert_eq!(taken.is_ok(), called || again);
            if let Ok(claim) = taken {
                prop_assert!(claim.follows(&stands) && claim.core == node(me) && claim.standby.is_none());
            }
        }

        #[test]
        fn no_claim_goes_back(stands in any_claim(), me in 0u8..4, term in 0u32..6, shared: bool) {
            if let Ok(claim) = take(Some(&stands), shared, &node(me), (None, Term(0)), (Term(term), Epoch(0))) {
                prop_assert!(claim.follows(&stands));
            }
        }
    }
}
