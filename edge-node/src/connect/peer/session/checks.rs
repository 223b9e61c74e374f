//! The path: candidates, connectivity checks, and what the agent finds of them.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use rtc::{
    ice::{candidate::Candidate, state::ConnectionState},
    sansio::Protocol,
    shared::{TaggedBytesMut, TransportContext, TransportProtocol, error::Error},
};

use super::{super::opening::Check, Phase, Session};

/// Nothing from the relay, not even answers to connectivity checks: the path is doubtful after this long.
pub(super) const ICE_DISCONNECTED: Duration = Duration::from_secs(5);

/// Addresses of the relay's for one path: those of a description, and those it tells later.
const MAX_REMOTE: usize = 64;

impl Session {
    /// The relay has another address.
    pub(in crate::connect::peer) fn add_candidate(&mut self, candidate: Candidate, now: Instant) -> Result<(), Error> {
        self.take_candidate(candidate)?;
        self.drive(now);
        Ok(())
    }

    /// Takes a connectivity check, or the answer to one; false if it is not from the relay.
    pub(in crate::connect::peer) fn handle_stun(
        &mut self,
        local: SocketAddr,
        from: SocketAddr,
        bytes: &[u8],
        now: Instant,
    ) -> bool {
        // A check makes its source a candidate (RFC 8445 section 7.3.1.3); sources can be forged, and told by a TURN server.
        if self.egress.check(from.ip()).is_err() {
            return false;
        }
        let check = Check { local, from, bytes: BytesMut::from(bytes) };
        let taken = self.give(check, now);
        if taken && let Some(check) = self.nomination.handle(local, from, bytes, self.has_path()) {
            self.give(check, now);
        }
        self.drive(now);
        taken
    }

    /// Each is checked from each address of ours, for as long as the path is sought: a relay that tells no end of them is not
    /// followed.
    pub(super) fn take_candidate(&mut self, candidate: Candidate) -> Result<(), Error> {
        if self.agent.get_remote_candidates().len() < MAX_REMOTE {
            self.agent.add_remote_candidate(candidate)?;
        }
        Ok(())
    }

    /// A step of the way to media is done.
    pub(super) fn handle_ice(&mut self, state: ConnectionState, now: Instant) {
        tracing::debug!(%state, "ICE");
        if self.phase.is_over() {
            return;
        }
        match state {
            // Whether media flow on it will show.
            ConnectionState::Connected | ConnectionState::Completed
                if self.reports.is_some() && !self.phase.is_open() =>
            {
                self.phase = Phase::Up;
                self.open = Some(now);
            }
            ConnectionState::Disconnected => self.phase = Phase::Silent(silent_since(self.heard, now)),
            ConnectionState::Failed => self.phase = Phase::Failed("no path to the relay answers"),
            _ => {}
        }
    }

    fn give(&mut self, Check { local, from, bytes }: Check, now: Instant) -> bool {
        let transport = TransportContext {
            local_addr: local,
            peer_addr: from,
            transport_protocol: TransportProtocol::UDP,
            ecn: None,
        };
        self.agent.handle_read(TaggedBytesMut { now, transport, message: bytes }).is_ok()
    }

    fn has_path(&self) -> bool {
        self.agent.get_selected_candidate_pair().is_some()
    }
}

/// When a relay fell silent that is found to be `now`: with the last packet, or, where nobody had sent any for long, with
/// the last answer to a check.
fn silent_since(heard: Option<Instant>, now: Instant) -> Instant {
    match heard.filter(|heard| now.saturating_duration_since(*heard) < 2 * ICE_DISCONNECTED) {
        Some(heard) => heard,
        None => now.checked_sub(ICE_DISCONNECTED).unwrap_or(now),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "any instant will do to count from")]
    use super::*;

    #[test]
    fn a_relay_is_silent_since_the_last_packet_or_the_last_answer() {
        let (heard, second) = (Instant::now(), Duration::from_secs(1));
        assert_eq!(silent_since(Some(heard), heard + 6 * second), heard);
        assert_eq!(silent_since(Some(heard), heard + 3600 * second), heard + 3595 * second, "nobody spoke");
        assert_eq!(silent_since(None, heard + 9 * second), heard + 4 * second);
    }
}
