//! What a user of the member list sees of it.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use bytes::Bytes;

use crate::{
    identity::{Identity, NodeId},
    wire::report::Report,
};

/// A live node other than this one.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Who it is.
    pub identity: Identity,
    /// Where its QUIC endpoint is.
    pub addr: SocketAddr,
    /// What it last said of itself, if that has come through.
    pub report: Option<Arc<Report>>,
    /// When that came, by this node's monotonic clock: the clock that wrote the report may be wrong.
    pub heard: Option<Instant>,
}

/// A packet to be sent as one datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: SocketAddr,
    /// Whom to; `None` for an announcement to whoever is at that address.
    pub node: Option<NodeId>,
    /// At most [`MAX_PACKET`](super::MAX_PACKET) bytes.
    pub packet: Bytes,
}

/// A change that a user of the member list should know of.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A node joined, or came back.
    Up(Member),
    /// A node left or is held to be dead.
    Down(NodeId),
    /// A live node has a new report, address, role or region.
    Changed(NodeId),
    /// Two nodes have one id. The one that came first answers, and the other is refused.
    Twin {
        /// Their id.
        node: NodeId,
        /// Where the first is.
        known: SocketAddr,
        /// Where the other is.
        other: SocketAddr,
    },
    /// By another node's clock ours is wrong, or its own is.
    ClockDiffers {
        /// Whose.
        by: NodeId,
        /// How far ours is ahead of it, in milliseconds.
        ahead: i64,
    },
}
