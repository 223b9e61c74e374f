//! At most one meeting for each idempotency key, and one live meeting for each deduplication key, over all cores of the mesh.
//!
//! A request takes its keys here ([`reserve`](super::reserve)) before it waits for anything; then every live core that the
//! meeting's residency allows is asked, for at most [`ASK_WAIT`] each. Under an authority that all cores share the keys are also
//! written there, by compare-and-set, for as long as the meeting lives. Between cores that cannot reach each other, nor such an
//! authority, each side may make a meeting of its own.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mesh::{
    identity::{Identity, NodeId, Role},
    wire::{
        MeetingId,
        keys::{Found, KeyDigest, Keys, MAX_KEYS},
        request::{Request, Response},
    },
};
use tokio::time::{sleep, timeout};

use super::{CreateError, Created, Meetings};
use crate::{
    lock,
    residency::allowed,
    store::{
        log::LogClosed,
        reads::ReadError,
        record::{CoreRole, MeetingRecord, Spec},
    },
};

/// A core that is asked about keys answers within this, or is passed over.
const ASK_WAIT: Duration = Duration::from_millis(800);

/// How long a request waits for another with the same key.
const TURN_WAIT: Duration = Duration::from_secs(10);
/// How often it looks.
const TURN_PAUSE: Duration = Duration::from_millis(50);

/// The keys of one request.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    /// The idempotency key, and the digest of the request's body.
    request: Option<(KeyDigest, String)>,
    /// The deduplication key.
    meeting: Option<KeyDigest>,
}

impl Wanted {
    pub(super) fn of(spec: &Spec, idempotency: &Option<(String, String)>) -> Self {
        let request = idempotency.as_ref().map(|(key, body)| (KeyDigest::of_request(key), body.clone()));
        Self { request, meeting: spec.deduplication_key.as_deref().map(KeyDigest::of_meeting) }
    }

    pub(super) fn of_record(record: &MeetingRecord) -> Self {
        Self::of(&record.spec, &record.idempotency)
    }

    /// In the order in which they are answered.
    pub(super) fn all(&self) -> Vec<KeyDigest> {
        self.request.iter().map(|(key, _)| *key).chain(self.meeting).collect()
    }

    fn is_request(&self, key: &KeyDigest) -> bool {
        self.request.as_ref().is_some_and(|(request, _)| request == key)
    }
}

/// Keys taken for a meeting that is being made; free again when it is dropped.
pub(super) struct Reserved {
    meetings: Arc<Meetings>,
    keys: Vec<KeyDigest>,
    meeting: MeetingId,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        lock(&self.meetings.reservations).release(&self.keys, self.meeting);
    }
}

/// What a core says of a key.
struct Told {
    key: KeyDigest,
    found: Found,
}

/// What all that were asked say.
struct Asked {
    told: Vec<Told>,
    /// Each has answered.
    all: bool,
}

impl Asked {
    /// Whether another meeting comes first: of two that are being made the one with the smaller id. One that no core says it
    /// makes itself counts only where the core that makes it may not have answered.
    fn is_behind(&self, meeting: MeetingId) -> bool {
        let first = |found: &Found| match found {
            Found::Making { meeting: other, here } => *other < meeting && (*here || !self.all),
            _ => false,
        };
        self.told.iter().any(|t| first(&t.found))
    }
}

impl Meetings {
    /// Takes the request's keys for `meeting`, or finds the meeting that has been made under one.
    ///
    /// # Errors
    /// A meeting has been made under one of them that is not to be answered with, or who has the key does not say what comes of it.
    pub(super) async fn reserve(
        self: &Arc<Self>,
        wanted: &Wanted,
        spec: &Spec,
        meeting: MeetingId,
    ) -> Result<Result<Reserved, Created>, CreateError> {
        let (keys, deadline) = (wanted.all(), Instant::now() + TURN_WAIT);
        let reserved = loop {
            let taken = lock(&self.reservations).reserve(&keys, meeting, Instant::now());
            let Err(other) = taken else {
                break Reserved { meetings: self.clone(), keys: keys.clone(), meeting };
            };
            if Instant::now() >= deadline {
                return Err(CreateError::KeyBusy);
            }
            sleep(TURN_PAUSE).await;
            if let Some(created) = self.made_here(wanted).await? {
                return Ok(Err(created));
            }
            self.look_at_promise(&keys, spec, other).await;
        };
        if let Some(created) = self.made_here(wanted).await? {
            return Ok(Err(created));
        }
        self.check(spec)?;
        while !keys.is_empty() {
            let asked = self.ask_keys(spec, Keys { making: Some(meeting), keys: keys.clone() }).await;
            self.made_there(wanted, &asked.told)?;
            if !asked.is_behind(meeting) {
                break;
            }
            if Instant::now() >= deadline {
                return Err(CreateError::KeyBusy);
            }
            sleep(TURN_PAUSE).await;
        }
        Ok(Ok(reserved))
    }

    /// A key is promised to another core: once `other` is made or given up there, it need not be kept any longer.
    async fn look_at_promise(&self, keys: &[KeyDigest], spec: &Spec, other: MeetingId) {
        if keys.iter().any(|key| lock(&self.reservations).own(key) == Some(other)) {
            return;
        }
        let asked = self.ask_keys(spec, Keys { making: None, keys: keys.to_vec() }).await;
        if asked.all && !asked.told.iter().any(|t| t.found == Found::Making { meeting: other, here: true }) {
            let mut reservations = lock(&self.reservations);
            keys.iter().for_each(|key| reservations.forget(key, other));
        }
    }

    /// The meeting that this core knows to have been made under one of the keys.
    async fn made_here(&self, wanted: &Wanted) -> Result<Option<Created>, CreateError> {
        if let Some((key, body)) = &wanted.request
            && let Some((record, digest)) = self.keyed(*key).await?
        {
            if digest != *body {
                return Err(CreateError::KeyReused);
            }
            return self.answer_with(record).map(Some);
        }
        if let Some(key) = wanted.meeting
            && let Some((record, _)) = self.keyed(key).await?
            && record.serving.role != CoreRole::Moved
            && !record.status.ended()
        {
            return Err(CreateError::Duplicate(record.id));
        }
        Ok(None)
    }

    async fn keyed(&self, key: KeyDigest) -> Result<Option<(MeetingRecord, String)>, CreateError> {
        let read = self.reads.run(move |store| store.keyed(&key)).await?;
        let Some((id, body)) = read else { return Ok(None) };
        Ok(self.look(id).await?.map(|record| (record, body)))
    }

    /// Whoever serves the meeting answers the request.
    fn answer_with(&self, record: MeetingRecord) -> Result<Created, CreateError> {
        let over = record.serving.role == CoreRole::Standby && record.status.ended();
        match record.serving.core(self.me()).filter(|core| core != self.me() && !over) {
            Some(core) => Err(self.made_at(record.id, &core)),
            None => Ok(Created { record, existing: true }),
        }
    }

    /// Has the keys stand for a meeting that was just claimed, where all cores see them.
    ///
    /// # Errors
    /// One stands for another meeting, or the authority cannot be reached.
    pub(super) async fn hold_keys(&self, record: &MeetingRecord) -> Result<(), CreateError> {
        let wanted = Wanted::of_record(record);
        let Some(other) = self.hold_all(&wanted.all(), record.id).await? else { return Ok(()) };
        let deduplicated = wanted.meeting.is_some() && wanted.request.is_none();
        let serving = self.claims.read(other).await?.map(|stands| stands.claim.core);
        match serving {
            Some(core) if !deduplicated && core != *self.me() => Err(self.made_at(other, &core)),
            _ => Err(CreateError::Duplicate(other)),
        }
    }

    /// Finds a meeting that other cores know.
    fn made_there(&self, wanted: &Wanted, told: &[Told]) -> Result<(), CreateError> {
        for Told { key, found } in told {
            let Found::Made { meeting, core, body } = found else { continue };
            match &wanted.request {
                Some((_, digest)) if wanted.is_request(key) && digest != body => return Err(CreateError::KeyReused),
                Some(_) if wanted.is_request(key) => return Err(self.made_at(*meeting, core)),
                _ => return Err(CreateError::Duplicate(*meeting)),
            }
        }
        Ok(())
    }

    fn made_at(&self, meeting: MeetingId, core: &NodeId) -> CreateError {
        self.api_of(core).map_or(CreateError::Unreachable(meeting), |api| CreateError::Made { meeting, api })
    }

    /// What the live cores within the residency say of the keys.
    async fn ask_keys(&self, spec: &Spec, keys: Keys) -> Asked {
        let regions = allowed(self.placer.model.map(), &spec.residency).unwrap_or_else(|_| Some(Default::default()));
        let members = self.placer.mesh.members().borrow().clone();
        let within = |id: &Identity| regions.as_ref().is_none_or(|r| r.contains(&id.region));
        let cores = members.iter().map(|m| &m.identity).filter(|id| id.role == Role::Core && within(id));
        let mut asked = tokio::task::JoinSet::new();
        for core in cores.map(|id| id.node.clone()).filter(|core| core != self.me()) {
            let (mesh, keys) = (self.placer.mesh.clone(), keys.clone());
            asked.spawn(async move {
                match timeout(ASK_WAIT, mesh.request(&core, &Request::Keys(keys.clone()))).await {
                    Ok(Ok(Response::Keys(found))) if found.len() == keys.keys.len() => {
                        Some(keys.keys.into_iter().zip(found).map(|(key, found)| Told { key, found }))
                    }
                    _ => {
                        metrics::counter!("nearfield_core_keys_unanswered_total").increment(1);
                        None
                    }
                }
            });
        }
        let answers = asked.join_all().await;
        let all = answers.iter().all(Option::is_some);
        Asked { told: answers.into_iter().flatten().flatten().collect(), all }
    }

    /// Another core asks about keys.
    pub(super) async fn handle_keys(&self, from: &Identity, asked: Keys) -> Response {
        if asked.keys.len() > MAX_KEYS {
            return Response::Refused { reason: format!("at most {MAX_KEYS} keys") };
        }
        let mut answers = vec![];
        for key in asked.keys {
            match self.found(key, asked.making, &from.node).await {
                Ok(found) => answers.push(found),
                Err(error) => return Response::Refused { reason: error.to_string() },
            }
        }
        tracing::debug!(core = %from.node, "asked about keys");
        Response::Keys(answers)
    }

    async fn found(&self, key: KeyDigest, making: Option<MeetingId>, by: &NodeId) -> Result<Found, CreateError> {
        {
            let mut reservations = lock(&self.reservations);
            if let Some(own) = reservations.own(&key) {
                return Ok(Found::Making { meeting: own, here: true });
            }
            if let Some(meeting) = making
                && let Err(other) = reservations.promise(key, meeting, by, Instant::now())
            {
                return Ok(Found::Making { meeting: other, here: false });
            }
        }
        let Some((record, body)) = self.keyed(key).await? else { return Ok(Found::Nothing) };
        // What has moved away may be over by now; who serves it knows.
        let live = self.may_take_up(&record);
        let Some(core) = record.serving.core(self.me()).filter(|_| live || !body.is_empty()) else {
            return Ok(Found::Nothing);
        };
        if let Some(meeting) = making {
            lock(&self.reservations).forget(&key, meeting);
        }
        Ok(Found::Made { meeting: record.id, core, body })
    }
}

impl From<ReadError> for CreateError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Busy => Self::Busy,
            ReadError::Store(error) => {
                tracing::error!(%error, "a key could not be looked up");
                Self::Log(LogClosed)
            }
        }
    }
}
