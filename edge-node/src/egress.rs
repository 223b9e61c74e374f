//! Where this edge may be sent by others: by a meeting's URL, a redirect, a relay's candidates, what answers a probe.
//!
//! Whoever may ask for a meeting, and every relay, names addresses that this edge then speaks to. None of them may be inside:
//! [`Policy`] says which are, by the IANA registries of special-purpose addresses (RFC 6890), and `[egress] allow` makes
//! exceptions. What counts is the address, after the name has been resolved, and it is that address which is spoken to: a name
//! that says something else the next time changes nothing. What the operator configured (TURN servers, cores) is not asked about.

mod resolve;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

pub use resolve::{Checked, NoAddress};

/// Ranges of `allow`, at most.
pub const MAX_ALLOWED: usize = 256;

/// What of IPv4 is not public, and why.
const INSIDE_V4: [(Ipv4Net, &str); 19] = [
    (v4([0, 0, 0, 0], 8), "an unspecified"),
    (v4([10, 0, 0, 0], 8), "a private"),
    (v4([100, 64, 0, 0], 10), "a carrier's private"),
    (v4([127, 0, 0, 0], 8), "a loopback"),
    // Azure's platform answers to its guests here.
    (v4([168, 63, 129, 16], 32), "a cloud platform's own"),
    (v4([169, 254, 0, 0], 16), "a link-local"),
    (v4([172, 16, 0, 0], 12), "a private"),
    (v4([192, 0, 0, 0], 24), "a special-purpose"),
    (v4([192, 0, 2, 0], 24), "a documentation"),
    (v4([192, 31, 196, 0], 24), "a special-purpose"),
    (v4([192, 52, 193, 0], 24), "a special-purpose"),
    (v4([192, 88, 99, 0], 24), "a special-purpose"),
    (v4([192, 168, 0, 0], 16), "a private"),
    (v4([192, 175, 48, 0], 24), "a special-purpose"),
    (v4([198, 18, 0, 0], 15), "a benchmarking"),
    (v4([198, 51, 100, 0], 24), "a documentation"),
    (v4([203, 0, 113, 0], 24), "a documentation"),
    (v4([224, 0, 0, 0], 4), "a multicast"),
    (v4([240, 0, 0, 0], 4), "a reserved"),
];

/// The same of IPv6; what is not in [`GLOBAL_V6`] is not public either.
const INSIDE_V6: [(Ipv6Net, &str); 11] = [
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 128), "an unspecified"),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), "a loopback"),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), "a private"),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), "a link-local"),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), "a multicast"),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), "a documentation"),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), "a documentation"),
    // Teredo, ORCHID, anycast of protocols.
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), "a special-purpose"),
    // 6to4: an IPv4 address is in it, and nobody routes it any more (RFC 7526).
    (v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), "a special-purpose"),
    (v6([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48), "a special-purpose"),
    (v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), "a private"),
];

/// What is given out of IPv6 (RFC 4291 section 2.4).
const GLOBAL_V6: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// IPv4 behind a NAT64 (RFC 6052 section 2.1): the last 32 bits say where it leads.
const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96);

const fn v4([a, b, c, d]: [u8; 4], length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), length)
}

/// Which addresses this edge may be sent to. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    allow: Arc<[IpNet]>,
    /// Nothing but what is in `allow`.
    no_public: bool,
}

/// An address that this edge is not sent to. The address itself is not told: what a name inside stands for is not for
/// whoever asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{host} is at {range} address, to which this edge does not go; its operator may allow it ([egress] allow)")]
pub struct Denied {
    /// What was named: a host, or a part of a description.
    pub host: String,
    /// What kind of address, with its article.
    pub range: &'static str,
}

impl Policy {
    /// Public addresses, and these.
    pub fn new(allow: &[IpNet]) -> Self {
        Self { allow: allow.into(), no_public: false }
    }

    /// Public addresses, and this host's own: for tests and benches that run on one machine.
    pub fn with_loopback() -> Self {
        Self::new(&[v4([127, 0, 0, 0], 8).into(), v6([0, 0, 0, 0, 0, 0, 0, 1], 128).into()])
    }

    /// Of these, what the operator has named: for what is not to cross a network in the clear unless it is theirs.
    #[must_use]
    pub fn without_public(&self) -> Self {
        Self { allow: Arc::clone(&self.allow), no_public: true }
    }

    /// Whether this edge may be sent there.
    ///
    /// # Errors
    /// It may not: which kind of address it is.
    pub fn check(&self, ip: IpAddr) -> Result<(), &'static str> {
        let leads_to = leads_to(ip);
        if self.allow.iter().any(|net| net.contains(&ip) || net.contains(&leads_to)) {
            return Ok(());
        }
        match inside(leads_to) {
            None if self.no_public => Err("(without TLS) a public"),
            None => Ok(()),
            Some(range) => Err(range),
        }
    }

    /// As [`Policy::check`], of what `host` stands for.
    ///
    /// # Errors
    /// It may not.
    pub fn admit(&self, host: &str, ip: IpAddr) -> Result<(), Denied> {
        self.check(ip).map_err(|range| {
            metrics::counter!("nearfield_edge_egress_denied_total").increment(1);
            tracing::debug!(host, %ip, "an address that others named is not gone to");
            Denied { host: host.chars().filter(|c| !c.is_control()).take(255).collect(), range }
        })
    }
}

/// Where packets to it end up.
fn leads_to(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) if NAT64.contains(&v6) => {
            let [.., a, b, c, d] = v6.octets();
            Ipv4Addr::new(a, b, c, d).into()
        }
        other => other,
    }
}

fn inside(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => INSIDE_V4.iter().find(|(net, _)| net.contains(&ip)).map(|(_, range)| *range),
        IpAddr::V6(ip) => {
            let named = INSIDE_V6.iter().find(|(net, _)| net.contains(&ip)).map(|(_, range)| *range);
            named.or_else(|| (!GLOBAL_V6.contains(&ip)).then_some("a reserved"))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn nothing_inside_is_reached_in_whatever_way_it_is_written() {
        let inside = "0.0.0.0 0.1.2.3 10.0.0.5 100.64.0.1 100.100.100.200 127.0.0.1 127.255.255.254 168.63.129.16 \
            169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.192 192.0.2.1 192.168.1.1 198.18.0.1 198.51.100.7 203.0.113.9 \
            224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 :: ::1 ::10.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 \
            64:ff9b::10.0.0.1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 fc00::1 fd00:ec2::254 fe80::1 ff02::1 2001:db8::1 2001::1 \
            2002:a00:1:: 3fff::1 100::1 5f00::1 4000::1";
        for text in inside.split_whitespace() {
            assert!(Policy::default().check(ip(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_public_is_reached() {
        let public = "1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1 168.63.129.17 \
            172.15.255.255 172.32.0.0 192.167.255.255 192.169.0.0 223.255.255.255 ::ffff:1.1.1.1 64:ff9b::8.8.8.8 2606:4700::1111 \
            2a00:1450::1 2003::1 2001:200::1";
        for text in public.split_whitespace() {
            assert_eq!(Policy::default().check(ip(text)), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_the_operator_allows_is_reached_and_nothing_beside_it() {
        let policy = Policy::new(&["10.1.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap()]);
        for text in ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "fd00::9", "1.1.1.1"] {
            assert_eq!(policy.check(ip(text)), Ok(()), "{text}");
        }
        for text in ["10.2.0.1", "fd00:0:0:1::1", "127.0.0.1", "::1"] {
            assert!(policy.check(ip(text)).is_err(), "{text}");
        }
        let denied = policy.admit("db.corp.example", ip("10.2.0.1")).unwrap_err().to_string();
        assert!(denied.starts_with("db.corp.example is at a private address") && !denied.contains("10.2"), "{denied}");
    }

    proptest! {
        #[test]
        fn wrapped_in_ipv6_an_address_is_judged_as_it_is(bits: u32) {
            let plain = Ipv4Addr::from(bits);
            let nat64 = Ipv6Addr::from(u128::from(NAT64.addr()) | u128::from(bits));
            let verdict = Policy::default().check(plain.into());
            prop_assert_eq!(verdict, Policy::default().check(plain.to_ipv6_mapped().into()));
            prop_assert_eq!(verdict, Policy::default().check(nat64.into()));
        }
    }
}
