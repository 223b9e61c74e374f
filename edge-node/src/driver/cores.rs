//! The links that a meeting is on: to the core that serves it, and those that it watches.
#![allow(clippy::disallowed_methods, reason = "I/O shell")]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use mesh::{
    authorize::{Denied, Message, Why},
    identity::{Identity, NodeId},
    node::Peer,
    tasks::once,
    wire::{MeetingAlias, Term, control::ToCore},
};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    link::{LinkHandle, Links, Tagged},
    uplink::format::Origin,
};

/// A primary away so long may have been succeeded by one that this edge was never told of: the other cores are asked.
const ASK_AFTER: Duration = Duration::from_secs(4);

/// Who said it, who serves, and in which term.
type Found = (NodeId, NodeId, Term);

pub(super) struct Cores {
    links: Links,
    events: mpsc::Sender<Tagged>,
    open: BTreeMap<NodeId, (LinkHandle, Option<Peer>)>,
    pub(super) serving: NodeId,
    origin: Origin,
    /// Since when the primary's link is down, or when it was last asked about.
    down: Option<Instant>,
    asking: Option<JoinHandle<Option<(NodeId, Term)>>>,
}

impl Cores {
    pub(super) fn new(links: Links, events: mpsc::Sender<Tagged>, origin: Origin) -> Self {
        let (serving, down) = (origin.core.clone(), Some(Instant::now()));
        Self { links, events, open: BTreeMap::new(), serving, origin, down, asking: None }
    }

    pub(super) async fn watch(&mut self, core: NodeId) {
        let handle = self.links.join(&core, self.origin.key, self.events.clone()).await;
        self.open.insert(core, (handle, None));
    }

    pub(super) fn unwatch(&mut self, core: &NodeId) {
        self.open.remove(core);
    }

    /// Asks none of them to renew the lease any more.
    pub(super) async fn release(&self) {
        for (handle, _) in self.open.values() {
            handle.release().await;
        }
    }

    /// What the primary calls the meeting, and the connection to it.
    pub(super) fn serving(&mut self) -> (MeetingAlias, Option<Peer>) {
        let there = self.open.get(&self.serving);
        let (alias, peer) = there.map_or((MeetingAlias(0), None), |(handle, peer)| (handle.alias, peer.clone()));
        self.down = if peer.is_some() { None } else { self.down.or_else(|| Some(Instant::now())) };
        (alias, peer)
    }

    /// A core that may not have the meeting's speech was to be sent it.
    pub(super) fn handle_outside(&self, core: &Identity) {
        self.links.denials().note(core, &Denied { message: Message::CoreHello, why: Why::Residency });
    }

    /// The connection to `core`, if it knows the meeting as `alias` now.
    pub(super) fn peer_mut(&mut self, core: &NodeId, alias: MeetingAlias) -> Option<&mut Option<Peer>> {
        self.open.get_mut(core).filter(|(handle, _)| handle.alias == alias).map(|(_, peer)| peer)
    }

    pub(super) async fn send(&self, message: ToCore) {
        if let Some((handle, _)) = self.open.get(&self.serving) {
            handle.send(message).await;
        }
    }

    pub(super) async fn reset(&self, why: &'static str) {
        if let Some((handle, _)) = self.open.get(&self.serving) {
            handle.reset(why).await;
        }
    }

    /// Resolves when, the primary being away, another says who serves by now. Cancel-safe.
    pub(super) async fn found(&mut self) -> Found {
        loop {
            let Some(down) = self.down else { return std::future::pending().await };
            if self.asking.is_none() {
                tokio::time::sleep_until((down + ASK_AFTER).into()).await;
                let (links, meeting, key) = (self.links.clone(), self.origin.meeting, self.origin.key);
                let away = self.serving.clone();
                self.asking = Some(once("who serves", async move { links.who_serves(meeting, &key, &away).await }));
            }
            if let Some(asking) = &mut self.asking {
                let answer = asking.await.ok().flatten();
                self.asking = None;
                self.down = Some(Instant::now());
                if let Some((core, term)) = answer {
                    return (self.serving.clone(), core, term);
                }
            }
        }
    }
}
