//! The certificates by which gossip is verified: what peers have shown, and what was fetched from others.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use quinn::{RecvStream, SendStream};
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;
use tracing::debug;

use super::{STREAM_DEADLINE, Shared, gossip::Input, lock};
use crate::{
    codec,
    identity::{
        Identity,
        certs::{Accepted, Credentials, NotProven},
    },
    membership::{Fetch, Fingerprint, Keys, MAX_MEMBERS_KNOWN},
    tasks, wire,
};

/// The most certificates held: two for each node, since they are renewed.
const MOST: usize = 2 * MAX_MEMBERS_KNOWN;
/// The longest chain taken from another node, in bytes.
const LONGEST: usize = 16 * 1024;
/// A certificate must be there within this.
const FETCH_DEADLINE: Duration = Duration::from_secs(4);

/// The own credentials, and every certificate that was accepted under them.
pub(super) struct Keyring(Mutex<Ring>);

struct Ring {
    own: Fingerprint,
    credentials: Credentials,
    known: BTreeMap<Fingerprint, Known>,
}

struct Known {
    accepted: Arc<Accepted>,
    chain: Arc<Vec<CertificateDer<'static>>>,
}

impl Keyring {
    pub(super) fn new(credentials: Credentials) -> Self {
        let ring = Ring { own: Fingerprint([0; 8]), credentials: credentials.clone(), known: BTreeMap::new() };
        let keyring = Self(Mutex::new(ring));
        keyring.renew(credentials, SystemTime::now());
        keyring
    }

    /// Signs with `credentials` from now on, and judges every certificate anew by whom they trust.
    pub(super) fn renew(&self, credentials: Credentials, now: SystemTime) {
        let mut ring = lock(&self.0);
        let chain = credentials.chain().to_vec();
        ring.own = chain.first().map_or(ring.own, |leaf| Fingerprint::of(leaf));
        ring.credentials = credentials;
        let before = std::mem::take(&mut ring.known);
        let all = before.into_values().map(|known| known.chain).chain([Arc::new(chain)]);
        all.for_each(|chain| drop(ring.add(chain, now)));
    }

    /// Takes in a certificate and its intermediates.
    pub(super) fn learn(&self, chain: Vec<CertificateDer<'static>>, now: SystemTime) -> Result<Fingerprint, NotProven> {
        lock(&self.0).add(Arc::new(chain), now)
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.0).known.len()
    }

    /// Forgets what has expired.
    pub(super) fn tidy(&self, now: SystemTime) {
        lock(&self.0).known.retain(|_, known| known.accepted.expires >= now);
    }

    fn accepted(&self, certificate: Fingerprint) -> Option<Arc<Accepted>> {
        lock(&self.0).known.get(&certificate).map(|known| known.accepted.clone())
    }

    fn chain(&self, certificate: Fingerprint) -> Option<Arc<Vec<CertificateDer<'static>>>> {
        lock(&self.0).known.get(&certificate).map(|known| known.chain.clone())
    }
}

impl Ring {
    fn add(&mut self, chain: Arc<Vec<CertificateDer<'static>>>, now: SystemTime) -> Result<Fingerprint, NotProven> {
        let certificate = Fingerprint::of(chain.first().ok_or(NotProven::NoCertificate)?);
        if self.known.contains_key(&certificate) {
            return Ok(certificate);
        }
        let accepted = Arc::new(self.credentials.accept(&chain, now)?);
        if self.known.len() >= MOST {
            // What expires first is the most likely to have been replaced.
            let soonest = self.known.iter().filter(|(c, _)| **c != self.own).min_by_key(|(_, k)| k.accepted.expires);
            let soonest = soonest.map(|(certificate, _)| *certificate);
            soonest.and_then(|certificate| self.known.remove(&certificate));
        }
        self.known.insert(certificate, Known { accepted, chain });
        Ok(certificate)
    }
}

impl Keys for Keyring {
    fn certificate(&self) -> Fingerprint {
        lock(&self.0).own
    }

    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let credentials = lock(&self.0).credentials.clone();
        credentials.sign(message).ok()
    }

    fn holder(&self, certificate: Fingerprint) -> Option<Identity> {
        self.accepted(certificate).map(|accepted| accepted.identity.clone())
    }

    fn verify(&self, certificate: Fingerprint, message: &[u8], signature: &[u8]) -> bool {
        metrics::counter!("nearfield_mesh_gossip_verified_total").increment(1);
        self.accepted(certificate).is_some_and(|accepted| accepted.verify(message, signature))
    }
}

/// Fetches a certificate from a peer that is connected, and hands it to the gossip task.
pub(super) fn fetch(shared: &Arc<Shared>, fetch: Fetch) {
    let Some(peer) = shared.pool.newest(&fetch.from) else { return };
    let shared = shared.clone();
    tasks::once("certificate fetch", async move {
        let asked = async {
            let (mut send, mut recv) = peer.connection.open_bi().await?;
            send.write_all(&[wire::STREAM_CERTIFICATE]).await?;
            send.write_all(&fetch.certificate.0).await?;
            send.finish()?;
            anyhow::Ok(recv.read_to_end(LONGEST).await?)
        };
        let outcome = timeout(FETCH_DEADLINE, asked).await;
        let taken = outcome.map_err(anyhow::Error::from).flatten().and_then(|bytes| take(&shared, &bytes));
        metrics::counter!("nearfield_mesh_certificates_fetched_total", "outcome" => if taken.is_ok() { "taken" } else { "refused" })
            .increment(1);
        match taken {
            // The gossip task is gone only when the node is.
            Ok(certificate) => drop(shared.gossip.send(Input::Certificate(certificate)).await),
            Err(error) => debug!(node = %fetch.from, %error, "certificate not fetched"),
        }
    });
}

fn take(shared: &Shared, bytes: &[u8]) -> anyhow::Result<Fingerprint> {
    let chain: Vec<Vec<u8>> = codec::decode(bytes)?;
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    Ok(shared.keyring.learn(chain, SystemTime::now())?)
}

/// Answers one who fetches a certificate.
pub(super) async fn serve(shared: &Shared, mut send: SendStream, mut recv: RecvStream) {
    let mut certificate = [0; Fingerprint::LENGTH];
    if !matches!(timeout(STREAM_DEADLINE, recv.read_exact(&mut certificate)).await, Ok(Ok(()))) {
        return;
    }
    let chain = shared.keyring.chain(Fingerprint(certificate));
    let bytes = chain.and_then(|chain| codec::encode(&chain.iter().map(|der| der.to_vec()).collect::<Vec<_>>()).ok());
    // The asker may be gone; with nothing to give the stream just ends.
    let _ = timeout(STREAM_DEADLINE, send.write_all(&bytes.unwrap_or_default())).await;
    let _ = send.finish();
}
