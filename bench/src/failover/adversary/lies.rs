//! Gossip as no honest node sends it: SWIM packets about others in foca's layout and the mesh's codec, and what a node signs of
//! itself, of others and with no key at all. Written from the wire, not with the product's own code.
#![allow(clippy::disallowed_methods, reason = "a shell: a lie is of its time")]

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use bytes::{Buf, BufMut, Bytes};
use foca::{Header, Message, State};
use geo::RegionId;
use mesh::{
    clock::Micros,
    codec,
    identity::{Identity, NodeId, Role, certs::Credentials},
    membership::{Fingerprint, MAX_PACKET},
    node::{Member, Node, Peer},
    transport::Transport,
    wire::{self, report::Report},
};
use quinn::Connection;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

/// How long what the nodes answer is listened to.
const LISTENS: Duration = Duration::from_millis(300);
/// How often they are asked for it: packets are lost.
const ASKS: usize = 10;
/// Items of a packet: a signed report, one that was asked for, a signed card.
const REPORT: u8 = 2;
const ANSWER: u8 = 8;
const CARD: u8 = 10;
/// What is signed begins with one of these.
const CARD_DOMAIN: &[u8] = b"nearfield gossip card 1\0";
const REPORT_DOMAIN: &[u8] = b"nearfield gossip report 1\0";
/// An incarnation that is later than any that was told.
const LATER: foca::Incarnation = 1000;

/// A node as SWIM packets name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Named {
    node: NodeId,
    role: Role,
    region: RegionId,
    addr: SocketAddr,
    life: u64,
}

impl Named {
    pub(super) fn new(identity: &Identity, addr: SocketAddr, life: u64) -> Self {
        let Identity { node, role, region } = identity.clone();
        Self { node, role, region, addr, life }
    }

    pub(super) fn in_life(&self, life: u64) -> Self {
        Self { life, ..self.clone() }
    }

    pub(super) fn life(&self) -> u64 {
        self.life
    }
}

/// Under which certificate a lie is signed. The key is always the traitor's own, but for `Nobodys`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Under {
    /// The traitor's.
    Own,
    /// That of the node that it is about.
    Theirs,
    /// That of the node that it is about, and the signature is of zeros.
    Nobodys,
}

/// One who speaks over its node's own connections, and knows what the others have said of themselves.
pub(super) struct Liar {
    me: Named,
    credentials: Credentials,
    to: Vec<(NodeId, Peer)>,
    /// The others, with their lives.
    pub(super) known: BTreeMap<NodeId, Named>,
    certificates: BTreeMap<NodeId, Fingerprint>,
    /// What others have signed, to be told again.
    pub(super) overheard: Vec<Vec<u8>>,
}

impl Liar {
    /// Learns of all members who they are, in which lives, and by which certificates; and the own life, of which they remind a node
    /// that names a former one.
    ///
    /// # Errors
    /// Nobody told it the own life: nobody would listen to it.
    pub(super) async fn new(node: &Node, credentials: &Credentials, ip: IpAddr) -> Result<Self> {
        let me = Named::new(node.identity(), node.address(), 0);
        let (known, certificates, to, overheard) = Default::default();
        let mut liar = Self { me, credentials: credentials.clone(), to, known, certificates, overheard };
        let transport = Transport::bind(SocketAddr::new(ip, 0), credentials.clone())?;
        // Answers go to the connection that leads to the sender's address, so at first that is this one's.
        liar.me.addr = transport.local_addr()?;
        let members: Vec<Member> = node.members().borrow().to_vec();
        let mut met = vec![];
        for member in &members {
            // Who is not reached is not lied to.
            if let Ok(connection) = liar.meet(&transport, member).await {
                met.push((member, connection));
                let id = &member.identity.node;
                liar.to.push((id.clone(), node.peer(id).await?));
            }
        }
        for _ in 0..ASKS {
            liar.ask(&met).await?;
            if liar.known.contains_key(&liar.me.node) && liar.to.iter().all(|(id, _)| liar.known.contains_key(id)) {
                break;
            }
        }
        transport.shutdown(Duration::from_millis(50)).await;
        liar.me = liar.known.get(&liar.me.node).cloned().context("nobody told the traitor its own life")?;
        Ok(liar)
    }

    /// Over a connection beside those of the node, so that its answers are not the node's.
    async fn meet(&mut self, transport: &Transport, member: &Member) -> Result<Connection> {
        let (identity, connection) = transport.dial(member.addr).await?;
        let chain = connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
        let leaf = chain.as_ref().and_then(|chain| chain.first()).context("no certificate")?;
        self.certificates.insert(identity.node, Fingerprint::of(leaf));
        Ok(connection)
    }

    /// Names a former life to each, and listens to what they answer.
    async fn ask(&mut self, met: &[(&Member, Connection)]) -> Result<()> {
        for (member, connection) in met {
            let there = Named::new(&member.identity, member.addr, 0);
            let hello = packet(&self.me, &there, Message::Announce, &[], &[]).context("no packet")?;
            connection.send_datagram(hello)?;
        }
        let end = tokio::time::Instant::now() + LISTENS;
        for (_, connection) in met {
            self.listen(connection, end).await;
        }
        Ok(())
    }

    async fn listen(&mut self, connection: &Connection, end: tokio::time::Instant) {
        while let Ok(Ok(datagram)) = tokio::time::timeout_at(end, connection.read_datagram()).await {
            let Some((&wire::DATAGRAM_SWIM, packet)) = datagram.split_first() else { continue };
            // What cannot be read is of no use.
            let _ = self.read(packet);
        }
    }

    fn read(&mut self, packet: &[u8]) -> Result<()> {
        let (Header::<Named> { src, .. }, used) = codec::decode_body(packet)?;
        self.known.insert(src.node.clone(), src);
        let mut rest = &packet[used..];
        for _ in 0..rest.try_get_u16()? {
            let (_, used) = codec::decode_body::<Told>(rest)?;
            rest.advance(used);
        }
        while let Ok(length) = rest.try_get_u16() {
            let item = rest.get(..usize::from(length)).context("ends early")?;
            rest.advance(item.len());
            match item.split_first() {
                Some((&CARD, card)) => {
                    let ((named, _, _, _), _) = codec::decode_body::<(Named, foca::Incarnation, bool, u64)>(card)?;
                    self.known.insert(named.node.clone(), named);
                }
                Some((&(REPORT | ANSWER), _)) => {}
                _ => continue,
            }
            if self.overheard.len() < 6 {
                self.overheard.push(framed(item));
            }
        }
        Ok(())
    }

    /// Tells every node that there is, in the name of `src` if it is another; how many were told.
    pub(super) fn tell(&self, src: Option<&Named>, told: &[(Named, State)], items: &[Vec<u8>]) -> usize {
        let tell = |(id, peer): &(NodeId, Peer)| {
            let lie = packet(src.unwrap_or(&self.me), self.known.get(id)?, Message::Gossip, told, items)?;
            peer.connection.send_datagram(lie).ok()
        };
        self.to.iter().filter_map(tell).count()
    }

    /// What `named` is made to say of itself.
    pub(super) fn card(&self, named: &Named, gone: bool, under: Under) -> Option<Vec<u8>> {
        let at = Micros::from_system(SystemTime::now()).as_millis();
        let mut said = vec![];
        codec::encode_body(&(named, LATER, gone, at), &mut said).ok()?;
        said.put_slice(&self.certificate(&named.node, under)?.0);
        let signature = self.sign(&[CARD_DOMAIN, &said].concat(), under)?;
        Some(framed(&[&[CARD], &said[..], &signature].concat()))
    }

    /// What `report.node` is made to report.
    pub(super) fn report(&self, report: &Report, under: Under) -> Option<Vec<u8>> {
        let life = self.known.get(&report.node)?.life;
        let (bytes, anchor) = (report.encode(true).ok()?, [7; 6]);
        let signature = self.sign(&[REPORT_DOMAIN, &life.to_be_bytes(), &bytes, &anchor].concat(), under)?;
        // It looks as if it was signed with the right key in the right life: else it would not even be checked.
        let looks = tag(self.certificate(&report.node, Under::Theirs)?, life);
        let mut item = vec![REPORT];
        put_varint(bytes.len(), &mut item);
        item.put_slice(&bytes);
        item.put_u8(looks);
        item.put_slice(&anchor);
        put_varint(signature.len(), &mut item);
        item.put_slice(&signature);
        Some(framed(&item))
    }

    fn certificate(&self, of: &NodeId, under: Under) -> Option<Fingerprint> {
        match under {
            Under::Own => self.credentials.chain().first().map(|leaf| Fingerprint::of(leaf)),
            Under::Theirs | Under::Nobodys => self.certificates.get(of).copied(),
        }
    }

    fn sign(&self, message: &[u8], under: Under) -> Option<Vec<u8>> {
        let signature = self.credentials.sign(message).ok()?;
        Some(if under == Under::Nobodys { vec![0; signature.len()] } else { signature })
    }
}

/// A datagram of `src` to `dst` that tells of others, and of what they say.
fn packet(
    src: &Named,
    dst: &Named,
    message: Message<Named>,
    told: &[(Named, State)],
    items: &[Vec<u8>],
) -> Option<Bytes> {
    let mut bytes = vec![wire::DATAGRAM_SWIM];
    let header = Header { src: src.clone(), src_incarnation: 0, dst: dst.clone(), message };
    codec::encode_body(&header, &mut bytes).ok()?;
    // Behind an announcement there are no members, not even their number.
    if header.message != Message::Announce {
        bytes.put_u16(told.len() as u16);
    }
    for (named, state) in told {
        codec::encode_body(&Told::new(named.clone(), 0, *state), &mut bytes).ok()?;
    }
    // One that is too long would be refused as a whole.
    for item in items {
        if bytes.len() + item.len() <= MAX_PACKET {
            bytes.put_slice(item);
        }
    }
    Some(bytes.into())
}

/// What a packet tells of a node.
type Told = foca::Member<Named>;

/// An item with its length before it.
fn framed(item: &[u8]) -> Vec<u8> {
    [&(item.len() as u16).to_be_bytes(), item].concat()
}

fn put_varint(mut rest: usize, buf: &mut Vec<u8>) {
    while rest >= 0x80 {
        buf.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    buf.put_u8(rest as u8);
}

/// By which a word of another life or key is told from a forgery: FNV-1a, and the finisher of SplitMix64.
fn tag(certificate: Fingerprint, life: u64) -> u8 {
    let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let mut mixed = certificate.0.iter().chain(&life.to_le_bytes()).fold(0xcbf2_9ce4_8422_2325, fnv);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) as u8
}
