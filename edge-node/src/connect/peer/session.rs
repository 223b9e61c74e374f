//! One connection as a machine: ICE, DTLS and SRTP, of the parts that the WebRTC stack is made of.
//!
//! ```text
//!      a path        keys       first packet           no answer for a while         none at all
//! New ───────▶ New ───────▶ Up ─────────────▶ Flowing ◀───────────────────────▶ Silent ────────────▶ Failed
//! ```
//!
//! RTP goes straight to [`Streams`]; only checks, handshakes and reports go through here. Calling contract: after each
//! `handle_*`, [`Session::poll_transmit`] until there is no more, and [`Session::poll_timeout`] anew.

mod checks;
#[cfg(test)]
#[path = "../../../tests/rigs/protecting.rs"]
mod protecting;
mod turning;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use mesh::clock::Micros;
use rtc::{
    dtls::{
        config::HandshakeConfig,
        endpoint::{Endpoint, EndpointEvent},
    },
    ice::{
        Agent, AgentConfig,
        agent::Event,
        candidate::{Candidate, CandidateType},
        mdns::MulticastDnsMode,
        state::ConnectionState,
    },
    sansio::Protocol,
    shared::{TransportContext, TransportProtocol, error::Error},
};

use self::checks::ICE_DISCONNECTED;
use super::{
    super::{ice_server::At, steps::Steps},
    Voices,
    describe::{Credentials, Remote, Setup},
    identity::Identity,
    keys::{self, Reports},
    local,
    opening::{Hello, Nomination},
    phase::Phase,
    rtp::{Fault, Streams},
    turn::Turn,
};
use crate::{egress::Policy, media::RtpPacket};

/// A path that is doubtful is lost for good after this much longer.
const ICE_FAILED: Duration = Duration::from_secs(10);
/// How often the path is checked.
const ICE_KEEPALIVE: Duration = Duration::from_secs(1);
/// How often paths are while none is chosen, and a path that has proved good may be chosen,
const ICE_CHECK: Duration = Duration::from_millis(100);
/// and how often one is that does not answer. It is once more when the relay checks it.
const ICE_CHECKS: u16 = 20;
/// What we call the relay towards DTLS, whichever path it takes.
const PEER: fn() -> SocketAddr = || TransportContext::default().peer_addr;
/// A sender's report (RFC 3550 section 6.4.1).
const SENDER_REPORT: u8 = 200;

/// A datagram to send.
#[derive(Debug)]
pub(super) struct Transmit {
    /// From which of our addresses.
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    /// Over the stream between the two, which there is then.
    pub(super) tcp: bool,
    pub(super) bytes: BytesMut,
}

/// One connection.
pub(super) struct Session {
    identity: Arc<Identity>,
    agent: Agent,
    dtls: Option<Endpoint>,
    /// Of a handshake that we begin, once there is a path.
    handshake: Option<Arc<HandshakeConfig>>,
    hello: Option<Hello>,
    nomination: Nomination,
    path: Option<(SocketAddr, SocketAddr)>,
    remote: Option<Credentials>,
    egress: Policy,
    streams: Streams,
    reports: Option<Reports>,
    turns: Vec<Turn>,
    transmits: VecDeque<Transmit>,
    /// Our candidates that no description has, as in `a=candidate`.
    fresh: VecDeque<String>,
    phase: Phase,
    /// When the last packet of anybody's came.
    heard: Option<Instant>,
    /// Since when media can flow.
    open: Option<Instant>,
    nobody_after: Duration,
    /// When the agent was last looked after.
    checked: Instant,
    steps: Steps,
}

impl Session {
    /// A connection on these addresses of ours, the first preferred; with `relay_only` on none but what TURN servers give.
    pub(super) fn new(
        identity: Arc<Identity>,
        addresses: &[SocketAddr],
        relay_only: bool,
        credentials: Credentials,
        now: Instant,
    ) -> Result<Self, Error> {
        let config = AgentConfig {
            local_ufrag: credentials.ufrag,
            local_pwd: credentials.password,
            multicast_dns_mode: MulticastDnsMode::Disabled,
            disconnected_timeout: Some(ICE_DISCONNECTED),
            failed_timeout: Some(ICE_FAILED),
            keepalive_interval: Some(ICE_KEEPALIVE),
            check_interval: ICE_CHECK,
            max_binding_requests: Some(ICE_CHECKS),
            // Where nothing else is tried there is nothing better to wait for.
            relay_acceptance_min_wait: relay_only.then_some(Duration::ZERO),
            candidate_types: vec![CandidateType::Host, CandidateType::Relay],
            ..AgentConfig::default()
        };
        let mut agent = Agent::new(now, Arc::new(config), identity.provider.clone())?;
        for (n, address) in addresses.iter().enumerate().filter(|_| !relay_only) {
            agent.add_local_candidate(local::host(*address, n)?)?;
        }
        Ok(Self {
            identity,
            agent,
            dtls: None,
            handshake: None,
            hello: None,
            nomination: Nomination::default(),
            path: None,
            remote: None,
            egress: Policy::default(),
            streams: Streams::default(),
            reports: None,
            turns: vec![],
            transmits: VecDeque::new(),
            fresh: VecDeque::new(),
            phase: Phase::New,
            heard: None,
            open: None,
            nobody_after: Duration::MAX,
            checked: now,
            steps: Steps::new("", now),
        })
    }

    /// Only what comes from addresses within `egress` makes a path.
    pub(super) fn within(mut self, egress: Policy) -> Self {
        self.egress = egress;
        self
    }

    /// It is idle where nobody has sent a packet for so long.
    pub(super) fn idle_after(mut self, nobody_after: Duration) -> Self {
        self.nobody_after = nobody_after;
        self
    }

    /// Its steps are counted among those of connections to relays of this kind.
    pub(super) fn via(mut self, via: &'static str) -> Self {
        self.steps = Steps::new(via, self.checked);
        self
    }

    /// Our candidates, as in `a=candidate`.
    pub(super) fn candidates(&self) -> Vec<String> {
        self.agent.get_local_candidates().iter().map(Candidate::marshal).collect()
    }

    /// Follows the relay's description, the first or a later one; `offered` if it answers an offer of ours. With other
    /// credentials than before it wants a new path, for which `ours` are new too.
    pub(super) fn describe(
        &mut self,
        remote: Remote,
        voices: &Voices,
        offered: bool,
        ours: Option<Credentials>,
        now: Instant,
    ) -> Result<(), Error> {
        self.streams.describe(remote.sections(voices));
        let known = self.remote.as_ref() == Some(&remote.credentials);
        if !known {
            self.nomination = Nomination::default();
            if let (Some(_), Some(Credentials { ufrag, password })) = (&self.remote, ours) {
                self.agent.restart(now, ufrag, password, true)?;
            }
            let Credentials { ufrag, password } = remote.credentials.clone();
            self.agent.start_connectivity_checks(now, offered || remote.lite, ufrag, password)?;
            self.remote = Some(remote.credentials.clone());
        }
        for candidate in remote.candidates.iter().cloned() {
            self.take_candidate(candidate)?;
        }
        if self.dtls.is_none() {
            self.steps = self.steps.anew(now);
            let client = match remote.setup {
                Setup::Passive => true,
                Setup::Active => false,
                // Ours to choose where it leaves it open, and we answer `active`.
                Setup::ActPass => true,
            };
            let handshake = Arc::new(self.identity.handshake(remote.fingerprints, client)?);
            let (server, client) = if client { (None, Some(handshake)) } else { (Some(handshake), None) };
            self.handshake = client;
            self.dtls = Some(Endpoint::new(TransportContext::default().local_addr, TransportProtocol::UDP, server));
        }
        self.drive(now);
        Ok(())
    }

    /// Sends this from one of our addresses: straight, or through the TURN server whose it is.
    fn send(&mut self, from: SocketAddr, to: SocketAddr, bytes: BytesMut, now: Instant) {
        match self.turns.iter_mut().find(|turn| turn.relayed() == Some(from)) {
            Some(turn) => turn.send(to, &bytes, now),
            None => self.transmits.push_back(Transmit { from, to, tcp: false, bytes }),
        }
    }

    /// Takes a part of the handshake. What is wrong with it is for DTLS to answer; the handshake has a deadline.
    pub(super) fn handle_dtls(&mut self, bytes: &[u8], now: Instant) {
        let Some(endpoint) = &mut self.dtls else { return };
        self.hello = None;
        let events = match endpoint.read(now, PEER(), None, BytesMut::from(bytes)) {
            Ok(events) => events,
            Err(error) => {
                tracing::debug!(%error, "DTLS");
                vec![]
            }
        };
        for event in events {
            match event {
                EndpointEvent::HandshakeComplete => self.unlock(now),
                EndpointEvent::PeerClosed => self.phase = Phase::Closed,
                _ => {}
            }
        }
        self.drive(now);
    }

    /// Opens a packet of somebody's.
    pub(super) fn handle_rtp(&mut self, bytes: &[u8], now: Instant, wall: Micros) -> Result<RtpPacket, Fault> {
        let packet = self.streams.handle(bytes, now, wall)?;
        self.heard = Some(now);
        if matches!(self.phase, Phase::Up | Phase::Idle) {
            self.phase = Phase::Flowing;
            self.streams.hurried = true;
            self.steps.reach("media", now);
        }
        Ok(packet)
    }

    /// Takes a report of the relay's.
    pub(super) fn handle_rtcp(&mut self, bytes: &[u8], now: Instant) {
        let Some(reports) = &mut self.reports else { return };
        let ssrc = bytes.get(4..8).and_then(|four| four.first_chunk()).map(|four| u32::from_be_bytes(*four));
        // Of sources that are known: the context keeps a state for each.
        let Some(ssrc) = ssrc.filter(|ssrc| self.streams.knows(*ssrc)) else { return };
        let Ok(plain) = reports.theirs.decrypt_rtcp(bytes) else { return };
        if plain.get(1) == Some(&SENDER_REPORT)
            && let Some(middle) = plain.get(10..14).and_then(|four| four.first_chunk())
        {
            self.streams.handle_sender_report(ssrc, u32::from_be_bytes(*middle), now);
        }
    }

    /// A deadline has passed, or may have.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.agent_due().is_some_and(|at| at <= now) {
            self.checked = now;
            if let Err(error) = self.agent.handle_timeout(now) {
                tracing::debug!(%error, "ICE");
            }
        }
        if let Some(dtls) = &mut self.dtls
            && dtls.poll_timeout(&PEER()).is_some_and(|at| at <= now)
            && let Err(error) = dtls.handle_timeout(PEER(), now)
        {
            tracing::debug!(%error, "DTLS");
        }
        if let Some(bytes) = self.hello.as_mut().and_then(|hello| hello.handle_timeout(now))
            && let Some((from, to)) = self.path
        {
            self.send(from, to, bytes, now);
        }
        for n in 0..self.turns.len() {
            let outcome = self.turns[n].handle_timeout(now);
            self.settle_turn(n, outcome);
        }
        if self.idle_at().is_some_and(|at| at <= now) {
            self.phase = Phase::Idle;
        }
        self.report(now);
        self.drive(now);
    }

    /// When [`Session::handle_timeout`] is next wanted.
    pub(super) fn poll_timeout(&mut self) -> Option<Instant> {
        self.streams.hurried = false;
        if self.phase.is_over() {
            return None;
        }
        let dtls = self.dtls.as_ref().and_then(|dtls| dtls.poll_timeout(&PEER()));
        let turn = self.turns.iter_mut().filter_map(Turn::poll_timeout).min();
        let hello = self.hello.as_ref().and_then(Hello::poll_timeout);
        [self.agent_due(), dtls, hello, self.streams.poll_timeout(), turn, self.idle_at()].into_iter().flatten().min()
    }

    /// Whether [`Session::poll_timeout`] has something new to say though only RTP has come.
    pub(super) fn is_hurried(&self) -> bool {
        self.streams.hurried
    }

    /// The next datagram to send.
    pub(super) fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// Where it stands.
    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Says farewell.
    pub(super) fn close(&mut self, now: Instant) {
        if let Some(dtls) = &mut self.dtls {
            let _ = dtls.close(now);
        }
        self.drive(now);
        self.turns.iter_mut().for_each(|turn| turn.close(now));
        self.drive(now);
        self.phase = Phase::Failed("closed");
    }

    /// While all is well the agent has nothing to do but to check the path.
    fn agent_due(&mut self) -> Option<Instant> {
        let due = self.agent.poll_timeout()?;
        let calm = self.phase.is_open() && self.agent.state() == ConnectionState::Connected;
        Some(if calm { due.max(self.checked + ICE_KEEPALIVE) } else { due })
    }

    /// When nobody will have sent a packet for long, if none comes.
    fn idle_at(&self) -> Option<Instant> {
        let waits = matches!(self.phase, Phase::Up | Phase::Flowing);
        self.heard.max(self.open).filter(|_| waits)?.checked_add(self.nobody_after)
    }

    fn report(&mut self, now: Instant) {
        let (Some(reports), Some((from, to))) = (&mut self.reports, self.path) else { return };
        if let Some(plain) = self.streams.poll_reports(reports.ssrc, now)
            && let Ok(bytes) = reports.ours.encrypt_rtcp(&plain)
        {
            self.send(from, to, bytes, now);
        }
    }

    /// Moves what the parts have for each other and for the relay.
    fn drive(&mut self, now: Instant) {
        while let Some(event) = self.agent.poll_event() {
            match event.event {
                Event::SelectedCandidatePairChange(local, remote) => {
                    if self.path.replace((local.base_addr(), remote.addr())).is_none() {
                        self.steps.reach("path", now);
                    }
                    self.begin_handshake(now);
                }
                Event::ConnectionStateChange(state) => self.handle_ice(state, now),
                _ => {}
            }
        }
        while let Some(message) = self.agent.poll_write() {
            let TransportContext { local_addr: from, peer_addr: to, .. } = message.transport;
            self.send(from, to, message.message, now);
        }
        while let Some(message) = self.dtls.as_mut().and_then(Endpoint::poll_transmit) {
            if let Some((from, to)) = self.path {
                if let Some(hello) = &mut self.hello {
                    hello.handle_said(&message.message, now);
                }
                self.send(from, to, message.message, now);
            }
        }
        for turn in &mut self.turns {
            let (from, At { address: to, tcp }) = (turn.local(), turn.at());
            while let Some(bytes) = turn.poll_transmit() {
                self.transmits.push_back(Transmit { from, to, tcp, bytes });
            }
        }
    }

    fn begin_handshake(&mut self, now: Instant) {
        let (Some(dtls), Some(handshake)) = (&mut self.dtls, self.handshake.take()) else { return };
        self.hello = Some(Hello::default());
        if let Err(error) = dtls.connect(now, PEER(), handshake, None) {
            tracing::debug!(%error, "DTLS");
            self.phase = Phase::Failed("no DTLS handshake can be begun");
        }
    }

    /// Takes the keys that the handshake has made.
    fn unlock(&mut self, now: Instant) {
        match keys::exported(&self.identity, self.dtls.as_ref(), PEER()) {
            Ok((keys, reports)) => {
                self.streams.unlock(keys, now);
                self.reports = Some(reports);
                self.phase = Phase::Up;
                self.open = Some(now);
                self.steps.reach("keys", now);
            }
            Err(error) => {
                tracing::debug!(%error, "SRTP");
                self.phase = Phase::Failed("no keys from DTLS");
            }
        }
    }
}
