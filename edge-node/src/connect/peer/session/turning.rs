//! A connection's ways through TURN servers.

use std::{net::SocketAddr, time::Instant};

use bytes::BytesMut;
use mesh::wire::request::Secret;
use rtc::shared::error::Error;

use super::{
    super::{
        super::ice_server::{At, MAX_SERVERS},
        local,
        turn::{Outcome, Turn},
    },
    Session,
};

/// What has come through a TURN server: to which of our addresses, and from which of the relay's.
#[derive(Debug)]
pub(in super::super) struct Inward {
    pub(in super::super) to: SocketAddr,
    pub(in super::super) from: SocketAddr,
    pub(in super::super) bytes: BytesMut,
}

impl Session {
    /// Asks a TURN server, spoken to from `local`, for an address. More than [`MAX_SERVERS`] are not asked.
    pub(in super::super) fn add_server(
        &mut self,
        server: (At, String, Secret),
        local: SocketAddr,
        now: Instant,
    ) -> Result<(), Error> {
        if self.turns.len() < MAX_SERVERS {
            self.turns.push(Turn::new(server, local, self.identity.provider.clone(), now)?);
        }
        self.drive(now);
        Ok(())
    }

    /// Takes what a TURN server sent; then there may be something to [`Session::poll_inward`].
    pub(in super::super) fn handle_turn(&mut self, from: SocketAddr, bytes: &[u8], now: Instant) {
        let Some(n) = self.turns.iter().position(|turn| turn.at().address == from) else { return };
        let outcome = self.turns[n].handle(bytes, now);
        self.settle_turn(n, outcome);
        self.drive(now);
    }

    /// The next that has come through a TURN server, to be handled like what comes straight.
    pub(in super::super) fn poll_inward(&mut self) -> Option<Inward> {
        self.turns.iter_mut().find_map(|turn| {
            let (to, (from, bytes)) = (turn.relayed()?, turn.poll_inward()?);
            Some(Inward { to, from, bytes })
        })
    }

    /// The next candidate of ours that no description has, as in `a=candidate`.
    pub(in super::super) fn poll_candidate(&mut self) -> Option<String> {
        self.fresh.pop_front()
    }

    pub(super) fn settle_turn(&mut self, n: usize, outcome: Option<Outcome>) {
        match outcome {
            Some(Outcome::Granted(relayed)) => match local::relay(relayed, self.turns[n].local()) {
                Ok(candidate) => {
                    self.fresh.push_back(candidate.marshal());
                    let _ = self.agent.add_local_candidate(candidate);
                }
                Err(error) => tracing::debug!(%error, "TURN"),
            },
            Some(Outcome::Refused(why)) => {
                metrics::counter!("nearfield_edge_connect_turn_refused_total").increment(1);
                tracing::info!(why, "a TURN server gives no address");
            }
            None => {}
        }
    }
}
