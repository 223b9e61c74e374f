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
    let text =
        format!("{}a=candidate:{}\r\na=candidate:{}\r\n", sdp::tests::offer(), candidate(&inside), candidate(&outside));
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
