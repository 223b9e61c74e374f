//! The only loop that waits: moves bytes and time between a relay, a [`Meeting`] and a core.
#![allow(clippy::disallowed_methods, reason = "I/O shell: this is where the clocks are read")]

pub mod alarm;
pub mod clock;
mod cores;
mod disk;
mod relay;
mod writer;

use std::time::{Duration, Instant};

use mesh::{
    clock::Micros,
    tasks::Broken,
    trace::TraceContext,
    wire::{MeetingAlias, Version, cause::Cause, control::CloseReason},
};
use nix::time::{ClockId, clock_gettime};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use self::{
    alarm::Alarm,
    clock::Anchor,
    cores::Cores,
    disk::{Disk, Done},
    relay::Relay,
    writer::{WriteFailed, Writer, Writing},
};

use crate::{
    connect::{ConnectError, Connector, Event, Failure},
    guard::Pulse,
    link::{EVENTS, LinkEvent, Links, Tagged},
    meeting::{Action, Meeting, Offer, Settings},
    uplink::{
        Transmit,
        spill::{self, Recovered, Spill},
    },
};

/// Items written in one go before the loop looks around again.
const BATCH: usize = 64;
/// What the node tells a meeting's driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// Stay.
    Stay,
    /// Find a successor, then leave.
    HandOver,
    /// Leave.
    Leave,
}

/// What every meeting is run with.
#[derive(Clone)]
pub struct Tools {
    /// The ways to the cores.
    pub links: Links,
    /// How a meeting is run.
    pub settings: Settings,
    /// Where speech is spilled to; `None`: nowhere.
    pub spill: Option<spill::Settings>,
}

/// Runs a meeting until its last word is done or given up.
pub async fn run(
    offer: Offer,
    connector: Box<dyn Connector>,
    tools: Tools,
    orders: watch::Receiver<Order>,
    pulse: Pulse,
) {
    let meeting = Meeting::new(offer, tools.settings, Instant::now());
    let disk = Disk::new(tools.spill.map(|spill| Spill::new(spill, meeting.origin())));
    Driver { pulse, ..Driver::new(meeting, Relay::Ready(connector), disk, tools.links) }.run(orders).await;
    info!("meeting left");
}

/// Tells the core that this edge cannot go on with a meeting, and why: its own task of it is gone.
pub async fn give_up(offer: Offer, why: String, tools: Tools, orders: watch::Receiver<Order>) {
    let mut meeting = Meeting::new(offer, tools.settings, Instant::now());
    let failure = Failure { cause: Cause::EdgeFailed, why };
    meeting.handle_ended(Some(failure), Instant::now(), Anchor::now().wall(Instant::now()));
    Driver::new(meeting, Relay::Gone, Disk::new(None), tools.links).run(orders).await;
}

/// Uploads what an earlier process has captured and no core has.
pub async fn upload_late(found: Recovered, tools: Tools, orders: watch::Receiver<Order>) {
    let Recovered { origin, spill, rows, spurts } = found;
    info!(spurts = spurts.len(), core = %origin.core, "spilled speech found: bringing it home");
    let meeting = Meeting::recovered(origin, rows, spurts, tools.settings, Instant::now());
    Driver::new(meeting, Relay::Gone, Disk::new(Some(spill)), tools.links).run(orders).await;
    info!("spilled speech is home, or given up");
}

struct Driver {
    meeting: Meeting,
    clock: Anchor,
    cores: Cores,
    events: mpsc::Receiver<Tagged>,
    relay: Relay,
    trace: TraceContext,
    writing: Writing,
    /// A spurt written on the present stream is to be written again.
    unread: CancellationToken,
    disk: Disk,
    pulse: Pulse,
}

impl Driver {
    fn new(meeting: Meeting, relay: Relay, disk: Disk, links: Links) -> Self {
        let (events_tx, events) = mpsc::channel(EVENTS);
        let trace = meeting.origin().trace;
        let cores = Cores::new(links, events_tx, meeting.origin());
        let (clock, pulse) = (Anchor::now(), Pulse::default());
        let writing = Writing::Idle(Writer::new(MeetingAlias(0), trace, clock, None));
        let unread = CancellationToken::new();
        Self { meeting, clock, cores, events, relay, trace, writing, unread, disk, pulse }
    }

    async fn run(mut self, mut orders: watch::Receiver<Order>) {
        self.act().await;
        let (mut batch, mut alarm) = (vec![], Alarm::default());
        while !self.meeting.is_over() {
            self.pulse.beat(self.meeting.is_listening());
            self.flush().await;
            let deadline = self.writing.copies_due().into_iter().fold(self.meeting.poll_timeout(), Instant::min);
            tokio::select! {
                biased;
                Ok(()) = orders.changed() => {
                    let order = *orders.borrow_and_update();
                    self.obey(order);
                }
                () = alarm.wait(deadline) => self.repeat(),
                () = self.unread.cancelled() => {
                    self.unread = CancellationToken::new();
                    self.start_over("a spurt was not read").await;
                }
                (writer, bytes, result) = self.writing.done() => self.handle_written(writer, bytes, result).await,
                done = self.disk.done() => self.handle_disk(done),
                event = self.events.recv() => match event {
                    Some(event) => self.handle_link(event),
                    None => break,
                },
                (from, core, term) = self.cores.found() => {
                    self.check();
                    self.meeting.handle_moved(&from, core, term, Instant::now());
                }
                event = self.relay.next(&mut batch) => match event {
                    Ok(()) => self.handle_relay(&mut batch),
                    Err(ended) => self.handle_relay_end(ended),
                },
            }
            self.act().await;
        }
        self.flush().await;
        self.disk.close(self.meeting.is_settled()).await;
        self.relay.leave().await;
    }

    fn obey(&mut self, order: Order) {
        self.check();
        match order {
            Order::Stay => {}
            Order::HandOver => self.meeting.hand_over(Instant::now(), self.wall()),
            Order::Leave => self.meeting.leave(CloseReason::Drain, Instant::now(), self.wall()),
        }
    }

    /// First of all after each wait: is this edge still the owner?
    fn check(&mut self) {
        let now = Instant::now();
        if self.meeting.poll_timeout() <= now {
            let clock = self.clock;
            self.timed(|meeting, now| meeting.handle_timeout(now, clock.wall(now)));
        }
    }

    /// Does what the meeting wants of links and relay.
    async fn act(&mut self) {
        self.check();
        while let Some(action) = self.meeting.poll_action() {
            match action {
                Action::Watch(core) => self.cores.watch(core).await,
                Action::Unwatch(core) => self.cores.unwatch(&core),
                Action::Release => self.cores.release().await,
                Action::Turn(core) => {
                    self.cores.serving = core;
                    self.reopen();
                }
            }
        }
        if self.meeting.is_listening() {
            self.relay.join();
        } else if self.meeting.has_left() {
            self.relay.tell_to_leave();
        }
    }

    /// Starts over with the primary, if its link is up. A write under way is given up: the ring holds what it wrote.
    fn reopen(&mut self) {
        let (alias, peer) = self.cores.serving();
        let writer = Writer::new(alias, self.trace, self.clock, peer.clone());
        self.unread = writer.unread();
        self.writing = Writing::Idle(writer);
        if let Some(peer) = peer {
            self.meeting.handle_opening(alias, peer.wire() >= Version::V2, Instant::now());
        }
    }

    /// Copies of frames that no write takes along.
    fn repeat(&mut self) {
        if let Writing::Idle(writer) = &mut self.writing {
            let bytes = writer.repeat();
            self.meeting.account(Duration::ZERO, bytes);
        }
    }

    /// Hands on what the meeting has to say, as far as nothing is in the way.
    async fn flush(&mut self) {
        while let Some(message) = self.meeting.poll_control() {
            self.cores.send(message).await;
        }
        if matches!(self.writing, Writing::Idle(_)) {
            let wall = self.wall();
            let batch: Vec<Transmit> = std::iter::from_fn(|| self.meeting.poll_transmit(wall)).take(BATCH).collect();
            if !batch.is_empty()
                && let Writing::Idle(mut writer) = std::mem::replace(&mut self.writing, Writing::Broken)
            {
                writer.thin = self.meeting.is_thin();
                self.writing = Writing::Busy(Box::pin(writer.write(batch)));
            }
        }
        // The last of them may have closed the meeting.
        while let Some(message) = self.meeting.poll_control() {
            self.cores.send(message).await;
        }
        self.spill();
    }

    fn spill(&mut self) {
        if !self.disk.is_idle() {
            return;
        }
        if let Some(key) = self.meeting.poll_load() {
            return self.disk.read(key);
        }
        let records = self.meeting.poll_spill(Instant::now());
        if !records.is_empty() {
            self.disk.write(records);
        }
    }

    fn handle_disk(&mut self, done: Done) {
        match done {
            Done::Written(written) => self.meeting.handle_spilled(written, Instant::now()),
            Done::Gone(why) => self.meeting.handle_disk_gone(&why),
            Done::Read(key, items) => self.meeting.handle_loaded(key, items),
        }
    }

    async fn handle_written(&mut self, writer: Writer, bytes: u64, result: Result<(), WriteFailed>) {
        self.meeting.account(Duration::ZERO, bytes);
        match result {
            Ok(()) => self.writing = Writing::Idle(writer),
            Err(WriteFailed(why)) => {
                debug!(why, "a spurt could not be written");
                self.start_over("a spurt stream failed").await;
            }
        }
    }

    /// Whatever the cause, the ring still holds it: begin again on a fresh control stream.
    async fn start_over(&mut self, why: &'static str) {
        self.writing = Writing::Broken;
        self.cores.reset(why).await;
    }

    fn handle_link(&mut self, (core, alias, event): Tagged) {
        self.check();
        let serving = core == self.cores.serving;
        let Some(peer) = self.cores.peer_mut(&core, alias) else { return };
        let now = Instant::now();
        match event {
            // Its silence is taken as any core's is.
            LinkEvent::Connected(new) if !self.meeting.may_be_in(&new.identity.region) => {
                self.cores.handle_outside(&new.identity);
            }
            LinkEvent::Connected(new) => {
                let beats = new.wire() >= Version::V2;
                *peer = Some(new);
                self.meeting.handle_up(&core, beats, now);
                if serving {
                    self.reopen();
                }
            }
            LinkEvent::Disconnected => {
                *peer = None;
                self.meeting.handle_down(&core, now);
                if serving {
                    self.reopen();
                }
            }
            LinkEvent::Message(message) => self.meeting.handle_message(&core, message, now, self.wall()),
            LinkEvent::Beat(answer) => self.meeting.handle_beat(&core, answer, now),
            LinkEvent::Unanswered { alive, short } => self.meeting.handle_unanswered(&core, alive, short, now),
            LinkEvent::Renewed(renewal) => self.meeting.handle_renewed(&core, renewal, now),
            LinkEvent::Lost => self.meeting.handle_lost(&core, now, self.wall()),
        }
    }

    fn handle_relay(&mut self, batch: &mut Vec<Event>) {
        self.check();
        stamp(batch, self.clock);
        self.timed(|meeting, now| batch.drain(..).for_each(|event| meeting.handle_event(event, now)));
    }

    fn handle_relay_end(&mut self, ended: Result<Result<(), ConnectError>, Broken>) {
        let failure = match ended {
            Ok(Ok(())) => None,
            Ok(Err(e)) => Some(Failure::from(&e)),
            Err(e) => Some(Failure { cause: Cause::EdgeFailed, why: format!("the connector broke: {e}") }),
        };
        self.meeting.handle_ended(failure, Instant::now(), self.wall());
    }

    fn wall(&self) -> Micros {
        self.clock.wall(Instant::now())
    }

    /// Runs `work` on the meeting and books its CPU time.
    fn timed(&mut self, work: impl FnOnce(&mut Meeting, Instant)) {
        let before = thread_cpu();
        work(&mut self.meeting, Instant::now());
        self.meeting.account(thread_cpu().saturating_sub(before), 0);
    }
}

/// Stamps packets by the meeting's clock.
fn stamp(batch: &mut [Event], clock: Anchor) {
    for event in batch {
        if let Event::Packet(packet) = event {
            packet.arrived_at = clock.wall(packet.arrived);
        }
    }
}

fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{ParticipantId, RtpPacket};

    #[test]
    fn a_step_of_the_system_s_clock_shows_in_no_packet() {
        let (start, hour) = (Instant::now(), Duration::from_secs(3600));
        let clock = Anchor::new(start, Micros(1_700_000_000_000_000));
        let packet = |ms: u64, step: Duration| {
            Event::Packet(RtpPacket {
                participant: ParticipantId::new("p").expect("short"),
                source: 1,
                sequence: 0,
                timestamp: 0,
                level: None,
                payload: vec![8].into(),
                arrived: start + Duration::from_millis(ms),
                arrived_at: Micros(1_700_000_000_000_000).plus(Duration::from_millis(ms) + step),
            })
        };
        let mut batch = vec![packet(5, Duration::ZERO), packet(25, hour), packet(45, Duration::ZERO)];
        stamp(&mut batch, clock);
        let at = |event: &Event| if let Event::Packet(p) = event { p.arrived_at.0 - 1_700_000_000_000_000 } else { 0 };
        assert_eq!(batch.iter().map(at).collect::<Vec<_>>(), [5_000, 25_000, 45_000]);
    }
}
