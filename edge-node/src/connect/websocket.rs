//! WebSockets towards relays: bounded, and only to where this edge goes.

use std::time::Duration;

use futures_util::SinkExt;
use reqwest::Url;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, client_async_tls_with_config,
    tungstenite::{self, Message, error::CapacityError, handshake::client::Request, protocol::WebSocketConfig},
};

use super::{
    error::{ConnectError, cut},
    fault, tls,
};
use crate::egress::Policy;

/// TCP, TLS and the WebSocket handshake.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// For the socket to take one message.
const SEND_DEADLINE: Duration = Duration::from_secs(5);

/// One that is open.
pub(super) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Opens one to `url`, on which messages of at most `longest` bytes are taken. `refused` says what another answer than that it is
/// open comes to, by its HTTP status.
pub(super) async fn open(
    request: Request,
    url: &Url,
    egress: &Policy,
    longest: usize,
    refused: fn(u16) -> Option<ConnectError>,
) -> Result<Socket, ConnectError> {
    let limits = WebSocketConfig::default().max_message_size(Some(longest)).max_frame_size(Some(longest));
    let connector = (url.scheme() == "wss").then(|| tokio_tungstenite::Connector::Rustls(tls::config()));
    let connect = async {
        let port = url.port_or_known_default().unwrap_or(443);
        let found = egress.resolve(url.host_str().unwrap_or_default(), port).await?;
        let stream = Policy::connect(&found).await.map_err(|e| unreachable(e.into()))?;
        let _ = stream.set_nodelay(true);
        let opened = client_async_tls_with_config(request, stream, Some(limits), connector).await;
        opened.map_err(|error| match &error {
            tungstenite::Error::Http(response) => {
                refused(response.status().as_u16()).unwrap_or_else(|| unreachable(error))
            }
            _ => unreachable(error),
        })
    };
    match timeout(CONNECT_DEADLINE, connect).await {
        Ok(connected) => Ok(connected?.0),
        Err(_) => Err(ConnectError::Timeout { what: "the WebSocket to open", after: CONNECT_DEADLINE }),
    }
}

/// Sends one message.
pub(super) async fn send(socket: &mut Socket, message: Message) -> Result<(), ConnectError> {
    match timeout(SEND_DEADLINE, socket.send(message)).await {
        Ok(sent) => sent.map_err(unreachable),
        Err(_) => Err(ConnectError::Timeout { what: "the WebSocket to take a message", after: SEND_DEADLINE }),
    }
}

/// What is wrong with a WebSocket.
pub(super) fn unreachable(error: tungstenite::Error) -> ConnectError {
    if let tungstenite::Error::Capacity(CapacityError::MessageTooLong { max_size, .. }) = error {
        return ConnectError::BadMessage {
            what: "WebSocket message",
            why: format!("it is longer than {max_size} bytes"),
        };
    }
    ConnectError::Unreachable { cause: fault::of(&error), why: cut(&error.to_string(), 200) }
}
