//! Spurt streams, from their bytes to the meeting.

use std::{
    cell::RefCell,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use mesh::wire::spurt::{Item, Part, SpurtDecoder, SpurtHeader};
use tokio::{
    io::{AsyncRead, ReadBuf},
    time::timeout,
};

use super::{
    SpurtError,
    room::{SHARE, Share},
};
use crate::{
    key::SpurtKey,
    meeting::{Meeting, wall},
    speech::ingest::Opened,
};

/// How long a spurt may send nothing: longer than any pause within one.
pub(super) const READ_WAIT: Duration = Duration::from_secs(60);
/// Bytes taken off a spurt stream at a time: below what one chunk of the log may hold.
pub(super) const READ_BYTES: usize = 16 * 1024;

/// A spurt stream that is being read.
pub(super) struct SpurtStream;

impl SpurtStream {
    pub(super) fn new() -> Self {
        metrics::gauge!("nearfield_core_spurt_streams").increment(1.0);
        Self
    }
}

impl Drop for SpurtStream {
    fn drop(&mut self) {
        metrics::gauge!("nearfield_core_spurt_streams").decrement(1.0);
    }
}

pub(super) async fn take_spurt<R: AsyncRead + Unpin>(
    meeting: &Meeting,
    key: &SpurtKey,
    header: &SpurtHeader,
    mut reader: SpurtReader<R>,
) -> Result<(), SpurtError> {
    if meeting.is_nobodys(key, header.captured) {
        // Read to its end, it can be done with: the edge would keep it otherwise.
        while reader.items().await?.is_some() {}
        meeting.tell_done(key).await;
        return Ok(());
    }
    if meeting.handle_header(key, header.captured, header.trace, header.offset).await? == Opened::Done {
        return Ok(());
    }
    let mut offset = header.offset;
    while let Some(items) = reader.items().await? {
        let numbered = items.iter().filter(|i| !matches!(i, Item::End(_))).count() as u32;
        meeting.handle_items(key, offset, items, wall()).await?;
        offset += numbered;
    }
    Ok(())
}

/// A spurt stream, part by part.
pub(super) struct SpurtReader<R> {
    recv: R,
    decoder: SpurtDecoder,
    share: Share,
    /// The last read took all that had come.
    caught_up: bool,
}

thread_local! {
    /// What is read passes through here: a stream that waits holds no buffer.
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

impl<R: AsyncRead + Unpin> SpurtReader<R> {
    pub(super) fn new(recv: R, share: Share) -> Self {
        Self { recv, decoder: SpurtDecoder::default(), share, caught_up: true }
    }

    pub(super) async fn header(&mut self) -> Result<SpurtHeader, SpurtError> {
        loop {
            if let Some(Part::Header(header)) = self.decoder.poll()? {
                return Ok(header);
            }
            self.read().await?;
        }
    }

    /// All items that are here, at least one; `None` after the trailer.
    pub(super) async fn items(&mut self) -> Result<Option<Vec<Item>>, SpurtError> {
        if self.decoder.ended() {
            return Ok(None);
        }
        let mut items = vec![];
        loop {
            while let Some(Part::Item(item)) = self.decoder.poll()? {
                items.push(item);
                if self.decoder.ended() {
                    return Ok(Some(items));
                }
            }
            if !items.is_empty() {
                return Ok(Some(items));
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<(), SpurtError> {
        if self.caught_up && self.share.give_back() {
            self.decoder.shrink();
        }
        let read = poll_fn(|cx| READ.with_borrow_mut(|buffer| self.poll_read(cx, buffer)));
        match timeout(READ_WAIT, read).await {
            Ok(Ok(0)) => Err(SpurtError::Truncated),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(SpurtError::Silent),
        }
    }

    /// Takes what has come, as much as the stream's share lets it: how many bytes.
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<std::io::Result<usize>> {
        let mut taken = 0;
        loop {
            let room = self.share.bytes() - taken;
            let mut part = ReadBuf::new(&mut buffer[..room]);
            match Pin::new(&mut self.recv).poll_read(cx, &mut part) {
                Poll::Pending if taken > 0 => return Poll::Ready(Ok(taken)),
                polled => ready!(polled)?,
            }
            let count = part.filled().len();
            self.decoder.feed(part.filled());
            taken += count;
            self.caught_up = count < room;
            // Borrowed now, it is for what is there now.
            if self.caught_up || taken > SHARE || !self.share.borrow() {
                return Poll::Ready(Ok(taken));
            }
        }
    }
}
