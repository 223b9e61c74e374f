//! A mesh of real processes in a [`World`]: the bed that the demo and the end-to-end tests lie on.
#![allow(clippy::disallowed_methods, reason = "I/O shell")]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use cli::certs;
use geo::RegionId;
use mesh::identity::{Identity, NodeId, Role};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::Child;

use crate::{
    client::Client,
    engine,
    world::{self, Host, World},
};

/// The demo mesh's name.
pub const TRUST_DOMAIN: &str = "demo.nearfield.internal";
/// The zone that its geo-dns answers.
pub const DNS_DOMAIN: &str = "demo.nearfield.test";

/// Deadline for one process to stop after SIGTERM.
const STOP: Duration = Duration::from_secs(15);
/// Deadline for the whole mesh to see itself.
const GATHER: Duration = Duration::from_secs(40);

/// What to raise.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The regions, each with this many edges and cores.
    pub regions: Vec<(RegionId, usize, usize)>,
    /// Folder of the binaries `edge-node`, `core-node` and `geo-dns`.
    pub binaries: PathBuf,
    /// Model for the cores: a ggml file is Whisper's, a folder is Moonshine's.
    pub model: PathBuf,
    /// Folder for configuration, certificates, stores and logs.
    pub dir: PathBuf,
    /// Filter of the nodes' logs, as `tracing` reads it.
    pub log: String,
    /// Utterances that a core transcribes at a time.
    pub workers: usize,
    /// What is otherwise for some nodes, by name.
    pub manners: BTreeMap<String, Manner>,
}

/// How a node runs, where that is not as every node does.
#[derive(Debug, Clone, Default)]
pub struct Manner {
    /// Settings that override its file: `KEY=VALUE`.
    pub sets: Vec<String>,
    /// Variables of its environment.
    pub env: Vec<(String, String)>,
    /// Further arguments.
    pub args: Vec<String>,
    /// Where its log goes, if not to a file of its own.
    pub log: Option<PathBuf>,
    /// A folder that is a file system of so many bytes to it.
    pub disk: Option<(PathBuf, u64)>,
}

/// One node of the mesh.
#[derive(Debug)]
pub struct Running {
    /// Who it is.
    pub identity: Identity,
    /// Where it lives.
    pub host: Host,
    /// Its HTTP API: health and metrics, and the meetings' for cores.
    pub api: SocketAddr,
    /// Its QUIC address.
    pub mesh: SocketAddr,
    /// Its log.
    pub log: PathBuf,
    child: Child,
}

/// A running mesh. Dropping it kills what still runs.
#[derive(Debug)]
pub struct Bed {
    /// Its nodes, geo-dns first.
    pub nodes: Vec<Running>,
    plan: Plan,
}

impl Bed {
    /// Raises `plan` in `world` and waits until every core sees every other node and its report.
    ///
    /// # Errors
    /// A process cannot start, ends early, or the mesh does not gather within 40 s; the error shows the
    /// end of the log that explains it.
    pub async fn raise(world: &World, plan: Plan) -> Result<Self> {
        let identities = identities(&plan)?;
        let year = Duration::from_secs(24 * 3600);
        certs::issue(&plan.dir.join("certs"), TRUST_DOMAIN, year, &identities)?;
        let mut bed = Self { nodes: vec![], plan };
        let mut dns = None;
        for (number, identity) in identities.into_iter().enumerate() {
            let running = bed.start(world, number as u16, identity, dns)?;
            dns = dns.or(Some(SocketAddr::new(running.mesh.ip(), dns_port(world))));
            bed.nodes.push(running);
        }
        bed.gather().await?;
        Ok(bed)
    }

    /// The first node of `role` in `region`.
    ///
    /// # Panics
    /// The plan has none.
    pub fn node(&self, role: Role, region: &str) -> &Running {
        let wanted = |node: &&Running| node.identity.role == role && node.identity.region.as_str() == region;
        self.nodes.iter().find(wanted).expect("the plan has such a node")
    }

    /// The folder of its configuration, certificates, stores and logs.
    pub fn dir(&self) -> &std::path::Path {
        &self.plan.dir
    }

    /// The node called `id`.
    pub fn named(&self, id: &NodeId) -> Option<&Running> {
        self.nodes.iter().find(|node| &node.identity.node == id)
    }

    /// CPU seconds that `node`'s process has used, user and system.
    pub fn cpu_seconds(node: &Running) -> f64 {
        let ticks = || -> Option<u64> {
            let stat = fs::read_to_string(format!("/proc/{}/stat", node.child.id()?)).ok()?;
            let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
            Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
        };
        // USER_HZ is 100 on every Linux there is (proc(5)).
        ticks().unwrap_or(0) as f64 / 100.0
    }

    /// Kills the node called `id` with SIGKILL, as a crash would.
    ///
    /// # Errors
    /// There is no such node, or it had ended before.
    pub async fn kill(&mut self, id: &NodeId) -> Result<()> {
        let node = self.nodes.iter_mut().find(|node| &node.identity.node == id).context("no such node")?;
        Ok(node.child.kill().await?)
    }

    /// Starts the node called `id` again, with the store and certificate it had.
    ///
    /// # Errors
    /// There is no such node, or it cannot be started.
    pub fn restart(&mut self, id: &NodeId) -> Result<()> {
        let at = self.nodes.iter().position(|node| &node.identity.node == id).context("no such node")?;
        self.nodes[at].child = self.spawn(&self.nodes[at].host, &self.nodes[at].identity)?;
        Ok(())
    }

    /// Runs a command of the program of the node called `id`, with that node's configuration but for `sets`; what it says.
    ///
    /// # Errors
    /// There is no such node, or the command failed; with its reason.
    pub async fn tell(&self, id: &NodeId, sets: &[String], command: &[std::ffi::OsString]) -> Result<String> {
        let node = self.named(id).context("no such node")?;
        let mut asked =
            tokio::process::Command::from(node.host.command(self.plan.binaries.join(binary(node.identity.role))));
        asked.arg("--config").arg(self.plan.dir.join(format!("{id}.toml")));
        asked.args(sets.iter().flat_map(|set| ["--set", set])).args(command).kill_on_drop(true);
        let done = asked.stdin(Stdio::null()).output().await?;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if !done.status.success() {
            bail!("{command:?} of {id}: {}: {}", done.status, said(&done.stderr));
        }
        Ok(said(&done.stdout))
    }

    /// Sends a signal to the node called `id`.
    ///
    /// # Errors
    /// There is no such node, or it does not run.
    pub fn signal(&self, id: &NodeId, signal: Signal) -> Result<()> {
        let pid = self.named(id).and_then(|node| node.child.id()).with_context(|| format!("{id} does not run"))?;
        Ok(kill(Pid::from_raw(pid as i32), signal)?)
    }

    /// Stops the node called `id` with SIGTERM and waits until it has drained; how it ended.
    ///
    /// # Errors
    /// There is no such node, it did not run, or it went on for longer than `patience`.
    pub async fn terminate(&mut self, id: &NodeId, patience: Duration) -> Result<ExitStatus> {
        self.signal(id, Signal::SIGTERM)?;
        let node = self.nodes.iter_mut().find(|node| &node.identity.node == id).context("no such node")?;
        let ended = tokio::time::timeout(patience, node.child.wait()).await;
        Ok(ended.with_context(|| format!("{id} still runs {patience:?} after SIGTERM"))??)
    }

    /// How the node called `id` runs, where that is not as every node does.
    pub fn manner(&self, id: &NodeId) -> Manner {
        self.plan.manners.get(id.as_str()).cloned().unwrap_or_default()
    }

    /// The process of the node called `id`; none if it has ended.
    pub fn process(&self, id: &NodeId) -> Option<u32> {
        self.named(id)?.child.id()
    }

    /// Stops every node with SIGTERM, edges first, so that each drains; the exit codes that were not 0.
    pub async fn stop(&mut self) -> Vec<String> {
        let mut unclean = vec![];
        for role in [Role::Edge, Role::Core, Role::Dns] {
            let mut nodes: Vec<&mut Running> =
                self.nodes.iter_mut().filter(|node| node.identity.role == role).collect();
            for node in &nodes {
                if let Some(pid) = node.child.id() {
                    let _ = kill(Pid::from_raw(pid as i32), Signal::SIGTERM);
                }
            }
            for node in &mut nodes {
                match tokio::time::timeout(STOP, node.child.wait()).await {
                    Ok(Ok(status)) if status.success() => {}
                    Ok(Ok(status)) => unclean.push(format!("{}: {status}", node.identity.node)),
                    Ok(Err(error)) => unclean.push(format!("{}: {error}", node.identity.node)),
                    Err(_) => {
                        let _ = node.child.kill().await;
                        unclean.push(format!("{}: killed {STOP:?} after SIGTERM", node.identity.node));
                    }
                }
            }
        }
        unclean
    }

    fn start(&self, world: &World, number: u16, identity: Identity, dns: Option<SocketAddr>) -> Result<Running> {
        let name = identity.node.as_str().to_owned();
        let host = world.host(&name, &identity.region, Ipv4Addr::new(10, 77, 1, number as u8 + 1))?;
        let ports = if world.has_distances() { 0 } else { number * 10 };
        let mesh = SocketAddr::new(host.ip(), 4433 + ports);
        let api = SocketAddr::new(host.ip(), 8080 + ports);
        let config = self.plan.dir.join(format!("{name}.toml"));
        fs::write(&config, self.config(&identity, mesh, api, dns, dns_port(world)))?;
        let log = self.plan.dir.join(format!("{name}.log"));
        let child = self.spawn(&host, &identity)?;
        Ok(Running { identity, host, api, mesh, log, child })
    }

    /// Starts a node's program with the configuration written before; its log goes on where it was.
    fn spawn(&self, host: &Host, identity: &Identity) -> Result<Child> {
        let file = |ending: &str| self.plan.dir.join(format!("{}.{ending}", identity.node));
        let manner = self.manner(&identity.node);
        let log = manner.log.clone().unwrap_or_else(|| file("log"));
        let log = fs::OpenOptions::new().create(true).append(true).open(log)?;
        let binary = self.plan.binaries.join(binary(identity.role));
        let mut command = host.command(&binary);
        if let Some((dir, bytes)) = &manner.disk {
            fs::create_dir_all(dir)?;
            world::with_disk(&mut command, dir, *bytes)?;
        }
        let mut command = tokio::process::Command::from(command);
        command.arg("--config").arg(file("toml")).kill_on_drop(true);
        command.args(manner.sets.iter().flat_map(|set| ["--set", set])).args(&manner.args);
        command.envs(manner.env);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.spawn().with_context(|| format!("cannot start {}", binary.display()))
    }

    fn config(
        &self,
        identity: &Identity,
        mesh: SocketAddr,
        api: SocketAddr,
        dns: Option<SocketAddr>,
        dns_port: u16,
    ) -> String {
        let (dir, name) = (self.plan.dir.display(), &identity.node);
        let mut text = format!(
            "[node]\nid = \"{name}\"\nregion = \"{}\"\n\n[mesh]\nlisten = \"{mesh}\"\n{}\n\
             [tls]\nca = \"{dir}/certs/ca.pem\"\ncert = \"{dir}/certs/{name}.pem\"\nkey = \"{dir}/certs/{name}.key\"\ntrust_domain = \"{TRUST_DOMAIN}\"\n\n\
             [log]\nfilter = \"{}\"\n\n[http]\nlisten = \"{api}\"\n",
            identity.region,
            dns.map_or(String::new(), |dns| format!("dns_domain = \"{DNS_DOMAIN}\"\ndns_servers = [\"{dns}\"]\n")),
            self.plan.log,
        );
        // Writing to a String cannot fail.
        let _ = match identity.role {
            Role::Edge => write!(text, "\n[egress]\nallow = {:?}\n", world::ADDRESSES),
            Role::Core => write!(
                text,
                "\n[store]\npath = \"{dir}/{name}.redb\"\n{}",
                engine::configuration(&self.plan.model, self.plan.workers)
            ),
            Role::Dns => write!(
                text,
                "\n[dns]\nlisten = \"{0}:{dns_port}\"\ndomain = \"{DNS_DOMAIN}\"\nname_servers = [\"ns1={0}\"]\n",
                mesh.ip()
            ),
        };
        text
    }

    async fn gather(&mut self) -> Result<()> {
        let deadline = Instant::now() + GATHER;
        let expected = self.nodes.len();
        loop {
            self.check_alive()?;
            let mut seen = vec![];
            for core in self.nodes.iter().filter(|node| node.identity.role == Role::Core) {
                let api = core.api;
                let nodes = core.host.run(move || async move { Client::new(api)?.get("/v1/nodes").await }).await?;
                seen.push(nodes.map_or(0, |nodes| reporting(&nodes)));
            }
            if seen.iter().all(|count| *count >= expected) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "the mesh did not gather within {GATHER:?}: cores see {seen:?} of {expected} nodes; logs are in {}",
                    self.plan.dir.display()
                );
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn check_alive(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            if let Some(status) = node.child.try_wait()? {
                let log = fs::read_to_string(&node.log).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(12).collect();
                let tail: Vec<&str> = tail.into_iter().rev().collect();
                bail!(
                    "{} ended at once ({status}); the end of {}:\n{}",
                    node.identity.node,
                    node.log.display(),
                    tail.join("\n")
                );
            }
        }
        Ok(())
    }
}

/// The nodes of a list that are ready for work: an edge or core is once its first report is there.
fn reporting(list: &serde_json::Value) -> usize {
    let ready = |node: &&serde_json::Value| node["role"] == "dns" || !node["report"].is_null();
    list["nodes"].as_array().map_or(0, |nodes| nodes.iter().filter(ready).count())
}

fn identities(plan: &Plan) -> Result<Vec<Identity>> {
    let first = plan.regions.first().context("a mesh needs a region")?.0.clone();
    let mut all = vec![Identity { node: "dns-1".parse()?, role: Role::Dns, region: first }];
    for (region, edges, cores) in &plan.regions {
        for (role, count) in [(Role::Core, *cores), (Role::Edge, *edges)] {
            for number in 1..=count {
                let node = format!("{role}-{region}-{number}").parse()?;
                all.push(Identity { node, role, region: region.clone() });
            }
        }
    }
    Ok(all)
}

fn binary(role: Role) -> &'static str {
    match role {
        Role::Edge => "edge-node",
        Role::Core => "core-node",
        Role::Dns => "geo-dns",
    }
}

/// On loopback the port 53 is somebody else's.
fn dns_port(world: &World) -> u16 {
    if world.has_distances() { 53 } else { 5353 + 47 }
}
