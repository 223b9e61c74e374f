//! The product's way: [`SpurtSender`] as the edge's driver uses it, and the core's own [`Ingest`].

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Instant, SystemTime},
};

use anyhow::Result;
use bytes::Bytes;
use core_node::{
    key::SpurtKey,
    speech::ingest::{Event, Ingest, Limits},
};
use mesh::{
    clock::Micros,
    node::Peer,
    spurts::SpurtSender,
    trace::TraceContext,
    wire::{
        DATAGRAM_COPIES, Epoch, MeetingAlias, ParticipantAlias, SpurtNo,
        copies::Copies,
        spurt::{Item, Part, SpurtDecoder, SpurtEnd, SpurtHeader},
    },
};

use crate::link::clock::Clock;

/// Frames in a spurt: two seconds of speech.
const SPURT: u32 = 100;

/// One meeting's speech on its way out.
pub(super) struct Sender {
    spurts: SpurtSender,
}

impl Sender {
    pub(super) fn new(peer: Peer) -> Self {
        Self { spurts: SpurtSender::new(peer) }
    }

    pub(super) async fn wait(&mut self, until: Instant) {
        while let Some(copies) = self.spurts.poll_timeout().filter(|at| *at < until) {
            tokio::time::sleep_until(copies.into()).await;
            self.spurts.repeat(false, Instant::now());
        }
        tokio::time::sleep_until(until.into()).await;
    }

    /// Says frame `seq` of `of`; tracks begin and end their spurts at different times.
    pub(super) async fn say(&mut self, track: u32, seq: u32, of: u32, frame: Vec<u8>) -> Result<()> {
        let shifted = seq + track * 13;
        let (spurt, participant) = (SpurtNo(shifted / SPURT), ParticipantAlias(track as u16));
        let items = shifted % SPURT + 1;
        if seq == 0 || items == 1 {
            let (meeting, captured, trace) = (MeetingAlias(1), wall(), TraceContext::new(1));
            let header = SpurtHeader { meeting, participant, spurt, offset: 0, captured, trace };
            self.spurts.open(header, captured).await?;
        }
        self.spurts.write((participant, spurt), &Item::Frame(frame.into())).await?;
        if items == SPURT || seq + 1 == of {
            let items = items.min(seq + 1);
            let end = SpurtEnd { continues: true, ..SpurtEnd::of(items) };
            self.spurts.write((participant, spurt), &Item::End(end)).await?;
        }
        self.spurts.repeat(false, Instant::now());
        Ok(())
    }
}

/// One meeting's intake.
#[derive(Clone)]
pub(super) struct Receiver {
    ingest: Arc<Mutex<Ingest>>,
    clock: Arc<Clock>,
}

impl Receiver {
    pub(super) fn new(clock: Arc<Clock>) -> Self {
        Self { ingest: Arc::new(Mutex::new(Ingest::new(Limits::default()))), clock }
    }

    pub(super) fn handle_datagram(&self, datagram: Bytes) {
        if datagram.first() != Some(&DATAGRAM_COPIES) {
            return;
        }
        let Ok(copies) = Copies::decode(datagram.slice(1..)) else { return };
        let key = key(copies.participant, copies.spurt);
        self.with(|ingest| {
            if let Some(h) = copies.header.filter(|_| !ingest.knows(&key)) {
                ingest.handle_header(&key, h.captured, h.trace, h.offset).ok()?;
            }
            ingest.handle_copies(&key, copies.items).ok()?
        });
    }

    /// Reads one spurt's stream to its end.
    pub(super) async fn read(self, mut stream: quinn::RecvStream) {
        let (mut decoder, mut at) = (SpurtDecoder::default(), None);
        // The type byte.
        if stream.read_exact(&mut [0]).await.is_err() {
            return;
        }
        while let Ok(Some(chunk)) = stream.read_chunk(16 * 1024, true).await {
            decoder.feed(&chunk.bytes);
            let mut items = vec![];
            while let Ok(Some(part)) = decoder.poll() {
                match part {
                    Part::Header(h) => {
                        let key = key(h.participant, h.spurt);
                        self.with(|ingest| {
                            let _ = ingest.handle_header(&key, h.captured, h.trace, h.offset);
                            None
                        });
                        at = Some((key, h.offset));
                    }
                    Part::Item(item) => items.push(item),
                }
            }
            if let Some((key, offset)) = at.as_mut().filter(|_| !items.is_empty()) {
                let count = items.len() as u32;
                self.with(|ingest| ingest.handle_items(key, *offset, items).ok()?);
                *offset += count;
            }
        }
    }

    /// Stamps what the intake takes, and answers it as the log and the transcription task would.
    fn with(&self, take: impl FnOnce(&mut Ingest) -> Option<core_node::speech::ingest::Append>) {
        let mut ingest = self.ingest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(append) = take(&mut ingest) {
            let receipt = append.receipt();
            append.items.iter().for_each(|item| {
                if let Item::Frame(frame) = item {
                    self.clock.note_came(frame);
                }
            });
            ingest.handle_logged(receipt);
        }
        while let Some(event) = ingest.poll_event() {
            if let Event::Whole { key, .. } = event {
                ingest.handle_done(&key);
            }
        }
    }
}

fn key(participant: ParticipantAlias, spurt: SpurtNo) -> SpurtKey {
    SpurtKey { epoch: Epoch(1), participant: participant.0.to_string().as_str().into(), spurt }
}

fn wall() -> Micros {
    Micros::from_system(SystemTime::now())
}
