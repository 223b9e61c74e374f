//! The ways over QUIC: one endpoint of the product's on each side.

#![allow(clippy::disallowed_methods, reason = "a stand-in: no node goes on without its tasks")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use mesh::{
    identity::{
        Identity,
        certs::{Authority, Credentials},
    },
    node::Peer,
    transport::Transport,
};
use tokio::sync::mpsc;

use super::{OPUS, Way, drain, due, link_bytes, ours};
use crate::link::clock::{Clock, frame};

/// Trust domain of the run.
const DOMAIN: &str = "link.test";
/// A receiver may take this long to be there.
const PATIENCE: Duration = Duration::from_secs(15);

/// For the sender and the receiver.
pub(super) fn credentials() -> Result<(Credentials, Credentials)> {
    let validity = Duration::from_secs(86_400);
    let authority = Authority::create(DOMAIN, validity)?;
    let issue = |role: &str| {
        let uri = format!("spiffe://{DOMAIN}/region/eu-central/role/{role}/node/{role}-1");
        let (cert, key) = authority.issue(&Identity::from_spiffe(&uri, DOMAIN)?, validity)?;
        anyhow::Ok(Credentials::from_pem(authority.ca_pem(), &cert, &key, DOMAIN)?)
    };
    Ok((issue("edge")?, issue("core")?))
}

pub(super) async fn send(way: Way, to: SocketAddr, credentials: Credentials, clock: Arc<Clock>) -> Result<u64> {
    let transport = Transport::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), credentials)?;
    let deadline = Instant::now() + PATIENCE;
    let (identity, connection) = loop {
        match transport.dial(to).await {
            Ok(there) => break there,
            // The receiver comes up beside us, and its path may be lossy.
            Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(error) => return Err(error).context("no connection"),
        }
    };
    let mut speech = match way {
        Way::Ours => Speech::Ours(Box::new(ours::Sender::new(Peer { identity, connection: connection.clone() }))),
        Way::OneStream => Speech::Stream(connection.open_uni().await?),
        _ => Speech::Datagrams { copies: way == Way::DatagramCopy, before: vec![vec![]; clock.tracks as usize] },
    };
    let (start, mut bytes) = (Instant::now(), 0);
    for n in 0..clock.tracks * clock.frames {
        let (track, seq) = (n % clock.tracks, n / clock.tracks);
        speech.wait(due(start, n)).await;
        if clock.begins(track, seq) {
            bytes = link_bytes()?;
        }
        clock.note_sent(track, seq);
        speech.say(&connection, track, seq, clock.frames).await?;
    }
    let tail = Instant::now() + Duration::from_millis(500);
    speech.wait(tail).await;
    drain(&clock).await;
    Ok(link_bytes()? - bytes)
}

enum Speech {
    Ours(Box<ours::Sender>),
    Stream(quinn::SendStream),
    Datagrams { copies: bool, before: Vec<Vec<u8>> },
}

impl Speech {
    /// Waits until `until`, doing meanwhile what is due.
    async fn wait(&mut self, until: Instant) {
        match self {
            Self::Ours(sender) => sender.wait(until).await,
            _ => tokio::time::sleep_until(until.into()).await,
        }
    }

    async fn say(&mut self, connection: &quinn::Connection, track: u32, seq: u32, of: u32) -> Result<()> {
        let now = frame(track, seq, OPUS);
        match self {
            Self::Ours(sender) => sender.say(track, seq, of, now).await?,
            Self::Stream(stream) => stream.write_all(&now).await?,
            Self::Datagrams { copies, before } => {
                let mut datagram = now.clone();
                if *copies {
                    datagram.extend_from_slice(&std::mem::replace(&mut before[track as usize], now));
                }
                connection.send_datagram(datagram.into())?;
            }
        }
        Ok(())
    }
}

pub(super) async fn receive(way: Way, at: SocketAddr, credentials: Credentials, clock: Arc<Clock>) -> Result<()> {
    let transport = Transport::bind(at, credentials)?;
    let (came, mut connections) = mpsc::channel(4);
    let accept = transport.accept(move |_, outcome| {
        if let Ok((_, connection)) = outcome {
            let _ = came.try_send(connection);
        }
    });
    let serve = async {
        // A dialler that gave up in the middle of its handshake may leave one behind that carries nothing.
        while let Some(connection) = connections.recv().await {
            tokio::spawn(take(way, connection, clock.clone()));
        }
    };
    tokio::join!(accept, serve);
    Ok(())
}

async fn take(way: Way, connection: quinn::Connection, clock: Arc<Clock>) {
    let receiver = ours::Receiver::new(clock.clone());
    loop {
        tokio::select! {
            datagram = connection.read_datagram() => match datagram {
                Ok(datagram) if way == Way::Ours => receiver.handle_datagram(datagram),
                Ok(datagram) => datagram.chunks_exact(OPUS).for_each(|frame| clock.note_came(frame)),
                Err(_) => return,
            },
            stream = connection.accept_uni() => match stream {
                Ok(stream) if way == Way::Ours => drop(tokio::spawn(receiver.clone().read(stream))),
                Ok(stream) => drop(tokio::spawn(read_frames(stream, clock.clone()))),
                Err(_) => return,
            },
        }
    }
}

async fn read_frames(mut stream: quinn::RecvStream, clock: Arc<Clock>) {
    let mut frame = [0; OPUS];
    while stream.read_exact(&mut frame).await.is_ok() {
        clock.note_came(&frame);
    }
}
