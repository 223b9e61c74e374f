//! A connection's beginning, with a relay's end beside it, datagram by datagram.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::time::Instant;

use bytes::BytesMut;
use rtc::{
    ice::attributes::{control::AttrControlling, priority::PriorityAttr, use_candidate::UseCandidateAttr},
    stun::{
        attributes::ATTR_USERNAME,
        fingerprint::FINGERPRINT,
        integrity::MessageIntegrity,
        message::{BINDING_REQUEST, Message, Setter, TransactionId},
        textattrs::Username,
    },
};

use super::{
    super::{session::Transmit, *},
    Hello,
};
use crate::{
    connect::sdp::{self, Side},
    egress::Policy,
};

const MS: Duration = Duration::from_millis(1);

/// One end.
struct End {
    at: SocketAddr,
    session: Session,
    local: Local,
}

impl End {
    fn new(port: u16, now: Instant) -> Self {
        let (at, identity) = (SocketAddr::from(([127, 0, 0, 1], port)), Arc::new(Identity::new().unwrap()));
        let credentials = credentials(&identity).unwrap();
        let session = Session::new(identity.clone(), &[at], false, credentials.clone(), now).unwrap();
        let session = session.within(Policy::with_loopback());
        let (fingerprint, candidates) = (identity.fingerprint.clone(), session.candidates());
        Self {
            at,
            session,
            local: Local { id: 1, version: 1, credentials, fingerprint, candidates, trickles: false, data: false },
        }
    }

    fn sends(&mut self) -> Vec<BytesMut> {
        std::iter::from_fn(|| self.session.poll_transmit()).map(|Transmit { bytes, .. }| bytes).collect()
    }
}

/// We and a relay that has offered; either knows the other.
fn described(now: Instant) -> (End, End) {
    let (mut us, mut relay) = (End::new(5000, now), End::new(6000, now));
    let offer = far::description(&relay.local, "ada", 7, "actpass");
    let remote = Remote::read(&sdp::read(&offer, Side::Offer).unwrap().clean).unwrap();
    let answer = remote.answer(&us.local);
    us.session.describe(remote, &Voices::new(), false, None, now).unwrap();
    let remote = Remote::read(&sdp::read(&answer, Side::Answer).unwrap().clean).unwrap();
    relay.session.describe(remote, &Voices::new(), true, None, now).unwrap();
    (us, relay)
}

/// The relay's check by which it chooses the path, as libnice sends it at once (RFC 5245 section 8.1.1.2).
fn nomination(us: &End, relay: &End) -> Vec<u8> {
    let name = format!("{}:{}", us.local.credentials.ufrag, relay.local.credentials.ufrag);
    let provider = rtc::crypto::default_provider().unwrap();
    let mut message = Message::new();
    let parts: [Box<dyn Setter>; 8] = [
        Box::new(BINDING_REQUEST),
        Box::new(TransactionId::new()),
        Box::new(Username::new(ATTR_USERNAME, name)),
        Box::<UseCandidateAttr>::default(),
        Box::new(AttrControlling(1)),
        Box::new(PriorityAttr(1)),
        Box::new(MessageIntegrity::new_short_term_integrity_with_provider(
            us.local.credentials.password.clone(),
            provider.crypto(),
        )),
        Box::new(FINGERPRINT),
    ];
    message.build(&parts).unwrap();
    message.raw
}

fn is_handshake(bytes: &BytesMut) -> bool {
    bytes[0] == 22
}

fn answers(bytes: &BytesMut, request: &[u8]) -> bool {
    stun::is_success(bytes) && bytes[8..20] == request[8..20]
}

/// Up to our `ClientHello`: the relay's choice comes while our own check is still under way.
fn chosen(now: Instant) -> (End, End, BytesMut) {
    let (mut us, mut relay) = described(now);
    us.session.handle_timeout(now + MS);
    let check = us.sends().remove(0);
    let choice = nomination(&us, &relay);
    us.session.handle_stun(us.at, relay.at, &choice, now + MS);
    assert!(
        !us.sends().iter().any(|sent| is_handshake(sent) || answers(sent, &choice)),
        "our check is not answered yet"
    );
    relay.session.handle_stun(relay.at, us.at, &check, now + 2 * MS);
    let answer = relay.sends().into_iter().find(|sent| answers(sent, &check)).unwrap();
    us.session.handle_stun(us.at, relay.at, &answer, now + 3 * MS);
    let sent = us.sends();
    let place = |wanted: &dyn Fn(&BytesMut) -> bool| sent.iter().position(wanted);
    let (answered, hello) = (place(&|sent| answers(sent, &choice)), place(&is_handshake));
    assert!(answered.is_some() && answered < hello, "the choice is answered, then the handshake begins: {sent:?}");
    let hello = sent[hello.unwrap()].clone();
    (us, relay, hello)
}

#[test]
fn a_path_that_is_chosen_before_our_own_check_is_answered_is_taken_as_soon_as_it_is() {
    chosen(Instant::now());
}

#[test]
fn a_hello_that_a_relay_is_not_ready_for_is_said_again_within_10_ms_until_it_answers() {
    let now = Instant::now();
    let (mut us, _, hello) = chosen(now);
    let at = us.session.poll_timeout().unwrap();
    assert!(at <= now + 13 * MS, "{:?}", at - now);
    us.session.handle_timeout(now + 13 * MS);
    assert_eq!(us.sends().into_iter().filter(is_handshake).collect::<Vec<_>>(), [hello]);
    us.session.handle_dtls(&[22, 254, 253], now + 14 * MS);
    us.session.handle_timeout(now + 40 * MS);
    assert!(!us.sends().iter().any(is_handshake), "it was heard");
}

#[test]
fn a_relay_that_answers_no_checks_any_more_has_been_silent_since_the_last_answer() {
    let begun = Instant::now();
    let (mut us, ..) = chosen(begun);
    let since = loop {
        let now = us.session.poll_timeout().unwrap();
        us.session.handle_timeout(now);
        if let Phase::Silent(since) = us.session.phase() {
            break since;
        }
    };
    assert!(since >= begun && since <= begun + Duration::from_secs(1), "{:?}", since - begun);
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_up_with_the_first_packet_or_after_a_second_without_any() {
    let (events, _meeting) = mpsc::channel(1);
    let mut peer = Peer::new("", &Settings::on_loopback(), &[], events).unwrap();
    let (session, begun) = (peer.told.take().unwrap(), tokio::time::Instant::now());
    let after = |begun: tokio::time::Instant| begun.elapsed().as_millis();
    session.send_replace(Phase::Up);
    assert!(tokio::time::timeout(300 * MS, peer.changed()).await.is_err(), "media can flow, and none has");
    session.send_replace(Phase::Flowing);
    assert_eq!((peer.changed().await.unwrap(), after(begun)), (Link::Up, 300));
    let since = begun.into_std();
    session.send_replace(Phase::Silent(since));
    assert_eq!(peer.changed().await.unwrap(), Link::Silent(since));
    session.send_replace(Phase::Up);
    assert_eq!((peer.changed().await.unwrap(), after(begun)), (Link::Up, 1300), "nobody sends any");
}

#[test]
fn a_hello_is_said_again_and_again_until_the_handshake_s_own_time_has_come() {
    let (mut hello, begun) = (Hello::default(), Instant::now());
    assert_eq!((hello.poll_timeout(), hello.handle_timeout(begun)), (None, None), "nothing was said");
    hello.handle_said(&BytesMut::from(&b"hello"[..]), begun);
    hello.handle_said(&BytesMut::from(&b"later"[..]), begun);
    assert_eq!(hello.handle_timeout(begun), None, "not at once");
    let mut at = vec![];
    while let Some(due) = hello.poll_timeout() {
        assert_eq!(hello.handle_timeout(due).as_deref(), Some(&b"hello"[..]));
        at.push((due - begun).as_millis());
    }
    assert_eq!(at, [10, 30, 70, 150, 310]);
}
