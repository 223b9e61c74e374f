//! A connection's place on the sockets, and what was said of it.

use std::{collections::BTreeSet, net::SocketAddr};

use rtc::ice::candidate::Candidate;

use super::{
    Voices,
    describe::{Credentials, Local, MAX_CANDIDATES, Named, Remote},
    gone,
    shard::Command,
    sockets::Place,
};
use crate::{connect::ConnectError, egress::Policy};

/// Its share of the sockets, and how it was described there.
pub(super) struct Joined {
    pub(super) place: Place,
    pub(super) local: Local,
    pub(super) remote: Option<(Remote, Voices)>,
    /// Our last offer is for a new path.
    pub(super) restarting: bool,
    /// TURN servers that were asked.
    pub(super) servers: BTreeSet<SocketAddr>,
    pub(super) egress: Policy,
    /// Addresses that the relay told and this edge does not go to.
    pub(super) denied: usize,
}

impl Joined {
    pub(super) async fn describe(
        &mut self,
        mut remote: Remote,
        voices: Voices,
        offered: bool,
        ours: Option<Credentials>,
    ) -> Result<(), ConnectError> {
        remote.candidates.retain(|candidate| self.admits(candidate));
        self.remote = Some((remote.clone(), voices.clone()));
        let (id, remote) = (self.place.id, Box::new(remote));
        self.command(Command::Describe { id, remote, voices, offered, ours }).await
    }

    /// The host of a candidate is there.
    pub(super) async fn try_at(&mut self, named: &Named, found: &[SocketAddr]) -> Result<(), ConnectError> {
        for candidate in found.iter().filter_map(|at| named.at(at.ip())) {
            // Another path may be asked for, and the relay tell nothing new.
            if let Some((remote, _)) = &mut self.remote
                && remote.candidates.len() < MAX_CANDIDATES
            {
                remote.candidates.push(candidate.clone());
            }
            self.command(Command::Candidate(self.place.id, Box::new(candidate))).await?;
        }
        Ok(())
    }

    /// Whether checks may be sent there: a relay that names addresses inside would have us knock at their doors.
    pub(super) fn admits(&mut self, candidate: &Candidate) -> bool {
        let admitted = self.egress.admit("an ICE candidate", candidate.addr().ip()).is_ok();
        self.denied += usize::from(!admitted);
        admitted
    }

    pub(super) async fn command(&self, command: Command) -> Result<(), ConnectError> {
        self.place.handle.commands.send(command).await.map_err(|_| gone())
    }
}
