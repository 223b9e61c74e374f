//! Writing a meeting's spurts to the connection there is, one batch at a time.
#![allow(clippy::disallowed_methods, reason = "I/O shell")]

use std::{future::Future, pin::Pin, time::Instant};

use mesh::{
    node::Peer,
    spurts::SpurtSender,
    trace::TraceContext,
    wire::{
        MeetingAlias,
        spurt::{Item, SpurtHeader},
    },
};

use tokio_util::sync::CancellationToken;

use super::clock::Anchor;
use crate::uplink::{SpurtKey, Transmit};

/// One batch is written at a time; media goes on being taken in meanwhile.
pub(super) enum Writing {
    Idle(Writer),
    Busy(Pin<Box<dyn Future<Output = Written> + Send>>),
    /// Waits for another stream after a failure.
    Broken,
}

/// The writer again, the bytes it wrote, and how that ended.
pub(super) type Written = (Writer, u64, Result<(), WriteFailed>);

pub(super) struct WriteFailed(pub(super) String);

impl Writing {
    /// Resolves when a write under way is done; never when there is none.
    pub(super) async fn done(&mut self) -> Written {
        match self {
            Self::Busy(write) => write.await,
            Self::Idle(_) | Self::Broken => std::future::pending().await,
        }
    }

    /// When copies are due that no write takes along.
    pub(super) fn copies_due(&self) -> Option<Instant> {
        match self {
            Self::Idle(writer) => writer.sender.as_ref().and_then(SpurtSender::poll_timeout),
            Self::Busy(_) | Self::Broken => None,
        }
    }
}

/// Writes this meeting's spurts to the connection there is.
pub(super) struct Writer {
    alias: MeetingAlias,
    trace: TraceContext,
    sender: Option<SpurtSender>,
    clock: Anchor,
    /// The link lets too little pass: nothing is said twice.
    pub(super) thin: bool,
}

impl Writer {
    pub(super) fn new(alias: MeetingAlias, trace: TraceContext, clock: Anchor, peer: Option<Peer>) -> Self {
        Self { alias, trace, clock, sender: peer.map(SpurtSender::new), thin: false }
    }

    /// Cancelled when a spurt that was written is to be written again.
    pub(super) fn unread(&self) -> CancellationToken {
        self.sender.as_ref().map(SpurtSender::unread).unwrap_or_default()
    }

    /// Sends the copies that are due; the bytes they took.
    pub(super) fn repeat(&mut self) -> u64 {
        self.sender.as_mut().map_or(0, |sender| sender.repeat(self.thin, Instant::now()))
    }

    pub(super) async fn write(mut self, batch: Vec<Transmit>) -> Written {
        let mut bytes = 0;
        for transmit in batch {
            match self.write_one(transmit).await {
                Ok(written) => bytes += written,
                Err(why) => return (self, bytes, Err(why)),
            }
        }
        bytes += self.repeat();
        (self, bytes, Ok(()))
    }

    async fn write_one(&mut self, transmit: Transmit) -> Result<u64, WriteFailed> {
        let sender = self.sender.as_mut().ok_or_else(|| WriteFailed("no connection".into()))?;
        let written = match transmit {
            Transmit::Open { key: SpurtKey { participant, spurt }, offset, captured } => {
                let (meeting, trace) = (self.alias, self.trace);
                sender
                    .open(
                        SpurtHeader { meeting, participant, spurt, offset, captured, trace },
                        self.clock.wall(Instant::now()),
                    )
                    .await
            }
            Transmit::Item { key, item } => sender.write((key.participant, key.spurt), &item).await,
            Transmit::End { key, end } => sender.write((key.participant, key.spurt), &Item::End(end)).await,
        };
        written.map_err(|error| WriteFailed(error.to_string()))
    }
}
