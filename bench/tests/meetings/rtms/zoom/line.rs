//! The two WebSocket servers.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
};

use futures_util::{SinkExt, StreamExt};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{Request, Response},
        http::header::SEC_WEBSOCKET_PROTOCOL,
    },
};

use super::State;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Which {
    Signalling = 0,
    Media = 1,
}

pub(super) async fn serve(which: Which, port: u16, state: Arc<Mutex<State>>) {
    let listener = TcpListener::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)).await.unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(connection(which, stream, Arc::clone(&state)));
    }
}

async fn connection(which: Which, stream: TcpStream, state: Arc<Mutex<State>>) {
    // Zoom's client asks for a protocol, and ours for none.
    #[allow(clippy::result_large_err, reason = "the library's")]
    let accept = |request: &Request, mut response: Response| {
        if let Some(protocol) = request.headers().get(SEC_WEBSOCKET_PROTOCOL) {
            response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocol.clone());
        }
        Ok(response)
    };
    let Ok(mut socket) = accept_hdr_async(stream, accept).await else { return };
    let (say, mut said) = mpsc::unbounded_channel();
    let id = state.lock().unwrap().opened(which, say);
    loop {
        tokio::select! {
            biased;
            message = said.recv() => match message {
                Some(Some(text)) => if socket.send(Message::text(text)).await.is_err() { break },
                // Without a close frame.
                _ => break,
            },
            message = socket.next() => {
                let text = match message {
                    Some(Ok(Message::Text(text))) => text.as_bytes().to_vec(),
                    Some(Ok(Message::Binary(bytes))) => bytes.to_vec(),
                    Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                    Some(Ok(_)) => continue,
                };
                let message = serde_json::from_slice(&text);
                let mut state = state.lock().unwrap();
                match message {
                    Ok(message) => state.heard(id, &message),
                    Err(error) => state.wrong(format!("no JSON: {error}")),
                }
            }
        }
    }
    state.lock().unwrap().closed(id);
}
