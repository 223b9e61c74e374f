//! What can be wrong with certificates.

use std::io;

use crate::identity::{BadIdentity, Identity};

/// Why certificate files cannot be used. Each names the file.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// The file is not there, or not readable.
    #[error("{path}: cannot be read: {source}")]
    Read {
        /// Which file.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{path}: no PEM certificate in it")]
    NoCertificate {
        /// Which file.
        path: String,
    },
    /// The file holds no key.
    #[error("{path}: no private key in it (PEM: PKCS#8, SEC1 or PKCS#1)")]
    NoKey {
        /// Which file.
        path: String,
    },
    /// One of several things in the file is cut off, or was changed.
    #[error("{path}: {what} number {number} in it is damaged: {reason}")]
    Damaged {
        /// Which file.
        path: String,
        /// What: `certificate`, `private key`, `revocation list`.
        what: &'static str,
        /// The how manieth of them, from 1.
        number: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The key is of no use without a password.
    #[error(
        "{path}: the private key has a password, which nobody types when a node starts: store it without one (`openssl pkey`), readable for the node alone"
    )]
    LockedKey {
        /// Which file.
        path: String,
    },
    /// The TLS library cannot use such keys.
    #[error(
        "{path}: this key cannot be used: it must be whole, and ECDSA on P-256 or P-384, Ed25519, or RSA with 2048 to 4096 bits"
    )]
    KindOfKey {
        /// Which file.
        path: String,
    },
    /// The first certificate in the file does not name a node.
    #[error("{path}: {source}")]
    Unsuitable {
        /// Which file.
        path: String,
        /// What is wrong with it.
        source: BadCertificate,
    },
    /// Its time is over.
    #[error("{path}: expired on {at}; this machine's clock says {clock}")]
    Expired {
        /// Which file.
        path: String,
        /// When.
        at: String,
        /// What time it is here.
        clock: String,
    },
    /// Its time has not come; or the clock of this machine is wrong.
    #[error("{path}: not valid before {at}; this machine's clock says {clock}")]
    NotYetValid {
        /// Which file.
        path: String,
        /// When.
        at: String,
        /// What time it is here.
        clock: String,
    },
    /// The two belong to different certificates.
    #[error("{key}: not the key of the certificate in {cert}")]
    KeyMismatch {
        /// The key's file.
        key: String,
        /// The certificate's file.
        cert: String,
    },
    /// The authority did not sign the certificate, or it lacks the name that peers dial.
    #[error("{cert}: not accepted under the authorities in {ca} for the name {name}: {reason}")]
    Untrusted {
        /// The certificate's file.
        cert: String,
        /// The authorities' file.
        ca: String,
        /// The DNS name that peers will ask for.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The file holds no revocation list.
    #[error("{path}: no PEM revocation list in it (X509 CRL)")]
    NoRevocations {
        /// Which file.
        path: String,
    },
    /// A revocation list is malformed or forged.
    #[error("{path}: bad revocation list: {reason}")]
    BadRevocations {
        /// Which file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A new certificate that makes another node of this one.
    #[error("{cert}: names {} `{}` in `{}`, which is not this node: start it anew", found.role, found.node, found.region)]
    OtherNode {
        /// The certificate's file.
        cert: String,
        /// Whom it names.
        found: Box<Identity>,
    },
    /// It was not loaded from files, so there is nothing to read anew.
    #[error("not loaded from files")]
    NoFiles,
    /// The trust domain cannot be part of a DNS name.
    #[error("trust domain `{0}` is not a DNS name")]
    TrustDomain(String),
    /// The TLS library refuses the material for another reason.
    #[error("{path}: {reason}")]
    Tls {
        /// The file it is about.
        path: String,
        /// What it says.
        reason: String,
    },
}

/// Why a certificate does not name a node of this mesh.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCertificate {
    /// Not X.509, or a part of it is malformed.
    #[error("malformed certificate: {0}")]
    Malformed(String),
    /// No URI subject alternative name, or more than the one that SPIFFE allows.
    #[error(
        "{0} URI subject alternative names, expected one: spiffe://<trust domain>/region/<region>/role/<role>/node/<id>"
    )]
    Uris(usize),
    /// The URI does not name a node of this mesh.
    #[error(transparent)]
    Identity(#[from] BadIdentity),
}
