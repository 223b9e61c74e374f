//! Talk spurts on their way out: one stream each, the newest speech first, with copies where the path is lossy.
//!
//! **Order.** Control goes above all, then requests, then speech by its capture time: what was said last is sent
//! first, so a replay of hours takes only what live speech leaves. The order holds for retransmissions too.
//!
//! **Deadlines.** A stream is never reset for being late: in that order an old spurt delays no newer one. It is
//! given up only together with its connection, and only then may be, because the ring keeps each spurt until it
//! is *done* and sends it again. Speech that the ring itself gave up ends with a trailer instead, so that the core knows.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::{collections::BTreeMap, time::Instant};

use bytes::BytesMut;
use quinn::SendStream;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Micros,
    node::{OpenError, Peer},
    redundancy::{
        Plan,
        repeater::{Key, Repeater},
    },
    tasks,
    transport::{DATAGRAM_BUFFER, close, congestion::Path},
    wire::{
        Version,
        spurt::{Item, SpurtEnd, SpurtHeader, Step},
    },
};

/// A spurt that began this long ago, in seconds, is a replay; longer than any spurt.
const LIVE: u64 = 45;
/// Copies leave this much of the datagram buffer to gossip.
const SPARED: usize = DATAGRAM_BUFFER / 2;

/// Why speech could not be handed to a connection. The ring still has it.
#[derive(Debug, thiserror::Error)]
pub enum SpurtError {
    /// No stream.
    #[error("no stream for a spurt: {0}")]
    Open(#[from] OpenError),
    /// The core stopped reading, or the connection is gone.
    #[error("a spurt's stream cannot be written: {0}")]
    Write(#[from] quinn::WriteError),
    /// The caller's mistake.
    #[error("spurt {0:?} was not opened")]
    NotOpen(Key),
}

/// The spurts of one meeting on one connection.
#[derive(Debug)]
pub struct SpurtSender {
    peer: Peer,
    path: Option<Path>,
    streams: BTreeMap<Key, Outgoing>,
    repeater: Repeater,
    plan: Plan,
    unread: CancellationToken,
}

#[derive(Debug)]
struct Outgoing {
    stream: SendStream,
    live: bool,
}

impl SpurtSender {
    /// Spurts to `peer`. Copies are sent if it speaks version 2.
    pub fn new(peer: Peer) -> Self {
        let path = Path::of(&peer.connection).filter(|_| peer.wire() >= Version::V2);
        Self {
            peer,
            path,
            streams: BTreeMap::new(),
            repeater: Repeater::default(),
            plan: Plan::NONE,
            unread: CancellationToken::new(),
        }
    }

    /// Opens a spurt's stream, `wall` being now. Gives the bytes written.
    ///
    /// # Errors
    /// The connection is gone, or grants no stream.
    pub async fn open(&mut self, header: SpurtHeader, wall: Micros) -> Result<u64, SpurtError> {
        let mut stream = self.peer.open_spurt().await?;
        // It can only fail for a stream that is closed.
        let _ = stream.set_priority(priority(header.captured));
        let mut out = BytesMut::new();
        header.encode(&mut out);
        stream.write_all(&out).await?;
        let live = wall.0.saturating_sub(header.captured.0) < LIVE * 1_000_000;
        if live {
            self.repeater.handle_open(header, Instant::now());
        }
        self.streams.insert((header.participant, header.spurt), Outgoing { stream, live });
        Ok(out.len() as u64)
    }

    /// Writes an item; a trailer finishes the stream. Gives the bytes written.
    ///
    /// # Errors
    /// The stream is not open, or cannot be written.
    pub async fn write(&mut self, key: Key, item: &Item) -> Result<u64, SpurtError> {
        let outgoing = self.streams.get_mut(&key).ok_or(SpurtError::NotOpen(key))?;
        let mut out = BytesMut::new();
        match *item {
            // Version 1 knows of no steps.
            Item::End(end) if self.peer.wire() < Version::V2 => {
                Item::End(SpurtEnd { step: Step::PassThrough, ..end }).encode(&mut out);
            }
            _ => item.encode(&mut out),
        }
        outgoing.stream.write_all(&out).await?;
        let bytes = out.len() as u64;
        if outgoing.live {
            let now = Instant::now();
            self.repeater.handle_item(key, item, now);
            if let Some(path) = &self.path {
                path.offered(bytes, now);
            }
        }
        if matches!(item, Item::End(_)) {
            let _ = outgoing.stream.finish();
            let (stopped, unread) = (outgoing.stream.stopped(), self.unread.clone());
            tasks::once("spurt stream", async move {
                // Without an error there is nobody who would read it, or nobody who needs to.
                if stopped.await.is_ok_and(|code| code.is_some_and(|code| code != close::SHUTDOWN)) {
                    unread.cancel();
                }
            });
            self.streams.remove(&key);
        }
        Ok(bytes)
    }

    /// Sends the copies that are due: call it after each batch of writes, and at [`SpurtSender::poll_timeout`].
    /// Gives the bytes sent. On a `thin` link there are none: what it loses it loses because too much is sent.
    pub fn repeat(&mut self, thin: bool, now: Instant) -> u64 {
        let Some(path) = &self.path else { return 0 };
        self.plan = if thin { Plan::NONE } else { path.plan(now) };
        let max = self.peer.connection.max_datagram_size().unwrap_or(0);
        let mut bytes = 0;
        while let Some(copies) = self.repeater.poll_copies(self.plan, max, now) {
            let mut datagram = BytesMut::new();
            copies.encode(&mut datagram);
            bytes += datagram.len() as u64;
            let room = self.peer.connection.datagram_send_buffer_space() >= SPARED;
            // One that cannot be sent is none: the stream has it all.
            if !room || self.peer.connection.send_datagram(datagram.freeze()).is_err() {
                metrics::counter!("nearfield_mesh_copies_dropped_total", "side" => "sender").increment(1);
            }
        }
        if bytes > 0 {
            path.offered(bytes, now);
            metrics::counter!("nearfield_mesh_copies_bytes_total").increment(bytes);
        }
        bytes
    }

    /// Cancelled when the core has refused to read a spurt after all of it was written: it is to be sent again.
    pub fn unread(&self) -> CancellationToken {
        self.unread.clone()
    }

    /// When [`SpurtSender::repeat`] is next needed if nothing is written.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.repeater.poll_timeout(self.plan)
    }
}

/// Newest first, below everything that sets no priority (0): the capture time in seconds, counted from the bottom.
fn priority(captured: Micros) -> i32 {
    let seconds = i32::try_from(captured.0 / 1_000_000).unwrap_or(i32::MAX);
    i32::MIN.saturating_add(seconds).min(-1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_goes_above_requests_and_these_above_speech_the_newest_first() {
        let second = |s: u64| priority(Micros(s * 1_000_000));
        let now = 1_800_000_000;
        use crate::stream::CONTROL;
        assert!(CONTROL > 0 && 0 > second(now) && second(now) > second(now - 1) && second(now - 1) > second(0));
        assert_eq!(priority(Micros(u64::MAX)), -1);
    }
}
