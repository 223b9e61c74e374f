//! Where the demo plays: the world with its distances, the relay beside one region, the user in another.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use geo::{RegionId, latency::LatencyModel, map::RegionMap};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::process::Child;

use crate::{
    bed::Running,
    client::Client,
    janus, relay,
    world::{Host, Place, World, path::Quality},
};

/// Round trip from the relay to the nearest edge of its region, and the step to each edge after it.
const RELAY_RTT: (Duration, Duration) = (Duration::from_micros(1500), Duration::from_millis(4));
/// Jitter between regions: small and steady, as on the backbones the matrix was measured on.
const JITTER: Duration = Duration::from_micros(500);
/// Deadline for the relay to encode its voices and answer.
const RELAY_UP: Duration = Duration::from_secs(30);

/// A stand-in relay at work in a world.
#[derive(Debug)]
pub(crate) struct RelayProcess {
    /// Its host.
    pub(crate) host: Host,
    /// Its HTTP address.
    pub(crate) address: SocketAddr,
    _child: Child,
}

/// Lays the published round trips between `regions`.
///
/// # Errors
/// Two of the regions have no known distance.
pub(crate) fn lay_distances(world: &World, regions: &[RegionId]) -> Result<()> {
    let model = LatencyModel::new(RegionMap::built_in());
    for (n, a) in regions.iter().enumerate() {
        for b in &regions[n + 1..] {
            let latency = model.estimate(a, b).with_context(|| format!("no distance between {a} and {b}"))?;
            let quality = Quality { jitter: JITTER, ..Quality::round_trip(latency.rtt) };
            world.set_paths(a.clone(), b.clone(), quality);
        }
    }
    Ok(())
}

/// Opens relay `number` (from 1) in `region`, a little nearer to each edge of that region than to the
/// next; the name of the nearest.
///
/// # Errors
/// It cannot be started, or does not answer within 30 s.
pub(crate) async fn open_relay(
    world: &World,
    (region, number): (&RegionId, u8),
    plan: &relay::Plan,
    edges: &[&Running],
    dir: &Path,
) -> Result<(RelayProcess, String)> {
    let name = format!("relay-{number}");
    let host = world.host(&name, region, Ipv4Addr::new(10, 77, 2, number))?;
    let near: Vec<&&Running> = edges.iter().filter(|edge| edge.identity.region == *region).collect();
    for (rank, edge) in near.iter().enumerate() {
        let rtt = RELAY_RTT.0 + RELAY_RTT.1 * rank as u32;
        world.set_paths(Place::host(&name), Place::host(edge.identity.node.as_str()), Quality::round_trip(rtt));
    }
    let nearest = near.first().context("no edge in the relay's region")?.identity.node.to_string();
    let plan_file = dir.join(format!("{name}.json"));
    let address = SocketAddr::new(host.ip(), plan.listen.port());
    // Its Janus is on its own host.
    let janus = plan.janus.clone().map(|room| relay::room::Plan { url: janus::url(host.ip()), ..room });
    let plan = relay::Plan { listen: address, janus, ..plan.clone() };
    std::fs::write(&plan_file, serde_json::to_vec_pretty(&plan)?)?;
    let mut command = tokio::process::Command::from(host.command(std::env::current_exe()?));
    command.args(["relay", "--plan"]).arg(&plan_file).kill_on_drop(true);
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    command.stderr(std::fs::File::create(dir.join(format!("{name}.log")))?);
    let relay = RelayProcess { host, address, _child: command.spawn()? };
    relay.wait(&dir.join(format!("{name}.log"))).await?;
    Ok((relay, nearest))
}

impl RelayProcess {
    /// `GET path` from the relay, asked on its own host so that nobody else's line is used.
    ///
    /// # Errors
    /// It does not answer, or something else than expected.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, path: &'static str) -> Result<T> {
        let address = self.address;
        let answer = self.host.run(move || async move { Client::new(address)?.get(path).await }).await??;
        Ok(serde_json::from_value(answer)?)
    }

    /// Lets its script begin, where that is not up to the first subscriber.
    ///
    /// # Errors
    /// It does not answer.
    pub(crate) async fn begin(&self) -> Result<()> {
        let address = self.address;
        let begin = move || async move { Client::new(address)?.post("/start", &Value::Null).await };
        self.host.run(begin).await?.map(drop)
    }

    async fn wait(&self, log: &Path) -> Result<()> {
        let begun = std::time::Instant::now();
        while self.ask::<relay::State>("/state").await.is_err() {
            if begun.elapsed() > RELAY_UP {
                bail!("the relay did not answer within {RELAY_UP:?}; see {}", log.display());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }
}
