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
    #[error("advertised address {0}: {1}")]
    Advertise(SocketAddr, geo::address::Unfit),
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
    /// Another process answers there with a certificate of this node's id.
    #[error("at {0} is another node with this node's id: two nodes were given one certificate")]
    Twin(SocketAddr),
    /// Another node answers at the address that this one tells the others.
    #[error("at {addr}, which this node advertises as its own (mesh.advertise), is `{found}`")]
    Taken {
        /// Where.
        addr: SocketAddr,
        /// Who answered.
        found: NodeId,
    },
    /// There are too many connections already.
    #[error("too many connections with {0}")]
    TooMany(NodeId),
    /// This node is shutting down.
    #[error("this node is shutting down")]
    Shutdown,
}

impl ConnectError {
    /// Whether nothing at all came back.
    pub(super) fn is_silence(&self) -> bool {
        use quinn::ConnectionError::TimedOut;
        matches!(
            self,
            Self::Deadline | Self::Handshake(HandshakeError::Deadline | HandshakeError::Connection(TimedOut))
        )
    }
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
