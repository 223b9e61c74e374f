//! A hash chain: by it a node says that its report still stands, in six bytes that nobody else can make.
//!
//! Whoever signs a report signs the chain's end with it, and shows one link more for each period that the report
//! stands (Lamport, "Password authentication with insecure communication", CACM 24, 1981). A link leads to the ones
//! shown before it, never to those that come.

use bytes::{Buf, BufMut};
use rand::{RngExt, rngs::StdRng};

/// A link. To find one that has not been shown takes 2^48 hashes, for one refresh of one report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link([u8; Link::LENGTH]);

impl Link {
    pub(super) const LENGTH: usize = 6;

    /// The link that `count` steps more lead to.
    fn after(self, count: u16) -> Self {
        (0..count).fold(self, |link, _| {
            let digest = ring::digest::digest(&ring::digest::SHA256, &[b"nearfield link", &link.0[..]].concat());
            let mut next = [0; Self::LENGTH];
            next.iter_mut().zip(digest.as_ref()).for_each(|(to, byte)| *to = *byte);
            Self(next)
        })
    }

    /// Whether this link, shown `steps` after `earlier`, is of the same chain.
    pub(super) fn continues(self, earlier: Self, steps: u16) -> bool {
        steps <= Chain::LENGTH && self.after(steps) == earlier
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn put(self, buf: &mut impl BufMut) {
        buf.put_slice(&self.0);
    }

    pub(super) fn take(buf: &mut &[u8]) -> Option<Self> {
        let mut bytes = [0; Self::LENGTH];
        buf.try_copy_to_slice(&mut bytes).ok()?;
        Some(Self(bytes))
    }
}

/// All links of a chain, by its secret beginning.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chain(Link);

impl Chain {
    /// How many links there are to show: 42 minutes' worth.
    pub(super) const LENGTH: u16 = 255;

    pub(super) fn new(rng: &mut StdRng) -> Self {
        Self(Link(rng.random()))
    }

    /// The link to be shown `steps` after signing; with 0 the one that is signed.
    pub(super) fn link(self, steps: u16) -> Option<Link> {
        Some(self.0.after(Self::LENGTH.checked_sub(steps)?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn a_link_proves_the_steps_between_it_and_an_earlier_one_and_no_others() {
        let mut rng = StdRng::seed_from_u64(1);
        let (chain, other) = (Chain::new(&mut rng), Chain::new(&mut rng));
        let (end, fifth, last) = (chain.link(0).unwrap(), chain.link(5).unwrap(), chain.link(Chain::LENGTH).unwrap());
        assert!(fifth.continues(end, 5) && last.continues(fifth, Chain::LENGTH - 5));
        assert!(!fifth.continues(end, 4) && !end.continues(fifth, 5) && !other.link(5).unwrap().continues(end, 5));
        assert!(!last.continues(end, u16::MAX));
        assert_eq!(chain.link(Chain::LENGTH + 1), None);
    }
}
