//! core-node
pub mod transcribe;
