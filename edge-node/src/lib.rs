//! Meeting relay to speech frames: joins a meeting near its relay and keeps only what was said.
//!
//! # Follow one frame
//!
//! In order of travel:
//!
//! - [`assignments`]: a core asks this edge to join a meeting, once [`probe`] has measured how near it is
//! - [`connect`]: a way into the meeting; yields [`media`], one RTP packet of one participant. Where others may send this edge
//!   [`egress`] says
//! - [`driver`]: the only loop that waits; it feeds
//! - [`meeting`]: the participants, each with a pipeline, and what is on its way to the core
//! - [`jitter`]: order, duplicates, loss; media time laid over the wall clock
//! - [`gate`]: is it worth decoding? By what [`toc`] reads without a decoder
//! - [`decode`]: Opus to 16 kHz, for the VAD's ears only
//! - [`vad`]: speech begins, continues, ends
//! - [`spurt`]: pre-roll, tail, items numbered and timed
//! - [`pipeline`]: the five above as one machine
//! - [`paths`]: one of those for each source of a participant
//! - [`transcode`]: encoded anew, where the link to the core lets less pass than the source sends
//! - [`failover`]: which core serves, and when to turn to its standby
//! - [`uplink`]: kept until its words are out, replayed to whichever core is next
//! - [`link`]: the control stream to that core
//!
//! [`budget`], [`guard`] and [`isolate`] see to it that what befalls one meeting befalls no other.
//!
//! `media` and what lies between `meeting` and `uplink` is pure: time comes in as an argument, nothing waits.

#![warn(clippy::print_stderr)]

pub mod assignments;
pub mod budget;
pub mod config;
pub mod connect;
pub mod decode;
pub mod driver;
pub mod egress;
pub mod failover;
#[doc(hidden)]
pub mod fuzzing;
pub mod gate;
pub mod guard;
pub mod isolate;
pub mod jitter;
pub mod link;
pub mod measures;
pub mod media;
pub mod meeting;
pub mod paths;
pub mod pipeline;
pub mod probe;
pub mod spurt;
pub mod toc;
pub mod transcode;
pub mod uplink;
pub mod vad;

#[cfg(test)]
#[path = "../tests/signals/mod.rs"]
mod signals;
