//! What the edge does, on the packets a relay would send: gate, then Silero on what is decoded; and the edge's own
//! media path as a whole.

use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use edge_node::{
    decode::Decoder,
    gate::{Gate, Verdict, loudness},
    media::{AudioLevel, ParticipantId, RtpPacket},
    pipeline::{Output, Pipeline, Settings},
    vad::{Activity, Vad},
};
use mesh::{
    clock::Micros,
    wire::{request::VadSettings, spurt::Item},
};
use opus::{Application, Bitrate, Channels, Encoder};

use super::{
    corpus::FRAME,
    engines::{Scores, cpu},
    judge::fill,
};

/// Samples of a packet: 20 ms.
pub const PACKET: usize = 320;
/// The same in time.
pub const PACKET_TIME: Duration = Duration::from_millis(20);
/// The score of what nobody listened to.
const UNHEARD: f32 = -1.0;
/// The score of speech that the gate believes.
const BELIEVED: f32 = 1.0;

/// A participant's packets.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Opus.
    pub packets: Vec<Bytes>,
    /// As RFC 6464 has them; the sender's own detector says nothing.
    pub levels: Vec<AudioLevel>,
    /// By how many samples the decoded sound is late.
    pub delay: usize,
}

/// What a cascade made of a recording.
#[derive(Debug, Clone)]
pub struct Cascaded {
    /// What was decoded has Silero's scores, all else less than any. CPU time of gate and detector, without decoding.
    pub scores: Scores,
    /// Packets decoded.
    pub decoded: u64,
}

/// What went through the edge's whole media path.
#[derive(Debug, Clone)]
pub struct Forwarded {
    /// For each packet sent.
    pub packets: Vec<bool>,
    /// Talk spurts, each from the number of its first packet on.
    pub spurts: Vec<(usize, Vec<Item>)>,
    /// Whether the next one continues it, for each of them.
    pub continues: Vec<bool>,
    /// Packets decoded.
    pub decoded: u64,
}

/// 16 kHz `pcm` as 20 ms packets of `bitrate` bit/s, in libopus' manner for speech.
///
/// # Errors
/// libopus refuses.
pub fn encode(pcm: &[i16], bitrate: i32) -> Result<Sent> {
    let mut encoder = Encoder::new(crate::speech::SAMPLE_RATE as u32, Channels::Mono, Application::Voip)?;
    encoder.set_bitrate(Bitrate::Bits(bitrate))?;
    let delay = encoder.get_lookahead()? as usize;
    let packet = |chunk: &[i16]| Ok(Bytes::from(encoder.encode_vec(chunk, 1275)?));
    let packets = pcm.chunks_exact(PACKET).map(packet).collect::<Result<_>>()?;
    let levels = pcm.chunks_exact(PACKET).map(|chunk| AudioLevel { dbov: dbov(chunk), voice: false }).collect();
    Ok(Sent { packets, levels, delay })
}

/// Level as RFC 6464 has it: 0 loud, 127 silent.
fn dbov(pcm: &[i16]) -> u8 {
    let power = pcm.iter().map(|s| (f64::from(*s) / 32768.0).powi(2)).sum::<f64>() / pcm.len().max(1) as f64;
    (-10.0 * power.log10()).clamp(0.0, 127.0).round() as u8
}

/// All of it decoded, in time with what was encoded.
pub fn decode(sent: &Sent) -> Vec<i16> {
    let mut decoder = Decoder::new();
    let pcm: Vec<i16> = sent.packets.iter().flat_map(|packet| decoder.decode(packet).to_vec()).collect();
    let late = sent.delay.min(pcm.len());
    let mut aligned = pcm[late..].to_vec();
    aligned.resize(pcm.len(), 0);
    aligned
}

struct Listener {
    decoder: Decoder,
    vad: Vad,
    /// Hears the same as the detector, which keeps its probabilities to itself.
    ear: silero::Ear,
    pending: Vec<i16>,
    /// Where in the recording `pending` begins.
    at: usize,
}

/// Gate and detector on `sent`, one packet after the other, as in the edge.
pub fn cascade(sent: &Sent, settings: &Settings) -> Cascaded {
    let mut gate = Gate::new(settings.gate.clone());
    let mut listener: Option<Listener> = None;
    let mut unheard = 0;
    let frames = sent.packets.len() * PACKET / FRAME;
    let mut heard = Cascaded { scores: Scores { scores: vec![UNHEARD; frames], cpu: Duration::ZERO }, decoded: 0 };
    for (n, (packet, level)) in sent.packets.iter().zip(&sent.levels).enumerate() {
        let start = cpu();
        let activity = listener.as_ref().map_or(Activity::Silence, |l| l.vad.activity());
        let verdict = gate.judge(packet, Some(*level), activity);
        heard.scores.cpu += cpu() - start;
        let late = |packet: usize| (packet * PACKET).saturating_sub(sent.delay);
        match verdict {
            Verdict::Quiet => {
                listener = None;
                continue;
            }
            Verdict::Speech => {
                fill(&mut heard.scores.scores, late(n), PACKET, BELIEVED);
                unheard += 1;
                continue;
            }
            Verdict::Doubtful => {}
        }
        let first = match &mut listener {
            None => n.saturating_sub(settings.warm_up),
            Some(open) if unheard > 0 => {
                let first = n - settings.catch_up.min(unheard);
                open.resume(late(first));
                first
            }
            Some(_) => n,
        };
        unheard = 0;
        let open = listener.get_or_insert_with(|| Listener::new(settings, late(first)));
        let loud = sent.packets[first..=n].iter().map(|packet| open.hear(packet, &mut heard)).last();
        gate.learn(PACKET_TIME, Some(*level), loud.unwrap_or(u8::MAX), open.vad.activity());
    }
    heard
}

impl Listener {
    fn new(settings: &Settings, at: usize) -> Self {
        let vad = Vad::new(settings.vad.clone());
        Self { decoder: Decoder::new(), vad, ear: silero::Ear::rested(), pending: vec![], at }
    }

    fn resume(&mut self, at: usize) {
        self.vad.resume();
        self.pending.clear();
        self.at = at;
    }

    /// Returns how loud it was.
    fn hear(&mut self, packet: &[u8], heard: &mut Cascaded) -> u8 {
        let pcm = self.decoder.decode(packet);
        heard.decoded += 1;
        let start = cpu();
        self.vad.push(pcm);
        let loud = loudness(pcm);
        heard.scores.cpu += cpu() - start;
        self.pending.extend_from_slice(pcm);
        let blocks = self.pending.as_chunks().0;
        let whole = blocks.len() * silero::BLOCK;
        for block in blocks {
            fill(&mut heard.scores.scores, self.at, silero::BLOCK, self.ear.hear(block));
            self.at += silero::BLOCK;
        }
        self.pending.drain(..whole);
        loud
    }
}

/// The whole media path on `sent`, packet after packet in virtual time.
pub fn forward(sent: &Sent, vad: VadSettings, settings: Settings) -> Result<Forwarded> {
    #[allow(clippy::disallowed_methods, reason = "where virtual time begins is of no matter")]
    let begin = Instant::now();
    let mut pipeline = Pipeline::new(vad, settings);
    let participant = ParticipantId::new("bench")?;
    let mut forwarded =
        Forwarded { packets: vec![false; sent.packets.len()], spurts: vec![], continues: vec![], decoded: 0 };
    for (n, (payload, level)) in sent.packets.iter().zip(&sent.levels).enumerate() {
        let arrived = begin + PACKET_TIME * n as u32;
        let packet = RtpPacket {
            participant: participant.clone(),
            source: 1,
            sequence: n as u16,
            timestamp: (n as u32).wrapping_mul(960),
            level: Some(*level),
            payload: payload.clone(),
            arrived,
            arrived_at: wall(n),
        };
        pipeline.handle_packet(packet, arrived);
        forwarded.take(&mut pipeline);
    }
    pipeline.finish(begin + PACKET_TIME * sent.packets.len() as u32, wall(sent.packets.len()));
    forwarded.take(&mut pipeline);
    forwarded.decoded = pipeline.totals().packets_decoded;
    Ok(forwarded)
}

/// The wall clock at the `n`th packet: any hour will do.
fn wall(n: usize) -> Micros {
    Micros(EPOCH + n as u64 * PACKET_TIME.as_micros() as u64)
}

const EPOCH: u64 = 1_700_000_000_000_000;

impl Forwarded {
    fn take(&mut self, pipeline: &mut Pipeline) {
        while let Some(output) = pipeline.poll_output() {
            match output {
                Output::Start { captured, .. } => {
                    let since = captured.0.saturating_sub(EPOCH);
                    self.spurts.push(((since + 10_000) as usize / PACKET_TIME.as_micros() as usize, vec![]));
                    self.continues.push(false);
                }
                Output::Item { offset, item, .. } => {
                    let Some((first, items)) = self.spurts.last_mut() else { continue };
                    if let Some(passed) = self.packets.get_mut(*first + offset as usize) {
                        *passed = true;
                    }
                    items.push(item);
                }
                Output::End { end, .. } => self.continues.last_mut().into_iter().for_each(|last| *last = end.continues),
            }
        }
    }

    /// The same by frames of a label.
    pub fn frames(&self) -> Vec<bool> {
        self.packets.iter().flat_map(|passed| [*passed; PACKET / FRAME]).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Bursts that Silero takes for a voice now and then; what matters is that packets differ.
    fn sound() -> Vec<i16> {
        let wave = |n: usize| ((n * n / 700 % 200) as f64 / 100.0 - 1.0) * 6000.0;
        (0..16_000 * 12).map(|n| if n / 24_000 % 2 == 1 { wave(n) as i16 } else { (n * 7919 % 13) as i16 }).collect()
    }

    #[test]
    fn the_cascade_decodes_what_the_edge_decodes() {
        let sent = encode(&sound(), 24_000).unwrap();
        let cascaded = cascade(&sent, &Settings::default());
        let forwarded =
            forward(&sent, VadSettings::default(), Settings { vad: hangover(), ..Settings::default() }).unwrap();
        assert!(cascaded.decoded > 0 && cascaded.decoded < sent.packets.len() as u64, "{}", cascaded.decoded);
        assert_eq!(cascaded.decoded, forwarded.decoded);
    }

    fn hangover() -> edge_node::vad::Settings {
        let hangover = Duration::from_millis(VadSettings::default().hangover_ms.into());
        edge_node::vad::Settings { hangover, ..Default::default() }
    }

    #[test]
    fn what_is_forwarded_is_what_was_sent_at_that_time() {
        let sent = encode(&sound(), 24_000).unwrap();
        let forwarded = forward(&sent, VadSettings::default(), Settings::default()).unwrap();
        assert!(!forwarded.spurts.is_empty());
        for (first, items) in &forwarded.spurts {
            for (n, item) in items.iter().enumerate() {
                assert_eq!(*item, Item::Frame(sent.packets[first + n].clone()));
            }
        }
    }
}
