//! What comes to a malicious node, which says yes to everything.

#![allow(clippy::disallowed_methods, reason = "a stand-in: no node goes on without its tasks")]

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use mesh::{
    identity::NodeId,
    mandate::Proof,
    node::{Inbound, Peer},
    stream::{MessageReceiver, MessageSender},
    wire::{
        Term,
        control::{ToCore, ToEdge},
        keys::Found,
        request::{Request, Response, Source},
    },
};
use tokio::sync::mpsc;

/// Counts of what it should never have.
#[derive(Debug, Default)]
pub(super) struct Ears {
    /// Streams and datagrams with speech.
    speech: AtomicU64,
    /// Ways into meetings, with their secrets.
    tokens: AtomicU64,
    /// Participants' rows.
    names: AtomicU64,
    /// Entries of meetings' records and transcripts.
    words: AtomicU64,
}

/// The same at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(super) struct Heard {
    pub(super) speech: u64,
    pub(super) tokens: u64,
    pub(super) names: u64,
    pub(super) words: u64,
}

impl Heard {
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            speech: self.speech - before.speech,
            tokens: self.tokens - before.tokens,
            names: self.names - before.names,
            words: self.words - before.words,
        }
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self {
            speech: self.speech + other.speech,
            tokens: self.tokens + other.tokens,
            names: self.names + other.names,
            words: self.words + other.words,
        }
    }

    /// What there is of each.
    pub(super) fn told(self) -> Vec<String> {
        let parts = [
            (self.speech, "pieces of speech"),
            (self.tokens, "tokens"),
            (self.names, "names"),
            (self.words, "entries"),
        ];
        parts.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect()
    }

    pub(super) fn all(self) -> u64 {
        self.speech + self.tokens + self.names + self.words
    }
}

impl Ears {
    pub(super) fn heard(&self) -> Heard {
        Heard {
            speech: self.speech.load(Relaxed),
            tokens: self.tokens.load(Relaxed),
            names: self.names.load(Relaxed),
            words: self.words.load(Relaxed),
        }
    }

    /// Listens as `me` for as long as the node runs.
    pub(super) async fn listen(self: Arc<Self>, me: NodeId, mut inbound: mpsc::Receiver<Inbound>) {
        while let Some(inbound) = inbound.recv().await {
            match inbound {
                Inbound::Request { peer, request, reply } => {
                    let _ = reply.send(self.answer(&me, &peer, *request)).await;
                }
                Inbound::Control { send, recv, .. } => drop(tokio::spawn(self.clone().control(send, recv))),
                Inbound::Spurt { .. } | Inbound::Copies { .. } => drop(self.speech.fetch_add(1, Relaxed)),
            }
        }
    }

    fn answer(&self, me: &NodeId, _: &Peer, request: Request) -> Response {
        match request {
            Request::Probe { .. } => Response::Probed { rtt_us: 1, answered: 5 },
            Request::Assign(assignment) => self.taken(&assignment.source),
            Request::Join(join) => self.taken(&join.assignment.source),
            Request::Replicate(replica) => {
                self.words.fetch_add(replica.entries.len() as u64, Relaxed);
                Response::Replicated { next: replica.first + replica.entries.len() as u64 }
            }
            Request::Serving { .. } => {
                Response::Serving { core: me.clone(), term: Term(1_000_000), proof: Proof::default() }
            }
            Request::Release { .. } => Response::Released,
            Request::Keys(asked) => Response::Keys(vec![Found::Nothing; asked.keys.len()]),
            Request::Remove { .. } => Response::Unknown,
            Request::Captures { .. } => Response::Captures(None),
            Request::Renew { .. } => Response::Renewed { lease_ms: 6000, leases: vec![] },
        }
    }

    fn taken(&self, source: &Source) -> Response {
        self.tokens.fetch_add(1, Relaxed);
        if let Source::Whep { participants, .. } = source {
            self.names.fetch_add(participants.len() as u64, Relaxed);
        }
        Response::Accepted
    }

    async fn control(self: Arc<Self>, mut send: MessageSender, mut recv: MessageReceiver) {
        while let Ok(Some(message)) = recv.recv::<ToCore>().await {
            let answer = match message {
                ToCore::Hello { .. } => ToEdge::Hello { software: "evil".into() },
                ToCore::Beat { seq } => ToEdge::Beat { seq, lease_ms: 6000 },
                ToCore::Participant { .. } => {
                    self.names.fetch_add(1, Relaxed);
                    continue;
                }
                _ => continue,
            };
            let _ = send.send(&answer).await;
        }
    }
}
