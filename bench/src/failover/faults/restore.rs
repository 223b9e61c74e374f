//! A core that comes back with an older copy of its store.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use mesh::identity::NodeId;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Broken, Resumes, Stage, Times, now};
use crate::{failover::stage::Meeting, relay};

/// For a standby, and for a meeting's last words, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Within which all that comes of the older copy has come.
const SETTLED: Duration = Duration::from_secs(8);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// Copies the store of the core that serves two meetings, lets one of them end and the other go on, kills the core, puts the copy in
/// its store's place and starts it again.
pub(super) async fn put_back(stage: &mut Stage, times: Times, say: &dyn Fn(&str)) -> Result<Broken> {
    let (core, _) = stage.serving().await?;
    for meeting in &stage.meetings {
        comes_to(meeting, "a standby", |view| !view["standby"].is_null()).await?;
    }
    stage.meeting().wait_until(times.fault).await;
    let copy = back_up(stage, &core).await?;
    say(&format!("{core} is backed up while it serves two meetings"));

    let brief = &stage.meetings[1];
    brief.falls_silent().await?;
    brief.end().await?;
    comes_to(brief, "its end", |view| view["status"] == "done").await?;
    let (words, entered) = (words(brief).await?, brief.relay.ask::<relay::State>("/state").await?.joined.len());
    say(&format!("the other meeting has ended, with {} finals", words.len()));

    let since = now().since(stage.meeting().started) + Duration::from_secs(1);
    let word = stage.meeting().wait_for_word(since).await?;
    let at = now();
    stage.bed.kill(&core).await?;
    let told = stage.bed.tell(&core, &[], &["restore".into(), copy.into()]).await?;
    stage.bed.restart(&core)?;
    say(&format!("kill -9 {core} in the middle of `{}`; restored: {told}", word.word));
    let mut broken = Broken::in_word(at, Resumes::WithNewText, stage.meeting().started, &word);
    let seen = stage.gathered(PATIENCE).await;
    broken.must(seen.is_some(), || format!("{core} was not seen again by all"));
    tokio::time::sleep(SETTLED).await;
    broken.note("finals_of_the_ended", words.len());
    broken.must(!words.is_empty(), || "the other meeting had no words".into());
    stays_ended(&stage.meetings[1], &words, entered, &mut broken).await?;
    Ok(broken)
}

/// Copies the core's store as it is at one moment, and makes a backup of that.
async fn back_up(stage: &Stage, core: &NodeId) -> Result<PathBuf> {
    let at = |ending: &str| stage.bed.dir().join(format!("{core}.{ending}"));
    let (store, hot, backup) = (at("redb"), at("hot.redb"), at("backup.redb"));
    // As a file system's own snapshot would have it.
    stage.bed.signal(core, Signal::SIGSTOP)?;
    let copied = std::fs::copy(&store, &hot);
    stage.bed.signal(core, Signal::SIGCONT)?;
    copied.with_context(|| store.display().to_string())?;
    let set = format!("store.path={}", hot.display());
    stage.bed.tell(core, &[set], &["backup".into(), backup.clone().into()]).await?;
    Ok(backup)
}

async fn comes_to(meeting: &Meeting, what: &str, is: impl Fn(&Value) -> bool) -> Result<()> {
    let begun = Instant::now();
    while !meeting.view().await.is_ok_and(|view| is(&view)) {
        if begun.elapsed() > PATIENCE {
            bail!("the meeting did not come to {what} within {PATIENCE:?}: {:?}", meeting.view().await);
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Its finals: id and text.
async fn words(meeting: &Meeting) -> Result<Vec<(String, String)>> {
    let transcript = meeting.cores.get(&format!("{}/transcript?format=json", meeting.path)).await?;
    let text = |segment: &Value, key: &str| segment[key].as_str().unwrap_or_default().to_owned();
    let segments = transcript["segments"].as_array().context("no list of segments")?;
    Ok(segments.iter().map(|segment| (text(segment, "id"), text(segment, "text"))).collect())
}

/// Whichever core is asked, the meeting is over, has its words, and nobody has joined it again.
async fn stays_ended(
    meeting: &Meeting,
    before: &[(String, String)],
    entered: usize,
    broken: &mut Broken,
) -> Result<()> {
    for api in &meeting.cores.apis {
        let view = meeting.cores.ask_one(*api, super::super::cores::Ask::Get(meeting.path.clone())).await?;
        broken.must(view["status"] == "done", || format!("{api} says that it is {}", view["status"]));
    }
    let after = words(meeting).await?;
    broken.must(after == before, || format!("its finals were {before:?}, and are {after:?}"));
    let state = meeting.relay.ask::<relay::State>("/state").await?;
    broken.must(state.joined.len() == entered, || format!("{} edges joined it again", state.joined.len() - entered));
    broken.must(state.subscribers == 0, || format!("{} edges are in it", state.subscribers));
    Ok(())
}
