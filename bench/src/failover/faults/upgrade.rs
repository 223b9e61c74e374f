//! Nodes that are stopped in good order and come back, the same or newer.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Result;
use mesh::identity::{NodeId, Role};

use super::{Broken, Resumes, Stage, Times, now};

/// How long a node may take to drain.
const DRAINED: Duration = Duration::from_secs(60);
/// How long all may take to see a node that is back.
const SEEN: Duration = Duration::from_secs(15);

/// SIGTERM of every node in turn: edges, then cores, then DNS, each back before the next goes.
pub(super) async fn restart_all(stage: &mut Stage, times: Times, say: &dyn Fn(&str)) -> Result<Broken> {
    stage.meeting().wait_until(times.fault).await;
    let mut broken = Broken::new(now(), Resumes::LongestPause);
    for node in in_turn(stage) {
        restart(stage, &node, false, &mut broken, say).await?;
    }
    note_end(stage, &mut broken, times);
    Ok(broken)
}

/// Nodes that were raised in the previous version are restarted in this one, one after the other.
pub(super) async fn bring_up_to_date(stage: &mut Stage, times: Times, say: &dyn Fn(&str)) -> Result<Broken> {
    stage.meeting().wait_until(times.fault).await;
    let mut broken = Broken::new(now(), Resumes::LongestPause);
    let old: Vec<NodeId> = in_turn(stage).into_iter().filter(|node| OLD.contains(&node.as_str())).collect();
    let before = versions(stage).await?;
    broken.must(before.len() == 2, || format!("there are not two versions but {before:?}"));
    for node in old {
        restart(stage, &node, true, &mut broken, say).await?;
    }
    let begun = now();
    let mut after = versions(stage).await?;
    while after.len() > 1 && now().since(begun) < SEEN {
        tokio::time::sleep(Duration::from_millis(250)).await;
        after = versions(stage).await?;
    }
    broken.must(after.len() == 1, || format!("there is still not one version but {after:?}"));
    note_end(stage, &mut broken, times);
    Ok(broken)
}

/// The versions that nodes with work to do report, without the programs' names.
async fn versions(stage: &Stage) -> Result<BTreeSet<String>> {
    let nodes = stage.meeting().cores.get("/v1/nodes").await?;
    let software = nodes["nodes"].as_array().into_iter().flatten().filter_map(|n| n["report"]["software"].as_str());
    Ok(software.filter_map(|name| name.rsplit('/').next()).map(str::to_owned).collect())
}

/// The setting that makes a node behave as the release before.
pub(super) const PREVIOUS_WIRE: &str = "mesh.wire=1";
/// Which nodes begin in the previous version: at home an edge, away the core and the edge.
pub(super) const OLD: [&str; 3] = ["edge-eu-central-1", "core-eu-west-1", "edge-eu-west-1"];

fn in_turn(stage: &Stage) -> Vec<NodeId> {
    [Role::Edge, Role::Core, Role::Dns].into_iter().flat_map(|role| stage.names(role)).collect()
}

async fn restart(stage: &mut Stage, node: &NodeId, newer: bool, broken: &mut Broken, say: &dyn Fn(&str)) -> Result<()> {
    let begun = now();
    let before = stage.bed.process(node);
    let status = stage.bed.terminate(node, DRAINED).await?;
    let drained = now().since(begun);
    broken.must(status.success(), || format!("{node} ended with {status}"));
    if newer {
        let mut manner = stage.bed.manner(node);
        manner.binaries = None;
        manner.sets.retain(|set| set != PREVIOUS_WIRE);
        stage.bed.set_manner(node, manner);
    }
    stage.bed.restart(node)?;
    let seen = stage.gathered(SEEN).await;
    say(&format!("SIGTERM {node}: drained in {drained:.1?}, seen by all again {seen:.1?} after its start"));
    broken.must(stage.bed.process(node) != before, || format!("{node} was not restarted"));
    broken.must(seen.is_some(), || format!("{node} was not seen by all within {SEEN:?} of its start"));
    broken.note(&format!("drained_ms {node}"), drained.as_millis() as u64);
    Ok(())
}

/// The meeting must still have been going on.
fn note_end(stage: &Stage, broken: &mut Broken, times: Times) {
    let taken = now().since(stage.meeting().started);
    broken.note("restarts_done_ms", taken.as_millis() as u64);
    broken.must(taken < times.meeting, || format!("the meeting was over before the last node was back: {taken:?}"));
}
