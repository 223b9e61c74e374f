//! What peers send: connections, then datagrams and streams by their first byte.

use std::{
    pin::pin,
    sync::Arc,
    time::{Instant, SystemTime},
};

use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use tokio::{
    sync::{Semaphore, mpsc::error::TrySendError},
    time::timeout,
};
use tracing::{Instrument, debug, debug_span, info, trace};

use super::{
    ConnectError, Inbound, Peer, Reply, STREAM_DEADLINE, Shared, close, gossip::Input, handshake_failed, keyring,
    refused, twins, validity, versions,
};
use crate::{
    authorize::{Message, check_role},
    identity::{
        Identity,
        certs::{Unacceptable, shown},
    },
    stream::{self, MessageReceiver, MessageSender},
    tasks,
    transport::{HandshakeError, close as code, connection_reason},
    wire::{self, request::Response},
};

/// Requests of one connection answered at a time; more are told that we are busy.
const MAX_REQUESTS: usize = 64;

/// Takes inbound connections until the endpoint closes.
///
/// # Errors
/// It has closed although the node goes on.
pub(super) async fn accept(shared: Arc<Shared>) -> Result<(), String> {
    let (transport, stop) = (shared.transport.clone(), shared.stop.clone());
    transport
        .accept(move |from, outcome| match outcome {
            Ok((identity, connection)) => welcome(&shared, identity, connection),
            Err(e) => turn_away(&shared, from, &e),
        })
        .await;
    if stop.is_cancelled() { Ok(()) } else { Err("the QUIC endpoint has ended".into()) }
}

fn welcome(shared: &Arc<Shared>, identity: Identity, connection: Connection) {
    if identity.node == shared.me.node {
        // Our own dial of a seed that is ourselves, or a node with a copy of our certificate.
        let shared = shared.clone();
        tasks::once("twin", async move {
            if !twins::is_here(&shared, &connection).await {
                twins::note(&shared, connection.remote_address(), Instant::now());
            }
            close(&connection, code::SELF, "this is me");
        });
        return;
    }
    let peer = Peer { identity, connection };
    if let Err(e) = take_in(shared, peer) {
        debug!(error = %e, "connection refused");
    }
}

fn turn_away(shared: &Shared, from: std::net::SocketAddr, error: &HandshakeError) {
    handshake_failed("dialled", error);
    versions::note(shared, from.ip(), error);
    // At DEBUG: anyone who can reach the port can cause it.
    debug!(%from, %error, "peer turned away");
}

/// Pools a connection, whoever dialled it, and serves it in a task of its own.
pub(super) fn take_in(shared: &Arc<Shared>, peer: Peer) -> Result<(), ConnectError> {
    if shared.pool.insert(peer.clone()).is_err() {
        refused("too_many");
        close(&peer.connection, code::TOO_MANY, "too many connections of one node");
        return Err(ConnectError::TooMany(peer.identity.node));
    }
    let span = debug_span!("peer", me = %shared.me.node, node = %peer.identity.node);
    tasks::once("peer", serve(shared.clone(), peer).instrument(span));
    Ok(())
}

async fn serve(shared: Arc<Shared>, peer: Peer) {
    let talk = talk(shared.clone(), peer.clone()).in_current_span();
    let end = tasks::caught("peer", talk).await.unwrap_or_else(|_broken| {
        // Nobody reads it any more: it is not to be taken for one that is well.
        close(&peer.connection, code::BROKEN, "an internal error");
        ConnectionError::LocallyClosed
    });
    lose(&shared, &peer, &end).await;
}

/// Takes what comes over the connection until its end, and says how it ended.
async fn talk(shared: Arc<Shared>, peer: Peer) -> ConnectionError {
    debug!(addr = %peer.connection.remote_address(), "connected");
    let requests = Arc::new(Semaphore::new(MAX_REQUESTS));
    meet(&shared, &peer).await;
    let mut unacceptable = pin!(validity::watch(&shared, &peer));
    loop {
        tokio::select! {
            why = &mut unacceptable => break end_for(&peer, why),
            datagram = peer.connection.read_datagram() => match datagram {
                Ok(bytes) => take_datagram(&shared, &peer, &bytes),
                Err(e) => break e,
            },
            stream = peer.connection.accept_uni() => match stream {
                Ok(recv) => drop(tasks::once("stream", uni(shared.clone(), peer.clone(), recv))),
                Err(e) => break e,
            },
            stream = peer.connection.accept_bi() => match stream {
                Ok(stream) => {
                    let task = bi(shared.clone(), peer.clone(), stream, requests.clone());
                    tasks::once("stream", task);
                }
                Err(e) => break e,
            },
        }
    }
}

/// A peer's handshake has shown its certificate: what it signs need not wait for that to be fetched.
async fn meet(shared: &Shared, peer: &Peer) {
    let learnt = shared.keyring.learn(shown(&peer.connection), SystemTime::now());
    if let Ok(certificate) = learnt {
        // The gossip task is gone only when the node is.
        let _ = shared.gossip.send(Input::Certificate(certificate)).await;
    }
}

/// Closes the connection with a peer that would not be let in now; it may come back with a new certificate.
fn end_for(peer: &Peer, why: Unacceptable) -> ConnectionError {
    let code = match why {
        Unacceptable::Expired => code::EXPIRED,
        Unacceptable::NotYetValid => code::NOT_YET_VALID,
        Unacceptable::Revoked => code::REVOKED,
        Unacceptable::Untrusted | Unacceptable::Algorithm => code::UNTRUSTED,
    };
    refused(why.reason());
    info!(reason = why.reason(), "connection ended: {why}");
    close(&peer.connection, code, &why.to_string());
    ConnectionError::LocallyClosed
}

async fn lose(shared: &Shared, peer: &Peer, end: &ConnectionError) {
    let reason = connection_reason(end);
    metrics::counter!("nearfield_mesh_connections_lost_total", "reason" => reason).increment(1);
    if reason.starts_with("certificate") {
        // With TLS 1.3 a dialler hears only after its handshake that the other side refused its certificate;
        // and a certificate may stop being good under an open connection.
        refused(reason);
        info!(%end, "refused by the peer");
    }
    if let ConnectionError::ApplicationClosed(close) = end
        && close.error_code == code::TWIN
        && let Some(addr) = std::str::from_utf8(&close.reason).ok().and_then(|reason| reason.parse().ok())
    {
        twins::note(shared, addr, Instant::now());
    }
    debug!(%end, "connection ended");
    let last = shared.pool.remove(peer);
    if last && !matches!(end, ConnectionError::LocallyClosed) {
        // A node shutting down needs no hints.
        let _ = shared.gossip.send(Input::Lost(peer.identity.node.clone())).await;
    }
}

fn take_datagram(shared: &Shared, peer: &Peer, datagram: &bytes::Bytes) {
    match datagram.first() {
        Some(&wire::DATAGRAM_SWIM) => {
            let packet = Input::Packet { from: peer.identity.clone(), packet: datagram.slice(1..) };
            if let Err(TrySendError::Full(_)) = shared.gossip.try_send(packet) {
                metrics::counter!("nearfield_mesh_gossip_dropped_total", "queue" => "inbox").increment(1);
            }
        }
        Some(&wire::DATAGRAM_COPIES) if !may(shared, peer, Message::Copies) => {}
        Some(&wire::DATAGRAM_COPIES) => {
            let copies = Inbound::Copies { peer: peer.clone(), datagram: datagram.slice(1..) };
            // Where nobody has the time for copies, the streams must do.
            if shared.inbound.upgrade().is_some_and(|queue| queue.try_send(copies).is_err()) {
                metrics::counter!("nearfield_mesh_copies_dropped_total", "side" => "receiver").increment(1);
            }
        }
        kind => {
            trace!(?kind, "unknown datagram");
            unknown("datagram");
        }
    }
}

async fn uni(shared: Arc<Shared>, peer: Peer, mut recv: RecvStream) {
    match first_byte(&mut recv).await {
        Some(wire::STREAM_SPURT) if !may(&shared, &peer, Message::SpurtStream) => {
            let _ = recv.stop(code::DENIED);
        }
        Some(wire::STREAM_SPURT) => hand_on(&shared, Inbound::Spurt { peer, recv }).await,
        kind => refuse_stream(None, &mut recv, kind),
    }
}

async fn bi(shared: Arc<Shared>, peer: Peer, stream: (SendStream, RecvStream), requests: Arc<Semaphore>) {
    let (mut send, mut recv) = stream;
    match first_byte(&mut recv).await {
        Some(wire::STREAM_CONTROL) if !may(&shared, &peer, Message::ControlStream) => {
            let _ = (send.reset(code::DENIED), recv.stop(code::DENIED));
        }
        Some(wire::STREAM_CONTROL) => {
            // Closed already is found out by whoever writes to it.
            let _ = send.set_priority(stream::CONTROL);
            let (send, recv) = (MessageSender::new(send), MessageReceiver::new(recv));
            hand_on(&shared, Inbound::Control { peer, send, recv }).await;
        }
        Some(wire::STREAM_CERTIFICATE) => keyring::serve(&shared, send, recv).await,
        Some(wire::STREAM_REQUEST) => {
            request(&shared, peer, MessageSender::new(send), MessageReceiver::new(recv), &requests).await;
        }
        kind => refuse_stream(Some(&mut send), &mut recv, kind),
    }
}

async fn request(
    shared: &Shared,
    peer: Peer,
    mut send: MessageSender,
    mut recv: MessageReceiver,
    requests: &Arc<Semaphore>,
) {
    let Ok(permit) = requests.clone().try_acquire_owned() else {
        metrics::counter!("nearfield_mesh_requests_refused_total", "reason" => "busy").increment(1);
        return send.reset(code::BUSY);
    };
    match timeout(STREAM_DEADLINE, recv.recv()).await {
        Ok(Ok(Some(request))) => {
            let reply = Reply { send, _permit: permit };
            let kind = Message::of_request(&request, &shared.me.node);
            match check_role(kind, shared.me.role, peer.identity.role) {
                Ok(()) => hand_on(shared, Inbound::Request { peer, request: Box::new(request), reply }).await,
                Err(denied) => {
                    shared.denials.note(&peer.identity, &denied);
                    // The asker may have gone.
                    let _ = reply.send(Response::Refused { reason: denied.to_string() }).await;
                }
            }
        }
        outcome => {
            metrics::counter!("nearfield_mesh_requests_refused_total", "reason" => "malformed").increment(1);
            debug!(?outcome, "no request on a request stream");
            send.reset(code::MALFORMED);
            recv.stop(code::MALFORMED);
        }
    }
}

/// Whether any node of the peer's role may send this here; what it says beyond that is the program's to judge.
fn may(shared: &Shared, peer: &Peer, message: Message) -> bool {
    let denied = check_role(message, shared.me.role, peer.identity.role).err();
    denied.iter().for_each(|denied| shared.denials.note(&peer.identity, denied));
    denied.is_none()
}

/// The stream's type; `None` if it ended, broke or was late.
async fn first_byte(recv: &mut RecvStream) -> Option<u8> {
    let mut kind = [0];
    timeout(STREAM_DEADLINE, recv.read_exact(&mut kind)).await.ok()?.ok()?;
    Some(kind[0])
}

fn refuse_stream(send: Option<&mut SendStream>, recv: &mut RecvStream, kind: Option<u8>) {
    debug!(?kind, "stream refused");
    unknown("stream");
    let code: VarInt = if kind.is_some() { code::UNKNOWN_STREAM } else { code::MALFORMED };
    // Either may be closed already, which is as good.
    let _ = recv.stop(code);
    if let Some(send) = send {
        let _ = send.reset(code);
    }
}

/// Waits for room: a peer whose streams nobody takes runs out of stream credit, which is the bound.
async fn hand_on(shared: &Shared, inbound: Inbound) {
    let Some(queue) = shared.inbound.upgrade() else { return };
    if let Err(TrySendError::Full(inbound)) = queue.try_send(inbound) {
        metrics::counter!("nearfield_mesh_inbound_waits_total").increment(1);
        // A closed queue means that the node is going down.
        let _ = queue.send(inbound).await;
    }
}

fn unknown(carrier: &'static str) {
    metrics::counter!("nearfield_mesh_unknown_total", "carrier" => carrier).increment(1);
}
