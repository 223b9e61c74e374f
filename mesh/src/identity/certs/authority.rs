//! A certificate authority small enough for a demo, a test or a first deployment.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

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
    reason: rcgen::Error,
}

impl Authority {
    /// A new authority with a new key, valid from now for `validity`.
    ///
    /// # Errors
    /// `trust_domain` is not ASCII, or the system gave no randomness.
    pub fn create(trust_domain: &str, validity: Duration) -> Result<Self, AuthorityError> {
        let fail = |reason| AuthorityError { trust_domain: trust_domain.into(), reason };
        let now = SystemTime::now();
        let mut params = params(&format!("Nearfield CA of {trust_domain}"), now - BACKDATED, now + validity);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(fail)?;
        let ca_pem = params.self_signed(&key).map_err(fail)?.pem();
        Ok(Self { trust_domain: trust_domain.into(), ca_pem, issuer: Issuer::new(params, key) })
    }

    /// An authority made before, from its certificate and key in PEM.
    ///
    /// # Errors
    /// Either is malformed.
    pub fn load(trust_domain: &str, ca_pem: &str, key_pem: &str) -> Result<Self, AuthorityError> {
        let fail = |reason| AuthorityError { trust_domain: trust_domain.into(), reason };
        let key = KeyPair::from_pem(key_pem).map_err(fail)?;
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
        let fail = |reason| AuthorityError { trust_domain: self.trust_domain.clone(), reason };
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
}

fn params(name: &str, not_before: SystemTime, not_after: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = not_before.into();
    params.not_after = not_after.into();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
