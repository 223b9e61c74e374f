//! A node with a valid certificate that means harm.
#![allow(clippy::disallowed_methods, reason = "a shell: it waits by the wall clock")]

mod gossip;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bytes::BytesMut;
use mesh::{
    clock::Micros,
    identity::{Identity, NodeId, Role, certs::Credentials},
    mandate::{EdgeKey, Proof},
    membership,
    node::{Member, Node, Peer, Settings},
    seeds,
    trace::TraceContext,
    transport::Transport,
    wire::{
        self, Epoch, MeetingAlias, MeetingId, ParticipantAlias, SpurtNo, Term,
        control::{CloseReason, ToCore, ToEdge},
        keys::{KeyDigest, Keys},
        request::{Assignment, Join, LeaseProof, Replica, Request, Response, Source, VadSettings},
        spurt::SpurtHeader,
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

use super::{attack::Attack, ears::Ears};
use crate::world::Host;

/// How long a lie is told.
const TELLING: Duration = Duration::from_secs(4);
/// An answer is waited for so long.
const ANSWER: Duration = Duration::from_secs(2);
/// How long spurts that are not ended are held open.
const HELD: Duration = Duration::from_secs(3);
/// The room that it says it has, as no honest node here does.
pub(super) const ROOMY: u32 = 10_000;

/// What it knows of the others: more than an attacker would.
#[derive(Debug, Clone)]
pub(super) struct Ground {
    /// A meeting that is none of its business.
    pub(super) meeting: MeetingId,
    /// Under which epoch it is captured.
    pub(super) epoch: Epoch,
    /// The core that serves it, and the other one.
    pub(super) cores: [NodeId; 2],
    /// The edge that captures it, and another.
    pub(super) edges: [NodeId; 2],
    /// Where its relay is.
    pub(super) relay: String,
    /// Connections, and spurts on each, that are begun and not ended.
    pub(super) half_open: (usize, usize),
}

/// What an attack came to, as far as it shows at once.
#[derive(Debug, Clone, Default)]
pub(super) struct Tried {
    /// What was asked and granted.
    pub(super) granted: Vec<String>,
    /// How often it was tried.
    pub(super) tries: usize,
}

/// One malicious node.
pub(super) struct Traitor {
    pub(super) identity: Identity,
    pub(super) ip: IpAddr,
    pub(super) ears: Arc<Ears>,
    orders: mpsc::Sender<(Attack, Ground, oneshot::Sender<Tried>)>,
}

/// How it joins.
pub(super) struct Pass {
    pub(super) credentials: Credentials,
    pub(super) seed: SocketAddr,
}

impl Traitor {
    /// Joins the mesh on `host`, and waits for orders.
    pub(super) fn join(host: &Host, pass: Pass) -> Self {
        let (orders, queue) = mpsc::channel(1);
        let ears = Arc::new(Ears::default());
        let (identity, ip) = (pass.credentials.identity().clone(), host.ip());
        let (host, heard) = (host.clone(), ears.clone());
        tokio::spawn(async move {
            let lived = host.run(move || async move { live(ip, pass, heard, queue).await }).await;
            if let Err(error) = lived.map_err(anyhow::Error::from).and_then(|lived| lived) {
                tracing::error!(%error, "the traitor ended");
            }
        });
        Self { identity, ip, ears, orders }
    }

    /// Has it try `attack`.
    ///
    /// # Errors
    /// It has ended.
    pub(super) async fn attack(&self, attack: Attack, ground: &Ground) -> Result<Tried> {
        let (done, tried) = oneshot::channel();
        self.orders.send((attack, ground.clone(), done)).await.context("the traitor has ended")?;
        tried.await.context("the traitor has ended")
    }
}

async fn live(
    ip: IpAddr,
    pass: Pass,
    ears: Arc<Ears>,
    mut orders: mpsc::Receiver<(Attack, Ground, oneshot::Sender<Tried>)>,
) -> Result<()> {
    let addr = SocketAddr::new(ip, 4433);
    let settings = Settings {
        listen: addr,
        advertise: addr,
        credentials: pass.credentials.clone(),
        seeds: seeds::Settings { addresses: vec![pass.seed.to_string()], ..seeds::Settings::default() },
        swim: membership::Settings::default(),
        software: env!("CARGO_PKG_VERSION").into(),
        tasks: Default::default(),
    };
    let (node, inbound) = Node::start(settings).await?;
    tokio::spawn(ears.listen(node.identity().node.clone(), inbound));
    let evil = Evil { node, credentials: pass.credentials, ip };
    while let Some((attack, ground, done)) = orders.recv().await {
        let mut tried = Tried::default();
        evil.attack(attack, &ground, &mut tried).await;
        // Whoever gave the order may have given up.
        let _ = done.send(tried);
    }
    evil.node.shutdown().await;
    Ok(())
}

struct Evil {
    node: Node,
    credentials: Credentials,
    ip: IpAddr,
}

impl Evil {
    async fn attack(&self, attack: Attack, ground: &Ground, tried: &mut Tried) {
        match attack {
            Attack::EdgeAsCore | Attack::DnsAsCore => self.ask_as_core(ground, tried).await,
            Attack::Renew => self.renew(ground, tried).await,
            Attack::Steal => self.steal(ground, tried).await,
            Attack::HalfOpen => self.half_open(ground, tried).await,
            Attack::Garbage => self.garbage(ground, tried).await,
            Attack::Usurp => self.usurp(ground, tried).await,
            Attack::Dismiss => self.dismiss(ground, tried).await,
            Attack::Lure => self.lure(tried).await,
            Attack::DnsClaims | Attack::EdgeClaims => self.claim(Role::Core, ground, tried).await,
            Attack::CoreClaims => self.claim(Role::Edge, ground, tried).await,
            Attack::Ghosts => self.ghosts(ground, tried).await,
            Attack::Report => self.report(ground, tried).await,
            Attack::Evict => self.evict(ground, tried).await,
        }
    }

    fn me(&self) -> &NodeId {
        &self.node.identity().node
    }

    /// Asks, and notes what was granted that `is_wrong`.
    async fn ask(&self, to: &NodeId, what: &str, request: Request, tried: &mut Tried, is_wrong: fn(&Response) -> bool) {
        tried.tries += 1;
        if let Ok(Ok(response)) = timeout(ANSWER, self.node.request(to, &request)).await
            && is_wrong(&response)
        {
            tried.granted.push(format!("{what} to {to}: {}", kind(&response)));
        }
    }

    async fn ask_as_core(&self, ground: &Ground, tried: &mut Tried) {
        let meeting = ground.meeting;
        for to in ground.cores.iter().chain(&ground.edges) {
            let asked = [
                ("release", Request::Release { meeting, key: EdgeKey::default() }),
                ("probe", Request::Probe { relay: ground.relay.clone(), stun: false }),
                ("serving", Request::Serving { meeting }),
                ("replicate", Request::Replicate(self.claim_of(ground, Term(9)))),
                ("keys", Request::Keys(Keys { making: Some(meeting), keys: vec![KeyDigest::of_meeting("any")] })),
                ("remove", Request::Remove { meeting, term: Term(9), proof: Proof::default() }),
                ("captures", Request::Captures { meeting, key: EdgeKey::default() }),
                ("join", Request::Join(self.join(ground, Epoch(ground.epoch.0 + 1)))),
            ];
            for (what, request) in asked {
                self.ask(to, what, request, tried, |r| !matches!(r, Response::Refused { .. })).await;
            }
        }
        if self.node.identity().role == Role::Dns {
            self.steal(ground, tried).await;
        }
    }

    async fn renew(&self, ground: &Ground, tried: &mut Tried) {
        let leases = vec![LeaseProof { meeting: ground.meeting, epoch: ground.epoch, proof: Proof::default() }];
        let is_wrong = |r: &Response| matches!(r, Response::Renewed { leases, .. } if leases.iter().any(|l| l.kept));
        // To the core itself, and by way of others that would vouch for it.
        for to in ground.cores.iter().chain(&ground.edges) {
            for edge in &ground.edges {
                let (core, leases) = (ground.cores[0].clone(), leases.clone());
                let request = Request::Renew { core, edge: edge.clone(), sent_ms: u64::from(u32::MAX), leases };
                self.ask(to, "renew", request, tried, is_wrong).await;
            }
        }
    }

    async fn steal(&self, ground: &Ground, tried: &mut Tried) {
        for core in &ground.cores {
            if let Err(error) = self.open_as_owner(core, ground, tried).await {
                tracing::debug!(%error, "not let in");
            }
        }
    }

    async fn open_as_owner(&self, core: &NodeId, ground: &Ground, tried: &mut Tried) -> Result<()> {
        let (mut send, mut recv) = self.node.peer(core).await?.open_control().await?;
        let (meeting, epoch, trace) = (ground.meeting, ground.epoch, TraceContext::new(7));
        let (next, term) = (Epoch(epoch.0 + 1), Term(2));
        let alias = MeetingAlias;
        let said = [
            ToCore::Hello { software: "evil".into() },
            ToCore::Open { alias: alias(1), meeting, epoch, trace },
            ToCore::Serve { alias: alias(2), meeting, epoch, term: Term(1), trace },
            ToCore::Serve { alias: alias(3), meeting, epoch, term, trace },
            ToCore::Serve { alias: alias(4), meeting, epoch: next, term, trace },
            ToCore::Late { alias: alias(5), meeting, epoch, trace },
            ToCore::Participant {
                alias: alias(2),
                participant: ParticipantAlias(1),
                id: "x".into(),
                name: None,
                unheard: None,
            },
            ToCore::Standby { alias: alias(2), core: Some(self.me().clone()), number: u64::MAX },
            ToCore::HandOver { alias: alias(2) },
            ToCore::Close { alias: alias(2), reason: CloseReason::Ended },
        ];
        for message in said {
            tried.tries += 1;
            send.send(&message).await?;
        }
        while let Ok(Ok(Some(answer))) = timeout(ANSWER, recv.recv::<ToEdge>()).await {
            // Which core to turn to is no secret; what it then is to the meeting, that core decides.
            let nothing = matches!(
                answer,
                ToEdge::Hello { .. }
                    | ToEdge::Refused { .. }
                    | ToEdge::Moved { .. }
                    | ToEdge::Beat { .. }
                    | ToEdge::Drain
            );
            if !nothing {
                tried.granted.push(format!("{core} said {answer:?}"));
            }
        }
        Ok(())
    }

    async fn half_open(&self, ground: &Ground, tried: &mut Tried) {
        let Some(core) = self.member(&ground.cores[0]) else { return };
        let (connections, streams) = ground.half_open;
        let mut held = vec![];
        for _ in 0..connections {
            let Ok(transport) = Transport::bind(SocketAddr::new(self.ip, 0), self.credentials.clone()) else {
                continue;
            };
            let Ok((identity, connection)) = transport.dial(core.addr).await else { continue };
            let peer = Peer { identity, connection };
            let Ok((mut send, recv)) = peer.open_control().await else { continue };
            let _ = send.send(&ToCore::Hello { software: "evil".into() }).await;
            let mut open = vec![];
            for n in 0..streams {
                let Ok(Ok(mut stream)) = timeout(ANSWER, peer.connection.open_uni()).await else { break };
                // Half of a header, or all of one that names nothing.
                let mut bytes = BytesMut::new();
                header(n as u32).encode(&mut bytes);
                let some = if n % 2 == 0 { &bytes[..4] } else { &bytes[..] };
                if stream.write_all(some).await.is_err() {
                    break;
                }
                open.push(stream);
            }
            tried.tries += open.len();
            held.push((transport, peer, send, recv, open));
        }
        sleep(HELD).await;
        for (transport, ..) in held {
            transport.shutdown(Duration::from_millis(100)).await;
        }
    }

    async fn garbage(&self, ground: &Ground, tried: &mut Tried) {
        let (begun, mut n, mut x) = (Instant::now(), 0u64, 0x9e37_79b9_7f4a_7c15u64);
        let all: Vec<&NodeId> = ground.cores.iter().chain(&ground.edges).collect();
        while begun.elapsed() < TELLING {
            n += 1;
            let mut bytes = vec![0u8; 40 + (n % 1000) as usize];
            for byte in &mut bytes {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                *byte = x as u8;
            }
            bytes[0] = (n % 6) as u8;
            let Ok(peer) = self.node.peer(all[n as usize % all.len()]).await else { continue };
            tried.tries += 1;
            let _ = match n % 3 {
                0 => peer.connection.send_datagram(bytes.into()).map_err(anyhow::Error::from),
                1 => send_uni(&peer, &bytes).await,
                _ => send_bi(&peer, &bytes).await,
            };
            if n.is_multiple_of(20) {
                sleep(Duration::from_millis(10)).await;
            }
        }
    }

    async fn usurp(&self, ground: &Ground, tried: &mut Tried) {
        for core in &ground.cores {
            for term in [Term(2), Term(9), Term(1_000_000)] {
                let claim = Request::Replicate(self.claim_of(ground, term));
                self.ask(core, "replicate", claim, tried, |r| !matches!(r, Response::Refused { .. })).await;
            }
        }
        for core in &ground.cores {
            let remove = Request::Remove { meeting: ground.meeting, term: Term(9), proof: Proof::default() };
            self.ask(core, "remove", remove, tried, |r| !matches!(r, Response::Refused { .. })).await;
        }
        // Whoever believed it would come now.
        sleep(TELLING).await;
    }

    async fn dismiss(&self, ground: &Ground, tried: &mut Tried) {
        let (meeting, key) = (ground.meeting, EdgeKey::default());
        let owner = &ground.edges[0];
        let is_wrong = |r: &Response| !matches!(r, Response::Refused { .. });
        self.ask(owner, "release", Request::Release { meeting, key }, tried, is_wrong).await;
        for epoch in [ground.epoch.0, ground.epoch.0 + 1, u64::MAX] {
            let join = Request::Join(self.join(ground, Epoch(epoch)));
            self.ask(owner, "join", join, tried, is_wrong).await;
            let assign = Request::Assign(self.join(ground, Epoch(epoch)).assignment);
            self.ask(owner, "assign", assign, tried, is_wrong).await;
        }
        sleep(TELLING).await;
    }

    fn member(&self, node: &NodeId) -> Option<Member> {
        let members = self.node.members().borrow().clone();
        members.iter().find(|member| member.identity.node == *node).cloned()
    }

    fn claim_of(&self, ground: &Ground, term: Term) -> Replica {
        let meeting = ground.meeting;
        Replica { meeting, term, stream: u64::MAX, first: 0, entries: vec![], resumed: None, proof: Proof::default() }
    }

    fn join(&self, ground: &Ground, epoch: Epoch) -> Join {
        let source = Source::Whep { url: ground.relay.clone(), token: None, participants: vec![] };
        let assignment = Assignment {
            meeting: ground.meeting,
            epoch,
            core: self.me().clone(),
            source,
            vad: VadSettings::default(),
            trace: TraceContext::new(7),
        };
        let (key, regions) = Default::default();
        Join { assignment, term: Term(9), standby: None, lease_ms: 6000, key, regions }
    }
}

fn header(n: u32) -> SpurtHeader {
    SpurtHeader {
        meeting: MeetingAlias(77),
        participant: ParticipantAlias(1),
        spurt: SpurtNo(n),
        offset: 0,
        captured: Micros(1),
        trace: TraceContext::new(5),
    }
}

async fn send_uni(peer: &Peer, bytes: &[u8]) -> Result<()> {
    let mut send = timeout(ANSWER, peer.connection.open_uni()).await??;
    send.write_all(bytes).await?;
    Ok(send.finish()?)
}

async fn send_bi(peer: &Peer, bytes: &[u8]) -> Result<()> {
    let (mut send, _recv) = timeout(ANSWER, peer.connection.open_bi()).await??;
    // A kind that is known, and what follows is not.
    send.write_all(&[if bytes.len().is_multiple_of(2) { wire::STREAM_CONTROL } else { wire::STREAM_REQUEST }]).await?;
    send.write_all(bytes).await?;
    Ok(send.finish()?)
}

/// What was answered, without what is in it.
fn kind(response: &Response) -> &'static str {
    match response {
        Response::Probed { .. } => "measured",
        Response::Accepted => "accepted",
        Response::Released => "released",
        Response::Refused { .. } => "refused",
        Response::Renewed { .. } => "renewed",
        Response::Replicated { .. } => "taken",
        Response::Serving { .. } => "told who serves",
        Response::Unknown => "told that it is not known",
        Response::Keys(_) => "told of keys",
        Response::Captures(_) => "told of captures",
    }
}
