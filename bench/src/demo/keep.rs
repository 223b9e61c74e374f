//! `--keep`: the mesh stays up, and its APIs are reachable from outside of the emulated world.

#![allow(clippy::disallowed_methods, reason = "a stand-in: no node goes on without its tasks")]

use std::net::SocketAddr;

use anyhow::Result;
use mesh::identity::Role;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::stage::RelayProcess;
use crate::{
    bed::{Bed, Running},
    world::Host,
};

/// Connections that wait to be taken into a host.
const BACKLOG: usize = 32;

/// Prints where everything can be reached, and stays; whoever hears Ctrl-C drops this.
///
/// # Errors
/// No local port can be had.
pub(super) async fn for_ever(bed: &Bed, relay: &RelayProcess, serving: SocketAddr, meeting: &str) -> Result<()> {
    println!("\nThe mesh stays up until Ctrl-C. From this machine:");
    for node in &bed.nodes {
        let at = forward(node.host.clone(), node.api).await?;
        println!("  {:<22} http://{at}{}", node.identity.node.as_str(), path(node, serving, meeting));
    }
    let at = forward(relay.host.clone(), relay.address).await?;
    println!("  {:<22} http://{at}/state", "relay");
    println!("  logs: {}", bed.dir().display());
    std::future::pending().await
}

/// What is worth a look on a node.
fn path(node: &Running, serving: SocketAddr, meeting: &str) -> String {
    match node.identity.role {
        Role::Core if node.api == serving => format!("/v1/meetings/{meeting}/transcript?format=txt"),
        Role::Core => "/v1/nodes".into(),
        Role::Edge | Role::Dns => "/metrics".into(),
    }
}

/// A port of this machine whose connections end up at `to`, as seen from `host`.
async fn forward(host: Host, to: SocketAddr) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    let (tx, mut rx) = mpsc::channel::<std::net::TcpStream>(BACKLOG);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = stream.into_std()
                && tx.send(stream).await.is_err()
            {
                return;
            }
        }
    });
    tokio::spawn(async move {
        let inside = host.run(move || async move {
            while let Some(stream) = rx.recv().await {
                tokio::spawn(async move {
                    let (mut outer, mut inner) = (TcpStream::from_std(stream)?, TcpStream::connect(to).await?);
                    tokio::io::copy_bidirectional(&mut outer, &mut inner).await
                });
            }
        });
        let _ = inside.await;
    });
    Ok(at)
}
