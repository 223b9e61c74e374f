//! What the fuzz targets in `mesh/fuzz` run, and, over their seeds, an ordinary test: each takes any bytes and panics only
//! where this crate is wrong.

#![allow(clippy::disallowed_methods, reason = "for tests: a beginning for virtual time")]

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    codec,
    identity::{Identity, NodeId, Role},
    lease::Grantor,
    membership::{MAX_MEMBERS_KNOWN, Membership, Settings},
    wire::{
        Epoch, Term,
        control::{ToCore, ToEdge},
        copies::Copies,
        report::Report,
        request::{Request, Response},
        spurt::{Item, MAX_OPUS, Part, SpurtDecoder},
    },
};

/// A node by number.
///
/// # Panics
/// Never: the parts are valid.
pub fn identity(n: u8) -> Identity {
    let node: NodeId = format!("node-{n}").parse().expect("a valid id");
    Identity { node, role: Role::Edge, region: "eu-central".parse().expect("a valid region") }
}

/// Its address.
pub fn address(n: u8) -> SocketAddr {
    ([10, 0, 0, n], 4433).into()
}

/// Two nodes that know each other, and what they sent to get there.
pub fn pair(now: Instant) -> (Membership, Vec<Vec<u8>>) {
    let [mut a, mut b] =
        [0, 1].map(|n| Membership::new(identity(n), address(n), 1_700_000_000_000, Settings::default(), u64::from(n)));
    let mut packets = vec![];
    b.announce(address(0), now);
    for _ in 0..6 {
        while let Some(transmit) = b.poll_transmit() {
            packets.push(transmit.packet.to_vec());
            let _ = a.handle_packet(&identity(1), &transmit.packet, now);
        }
        while let Some(transmit) = a.poll_transmit() {
            let _ = b.handle_packet(&identity(0), &transmit.packet, now);
        }
        if let Some(later) = b.poll_timeout() {
            b.handle_timeout(later);
        }
    }
    (a, packets)
}

/// Packets from a node whose certificate is sound, and time passing: each is two bytes of length and so many bytes.
pub fn gossip(mut data: &[u8]) {
    let mut now = Instant::now();
    let (mut node, _) = pair(now);
    while let Some((length, rest)) = data.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length) % 1400).min(rest.len());
        let (packet, rest) = rest.split_at(length);
        data = rest;
        let _ = node.handle_packet(&identity(1), packet, now);
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
        let (edge, number) = (identity(op[1] % 3).node, u64::from(op[2] % 16));
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

/// A target's name and body.
pub type Target = (&'static str, fn(&[u8]));

/// The targets by name.
pub const TARGETS: [Target; 4] = [("gossip", gossip), ("control", control), ("spurt", spurt), ("lease", lease)];
