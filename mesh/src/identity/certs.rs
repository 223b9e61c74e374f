//! Certificates: what a node shows its peers, and who a peer's certificate says it is.
//!
//! Every certificate carries two subject alternative names. `mesh.<trust domain>` (DNS) is what
//! every dialler asks for, so that the TLS library's own verification applies; the SPIFFE id (URI),
//! which that library does not match, names the node and is read by us after the handshake.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

mod authority;
mod error;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::{Resumption, WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::WebPkiClientVerifier,
    sign::CertifiedKey,
    version::TLS13,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

pub use self::{
    authority::{Authority, AuthorityError},
    error::{BadCertificate, CertError},
};
use super::Identity;
use crate::wire::Version;

/// The three PEM files a node needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertPaths {
    /// The certificates of the authorities it trusts, one or many.
    pub ca: PathBuf,
    /// Its own certificate, followed by any intermediates.
    pub cert: PathBuf,
    /// The key of its own certificate: PKCS#8, SEC1 or PKCS#1.
    pub key: PathBuf,
}

/// A node's own identity and the TLS settings that prove it. Cheap to clone.
#[derive(Clone)]
pub struct Credentials {
    identity: Identity,
    trust_domain: Arc<str>,
    expires: SystemTime,
    wire: Version,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Credentials {
    /// Reads and checks the three files: everything that would make a peer refuse this node is found here.
    ///
    /// # Errors
    /// A [`CertError`] that names the file and what is wrong with it.
    pub fn load(paths: &CertPaths, trust_domain: &str) -> Result<Self, CertError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|source| CertError::Read { path: path.display().to_string(), source })
        };
        let pem = (read(&paths.ca)?, read(&paths.cert)?, read(&paths.key)?);
        Self::build(paths, [&pem.0, &pem.1, &pem.2], trust_domain, SystemTime::now())
    }

    /// The same from PEM text in memory; errors call the parts `ca`, `cert` and `key`.
    ///
    /// # Errors
    /// As [`Credentials::load`].
    pub fn from_pem(ca: &str, cert: &str, key: &str, trust_domain: &str) -> Result<Self, CertError> {
        let names = CertPaths { ca: "ca".into(), cert: "cert".into(), key: "key".into() };
        Self::build(&names, [ca.as_bytes(), cert.as_bytes(), key.as_bytes()], trust_domain, SystemTime::now())
    }

    fn build(paths: &CertPaths, pem: [&[u8]; 3], trust_domain: &str, now: SystemTime) -> Result<Self, CertError> {
        let [ca, cert, key] = [&paths.ca, &paths.cert, &paths.key].map(|path| path.display().to_string());
        let provider = Arc::new(rustls::crypto::ring::default_provider());

        let chain = certificates(&cert, pem[1])?;
        let (identity, expires) = check_leaf(&cert, &chain[0], trust_domain, now)?;
        let key_der = PrivateKeyDer::from_pem_slice(pem[2]).map_err(|_| CertError::NoKey { path: key.clone() })?;
        check_key(&chain, &key_der, &provider).map_err(|e| match e {
            rustls::Error::InconsistentKeys(_) => CertError::KeyMismatch { key: key.clone(), cert: cert.clone() },
            other => CertError::Tls { path: key.clone(), reason: other.to_string() },
        })?;

        let mut roots = RootCertStore::empty();
        for authority in certificates(&ca, pem[0])? {
            roots.add(authority).map_err(|e| CertError::Tls { path: ca.clone(), reason: e.to_string() })?;
        }
        let roots = Arc::new(roots);
        let name = format!("mesh.{trust_domain}");
        check_trust(&chain, &roots, &name, &provider, now)?.map_err(|reason| CertError::Untrusted {
            cert: cert.clone(),
            ca: ca.clone(),
            name,
            reason: Box::new(reason),
        })?;

        let tls = |e: Box<dyn std::error::Error>| CertError::Tls { path: cert.clone(), reason: e.to_string() };
        Ok(Self {
            identity,
            trust_domain: trust_domain.into(),
            expires,
            wire: Version::NEWEST,
            client: Arc::new(client_tls(&roots, &chain, &key_der, &provider).map_err(tls)?),
            server: Arc::new(server_tls(&roots, &chain, &key_der, &provider).map_err(tls)?),
        })
    }

    /// Who this node is, as its certificate says.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The mesh it belongs to.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// When its certificate expires. A node that runs past this is refused by every new peer.
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    /// The name every dialler asks for, whatever the address.
    pub fn server_name(&self) -> String {
        format!("mesh.{}", self.trust_domain)
    }

    /// The same, offering peers nothing newer than `wire`.
    #[must_use]
    pub fn speaking(mut self, wire: Version) -> Self {
        self.wire = wire;
        self
    }

    /// The newest version it offers peers.
    pub fn wire(&self) -> Version {
        self.wire
    }

    /// TLS for dialling.
    pub(crate) fn client(&self) -> Result<QuicClientConfig, NoInitialCipherSuite> {
        let mut config = ClientConfig::clone(&self.client);
        config.alpn_protocols = self.wire.offer();
        config.try_into()
    }

    /// TLS for being dialled.
    pub(crate) fn server(&self) -> Result<QuicServerConfig, NoInitialCipherSuite> {
        let mut config = ServerConfig::clone(&self.server);
        config.alpn_protocols = self.wire.offer();
        config.try_into()
    }

    /// Who stands at the other end of a connection whose handshake has verified its certificate.
    ///
    /// # Errors
    /// The certificate does not name a node of this mesh.
    pub fn identify(&self, connection: &quinn::Connection) -> Result<Identity, BadCertificate> {
        let chain = connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
        let leaf = chain.as_ref().and_then(|chain| chain.first());
        let leaf = leaf.ok_or_else(|| BadCertificate::Malformed("the peer showed none".into()))?;
        identity_of(&parse(leaf)?, &self.trust_domain)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("identity", &self.identity).finish_non_exhaustive()
    }
}

fn certificates(path: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(list) if !list.is_empty() => Ok(list),
        _ => Err(CertError::NoCertificate { path: path.into() }),
    }
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, BadCertificate> {
    match X509Certificate::from_der(der) {
        Ok((_, certificate)) => Ok(certificate),
        Err(e) => Err(BadCertificate::Malformed(e.to_string())),
    }
}

fn identity_of(certificate: &X509Certificate<'_>, trust_domain: &str) -> Result<Identity, BadCertificate> {
    let names = certificate.subject_alternative_name().map_err(|e| BadCertificate::Malformed(e.to_string()))?;
    let names = names.map_or(&[][..], |extension| &extension.value.general_names);
    let uris: Vec<&str> =
        names.iter().filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None }).collect();
    match uris[..] {
        [uri] => Ok(Identity::from_spiffe(uri, trust_domain)?),
        _ => Err(BadCertificate::Uris(uris.len())),
    }
}

fn check_leaf(
    path: &str,
    leaf: &CertificateDer<'_>,
    trust_domain: &str,
    now: SystemTime,
) -> Result<(Identity, SystemTime), CertError> {
    let unsuitable = |source| CertError::Unsuitable { path: path.into(), source };
    let certificate = parse(leaf).map_err(unsuitable)?;
    let validity = certificate.validity();
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    if now > validity.not_after.timestamp() {
        return Err(CertError::Expired { path: path.into(), at: validity.not_after.to_string() });
    }
    if now < validity.not_before.timestamp() {
        return Err(CertError::NotYetValid { path: path.into(), at: validity.not_before.to_string() });
    }
    let expires = UNIX_EPOCH + Duration::from_secs(validity.not_after.timestamp().max(0) as u64);
    Ok((identity_of(&certificate, trust_domain).map_err(unsuitable)?, expires))
}

fn check_key(
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<(), rustls::Error> {
    let key = provider.key_provider.load_private_key(key.clone_key())?;
    CertifiedKey::new(chain.to_vec(), key).keys_match()
}

/// Verifies our own certificate as a peer that dials us will. The outer error is about the trust domain.
fn check_trust(
    chain: &[CertificateDer<'static>],
    roots: &Arc<RootCertStore>,
    name: &str,
    provider: &Arc<CryptoProvider>,
    now: SystemTime,
) -> Result<Result<(), rustls::Error>, CertError> {
    let server_name = ServerName::try_from(name).map_err(|_| CertError::TrustDomain(name.into()))?;
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(|e| CertError::Tls { path: "ca".into(), reason: e.to_string() })?;
    let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
    Ok(verifier.verify_server_cert(&chain[0], &chain[1..], &server_name, &[], now).map(|_| ()))
}

type TlsResult<T> = Result<T, Box<dyn std::error::Error>>;

fn client_tls(
    roots: &Arc<RootCertStore>,
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
    provider: &Arc<CryptoProvider>,
) -> TlsResult<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots.clone())
        .with_client_auth_cert(chain.to_vec(), key.clone_key())?;
    // A resumed session would outlive the certificates it was made with: every connection proves itself afresh.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn server_tls(
    roots: &Arc<RootCertStore>,
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
    provider: &Arc<CryptoProvider>,
) -> TlsResult<ServerConfig> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.to_vec(), key.clone_key())?;
    config.send_tls13_tickets = 0; // as above: no resumption
    Ok(config)
}

#[cfg(test)]
mod tests;
