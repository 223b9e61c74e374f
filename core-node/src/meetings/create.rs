//! A meeting is made: checked, claimed, written down, and only then live.

use std::sync::Arc;

use geo::RegionId;
use mesh::{
    mandate::MeetingKey,
    trace::TraceContext,
    wire::{Epoch, MeetingId, Term},
};

use super::{Live, Meetings, forget_live, keys};
use crate::{
    authority::{AuthorityError, Claim},
    lock,
    meeting::{Meeting, machine::Machine, now, wall},
    residency::{UnknownPlace, allowed, core_within},
    speech::{ingest::Ingest, order::Turns},
    store::{
        Op,
        log::LogClosed,
        record::{CoreRole, MeetingRecord, Spec},
    },
};

/// Why a meeting was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The policy names a place that is not.
    #[error(transparent)]
    Place(#[from] UnknownPlace),
    /// It is to be near a region that is not.
    #[error("`{0}` is no region of this mesh")]
    Prefer(RegionId),
    /// The engine does not know the language.
    #[error("`{language}` is no language that this core's engine, {engine}, knows")]
    Language {
        /// What was asked for.
        language: String,
        /// The engine.
        engine: String,
    },
    /// This core may not serve it; that one may.
    #[error("this core is outside the allowed residency")]
    Elsewhere {
        /// Where the other core's API is.
        api: String,
    },
    /// No live core may serve it.
    #[error("no live core is within the allowed residency")]
    Residency,
    /// A live meeting has the same deduplication key.
    #[error("meeting {0} is live with this deduplication key")]
    Duplicate(MeetingId),
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// Another core serves the meeting that the same request has made.
    #[error("meeting {meeting} was made by this request, and another core serves it")]
    Made {
        /// The meeting.
        meeting: MeetingId,
        /// Where that core's API is.
        api: String,
    },
    /// That core is not there.
    #[error("meeting {0} was made by this request; the core that serves it cannot be reached")]
    Unreachable(MeetingId),
    /// A request with the same key is not answered yet.
    #[error("another request with this key is being served")]
    KeyBusy,
    /// Others read the store.
    #[error("too many requests read the store: try again")]
    Busy,
    /// As many meetings as it can hold.
    #[error("{0} meetings are live, which is all this core takes")]
    Full(usize),
    /// The store has reached its limit, or its disk is nearly full.
    #[error("the store has reached its limit, or its disk is nearly full")]
    StoreFull,
    /// The node is stopping.
    #[error("this core is draining")]
    Draining,
    /// Nobody can say that it is this core's.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The store failed.
    #[error(transparent)]
    Log(#[from] LogClosed),
    /// A fault of this core's; nothing was made.
    #[error("this core could not make the meeting: an internal error, which its log tells")]
    Broken,
}

/// A meeting that was asked for.
pub struct Created {
    /// How it stands.
    pub record: MeetingRecord,
    /// Whether it was there before: the same idempotency key with the same request.
    pub existing: bool,
}

impl Meetings {
    /// Makes a meeting, or finds the one that the same request made before. It is made whole even if this is dropped.
    ///
    /// # Errors
    /// See [`CreateError`].
    pub async fn create(
        self: &Arc<Self>,
        spec: Spec,
        trace: TraceContext,
        idempotency: Option<(String, String)>,
    ) -> Result<Created, CreateError> {
        let this = self.clone();
        let made = self.whole(async move { this.make(spec, trace, idempotency).await }).await;
        made.unwrap_or(Err(CreateError::Broken))
    }

    async fn make(
        self: &Arc<Self>,
        spec: Spec,
        trace: TraceContext,
        idempotency: Option<(String, String)>,
    ) -> Result<Created, CreateError> {
        let wanted = keys::Wanted::of(&spec, &idempotency);
        let mut record = new_record(spec, trace, idempotency);
        let _reserved = match self.reserve(&wanted, &record.spec, record.id).await? {
            Ok(reserved) => reserved,
            Err(made) => return Ok(made),
        };
        let (me, at) = (self.placer.mesh.identity(), record.created_at);
        record.begin_turn(me, CoreRole::Serving, Term(1), crate::SOFTWARE, at);
        let intake = (Ingest::new(self.settings.intake), Turns::default());
        let mut rest = record.clone();
        let machine = Machine::new(&mut rest, now());
        let (meeting, start) = self.assemble(rest, machine, vec![], intake, (vec![], 1, None), None);
        let place = self.insert(&meeting, &record)?;
        self.write_down(&meeting, &record).await?;
        place.keep();
        metrics::counter!("nearfield_core_meetings_created_total").increment(1);
        self.launch(meeting, start);
        Ok(Created { record, existing: false })
    }

    /// A new meeting is claimed, and on disk.
    async fn write_down(&self, meeting: &Arc<Meeting>, record: &MeetingRecord) -> Result<(), CreateError> {
        let core = self.placer.mesh.identity().node.clone();
        let claim = Claim { core, term: Term(1), epoch: Epoch(0), standby: None };
        if let Err(error) = meeting.standing.make(claim).await {
            // It may have been heeded.
            self.release(meeting.clone());
            return Err(error.into());
        }
        if let Err(error) = self.hold_keys(record).await {
            // It is not made: nothing is to stand for it.
            self.release(meeting.clone());
            return Err(error);
        }
        self.log.write(Op::Meeting(Box::new(record.clone()))).await?;
        Ok(())
    }

    pub(super) fn check(&self, spec: &Spec) -> Result<(), CreateError> {
        if self.store_failure().is_some() {
            return Err(LogClosed.into());
        }
        if self.draining() {
            return Err(CreateError::Draining);
        }
        let map = self.placer.model.map();
        if let Some(unknown) = spec.prefer.iter().find(|region| map.region(region).is_none()) {
            return Err(CreateError::Prefer(unknown.clone()));
        }
        if let Some(language) = spec.language.as_ref().filter(|language| !self.pool.knows(language)) {
            return Err(CreateError::Language { language: language.clone(), engine: self.pool.engine().into() });
        }
        let here = self.placer.mesh.identity().region.clone();
        if let Some(regions) = allowed(map, &spec.residency)?
            && !regions.contains(&here)
        {
            let members = self.placer.mesh.members().borrow().clone();
            let api = core_within(&members, &regions, &here, &self.placer.model).ok_or(CreateError::Residency)?;
            return Err(CreateError::Elsewhere { api: api.to_owned() });
        }
        if self.store_shortage().is_some() {
            return Err(CreateError::StoreFull);
        }
        Ok(())
    }

    /// Takes the meeting's place among the live ones, if there is one.
    fn insert(&self, meeting: &Arc<Meeting>, record: &MeetingRecord) -> Result<Place<'_>, CreateError> {
        let mut live = lock(&self.live);
        if let Some(key) = &record.spec.deduplication_key {
            let same = live.values().find(|m| m.record().spec.deduplication_key.as_ref() == Some(key));
            if let Some(same) = same {
                return Err(CreateError::Duplicate(same.id));
            }
        }
        if live.len() >= self.settings.meetings {
            return Err(CreateError::Full(live.len()));
        }
        live.insert(record.id, meeting.clone());
        metrics::gauge!("nearfield_core_meetings_live_meetings").set(live.len() as f64);
        Ok(Place { live: &self.live, meeting: Some(record.id) })
    }
}

/// The place of a meeting that is being made: given back unless it is kept.
struct Place<'a> {
    live: &'a Live,
    meeting: Option<MeetingId>,
}

impl Place<'_> {
    /// The meeting is made, and gives it back at its end.
    fn keep(mut self) {
        self.meeting = None;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(meeting) = self.meeting {
            forget_live(self.live, meeting);
        }
    }
}

pub(crate) fn new_record(spec: Spec, trace: TraceContext, idempotency: Option<(String, String)>) -> MeetingRecord {
    let (trace, key) = (trace.to_string(), MeetingKey::random());
    MeetingRecord { idempotency, trace, key, ..MeetingRecord::new(MeetingId::now_v7(), spec, wall()) }
}
