//! The loop of one set of sockets: datagrams in batches, each to its connection, and what connections want sent.
//!
//! While packets come it rests for [`REST`] after each round, so that the next round has many to deal with, and each meeting
//! is woken once for all that are its own: to wake one, and to find all of it in colder caches again, costs more than a
//! packet does. A packet that comes when all is quiet is taken at once.
#![allow(clippy::disallowed_methods, reason = "I/O shell: stamps packets as they arrive")]

mod command;
mod dropped;
mod socket;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use bytes::BytesMut;
use mesh::clock::Micros;
use quinn_udp::{BATCH_SIZE, RecvMeta};
use tokio::{
    net::UdpSocket,
    sync::{
        mpsc::{self, error::TrySendError},
        watch,
    },
};

pub(super) use self::command::Command;
use self::{
    dropped::Dropped,
    socket::{BUFFER, Socket, readable},
};
use super::{
    Voices,
    describe::{Credentials, MAX_CANDIDATES, Remote},
    phase::Phase,
    session::{Session, Transmit as Outward},
    stun,
};
use crate::{connect::Event, media::RtpPacket};

/// Between rounds in which packets came: half of one.
const REST: Duration = Duration::from_millis(10);
/// Batches of one round; then others have their turn.
const BATCHES: usize = 16;
thread_local! {
    /// Of whichever shard is receiving on this thread.
    static BUFFERS: Cell<Vec<u8>> = const { Cell::new(vec![]) };
}

/// One set of sockets and the connections on it.
pub(super) struct Shard {
    sockets: Vec<Socket>,
    commands: mpsc::Receiver<Command>,
    connections: BTreeMap<u64, Connection>,
    by_ufrag: HashMap<String, u64>,
    by_address: HashMap<SocketAddr, u64>,
    /// Whose the TURN servers are that are spoken to over the sockets.
    by_server: HashMap<SocketAddr, u64>,
    due: BTreeSet<(Instant, u64)>,
    /// Connections with packets of this round.
    heard: Vec<u64>,
    dropped: Dropped,
}

struct Connection {
    session: Session,
    ufrag: String,
    events: mpsc::Sender<Event>,
    /// Packets of this round.
    packets: Vec<RtpPacket>,
    state: watch::Sender<Phase>,
    due: Option<Instant>,
    /// Addresses of the relay's: those it told, and those it was heard from.
    addresses: Vec<SocketAddr>,
    fresh: mpsc::Sender<String>,
    /// Ways to TURN servers over TCP, by our ends.
    streams: Vec<(SocketAddr, mpsc::Sender<BytesMut>)>,
}

impl Shard {
    pub(super) fn new(sockets: Vec<UdpSocket>, commands: mpsc::Receiver<Command>) -> io::Result<Self> {
        let sockets: Vec<Socket> = sockets.into_iter().map(Socket::new).collect::<io::Result<_>>()?;
        Ok(Self {
            sockets,
            commands,
            connections: BTreeMap::new(),
            by_ufrag: HashMap::new(),
            by_address: HashMap::new(),
            by_server: HashMap::new(),
            due: BTreeSet::new(),
            heard: vec![],
            dropped: Dropped::default(),
        })
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().map(|socket| socket.address).collect()
    }

    /// Works until nobody can give it another command.
    pub(super) async fn run(mut self) {
        let mut rest: Option<Instant> = None;
        loop {
            let due = self.due.first().map(|(at, _)| *at);
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.handle_command(command),
                    None => return,
                },
                () = until(rest), if rest.is_some() => rest = None,
                () = readable(&self.sockets), if rest.is_none() => {
                    let now = Instant::now();
                    let all = self.receive(now);
                    rest = (all && !self.heard.is_empty()).then(|| now + REST);
                }
                () = until(due) => self.handle_timeouts(),
            }
            self.deliver();
        }
    }

    fn handle_command(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Add { id, ufrag, session, events, state, fresh } => {
                self.by_ufrag.insert(ufrag.clone(), id);
                let (session, packets, addresses, streams) = (*session, vec![], vec![], vec![]);
                let connection =
                    Connection { session, ufrag, events, packets, state, due: None, addresses, fresh, streams };
                self.connections.insert(id, connection);
            }
            Command::Server { id, at, username, credential, local, stream } => {
                let Some(connection) = self.connections.get_mut(&id) else { return };
                match stream {
                    Some(stream) => connection.streams.push((local, stream)),
                    None => drop(self.by_server.insert(at.address, id)),
                }
                if let Err(error) = connection.session.add_server((at, username, credential), local, now) {
                    tracing::debug!(%error, "TURN");
                }
                self.settle(id);
            }
            Command::Streamed { id, from, bytes } => {
                self.handle_server(id, from, &bytes, now, Micros::from_system(SystemTime::now()));
            }
            Command::Describe { id, remote, voices, offered, ours } => {
                self.describe(id, *remote, &voices, offered, ours, now)
            }
            Command::Candidate(id, candidate) => {
                self.claim(id, candidate.addr());
                if let Some(connection) = self.connections.get_mut(&id) {
                    let _ = connection.session.add_candidate(*candidate, now);
                }
                self.settle(id);
            }
            Command::Close(id) => self.close(id, now),
        }
    }

    fn describe(
        &mut self,
        id: u64,
        remote: Remote,
        voices: &Voices,
        offered: bool,
        ours: Option<Credentials>,
        now: Instant,
    ) {
        for candidate in &remote.candidates {
            self.claim(id, candidate.addr());
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if let Some(Credentials { ufrag, .. }) = &ours {
            self.by_ufrag.remove(&connection.ufrag);
            connection.ufrag.clone_from(ufrag);
            self.by_ufrag.insert(ufrag.clone(), id);
        }
        if let Err(error) = connection.session.describe(remote, voices, offered, ours, now) {
            tracing::debug!(%error, "a description cannot be followed");
            connection.state.send_replace(Phase::Failed("its description cannot be followed"));
        }
        self.settle(id);
    }

    fn close(&mut self, id: u64, now: Instant) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.session.close(now);
        }
        self.settle(id);
        let Some(connection) = self.connections.remove(&id) else { return };
        self.by_ufrag.remove(&connection.ufrag);
        self.due.retain(|(_, other)| *other != id);
        for address in connection.addresses {
            self.by_address.remove(&address);
        }
        self.by_server.retain(|_, owner| *owner != id);
    }

    /// Makes an address the connection's, unless it is another's; so many are allowed.
    fn claim(&mut self, id: u64, address: SocketAddr) -> bool {
        if let Some(owner) = self.by_address.get(&address) {
            return *owner == id;
        }
        let Some(connection) = self.connections.get_mut(&id) else { return false };
        if connection.addresses.len() >= 2 * MAX_CANDIDATES {
            return false;
        }
        connection.addresses.push(address);
        self.by_address.insert(address, id);
        true
    }

    fn handle_timeouts(&mut self) {
        let now = Instant::now();
        while let Some((at, id)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, id));
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.due = None;
                connection.session.handle_timeout(now);
            }
            self.settle(id);
        }
    }

    /// Sends what a connection has to send, and tells where it stands.
    fn settle(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        while let Some(transmit) = connection.session.poll_transmit() {
            if !connection.send(&self.sockets, transmit) {
                self.dropped.note("unsent");
            }
        }
        while let Some(candidate) = connection.session.poll_candidate() {
            // There is room for as many as there are servers.
            let _ = connection.fresh.try_send(candidate);
        }
        let phase = connection.session.phase();
        connection.state.send_if_modified(|told| std::mem::replace(told, phase) != phase);
        // Not at once again, whatever its parts say.
        let soon = Instant::now() + Duration::from_millis(1);
        let due = connection.session.poll_timeout().map(|at| at.max(soon));
        if due != connection.due {
            if let Some(before) = connection.due {
                self.due.remove(&(before, id));
            }
            connection.due = due;
            self.due.extend(due.map(|at| (at, id)));
        }
    }

    /// Takes what has come; true if that was all.
    fn receive(&mut self, now: Instant) -> bool {
        let wall = Micros::from_system(SystemTime::now());
        let mut buffers = BUFFERS.take();
        let mut all = true;
        for n in 0..self.sockets.len() {
            all &= (0..BATCHES).any(|_| self.receive_batch(n, &mut buffers, now, wall));
        }
        BUFFERS.set(buffers);
        self.dropped.tell();
        all
    }

    /// Takes one batch off a socket; true if it was the last.
    fn receive_batch(&mut self, n: usize, buffers: &mut Vec<u8>, now: Instant, wall: Micros) -> bool {
        let mut meta = [RecvMeta::default(); BATCH_SIZE];
        let Some(count) = self.sockets[n].receive(buffers, &mut meta) else { return true };
        let local = self.sockets[n].address;
        for (meta, buffer) in meta.iter().zip(buffers.chunks_exact(BUFFER)).take(count) {
            for datagram in buffer[..meta.len].chunks(meta.stride.max(1)) {
                self.handle_datagram(local, meta.addr, datagram, now, wall);
            }
        }
        count < BATCH_SIZE
    }

    /// Wakes those whose packets came.
    fn deliver(&mut self) {
        for id in std::mem::take(&mut self.heard) {
            let Some(Connection { packets, events, .. }) = self.connections.get_mut(&id) else { continue };
            if !deliver(packets, events) {
                self.close(id, Instant::now());
            }
        }
    }

    /// By its first byte (RFC 7983 section 7).
    fn handle_datagram(&mut self, local: SocketAddr, from: SocketAddr, bytes: &[u8], now: Instant, wall: Micros) {
        if !self.by_server.is_empty()
            && let Some(&id) = self.by_server.get(&from)
        {
            return self.handle_server(id, from, bytes, now, wall);
        }
        match bytes.first() {
            Some(128..=191) => match self.by_address.get(&from) {
                Some(&id) if !is_rtcp(bytes) => self.handle_rtp(id, bytes, now, wall),
                Some(id) => {
                    if let Some(connection) = self.connections.get_mut(id) {
                        connection.session.handle_rtcp(bytes, now);
                    }
                }
                None => self.dropped.note("stranger"),
            },
            Some(0..=3) => self.handle_stun(local, from, bytes, now),
            Some(20..=63) => match self.by_address.get(&from).copied() {
                Some(id) => {
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.session.handle_dtls(bytes, now);
                    }
                    self.settle(id);
                }
                None => self.dropped.note("stranger"),
            },
            _ => self.dropped.note("unknown"),
        }
    }

    /// From a TURN server: word of its own, or what it was given for us.
    fn handle_server(&mut self, id: u64, from: SocketAddr, bytes: &[u8], now: Instant, wall: Micros) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.session.handle_turn(from, bytes, now);
        while let Some(inward) = self.connections.get_mut(&id).and_then(|c| c.session.poll_inward()) {
            let bytes = &inward.bytes[..];
            match bytes.first() {
                Some(128..=191) if !is_rtcp(bytes) => self.handle_rtp(id, bytes, now, wall),
                Some(first) => {
                    let Some(Connection { session, .. }) = self.connections.get_mut(&id) else { return };
                    match first {
                        128..=191 => session.handle_rtcp(bytes, now),
                        0..=3 => drop(session.handle_stun(inward.to, inward.from, bytes, now)),
                        20..=63 => session.handle_dtls(bytes, now),
                        _ => self.dropped.note("unknown"),
                    }
                }
                None => {}
            }
        }
        self.settle(id);
    }

    fn handle_rtp(&mut self, id: u64, bytes: &[u8], now: Instant, wall: Micros) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match connection.session.handle_rtp(bytes, now, wall) {
            Ok(packet) => {
                if connection.packets.is_empty() {
                    self.heard.push(id);
                }
                if packet.payload.is_empty() {
                    self.dropped.note("no_audio");
                }
                connection.packets.push(packet);
            }
            Err(fault) => self.dropped.note(fault.as_str()),
        }
        if connection.session.is_hurried() {
            self.settle(id);
        }
    }

    fn handle_stun(&mut self, local: SocketAddr, from: SocketAddr, bytes: &[u8], now: Instant) {
        let addressee =
            stun::ufrag(bytes).and_then(|ufrag| self.by_ufrag.get(ufrag)).or_else(|| self.by_address.get(&from));
        let Some(&id) = addressee else { return self.dropped.note("stranger") };
        // An address of another's is not lent, and no connection has any number of them.
        let known = self.by_address.get(&from) == Some(&id);
        let room = self.connections.get(&id).is_some_and(|c| c.addresses.len() < 2 * MAX_CANDIDATES);
        if !known && (self.by_address.contains_key(&from) || !room) {
            return self.dropped.note("address");
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.session.handle_stun(local, from, bytes, now) {
            self.claim(id, from);
        } else {
            self.dropped.note("stun");
        }
        self.settle(id);
    }
}

/// Hands over a round's packets; false if nobody wants them any more. Those that there is no room for fall.
fn deliver(packets: &mut Vec<RtpPacket>, events: &mpsc::Sender<Event>) -> bool {
    for packet in packets.drain(..) {
        match events.try_send(Event::Packet(packet)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => metrics::counter!("nearfield_edge_connect_dropped_total").increment(1),
            Err(TrySendError::Closed(_)) => return false,
        }
    }
    true
}

impl Connection {
    fn send(&self, sockets: &[Socket], outward: Outward) -> bool {
        let Outward { from, to, tcp, bytes } = outward;
        if tcp {
            let stream = self.streams.iter().find(|(local, _)| *local == from);
            return stream.is_some_and(|(_, stream)| stream.try_send(bytes).is_ok());
        }
        sockets.iter().find(|socket| socket.address == from).is_some_and(|socket| socket.send(to, &bytes))
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// RFC 5761 section 4.
fn is_rtcp(bytes: &[u8]) -> bool {
    bytes.get(1).is_some_and(|kind| (192..=223).contains(kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::ParticipantId;

    fn packet(sequence: u16) -> RtpPacket {
        RtpPacket {
            participant: ParticipantId::new("p").expect("short"),
            source: 1,
            sequence,
            timestamp: 0,
            level: None,
            payload: vec![8].into(),
            arrived: Instant::now(),
            arrived_at: Micros(1),
        }
    }

    #[test]
    fn all_of_a_round_is_handed_over_in_order_and_what_there_is_no_room_for_falls() {
        let (events, mut meeting) = mpsc::channel(3);
        let mut round: Vec<RtpPacket> = (0..5).map(packet).collect();
        assert!(deliver(&mut round, &events) && round.is_empty());
        let mut got =
            || meeting.try_recv().ok().map(|event| if let Event::Packet(p) = event { p.sequence } else { 99 });
        assert_eq!([got(), got(), got(), got()], [Some(0), Some(1), Some(2), None]);
        drop(meeting);
        assert!(!deliver(&mut vec![packet(6)], &events), "nobody is there any more");
    }
}
