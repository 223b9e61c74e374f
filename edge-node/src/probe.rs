//! How far a relay is from here.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use rtc::stun::message::{BINDING_REQUEST, BINDING_SUCCESS, Message, TransactionId};
use tokio::{
    net::{TcpStream, UdpSocket},
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};

use crate::egress::{NoAddress, Policy};

/// For a whole probe, name lookup included; less than a core waits, so that it hears of a silent relay too.
pub const PROBE_DEADLINE: Duration = Duration::from_millis(1500);

/// Round trips measured, each beginning `GAP` after the one before. One would do on an idle path; what queues
/// and schedulers add to it differs from one to the next.
pub const PROBES: usize = 5;

/// See [`PROBES`].
const GAP: Duration = Duration::from_millis(30);

/// With so many answered, the others have twice the shortest and [`GRACE`].
const ENOUGH: usize = 3;

/// See [`ENOUGH`].
const GRACE: Duration = Duration::from_millis(100);

/// Before a STUN request counts as lost.
const STUN_WAIT: Duration = Duration::from_secs(1);

/// What a probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// The shortest round trip: nothing makes one shorter than the path, and much makes it longer.
    pub rtt: Duration,
    /// How many there were, 1 to [`PROBES`].
    pub answered: u8,
}

/// Why nothing could be measured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// The caller's fault: not `host:port`, no such host, or not where this edge goes.
    #[error("{relay:?} has no address: {why}")]
    Relay {
        /// What was asked for.
        relay: String,
        /// What the resolver said.
        why: String,
    },
    /// The relay does not answer.
    #[error("{relay:?} answered none of our probes in {PROBE_DEADLINE:?}: {why}")]
    Silent {
        /// What was asked for.
        relay: String,
        /// How the last probe failed.
        why: String,
    },
}

/// Measures the round trip to `relay` (`host:port`): the time a TCP connection takes to open, or with
/// `stun` the time to a STUN Binding response (RFC 8489) over UDP.
///
/// # Errors
/// The relay has no address, or answers nothing within [`PROBE_DEADLINE`].
pub async fn probe(relay: &str, stun: bool, egress: &Policy) -> Result<Measured, ProbeError> {
    let deadline = Instant::now() + PROBE_DEADLINE;
    let no_address = |why: String| ProbeError::Relay { relay: relay.into(), why };
    let (host, port) = relay.rsplit_once(':').ok_or_else(|| no_address("it is not host:port".into()))?;
    let port = port.parse().map_err(|_| no_address("it is not host:port".into()))?;
    let found = timeout_at(deadline, egress.resolve(host, port)).await;
    let found = found.map_err(|_| no_address("the resolver is too slow".into()))?;
    let found = found.map_err(|e: NoAddress| no_address(e.to_string()))?;
    let address = *found.first().ok_or_else(|| no_address("none".into()))?;

    let mut samples: JoinSet<std::io::Result<Duration>> =
        (0..PROBES as u32).map(|n| sample(address, stun, GAP * n)).collect();
    let (mut rtts, mut end, mut why) = (vec![], deadline, String::from("too slow"));
    while let Ok(Some(sample)) = timeout_at(end, samples.join_next()).await {
        match sample.map_err(std::io::Error::other).flatten() {
            Ok(rtt) => rtts.push(rtt),
            // A refused connection has made the round trip too, but it is not a relay's.
            Err(error) => why = error.to_string(),
        }
        if let Some(found) = shortest(&rtts).filter(|_| rtts.len() >= ENOUGH) {
            end = end.min(Instant::now() + found.rtt * 2 + GRACE);
        }
    }
    shortest(&rtts).ok_or(ProbeError::Silent { relay: relay.into(), why })
}

/// One round trip, begun after `wait`.
async fn sample(address: SocketAddr, stun: bool, wait: Duration) -> std::io::Result<Duration> {
    tokio::time::sleep(wait).await;
    let sent = Instant::now();
    if stun {
        binding(address).await?;
    } else {
        TcpStream::connect(address).await?;
    }
    Ok(sent.elapsed())
}

fn shortest(rtts: &[Duration]) -> Option<Measured> {
    rtts.iter().min().map(|rtt| Measured { rtt: *rtt, answered: rtts.len() as u8 })
}

/// One STUN Binding transaction.
async fn binding(server: SocketAddr) -> std::io::Result<()> {
    let any: SocketAddr =
        if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    let mut request = Message::new();
    request.build(&[Box::new(TransactionId::new()), Box::new(BINDING_REQUEST)]).map_err(std::io::Error::other)?;
    socket.send(&request.raw).await?;
    let answered = async {
        let mut buffer = [0; 1500];
        loop {
            let length = socket.recv(&mut buffer).await?;
            if answers(&request, &buffer[..length]) {
                return Ok(());
            }
        }
    };
    timeout(STUN_WAIT, answered).await?
}

/// Whether `datagram` is the success response to `request`; anything else is passed over.
fn answers(request: &Message, datagram: &[u8]) -> bool {
    let mut response = Message::new();
    response.unmarshal_binary(datagram).is_ok()
        && response.typ == BINDING_SUCCESS
        && response.transaction_id == request.transaction_id
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use tokio::net::TcpListener;

    use super::*;

    const HERE: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

    fn here() -> Policy {
        Policy::with_loopback()
    }

    #[test]
    fn what_queues_add_is_left_out() {
        let ms = Duration::from_millis;
        assert_eq!(shortest(&[]), None);
        assert_eq!(shortest(&[ms(900), ms(12), ms(10)]).unwrap(), Measured { rtt: ms(10), answered: 3 });
    }

    #[tokio::test]
    async fn lost_requests_hold_nothing_up_once_enough_are_answered() {
        let server = UdpSocket::bind(HERE).await.unwrap();
        let relay = server.local_addr().unwrap().to_string();
        let answer_three = async {
            let mut buffer = [0; 1500];
            for n in 0.. {
                let (length, from) = server.recv_from(&mut buffer).await.unwrap();
                if n % 2 == 0 {
                    server.send_to(&response_to(&buffer[..length]), from).await.unwrap();
                }
            }
        };
        let begun = Instant::now();
        let egress = here();
        tokio::select! {
            measured = probe(&relay, true, &egress) => assert_eq!(measured.unwrap().answered, 3),
            () = answer_three => unreachable!("serves for ever"),
        }
        assert!(begun.elapsed() < STUN_WAIT, "{:?}", begun.elapsed());
    }

    fn response_to(request: &[u8]) -> Vec<u8> {
        let mut read = Message::new();
        read.unmarshal_binary(request).unwrap();
        let mut response = Message::new();
        response.build(&[Box::new(read.transaction_id), Box::new(BINDING_SUCCESS)]).unwrap();
        response.raw
    }

    #[tokio::test]
    async fn a_listening_relay_is_measured_five_times() {
        let listener = TcpListener::bind(HERE).await.unwrap();
        let relay = listener.local_addr().unwrap().to_string();
        let measured = probe(&relay, false, &here()).await.unwrap();
        assert_eq!(measured.answered, PROBES as u8);
        assert!(measured.rtt < PROBE_DEADLINE);
    }

    #[tokio::test]
    async fn a_closed_port_and_a_bad_name_are_told_apart() {
        let listener = TcpListener::bind(HERE).await.unwrap();
        let relay = listener.local_addr().unwrap().to_string();
        drop(listener);
        assert!(matches!(probe(&relay, false, &here()).await, Err(ProbeError::Silent { .. })));
        assert!(matches!(probe("no port here", false, &Policy::default()).await, Err(ProbeError::Relay { .. })));
    }

    #[tokio::test]
    async fn what_is_inside_is_not_sent_a_packet() {
        let (listener, socket) = (TcpListener::bind(HERE).await.unwrap(), UdpSocket::bind(HERE).await.unwrap());
        for (at, stun) in [(listener.local_addr().unwrap(), false), (socket.local_addr().unwrap(), true)] {
            for relay in
                [at.to_string(), format!("localhost:{}", at.port()), format!("[::ffff:{}]:{}", at.ip(), at.port())]
            {
                let error = probe(&relay, stun, &Policy::default()).await.unwrap_err();
                assert!(error.to_string().contains("a loopback address"), "{error}");
            }
        }
        assert!(futures_util::FutureExt::now_or_never(listener.accept()).is_none(), "nobody has called");
        assert!(socket.try_recv(&mut [0; 9]).is_err(), "nobody has asked");
    }

    #[tokio::test]
    async fn stun_is_measured_and_other_datagrams_are_passed_over() {
        let server = UdpSocket::bind(HERE).await.unwrap();
        let relay = server.local_addr().unwrap().to_string();
        let serve = async {
            let mut buffer = [0; 1500];
            loop {
                let (length, from) = server.recv_from(&mut buffer).await.unwrap();
                server.send_to(b"not stun", from).await.unwrap();
                server.send_to(&response_to(&buffer[..length]), from).await.unwrap();
            }
        };
        let egress = here();
        tokio::select! {
            measured = probe(&relay, true, &egress) => assert_eq!(measured.unwrap().answered, PROBES as u8),
            () = serve => unreachable!("serves for ever"),
        }
    }

    proptest! {
        #[test]
        fn any_datagram_is_an_answer_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut request = Message::new();
            request.build(&[Box::new(TransactionId::new()), Box::new(BINDING_REQUEST)]).unwrap();
            prop_assert!(!answers(&request, &bytes));
        }
    }
}
