//! What a meeting costs on the way from the edge to the core, against other ways to send it.

use std::time::Duration;

use anyhow::Result;
use bytes::BytesMut;
use edge_node::pipeline::Settings;
use mesh::{
    clock::Micros,
    trace::TraceContext,
    wire::{
        MeetingAlias, ParticipantAlias, SpurtNo,
        request::VadSettings,
        spurt::{EdgeStages, Item, SpurtEnd, SpurtHeader},
    },
};

use crate::{
    speech::{Manner, Prompt, SAMPLE_RATE, Script},
    vad::{Forwarded, encode, forward, labelled},
};

/// How people talk: one at a time, two for a tenth of the time, nobody for a seventh.
const PEOPLE: usize = 6;

/// Bytes of payload and of what Nearfield adds to it; what UDP, TCP and TLS add is in none of them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Bytes {
    /// What the edge sends.
    pub(super) uplink: u64,
    /// 16 bits, 16 kHz, of everybody.
    pub(super) pcm16: u64,
    /// All Opus packets of everybody.
    pub(super) opus: u64,
    /// The share of time in which nobody talks, and in which two or more do.
    pub(super) nobody: f64,
    pub(super) several: f64,
}

/// A meeting of six for so long.
pub(super) fn meeting(duration: Duration, prompts: &[Prompt], seed: u64) -> Result<Bytes> {
    let ms = Duration::from_millis;
    let manner = Manner { overlap: 0.42, over: ms(500)..ms(1300), pause: ms(100)..ms(900), ..Manner::default() };
    let script = Script::generate(seed, PEOPLE, duration, prompts, &manner);
    let mut bytes = Bytes::default();
    for participant in 0..PEOPLE {
        let sent = encode(&script.track(participant), super::BITRATE)?;
        bytes.opus += sent.packets.iter().map(|p| p.len() as u64).sum::<u64>();
        bytes.pcm16 += duration.as_millis() as u64 * SAMPLE_RATE as u64 / 1000 * 2;
        bytes.uplink += wire(&forward(&sent, VadSettings::default(), Settings::default())?);
    }
    (bytes.nobody, bytes.several) = shares(&script);
    Ok(bytes)
}

/// As the edge writes it: each spurt a stream.
fn wire(forwarded: &Forwarded) -> u64 {
    // Stamps as large as real ones, which take more bytes than small ones.
    let now = Micros(1_700_000_000_000_000);
    let stages = EdgeStages { captured: now, decoded: now, vad: now, sent: now };
    let (meeting, participant, trace) = (MeetingAlias(1), ParticipantAlias(1), TraceContext::new(u128::MAX));
    let mut out = BytesMut::new();
    for (n, (_, items)) in forwarded.spurts.iter().enumerate() {
        let spurt = SpurtNo(n as u32);
        SpurtHeader { meeting, participant, spurt, offset: 0, captured: now, trace }.encode(&mut out);
        items.iter().for_each(|item| item.encode(&mut out));
        Item::End(SpurtEnd { stages, ..SpurtEnd::of(items.len() as u32) }).encode(&mut out);
    }
    out.len() as u64
}

/// The shares of time in which nobody and in which several talk, by labels of 10 ms.
fn shares(script: &Script) -> (f64, f64) {
    let mut talking = vec![0u8; (script.duration.as_millis() / 10) as usize];
    for line in &script.lines {
        let (_, speech) = labelled(&line.samples);
        let at = (line.start.as_millis() / 10) as usize;
        talking.iter_mut().skip(at).zip(&speech).for_each(|(n, s)| *n += u8::from(*s));
    }
    let share = |of: fn(&u8) -> bool| talking.iter().filter(|n| of(n)).count() as f64 / talking.len().max(1) as f64;
    (share(|n| *n == 0), share(|n| *n > 1))
}
