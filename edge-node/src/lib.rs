//! Meeting relay to speech frames: joins a meeting near its relay and keeps only what was said.
//!
//! # Follow one frame
//!
//! In order of travel:
//!
//! - [`media`]: what a connector yields, one RTP packet of one participant
//!
//! Everything listed here is pure: time comes in as an argument, nothing waits.

pub mod media;

pub mod connect;
pub mod probe;
