//! One short meeting, as its user sees it.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use mesh::clock::Micros;
use serde_json::{Value, json};

use crate::{
    client::Client,
    demo::stage::RelayProcess,
    oracle::{self, Heard},
    relay,
    speech::Script,
    world::Host,
};

/// Deadline for a meeting to be active, and to be over.
const DEADLINE: Duration = Duration::from_secs(30);
/// Deadline for it to have a standby, once it was heard for its time.
const STANDBY: Duration = Duration::from_secs(10);
/// How often its status is asked for.
const EVERY: Duration = Duration::from_millis(200);
/// A line that begins or ends this near to when the meeting was joined or left may be cut.
const MARGIN: Duration = Duration::from_millis(1500);

/// Of fewer words all may be misheard.
const FEW: usize = 4;

/// How a meeting is attended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// How long it is heard.
    pub(super) seconds: Duration,
    /// So many times the time is allowed.
    pub(super) patience: u32,
}

/// What a relay says, and since when.
#[derive(Debug)]
pub(super) struct Talk {
    relay: RelayProcess,
    script: Script,
    started: Micros,
}

/// How a meeting went.
#[derive(Debug, Clone, Default)]
pub(super) struct Ended {
    /// Why it was not as it should be: it could not be made, was not active in time, failed, or did not end.
    pub(super) failure: Option<String>,
    /// It had a standby before it was ended.
    pub(super) standby: bool,
    /// Its words, and those missing or wrong among the lines that were said while it was there.
    pub(super) words: usize,
    pub(super) wrong: usize,
    /// From the request to the first moment at which it was active.
    pub(super) joined: Duration,
}

impl Talk {
    pub(super) async fn begin(user: &Host, relay: RelayProcess, script: Script) -> Result<Self> {
        let address = relay.address;
        user.run(move || async move { Client::new(address)?.post("/start", &json!({})).await }).await??;
        let begun = Instant::now();
        let started = loop {
            let state: relay::State = relay.ask("/state").await?;
            if let Some(started) = state.started_at {
                break started;
            }
            anyhow::ensure!(begun.elapsed() < DEADLINE, "the relay does not begin");
            tokio::time::sleep(EVERY).await;
        };
        Ok(Self { relay, script, started })
    }

    /// The lines said from `from` to `to`, whole.
    fn within(&self, from: Micros, to: Micros) -> Script {
        let at = |moment: Micros| moment.since(self.started);
        let whole = |line: &&crate::speech::Line| line.start > at(from) + MARGIN && line.end() + MARGIN < at(to);
        let mut script = self.script.clone();
        script.lines = self.script.lines.iter().filter(whole).cloned().collect();
        script
    }
}

/// Attends a meeting. What goes wrong is told, not returned.
pub(super) async fn attend(user: Host, api: SocketAddr, talk: Arc<Talk>, manner: Manner) -> Ended {
    let attended = user.run(move || async move { go(&Client::new(api)?, &talk, manner).await }).await;
    let attended = attended.map_err(anyhow::Error::from).and_then(|ended| ended);
    attended.unwrap_or_else(|error| Ended { failure: Some(format!("{error:#}")), ..Ended::default() })
}

async fn go(client: &Client, talk: &Talk, Manner { seconds, patience }: Manner) -> Result<Ended> {
    let deadline = DEADLINE * patience;
    let begun = Instant::now();
    let url = format!("http://{}/whep/soak", talk.relay.address);
    let body = json!({"source": {"kind": "whep", "url": url, "token": "soak"}});
    let made = client.post("/v1/meetings", &body).await?;
    let path = format!("/v1/meetings/{}", made["id"].as_str().context("the meeting has no id")?);
    until(client, &path, deadline, |meeting| meeting["status"] == "active").await?;
    let joined = begun.elapsed();
    tokio::time::sleep(seconds).await;
    let standby = until(client, &path, STANDBY * patience, |meeting| meeting["standby"].is_string()).await.is_ok();
    let left = Micros::from_system(std::time::SystemTime::now());
    client.delete(&path).await?;
    let over = |meeting: &Value| meeting["status"] == "done" || meeting["status"] == "failed";
    let after = until(client, &path, deadline, over).await?;
    let transcript = client.get(&format!("{path}/transcript?format=json")).await?;
    let segments = transcript["segments"].as_array().cloned().unwrap_or_default();
    let from = moment(&after["first_frame_at"]).context("nothing was heard")?;
    let expected = talk.within(from, left);
    let heard: Vec<Heard> = segments.iter().filter_map(|segment| heard(segment, talk.started)).collect();
    let verdict = oracle::judge(&expected, &heard);
    let said = expected.lines.iter().map(|line| oracle::normalise(&line.text).len()).sum();
    // What was said at the edges of the meeting is heard too, and no fault.
    let wrong = verdict.lines.iter().map(|line| line.missing.len()).sum();
    let failure = match &after["status"] {
        status if status != "done" => Some(format!("{path} ended as {}", after["sub_code"])),
        _ if said >= FEW && wrong == said => Some(format!("{path}: none of {said} words came")),
        _ => None,
    };
    Ok(Ended { failure, standby, words: said, wrong, joined })
}

async fn until(client: &Client, path: &str, deadline: Duration, good: impl Fn(&Value) -> bool) -> Result<Value> {
    let begun = Instant::now();
    loop {
        let meeting = client.get(path).await?;
        if good(&meeting) {
            return Ok(meeting);
        }
        anyhow::ensure!(begun.elapsed() < deadline, "{path} is {} after {deadline:?}", meeting["status"]);
        tokio::time::sleep(EVERY).await;
    }
}

fn moment(value: &Value) -> Option<Micros> {
    let stamp: jiff::Timestamp = value.as_str()?.parse().ok()?;
    Some(Micros(stamp.as_microsecond().try_into().ok()?))
}

fn heard(segment: &Value, started: Micros) -> Option<Heard> {
    let at = |key: &str| Some(moment(&segment[key])?.since(started));
    Some(Heard {
        id: segment["id"].as_str()?.to_owned(),
        participant: segment["participant"]["id"].as_str().and_then(|id| id.strip_prefix('p')?.parse().ok()),
        start: at("start_at")?,
        end: at("end_at")?,
        text: segment["text"].as_str()?.to_owned(),
        is_final: true,
        delivered: at("end_at")?,
    })
}
