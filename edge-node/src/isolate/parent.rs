//! The parent's side: a connector whose relay is joined by a child process.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use mesh::{
    tasks::once,
    wire::{
        control::EdgeState,
        request::{Source, VadSettings},
    },
};
use tokio::{
    process::{Child, ChildStdin, Command},
    sync::mpsc,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{FromChild, Settings, ToChild, stream, translate::Translator};
use crate::{
    connect::{ConnectError, Connector, Event, Failure},
    driver::clock::Anchor,
};

/// A child that says nothing for so long stands still: it has a pulse of one second.
const STILL: Duration = Duration::from_secs(10);

/// How long a child may take to leave.
const LEAVE: Duration = Duration::from_secs(4);

/// Deaths within [`WITHIN`] after which a meeting ends; before, a new child takes over.
const MAX_DEATHS: usize = 4;
const WITHIN: Duration = Duration::from_secs(60);

/// The pause after a death; doubled with each.
const PAUSE: Duration = Duration::from_millis(100);

/// Messages of a child that wait; when full, its pipe fills, and it waits.
const QUEUE: usize = 256;

/// A meeting's relay, joined in a process of its own.
pub struct Isolated {
    settings: Settings,
    source: Source,
    vad: VadSettings,
    /// Of all its children, one after the other.
    clock: Anchor,
}

/// How one child ended.
enum Ended {
    /// By its own word; `Some`: it failed.
    Said(Option<Failure>),
    /// It was told to, or nobody listens.
    Told,
    /// Otherwise, and since when it did nothing.
    Died(String, Instant),
}

impl Ended {
    /// It died just now.
    fn died(why: String) -> Self {
        Self::Died(why, Instant::now())
    }
}

impl Isolated {
    /// To join `source` when it is run.
    pub fn new(settings: Settings, source: Source, vad: VadSettings) -> Self {
        Self { settings, source, vad, clock: Anchor::now() }
    }

    fn spawn(&self) -> std::io::Result<Child> {
        Command::new(&self.settings.program)
            .args(&self.settings.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
    }

    /// One child from its beginning to its end.
    async fn once(&self, told: &mut Translator, events: &mpsc::Sender<Event>, stop: &CancellationToken) -> Ended {
        let mut child = match self.spawn() {
            Ok(child) => child,
            Err(error) => return Ended::died(format!("it could not be started: {error}")),
        };
        let (Some(mut stdin), Some(mut stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Ended::died("it has no pipes".into());
        };
        tracing::info!(pid = child.id(), "the meeting has a process of its own");
        let (memory, clock) = (self.settings.memory, self.clock.at_monotonic_zero());
        let begin = ToChild::Begin { source: self.source.clone(), vad: self.vad, memory, clock };
        if let Err(error) = stream::send(&mut stdin, &begin).await {
            return died(&mut child, &error.to_string(), Instant::now()).await;
        }
        let (said_tx, mut said) = mpsc::channel(QUEUE);
        let _reader = AbortOnDropHandle::new(once("child's words", async move {
            while let Ok(Some(message)) = stream::receive::<FromChild>(&mut stdout).await {
                if said_tx.send(message).await.is_err() {
                    return;
                }
            }
        }));
        let ended = listen(&mut said, told, events, stop, &mut stdin).await;
        match ended {
            Ended::Died(why, since) => died(&mut child, &why, since).await,
            ended => {
                // It has said its last; should it linger, it is killed when dropped.
                let _ = timeout(LEAVE, child.wait()).await;
                ended
            }
        }
    }
}

/// Hands on what a child says, until it is at its end.
async fn listen(
    said: &mut mpsc::Receiver<FromChild>,
    told: &mut Translator,
    events: &mpsc::Sender<Event>,
    stop: &CancellationToken,
    stdin: &mut ChildStdin,
) -> Ended {
    let mut leaving = None;
    loop {
        let patience = leaving.map_or(STILL, |until: Instant| until.saturating_duration_since(Instant::now()));
        tokio::select! {
            () = stop.cancelled(), if leaving.is_none() => {
                leaving = Some(Instant::now() + LEAVE);
                if stream::send(stdin, &ToChild::Leave).await.is_err() {
                    return Ended::Told;
                }
            }
            message = timeout(patience, said.recv()) => match message {
                Ok(Some(FromChild::Ended { failure })) => return Ended::Said(failure),
                Ok(Some(message)) => {
                    let Some(event) = told.translate(message) else { continue };
                    if events.send(event).await.is_err() {
                        return Ended::Told;
                    }
                }
                Ok(None) if leaving.is_some() => return Ended::Told,
                Err(_) if leaving.is_some() => return Ended::Told,
                Ok(None) => return Ended::died("it ended without a word".into()),
                Err(_) => {
                    let since = Instant::now().checked_sub(STILL).unwrap_or_else(Instant::now);
                    return Ended::Died(format!("it said nothing for {STILL:?}"), since);
                }
            },
        }
    }
}

/// Makes sure that it is dead, and says of what.
async fn died(child: &mut Child, why: &str, since: Instant) -> Ended {
    let status = match timeout(Duration::from_millis(200), child.wait()).await {
        Ok(Ok(status)) => Some(status),
        _ => {
            // An error means that it is gone.
            let _ = child.kill().await;
            None
        }
    };
    Ended::Died(status.map_or_else(|| why.to_owned(), |status| format!("{why} ({status})")), since)
}

#[async_trait]
impl Connector for Isolated {
    async fn run(self: Box<Self>, events: mpsc::Sender<Event>, stop: CancellationToken) -> Result<(), ConnectError> {
        let mut told = Translator::default();
        let mut deaths: Vec<Instant> = vec![];
        // A closed queue is found out by the next to send.
        let _ = events.send(Event::Apart).await;
        loop {
            let (why, since) = match self.once(&mut told, &events, &stop).await {
                Ended::Said(None) | Ended::Told => return Ok(()),
                Ended::Said(Some(failure)) => return Err(ConnectError::Apart(failure)),
                Ended::Died(why, since) => (why, since),
            };
            for event in told.handle_gone() {
                let _ = events.send(event).await;
            }
            if stop.is_cancelled() || events.is_closed() {
                return Ok(());
            }
            let now = Instant::now();
            deaths.retain(|at| now.duration_since(*at) < WITHIN);
            deaths.push(now);
            tracing::warn!(why, deaths = deaths.len(), "the meeting's process is gone");
            metrics::counter!("nearfield_edge_meeting_processes_lost_total").increment(1);
            let gone = ConnectError::ProcessGone { deaths: deaths.len(), why };
            let again = deaths.len() < MAX_DEATHS;
            let state =
                if again { EdgeState::silent(now.duration_since(since)) } else { EdgeState::Failed(gone.cause()) };
            let _ = events.send(Event::State { state, detail: Some(gone.to_string()) }).await;
            if !again {
                return Err(gone);
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(PAUSE * (1 << (deaths.len() - 1))) => {}
            }
        }
    }
}
