//! One control stream to each core, shared by every meeting that has to do with it.
//!
//! ```text
//!            dial, hello            stream or connection lost, or no beat answered
//! Dialling ─────────────▶ Up ───────────────────────────────────────────────────────▶ Dialling (after a back-off)
//! ```
//!
//! A meeting joins the link to the core that serves it, and to the standby, which it keeps warm so. Each hears
//! `Connected` and `Disconnected` and starts over with `Open` or `Serve` after each; the link itself remembers nothing of what
//! was said, only which meetings were opened: their leases it renews, with beats on the stream or, while the core does
//! not answer those, by way of other nodes (`relayed`).

#![allow(clippy::disallowed_methods, reason = "I/O shell")]

mod relayed;
mod task;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use mesh::{
    authorize::{self, Denials, Message as Kind, Relation, Residency},
    identity::{Identity, NodeId, Role},
    lease::Renewal,
    mandate::{EdgeKey, Proof, Statement},
    node::{Node, Peer},
    wire::{
        MeetingAlias, MeetingId, Term,
        control::{ToCore, ToEdge},
        request::{Request, Response},
    },
};
use tokio::{sync::mpsc, task::JoinSet};

use crate::meeting::Beat;

/// Commands waiting for a link; senders wait when it is full.
const COMMANDS: usize = 256;
/// Events of all its links waiting for one meeting. When it overflows the link starts over, so no acknowledgement is
/// lost for good: what is durable or done is said again.
pub(crate) const EVENTS: usize = 4096;

/// Cores asked who serves a meeting, at a time.
const MAX_ASKED: usize = 8;

/// What a meeting hears of one of its links.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// The control stream is up; everything said on an earlier one is forgotten.
    Connected(Peer),
    /// It is gone; another will come.
    Disconnected,
    /// The core spoke of this meeting, or to all of them.
    Message(ToEdge),
    /// The core answered a beat.
    Beat(Beat),
    /// The last beat is not answered yet.
    Unanswered {
        /// Datagrams have come from the core since.
        alive: bool,
        /// More is to be sent than the path lets pass.
        short: bool,
    },
    /// The core renewed the lease by way of another node.
    Renewed(Renewal),
    /// The core says by way of another node that this edge does not own the meeting any more.
    Lost,
}

/// An event, of which core and under which alias.
pub(crate) type Tagged = (NodeId, MeetingAlias, LinkEvent);

/// A meeting's end of a link. Dropping it takes the meeting off the link.
#[derive(Debug)]
pub(crate) struct LinkHandle {
    /// What the core calls this meeting on this link.
    pub(crate) alias: MeetingAlias,
    commands: mpsc::Sender<Command>,
}

/// The links of this node, by core. Cheap to clone.
#[derive(Clone)]
pub struct Links {
    node: Node,
    software: String,
    open: Arc<Mutex<BTreeMap<NodeId, Shared>>>,
    /// Where this edge's clock stood at 0.
    born: Instant,
}

#[derive(Debug)]
struct Shared {
    commands: mpsc::Sender<Command>,
    next_alias: u32,
}

#[derive(Debug)]
enum Command {
    Register(MeetingAlias, EdgeKey, mpsc::Sender<Tagged>),
    Unregister(MeetingAlias),
    Send(ToCore),
    Release(MeetingAlias),
    Reset(&'static str),
}

impl Links {
    /// No links yet.
    pub fn new(node: Node, software: String) -> Self {
        Self { node, software, open: Arc::default(), born: Instant::now() }
    }

    /// What other nodes tried that they may not.
    pub(crate) fn denials(&self) -> &Denials {
        self.node.denials()
    }

    /// A place for a meeting with this `key` on the link to `core`, which is dialled if there is none; what happens on it goes to `events`.
    pub(crate) async fn join(&self, core: &NodeId, key: EdgeKey, events: mpsc::Sender<Tagged>) -> LinkHandle {
        let (alias, commands) = self.shared(core);
        // A link task lives as long as its sender is in the table, so it is there to hear this.
        let _ = commands.send(Command::Register(alias, key, events)).await;
        LinkHandle { alias, commands }
    }

    /// Which core serves `meeting`, as far as any but `away` knows: the newest term told by one that proves by `key` that it has part
    /// in the meeting.
    pub(crate) async fn who_serves(&self, meeting: MeetingId, key: &EdgeKey, away: &NodeId) -> Option<(NodeId, Term)> {
        let members = self.node.members().borrow().clone();
        let others = members.iter().map(|m| &m.identity).filter(|i| i.role == Role::Core && i.node != *away);
        let mut asked = JoinSet::new();
        for core in others.take(MAX_ASKED).cloned() {
            let node = self.node.clone();
            asked.spawn(async move {
                let answer = node.request(&core.node, &Request::Serving { meeting }).await;
                (core, answer)
            });
        }
        let mut newest: Option<(NodeId, Term)> = None;
        while let Some(answer) = asked.join_next().await {
            if let Ok((by, Ok(Response::Serving { core, term, proof }))) = answer
                && self.is_believed(meeting, key, &by, (&core, term), &proof)
                && newest.as_ref().is_none_or(|(_, t)| term > *t)
            {
                newest = Some((core, term));
            }
        }
        newest
    }

    fn is_believed(
        &self,
        meeting: MeetingId,
        key: &EdgeKey,
        by: &Identity,
        (core, term): (&NodeId, Term),
        proof: &Proof,
    ) -> bool {
        let said = Statement::Serves { meeting, core, term, from: &by.node, to: &self.node.identity().node };
        let who = if key.proves(&said, proof) { Relation::Core } else { Relation::Nobody };
        let admitted = authorize::check(Kind::ServingAnswer, Role::Edge, by.role, who, Residency::Inside);
        admitted.inspect_err(|denied| self.denials().note(by, denied)).is_ok()
    }

    fn shared(&self, core: &NodeId) -> (MeetingAlias, mpsc::Sender<Command>) {
        let members = self.node.members().borrow().clone();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // A core that is gone for good is not dialled for ever: nobody else holds its sender.
        let is_wanted = |other: &NodeId, shared: &mut Shared| {
            other == core
                || shared.commands.strong_count() > 1
                || members.iter().any(|member| member.identity.node == *other)
        };
        open.retain(is_wanted);
        let shared = open.entry(core.clone()).or_insert_with(|| {
            let (commands, rx) = mpsc::channel(COMMANDS);
            let link = task::Link::new(self.node.clone(), self.software.clone(), core.clone(), self.born, rx);
            let link = Arc::new(tokio::sync::Mutex::new(link));
            self.node.tasks().keep("link", move || {
                let link = link.clone();
                async move { link.lock().await.run().await }
            });
            Shared { commands, next_alias: 0 }
        });
        shared.next_alias += 1;
        let joined = (MeetingAlias(shared.next_alias), shared.commands.clone());
        metrics::gauge!("nearfield_edge_table_rows", "table" => "links").set(open.len() as f64);
        joined
    }
}

impl LinkHandle {
    /// Says `message` on the control stream; it is dropped if there is none just now.
    pub(crate) async fn send(&self, message: ToCore) {
        let _ = self.commands.send(Command::Send(message)).await;
    }

    /// Has the meeting's lease renewed no more, on the stream or by way of others.
    pub(crate) async fn release(&self) {
        let _ = self.commands.send(Command::Release(self.alias)).await;
    }

    /// Has the link start over, because of `why`.
    pub(crate) async fn reset(&self, why: &'static str) {
        let _ = self.commands.send(Command::Reset(why)).await;
    }
}

impl Drop for LinkHandle {
    fn drop(&mut self) {
        // A full queue keeps the place until the meeting's event channel is found closed.
        let _ = self.commands.try_send(Command::Unregister(self.alias));
    }
}
