//! What the fuzz targets in `fuzz/` run, and, over their seeds, an ordinary test: each takes any bytes and panics only
//! where this crate is wrong.

#![allow(clippy::disallowed_methods, reason = "for tests: a beginning for virtual time")]

use std::{
    net::SocketAddr,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    codec,
    identity::{Identity, NodeId, Role},
    lease::Grantor,
    membership::{Keys, MAX_MEMBERS_KNOWN, Member, Membership, Settings, forgery::Said},
    sim::keys::{Authority, Ring},
    wire::{
        Epoch, Term,
        control::{ToCore, ToEdge},
        copies::Copies,
        report::Report,
        request::{Request, Response},
        spurt::{Item, MAX_OPUS, Part, SpurtDecoder},
    },
};

/// A node by number. Made once: millions of runs ask.
///
/// # Panics
/// Never: the parts are valid.
pub fn identity(n: u8) -> &'static Identity {
    static IDENTITIES: LazyLock<[Identity; 256]> = LazyLock::new(|| {
        std::array::from_fn(|n| {
            let node: NodeId = format!("node-{n}").parse().expect("a valid id");
            Identity { node, role: Role::Edge, region: "eu-central".parse().expect("a valid region") }
        })
    });
    &IDENTITIES[usize::from(n)]
}

/// Its address.
pub fn address(n: u8) -> SocketAddr {
    ([10, 0, 0, n], 4433).into()
}

/// A node with whatever it was told before the fuzzer speaks. Told once: a run begins with what it heard, told again.
struct Scene {
    begin: Instant,
    keys: Arc<Ring>,
    /// Who speaks in the fuzzer's name: node 1.
    other: Membership,
    /// What node 0 was told, and by which node.
    told: Vec<(u8, Vec<u8>)>,
}

/// Nodes 0 to `count - 1` that hold each other's certificates, and 0 knows all of them. The key of node 1 anybody may
/// have. Signatures are cheap ones: what they are worth other tests show. They talk for so many rounds; two do, and each
/// run hears all of it.
fn scene(count: u8, leaks: bool, rounds: usize) -> Scene {
    let (begin, authority) = (Instant::now(), Authority::cheap());
    let keys: Vec<_> = (0..count).map(|n| authority.issue(identity(n).clone())).collect();
    keys.iter().for_each(|one| keys.iter().for_each(|other| assert!(one.learn(other.certificate()))));
    if leaks {
        authority.leak(keys[1].certificate());
    }
    let (mut first, mut told) = (node(0, keys[0].clone(), begin), vec![]);
    let mut others: Vec<_> = (1..count).rev().map(|n| (n, node(n, keys[usize::from(n)].clone(), begin))).collect();
    for (n, other) in &mut others {
        other.announce(address(0), begin);
        exchange(&mut first, other, *n, begin, rounds, &mut told);
    }
    assert_eq!(first.members().len(), others.len(), "not all are known");
    let (_, other) = others.pop().expect("node 1 is the last one");
    Scene { begin, keys: keys[0].clone(), other, told }
}

fn node(n: u8, keys: Arc<Ring>, now: Instant) -> Membership {
    let clock = (1_700_000_000_000, now);
    Membership::new(identity(n).clone(), address(n), keys, clock, Settings::default(), u64::from(n))
}

/// Lets the first node and another one exchange what they have to say; what the other one sent is kept.
fn exchange(
    first: &mut Membership,
    other: &mut Membership,
    n: u8,
    now: Instant,
    rounds: usize,
    told: &mut Vec<(u8, Vec<u8>)>,
) {
    for _ in 0..rounds {
        while let Some(transmit) = other.poll_transmit() {
            told.push((n, transmit.packet.to_vec()));
            let _ = first.handle_packet(identity(n), &transmit.packet, now);
        }
        while let Some(transmit) = first.poll_transmit() {
            if transmit.to == address(n) {
                let _ = other.handle_packet(identity(0), &transmit.packet, now);
            }
        }
        if let Some(later) = other.poll_timeout() {
            other.handle_timeout(later);
        }
    }
}

impl Scene {
    /// Node 0 as the fuzzer finds it.
    fn first(&self) -> Membership {
        let mut first = node(0, self.keys.clone(), self.begin);
        for (n, packet) in &self.told {
            let _ = first.handle_packet(identity(*n), packet, self.begin);
            while first.poll_transmit().is_some() {}
        }
        while first.poll_event().is_some() {}
        first
    }
}

/// What node 1 sends to node 0 until they know each other.
pub fn introduction() -> Vec<Vec<u8>> {
    scene(2, true, 6).told.into_iter().map(|(_, packet)| packet).collect()
}

/// What a node with a sound certificate says of another one, of itself and of nobody: four bytes each. None of it is
/// believed but what it may say of itself.
pub fn forgery(data: &[u8]) {
    static SCENE: LazyLock<Scene> = LazyLock::new(|| scene(3, false, 2));
    let (now, traitor, mut victim) = (SCENE.begin, &SCENE.other, SCENE.first());
    let named = |n: u8| &identity(n).node;
    let Some(empty) = traitor.forge(named(0)) else { return };
    for op in data.as_chunks::<4>().0.iter().take(200) {
        let [kind, whom, a, b] = *op;
        let (whom, life, more) = (named(whom % 3), u64::from(a) << (b % 64), u16::from(b));
        let claimed = Identity { role: Role::Core, ..identity(a).clone() };
        let said = [Said::Alive, Said::Suspect, Said::Down][usize::from(a % 3)];
        let (to, packet) = (address(b), empty.clone());
        let packet = match kind % 9 {
            0 | 1 => packet.say(traitor, whom, said, life, more),
            2 => packet.claim(claimed, to, life),
            3 => packet.claim_by_card(traitor, claimed, to, life),
            4 => packet.farewell(traitor, whom, a % 2 == 0),
            5 => packet.turn_undead(),
            6 => packet.have_pinged(claimed, to, life),
            7 => packet.ask_for_all(traitor),
            _ => packet.from_life(life),
        };
        let Some(packet) = packet.packet() else { continue };
        let _ = victim.handle_packet(identity(1), &packet, now);
        let mut sent = 0;
        while let Some(transmit) = victim.poll_transmit() {
            sent += 1;
            assert!([address(1), address(2)].contains(&transmit.to), "a packet to {}", transmit.to);
        }
        while victim.poll_event().is_some() {}
        assert!(sent <= 400, "{sent} packets for one");
        let members = victim.members();
        let is_real = |m: &Member| [1, 2].into_iter().any(|n| m.identity == *identity(n) && m.addr == address(n));
        assert!(members.iter().all(is_real), "{members:?}");
        assert!(members.iter().any(|m| m.identity.node == *named(2)), "evicted by one teller");
        assert!(victim.rejoins() <= 3, "{} new lives at once", victim.rejoins());
    }
}

/// Packets from a node whose certificate is sound, and time passing: each is two bytes of length and so many bytes.
pub fn gossip(mut data: &[u8]) {
    static SCENE: LazyLock<Scene> = LazyLock::new(|| scene(2, true, 2));
    let (mut now, mut node) = (SCENE.begin, SCENE.first());
    while let Some((length, rest)) = data.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length) % 1400).min(rest.len());
        let (packet, rest) = rest.split_at(length);
        data = rest;
        let _ = node.handle_packet(identity(1), packet, now);
        // Whatever the packet said, the node is itself, and what it has to say ends.
        let mut said = 0;
        while node.poll_transmit().is_some() {
            said += 1;
        }
        while node.poll_event().is_some() {}
        assert!(said <= 2 * MAX_MEMBERS_KNOWN, "{said} packets for one");
        let members = node.members();
        assert!(members.len() <= MAX_MEMBERS_KNOWN);
        assert!(members.iter().all(|m| m.identity.node != identity(0).node), "it is a member of itself");
        if let Some(next) = node.poll_timeout() {
            now = now.max(next);
            node.handle_timeout(now);
        }
    }
}

/// One message of the control stream, a request, an answer or a report: what can be read is written as it was read.
pub fn control(data: &[u8]) {
    read::<ToCore>(data);
    read::<ToEdge>(data);
    read::<Request>(data);
    read::<Response>(data);
    if let Ok(report) = Report::decode(data) {
        assert!(report.rtts.len() <= data.len());
    }
}

fn read<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(data: &[u8]) {
    let Ok(message) = codec::decode::<T>(data) else { return };
    if let Ok(bytes) = codec::encode(&message) {
        assert_eq!(codec::decode::<T>(&bytes).as_ref(), Ok(&message));
    }
}

/// A spurt stream: the same parts however it is cut; and the same bytes as a datagram of copies.
pub fn spurt(data: &[u8]) {
    let Some((cut, stream)) = data.split_first() else { return };
    let whole = parts(stream, stream.len().max(1));
    assert_eq!(whole, parts(stream, usize::from(*cut) + 1), "cut every {} bytes", usize::from(*cut) + 1);
    if let Ok(copies) = Copies::decode(bytes::Bytes::copy_from_slice(stream)) {
        assert!(copies.items.windows(2).all(|w| w[0].0 < w[1].0), "{copies:?}");
    }
}

/// What a stream holds up to its first fault, and whether there was one.
fn parts(stream: &[u8], step: usize) -> (Vec<Part>, bool) {
    let (mut decoder, mut parts) = (SpurtDecoder::default(), vec![]);
    for piece in stream.chunks(step) {
        decoder.feed(piece);
        loop {
            match decoder.poll() {
                Ok(Some(part)) => {
                    assert!(!matches!(&part, Part::Item(Item::Frame(f)) if f.len() > MAX_OPUS));
                    parts.push(part);
                }
                Ok(None) => break,
                Err(_) => return (parts, true),
            }
        }
    }
    (parts, false)
}

/// Wishes of edges to a grantor, three bytes each: at any time there is one owner at most, and epochs rise.
pub fn lease(data: &[u8]) {
    let mut now = Instant::now();
    let term = Term(3);
    let mut grantor = Grantor::new(term);
    // Who may believe to own the meeting, and until when at most.
    let mut owner: Option<(NodeId, Epoch, Instant)> = None;
    for op in data.chunks_exact(3) {
        let (edge, number) = (identity(op[1] % 3).node.clone(), u64::from(op[2] % 16));
        let epoch = if op[1] & 0x80 == 0 { Epoch::of(term, number as u32) } else { Epoch(number) };
        let held = owner.as_ref().is_some_and(|(_, _, until)| now < *until);
        match op[0] % 5 {
            0 => {
                let newest = grantor.newest();
                if grantor.grant(edge.clone(), epoch, now).is_ok() {
                    assert!(!held, "granted while {owner:?} may own it");
                    assert!(epoch > newest && epoch.term() == term);
                    owner = Some((edge, epoch, now));
                }
            }
            1 => {
                let lease = Duration::from_millis(number * 100);
                if grantor.renew(&edge, epoch, lease, now).is_ok() {
                    let (who, what, until) = owner.as_mut().expect("somebody was granted it");
                    assert_eq!((&*who, *what), (&edge, epoch), "renewed for another");
                    *until = (*until).max(now + lease);
                }
            }
            2 => {
                if grantor.release(&edge, epoch) {
                    assert!(owner.take().is_some_and(|(who, what, _)| who == edge && what == epoch));
                }
            }
            3 => now += Duration::from_millis(number * 50),
            _ => drop(grantor.handle_timeout(now)),
        }
    }
}
