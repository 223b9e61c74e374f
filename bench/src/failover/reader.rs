//! A user who reads a transcript and means to miss nothing: follows it from core to core.
#![allow(clippy::disallowed_methods, reason = "the reader's clock is what is measured")]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use futures_util::{StreamExt, pin_mut};
use mesh::clock::Micros;
use serde_json::Value;

use crate::{
    client::{Client, Event},
    demo::watch::Segment,
    world::Host,
};

/// A core that does not answer for so long is left for the next one.
const ANSWER: Duration = Duration::from_secs(2);
/// A stream that is silent for so long is broken: cores say that they are alive every 15 s, but the
/// reader sees only events.
const SILENCE: Duration = Duration::from_secs(8);
/// Between two rounds in which no core had the transcript.
const AGAIN: Duration = Duration::from_millis(50);

/// A piece of text as it reached the reader.
#[derive(Debug, Clone)]
pub(super) struct Text {
    /// When.
    pub(super) at: Micros,
    /// On which of the reader's connections, counted from 0.
    pub(super) connection: usize,
    /// What.
    pub(super) segment: Segment,
}

/// What the reader has seen so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// Partials and finals.
    pub(super) texts: Vec<Text>,
    /// When each connection was made, and to whom, `host:port`.
    pub(super) connections: Vec<(Micros, String)>,
    /// Gaps that the transcript named.
    pub(super) gaps: Vec<Value>,
    /// Where the meeting stood, as it changed.
    pub(super) statuses: Vec<String>,
    /// Where it stood in the end.
    pub(super) ended: Option<String>,
}

impl Seen {
    /// Finals in the order of their coming.
    pub(super) fn finals(&self) -> impl Iterator<Item = &Text> {
        self.texts.iter().filter(|text| text.segment.is_final)
    }
}

/// A reader at work, who stops when this is dropped.
#[derive(Debug)]
pub(super) struct Reader {
    seen: Arc<Mutex<Seen>>,
    task: tokio::task::JoinHandle<()>,
}

impl Reader {
    /// Reads the transcript of `meeting` on `host`, from the first of `cores` that has it.
    pub(super) fn start(host: &Host, cores: Vec<SocketAddr>, meeting: String) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (host, shared) = (host.clone(), seen.clone());
        let task = tokio::spawn(async move {
            if let Err(error) = host.run(move || follow(cores, meeting, shared)).await {
                tracing::error!(%error, "the reader has stopped");
            }
        });
        Self { seen, task }
    }

    /// What it has seen so far.
    pub(super) fn seen(&self) -> Seen {
        lock(&self.seen).clone()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads until the meeting is over, whatever happens to cores in between.
async fn follow(cores: Vec<SocketAddr>, meeting: String, seen: Arc<Mutex<Seen>>) {
    let path = format!("/v1/meetings/{meeting}/transcript/stream");
    let (mut last, mut first) = ("0".to_owned(), 0);
    while lock(&seen).ended.is_none() {
        for n in 0..cores.len() {
            let core = (first + n) % cores.len();
            match read(cores[core], &path, &mut last, &seen).await {
                Ok(moved) => {
                    first = moved.and_then(|to| cores.iter().position(|core| *core == to)).unwrap_or(core);
                    break;
                }
                Err(error) => tracing::debug!(%error, core = %cores[core], "not there"),
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Reads one stream to its end; where the meeting is said to have moved to.
async fn read(core: SocketAddr, path: &str, last: &mut String, seen: &Mutex<Seen>) -> Result<Option<SocketAddr>> {
    let client = Client::new(core)?;
    let (from, events) = tokio::time::timeout(ANSWER, client.resume(path, last)).await.context("no answer")??;
    let connection = {
        let mut seen = lock(seen);
        seen.connections.push((now(), from));
        seen.connections.len() - 1
    };
    pin_mut!(events);
    while let Ok(Some(event)) = tokio::time::timeout(SILENCE, events.next()).await {
        if event.name == "moved" {
            return Ok(event.data["api"].as_str().and_then(|api| api.parse().ok()));
        }
        if !event.id.is_empty() {
            last.clone_from(&event.id);
        }
        lock(seen).handle(connection, event)?;
    }
    Ok(None)
}

impl Seen {
    fn handle(&mut self, connection: usize, event: Event) -> Result<()> {
        match event.name.as_str() {
            "transcript.partial" | "transcript.final" => {
                let segment = serde_json::from_value(event.data)?;
                self.texts.push(Text { at: now(), connection, segment });
            }
            "transcript.gap" | "meeting.gap" => self.gaps.push(event.data),
            "meeting.status_changed" => self.statuses.push(status(&event.data)?),
            "done" => self.ended = Some(status(&event.data)?),
            _ => {}
        }
        Ok(())
    }
}

fn status(data: &Value) -> Result<String> {
    match data["status"].as_str() {
        Some(status) => Ok(status.to_owned()),
        None => bail!("an event without a status: {data}"),
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn now() -> Micros {
    Micros::from_system(SystemTime::now())
}
