//! The sections every program has.

use std::{net::SocketAddr, path::PathBuf};

use geo::{RegionId, address::told_of};
use serde::Deserialize;

use super::{ConfigError, Source};
use crate::{
    http,
    identity::{
        Identity, NodeId, Role,
        certs::{CertError, CertPaths, Credentials},
    },
    membership, node, seeds,
    tasks::Tasks,
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
    /// How many connections there may be, checked.
    ///
    /// # Errors
    /// A number is out of its range.
    pub fn limits(&self, source: &Source) -> Result<http::Limits, ConfigError> {
        source.range("http.connections", self.connections, 8..=1_000_000)?;
        source.range("http.connections_per_address", self.connections_per_address, 1..=1_000_000)?;
        Ok(http::Limits { connections: self.connections, per_address: self.connections_per_address })
    }
}

impl Default for LogSection {
    fn default() -> Self {
        Self { format: LogFormat::Human, filter: "info".into() }
    }
}

/// What [`node::Node::start`] needs, from the sections; loads the certificates.
///
/// # Errors
/// A value is not fit for its use, a certificate file is not, or the certificate names another node
/// than `[node]` and `role` do. Each error names the key it is about.
pub fn node_settings(
    source: &Source,
    role: Role,
    node: &NodeSection,
    mesh: &MeshSection,
    tls: &TlsSection,
    software: &str,
) -> Result<node::Settings, ConfigError> {
    let advertise = told_of(mesh.listen, mesh.advertise.unwrap_or(mesh.listen));
    let advertise = advertise.map_err(|why| source.refuse("mesh.advertise", why))?;
    let paths = CertPaths { ca: tls.ca.clone(), cert: tls.cert.clone(), key: tls.key.clone(), crl: tls.crl.clone() };
    let credentials = Credentials::load(&paths, &tls.trust_domain).map_err(|e| source.refuse(key_of(&e, tls), e))?;
    agree(source, role, node, credentials.identity())?;
    Ok(node::Settings {
        listen: mesh.listen,
        advertise,
        credentials,
        seeds: seed_settings(source, mesh)?,
        swim: membership::Settings::default(),
        software: software.to_owned(),
        tasks: Tasks::default(),
    })
}

fn seed_settings(source: &Source, mesh: &MeshSection) -> Result<seeds::Settings, ConfigError> {
    for (n, seed) in mesh.seeds.iter().enumerate() {
        let good = seeds::is_host_port(seed);
        source.ensure(&format!("mesh.seeds[{n}]"), good, "host:port, such as core-1.example.net:7400")?;
    }
    Ok(seeds::Settings {
        addresses: mesh.seeds.clone(),
        file: mesh.seeds_file.clone(),
        domain: mesh.dns_domain.clone(),
        dns_servers: mesh.dns_servers.clone(),
    })
}

/// Configuration and certificate must name the same node: else one of the two is on the wrong machine.
fn agree(source: &Source, role: Role, node: &NodeSection, certified: &Identity) -> Result<(), ConfigError> {
    let says =
        |what: &str, found: &dyn std::fmt::Display| format!("the certificate in tls.cert names {what} `{found}`");
    if node.id != certified.node {
        return Err(source.refuse("node.id", says("node", &certified.node)));
    }
    if node.region != certified.region {
        return Err(source.refuse("node.region", says("region", &certified.region)));
    }
    if role != certified.role {
        let reason = format!("{}, this program is `{role}`", says("role", &certified.role));
        return Err(source.refuse("tls.cert", reason));
    }
    Ok(())
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
