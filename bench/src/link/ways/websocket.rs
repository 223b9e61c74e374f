//! What is common today: a WebSocket for each participant, 16-bit samples, over the kernel's TCP.

#![allow(clippy::disallowed_methods, reason = "a stand-in: no node goes on without its tasks")]

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures_util::{SinkExt, StreamExt, future::try_join_all};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{WebSocketStream, accept_async, client_async, tungstenite::Message};

use super::{PCM16, drain, due, link_bytes};
use crate::link::clock::{Clock, frame};

/// A receiver may take this long to be there.
const PATIENCE: Duration = Duration::from_secs(15);

pub(super) async fn send(to: SocketAddr, clock: Arc<Clock>) -> Result<u64> {
    let sockets = try_join_all((0..clock.tracks).map(|_| connect(to))).await?;
    let start = Instant::now();
    let clock = &*clock;
    let speakers = sockets.into_iter().zip(0..).map(|(socket, track)| speak(socket, track, start, clock));
    // The sockets stay open until everything has come.
    let all = try_join_all(speakers).await?;
    drain(clock).await;
    let bytes = all.iter().map(|(_, bytes)| *bytes).sum::<u64>();
    Ok(link_bytes()? - bytes)
}

async fn connect(to: SocketAddr) -> Result<WebSocketStream<TcpStream>> {
    let deadline = Instant::now() + PATIENCE;
    let stream = loop {
        match TcpStream::connect(to).await {
            Ok(stream) => break stream,
            Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(error) => return Err(error).context("no connection"),
        }
    };
    stream.set_nodelay(true)?;
    let (socket, _) = client_async(format!("ws://{to}/audio"), stream).await?;
    Ok(socket)
}

/// Says one track; track 0 notes what had crossed the link when the warm-up was over.
async fn speak(
    mut socket: WebSocketStream<TcpStream>,
    track: u32,
    start: Instant,
    clock: &Clock,
) -> Result<(WebSocketStream<TcpStream>, u64)> {
    let mut bytes = 0;
    for seq in 0..clock.frames {
        tokio::time::sleep_until(due(start, seq * clock.tracks + track).into()).await;
        if clock.begins(track, seq) {
            bytes = link_bytes()?;
        }
        clock.note_sent(track, seq);
        socket.send(Message::Binary(frame(track, seq, PCM16).into())).await?;
    }
    Ok((socket, bytes))
}

pub(super) async fn receive(at: SocketAddr, clock: Arc<Clock>) -> Result<()> {
    let listener = TcpListener::bind(at).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(listen(stream, clock.clone()));
    }
}

async fn listen(stream: TcpStream, clock: Arc<Clock>) {
    let Ok(mut socket) = accept_async(stream).await else { return };
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(samples) = message {
            clock.note_came(&samples);
        }
    }
}
