//! One participant's jitter buffer: order, duplicates, loss.
//!
//! What comes in order passes at once; only a hole makes what follows it wait, for as long as holes take to be filled on
//! this path ([`reorder_delay`]), after which the missing packets are given up as lost. Nothing is played out here, so there is no reason to delay all packets
//! by the worst jitter, as a buffer in front of a loudspeaker must.

mod capture;
pub mod reorder_delay;
mod stamps;

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;
use mesh::clock::Micros;

pub use self::capture::MediaTime;
use self::{capture::CaptureClock, reorder_delay::ReorderDelay, stamps::Stamps};
use crate::{
    media::{AudioLevel, RtpPacket},
    toc::{packet_duration, samples_to_duration},
};

/// A step in sequence numbers beyond these is a new source, not loss or reordering (RFC 3550 appendix A.1).
const MAX_DROPOUT: i16 = 3000;
const MAX_MISORDER: i16 = 100;
/// How far back a reordered packet's timestamp may lie: 10 s, since DTX may have been in between.
const MAX_BACK: i32 = 480_000;
/// By how much the timestamp may run ahead of the time that has passed: a queue of that length was let go.
const MAX_AHEAD: Duration = Duration::from_secs(2);
/// A sender that stood still without advancing its timestamp is believed after lagging this far ...
const MAX_LAG: Duration = Duration::from_secs(2);
/// ... for this long; a backlog after a network stall arrives faster.
const LAG_PROVEN: Duration = Duration::from_millis(200);
/// A timestamp off by less is rounding, not a pause.
const SLACK: Duration = Duration::from_millis(2);

/// What bounds a jitter buffer.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a hole is waited for.
    pub wait: reorder_delay::Settings,
    /// Packets held behind a hole; one more gives the hole up. At least 1.
    pub max_packets: usize,
    /// The same in bytes of payload.
    pub max_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { wait: reorder_delay::Settings::default(), max_packets: 64, max_bytes: 64 * 1024 }
    }
}

/// A packet in its place on the timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// When it begins, by the sender's clock.
    pub media: MediaTime,
    /// The same by our wall clock, free of jitter.
    pub captured: Micros,
    /// How long it plays.
    pub duration: Duration,
    /// The Opus packet: framing checked.
    pub payload: Bytes,
    /// The level the sender gave.
    pub level: Option<AudioLevel>,
    /// When it came off the socket, by the wall clock.
    pub arrived_at: Micros,
}

/// What comes out, in the order it was spoken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Emit {
    /// The next packet.
    Packet(Packet),
    /// So many packets are missing here; a [`Emit::Packet`] follows.
    Lost(u32),
    /// The sender sent nothing for this long (DTX, or muted).
    Pause(Duration),
    /// Another source begins: no decoder state survives this.
    Restart,
}

/// What went wrong on the way in, in packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Never came, or was no Opus packet.
    pub lost: u64,
    /// Came after its place had been given up, or filled.
    pub late: u64,
    /// Came twice while the first waited.
    pub duplicate: u64,
    /// Was no Opus packet, or of another source that did not last.
    pub malformed: u64,
    /// Sources that took over.
    pub restarts: u64,
}

/// The buffer. Calling contract: after each `handle_*`, [`JitterBuffer::poll`] until it has no more.
#[derive(Debug)]
pub struct JitterBuffer {
    settings: Settings,
    stamps: Stamps,
    timeline: Option<Timeline>,
    held: BTreeMap<u64, Held>,
    held_bytes: usize,
    /// A packet that fits nothing we know: the first of a new source, if the next one follows it.
    suspect: Option<RtpPacket>,
    reorder_delay: ReorderDelay,
    out: VecDeque<Emit>,
    counters: Counters,
}

/// Where the source stands; sequence numbers are unwrapped to u64.
#[derive(Debug)]
struct Timeline {
    clock: CaptureClock,
    newest: Newest,
    next_sequence: u64,
    next_media: MediaTime,
    /// The last packet's length, taken for that of a lost one.
    slot: Duration,
    lagging_since: Option<Instant>,
}

/// The packet furthest along, against which others are unwrapped.
#[derive(Debug, Clone, Copy)]
struct Newest {
    sequence: u64,
    media: MediaTime,
    timestamp: u32,
    arrived: Instant,
}

#[derive(Debug)]
struct Held {
    media: MediaTime,
    packet: RtpPacket,
}

/// How a packet lies to what came before it.
enum Place {
    At(u64, MediaTime),
    Elsewhere,
}

impl JitterBuffer {
    /// An empty buffer.
    pub fn new(settings: Settings) -> Self {
        Self {
            reorder_delay: ReorderDelay::new(settings.wait.clone()),
            settings,
            stamps: Stamps::default(),
            timeline: None,
            held: BTreeMap::new(),
            held_bytes: 0,
            suspect: None,
            out: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Takes a packet off the socket.
    pub fn handle_packet(&mut self, mut packet: RtpPacket, now: Instant) {
        if packet.payload.is_empty() {
            return self.handle_filler(packet, now);
        }
        let renewed = self.stamps.correct(&mut packet);
        let Some(timeline) = &mut self.timeline else {
            let timeline = self.timeline.insert(Timeline::new(&packet));
            let (sequence, media) = (timeline.next_sequence, timeline.next_media);
            self.insert(sequence, media, packet);
            return;
        };
        match timeline.place(&packet) {
            Place::At(sequence, media) => {
                self.suspect = None;
                if renewed {
                    timeline.clock.anchor(media, packet.arrived);
                }
                let media = timeline.advance(sequence, media, &packet);
                self.insert(sequence, media, packet);
            }
            Place::Elsewhere => self.handle_stranger(packet),
        }
        self.handle_timeout(now);
    }

    /// One without sound has only its number, so that it is not missing.
    fn handle_filler(&mut self, packet: RtpPacket, now: Instant) {
        if let Some(newest) = self.timeline.as_ref().map(|timeline| timeline.newest) {
            let steps = packet.sequence.wrapping_sub(newest.sequence as u16) as i16;
            if (-MAX_MISORDER..MAX_DROPOUT).contains(&steps)
                && let Some(sequence) = newest.sequence.checked_add_signed(steps.into())
            {
                self.insert(sequence, newest.media, packet);
            }
        }
        self.handle_timeout(now);
    }

    /// Gives up what has been waited for long enough.
    pub fn handle_timeout(&mut self, now: Instant) {
        while self.poll_timeout().is_some_and(|at| at <= now) {
            self.skip_hole();
        }
    }

    /// When a hole will be given up.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.missing_since().map(|first| first + self.reorder_delay.wait())
    }

    /// Since when it is known that what is next is missing.
    fn missing_since(&self) -> Option<Instant> {
        self.held.values().map(|held| held.packet.arrived).min()
    }

    /// The next thing in order.
    pub fn poll(&mut self) -> Option<Emit> {
        self.out.pop_front()
    }

    /// Waits for nothing any more.
    pub fn flush(&mut self) {
        while !self.held.is_empty() {
            self.skip_hole();
        }
    }

    /// What went wrong so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn insert(&mut self, sequence: u64, media: MediaTime, packet: RtpPacket) {
        let Some(timeline) = &self.timeline else { return };
        if sequence < timeline.next_sequence {
            self.counters.late += 1;
            self.reorder_delay.handle_late(sequence, packet.arrived);
            return;
        }
        if let Some(missing) = self.missing_since_before(sequence) {
            self.reorder_delay.handle_filled(packet.arrived.saturating_duration_since(missing));
        }
        let held = Held { media, packet };
        if sequence == timeline.next_sequence {
            // As nearly all come; the next one is never among those held.
            self.let_out(held);
            return self.release();
        }
        if self.held.contains_key(&sequence) {
            self.counters.duplicate += 1;
            return;
        }
        self.held_bytes += held.packet.payload.len();
        self.held.insert(sequence, held);
        while self.held.len() > self.settings.max_packets || self.held_bytes > self.settings.max_bytes {
            self.skip_hole();
        }
    }

    /// Since when it was known that this packet is missing, if a later one has come.
    fn missing_since_before(&self, sequence: u64) -> Option<Instant> {
        if self.held.is_empty() || self.held.contains_key(&sequence) {
            return None;
        }
        self.held.range(sequence..).map(|(_, held)| held.packet.arrived).min()
    }

    /// A packet of another source, or a stray. Two in a row are a source.
    fn handle_stranger(&mut self, packet: RtpPacket) {
        let Some(first) = self.suspect.take() else {
            self.suspect = Some(packet);
            return;
        };
        if !follows(&first, &packet) {
            self.counters.malformed += 1;
            self.suspect = Some(packet);
            return;
        }
        self.flush();
        let Some(timeline) = &mut self.timeline else { return };
        timeline.restart(&first);
        self.counters.restarts += 1;
        self.out.push_back(Emit::Restart);
        for packet in [first, packet] {
            if let Some(timeline) = &mut self.timeline
                && let Place::At(sequence, media) = timeline.place(&packet)
            {
                let media = timeline.advance(sequence, media, &packet);
                self.insert(sequence, media, packet);
            }
        }
    }

    /// Gives up what is missing before the first packet held.
    fn skip_hole(&mut self) {
        let (Some(timeline), Some((&first, _))) = (&mut self.timeline, self.held.first_key_value()) else { return };
        let missing = timeline.next_sequence..first;
        if !missing.is_empty() {
            timeline.next_sequence = first;
            let since = self.missing_since();
            since.into_iter().for_each(|since| self.reorder_delay.handle_given_up(missing.clone(), since));
            self.lose((missing.end - missing.start) as u32);
        }
        self.release();
    }

    fn lose(&mut self, count: u32) {
        self.counters.lost += u64::from(count);
        if let Some(timeline) = &mut self.timeline {
            timeline.next_media = timeline.next_media.after(timeline.slot * count);
        }
        match self.out.back_mut() {
            Some(Emit::Lost(before)) => *before += count,
            _ => self.out.push_back(Emit::Lost(count)),
        }
    }

    /// Lets out of what is held whatever is next in order.
    fn release(&mut self) {
        while let Some(timeline) = &self.timeline
            && let Some(held) = self.held.remove(&timeline.next_sequence)
        {
            self.held_bytes -= held.packet.payload.len();
            self.let_out(held);
        }
    }

    /// Lets out what is next in order.
    fn let_out(&mut self, held: Held) {
        let Some(timeline) = &mut self.timeline else { return };
        timeline.next_sequence += 1;
        match packet_duration(&held.packet.payload) {
            _ if held.packet.payload.is_empty() => {}
            Some(duration) => self.out.extend(timeline.emit(held, duration)),
            None => {
                self.counters.malformed += 1;
                self.lose(1);
            }
        }
    }
}

impl Timeline {
    fn new(first: &RtpPacket) -> Self {
        // The low 16 bits stay those of RTP; far from zero, so that a packet from before the first has a number too.
        let sequence = 1 << 32 | u64::from(first.sequence);
        let newest = Newest { sequence, media: MediaTime(0), timestamp: first.timestamp, arrived: first.arrived };
        Self {
            clock: CaptureClock::new(first.arrived, first.arrived_at),
            newest,
            next_sequence: sequence,
            next_media: newest.media,
            slot: Duration::from_millis(20),
            lagging_since: None,
        }
    }

    fn place(&self, packet: &RtpPacket) -> Place {
        let newest = self.newest;
        let steps = packet.sequence.wrapping_sub(newest.sequence as u16) as i16;
        let samples = packet.timestamp.wrapping_sub(newest.timestamp) as i32;
        let ahead = packet.arrived.saturating_duration_since(newest.arrived) + MAX_AHEAD;
        let fits = match steps {
            0 => samples == 0,
            1..MAX_DROPOUT => samples > 0 && samples_to_duration(samples as u64) <= ahead,
            _ => steps > -MAX_MISORDER && samples < 0 && samples > -MAX_BACK,
        };
        let sequence = newest.sequence.checked_add_signed(i64::from(steps));
        match sequence {
            Some(sequence) if fits => {
                Place::At(sequence, MediaTime(newest.media.0.saturating_add_signed(samples.into())))
            }
            _ => Place::Elsewhere,
        }
    }

    /// Takes note of a packet that fits; its media time, moved if the sender's clock had stood still.
    fn advance(&mut self, sequence: u64, media: MediaTime, packet: &RtpPacket) -> MediaTime {
        if sequence < self.newest.sequence {
            return media;
        }
        let media = self.catch_up(media, packet.arrived);
        self.clock.observe(media, packet.arrived);
        self.newest = Newest { sequence, media, timestamp: packet.timestamp, arrived: packet.arrived };
        media
    }

    fn catch_up(&mut self, media: MediaTime, arrived: Instant) -> MediaTime {
        if self.clock.lateness(media, arrived) < MAX_LAG {
            self.lagging_since = None;
            return media;
        }
        let since = *self.lagging_since.get_or_insert(arrived);
        if arrived.saturating_duration_since(since) < LAG_PROVEN {
            return media;
        }
        self.lagging_since = None;
        self.clock.media_at(arrived)
    }

    /// Begins again with another source's `first`, where the wall clock says we are.
    fn restart(&mut self, first: &RtpPacket) {
        let media = self.clock.media_at(first.arrived).max(self.next_media);
        let sequence = ((self.newest.sequence >> 16) + 2) << 16 | u64::from(first.sequence);
        self.newest = Newest { sequence, media, timestamp: first.timestamp, arrived: first.arrived };
        self.next_sequence = sequence;
        self.next_media = media;
        self.lagging_since = None;
    }

    /// The packet, and before it the pause that its timestamp tells of.
    fn emit(&mut self, held: Held, duration: Duration) -> impl Iterator<Item = Emit> + use<> {
        let pause = held.media.since(self.next_media);
        let media = held.media.max(self.next_media.before(SLACK));
        self.next_media = media.after(duration);
        self.slot = duration;
        let RtpPacket { payload, level, arrived_at, .. } = held.packet;
        let packet = Packet { media, captured: self.clock.captured(media), duration, payload, level, arrived_at };
        let pause = (pause > SLACK).then_some(Emit::Pause(pause));
        pause.into_iter().chain([Emit::Packet(packet)])
    }
}

/// Whether `second` is the packet after `first`.
fn follows(first: &RtpPacket, second: &RtpPacket) -> bool {
    let samples = second.timestamp.wrapping_sub(first.timestamp) as i32;
    let elapsed = second.arrived.saturating_duration_since(first.arrived) + MAX_AHEAD;
    second.sequence == first.sequence.wrapping_add(1) && samples > 0 && samples_to_duration(samples as u64) <= elapsed
}

#[cfg(test)]
mod tests;
