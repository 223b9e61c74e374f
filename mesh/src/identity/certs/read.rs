//! What stands in PEM files (RFC 7468), and what is wrong with it.

use rustls::{
    crypto::CryptoProvider,
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
        pem::{Error as PemError, PemObject},
    },
    sign::CertifiedKey,
};

use super::{CertError, parse};

/// What some editors put before the first byte of a text.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// All certificates in `pem`; each must be whole.
pub(super) fn certificates(path: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let list = whole(path, "certificate", pem)?;
    for (n, der) in list.iter().enumerate() {
        parse(der).map_err(|e| damaged(path, "certificate", n, &e))?;
    }
    if list.is_empty() { Err(CertError::NoCertificate { path: path.into() }) } else { Ok(list) }
}

/// All revocation lists in `pem`; each must be whole.
pub(super) fn revocations(path: &str, pem: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, CertError> {
    let list = whole(path, "revocation list", pem)?;
    if list.is_empty() { Err(CertError::NoRevocations { path: path.into() }) } else { Ok(list) }
}

/// The first key in `pem`.
pub(super) fn key(path: &str, pem: &[u8]) -> Result<PrivateKeyDer<'static>, CertError> {
    PrivateKeyDer::from_pem_slice(text(pem)).map_err(|error| {
        let path = path.into();
        match error {
            _ if has_password(pem) => CertError::LockedKey { path },
            PemError::NoItemsFound => CertError::NoKey { path },
            error => CertError::Damaged { path, what: "private key", number: 1, reason: error.to_string() },
        }
    })
}

/// `key` as what proves `chain`.
pub(super) fn certified(
    (cert, chain): (&str, &[CertificateDer<'static>]),
    (path, key): (&str, PrivateKeyDer<'static>),
    provider: &CryptoProvider,
) -> Result<CertifiedKey, CertError> {
    let unusable = |_| CertError::KindOfKey { path: path.into() };
    let own = CertifiedKey::new(chain.to_vec(), provider.key_provider.load_private_key(key).map_err(unusable)?);
    own.keys_match().map_err(|e| match e {
        rustls::Error::InconsistentKeys(_) => CertError::KeyMismatch { key: path.into(), cert: cert.into() },
        other => CertError::Tls { path: path.into(), reason: other.to_string() },
    })?;
    Ok(own)
}

fn whole<T: PemObject>(path: &str, what: &'static str, pem: &[u8]) -> Result<Vec<T>, CertError> {
    let all = T::pem_slice_iter(text(pem)).enumerate();
    all.map(|(n, one)| one.map_err(|e| damaged(path, what, n, &e))).collect()
}

fn damaged(path: &str, what: &'static str, index: usize, reason: &dyn std::fmt::Display) -> CertError {
    CertError::Damaged { path: path.into(), what, number: index + 1, reason: reason.to_string() }
}

fn text(pem: &[u8]) -> &[u8] {
    pem.strip_prefix(BYTE_ORDER_MARK).unwrap_or(pem)
}

/// As PKCS#8 and as OpenSSL's former formats say it (RFC 1421).
fn has_password(pem: &[u8]) -> bool {
    ["-----BEGIN ENCRYPTED PRIVATE KEY-----", "Proc-Type: 4,ENCRYPTED"]
        .iter()
        .any(|mark| pem.windows(mark.len()).any(|part| part == mark.as_bytes()))
}
