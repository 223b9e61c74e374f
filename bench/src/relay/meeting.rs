//! The meeting: its voices, who listens, and the one clock by which all of it is sent.
#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use anyhow::Result;
use mesh::clock::Micros;
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::Instant};
use uuid::Uuid;

use super::{
    room::{self, Published},
    subscriber::Subscriber,
    voice::Voice,
};

/// Time between packets of a voice.
const PACKET_TIME: Duration = Duration::from_millis(20);

/// Subscribers at once.
pub(super) const MAX_SUBSCRIBERS: usize = 512;

/// Comings and goings remembered; later ones are not.
const MAX_VISITS: usize = 4096;

/// When the script begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// Once the first subscriber is connected.
    #[default]
    FirstSubscriber,
    /// On `POST /start`.
    Trigger,
}

/// What `GET /state` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Wall-clock time of every voice's first sample; absent before the script has begun.
    pub started_at: Option<Micros>,
    /// Whether the script and the quiet after it are over. Connections are kept.
    pub finished: bool,
    /// Connected subscribers.
    pub subscribers: usize,
    /// When each subscriber so far was connected, in order.
    pub joined: Vec<Micros>,
    /// When each connected subscriber that has gone went, in order.
    pub left: Vec<Micros>,
    /// Packets thrown away because a subscriber's queue was full.
    pub overflow: u64,
    /// The voices.
    pub participants: Vec<ParticipantState>,
}

/// A voice in [`State`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParticipantState {
    /// The platform's id.
    pub id: String,
    /// What the platform shows.
    pub name: String,
    /// Packets sent so far to at least one subscriber.
    pub sent_packets: u64,
    /// Those of them in which the reference VAD hears speech.
    pub sent_speech_packets: u64,
}

/// One packet that left for at least one subscriber, as `GET /sent` lists them; `GET /said` has those too
/// that nobody was there to hear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Which 20 ms of the timeline.
    pub index: u32,
    /// When it left.
    pub at: Micros,
    /// Whether the reference VAD hears speech in it.
    pub voice: bool,
}

/// The meeting, shared by the clock and the HTTP handlers.
pub(super) struct Meeting {
    pub(super) voices: Vec<Arc<Voice>>,
    progress: Mutex<Progress>,
    subscribers: Mutex<BTreeMap<Uuid, Subscriber>>,
    begin: watch::Sender<bool>,
}

#[derive(Default)]
struct Progress {
    started_at: Option<Micros>,
    finished: bool,
    overflow: u64,
    joined: Vec<Micros>,
    left: Vec<Micros>,
    /// When each 20 ms left, and whether anyone was there to hear it.
    ticks: Vec<(Micros, bool)>,
}

impl Meeting {
    pub(super) fn new(voices: Vec<Voice>) -> Self {
        Self {
            voices: voices.into_iter().map(Arc::new).collect(),
            progress: Mutex::default(),
            subscribers: Mutex::default(),
            begin: watch::Sender::new(false),
        }
    }

    /// Lets the script begin; more than once is the same as once.
    pub(super) fn begin(&self) {
        self.begin.send_replace(true);
    }

    /// Waits for [`begin`](Self::begin) and `settle`, then sends the whole timeline in real time.
    /// Falling behind, it catches up: the n-th packet is due n times 20 ms after the first.
    ///
    /// # Errors
    /// Janus does not let the voices in.
    pub(super) async fn play(&self, settle: Duration, janus: Option<&room::Plan>) -> Result<()> {
        // The sender is ours and lives as long as we do.
        let _ = self.begin.subscribe().wait_for(|begun| *begun).await;
        let published = match janus {
            Some(plan) => Some(Published::join(plan, &self.voices).await?),
            None => None,
        };
        tokio::time::sleep(settle).await;
        let start = Instant::now();
        self.progress().started_at = Some(wall_clock());
        tracing::info!("the script begins");
        let ticks = self.voices.iter().map(|voice| voice.packets.len()).max().unwrap_or(0);
        for index in 0..ticks as u32 {
            tokio::time::sleep_until(start + PACKET_TIME * index).await;
            self.send(index, published.as_ref());
        }
        self.progress().finished = true;
        tracing::info!("the script is over");
        Ok(())
    }

    fn send(&self, index: u32, published: Option<&Published>) {
        let at = wall_clock();
        let published = published.map(|published| published.send(index));
        let first = (published == Some(true), u64::from(published == Some(false)));
        let (heard, overflow) =
            self.subscribers().values().fold(first, |(heard, overflow), subscriber| {
                match subscriber.offer_step(index) {
                    Some(taken) => (heard | taken, overflow + u64::from(!taken)),
                    None => (heard, overflow),
                }
            });
        let mut progress = self.progress();
        progress.ticks.push((at, heard));
        progress.overflow += overflow;
    }

    /// Notes that a subscriber is connected now.
    pub(super) fn note_joined(&self) {
        note(&mut self.progress().joined);
    }

    /// Notes that a subscriber that was connected has gone.
    pub(super) fn note_left(&self) {
        note(&mut self.progress().left);
    }

    /// Keeps a subscriber under `id`.
    pub(super) fn add(&self, id: Uuid, subscriber: Subscriber) {
        self.subscribers().insert(id, subscriber);
    }

    pub(super) fn subscriber(&self, id: Uuid) -> Option<Subscriber> {
        self.subscribers().get(&id).cloned()
    }

    pub(super) fn remove(&self, id: Uuid) -> Option<Subscriber> {
        self.subscribers().remove(&id)
    }

    pub(super) fn is_full(&self) -> bool {
        self.subscribers().len() >= MAX_SUBSCRIBERS
    }

    pub(super) fn state(&self) -> State {
        let subscribers = self.subscribers().values().filter(|subscriber| subscriber.is_connected()).count();
        let progress = self.progress();
        State {
            started_at: progress.started_at,
            finished: progress.finished,
            subscribers,
            joined: progress.joined.clone(),
            left: progress.left.clone(),
            overflow: progress.overflow,
            participants: self.voices.iter().map(|voice| participant(voice, &progress.sent(voice, true))).collect(),
        }
    }

    /// Every packet by participant; only those sent to somebody, or all that were due.
    pub(super) fn packets(&self, only_heard: bool) -> BTreeMap<String, Vec<Sent>> {
        let progress = self.progress();
        self.voices.iter().map(|voice| (voice.id.to_string(), progress.sent(voice, only_heard))).collect()
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn subscribers(&self) -> MutexGuard<'_, BTreeMap<Uuid, Subscriber>> {
        self.subscribers.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Progress {
    fn sent(&self, voice: &Voice, only_heard: bool) -> Vec<Sent> {
        let places = self.ticks.iter().zip(&voice.packets).enumerate();
        let sent = places.filter_map(|(index, (&(at, heard), packet))| {
            let packet = packet.as_ref().filter(|_| heard || !only_heard)?;
            Some(Sent { index: index as u32, at, voice: packet.voice })
        });
        sent.collect()
    }
}

fn participant(voice: &Voice, sent: &[Sent]) -> ParticipantState {
    ParticipantState {
        id: voice.id.to_string(),
        name: voice.name.to_string(),
        sent_packets: sent.len() as u64,
        sent_speech_packets: sent.iter().filter(|packet| packet.voice).count() as u64,
    }
}

fn note(visits: &mut Vec<Micros>) {
    if visits.len() < MAX_VISITS {
        visits.push(wall_clock());
    }
}

fn wall_clock() -> Micros {
    Micros::from_system(SystemTime::now())
}
