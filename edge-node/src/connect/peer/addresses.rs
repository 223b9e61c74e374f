//! Our addresses on the way to a relay, and those of TURN servers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mesh::wire::cause::Cause;
use nix::ifaddrs::getifaddrs;
use tokio::net::UdpSocket;

use super::SERVER_DEADLINE;
use crate::{
    connect::{
        ConnectError, Settings,
        ice_server::{At, IceServer, MAX_SERVERS},
    },
    egress::Policy,
};

/// See [`with_others`].
const MAX_OTHERS: usize = 3;

/// The addresses to receive media on: `bind`, or, if that is empty or a wildcard, those this host reaches the relay from, one
/// of each family that its name has, IPv6 first (RFC 8421 section 4).
pub(in super::super) async fn local_addresses(
    settings: &Settings,
    relay: &reqwest::Url,
) -> Result<Vec<IpAddr>, ConnectError> {
    let bind = &settings.bind;
    // A wildcard is no address that a relay could be told.
    if !bind.is_empty() && !bind.iter().any(IpAddr::is_unspecified) {
        return Ok(bind.to_vec());
    }
    let host = relay.host_str().unwrap_or_default();
    let unreachable =
        |e: std::io::Error| ConnectError::Unreachable { cause: Cause::RelayUnreachable, why: format!("{host}: {e}") };
    let found = settings.egress.resolve(host, relay.port_or_known_default().unwrap_or(443)).await?;
    let (mut ours, mut failed) = (vec![], None);
    for family in [SocketAddr::is_ipv6, SocketAddr::is_ipv4] {
        let Some(to) = found.iter().find(|at| family(at)) else { continue };
        match towards(*to).await {
            Ok(ip) => ours.extend(with_others(ip, own_addresses())),
            Err(error) => failed = Some(error),
        }
    }
    match (ours.is_empty(), failed) {
        (false, _) => Ok(ours),
        (true, Some(error)) => Err(unreachable(error)),
        (true, None) => {
            Err(ConnectError::Unreachable { cause: Cause::DnsFailed, why: format!("{host} has no address") })
        }
    }
}

/// Where a relay on this host is to be reached from: few have media on loopback (Janus has none), so this host's other addresses
/// of the family go along with it, and [`MAX_OTHERS`] are enough.
fn with_others(ip: IpAddr, own: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let fit = |other: &IpAddr| match other {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    let own = own.filter(|other| ip.is_loopback() && other.is_ipv4() == ip.is_ipv4() && fit(other));
    std::iter::once(ip).chain(own.take(MAX_OTHERS)).collect()
}

/// This host's addresses on which media can be received; none where the system does not say.
fn own_addresses() -> impl Iterator<Item = IpAddr> {
    let all = getifaddrs().into_iter().flatten().filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|at| IpAddr::V4(at.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|at| IpAddr::V6(at.ip())))
    });
    all.filter(|ip| std::net::UdpSocket::bind((*ip, 0)).is_ok())
}

/// Our address on the way there.
async fn towards(to: SocketAddr) -> std::io::Result<IpAddr> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    // Sends nothing: the kernel only picks the route, and with it our address.
    socket.connect(to).await?;
    Ok(socket.local_addr()?.ip())
}

/// Those of the servers that can be used, with their addresses, each address once; those that a relay named within `egress`.
pub(super) async fn resolved<'a>(
    servers: &'a [IceServer],
    bind: &[IpAddr],
    egress: Option<&Policy>,
) -> Vec<(At, &'a IceServer)> {
    let usable = |at: &SocketAddr| bind.iter().any(|ours| ours.is_ipv4() == at.is_ipv4());
    let mut found: Vec<(At, &IceServer)> = vec![];
    for server in servers.iter().take(MAX_SERVERS) {
        let at = tokio::time::timeout(SERVER_DEADLINE, server.resolve(usable, egress)).await.ok().flatten();
        if let Some(at) = at.filter(|at| found.iter().all(|(other, _)| other.address != at.address)) {
            found.push((at, server));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn media_is_received_where_the_relay_is_reached_from() {
        let url = |text: &str| reqwest::Url::parse(text).unwrap();
        let bound = |bind: &[IpAddr]| Settings { bind: bind.to_vec(), ..Settings::on_loopback() };
        let local = local_addresses(&bound(&[]), &url("ws://127.0.0.1:8188/")).await.unwrap();
        assert_eq!(local, with_others(Ipv4Addr::LOCALHOST.into(), own_addresses()));
        let given = [IpAddr::from([10, 0, 0, 1])];
        assert_eq!(local_addresses(&bound(&given), &url("ws://127.0.0.1:1/")).await.unwrap(), given);
        let any = [IpAddr::from(Ipv4Addr::UNSPECIFIED)];
        assert_eq!(local_addresses(&bound(&any), &url("ws://127.0.0.1:1/")).await.unwrap(), local);
    }

    #[test]
    fn a_relay_on_this_host_is_told_addresses_beside_loopback_and_any_other_only_the_one_on_the_way() {
        let own = ["127.0.0.1", "169.254.1.1", "10.0.0.2", "fe80::1", "fd00::2", "10.0.0.3", "10.0.0.4", "10.0.0.5"];
        let with = |ip: &str| {
            let all = with_others(ip.parse().unwrap(), own.iter().map(|ip| ip.parse().unwrap()));
            all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(with("127.0.0.1"), ["127.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]);
        assert_eq!(with("::1"), ["::1", "fd00::2"]);
        assert_eq!(with("10.0.0.3"), ["10.0.0.3"]);
    }

    #[tokio::test]
    async fn servers_that_a_relay_names_are_within_the_bounds_and_our_own_need_not_be() {
        let server = |url: &str| IceServer {
            url: url.into(),
            username: "u".into(),
            credential: mesh::wire::request::Secret("p".into()),
        };
        let servers =
            ["turn:10.0.0.5", "turn:localhost:10?transport=tcp", "turn:127.0.0.1:9", "turn:1.1.1.1"].map(server);
        let bind = [IpAddr::from(Ipv4Addr::LOCALHOST)];
        let urls =
            |found: Vec<(At, &IceServer)>| found.iter().map(|(_, server)| server.url.clone()).collect::<Vec<_>>();
        assert_eq!(urls(resolved(&servers, &bind, Some(&Policy::default())).await), ["turn:1.1.1.1"]);
        assert_eq!(resolved(&servers, &bind, None).await.len(), 4);
    }
}
