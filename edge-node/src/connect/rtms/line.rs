//! One of the two connections: a WebSocket that is opened, heard and closed.

use futures_util::{StreamExt, future::BoxFuture};
use mesh::wire::cause::Cause;
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

use super::super::{
    ConnectError,
    url::parse_url,
    websocket::{self, Socket, unreachable},
};
use crate::egress::Policy;

/// The longest message taken: the roster of a large meeting, or a second of samples of two channels at 48 kHz.
const MAX_MESSAGE: usize = 512 << 10;

/// See the module.
#[derive(Default)]
pub(super) enum Line {
    #[default]
    Closed,
    Opening(BoxFuture<'static, Result<Socket, ConnectError>>),
    Open(Box<Socket>),
    Broken(Option<ConnectError>),
}

/// What has come of it.
pub(super) enum Heard {
    Opened,
    Message(Vec<u8>),
    /// Nothing to us.
    Nothing,
    Lost(ConnectError),
}

impl Line {
    /// Opens one to `url`. Without TLS only where the operator allows it by name of its address: our signature would be read on
    /// the way, and the voices.
    pub(super) fn open(url: String, egress: &Policy) -> Self {
        let egress = egress.clone();
        Self::Opening(Box::pin(async move {
            let url = parse_url(&url, ["ws", "wss"], "wss")?;
            let egress = if url.scheme() == "wss" { egress } else { egress.without_public() };
            let request = url.as_str().into_client_request().map_err(unreachable)?;
            websocket::open(request, &url, &egress, MAX_MESSAGE, |_| None).await
        }))
    }

    /// What is next. Cancel safe.
    pub(super) async fn next(&mut self) -> Heard {
        match self {
            Self::Closed => std::future::pending().await,
            Self::Opening(opening) => match opening.await {
                Ok(socket) => {
                    *self = Self::Open(Box::new(socket));
                    Heard::Opened
                }
                Err(error) => {
                    *self = Self::Closed;
                    Heard::Lost(error)
                }
            },
            Self::Open(socket) => match socket.next().await {
                Some(Ok(Message::Text(text))) => Heard::Message(text.as_bytes().to_vec()),
                Some(Ok(Message::Binary(bytes))) => Heard::Message(bytes.into()),
                Some(Ok(Message::Close(_))) | None => Heard::Lost(ConnectError::Unreachable {
                    cause: Cause::RelayUnreachable,
                    why: "Zoom closed the WebSocket".into(),
                }),
                Some(Ok(_)) => Heard::Nothing,
                Some(Err(error)) => Heard::Lost(unreachable(error)),
            },
            Self::Broken(error) => match error.take() {
                Some(error) => Heard::Lost(error),
                None => std::future::pending().await,
            },
        }
    }

    /// Sends a message, should it be open; that it was not taken [`Line::next`] says.
    pub(super) async fn send(&mut self, text: String) {
        if let Self::Open(socket) = self
            && let Err(error) = websocket::send(socket, Message::text(text)).await
        {
            *self = Self::Broken(Some(error));
        }
    }

    /// Says farewell, as far as the server lets us.
    pub(super) async fn close(&mut self) {
        if let Self::Open(mut socket) = std::mem::take(self) {
            let _ = socket.close(None).await;
        }
    }
}
