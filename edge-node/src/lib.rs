//! Meeting relay to speech frames: joins a meeting near its relay and keeps only what was said.
//!
//! # Follow one frame
//!
//! In order of travel:
//!
//! - [`media`]: what a connector yields, one RTP packet of one participant
//! - [`jitter`]: order, duplicates, loss; media time laid over the wall clock
//! - [`gate`]: is it worth decoding? By what [`toc`] reads without a decoder
//! - [`decode`]: Opus to 16 kHz, for the VAD's ears only
//! - [`vad`]: speech begins, continues, ends
//! - [`spurt`]: pre-roll, tail, items numbered and timed
//! - [`pipeline`]: the five above as one machine
//! - [`uplink`]: kept until its words are out, replayed to whichever core is next
//!
//! These are pure: time comes in as an argument, nothing waits.

pub mod decode;
pub mod gate;
pub mod jitter;
pub mod media;
pub mod pipeline;
pub mod spurt;
pub mod toc;
pub mod uplink;
pub mod vad;

#[cfg(test)]
#[path = "../tests/signals/mod.rs"]
mod signals;

pub mod connect;
pub mod probe;
pub mod assignments;
pub mod config;
pub mod driver;
pub mod link;
pub mod meeting;
