//! A certificate authority small enough for a demo, a test or a first deployment.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData, RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject};
use x509_parser::prelude::{CertificateRevocationList as X509List, FromDer, X509Certificate};

use super::Identity;

/// Certificates are valid from this long before they are made: machines' clocks differ.
const BACKDATED: Duration = Duration::from_secs(300);

/// A CA that issues the certificates of one mesh. Keys are ECDSA P-256.
pub struct Authority {
    trust_domain: String,
    ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Why a certificate could not be made, or an authority not loaded.
#[derive(Debug, thiserror::Error)]
#[error("certificate authority of `{trust_domain}`: {reason}")]
pub struct AuthorityError {
    trust_domain: String,
    reason: String,
}

impl AuthorityError {
    fn new(trust_domain: &str, reason: impl ToString) -> Self {
        Self { trust_domain: trust_domain.into(), reason: reason.to_string() }
    }
}

impl Authority {
    /// A new authority with a new key, valid from now for `validity`.
    ///
    /// # Errors
    /// `trust_domain` is not ASCII, or the system gave no randomness.
    pub fn create(trust_domain: &str, validity: Duration) -> Result<Self, AuthorityError> {
        let fail = |reason: rcgen::Error| AuthorityError::new(trust_domain, reason);
        let now = SystemTime::now();
        // A name of its own: revocation lists are told apart by it (RFC 5280 section 6.3.3).
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let name = format!("Nearfield CA of {trust_domain}, {since:x}");
        let mut params = params(&name, now - BACKDATED, now + validity);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(fail)?;
        let ca_pem = params.self_signed(&key).map_err(fail)?.pem();
        Ok(Self { trust_domain: trust_domain.into(), ca_pem, issuer: Issuer::new(params, key) })
    }

    /// An authority made before, from its certificate (the first in `ca_pem`) and key in PEM.
    ///
    /// # Errors
    /// Either is malformed, or the key is another's.
    pub fn load(trust_domain: &str, ca_pem: &str, key_pem: &str) -> Result<Self, AuthorityError> {
        let fail = |reason: rcgen::Error| AuthorityError::new(trust_domain, reason);
        let key = KeyPair::from_pem(key_pem).map_err(fail)?;
        let ca = der(ca_pem).ok_or_else(|| fail(rcgen::Error::CouldNotParseCertificate))?;
        let (_, ca) = X509Certificate::from_der(&ca).map_err(|_| fail(rcgen::Error::CouldNotParseCertificate))?;
        if ca.public_key().raw != key.subject_public_key_info() {
            return Err(AuthorityError::new(trust_domain, "the key is not the certificate's"));
        }
        let issuer = Issuer::from_ca_cert_pem(ca_pem, key).map_err(fail)?;
        Ok(Self { trust_domain: trust_domain.into(), ca_pem: ca_pem.into(), issuer })
    }

    /// The authority's own certificate: what every node trusts.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The authority's key, which issues identities: keep it off the nodes.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Certificate and key, both PEM, for `identity`, valid from now for `validity`.
    ///
    /// # Errors
    /// The trust domain is not ASCII, or the system gave no randomness.
    pub fn issue(&self, identity: &Identity, validity: Duration) -> Result<(String, String), AuthorityError> {
        let now = SystemTime::now();
        self.issue_between(identity, now - BACKDATED, now + validity)
    }

    /// As [`Authority::issue`], for a stated span of time.
    ///
    /// # Errors
    /// As [`Authority::issue`].
    pub fn issue_between(
        &self,
        identity: &Identity,
        not_before: SystemTime,
        not_after: SystemTime,
    ) -> Result<(String, String), AuthorityError> {
        let fail = |reason: rcgen::Error| AuthorityError::new(&self.trust_domain, reason);
        let mut params = params(identity.node.as_str(), not_before, not_after);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![
            SanType::DnsName(format!("mesh.{}", self.trust_domain).try_into().map_err(fail)?),
            SanType::URI(identity.spiffe(&self.trust_domain).try_into().map_err(fail)?),
        ];
        let key = KeyPair::generate().map_err(fail)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(fail)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// Whether it has issued the first certificate in `cert_pem`.
    pub fn has_issued(&self, cert_pem: &str) -> bool {
        let pair = (der(&self.ca_pem), der(cert_pem));
        let (Some(ca), Some(cert)) = pair else { return false };
        let parsed = (X509Certificate::from_der(&ca), X509Certificate::from_der(&cert));
        let (Ok((_, ca)), Ok((_, cert))) = parsed else { return false };
        cert.issuer() == ca.subject() && cert.verify_signature(Some(ca.public_key())).is_ok()
    }

    /// Whether it has signed the revocation list in `crl_pem`.
    pub fn has_listed(&self, crl_pem: &str) -> bool {
        let list = CertificateRevocationListDer::from_pem_slice(crl_pem.as_bytes());
        let (Some(ca), Ok(list)) = (der(&self.ca_pem), list) else { return false };
        let parsed = (X509Certificate::from_der(&ca), X509List::from_der(&list));
        let (Ok((_, ca)), Ok((_, list))) = parsed else { return false };
        list.issuer() == ca.subject() && list.verify_signature(ca.public_key()).is_ok()
    }

    /// A revocation list in PEM: what `previous` has, and `cert_pem`. It should be replaced within `validity`.
    ///
    /// # Errors
    /// `cert_pem` is no certificate, or `previous` no list.
    pub fn revoke(
        &self,
        previous: Option<&str>,
        cert_pem: Option<&str>,
        validity: Duration,
    ) -> Result<String, AuthorityError> {
        let fail = |reason: rcgen::Error| AuthorityError::new(&self.trust_domain, reason);
        let now = SystemTime::now();
        let previous = match previous {
            Some(pem) => Previous::read(pem).ok_or_else(|| fail(rcgen::Error::CouldNotParseCertificate))?,
            None => Previous { revoked: vec![], number: 0 },
        };
        let mut entries = previous.revoked;
        if let Some(pem) = cert_pem {
            let der = der(pem).ok_or_else(|| fail(rcgen::Error::CouldNotParseCertificate))?;
            let parsed = X509Certificate::from_der(&der);
            let (_, cert) = parsed.map_err(|_| fail(rcgen::Error::CouldNotParseCertificate))?;
            entries.push(revoked(cert.raw_serial(), now));
        }
        let list = CertificateRevocationListParams {
            this_update: (now - BACKDATED).into(),
            next_update: (now + validity).into(),
            crl_number: (previous.number + 1).into(),
            issuing_distribution_point: None,
            revoked_certs: entries,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).and_then(|list| list.pem()).map_err(fail)
    }
}

/// What of a revocation list goes into the next one.
struct Previous {
    revoked: Vec<RevokedCertParams>,
    number: u64,
}

impl Previous {
    fn read(pem: &str) -> Option<Self> {
        let der = CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).ok()?;
        let (_, list) = X509List::from_der(&der).ok()?;
        let entries = list.iter_revoked_certificates().map(|entry| {
            let at = UNIX_EPOCH + Duration::from_secs(entry.revocation_date.timestamp().max(0) as u64);
            revoked(entry.raw_serial(), at)
        });
        let number = list.crl_number().and_then(|n| u64::try_from(n).ok());
        Some(Self { revoked: entries.collect(), number: number.unwrap_or(0) })
    }
}

fn revoked(serial: &[u8], at: SystemTime) -> RevokedCertParams {
    RevokedCertParams {
        serial_number: SerialNumber::from_slice(serial),
        revocation_time: at.into(),
        reason_code: None,
        invalidity_date: None,
    }
}

fn der(pem: &str) -> Option<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem.as_bytes()).ok()
}

fn params(name: &str, not_before: SystemTime, not_after: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = not_before.into();
    params.not_after = not_after.into();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
