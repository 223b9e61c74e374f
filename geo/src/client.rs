//! Which region a caller is in, by the network its resolver asks from.

use std::{net::IpAddr, str::FromStr};

use ipnet::IpNet;

use crate::region::RegionId;

/// The most networks a list may hold. Every question walks the list: at this length, some 20 us.
pub const MAX_NETWORKS: usize = 4096;

/// A network and the region its hosts are in, written `192.0.2.0/24=eu-central`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The network.
    pub prefix: IpNet,
    /// Where it is.
    pub region: RegionId,
}

/// Why a text is not a [`Network`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a network and its region, such as `192.0.2.0/24=eu-central`")]
pub struct BadNetwork(String);

/// Networks, the most specific first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clients {
    networks: Vec<Network>,
    elsewhere: RegionId,
}

/// A list of networks longer than [`MAX_NETWORKS`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} client networks: at most {MAX_NETWORKS} are allowed")]
pub struct TooManyNetworks(usize);

impl Clients {
    /// Callers in `networks`; any other is taken to be in the region `elsewhere`.
    ///
    /// # Errors
    /// More than [`MAX_NETWORKS`].
    pub fn new(mut networks: Vec<Network>, elsewhere: RegionId) -> Result<Self, TooManyNetworks> {
        if networks.len() > MAX_NETWORKS {
            return Err(TooManyNetworks(networks.len()));
        }
        networks.sort_by_key(|network| std::cmp::Reverse(network.prefix.prefix_len()));
        Ok(Self { networks, elsewhere })
    }

    /// The region of the longest network that holds `address`.
    pub fn region(&self, address: IpAddr) -> &RegionId {
        // A dual-stack socket shows IPv4 callers as ::ffff:a.b.c.d.
        let address = address.to_canonical();
        let found = self.networks.iter().find(|network| network.prefix.contains(&address));
        found.map_or(&self.elsewhere, |network| &network.region)
    }
}

impl FromStr for Network {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        let bad = || BadNetwork(text.chars().take(128).collect());
        let (prefix, region) = text.split_once('=').ok_or_else(bad)?;
        let prefix = prefix.trim().parse().map_err(|_| bad())?;
        let region = region.trim().parse().map_err(|_| bad())?;
        Ok(Self { prefix, region })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(networks: &[&str]) -> Clients {
        let networks = networks.iter().map(|text| text.parse().unwrap()).collect();
        Clients::new(networks, "us-east".parse().unwrap()).unwrap()
    }

    #[test]
    fn the_most_specific_network_decides_in_whatever_order_they_are_listed() {
        let clients = clients(&["10.0.0.0/8=eu-central", "10.7.0.0/16=ap-northeast", "2001:db8::/32=uk-south"]);
        let region = |address: &str| clients.region(address.parse().unwrap()).as_str().to_owned();
        assert_eq!(region("10.1.2.3"), "eu-central");
        assert_eq!(region("10.7.2.3"), "ap-northeast");
        assert_eq!(region("::ffff:10.7.2.3"), "ap-northeast");
        assert_eq!(region("2001:db8::1"), "uk-south");
        assert_eq!(region("198.51.100.1"), "us-east");
    }

    #[test]
    fn a_bad_network_is_named_in_the_error() {
        for text in ["10.0.0.0/8", "10.0.0.0/40=eu-central", "10.0.0.0/8=Europe", "=eu-central", ""] {
            assert!(text.parse::<Network>().unwrap_err().to_string().contains(&format!("`{text}`")));
        }
    }

    #[test]
    fn a_list_without_end_is_refused() {
        let network: Network = "10.0.0.0/8=eu-central".parse().unwrap();
        assert!(Clients::new(vec![network; MAX_NETWORKS + 1], "us-east".parse().unwrap()).is_err());
    }
}
