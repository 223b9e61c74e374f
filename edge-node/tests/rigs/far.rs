//! A relay's end of a connection, in a test's hands: it offers, and sends what it is told to.

use std::{fmt::Write, net::Ipv4Addr, time::Duration};

use rtc::rtp::Header;
use tokio::{
    net::UdpSocket,
    sync::oneshot,
    time::{Instant, interval, sleep_until},
};

use super::{session::Transmit, *};
use crate::{
    connect::sdp::{self, Side},
    egress::Policy,
};

/// What Opus is called in its offers, and the extension that names the section.
const OPUS: u8 = 111;
const MID_ID: u8 = 4;
/// So often it asks for what to send next.
const TICK: Duration = Duration::from_millis(20);

/// One RTP packet before it is protected.
#[derive(Debug, Clone, Default)]
pub(in crate::connect) struct Plain {
    pub(in crate::connect) ssrc: u32,
    pub(in crate::connect) sequence: u16,
    pub(in crate::connect) timestamp: u32,
    /// The section it says it is of.
    pub(in crate::connect) mid: Option<&'static str>,
    pub(in crate::connect) payload: Vec<u8>,
}

/// What is sent in the `n`th tick of 20 ms; nothing more after `None`.
pub(in crate::connect) type Script = Box<dyn FnMut(u32) -> Option<Vec<Plain>> + Send>;

/// What a relay's end is told while it runs.
pub(in crate::connect) enum Order {
    /// To answer no more, until there is another path.
    Mute,
    /// The other side's fragment (RFC 8840) wants another path; takes ours.
    Restart(String, oneshot::Sender<String>),
}

/// The relay's end.
pub(in crate::connect) struct Far {
    socket: UdpSocket,
    session: Session,
    local: Local,
}

impl Far {
    pub(in crate::connect) async fn new() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let identity = Arc::new(Identity::new().unwrap());
        let (credentials, at) = (credentials(&identity).unwrap(), socket.local_addr().unwrap());
        let session =
            Session::new(identity.clone(), &[at], false, credentials.clone(), Instant::now().into_std()).unwrap();
        let session = session.within(Policy::with_loopback());
        let (fingerprint, candidates) = (identity.fingerprint.clone(), session.candidates());
        Self {
            socket,
            session,
            local: Local { id: 1, version: 1, credentials, fingerprint, candidates, trickles: false, data: false },
        }
    }

    /// An offer of one voice: `name` is its stream, `ssrc` its source.
    pub(in crate::connect) fn offer(&self, name: &str, ssrc: u32) -> String {
        self.describe(name, ssrc, "actpass")
    }

    /// The answer to an offer of one section.
    pub(in crate::connect) fn answer(&self, name: &str, ssrc: u32) -> String {
        self.describe(name, ssrc, "active")
    }

    fn describe(&self, name: &str, ssrc: u32, setup: &str) -> String {
        description(&self.local, name, ssrc, setup)
    }

    /// Takes the answer to its offer, connects, and plays `script`, until the other side says farewell.
    pub(in crate::connect) async fn run(self, answer: &str, script: Script) {
        let (_none, orders) = mpsc::channel(1);
        self.serve(answer, Side::Answer, script, orders).await;
    }

    /// The same with the other side's offer or answer, and orders.
    pub(in crate::connect) async fn serve(
        mut self,
        theirs: &str,
        side: Side,
        mut script: Script,
        mut orders: mpsc::Receiver<Order>,
    ) {
        let remote = Remote::read(&sdp::read(theirs, side).unwrap().clean).unwrap();
        let offered = side == Side::Answer;
        self.session.describe(remote.clone(), &Voices::new(), offered, None, Instant::now().into_std()).unwrap();
        let (mut buffer, mut ticks, mut n, mut mute) = ([0; 2048], interval(TICK), 0u32, false);
        while !self.session.phase().is_over() {
            while let Some(Transmit { to, bytes, .. }) = self.session.poll_transmit() {
                if !mute {
                    let _ = self.socket.send_to(&bytes, to).await;
                }
            }
            let due = self.session.poll_timeout().unwrap_or_else(|| (Instant::now() + TICK).into_std());
            tokio::select! {
                Ok((length, from)) = self.socket.recv_from(&mut buffer) => {
                    if !mute {
                        self.handle(&buffer[..length], from);
                    }
                }
                () = sleep_until(due.into()) => self.session.handle_timeout(Instant::now().into_std()),
                _ = ticks.tick(), if self.session.phase().is_open() && !mute => {
                    n += 1;
                    for packet in script(n - 1).into_iter().flatten() {
                        self.send(&packet).await;
                    }
                }
                Some(order) = orders.recv() => {
                    mute = matches!(order, Order::Mute);
                    if let Order::Restart(fragment, reply) = order {
                        let _ = reply.send(self.restart(&remote, &fragment, offered));
                    }
                }
            }
        }
    }

    /// Seeks another path, under new credentials of both sides.
    fn restart(&mut self, before: &Remote, fragment: &str, offered: bool) -> String {
        let (theirs, candidates) = describe::read_fragment(fragment).unwrap();
        let ours = Credentials { ufrag: "another1".into(), password: "p".repeat(24) };
        let (remote, now) = (before.clone().restarted(theirs, candidates), Instant::now().into_std());
        self.session.describe(remote, &Voices::new(), offered, Some(ours.clone()), now).unwrap();
        describe::fragment(&ours, "0", &self.local.candidates)
    }

    fn handle(&mut self, bytes: &[u8], from: SocketAddr) {
        let (at, now) = (self.socket.local_addr().unwrap(), Instant::now().into_std());
        match bytes[0] {
            0..=3 => drop(self.session.handle_stun(at, from, bytes, now)),
            20..=63 => self.session.handle_dtls(bytes, now),
            _ => self.session.handle_rtcp(bytes, now),
        }
    }

    async fn send(&mut self, packet: &Plain) {
        let Plain { ssrc, sequence, timestamp, mid, payload } = packet;
        let mut header = Header {
            version: 2,
            payload_type: OPUS,
            ssrc: *ssrc,
            sequence_number: *sequence,
            timestamp: *timestamp,
            ..Header::default()
        };
        if let Some(mid) = mid {
            header.set_extension(MID_ID, bytes::Bytes::from_static(mid.as_bytes())).unwrap();
        }
        let (bytes, to) = self.session.protect(&header, payload);
        self.socket.send_to(&bytes, to).await.unwrap();
    }
}

/// A description of one voice at this end.
pub(super) fn description(local: &Local, name: &str, ssrc: u32, setup: &str) -> String {
    let Local { credentials: Credentials { ufrag, password }, fingerprint, candidates, .. } = local;
    let mut out = format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
         m=audio 9 UDP/TLS/RTP/SAVPF {OPUS}\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=sendonly\r\na=rtcp-mux\r\n\
         a=ice-ufrag:{ufrag}\r\na=ice-pwd:{password}\r\na=fingerprint:sha-256 {fingerprint}\r\na=setup:{setup}\r\n\
         a=rtpmap:{OPUS} opus/48000/2\r\na=extmap:{MID_ID} {}\r\na=msid:{name} t\r\na=ssrc:{ssrc} cname:{name}\r\n",
        sdp::MID_URI
    );
    for candidate in candidates {
        let _ = write!(out, "a=candidate:{candidate}\r\n");
    }
    out
}
