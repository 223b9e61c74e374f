//! Keys for virtual time: Ed25519 from a number, so that equal seeds sign equal bytes; no X.509.

use std::{
    collections::{BTreeMap, BTreeSet},
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
        Some(self.key.sign(message).as_ref().to_vec())
    }

    fn holder(&self, certificate: Fingerprint) -> Option<Identity> {
        let known = self.knows(certificate);
        lock(&self.authority.0).certificates.get(&certificate).filter(|_| known).map(|(identity, _)| identity.clone())
    }

    fn verify(&self, certificate: Fingerprint, message: &[u8], signature: &[u8]) -> bool {
        let mut issued = lock(&self.authority.0);
        issued.verified += 1;
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
