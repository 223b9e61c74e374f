//! A nats-server in the emulated world, that keeps which core serves which meeting.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result};
use geo::RegionId;
use tokio::process::{Child, Command};

use crate::{bed::Manner, world::World};

const IP: Ipv4Addr = Ipv4Addr::new(10, 77, 4, 1);
const PORT: u16 = 4222;

/// What to do where there is none.
pub(super) const HOW: &str = "install it (Debian's package nats-server)";

/// Where it is, if it is installed. Where Debian puts it is not on everybody's path.
pub(super) fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    folders.map(|folder| folder.join("nats-server")).find(|program| program.is_file())
}

/// Starts it in `region`, with its data and log in `dir`. Dropped, it is killed.
pub(super) fn start(world: &World, region: &RegionId, dir: &Path) -> Result<Child> {
    let host = world.host("nats-1", region, IP)?;
    let log = fs::File::create(dir.join("nats-1.log"))?;
    let program = program().with_context(|| format!("no nats-server: {HOW}"))?;
    let mut command = Command::from(host.command(&program));
    command.args(["-js", "-a", &host.ip().to_string(), "-p", &PORT.to_string(), "-sd"]).arg(dir.join("nats"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
    command.spawn().context("nats-server cannot be started")
}

/// Has a core keep its claims there.
pub(super) fn under(manner: &mut Manner) {
    manner.sets.push("authority.kind=nats".into());
    manner.sets.push(format!("authority.servers=[\"nats://{IP}:{PORT}\"]"));
}
