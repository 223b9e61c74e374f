//! The generator: a process that is the relay of every meeting, WHEP and media.
//!
//! All media leave one socket, each meeting's from an address of its own in 127/8, as from a relay with a transport
//! for each subscriber. Packets are encoded before; only the encryption is left to do.
#![allow(clippy::disallowed_methods, reason = "I/O shell: sends by the clock")]

use std::{
    io::IoSliceMut,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result};
use axum::{
    Json, Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::IntoResponse,
    routing::{get, patch, post},
};
use mesh::clock::Micros;
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use serde::{Deserialize, Serialize};

use super::{
    cpu,
    session::{Identity, Session, address, meeting_at},
    timing::{SLOTS, Timing, slot_time},
    voices::Voices,
};

/// Room for what the edge sends to all meetings while we send.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Meetings that it serves.
const MAX_MEETINGS: usize = 100_000;

/// What the generator says of itself.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Stats {
    /// Packets sent.
    pub(super) sent: u64,
    /// Packets that the kernel did not take.
    pub(super) refused: u64,
    /// CPU time of the process, in microseconds.
    pub(super) cpu_us: u64,
    /// The latest packet since this was last asked, in microseconds after it was due.
    pub(super) latest_us: u64,
}

#[derive(Default)]
struct Counters {
    sent: AtomicU64,
    refused: AtomicU64,
    latest_us: AtomicU64,
}

struct Shared {
    identity: Identity,
    people: usize,
    port: u16,
    /// By meeting.
    sessions: Mutex<Vec<Option<Box<Session>>>>,
    counters: Counters,
}

impl Shared {
    fn sessions(&self) -> MutexGuard<'_, Vec<Option<Box<Session>>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves until the process is stopped; prints its HTTP address as a line of its own.
pub(super) async fn run(voices: Voices, people: usize, timing: Timing) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("no socket for media")?;
    let port = socket.local_addr()?.port();
    let shared = Arc::new(Shared {
        identity: Identity::new()?,
        people,
        port,
        sessions: Mutex::default(),
        counters: Counters::default(),
    });
    let media = Media::new(socket, voices, timing, shared.clone())?;
    std::thread::Builder::new().name("media".into()).spawn(move || media.run())?;
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?);
    let app = Router::new()
        .route("/whep/{meeting}", post(offer))
        .route("/session/{meeting}", patch(|| async { StatusCode::NO_CONTENT }).delete(leave))
        .route("/stats", get(stats))
        .with_state(shared);
    Ok(axum::serve(listener, app).await?)
}

async fn offer(State(shared): State<Arc<Shared>>, Path(meeting): Path<usize>) -> impl IntoResponse {
    if meeting >= MAX_MEETINGS {
        return StatusCode::NOT_FOUND.into_response();
    }
    let at = SocketAddr::from((address(meeting), shared.port));
    let offer = shared.identity.offer(meeting, shared.people, at);
    match Session::new(meeting, shared.people, at, &shared.identity) {
        Ok(session) => {
            let mut sessions = shared.sessions();
            let count = sessions.len().max(meeting + 1);
            sessions.resize_with(count, || None);
            sessions[meeting] = Some(Box::new(session));
            drop(sessions);
            let headers = [
                (header::CONTENT_TYPE, "application/sdp".to_owned()),
                (header::LOCATION, format!("/session/{meeting}")),
            ];
            (StatusCode::NOT_ACCEPTABLE, headers, offer).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn leave(State(shared): State<Arc<Shared>>, Path(meeting): Path<usize>) -> StatusCode {
    if let Some(session) = shared.sessions().get_mut(meeting) {
        *session = None;
    }
    StatusCode::OK
}

async fn stats(State(shared): State<Arc<Shared>>) -> Json<Stats> {
    let Counters { sent, refused, latest_us } = &shared.counters;
    Json(Stats {
        sent: sent.load(Ordering::Relaxed),
        refused: refused.load(Ordering::Relaxed),
        cpu_us: cpu().as_micros() as u64,
        latest_us: latest_us.swap(0, Ordering::Relaxed),
    })
}

/// The thread that moves datagrams.
struct Media {
    socket: UdpSocket,
    state: UdpSocketState,
    voices: Voices,
    timing: Timing,
    shared: Arc<Shared>,
    buffers: Vec<Vec<u8>>,
}

impl Media {
    fn new(socket: UdpSocket, voices: Voices, timing: Timing, shared: Arc<Shared>) -> Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        let _ = state.set_recv_buffer_size((&socket).into(), RECEIVE_BUFFER);
        let buffers = vec![vec![0; 1500 * state.gro_segments()]; BATCH_SIZE];
        Ok(Self { socket, state, voices, timing, shared, buffers })
    }

    fn run(mut self) {
        let slot_us = slot_time(1).as_micros() as u64;
        let mut slot = wall().since(self.timing.epoch).as_micros() as u64 / slot_us;
        loop {
            self.receive();
            let due = self.timing.epoch.plus(slot_time(slot));
            let now = wall();
            if now < due {
                std::thread::sleep(due.since(now));
                continue;
            }
            self.send(slot, due);
            slot += 1;
        }
    }

    /// Sends what is due in a slot.
    fn send(&mut self, slot: u64, due: Micros) {
        let (tick, part) = (slot / SLOTS, slot % SLOTS);
        let (mut sent, mut refused) = (0, 0);
        let shared = self.shared.clone();
        let mut sessions = shared.sessions();
        let meetings = sessions.len();
        for who in 0..shared.people {
            for meeting in Timing::meetings(part, who).take_while(|meeting| *meeting < meetings) {
                let Some(session) = sessions[meeting].as_mut().filter(|s| s.is_connected()) else { continue };
                let (Some(remote), Ok(packet)) = (session.remote, session.packet(&self.voices, who, tick)) else {
                    continue;
                };
                match transmit(&self.socket, &self.state, address(meeting), remote, &packet) {
                    true => sent += 1,
                    false => refused += 1,
                }
            }
        }
        drop(sessions);
        let Counters { sent: all, refused: none, latest_us } = &self.shared.counters;
        all.fetch_add(sent, Ordering::Relaxed);
        none.fetch_add(refused, Ordering::Relaxed);
        latest_us.fetch_max(wall().since(due).as_micros() as u64, Ordering::Relaxed);
        if part == 0 {
            self.handle_timeouts();
        }
    }

    fn receive(&mut self) {
        loop {
            let mut meta = [RecvMeta::default(); BATCH_SIZE];
            let mut slices: Vec<IoSliceMut<'_>> = self.buffers.iter_mut().map(|b| IoSliceMut::new(b)).collect();
            let Ok(count) = self.state.recv((&self.socket).into(), &mut slices, &mut meta) else { return };
            for (meta, buffer) in meta.iter().zip(&self.buffers).take(count) {
                for datagram in buffer[..meta.len].chunks(meta.stride.max(1)) {
                    self.handle(meta.addr, meta.dst_ip, datagram);
                }
            }
        }
    }

    fn handle(&self, from: SocketAddr, to: Option<IpAddr>, datagram: &[u8]) {
        let Some(meeting) = to.and_then(meeting_at) else { return };
        let mut sessions = self.shared.sessions();
        let Some(session) = sessions.get_mut(meeting).and_then(Option::as_mut) else { return };
        let send = |bytes: &[u8]| {
            transmit(&self.socket, &self.state, address(meeting), from, bytes);
        };
        if let Err(error) = session.handle(&self.shared.identity, from, datagram, Instant::now(), send) {
            tracing::debug!(meeting, %error, "a datagram of the edge's");
        }
    }

    fn handle_timeouts(&self) {
        let now = Instant::now();
        for (meeting, session) in self.shared.sessions().iter_mut().enumerate() {
            let Some(session) = session else { continue };
            let Some(remote) = session.remote else { continue };
            session.handle_timeout(now, |bytes| {
                transmit(&self.socket, &self.state, address(meeting), remote, bytes);
            });
        }
    }
}

/// Whether the kernel took it.
fn transmit(socket: &UdpSocket, state: &UdpSocketState, from: Ipv4Addr, to: SocketAddr, bytes: &[u8]) -> bool {
    let transmit =
        Transmit { destination: to, ecn: None, contents: bytes, segment_size: None, src_ip: Some(from.into()) };
    state.try_send(socket.into(), &transmit).is_ok()
}

pub(super) fn wall() -> Micros {
    Micros::from_system(SystemTime::now())
}

/// So that nothing is due in the past when everybody has started.
pub(super) fn epoch() -> Micros {
    wall().plus(Duration::from_millis(200))
}
