//! What a dialler offers to speak, where this node speaks none of it.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

/// The most ids that are shown of an offer, and the most letters of each: whoever sends it has proved nothing.
const MAX_IDS: usize = 4;
const MAX_LETTERS: usize = 32;

/// The last offer of which this node speaks nothing (RFC 7301 section 3.1), until it is taken.
#[derive(Debug, Clone, Default)]
pub(crate) struct Offered(Arc<Mutex<Option<String>>>);

impl Offered {
    pub(crate) fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn note<'a>(&self, ids: impl Iterator<Item = &'a [u8]>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(shown(ids));
    }
}

/// Protocol ids as a log may show them.
pub(crate) fn shown<'a>(ids: impl Iterator<Item = &'a [u8]>) -> String {
    let letter = |byte: &u8| if byte.is_ascii_graphic() { char::from(*byte) } else { '?' };
    let id = |id: &[u8]| id.iter().take(MAX_LETTERS).map(letter).collect::<String>();
    ids.take(MAX_IDS).map(id).collect::<Vec<_>>().join(", ")
}

/// Shows the node's own certificate to everybody, and notes what the dialler speaks if it is none of `ours`.
pub(super) struct Noting {
    pub(super) own: Arc<CertifiedKey>,
    pub(super) ours: Vec<Vec<u8>>,
    pub(super) offered: Offered,
}

impl ResolvesServerCert for Noting {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let known = |id: &[u8]| self.ours.iter().any(|ours| ours == id);
        if !hello.alpn().is_some_and(|mut ids| ids.any(known)) {
            self.offered.note(hello.alpn().into_iter().flatten());
        }
        Some(self.own.clone())
    }
}

impl fmt::Debug for Noting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Noting").finish_non_exhaustive()
    }
}
