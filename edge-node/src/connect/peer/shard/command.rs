//! What a shard is told.

use std::net::SocketAddr;

use bytes::BytesMut;
use mesh::wire::request::Secret;
use rtc::ice::candidate::Candidate;
use tokio::sync::{mpsc, watch};

use super::super::{
    Voices,
    describe::{Credentials, Remote},
    phase::Phase,
    session::Session,
};
use crate::connect::{Event, ice_server::At};

/// What a connection's owner wants.
pub(in super::super) enum Command {
    /// Serve this connection.
    Add {
        id: u64,
        ufrag: String,
        session: Box<Session>,
        events: mpsc::Sender<Event>,
        state: watch::Sender<Phase>,
        /// Takes our candidates that no description has.
        fresh: mpsc::Sender<String>,
    },
    /// Ask this TURN server for an address.
    Server {
        id: u64,
        at: At,
        username: String,
        credential: Secret,
        /// Our end of the way to it.
        local: SocketAddr,
        /// Takes what is for it, where it is spoken to over TCP.
        stream: Option<mpsc::Sender<BytesMut>>,
    },
    /// What came from a TURN server over TCP.
    Streamed { id: u64, from: SocketAddr, bytes: BytesMut },
    /// The relay has described itself.
    Describe {
        id: u64,
        remote: Box<Remote>,
        voices: Voices,
        offered: bool,
        /// Ours, should this be a restart.
        ours: Option<Credentials>,
    },
    /// The relay has another address.
    Candidate(u64, Box<Candidate>),
    /// It is over.
    Close(u64),
}
