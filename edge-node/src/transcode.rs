//! Speech encoded anew where the link to the core lets less pass than the source sends.
//!
//! Between the pipeline and the ring, so that what is in the ring is what is sent, however often. The packets of a spurt
//! may change their kind wherever the step changes: each says by itself how long it is (RFC 6716 section 3.1), and a
//! decoder follows. Encoded anew is 16 kHz mono in frames of 60 ms, without holes: what was lost before is concealed here.
//!
//! Calling contract: [`Transcoder::push`] each output in its order; what it yields takes its place.

use std::collections::VecDeque;

use bytes::Bytes;
use mesh::wire::{
    SpurtNo,
    spurt::{EdgeStages, Item, SpurtEnd, Step},
};
use opus::{Application, Bandwidth, Bitrate, Channels, Encoder};

use crate::{
    decode::{Decoder, SAMPLE_RATE},
    spurt::Output,
};

/// Samples in 60 ms.
const FRAME: usize = SAMPLE_RATE as usize * 60 / 1000;
/// Frames at a spurt's end may be of 20 and 40 ms, too: SILK knows no others of interest.
const PART: usize = FRAME / 3;
/// Packets before the first that is encoded anew, for the decoder to converge on (RFC 7845 section 4.2: 80 ms).
const WARM_UP: usize = 5;
/// Effort of the encoder, 0 to 10: above it, it costs more and sounds the same at these rates.
const COMPLEXITY: i32 = 5;
/// More bytes than a frame has at any of the steps' rates.
const MAX_FRAME: usize = 640;

/// One spurt's at a time.
#[derive(Debug, Default)]
pub struct Transcoder {
    open: Option<Open>,
    coder: Option<Box<Coder>>,
    /// The last packets of the spurt, as they came.
    recent: VecDeque<Bytes>,
    frames: u64,
}

/// The spurt under way.
#[derive(Debug)]
struct Open {
    spurt: SpurtNo,
    items: u32,
    lowest: Step,
    stages: EdgeStages,
}

#[derive(Debug)]
struct Coder {
    decoder: Decoder,
    encoder: Encoder,
    step: Step,
    pcm: Vec<i16>,
    /// Slots without a packet since the last one.
    gaps: u32,
    /// The last packet's length in samples.
    slot: usize,
}

impl Transcoder {
    /// Takes the next output, and yields what is to be sent on `step` instead.
    pub fn push(&mut self, output: Output, step: Step, out: &mut impl FnMut(Output)) {
        match output {
            Output::Start { spurt, .. } => {
                let stages = EdgeStages::default();
                self.open = Some(Open { spurt, items: 0, lowest: Step::PassThrough, stages });
                self.coder = None;
                self.recent.clear();
                out(output);
            }
            Output::Item { item, stages, .. } => {
                let Some(open) = &mut self.open else { return };
                open.stages = stages;
                match item {
                    Item::Frame(packet) => self.frame(packet, step, out),
                    Item::Gap => self.gap(out),
                    Item::End(_) => {}
                }
            }
            Output::End { end, .. } => self.end(end, out),
        }
    }

    /// The spurt under way.
    pub fn spurt(&self) -> Option<SpurtNo> {
        self.open.as_ref().map(|open| open.spurt)
    }

    /// Packets that were yielded so far.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    fn frame(&mut self, packet: Bytes, step: Step, out: &mut impl FnMut(Output)) {
        if step == Step::PassThrough {
            self.finish_coder(&packet, out);
            self.yield_item(Item::Frame(packet.clone()), Step::PassThrough, out);
        } else {
            let recent = &self.recent;
            let coder = self.coder.get_or_insert_with(|| Box::new(Coder::new(recent)));
            coder.turn_to(step);
            coder.hear(&packet);
            self.yield_frames(out);
        }
        if self.recent.len() == WARM_UP {
            self.recent.pop_front();
        }
        self.recent.push_back(packet);
    }

    fn gap(&mut self, out: &mut impl FnMut(Output)) {
        match &mut self.coder {
            Some(coder) => coder.gaps += 1,
            None => self.yield_item(Item::Gap, Step::PassThrough, out),
        }
    }

    fn end(&mut self, end: SpurtEnd, out: &mut impl FnMut(Output)) {
        self.finish_coder(&[], out);
        if let Some(Open { spurt, items, lowest, .. }) = self.open.take() {
            out(Output::End { spurt, end: SpurtEnd { items, step: lowest, ..end } });
        }
        self.recent.clear();
    }

    /// Back to the source's own packets, or to nothing: what was heard goes out, the rest of a slot as silence.
    fn finish_coder(&mut self, next: &[u8], out: &mut impl FnMut(Output)) {
        let Some(coder) = &mut self.coder else { return };
        coder.conceal(next);
        coder.pcm.resize(coder.pcm.len().next_multiple_of(PART), 0);
        self.yield_frames(out);
        if let Some(coder) = self.coder.take()
            && !coder.pcm.is_empty()
        {
            let (step, mut coder) = (coder.step, coder);
            let rest = coder.pcm.len();
            let packet = coder.encode(rest);
            self.yield_item(Item::Frame(packet), step, out);
        }
    }

    fn yield_frames(&mut self, out: &mut impl FnMut(Output)) {
        while let Some(coder) = self.coder.as_mut().filter(|coder| coder.pcm.len() >= FRAME) {
            let (step, packet) = (coder.step, coder.encode(FRAME));
            self.yield_item(Item::Frame(packet), step, out);
        }
    }

    fn yield_item(&mut self, item: Item, step: Step, out: &mut impl FnMut(Output)) {
        let Some(open) = &mut self.open else { return };
        self.frames += u64::from(matches!(item, Item::Frame(_)));
        out(Output::Item { spurt: open.spurt, offset: open.items, item, stages: open.stages });
        open.items += 1;
        open.lowest = open.lowest.max(step);
    }
}

impl Coder {
    fn new(recent: &VecDeque<Bytes>) -> Self {
        let mut decoder = Decoder::new();
        let mut slot = PART;
        recent.iter().for_each(|packet| slot = decoder.decode(packet).len());
        let mut encoder = Encoder::new(SAMPLE_RATE, Channels::Mono, Application::Voip).expect("libopus encodes speech");
        // Constants within the ranges that libopus documents.
        encoder.set_complexity(COMPLEXITY).expect("0 to 10");
        encoder.set_bandwidth(Bandwidth::Wideband).expect("8 kHz");
        Self { decoder, encoder, step: Step::PassThrough, pcm: Vec::with_capacity(2 * FRAME), gaps: 0, slot }
    }

    fn turn_to(&mut self, step: Step) {
        if self.step != step
            && let Some(rate) = step.bitrate()
        {
            self.encoder.set_bitrate(Bitrate::Bits(rate)).expect("12 to 24 kb/s");
            self.step = step;
        }
    }

    fn hear(&mut self, packet: &[u8]) {
        self.conceal(packet);
        let pcm = self.decoder.decode(packet);
        self.slot = pcm.len();
        self.pcm.extend_from_slice(pcm);
    }

    /// Fills the slots before `next`: silence where guessing would be pointless.
    fn conceal(&mut self, next: &[u8]) {
        let count = std::mem::take(&mut self.gaps);
        for nth in 0..count {
            let upto = self.pcm.len() + self.slot;
            self.pcm.extend_from_slice(self.decoder.conceal(nth, count, next));
            self.pcm.resize(upto, 0);
        }
    }

    /// The first `samples` of what was heard as one packet: 320, 640 or 960.
    fn encode(&mut self, samples: usize) -> Bytes {
        let packet = self.encoder.encode_vec(&self.pcm[..samples], MAX_FRAME);
        self.pcm.drain(..samples);
        packet.expect("libopus encodes 20, 40 and 60 ms at 16 kHz").into()
    }
}

#[cfg(test)]
mod tests;
