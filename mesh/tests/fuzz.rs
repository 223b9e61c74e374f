//! The fuzz targets over their seeds, and over what becomes of these when they are damaged.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

#[path = "../../fuzz/seeds.rs"]
mod seeds;

use bytes::BytesMut;
use mesh::{
    clock::Micros,
    codec, fuzzing,
    mandate::{EdgeKey, Proof},
    trace::TraceContext,
    wire::{
        Epoch, MeetingAlias, MeetingId, ParticipantAlias, SpurtNo, Term,
        control::{CloseReason, EdgeState, EdgeTotals, RefusedReason, ToCore, ToEdge},
        copies::Copies,
        request::{Assignment, Join, LeaseAnswer, LeaseProof, Replica, Request, Response, Source, VadSettings},
        spurt::{Item, SpurtEnd, SpurtHeader},
    },
};
use proptest::prelude::*;

#[test]
fn gossip_takes_damaged_seeds() {
    seeds::take_damage("gossip", fuzzing::gossip);
}

#[test]
fn one_node_s_claims_are_believed_of_itself_alone() {
    seeds::take_damage("forgery", fuzzing::forgery);
}

#[test]
fn the_control_codec_takes_damaged_seeds() {
    seeds::take_damage("control", fuzzing::control);
}

#[test]
fn spurt_streams_take_damaged_seeds() {
    seeds::take_damage("spurt", fuzzing::spurt);
}

#[test]
fn leases_take_damaged_seeds() {
    seeds::take_damage("lease", fuzzing::lease);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn leases_take_any_wishes(data in prop::collection::vec(any::<u8>(), 0..600)) {
        fuzzing::lease(&data);
    }
}

/// Writes the seeds anew: `cargo test -p mesh --test fuzz -- --ignored`.
#[test]
#[ignore = "writes the seeds; to be run when messages have changed"]
fn write_seeds() {
    for (target, seeds) in
        [("gossip", gossip()), ("forgery", claims()), ("control", control()), ("spurt", spurts()), ("lease", leases())]
    {
        seeds::write(target, &seeds);
    }
}

fn gossip() -> Vec<Vec<u8>> {
    let packets = fuzzing::introduction();
    let framed = |p: &Vec<u8>| [&(p.len() as u16).to_be_bytes()[..], p].concat();
    let all = packets.iter().flat_map(framed).collect();
    packets.iter().take(5).map(framed).chain([all]).collect()
}

fn claims() -> Vec<Vec<u8>> {
    let each = (0..9u8).flat_map(|kind| [[kind, 2, 1, 0], [kind, 0, 2, 40], [kind, 1, 5, 63]]);
    let downs = [[0, 2, 2, 0], [1, 2, 2, 1], [4, 2, 0, 0], [0, 0, 2, 0], [5, 0, 0, 0], [5, 0, 0, 0], [5, 0, 0, 0]];
    vec![each.flatten().collect(), downs.concat()]
}

fn control() -> Vec<Vec<u8>> {
    let (alias, participant, spurt) = (MeetingAlias(1), ParticipantAlias(2), SpurtNo(3));
    let (meeting, epoch, term, trace) = (MeetingId::from_u128(7), Epoch(9), Term(1), TraceContext::new(7));
    let core: mesh::identity::NodeId = "core-1".parse().unwrap();
    let source = Source::Janus {
        url: "wss://relay.example".into(),
        room: 7,
        pin: Some(mesh::wire::request::Secret("1234".into())),
        token: None,
        api_secret: None,
        display: "notes".into(),
    };
    let assignment = Assignment { meeting, epoch, core: core.clone(), source, vad: VadSettings::default(), trace };
    let to_core = [
        ToCore::Hello { software: "edge".into() },
        ToCore::Serve { alias, meeting, epoch, term, trace },
        ToCore::Participant {
            alias,
            participant,
            id: "p".into(),
            name: Some("N".into()),
            unheard: Some("PCMU".into()),
        },
        ToCore::State { alias, state: EdgeState::Reconnecting { silent_ms: 5000 }, detail: Some("lost".into()) },
        ToCore::Stats { alias, totals: EdgeTotals::default() },
        ToCore::Close { alias, reason: CloseReason::Asked },
        ToCore::Standby { alias, core: Some(core.clone()), number: 7 },
    ];
    let to_edge = [
        ToEdge::Durable { alias, participant, spurt, upto: 4 },
        ToEdge::Refused { alias, reason: RefusedReason::StaleEpoch },
        ToEdge::Moved { alias, core: core.clone(), term },
        ToEdge::Beat { seq: 9, lease_ms: 1500 },
    ];
    let (key, proof, regions) = (EdgeKey::default(), Proof::default(), vec!["eu-central".parse().unwrap()]);
    let leases = vec![LeaseProof { meeting, epoch, proof }];
    let requests = [
        Request::Probe { relay: "relay:3478".into(), stun: true },
        Request::Join(Join { assignment, term, standby: Some(core.clone()), lease_ms: 1500, key, regions }),
        Request::Replicate(Replica {
            meeting,
            term,
            stream: 1,
            first: 0,
            entries: vec![vec![1, 2, 3]],
            resumed: None,
            proof,
        }),
        Request::Renew { core: core.clone(), edge: "edge-1".parse().unwrap(), sent_ms: 9, leases },
    ];
    let responses = [
        Response::Probed { rtt_us: 900, answered: 3 },
        Response::Refused { reason: "full".into() },
        Response::Serving { core, term, proof },
        Response::Renewed { lease_ms: 6000, leases: vec![LeaseAnswer { meeting, kept: true, proof }] },
    ];
    let all = to_core.iter().map(|m| codec::encode(m).unwrap());
    let all = all.chain(to_edge.iter().map(|m| codec::encode(m).unwrap()));
    let all = all.chain(requests.iter().map(|m| codec::encode(m).unwrap()));
    all.chain(responses.iter().map(|m| codec::encode(m).unwrap())).collect()
}

fn spurts() -> Vec<Vec<u8>> {
    let header = SpurtHeader {
        meeting: MeetingAlias(1),
        participant: ParticipantAlias(2),
        spurt: SpurtNo(3),
        offset: 0,
        captured: Micros(1_700_000_000_000_000),
        trace: TraceContext::new(7),
    };
    let end = SpurtEnd { continues: true, ..SpurtEnd::of(3) };
    let items = [Item::Frame(vec![0x78; 40].into()), Item::Gap, Item::Frame(vec![0x78; 200].into()), Item::End(end)];
    let mut stream = BytesMut::new();
    header.encode(&mut stream);
    items.iter().for_each(|item| item.encode(&mut stream));
    let mut datagram = BytesMut::new();
    let numbered = items.iter().cloned().enumerate().map(|(n, item)| (n as u32, item)).collect();
    let (meeting, participant, spurt) = (header.meeting, header.participant, header.spurt);
    Copies { meeting, participant, spurt, header: Some(header), items: numbered }.encode(&mut datagram);
    // The type byte is read before; in its place stands how the stream is cut.
    stream[0] = 6;
    let cut = stream[..stream.len() / 2].to_vec();
    datagram[0] = 0;
    vec![stream.to_vec(), cut, datagram.to_vec()]
}

fn leases() -> Vec<Vec<u8>> {
    let took_turns =
        [[0, 0, 1], [1, 0, 1], [3, 0, 15], [0, 1, 2], [3, 0, 15], [3, 0, 15], [4, 0, 0], [0, 1, 2], [2, 1, 2]];
    let stale = [[0, 0, 3], [2, 0, 3], [0, 1, 2], [0, 0x81, 9], [1, 1, 3], [0, 1, 4], [1, 1, 4]];
    vec![took_turns.concat(), stale.concat()]
}
