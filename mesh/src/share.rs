//! Fair shares of a number of places: whoever holds the most gives way first.

use std::{borrow::Borrow, collections::BTreeMap, net::IpAddr};

/// Whose a place is: an IPv4 address, or the /64 of an IPv6 address, which is what one customer of a provider has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address(IpAddr);

impl Address {
    /// The one that `ip` counts to.
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V6(ip) => Self(IpAddr::V6((ip.to_bits() >> 64 << 64).into())),
            ip => Self(ip),
        }
    }
}

/// How many places each holder has.
#[derive(Debug)]
pub struct Shares<W = Address> {
    held: BTreeMap<W, usize>,
}

impl<W> Default for Shares<W> {
    fn default() -> Self {
        Self { held: BTreeMap::new() }
    }
}

impl<W: Ord> FromIterator<W> for Shares<W> {
    fn from_iter<I: IntoIterator<Item = W>>(holders: I) -> Self {
        let mut shares = Self::default();
        holders.into_iter().for_each(|who| shares.take(who));
        shares
    }
}

impl<W: Ord> Shares<W> {
    /// How many `who` holds.
    pub fn of(&self, who: &W) -> usize {
        self.held.get(who).copied().unwrap_or(0)
    }

    /// One more.
    pub fn take(&mut self, who: W) {
        *self.held.entry(who).or_default() += 1;
    }

    /// One less.
    pub fn give_back(&mut self, who: &W) {
        if let Some(held) = self.held.get_mut(who) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(who);
            }
        }
    }

    /// Which of `places` gives way to a newcomer of `who`: of those whose holder has at least `more` places more
    /// than the newcomer's, one of the holder with the most, and of its places the first in order of `T`.
    pub fn gives_way<K: Copy, B: Borrow<W>, T: Ord>(
        &self,
        who: &W,
        more: usize,
        places: impl Iterator<Item = (K, B, T)>,
    ) -> Option<K> {
        let least = self.of(who) + more;
        let places = places.map(|(id, held_by, order)| (id, std::cmp::Reverse(self.of(held_by.borrow())), order));
        let first = places.filter(|(_, held, _)| held.0 >= least).min_by(|a, b| (a.1, &a.2).cmp(&(b.1, &b.2)));
        first.map(|(id, ..)| id)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn address(text: &str) -> Address {
        Address::of(text.parse().unwrap())
    }

    #[test]
    fn an_address_is_what_one_customer_has() {
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:1"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
        assert_ne!(address("192.0.2.1"), address("192.0.2.2"));
    }

    #[test]
    fn who_holds_the_most_gives_way_with_the_first_of_its_places() {
        let (greedy, other, newcomer) = (address("192.0.2.1"), address("192.0.2.2"), address("192.0.2.3"));
        let mut shares = Shares::default();
        let places = [(1, other, 0), (2, greedy, 9), (3, greedy, 4), (4, greedy, 7)];
        places.iter().for_each(|(_, address, _)| shares.take(*address));
        assert_eq!(shares.gives_way(&newcomer, 2, places.into_iter()), Some(3));
        assert_eq!(shares.gives_way(&other, 2, places.into_iter()), Some(3));
        assert_eq!(shares.gives_way(&greedy, 2, places.into_iter()), None, "not to itself");
        assert_eq!(shares.gives_way(&greedy, 0, places.into_iter()), Some(3));
        shares.give_back(&greedy);
        shares.give_back(&greedy);
        assert_eq!(shares.gives_way(&newcomer, 2, places.into_iter()), None, "equal shares stay");
    }
}
