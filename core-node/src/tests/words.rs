//! One core from the edge's streams to the words, with a pretended mesh and engine.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use ezk_g722::libg722::{Bitrate, decoder::Decoder};
use mesh::{
    trace::TraceContext,
    wire::{
        Epoch, SpurtNo,
        control::{CloseReason, EdgeTotals, RefusedReason, ToCore, ToEdge},
        spurt::Step,
    },
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::fakes::{ALIAS, ALICE, Core, spec, spurt_bytes, spurt_bytes_of, spurt_bytes_on};
use crate::{
    store::record::{GapReason, Spec, Status},
    transcript::Segment,
};

fn done(spurt: u32) -> ToEdge {
    ToEdge::Done { alias: ALIAS, participant: ALICE, spurt: SpurtNo(spurt) }
}

fn texts(segments: &[Segment]) -> Vec<&str> {
    segments.iter().map(|s| s.text.as_str()).collect()
}

#[tokio::test]
async fn speech_becomes_words_with_the_right_name_and_every_stamp() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::start(&dir.path().join("core.redb"), false);
    let id = core.create().await;
    let (edge, assignment) = core.assigned().await;
    assert_eq!((edge.as_str(), assignment.epoch, assignment.meeting), ("edge-a", Epoch(1), id));

    let mut edge = core.connect("edge-a").await;
    core.open(&edge, id, Epoch(1)).await;
    core.spurt(&edge, 0, 50, 0, false).await;
    let first = edge.next().await;
    assert_eq!(first, ToEdge::Durable { alias: ALIAS, participant: ALICE, spurt: SpurtNo(0), upto: 50 });
    assert_eq!(edge.next_but_durable().await, done(0));
    core.spurt(&edge, 1, 100, 0, false).await;
    assert_eq!(edge.next_but_durable().await, done(1));

    let segments = core.meetings.store().segments(id, 0).unwrap();
    assert_eq!(texts(&segments), ["1000ms", "2000ms"]);
    let last = &segments[1];
    assert_eq!(last.participant.as_ref().map(|p| (p.id.as_str(), p.name.as_deref())), Some(("p-alice", Some("Alice"))));
    assert_eq!(last.uplink, Some(Step::PassThrough));
    assert_eq!((last.start_ms, last.end_ms, last.edge.as_ref().map(|e| e.as_str())), (10_000, 12_000, Some("edge-a")));
    let t = last.timing;
    assert_eq!((t.decoded, t.vad, t.sent), (Some(t.captured + 1), Some(t.captured + 2), Some(t.captured + 3)));
    assert!(t.received > t.captured && t.durable >= t.received && t.words >= t.durable);

    core.until("active", |c| c.meetings.live(id).is_some_and(|m| m.record().status == Status::Active)).await;
    let record = core.meetings.record(id).unwrap().unwrap();
    assert_eq!((record.counts.frames_durable, record.counts.spurts_done), (150, 2));

    core.say(&edge, ToCore::Stats { alias: ALIAS, totals: EdgeTotals { packets_in: 9, ..Default::default() } }).await;
    core.meetings.stop(id).await;
    assert_eq!(edge.next_but_durable().await, ToEdge::Leave { alias: ALIAS });
    core.say(&edge, ToCore::Close { alias: ALIAS, reason: CloseReason::Asked }).await;
    core.until("done", |c| c.meetings.live(id).is_none()).await;
    let record = core.meetings.record(id).unwrap().unwrap();
    assert_eq!((record.status, record.owners.sum().packets_in, record.counts.frames_durable), (Status::Done, 9, 150));
}

#[tokio::test]
async fn a_segment_says_on_which_step_its_speech_was_sent() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::start(&dir.path().join("core.redb"), false);
    let id = core.create().await;
    core.assigned().await;
    let mut edge = core.connect("edge-a").await;
    core.open(&edge, id, Epoch(1)).await;
    // Two spurts of one utterance: it came on the lower of their steps.
    for (spurt, step, continues) in
        [(0, Step::Opus24, true), (1, Step::PassThrough, false), (2, Step::FinalOnly, false)]
    {
        let bytes = spurt_bytes_on(step, spurt, 50, 0, continues);
        core.acceptor.read_spurt(&edge.link, &bytes[..]).await.unwrap();
    }
    while edge.next_but_durable().await != done(2) {}
    let segments = core.meetings.store().segments(id, 0).unwrap();
    let told: Vec<_> = segments.iter().map(|s| serde_json::to_value(s).unwrap()["uplink"].clone()).collect();
    assert_eq!(told, ["opus_24", "final_only"]);
}

#[tokio::test]
async fn the_engine_hears_less_noise_where_a_meeting_wants_that() {
    let dir = tempfile::tempdir().unwrap();
    let mut loud = vec![];
    for (file, noise_suppression) in [("as-it-is.redb", None), ("less.redb", Some(true))] {
        let mut core = Core::start(&dir.path().join(file), false);
        let spec = Spec { noise_suppression, ..spec() };
        let id = core.meetings.create(spec, TraceContext::new(7), None).await.map_err(|e| e.to_string()).unwrap();
        let id = id.record.id;
        core.assigned().await;
        let mut edge = core.connect("edge-a").await;
        core.open(&edge, id, Epoch(1)).await;
        let mut rng = StdRng::seed_from_u64(3);
        let noise = |_| rng.random::<f32>() * 0.02 - 0.01;
        let bytes = spurt_bytes_of(noise, Step::PassThrough, 0, 150, 0, false);
        core.acceptor.read_spurt(&edge.link, &bytes[..]).await.unwrap();
        while edge.next_but_durable().await != done(0) {}
        loud.push(*core.heard.lock().unwrap().last().unwrap());
    }
    assert!(loud[1] < loud[0] / 2.0, "{loud:?}");
}

#[tokio::test]
async fn speech_that_gets_no_words_is_told_on_its_segment_and_in_the_gaps() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::start(&dir.path().join("core.redb"), false);
    let id = core.create().await;
    core.assigned().await;
    let mut edge = core.connect("edge-a").await;
    core.open(&edge, id, Epoch(1)).await;
    core.mute.store(true, std::sync::atomic::Ordering::Relaxed);
    core.spurt(&edge, 0, 50, 0, false).await;
    let prompt = prompt("cannot-complete-as-dialed");
    let frames = prompt.len() as u32 / 320;
    let voice = |n: u32| prompt.get(n as usize / 3).copied().unwrap_or_default();
    let bytes = spurt_bytes_of(voice, Step::PassThrough, 1, frames, 0, false);
    core.acceptor.read_spurt(&edge.link, &bytes[..]).await.unwrap();
    while edge.next_but_durable().await != done(1) {}

    let segments = core.meetings.store().segments(id, 0).unwrap();
    assert_eq!(texts(&segments), [""], "a tone is no speech, and no segment");
    let missing = segments[0].not_transcribed.iter().map(|s| s.end_ms - s.start_ms).sum::<u64>();
    assert!((1000..=u64::from(frames) * 20).contains(&missing), "{missing}");
    let gap = &core.meetings.record(id).unwrap().unwrap().gaps[0];
    let length = gap.to.unwrap().since(gap.from).as_millis() as u64;
    assert_eq!((gap.reason, gap.segment), (GapReason::NotTranscribed, Some(segments[0].id)));
    assert_eq!(length, segments[0].not_transcribed[0].end_ms - segments[0].not_transcribed[0].start_ms);
}

/// 16 kHz, -1 to 1.
fn prompt(name: &str) -> Vec<f32> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../.cache/speech/en/{name}.g722"));
    let bytes = std::fs::read(&path).unwrap_or_else(|_| panic!("{} is missing: run ./dev speech", path.display()));
    let samples = Decoder::new(Bitrate::Mode1_64000, false, false).decode(&bytes);
    samples.into_iter().map(|s| f32::from(s) / 32_768.0).collect()
}

#[tokio::test]
async fn replays_and_cut_streams_say_nothing_twice_and_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::start(&dir.path().join("core.redb"), false);
    let id = core.create().await;
    core.assigned().await;
    let edge = core.connect("edge-a").await;
    core.open(&edge, id, Epoch(1)).await;
    let whole = spurt_bytes(0, 60, 0, false);
    let cut = core.acceptor.read_spurt(&edge.link, &whole[..whole.len() / 2]).await;
    assert!(cut.is_err(), "it ended before its trailer");

    let mut again = core.connect("edge-a").await;
    core.open(&again, id, Epoch(1)).await;
    core.spurt(&again, 0, 60, 10, false).await;
    assert_eq!(again.next_but_durable().await, done(0));
    core.spurt(&again, 0, 60, 0, false).await;
    assert_eq!(again.next_but_durable().await, done(0), "the edge asked again and is told again");
    assert_eq!(texts(&core.meetings.store().segments(id, 0).unwrap()), ["1200ms"]);
    let counts = core.meetings.record(id).unwrap().unwrap().counts;
    assert_eq!((counts.frames_received, counts.frames_durable), (60, 60));
    assert!(counts.duplicates > 0);
}

#[tokio::test]
async fn a_spurt_may_overtake_the_rows_that_name_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::start(&dir.path().join("core.redb"), false);
    let id = core.create().await;
    core.assigned().await;
    let mut edge = core.connect("edge-a").await;
    let (acceptor, link) = (core.acceptor.clone(), edge.link.clone());
    let early = tokio::spawn(async move { acceptor.read_spurt(&link, &spurt_bytes(0, 20, 0, false)[..]).await });
    tokio::task::yield_now().await;
    core.open(&edge, id, Epoch(1)).await;
    early.await.unwrap().unwrap();
    assert_eq!(edge.next_but_durable().await, done(0));
}

#[tokio::test]
async fn a_cut_spurt_and_its_continuation_are_one_utterance() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::start(&dir.path().join("core.redb"), false);
    let id = core.create().await;
    core.assigned().await;
    let mut edge = core.connect("edge-a").await;
    core.open(&edge, id, Epoch(1)).await;
    core.spurt(&edge, 0, 50, 0, true).await;
    core.spurt(&edge, 1, 25, 0, false).await;
    let both = [edge.next_but_durable().await, edge.next_but_durable().await];
    assert_eq!(both, [done(0), done(1)]);
    assert_eq!(texts(&core.meetings.store().segments(id, 0).unwrap()), ["1500ms"]);
}

#[tokio::test]
async fn what_was_durable_but_not_done_at_a_kill_becomes_words_after_it_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("core.redb");
    let mut core = Core::start(&file, true);
    let id = core.create().await;
    core.assigned().await;
    let edge = core.connect("edge-a").await;
    core.open(&edge, id, Epoch(1)).await;
    core.spurt(&edge, 0, 50, 0, false).await;
    let half = spurt_bytes(1, 80, 0, false);
    core.acceptor.read_spurt(&edge.link, &half[..half.len() / 2]).await.unwrap_err();
    // On disk, not only in memory: nothing writes after that, so the copy is what a kill would leave.
    core.until("active", |c| c.meetings.store().meeting(id).unwrap().unwrap().status == Status::Active).await;
    let killed = dir.path().join("killed.redb");
    std::fs::copy(&file, &killed).unwrap();

    let core = Core::start(&killed, false);
    core.until("words", |c| c.meetings.store().segments(id, 0).unwrap().len() == 1).await;
    let mut edge = core.connect("edge-a").await;
    core.open(&edge, id, Epoch(1)).await;
    // The edge has heard of nothing and sends all again.
    core.spurt(&edge, 0, 50, 0, false).await;
    core.spurt(&edge, 1, 80, 0, false).await;
    let mut heard = vec![edge.next_but_durable().await, edge.next_but_durable().await];
    heard.sort_by_key(|m| format!("{m:?}"));
    assert_eq!(heard, [done(0), done(1)]);
    assert_eq!(texts(&core.meetings.store().segments(id, 0).unwrap()), ["1000ms", "1600ms"]);
    assert_eq!(core.meetings.record(id).unwrap().unwrap().counts.frames_durable, 130);
}

#[tokio::test]
async fn an_edge_that_does_not_own_the_meeting_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::start(&dir.path().join("core.redb"), false);
    core.mesh.refuse.lock().unwrap().push("edge-a".into());
    let id = core.create().await;
    let (edge, assignment) = core.assigned().await;
    assert_eq!((edge.as_str(), assignment.epoch), ("edge-b", Epoch(2)), "the nearest was full");
    let mut edge = core.connect("edge-a").await;
    for (meeting, epoch, reason) in [
        (id, Epoch(1), RefusedReason::StaleEpoch),
        (id, Epoch(2), RefusedReason::NotAllowed),
        (uuid::Uuid::nil(), Epoch(1), RefusedReason::UnknownMeeting),
    ] {
        let trace = mesh::trace::TraceContext::new(1);
        core.say(&edge, ToCore::Open { alias: ALIAS, meeting, epoch, trace }).await;
        assert_eq!(edge.next().await, ToEdge::Refused { alias: ALIAS, reason });
    }
}

#[tokio::test]
async fn a_meeting_whose_edge_dies_goes_to_the_next_and_keeps_what_was_said() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::start(&dir.path().join("core.redb"), false);
    let id = core.create().await;
    core.assigned().await;
    let edge = core.connect("edge-a").await;
    core.open(&edge, id, Epoch(1)).await;
    let half = spurt_bytes(0, 100, 0, false);
    core.acceptor.read_spurt(&edge.link, &half[..half.len() / 2]).await.unwrap_err();
    core.until("active", |c| c.meetings.record(id).unwrap().unwrap().status == Status::Active).await;
    core.mesh.members.send_modify(|m| *m = std::sync::Arc::new(m[1..].to_vec()));
    let (next, assignment) = core.assigned().await;
    assert_eq!((next.as_str(), assignment.epoch), ("edge-b", Epoch(2)));
    core.until("the half said before", |c| c.meetings.store().segments(id, 0).unwrap().len() == 1).await;
    let mut next = core.connect("edge-b").await;
    core.open(&next, id, Epoch(2)).await;
    // Of what was said at the same time it would be a copy.
    core.spurt(&next, 1, 30, 0, false).await;
    assert_eq!(next.next_but_durable().await, done(1));
    assert_eq!(core.meetings.store().segments(id, 0).unwrap()[1].text, "600ms");
}

#[tokio::test]
async fn malformed_spurts_end_their_stream_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::start(&dir.path().join("core.redb"), false);
    let id = core.create().await;
    core.assigned().await;
    let mut edge = core.connect("edge-a").await;
    core.open(&edge, id, Epoch(1)).await;
    let mut bad = spurt_bytes(0, 5, 0, false);
    bad[1] ^= 0x55;
    assert!(core.acceptor.read_spurt(&edge.link, &bad[..]).await.is_err());
    assert!(core.acceptor.read_spurt(&edge.link, &[0xff; 300][..]).await.is_err());
    assert!(
        core.acceptor
            .handle(&edge.link, ToCore::Left { alias: mesh::wire::MeetingAlias(77), participant: ALICE })
            .await
            .is_err()
    );
    core.spurt(&edge, 3, 30, 0, false).await;
    assert_eq!(edge.next_but_durable().await, done(3));
}

#[tokio::test]
async fn draining_waits_for_the_words_and_keeps_the_meeting_for_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut core = Core::start(&dir.path().join("core.redb"), false);
    let id = core.create().await;
    core.assigned().await;
    let edge = core.connect("edge-a").await;
    core.open(&edge, id, Epoch(1)).await;
    core.spurt(&edge, 0, 50, 0, false).await;
    core.meetings.drain();
    core.meetings.finish(std::time::Instant::now() + std::time::Duration::from_secs(10)).await;
    assert_eq!(core.meetings.undone(), 0);
    let stored = core.meetings.store().meeting(id).unwrap().unwrap();
    assert!(!stored.status.ended());
}
