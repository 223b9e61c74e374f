//! Speech frames in, words out.
//!
//! **Follow one frame**, in the order of its travel:
//!
//! 1. [`edges`] reads talk spurts off the edge's streams; [`edges::aliases`] knows what the edge's
//!    short names mean.
//! 2. [`speech::ingest`] takes each item once and in order, whatever is replayed.
//! 3. [`store::log`] writes it to the [`store`], and only then is it acknowledged as *durable*.
//! 4. [`speech::merge`] joins spurts that continue each other, and lays those of several edges on top of each other;
//!    [`speech::utterance`] decodes what comes of it.
//! 5. [`meeting::transcription`] has each utterance transcribed by [`transcribe`], partials and finals.
//! 6. [`transcript`] gives the words their id, revision, number and time.
//! 7. [`speech::order`] puts each speaker's finals in order; [`publish`] stores them, sends all to who listens; then the spurt
//!    is *done*.
//! 8. [`api`] answers the world.
//!
//! [`meetings`] holds what lives: it has a meeting placed on an edge ([`placement`]), follows it, and ends it, as
//! [`meeting::machine`] decides. [`authority`] says which core serves it.

#![warn(clippy::print_stderr)]

pub mod api;
pub mod authority;
pub mod config;
pub mod edges;
#[doc(hidden)]
pub mod fuzzing;
pub mod key;
pub mod measures;
pub mod meeting;
pub mod meetings;
pub mod peers;
pub mod placement;
pub mod publish;
pub mod receipt;
pub mod replicate;
pub mod residency;
pub mod speech;
pub mod store;
pub mod transcribe;
pub mod transcript;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// This program and its version.
pub const SOFTWARE: &str = concat!("core-node/", env!("CARGO_PKG_VERSION"));

/// Locks; a holder that panicked left nothing half done, since each holds it for one plain change.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
