//! One suite for both authorities: the one in the core's store, and a bucket of a real nats-server.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

pub(crate) mod server;

use std::sync::atomic::{AtomicU32, Ordering};

use mesh::{identity::NodeId, wire::keys::KeyDigest};
use tokio::task::JoinSet;

use self::server::NatsServer;
use super::{
    standing::{Lost, Standing},
    *,
};

/// Long enough for a busy machine.
const TIMEOUT: Duration = Duration::from_secs(10);
/// For what is to fail.
const SHORT: Duration = Duration::from_millis(600);

const MEETING: MeetingId = MeetingId::from_u128(0x0192_4000_0000_7000_8000_0000_0000_0001);
const OTHER: MeetingId = MeetingId::from_u128(0x0192_4000_0000_7000_8000_0000_0000_0002);

fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn claim(core: &str, term: u32, epoch: u64) -> Claim {
    Claim { core: node(core), term: Term(term), epoch: Epoch(epoch), standby: None }
}

/// An authority that can go away, come back and be scribbled on.
trait Place {
    fn new() -> Self;
    /// As another core would see it, where cores see it at all.
    async fn authority(&self) -> Arc<dyn Authority>;
    async fn restart(&mut self);
    fn away(&mut self);
    fn back(&mut self);
    async fn scribble(&self, meeting: MeetingId, bytes: &'static [u8]);

    async fn claims(&self, patience: Duration) -> Claims {
        Claims::new(self.authority().await, patience)
    }
}

struct InStore {
    store: Option<Arc<Store>>,
    stalled: Option<redb::WriteTransaction>,
    dir: tempfile::TempDir,
}

impl InStore {
    fn open(&mut self) {
        self.store = Some(Arc::new(Store::open(&self.dir.path().join("core.redb")).unwrap()));
    }
}

impl Place for InStore {
    fn new() -> Self {
        let mut this = Self { store: None, stalled: None, dir: tempfile::tempdir().unwrap() };
        this.open();
        this
    }

    async fn authority(&self) -> Arc<dyn Authority> {
        Arc::new(Embedded::new(self.store.clone().unwrap()))
    }

    async fn restart(&mut self) {
        self.store = None;
        self.open();
    }

    fn away(&mut self) {
        self.stalled = Some(self.store.as_ref().unwrap().stall());
    }

    fn back(&mut self) {
        self.stalled = None;
    }

    async fn scribble(&self, meeting: MeetingId, bytes: &'static [u8]) {
        self.store.as_ref().unwrap().replace_claim(meeting, None, Some(bytes)).unwrap();
    }
}

struct InBucket(NatsServer);

impl Place for InBucket {
    fn new() -> Self {
        Self(NatsServer::start())
    }

    async fn authority(&self) -> Arc<dyn Authority> {
        Arc::new(self.0.authority(Duration::from_secs(2)).await)
    }

    async fn restart(&mut self) {
        self.0.kill();
        self.0.resume();
    }

    fn away(&mut self) {
        self.0.kill();
    }

    fn back(&mut self) {
        self.0.resume();
    }

    async fn scribble(&self, meeting: MeetingId, bytes: &'static [u8]) {
        let client = async_nats::connect(self.0.url()).await.unwrap();
        let bucket = async_nats::jetstream::new(client).get_key_value("nearfield_leases").await.unwrap();
        bucket.put(meeting.to_string(), bytes.into()).await.unwrap();
    }
}

macro_rules! both {
    ($($case:ident)*) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case(<super::InStore as super::Place>::new()).await;
            })*
        }
        mod nats {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case(<super::InBucket as super::Place>::new()).await;
            })*
        }
    };
}

both! {
    a_meeting_is_claimed_once_and_a_conflict_names_what_stands
    of_many_that_race_one_wins_every_round
    a_stale_revision_is_refused
    neither_term_nor_epoch_goes_back
    what_is_released_leaves_nothing_and_nobody_else_is_touched
    claims_survive_a_restart
    without_an_answer_there_is_an_error_in_time_and_then_it_recovers
    what_is_no_claim_is_an_error_and_nobodys
    an_answer_that_was_lost_counts
    the_serving_core_grows_its_claim_until_another_has_it
}

async fn a_meeting_is_claimed_once_and_a_conflict_names_what_stands(place: impl Place) {
    let claims = place.claims(TIMEOUT).await;
    assert_eq!(claims.read(MEETING).await.unwrap(), None);
    let stands = claims.replace(MEETING, None, claim("core-1", 1, 0)).await.unwrap();
    assert_eq!(claims.read(MEETING).await.unwrap(), Some(stands.clone()));
    match claims.replace(MEETING, None, claim("core-2", 2, 0)).await {
        Err(AuthorityError::Conflict(Some(found))) => assert_eq!(*found, stands),
        other => panic!("{other:?}"),
    }
    assert_eq!(claims.read(MEETING).await.unwrap(), Some(stands));
    assert_eq!(claims.read(OTHER).await.unwrap(), None);
}

async fn of_many_that_race_one_wins_every_round(place: impl Place) {
    let cores = ["core-1", "core-2", "core-3", "core-4"];
    let mut racers = vec![];
    for core in cores {
        racers.push((core, place.claims(TIMEOUT).await));
    }
    let mut stands: Option<Stands> = None;
    for round in 1..=30 {
        let mut race = JoinSet::new();
        for (core, claims) in racers.clone() {
            let after = stands.clone();
            race.spawn(async move { claims.replace(MEETING, after.as_ref(), claim(core, round, 0)).await });
        }
        let ended = race.join_all().await;
        let winners: Vec<&Stands> = ended.iter().filter_map(|e| e.as_ref().ok()).collect();
        assert_eq!(winners.len(), 1, "round {round}: {ended:?}");
        for loser in ended.iter().filter_map(|e| e.as_ref().err()) {
            let AuthorityError::Conflict(Some(found)) = loser else { panic!("round {round}: {loser:?}") };
            assert_eq!(**found, *winners[0]);
        }
        assert!(stands.is_none_or(|before| before.revision < winners[0].revision));
        stands = Some(winners[0].clone());
        assert_eq!(racers[0].1.read(MEETING).await.unwrap(), stands);
    }
}

async fn a_stale_revision_is_refused(place: impl Place) {
    let claims = place.claims(TIMEOUT).await;
    let first = claims.replace(MEETING, None, claim("core-1", 1, 0)).await.unwrap();
    let second = claims.replace(MEETING, Some(&first), claim("core-1", 1, 1)).await.unwrap();
    for late in [claim("core-1", 1, 2), claim("core-2", 2, 0)] {
        match claims.replace(MEETING, Some(&first), late).await {
            Err(AuthorityError::Conflict(Some(found))) => assert_eq!(*found, second),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(claims.read(MEETING).await.unwrap(), Some(second));
}

async fn neither_term_nor_epoch_goes_back(place: impl Place) {
    let claims = place.claims(TIMEOUT).await;
    let stands = claims.replace(MEETING, None, claim("core-1", 3, 7)).await.unwrap();
    for older in [claim("core-1", 2, 7), claim("core-1", 3, 6), claim("core-2", 9, 0)] {
        let refused = claims.replace(MEETING, Some(&stands), older).await;
        assert!(matches!(refused, Err(AuthorityError::Backwards)), "{refused:?}");
    }
    assert_eq!(claims.read(MEETING).await.unwrap(), Some(stands));
}

async fn what_is_released_leaves_nothing_and_nobody_else_is_touched(place: impl Place) {
    let claims = place.claims(TIMEOUT).await;
    let other = claims.replace(OTHER, None, claim("core-2", 1, 0)).await.unwrap();
    let first = claims.replace(MEETING, None, claim("core-1", 1, 0)).await.unwrap();
    let second = claims.replace(MEETING, Some(&first), claim("core-1", 1, 1)).await.unwrap();
    let late = claims.remove(MEETING, first.revision).await;
    assert!(matches!(late, Err(AuthorityError::Conflict(Some(_)))), "{late:?}");
    claims.remove(MEETING, second.revision).await.unwrap();
    assert_eq!(claims.read(MEETING).await.unwrap(), None);
    assert_eq!(claims.read(OTHER).await.unwrap(), Some(other));
    let late = claims.replace(MEETING, Some(&second), claim("core-1", 1, 2)).await;
    assert!(matches!(late, Err(AuthorityError::Conflict(None))), "{late:?}");
    let again = claims.replace(MEETING, None, claim("core-3", 1, 0)).await.unwrap();
    assert!(again.revision > second.revision, "a late hand must not take it for the one it knew");
}

async fn claims_survive_a_restart(mut place: impl Place) {
    let claims = place.claims(TIMEOUT).await;
    let stands = claims.replace(MEETING, None, claim("core-1", 1, 4)).await.unwrap();
    drop(claims);
    place.restart().await;
    let claims = place.claims(TIMEOUT).await;
    assert_eq!(claims.read(MEETING).await.unwrap(), Some(stands.clone()));
    let next = claims.replace(MEETING, Some(&stands), claim("core-1", 1, 5)).await.unwrap();
    assert!(next.revision > stands.revision);
}

async fn without_an_answer_there_is_an_error_in_time_and_then_it_recovers(mut place: impl Place) {
    let (claims, hasty) = (place.claims(TIMEOUT).await, place.claims(SHORT).await);
    let stands = claims.replace(MEETING, None, claim("core-1", 1, 0)).await.unwrap();
    assert_eq!(hasty.read(MEETING).await.unwrap(), Some(stands.clone()));
    place.away();
    let begun = std::time::Instant::now();
    let refused = hasty.replace(MEETING, Some(&stands), claim("core-1", 1, 1)).await;
    assert!(matches!(refused, Err(AuthorityError::Unavailable(_))), "{refused:?}");
    assert!(begun.elapsed() < SHORT + Duration::from_secs(2) && !hasty.is_up());
    place.back();
    // Whether the first was heeded, nobody was told.
    let next = claims.replace(MEETING, Some(&stands), claim("core-1", 1, 1)).await.unwrap();
    assert_eq!(next.claim, claim("core-1", 1, 1));
    let mut up = hasty.up.subscribe();
    let probing = tokio::spawn(hasty.clone().watch(node("core-1")));
    timeout(TIMEOUT, up.wait_for(|up| *up)).await.unwrap().unwrap();
    assert_eq!(claims.read(MEETING).await.unwrap(), Some(next));
    probing.abort();
}

async fn what_is_no_claim_is_an_error_and_nobodys(place: impl Place) {
    let claims = place.claims(TIMEOUT).await;
    claims.replace(OTHER, None, claim("core-1", 1, 0)).await.unwrap();
    for (n, bytes) in [&b"core-1"[..], b"", b"\x01\x01\x06core-1", b"\xff\xff\xff\xff"].into_iter().enumerate() {
        let meeting = MeetingId::from_u128(100 + n as u128);
        place.scribble(meeting, bytes).await;
        let read = claims.read(meeting).await;
        assert!(matches!(read, Err(AuthorityError::Unreadable(_))), "{read:?}");
        let replaced = claims.replace(meeting, None, claim("core-2", 1, 0)).await;
        assert!(matches!(replaced, Err(AuthorityError::Unreadable(_))), "{replaced:?}");
        let taken = claims.take(meeting, &node("core-2"), (Some(&node("core-1")), Term(1)), (Term(2), Epoch(1))).await;
        assert!(matches!(taken, Err(NotTaken::Unknown(_))), "{taken:?}");
    }
    assert!(claims.is_up(), "it answers");
}

/// Does what it is asked, and its first answer to each kind of change is lost.
struct LosesAnswers(Arc<dyn Authority>, AtomicU32);

#[async_trait]
impl Authority for LosesAnswers {
    fn is_shared(&self) -> bool {
        self.0.is_shared()
    }

    async fn read(&self, meeting: MeetingId) -> Result<Option<Stands>, AuthorityError> {
        self.0.read(meeting).await
    }

    async fn replace(
        &self,
        meeting: MeetingId,
        after: Option<Revision>,
        claim: &Claim,
    ) -> Result<Revision, AuthorityError> {
        let answer = self.0.replace(meeting, after, claim).await;
        match self.1.fetch_add(1, Ordering::Relaxed) % 2 {
            0 => Err(AuthorityError::Unavailable("lost on the way".into())),
            _ => answer,
        }
    }

    async fn remove(&self, meeting: MeetingId, revision: Revision) -> Result<(), AuthorityError> {
        self.0.remove(meeting, revision).await
    }
}

async fn an_answer_that_was_lost_counts(place: impl Place) {
    let claims = Claims::new(Arc::new(LosesAnswers(place.authority().await, AtomicU32::new(0))), TIMEOUT);
    let first = claims.replace(MEETING, None, claim("core-1", 1, 0)).await.unwrap();
    let second = claims.replace(MEETING, Some(&first), claim("core-1", 1, 1)).await.unwrap();
    assert_eq!(claims.read(MEETING).await.unwrap(), Some(second));
    let taken = claims.take(OTHER, &node("core-2"), (None, Term(1)), (Term(2), Epoch(1))).await;
    assert_eq!(taken.is_ok(), !claims.is_shared(), "{taken:?}");
}

async fn the_serving_core_grows_its_claim_until_another_has_it(place: impl Place) {
    let claims = place.claims(TIMEOUT).await;
    let standing = Standing::new(claims.clone(), MEETING, node("core-1"), None);
    let nothing = standing.amend(Term(1), None, |_| {}).await;
    assert_eq!(nothing, Err(Lost::Gone));
    standing.amend(Term(1), Some(claim("core-1", 1, 3)), |c| c.epoch = Epoch(4)).await.unwrap();
    standing.amend(Term(1), None, |c| c.standby = Some(node("core-2"))).await.unwrap();
    // Another hand of the same core, after a restart.
    let again = Standing::new(claims.clone(), MEETING, node("core-1"), None);
    again.amend(Term(1), None, |c| c.epoch = Epoch(5)).await.unwrap();
    standing.amend(Term(1), None, |c| c.epoch = Epoch(6)).await.unwrap();
    let stands = claims.read(MEETING).await.unwrap().unwrap();
    assert_eq!(stands.claim, Claim { standby: Some(node("core-2")), ..claim("core-1", 1, 6) });
    // As the other core would, were it the same authority.
    claims.replace(MEETING, Some(&stands), claim("core-2", 2, 6)).await.unwrap();
    let superseded = Err(Lost::Superseded(node("core-2"), Term(2)));
    assert_eq!(standing.amend(Term(1), None, |c| c.epoch = Epoch(7)).await, superseded);
    assert_eq!(standing.begin(Term(1), Term(0x4001)).await, superseded);
    standing.release().await.unwrap();
    assert_eq!(claims.read(MEETING).await.unwrap().unwrap().claim, claim("core-2", 2, 6), "not its own to remove");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_cores_that_would_take_a_meeting_over_only_the_named_standby_does() {
    let server = NatsServer::start();
    let claims = || async { Claims::new(Arc::new(server.authority(TIMEOUT).await), TIMEOUT) };
    let (first, second, third) = (claims().await, claims().await, claims().await);
    let standby = Claim { standby: Some(node("core-2")), ..claim("core-1", 1, 4) };
    first.replace(MEETING, None, standby).await.unwrap();
    let former = node("core-1");
    let (former, next) = ((Some(&former), Term(1)), (Term(2), Epoch(4)));
    assert_eq!(third.take(MEETING, &node("core-3"), former, next).await, Err(NotTaken::Held(node("core-1"), Term(1))));
    let taken = second.take(MEETING, &node("core-2"), former, next).await.unwrap();
    assert_eq!(taken.claim, claim("core-2", 2, 4));
    assert_eq!(second.take(MEETING, &node("core-2"), former, next).await.unwrap().claim, taken.claim, "asked twice");
    assert_eq!(third.take(MEETING, &node("core-3"), former, next).await, Err(NotTaken::Held(node("core-2"), Term(2))));
    assert_eq!(second.take(OTHER, &node("core-2"), former, next).await, Err(NotTaken::Ended));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_meetings_that_race_for_a_key_one_has_it() {
    let server = NatsServer::start();
    let key = KeyDigest::of_meeting("standup");
    for round in 0..5u128 {
        let mut racing = JoinSet::new();
        for n in 1..=8u128 {
            let claims = Claims::new(Arc::new(server.authority(TIMEOUT).await), TIMEOUT);
            let meeting = MeetingId::from_u128(round * 100 + n);
            racing.spawn(async move {
                claims.replace(meeting, None, claim("core-1", 1, 0)).await.unwrap();
                (claims.hold(&[key], meeting).await.unwrap(), meeting, claims)
            });
        }
        let outcomes = racing.join_all().await;
        let won: Vec<_> = outcomes.iter().filter(|(other, ..)| other.is_none()).collect();
        let [(_, winner, claims)] = won[..] else { panic!("{} have it", won.len()) };
        assert!(outcomes.iter().all(|(other, meeting, _)| meeting == winner || *other == Some(*winner)));
        assert_eq!(claims.hold(&[key], *winner).await.unwrap(), None, "asked again");
        claims.let_go(&[key], OTHER).await.unwrap();
        let stands = claims.read(*winner).await.unwrap().unwrap();
        if round % 2 == 0 {
            claims.let_go(&[key], *winner).await.unwrap();
        }
        // What is left of a meeting that nobody claims gives way.
        claims.remove(*winner, stands.revision).await.unwrap();
    }
}
