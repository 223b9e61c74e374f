//! Whole cores in tests: their parts as they ship, with a mesh and an engine that are pretended. Each file has the scenarios of
//! one subject, and [`fakes`] is what stands in for the world.

pub(crate) mod fakes;

mod authority;
mod back;
mod door;
mod dropped;
mod failover;
mod isolation;
mod keys;
mod leaving;
mod older;
mod order;
mod places;
mod redundancy;
mod relief;
mod residency;
mod soak;
mod tasks;
mod trouble;
mod words;
