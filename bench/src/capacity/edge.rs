//! The edge under load: its own connectors and meetings, each with a [`Sink`] for a core.
#![allow(clippy::disallowed_methods, reason = "I/O shell: measures by the clock")]

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use edge_node::{
    connect::{
        self, Event,
        inbox::{Inbox, inbox},
    },
    driver::alarm::Alarm,
    media::ParticipantId,
};
use mesh::wire::{control::EdgeState, request::Source};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{generator::wall, sink::Sink, timing::Timing};

/// For a meeting to be joined and to yield a packet of everybody.
const JOIN: Duration = Duration::from_secs(30);
/// Meetings that are being joined at a time.
const JOINING: usize = 16;
/// Delays are counted in steps of this, up to [`STEPS`] of them.
const STEP_US: u64 = 100;
const STEPS: usize = 2000;

/// What all meetings came to since it was last emptied. Shared, never locked.
#[derive(Debug)]
pub(super) struct Tally {
    packets: AtomicU64,
    lost: AtomicU64,
    decoded: AtomicU64,
    broken: AtomicUsize,
    delays: Vec<AtomicU32>,
}

/// The same, read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counted {
    /// Packets that went all the way.
    pub(super) packets: u64,
    /// Packets missing between two that did.
    pub(super) lost: u64,
    /// Packets decoded.
    pub(super) decoded: u64,
    /// Meetings whose connection broke.
    pub(super) broken: usize,
    /// Time from when a packet was due at the relay to when the meeting was done with it.
    pub(super) delay_p50: Duration,
    pub(super) delay_p99: Duration,
}

impl Tally {
    fn new() -> Self {
        let count = || AtomicU64::new(0);
        Self {
            packets: count(),
            lost: count(),
            decoded: count(),
            broken: AtomicUsize::new(0),
            delays: (0..STEPS).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// What was counted; counts from nothing again.
    pub(super) fn take(&self) -> Counted {
        let delays: Vec<u32> = self.delays.iter().map(|n| n.swap(0, Ordering::Relaxed)).collect();
        let all: u64 = delays.iter().map(|n| u64::from(*n)).sum();
        let quantile = |share: f64| {
            let wanted = (all as f64 * share).ceil() as u64;
            let mut seen = 0;
            let step = delays.iter().position(|n| {
                seen += u64::from(*n);
                seen >= wanted
            });
            Duration::from_micros((step.unwrap_or(STEPS) as u64 + 1) * STEP_US)
        };
        let take = |n: &AtomicU64| n.swap(0, Ordering::Relaxed);
        Counted {
            packets: take(&self.packets),
            lost: take(&self.lost),
            decoded: take(&self.decoded),
            broken: self.broken.swap(0, Ordering::Relaxed),
            delay_p50: quantile(0.5),
            delay_p99: quantile(0.99),
        }
    }

    fn note(&self, delay: Duration) {
        let step = (delay.as_micros() as u64 / STEP_US) as usize;
        self.delays[step.min(STEPS - 1)].fetch_add(1, Ordering::Relaxed);
    }
}

/// The edge.
pub(super) struct Edge {
    relay: SocketAddr,
    people: usize,
    timing: Timing,
    settings: connect::Settings,
    pub(super) tally: Arc<Tally>,
    meetings: JoinSet<()>,
    joined: usize,
    stop: CancellationToken,
}

impl Edge {
    pub(super) fn new(relay: SocketAddr, people: usize, timing: Timing) -> Self {
        let (meetings, stop) = (JoinSet::new(), CancellationToken::new());
        let settings = connect::Settings { bind: vec![Ipv4Addr::LOCALHOST.into()], ..connect::Settings::on_loopback() };
        Self { relay, people, timing, settings, tally: Arc::new(Tally::new()), meetings, joined: 0, stop }
    }

    /// Joins meetings until there are so many.
    pub(super) async fn grow(&mut self, meetings: usize) -> Result<()> {
        let (ready, mut joined) = mpsc::channel(JOINING);
        let mut waiting = 0;
        while self.joined < meetings || waiting > 0 {
            if self.joined < meetings && waiting < JOINING {
                self.join(ready.clone())?;
                waiting += 1;
                continue;
            }
            let seen = timeout(JOIN, joined.recv()).await;
            seen.map_err(|_| anyhow!("meeting {} of {meetings} was not joined within {JOIN:?}", self.joined))?;
            waiting -= 1;
        }
        Ok(())
    }

    /// Leaves all of them.
    pub(super) async fn leave(mut self) {
        self.stop.cancel();
        while self.meetings.join_next().await.is_some() {}
    }

    fn join(&mut self, ready: mpsc::Sender<()>) -> Result<()> {
        let number = self.joined;
        self.joined += 1;
        let url = format!("http://{}/whep/{number}", self.relay);
        let source = Source::Whep { url, token: None, participants: vec![] };
        let connector = connect::connector(&source, &self.settings)?;
        let (events_tx, events) = inbox();
        let stop = self.stop.clone();
        self.meetings.spawn(async move {
            if let Err(error) = connector.run(events_tx, stop).await {
                tracing::warn!(number, %error, "a meeting is lost");
            }
        });
        let run = Run {
            number,
            timing: self.timing,
            tally: self.tally.clone(),
            sink: Sink::new(number, source, Instant::now()),
            streams: BTreeMap::new(),
            done: vec![],
        };
        self.meetings.spawn(run.run(events, self.people, ready));
        Ok(())
    }
}

/// One meeting at work.
struct Run {
    number: usize,
    timing: Timing,
    tally: Arc<Tally>,
    sink: Sink,
    streams: BTreeMap<ParticipantId, Stream>,
    /// Participant and RTP timestamp of the packets of this round.
    done: Vec<(usize, u32)>,
}

/// What is known of a participant's stream.
struct Stream {
    who: usize,
    next: u16,
}

impl Run {
    async fn run(mut self, mut events: Inbox, people: usize, ready: mpsc::Sender<()>) {
        let mut ready = Some(ready);
        let (mut batch, mut alarm) = (vec![], Alarm::default());
        loop {
            tokio::select! {
                any = events.next(&mut batch) => if !any { return },
                () = alarm.wait(self.sink.poll_timeout()) => {}
            }
            let (now, at) = (Instant::now(), wall());
            self.sink.handle_timeout(now, at);
            for event in batch.drain(..) {
                self.handle(event, now);
            }
            self.sink.flush(now, at);
            self.account();
            if self.streams.len() >= people
                && let Some(ready) = ready.take()
            {
                let _ = ready.send(()).await;
            }
        }
    }

    fn handle(&mut self, event: Event, now: Instant) {
        match &event {
            Event::Packet(packet) => self.note(&packet.participant.clone(), packet.sequence, packet.timestamp),
            Event::State { state: EdgeState::Failed(_) | EdgeState::Reconnecting { .. }, .. } => {
                self.tally.broken.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
        self.sink.handle(event, now);
    }

    fn note(&mut self, id: &ParticipantId, sequence: u16, timestamp: u32) {
        let stream = match self.streams.get_mut(id) {
            Some(stream) => stream,
            None => {
                let who = id.as_str().split_once('-').and_then(|(_, who)| who.parse().ok()).unwrap_or_default();
                self.streams.entry(id.clone()).or_insert(Stream { who, next: sequence })
            }
        };
        let missing = sequence.wrapping_sub(stream.next);
        stream.next = sequence.wrapping_add(1);
        self.tally.lost.fetch_add(missing.into(), Ordering::Relaxed);
        self.done.push((stream.who, timestamp));
    }

    fn account(&mut self) {
        let at = wall();
        self.tally.packets.fetch_add(self.done.len() as u64, Ordering::Relaxed);
        for (who, timestamp) in self.done.drain(..) {
            self.tally.note(at.since(self.timing.due(self.number, who, timestamp)));
        }
        let decoded = std::mem::take(&mut self.sink.decoded);
        self.tally.decoded.fetch_add(decoded, Ordering::Relaxed);
    }
}
