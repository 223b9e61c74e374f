//! A connection's bytes, requests and answers, on their way, told to its progress.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};
use hyper::{Request, Response, body::Incoming};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{lock, progress::Progress};

type Shared = Arc<Mutex<Progress>>;

/// A stream whose reads and writes are seen.
pub(super) struct Watched<S> {
    inner: S,
    progress: Shared,
}

impl<S> Watched<S> {
    pub(super) fn new(inner: S, progress: Shared) -> Self {
        Self { inner, progress }
    }

    fn written<T>(&self, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let mut progress = lock(&self.progress);
        match outcome {
            Poll::Pending => progress.handle_blocked(Instant::now()),
            Poll::Ready(_) => progress.handle_written(Instant::now()),
        }
        outcome
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = Pin::new(&mut self.inner).poll_read(cx, buf);
        if buf.filled().len() > before {
            lock(&self.progress).handle_read(Instant::now());
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.written(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.written(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// The request, its body watched if it has one.
pub(super) fn request(request: Request<Incoming>, progress: &Shared) -> Request<Body> {
    let has_body = !request.body().is_end_stream();
    lock(progress).handle_request(has_body, Instant::now());
    request.map(|body| {
        if has_body {
            Body::new(WatchedBody { inner: Body::new(body), end: End::Body(progress.clone()) })
        } else {
            Body::empty()
        }
    })
}

/// An answer that is owed; if the handler is dropped, none is.
pub(super) struct Answer(End);

impl Answer {
    pub(super) fn of(progress: &Shared) -> Self {
        Self(End::Answer(progress.clone()))
    }

    /// The answer, whose end is told.
    pub(super) fn watch(self, answer: Response<Body>) -> Response<Body> {
        answer.map(|inner| Body::new(WatchedBody { inner, end: self.0 }))
    }
}

/// Tells the end of something when it is dropped.
enum End {
    Body(Shared),
    Answer(Shared),
}

impl Drop for End {
    fn drop(&mut self) {
        match self {
            Self::Body(progress) => lock(progress).handle_body_end(Instant::now()),
            Self::Answer(progress) => lock(progress).handle_answered(Instant::now()),
        }
    }
}

struct WatchedBody {
    inner: Body,
    #[allow(dead_code, reason = "what counts is when it is dropped")]
    end: End,
}

impl HttpBody for WatchedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
