//! Keeping a standby core able to take a meeting over at any moment.
//!
//! The core that serves a meeting ships every change of it but the audio, in order, as [`entry`]s: a snapshot
//! first, then each change as it is written ([`sender`]). The [`receiver`] stores them. A final is published,
//! and said to be *done*, only when the standby has it; so whatever a listener saw survives this core, and the
//! edge keeps what is not done.
//!
//! The edges are the [`witnesses`] of the pair: they turn to the standby that they were last told of, and to no other.
//! So once an edge may know of a standby, this core goes on without it only when the edges have confirmed that
//! it is dropped, or the standby itself has.

pub mod choose;
pub mod entry;
pub mod handle;
pub mod receiver;
pub mod sender;
pub mod snapshot;
pub mod witnesses;
