//! What a meeting has to tell one of its edges. The edge's connection puts it in the edge's own short names.

use mesh::{
    identity::NodeId,
    wire::{MeetingId, Term, control::ToEdge},
};

use crate::key::SpurtKey;

/// What is to reach an edge.
#[derive(Debug, Clone, PartialEq)]
pub enum ToLink {
    /// Items before `upto` are on disk.
    Durable {
        /// The meeting.
        meeting: MeetingId,
        /// The spurt.
        key: SpurtKey,
        /// One past the last item held.
        upto: u32,
    },
    /// The words of a spurt are out.
    Done {
        /// The meeting.
        meeting: MeetingId,
        /// The spurt.
        key: SpurtKey,
        /// Of how many items they are made, if the edge may have more.
        items: Option<u32>,
    },
    /// The edge is to leave a meeting.
    Leave {
        /// Which.
        meeting: MeetingId,
    },
    /// Which core would serve a meeting next.
    Standby {
        /// The meeting.
        meeting: MeetingId,
        /// The core.
        core: Option<NodeId>,
        /// The announcement's number.
        number: u64,
    },
    /// Another core serves a meeting by now.
    Moved {
        /// The meeting.
        meeting: MeetingId,
        /// Which core.
        core: NodeId,
        /// In which term.
        term: Term,
    },
    /// As it is.
    Message(ToEdge),
}
