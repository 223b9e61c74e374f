//! The media path of one source of a participant as one machine: jitter, gate, decode, VAD, spurt.
//!
//! Calling contract: after each `handle_*` and after [`Pipeline::finish`], [`Pipeline::poll_output`] until it has no
//! more, then wait for a packet or [`Pipeline::poll_timeout`].
//!
//! While the gate is closed packets pass undecoded and there is no decoder and no VAD: what state they had would be
//! stale after the gap anyhow. The gate's first doubt makes new ones, which first hear the last
//! [`Settings::warm_up`] packets kept as pre-roll, so that the decoder has converged and the VAD has its context when
//! the doubtful packet comes. A participant who never speaks costs neither. Speech that the gate believes passes them
//! by, too; when it is in doubt again they first hear the last [`Settings::catch_up`] packets.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;
use mesh::{
    clock::Micros,
    wire::{
        control::EdgeTotals,
        request::VadSettings,
        spurt::{EdgeStages, Item},
    },
};

pub use crate::spurt::Output;
use crate::{
    decode::Decoder,
    gate::{self, Gate, Verdict},
    jitter::{self, Emit, JitterBuffer, Packet},
    media::RtpPacket,
    spurt::{self, Assembler, MAX_GAPS, Slot},
    vad::{self, Activity, Vad},
};

/// Pre-roll and hangover are cut to these, whatever a meeting asks for.
const MAX_PREROLL: Duration = Duration::from_secs(2);
const MAX_HANGOVER: Duration = Duration::from_secs(5);
/// How much longer than the hangover a spurt waits for packets that do not come.
const MISSING_TIMEOUT: Duration = Duration::from_millis(100);

/// How the parts are set. A meeting's own [`VadSettings`] go before the hangover and pre-roll in here.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Order and loss.
    pub jitter: jitter::Settings,
    /// What is worth decoding.
    pub gate: gate::Settings,
    /// What is speech.
    pub vad: vad::Settings,
    /// How speech is cut into spurts.
    pub spurt: spurt::Settings,
    /// Packets decoded before the first doubtful one, of 20 ms; more where they are shorter. Opus converges within about 80 ms
    /// (RFC 7845 section 4.2).
    pub warm_up: usize,
    /// The same after speech that was not listened to: its last moments, a pause of the voice among them.
    pub catch_up: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            jitter: jitter::Settings::default(),
            gate: gate::Settings::default(),
            vad: vad::Settings::default(),
            spurt: spurt::Settings::default(),
            warm_up: 5,
            catch_up: 10,
        }
    }
}

/// The media path of one source.
#[derive(Debug)]
pub struct Pipeline {
    settings: Settings,
    jitter: JitterBuffer,
    gate: Gate,
    /// There while the gate is open.
    ear: Option<Box<Ear>>,
    spurts: Assembler,
    /// Packets lost just before the next one.
    lost: u32,
    /// The last packet's length: that of a gap after it.
    slot: Duration,
    last_heard: Option<Instant>,
    totals: EdgeTotals,
    media_in: Duration,
}

/// What listens.
#[derive(Debug)]
struct Ear {
    decoder: Decoder,
    vad: Vad,
    /// The last packets of speech that passed unheard.
    unheard: VecDeque<Bytes>,
}

impl Ear {
    fn new(settings: vad::Settings) -> Self {
        Self { decoder: Decoder::new(), vad: Vad::new(settings), unheard: VecDeque::new() }
    }

    /// Lets speech pass; the last `kept` packets of it can be heard later.
    fn pass(&mut self, payload: Bytes, kept: usize) {
        if self.unheard.len() >= kept {
            self.unheard.pop_front();
        }
        self.unheard.push_back(payload);
    }

    /// Hears what of the speech before was kept, and how many packets that was.
    fn catch_up(&mut self) -> u64 {
        if self.unheard.is_empty() {
            return 0;
        }
        self.vad.resume();
        let count = self.unheard.len() as u64;
        for payload in std::mem::take(&mut self.unheard) {
            self.hear(&payload);
        }
        count
    }

    /// Returns how loud it was, in -dBov.
    fn hear(&mut self, payload: &[u8]) -> u8 {
        let pcm = self.decoder.decode(payload);
        self.vad.push(pcm);
        gate::loudness(pcm)
    }
}

impl Pipeline {
    /// The media path of a participant who has said nothing yet; its first spurt is number 0.
    pub fn new(vad: VadSettings, mut settings: Settings) -> Self {
        settings.vad.hangover = Duration::from_millis(vad.hangover_ms.into()).min(MAX_HANGOVER);
        // Pre-roll is counted back from the onset, which is recognised a little later.
        settings.spurt.preroll =
            Duration::from_millis(vad.preroll_ms.into()).min(MAX_PREROLL) + settings.vad.onset_delay();
        Self::with(settings)
    }

    /// One that is set like this, and has heard nothing.
    pub fn another(&self) -> Self {
        Self::with(self.settings.clone())
    }

    fn with(settings: Settings) -> Self {
        Self {
            jitter: JitterBuffer::new(settings.jitter.clone()),
            gate: Gate::new(settings.gate.clone()),
            ear: None,
            spurts: Assembler::new(settings.spurt.clone()),
            settings,
            lost: 0,
            slot: Duration::from_millis(20),
            last_heard: None,
            totals: EdgeTotals::default(),
            media_in: Duration::ZERO,
        }
    }

    /// Whether nothing of what was said is under way in here.
    pub fn is_idle(&self) -> bool {
        !self.spurts.is_open() && self.spurts.is_drained()
    }

    /// Takes a packet off the socket. Its arrival stamps tell the wall clock, too.
    pub fn handle_packet(&mut self, packet: RtpPacket, now: Instant) {
        self.totals.packets_in += 1;
        self.totals.opus_bytes_in += packet.payload.len() as u64;
        let wall = packet.arrived_at.plus(now.saturating_duration_since(packet.arrived));
        self.jitter.handle_packet(packet, now);
        self.drain_jitter(now, wall);
    }

    /// A deadline has passed, or may have.
    pub fn handle_timeout(&mut self, now: Instant, wall: Micros) {
        self.jitter.handle_timeout(now);
        self.drain_jitter(now, wall);
        if self.hush().is_some_and(|at| at <= now) {
            self.spurts.end(false);
            self.ear = None;
        }
    }

    /// When [`Pipeline::handle_timeout`] is next wanted.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.jitter.poll_timeout(), self.hush()].into_iter().flatten().min()
    }

    /// The next output.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.spurts.poll()?;
        if let Output::Item { item: Item::Frame(_), .. } = output {
            self.totals.packets_forwarded += 1;
        }
        Some(output)
    }

    /// Waits for nothing any more and ends the spurt under way.
    pub fn finish(&mut self, now: Instant, wall: Micros) {
        self.jitter.flush();
        self.drain_jitter(now, wall);
        self.spurts.leave();
        self.ear = None;
    }

    /// What it has done so far; what happens after the pipeline (uplink, CPU) is left zero.
    pub fn totals(&self) -> EdgeTotals {
        let media_ms_in = self.media_in.as_millis() as u64;
        EdgeTotals { media_ms_in, packets_lost: self.jitter.counters().lost, ..self.totals }
    }

    /// What went wrong with packets on their way in.
    pub fn counters(&self) -> jitter::Counters {
        self.jitter.counters()
    }

    /// When an open spurt is over because nothing comes any more: sent DTX, muted, or gone.
    fn hush(&self) -> Option<Instant> {
        let quiet = match self.ear.as_ref().map(|ear| ear.vad.activity()) {
            Some(Activity::Pause(quiet)) => quiet,
            Some(Activity::Speech) => Duration::ZERO,
            _ => return None,
        };
        Some(self.last_heard? + self.settings.vad.hangover.saturating_sub(quiet) + MISSING_TIMEOUT)
    }

    fn drain_jitter(&mut self, now: Instant, wall: Micros) {
        while let Some(emit) = self.jitter.poll() {
            match emit {
                Emit::Packet(packet) => {
                    self.last_heard = Some(now);
                    self.hear(packet, wall);
                }
                Emit::Lost(count) => self.lost += count,
                Emit::Pause(time) => self.pause(time, wall),
                Emit::Restart => {
                    self.ear = None;
                    self.lost = 0;
                    self.spurts.cut();
                }
            }
        }
    }

    /// The next packet in order.
    fn hear(&mut self, packet: Packet, wall: Micros) {
        self.media_in += packet.duration;
        self.bridge_loss(&packet, wall);
        self.slot = packet.duration;
        let verdict = self.gate.judge(&packet.payload, packet.level, self.activity());
        let activity = match verdict {
            Verdict::Speech => {
                self.pass(&packet.payload);
                Activity::Speech
            }
            Verdict::Doubtful => {
                self.warm_up();
                let dbov = self.listen(&packet.payload);
                let activity = self.activity();
                self.gate.learn(packet.duration, packet.level, dbov, activity);
                activity
            }
            Verdict::Quiet => {
                self.ear = None;
                Activity::Silence
            }
        };
        let stages = EdgeStages { captured: packet.arrived_at, decoded: wall, ..EdgeStages::default() };
        let Packet { payload, captured, duration, .. } = packet;
        self.spurts.push(Slot { payload: Some(payload), captured, duration, stages }, activity, wall);
    }

    /// Opens the ear, if it is not, with what was kept of the moments before.
    fn warm_up(&mut self) {
        if self.ear.is_some() {
            self.catch_up();
            return;
        }
        self.ear = Some(Box::new(Ear::new(self.settings.vad.clone())));
        let before: Vec<Bytes> =
            self.spurts.kept(self.count(self.settings.warm_up)).filter_map(|slot| slot.payload.clone()).collect();
        for payload in before {
            self.listen(&payload);
        }
    }

    /// Returns how loud it was, in -dBov.
    fn listen(&mut self, payload: &[u8]) -> u8 {
        let Some(ear) = &mut self.ear else { return u8::MAX };
        self.totals.packets_decoded += 1;
        ear.hear(payload)
    }

    fn pass(&mut self, payload: &Bytes) {
        let kept = self.count(self.settings.catch_up);
        if let Some(ear) = &mut self.ear {
            ear.pass(payload.clone(), kept);
        }
    }

    /// So many packets of 20 ms in those that come now.
    fn count(&self, packets: usize) -> usize {
        const USUAL: usize = 20_000;
        packets.max(packets * USUAL / (self.slot.as_micros() as usize).max(1))
    }

    fn catch_up(&mut self) {
        if let Some(ear) = &mut self.ear {
            self.totals.packets_decoded += ear.catch_up();
        }
    }

    /// Puts gaps where packets were lost before `next`, and lets the VAD hear them concealed.
    fn bridge_loss(&mut self, next: &Packet, wall: Micros) {
        let count = std::mem::take(&mut self.lost);
        if count == 0 {
            return;
        }
        if count > MAX_GAPS {
            self.hole();
            return;
        }
        self.catch_up();
        for nth in 0..count {
            if let Some(ear) = &mut self.ear {
                match ear.decoder.conceal(nth, count, &next.payload) {
                    [] => ear.vad.skip(self.slot),
                    pcm => ear.vad.push(pcm),
                }
            }
            self.gap(wall);
        }
    }

    /// Time in which the sender sent nothing.
    fn pause(&mut self, time: Duration, wall: Micros) {
        let slots = (time.as_micros() / self.slot.as_micros().max(1)) as u64;
        if slots > u64::from(MAX_GAPS) {
            self.hole();
            return;
        }
        self.catch_up();
        for _ in 0..slots {
            if let Some(ear) = &mut self.ear {
                ear.vad.skip(self.slot);
            }
            self.gap(wall);
        }
    }

    /// One slot without a packet. Its capture time is of no use: a spurt does not begin with a gap.
    fn gap(&mut self, wall: Micros) {
        let activity = self.activity();
        let stages = EdgeStages { captured: wall, decoded: wall, ..EdgeStages::default() };
        self.spurts.push(Slot { payload: None, captured: wall, duration: self.slot, stages }, activity, wall);
    }

    /// Too much is missing for one side of it to tell about the other.
    fn hole(&mut self) {
        self.ear = None;
        self.spurts.cut();
    }

    fn activity(&self) -> Activity {
        self.ear.as_ref().map_or(Activity::Silence, |ear| ear.vad.activity())
    }
}
