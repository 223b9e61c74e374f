//! What an operator chooses about the zone.

use std::{net::IpAddr, str::FromStr, time::Duration};

use hickory_proto::rr::{Name, rdata::SOA};

use super::{Zone, below};
use crate::{
    address::{Unfit, told_ip},
    client::{Clients, Network, TooManyNetworks},
    latency::LatencyModel,
    map::RegionMap,
    region::RegionId,
};

/// Name servers that one zone may list: more would not fit a referral.
const MAX_NAME_SERVERS: usize = 8;

/// The longest domain, in bytes of text: leaves room for `<node>.<region>.node.` before it within the 253 that
/// a name may have.
const MAX_DOMAIN: usize = 140;

/// A name server of the zone: a host right below the domain. Written `ns1=192.0.2.53`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameServer {
    /// One label: `ns1` for `ns1.<domain>`.
    pub label: String,
    /// Its address.
    pub ip: IpAddr,
}

/// What an operator chooses about the zone.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The domain that the parent zone delegates here. At most 140 bytes. Default `mesh.nearfield.internal`
    /// (`internal` is reserved for private use, so nobody's real name is ever answered by accident).
    pub domain: String,
    /// The name servers that the parent zone lists for it; the first is the SOA's primary. 1 to 8; default one,
    /// `ns=127.0.0.1`.
    pub name_servers: Vec<NameServer>,
    /// How long a resolver may keep the answer of nearest edges, and that there is none: 1 s to 1 h, whole seconds.
    /// Default 5 s: about as long as the mesh takes to hold a dead node dead, so caches do not double the time to
    /// recover. Longer saves questions and costs callers that dial the dead.
    pub edges_ttl: Duration,
    /// The same for seeds and single nodes: 1 s to 1 h. Default 30 s: a newcomer tries several seeds anyway.
    pub seeds_ttl: Duration,
    /// Edges in one answer: 2 to 16, the last from a second region where there is one. Default 4.
    pub edges_per_answer: usize,
    /// Where callers are taken to be whose network is not listed. Default `us-east`, an arbitrary choice: set it to
    /// where most callers are.
    pub default_region: RegionId,
    /// Which networks are in which region. Default none.
    pub client_networks: Vec<Network>,
    /// The regions and their distances. Default: the built-in table.
    pub regions: RegionMap,
}

/// Why settings are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSettings {
    /// Not a domain.
    #[error(
        "domain `{domain}`: {why}; allowed is a DNS name of at most {MAX_DOMAIN} bytes, such as `mesh.example.com`"
    )]
    Domain {
        /// What was given.
        domain: String,
        /// What is wrong with it.
        why: String,
    },
    /// Not a name server.
    #[error("name server `{0}`: expected LABEL=ADDRESS, such as `ns1=192.0.2.53`")]
    NameServer(String),
    /// A name server that nobody reaches.
    #[error("name server `{0}`: {1}")]
    NameServerAddress(String, Unfit),
    /// None, or more than can be listed.
    #[error("{0} name servers: 1 to {MAX_NAME_SERVERS} are allowed")]
    NameServers(usize),
    /// A TTL out of range.
    #[error("{name} is {given:?}: allowed are 1 s to 1 h")]
    Ttl {
        /// Which.
        name: &'static str,
        /// What was given.
        given: Duration,
    },
    /// Edges per answer out of range.
    #[error("edges_per_answer is {0}: allowed are 2 to 16")]
    EdgesPerAnswer(usize),
    /// A region that no table knows cannot be near to anything.
    #[error("default_region `{0}` is not in the region table")]
    DefaultRegion(RegionId),
    /// Too many networks.
    #[error(transparent)]
    Networks(#[from] TooManyNetworks),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            domain: "mesh.nearfield.internal".into(),
            name_servers: vec![NameServer { label: "ns".into(), ip: IpAddr::from([127, 0, 0, 1]) }],
            edges_ttl: Duration::from_secs(5),
            seeds_ttl: Duration::from_secs(30),
            edges_per_answer: 4,
            default_region: "us-east".parse().expect("a region of the built-in table: a test looks it up"),
            client_networks: Vec::new(),
            regions: RegionMap::built_in(),
        }
    }
}

impl FromStr for NameServer {
    type Err = BadSettings;

    fn from_str(text: &str) -> Result<Self, BadSettings> {
        let bad = || BadSettings::NameServer(text.chars().take(128).collect());
        let (label, ip) = text.split_once('=').ok_or_else(bad)?;
        let ip = ip.trim().parse().map_err(|_| bad())?;
        let ip = told_ip(ip).map_err(|why| BadSettings::NameServerAddress(text.chars().take(128).collect(), why))?;
        Ok(Self { label: label.trim().to_owned(), ip })
    }
}

impl Zone {
    /// A zone of these settings.
    ///
    /// # Errors
    /// A setting is outside the range it documents.
    pub fn new(settings: Settings) -> Result<Self, BadSettings> {
        if !(2..=16).contains(&settings.edges_per_answer) {
            return Err(BadSettings::EdgesPerAnswer(settings.edges_per_answer));
        }
        if settings.regions.region(&settings.default_region).is_none() {
            return Err(BadSettings::DefaultRegion(settings.default_region));
        }
        let domain = domain(&settings.domain)?;
        let name_servers = name_servers(settings.name_servers, &domain)?;
        let edges_ttl_s = ttl_s("edges_ttl", settings.edges_ttl)?;
        Ok(Self {
            soa: soa(&domain, &name_servers[0].0, edges_ttl_s),
            domain,
            name_servers,
            latency: LatencyModel::new(settings.regions),
            clients: Clients::new(settings.client_networks, settings.default_region)?,
            edges_ttl_s,
            seeds_ttl_s: ttl_s("seeds_ttl", settings.seeds_ttl)?,
            edges_per_answer: settings.edges_per_answer,
        })
    }
}

fn domain(text: &str) -> Result<Name, BadSettings> {
    let bad = |why: String| BadSettings::Domain { domain: text.chars().take(256).collect(), why };
    if text.len() > MAX_DOMAIN {
        return Err(bad(format!("it has {} bytes", text.len())));
    }
    let mut name = Name::from_ascii(text).map_err(|error| bad(error.to_string()))?;
    if name.is_root() {
        return Err(bad("it is empty".into()));
    }
    name.set_fqdn(true);
    Ok(name.to_lowercase())
}

/// The serial never rises: nobody can transfer this zone, so nobody compares it.
fn soa(domain: &Name, primary: &Name, negative_ttl_s: u32) -> SOA {
    let mailbox = below(domain, &["hostmaster"]).unwrap_or_else(|| domain.clone());
    SOA::new(primary.clone(), mailbox, 1, 3600, 600, 86400, negative_ttl_s)
}

fn name_servers(servers: Vec<NameServer>, domain: &Name) -> Result<Vec<(Name, IpAddr)>, BadSettings> {
    if !(1..=MAX_NAME_SERVERS).contains(&servers.len()) {
        return Err(BadSettings::NameServers(servers.len()));
    }
    servers.into_iter().map(|server| checked(server, domain)).collect()
}

/// A label is held to a host name's letters, and may not hide one of the zone's own names.
fn checked(NameServer { label, ip }: NameServer, domain: &Name) -> Result<(Name, IpAddr), BadSettings> {
    let plain = label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let ours = label.is_empty() || matches!(label.as_str(), "edge" | "node");
    let name = below(domain, &[&label]).filter(|_| plain && !ours);
    Ok((name.ok_or_else(|| BadSettings::NameServer(format!("{label}={ip}")))?, ip))
}

fn ttl_s(name: &'static str, given: Duration) -> Result<u32, BadSettings> {
    let range = Duration::from_secs(1)..=Duration::from_secs(3600);
    if range.contains(&given) { Ok(given.as_secs() as u32) } else { Err(BadSettings::Ttl { name, given }) }
}
