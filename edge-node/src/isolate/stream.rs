//! Messages over a pipe: a length of four bytes, least significant first, and as many bytes of [`mesh::codec`].

use std::io;

use mesh::codec::{self, MAX_MESSAGE};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Writes one message; it is on its way when this returns.
///
/// # Errors
/// Nobody reads any more, or the message is longer than one may be.
pub(super) async fn send<T: Serialize>(pipe: &mut (impl AsyncWrite + Unpin), message: &T) -> io::Result<()> {
    let body = codec::encode(message).map_err(io::Error::other)?;
    let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
    bytes.extend(body);
    pipe.write_all(&bytes).await?;
    pipe.flush().await
}

/// Reads one message; `None` at the end. Not cancel-safe: a task of its own reads.
///
/// # Errors
/// The pipe broke, or carried something else.
pub(super) async fn receive<T: DeserializeOwned>(pipe: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match pipe.read_exact(&mut length).await {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    };
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_MESSAGE {
        return Err(io::Error::other(format!("a message of {length} bytes, at most {MAX_MESSAGE} are allowed")));
    }
    let mut body = vec![0; length];
    pipe.read_exact(&mut body).await?;
    codec::decode(&body).map(Some).map_err(io::Error::other)
}
