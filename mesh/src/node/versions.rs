//! Nodes with which this one has no wire version in common: told once of each.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Shared, lock};
use crate::transport::HandshakeError;

/// The most addresses that are told of. Anyone who can reach the port can cause it: the counter has the rest.
const MOST: usize = 64;

/// Addresses that were told of.
#[derive(Debug, Default)]
pub(super) struct Told(BTreeSet<IpAddr>);

impl Told {
    /// Whether `ip` is to be told of.
    fn note(&mut self, ip: IpAddr) -> bool {
        self.0.len() < MOST && self.0.insert(ip.to_canonical())
    }
}

/// A handshake with `ip` has failed.
pub(super) fn note(shared: &Shared, ip: IpAddr, error: &HandshakeError) {
    if matches!(error, HandshakeError::Version { .. }) && lock(&shared.versions).note(ip) {
        tracing::warn!(%ip, "{error}");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn each_address_is_told_of_once_and_strangers_cannot_fill_the_log() {
        let mut told = Told::default();
        let one: IpAddr = "192.0.2.1".parse().unwrap();
        assert!(told.note(one) && !told.note(one) && !told.note("::ffff:192.0.2.1".parse().unwrap()));
        let many = (0..1000u32).filter(|n| told.note(IpAddr::V4((*n).into())));
        assert_eq!(many.count(), MOST - 1);
    }
}
