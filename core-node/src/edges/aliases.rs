//! One edge's connection, without I/O: what its aliases mean, and which acknowledgements wait.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use mesh::{
    authorize::Denied,
    wire::{
        Epoch, MeetingAlias, MeetingId, ParticipantAlias, SpurtNo,
        control::{RefusedReason, ToEdge},
        spurt::SpurtHeader,
    },
};

use crate::{
    key::{ParticipantId, SpurtKey},
    meeting::link::ToLink,
};

/// The longest platform participant id and display name, in bytes.
pub const MAX_NAME: usize = 256;

/// How long a spurt waits for its connection's control stream, and then for the rows that its header names.
pub const ROW_WAIT: Duration = Duration::from_secs(10);

/// A row outlives its meeting by this: acknowledgements and spurts may be on their way.
const OVER_FOR: Duration = Duration::from_secs(10);

/// What a control message did wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadControl {
    /// It did not begin with a hello.
    #[error("the first message was no hello")]
    NoHello,
    /// It names a meeting that was not opened on this connection.
    #[error("meeting alias {0} was not opened")]
    UnknownAlias(u32),
    /// An id or name that is too long, or an empty id.
    #[error("a participant id must have 1 to {MAX_NAME} bytes and a name at most {MAX_NAME}")]
    BadName,
    /// The edge does not capture the meeting.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// More participants than a meeting may have.
    #[error("more than {0} participants in one meeting")]
    TooManyParticipants(usize),
}

/// How many rows an edge may fill, and how long what needs one waits for it.
#[derive(Debug, Clone, Copy)]
pub struct Caps {
    /// Meetings open on one connection.
    pub meetings: usize,
    /// Participants in one meeting.
    pub participants: usize,
    /// How long a spurt waits for the rows that its header names.
    pub row_wait: Duration,
}

/// What an edge's aliases mean.
#[derive(Debug)]
pub struct Aliases {
    caps: Caps,
    meetings: BTreeMap<MeetingAlias, Row>,
}

#[derive(Debug)]
struct Row {
    meeting: MeetingId,
    epoch: Epoch,
    /// The edge renews its lease with each beat.
    leased: bool,
    /// Since when the meeting is known not to be live here.
    over: Option<Instant>,
    participants: BTreeMap<ParticipantAlias, ParticipantId>,
    numbers: BTreeMap<ParticipantId, ParticipantAlias>,
    /// Participants that were not taken: nothing of theirs is.
    refused: BTreeSet<ParticipantAlias>,
}

impl Row {
    /// From here on `number` means `id`, and nothing else does.
    fn name(&mut self, number: ParticipantAlias, id: ParticipantId) {
        self.free(number);
        if let Some(before) = self.numbers.insert(id.clone(), number) {
            self.participants.remove(&before);
        }
        self.participants.insert(number, id);
    }

    fn free(&mut self, number: ParticipantAlias) {
        if let Some(id) = self.participants.remove(&number) {
            self.numbers.remove(&id);
        }
    }
}

impl Aliases {
    /// No rows yet.
    pub fn new(caps: Caps) -> Self {
        Self { caps, meetings: BTreeMap::new() }
    }

    /// From here on `alias` means `meeting` under `epoch`.
    ///
    /// # Errors
    /// The connection has as many meetings as it may have.
    pub fn open(&mut self, alias: MeetingAlias, meeting: MeetingId, epoch: Epoch) -> Result<(), RefusedReason> {
        match self.meetings.get(&alias) {
            Some(row) if row.meeting == meeting && row.epoch == epoch => return Ok(()),
            None if self.meetings.len() >= self.caps.meetings => return Err(RefusedReason::Full),
            _ => {}
        }
        let (participants, numbers, refused) = Default::default();
        self.meetings.insert(alias, Row { meeting, epoch, leased: false, over: None, participants, numbers, refused });
        Ok(())
    }

    /// A row of the participant table.
    ///
    /// # Errors
    /// The meeting is not open, the table is full, or the id or name is too long.
    pub fn participant(
        &mut self,
        alias: MeetingAlias,
        number: ParticipantAlias,
        id: &str,
        name: Option<&str>,
    ) -> Result<(MeetingId, ParticipantId), BadControl> {
        let cap = self.caps.participants;
        let row = self.meetings.get_mut(&alias).ok_or(BadControl::UnknownAlias(alias.0))?;
        let bad = if id.is_empty() || id.len() > MAX_NAME || name.is_some_and(|n| n.len() > MAX_NAME) {
            Some(BadControl::BadName)
        } else if row.participants.len() >= cap
            && !row.participants.contains_key(&number)
            && !row.numbers.contains_key(id)
        {
            Some(BadControl::TooManyParticipants(cap))
        } else {
            None
        };
        if let Some(bad) = bad {
            row.refused.insert(number);
            return Err(bad);
        }
        let id: ParticipantId = id.into();
        row.refused.remove(&number);
        row.name(number, id.clone());
        Ok((row.meeting, id))
    }

    /// The edge has no more to say of this participant, who has left: the row is free.
    ///
    /// # Errors
    /// The meeting is not open.
    pub fn forget(&mut self, alias: MeetingAlias, number: ParticipantAlias) -> Result<(), BadControl> {
        let row = self.meetings.get_mut(&alias).ok_or(BadControl::UnknownAlias(alias.0))?;
        row.refused.remove(&number);
        row.free(number);
        Ok(())
    }

    /// Rows of all tables.
    pub fn rows(&self) -> usize {
        self.meetings.values().map(|row| row.participants.len() + row.refused.len() + 1).sum()
    }

    /// The meeting that `alias` means, and its epoch.
    ///
    /// # Errors
    /// It was not opened.
    pub fn meeting(&self, alias: MeetingAlias) -> Result<(MeetingId, Epoch), BadControl> {
        self.meetings.get(&alias).map(|row| (row.meeting, row.epoch)).ok_or(BadControl::UnknownAlias(alias.0))
    }

    /// Who `number` is in the meeting `alias`.
    pub fn speaker(&self, alias: MeetingAlias, number: ParticipantAlias) -> Option<ParticipantId> {
        self.meetings.get(&alias)?.participants.get(&number).cloned()
    }

    /// Whether the row of this participant was not taken.
    pub fn is_refused(&self, meeting: MeetingAlias, participant: ParticipantAlias) -> bool {
        self.meetings.get(&meeting).is_some_and(|row| row.refused.contains(&participant))
    }

    /// What a spurt's header means; `None` while a row of it is missing.
    pub fn resolve(&self, header: &SpurtHeader) -> Option<(MeetingId, SpurtKey)> {
        self.resolve_names(header.meeting, header.participant, header.spurt)
    }

    /// What these names of a spurt mean; `None` while a row of them is missing.
    pub fn resolve_names(
        &self,
        meeting: MeetingAlias,
        participant: ParticipantAlias,
        spurt: SpurtNo,
    ) -> Option<(MeetingId, SpurtKey)> {
        let row = self.meetings.get(&meeting)?;
        let participant = row.participants.get(&participant)?.clone();
        Some((row.meeting, SpurtKey { epoch: row.epoch, participant, spurt }))
    }

    /// Whether beats renew the lease of the meeting `alias` from now on.
    pub fn lease(&mut self, alias: MeetingAlias, leased: bool) {
        if let Some(row) = self.meetings.get_mut(&alias) {
            row.leased = leased;
        }
    }

    /// The meetings whose leases a beat renews, with their epochs.
    pub fn leased(&self) -> Vec<(MeetingAlias, MeetingId, Epoch)> {
        let leased = self.meetings.iter().filter(|(_, row)| row.leased);
        leased.map(|(alias, row)| (*alias, row.meeting, row.epoch)).collect()
    }

    /// Forgets the meetings that have not been `live` for a while; if there is no room for another, all that are not. Returns what the
    /// edge calls them.
    pub fn sweep(&mut self, live: impl Fn(MeetingId) -> bool, now: Instant) -> Vec<MeetingAlias> {
        for row in self.meetings.values_mut() {
            row.over = if live(row.meeting) { None } else { row.over.or(Some(now)) };
        }
        let wait = if self.meetings.len() >= self.caps.meetings { Duration::ZERO } else { OVER_FOR };
        let gone = |row: &Row| row.over.is_some_and(|since| now.saturating_duration_since(since) >= wait);
        self.meetings.extract_if(.., |_, row| gone(row)).map(|(alias, _)| alias).collect()
    }

    /// What the edge calls a meeting under its newest epoch here; `None` if it is not open here.
    fn alias(&self, meeting: MeetingId) -> Option<MeetingAlias> {
        let open = self.meetings.iter().filter(|(_, row)| row.meeting == meeting);
        open.max_by_key(|(_, row)| row.epoch).map(|(alias, _)| *alias)
    }

    fn say(&self, meeting: MeetingId, what: impl FnOnce(MeetingAlias) -> ToEdge) -> Vec<ToEdge> {
        self.alias(meeting).map(what).into_iter().collect()
    }

    /// What the edge calls a spurt; `None` if it is of another epoch.
    fn names(&self, meeting: MeetingId, key: &SpurtKey) -> Option<Named> {
        let mut rows = self.meetings.iter().filter(|(_, row)| row.meeting == meeting && row.epoch == key.epoch);
        rows.find_map(|(alias, row)| Some((*alias, *row.numbers.get(&key.participant)?, key.spurt)))
    }
}

type Named = (MeetingAlias, ParticipantAlias, SpurtNo);

/// How long an acknowledgement waits for company.
const ACK_DELAY: Duration = Duration::from_millis(50);

/// How many items' worth of acknowledgements wait at most.
const ACK_ITEMS: u32 = 10;

/// Spurts of which it is remembered how far they were acknowledged; the one of the oldest meeting makes room. Of one that is
/// forgotten an acknowledgement may go out twice.
const MAX_SENT: usize = 16_384;

/// *Durable* acknowledgements on their way out: only the newest of each spurt is sent.
#[derive(Debug, Default)]
pub struct Acks {
    pending: BTreeMap<Named, u32>,
    sent: BTreeMap<Named, u32>,
    items: u32,
    since: Option<Instant>,
}

impl Acks {
    /// Takes what is to reach the edge and returns what is to be sent now.
    pub fn handle(&mut self, what: ToLink, aliases: &Aliases, now: Instant) -> Vec<ToEdge> {
        match what {
            ToLink::Durable { meeting, key, upto } => match aliases.names(meeting, &key) {
                Some(name) => self.durable(name, upto, now),
                None => vec![],
            },
            ToLink::Done { meeting, key, items } => {
                let Some(name) = aliases.names(meeting, &key) else { return vec![] };
                self.pending.remove(&name);
                self.sent.remove(&name);
                let (alias, participant, spurt) = name;
                vec![match items {
                    Some(items) => ToEdge::DoneTo { alias, participant, spurt, items },
                    None => ToEdge::Done { alias, participant, spurt },
                }]
            }
            ToLink::Leave { meeting } => aliases.say(meeting, |alias| ToEdge::Leave { alias }),
            ToLink::Standby { meeting, core, number } => {
                aliases.say(meeting, |alias| ToEdge::Standby { alias, core, number })
            }
            ToLink::Moved { meeting, core, term } => aliases.say(meeting, |alias| ToEdge::Moved { alias, core, term }),
            ToLink::Message(message) => vec![message],
        }
    }

    /// What has waited long enough.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<ToEdge> {
        if self.poll_timeout().is_some_and(|at| at <= now) { self.flush() } else { vec![] }
    }

    /// When [`Acks::handle_timeout`] is next needed.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.since.map(|since| since + ACK_DELAY)
    }

    fn durable(&mut self, name: Named, upto: u32, now: Instant) -> Vec<ToEdge> {
        let waiting = self.pending.entry(name).or_insert(0);
        let known = (*waiting).max(self.sent.get(&name).copied().unwrap_or(0));
        *waiting = known.max(upto);
        // A repeated acknowledgement is worth sending: the edge asked by replaying.
        self.items += upto.saturating_sub(known).max(1);
        self.since.get_or_insert(now);
        if self.items >= ACK_ITEMS { self.flush() } else { vec![] }
    }

    fn flush(&mut self) -> Vec<ToEdge> {
        self.items = 0;
        self.since = None;
        let pending = std::mem::take(&mut self.pending);
        self.sent.extend(pending.iter().map(|(name, upto)| (*name, *upto)));
        while self.sent.len() > MAX_SENT {
            self.sent.pop_first();
        }
        let ack = |((alias, participant, spurt), upto)| ToEdge::Durable { alias, participant, spurt, upto };
        pending.into_iter().map(ack).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]

    use super::*;

    const MEETING: MeetingId = MeetingId::from_u128(4);

    fn aliases() -> Aliases {
        let mut aliases = Aliases::new(Caps { meetings: 1, participants: 2, row_wait: Duration::ZERO });
        aliases.open(MeetingAlias(7), MEETING, Epoch(2)).unwrap();
        aliases.participant(MeetingAlias(7), ParticipantAlias(3), "alice", Some("Alice")).unwrap();
        aliases
    }

    fn key(epoch: u64, spurt: u32) -> SpurtKey {
        SpurtKey { epoch: Epoch(epoch), participant: "alice".into(), spurt: SpurtNo(spurt) }
    }

    fn durable(upto: u32) -> ToLink {
        ToLink::Durable { meeting: MEETING, key: key(2, 0), upto }
    }

    fn ack(upto: u32) -> ToEdge {
        ToEdge::Durable { alias: MeetingAlias(7), participant: ParticipantAlias(3), spurt: SpurtNo(0), upto }
    }

    #[test]
    fn acknowledgements_go_out_by_tens_or_after_their_delay() {
        let (aliases, now, mut acks) = (aliases(), Instant::now(), Acks::default());
        assert_eq!(acks.handle(durable(4), &aliases, now), []);
        assert_eq!(acks.handle(durable(10), &aliases, now), [ack(10)]);
        assert_eq!(acks.handle(durable(12), &aliases, now), []);
        assert_eq!(acks.handle_timeout(now + Duration::from_millis(49)), []);
        assert_eq!(acks.handle_timeout(now + Duration::from_millis(50)), [ack(12)]);
        assert_eq!(acks.poll_timeout(), None);
    }

    #[test]
    fn done_goes_out_at_once_and_takes_its_durable_along() {
        let (aliases, now, mut acks) = (aliases(), Instant::now(), Acks::default());
        acks.handle(durable(4), &aliases, now);
        let done = acks.handle(ToLink::Done { meeting: MEETING, key: key(2, 0), items: None }, &aliases, now);
        let want = ToEdge::Done { alias: MeetingAlias(7), participant: ParticipantAlias(3), spurt: SpurtNo(0) };
        assert_eq!(done, [want]);
        assert_eq!(acks.handle_timeout(now + ACK_DELAY), []);
        let old = ToLink::Done { meeting: MEETING, key: key(1, 0), items: None };
        assert_eq!(acks.handle(old, &aliases, now), [], "old epoch");
    }

    #[test]
    fn a_row_that_is_sent_again_with_another_id_leaves_nothing_behind() {
        let mut aliases = aliases();
        for n in 0..1000u16 {
            aliases.participant(MeetingAlias(7), ParticipantAlias(3), &format!("p-{n}"), None).unwrap();
            aliases.participant(MeetingAlias(7), ParticipantAlias(4 + n), "bob", None).unwrap();
        }
        let row = &aliases.meetings[&MeetingAlias(7)];
        assert_eq!((row.participants.len(), row.numbers.len()), (2, 2));
        assert_eq!(aliases.speaker(MeetingAlias(7), ParticipantAlias(3)), Some("p-999".into()));
        assert_eq!(aliases.speaker(MeetingAlias(7), ParticipantAlias(1003)), Some("bob".into()));
    }

    #[test]
    fn whoever_is_forgotten_makes_room_for_the_next() {
        let mut aliases = aliases();
        for n in 4..1000 {
            aliases.participant(MeetingAlias(7), ParticipantAlias(n), &format!("p-{n}"), None).unwrap();
            aliases.forget(MeetingAlias(7), ParticipantAlias(n)).unwrap();
        }
        assert_eq!((aliases.rows(), aliases.speaker(MeetingAlias(7), ParticipantAlias(4))), (2, None));
        assert_eq!(aliases.forget(MeetingAlias(9), ParticipantAlias(0)), Err(BadControl::UnknownAlias(9)));
    }

    #[test]
    fn the_row_of_a_meeting_that_is_over_goes_a_while_later_or_at_once_for_another() {
        let (mut aliases, now) = (aliases(), Instant::now());
        aliases.caps.meetings = 2;
        assert_eq!(aliases.sweep(|_| false, now), []);
        assert_eq!(aliases.sweep(|_| true, now + OVER_FOR), [], "it is live after all");
        assert_eq!(aliases.sweep(|_| false, now + OVER_FOR), []);
        assert_eq!(aliases.sweep(|_| false, now + OVER_FOR * 2), [MeetingAlias(7)]);
        assert_eq!(aliases.rows(), 0);
        aliases.open(MeetingAlias(8), MEETING, Epoch(3)).unwrap();
        aliases.open(MeetingAlias(9), MeetingId::from_u128(5), Epoch(3)).unwrap();
        assert_eq!(aliases.sweep(|id| id != MEETING, now), [MeetingAlias(8)]);
    }

    #[test]
    fn acknowledgements_of_what_is_never_done_are_not_remembered_for_ever() {
        let (aliases, now, mut acks) = (aliases(), Instant::now(), Acks::default());
        for spurt in 0..MAX_SENT as u32 + 100 {
            acks.handle(ToLink::Durable { meeting: MEETING, key: key(2, spurt), upto: 10 }, &aliases, now);
        }
        assert_eq!((acks.sent.len(), acks.pending.len()), (MAX_SENT, 0));
    }

    #[test]
    fn tables_are_bounded_and_names_checked() {
        let mut aliases = aliases();
        assert_eq!(aliases.open(MeetingAlias(8), MEETING, Epoch(1)), Err(RefusedReason::Full));
        let mut add = |n, id: &str| aliases.participant(MeetingAlias(7), ParticipantAlias(n), id, None).map(|_| ());
        assert_eq!(add(4, "bob"), Ok(()));
        assert_eq!(add(4, "robert"), Ok(()));
        assert_eq!(add(5, "carol"), Err(BadControl::TooManyParticipants(2)));
        assert_eq!(add(4, ""), Err(BadControl::BadName));
        assert_eq!(add(4, &"x".repeat(257)), Err(BadControl::BadName));
        let unknown = aliases.participant(MeetingAlias(9), ParticipantAlias(0), "x", None);
        assert_eq!(unknown, Err(BadControl::UnknownAlias(9)));
    }
}
