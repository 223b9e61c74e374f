//! No frame crosses from one meeting to another: 1,000 meetings through the edge's and the core's machines, interleaved.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

#[path = "../../edge-node/tests/signals/mod.rs"]
mod signals;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use core_node::{
    edges::aliases::{Aliases, Caps, ROW_WAIT},
    key::SpurtKey,
    speech::ingest::{Ingest, Limits, Opened},
};
use edge_node::{
    connect::Event,
    media::{ParticipantId, RtpPacket},
    meeting::{Action, Meeting, Offer, Settings},
    uplink::Transmit,
};
use mesh::{
    clock::Micros,
    trace::TraceContext,
    wire::{
        Epoch, MeetingAlias, MeetingId, ParticipantAlias, SpurtNo,
        control::{CloseReason, ToCore, ToEdge},
        request::{Assignment, Source, VadSettings},
        spurt::{Item, Part, SpurtDecoder, SpurtHeader},
    },
};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use uuid::Uuid;

const MEETINGS: usize = 1000;
/// Edges, each with one connection to the core and aliases of its own that are the same numbers on all of them.
const EDGES: usize = 4;
const SPEAKERS: usize = 2;
const WALL: u64 = 1_700_000_000_000_000;

/// Speech that every speaker says, so that nothing but its tag tells one packet from another's.
fn speech() -> Vec<Vec<u8>> {
    let mut encoder = opus::Encoder::new(16_000, opus::Channels::Mono, opus::Application::Voip).unwrap();
    let (talk, pause) = (signals::talk(300, 12_000.0), signals::silence(400));
    let pcm = [&signals::silence(60)[..], &talk, &pause, &talk, &signals::silence(60)].concat();
    pcm.chunks_exact(320).map(|frame| encoder.encode_vec(frame, 1200).unwrap()).collect()
}

/// The packet with `tag` in its padding, which decoders skip (RFC 6716 section 3.2.5).
fn tagged(packet: &[u8], tag: Tag) -> Bytes {
    let (toc, frame) = packet.split_first().unwrap();
    assert_eq!(toc & 3, 0, "one frame");
    let tag = tag.bytes();
    let head = [toc | 3, 0x41, tag.len() as u8];
    Bytes::from([&head[..], frame, &tag[..]].concat())
}

/// Whose packet it is, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tag {
    meeting: u128,
    speaker: u16,
    number: u16,
}

impl Tag {
    fn bytes(self) -> [u8; 20] {
        let mut out = [0; 20];
        out[..16].copy_from_slice(&self.meeting.to_be_bytes());
        out[16..18].copy_from_slice(&self.speaker.to_be_bytes());
        out[18..].copy_from_slice(&self.number.to_be_bytes());
        out
    }

    fn of(packet: &[u8]) -> Self {
        let tag = &packet[packet.len() - 20..];
        Self {
            meeting: u128::from_be_bytes(tag[..16].try_into().unwrap()),
            speaker: u16::from_be_bytes(tag[16..18].try_into().unwrap()),
            number: u16::from_be_bytes(tag[18..].try_into().unwrap()),
        }
    }
}

/// One meeting at its edge, and what it has written that the core has not read.
struct Captured {
    id: MeetingId,
    edge: usize,
    alias: MeetingAlias,
    meeting: Meeting,
    sent: usize,
    streams: BTreeMap<(ParticipantAlias, SpurtNo), BytesMut>,
    over: bool,
}

/// One spurt stream as the core reads it.
#[derive(Default)]
struct Reading {
    decoder: SpurtDecoder,
    whose: Option<(MeetingId, SpurtKey)>,
    offset: u32,
}

struct World {
    now: Instant,
    speech: Vec<Vec<u8>>,
    links: Vec<Aliases>,
    meetings: Vec<Captured>,
    ingest: BTreeMap<MeetingId, Ingest>,
    reading: BTreeMap<(usize, MeetingAlias, ParticipantAlias, SpurtNo), Reading>,
    /// What the core has taken in, by meeting and speaker.
    taken: BTreeMap<(MeetingId, String), Vec<u16>>,
}

/// Every meeting has speakers of the same names.
fn speaker(n: usize) -> ParticipantId {
    ParticipantId::new(format!("speaker-{n}")).unwrap()
}

impl Captured {
    fn new(n: usize, now: Instant) -> Self {
        let id = Uuid::from_u128(0xA000_0000 + n as u128);
        let source = Source::Whep { url: "http://relay.example/whep".into(), token: None, participants: vec![] };
        let (core, trace) = ("core-1".parse().unwrap(), TraceContext::new(n as u128 + 1));
        let vad = VadSettings { preroll_ms: 60, hangover_ms: 60 };
        let assignment = Assignment { meeting: id, epoch: Epoch(1), core, source, vad, trace };
        let alias = MeetingAlias((n / EDGES) as u32);
        let mut meeting = Meeting::new(Offer::assigned(assignment), Settings::default(), now);
        while let Some(action) = meeting.poll_action() {
            assert!(matches!(action, Action::Watch(_) | Action::Turn(_)), "{action:?}");
        }
        let core = "core-1".parse().unwrap();
        meeting.handle_up(&core, false, now);
        meeting.handle_opening(alias, false, now);
        Self { id, edge: n % EDGES, alias, meeting, sent: 0, streams: BTreeMap::new(), over: false }
    }

    /// The next packet of each of its speakers.
    fn speak(&mut self, speech: &[Vec<u8>], now: Instant) {
        for n in 0..SPEAKERS {
            let tag = Tag { meeting: self.id.as_u128(), speaker: n as u16, number: self.sent as u16 };
            self.meeting.handle_event(
                Event::Packet(RtpPacket {
                    participant: speaker(n),
                    source: 1,
                    sequence: self.sent as u16,
                    timestamp: self.sent as u32 * 960,
                    level: None,
                    payload: tagged(&speech[self.sent], tag),
                    arrived: now,
                    arrived_at: wall(now, now),
                }),
                now,
            );
        }
        self.sent += 1;
    }

    /// Writes what the edge would.
    fn write(&mut self, at: Micros) {
        while let Some(transmit) = self.meeting.poll_transmit(at) {
            let mut bytes = BytesMut::new();
            let key = match transmit {
                Transmit::Open { key, offset, captured } => {
                    let (meeting, trace) = (self.alias, TraceContext::new(1));
                    let (participant, spurt) = (key.participant, key.spurt);
                    SpurtHeader { meeting, participant, spurt, offset, captured, trace }.encode(&mut bytes);
                    // The type byte is read by the node.
                    bytes = bytes.split_off(1);
                    key
                }
                Transmit::Item { key, item } => {
                    item.encode(&mut bytes);
                    key
                }
                Transmit::End { key, end } => {
                    Item::End(end).encode(&mut bytes);
                    key
                }
            };
            self.streams.entry((key.participant, key.spurt)).or_default().extend_from_slice(&bytes);
        }
    }
}

fn wall(now: Instant, begun: Instant) -> Micros {
    Micros(WALL).plus(now.duration_since(begun))
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let caps = Caps { meetings: MEETINGS, participants: SPEAKERS, row_wait: ROW_WAIT };
        let meetings: Vec<Captured> = (0..MEETINGS).map(|n| Captured::new(n, now)).collect();
        let limits = Limits { participants: SPEAKERS, ..Limits::default() };
        let ingest = meetings.iter().map(|m| (m.id, Ingest::new(limits))).collect();
        let links = (0..EDGES).map(|_| Aliases::new(caps)).collect();
        let (reading, taken) = (BTreeMap::new(), BTreeMap::new());
        Self { now, speech: speech(), links, meetings, ingest, reading, taken }
    }

    /// Some meeting moves on by a step.
    fn step(&mut self, rng: &mut StdRng) {
        let n = rng.random_range(0..self.meetings.len());
        self.now += Duration::from_micros(20);
        let (now, captured) = (self.now, &mut self.meetings[n]);
        match rng.random_range(0..4) {
            0 | 1 if captured.sent < self.speech.len() => captured.speak(&self.speech, now),
            0 | 1 if !captured.over => {
                captured.over = true;
                captured.meeting.leave(CloseReason::Asked, now, wall(now, now));
            }
            _ => {}
        }
        captured.write(Micros(WALL));
        self.control(n);
        self.read(n, rng);
    }

    /// The core hears the control stream at once; spurts may come later.
    fn control(&mut self, n: usize) {
        let captured = &mut self.meetings[n];
        let link = &mut self.links[captured.edge];
        while let Some(message) = captured.meeting.poll_control() {
            match message {
                ToCore::Open { alias, meeting, epoch, .. } => link.open(alias, meeting, epoch).unwrap(),
                ToCore::Participant { alias, participant, id, name, .. } => {
                    link.participant(alias, participant, &id, name.as_deref()).unwrap();
                }
                _ => {}
            }
        }
    }

    /// The core reads a piece of any length of each of the meeting's streams.
    fn read(&mut self, n: usize, rng: &mut impl Rng) {
        let (edge, alias) = (self.meetings[n].edge, self.meetings[n].alias);
        let streams: Vec<_> = self.meetings[n].streams.keys().copied().collect();
        for (participant, spurt) in streams {
            let bytes = self.meetings[n].streams.get_mut(&(participant, spurt)).unwrap();
            let piece = bytes.split_to(rng.random_range(0..=bytes.len()));
            self.take(n, (edge, alias, participant, spurt), &piece);
        }
    }

    fn take(&mut self, n: usize, stream: (usize, MeetingAlias, ParticipantAlias, SpurtNo), piece: &[u8]) {
        let mut reading = self.reading.remove(&stream).unwrap_or_default();
        reading.decoder.feed(piece);
        while let Some(part) = reading.decoder.poll().unwrap() {
            match part {
                Part::Header(header) => {
                    let (meeting, key) = self.links[stream.0].resolve(&header).unwrap();
                    let ingest = self.ingest.get_mut(&meeting).unwrap();
                    let opened = ingest.handle_header(&key, header.captured, header.trace, header.offset).unwrap();
                    assert!(matches!(opened, Opened::Ready { .. }));
                    (reading.whose, reading.offset) = (Some((meeting, key)), header.offset);
                }
                Part::Item(item) => self.item(n, &mut reading, item),
            }
        }
        self.reading.insert(stream, reading);
    }

    fn item(&mut self, n: usize, reading: &mut Reading, item: Item) {
        let (meeting, key) = reading.whose.clone().unwrap();
        let ended = matches!(item, Item::End(_));
        let ingest = self.ingest.get_mut(&meeting).unwrap();
        let append = ingest.handle_items(&key, reading.offset, vec![item]).unwrap();
        reading.offset += u32::from(!ended);
        if let Some(append) = append {
            for item in &append.items {
                if let Item::Frame(packet) = item {
                    let tag = Tag::of(packet);
                    let name = speaker(tag.speaker.into());
                    assert_eq!((tag.meeting, name.as_str()), (meeting.as_u128(), &*append.key.participant), "{tag:?}");
                    self.taken.entry((meeting, name.to_string())).or_default().push(tag.number);
                }
            }
            ingest.handle_logged(append.receipt());
        }
        while ingest.poll_event().is_some() {}
        if ended {
            ingest.handle_done(&key);
            let speaker = key.participant.trim_start_matches("speaker-").parse().unwrap();
            let done = ToEdge::Done {
                alias: self.meetings[n].alias,
                participant: ParticipantAlias(speaker),
                spurt: key.spurt,
            };
            let core = "core-1".parse().unwrap();
            self.meetings[n].meeting.handle_message(&core, done, self.now, Micros(WALL));
        }
    }

    fn is_over(&self) -> bool {
        self.meetings.iter().all(|m| m.over && m.meeting.is_over() && m.streams.values().all(BytesMut::is_empty))
    }
}

#[test]
fn of_a_thousand_meetings_no_frame_comes_out_in_another() {
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(7);
    println!("seed {seed}");
    let (mut rng, mut world) = (StdRng::seed_from_u64(seed), World::new());
    let mut steps = 0;
    while !world.is_over() {
        world.step(&mut rng);
        steps += 1;
        assert!(steps < 1_000_000, "it comes to no end; seed {seed}");
    }
    assert_eq!(world.taken.len(), MEETINGS * SPEAKERS, "every speaker was heard; seed {seed}");
    for ((meeting, who), numbers) in &world.taken {
        let (rising, holes) = numbers
            .windows(2)
            .fold((true, 0), |(rising, holes), w| (rising && w[1] > w[0], holes + usize::from(w[1] != w[0] + 1)));
        assert!(rising && holes <= 1, "{meeting} {who}: {numbers:?}; seed {seed}");
        assert!(numbers.len() >= 20, "{meeting} {who}: {numbers:?}; seed {seed}");
    }
    println!("{steps} steps, {} frames", world.taken.values().map(Vec::len).sum::<usize>());
}
