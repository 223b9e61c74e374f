//! A meeting goes live: it is put together, and its tasks begin.

#![allow(clippy::disallowed_methods, reason = "I/O shell: reads the clock for the pure parts")]

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use mesh::tasks::told;
use tokio::sync::mpsc;
use tracing::Instrument;

use super::{Meetings, replication, supervise};
use crate::{
    authority::{Stands, standing::Standing},
    lock,
    meeting::{Link, Meeting, Notice, Parts, machine::Machine, now, transcription},
    placement::{Wanted, policy, rebalance::Rebalance},
    publish::Publisher,
    replicate::{handle::Replication, sender::Replicator},
    residency::allowed,
    speech::{
        ingest::Ingest,
        order::Turns,
        utterance::{Cover, IntakeEvent},
    },
    store::{
        StoreError,
        record::{MeetingRecord, Participant, Spec},
    },
    transcript::Transcript,
};

/// What was heard and waits for the transcription task; when full, spurt streams wait.
const HEARD_QUEUE: usize = 1024;

/// What edges and the API say and waits for the supervisor; when full, they wait.
const NOTICE_QUEUE: usize = 64;

/// The receiving ends of a meeting's queues.
pub(super) struct Ends {
    /// What is out already of what several edges captured.
    covers: Option<Vec<Cover>>,
    heard: mpsc::Receiver<IntakeEvent>,
    notices: mpsc::Receiver<Notice>,
}

impl Meetings {
    pub(super) fn take_up(
        self: &Arc<Self>,
        mut record: MeetingRecord,
        stands: Option<Stands>,
    ) -> Result<(), StoreError> {
        let mut ingest = Ingest::new(self.settings.intake);
        let mut turns = Turns::default();
        for (captured, spurt) in self.store.held(record.id)? {
            if !spurt.done {
                turns.begin(&spurt.key, captured);
            }
            ingest.restore(spurt);
        }
        let undone = ingest.undone();
        let participants = self.store.participants(record.id)?;
        let segments = self.store.segments(record.id, 0)?;
        let newest = segments.last().map(|s| s.seq);
        let finals = segments.into_iter().map(|s| s.id).collect();
        let next_seq = self.store.sequence(record.id)?;
        let machine = Machine::resumed(&mut record, undone, now());
        tracing::info!(meeting = %record.id, status = record.status.as_str(), undone, "meeting taken up again");
        let covers = Some(self.store.covers(record.id)?);
        let said = (finals, next_seq, newest);
        let (meeting, start) = self.assemble(record, machine, participants, (ingest, turns), said, stands);
        lock(&self.live).insert(meeting.id, meeting.clone());
        self.launch(meeting, Ends { covers, ..start });
        Ok(())
    }

    pub(super) fn assemble(
        &self,
        record: MeetingRecord,
        machine: Machine<Link>,
        participants: Vec<Participant>,
        (ingest, turns): (Ingest, Turns),
        (finals, next_seq, newest): (Vec<uuid::Uuid>, u64, Option<u64>),
        stands: Option<Stands>,
    ) -> (Arc<Meeting>, Ends) {
        let (heard, heard_end) = mpsc::channel(HEARD_QUEUE);
        let (notices, notices_end) = mpsc::channel(NOTICE_QUEUE);
        let transcript = Transcript::new(record.id, record.origin, next_seq, finals);
        let replication = Arc::new(Replication::new(self.replicator(&record)));
        let (store, log, stop) = (self.store.clone(), self.log.clone(), self.stop.child_token());
        let (feed, shipped) = (store.clone(), replication.clone());
        let publisher = Publisher::new(record.id, transcript, (&record.gaps, newest), feed, log.clone(), shipped);
        let me = self.placer.mesh.identity().node.clone();
        let parts = Parts {
            bounds: self.settings.bounds,
            standing: Standing::new(self.claims.clone(), record.id, me, stands),
            record,
            machine,
            participants,
            ingest,
            turns,
            replication,
            stop,
            publisher,
            store,
            log,
            heard,
            notices,
        };
        let meeting = Meeting::new(parts);
        (Arc::new(meeting), Ends { covers: None, heard: heard_end, notices: notices_end })
    }

    fn replicator(&self, record: &MeetingRecord) -> Replicator {
        let serving = &record.serving;
        let me = self.placer.mesh.identity().node.clone();
        Replicator::new(
            self.settings.failover.pair,
            me,
            serving.term,
            serving.standby.clone(),
            self.started.0 + self.streams.fetch_add(1, Ordering::Relaxed),
            Instant::now(),
        )
    }

    /// Starts the meeting's tasks.
    pub(super) fn launch(self: &Arc<Self>, meeting: Arc<Meeting>, ends: Ends) {
        let record = meeting.record();
        let span = tracing::info_span!("meeting", id = %meeting.id, trace = %record.trace);
        let stop = meeting.stop.clone();
        let settings = transcription::Settings {
            parallel: self.settings.parallel,
            interim: self.settings.interim.filter(|_| record.spec.interim),
            language: record.spec.language.clone().or_else(|| self.settings.language.clone()),
            noise_suppression: record.spec.noise_suppression.unwrap_or(self.settings.noise_suppression),
        };
        let task =
            transcription::run(meeting.clone(), self.pool.clone(), settings, ends.covers, ends.heard, stop.clone());
        let guarded = self.clone().guarded(meeting.clone(), "the transcription", task);
        self.tasks.spawn(guarded.instrument(span.clone()));
        let wanted = self.wanted(&record.spec);
        let pairing = replication::Pairing::new(self.clone(), meeting.clone(), wanted.policy.residency.clone());
        let guarded = self.clone().guarded(meeting.clone(), "replication", pairing.run(stop.clone()));
        self.tasks.spawn(guarded.instrument(span.clone()));
        let rebalance = Rebalance::new(meeting.clone(), self.placer.clone(), wanted.clone());
        let guarded =
            self.clone().guarded(meeting.clone(), "the search for a better edge", rebalance.run(stop.clone()));
        self.tasks.spawn(guarded.instrument(span.clone()));
        let supervisor = supervise::Supervisor::new(self.clone(), meeting, wanted);
        self.tasks.spawn(told("the supervisor", supervisor.run(ends.notices)).instrument(span));
    }

    fn wanted(&self, spec: &Spec) -> Wanted {
        // A place that this node's map has lost since allows nothing, rather than everything.
        let residency = allowed(self.placer.model.map(), &spec.residency).unwrap_or_else(|_| Some(Default::default()));
        let policy = policy(residency, &spec.prefer, spec.max_rtt_ms);
        Wanted { source: spec.source.clone(), stun: spec.stun.clone(), policy }
    }
}
