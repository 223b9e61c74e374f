//! A place at servers that do not answer, say anything, or forget.

use proptest::prelude::*;
use rtc::{
    crypto::default_provider,
    stun::{
        attributes::{ATTR_NONCE, ATTR_REALM},
        message::{
            CLASS_ERROR_RESPONSE, CLASS_REQUEST, CLASS_SUCCESS_RESPONSE, METHOD_ALLOCATE, METHOD_CREATE_PERMISSION,
            METHOD_REFRESH, METHOD_SEND, MessageClass, MessageType, Method, Setter,
        },
        textattrs::{Nonce, Realm},
    },
    turn::proto::{lifetime::Lifetime, relayaddr::RelayedAddress},
};

use super::*;

fn turn(now: Instant) -> Turn {
    let at = At { address: SocketAddr::from(([127, 0, 0, 1], 3478)), tcp: false };
    let local = SocketAddr::from(([127, 0, 0, 1], 5000));
    Turn::new((at, "u".into(), Secret("p".into())), local, default_provider().unwrap(), now).unwrap()
}

#[test]
fn a_server_that_does_not_answer_is_asked_again_and_then_given_up() {
    let mut now = Instant::now();
    let (mut turn, begun, mut asked) = (turn(now), now, 0);
    let outcome = loop {
        asked += std::iter::from_fn(|| turn.poll_transmit()).count();
        now = turn.poll_timeout().unwrap();
        if let Some(outcome) = turn.handle_timeout(now) {
            break outcome;
        }
    };
    assert_eq!(outcome, Outcome::Refused("it does not answer".into()));
    assert!((3..20).contains(&asked) && now - begun < std::time::Duration::from_secs(120), "{asked} {:?}", now - begun);
    turn.send(SocketAddr::from(([127, 0, 0, 1], 1)), b"x", now);
    assert!(turn.poll_transmit().is_none(), "there is no way to send");
}

proptest! {
    #[test]
    fn a_server_may_say_anything(
        kind in prop::sample::select(vec![[0x01u8, 0x03], [0x01, 0x13], [0x00, 0x17], [0x40, 0x00], [0x00, 0x01]]),
        rest in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let now = Instant::now();
        let mut turn = turn(now);
        let asked = turn.poll_transmit().unwrap();
        // As an answer to what was asked, too.
        let mut bytes = [&kind[..], &(rest.len() as u16).to_be_bytes(), &asked[4..20], &rest].concat();
        turn.handle(&bytes, now);
        bytes.truncate(rest.len());
        turn.handle(&bytes, now);
        while turn.poll_inward().is_some() {}
        prop_assert!(turn.relayed().is_none() || kind == [0x01, 0x03]);
    }
}

const RELAYED: ([u8; 4], u16) = ([203, 0, 113, 1], 50_000);
const PEER: ([u8; 4], u16) = ([203, 0, 113, 2], 10_000);

/// A server whose nonces, places and permissions end (RFC 8656 sections 5, 7 and 9).
struct Server {
    nonces: Duration,
    nonce: (u32, Instant),
    place: Option<Instant>,
    permission: Option<Instant>,
    refused: usize,
    sent: usize,
}

impl Server {
    const LIFETIME: Duration = Duration::from_secs(600);

    fn new(nonces: Duration, now: Instant) -> Self {
        Self { nonces, nonce: (0, now), place: None, permission: None, refused: 0, sent: 0 }
    }

    /// What it answers.
    fn handle(&mut self, bytes: &[u8], now: Instant) -> Option<Vec<u8>> {
        let mut asked = Message::new();
        asked.raw = bytes.to_vec();
        asked.decode().unwrap();
        if asked.typ.method == METHOD_SEND {
            let lasts = |until: Option<Instant>| until.is_some_and(|until| now < until);
            self.sent += usize::from(lasts(self.place) && lasts(self.permission));
            return None;
        }
        assert_eq!(asked.typ.class, CLASS_REQUEST);
        if now - self.nonce.1 >= self.nonces {
            self.nonce = (self.nonce.0 + 1, now);
        }
        let code = match Nonce::get_from_as(&asked, ATTR_NONCE) {
            Ok(nonce) if nonce.text == self.nonce.0.to_string() => None,
            Ok(_) => Some(438),
            Err(_) => Some(401),
        };
        if let Some(code) = code {
            self.refused += usize::from(code == 438);
            return Some(self.refuses(&asked, code));
        }
        Some(match asked.typ.method {
            METHOD_CREATE_PERMISSION => {
                self.permission = Some(now + Duration::from_secs(300));
                answer(&asked, METHOD_CREATE_PERMISSION, CLASS_SUCCESS_RESPONSE, vec![])
            }
            METHOD_ALLOCATE => {
                self.place = Some(now + Self::LIFETIME);
                let relayed = RelayedAddress { ip: RELAYED.0.into(), port: RELAYED.1 };
                let parts: Vec<Box<dyn Setter>> = vec![Box::new(relayed), Box::new(Lifetime(Self::LIFETIME))];
                answer(&asked, METHOD_ALLOCATE, CLASS_SUCCESS_RESPONSE, parts)
            }
            METHOD_REFRESH => {
                assert!(self.place.is_some_and(|until| now < until), "the place is gone");
                self.place = Some(now + Self::LIFETIME);
                answer(&asked, METHOD_REFRESH, CLASS_SUCCESS_RESPONSE, vec![Box::new(Lifetime(Self::LIFETIME))])
            }
            other => panic!("{other} is not asked for"),
        })
    }

    fn refuses(&self, asked: &Message, code: u16) -> Vec<u8> {
        let error = ErrorCodeAttribute { code: rtc::stun::error_code::ErrorCode(code), reason: vec![] };
        let parts: Vec<Box<dyn Setter>> = vec![
            Box::new(error),
            Box::new(Nonce::new(ATTR_NONCE, self.nonce.0.to_string())),
            Box::new(Realm::new(ATTR_REALM, "r".into())),
        ];
        answer(asked, asked.typ.method, CLASS_ERROR_RESPONSE, parts)
    }
}

fn answer(asked: &Message, method: Method, class: MessageClass, parts: Vec<Box<dyn Setter>>) -> Vec<u8> {
    let mut all: Vec<Box<dyn Setter>> = vec![Box::new(asked.transaction_id), Box::new(MessageType::new(method, class))];
    all.extend(parts);
    let mut message = Message::new();
    message.build(&all).unwrap();
    message.raw
}

/// Moves what the two have for each other.
fn exchange(turn: &mut Turn, server: &mut Server, now: Instant) {
    while let Some(bytes) = turn.poll_transmit() {
        if let Some(answer) = server.handle(&bytes, now) {
            turn.handle(&answer, now);
        }
    }
}

#[test]
fn a_place_whose_nonces_grow_stale_is_kept_for_hours_and_everything_goes_through_it() {
    for nonces in [180, 600, 610, 3600] {
        let begun = Instant::now();
        let (mut turn, mut server) = (turn(begun), Server::new(Duration::from_secs(nonces), begun));
        exchange(&mut turn, &mut server, begun);
        assert_eq!(turn.relayed(), Some(SocketAddr::from(RELAYED)));
        // The first asks for the permission.
        turn.send(SocketAddr::from(PEER), b"x", begun);
        exchange(&mut turn, &mut server, begun);
        server.sent = 0;
        let seconds = 3 * 3600;
        for second in 1..=seconds {
            let now = begun + Duration::from_secs(second);
            while turn.poll_timeout().is_some_and(|at| at <= now) {
                turn.handle_timeout(now);
                exchange(&mut turn, &mut server, now);
            }
            turn.send(SocketAddr::from(PEER), b"x", now);
            exchange(&mut turn, &mut server, now);
        }
        assert_eq!(server.sent as u64, seconds, "{nonces}");
        assert!(server.refused > 1, "{nonces}");
    }
}

#[test]
fn a_permission_that_a_stale_nonce_has_refused_is_asked_for_again_and_not_for_ever() {
    let begun = Instant::now();
    let (mut turn, mut server) = (turn(begun), Server::new(Duration::from_secs(600), begun));
    exchange(&mut turn, &mut server, begun);
    server.nonce.0 += 1;
    turn.send(SocketAddr::from(PEER), b"x", begun);
    exchange(&mut turn, &mut server, begun);
    assert!(server.permission.is_some() && server.refused == 1);
    // A server to which every nonce is stale.
    server.nonces = Duration::ZERO;
    turn.send(SocketAddr::from(([203, 0, 113, 3], 1)), b"x", begun);
    exchange(&mut turn, &mut server, begun);
    assert!(server.refused < 10, "{}", server.refused);
}
