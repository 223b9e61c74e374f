//! The sections every program has.

use std::{net::SocketAddr, path::PathBuf};

use geo::{RegionId, address::told_of};
use serde::Deserialize;

use super::{Checks, Reach};
use crate::{
    http,
    identity::{
        Identity, NodeId, Role,
        certs::{CertError, CertPaths, Credentials},
    },
    membership, node, seeds,
    tasks::Tasks,
    telemetry,
};

/// `[node]`: who this is. Must agree with the certificate.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSection {
    /// The node's name, stable over restarts.
    pub id: NodeId,
    /// The region it runs in.
    pub region: RegionId,
}

/// `[mesh]`: how it reaches the others.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeshSection {
    /// The UDP address to listen on.
    pub listen: SocketAddr,
    /// The address at which other nodes reach it; if absent, `listen`, which then must be a real one.
    pub advertise: Option<SocketAddr>,
    /// First peers, `host:port` each.
    #[serde(default)]
    pub seeds: Vec<String>,
    /// A file of first peers, one `host:port` a line.
    pub seeds_file: Option<PathBuf>,
    /// The domain whose SRV records `_nearfield._udp.<domain>` name first peers.
    pub dns_domain: Option<String>,
    /// The DNS servers to ask for all of these, `address:port` each; none: the system's.
    #[serde(default)]
    pub dns_servers: Vec<SocketAddr>,
}

/// `[tls]`: PEM files, paths relative to the working directory.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsSection {
    /// The certificates of the authorities that are trusted.
    pub ca: PathBuf,
    /// The node's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// What the authorities have revoked (X.509 CRLs); absent: nothing.
    pub crl: Option<PathBuf>,
    /// The trust domain all nodes of this mesh have in their certificates.
    pub trust_domain: String,
}

/// `[log]`: what is written to standard error.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    /// `human` or `json`.
    pub format: LogFormat,
    /// What to write, in `tracing`'s syntax: `info`, `info,mesh=debug`.
    pub filter: String,
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For reading.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// `[http]`: where health, metrics and the API, if the program has one, are served.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSection {
    /// The TCP address to listen on.
    pub listen: SocketAddr,
    /// Connections at a time, 8 to 1,000,000.
    #[serde(default = "connections")]
    pub connections: usize,
    /// Of those, from one address, 1 to 1,000,000.
    #[serde(default = "per_address")]
    pub connections_per_address: usize,
}

fn connections() -> usize {
    http::Limits::default().connections
}

fn per_address() -> usize {
    http::Limits::default().per_address
}

impl HttpSection {
    /// How many connections there may be.
    fn limits(&self, checks: &mut Checks<'_>) -> http::Limits {
        checks.range("http.connections", self.connections, 8..=1_000_000);
        checks.range("http.connections_per_address", self.connections_per_address, 1..=1_000_000);
        http::Limits { connections: self.connections, per_address: self.connections_per_address }
    }
}

impl Default for LogSection {
    fn default() -> Self {
        Self { format: LogFormat::Human, filter: "info".into() }
    }
}

/// These sections of one program's configuration.
#[derive(Debug, Clone, Copy)]
pub struct Common<'a> {
    /// `[node]`
    pub node: &'a NodeSection,
    /// `[mesh]`
    pub mesh: &'a MeshSection,
    /// `[tls]`
    pub tls: &'a TlsSection,
    /// `[log]`
    pub log: &'a LogSection,
    /// `[http]`
    pub http: &'a HttpSection,
}

impl Common<'_> {
    /// What [`node::Node::start`] and [`http::serve`] need of them; reads the certificates, which must name this node and `role`.
    /// The first is none if something is wrong, or if files are not looked at.
    pub fn settings(
        &self,
        checks: &mut Checks<'_>,
        role: Role,
        software: &str,
    ) -> (Option<node::Settings>, http::Limits) {
        checks.accept("log.filter", telemetry::check_filter(&self.log.filter));
        let limits = self.http.limits(checks);
        let advertise = told_of(self.mesh.listen, self.mesh.advertise.unwrap_or(self.mesh.listen));
        let advertise = checks.accept("mesh.advertise", advertise);
        let seeds = seed_settings(checks, self.mesh);
        let credentials = self.credentials(checks, role);
        let node = advertise.zip(credentials).map(|(advertise, credentials)| node::Settings {
            listen: self.mesh.listen,
            advertise,
            credentials,
            seeds,
            swim: membership::Settings::default(),
            software: software.to_owned(),
            tasks: Tasks::default(),
        });
        (node, limits)
    }

    fn credentials(&self, checks: &mut Checks<'_>, role: Role) -> Option<Credentials> {
        if checks.reach() == Reach::Values {
            return None;
        }
        let TlsSection { ca, cert, key, crl, trust_domain } = self.tls.clone();
        let loaded = Credentials::load(&CertPaths { ca, cert, key, crl }, &trust_domain);
        let credentials = match loaded {
            Ok(credentials) => credentials,
            Err(error) => {
                checks.refuse(key_of(&error, self.tls), error);
                return None;
            }
        };
        agree(checks, role, self.node, credentials.identity());
        Some(credentials)
    }
}

fn seed_settings(checks: &mut Checks<'_>, mesh: &MeshSection) -> seeds::Settings {
    for (n, seed) in mesh.seeds.iter().enumerate() {
        let good = seeds::is_host_port(seed);
        checks.ensure(&format!("mesh.seeds[{n}]"), good, "host:port, such as core-1.example.net:7400");
    }
    seeds::Settings {
        addresses: mesh.seeds.clone(),
        file: mesh.seeds_file.clone(),
        domain: mesh.dns_domain.clone(),
        dns_servers: mesh.dns_servers.clone(),
    }
}

/// Configuration and certificate must name the same node: else one of the two is on the wrong machine.
fn agree(checks: &mut Checks<'_>, role: Role, node: &NodeSection, certified: &Identity) {
    let says =
        |what: &str, found: &dyn std::fmt::Display| format!("the certificate in tls.cert names {what} `{found}`");
    if node.id != certified.node {
        checks.refuse("node.id", says("node", &certified.node));
    }
    if node.region != certified.region {
        checks.refuse("node.region", says("region", &certified.region));
    }
    if role != certified.role {
        checks.refuse("tls.cert", format!("{}, this program is `{role}`", says("role", &certified.role)));
    }
}

/// The key whose file an error is about.
fn key_of(error: &CertError, tls: &TlsSection) -> &'static str {
    let file = match error {
        CertError::Read { path, .. }
        | CertError::NoCertificate { path }
        | CertError::NoKey { path }
        | CertError::Damaged { path, .. }
        | CertError::LockedKey { path }
        | CertError::KindOfKey { path }
        | CertError::Unsuitable { path, .. }
        | CertError::Expired { path, .. }
        | CertError::NotYetValid { path, .. }
        | CertError::NoRevocations { path }
        | CertError::BadRevocations { path, .. }
        | CertError::Tls { path, .. } => path,
        CertError::KeyMismatch { .. } => return "tls.key",
        CertError::Untrusted { .. } | CertError::OtherNode { .. } | CertError::NoFiles => return "tls.cert",
        CertError::TrustDomain(_) => return "tls.trust_domain",
    };
    match file {
        file if *file == tls.ca.display().to_string() => "tls.ca",
        file if tls.crl.as_ref().is_some_and(|crl| *file == crl.display().to_string()) => "tls.crl",
        file if *file == tls.key.display().to_string() => "tls.key",
        _ => "tls.cert",
    }
}
