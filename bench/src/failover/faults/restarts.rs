//! Nodes that are stopped in good order and come back.

use std::time::Duration;

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
        restart(stage, &node, &mut broken, say).await?;
    }
    note_end(stage, &mut broken, times);
    Ok(broken)
}

fn in_turn(stage: &Stage) -> Vec<NodeId> {
    [Role::Edge, Role::Core, Role::Dns].into_iter().flat_map(|role| stage.names(role)).collect()
}

/// SIGTERM of a node, and its return.
pub(super) async fn restart(stage: &mut Stage, node: &NodeId, broken: &mut Broken, say: &dyn Fn(&str)) -> Result<()> {
    let begun = now();
    let before = stage.bed.process(node);
    let status = stage.bed.terminate(node, DRAINED).await?;
    let drained = now().since(begun);
    broken.must(status.success(), || format!("{node} ended with {status}"));
    stage.bed.restart(node)?;
    let seen = stage.gathered(SEEN).await;
    say(&format!("SIGTERM {node}: drained in {drained:.1?}, seen by all again {seen:.1?} after its start"));
    broken.must(stage.bed.process(node) != before, || format!("{node} was not restarted"));
    broken.must(seen.is_some(), || format!("{node} was not seen by all within {SEEN:?} of its start"));
    broken.note(&format!("drained_ms {node}"), drained.as_millis() as u64);
    Ok(())
}

/// The meeting must still have been going on.
pub(super) fn note_end(stage: &Stage, broken: &mut Broken, times: Times) {
    let taken = now().since(stage.meeting().started);
    broken.note("restarts_done_ms", taken.as_millis() as u64);
    broken.must(taken < times.meeting, || format!("the meeting was over before the last node was back: {taken:?}"));
}
