//! Two cores under one authority, a real nats-server, with a pretended mesh and engine.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use mesh::{
    identity::{NodeId, Role},
    mandate::Statement,
    trace::TraceContext,
    wire::{
        Epoch, MeetingId, SpurtNo, Term,
        control::{CloseReason, RefusedReason, ToCore, ToEdge},
        keys::KeyDigest,
        request::{Replica, Response},
    },
};

use tokio::time::timeout;

use super::fakes::{self, ALIAS, ALICE, Core, Edge, next};
use crate::{
    authority::{
        Authority, AuthorityError, Claim, Claims, Revision, Stands, standing::Lost, tests::server::NatsServer,
    },
    meeting::Meeting,
    meetings::{CreateError, Created, Settings},
    replicate::{entry::Entry, sender::Replicator},
    store::record::{CoreRole, Spec},
};

/// Long enough for one answer of a busy machine, short enough to wait for none.
const TIMEOUT: Duration = Duration::from_millis(1500);

/// An authority to which one core's way can be cut, both ways or back only.
struct Way {
    to: Arc<dyn Authority>,
    cut: Arc<AtomicBool>,
    deaf: Arc<AtomicBool>,
}

impl Way {
    fn pass(&self) -> Result<(), AuthorityError> {
        match self.cut.load(Ordering::Relaxed) {
            true => Err(AuthorityError::Unavailable("cut".into())),
            false => Ok(()),
        }
    }

    fn back(&self) -> Result<(), AuthorityError> {
        match self.deaf.load(Ordering::Relaxed) {
            // It is cut off from here on.
            true => {
                self.cut.store(true, Ordering::Relaxed);
                self.pass()
            }
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Authority for Way {
    fn is_shared(&self) -> bool {
        self.to.is_shared()
    }

    async fn read(&self, meeting: MeetingId) -> Result<Option<Stands>, AuthorityError> {
        self.pass()?;
        self.to.read(meeting).await
    }

    async fn replace(
        &self,
        meeting: MeetingId,
        after: Option<Revision>,
        claim: &Claim,
    ) -> Result<Revision, AuthorityError> {
        self.pass()?;
        let heeded = self.to.replace(meeting, after, claim).await;
        self.back()?;
        heeded
    }

    async fn remove(&self, meeting: MeetingId, revision: Revision) -> Result<(), AuthorityError> {
        self.pass()?;
        self.to.remove(meeting, revision).await
    }

    async fn hold(
        &self,
        key: &KeyDigest,
        after: Option<MeetingId>,
        meeting: MeetingId,
    ) -> Result<Option<MeetingId>, AuthorityError> {
        self.pass()?;
        self.to.hold(key, after, meeting).await
    }

    async fn let_go(&self, key: &KeyDigest, meeting: MeetingId) -> Result<(), AuthorityError> {
        self.pass()?;
        self.to.let_go(key, meeting).await
    }

    async fn claimed(&self) -> Result<Vec<MeetingId>, AuthorityError> {
        self.pass()?;
        self.to.claimed().await
    }

    async fn live(&self, me: &NodeId) -> Result<(), AuthorityError> {
        self.pass()?;
        self.to.live(me).await
    }

    async fn life(&self, core: &NodeId) -> Result<Option<Revision>, AuthorityError> {
        self.pass()?;
        self.to.life(core).await
    }
}

/// A core, and the switch that cuts its way to the authority.
struct Node {
    core: Core,
    cut: Arc<AtomicBool>,
    /// The same for its answers.
    deaf: Arc<AtomicBool>,
}

impl Node {
    async fn start(server: &NatsServer, name: &str, dir: &Path, change: impl FnOnce(&mut Settings)) -> Self {
        let (cut, deaf) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let to = Arc::new(server.authority(TIMEOUT).await);
        let way = Way { to, cut: cut.clone(), deaf: deaf.clone() };
        let claims = Claims::new(Arc::new(way), TIMEOUT);
        let file = dir.join(format!("{name}.redb"));
        Self { core: Core::under(Some(claims), (name, "eu-central"), &file, false, change), cut, deaf }
    }

    fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Relaxed);
    }

    fn live(&self, meeting: MeetingId) -> Arc<Meeting> {
        self.core.meetings.live(meeting).unwrap()
    }

    async fn serves(&self, meeting: MeetingId) {
        self.core.until("it serves", |c| c.meetings.live(meeting).is_some()).await;
    }

    async fn steps_down(&self, meeting: MeetingId) {
        self.core.until("it steps down", |c| c.meetings.live(meeting).is_none()).await;
        let serving = self.core.meetings.record(meeting).unwrap().unwrap().serving;
        assert!(serving.role != CoreRole::Serving, "{serving:?}");
    }
}

struct Pair {
    first: Node,
    second: Node,
    meeting: MeetingId,
    edge: Edge,
    /// As somebody sees it who can always look.
    claims: Claims,
    server: NatsServer,
    dir: tempfile::TempDir,
}

impl Pair {
    /// A meeting at the first core, with the second as its standby, an edge that knows, and a claim that says so.
    async fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let (server, dir) = (NatsServer::start(), tempfile::tempdir().unwrap());
        let mut first = Node::start(&server, "core-1", dir.path(), change).await;
        let second = Node::start(&server, "core-2", dir.path(), |_| {}).await;
        first.core.introduce(&second.core);
        first.core.mesh.leasing.lock().unwrap().push("edge-a".into());
        let meeting = first.core.create().await;
        first.core.assigned().await;
        let edge = first.core.connect("edge-a").await;
        first.core.serve(&edge, meeting, Epoch(1), Term(1)).await;
        let bound = |c: &Core| c.meetings.live(meeting).is_some_and(|m| m.replication.see(|r| r.binding().is_some()));
        first.core.until("a standby", bound).await;
        let claims = Claims::new(Arc::new(server.authority(TIMEOUT).await), TIMEOUT);
        let this = Self { first, second, meeting, edge, claims, server, dir };
        assert_eq!(this.claim().await, claimed("core-1", Term(1), Some("core-2")));
        this
    }

    /// The core that has it, in which term, and who may take it over. Epochs go on by themselves.
    async fn claim(&self) -> (String, Term, Option<String>) {
        let claim = self.claims.read(self.meeting).await.unwrap().unwrap().claim;
        (claim.core.to_string(), claim.term, claim.standby.map(|s| s.to_string()))
    }

    /// The edge turns to the second core.
    async fn call(&self) -> Edge {
        let edge = self.second.core.connect("edge-a").await;
        let (meeting, trace) = (self.meeting, TraceContext::new(7));
        let serve = ToCore::Serve { alias: ALIAS, meeting, epoch: Epoch(1), term: Term(2), trace };
        self.second.core.say(&edge, serve).await;
        edge
    }
}

fn claimed(core: &str, term: Term, standby: Option<&str>) -> (String, Term, Option<String>) {
    (core.into(), term, standby.map(Into::into))
}

fn done(spurt: u32) -> ToEdge {
    ToEdge::Done { alias: ALIAS, participant: ALICE, spurt: SpurtNo(spurt) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_is_claimed_within_two_seconds_and_who_was_superseded_grants_nothing_and_steps_down() {
    let pair = Pair::new(|_| {}).await;
    pair.first.core.cut_off(&pair.second.core);
    let begun = Instant::now();
    let _edge = pair.call().await;
    pair.second.serves(pair.meeting).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(pair.claim().await, claimed("core-2", Term(2), None));
    // The first core hears nothing of it but from the authority, and that only when it asks.
    let former = pair.first.live(pair.meeting);
    let granted = former.claim_epoch(Epoch(2)).await;
    assert_eq!(granted, Err(Lost::Superseded("core-2".parse().unwrap(), Term(2))));
    pair.first.steps_down(pair.meeting).await;
    assert_eq!(pair.claim().await, claimed("core-2", Term(2), None));
    pair.second.live(pair.meeting).claim_epoch(Epoch::of(Term(2), 1)).await.unwrap();
    let claim = pair.claims.read(pair.meeting).await.unwrap().unwrap().claim;
    assert!(claim.epoch >= Epoch::of(Term(2), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_cut_off_from_all_but_the_authority_learns_there_that_it_is_superseded() {
    let mut pair = Pair::new(|settings| settings.failover.pair.stall = Duration::from_millis(300)).await;
    pair.first.core.cut_off(&pair.second.core);
    let _edge = pair.call().await;
    pair.second.serves(pair.meeting).await;
    // Words that the standby does not acknowledge make it doubt.
    pair.first.core.spurt(&pair.edge, 0, 50, 0, false).await;
    pair.first.steps_down(pair.meeting).await;
    assert_eq!(
        next(&mut pair.edge).await,
        ToEdge::Moved { alias: ALIAS, core: "core-2".parse().unwrap(), term: Term(2) }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_cannot_reach_the_authority_takes_nothing_over_until_it_can() {
    let pair = Pair::new(|_| {}).await;
    pair.second.cut(true);
    let mut edge = pair.call().await;
    assert_eq!(edge.next().await, ToEdge::Refused { alias: ALIAS, reason: RefusedReason::Full });
    pair.second.core.until("it knows", |c| !c.meetings.has_authority()).await;
    assert!(pair.second.core.meetings.live(pair.meeting).is_none());
    assert_eq!(pair.claim().await, claimed("core-1", Term(1), Some("core-2")));
    pair.second.cut(false);
    pair.second.core.until("it is back", |c| c.meetings.has_authority()).await;
    let _edge = pair.call().await;
    pair.second.serves(pair.meeting).await;
    pair.first.steps_down(pair.meeting).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_whose_claim_was_heeded_unheard_takes_over_though_it_has_been_dropped_since() {
    let pair = Pair::new(|_| {}).await;
    pair.second.deaf.store(true, Ordering::Relaxed);
    let mut edge = pair.call().await;
    assert_eq!(edge.next().await, ToEdge::Refused { alias: ALIAS, reason: RefusedReason::Full });
    pair.second.core.until("it gives up asking", |c| !c.meetings.has_authority()).await;
    assert_eq!(pair.claim().await, claimed("core-2", Term(2), None));
    let stream = u64::MAX;
    let dropped: Vec<_> =
        [Entry::Begin { stream, held: None }, Entry::Dropped].iter().flat_map(Entry::pieces).collect();
    let from = fakes::identity("core-1", Role::Core, "eu-central");
    let (meeting, term, to) = (pair.meeting, Term(1), "core-2".parse().unwrap());
    let key = pair.second.core.meetings.record(meeting).unwrap().unwrap().key;
    let proof = key.prove(&Statement::Serves { meeting, core: &from.node, term, from: &from.node, to: &to });
    let replica = Replica { meeting, term, stream, first: 0, entries: dropped, resumed: None, proof };
    let answer = pair.second.core.meetings.handle_replica(&from, replica).await;
    assert_eq!(answer, Response::Replicated { next: 2 });
    let serving = pair.second.core.meetings.record(pair.meeting).unwrap().unwrap().serving;
    assert_eq!((serving.role, serving.standby), (CoreRole::Moved, Some("core-2".parse().unwrap())));
    pair.second.deaf.store(false, Ordering::Relaxed);
    pair.second.cut(false);
    pair.second.serves(pair.meeting).await;
    pair.first.steps_down(pair.meeting).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_was_given_up_is_called_in_vain() {
    let pair = Pair::new(|_| {}).await;
    pair.first.core.cut_off(&pair.second.core);
    // The edges have agreed that they do not turn to it, and it does not know.
    pair.first.live(pair.meeting).claim_standby(None).await.unwrap();
    let mut edge = pair.call().await;
    assert_eq!(edge.next().await, ToEdge::Refused { alias: ALIAS, reason: RefusedReason::UnknownMeeting });
    assert!(pair.second.core.meetings.live(pair.meeting).is_none());
    assert_eq!(pair.claim().await, claimed("core-1", Term(1), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_goes_on_alone_without_the_authority_nor_after_another_has_taken_over() {
    let soon = |settings: &mut Settings| {
        settings.failover.pair.stall = Duration::from_millis(300);
        settings.failover.pair.isolated_after = Duration::from_millis(900);
    };
    let pair = Pair::new(soon).await;
    pair.first.core.cut_off(&pair.second.core);
    pair.first.cut(true);
    pair.first.core.spurt(&pair.edge, 0, 50, 0, false).await;
    let live = pair.first.live(pair.meeting);
    pair.first.core.until("it is in doubt", |_| live.replication.see(Replicator::is_in_doubt)).await;
    let in_vain = |c: &Core| !c.meetings.has_authority();
    pair.first.core.until("it asked in vain", in_vain).await;
    let _edge = pair.call().await;
    pair.second.serves(pair.meeting).await;
    assert_eq!(live.replication.see(Replicator::term), Term(1));
    assert_eq!(pair.first.core.meetings.store().segments(pair.meeting, 0).unwrap().len(), 1, "made, and not said");
    assert!(pair.second.core.meetings.store().segments(pair.meeting, 0).unwrap().is_empty());
    pair.first.cut(false);
    pair.first.steps_down(pair.meeting).await;
    assert_eq!(pair.claim().await, claimed("core-2", Term(2), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_authority_a_core_goes_on_alone_and_its_standby_cannot() {
    let soon = |settings: &mut Settings| {
        settings.failover.pair.stall = Duration::from_millis(300);
        settings.failover.pair.isolated_after = Duration::from_millis(900);
    };
    let mut pair = Pair::new(soon).await;
    pair.first.core.cut_off(&pair.second.core);
    pair.first.core.spurt(&pair.edge, 0, 50, 0, false).await;
    let live = pair.first.live(pair.meeting);
    pair.first.core.until("it goes on alone", |_| live.replication.see(|m| m.term().is_isolated())).await;
    loop {
        if next(&mut pair.edge).await == done(0) {
            break;
        }
    }
    let stands = pair.claim().await;
    assert_eq!(stands, claimed("core-1", live.replication.see(Replicator::term), None));
    let mut edge = pair.call().await;
    let refused = edge.next().await;
    assert!(matches!(refused, ToEdge::Refused { .. } | ToEdge::Moved { .. }), "{refused:?}");
    assert!(pair.second.core.meetings.live(pair.meeting).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn words_wait_until_the_authority_knows_that_the_standby_is_none_any_more() {
    let mut pair = Pair::new(|settings| settings.failover.pair.stall = Duration::from_millis(300)).await;
    pair.first.core.cut_off(&pair.second.core);
    pair.first.cut(true);
    pair.first.core.spurt(&pair.edge, 0, 50, 0, false).await;
    let mut named = false;
    let number = loop {
        if let ToEdge::Standby { core, number, .. } = pair.edge.next_but_durable().await {
            if named && core.is_none() {
                break number;
            }
            named |= core.is_some();
        }
    };
    pair.first.core.say(&pair.edge, ToCore::Standby { alias: ALIAS, core: None, number }).await;
    let live = pair.first.live(pair.meeting);
    pair.first.core.until("it asked in vain", |c| !c.meetings.has_authority()).await;
    assert!(live.replication.see(Replicator::wants_standby), "the edge has agreed");
    assert_eq!(pair.claim().await, claimed("core-1", Term(1), Some("core-2")));
    assert_eq!(live.replication.see(|m| m.settled(0)), crate::replicate::sender::Settled::No);
    pair.first.cut(false);
    assert_eq!(next(&mut pair.edge).await, done(0));
    assert_eq!(pair.claim().await, claimed("core-1", Term(1), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_claimed_before_a_crash_is_taken_over_after_it_and_who_lost_it_meanwhile_does_not_serve() {
    let Pair { first, second, meeting, claims, server, dir, .. } = Pair::new(|_| {}).await;
    first.core.cut_off(&second.core);
    // As a kill would leave them.
    let killed = tempfile::tempdir().unwrap();
    for name in ["core-1.redb", "core-2.redb"] {
        std::fs::copy(dir.path().join(name), killed.path().join(name)).unwrap();
    }
    drop((first, second));
    // The second core had claimed it, and had not written that down.
    let (core, former) = ("core-2".parse().unwrap(), "core-1".parse().unwrap());
    claims.take(meeting, &core, (Some(&former), Term(1)), (Term(2), Epoch(1))).await.unwrap();
    let second = Node::start(&server, "core-2", killed.path(), |_| {}).await;
    second.serves(meeting).await;
    assert_eq!(second.live(meeting).replication.see(Replicator::term), Term(2));
    let first = Node::start(&server, "core-1", killed.path(), |_| {}).await;
    first.steps_down(meeting).await;
    assert_eq!(claims.read(meeting).await.unwrap().unwrap().claim.core, core);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_meeting_is_made_and_no_edge_gets_an_epoch_while_the_authority_is_gone() {
    let (mut server, dir) = (NatsServer::start(), tempfile::tempdir().unwrap());
    let mut node = Node::start(&server, "core-1", dir.path(), |_| {}).await;
    let meeting = node.core.create().await;
    node.core.assigned().await;
    let live = node.live(meeting);
    server.kill();
    let refused = node.core.meetings.create(fakes::spec(), TraceContext::new(8), None).await;
    assert!(matches!(refused, Err(CreateError::Authority(AuthorityError::Unavailable(_)))), "{:?}", refused.err());
    assert!(!node.core.meetings.has_authority());
    assert_eq!(node.core.meetings.live_count(), 1);
    let waiting = tokio::spawn({
        let live = live.clone();
        async move { live.claim_epoch(Epoch(2)).await }
    });
    node.core.until("it waits", |c| !c.meetings.has_authority() && !waiting.is_finished()).await;
    server.resume();
    assert_eq!(waiting.await.unwrap(), Ok(()));
    node.core.until("it is back", |c| c.meetings.has_authority()).await;
    assert!(node.core.meetings.create(fakes::spec(), TraceContext::new(9), None).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_meeting_that_is_over_leaves_no_claim() {
    let Pair { first, second, meeting, edge, claims, server: _server, dir: _dir } = Pair::new(|_| {}).await;
    first.core.meetings.stop(meeting).await;
    first.core.say(&edge, ToCore::Close { alias: ALIAS, reason: CloseReason::Asked }).await;
    first.core.until("done", |c| c.meetings.live(meeting).is_none()).await;
    let gone = async {
        while claims.read(meeting).await.unwrap().is_some() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), gone).await.expect("the claim goes");
    drop(second);
}

#[tokio::test(flavor = "multi_thread")]
async fn cores_that_only_the_authority_connects_make_one_meeting_under_a_key() {
    let (server, dir) = (NatsServer::start(), tempfile::tempdir().unwrap());
    let one = Node::start(&server, "core-1", dir.path(), |_| {}).await;
    let two = Node::start(&server, "core-2", dir.path(), |_| {}).await;
    let make = |node: &Node| {
        let meetings = node.core.meetings.clone();
        let spec = Spec { deduplication_key: Some("standup".into()), ..fakes::spec() };
        async move { meetings.create(spec, TraceContext::new(7), None).await }
    };
    let (first, second) = tokio::join!(make(&one), make(&two));
    let made = |outcome: &Result<Created, CreateError>| outcome.as_ref().ok().map(|c| c.record.id);
    let (winner, other) = if first.is_ok() { (made(&first), second) } else { (made(&second), first) };
    assert!(matches!(other, Err(CreateError::Duplicate(id)) if Some(id) == winner), "{:?}", other.err());
    assert_eq!(one.core.meetings.live_count() + two.core.meetings.live_count(), 1);
}

/// A core with a meeting under a key, which ends while the authority is away; then the core ends.
async fn leave_a_claim(server: &NatsServer, dir: &Path) -> MeetingId {
    let mut node = Node::start(server, "core-1", dir, |_| {}).await;
    node.core.mesh.leasing.lock().unwrap().push("edge-a".into());
    let meeting = made(&standup(&node).await).unwrap();
    node.core.assigned().await;
    let edge = node.core.connect("edge-a").await;
    node.core.serve(&edge, meeting, Epoch(1), Term(1)).await;
    node.cut(true);
    node.core.meetings.stop(meeting).await;
    node.core.say(&edge, ToCore::Close { alias: ALIAS, reason: CloseReason::Asked }).await;
    node.core.until("done", |c| c.meetings.live(meeting).is_none()).await;
    // Its store is open as long as its tasks run.
    node.core.meetings.finish(Instant::now()).await;
    meeting
}

async fn standup(node: &Node) -> Result<Created, CreateError> {
    let spec = Spec { deduplication_key: Some("standup".into()), ..fakes::spec() };
    node.core.meetings.create(spec, TraceContext::new(7), None).await
}

fn made(outcome: &Result<Created, CreateError>) -> Option<MeetingId> {
    outcome.as_ref().ok().map(|created| created.record.id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_its_core_has_left_behind_keeps_no_meeting_from_its_key() {
    for elsewhere in [false, true] {
        let (server, dir) = (NatsServer::start(), tempfile::tempdir().unwrap());
        let left = leave_a_claim(&server, dir.path()).await;
        let claims = Claims::new(Arc::new(server.authority(TIMEOUT).await), TIMEOUT);
        assert!(claims.read(left).await.unwrap().is_some(), "it was left");
        let again = dir.path().join("again");
        std::fs::create_dir(&again).unwrap();
        std::fs::copy(dir.path().join("core-1.redb"), again.join("core-1.redb")).unwrap();
        let one = Node::start(&server, "core-1", &again, |_| {}).await;
        let two = Node::start(&server, "core-2", &again, |_| {}).await;
        one.core.introduce(&two.core);
        let asked = if elsewhere { &two } else { &one };
        let new = standup(asked).await;
        assert!(new.is_ok(), "elsewhere {elsewhere}: {:?}", new.err());
        assert_eq!(claims.read(left).await.unwrap(), None);
        // The control: what lives gives no way, whoever asks.
        for node in [&one, &two] {
            assert!(matches!(standup(node).await, Err(CreateError::Duplicate(id)) if Some(id) == made(&new)));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_core_that_cannot_be_asked_keeps_its_meeting_s_key_while_it_may_live() {
    let (server, dir) = (NatsServer::start(), tempfile::tempdir().unwrap());
    let one = Node::start(&server, "core-1", dir.path(), |_| {}).await;
    let two = Node::start(&server, "core-2", dir.path(), |s| s.failover.takeover = Duration::ZERO).await;
    let first = standup(&one).await;
    for _ in 0..2 {
        assert!(matches!(standup(&two).await, Err(CreateError::Duplicate(id)) if Some(id) == made(&first)));
    }
    let core = "core-1".parse().unwrap();
    let claims = Claims::new(Arc::new(server.authority(TIMEOUT).await), TIMEOUT);
    assert!(claims.life(&core).await.unwrap().is_some(), "it says that it lives");
    assert_eq!(claims.life(&"core-9".parse().unwrap()).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_no_key_asks_for_is_swept_by_its_core_or_when_that_is_gone_by_another() {
    for elsewhere in [false, true] {
        let (server, dir) = (NatsServer::start(), tempfile::tempdir().unwrap());
        let left = leave_a_claim(&server, dir.path()).await;
        let claims = Claims::new(Arc::new(server.authority(TIMEOUT).await), TIMEOUT);
        let again = dir.path().join("again");
        std::fs::create_dir(&again).unwrap();
        std::fs::copy(dir.path().join("core-1.redb"), again.join("core-1.redb")).unwrap();
        let name = if elsewhere { "core-2" } else { "core-1" };
        let node = Node::start(&server, name, &again, |_| {}).await;
        let lives = node.core.create().await;
        // Whoever served it and is there must not lose it to others.
        let other = server.authority(TIMEOUT).await;
        let of_core_3 = MeetingId::from_u128(3);
        other.replace(of_core_3, None, &claim_of("core-3")).await.unwrap();
        let (start, hour) = (Instant::now(), Duration::from_secs(3600));
        for hours in 0..12 {
            other.live(&"core-3".parse().unwrap()).await.unwrap();
            node.core.meetings.sweep_claims(start + hour * hours).await.unwrap();
            let stands = claims.read(left).await.unwrap().is_some();
            assert_eq!(stands, hours < if elsewhere { 7 } else { 1 }, "elsewhere {elsewhere}, after {hours} h");
        }
        assert_eq!(claims.claimed().await.unwrap(), [of_core_3, lives]);
    }
}

fn claim_of(core: &str) -> Claim {
    Claim { core: core.parse().unwrap(), term: Term(1), epoch: Epoch(1), standby: None }
}
