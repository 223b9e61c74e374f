//! One other node: opening streams to it, and what it opens.

use quinn::{Connection, crypto::rustls::HandshakeData};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use super::{OpenError, REQUEST_DEADLINE, RequestError, STREAM_DEADLINE};
use crate::{
    identity::Identity,
    stream::{self, MessageReceiver, MessageSender, StreamError},
    wire::{
        self,
        request::{Request, Response},
    },
};

/// A connection to another node.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Who it is, as its certificate says.
    pub identity: Identity,
    /// The connection.
    pub connection: Connection,
}

/// What a peer has begun.
#[derive(Debug)]
pub enum Inbound {
    /// A control stream.
    Control {
        /// Whose.
        peer: Peer,
        /// To it.
        send: MessageSender,
        /// From it.
        recv: MessageReceiver,
    },
    /// A talk spurt; the type byte has been read.
    Spurt {
        /// Whose.
        peer: Peer,
        /// Its bytes.
        recv: quinn::RecvStream,
    },
    /// Copies of items of a talk spurt, which its stream brings as well.
    Copies {
        /// Whose.
        peer: Peer,
        /// What [`wire::copies::Copies::decode`] reads; the type byte has been taken off.
        datagram: bytes::Bytes,
    },
    /// A question.
    Request {
        /// Whose.
        peer: Peer,
        /// What it asks.
        request: Box<Request>,
        /// Where the answer goes.
        reply: Reply,
    },
}

/// Where the answer to a [`Request`] goes. Dropped unused, the asker learns that there is none.
#[derive(Debug)]
pub struct Reply {
    pub(super) send: MessageSender,
    /// Held until answered: bounds what one peer may ask at a time.
    pub(super) _permit: OwnedSemaphorePermit,
}

impl Peer {
    /// What it and this node have agreed to speak.
    pub fn wire(&self) -> wire::Version {
        let handshake = self.connection.handshake_data().and_then(|d| d.downcast::<HandshakeData>().ok());
        let protocol = handshake.and_then(|h| h.protocol);
        // A handshake does not end without an ALPN id that both offered.
        protocol.and_then(|id| wire::Version::from_alpn(&id)).unwrap_or(wire::Version::V1)
    }

    /// Opens a control stream: from here on typed messages both ways.
    ///
    /// # Errors
    /// The connection is gone, or grants no stream.
    pub async fn open_control(&self) -> Result<(MessageSender, MessageReceiver), OpenError> {
        self.open_bi(wire::STREAM_CONTROL).await
    }

    /// Opens a talk spurt's stream, empty: [`wire::spurt::SpurtHeader::encode`] writes the type byte.
    ///
    /// # Errors
    /// The connection is gone, or grants no stream.
    pub async fn open_spurt(&self) -> Result<quinn::SendStream, OpenError> {
        Ok(timeout(STREAM_DEADLINE, self.connection.open_uni()).await.map_err(|_| OpenError::Deadline)??)
    }

    /// Asks this peer and waits for its answer, [`REQUEST_DEADLINE`] at most.
    ///
    /// # Errors
    /// The connection is gone, or there was no answer.
    pub async fn request(&self, request: &Request) -> Result<Response, RequestError> {
        let exchange = async {
            let (mut send, mut recv) = self.open_bi(wire::STREAM_REQUEST).await?;
            send.send(request).await?;
            send.finish()?;
            recv.recv().await?.ok_or(RequestError::NoAnswer)
        };
        timeout(REQUEST_DEADLINE, exchange).await.map_err(|_| RequestError::Deadline)?
    }

    async fn open_bi(&self, kind: u8) -> Result<(MessageSender, MessageReceiver), OpenError> {
        let (mut send, recv) =
            timeout(STREAM_DEADLINE, self.connection.open_bi()).await.map_err(|_| OpenError::Deadline)??;
        if kind == wire::STREAM_CONTROL {
            // It can only fail for a stream that is closed, which the next line finds out.
            let _ = send.set_priority(stream::CONTROL);
        }
        send.write_all(&[kind]).await?;
        Ok((MessageSender::new(send), MessageReceiver::new(recv)))
    }
}

impl Reply {
    /// Sends the answer.
    ///
    /// # Errors
    /// The asker is gone.
    pub async fn send(mut self, response: Response) -> Result<(), StreamError> {
        self.send.send(&response).await?;
        self.send.finish()
    }
}
