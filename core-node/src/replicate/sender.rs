//! The primary's end: which standby there is, what it still lacks, and when words may go out.
//!
//! ```text
//!          choose            snapshot read        all of it acknowledged
//! Alone ──────────▶ Loading ──────────────▶ Sending ──────────────────▶ Sending, binding
//!   ▲                  │  no good              │ no good                  │   no good
//!   ├──────────────────┴───────────────────────┘                          ▼
//!   ├────────── the edge confirms, or the standby itself does ──────── Dropping
//!   └────────── written down ──── Beginning a term of its own ◀───────────┘ neither, for too long
//!
//! any state ── another core serves in a later term ──▶ Superseded
//! ```
//!
//! *Binding* means that an edge may turn to the standby: from then on a change has [`Settled::Yes`] only when
//! the standby has it. That it is binding is on disk, here and at the standby, before any edge is told; the standby obeys no edge before
//! it knows. While *dropping* nothing settles: the edge may
//! have called the standby, and says otherwise itself, or the standby does, durably. Announcements are numbered; only the answer to one
//! that was made since counts. Of a standby that was dropped nothing settles either before it is written down, here and at the
//! region's authority, that it may not take the meeting over any more. One request is in flight at a time.

mod alone;
mod event;
mod stream;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use mesh::{
    identity::NodeId,
    wire::{
        Term,
        request::{MAX_REPLICA, Response},
    },
};

pub use self::event::{Event, Send, Settled};
use self::stream::{Stream, numbered};
use super::{
    entry::{Entry, held},
    witnesses::Tally,
};

/// Bytes that wait for the standby; beyond it, it is no good.
pub const MAX_QUEUED: usize = 16 << 20;

/// Snapshots in a row of which the standby acknowledges nothing, before it is no good.
const MAX_RELOADS: u32 = 3;

/// How long after an unanswered request the next is sent.
const RETRY: Duration = Duration::from_millis(100);

/// Deadlines of a pair of cores.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// A standby that acknowledges nothing for so long, while something waits, is no good. Shorter: words wait less
    /// when it dies. Below four round trips a healthy one is dropped.
    pub stall: Duration,
    /// A core that hears neither the edge nor the standby goes on alone after this, in a term of its own
    /// ([`Term::isolated`]). Longer than the partitions that are to be sat out: the other two may have gone on without it, and
    /// until the partition heals there are two then.
    pub isolated_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { stall: Duration::from_millis(1500), isolated_after: Duration::from_secs(300) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Alone,
    Loading,
    Sending,
    /// Since then, and since that announcement.
    Dropping {
        since: Instant,
        number: u64,
    },
    Beginning(Term),
    Superseded,
}

/// One meeting's sender.
#[derive(Debug)]
pub struct Replicator {
    settings: Settings,
    me: NodeId,
    term: Term,
    phase: Phase,
    binding: bool,
    /// The number of the newest writing down.
    persist: u64,
    /// The change by which the standby knows that it is binding, once that is on disk here.
    bound: Option<u64>,
    /// It knows: edges may be told.
    known: bool,
    /// An edge may know of the standby.
    told: bool,
    /// The writing down that a standby is none any more, until it is done.
    unbound: Option<u64>,
    stream: Option<Stream>,
    next_stream: u64,
    reloads: u32,
    written: u64,
    announced: u64,
    events: VecDeque<Event>,
}

impl Replicator {
    /// A meeting that `me` serves in `term`. `streams`, after which streams and announcements are numbered, must rise from one
    /// restart of this core to the next.
    /// `standby` is the one written down as binding.
    pub fn new(
        settings: Settings,
        me: NodeId,
        term: Term,
        standby: Option<NodeId>,
        streams: u64,
        now: Instant,
    ) -> Self {
        let mut this = Self {
            settings,
            me,
            term,
            phase: Phase::Alone,
            binding: standby.is_some(),
            persist: 0,
            bound: None,
            known: standby.is_some(),
            told: standby.is_some(),
            unbound: None,
            stream: None,
            next_stream: streams,
            reloads: 0,
            // What it had before counts as a change: the standby may be without the last of it, and have gone on.
            written: standby.is_some().into(),
            announced: streams,
            events: VecDeque::new(),
        };
        if let Some(core) = standby {
            this.load(core, now);
        }
        this
    }

    /// The standby that an edge may be told to turn to.
    pub fn binding(&self) -> Option<&NodeId> {
        self.stream.as_ref().map(|s| &s.core).filter(|_| self.binding && self.known && self.wants_entries())
    }

    /// The core that is or is to become the standby, or is being dropped.
    pub fn other(&self) -> Option<&NodeId> {
        self.stream.as_ref().map(|s| &s.core)
    }

    /// Whether a standby should be chosen.
    pub fn wants_standby(&self) -> bool {
        self.phase == Phase::Alone
    }

    /// Whether changes need be pushed at all.
    pub fn wants_entries(&self) -> bool {
        matches!(self.phase, Phase::Loading | Phase::Sending)
    }

    /// The number of the newest change.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// In which term this core serves.
    pub fn term(&self) -> Term {
        self.term
    }

    /// `core` is to become the standby.
    pub fn handle_chosen(&mut self, core: NodeId, now: Instant) {
        if self.wants_standby() {
            self.load(core, now);
        }
    }

    /// A change was queued for the disk. Returns its number, for [`Replicator::settled`].
    pub fn push(&mut self, entry: &Entry, now: Instant) -> u64 {
        self.written += 1;
        let (loading, written) = (self.phase == Phase::Loading, self.written);
        if !self.wants_entries() {
            return written;
        }
        let Some(stream) = &mut self.stream else { return written };
        if stream.is_idle() {
            stream.progress = now;
        }
        for row in numbered(entry.pieces(), written) {
            stream.bytes += row.0.len();
            if loading { stream.tail.push(row) } else { stream.pieces.push_back(row) }
        }
        if stream.bytes > MAX_QUEUED {
            self.no_good(now);
        }
        written
    }

    /// What the store held when [`Event::Load`] was acted on, the record last; `None` if it could not be read.
    pub fn handle_snapshot(&mut self, snapshot: Option<Vec<Entry>>, now: Instant) {
        if self.phase != Phase::Loading {
            return;
        }
        let (Some(snapshot), Some(stream)) = (snapshot, &mut self.stream) else { return self.no_good(now) };
        let begin = Entry::Begin { stream: self.next_stream, held: Some(held(&snapshot)) };
        let pieces = std::iter::once(begin).chain(snapshot).flat_map(|e| e.pieces()).collect();
        stream.pieces = numbered(pieces, stream.covered).chain(std::mem::take(&mut stream.tail)).collect();
        stream.bytes = stream.pieces.iter().map(|(p, _)| p.len()).sum();
        stream.progress = now;
        stream.next_try = now;
        self.phase = Phase::Sending;
    }

    /// What is to be sent now.
    pub fn poll_send(&mut self, now: Instant) -> Option<Send> {
        let dropping = match self.phase {
            Phase::Sending => false,
            Phase::Dropping { .. } => true,
            _ => return None,
        };
        let stream = self.stream.as_mut().filter(|s| s.in_flight.is_none() && s.due(dropping) <= now)?;
        if dropping {
            stream.in_flight = Some(0);
            return Some(Send::farewell(stream.core.clone(), self.next_stream));
        }
        let mut room = MAX_REPLICA;
        let fitting = stream.pieces.iter().map_while(|(piece, _)| {
            room = room.checked_sub(piece.len())?;
            Some(piece.clone())
        });
        let pieces: Vec<Vec<u8>> = fitting.collect();
        stream.in_flight = Some(stream.base + pieces.len() as u64);
        if pieces.is_empty() {
            // What is only asked whether it is there has until the stall deadline from now.
            stream.progress = now;
        }
        Some(Send { core: stream.core.clone(), stream: self.next_stream, first: stream.base, pieces })
    }

    /// The answer to what was sent last; `None` if there was none.
    pub fn handle_answer(&mut self, answer: Option<Response>, now: Instant) {
        let Some(sent) = self.stream.as_mut().and_then(|s| s.in_flight.take()) else { return };
        if let Some(Response::Serving { core, term, .. }) = &answer
            && self.handle_other(core, *term)
        {
            return;
        }
        let Some(stream) = &mut self.stream else { return };
        stream.next_try = now + RETRY;
        match (answer, &self.phase) {
            (Some(Response::Replicated { .. } | Response::Unknown), Phase::Dropping { .. }) => self.isolate(),
            (Some(Response::Replicated { next }), Phase::Sending) if next >= stream.base && next <= sent => {
                stream.acknowledge(next, now);
                self.reloads = 0;
                self.bind();
                self.handle_known();
            }
            (Some(Response::Replicated { .. }), Phase::Sending) => self.reload(now),
            (Some(Response::Refused { .. }), Phase::Sending) => self.no_good(now),
            _ => {}
        }
    }

    /// The standby is down or going away, as far as membership knows.
    pub fn handle_unfit(&mut self, now: Instant) {
        if self.wants_entries() {
            self.no_good(now);
        }
    }

    /// An edge that owns the meeting has opened it here.
    pub fn handle_attached(&mut self) {
        let standby = self.binding().cloned();
        self.announce(standby);
    }

    /// The edge is told of the standby, one way or another.
    pub fn handle_told(&mut self) {
        self.told |= self.binding;
    }

    /// The edge answers announcement `number`: it would turn to `core`, or may have called it.
    pub fn handle_confirmed(&mut self, number: u64, core: Option<&NodeId>) {
        let dropped = matches!(self.phase, Phase::Dropping { number: since, .. } if number >= since);
        if dropped && number <= self.announced && core.is_none() {
            self.isolate();
        }
    }

    /// It is on disk who is the standby, and was pushed.
    pub fn handle_persisted(&mut self, number: u64) {
        self.unbound.take_if(|unbound| *unbound <= number);
        if number == self.persist && self.binding {
            self.bound = Some(self.written);
            self.handle_known();
        }
    }

    fn handle_known(&mut self) {
        let Some(stream) = self.stream.as_ref().filter(|s| self.bound.is_some_and(|n| s.acknowledged >= n)) else {
            return;
        };
        let core = stream.core.clone();
        (self.bound, self.known) = (None, true);
        if self.wants_entries() {
            self.announce(Some(core));
        }
    }

    /// Whether the other two may have gone on without this core.
    pub fn is_in_doubt(&self) -> bool {
        matches!(self.phase, Phase::Dropping { .. })
    }

    /// Whether another core serves it.
    pub fn is_superseded(&self) -> bool {
        self.phase == Phase::Superseded
    }

    /// What those who may request a takeover have said of it.
    pub fn handle_tally(&mut self, tally: &Tally) {
        match tally {
            Tally::Nobody => self.handle_no_witness(),
            Tally::Said(number, core) => self.handle_confirmed(*number, core.as_ref()),
            Tally::Open => {}
        }
    }

    /// No edge has anything left to bring: none will turn to the standby.
    pub fn handle_no_witness(&mut self) {
        self.told = false;
        if matches!(self.phase, Phase::Dropping { .. }) {
            self.isolate();
        }
    }

    /// Another core says that it serves the meeting. Whether it is later.
    pub fn handle_other(&mut self, core: &NodeId, term: Term) -> bool {
        let later = self.is_later(core, term);
        if later {
            self.superseded(core.clone(), term);
        }
        later
    }

    /// Whether the change of that number may be spoken of.
    pub fn settled(&self, number: u64) -> Settled {
        match &self.phase {
            Phase::Superseded => Settled::Never,
            Phase::Dropping { .. } | Phase::Beginning(_) => Settled::No,
            _ if self.unbound.is_some() => Settled::No,
            _ if !self.binding => Settled::Yes,
            _ if self.stream.as_ref().is_some_and(|s| s.acknowledged >= number) => Settled::Yes,
            _ => Settled::No,
        }
    }

    /// A deadline has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &self.phase {
            Phase::Dropping { since, .. } if now >= *since + self.settings.isolated_after => self.begin(),
            Phase::Sending if self.stalled_at().is_some_and(|at| at <= now) => self.no_good(now),
            _ => {}
        }
    }

    /// When [`Replicator::handle_timeout`] or [`Replicator::poll_send`] is next needed.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let stream = self.stream.as_ref()?;
        let send = |dropping| stream.in_flight.is_none().then(|| stream.due(dropping));
        match &self.phase {
            Phase::Sending => self.stalled_at().into_iter().chain(send(false)).min(),
            Phase::Dropping { since, .. } => {
                Some(*since + self.settings.isolated_after).into_iter().chain(send(true)).min()
            }
            _ => None,
        }
    }

    /// What the shell is to do.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The standby has not got what we took it to have: it was restarted.
    fn reload(&mut self, now: Instant) {
        self.reloads += 1;
        match self.stream.as_ref().map(|s| s.core.clone()) {
            Some(core) if self.reloads <= MAX_RELOADS => self.load(core, now),
            _ => self.no_good(now),
        }
    }

    fn load(&mut self, core: NodeId, now: Instant) {
        self.next_stream += 1;
        self.phase = Phase::Loading;
        self.stream = Some(Stream::new(core, self.written, now));
        self.events.push_back(Event::Load);
    }

    fn bind(&mut self) {
        let Some(stream) = self.stream.as_ref().filter(|s| s.pieces.is_empty() && !self.binding) else { return };
        let core = stream.core.clone();
        self.binding = true;
        self.persist(Some(core));
    }

    fn no_good(&mut self, now: Instant) {
        // Later than any of its streams, so that the goodbye is not taken for an old one.
        self.next_stream += 1;
        if let Some(stream) = &mut self.stream {
            self.events.push_back(Event::Avoid(stream.core.clone(), self.next_stream));
            stream.in_flight = None;
            stream.next_try = now;
        }
        if !self.binding {
            return self.isolate();
        }
        self.announce(None);
        self.phase = Phase::Dropping { since: now, number: self.announced };
        if !self.told {
            self.isolate();
        }
    }

    fn persist(&mut self, standby: Option<NodeId>) {
        self.persist += 1;
        (self.known, self.bound) = (false, None);
        self.events.push_back(Event::Persist(self.persist, standby));
    }

    fn isolate(&mut self) {
        let bound = std::mem::take(&mut self.binding);
        self.told = false;
        self.stream = None;
        self.phase = Phase::Alone;
        if bound {
            self.persist(None);
            self.unbound = Some(self.persist);
        }
    }

    fn superseded(&mut self, core: NodeId, term: Term) {
        if self.phase != Phase::Superseded {
            self.phase = Phase::Superseded;
            self.stream = None;
            self.events.push_back(Event::Superseded(core, term));
        }
    }

    fn announce(&mut self, standby: Option<NodeId>) {
        self.announced += 1;
        self.events.push_back(Event::Announce(self.announced, standby));
    }

    fn is_later(&self, core: &NodeId, term: Term) -> bool {
        *core != self.me && (term, core) > (self.term, &self.me)
    }

    fn stalled_at(&self) -> Option<Instant> {
        let stream = self.stream.as_ref().filter(|s| !s.is_idle() || s.in_flight.is_some())?;
        Some(stream.progress + self.settings.stall)
    }
}
