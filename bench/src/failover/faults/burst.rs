//! Hundreds of meetings that are made at once, beside one in which somebody talks.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use mesh::identity::Role;
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::{Broken, Resumes, Stage, Times, now};
use crate::{client::Client, failover::stage::HOME};

/// So many.
const MEETINGS: usize = 500;
/// Within which all are asked for.
const SPREAD: Duration = Duration::from_secs(2);
/// Calls under way at once.
const AT_ONCE: usize = 64;
/// Between two looks.
const LOOK: Duration = Duration::from_secs(2);
/// The API's longest page.
const PAGE: usize = 500;

/// Makes them within two seconds; all are to be active at half of the outage's length, and so at its end.
pub(super) async fn make(stage: &mut Stage, times: Times, say: &dyn Fn(&str)) -> Result<Broken> {
    let relay = stage.quiet_relay().await?;
    let mut broken = Broken::new(now(), Resumes::LongestPause);
    stage.meeting().wait_until(times.fault).await;
    let (begun, core) = (Instant::now(), stage.bed.node(Role::Core, HOME).api);
    let user = stage.meeting().cores.user.clone();
    let url = format!("http://{}/whep/m", relay.address);
    let refused = user.run(move || post_all(core, url)).await??;
    say(&format!("{MEETINGS} meetings were asked for in {:.1} s", begun.elapsed().as_secs_f64()));
    broken.must(refused.is_empty(), || format!("refused: {refused:?}"));
    let (settled, end) = (begun + times.outage / 2, begun + times.outage);
    let mut all_active = None;
    while Instant::now() < settled && all_active.is_none() {
        sleep(LOOK).await;
        let active = by_status(stage, core).await?.get("active").copied().unwrap_or(0);
        all_active = (active > MEETINGS).then(|| begun.elapsed());
    }
    broken.note("all_active_ms", all_active.map(|after| after.as_millis() as u64));
    match all_active {
        Some(after) => say(&format!("all are active after {:.1} s", after.as_secs_f64())),
        None => say("not all are active in time"),
    }
    sleep_until(end).await;
    let statuses = by_status(stage, core).await?;
    let all = BTreeMap::from([("active".to_owned(), MEETINGS + 1)]);
    broken.must(statuses == all, || format!("after {:?} they are {statuses:?}", times.outage));
    broken.note("meetings", MEETINGS);
    Ok(broken)
}

/// What became of those that were not taken, by answer.
async fn post_all(core: SocketAddr, url: String) -> Result<BTreeMap<String, usize>> {
    let client = Client::new(core)?;
    let body = json!({"source": {"kind": "whep", "url": url}, "transcription": {"language": "en"}});
    let (begun, mut calls, mut refused) = (Instant::now(), JoinSet::new(), BTreeMap::new());
    let mut note = |done: Option<Result<Result<Value>, _>>| {
        if let Some(Ok(Err(error))) = done {
            *refused.entry(error.to_string()).or_insert(0) += 1;
        }
    };
    for n in 0..MEETINGS {
        sleep_until(begun + SPREAD.mul_f64(n as f64 / MEETINGS as f64)).await;
        if calls.len() >= AT_ONCE {
            note(calls.join_next().await);
        }
        let (client, body) = (client.clone(), body.clone());
        calls.spawn(async move { client.post("/v1/meetings", &body).await });
    }
    while let Some(done) = calls.join_next().await {
        note(Some(done));
    }
    Ok(refused)
}

/// How many meetings of the core stand where.
async fn by_status(stage: &Stage, core: SocketAddr) -> Result<BTreeMap<String, usize>> {
    let user = &stage.meeting().cores.user;
    let listed = user.run(move || async move {
        let (client, mut all, mut before) = (Client::new(core)?, vec![], None::<String>);
        loop {
            let from = before.map(|id| format!("&before={id}")).unwrap_or_default();
            let page = client.get(&format!("/v1/meetings?limit={PAGE}{from}")).await?;
            let rows = page["meetings"].as_array().context("no list")?.clone();
            before = rows.last().and_then(|row| row["id"].as_str()).map(Into::into);
            let ended = rows.len() < PAGE;
            all.extend(rows);
            if ended {
                return Ok::<_, anyhow::Error>(all);
            }
        }
    });
    let mut count = BTreeMap::new();
    for row in listed.await?? {
        *count.entry(row["status"].as_str().unwrap_or("?").to_owned()).or_insert(0) += 1;
    }
    Ok(count)
}
