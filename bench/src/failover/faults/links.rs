//! Links that break or lose.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use geo::{RegionId, latency::LatencyModel, map::RegionMap};
use mesh::identity::{NodeId, Role};

use super::{Broken, Resumes, Stage, Times, now};
use crate::{
    failover::stage::{AWAY, FAR, HOME},
    world::{
        Place,
        path::{Bottleneck, Bursts, Quality},
    },
};

/// Within which everybody must see everybody again.
const HEALED: Duration = Duration::from_secs(30);
/// Within which a meeting must be active again.
const ACTIVE: Duration = Duration::from_secs(5);
/// Bursts that lose everything, together a fifth of the time.
const BURST: Bursts = Bursts { apart: Duration::from_millis(240), length: Duration::from_millis(60), loss: 1.0 };
/// A link that lets less pass than one who speaks sends, with a queue of a second before it.
const NARROW: Bottleneck = Bottleneck { rate: 24_000, queue: 3000 };

fn host(node: &NodeId) -> Place {
    Place::host(node.as_str())
}

/// Cuts the edge off from every core, but not from the relay and the other edges.
pub(super) async fn cut(stage: &mut Stage, times: Times, say: &dyn Fn(&str)) -> Result<Broken> {
    let (core, edge) = stage.serving().await?;
    let word = stage.meeting().wait_for_word(times.fault).await?;
    let at = now();
    let cores = stage.names(Role::Core);
    cores.iter().for_each(|core| stage.world.partition(host(&edge), host(core)));
    say(&format!("{edge} reaches no core, from the middle of `{}` on", word.word));
    let mut broken = Broken::in_word(at, Resumes::WithNewSpeech, stage.meeting().started, &word);
    tokio::time::sleep(times.outage.mul_f64(0.9)).await;
    let spilled = spilled(stage, &edge).await;
    broken.must(spilled.is_some_and(|bytes| bytes > 0), || "nothing was spilled to disk".into());
    broken.note("spilled_bytes", spilled);
    tokio::time::sleep(times.outage.mul_f64(0.1)).await;
    let lost = dropped(stage, |from, to| from == edge.as_str() && cores.iter().any(|core| core.as_str() == to));
    cores.iter().for_each(|core| stage.world.heal(host(&edge), host(core)));
    say("the cut is healed");
    broken.must(lost > 0, || "no packet met the cut".into());
    let now = stage.serving().await?;
    broken.must(now.1 == edge, || format!("{edge} was replaced by {}", now.1));
    broken.note("cores", vec![core.to_string(), now.0.to_string()]);
    Ok(broken)
}

/// Cuts the only edge off from the only core, for longer than a lease and shorter than the edge listens without one.
pub(super) async fn cut_pair(stage: &mut Stage, times: Times, say: &dyn Fn(&str)) -> Result<Broken> {
    let (edge, broken) = cut_off(stage, times, say).await?;
    tokio::time::sleep(times.outage).await;
    heal(stage, &edge, say);
    is_active_again(stage, &edge, broken).await
}

/// The same, until the edge's disk is full.
pub(super) async fn fill_disk(stage: &mut Stage, times: Times, say: &dyn Fn(&str)) -> Result<Broken> {
    let (edge, mut broken) = cut_off(stage, times, say).await?;
    tokio::time::sleep(times.outage).await;
    let all = stage.gauges("nearfield_edge_spill_failures_total").await;
    let failures = all.get(edge.as_str()).copied().flatten();
    broken.must(failures.is_some_and(|failures| failures > 0.0), || "the disk was never full".into());
    broken.note("spill_failures", failures);
    broken.note("spilled_bytes", spilled(stage, &edge).await);
    heal(stage, &edge, say);
    is_active_again(stage, &edge, broken).await
}

/// Cuts the edge off from the only core, but not from the other edges, by way of which it renews its lease.
pub(super) async fn part(stage: &mut Stage, times: Times, say: &dyn Fn(&str)) -> Result<Broken> {
    let (edge, mut broken) = cut_off(stage, times, say).await?;
    tokio::time::sleep(times.outage.mul_f64(0.9)).await;
    let meeting = stage.meeting().view().await?;
    let to = meeting["owner"]["edge"].as_str().unwrap_or("nobody").to_owned();
    broken.must(to != edge.as_str(), || format!("the meeting stayed with {edge}, which cannot be heard"));
    broken.must(meeting["status"] == "active", || format!("the meeting is {}", meeting["status"]));
    broken.note("to", to);
    tokio::time::sleep(times.outage.mul_f64(0.1)).await;
    heal(stage, &edge, say);
    let told = stage.gauges("nearfield_core_edges_detoured_total").await.values().flatten().sum::<f64>();
    broken.must(told > 0.0, || "no core told of it".into());
    Ok(broken)
}

async fn cut_off(stage: &Stage, times: Times, say: &dyn Fn(&str)) -> Result<(NodeId, Broken)> {
    let (_, edge) = stage.serving().await?;
    let word = stage.meeting().wait_for_word(times.fault).await?;
    let at = now();
    for core in stage.names(Role::Core) {
        stage.world.partition(host(&edge), host(&core));
    }
    say(&format!("{edge} reaches no core, from the middle of `{}` on", word.word));
    Ok((edge, Broken::in_word(at, Resumes::WithNewSpeech, stage.meeting().started, &word)))
}

fn heal(stage: &Stage, edge: &NodeId, say: &dyn Fn(&str)) {
    stage.names(Role::Core).iter().for_each(|core| stage.world.heal(host(edge), host(core)));
    say("the cut is healed");
}

/// Soon after the cut the meeting is what it was before.
async fn is_active_again(stage: &Stage, edge: &NodeId, mut broken: Broken) -> Result<Broken> {
    let healed = Instant::now();
    let mut meeting = stage.meeting().view().await?;
    while meeting["status"] != "active" && healed.elapsed() < ACTIVE {
        tokio::time::sleep(Duration::from_millis(200)).await;
        meeting = stage.meeting().view().await?;
    }
    broken.must(meeting["status"] == "active", || format!("{ACTIVE:?} after the cut it is {}", meeting["status"]));
    broken.must(meeting["owner"]["edge"] == edge.as_str(), || format!("its edge is {}", meeting["owner"]["edge"]));
    broken.note("active_ms", healed.elapsed().as_millis() as u64);
    Ok(broken)
}

/// Cuts the edge off from every core; the last is said, and the meeting ended, before it is healed.
pub(super) async fn end_in_cut(stage: &mut Stage, times: Times, say: &dyn Fn(&str)) -> Result<Broken> {
    let (_, edge) = stage.serving().await?;
    stage.meeting().wait_until(times.fault).await;
    let (at, begun) = (now(), Instant::now());
    let cores = stage.names(Role::Core);
    cores.iter().for_each(|core| stage.world.partition(host(&edge), host(core)));
    say(&format!("{edge} reaches no core"));
    let mut broken = Broken::new(at, Resumes::LongestPause);
    stage.meeting().falls_silent().await?;
    stage.meeting().end().await?;
    say("all is said, and the meeting is told to end");
    tokio::time::sleep(times.outage.saturating_sub(begun.elapsed())).await;
    let status = stage.meeting().view().await?["status"].clone();
    broken.must(status == "finishing", || format!("the meeting did not wait for its edge: it is {status}"));
    cores.iter().for_each(|core| stage.world.heal(host(&edge), host(core)));
    say("the cut is healed");
    Ok(broken)
}

/// Cuts the meeting's region off from all others.
pub(super) async fn isolate(stage: &mut Stage, times: Times, say: &dyn Fn(&str)) -> Result<Broken> {
    let home: RegionId = HOME.parse()?;
    let others = [AWAY, FAR].map(|region| region.parse::<RegionId>());
    stage.meeting().wait_until(times.fault).await;
    let at = now();
    for other in others.iter().flatten() {
        stage.world.partition(&home, other);
    }
    say(&format!("{HOME} is cut off"));
    let mut broken = Broken::new(at, Resumes::LongestPause);
    tokio::time::sleep(times.outage).await;
    let views = stage.views().await;
    let others_left = stage.bed.nodes.len() - 1;
    let parted = views.values().flatten().filter(|seen| **seen < others_left).count();
    for other in others.iter().flatten() {
        stage.world.heal(&home, other);
    }
    say(&format!("{HOME} is back; {parted} nodes had missed others"));
    broken.must(parted == stage.bed.nodes.len() || times.outage < HEALED, || format!("nobody noticed: {views:?}"));
    let healed = stage.gathered(HEALED).await;
    let views = stage.views().await;
    broken.must(healed.is_some(), || format!("{HEALED:?} after healing not all see all: {views:?}"));
    broken.note("heal_ms", healed.map(|healed| healed.as_millis() as u64));
    Ok(broken)
}

/// Loses a fifth of what the edge sends to the cores, in bursts.
pub(super) async fn lose_in_bursts(stage: &mut Stage, times: Times, say: &dyn Fn(&str)) -> Result<Broken> {
    let (core, edge) = stage.serving().await?;
    let before = stage.meeting().view().await?;
    stage.meeting().wait_until(times.fault).await;
    let at = now();
    set_uplink(stage, &edge, Some(BURST), None)?;
    say(&format!("a fifth of what {edge} sends to the cores is lost, in bursts of 60 ms"));
    let mut broken = Broken::new(at, Resumes::LongestPause);
    let mut dips = 0;
    let begun = Instant::now();
    while begun.elapsed() < times.outage {
        tokio::time::sleep(Duration::from_secs(2)).await;
        dips += usize::from(!stage.all_see_all().await);
    }
    let lost = dropped(stage, |from, to| from == edge.as_str() && to == core.as_str());
    set_uplink(stage, &edge, None, None)?;
    say(&format!("the loss is over: {lost} packets lost"));
    broken.must(lost > 0, || "no packet was lost".into());
    broken.must(dips == 0, || format!("{dips} times somebody did not see everybody"));
    let after = stage.meeting().view().await?;
    broken.must(before["owner"] == after["owner"], || format!("moved to {}", after["owner"]));
    broken.note("packets_lost_in_bursts", lost);
    broken.note("core_after", after["core"].clone());
    Ok(broken)
}

/// Lets less pass from the edge to the cores than is said.
pub(super) async fn narrow(stage: &mut Stage, times: Times, say: &dyn Fn(&str)) -> Result<Broken> {
    let (_, edge) = stage.serving().await?;
    let before = stage.meeting().view().await?;
    stage.meeting().wait_until(times.fault).await;
    set_uplink(stage, &edge, None, Some(NARROW))?;
    say(&format!("{edge} reaches the cores by links of {} kb/s", NARROW.rate / 1000));
    let mut broken = Broken::new(now(), Resumes::LongestPause);
    tokio::time::sleep(times.outage).await;
    let steps = stage.gauges("nearfield_edge_uplink_steps_total").await.get(edge.as_str()).copied().flatten();
    set_uplink(stage, &edge, None, None)?;
    say("the links are wide again");
    broken.must(steps.is_some_and(|steps| steps > 0.0), || "the edge took no step".into());
    let after = stage.meeting().view().await?;
    broken.must(before["owner"] == after["owner"], || format!("moved to {}", after["owner"]));
    broken.note("steps", steps);
    broken.note("core_after", after["core"].clone());
    Ok(broken)
}

/// The edge's way to each core: as it was laid, with or without bursts and a bottleneck.
fn set_uplink(stage: &Stage, edge: &NodeId, bursts: Option<Bursts>, bottleneck: Option<Bottleneck>) -> Result<()> {
    let model = LatencyModel::new(RegionMap::built_in());
    let region = stage.bed.named(edge).context("no such edge")?.identity.region.clone();
    for core in stage.bed.nodes.iter().filter(|node| node.identity.role == Role::Core) {
        let to = &core.identity.region;
        let delay = match region == *to {
            true => crate::world::WITHIN_A_REGION,
            false => model.estimate(&region, to).with_context(|| format!("{region} to {to}"))?.rtt / 2,
        };
        let (bursts, bottleneck) = (bursts.clone(), bottleneck.clone());
        let quality = Quality { bursts, bottleneck, ..Quality::delayed(delay) };
        stage.world.set_path(host(edge), host(&core.identity.node), quality);
    }
    Ok(())
}

/// Packets dropped so far on paths whose ends are `of`, and all that cuts have dropped.
fn dropped(stage: &Stage, of: impl Fn(&str, &str) -> bool) -> u64 {
    let (paths, _) = stage.world.report();
    let own = |path: &crate::world::PathReport| of(&path.from, &path.to);
    paths.iter().map(|path| path.counters.cut + if own(path) { path.counters.dropped() } else { 0 }).sum()
}

/// Bytes that the edge has written to disk.
async fn spilled(stage: &Stage, edge: &NodeId) -> Option<u64> {
    let all = stage.gauges("nearfield_edge_spilled_bytes_total").await;
    all.get(edge.as_str())?.map(|bytes| bytes as u64)
}
