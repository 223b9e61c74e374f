//! What can go wrong between nodes.

use std::net::SocketAddr;

use super::{CONNECT_DEADLINE, REQUEST_DEADLINE, STREAM_DEADLINE};
use crate::{
    identity::NodeId,
    seeds,
    stream::StreamError,
    transport::{BindError, HandshakeError},
};

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The socket.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Others would be told an address that leads nowhere.
    #[error("advertised address {0} is unspecified: say at which address other nodes reach this one")]
    Advertise(SocketAddr),
    /// The resolver for seeds.
    #[error(transparent)]
    Seeds(#[from] seeds::ResolverError),
}

/// Why a node cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither connected nor a live member.
    #[error("{0} is no live member of the mesh")]
    Unknown(NodeId),
    /// It took longer than [`CONNECT_DEADLINE`].
    #[error("not connected in {CONNECT_DEADLINE:?}")]
    Deadline,
    /// The handshake failed or was refused.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// Somebody else lives at that address.
    #[error("expected {expected} at {addr}, found {found}")]
    WrongNode {
        /// Who was dialled.
        expected: NodeId,
        /// Who answered.
        found: NodeId,
        /// Where.
        addr: SocketAddr,
    },
    /// The address is this node's own.
    #[error("{0} is this node itself")]
    Myself(SocketAddr),
    /// There are too many connections already.
    #[error("too many connections with {0}")]
    TooMany(NodeId),
    /// This node is shutting down.
    #[error("this node is shutting down")]
    Shutdown,
}

/// Why a stream cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The peer did not grant a stream within [`STREAM_DEADLINE`].
    #[error("no stream granted in {STREAM_DEADLINE:?}")]
    Deadline,
    /// The connection is gone.
    #[error("connection lost: {0}")]
    Connection(#[from] quinn::ConnectionError),
    /// The stream broke at once.
    #[error(transparent)]
    Stream(#[from] quinn::WriteError),
}

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The node was not reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The stream could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The stream broke, or the answer was malformed.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The peer ended the stream without an answer.
    #[error("the peer gave no answer")]
    NoAnswer,
    /// It took longer than [`REQUEST_DEADLINE`].
    #[error("no answer in {REQUEST_DEADLINE:?}")]
    Deadline,
}
