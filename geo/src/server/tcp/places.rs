//! The connections there are, and which of them makes room.

use std::{collections::BTreeMap, net::IpAddr};

/// Places for `most` connections; `T` is what ends one.
#[derive(Debug)]
pub(super) struct Places<T> {
    most: usize,
    /// Oldest first.
    taken: Vec<(IpAddr, T)>,
}

impl<T> Places<T> {
    pub(super) fn new(most: usize) -> Self {
        Self { most, taken: vec![] }
    }

    pub(super) fn len(&self) -> usize {
        self.taken.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.taken.len() >= self.most
    }

    /// One more connection from `ip`.
    pub(super) fn take(&mut self, ip: IpAddr, ends: T) {
        self.taken.push((customer(ip), ends));
    }

    /// It has ended.
    pub(super) fn leave(&mut self, is: impl Fn(&T) -> bool) {
        self.taken.retain(|(_, ends)| !is(ends));
    }

    /// The one to be closed for another, of `newcomer` if that is given: the oldest of the address that then has the most.
    pub(super) fn give_up(&mut self, newcomer: Option<IpAddr>) -> Option<T> {
        let mut held = BTreeMap::<IpAddr, usize>::new();
        for ip in self.taken.iter().map(|(ip, _)| *ip).chain(newcomer.map(customer)) {
            *held.entry(ip).or_default() += 1;
        }
        let most = self.taken.iter().map(|(ip, _)| held.get(ip)).max()?;
        let oldest = self.taken.iter().position(|(ip, _)| held.get(ip) == most)?;
        Some(self.taken.remove(oldest).1)
    }
}

/// What one customer has: an address, or with IPv6 a /64.
fn customer(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() >> 64 << 64).into()),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn the_oldest_of_whoever_holds_the_most_makes_room() {
        let mut places = Places::new(4);
        [(1, 'a'), (2, 'b'), (2, 'c'), (3, 'd')].iter().for_each(|(last, name)| places.take(ip(*last), *name));
        assert!(places.is_full());
        assert_eq!(places.give_up(Some(ip(4))), Some('b'));
        assert_eq!(places.give_up(Some(ip(3))), Some('d'), "a newcomer gives up its own before it is the greediest");
        places.leave(|name| *name == 'a');
        assert_eq!((places.give_up(None), places.give_up(None), places.len()), (Some('c'), None, 0));
    }

    #[test]
    fn a_network_of_ipv6_is_one_customer() {
        let mut places = Places::new(3);
        places.take(ip(1), 'a');
        ["2001:db8::1", "2001:db8::2"].iter().for_each(|ip| places.take(ip.parse().unwrap(), 'b'));
        assert_eq!(places.give_up(Some(ip(2))), Some('b'));
    }
}
