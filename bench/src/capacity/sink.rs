//! A core that takes everything: what a meeting at the edge has to say is written out, acknowledged and forgotten.

use std::{collections::BTreeMap, time::Instant};

use bytes::BytesMut;
use edge_node::{
    connect::Event,
    meeting::{Meeting, Offer, Settings},
    uplink::{SpurtKey, Transmit},
};
use mesh::{
    clock::Micros,
    identity::NodeId,
    trace::TraceContext,
    wire::{
        Epoch, MeetingAlias,
        control::{EdgeTotals, ToCore, ToEdge},
        request::{Assignment, Source, VadSettings},
        spurt::{Item, SpurtHeader},
    },
};
use uuid::Uuid;

/// Items after which the core says that they are durable, as a core does.
const DURABLE_EVERY: u32 = 10;
/// Bytes written before the buffer is used anew.
const BUFFER: usize = 16 * 1024;

/// A meeting and its core.
#[derive(Debug)]
pub(super) struct Sink {
    meeting: Meeting,
    core: NodeId,
    alias: MeetingAlias,
    trace: TraceContext,
    written: BTreeMap<SpurtKey, u32>,
    out: BytesMut,
    totals: EdgeTotals,
    /// Packets decoded since this was last taken.
    pub(super) decoded: u64,
}

impl Sink {
    pub(super) fn new(number: usize, source: Source, now: Instant) -> Self {
        let core: NodeId = "core".parse().expect("a name");
        let (alias, trace) = (MeetingAlias(number as u32), TraceContext::new(number as u128 + 1));
        let meeting = Uuid::from_u128(number as u128 + 1);
        let assignment =
            Assignment { meeting, epoch: Epoch(1), core: core.clone(), source, vad: VadSettings::default(), trace };
        let mut meeting = Meeting::new(Offer::assigned(assignment), Settings::default(), now);
        meeting.handle_up(&core, false, now);
        meeting.handle_opening(alias, false, now);
        let (written, out) = (BTreeMap::new(), BytesMut::new());
        Self { meeting, core, alias, trace, written, out, totals: EdgeTotals::default(), decoded: 0 }
    }

    pub(super) fn handle(&mut self, event: Event, now: Instant) {
        self.meeting.handle_event(event, now);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, wall: Micros) {
        if self.meeting.poll_timeout() <= now {
            self.meeting.handle_timeout(now, wall);
        }
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        self.meeting.poll_timeout()
    }

    /// Writes out what there is.
    pub(super) fn flush(&mut self, now: Instant, wall: Micros) {
        while self.meeting.poll_action().is_some() {}
        while let Some(transmit) = self.meeting.poll_transmit(wall) {
            self.write(transmit, now, wall);
        }
        while let Some(message) = self.meeting.poll_control() {
            if let ToCore::Stats { totals, .. } = message {
                self.decoded += totals.packets_decoded - self.totals.packets_decoded;
                self.totals = totals;
            }
        }
        // What a disk would be given.
        if !self.meeting.poll_spill(now).is_empty() {
            self.meeting.handle_spilled(Ok(vec![]), now);
        }
    }

    fn write(&mut self, transmit: Transmit, now: Instant, wall: Micros) {
        if self.out.len() > BUFFER {
            self.out.clear();
        }
        match transmit {
            Transmit::Open { key: SpurtKey { participant, spurt }, offset, captured } => {
                let (meeting, trace) = (self.alias, self.trace);
                SpurtHeader { meeting, participant, spurt, offset, captured, trace }.encode(&mut self.out);
            }
            Transmit::Item { key, item } => {
                item.encode(&mut self.out);
                let upto = self.written.entry(key).or_default();
                *upto += 1;
                if upto.is_multiple_of(DURABLE_EVERY) {
                    let upto = *upto;
                    self.durable(key, upto, now, wall);
                }
            }
            Transmit::End { key, end } => {
                Item::End(end).encode(&mut self.out);
                self.written.remove(&key);
                self.durable(key, end.items, now, wall);
                let SpurtKey { participant, spurt } = key;
                self.acknowledge(ToEdge::Done { alias: self.alias, participant, spurt }, now, wall);
            }
        }
    }

    fn durable(&mut self, SpurtKey { participant, spurt }: SpurtKey, upto: u32, now: Instant, wall: Micros) {
        self.acknowledge(ToEdge::Durable { alias: self.alias, participant, spurt, upto }, now, wall);
    }

    fn acknowledge(&mut self, message: ToEdge, now: Instant, wall: Micros) {
        let core = self.core.clone();
        self.meeting.handle_message(&core, message, now, wall);
    }
}
