//! A meeting whose link to the core lets less pass than is said in it, in virtual time.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, missing_docs)]

mod signals;

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;
use edge_node::{
    connect::Event,
    decode::packet_duration,
    media::{ParticipantId, RtpPacket},
    meeting::{Beat, Meeting, Offer, Settings},
    uplink::{SpurtKey, Transmit},
};
use mesh::{
    clock::Micros,
    identity::NodeId,
    trace::TraceContext,
    wire::{
        Epoch, MeetingAlias, MeetingId, ParticipantAlias,
        control::ToEdge,
        request::{Assignment, Source, VadSettings},
        spurt::{Item, Step},
    },
};
use opus::{Application, Bitrate, Channels, Encoder};

const WALL: Micros = Micros(1_700_000_000_000_000);
const MS: Duration = Duration::from_millis(1);
const PACKET: Duration = Duration::from_millis(20);
const ALIAS: MeetingAlias = MeetingAlias(1);

fn core() -> NodeId {
    "core-1".parse().unwrap()
}

/// Twelve seconds: three sentences in a row, and quiet.
fn packets() -> Vec<Bytes> {
    let mut encoder = Encoder::new(16_000, Channels::Mono, Application::Voip).unwrap();
    encoder.set_bitrate(Bitrate::Bits(32_000)).unwrap();
    // A made-up voice would take less than the rate.
    encoder.set_vbr(false).unwrap();
    let sentence = [signals::talk(2000, 9000.0), signals::silence(400)].concat();
    let pcm = [sentence.repeat(3), signals::silence(4800)].concat();
    pcm.chunks_exact(320).map(|c| encoder.encode_vec(c, 1275).unwrap().into()).collect()
}

/// The edge's meeting, its core, and between them a link of so many bits per second.
struct World {
    t0: Instant,
    now: Duration,
    meeting: Meeting,
    packets: Vec<Bytes>,
    sent: u32,
    rate: u64,
    /// When the link has sent all that was given to it.
    busy: Duration,
    under_way: VecDeque<(Duration, Transmit)>,
    held: BTreeMap<SpurtKey, Held>,
    /// How long each item of 60 ms and each other was under way, and when it came.
    came: Vec<(Duration, Duration)>,
}

#[derive(Debug, Default)]
struct Held {
    items: u32,
    media: Duration,
    ended: Option<Step>,
    kinds: Vec<Duration>,
    begun: Duration,
}

impl World {
    fn new(ladder: bool, rate: u64) -> Self {
        let source = Source::Whep { url: "http://relay.example/whep".into(), token: None, participants: vec![] };
        let (meeting, vad) = (MeetingId::from_u128(7), VadSettings::default());
        let assignment =
            Assignment { meeting, epoch: Epoch(1), core: core(), source, vad, trace: TraceContext::new(1) };
        let t0 = Instant::now();
        let mut meeting = Meeting::new(Offer::assigned(assignment), Settings { ladder, ..Settings::default() }, t0);
        meeting.handle_up(&core(), false, t0);
        meeting.handle_opening(ALIAS, false, t0);
        Self {
            t0,
            now: Duration::ZERO,
            meeting,
            packets: packets(),
            sent: 0,
            rate,
            busy: Duration::ZERO,
            under_way: VecDeque::new(),
            held: BTreeMap::new(),
            came: vec![],
        }
    }

    fn at(&self) -> Instant {
        self.t0 + self.now
    }

    fn wall(&self) -> Micros {
        WALL.plus(self.now)
    }

    /// One participant talks for so long; what is waiting beyond 2 kB waits at the edge, as QUIC has it wait.
    fn go_on(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now += PACKET;
            let payload = self.packets[self.sent as usize % self.packets.len()].clone();
            self.step(Some(payload));
        }
    }

    /// Nobody says anything more.
    fn quiet(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now += PACKET;
            self.step(None);
        }
    }

    fn step(&mut self, payload: Option<Bytes>) {
        if let Some(payload) = payload {
            let packet = RtpPacket {
                participant: ParticipantId::new("p0").unwrap(),
                source: 1,
                sequence: self.sent as u16,
                timestamp: self.sent.wrapping_mul(960),
                level: None,
                payload,
                arrived: self.at(),
                arrived_at: self.wall(),
            };
            self.meeting.handle_event(Event::Packet(packet), self.at());
        }
        self.sent += 1;
        self.meeting.handle_timeout(self.at(), self.wall());
        if self.now.as_millis().is_multiple_of(260) {
            let short = self.busy > self.now + MS * 200;
            self.meeting.handle_beat(&core(), Beat { rtt: MS * 40, short, renewal: None }, self.at());
        }
        self.carry();
        self.arrive();
        while self.meeting.poll_control().is_some() {}
    }

    fn carry(&mut self) {
        while self.busy.saturating_sub(self.now) < Duration::from_secs_f64(2000.0 * 8.0 / self.rate as f64) {
            let Some(transmit) = self.meeting.poll_transmit(self.wall()) else { return };
            // QUIC, UDP and IP take 60 bytes of each packet.
            let bytes =
                if let Transmit::Item { item: Item::Frame(packet), .. } = &transmit { packet.len() + 60 } else { 1 };
            self.busy = self.busy.max(self.now) + Duration::from_secs_f64(bytes as f64 * 8.0 / self.rate as f64);
            self.under_way.push_back((self.busy + MS * 20, transmit));
        }
    }

    fn arrive(&mut self) {
        while let Some((_, transmit)) = self.under_way.pop_front_if(|(at, _)| *at <= self.now) {
            match transmit {
                Transmit::Open { key, offset, captured } => {
                    assert_eq!(offset, 0);
                    let held = self.held.entry(key).or_default();
                    held.begun = captured.since(WALL);
                }
                Transmit::Item { key, item } => {
                    let held = self.held.get_mut(&key).unwrap();
                    held.items += 1;
                    if let Item::Frame(packet) = item {
                        held.kinds.push(packet_duration(&packet).unwrap());
                    }
                    held.media += *held.kinds.last().unwrap();
                    self.came.push((self.now, self.now.saturating_sub(held.begun + held.media)));
                    let (participant, spurt, upto) = (key.participant, key.spurt, held.items);
                    let durable = ToEdge::Durable { alias: ALIAS, participant, spurt, upto };
                    self.meeting.handle_message(&core(), durable, self.at(), self.wall());
                }
                Transmit::End { key, end } => {
                    let held = self.held.get_mut(&key).unwrap();
                    assert_eq!(end.items, held.items);
                    held.ended = Some(end.step);
                    let (participant, spurt) = (key.participant, key.spurt);
                    let done = ToEdge::Done { alias: ALIAS, participant, spurt };
                    self.meeting.handle_message(&core(), done, self.at(), self.wall());
                }
            }
        }
    }

    /// How late speech came in the last `time`, at worst.
    fn lag(&self, time: Duration) -> Duration {
        self.came.iter().filter(|(at, _)| *at + time >= self.now).map(|(_, lag)| *lag).max().unwrap_or_default()
    }

    fn media(&self) -> Duration {
        self.held.values().map(|held| held.media).sum()
    }

    /// All that was said in `time` is there: as much as comes by a link that lets everything pass.
    fn check_whole(&self, time: Duration) {
        let mut wide = Self::new(false, 10_000_000);
        wide.go_on(time);
        wide.quiet(Duration::from_secs(5));
        assert!(wide.media() > time / 3, "the VAD hears no voice: {:?}", wide.media());
        let (media, least) = (self.media(), wide.media());
        // What is encoded anew ends on a frame of 20 ms.
        let most = least + PACKET * self.held.len() as u32;
        assert!(media >= least && media <= most, "{media:?} of {least:?}");
        assert!(self.held.values().all(|held| held.ended.is_some()));
        assert!(self.held.keys().all(|key| key.participant == ParticipantAlias(0)));
    }
}

#[test]
fn speech_steps_down_to_what_the_link_carries_and_comes_in_time_there() {
    // With 60 bytes around each packet this voice takes 56 kb/s as it comes, 25 at 24 kb/s, 21 at 16, 18 at 12.
    for rate in [44_000, 30_000, 23_000, 19_000] {
        let mut world = World::new(true, rate);
        world.go_on(Duration::from_secs(240));
        world.quiet(Duration::from_secs(60));
        let steps: Vec<Step> = world.held.values().filter_map(|held| held.ended).collect();
        let lag = world.lag(Duration::from_secs(200));
        println!("{rate} b/s: {steps:?}, late by {lag:?} at worst");
        assert!(steps.iter().filter(|step| **step == Step::PassThrough).count() < 2, "{steps:?}");
        assert!(steps.iter().all(|step| *step < Step::FinalOnly), "{steps:?}");
        // A try of the next step up among it.
        assert!(lag < Duration::from_millis(2500), "{lag:?}");
        world.check_whole(Duration::from_secs(240));

        let mut without = World::new(false, rate);
        without.go_on(Duration::from_secs(240));
        without.quiet(Duration::from_secs(60));
        let worse = without.lag(Duration::from_secs(200));
        println!("without a ladder: late by {worse:?} at worst");
        assert!(lag * 3 < worse * 2, "{lag:?}, without a ladder {worse:?}");
        assert!(without.held.values().all(|held| held.kinds.iter().all(|kind| *kind == PACKET)));
    }
}

#[test]
fn where_nothing_fits_spurts_come_whole_and_late_and_none_is_lost() {
    let mut world = World::new(true, 12_000);
    world.go_on(Duration::from_secs(120));
    assert!(world.meeting.is_thin());
    world.quiet(Duration::from_secs(120));
    let steps: Vec<Step> = world.held.values().filter_map(|held| held.ended).collect();
    println!("{steps:?}");
    assert_eq!(steps.last(), Some(&Step::FinalOnly));
    world.check_whole(Duration::from_secs(120));
}

#[test]
fn on_a_wide_link_and_when_it_is_wide_again_packets_are_the_source_s() {
    let mut world = World::new(true, 22_000);
    world.go_on(Duration::from_secs(60));
    assert!(world.meeting.is_thin());
    world.rate = 1_000_000;
    world.go_on(Duration::from_secs(180));
    assert!(!world.meeting.is_thin());
    world.quiet(Duration::from_secs(5));
    let last = world.held.values().last().unwrap();
    assert!(last.ended == Some(Step::PassThrough) && last.kinds.iter().all(|kind| *kind == PACKET));
    world.check_whole(Duration::from_secs(240));

    let mut wide = World::new(true, 200_000);
    wide.go_on(Duration::from_secs(120));
    wide.quiet(Duration::from_secs(5));
    assert!(wide.held.values().all(|held| held.ended == Some(Step::PassThrough)));
}
