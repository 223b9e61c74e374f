//! Gossip as no honest node sends it: SWIM packets about others, in foca's layout and the mesh's codec.
#![allow(clippy::disallowed_methods, reason = "a shell: a lie is of its time")]

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use bytes::{Buf, BufMut, Bytes};
use foca::{Header, Message, State};
use geo::RegionId;
use mesh::{
    clock::Micros,
    codec,
    identity::{Identity, NodeId, Role, certs::Credentials},
    node::Member,
    transport::Transport,
    wire,
};
use quinn::Connection;
use serde::{Deserialize, Serialize};

/// How long each node is listened to.
const LISTENS: Duration = Duration::from_millis(300);

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

/// Connections on which lies are told: newer than those of the node itself, so that answers come on them.
pub(super) struct Liar {
    me: Identity,
    addr: SocketAddr,
    to: Vec<(Transport, Connection)>,
    /// The others, with their lives.
    pub(super) known: BTreeMap<NodeId, Named>,
}

impl Liar {
    /// Dials all of `members` from `ip`, and learns in which lives they are: nobody believes a packet that is for another life.
    pub(super) async fn new(credentials: &Credentials, (ip, addr): (IpAddr, SocketAddr), members: &[Member]) -> Self {
        let mut liar = Self { me: credentials.identity().clone(), addr, to: vec![], known: BTreeMap::new() };
        for member in members {
            let Ok(transport) = Transport::bind(SocketAddr::new(ip, 0), credentials.clone()) else { continue };
            let Ok((identity, connection)) = transport.dial(member.addr).await else { continue };
            let there = Named::new(&identity, member.addr, 0);
            if let Some(hello) = packet(&liar.myself(), &there, Message::Announce, &[], &[]) {
                let _ = connection.send_datagram(hello);
            }
            liar.learn(&connection).await;
            liar.to.push((transport, connection));
        }
        liar
    }

    /// Reads what comes for a moment.
    async fn learn(&mut self, connection: &Connection) {
        let end = tokio::time::Instant::now() + LISTENS;
        while let Ok(Ok(datagram)) = tokio::time::timeout_at(end, connection.read_datagram()).await {
            let Some((&wire::DATAGRAM_SWIM, packet)) = datagram.split_first() else { continue };
            let Ok((Header::<Named> { src, .. }, used)) = codec::decode_body(packet) else { continue };
            self.known.insert(src.node.clone(), src);
            let mut rest = &packet[used..];
            let count = rest.try_get_u16().unwrap_or(0);
            for _ in 0..count {
                let Ok((member, used)) = codec::decode_body::<Told>(rest) else { break };
                rest = &rest[used..];
                self.known.insert(member.id().node.clone(), member.id().clone());
            }
        }
    }

    fn myself(&self) -> Named {
        Named::new(&self.me, self.addr, Micros::from_system(SystemTime::now()).as_millis())
    }

    /// Tells every node that there is; how many were told.
    pub(super) fn tell(&self, told: &[(Named, State)], items: &[Vec<u8>]) -> usize {
        let tell = |(_, connection): &(Transport, Connection)| {
            let there = self.known.values().find(|named| named.addr == connection.remote_address())?;
            let lie = packet(&self.myself(), there, Message::Gossip, told, items)?;
            connection.send_datagram(lie).ok()
        };
        self.to.iter().filter_map(tell).count()
    }

    pub(super) async fn close(self) {
        for (transport, _) in self.to {
            transport.shutdown(Duration::from_millis(50)).await;
        }
    }
}

/// What a packet tells of a node.
type Told = foca::Member<Named>;

/// A datagram of `from` to `to` that tells of others, and of what they report.
fn packet(
    from: &Named,
    to: &Named,
    message: Message<Named>,
    told: &[(Named, State)],
    items: &[Vec<u8>],
) -> Option<Bytes> {
    let mut bytes = vec![wire::DATAGRAM_SWIM];
    let header = Header { src: from.clone(), src_incarnation: 0, dst: to.clone(), message };
    codec::encode_body(&header, &mut bytes).ok()?;
    // Behind an announcement there is nothing, not even the number of members.
    if header.message == Message::Announce {
        return Some(bytes.into());
    }
    bytes.put_u16(told.len() as u16);
    for (named, state) in told {
        codec::encode_body(&Told::new(named.clone(), 0, *state), &mut bytes).ok()?;
    }
    for item in items {
        bytes.put_u16(item.len() as u16);
        bytes.put_slice(item);
    }
    Some(bytes.into())
}
