//! How nodes reach each other.

pub mod clock;
pub mod codec;
pub mod identity;
pub mod trace;
pub mod wire;
