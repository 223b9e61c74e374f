//! One WebRTC connection that only receives, and only audio.
//!
//! *Follow one packet:* a few sockets for all connections (`sockets`), each set with a loop of its own (`shard`) that
//! reads datagrams in batches and finds whose they are; RTP is opened where it lies and handed on (`rtp`), everything
//! else goes to the connection's machine (`session`, its first words in `opening`, its keys in `keys`). What is said of it in
//! SDP is in `describe`.
//!
//! Everything is negotiated non-trickling: our candidates are all in our description, for the relay is
//! a server with an address of its own.

mod addresses;
mod describe;
#[cfg(test)]
#[path = "../../tests/rigs/far.rs"]
#[allow(clippy::unwrap_used)]
pub(super) mod far;
mod fingerprint;
pub(super) mod fuzzing;
mod identity;
mod joined;
mod keys;
mod local;
mod opening;
mod phase;
mod rtp;
mod session;
mod shard;
mod sockets;
mod stream;
mod stun;
#[cfg(test)]
mod tests;
mod turn;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

pub(super) use self::addresses::local_addresses;
pub use self::sockets::Sockets;
use self::{
    addresses::resolved,
    describe::{Credentials, Local, MAX_NAMED, Named, Remote},
    identity::Identity,
    joined::Joined,
    phase::Phase,
    session::Session,
    shard::Command,
};
use super::{
    ConnectError, Event, Settings,
    error::cut,
    ice_server::{At, IceServer, MAX_SERVERS},
    sdp::Description,
};
use crate::{egress::NoAddress, media::ParticipantId};

/// From the exchange of descriptions to DTLS done.
const CONNECT_DEADLINE: Duration = Duration::from_secs(15);

/// Where media can flow and none does for so long, nobody sends any: Opus that stops in silence still sends a packet each 400 ms.
const NONE_FLOW: Duration = Duration::from_secs(1);

/// For the name of a TURN server or of a candidate, and for a connection to one over TCP.
const SERVER_DEADLINE: Duration = Duration::from_secs(3);

/// Letters of our credentials, six bits each: at least 24 and 128 bits are asked for (RFC 8445 section 5.3).
const UFRAG: usize = 8;
const PASSWORD: usize = 24;

/// Whose voice a section carries, by mid.
pub(super) type Voices = BTreeMap<String, Voice>;

/// What a packet of one section is to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Voice {
    /// Who speaks.
    pub(super) participant: ParticipantId,
    /// Id of the audio-level extension.
    pub(super) level: Option<u8>,
    /// Whether a source that nothing names may be theirs: not where the next to speak may come on the same connection before
    /// the description that names them.
    pub(super) takes_unnamed: bool,
}

/// A change of the connection that does not end it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Link {
    /// Media flow, or could and nobody sends any.
    Up,
    /// Media could flow, and nobody has sent any for long; [`Link::Up`] follows when somebody does.
    Idle,
    /// The relay is silent, since then; it may come back.
    Silent(std::time::Instant),
    /// We are to be reached at this too, as in `a=candidate`: no description says so.
    Candidate(String),
}

/// The connection. Dropped, it is closed.
pub(super) struct Peer {
    settings: Settings,
    /// What kind of relay it is to.
    via: &'static str,
    /// Data channels are taken, should they be offered.
    data: bool,
    /// TURN servers that the relay named before there was a connection.
    named: Vec<IceServer>,
    identity: Arc<Identity>,
    bind: Vec<IpAddr>,
    events: mpsc::Sender<Event>,
    state: watch::Receiver<Phase>,
    told: Option<watch::Sender<Phase>>,
    fresh: mpsc::Receiver<String>,
    tell_fresh: mpsc::Sender<String>,
    joined: Option<Joined>,
    /// Hosts that the relay's candidates name, and what is being found of them.
    hosts: BTreeSet<String>,
    finding: JoinSet<(Named, Result<Vec<SocketAddr>, NoAddress>)>,
    connect_by: Option<tokio::time::Instant>,
    /// Media can flow, and until then the first is waited for.
    flow_by: Option<tokio::time::Instant>,
}

/// A new path that was asked for.
pub(super) struct Restart {
    ours: Credentials,
    /// What the relay is told (RFC 8840).
    pub(super) fragment: String,
}

impl Peer {
    /// A connection to a relay of the kind `via` on these addresses, and through the TURN servers of the settings, that yields
    /// packets into `events`.
    pub(super) fn new(
        via: &'static str,
        settings: &Settings,
        bind: &[IpAddr],
        events: mpsc::Sender<Event>,
    ) -> Result<Self, ConnectError> {
        let (told, state) = watch::channel(Phase::New);
        let (tell_fresh, fresh) = mpsc::channel(MAX_SERVERS);
        let (bind, identity) = (bind.to_vec(), settings.sockets.identity()?);
        Ok(Self {
            settings: settings.clone(),
            via,
            data: false,
            named: vec![],
            identity,
            bind,
            events,
            state,
            told: Some(told),
            fresh,
            tell_fresh,
            joined: None,
            hosts: BTreeSet::new(),
            finding: JoinSet::new(),
            connect_by: None,
            flow_by: None,
        })
    }

    /// Will go through these TURN servers too, which the relay names, from the connection's beginning.
    pub(super) fn through(mut self, servers: Vec<IceServer>) -> Self {
        self.named = servers;
        self
    }

    /// Takes data channels, should they be offered, and hears nothing of what is said there.
    pub(super) fn with_data(mut self) -> Self {
        self.data = true;
        self
    }

    /// Goes through these TURN servers too, which the relay names. What cannot be used is passed over.
    pub(super) async fn add_servers(&mut self, servers: &[IceServer]) -> Result<(), ConnectError> {
        let servers = resolved(servers, &self.bind, Some(&self.settings.egress)).await;
        self.ask(servers).await
    }

    async fn ask(&mut self, servers: Vec<(At, &IceServer)>) -> Result<(), ConnectError> {
        let joined = self.joined.as_mut().ok_or_else(gone)?;
        let (id, handle) = (joined.place.id, joined.place.handle.clone());
        // One that a relay names and we knew gives no second address.
        let fresh = servers.into_iter().filter(|(at, _)| joined.servers.insert(at.address));
        // At once: a dead one is waited for by none of the others.
        let reached = join_all(fresh.map(async |(at, server)| {
            let way = match at.tcp {
                true => {
                    stream::open(at.address, id, handle.commands.clone()).await.map(|(ours, way)| (ours, Some(way)))
                }
                false => {
                    let ours = handle.addresses.iter().find(|ours| ours.is_ipv4() == at.address.is_ipv4());
                    ours.map(|ours| (*ours, None))
                }
            };
            Some((at, server, way?))
        }));
        for (at, IceServer { username, credential, .. }, (local, stream)) in reached.await.into_iter().flatten() {
            let (username, credential) = (username.clone(), credential.clone());
            joined.command(Command::Server { id, at, username, credential, local, stream }).await?;
        }
        Ok(())
    }

    /// Our offer: so many audio sections to receive on. A later one, with no fewer, goes on with the connection; with `restart`
    /// on a new path (RFC 8445 section 9).
    pub(super) async fn offer(&mut self, sections: usize, restart: bool) -> Result<String, ConnectError> {
        if self.joined.is_none() {
            self.join(None).await?;
        }
        let fresh = if restart { Some(credentials(&self.identity)?) } else { None };
        let joined = self.joined.as_mut().ok_or_else(gone)?;
        if let Some(fresh) = fresh {
            joined.local.credentials = fresh;
            joined.restarting = joined.remote.is_some();
            self.hosts.clear();
        }
        let offer = describe::offer(&joined.local, sections);
        joined.local.version += 1;
        Ok(offer)
    }

    /// Takes the relay's answer to our offer.
    pub(super) async fn accept(&mut self, answer: &Description, voices: Voices) -> Result<(), ConnectError> {
        let remote = Remote::read(&answer.clean).map_err(|e| bad("SDP answer", e))?;
        let Some(joined) = &mut self.joined else { return Err(gone()) };
        let named = remote.named.clone();
        let ours = std::mem::take(&mut joined.restarting).then(|| joined.local.credentials.clone());
        joined.describe(remote, voices, true, ours).await?;
        self.negotiated();
        self.find(named);
        Ok(())
    }

    /// Our answer to an offer of the relay's, the first or a later one.
    pub(super) async fn answer(&mut self, offer: &Description, voices: Voices) -> Result<String, ConnectError> {
        let remote = Remote::read(&offer.clean).map_err(|e| bad("SDP offer", e))?;
        if self.joined.is_none() {
            let known: Vec<SocketAddr> = remote.candidates.iter().map(|candidate| candidate.addr()).collect();
            // Without any we cannot tell whether another connection is to the same address.
            self.join(Some(known).filter(|known| !known.is_empty())).await?;
        }
        let (identity, joined) = (self.identity.clone(), self.joined.as_mut().ok_or_else(gone)?);
        let restarts = joined.remote.as_ref().is_some_and(|(before, _)| before.credentials != remote.credentials);
        let ours = if restarts { Some(credentials(&identity)?) } else { None };
        joined.local.version += 1;
        if let Some(ours) = &ours {
            joined.local.credentials = ours.clone();
            self.hosts.clear();
        }
        let answer = remote.answer(&joined.local);
        let named = remote.named.clone();
        joined.describe(remote, voices, false, ours).await?;
        self.negotiated();
        self.find(named);
        Ok(answer)
    }

    /// A candidate of ours as a fragment of our description (RFC 8840).
    pub(super) fn fragment(&self, candidate: String) -> Option<String> {
        let Joined { local, remote, .. } = self.joined.as_ref()?;
        Some(describe::fragment(&local.credentials, remote.as_ref()?.0.mid(), &[candidate]))
    }

    /// Begins a new path (RFC 8445 section 9) in a connection that we offered: see [`Peer::restarted`].
    pub(super) fn restart(&self) -> Result<Restart, ConnectError> {
        let Joined { local, remote, .. } = self.joined.as_ref().ok_or_else(gone)?;
        let (ours, mid) = (credentials(&self.identity)?, remote.as_ref().ok_or_else(gone)?.0.mid());
        let fragment = describe::fragment(&ours, mid, &local.candidates);
        Ok(Restart { ours, fragment })
    }

    /// Takes the relay's fragment in answer to ours: the path is sought anew, and what was negotiated stays.
    pub(super) async fn restarted(&mut self, restart: Restart, fragment: &str) -> Result<(), ConnectError> {
        let missing = || bad("SDP fragment", "it has no ICE credentials");
        let (theirs, candidates) = describe::read_fragment(fragment).ok_or_else(missing)?;
        let joined = self.joined.as_mut().ok_or_else(gone)?;
        let (remote, voices) = joined.remote.clone().ok_or_else(gone)?;
        joined.local.credentials = restart.ours.clone();
        joined.describe(remote.restarted(theirs, candidates), voices, true, Some(restart.ours)).await?;
        self.hosts.clear();
        self.find(describe::read_named(fragment));
        Ok(())
    }

    /// Takes a candidate of the relay's that came after its description.
    pub(super) async fn add_candidate(&mut self, candidate: &str) -> Result<(), ConnectError> {
        if let Some(named) = Named::read(candidate) {
            self.find(vec![named]);
            return Ok(());
        }
        let found = describe::candidate(candidate).ok_or_else(|| ConnectError::BadMessage {
            what: "ICE candidate",
            why: "it is no address to send UDP to".into(),
        })?;
        let joined = self.joined.as_mut().ok_or_else(gone)?;
        if !joined.admits(&found) {
            return Ok(());
        }
        joined.command(Command::Candidate(joined.place.id, Box::new(found))).await
    }

    /// Looks for the hosts that candidates name, [`MAX_NAMED`] for one path, while all else goes on: [`Peer::changed`] takes what is
    /// found. What is not is passed over: the relay's checks show where it is.
    fn find(&mut self, named: Vec<Named>) {
        for named in named {
            if self.hosts.len() >= MAX_NAMED || !self.hosts.insert(format!("{}:{}", named.host, named.port)) {
                continue;
            }
            let egress = self.settings.egress.clone();
            self.finding.spawn(async move {
                let found = egress.resolve(&named.host, named.port).await;
                (named, found)
            });
        }
    }

    async fn found(&mut self, named: &Named, found: Result<Vec<SocketAddr>, NoAddress>) -> Result<(), ConnectError> {
        let Some(joined) = &mut self.joined else { return Ok(()) };
        match found {
            Ok(found) => joined.try_at(named, &found).await?,
            Err(NoAddress::Denied(_)) => joined.denied += 1,
            Err(error) => tracing::debug!(%error, "a candidate's host"),
        }
        Ok(())
    }

    /// Waits for media, or for the connection to be in doubt. Cancel safe.
    ///
    /// # Errors
    /// It did not come up in time, or is lost.
    pub(super) async fn changed(&mut self) -> Result<Link, ConnectError> {
        loop {
            let (overdue, none_flow) = (reached(self.connect_by), reached(self.flow_by));
            tokio::select! {
                changed = self.state.changed() => changed.map_err(|_| gone())?,
                Some(candidate) = self.fresh.recv() => {
                    if let Some(joined) = &mut self.joined {
                        joined.local.candidates.push(candidate.clone());
                    }
                    return Ok(Link::Candidate(candidate));
                }
                Some(Ok((named, found))) = self.finding.join_next() => {
                    self.found(&named, found).await?;
                    continue;
                }
                () = none_flow => {
                    self.flow_by = None;
                    return Ok(Link::Up);
                }
                () = overdue => {
                    return Err(ConnectError::MediaUnreachable { after: CONNECT_DEADLINE, denied: self.denied() });
                }
            }
            let phase = *self.state.borrow_and_update();
            tracing::debug!(?phase, "media connection");
            let waited = self.flow_by.take();
            match phase {
                Phase::New => {}
                Phase::Up => {
                    self.connect_by = None;
                    self.flow_by = waited.or_else(|| Some(tokio::time::Instant::now() + NONE_FLOW));
                }
                Phase::Flowing => {
                    self.connect_by = None;
                    return Ok(Link::Up);
                }
                Phase::Idle => return Ok(Link::Idle),
                Phase::Silent(since) => return Ok(Link::Silent(since)),
                Phase::Closed => return Err(ConnectError::Closed),
                Phase::Failed(why) => return Err(ConnectError::MediaLost(why.into())),
            }
        }
    }

    /// Closes the connection.
    pub(super) async fn close(mut self) {
        if let Some(joined) = self.joined.take() {
            let _ = joined.command(Command::Close(joined.place.id)).await;
        }
    }

    /// Takes a place on the sockets for a relay at these addresses.
    async fn join(&mut self, remotes: Option<Vec<SocketAddr>>) -> Result<&mut Joined, ConnectError> {
        let settings = self.settings.clone();
        let mut servers = resolved(&settings.ice_servers, &self.bind, None).await;
        let named = self.named.clone();
        servers.extend(resolved(&named, &self.bind, Some(&settings.egress)).await);
        // A server tells us from others by the address we speak to it from: it counts as the relay's.
        let remotes = remotes.map(|remotes| [remotes, servers.iter().map(|(at, _)| at.address).collect()].concat());
        let place = settings.sockets.place(&self.bind, remotes.as_deref()).await?;
        let credentials = credentials(&self.identity)?;
        let (now, relay_only) = (tokio::time::Instant::now().into_std(), settings.relay_only);
        let session =
            Session::new(self.identity.clone(), &place.handle.addresses, relay_only, credentials.clone(), now)
                .map_err(media)?
                .within(settings.egress.clone())
                .idle_after(settings.nobody_after)
                .via(self.via);
        let local = Local {
            id: self.identity.random_number().map_err(media)? >> 2,
            version: 0,
            credentials: credentials.clone(),
            fingerprint: self.identity.fingerprint.clone(),
            candidates: session.candidates(),
            trickles: !servers.is_empty(),
            data: self.data,
        };
        let (events, state, fresh) = (self.events.clone(), self.told.take().ok_or_else(gone)?, self.tell_fresh.clone());
        let (servers_asked, egress) = (BTreeSet::new(), settings.egress);
        let joined =
            Joined { place, local, remote: None, restarting: false, servers: servers_asked, egress, denied: 0 };
        let id = joined.place.id;
        let add = Command::Add { id, ufrag: credentials.ufrag, session: Box::new(session), events, state, fresh };
        joined.command(add).await?;
        self.joined = Some(joined);
        self.ask(servers).await?;
        self.joined.as_mut().ok_or_else(gone)
    }

    fn denied(&self) -> usize {
        self.joined.as_ref().map_or(0, |joined| joined.denied)
    }

    fn negotiated(&mut self) {
        if *self.state.borrow() == Phase::New && self.connect_by.is_none() {
            self.connect_by = Some(tokio::time::Instant::now() + CONNECT_DEADLINE);
        }
    }
}

/// Returns then; without a time never.
async fn reached(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn credentials(identity: &Identity) -> Result<Credentials, ConnectError> {
    let ufrag = identity.random_text(UFRAG).map_err(media)?;
    Ok(Credentials { ufrag, password: identity.random_text(PASSWORD).map_err(media)? })
}

fn media(error: impl std::fmt::Display) -> ConnectError {
    ConnectError::Media(cut(&error.to_string(), 200))
}

fn bad(what: &'static str, error: impl std::fmt::Display) -> ConnectError {
    ConnectError::BadMessage { what, why: cut(&error.to_string(), 200) }
}

fn gone() -> ConnectError {
    ConnectError::MediaLost("closed".into())
}
