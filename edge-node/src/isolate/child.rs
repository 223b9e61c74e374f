//! The child's side: one meeting's relay and media path, told over standard output.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use mesh::{
    clock::Micros,
    tasks::{Broken, once},
    wire::{cause::Cause, control::EdgeTotals, request::VadSettings, spurt::Item},
};
use nix::{
    sys::resource::{Resource, setrlimit},
    time::{ClockId, clock_gettime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{FromChild, ToChild, stream};
use crate::{
    budget::{self, Budget, Verdict},
    connect::{self, Event, Failure},
    driver::{alarm::Alarm, clock::Anchor},
    media::{ParticipantId, RtpPacket},
    meeting,
    paths::Paths,
    pipeline::{self, Output, Pipeline},
};

/// Events of the relay that wait; the connector drops packets when it is full, and counts them.
const EVENTS: usize = 2048;
/// Messages to the parent that wait; when full, the media path waits, and the relay's packets are dropped.
const QUEUE: usize = 1024;
/// How often totals are told.
const TALLY: Duration = Duration::from_secs(1);
/// Participants one meeting may have.
const MAX_PARTICIPANTS: usize = 500;

/// What a child is run with, out of the same configuration as its parent.
#[derive(Debug, Clone)]
pub struct Tools {
    /// Of each participant's media path.
    pub pipeline: pipeline::Settings,
    /// Of the ways in.
    pub connect: connect::Settings,
    /// What the meeting may ask.
    pub budget: budget::Settings,
}

impl From<(meeting::Settings, connect::Settings)> for Tools {
    fn from((meeting, connect): (meeting::Settings, connect::Settings)) -> Self {
        Self { pipeline: meeting.pipeline, connect, budget: meeting.budget }
    }
}

/// Serves one meeting: commands come from `input`, and what is heard goes to `output`. Returns when it is over, or when
/// the parent is gone.
///
/// # Errors
/// The parent said no sensible first word.
pub async fn run(
    mut input: impl AsyncRead + Unpin + Send + 'static,
    output: impl AsyncWrite + Unpin + Send + 'static,
    tools: Tools,
) -> std::io::Result<()> {
    let Some(ToChild::Begin { source, vad, memory, clock }) = stream::receive(&mut input).await? else {
        return Err(std::io::Error::other("not begun by a parent"));
    };
    limit(memory);
    let stop = CancellationToken::new();
    let leave = stop.clone();
    once("parent's word", async move {
        // Whatever comes next, the end of the parent included, means to leave.
        let _ = stream::receive::<ToChild>(&mut input).await;
        leave.cancel();
    });
    let (said, queue) = mpsc::channel(QUEUE);
    let writer = once("child's words", write(output, queue));
    let failure = match connect::connector(&source, &tools.connect) {
        Ok(connector) => {
            let (events_tx, events) = mpsc::channel(EVENTS);
            let relay = once("relay", connector.run(events_tx, stop.clone()));
            let failure = Media::new(vad, tools, Anchor::of_monotonic(clock), said.clone()).serve(events, &stop).await;
            failure.or(match relay.await.map_err(Broken::from) {
                Ok(ended) => ended.err().as_ref().map(Failure::from),
                Err(e) => Some(Failure { cause: Cause::EdgeFailed, why: format!("the connector broke: {e}") }),
            })
        }
        Err(error) => Some(Failure::from(&error)),
    };
    // An error means that the parent is gone.
    let _ = said.send(FromChild::Ended { failure }).await;
    drop(said);
    let _ = writer.await;
    Ok(())
}

/// Memory beyond `bytes` is refused, and the sounds of a meeting are not written to a core file.
fn limit(bytes: u64) {
    for (what, most) in [(Resource::RLIMIT_DATA, bytes), (Resource::RLIMIT_CORE, 0)] {
        if let Err(error) = setrlimit(what, most, most) {
            tracing::warn!(%error, ?what, "no limit");
        }
    }
}

async fn write(mut output: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<FromChild>) {
    while let Some(message) = queue.recv().await {
        if stream::send(&mut output, &message).await.is_err() {
            return;
        }
    }
}

/// The media paths of one meeting.
struct Media {
    vad: VadSettings,
    tools: Tools,
    participants: BTreeMap<ParticipantId, Participant>,
    budget: Budget,
    clock: Anchor,
    said: mpsc::Sender<FromChild>,
    cpu: Duration,
}

struct Participant {
    paths: Paths,
    budget: Budget,
    present: bool,
}

impl Media {
    fn new(vad: VadSettings, tools: Tools, clock: Anchor, said: mpsc::Sender<FromChild>) -> Self {
        let budget = Budget::new(tools.budget.clone(), Instant::now());
        Self { vad, tools, participants: BTreeMap::new(), budget, clock, said, cpu: thread_cpu() }
    }

    /// Until the relay's last event. Returns why, if it was this side that ended it.
    async fn serve(mut self, mut events: mpsc::Receiver<Event>, stop: &CancellationToken) -> Option<Failure> {
        let mut ticks = interval(TALLY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut failure, mut alarm) = (None, Alarm::default());
        loop {
            let due = self.participants.values().filter_map(|p| p.paths.poll_timeout()).min();
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => failure = failure.or(self.handle(event).await),
                    None => break,
                },
                () = alarm.wait(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.each(Paths::handle_timeout).await;
                }
                _ = ticks.tick() => self.tally().await,
            }
            if failure.is_some() {
                stop.cancel();
            }
        }
        self.each(Paths::finish).await;
        self.tally().await;
        failure
    }

    async fn handle(&mut self, event: Event) -> Option<Failure> {
        match event {
            Event::Packet(packet) => return self.handle_packet(packet).await,
            Event::Joined { id, name, unheard } => {
                self.note_present(&id, true);
                self.say(FromChild::Joined { id: id.as_str().into(), name, unheard }).await;
            }
            Event::Left { id } => {
                self.note_present(&id, false);
                self.say(FromChild::Left { id: id.as_str().into() }).await;
            }
            Event::State { state, detail } => self.say(FromChild::State { state, detail }).await,
            // Only parents hear of these.
            Event::Apart | Event::Speech { .. } | Event::Tally { .. } => {}
        }
        None
    }

    async fn handle_packet(&mut self, mut packet: RtpPacket) -> Option<Failure> {
        packet.arrived_at = self.clock.wall(packet.arrived);
        let now = Instant::now();
        match self.budget.handle_packet(packet.payload.len(), now) {
            Verdict::Within => {}
            Verdict::Dropped => return None,
            Verdict::Flooded => return Some(meeting::flooded(&self.tools.budget)),
        }
        let id = packet.participant.clone();
        if !self.participants.contains_key(&id) {
            if self.participants.len() >= MAX_PARTICIPANTS && !self.make_room() {
                return None;
            }
            let paths = Paths::new(Pipeline::new(self.vad, self.tools.pipeline.clone()));
            let budget = Budget::new(budget::Settings::of_participant(), now);
            self.participants.insert(id.clone(), Participant { paths, budget, present: true });
        }
        let participant = self.participants.get_mut(&id)?;
        if participant.budget.handle_packet(packet.payload.len(), now) == Verdict::Within {
            participant.paths.handle_packet(packet, now);
            let outputs = drain(&mut participant.paths);
            self.speak(&id, outputs).await;
        }
        None
    }

    fn note_present(&mut self, id: &ParticipantId, present: bool) {
        self.participants.entry(id.clone()).and_modify(|p| p.present = present);
    }

    /// Forgets one who has left and has said all; whether there was one.
    fn make_room(&mut self) -> bool {
        let mut all = self.participants.iter();
        let gone = all.find(|(_, p)| !p.present && p.paths.is_idle()).map(|(id, _)| id.clone());
        gone.is_some_and(|id| self.participants.remove(&id).is_some())
    }

    async fn each(&mut self, act: impl Fn(&mut Paths, Instant, Micros)) {
        let now = Instant::now();
        let wall = self.clock.wall(now);
        let mut spoken = vec![];
        for (id, participant) in &mut self.participants {
            act(&mut participant.paths, now, wall);
            spoken.push((id.clone(), drain(&mut participant.paths)));
        }
        for (id, outputs) in spoken {
            self.speak(&id, outputs).await;
        }
    }

    async fn speak(&self, id: &ParticipantId, outputs: Vec<Output>) {
        for output in outputs {
            let id = id.as_str().to_owned();
            self.say(match output {
                Output::Start { spurt, captured } => FromChild::Start { id, spurt, captured },
                Output::Item { spurt, offset, item, stages } => {
                    let packet = if let Item::Frame(packet) = item { Some(packet.to_vec()) } else { None };
                    FromChild::Item { id, spurt, offset, packet, stages }
                }
                Output::End { spurt, end } => FromChild::End { id, spurt, end },
            })
            .await;
        }
    }

    /// CPU time is that of this thread, told with the first participant.
    async fn tally(&mut self) {
        let cpu = thread_cpu().saturating_sub(self.cpu).as_micros() as u64;
        let mut tallies: Vec<(String, EdgeTotals)> = self
            .participants
            .iter()
            .map(|(id, p)| (id.as_str().to_owned(), p.paths.totals().fold(EdgeTotals::default(), EdgeTotals::plus)))
            .collect();
        match tallies.first_mut() {
            Some((_, totals)) => totals.media_cpu_us = cpu,
            None => tallies.push((String::new(), EdgeTotals::default())),
        }
        for (id, totals) in tallies {
            self.say(FromChild::Tally { id, totals }).await;
        }
    }

    async fn say(&self, message: FromChild) {
        // An error means that the parent is gone; the end of standard input says so, too.
        let _ = self.said.send(message).await;
    }
}

fn drain(paths: &mut Paths) -> Vec<Output> {
    std::iter::from_fn(|| paths.poll_output()).collect()
}

/// The child's runtime has one thread, which does all of its work.
fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}
