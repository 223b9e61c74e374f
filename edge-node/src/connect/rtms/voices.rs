//! What participants say, as packets of Opus.
//!
//! Zoom numbers nothing: audio comes over TCP in order, each piece with its time. What a participant did not send, muted, is a
//! step in time. Linear samples are encoded here, since the media path takes Opus.
//!
//! What was kept of the minute before we came arrives at once. It is handed on at ten times the speed of speech, and while some
//! of it waits no more is taken from the connection.

mod pcm;

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;
use mesh::clock::Micros;

use self::pcm::Coder;
use super::{
    clock::Clock,
    message::{self, Audio, Format},
};
use crate::{
    media::{ParticipantId, RtpPacket},
    toc::packet_duration,
};

/// Participants who are heard of; as many as a meeting has media paths for.
const MAX_VOICES: usize = 500;
/// Of those whose samples are encoded here, at a time: three speak, as Zoom has it.
const MAX_CODERS: usize = 16;
/// Packets that wait; while there are so many no more is read.
const FULL: usize = 256;
/// Packets a second of one participant that are handed on; half of what the meeting's budget allows one.
const RATE: f64 = 500.0;
/// Of which so many at once.
const BURST: f64 = 50.0;
/// What is off by less is rounding: less than a packet.
const SLACK_US: u64 = 15_000;
/// What goes back by less has been had before.
const REPEATED_US: u64 = 120_000_000;
/// Of a packet that says nothing else.
const USUAL: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Debug)]
pub(super) struct Voices {
    clock: Clock,
    format: Format,
    voices: BTreeMap<ParticipantId, Voice>,
    waiting: VecDeque<RtpPacket>,
}

#[derive(Debug)]
struct Voice {
    /// RTP's numbers, for the media path.
    source: u32,
    sequence: u16,
    /// When the last piece was made, and when the next one is if it follows at once; in microseconds.
    made: u64,
    next: u64,
    coder: Option<Coder>,
    heard: Instant,
    /// Packets that may be handed on, as of then.
    room: (f64, Instant),
}

impl Voices {
    /// Nobody has said anything. `wall` is what our wall clock shows at `now`.
    pub(super) fn new(now: Instant, wall: Micros) -> Self {
        Self { clock: Clock::new(now, wall), format: Format::OPUS, voices: BTreeMap::new(), waiting: VecDeque::new() }
    }

    /// Audio comes like this from now on.
    pub(super) fn handle_format(&mut self, format: Format) {
        self.format = format;
        self.voices.values_mut().for_each(|voice| voice.coder = None);
    }

    /// It was so late there when what has just come was sent.
    pub(super) fn handle_time(&mut self, time: u64, now: Instant) {
        self.clock.observe(time, now);
    }

    /// A piece of a voice has come.
    pub(super) fn handle_audio(&mut self, audio: Audio, now: Instant) {
        let Ok(id) = ParticipantId::new(&audio.user.id) else { return };
        let time = audio.time.saturating_mul(1000);
        if !self.voices.contains_key(&id) {
            self.make_room();
            let voice = Voice { source: 1, sequence: 0, made: 0, next: 0, coder: None, heard: now, room: (BURST, now) };
            self.voices.insert(id.clone(), voice);
        }
        if self.format.codec == message::L16 {
            self.limit_coders();
        }
        let Some(voice) = self.voices.get_mut(&id) else { return };
        let Some((time, follows)) = voice.place(time) else {
            metrics::counter!("nearfield_edge_connect_repeated_audio_total").increment(1);
            return;
        };
        voice.heard = now;
        match self.format.codec {
            message::L16 => {
                let rate = self.format.rate();
                if !follows {
                    voice.coder = None;
                }
                let coder = voice.coder.get_or_insert_with(|| Coder::new(rate));
                let (mut begins, length) = coder.push(time, &audio.data);
                voice.next = time + length;
                while let Some(packet) = coder.poll() {
                    let packet = number(&id, (voice.source, &mut voice.sequence), begins, packet, now, &mut self.clock);
                    self.waiting.push_back(packet);
                    begins += USUAL.as_micros() as u64;
                }
            }
            _ => {
                voice.next = time + packet_duration(&audio.data).unwrap_or(USUAL).as_micros() as u64;
                let numbers = (voice.source, &mut voice.sequence);
                let packet = number(&id, numbers, time, audio.data, now, &mut self.clock);
                self.waiting.push_back(packet);
            }
        }
    }

    /// Whether no more should be taken in before some is handed on.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= FULL
    }

    /// The next packet, if it is time for it.
    pub(super) fn poll_packet(&mut self, now: Instant) -> Option<RtpPacket> {
        let voice = self.voices.get_mut(&self.waiting.front()?.participant);
        if voice.is_some_and(|voice| !voice.spend(now)) {
            return None;
        }
        self.waiting.pop_front()
    }

    /// When it may be.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let (room, since) = self.voices.get(&self.waiting.front()?.participant)?.room;
        Some(since + Duration::from_secs_f64((1.0 - room).max(0.0) / RATE))
    }

    /// Forgets whoever has been quiet longest, where there are too many.
    fn make_room(&mut self) {
        if self.voices.len() < MAX_VOICES {
            return;
        }
        let quietest = self.voices.iter().min_by_key(|(_, voice)| voice.heard).map(|(id, _)| id.clone());
        quietest.into_iter().for_each(|id| drop(self.voices.remove(&id)));
    }

    /// The same of what encodes.
    fn limit_coders(&mut self) {
        let coding = self.voices.values_mut().filter(|voice| voice.coder.is_some());
        if coding.count() <= MAX_CODERS {
            return;
        }
        let coding = self.voices.values_mut().filter(|voice| voice.coder.is_some());
        coding.min_by_key(|voice| voice.heard).into_iter().for_each(|voice| voice.coder = None);
    }
}

impl Voice {
    /// Where what was made at `time` belongs, and whether it follows what was before at once; `None` if it was had before.
    fn place(&mut self, time: u64) -> Option<(u64, bool)> {
        let first = self.next == 0;
        if !first && time <= self.made && self.made - time < REPEATED_US {
            return None;
        }
        if time < self.made {
            // The clock there was set.
            self.source = self.source.wrapping_add(1);
        }
        self.made = time;
        if !first && time.abs_diff(self.next) <= SLACK_US {
            return Some((self.next, true));
        }
        Some((time, false))
    }

    /// Takes the room of a packet, if there is any.
    fn spend(&mut self, now: Instant) -> bool {
        let (room, since) = self.room;
        let room = (room + now.saturating_duration_since(since).as_secs_f64() * RATE).min(BURST);
        let enough = room >= 1.0 - 1e-6;
        self.room = (if enough { room - 1.0 } else { room }, now.max(since));
        enough
    }
}

fn number(
    id: &ParticipantId,
    (source, sequence): (u32, &mut u16),
    time: u64,
    payload: Bytes,
    now: Instant,
    clock: &mut Clock,
) -> RtpPacket {
    *sequence = sequence.wrapping_add(1);
    let arrived = clock.here(time, now);
    // At 48 kHz, of which the low 32 bits count.
    let timestamp = (time / 125 * 6 + time % 125 * 6 / 125) as u32;
    // Whoever takes it in puts its wall clock to `arrived`.
    let arrived_at = Micros(0);
    RtpPacket {
        participant: id.clone(),
        source,
        sequence: *sequence,
        timestamp,
        level: None,
        payload,
        arrived,
        arrived_at,
    }
}

#[cfg(test)]
mod tests;
