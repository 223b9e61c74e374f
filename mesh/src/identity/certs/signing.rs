//! Signatures made with a node's own key over what is to be believed later, offline: receipts.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
    VerificationAlgorithm,
};
use rustls::{SignatureScheme, pki_types::CertificateDer};
use x509_parser::{
    asn1_rs::{FromDer, Sequence},
    der_parser::asn1_rs::Integer,
    oid_registry::OID_SIG_ED25519,
    public_key::PublicKey,
    x509::SubjectPublicKeyInfo,
};

use super::{BadCertificate, CertError, CertPaths, Credentials, Pem, Trust, Unacceptable, identity_of, parse, uri_of};
use crate::identity::Identity;

/// How a node signs: by the kind of its key (RFC 7518 section 3.1, RFC 8037 section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// Ed25519.
    EdDsa,
}

/// Why nothing was signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The key is of a kind that signs in none of the ways of [`Algorithm`].
    #[error("the node's key signs in none of the ways ES256, ES384, RS256 and EdDSA")]
    Key,
    /// The key refused.
    #[error("the node's key did not sign: {0}")]
    Failed(String),
}

/// Why a signature proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum NotProven {
    /// The authorities' file, or that of what they revoked, cannot be used.
    #[error(transparent)]
    Authorities(#[from] CertError),
    /// No certificate came with it.
    #[error("it carries no certificate")]
    NoCertificate,
    /// The certificate names no node.
    #[error("the signer's certificate: {0}")]
    Certificate(#[from] BadCertificate),
    /// The certificate was not to be used when this was signed.
    #[error("the signer's certificate was valid from {from} to {to}, not at the time of signing")]
    Time {
        /// Not before.
        from: String,
        /// Not after.
        to: String,
    },
    /// The certificate leads to no trusted authority, or was revoked.
    #[error("the signer's certificate is not accepted under the given authorities: {0}")]
    Chain(Unacceptable),
    /// The bytes are not those that were signed, or another key signed them.
    #[error("the signature does not fit what is signed")]
    Signature,
}

impl Algorithm {
    /// Its name in a JSON Web Signature.
    pub fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Rs256 => "RS256",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Es256, Self::Es384, Self::Rs256, Self::EdDsa].into_iter().find(|a| a.name() == name)
    }

    fn scheme(self) -> SignatureScheme {
        match self {
            Self::Es256 => SignatureScheme::ECDSA_NISTP256_SHA256,
            Self::Es384 => SignatureScheme::ECDSA_NISTP384_SHA384,
            Self::Rs256 => SignatureScheme::RSA_PKCS1_SHA256,
            Self::EdDsa => SignatureScheme::ED25519,
        }
    }

    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::Es256 => &ECDSA_P256_SHA256_FIXED,
            Self::Es384 => &ECDSA_P384_SHA384_FIXED,
            Self::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
            Self::EdDsa => &ED25519,
        }
    }

    /// The way in which a key of this kind signs.
    fn of(key: &SubjectPublicKeyInfo<'_>) -> Option<Self> {
        if key.algorithm.algorithm == OID_SIG_ED25519 {
            return Some(Self::EdDsa);
        }
        match key.parsed().ok()? {
            PublicKey::RSA(_) => Some(Self::Rs256),
            PublicKey::EC(point) if point.key_size() == 256 => Some(Self::Es256),
            PublicKey::EC(point) if point.key_size() == 384 => Some(Self::Es384),
            _ => None,
        }
    }

    /// Bytes of one of an ECDSA signature's two numbers.
    fn half(self) -> Option<usize> {
        match self {
            Self::Es256 => Some(32),
            Self::Es384 => Some(48),
            Self::Rs256 | Self::EdDsa => None,
        }
    }
}

impl Credentials {
    /// How this node signs.
    ///
    /// # Errors
    /// Its key cannot.
    pub fn algorithm(&self) -> Result<Algorithm, SignError> {
        let all = [Algorithm::Es256, Algorithm::Es384, Algorithm::EdDsa, Algorithm::Rs256];
        let can = |a: &Algorithm| self.own.key.choose_scheme(&[a.scheme()]).is_some();
        all.into_iter().find(can).ok_or(SignError::Key)
    }

    /// Its certificate in DER, followed by any intermediates.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.own.cert
    }

    /// `message`, signed in the way of [`Credentials::algorithm`]. The signature is as RFC 7518 section 3 wants it: of
    /// ECDSA the two numbers at their full length, one after the other.
    ///
    /// # Errors
    /// The key cannot, or did not.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let algorithm = self.algorithm()?;
        let signer = self.own.key.choose_scheme(&[algorithm.scheme()]).ok_or(SignError::Key)?;
        let signature = signer.sign(message).map_err(|e| SignError::Failed(e.to_string()))?;
        let Some(half) = algorithm.half() else { return Ok(signature) };
        fixed(&signature, half).ok_or_else(|| SignError::Failed("it is no ECDSA signature".into()))
    }
}

/// A certificate that is accepted, for what its key signs.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// Whom it names.
    pub identity: Identity,
    /// When the first of its chain expires.
    pub expires: SystemTime,
    key: Vec<u8>,
    algorithm: Algorithm,
}

impl Accepted {
    /// Whether its key has signed `message`, as [`Credentials::sign`] does.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(self.algorithm.verification(), &self.key).verify(message, signature).is_ok()
    }
}

impl Credentials {
    /// Whom `chain` names, if a peer that shows it would be let in now.
    ///
    /// # Errors
    /// See [`NotProven`].
    pub fn accept(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<Accepted, NotProven> {
        let leaf = chain.first().ok_or(NotProven::NoCertificate)?;
        let expires = self.check_chain(chain, now).map_err(NotProven::Chain)?;
        let certificate = parse(leaf)?;
        let public = certificate.public_key();
        let algorithm = Algorithm::of(public).ok_or(NotProven::Signature)?;
        let identity = identity_of(&certificate, self.trust_domain())?;
        Ok(Accepted { identity, expires, key: public.subject_public_key.data.to_vec(), algorithm })
    }
}

/// What was signed, and by whom as it says.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The signer's certificate and intermediates, DER.
    pub chain: &'a [CertificateDer<'a>],
    /// How it was signed.
    pub algorithm: Algorithm,
    /// What.
    pub message: &'a [u8],
    /// The signature, as [`Credentials::sign`] makes it.
    pub signature: &'a [u8],
    /// When, as the signer says: there is no other witness of it.
    pub at: SystemTime,
}

impl Claim<'_> {
    /// Who signed, if an authority in `ca` (PEM) vouches for the signer at that time, and nothing in `crl` (PEM) revokes it.
    ///
    /// # Errors
    /// See [`NotProven`].
    pub fn verify(&self, ca: &[u8], crl: Option<&[u8]>) -> Result<Identity, NotProven> {
        let leaf = self.chain.first().ok_or(NotProven::NoCertificate)?;
        let certificate = parse(leaf)?;
        let key = &certificate.public_key().subject_public_key.data;
        let public = UnparsedPublicKey::new(self.algorithm.verification(), key);
        public.verify(self.message, self.signature).map_err(|_| NotProven::Signature)?;

        let validity = certificate.validity();
        let at = self.at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs() as i64;
        if !(validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&at) {
            return Err(NotProven::Time { from: validity.not_before.to_string(), to: validity.not_after.to_string() });
        }
        trust(ca, crl)?.check_peer(self.chain, self.at).map_err(NotProven::Chain)?;
        let domain = domain_of(uri_of(&certificate)?);
        Ok(identity_of(&certificate, domain)?)
    }
}

/// The trust domain is the authority's own affair: whom it vouches for belongs to its mesh.
fn domain_of(uri: &str) -> &str {
    uri.strip_prefix("spiffe://").and_then(|rest| rest.split('/').next()).unwrap_or_default()
}

fn trust(ca: &[u8], crl: Option<&[u8]>) -> Result<Trust, CertError> {
    let crl_path = crl.map(|_| "the revocation list".into());
    let paths = CertPaths { ca: "the authorities' file".into(), cert: "cert".into(), key: "key".into(), crl: crl_path };
    let pem = Pem { ca: ca.into(), cert: vec![], key: vec![], crl: crl.map(Into::into) };
    Trust::build(&paths, &pem, &[], &std::sync::Arc::new(rustls::crypto::ring::default_provider()))
}

/// An ECDSA signature out of its DER (RFC 3279 section 2.2.3), at fixed length (RFC 7518 section 3.4).
fn fixed(der: &[u8], half: usize) -> Option<Vec<u8>> {
    let (_, sequence) = Sequence::from_der(der).ok()?;
    let (rest, r) = Integer::from_der(&sequence.content).ok()?;
    let (_, s) = Integer::from_der(rest).ok()?;
    let mut out = vec![0; 2 * half];
    for (number, place) in [r, s].iter().zip(out.chunks_mut(half)) {
        let leading = number.as_ref().iter().take_while(|b| **b == 0).count();
        let bytes = &number.as_ref()[leading..];
        let start = half.checked_sub(bytes.len())?;
        place[start..].copy_from_slice(bytes);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{super::Authority, *};

    const DOMAIN: &str = "nearfield.test";
    const HOUR: Duration = Duration::from_secs(3600);

    fn signed(authority: &Authority, message: &[u8]) -> (Credentials, Vec<u8>) {
        let uri = "spiffe://nearfield.test/region/eu-central/role/core/node/core-1";
        let (cert, key) = authority.issue(&Identity::from_spiffe(uri, DOMAIN).unwrap(), HOUR).unwrap();
        let credentials = Credentials::from_pem(authority.ca_pem(), &cert, &key, DOMAIN).unwrap();
        let signature = credentials.sign(message).unwrap();
        (credentials, signature)
    }

    #[test]
    fn what_a_node_signs_is_proven_by_its_authority_alone_and_in_its_time() {
        let (ours, theirs) = (Authority::create(DOMAIN, HOUR).unwrap(), Authority::create(DOMAIN, HOUR).unwrap());
        let (credentials, signature) = signed(&ours, b"so it was");
        assert_eq!((credentials.algorithm(), signature.len()), (Ok(Algorithm::Es256), 64));
        let now = SystemTime::now();
        let claim = |message: &'static [u8], at| Claim {
            chain: credentials.chain(),
            algorithm: Algorithm::Es256,
            message,
            signature: &signature,
            at,
        };
        let who = claim(b"so it was", now).verify(ours.ca_pem().as_bytes(), None).unwrap();
        assert_eq!(&who, credentials.identity());
        let refused = |claim: Claim<'_>, ca: &Authority| claim.verify(ca.ca_pem().as_bytes(), None).unwrap_err();
        assert!(matches!(refused(claim(b"so it is not", now), &ours), NotProven::Signature));
        assert!(matches!(refused(claim(b"so it was", now), &theirs), NotProven::Chain(Unacceptable::Untrusted)));
        assert!(matches!(refused(claim(b"so it was", now + 2 * HOUR), &ours), NotProven::Time { .. }));
        assert!(matches!(refused(claim(b"so it was", now - 2 * HOUR), &ours), NotProven::Time { .. }));
        assert!(matches!(refused(Claim { chain: &[], ..claim(b"x", now) }, &ours), NotProven::NoCertificate));
    }

    #[test]
    fn every_signature_has_its_full_length_whatever_zeroes_it_begins_with() {
        let authority = Authority::create(DOMAIN, HOUR).unwrap();
        let (credentials, _) = signed(&authority, b"");
        // One in 128 of these has a number that begins with a zero byte.
        for n in 0..600u32 {
            let (message, at) = (n.to_be_bytes(), SystemTime::now());
            let signature = credentials.sign(&message).unwrap();
            let public = UnparsedPublicKey::new(Algorithm::Es256.verification(), {
                let certificate = parse(&credentials.chain()[0]).unwrap();
                certificate.public_key().subject_public_key.data.to_vec()
            });
            assert!(public.verify(&message, &signature).is_ok(), "{n} {at:?}");
        }
    }

    #[test]
    fn a_revoked_signer_proves_nothing() {
        let authority = Authority::create(DOMAIN, HOUR).unwrap();
        let uri = "spiffe://nearfield.test/region/eu-central/role/core/node/core-1";
        let (cert, key) = authority.issue(&Identity::from_spiffe(uri, DOMAIN).unwrap(), HOUR).unwrap();
        let credentials = Credentials::from_pem(authority.ca_pem(), &cert, &key, DOMAIN).unwrap();
        let crl = authority.revoke(None, Some(&cert), HOUR).unwrap();
        let signature = credentials.sign(b"x").unwrap();
        let claim = Claim {
            chain: credentials.chain(),
            algorithm: Algorithm::Es256,
            message: b"x",
            signature: &signature,
            at: SystemTime::now(),
        };
        let refused = claim.verify(authority.ca_pem().as_bytes(), Some(crl.as_bytes())).unwrap_err();
        assert!(matches!(refused, NotProven::Chain(Unacceptable::Revoked)), "{refused}");
    }
}
