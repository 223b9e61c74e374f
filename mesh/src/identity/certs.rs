//! Certificates: what a node shows its peers, and who a peer's certificate says it is.
//!
//! Every certificate carries two subject alternative names. `mesh.<trust domain>` (DNS) is what
//! every dialler asks for, so that the TLS library's own verification applies; the SPIFFE id (URI),
//! which that library does not match, names the node and is read by us after the handshake.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

mod authority;
mod error;
mod offered;
mod read;
mod signing;
mod trust;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use x509_parser::prelude::{ASN1Time, FromDer, GeneralName, X509Certificate};

pub(crate) use self::offered::{Offered, shown as shown_ids};
pub use self::{
    authority::{Authority, AuthorityError},
    error::{BadCertificate, CertError},
    signing::{Accepted, Algorithm, Claim, NotProven, SignError},
    trust::Unacceptable,
};
use self::{offered::Noting, trust::Trust};
use super::Identity;
use crate::version::Version;

/// The PEM files a node needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertPaths {
    /// The certificates of the authorities it trusts, one or many.
    pub ca: PathBuf,
    /// Its own certificate, followed by any intermediates.
    pub cert: PathBuf,
    /// The key of its own certificate: PKCS#8, SEC1 or PKCS#1.
    pub key: PathBuf,
    /// What the authorities have revoked, one list or many; none: nothing.
    pub crl: Option<PathBuf>,
}

/// What stands in the files of [`CertPaths`].
#[derive(Clone, PartialEq, Eq)]
pub struct Pem {
    ca: Vec<u8>,
    cert: Vec<u8>,
    key: Vec<u8>,
    crl: Option<Vec<u8>>,
}

/// A node's own identity and the TLS settings that prove it. Cheap to clone.
#[derive(Clone)]
pub struct Credentials {
    identity: Identity,
    trust_domain: Arc<str>,
    expires: SystemTime,
    wire: Version,
    trust: Trust,
    own: Arc<CertifiedKey>,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    files: Option<Arc<(CertPaths, Pem)>>,
}

impl CertPaths {
    /// Reads the files.
    ///
    /// # Errors
    /// One is not there or not readable.
    pub fn read(&self) -> Result<Pem, CertError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|source| CertError::Read { path: path.display().to_string(), source })
        };
        Ok(Pem {
            ca: read(&self.ca)?,
            cert: read(&self.cert)?,
            key: read(&self.key)?,
            crl: self.crl.as_deref().map(read).transpose()?,
        })
    }
}

impl Credentials {
    /// Reads and checks the files: everything that would make a peer refuse this node is found here.
    ///
    /// # Errors
    /// A [`CertError`] that names the file and what is wrong with it.
    pub fn load(paths: &CertPaths, trust_domain: &str) -> Result<Self, CertError> {
        let pem = paths.read()?;
        let loaded = Self::build(paths, &pem, trust_domain, SystemTime::now())?;
        Ok(Self { files: Some(Arc::new((paths.clone(), pem))), ..loaded })
    }

    /// The same from PEM text in memory; errors call the parts `ca`, `cert` and `key`.
    ///
    /// # Errors
    /// As [`Credentials::load`].
    pub fn from_pem(ca: &str, cert: &str, key: &str, trust_domain: &str) -> Result<Self, CertError> {
        let names = CertPaths { ca: "ca".into(), cert: "cert".into(), key: "key".into(), crl: None };
        let pem = Pem { ca: ca.into(), cert: cert.into(), key: key.into(), crl: None };
        Self::build(&names, &pem, trust_domain, SystemTime::now())
    }

    /// What this node would be with `pem` in the files it was loaded from.
    ///
    /// # Errors
    /// As [`Credentials::load`], or the certificate names another node.
    pub fn renewed(&self, pem: &Pem) -> Result<Self, CertError> {
        let (files, _) = self.files().ok_or(CertError::NoFiles)?;
        let renewed = Self::build(files, pem, &self.trust_domain, SystemTime::now())?;
        if renewed.identity != self.identity {
            let found = Box::new(renewed.identity);
            return Err(CertError::OtherNode { cert: files.cert.display().to_string(), found });
        }
        Ok(Self { wire: self.wire, files: Some(Arc::new((files.clone(), pem.clone()))), ..renewed })
    }

    fn build(paths: &CertPaths, pem: &Pem, trust_domain: &str, now: SystemTime) -> Result<Self, CertError> {
        let [ca, cert, key] = [&paths.ca, &paths.cert, &paths.key].map(|path| path.display().to_string());
        let provider = Arc::new(rustls::crypto::ring::default_provider());

        let chain = read::certificates(&cert, &pem.cert)?;
        let (identity, expires) = check_leaf(&cert, &chain[0], trust_domain, now)?;
        let own = read::certified((&cert, &chain), (&key, read::key(&key, &pem.key)?), &provider)?;

        let trust = Trust::build(paths, pem, &chain, &provider)?;
        let name = format!("mesh.{trust_domain}");
        let server_name =
            ServerName::try_from(name.clone()).map_err(|_| CertError::TrustDomain(trust_domain.into()))?;
        trust.check_own(&chain, &server_name, now).map_err(|reason| CertError::Untrusted {
            cert: cert.clone(),
            ca: ca.clone(),
            name,
            reason: trust::told(&reason),
        })?;

        let own = Arc::new(own);
        let tls = |e: Box<dyn std::error::Error>| CertError::Tls { path: cert.clone(), reason: e.to_string() };
        Ok(Self {
            identity,
            trust_domain: trust_domain.into(),
            expires,
            wire: Version::NEWEST,
            client: Arc::new(client_tls(&trust, &own, &provider).map_err(tls)?),
            server: Arc::new(server_tls(&trust, &own, &provider).map_err(tls)?),
            trust,
            own,
            files: None,
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

    /// The files it was loaded from, if it was, and what was in them.
    pub fn files(&self) -> Option<(&CertPaths, &Pem)> {
        self.files.as_deref().map(|(paths, pem)| (paths, pem))
    }

    /// When the first of its revocation lists should have been replaced; `None` if it has none, or none says.
    pub fn next_crl(&self) -> Option<SystemTime> {
        self.trust.next_crl
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

    /// TLS for being dialled. What a dialler speaks with which there is no common version goes to `offered`.
    pub(crate) fn server(&self, offered: &Offered) -> Result<QuicServerConfig, NoInitialCipherSuite> {
        let mut config = ServerConfig::clone(&self.server);
        config.alpn_protocols = self.wire.offer();
        config.cert_resolver =
            Arc::new(Noting { own: self.own.clone(), ours: self.wire.offer(), offered: offered.clone() });
        config.try_into()
    }

    /// Who stands at the other end of a connection whose handshake has verified its certificate.
    ///
    /// # Errors
    /// The certificate does not name a node of this mesh.
    pub fn identify(&self, connection: &quinn::Connection) -> Result<Identity, BadCertificate> {
        let chain = shown(connection);
        let leaf = chain.first().ok_or_else(|| BadCertificate::Malformed("the peer showed none".into()))?;
        identity_of(&parse(leaf)?, &self.trust_domain)
    }

    /// Whether the other end of a connection would be accepted now, and until when if nothing changes but time.
    ///
    /// # Errors
    /// Its certificate has expired, was revoked, or its authority is trusted no more.
    pub fn check(&self, connection: &quinn::Connection, now: SystemTime) -> Result<SystemTime, Unacceptable> {
        self.check_chain(&shown(connection), now)
    }

    fn check_chain(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<SystemTime, Unacceptable> {
        self.trust.check_peer(chain, now)?;
        // What has been verified can be parsed.
        let ends = chain.iter().filter_map(|der| parse(der).ok().map(|c| c.validity().not_after.timestamp()));
        let end = ends.min().unwrap_or(0).max(0) as u64;
        Ok(UNIX_EPOCH + Duration::from_secs(end))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// The node that the first certificate in `pem` names, whoever has issued it.
///
/// # Errors
/// There is none, or it names no node of this mesh.
pub fn identity_in(pem: &str, trust_domain: &str) -> Result<Identity, BadCertificate> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes());
    let der = der.map_err(|e| BadCertificate::Malformed(e.to_string()))?;
    identity_of(&parse(&der)?, trust_domain)
}

/// The certificates a peer has shown, its own first.
pub(crate) fn shown(connection: &quinn::Connection) -> Vec<CertificateDer<'static>> {
    let chain = connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    chain.map(|chain| *chain).unwrap_or_default()
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, BadCertificate> {
    match X509Certificate::from_der(der) {
        Ok((_, certificate)) => Ok(certificate),
        Err(e) => Err(BadCertificate::Malformed(e.to_string())),
    }
}

fn identity_of(certificate: &X509Certificate<'_>, trust_domain: &str) -> Result<Identity, BadCertificate> {
    Ok(Identity::from_spiffe(uri_of(certificate)?, trust_domain)?)
}

/// The SPIFFE id in a certificate.
fn uri_of<'a>(certificate: &'a X509Certificate<'_>) -> Result<&'a str, BadCertificate> {
    let names = certificate.subject_alternative_name().map_err(|e| BadCertificate::Malformed(e.to_string()))?;
    let names = names.map_or(&[][..], |extension| &extension.value.general_names);
    let uris: Vec<&str> =
        names.iter().filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None }).collect();
    match uris[..] {
        [uri] => Ok(uri),
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
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    let clock = ASN1Time::from_timestamp(seconds).map_or_else(|_| "nothing sensible".into(), |now| now.to_string());
    if seconds > validity.not_after.timestamp() {
        return Err(CertError::Expired { path: path.into(), at: validity.not_after.to_string(), clock });
    }
    if seconds < validity.not_before.timestamp() {
        return Err(CertError::NotYetValid { path: path.into(), at: validity.not_before.to_string(), clock });
    }
    let expires = UNIX_EPOCH + Duration::from_secs(validity.not_after.timestamp().max(0) as u64);
    Ok((identity_of(&certificate, trust_domain).map_err(unsuitable)?, expires))
}

type TlsResult<T> = Result<T, Box<dyn std::error::Error>>;

fn client_tls(trust: &Trust, own: &Arc<CertifiedKey>, provider: &Arc<CryptoProvider>) -> TlsResult<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .with_webpki_verifier(trust.server.clone())
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own.clone())));
    // A resumed session would outlive the certificates it was made with: every connection proves itself afresh.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn server_tls(trust: &Trust, own: &Arc<CertifiedKey>, provider: &Arc<CryptoProvider>) -> TlsResult<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(trust.client.clone())
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(own.clone())));
    config.send_tls13_tickets = 0; // as above: no resumption
    Ok(config)
}

#[cfg(test)]
mod tests;
