//! Packets that no honest node sends.

use std::time::Instant;

use mesh::{
    membership::{Keys, MAX_PACKET, Membership, PacketError, Settings, inspect},
    sim::{EPOCH_MS, address, id, identity, keys::Authority},
};
use proptest::prelude::*;

/// Nodes that have seen each other's certificates.
fn nodes<const N: usize>(indices: [usize; N], now: Instant) -> [Membership; N] {
    let authority = Authority::default();
    let keys = indices.map(|index| authority.issue(identity(index)));
    keys.iter().for_each(|one| keys.iter().for_each(|other| assert!(one.learn(other.certificate()))));
    let mut keys = keys.into_iter();
    indices.map(|index| {
        let (keys, clock) = (keys.next().unwrap(), (EPOCH_MS, now));
        Membership::new(identity(index), address(index, 0), keys, clock, Settings::default(), index as u64)
    })
}

/// A node that knows one other, and the packets the two exchanged on the way.
fn pair(now: Instant) -> (Membership, Vec<Vec<u8>>) {
    let [mut a, mut b] = nodes([0, 1], now);
    let mut packets = vec![];
    b.announce(address(0, 0), now);
    for _ in 0..4 {
        while let Some(transmit) = b.poll_transmit() {
            packets.push(transmit.packet.to_vec());
            a.handle_packet(&identity(1), &transmit.packet, now).unwrap();
        }
        while let Some(transmit) = a.poll_transmit() {
            b.handle_packet(&identity(0), &transmit.packet, now).unwrap();
        }
        let later = b.poll_timeout().unwrap();
        b.handle_timeout(later);
    }
    assert_eq!(a.members().len(), 1);
    (a, packets)
}

#[test]
fn an_announcement_to_an_address_finds_whoever_is_there() {
    let now = Instant::now();
    let [mut seed, mut joiner] = nodes([0, 1], now);
    joiner.announce(address(0, 0), now);
    let hello = joiner.poll_transmit().unwrap();
    assert_eq!((hello.to, hello.node), (address(0, 0), None));
    seed.handle_packet(&identity(1), &hello.packet, now).unwrap();
    let answer = seed.poll_transmit().unwrap();
    assert_eq!((answer.to, answer.node), (address(1, 0), Some(id(1))));
    joiner.handle_packet(&identity(0), &answer.packet, now).unwrap();
    assert_eq!(joiner.members()[0].identity, identity(0));
    assert_eq!(seed.members()[0].identity, identity(1));
}

#[test]
fn an_announcement_to_oneself_is_not_sent() {
    let now = Instant::now();
    let [mut alone] = nodes([0], now);
    alone.announce(address(0, 0), now);
    assert_eq!(alone.poll_transmit(), None);
}

#[test]
fn an_impostor_is_refused() {
    let now = Instant::now();
    let (mut victim, packets) = pair(now);
    let before = victim.members();
    for packet in packets {
        let refused = victim.handle_packet(&identity(2), &packet, now);
        assert_eq!(refused, Err(PacketError::Impostor { claimed: id(1), certified: id(2) }));
    }
    let [mut stolen] = nodes([1], now);
    stolen.announce(address(0, 0), now);
    let mut certified = identity(1);
    certified.role = mesh::identity::Role::Dns;
    let packet = stolen.poll_transmit().unwrap().packet;
    assert!(matches!(victim.handle_packet(&certified, &packet, now), Err(PacketError::Impostor { .. })));
    assert_eq!(victim.members(), before);
}

#[test]
fn a_node_with_our_own_id_is_refused() {
    let now = Instant::now();
    let [mut a, mut twin] = nodes([0, 0], now);
    twin.announce(address(9, 0), now);
    let packet = twin.poll_transmit().unwrap().packet;
    assert_eq!(a.handle_packet(&identity(0), &packet, now), Err(PacketError::Ourselves));
}

#[test]
fn a_node_that_has_left_stays_away() {
    let now = Instant::now();
    let (mut gone, packets) = pair(now);
    gone.leave(now);
    while gone.poll_transmit().is_some() {}
    for packet in packets {
        gone.handle_packet(&identity(1), &packet, now).unwrap();
    }
    assert_eq!((gone.poll_transmit(), gone.poll_timeout()), (None, None));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_change_nothing(packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..1300), 1..20)) {
        let now = Instant::now();
        let (mut victim, _) = pair(now);
        let before = victim.members();
        for packet in packets {
            let refused = victim.handle_packet(&identity(1), &packet, now);
            prop_assert!(refused.is_err() && inspect(&packet).is_err());
            prop_assert!(packet.len() <= MAX_PACKET || refused == Err(PacketError::TooLong(packet.len())));
        }
        prop_assert_eq!(victim.members(), before);
    }

    #[test]
    fn arbitrary_news_is_taken_in_or_refused(which in any::<prop::sample::Index>(), items in prop::collection::vec((0u8..14, prop::collection::vec(any::<u8>(), 0..90)), 1..6)) {
        let now = Instant::now();
        let (mut victim, packets) = pair(now);
        let mut packet = which.get(&packets).clone();
        for (kind, rest) in items {
            packet.extend((rest.len() as u16 + 1).to_be_bytes());
            packet.push(kind);
            packet.extend(rest);
        }
        let read = inspect(&packet).is_ok();
        let taken = victim.handle_packet(&identity(1), &packet, now).is_ok();
        prop_assert!(read || !taken, "taken in, though it cannot be read");
        while victim.poll_transmit().is_some() {}
    }

    #[test]
    fn damaged_packets_never_panic(which in any::<prop::sample::Index>(), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), tail in prop::collection::vec(any::<u8>(), 0..60)) {
        let now = Instant::now();
        let (mut victim, packets) = pair(now);
        let mut packet = which.get(&packets).clone();
        for (at, byte) in damage {
            let at = at.index(packet.len());
            packet[at] = byte;
        }
        packet.extend(tail);
        let _ = victim.handle_packet(&identity(1), &packet, now);
        for _ in 0..20 {
            let Some(next) = victim.poll_timeout() else { break };
            victim.handle_timeout(next);
            while victim.poll_transmit().is_some() {}
        }
    }
}
