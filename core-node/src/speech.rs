//! What one meeting's edges heard, until it is worth transcribing. All of it is pure: time and what happened come as arguments.

pub mod ingest;
pub mod merge;
pub mod order;
pub mod utterance;
