//! Keys: what a node signs with, and by which it knows what others have signed.

use std::fmt;

use bytes::{Buf, BufMut};

use crate::identity::Identity;

/// A certificate, by the first 64 bits of the SHA-256 of its DER.
///
/// Enough, since only certificates that the mesh's authority has issued are looked up by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; Self::LENGTH]);

impl Fingerprint {
    /// Its length, in bytes.
    pub const LENGTH: usize = 8;

    /// Of a certificate in DER.
    pub fn of(der: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, der);
        let mut short = [0; Self::LENGTH];
        short.iter_mut().zip(digest.as_ref()).for_each(|(to, byte)| *to = *byte);
        Self(short)
    }

    pub(super) fn put(self, buf: &mut impl BufMut) {
        buf.put_slice(&self.0);
    }

    pub(super) fn take(buf: &mut &[u8]) -> Option<Self> {
        let mut bytes = [0; Self::LENGTH];
        buf.try_copy_to_slice(&mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A node's own key, and the certificates of others as far as they are known and accepted.
///
/// Shared: the shell adds certificates, and [`super::Membership`] asks for them. All of it is a function of bytes.
pub trait Keys: Send + Sync {
    /// The node's own certificate.
    fn certificate(&self) -> Fingerprint;

    /// `message`, signed with the node's own key; `None` if the key refuses.
    fn sign(&self, message: &[u8]) -> Option<Vec<u8>>;

    /// Whom a certificate names; `None` if it is not known, or accepted no more.
    fn holder(&self, certificate: Fingerprint) -> Option<Identity>;

    /// Whether the key of that certificate, which is known and accepted, has signed `message`.
    fn verify(&self, certificate: Fingerprint, message: &[u8], signature: &[u8]) -> bool;
}

/// A certificate that is to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// From whom: it has told of it.
    pub from: crate::identity::NodeId,
    /// Which.
    pub certificate: Fingerprint,
}
