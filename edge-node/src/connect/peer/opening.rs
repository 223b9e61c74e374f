//! The first words of a connection, which a relay may not be ready for, or we not for its.
//!
//! Each would else wait for a retransmission:
//!
//! - Our `ClientHello` follows the answer to the check that nominates a path at once. Janus begins to listen for it in the next
//!   round of its loop, and throws away what comes before ([`Hello`]).
//! - A check that nominates a path may come before the answer to our own check of it. Our agent leaves it unanswered then and
//!   forgets it, though the path is to be nominated once our check has succeeded (RFC 8445 section 7.3.1.5, [`Nomination`]).

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::BytesMut;

use super::stun;

/// Before our `ClientHello` is said again for the first time; then twice as long each time,
const AGAIN: Duration = Duration::from_millis(10);
/// and so often: the handshake itself repeats it later on.
const TIMES: u32 = 5;

/// Our `ClientHello`, until something is answered. It is said again as it was: whoever has had it drops the copy by its number
/// (RFC 6347 section 4.1.2.6).
#[derive(Debug, Default)]
pub(super) struct Hello(Option<Said>);

#[derive(Debug)]
struct Said {
    bytes: BytesMut,
    again: Instant,
    pause: Duration,
    left: u32,
}

impl Hello {
    /// This has been said.
    pub(super) fn handle_said(&mut self, bytes: &BytesMut, now: Instant) {
        self.0.get_or_insert_with(|| Said { bytes: bytes.clone(), again: now + AGAIN, pause: AGAIN, left: TIMES });
    }

    /// What to say again, if it is time.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<BytesMut> {
        let said = self.0.as_mut().filter(|said| said.left > 0 && said.again <= now)?;
        said.left -= 1;
        said.pause *= 2;
        said.again = now + said.pause;
        Some(said.bytes.clone())
    }

    /// When [`Hello::handle_timeout`] is next wanted.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.0.as_ref().filter(|said| said.left > 0).map(|said| said.again)
    }
}

/// The newest check that nominates a path, while none is chosen.
#[derive(Debug, Default)]
pub(super) struct Nomination(Option<Check>);

/// A check of the relay's: at which of our addresses, from which of its, and what it says.
#[derive(Debug, Clone)]
pub(super) struct Check {
    pub(super) local: SocketAddr,
    pub(super) from: SocketAddr,
    pub(super) bytes: BytesMut,
}

impl Nomination {
    /// The agent has taken this, and there is a path since, or none yet. What the agent is to be given again.
    pub(super) fn handle(
        &mut self,
        local: SocketAddr,
        from: SocketAddr,
        bytes: &[u8],
        has_path: bool,
    ) -> Option<Check> {
        if has_path {
            self.0 = None;
        } else if stun::nominates(bytes) {
            self.0 = Some(Check { local, from, bytes: BytesMut::from(bytes) });
        } else if stun::is_success(bytes) {
            return self.0.clone();
        }
        None
    }
}

#[cfg(test)]
mod tests;
