//! Where a failover run plays: a mesh of three regions, and the meetings in it.
#![allow(clippy::disallowed_methods, reason = "a shell: it measures by the wall clock")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use mesh::{
    clock::Micros,
    identity::{NodeId, Role},
};
use serde_json::{Value, json};
use tokio::process::Child;

use super::{
    cores::{Ask, Cores},
    nats,
    reader::Reader,
    script::{self, MidWord},
};
use crate::{
    bed::{self, Bed, Running},
    client::Client,
    demo::{
        participant_id,
        stage::{RelayProcess, lay_distances, open_relay},
    },
    janus::{self, Janus},
    relay,
    speech::Script,
    world::World,
};

/// Where the meeting that is looked at takes place, its reader too.
pub(super) const HOME: &str = "eu-central";
/// Where another core is, and another meeting.
pub(super) const AWAY: &str = "eu-west";
/// Where there are edges only.
pub(super) const FAR: &str = "us-east";

/// All nodes of the mesh, as the bed names them.
pub(super) const NODES: [&str; 7] = [
    "dns-1",
    "core-eu-central-1",
    "edge-eu-central-1",
    "edge-eu-central-2",
    "core-eu-west-1",
    "edge-eu-west-1",
    "edge-us-east-1",
];

/// How long the whole mesh may take to see itself.
const GATHERED: Duration = Duration::from_secs(30);
/// Deadline for somebody to join the relay.
const JOINED: Duration = Duration::from_secs(20);
/// Deadline for the last words after the relay's last packet.
const LAST_WORDS: Duration = Duration::from_secs(60);
/// Between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(50);

/// A mesh at work.
pub(super) struct Stage {
    /// Its nodes.
    pub(super) bed: Bed,
    /// The meeting that is looked at, and others.
    pub(super) meetings: Vec<Meeting>,
    /// The authority that its cores share, if they do.
    nats: Option<Child>,
    /// What the emulated Internet does. Last, since dropping it kills what is left in it.
    pub(super) world: World,
}

/// A meeting under way.
pub(super) struct Meeting {
    /// Its path in the API.
    pub(super) path: String,
    /// What is said in it.
    pub(super) script: Script,
    /// When the script began.
    pub(super) started: Micros,
    /// Who says it.
    pub(super) relay: RelayProcess,
    /// Where that is, if it is not at the relay itself.
    _janus: Option<Janus>,
    /// Who serves it.
    pub(super) cores: Cores,
    /// Who reads it.
    pub(super) reader: Reader,
}

/// What to raise.
#[derive(Debug)]
pub(super) struct Wanted {
    /// The nodes' programs.
    pub(super) binaries: PathBuf,
    /// The speech model.
    pub(super) model: PathBuf,
    /// For configuration, stores, logs.
    pub(super) dir: PathBuf,
    /// The nodes' log filter.
    pub(super) log: String,
    /// What is otherwise for some nodes.
    pub(super) manners: BTreeMap<String, bed::Manner>,
    /// Whether there is a nats-server at home.
    pub(super) nats: bool,
    /// Its regions, each with so many edges and cores.
    pub(super) regions: Regions,
}

/// Regions, each with so many edges and cores.
pub(super) type Regions = &'static [(&'static str, usize, usize)];

/// Two edges and a core at home, one of each away, and an edge far away.
pub(super) const WIDE: Regions = &[(HOME, 2, 1), (AWAY, 1, 1), (FAR, 1, 0)];

/// The only core, and two edges that reach it.
pub(super) const ONE_CORE: Regions = &[(HOME, 2, 1)];

/// One edge and one core, and nobody else who could pass anything on.
pub(super) const PAIR: Regions = &[(HOME, 1, 1)];

impl Stage {
    /// Raises the mesh; each node sees all others.
    pub(super) async fn raise(world: World, wanted: Wanted) -> Result<Self> {
        lay_distances(&world, &[HOME.parse()?, AWAY.parse()?, FAR.parse()?])?;
        let Wanted { binaries, model, dir, log, manners, nats, regions } = wanted;
        let nats = nats.then(|| nats::start(&world, &HOME.parse()?, &dir)).transpose()?;
        let named = regions.iter().map(|(region, edges, cores)| Ok((region.parse()?, *edges, *cores)));
        let regions = named.collect::<Result<_>>()?;
        let plan = bed::Plan { regions, binaries, model, dir, log, workers: 1, manners };
        let stage = Self { bed: Bed::raise(&world, plan).await?, meetings: vec![], nats, world };
        ensure!(stage.gathered(GATHERED).await.is_some(), "not all nodes see all: {:?}", stage.views().await);
        Ok(stage)
    }

    /// Opens a meeting in `region` and waits until its script has begun.
    pub(super) async fn open(&mut self, region: &str, script: Script, redundancy: u8) -> Result<()> {
        self.open_as(region, script, |relay| request(relay, redundancy)).await
    }

    /// The same, asked for with this request.
    pub(super) async fn open_as(
        &mut self,
        region: &str,
        script: Script,
        request: impl FnOnce(&RelayProcess) -> Value,
    ) -> Result<()> {
        let relay = self.relay(region, &script, None).await?;
        let body = request(&relay);
        let meeting = self.meet(region, script, (relay, None), body).await?;
        self.begin(meeting).await
    }

    /// Opens a meeting in a room of a Janus that is beside the relay.
    pub(super) async fn open_at_janus(&mut self, region: &str, script: Script) -> Result<()> {
        // Where that is, is known with the relay's host.
        let room = relay::room::Plan { url: String::new(), room: "1234".into() };
        let relay = self.relay(region, &script, Some(room.clone())).await?;
        let manner = janus::Manner { string_ids: true, ..janus::Manner::default() };
        let janus = Janus::start(relay.host.clone(), self.bed.dir(), manner).await?;
        let body = json!({
            "source": {"kind": "janus", "url": janus.url(), "room": room.room},
            "transcription": {"language": "en", "interim": true},
        });
        let meeting = self.meet(region, script, (relay, Some(janus)), body).await?;
        meeting.becomes_active().await?;
        meeting.relay.begin().await?;
        self.begin(meeting).await
    }

    /// A relay at which nobody ever says anything.
    pub(super) async fn quiet_relay(&self) -> Result<RelayProcess> {
        self.relay_of(HOME, relay::Plan { start: relay::Start::Trigger, ..self.plan(&self.meeting().script, None)? })
            .await
    }

    async fn relay(&self, region: &str, script: &Script, janus: Option<relay::room::Plan>) -> Result<RelayProcess> {
        self.relay_of(region, self.plan(script, janus)?).await
    }

    fn plan(&self, script: &Script, janus: Option<relay::room::Plan>) -> Result<relay::Plan> {
        relay_plan(script, self.bed.dir(), self.meetings.len() as u8 + 1, janus)
    }

    async fn relay_of(&self, region: &str, plan: relay::Plan) -> Result<RelayProcess> {
        let number = self.meetings.len() as u8 + 1;
        let edges: Vec<&Running> = self.bed.nodes.iter().filter(|node| node.identity.role == Role::Edge).collect();
        Ok(open_relay(&self.world, (&region.parse()?, number), &plan, &edges, self.bed.dir()).await?.0)
    }

    /// A meeting at a relay, whose script is yet to begin.
    async fn meet(
        &self,
        region: &str,
        script: Script,
        (relay, janus): (RelayProcess, Option<Janus>),
        body: Value,
    ) -> Result<Meeting> {
        let number = self.meetings.len() as u8 + 1;
        let user = self.world.host(&format!("user-{number}"), &region.parse()?, Ipv4Addr::new(10, 77, 3, number))?;
        let near = self.bed.node(Role::Core, region).api;
        let apis = self.bed.nodes.iter().filter(|node| node.identity.role == Role::Core).map(|node| node.api);
        let apis: Vec<SocketAddr> = std::iter::once(near).chain(apis.filter(|api| *api != near)).collect();
        let cores = Cores { user: user.clone(), apis: apis.clone() };
        let created = cores.ask_one(near, Ask::Post("/v1/meetings".into(), body)).await?;
        let id = created["id"].as_str().context("the meeting has no id")?.to_owned();
        let reader = Reader::start(&user, apis, id.clone());
        let (path, started) = (format!("/v1/meetings/{id}"), Micros(0));
        Ok(Meeting { path, script, started, relay, _janus: janus, cores, reader })
    }

    async fn begin(&mut self, meeting: Meeting) -> Result<()> {
        let started = began(&meeting.relay).await?;
        self.meetings.push(Meeting { started, ..meeting });
        Ok(())
    }

    /// Whether the authority that the cores share, if they do, still runs.
    pub(super) fn has_authority(&mut self) -> bool {
        self.nats.as_mut().is_none_or(|nats| nats.try_wait().is_ok_and(|ended| ended.is_none()))
    }

    /// The meeting that is looked at.
    pub(super) fn meeting(&self) -> &Meeting {
        &self.meetings[0]
    }

    /// The core that serves the meeting that is looked at, and the edge in it.
    pub(super) async fn serving(&self) -> Result<(NodeId, NodeId)> {
        self.meeting().serving().await
    }

    /// How many other nodes each node sees, by its own metrics; nothing of those that do not answer.
    pub(super) async fn views(&self) -> BTreeMap<String, Option<usize>> {
        let members = self.gauges("nearfield_mesh_members").await;
        members.into_iter().map(|(node, seen)| (node, seen.map(|seen| seen as usize))).collect()
    }

    /// A metric of every node; nothing of those that do not answer.
    pub(super) async fn gauges(&self, name: &str) -> BTreeMap<String, Option<f64>> {
        let mut gauges = BTreeMap::new();
        for node in &self.bed.nodes {
            let api = node.api;
            let call = node.host.run(move || async move { Client::new(api)?.text("/metrics").await });
            let text = tokio::time::timeout(Duration::from_secs(2), call).await.ok().and_then(Result::ok);
            let value = text.and_then(Result::ok).and_then(|text| gauge(&text, name));
            gauges.insert(node.identity.node.to_string(), value);
        }
        gauges
    }

    /// Who is in it, in words.
    pub(super) fn census(&self) -> String {
        let count = |role| self.names(role).len();
        format!("{} cores, {} edges, geo-dns", count(Role::Core), count(Role::Edge))
    }

    /// What every node's `/readyz` answers but those that are ready; those that do not answer, too.
    pub(super) async fn unready(&self) -> BTreeMap<String, String> {
        let mut unready = BTreeMap::new();
        for node in &self.bed.nodes {
            let api = node.api;
            let call = node.host.run(move || async move { Client::new(api)?.text("/readyz").await });
            let answer = tokio::time::timeout(Duration::from_secs(2), call).await;
            let said = match answer {
                Ok(Ok(Ok(text))) if text.starts_with("ready") => continue,
                Ok(Ok(Ok(text))) => text,
                Ok(Ok(Err(error))) => error.to_string(),
                _ => "no answer".into(),
            };
            unready.insert(node.identity.node.to_string(), said);
        }
        unready
    }

    /// Whether every node sees every other.
    pub(super) async fn all_see_all(&self) -> bool {
        let others = self.bed.nodes.len() - 1;
        self.views().await.values().all(|view| *view == Some(others))
    }

    /// Waits until every node sees every other; how long that took, if it came to be within `patience`.
    pub(super) async fn gathered(&self, patience: Duration) -> Option<Duration> {
        let begun = Instant::now();
        while begun.elapsed() < patience {
            if self.all_see_all().await {
                return Some(begun.elapsed());
            }
            tokio::time::sleep(LOOK * 4).await;
        }
        None
    }

    /// The other nodes' names that are of `role`.
    pub(super) fn names(&self, role: Role) -> BTreeSet<NodeId> {
        let of = self.bed.nodes.iter().filter(|node| node.identity.role == role);
        of.map(|node| node.identity.node.clone()).collect()
    }
}

impl Meeting {
    /// How it stands, as the core sees it that serves it.
    pub(super) async fn view(&self) -> Result<Value> {
        self.cores.get(&self.path).await
    }

    /// The core that serves it, and the edge in it.
    pub(super) async fn serving(&self) -> Result<(NodeId, NodeId)> {
        let meeting = self.view().await?;
        let named = |value: &Value| value.as_str().context("nobody is named")?.parse().context("no node's name");
        Ok((named(&meeting["core"])?, named(&meeting["owner"]["edge"])?))
    }

    async fn becomes_active(&self) -> Result<()> {
        let begun = Instant::now();
        while self.view().await?["status"] != "active" {
            if begun.elapsed() > JOINED {
                bail!("no edge is in the meeting after {JOINED:?}");
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Waits for the middle of the first long word after `from` of the script; the word, and when it is.
    pub(super) async fn wait_for_word(&self, from: Duration) -> Result<MidWord> {
        let word = script::mid_word(&self.script, from).context("nobody speaks then")?;
        self.wait_until(word.middle()).await;
        Ok(word)
    }

    /// Waits for a moment of the script.
    pub(super) async fn wait_until(&self, moment: Duration) {
        let due = self.started.plus(moment);
        tokio::time::sleep(due.since(now())).await;
    }

    /// Waits until the relay has said all.
    pub(super) async fn falls_silent(&self) -> Result<()> {
        while !self.relay.ask::<relay::State>("/state").await?.finished {
            tokio::time::sleep(LOOK * 4).await;
        }
        Ok(())
    }

    /// Tells the meeting to end.
    pub(super) async fn end(&self) -> Result<()> {
        self.cores.ask(Ask::Delete(self.path.clone())).await.map(drop)
    }

    /// Waits until the relay has said all, tells the meeting to end, and waits for its last word. How it
    /// stood then, if it came to stand anywhere; a machine may be so many times as slow.
    pub(super) async fn ends(&self, patience: u32) -> Result<Option<Value>> {
        self.falls_silent().await?;
        let begun = Instant::now();
        let mut asked = false;
        while begun.elapsed() < LAST_WORDS * patience {
            asked = asked || self.end().await.is_ok();
            if let Ok(meeting) = self.view().await
                && ["done", "failed"].iter().any(|end| meeting["status"] == **end)
            {
                return Ok(Some(meeting));
            }
            tokio::time::sleep(LOOK * 4).await;
        }
        Ok(None)
    }
}

/// The wall clock, which relay, nodes and reader share.
pub(super) fn now() -> Micros {
    Micros::from_system(SystemTime::now())
}

/// A value in Prometheus' text format; all labels' together.
fn gauge(text: &str, name: &str) -> Option<f64> {
    let of = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.as_bytes().first()? {
            b' ' => rest,
            b'{' => rest.rsplit('}').next()?,
            _ => return None,
        };
        value.trim().parse::<f64>().ok()
    };
    text.lines().filter_map(of).reduce(|a, b| a + b)
}

async fn began(relay: &RelayProcess) -> Result<Micros> {
    let begun = Instant::now();
    loop {
        if let Some(started) = relay.ask::<relay::State>("/state").await?.started_at {
            return Ok(started);
        }
        if begun.elapsed() > JOINED {
            bail!("nobody joined the meeting within {JOINED:?}");
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn relay_plan(script: &Script, dir: &Path, number: u8, janus: Option<relay::room::Plan>) -> Result<relay::Plan> {
    let participants = (0..script.participants).map(|n| {
        let pcm = dir.join(format!("voice-{number}-{n}.pcm"));
        relay::write_pcm(&pcm, &script.track(n)).with_context(|| format!("cannot write {}", pcm.display()))?;
        Ok(relay::Participant { id: participant_id(n), name: format!("Speaker {n}"), pcm })
    });
    Ok(relay::Plan {
        listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7000),
        meeting: "m".into(),
        reply: relay::Reply::Offer,
        start: if janus.is_some() { relay::Start::Trigger } else { relay::Start::FirstSubscriber },
        settle_ms: 1000,
        bitrate: 32_000,
        dtx: false,
        janus,
        participants: participants.collect::<Result<_>>()?,
    })
}

/// A meeting at `relay`.
pub(super) fn request(relay: &RelayProcess, redundancy: u8) -> Value {
    let mut body = json!({
        "source": {"kind": "whep", "url": format!("http://{}/whep/m", relay.address)},
        "transcription": {"language": "en", "interim": true},
    });
    if redundancy > 1 {
        body["redundancy"] = redundancy.into();
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name_with_and_without_labels() {
        let text = "# TYPE a gauge\na 3\na_b 4\nc{x=\"1\"} 5\nc{x=\"2\"} 1.5\n";
        assert_eq!(gauge(text, "a"), Some(3.0));
        assert_eq!(gauge(text, "c"), Some(6.5));
        assert_eq!(gauge(text, "d"), None);
    }
}
