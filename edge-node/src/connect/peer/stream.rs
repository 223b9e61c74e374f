//! The way to a TURN server over TCP: messages are told apart by their own lengths (RFC 8656 section 12.5).

use std::net::SocketAddr;

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};

use super::{SERVER_DEADLINE, shard::Command};

/// Messages waiting to be sent; what is more falls, as it would on the way.
const WAITING: usize = 64;

/// Connects; our end, and what takes messages for the server. It closes when that is dropped.
pub(super) async fn open(
    to: SocketAddr,
    id: u64,
    commands: mpsc::Sender<Command>,
) -> Option<(SocketAddr, mpsc::Sender<BytesMut>)> {
    let connected = timeout(SERVER_DEADLINE, TcpStream::connect(to)).await;
    let stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::info!(%error, "a TURN server cannot be reached over TCP");
            return None;
        }
        Err(_) => {
            tracing::info!("a TURN server cannot be reached over TCP within {SERVER_DEADLINE:?}");
            return None;
        }
    };
    let _ = stream.set_nodelay(true);
    let local = stream.local_addr().ok()?;
    let (messages, waiting) = mpsc::channel(WAITING);
    mesh::tasks::once("TURN stream", carry(stream, to, id, commands, waiting));
    Some((local, messages))
}

/// Ends with either side.
async fn carry(
    mut stream: TcpStream,
    from: SocketAddr,
    id: u64,
    commands: mpsc::Sender<Command>,
    mut waiting: mpsc::Receiver<BytesMut>,
) {
    let mut read = BytesMut::new();
    loop {
        tokio::select! {
            message = waiting.recv() => {
                let Some(mut message) = message else { return };
                message.resize(message.len().next_multiple_of(4), 0);
                if stream.write_all(&message).await.is_err() {
                    return;
                }
            }
            length = stream.read_buf(&mut read) => match length {
                Ok(1..) => {
                    while let Some(bytes) = split(&mut read) {
                        if commands.send(Command::Streamed { id, from, bytes }).await.is_err() {
                            return;
                        }
                    }
                }
                _ => return,
            },
        }
    }
}

/// The first message, if it is whole. None is longer than 64 KiB and a head.
fn split(read: &mut BytesMut) -> Option<BytesMut> {
    const STUN: usize = 20;
    const CHANNEL: usize = 4;
    let length = usize::from(u16::from_be_bytes([*read.get(2)?, *read.get(3)?]));
    let whole = if read[0] < 0x40 { STUN } else { CHANNEL } + length;
    let padded = whole.next_multiple_of(4);
    if read.len() < padded {
        return None;
    }
    let message = read.split_to(whole);
    read.advance(padded - whole);
    Some(message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_are_told_apart_however_they_come() {
        let stun = [&[0x01, 0x01, 0, 4][..], &[7; 16], &[1, 2, 3, 4]].concat();
        let channel = [0x40, 0, 0, 2, 9, 9, 0, 0];
        let (mut read, mut found) = (BytesMut::new(), vec![]);
        for byte in [&stun[..], &channel, &stun].concat() {
            read.extend_from_slice(&[byte]);
            found.extend(split(&mut read));
        }
        assert_eq!(found, [&stun[..], &channel[..6], &stun]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut read = BytesMut::from(&bytes[..]);
            while split(&mut read).is_some() {}
            prop_assert!(read.len() <= bytes.len());
        }
    }
}
