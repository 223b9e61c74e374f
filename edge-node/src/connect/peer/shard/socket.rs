//! A socket that is read in batches.

use std::{
    io::{self, IoSliceMut},
    net::SocketAddr,
};

use nix::sys::socket::{setsockopt, sockopt};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use tokio::{io::Interest, net::UdpSocket};

/// Room for datagrams of 1500 bytes that the kernel has joined, 64 at most; what is never touched costs no memory.
pub(super) const BUFFER: usize = 64 * 1500;
/// Asked of the kernel for each socket: 100 ms of 64 large meetings. It gives what it is allowed to.
const RECEIVE_BUFFER: usize = 4 << 20;

/// See the module.
pub(super) struct Socket {
    socket: UdpSocket,
    state: UdpSocketState,
    pub(super) address: SocketAddr,
}

impl Socket {
    pub(super) fn new(socket: UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        // The first needs a privilege, the second is cut to what the host allows.
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            let _ = setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER);
        }
        let address = socket.local_addr()?;
        Ok(Self { socket, state, address })
    }

    /// How many buffers were filled; `buffers` is made if it is empty.
    pub(super) fn receive(&self, buffers: &mut Vec<u8>, meta: &mut [RecvMeta]) -> Option<usize> {
        if buffers.is_empty() {
            *buffers = vec![0; BATCH_SIZE * BUFFER];
        }
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
        for (slice, buffer) in slices.iter_mut().zip(buffers.chunks_exact_mut(BUFFER)) {
            *slice = IoSliceMut::new(buffer);
        }
        let receive = || self.state.recv((&self.socket).into(), &mut slices, meta);
        self.socket.try_io(Interest::READABLE, receive).ok()
    }

    pub(super) fn send(&self, to: SocketAddr, bytes: &[u8]) -> bool {
        let transmit = Transmit { destination: to, ecn: None, contents: bytes, segment_size: None, src_ip: None };
        self.socket.try_io(Interest::WRITABLE, || self.state.try_send((&self.socket).into(), &transmit)).is_ok()
    }
}

/// Ready when one of them has something. Cancel safe.
pub(super) async fn readable(sockets: &[Socket]) {
    std::future::poll_fn(|context| {
        let ready = |socket: &Socket| socket.socket.poll_recv_ready(context).is_ready();
        if sockets.iter().any(ready) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}
