//! What the primary's end asks of its shell.

use mesh::{identity::NodeId, wire::Term};

use super::super::entry::Entry;
#[allow(unused_imports, reason = "for the documentation")]
use super::Replicator;

/// Whether a change may be spoken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It survives this core as far as it can.
    Yes,
    /// Not yet.
    No,
    /// Another core serves the meeting: it must not be.
    Never,
}

/// What the shell is to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Read a snapshot from the store, with all that was written before now, for [`Replicator::handle_snapshot`].
    Load,
    /// Write down that this is the binding standby, here and at the authority; [`Replicator::handle_persisted`] with this number
    /// follows. One after the other.
    Persist(u64, Option<NodeId>),
    /// Tell the edge, under this number. If it is connected [`Replicator::handle_told`] comes before.
    Announce(u64, Option<NodeId>),
    /// Write down, at the authority and here, that this core, without a standby, serves in this term;
    /// [`Replicator::handle_begun`] follows, or [`Replicator::handle_not_begun`] if nothing was written anywhere.
    Begin(Term),
    /// This core is no good as a standby for now, and is to hear so, under this stream, should it hear anything.
    Avoid(NodeId, u64),
    /// Stop serving: this core does, in that term.
    Superseded(NodeId, Term),
}

/// What is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Send {
    /// To whom.
    pub core: NodeId,
    /// Of which stream.
    pub stream: u64,
    /// Number of the first piece.
    pub first: u64,
    /// The pieces; none just to ask.
    pub pieces: Vec<Vec<u8>>,
}

impl Send {
    /// That `core` need not be the standby any more.
    pub fn farewell(core: NodeId, stream: u64) -> Self {
        let entries = [Entry::Begin { stream, held: None }, Entry::Dropped];
        Self { core, stream, first: 0, pieces: entries.iter().flat_map(Entry::pieces).collect() }
    }
}
