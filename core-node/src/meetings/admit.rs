//! What other nodes may do here: what they are to a meeting, for [`mesh::authorize`].

use geo::RegionId;
use mesh::{
    authorize::{self, Denied, Message, Relation, Residency},
    identity::{Identity, NodeId, Role},
    mandate::Statement,
    wire::{
        MeetingId, Term,
        request::{Replica, Response},
    },
};

use super::Meetings;
use crate::{
    residency::allowed,
    store::record::{MeetingRecord, Owner},
};

/// What an edge is to a meeting in which `owner` owns the epoch that it names.
pub fn relation(owner: Option<&Owner>, edge: &Identity) -> Relation {
    match owner.filter(|owner| owner.edge == edge.node && owner.region == edge.region) {
        Some(owner) if owner.until.is_none() => Relation::Owner,
        Some(_) => Relation::Former,
        None => Relation::Nobody,
    }
}

impl Meetings {
    /// Whether `message` of `from` is taken. A refusal is counted and logged.
    ///
    /// # Errors
    /// What speaks against it.
    pub fn admit(&self, message: Message, from: &Identity, who: Relation, at: Residency) -> Result<(), Denied> {
        let admitted = authorize::check(message, Role::Core, from.role, who, at);
        admitted.inspect_err(|denied| self.denials.note(from, denied))
    }

    /// Where `region` is, by the residency of a meeting. A place that this node's map does not know allows nothing, rather
    /// than everything.
    pub fn residency(&self, record: &MeetingRecord, region: &RegionId) -> Residency {
        let regions = allowed(self.placer().model.map(), &record.spec.residency);
        Residency::of(regions.is_ok_and(|regions| regions.is_none_or(|r| r.contains(region))))
    }

    /// Another core says by `replica` that it serves a meeting of which this one knows `record`. Who serves what is not known here
    /// its record must show: [`Meetings::admit_record`].
    ///
    /// # Errors
    /// It was not given the meeting, or may not have it.
    pub fn admit_replica(
        &self,
        from: &Identity,
        record: Option<&MeetingRecord>,
        replica: &Replica,
    ) -> Result<(), Denied> {
        let Some(record) = record else {
            return self.admit(Message::Replicate, from, Relation::New, Residency::Inside);
        };
        let said = self.said_to_me(replica.meeting, &from.node, &from.node, replica.term);
        let who = if record.key.proves(&said, &replica.proof) { Relation::Core } else { Relation::Nobody };
        self.admit(Message::Replicate, from, who, self.residency(record, &from.region))
    }

    /// The record that came with `replica`, of a meeting of which this core knew `known`: whoever serves a meeting has its key,
    /// and is within its residency.
    ///
    /// # Errors
    /// It has not, or is not.
    pub fn admit_record(
        &self,
        from: &Identity,
        known: Option<&MeetingRecord>,
        replica: &Replica,
        record: &MeetingRecord,
    ) -> Result<(), Denied> {
        if known.is_some_and(|known| known.key != record.key) {
            return self.admit(Message::Replicate, from, Relation::Nobody, Residency::Inside);
        }
        self.admit_replica(from, Some(record), replica)
    }

    /// The answer of `by` to what this core asked of a meeting with this record, as it is to be taken: who says who serves, and has
    /// not the meeting's key, has refused.
    pub fn believed(&self, by: &Identity, record: &MeetingRecord, answer: Response) -> Response {
        let Response::Serving { core, term, proof } = &answer else { return answer };
        let said = self.said_to_me(record.id, core, &by.node, *term);
        let who = if record.key.proves(&said, proof) { Relation::Core } else { Relation::Nobody };
        match self.admit(Message::ServingAnswer, by, who, Residency::Inside) {
            Ok(()) => answer,
            Err(denied) => Response::Refused { reason: denied.to_string() },
        }
    }

    /// Tells `to` who serves a meeting, proven by the key that it has of the meeting.
    pub fn serving_answer(&self, to: &Identity, record: &MeetingRecord, core: NodeId, term: Term) -> Response {
        let me = &self.placer().mesh.identity().node;
        let said = Statement::Serves { meeting: record.id, core: &core, term, from: me, to: &to.node };
        let proof = match to.role {
            Role::Edge => record.key.for_edge(&to.node).prove(&said),
            Role::Core | Role::Dns => record.key.prove(&said),
        };
        Response::Serving { core, term, proof }
    }

    /// Whether `edge` may speak of a meeting here as one that captures it, or did. Its region was looked at when it opened the meeting.
    ///
    /// # Errors
    /// It may not.
    pub fn admit_edge(&self, message: Message, edge: &Identity, owner: Option<&Owner>) -> Result<(), Denied> {
        self.admit(message, edge, relation(owner, edge), Residency::Inside)
    }

    /// Whether `from` may ask who serves a meeting: of the edges only those that had part in it.
    ///
    /// # Errors
    /// It may not.
    pub fn admit_question(&self, from: &Identity, record: &MeetingRecord) -> Result<(), Denied> {
        let owners = record.owners.rows.values().map(|owner| relation(Some(owner), from));
        let who = owners.filter(|who| *who != Relation::Nobody).max().unwrap_or(Relation::Nobody);
        self.admit(Message::Serving, from, who, Residency::Inside)
    }

    fn said_to_me<'a>(&'a self, meeting: MeetingId, core: &'a NodeId, from: &'a NodeId, term: Term) -> Statement<'a> {
        Statement::Serves { meeting, core, term, from, to: &self.placer().mesh.identity().node }
    }

    /// The proof that goes with what is sent to `to` of a meeting that this core serves in `term`.
    pub fn prove_serving(&self, record: &MeetingRecord, to: &NodeId, term: Term) -> mesh::mandate::Proof {
        let me = &self.placer().mesh.identity().node;
        record.key.prove(&Statement::Serves { meeting: record.id, core: me, term, from: me, to })
    }
}
