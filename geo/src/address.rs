//! Addresses that are told to others: what they can do nothing with is refused, and there is one way to write each.

use std::net::{IpAddr, SocketAddr};

/// Why an address cannot be told to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// `0.0.0.0` or `::`.
    #[error("an unspecified address is for listening only: say at which address others reach this machine")]
    Unspecified,
    /// It names a group.
    #[error("a multicast or broadcast address is no single machine's: say at which address others reach this one")]
    Group,
    /// IPv6, of one link, with or without its zone.
    #[error("a link-local address, or one with a zone, means something else on every machine: use a routable one")]
    LinkLocal,
    /// What listens does not take that family.
    #[error(
        "what listens on {listen} cannot be reached by {family}: both must be of one family, or the listener `[::]`"
    )]
    Family {
        /// Where it listens.
        listen: IpAddr,
        /// `IPv4` or `IPv6`.
        family: &'static str,
    },
}

/// `ip` as it is told: an IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2) becomes the IPv4 address that it is.
///
/// # Errors
/// Others could do nothing with it.
pub fn told_ip(ip: IpAddr) -> Result<IpAddr, Unfit> {
    let ip = ip.to_canonical();
    let (group, link) = match ip {
        IpAddr::V4(ip) => (ip.is_multicast() || ip.is_broadcast(), false),
        IpAddr::V6(ip) => (ip.is_multicast(), ip.is_unicast_link_local()),
    };
    match ip {
        ip if ip.is_unspecified() => Err(Unfit::Unspecified),
        _ if group => Err(Unfit::Group),
        _ if link => Err(Unfit::LinkLocal),
        ip => Ok(ip),
    }
}

/// The same with its port.
///
/// # Errors
/// As [`told_ip`], and where it has a zone (RFC 4007).
pub fn told(addr: SocketAddr) -> Result<SocketAddr, Unfit> {
    match addr {
        SocketAddr::V6(addr) if addr.scope_id() != 0 => Err(Unfit::LinkLocal),
        addr => Ok(SocketAddr::new(told_ip(addr.ip())?, addr.port())),
    }
}

/// The same of an address by which others are to reach what listens on `listen`.
///
/// # Errors
/// As [`told`], and where the listener cannot be reached by that family.
pub fn told_of(listen: SocketAddr, addr: SocketAddr) -> Result<SocketAddr, Unfit> {
    let (told, listen) = (told(addr)?, listen.ip());
    // A listener on `::` takes both, as Linux has it by default.
    let both = listen.is_ipv6() && listen.is_unspecified();
    if both || told.is_ipv4() == listen.to_canonical().is_ipv4() {
        return Ok(told);
    }
    Err(Unfit::Family { listen, family: if told.is_ipv4() { "IPv4" } else { "IPv6" } })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn of(listen: &str, addr: &str) -> Result<String, Unfit> {
        told_of(listen.parse().unwrap(), addr.parse().unwrap()).map(|addr| addr.to_string())
    }

    #[test]
    fn what_others_can_reach_is_told_in_one_way() {
        for (listen, addr, told) in [
            ("0.0.0.0:1", "192.0.2.1:1", "192.0.2.1:1"),
            ("0.0.0.0:1", "[::ffff:192.0.2.1]:1", "192.0.2.1:1"),
            ("[::ffff:192.0.2.1]:1", "192.0.2.1:1", "192.0.2.1:1"),
            ("[::]:1", "192.0.2.1:1", "192.0.2.1:1"),
            ("[::]:1", "[2001:db8::1]:1", "[2001:db8::1]:1"),
            ("127.0.0.1:1", "127.0.0.1:1", "127.0.0.1:1"),
            ("127.0.0.1:1", "10.0.0.1:1", "10.0.0.1:1"),
        ] {
            assert_eq!(of(listen, addr).as_deref(), Ok(told), "{listen} {addr}");
        }
    }

    #[test]
    fn what_leads_nowhere_is_refused() {
        let family = |listen: &str, family| Unfit::Family { listen: listen.parse().unwrap(), family };
        for (listen, addr, why) in [
            ("0.0.0.0:1", "0.0.0.0:1", Unfit::Unspecified),
            ("[::]:1", "[::]:1", Unfit::Unspecified),
            ("[::]:1", "[::ffff:0.0.0.0]:1", Unfit::Unspecified),
            ("0.0.0.0:1", "224.0.0.1:1", Unfit::Group),
            ("0.0.0.0:1", "255.255.255.255:1", Unfit::Group),
            ("[::]:1", "[ff02::1]:1", Unfit::Group),
            ("[::]:1", "[::ffff:224.0.0.1]:1", Unfit::Group),
            ("[::]:1", "[fe80::1]:1", Unfit::LinkLocal),
            ("[::]:1", "[fe80::1%2]:1", Unfit::LinkLocal),
            ("[::]:1", "[2001:db8::1%2]:1", Unfit::LinkLocal),
            ("0.0.0.0:1", "[2001:db8::1]:1", family("0.0.0.0", "IPv6")),
            ("[2001:db8::1]:1", "192.0.2.1:1", family("2001:db8::1", "IPv4")),
        ] {
            assert_eq!(of(listen, addr), Err(why), "{listen} {addr}");
        }
    }
}
