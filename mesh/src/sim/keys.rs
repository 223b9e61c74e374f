//! Keys for virtual time: Ed25519 from a number, so that equal seeds sign equal bytes; no X.509.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::{
    identity::Identity,
    membership::{Fingerprint, Keys},
};

/// Who vouches for the nodes of a world. Cheap to clone.
#[derive(Clone, Default)]
pub struct Authority(Arc<Mutex<Issued>>);

#[derive(Default)]
struct Issued {
    certificates: BTreeMap<Fingerprint, (Identity, Vec<u8>)>,
    /// Whether signatures are hashes.
    cheap: bool,
    /// Whose keys anybody has: all is held to be signed with them.
    leaked: BTreeSet<Fingerprint>,
    /// What was verified before: every node verifies the same bytes.
    memory: BTreeMap<[u8; 32], bool>,
    /// How often nodes have verified a signature.
    verified: u64,
}

/// One node's key, and the certificates it has been shown.
pub struct Ring {
    authority: Authority,
    certificate: Fingerprint,
    key: Ed25519KeyPair,
    known: Mutex<BTreeSet<Fingerprint>>,
}

/// Verifications remembered; more are made again.
const MEMORY: usize = 1 << 16;

impl Authority {
    /// One whose nodes sign with a hash of certificate and message, which costs next to nothing. Only who calls
    /// [`Keys::sign`] makes a valid one, as with Ed25519, but for those who know this file. For fuzzing.
    pub fn cheap() -> Self {
        Self(Arc::new(Mutex::new(Issued { cheap: true, ..Issued::default() })))
    }

    /// Gives the key of a certificate to everybody: whatever is said under it counts as signed.
    pub fn leak(&self, certificate: Fingerprint) {
        lock(&self.0).leaked.insert(certificate);
    }

    /// A certificate for `identity`, another one each time.
    ///
    /// # Panics
    /// Never: the seed has the length of one.
    pub fn issue(&self, identity: Identity) -> Arc<Ring> {
        let mut issued = lock(&self.0);
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&(issued.certificates.len() as u64).to_be_bytes());
        let key = Ed25519KeyPair::from_seed_unchecked(&seed).expect("32 bytes are a seed");
        let public = key.public_key().as_ref().to_vec();
        let certificate = Fingerprint::of(&public);
        issued.certificates.insert(certificate, (identity, public));
        let known = Mutex::new(BTreeSet::from([certificate]));
        Arc::new(Ring { authority: self.clone(), certificate, key, known })
    }

    /// Accepts a certificate no more.
    pub fn revoke(&self, certificate: Fingerprint) {
        lock(&self.0).certificates.remove(&certificate);
    }

    /// How often nodes have verified a signature.
    pub fn verified(&self) -> u64 {
        lock(&self.0).verified
    }
}

impl Ring {
    /// Takes in a certificate; whether it was issued.
    pub fn learn(&self, certificate: Fingerprint) -> bool {
        let issued = lock(&self.authority.0).certificates.contains_key(&certificate);
        if issued {
            lock(&self.known).insert(certificate);
        }
        issued
    }

    /// Whether it is known here, and so may be fetched from here.
    pub fn knows(&self, certificate: Fingerprint) -> bool {
        lock(&self.known).contains(&certificate)
    }
}

impl Keys for Ring {
    fn certificate(&self) -> Fingerprint {
        self.certificate
    }

    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        if lock(&self.authority.0).cheap {
            return Some(cheap(self.certificate, message));
        }
        Some(self.key.sign(message).as_ref().to_vec())
    }

    fn holder(&self, certificate: Fingerprint) -> Option<Identity> {
        let known = self.knows(certificate);
        lock(&self.authority.0).certificates.get(&certificate).filter(|_| known).map(|(identity, _)| identity.clone())
    }

    fn verify(&self, certificate: Fingerprint, message: &[u8], signature: &[u8]) -> bool {
        let mut issued = lock(&self.authority.0);
        issued.verified += 1;
        if issued.leaked.contains(&certificate) {
            return issued.certificates.contains_key(&certificate);
        }
        if issued.cheap {
            return issued.certificates.contains_key(&certificate) && signature == cheap(certificate, message);
        }
        let Some((_, public)) = issued.certificates.get(&certificate).cloned() else { return false };
        let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
        [&public[..], message, signature].into_iter().for_each(|part| digest.update(part));
        let mut key = [0; 32];
        key.copy_from_slice(digest.finish().as_ref());
        if issued.memory.len() >= MEMORY {
            issued.memory.clear();
        }
        *issued
            .memory
            .entry(key)
            .or_insert_with(|| UnparsedPublicKey::new(&ED25519, &public).verify(message, signature).is_ok())
    }
}

/// As long as an Ed25519 signature.
fn cheap(certificate: Fingerprint, message: &[u8]) -> Vec<u8> {
    let mut hasher = DefaultHasher::new();
    (certificate, message).hash(&mut hasher);
    hasher.finish().to_be_bytes().repeat(8)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
