//! Where things are: regions, how far apart they are, and the DNS that sends each caller to the nearest.
//!
//! # Follow one question
//!
//! A resolver asks for `edge.mesh.example`. The question passes
//!
//! 1. [`server`]: a datagram or a TCP stream becomes a question; junk, transfers and other zones end here;
//! 2. [`client`]: the resolver's address becomes a [region](region::RegionId), the configured default if no
//!    network holds it;
//! 3. [`answer`]: the name becomes a kind of record, and the [`Directory`](answer::Directory) of live nodes,
//!    as gossip last told it, becomes addresses;
//! 4. [`latency`]: regions in order of their round trip from the client's, by the [`map`]'s measurements;
//! 5. [`server`] again: the records go out with a TTL of seconds.
//!
//! Which addresses may be told to anybody is in [`address`].
//!
//! Nothing is cached on the way: the answer changes as soon as the directory does. All but [`server`] is pure.

pub mod address;
pub mod answer;
pub mod client;
pub mod latency;
pub mod map;
pub mod matrix;
pub mod places;
pub mod region;
pub mod server;

pub use region::RegionId;

/// A reader of the CSV files of this crate: a header, `#` comments, blanks around cells ignored.
fn table(text: &str) -> csv::Reader<&[u8]> {
    csv::ReaderBuilder::new().comment(Some(b'#')).trim(csv::Trim::All).from_reader(text.as_bytes())
}
