//! How nodes reach each other.
//!
//! **Follow one packet.** A UDP packet reaches [`transport`], whose QUIC endpoint has verified the
//! sender's certificate against [`identity`] before anything of it is read. [`node`] takes what is
//! inside by its first byte (see [`wire`]): a datagram is SWIM and goes to [`membership`], which
//! answers with packets, timers and news of who lives; a stream is a talk spurt, or typed messages
//! ([`stream`], [`codec`]), and goes to the program; [`spurts`] sends them, with [`redundancy`] where the path is lossy. [`seeds`] finds the first peers, [`placement`]
//! ranks those found. [`program`], [`config`], [`telemetry`], [`http`] and [`health`] are what every program around it needs, [`geo_dns`] is for the program of that name, and [`tasks`] what becomes of it when
//! a task panics.

#![warn(clippy::print_stderr)]

pub mod authorize;
pub mod clock;
pub mod codec;
pub mod config;
pub mod coordinate;
pub mod downmix;
#[cfg(feature = "sim")]
#[doc(hidden)]
pub mod fuzzing;
pub mod geo_dns;
pub mod health;
pub mod http;
pub mod identity;
pub mod ids;
pub mod lease;
pub mod mandate;
pub mod membership;
pub mod node;
pub mod placement;
pub mod program;
pub mod redundancy;
pub mod seeds;
pub mod share;
pub mod signals;
#[cfg(feature = "sim")]
pub mod sim;
pub mod spurts;
pub mod stream;
pub mod tasks;
pub mod telemetry;
pub mod trace;
pub mod transport;
pub mod version;
pub mod wire;
