//! The ways of sending speech that are compared.

pub(super) mod ours;
mod quic;
mod websocket;

use std::{fmt, future::Future, net::SocketAddr, sync::Arc, time::Instant};

use anyhow::{Context, Result};

use super::{DRAIN, FRAME, TRACKS, clock::Clock};
use crate::world::Host;

/// The receiver's port.
const PORT: u16 = 4433;
/// An Opus frame of 20 ms at 32 kb/s.
const OPUS: usize = 80;
/// 20 ms of 16-bit samples at 16 kHz.
const PCM16: usize = 640;

/// A way of sending speech.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Ours,
    Datagrams,
    DatagramCopy,
    OneStream,
    WebSocket,
}

impl Way {
    pub(super) const ALL: [Self; 5] =
        [Self::Ours, Self::Datagrams, Self::DatagramCopy, Self::OneStream, Self::WebSocket];
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours => "ours",
            Self::Datagrams => "datagrams",
            Self::DatagramCopy => "datagram+copy",
            Self::OneStream => "one stream",
            Self::WebSocket => "websocket",
        })
    }
}

/// Sends everything one way; the bytes that crossed the sender's link, both directions.
pub(super) async fn run(way: Way, from: &Host, to: &Host, clock: Arc<Clock>) -> Result<u64> {
    let at = SocketAddr::new(to.ip(), PORT);
    if way == Way::WebSocket {
        let received = clock.clone();
        let receiver = to.run(move || websocket::receive(at, received));
        let sender = from.run(move || websocket::send(at, clock));
        return race(sender, receiver).await;
    }
    let (here, there) = quic::credentials()?;
    let received = clock.clone();
    let receiver = to.run(move || quic::receive(way, at, there, received));
    let sender = from.run(move || quic::send(way, at, here, clock));
    race(sender, receiver).await
}

/// The sender's result; a receiver ends before it only when it has failed.
async fn race(
    sender: impl Future<Output = Result<Result<u64>, crate::world::WorldError>>,
    receiver: impl Future<Output = Result<Result<()>, crate::world::WorldError>>,
) -> Result<u64> {
    tokio::select! {
        sent = sender => sent?,
        ended = receiver => {
            ended??;
            anyhow::bail!("the receiver has ended")
        }
    }
}

/// When frame `n` of all is due: each track has a phase of its own, as speakers do.
fn due(start: Instant, n: u32) -> Instant {
    start + FRAME / TRACKS * n
}

/// Waits until everything has come, [`DRAIN`] at most.
async fn drain(clock: &Clock) {
    let deadline = Instant::now() + DRAIN;
    while !clock.is_complete() && Instant::now() < deadline {
        tokio::time::sleep(FRAME).await;
    }
}

/// Bytes that have crossed this thread's host's link so far, both directions.
fn link_bytes() -> Result<u64> {
    let devices = std::fs::read_to_string("/proc/thread-self/net/dev")?;
    let line = devices.lines().find_map(|line| line.trim().strip_prefix("net0:")).context("the host has no link")?;
    let fields: Vec<u64> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    // proc_net_dev(5): received bytes first, sent bytes ninth.
    Ok(fields.first().unwrap_or(&0) + fields.get(8).unwrap_or(&0))
}
