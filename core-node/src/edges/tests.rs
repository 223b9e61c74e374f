//! Spurts that nothing names, over connections as they are: an edge's node and a core's, on the loopback device.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use mesh::{
    identity::certs::{Authority, Credentials},
    membership,
    node::{Node, Settings},
    seeds,
    wire::{self, MeetingId, ParticipantAlias, SpurtNo, control::ToCore},
};

use super::*;
use crate::tests::fakes::{ALIAS, ALICE, Core, spurt_bytes};

const TIMEOUT: Duration = Duration::from_secs(20);
const HOUR: Duration = Duration::from_secs(3600);

async fn node(authority: &Authority, role: &str, seeds: Vec<String>) -> (Node, mpsc::Receiver<Inbound>) {
    let name = format!("spiffe://a.test/region/eu-central/role/{role}/node/{role}-a");
    let (cert, key) = authority.issue(&Identity::from_spiffe(&name, "a.test").unwrap(), HOUR).unwrap();
    let settings = Settings {
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: "127.0.0.1:0".parse().unwrap(),
        credentials: Credentials::from_pem(authority.ca_pem(), &cert, &key, "a.test").unwrap(),
        seeds: seeds::Settings { addresses: seeds, ..Default::default() },
        swim: membership::Settings::default(),
        software: "test".into(),
        tasks: Default::default(),
    };
    Node::start(settings).await.unwrap()
}

/// A core with one meeting, and an edge's connection to it.
struct Pair {
    core: Core,
    peer: Peer,
    meeting: MeetingId,
    _nodes: (Node, Node),
    _dir: tempfile::TempDir,
}

impl Pair {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut core = Core::start(&dir.path().join("core.redb"), false);
        let meeting = core.create().await;
        core.assigned().await;
        let authority = Authority::create("a.test", HOUR).unwrap();
        let (at_core, inbound) = node(&authority, "core", vec![]).await;
        let (at_edge, _) = node(&authority, "edge", vec![at_core.address().to_string()]).await;
        tokio::spawn(core.acceptor.clone().run(Arc::new(inbound.into())));
        let mut members = at_edge.members();
        timeout(TIMEOUT, members.wait_for(|m| !m.is_empty())).await.unwrap().unwrap();
        let peer = at_edge.peer(&at_core.identity().node).await.unwrap();
        Self { core, peer, meeting, _nodes: (at_core, at_edge), _dir: dir }
    }

    /// A control stream on which the meeting is open, and nobody in it known.
    async fn control(&self) -> (MessageSender, MessageReceiver) {
        let (mut send, recv) = self.peer.open_control().await.unwrap();
        send.send(&ToCore::Hello { software: "test".into() }).await.unwrap();
        let trace = mesh::trace::TraceContext::new(7);
        send.send(&ToCore::Open { alias: ALIAS, meeting: self.meeting, epoch: Epoch(1), trace }).await.unwrap();
        (send, recv)
    }

    /// A spurt of Alice's, all of it written before anything is heard of it.
    async fn spurt(&self) -> quinn::SendStream {
        let mut stream = self.peer.open_spurt().await.unwrap();
        stream.write_all(&[wire::STREAM_SPURT]).await.unwrap();
        stream.write_all(&spurt_bytes(0, 20, 0, false)).await.unwrap();
        stream.finish().unwrap();
        stream
    }
}

fn alice() -> ToCore {
    ToCore::Participant { alias: ALIAS, participant: ALICE, id: "p-alice".into(), name: None, unheard: None }
}

/// The next message but for those that every edge gets; `None` at the stream's end.
async fn next(recv: &mut MessageReceiver) -> Option<ToEdge> {
    loop {
        match timeout(TIMEOUT, recv.recv::<ToEdge>()).await.expect("a message, or the end").ok()?? {
            ToEdge::Hello { .. } | ToEdge::Standby { .. } | ToEdge::Durable { .. } => {}
            message => return Some(message),
        }
    }
}

#[tokio::test]
async fn a_spurt_that_nothing_names_ends_the_control_stream_and_is_taken_when_it_is_sent_again() {
    let pair = Pair::start().await;
    let (_send, mut recv) = pair.control().await;
    // The edge hears nothing of the stream itself: every byte of it is acknowledged.
    pair.spurt().await;
    assert_eq!(next(&mut recv).await, None, "the control stream ends");

    let (mut send, mut recv) = pair.control().await;
    pair.spurt().await;
    send.send(&alice()).await.unwrap();
    let done = ToEdge::Done { alias: ALIAS, participant: ALICE, spurt: SpurtNo(0) };
    assert_eq!(next(&mut recv).await, Some(done), "its row came in time");
    let segments = pair.core.meetings.store().segments(pair.meeting, 0).unwrap();
    assert_eq!(segments.len(), 1);
}

#[tokio::test]
async fn a_participant_that_was_not_taken_costs_nobody_else_the_connection() {
    let pair = Pair::start().await;
    let (mut send, mut recv) = pair.control().await;
    let row =
        |participant, id: String| ToCore::Participant { alias: ALIAS, participant, id, name: None, unheard: None };
    let others: Vec<ToCore> = (100..110).map(|n| row(ParticipantAlias(n), format!("p-{n}"))).collect();
    for others in &others {
        send.send(others).await.unwrap();
    }
    // The meeting is full.
    send.send(&alice()).await.unwrap();
    pair.spurt().await;
    let done = ToEdge::Done { alias: ALIAS, participant: ALICE, spurt: SpurtNo(0) };
    assert_eq!(next(&mut recv).await, Some(done), "the edge need not keep it");
    assert_eq!(pair.core.meetings.store().segments(pair.meeting, 0).unwrap().len(), 0);

    send.send(&ToCore::Beat { seq: 3 }).await.unwrap();
    assert!(matches!(next(&mut recv).await, Some(ToEdge::Beat { seq: 3, .. })), "the link goes on");
}
