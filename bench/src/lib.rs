//! The bench: a world on one machine, a meeting in it, and the judgement of what came out.

pub mod relay;
pub mod world;
