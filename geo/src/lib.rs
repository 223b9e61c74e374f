//! Where things are.

pub mod region;

pub use region::RegionId;
