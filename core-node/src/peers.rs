//! The mesh as the rest of this crate needs it, so that tests can stand in for it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use mesh::{
    identity::{Identity, NodeId, certs::Credentials},
    node::{Member, Node},
    wire::{
        Version,
        request::{Request, Response},
    },
};
use tokio::sync::watch;

/// The other nodes.
#[async_trait]
pub trait Mesh: Send + Sync {
    /// Who this node is.
    fn identity(&self) -> &Identity;

    /// What proves it, and signs for it.
    fn credentials(&self) -> Credentials;

    /// The live members, this node excluded.
    fn members(&self) -> watch::Receiver<Arc<Vec<Member>>>;

    /// The smoothed round trip to a node, if it is connected.
    fn rtt(&self, node: &NodeId) -> Option<Duration>;

    /// What a node and this one have agreed to speak; the oldest version if it cannot be reached.
    async fn wire(&self, node: &NodeId) -> Version;

    /// Asks a node.
    ///
    /// # Errors
    /// Why there is no answer, in words.
    async fn request(&self, node: &NodeId, request: &Request) -> Result<Response, String>;
}

#[async_trait]
impl Mesh for Node {
    fn identity(&self) -> &Identity {
        Node::identity(self)
    }

    fn credentials(&self) -> Credentials {
        Node::credentials(self)
    }

    fn members(&self) -> watch::Receiver<Arc<Vec<Member>>> {
        Node::members(self)
    }

    fn rtt(&self, node: &NodeId) -> Option<Duration> {
        Node::rtt(self, node)
    }

    async fn wire(&self, node: &NodeId) -> Version {
        self.peer(node).await.map_or(Version::V1, |peer| peer.wire())
    }

    async fn request(&self, node: &NodeId, request: &Request) -> Result<Response, String> {
        Node::request(self, node, request).await.map_err(|e| e.to_string())
    }
}
