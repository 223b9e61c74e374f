//! Nodes that die or stall.

use std::time::Duration;

use anyhow::Result;
use mesh::identity::NodeId;
use nix::sys::signal::Signal;

use super::{Broken, Resumes, Stage, Times, now};
use crate::relay;

/// How long a core stays dead before it is started again: long enough for the meeting to be elsewhere.
const DEAD: Duration = Duration::from_secs(6);
/// Every node has as many tasks that are started again.
const FEWEST_TASKS: f64 = 6.0;
/// How long a stalled edge that wakes may take to leave the relay.
const FENCED: Duration = Duration::from_secs(2);

/// Kills the core that serves the meeting; it comes back later and finds the meeting gone.
pub(super) async fn kill_core(stage: &mut Stage, times: Times, say: &dyn Fn(&str)) -> Result<Broken> {
    let (core, edge) = stage.serving().await?;
    let word = stage.meeting().wait_for_word(times.fault).await?;
    let at = now();
    stage.bed.kill(&core).await?;
    say(&format!("kill -9 {core} in the middle of `{}`", word.word));
    let mut broken = Broken::in_word(at, Resumes::WithNewText, stage.meeting().started, &word);
    broken.must(stage.bed.process(&core).is_none(), || format!("{core} still runs"));
    tokio::time::sleep(DEAD).await;
    let moved = stage.serving().await;
    broken.must(moved.as_ref().is_ok_and(|(now, _)| *now != core), || format!("nobody took over from {core}"));
    broken.note("from", core.to_string());
    broken.note("to", moved.as_ref().map_or_else(|_| "nobody".into(), |(to, _)| to.to_string()));
    broken.note("edge", edge.to_string());
    say(&format!("{core} is started again"));
    stage.bed.restart(&core)?;
    Ok(broken)
}

/// Kills the edge in the meeting.
pub(super) async fn kill_edge(stage: &mut Stage, times: Times, say: &dyn Fn(&str)) -> Result<Broken> {
    let (_, edge) = stage.serving().await?;
    let word = stage.meeting().wait_for_word(times.fault).await?;
    let at = now();
    stage.bed.kill(&edge).await?;
    say(&format!("kill -9 {edge} in the middle of `{}`", word.word));
    let mut broken = Broken::in_word(at, Resumes::WithNewSpeech, stage.meeting().started, &word);
    broken.must(stage.bed.process(&edge).is_none(), || format!("{edge} still runs"));
    broken.note("from", edge.to_string());
    tokio::time::sleep(DEAD).await;
    note_new_edge(stage, &mut broken, edge.as_str()).await;
    Ok(broken)
}

/// Kills the edge in the meeting, while no node can write its log.
pub(super) async fn kill_edge_without_logs(stage: &mut Stage, times: Times, say: &dyn Fn(&str)) -> Result<Broken> {
    let mut broken = kill_edge(stage, times, say).await?;
    let lost = stage.gauges("nearfield_log_lines_lost_total").await;
    let silent = |(node, lines): (&String, &Option<f64>)| lines.is_none_or(|n| n == 0.0).then(|| node.clone());
    // The dead edge answers nothing.
    let silent: Vec<String> = lost.iter().filter_map(silent).filter(|node| broken.detail["from"] != **node).collect();
    broken.must(silent.is_empty(), || format!("no lost line was counted by {silent:?}"));
    Ok(broken)
}

/// Has each task break of the core that serves, then of the edge, then of all others at once.
pub(super) async fn break_tasks(stage: &mut Stage, times: Times, say: &dyn Fn(&str)) -> Result<Broken> {
    let (core, edge) = stage.serving().await?;
    stage.meeting().wait_until(times.fault).await;
    let mut broken = Broken::new(now(), Resumes::LongestPause);
    let nodes: Vec<NodeId> = stage.bed.nodes.iter().map(|node| node.identity.node.clone()).collect();
    let processes = |stage: &Stage| nodes.iter().map(|node| stage.bed.process(node)).collect::<Vec<_>>();
    let before = processes(stage);
    let others: Vec<NodeId> = nodes.iter().filter(|node| **node != core && **node != edge).cloned().collect();
    for turn in [vec![core], vec![edge], others] {
        for node in &turn {
            stage.bed.signal(node, Signal::SIGUSR1)?;
        }
        say(&format!("the tasks of {} nodes break in turn", turn.len()));
        tokio::time::sleep(times.outage / 3).await;
    }
    let panics = stage.gauges("nearfield_task_panics_total").await;
    for (node, count) in &panics {
        broken.must(count.is_some_and(|count| count >= FEWEST_TASKS), || format!("{node} had {count:?} panics"));
        broken.note(&format!("panics {node}"), *count);
    }
    let unready = stage.unready().await;
    broken.must(unready.is_empty(), || format!("not ready: {unready:?}"));
    broken.must(before == processes(stage), || "a process has ended".into());
    broken.must(stage.all_see_all().await, || "not all nodes see all".into());
    Ok(broken)
}

/// Kills one of the two edges in the meeting: the one that is named as its owner.
pub(super) async fn kill_one_of_two_edges(stage: &mut Stage, times: Times, say: &dyn Fn(&str)) -> Result<Broken> {
    let (_, edge) = stage.serving().await?;
    stage.meeting().wait_until(times.fault.saturating_sub(Duration::from_secs(1))).await;
    let state: relay::State = stage.meeting().relay.ask("/state").await?;
    let word = stage.meeting().wait_for_word(times.fault).await?;
    let at = now();
    stage.bed.kill(&edge).await?;
    say(&format!("kill -9 {edge}, one of {} edges, in the middle of `{}`", state.subscribers, word.word));
    let mut broken = Broken::in_word(at, Resumes::WithNewSpeech, stage.meeting().started, &word);
    broken.must(state.subscribers == 2, || format!("{} edges were in the meeting, not 2", state.subscribers));
    broken.must(stage.bed.process(&edge).is_none(), || format!("{edge} still runs"));
    broken.note("from", edge.to_string());
    Ok(broken)
}

/// Stops the edge's process for a while.
pub(super) async fn stall(stage: &mut Stage, times: Times, say: &dyn Fn(&str)) -> Result<Broken> {
    let (_, edge) = stage.serving().await?;
    let word = stage.meeting().wait_for_word(times.fault).await?;
    let at = now();
    stage.bed.signal(&edge, Signal::SIGSTOP)?;
    say(&format!("SIGSTOP {edge} in the middle of `{}`", word.word));
    let mut broken = Broken::in_word(at, Resumes::WithNewSpeech, stage.meeting().started, &word);
    tokio::time::sleep(times.outage).await;
    let stopped = stage.bed.process(&edge).is_some_and(is_stopped);
    broken.must(stopped, || format!("{edge} did not stop"));
    note_new_edge(stage, &mut broken, edge.as_str()).await;
    let woken = now();
    stage.bed.signal(&edge, Signal::SIGCONT)?;
    say(&format!("SIGCONT {edge}"));
    tokio::time::sleep(FENCED).await;
    let state: relay::State = stage.meeting().relay.ask("/state").await?;
    broken.must(state.subscribers == 1, || format!("{FENCED:?} after it woke, {} edges are in", state.subscribers));
    // The relay may have given it up for lost while it stalled.
    let left = state.left.iter().find(|left| **left > at).map(|left| left.since(woken).as_millis() as u64);
    broken.note("left_after_waking_ms", left);
    broken.must(stage.bed.process(&edge).is_some(), || format!("{edge} is dead"));
    Ok(broken)
}

async fn note_new_edge(stage: &Stage, broken: &mut Broken, old: &str) {
    let meeting = stage.meeting().view().await.unwrap_or_default();
    let edge = meeting["owner"]["edge"].as_str().unwrap_or("nobody").to_owned();
    broken.must(edge != old && edge != "nobody", || format!("{old} was not replaced: {edge}"));
    broken.note("to", edge);
}

/// By proc_pid_stat(5): the state after the name in parentheses.
fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
}
