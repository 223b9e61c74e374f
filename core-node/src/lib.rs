//! Speech frames in, words out.
//!
//! **Follow one frame**, in the order of its travel:
//!
//! 1. [`accept`] reads talk spurts off the edge's streams; [`link`] knows what the edge's
//!    short names mean.
//! 2. [`ingest`] takes each item once and in order, whatever is replayed.
//! 3. [`log`] writes it to the [`store`], and only then is it acknowledged as *durable*.
//! 4. [`merge`] joins spurts that continue each other, and lays those of several edges on top of each other;
//!    [`utterance`] decodes what comes of it.
//! 5. [`scribe`] has each utterance transcribed by [`transcribe`], partials and finals.
//! 6. [`transcript`] gives the words their id, revision, number and time.
//! 7. [`turns`] puts each speaker's finals in order; [`publish`] stores them, sends all to who listens; then the spurt is *done*.
//! 8. [`api`] answers the world.
//!
//! [`meetings`] holds what lives: it places a meeting on an edge, follows it, and ends it, as [`meeting::machine`] decides. [`authority`] says
//! which core serves it.

#![warn(clippy::print_stderr)]

pub mod accept;
pub mod api;
pub mod authority;
pub mod backup;
pub mod config;
pub mod doors;
#[doc(hidden)]
pub mod fuzzing;
pub mod ingest;
pub mod key;
pub mod link;
pub mod log;
pub mod measures;
pub mod meeting;
pub mod meetings;
pub mod merge;
pub mod peers;
pub mod publish;
pub mod receipt;
pub mod record;
pub mod replicate;
pub mod residency;
pub mod scribe;
pub mod seat;
pub mod store;
pub mod transcribe;
pub mod transcript;
pub mod turns;
pub mod utterance;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// This program and its version.
pub const SOFTWARE: &str = concat!("core-node/", env!("CARGO_PKG_VERSION"));

/// Locks; a holder that panicked left nothing half done, since each holds it for one plain change.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod authority_tests;
#[cfg(test)]
mod back_tests;
#[cfg(test)]
mod door_tests;
#[cfg(test)]
mod dropped_tests;
#[cfg(test)]
mod failover_tests;
#[cfg(test)]
mod fakes;
#[cfg(test)]
mod isolation_tests;
#[cfg(test)]
mod keys_tests;
#[cfg(test)]
mod leaving_tests;
#[cfg(test)]
mod older_tests;
#[cfg(test)]
mod order_tests;
#[cfg(test)]
mod places_tests;
#[cfg(test)]
mod redundancy_tests;
#[cfg(test)]
mod relief_tests;
#[cfg(test)]
mod residency_tests;
#[cfg(test)]
mod soak_tests;
#[cfg(test)]
mod tasks_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod trouble_tests;
