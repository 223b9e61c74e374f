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
mod turn;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

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
        for (at, IceServer { username, credential, .. }) in servers {
            // One that a relay names and we knew gives no second address.
            if !joined.servers.insert(at.address) {
                continue;
            }
            let (id, handle) = (joined.place.id, &joined.place.handle);
            let (local, stream) = match at.tcp {
                true => match stream::open(at.address, id, handle.commands.clone()).await {
                    Some((local, stream)) => (local, Some(stream)),
                    None => continue,
                },
                false => match handle.addresses.iter().find(|ours| ours.is_ipv4() == at.address.is_ipv4()) {
                    Some(local) => (*local, None),
                    None => continue,
                },
            };
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::Ipv4Addr;

    use tokio::net::UdpSocket;

    use super::*;
    use crate::{connect::sdp, egress::Policy};

    #[tokio::test]
    async fn our_offer_is_one_opus_section_to_receive_on() {
        let (events, _seen) = mpsc::channel(8);
        let mut peer = Peer::new("", &Settings::on_loopback(), &[Ipv4Addr::LOCALHOST.into()], events).unwrap();
        let offer = peer.offer(1, false).await.unwrap();
        assert_eq!(offer.matches("m=").count(), 1, "{offer}");
        for line in ["m=audio", "a=recvonly", "opus/48000/2", "useinbandfec=1", "a=rtcp-fb:111 nack", "127.0.0.1"] {
            assert!(offer.contains(line), "{line} in {offer}");
        }
        assert!(offer.contains(sdp::AUDIO_LEVEL_URI) && offer.contains(sdp::MID_URI), "{offer}");
        peer.close().await;
    }

    #[tokio::test]
    async fn video_and_other_codecs_in_an_offer_are_refused() {
        let (events, _seen) = mpsc::channel(8);
        let mut peer = Peer::new("", &Settings::on_loopback(), &[Ipv4Addr::LOCALHOST.into()], events).unwrap();
        let offer = sdp::read(&sdp::tests::offer(), sdp::Side::Offer).unwrap();
        let answer = peer.answer(&offer, Voices::new()).await.unwrap();
        assert_eq!(answer.matches("m=audio 9").count(), 2, "{answer}");
        assert!(answer.contains("m=video 0"), "{answer}");
        peer.close().await;
    }

    #[tokio::test]
    async fn a_relay_that_names_addresses_inside_has_nobody_knock_there() {
        let (inside, outside) =
            (UdpSocket::bind(("127.0.0.1", 0)).await.unwrap(), UdpSocket::bind(("127.0.0.2", 0)).await.unwrap());
        let candidate = |socket: &UdpSocket| {
            let at = socket.local_addr().unwrap();
            format!("1 1 udp 2130706431 {} {} typ host", at.ip(), at.port())
        };
        let text = format!(
            "{}a=candidate:{}\r\na=candidate:{}\r\n",
            sdp::tests::offer(),
            candidate(&inside),
            candidate(&outside)
        );
        let (events, _seen) = mpsc::channel(8);
        let egress = Policy::new(&["127.0.0.2/32".parse().unwrap()]);
        let settings = Settings { egress, ..Settings::default() };
        let mut peer = Peer::new("", &settings, &[Ipv4Addr::LOCALHOST.into()], events).unwrap();
        peer.answer(&sdp::read(&text, sdp::Side::Offer).unwrap(), Voices::new()).await.unwrap();
        peer.add_candidate(&candidate(&inside)).await.unwrap();
        let mut buffer = [0; 1500];
        for _ in 0..3 {
            outside.recv_from(&mut buffer).await.unwrap();
        }
        assert!(inside.try_recv(&mut buffer).is_err(), "it was knocked at");
        assert_eq!(peer.denied(), 2);
        let error = ConnectError::MediaUnreachable { after: CONNECT_DEADLINE, denied: peer.denied() }.to_string();
        assert!(error.contains("2 of the relay's addresses are not public"), "{error}");
    }

    #[tokio::test]
    async fn a_relay_that_names_a_host_is_reached_where_that_is() {
        let relay = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
        let line = |host: &str| format!("1 1 udp 2130706431 {host} {} typ host", relay.local_addr().unwrap().port());
        for trickled in [false, true] {
            let (events, _seen) = mpsc::channel(8);
            let mut peer = Peer::new("", &Settings::on_loopback(), &[Ipv4Addr::LOCALHOST.into()], events).unwrap();
            let told = if trickled { String::new() } else { format!("a=candidate:{}\r\n", line("localhost")) };
            // What is not found keeps nobody from what is.
            let text = format!("{}a=candidate:{}\r\n{told}", sdp::tests::offer(), line("nobody.invalid"));
            peer.answer(&sdp::read(&text, sdp::Side::Offer).unwrap(), Voices::new()).await.unwrap();
            if trickled {
                peer.add_candidate(&line("localhost")).await.unwrap();
            }
            let mut buffer = [0; 1500];
            let knocked = tokio::time::timeout(Duration::from_secs(30), relay.recv_from(&mut buffer));
            tokio::select! {
                knocked = knocked => drop(knocked.unwrap().unwrap()),
                changed = peer.changed() => panic!("{changed:?}"),
            }
            peer.close().await;
            while relay.try_recv(&mut buffer).is_ok() {}
        }
    }

    #[tokio::test]
    async fn a_host_inside_that_a_relay_names_is_not_knocked_at() {
        let inside = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
        let line = format!("1 1 udp 2130706431 localhost {} typ host", inside.local_addr().unwrap().port());
        let (events, _seen) = mpsc::channel(8);
        let mut peer = Peer::new("", &Settings::default(), &[Ipv4Addr::LOCALHOST.into()], events).unwrap();
        let text = format!("{}a=candidate:{line}\r\n", sdp::tests::offer());
        peer.answer(&sdp::read(&text, sdp::Side::Offer).unwrap(), Voices::new()).await.unwrap();
        let Some(Ok((named, found))) = peer.finding.join_next().await else { panic!() };
        peer.found(&named, found).await.unwrap();
        assert_eq!(peer.denied(), 1);
        // Each host is looked for once, and few are.
        (0..9).for_each(|_| peer.find(vec![named.clone()]));
        (0..9).for_each(|n| peer.find(vec![Named::read(&line.replace("localhost", &format!("{n}.invalid"))).unwrap()]));
        assert_eq!((peer.hosts.len(), peer.finding.len()), (MAX_NAMED, MAX_NAMED - 1));
        assert!(inside.try_recv(&mut [0; 1500]).is_err());
    }

    #[test]
    fn a_check_from_inside_makes_no_path() {
        let (mut now, identity) = (tokio::time::Instant::now().into_std(), Arc::new(Identity::new().unwrap()));
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let new = |port| {
            let ours = credentials(&identity).unwrap();
            let session = Session::new(identity.clone(), &[at(port)], false, ours.clone(), now).unwrap();
            let (fingerprint, candidates) = (identity.fingerprint.clone(), session.candidates());
            let local =
                Local { id: 1, version: 1, credentials: ours, fingerprint, candidates, trickles: false, data: false };
            let text = sdp::read(&describe::offer(&local, 1), sdp::Side::Offer).unwrap().clean;
            (session, Remote::read(&text).unwrap())
        };
        let ((ours, us), (mut theirs, mut them)) = (new(1), new(2));
        theirs.describe(us, &Voices::new(), true, None, now).unwrap();
        let check = loop {
            match theirs.poll_transmit() {
                Some(check) => break check,
                None => now = theirs.poll_timeout().unwrap(),
            }
            theirs.handle_timeout(now);
        };
        // We are not told where they are.
        them.candidates.clear();
        let mut ours = ours.within(Policy::default());
        ours.describe(them, &Voices::new(), false, None, now).unwrap();
        assert!(!ours.handle_stun(at(1), at(2), &check.bytes, now));
        assert!(ours.within(Policy::with_loopback()).handle_stun(at(1), at(2), &check.bytes, now));
    }

    /// The offer of a relay that is reached at `at`.
    fn offer_from(at: SocketAddr) -> Description {
        let candidate = format!("a=candidate:1 1 udp 2130706431 {} {} typ host\r\n", at.ip(), at.port());
        sdp::read(&(sdp::tests::offer() + &candidate), sdp::Side::Offer).unwrap()
    }

    async fn answered(sockets: &Sockets, relay: SocketAddr) -> (Peer, mpsc::Receiver<Event>) {
        let (events, seen) = mpsc::channel(8);
        let settings = Settings { sockets: sockets.clone(), ..Settings::on_loopback() };
        let mut peer = Peer::new("", &settings, &[Ipv4Addr::LOCALHOST.into()], events).unwrap();
        peer.answer(&offer_from(relay), Voices::new()).await.unwrap();
        (peer, seen)
    }

    fn address(peer: &Peer) -> SocketAddr {
        peer.joined.as_ref().unwrap().place.handle.addresses[0]
    }

    #[tokio::test]
    async fn connections_share_a_socket_unless_they_are_to_the_same_address() {
        let sockets = Sockets::default();
        let relay = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let (one, _one) = answered(&sockets, relay(40_001)).await;
        let (two, _two) = answered(&sockets, relay(40_002)).await;
        let (same, _same) = answered(&sockets, relay(40_001)).await;
        assert_eq!(address(&one), address(&two));
        assert_ne!(address(&one), address(&same));
        one.close().await;
        let (later, _later) = answered(&sockets, relay(40_001)).await;
        assert_eq!(address(&later), address(&two), "the place is free again");
    }

    #[tokio::test]
    async fn what_strangers_send_reaches_nobody() {
        let relay = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (peer, mut seen) = answered(&Sockets::default(), relay.local_addr().unwrap()).await;
        let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        // The first check of the path: the loop is at work.
        let mut buffer = [0; 1500];
        relay.recv_from(&mut buffer).await.unwrap();
        for n in 0..2000u32 {
            let mut datagram = n.to_be_bytes().repeat(20);
            datagram[0] = [0, 22, 0x80, 0x90, 0xC8, 255][n as usize % 6];
            stranger.send_to(&datagram, address(&peer)).await.unwrap();
            relay.send_to(&datagram, address(&peer)).await.unwrap();
        }
        // It still looks for its path after that, and says nothing to the stranger.
        relay.recv_from(&mut buffer).await.unwrap();
        assert!(seen.try_recv().is_err());
        assert_eq!(*peer.state.borrow(), Phase::New);
        assert!(stranger.try_recv(&mut buffer).is_err());
    }
}
