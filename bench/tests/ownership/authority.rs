//! An authority that all cores share: who serves the meeting, changed by compare-and-set. Not every core reaches it at every time, and some of its
//! answers are lost after it has done what it was asked. The shell as in `core_node::{authority::standing, meeting::claim, meetings::claim}`.

use core_node::{
    authority::{
        Claim,
        claim::{NotTaken, take},
        standing::Lost,
    },
    meeting::{machine::seek::Found, role::NotHere},
    store::record::{CoreRole, Serving},
};
use mesh::{
    identity::NodeId,
    wire::{Epoch, Term, control::RefusedReason},
};

use crate::world::{Event, MS, SECOND, World};

/// How long a standby asks before it lets the meeting be.
const PATIENCE: u64 = 3 * SECOND;
/// How long an edge that calls waits for that.
const CALL_WAIT: u64 = 500 * MS;

/// What a core asks of it.
#[derive(Debug, Clone)]
pub(crate) enum Ask {
    Grant {
        live: u64,
        step: u64,
        epoch: Epoch,
    },
    Standby {
        live: u64,
        number: u64,
        standby: Option<NodeId>,
    },
    Begin {
        live: u64,
        term: Term,
    },
    Take {
        known: Serving,
        term: Term,
        since: u64,
    },
    /// Whether its claim stands.
    Look {
        live: u64,
    },
    /// Whether it has claimed what it stands by for.
    Find,
}

impl Ask {
    fn live(&self) -> Option<u64> {
        match self {
            Self::Grant { live, .. } | Self::Standby { live, .. } | Self::Begin { live, .. } | Self::Look { live } => {
                Some(*live)
            }
            Self::Take { .. } | Self::Find => None,
        }
    }
}

impl World {
    /// The meeting is made at core `c`.
    pub(crate) fn claim_new(&mut self, c: usize) {
        self.register = Some(Claim { core: self.name(c), term: Term(1), epoch: Epoch(0), standby: None });
    }

    pub(crate) fn ask_authority(&mut self, c: usize, ask: Ask) {
        let by = self.rng.range(MS, 20 * MS);
        self.after(by, Event::Authority(c, self.life(c), Box::new(ask)));
    }

    pub(crate) fn authority(&mut self, c: usize, ask: Ask) {
        if ask.live().is_some_and(|no| !self.cores[c].is_live(no)) {
            return;
        }
        if self.far[c] {
            return match ask {
                Ask::Take { since, .. } if self.now > since + PATIENCE => {
                    self.not_taken(c, RefusedReason::Full.into(), true)
                }
                Ask::Look { .. } | Ask::Find => self.cores[c].looking = false,
                ask => self.after(200 * MS, Event::Authority(c, self.life(c), Box::new(ask))),
            };
        }
        let answer = match &ask {
            Ask::Take { known, term, .. } => self.heed_take(c, known, *term),
            Ask::Find => Ok(()),
            ask => self.heed(c, ask).map_err(Not::Held),
        };
        if self.rng.chance(50) {
            return self.after(300 * MS, Event::Authority(c, self.life(c), Box::new(ask)));
        }
        self.tell(|w| format!("core {c} asked {ask:?}: {answer:?}; {:?}", w.register));
        match (ask, answer) {
            (ask, Ok(())) => self.claimed(c, ask),
            (Ask::Take { term: asked, .. }, Err(Not::Taken(why))) => {
                let refused = match why {
                    NotTaken::Held(core, of) if of >= asked => NotHere::Moved(core, of),
                    _ => RefusedReason::UnknownMeeting.into(),
                };
                self.not_taken(c, refused, false);
            }
            (ask, Err(Not::Held(lost))) => self.lost(c, &ask, lost),
            (_, Err(Not::Taken(_))) => {}
        }
        self.core_pump(c);
    }

    fn heed(&mut self, c: usize, ask: &Ask) -> Result<(), Lost> {
        let (me, force) = (self.name(c), self.plan.broken.claim);
        let (Some(claim), Some(term)) = (&mut self.register, self.cores[c].term()) else { return Err(Lost::Gone) };
        let again = matches!(ask, Ask::Begin { term: next, .. } if *next == claim.term);
        if claim.core != me && !force {
            return Err(Lost::Superseded(claim.core.clone(), claim.term));
        }
        if claim.term > term && !again && !force {
            return Err(Lost::Later(claim.term));
        }
        match ask {
            Ask::Grant { epoch, .. } => claim.epoch = claim.epoch.max(*epoch),
            Ask::Standby { standby, .. } => claim.standby = standby.clone(),
            Ask::Begin { term, .. } => (claim.term, claim.standby) = (*term, None),
            _ => {}
        }
        Ok(())
    }

    fn heed_take(&mut self, c: usize, known: &Serving, term: Term) -> Result<(), Not> {
        let (me, former) = (self.name(c), (known.by.as_ref(), known.term));
        if self.plan.broken.claim {
            return Ok(());
        }
        self.register = Some(take(self.register.as_ref(), true, &me, former, (term, Epoch(0))).map_err(Not::Taken)?);
        Ok(())
    }

    fn claimed(&mut self, c: usize, ask: Ask) {
        if let Some(live) = &mut self.cores[c].live {
            live.known |= ask.live().is_some();
        }
        match ask {
            Ask::Grant { step, .. } => self.core_found(c, step, Found::Done(Ok(()))),
            Ask::Standby { number, standby, .. } => self.standby_claimed(c, number, standby),
            Ask::Begin { term, .. } => self.begin_claimed(c, term),
            Ask::Take { known, term, .. } => self.taken(c, &known, term),
            Ask::Look { .. } => self.cores[c].looking = false,
            Ask::Find => self.found(c),
        }
    }

    /// What was tried before may have been heeded.
    fn found(&mut self, c: usize) {
        let me = self.name(c);
        (self.cores[c].looking, self.cores[c].unsettled) = (false, false);
        let Some(claim) = self.register.clone().filter(|claim| claim.core == me) else { return };
        self.take_up_claim(c, claim.term);
    }

    fn taken(&mut self, c: usize, known: &Serving, term: Term) {
        let call = self.cores[c].calling.take();
        self.cores[c].hands = false;
        match self.cores[c].held() {
            Some(record) if record.serving.role != CoreRole::Serving => self.take_over(c, record, term, call),
            _ => {
                let known = known.clone();
                self.oracle.violated(format!("core {c} has claimed term {} and has lost {known:?}", term.0));
            }
        }
    }

    fn not_taken(&mut self, c: usize, why: NotHere, unsettled: bool) {
        self.cores[c].hands = false;
        self.cores[c].unsettled |= unsettled;
        if let Some((s, epoch)) = self.cores[c].calling.take() {
            self.refuse_call(c, s, epoch, why);
        }
        self.work(c);
    }

    /// The edge has waited for long enough; its call is not forgotten.
    pub(crate) fn call_over(&mut self, c: usize, s: usize) {
        if let Some((_, epoch)) = self.cores[c].calling.take_if(|(stream, _)| *stream == s) {
            self.refuse_call(c, s, epoch, RefusedReason::Full.into());
        }
    }

    /// Claims the meeting for core `c`; what else changes its hands there waits.
    pub(crate) fn claim(&mut self, c: usize, known: Serving, term: Term, call: Option<(usize, Epoch)>) {
        (self.cores[c].hands, self.cores[c].calling) = (true, call);
        if let Some((s, _)) = call {
            self.after(CALL_WAIT, Event::CallOver(c, self.life(c), s));
        }
        let since = self.now;
        self.ask_authority(c, Ask::Take { known, term, since });
    }

    fn lost(&mut self, c: usize, ask: &Ask, lost: Lost) {
        self.cores[c].looking &= !matches!(ask, Ask::Look { .. });
        self.ask_lost(c, ask);
        let Some(live) = &mut self.cores[c].live else { return };
        match lost {
            Lost::Superseded(core, term) => {
                live.rep.handle_other(&core, term);
            }
            Lost::Later(term) => live.rep.handle_later(term),
            Lost::Gone | Lost::Unknown(_) => {}
        }
    }

    /// Once a second: what is in doubt.
    pub(crate) fn look_at_claims(&mut self, c: usize) {
        let core = &mut self.cores[c];
        if core.looking {
            return;
        }
        let ask = match &core.live {
            Some(live) if !live.known || live.rep.is_in_doubt() => Ask::Look { live: live.no },
            None if core.unsettled => Ask::Find,
            _ => return,
        };
        core.looking = true;
        self.ask_authority(c, ask);
    }

    /// Words that core `c` says in `term`: if another has taken over by now, it must have them.
    pub(crate) fn successor_has(&mut self, c: usize, key: &core_node::key::SpurtKey, words: u64) {
        let (Some(claim), Some(term)) = (self.register.clone(), self.cores[c].term()) else { return };
        let owner = self.index(&claim.core);
        if owner != c && claim.term > term && self.cores[owner].done(key) != Some(words) {
            self.oracle.violated(format!("core {c} says {key:?} in term {} that core {owner} lacks", term.0));
        }
    }
}

#[derive(Debug)]
enum Not {
    Held(Lost),
    Taken(NotTaken),
}
