//! From what was said, sent, held and heard to the summary.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use core_node::transcribe::{Clip, Transcriber};
use mesh::clock::Micros;
use serde::Deserialize;
use serde_json::Value;

use super::{participant_id, watch::Delivery};
use crate::{
    oracle::{self, Errors, Heard},
    relay,
    report::{Budget, Cpu, Durations, Packets, Summary},
    speech::Script,
};

/// The stages that a segment's stamps name, in their order.
pub(crate) const STAGES: [&str; 8] =
    ["captured", "decoded", "vad", "sent", "received", "durable", "words", "delivered"];
/// Length of every Opus packet of the relay.
const PACKET: Duration = Duration::from_millis(20);
/// Clocks of relay and edge are one, but a packet may wait in a queue.
const TOLERANCE: Duration = Duration::from_millis(40);
/// Bytes of a millisecond of 16 kHz PCM16.
const PCM16_PER_MS: u64 = 32;

/// Everything there is to judge by.
#[derive(Debug)]
pub(super) struct Evidence {
    pub(super) script: Script,
    pub(super) reference: Errors,
    pub(super) deliveries: Vec<Delivery>,
    pub(super) relay: relay::State,
    pub(super) sent: BTreeMap<String, Vec<relay::Sent>>,
    pub(super) meeting: Value,
    pub(super) spurts: Value,
    pub(super) edge_nearest: String,
    /// CPU seconds by node.
    pub(super) cpu: BTreeMap<String, f64>,
}

/// A talk spurt, as the core lists it.
#[derive(Debug, Deserialize)]
struct Spurt {
    participant: String,
    captured: Micros,
    durable: u32,
}

/// The word errors of the engine alone, given each line of the script as it was recorded.
///
/// # Errors
/// The engine fails.
pub(super) async fn reference(script: &Script, engine: Arc<dyn Transcriber>) -> Result<Errors> {
    let mut pairs = vec![];
    for line in &script.lines {
        let samples = line.samples.iter().map(|sample| f32::from(*sample) / 32768.0).collect();
        let text = engine.transcribe(Clip { samples, language: Some("en".into()) }).await?;
        pairs.push((line.text.clone(), text.text));
    }
    Ok(oracle::reference(pairs))
}

/// The summary of a run that has ended.
///
/// # Errors
/// The API's answers lack what is needed.
pub(super) fn summary(evidence: &Evidence) -> Result<Summary> {
    let started = evidence.relay.started_at.context("the relay never started: nobody joined it")?;
    let verdict = oracle::judge(&evidence.script, &heard(evidence, started)?);
    let totals = |key: &str| evidence.meeting["totals"][key].as_u64().unwrap_or(0);
    let durable = evidence.meeting["frames_durable"].as_u64().unwrap_or(0);
    let unsent = unsent(evidence)?;
    let settled: Durations = verdict.delays.iter().map(|delay| delay.settled).collect();
    let first: Durations = verdict.delays.iter().map(|delay| delay.first).collect();
    Ok(Summary {
        words: verdict.errors.words as u64,
        wer: verdict.errors.rate(),
        wer_reference: evidence.reference.rate(),
        speaker_accuracy: verdict.speaker_accuracy(),
        frames_forwarded: totals("packets_forwarded"),
        frames_durable: durable,
        frames_missing: totals("packets_forwarded").saturating_sub(durable) + unsent,
        uplink_bytes: totals("uplink_bytes"),
        pcm16_bytes: totals("media_ms_in") * PCM16_PER_MS,
        opus_bytes: totals("opus_bytes_in"),
        word_delay_ms: settled.percentiles(),
        first_word_delay_ms: first.percentiles(),
        edge_chosen: evidence.meeting["owner"]["edge"].as_str().unwrap_or_default().to_owned(),
        edge_nearest: evidence.edge_nearest.clone(),
        stages: budget(&evidence.deliveries).stages(),
        packets: Packets {
            received: totals("packets_in"),
            lost: totals("packets_lost"),
            decoded: totals("packets_decoded"),
            forwarded: totals("packets_forwarded"),
        },
        cpu: cpu(evidence, totals("media_cpu_us")),
        leftover_processes: 0,
    })
}

/// The deliveries as the oracle takes them: all times from the script's start.
fn heard(evidence: &Evidence, started: Micros) -> Result<Vec<Heard>> {
    let hear = |Delivery { at, segment }: &Delivery| {
        let time = |text: &str| -> Result<Duration> {
            let stamp: jiff::Timestamp = text.parse().with_context(|| format!("{text} is no RFC 3339 time"))?;
            Ok(Micros(stamp.as_microsecond() as u64).since(started))
        };
        let index = |id: &str| (0..evidence.script.participants).find(|n| participant_id(*n) == id);
        Ok(Heard {
            id: segment.id.clone(),
            participant: segment.participant.as_ref().and_then(|speaker| index(&speaker.id)),
            start: time(&segment.start_at)?,
            end: time(&segment.end_at)?,
            text: segment.text.clone(),
            is_final: segment.is_final,
            delivered: at.since(started),
        })
    };
    evidence.deliveries.iter().map(hear).collect()
}

/// Packets in which the relay's reference VAD heard somebody speak a line, and which no spurt on the core holds.
fn unsent(evidence: &Evidence) -> Result<u64> {
    let spurts: Vec<Spurt> = serde_json::from_value(evidence.spurts["spurts"].clone()).context("no list of spurts")?;
    let mut missing = 0;
    for (id, packets) in &evidence.sent {
        let held = |at: Micros| {
            spurts.iter().filter(|spurt| spurt.participant == *id).any(|spurt| {
                let end = spurt.captured.plus(PACKET * spurt.durable + TOLERANCE);
                spurt.captured <= at.plus(TOLERANCE) && at <= end
            })
        };
        missing += packets
            .iter()
            .filter(|packet| packet.voice && in_a_line(evidence, id, packet.index) && !held(packet.at))
            .count();
    }
    Ok(missing as u64)
}

/// Whether packet `index` of participant `id` is part of a line, and not a word that the VAD heard in noise.
fn in_a_line(evidence: &Evidence, id: &str, index: u32) -> bool {
    let at = PACKET * index;
    evidence
        .script
        .lines
        .iter()
        .any(|line| participant_id(line.participant) == id && line.start <= at && at < line.end())
}

fn budget(deliveries: &[Delivery]) -> Budget {
    let mut budget = Budget::new(&STAGES);
    for Delivery { at, segment } in deliveries.iter().filter(|delivery| delivery.segment.is_final) {
        let t = &segment.timing;
        budget.record(&[t.captured, t.decoded, t.vad, t.sent, t.received, t.durable, t.words, *at]);
    }
    budget
}

fn cpu(evidence: &Evidence, media_cpu_us: u64) -> Cpu {
    let seconds = evidence.script.duration.as_secs_f64();
    let edge = evidence.meeting["owner"]["edge"].as_str().unwrap_or_default();
    let of = |name: &str| evidence.cpu.get(name).copied().unwrap_or(0.0) / seconds;
    Cpu {
        edge_media: media_cpu_us as f64 / 1e6 / seconds,
        edge_process: of(edge),
        core_process: of(evidence.meeting["core"].as_str().unwrap_or_default()),
    }
}
