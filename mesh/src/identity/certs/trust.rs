//! Whom a node trusts: its authorities, less what they have revoked.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::{
    CertificateError, RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::{CertError, CertPaths, Pem, parse, read};

/// Authorities and revocation lists, as the TLS library's verifiers take them.
///
/// A list revokes what it names. An authority without a list in the file revokes nothing, and a list past its
/// next update goes on to count: a forgotten file must not take the whole mesh apart.
#[derive(Clone)]
pub(super) struct Trust {
    /// Verifies whom we dial.
    pub(super) server: Arc<WebPkiServerVerifier>,
    /// Verifies who dials us.
    pub(super) client: Arc<dyn ClientCertVerifier>,
    /// When the first of the revocation lists should have been replaced by a newer one.
    pub(super) next_crl: Option<SystemTime>,
}

/// Why a certificate that was accepted once is so no more, or never was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unacceptable {
    /// Its time is over.
    #[error("certificate expired")]
    Expired,
    /// Its time has not come, by the clock of this machine.
    #[error("certificate not valid yet: this machine's clock is behind, or that of whoever issued it was ahead")]
    NotYetValid,
    /// Its authority has revoked it.
    #[error("certificate revoked")]
    Revoked,
    /// No authority that is trusted (any more) has issued it, or it is not for this use.
    #[error("certificate of no trusted authority")]
    Untrusted,
    /// It, or one above it, is signed in a way that the TLS library does not know.
    #[error("certificate signed with a kind of key that cannot be used (use ECDSA on P-256 or P-384, Ed25519, or RSA)")]
    Algorithm,
}

impl Trust {
    pub(super) fn build(
        paths: &CertPaths,
        pem: &Pem,
        own: &[CertificateDer<'_>],
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, CertError> {
        let path = paths.ca.display().to_string();
        let authorities = read::certificates(&path, &pem.ca)?;
        let lists = match (&paths.crl, &pem.crl) {
            (Some(path), Some(crl)) => read::revocations(&path.display().to_string(), crl)?,
            _ => vec![],
        };
        let issuers: Vec<&CertificateDer<'_>> = authorities.iter().chain(own.iter().skip(1)).collect();
        let mut next_crl: Option<SystemTime> = None;
        for list in &lists {
            let crl = paths.crl.as_ref().map(|p| p.display().to_string()).unwrap_or_default();
            let next = check_list(&crl, list, &issuers)?;
            next_crl = next_crl.into_iter().chain(next).min();
        }

        let refuse = |e: &dyn std::fmt::Display| CertError::Tls { path: path.clone(), reason: e.to_string() };
        let mut roots = RootCertStore::empty();
        for authority in &authorities {
            roots.add(authority.clone()).map_err(|e| refuse(&e))?;
        }
        let roots = Arc::new(roots);
        let server = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
            .with_crls(lists.iter().cloned())
            .allow_unknown_revocation_status();
        let client = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            .with_crls(lists)
            .allow_unknown_revocation_status();
        Ok(Self {
            server: server.build().map_err(|e| refuse(&e))?,
            client: client.build().map_err(|e| refuse(&e))?,
            next_crl,
        })
    }

    /// Whether whoever dials, and whoever is dialled under `name`, may show `chain`.
    pub(super) fn check_own(
        &self,
        chain: &[CertificateDer<'static>],
        name: &ServerName<'_>,
        now: SystemTime,
    ) -> Result<(), rustls::Error> {
        self.server.verify_server_cert(&chain[0], &chain[1..], name, &[], unix(now))?;
        self.client.verify_client_cert(&chain[0], &chain[1..], unix(now)).map(|_| ())
    }

    /// Whether a peer that shows `chain` is to be talked to. A node is a client and a server with one certificate.
    pub(super) fn check_peer(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<(), Unacceptable> {
        let [leaf, rest @ ..] = chain else { return Err(Unacceptable::Untrusted) };
        self.client.verify_client_cert(leaf, rest, unix(now)).map(|_| ()).map_err(|e| Unacceptable::of(&e))
    }
}

impl Unacceptable {
    /// What the TLS library's error comes down to.
    pub fn of(error: &rustls::Error) -> Self {
        let rustls::Error::InvalidCertificate(error) = error else { return Self::Untrusted };
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::Revoked => Self::Revoked,
            CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => Self::Algorithm,
            _ => Self::Untrusted,
        }
    }

    /// The `reason` label under which it is counted.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Expired => "certificate_expired",
            Self::Revoked => "certificate_revoked",
            Self::NotYetValid => "certificate_not_yet_valid",
            Self::Untrusted => "certificate",
            Self::Algorithm => "certificate_algorithm",
        }
    }
}

/// What the TLS library's error about the own certificate means to whoever issued it.
pub(super) fn told(error: &rustls::Error) -> String {
    let rustls::Error::InvalidCertificate(found) = error else { return error.to_string() };
    match (Unacceptable::of(error), found) {
        (Unacceptable::Expired, _) => "an authority above it has expired".into(),
        (Unacceptable::NotYetValid, _) => "an authority above it is not valid yet, by this machine's clock".into(),
        (Unacceptable::Revoked, _) => "it was revoked".into(),
        (Unacceptable::Algorithm, _) => Unacceptable::Algorithm.to_string(),
        (_, CertificateError::UnknownIssuer) => {
            "none of them has issued it, or an intermediate certificate is missing in its file".into()
        }
        (_, CertificateError::BadSignature) => "an authority of the same name has another key".into(),
        (_, CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) => {
            "that DNS name is not among its subject alternative names".into()
        }
        (_, CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. }) => {
            "its extended key usage must allow both server and client authentication".into()
        }
        _ => error.to_string(),
    }
}

fn unix(at: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Checks a list whose issuer is known: one with a bad signature would make us refuse all that this issuer issued.
/// Gives the time of its next update.
fn check_list(
    path: &str,
    list: &CertificateRevocationListDer<'_>,
    issuers: &[&CertificateDer<'_>],
) -> Result<Option<SystemTime>, CertError> {
    let bad = |reason: String| CertError::BadRevocations { path: path.into(), reason };
    let (_, list) = CertificateRevocationList::from_der(list).map_err(|e| bad(e.to_string()))?;
    let mut known = false;
    let mut signed = false;
    for issuer in issuers {
        let Ok(issuer) = parse(issuer) else { continue };
        if issuer.subject() == list.issuer() {
            known = true;
            signed |= list.verify_signature(issuer.public_key()).is_ok();
        }
    }
    if known && !signed {
        return Err(bad(format!("not signed by the authority it names, {}", list.issuer())));
    }
    let next = list.next_update().map(|at| UNIX_EPOCH + Duration::from_secs(at.timestamp().max(0) as u64));
    Ok(next)
}
